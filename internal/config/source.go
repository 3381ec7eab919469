package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// Limits of a configuration file. They leave room for more than 10,000 repositories, and refuse within milliseconds, or
// at the worst after a second or two and some hundred megabytes, a file that is made to exhaust its reader.
const (
	MaxSize    = 16 << 20  // bytes of the file
	MaxDepth   = 64        // mappings and lists in each other
	MaxKeys    = 10_000    // keys of one mapping
	MaxNodes   = 1_000_000 // keys, values, mappings and lists, those counted again for which an alias stands
	MaxAliases = 20_000    // references (*name)
	MaxValue   = 64 << 10  // bytes of one value, expanded; Linux takes no argument or variable of more than 128 KiB

	// What the parser makes of one byte can be several nodes of 200 bytes each, so their number is bounded before it
	// runs: by line in block style, and by the marks that flow style needs.
	maxLines     = 1_000_000
	maxLine      = 1 << 20 // bytes
	maxFlowMarks = 300_000
)

// fault is a problem of the text before there are paths to speak of.
type fault struct {
	line, column  int
	message, hint string
}

// parse reads the text of a configuration into a tree that is bounded in every respect and has no anchors that contain
// themselves.
func parse(data []byte) (root *yaml.Node, problem *fault) {
	if problem := inspect(data); problem != nil {
		return nil, problem
	}
	// A parser that panics on a strange file must not take the running daemon with it at a reload.
	defer func() {
		if r := recover(); r != nil {
			root, problem = nil, &fault{message: fmt.Sprintf("the YAML parser gives up: %v", r)}
		}
	}()
	limits := loaderlimits.New(loaderlimits.DepthValue(MaxDepth), loaderlimits.AliasNone())
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithPlugin(limits))
	if err != nil {
		return nil, &fault{message: err.Error()}
	}
	var document, second yaml.Node
	switch err := loader.Load(&document); {
	case errors.Is(err, io.EOF):
		return nil, &fault{message: "it holds no configuration", hint: "see sentry.yaml in Sentry's repository for an example"}
	case err != nil:
		return nil, syntaxFault(data, err)
	}
	switch err := loader.Load(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		return nil, syntaxFault(data, err)
	default:
		return nil, &fault{
			line: second.Line, column: second.Column, message: "a second YAML document begins here",
			hint: "keep one document in a file, without a --- between its parts",
		}
	}
	root = document.Content[0]
	return root, (&surveyor{costs: map[*yaml.Node]int{}}).survey(root)
}

// inspect looks at the bytes, before anything is allocated for them.
func inspect(data []byte) *fault {
	if len(data) > MaxSize {
		return &fault{message: fmt.Sprintf("it has %d bytes; at most %d are read", len(data), MaxSize), hint: "is it the right file?"}
	}
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return &fault{line: lineAt(data, i), column: 1, message: "the line holds a NUL byte", hint: "is it the right file, saved as UTF-8?"}
	}
	if !utf8.Valid(data) {
		i := 0
		for {
			r, size := utf8.DecodeRune(data[i:])
			if r == utf8.RuneError && size == 1 {
				return &fault{line: lineAt(data, i), column: 1, message: "the line is not UTF-8", hint: "save the file as UTF-8"}
			}
			i += size
		}
	}
	lines := 0
	for line := range bytes.Lines(data) {
		if lines++; lines > maxLines {
			return &fault{message: fmt.Sprintf("it has more than %d lines", maxLines)}
		}
		if len(line) > maxLine {
			return &fault{line: lines, column: 1, message: fmt.Sprintf("the line has %d bytes; at most %d are read", len(line), maxLine)}
		}
	}
	marks := 0
	for _, b := range data {
		if b == ',' || b == '[' || b == '{' {
			marks++
		}
	}
	if marks > maxFlowMarks {
		return &fault{
			message: fmt.Sprintf(`it has %d of ",", "[" and "{"; at most %d are read`, marks, maxFlowMarks),
			hint:    "write lists and mappings with one entry on each line",
		}
	}
	return nil
}

func lineAt(data []byte, offset int) int { return 1 + bytes.Count(data[:offset], []byte("\n")) }

func syntaxFault(data []byte, err error) *fault {
	var at *yaml.LoadError
	if !errors.As(err, &at) {
		return &fault{message: err.Error()}
	}
	mark := at.Mark
	if mark.Line == 0 {
		mark = at.ContextMark
	}
	f := &fault{line: mark.Line, column: mark.Column, message: "not valid YAML: " + at.Message}
	if at.ContextMsg != "" {
		f.message += " " + at.ContextMsg
	}
	switch {
	case indentedByTab(data, mark.Line):
		f.hint = "indent with spaces: YAML allows no tabs there"
	case strings.Contains(at.Message, "expected ',' or") && bareVariable.Match(lineOf(data, mark.Line)):
		f.hint = `between { } or [ ] a variable needs quotes, as in {token: "${TOKEN}"}: YAML takes its { for another mapping`
	case at.ContextMark.Line > 0 && at.ContextMark.Line != mark.Line:
		f.hint = fmt.Sprintf("it belongs to what begins on line %d", at.ContextMark.Line)
	}
	return f
}

// bareVariable finds a variable without quotes where a value begins.
var bareVariable = regexp.MustCompile(`(?:^|[:,\[{])\s*\$\{`)

// indentedByTab reports whether a tab is among the white space that line, from 1, begins with.
func indentedByTab(data []byte, line int) bool {
	text := lineOf(data, line)
	indent := text[:len(text)-len(bytes.TrimLeft(text, " \t"))]
	return bytes.IndexByte(indent, '\t') >= 0
}

// lineOf gives a line, from 1; nothing where there is none.
func lineOf(data []byte, line int) []byte {
	for range line - 1 {
		_, after, ok := bytes.Cut(data, []byte("\n"))
		if !ok {
			return nil
		}
		data = after
	}
	text, _, _ := bytes.Cut(data, []byte("\n"))
	return text
}

// surveyor walks the tree once and counts. A subtree that has an anchor is walked once too: each alias to it adds its
// cost, so that a billion laughs are counted, not laughed.
type surveyor struct {
	costs   map[*yaml.Node]int // of subtrees with anchors; open while they are walked
	aliases int
}

const open = -1

func (s *surveyor) survey(root *yaml.Node) *fault {
	_, problem := s.cost(root, 1)
	return problem
}

// cost is how many nodes n stands for, at most MaxNodes.
func (s *surveyor) cost(n *yaml.Node, depth int) (int, *fault) {
	at := func(message, hint string) *fault { return &fault{n.Line, n.Column, message, hint} }
	if depth > MaxDepth {
		return 0, at(fmt.Sprintf("it is nested more than %d deep", MaxDepth), "")
	}
	if n.Style&yaml.TaggedStyle != 0 {
		return 0, at(fmt.Sprintf("it has the YAML tag %.40q", n.Tag), "leave the tag out")
	}
	if n.Kind == yaml.AliasNode {
		if s.aliases++; s.aliases > MaxAliases {
			return 0, at(fmt.Sprintf("it is one of more than %d references", MaxAliases), "")
		}
		cost := s.costs[n.Alias] // known: an alias refers to an anchor before it, and this walk follows the text
		if cost == open {
			return 0, at(fmt.Sprintf("*%.40s refers to what it is a part of", n.Value), "")
		}
		return cost, nil
	}
	if n.Anchor != "" {
		s.costs[n] = open
	}
	if n.Kind == yaml.MappingNode && len(n.Content)/2 > MaxKeys {
		return 0, at(fmt.Sprintf("it has %d keys; at most %d are read", len(n.Content)/2, MaxKeys), "")
	}
	total := 1
	for _, child := range n.Content {
		cost, problem := s.cost(child, depth+1)
		if problem != nil {
			return 0, problem
		}
		if total += cost; total > MaxNodes {
			return 0, at(fmt.Sprintf("it stands for more than %d keys and values", MaxNodes), "")
		}
	}
	if n.Anchor != "" {
		s.costs[n] = total
	}
	return total, nil
}
