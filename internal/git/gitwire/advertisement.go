package gitwire

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
)

// protocol is how a server answers the question for its refs.
type protocol uint8

const (
	unknown  protocol = iota
	listing           // v0 and v1: it lists every ref at once
	version2          // it answers ls-refs
)

// advertisement is what a server says at first contact: what it can do or, before protocol v2, all its refs.
type advertisement struct {
	protocol protocol
	format   objectFormat
	filter   bool  // a fetch can leave objects out
	refs     []Ref // with listing: those that were wanted
}

// readAdvertisement reads the answer to GET info/refs, and keeps the refs that are wanted.
func readAdvertisement(p *packetReader, want prefixSet) (advertisement, error) {
	line, err := dataLine(p)
	if err != nil {
		return advertisement{}, err
	}
	empty := advertisement{protocol: listing}
	if bytes.HasPrefix(line, []byte("# service=")) {
		if string(line) != "# service=git-upload-pack" {
			return advertisement{}, fmt.Errorf("%w: it is for another service: %q", errNonsense, clip(string(line)))
		}
		if _, kind, err := p.read(); err != nil || kind != flushPacket {
			return advertisement{}, orNonsense(err, "no flush packet after the service line")
		}
		if line, err = dataLine(p); err != nil {
			return empty, orNil(err, errFlush)
		}
	}
	switch {
	case string(line) == "version 2":
		return readCapabilities(p)
	case string(line) == "version 1":
		if line, err = dataLine(p); err != nil {
			return empty, orNil(err, errFlush)
		}
	case bytes.HasPrefix(line, []byte("version ")):
		return advertisement{}, fmt.Errorf("%w: it is in the unknown %q of the protocol", errNonsense, clip(string(line)))
	}
	return readListing(p, line, want)
}

// readCapabilities reads what a server with protocol v2 can do.
func readCapabilities(p *packetReader) (advertisement, error) {
	a := advertisement{protocol: version2}
	lists := false
	for {
		line, kind, err := p.read()
		switch {
		case err == io.EOF:
			return a, errTruncated
		case err != nil:
			return a, err
		case kind == flushPacket && !lists:
			return a, fmt.Errorf("%w: the server speaks protocol v2 but has no ls-refs", errNonsense)
		case kind == flushPacket:
			return a, nil
		case kind != dataPacket:
			return a, fmt.Errorf("%w: a delimiter among the capabilities", errNonsense)
		}
		key, value, _ := strings.Cut(string(bytes.TrimSuffix(line, newline)), "=")
		switch key {
		case "ls-refs":
			lists = true
		case "fetch":
			a.filter = slices.Contains(strings.Fields(value), "filter")
		case "object-format":
			if a.format, err = parseObjectFormat(value); err != nil {
				return a, err
			}
		}
	}
}

// readListing reads the refs of protocols v0 and v1. first is the line that also tells the capabilities.
func readListing(p *packetReader, first []byte, set prefixSet) (advertisement, error) {
	want := filter{set: set}
	a := advertisement{protocol: listing}
	line, capabilities, _ := bytes.Cut(first, []byte{0})
	head := ""
	for capability := range strings.FieldsSeq(string(capabilities)) {
		key, value, _ := strings.Cut(capability, "=")
		switch key {
		case "object-format":
			var err error
			if a.format, err = parseObjectFormat(value); err != nil {
				return a, err
			}
		case "symref":
			if target, ok := strings.CutPrefix(value, "HEAD:"); ok && validRefName([]byte(target)) {
				head = target
			}
		}
	}
	if string(line) == strings.Repeat("0", a.format.digits())+" capabilities^{}" {
		_, kind, err := p.read()
		if err != nil || kind != flushPacket {
			return a, orNonsense(err, "refs after the word that there are none")
		}
		return a, nil
	}
	for {
		if err := a.add(line, head, &want); err != nil {
			return a, err
		}
		next, kind, err := p.read()
		switch {
		case err == io.EOF:
			return a, errTruncated
		case err != nil:
			return a, err
		case kind == flushPacket:
			return a, nil
		case kind != dataPacket:
			return a, fmt.Errorf("%w: a delimiter among the refs", errNonsense)
		}
		line = bytes.TrimSuffix(next, newline)
	}
}

// add reads one line of a listing. "name^{}" tells what the tag before it stands for, and "shallow" where the server's
// own history ends: neither is asked for.
func (a *advertisement) add(line []byte, head string, want *filter) error {
	if err := saidError(line); err != nil {
		return err
	}
	if bytes.HasPrefix(line, []byte("shallow ")) {
		return nil
	}
	whole, peeled := bytes.CutSuffix(line, []byte("^{}"))
	commit, name, ok := parseRef(whole, a.format)
	if !ok {
		return fmt.Errorf("%w: %q is not a ref", errNonsense, clip(string(line)))
	}
	if peeled || !want.has(name) {
		return nil
	}
	ref := makeRef(commit, name)
	if ref.Name == "HEAD" {
		ref.Target = head
	}
	a.refs = append(a.refs, ref)
	return nil
}

// dataLine reads a packet that must hold a line, and gives it without its line feed.
func dataLine(p *packetReader) ([]byte, error) {
	line, kind, err := p.read()
	switch {
	case err == io.EOF:
		return nil, errTruncated
	case err != nil:
		return nil, err
	case kind == flushPacket:
		return nil, errFlush
	case kind != dataPacket:
		return nil, fmt.Errorf("%w: it begins with a delimiter", errNonsense)
	}
	line = bytes.TrimSuffix(line, newline)
	return line, saidError(line)
}

// errFlush is a flush packet in place of the first line. Where refs would follow it means that there are none: git says
// so unless it has capabilities to tell for a push.
var errFlush = fmt.Errorf("%w: it is empty", errNonsense)

// orNil gives an error unless it is the one that is none here.
func orNil(err, none error) error {
	if err == none {
		return nil
	}
	return err
}

// orNonsense gives the error that there is, or says what is wrong.
func orNonsense(err error, what string) error {
	switch err {
	case nil:
		return fmt.Errorf("%w: %s", errNonsense, what)
	case io.EOF:
		return errTruncated
	}
	return err
}
