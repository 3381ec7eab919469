package gitwire

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Ref is one reference of a repository.
type Ref struct {
	Name   string // "refs/heads/main", "HEAD"
	Commit string // what it points at, itself: a tag object where it is an annotated tag
	Target string // the name of the ref that it stands for; set for HEAD only
}

// Bounds of what is asked.
const (
	// maxPrefixes is how many ref-prefixes one question has. From 65,536 on, git ignores all of them and lists every ref
	// (TOO_MANY_PREFIXES of its ls-refs.c); fewer keep a question below what proxies accept as a body.
	maxPrefixes = 10_000
	// maxPrefix is the longest prefix, in bytes. The longest branch name that Sentry knows has 255.
	maxPrefix = 2048
	// maxRefName is the longest name of a ref that is believed, in bytes. It leaves room for the folders of a file
	// system, in which git keeps refs.
	maxRefName = 4096
)

// prefixSet is a list of prefixes in order, none of which begins with another, and what all of them begin with besides. An
// empty set holds every name.
type prefixSet struct {
	lead string
	rest []string
}

func newPrefixSet(lead string, prefixes []string) (prefixSet, error) {
	ordered := true
	for i, p := range prefixes {
		if len(lead)+len(p) > maxPrefix {
			return prefixSet{}, fmt.Errorf("a prefix of refs has %d bytes; at most %d are accepted", len(lead)+len(p), maxPrefix)
		}
		if lead == "" && p == "" {
			return prefixSet{}, nil
		}
		ordered = ordered && (i == 0 || prefixes[i-1] < p && !strings.HasPrefix(p, prefixes[i-1]))
	}
	if ordered {
		return prefixSet{lead, prefixes}, nil
	}
	set := slices.Clone(prefixes)
	slices.Sort(set)
	kept := set[:1]
	for _, p := range set[1:] {
		if !strings.HasPrefix(p, kept[len(kept)-1]) {
			kept = append(kept, p)
		}
	}
	return prefixSet{lead, kept}, nil
}

// parts cuts a set into such of at most n prefixes.
func (s prefixSet) parts(n int) iter.Seq[prefixSet] {
	return func(yield func(prefixSet) bool) {
		for some := range slices.Chunk(s.rest, n) {
			if !yield(prefixSet{s.lead, some}) {
				return
			}
		}
	}
}

// filter finds the names of an answer that begin with one of a set of prefixes. Answers are in order, as the set is, so
// that it looks first where the name before was, and one further.
type filter struct {
	set  prefixSet
	last int
}

func (f *filter) has(name []byte) bool {
	if len(f.set.rest) == 0 {
		return true
	}
	if !begins(name, f.set.lead) {
		return false
	}
	name = name[len(f.set.lead):]
	for next := f.last; next < min(f.last+2, len(f.set.rest)); next++ {
		if begins(name, f.set.rest[next]) {
			f.last = next
			return true
		}
	}
	f.last = f.set.find(name)
	return begins(name, f.set.rest[f.last])
}

// find gives the place of the only prefix with which a name, without the lead, can begin: the greatest that is not greater than the name,
// since whatever lies between a prefix and a name that begins with it begins with it too.
func (s prefixSet) find(name []byte) int {
	low, high := 0, len(s.rest)
	for low < high {
		if middle := int(uint(low+high) >> 1); s.rest[middle] <= string(name) {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return max(0, low-1)
}

func begins(name []byte, prefix string) bool {
	return len(name) >= len(prefix) && string(name[:len(prefix)]) == prefix
}

// parseRef reads "commit name", and gives ok=false for a line that is not of this form, or whose parts are not a commit
// of that length and a name that git itself would accept (git check-ref-format).
func parseRef(line []byte, format objectFormat) (commit, name []byte, ok bool) {
	n := format.digits()
	if len(line) <= n+1 || line[n] != ' ' {
		return nil, nil, false
	}
	commit, name = line[:n], line[n+1:]
	return commit, name, validCommit(commit) && validRefName(name)
}

// validCommit accepts lower-case hexadecimal digits, not all of them zero: that is git's word for "no object".
func validCommit(id []byte) bool {
	zero := true
	for _, c := range id {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
		zero = zero && c == '0'
	}
	return !zero
}

// validRefName applies the rules of git check-ref-format to a full name. HEAD, and its like without a slash, are names
// too: a server lists them.
func validRefName(name []byte) bool {
	if len(name) == 0 || len(name) > maxRefName {
		return false
	}
	last := byte('/')
	for i, c := range name {
		switch nameBytes[c] {
		case forbidden:
			return false
		case depends:
			switch {
			case c == '.' && (last == '/' || last == '.'), c == '/' && last == '/', c == '{' && last == '@':
				return false
			case c == '/' && bytes.HasSuffix(name[:i], dotLock):
				return false
			}
		}
		last = c
	}
	return last != '/' && last != '.' && !bytes.HasSuffix(name, dotLock)
}

// nameBytes tells of each byte whether a name may have it.
var nameBytes = func() (table [256]uint8) {
	for c := range 256 {
		if c < ' ' || c == 0x7f || bytes.IndexByte([]byte(` ~^:?*[\`), byte(c)) >= 0 {
			table[c] = forbidden
		}
	}
	table['.'], table['/'], table['{'] = depends, depends, depends
	return table
}()

const (
	forbidden = 1
	depends   = 2 // on what is before it
)

var dotLock = []byte(".lock")

// objectFormat is the hash function of a repository.
type objectFormat uint8

const (
	sha1 objectFormat = iota
	sha256
)

// digits is the length of a commit's name.
func (f objectFormat) digits() int {
	if f == sha256 {
		return 64
	}
	return 40
}

func parseObjectFormat(text string) (objectFormat, error) {
	switch text {
	case "sha1":
		return sha1, nil
	case "sha256":
		return sha256, nil
	}
	return 0, fmt.Errorf("%w: the repository's object format is %q", errNonsense, clip(text))
}
