package gitwire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// errNonsense is an answer that arrived whole and is not what the protocol says.
var errNonsense = errors.New("the answer makes no sense")

// serverError is what a server says instead of an answer (an ERR packet).
type serverError struct{ text string }

func (e *serverError) Error() string { return "the server says: " + e.text }

// appendLsRefs renders the question of protocol v2 for the refs with these prefixes.
func appendLsRefs(b []byte, prefixes prefixSet, format objectFormat) []byte {
	b = appendPacket(b, "command=ls-refs")
	if format == sha256 {
		b = appendPacket(b, "object-format=sha256")
	}
	b = append(b, delimiter...)
	if (&filter{set: prefixes}).has([]byte("HEAD")) {
		b = appendPacket(b, "symrefs")
	}
	for _, p := range prefixes.rest {
		b = appendPacket(b, "ref-prefix ", prefixes.lead, p)
	}
	return append(b, flush...)
}

// readLsRefs reads the answer to it and adds the refs that were asked for; servers may send others.
func readLsRefs(p *packetReader, set prefixSet, format objectFormat, refs []Ref) ([]Ref, error) {
	want := filter{set: set}
	for {
		line, kind, err := p.read()
		switch {
		case err == io.EOF:
			return refs, errTruncated // only a flush packet tells that all has been said
		case err != nil:
			return refs, err
		case kind == flushPacket:
			return refs, nil
		case kind != dataPacket:
			return refs, fmt.Errorf("%w: a delimiter among the refs", errNonsense)
		}
		if refs, err = addLsRef(refs, line, &want, format); err != nil {
			return refs, err
		}
	}
}

// addLsRef reads "commit name", after which attributes may follow, each after a space.
func addLsRef(refs []Ref, line []byte, want *filter, format objectFormat) ([]Ref, error) {
	line = bytes.TrimSuffix(line, newline)
	if err := saidError(line); err != nil {
		return refs, err
	}
	rest := []byte(nil)
	if n := format.digits() + 1; len(line) > n {
		if space := bytes.IndexByte(line[n:], ' '); space >= 0 {
			line, rest = line[:n+space], line[n+space+1:]
		}
	}
	commit, name, ok := parseRef(line, format)
	if !ok {
		return refs, fmt.Errorf("%w: %q is not a ref", errNonsense, clip(string(line)))
	}
	if !want.has(name) {
		return refs, nil
	}
	ref := makeRef(commit, name)
	for attribute := range bytes.SplitSeq(rest, space) {
		if target, ok := bytes.CutPrefix(attribute, symrefTarget); ok && validRefName(target) && ref.Name == "HEAD" {
			ref.Target = string(target)
		}
	}
	return append(refs, ref), nil
}

// makeRef copies both texts in one allocation.
func makeRef(commit, name []byte) Ref {
	both := string(commit) + string(name)
	return Ref{Name: both[len(commit):], Commit: both[:len(commit)]}
}

// saidError gives the error that an "ERR text" packet stands for.
func saidError(line []byte) error {
	if text, ok := bytes.CutPrefix(line, []byte("ERR ")); ok {
		return &serverError{text: fmt.Sprintf("%q", clip(string(bytes.TrimSpace(text))))}
	}
	return nil
}

// clip shortens a text of the other side for a message.
func clip(text string) string {
	const most = 200
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}

var (
	newline      = []byte("\n")
	space        = []byte(" ")
	symrefTarget = []byte("symref-target:")
)
