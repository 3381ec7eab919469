package config

import (
	"fmt"
	"strings"
)

// lookup finds a variable of the environment.
type lookup func(name string) (value string, set bool)

// expansion is a value after its variables were put in.
type expansion struct {
	text      string
	variables []variable // those that were put in, in order
	unset     []string   // names without a value; text is of no use then
}

// variable is one that was put into a value.
type variable struct{ name, value string }

// expand puts variables into the text of one decoded value.
//
//   - ${NAME} is the variable's value; a variable that is not set is reported, never taken as empty.
//   - ${NAME:-default} is default where the variable is not set or empty; default ends at the first "}".
//   - $${ is a plain "${".
//
// Everything else stays: $NAME, $(command), $$, a "$" at the end. What was put in is never looked at again, and as it is
// put into a value that was decoded already, it can neither end a text nor begin a comment or key.
// An error says what is wrong with a "${" that is none of these.
func expand(text string, find lookup) (expansion, error) {
	e := expansion{text: text}
	if !strings.Contains(text, "${") {
		return e, nil
	}
	var out strings.Builder
	for {
		i := strings.Index(text, "${")
		if i < 0 {
			break
		}
		if i > 0 && text[i-1] == '$' {
			out.WriteString(text[:i-1] + "${")
			text = text[i+2:]
			continue
		}
		out.WriteString(text[:i])
		inside, rest, closed := strings.Cut(text[i+2:], "}")
		if !closed {
			return e, fmt.Errorf("%q has no closing brace", clip(text[i:], 60))
		}
		name, fallback, hasFallback := strings.Cut(inside, ":-")
		switch {
		case !validVariable(name):
			return e, fmt.Errorf("%q is not a variable", clip("${"+inside+"}", 60))
		case strings.Contains(fallback, "${"):
			return e, fmt.Errorf("%q has a variable inside another", clip("${"+inside+"}", 60))
		}
		value, set := find(name)
		switch {
		case hasFallback && value == "":
			value = fallback
		case !set:
			e.unset = append(e.unset, name)
		default:
			e.variables = append(e.variables, variable{name, value})
		}
		out.WriteString(value)
		text = rest
	}
	out.WriteString(text)
	e.text = out.String()
	return e, nil
}

// escape is the inverse of expand for a text that holds no variables.
func escape(text string) string { return strings.ReplaceAll(text, "${", "$${") }

// validVariable tells whether a shell would take name for one.
func validVariable(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}
