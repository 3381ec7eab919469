package config

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"sentry/internal/sentry"

	"go.yaml.in/yaml/v4"
)

// decoder is the state of one reading. One goroutine owns it.
type decoder struct {
	file     string // as it was given, for problems
	folder   string // absolute; what relative paths in the file start from
	find     lookup
	lenient  bool // unset variables are warnings
	problems Problems
	errors   int // how many of the problems are no warnings

	config   *Config               // what is being read; global and groups are complete before the repositories are looked at
	groups   map[string]*yaml.Node // the names that the file declares, where they stand
	inJobs   map[string]bool       // the groups whose deployments run in Jobs
	names    map[string]named      // repositories so far, by lower-case name
	patterns map[string]sentry.Pattern
	shared
}

// named is where a name was first given.
type named struct {
	name string
	line int
}

// place is where in the file a value stands: the path that leads to it.
type place struct {
	parent *place
	key    string // of a mapping
	index  int    // of a list; -1 where key is meant
	raw    bool   // variables stay as they are, here and below: the shell expands them
}

func (p *place) at(key string) *place  { return &place{parent: p, key: key, index: -1, raw: p.raw} }
func (p *place) item(index int) *place { return &place{parent: p, index: index, raw: p.raw} }

func (p *place) String() string {
	switch {
	case p == nil || p.parent == nil:
		return ""
	case p.index >= 0:
		return fmt.Sprintf("%s[%d]", p.parent, p.index)
	case p.key == "" || strings.ContainsAny(p.key, ".[]: \n"):
		return fmt.Sprintf("%s[%q]", p.parent, clip(p.key, 40))
	case p.parent.parent == nil:
		return clip(p.key, 40)
	default:
		return p.parent.String() + "." + clip(p.key, 40)
	}
}

func (d *decoder) wrong(at *place, n *yaml.Node, message, hint string) {
	d.report(Problem{Line: n.Line, Column: n.Column, Path: at.String(), Message: message, Hint: hint})
}

func (d *decoder) warn(at *place, n *yaml.Node, message, hint string) {
	d.report(Problem{Line: n.Line, Column: n.Column, Path: at.String(), Message: message, Hint: hint, Warning: true})
}

func (d *decoder) report(p Problem) {
	p.File = d.file
	// One error more than the bound is kept, to know that there are more.
	if p.Warning || !d.full() {
		d.problems = append(d.problems, p)
	}
	if !p.Warning {
		d.errors++
	}
}

// full tells that enough is known: the file is refused, and more of the same would help nobody. Warnings do not count,
// as the configuration that they are about is used and must be whole.
func (d *decoder) full() bool { return d.errors > maxProblems }

// scalar is a single value: its text with the variables put in, and how it was written.
type scalar struct {
	expansion
	written string
	tag     string // !!str, !!int, !!float, !!bool, !!timestamp
	quoted  bool
	node    *yaml.Node
}

// variable reports whether the text holds what variables stand for: then it may be any type that it reads as.
func (s *scalar) variable() bool { return len(s.variables) > 0 || s.text != s.written }

// number reports whether the value is one to YAML, or came from a variable and may yet be read as one.
func (s *scalar) number() bool { return s.tag == "!!int" || s.tag == "!!float" || s.variable() }

// scalar reads a single value. It reports what is no single value and variables without a value; ok is false then.
// wants says what belongs here, for the message.
func (d *decoder) scalar(at *place, n *yaml.Node, wants string) (s scalar, ok bool) {
	n = follow(n)
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		d.wrongKind(at, n, wants)
		return s, false
	}
	s = scalar{expansion: expansion{text: n.Value}, written: n.Value, tag: n.Tag, node: n}
	s.quoted = n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
	if !at.raw {
		e, err := expand(n.Value, d.find)
		if err != nil {
			d.wrong(at, n, err.Error(), "write ${NAME} or ${NAME:-default}, or $${ for a plain ${")
			return s, false
		}
		if len(e.unset) > 0 {
			d.unset(at, n, e.unset)
			return s, false
		}
		s.expansion = e
	}
	if len(s.text) > MaxValue {
		d.wrong(at, n, fmt.Sprintf("it has %d bytes%s; at most %d are accepted", len(s.text), s.origin(), MaxValue), "")
		return s, false
	}
	if strings.IndexByte(s.text, 0) >= 0 {
		d.wrong(at, n, "it holds a NUL character, which no argument or variable of a program can", "")
		return s, false
	}
	s.text = d.keep(s.text)
	return s, true
}

func (d *decoder) unset(at *place, n *yaml.Node, names []string) {
	for _, name := range names {
		p := Problem{
			Line: n.Line, Column: n.Column, Path: at.String(), Warning: d.lenient,
			Message: fmt.Sprintf("the variable %s is not set", clip(name, 80)),
			Hint: fmt.Sprintf("export it, put it into %s, or write ${%s:-default}",
				filepath.Join(filepath.Dir(d.file), dotenvName), clip(name, 80)),
		}
		d.report(p)
	}
}

// origin tells, in brackets, which variables a text came from.
func (s *scalar) origin() string {
	names := make([]string, len(s.variables))
	for i, v := range s.variables {
		names[i] = v.name
	}
	if len(names) == 0 {
		return ""
	}
	return " (from " + clip(strings.Join(names, ", "), 120) + ")"
}

// show is the value as a message may repeat it: as it was written where it came from variables, which may be secrets.
func (s *scalar) show() string {
	if !s.quoted && (s.tag == "!!int" || s.tag == "!!float") {
		return clip(s.written, 60)
	}
	return strconv.Quote(clip(s.written, 60))
}

// refuse reports that a check refused the value. What a variable stands for may be a secret that was put in the wrong
// place, so an error that repeats any of it is replaced.
func (d *decoder) refuse(at *place, s *scalar, err error, hint string) {
	message := err.Error()
	if s.repeatedBy(message + hint) {
		message, hint = "what "+s.show()+" stands for is not accepted here", ""
	}
	d.wrong(at, s.node, message, hint)
}

// repeatedBy reports whether a message has 6 bytes in a row of a variable's value in it, or all of a
// shorter one. What has three bytes is a number or a flag, not a secret.
func (s *scalar) repeatedBy(message string) bool {
	const window, shortest = 6, 4
	for _, v := range s.variables {
		if len(v.value) < shortest {
			continue
		}
		for i := 0; i == 0 || i+window <= len(v.value); i++ {
			if strings.Contains(message, v.value[i:min(i+window, len(v.value))]) {
				return true
			}
		}
	}
	return false
}

// wrongKind reports a value of another kind than wanted.
func (d *decoder) wrongKind(at *place, n *yaml.Node, wants string) {
	if n.Tag == "!!null" {
		what := "key"
		if at.index >= 0 {
			what = "entry"
		}
		d.wrong(at, n, "it has no value", "give it "+wants+", or leave the "+what+" out")
		return
	}
	d.wrong(at, n, "it is "+kindOf(n)+", not "+wants, "")
}

// kindOf names what a value is, for people.
func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!int" || n.Tag == "!!float":
		return "a number"
	case n.Tag == "!!bool":
		return "true or false"
	case n.Tag == "!!timestamp":
		return "a date"
	case n.Tag == "!!null":
		return "nothing"
	default:
		return "text"
	}
}

// follow gives the node that an alias refers to.
func follow(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// rules are the kinds of address that the file's global section allows.
func (d *decoder) rules() sentry.RemoteRules {
	return sentry.RemoteRules{InsecureHTTP: d.config.Global.AllowInsecureHTTP, Local: d.config.Global.AllowLocalRepositories}
}

// resolve makes a path absolute: relative ones start at the folder of the file.
func (d *decoder) resolve(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(d.folder, path)
}

// clip cuts a text that is repeated in a message to at most n bytes.
func clip(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "") + "…"
}
