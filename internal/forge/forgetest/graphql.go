package forgetest

import (
	"fmt"
	"strconv"
	"strings"
)

// selection is one field of a GraphQL query, with what is asked of it.
type selection struct {
	name, alias string
	args        map[string]any
	fields      []*selection
}

// key is the name under which the answer has it.
func (s *selection) key() string {
	if s.alias != "" {
		return s.alias
	}
	return s.name
}

// parseGraphQL reads a query as far as clients write them that ask about many things at once: an operation with variables,
// fields with aliases and arguments. Fragments and directives it does not know.
func parseGraphQL(query string, variables map[string]any) (fields []*selection, err error) {
	p := &graphqlParser{text: query, variables: map[string]any{}}
	defer func() {
		switch wrong := recover().(type) {
		case nil:
		case graphqlMistake:
			fields, err = nil, wrong
		default:
			panic(wrong)
		}
	}()
	if p.peek() == "query" {
		p.next()
		if p.peek() != "(" && p.peek() != "{" {
			p.next() // the operation's name
		}
		if p.peek() == "(" {
			p.declarations(variables)
		}
	}
	fields = p.selections()
	if p.peek() != "" {
		p.fail("the end")
	}
	return fields, nil
}

// graphqlMistake is why a query cannot be read.
type graphqlMistake string

func (m graphqlMistake) Error() string { return string(m) }

type graphqlParser struct {
	text      string
	at        int
	variables map[string]any
}

func (p *graphqlParser) fail(wanted string) {
	panic(graphqlMistake(fmt.Sprintf("syntax error, unexpected %q at %d, expecting %s", p.peek(), p.at, wanted)))
}

// peek gives the next token, "" at the end.
func (p *graphqlParser) peek() string {
	for p.at < len(p.text) && strings.IndexByte(" \t\r\n,", p.text[p.at]) >= 0 {
		p.at++
	}
	rest := p.text[p.at:]
	switch {
	case rest == "":
		return ""
	case rest[0] == '"':
		for i := 1; i < len(rest); i++ {
			if rest[i] == '\\' {
				i++
			} else if rest[i] == '"' {
				return rest[:i+1]
			}
		}
		panic(graphqlMistake("a string without an end"))
	case isNameByte(rest[0]) || rest[0] == '-':
		n := 1
		for n < len(rest) && (isNameByte(rest[n]) || rest[n] == '.') {
			n++
		}
		return rest[:n]
	default:
		return rest[:1]
	}
}

func isNameByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func (p *graphqlParser) next() string {
	token := p.peek()
	p.at += len(token)
	return token
}

func (p *graphqlParser) want(token string) {
	if p.peek() != token {
		p.fail(strconv.Quote(token))
	}
	p.next()
}

func (p *graphqlParser) name() string {
	token := p.peek()
	if token == "" || !isNameByte(token[0]) || '0' <= token[0] && token[0] <= '9' {
		p.fail("a name")
	}
	return p.next()
}

// declarations reads ($name: Type = default …) and takes what was given for each.
func (p *graphqlParser) declarations(given map[string]any) {
	p.want("(")
	for p.peek() != ")" {
		p.want("$")
		name := p.name()
		p.want(":")
		required := p.typeName()
		value, ok := given[name]
		if p.peek() == "=" {
			p.next()
			if standard := p.value(); !ok {
				value, ok = standard, true
			}
		}
		if !ok && required {
			panic(graphqlMistake(fmt.Sprintf("Variable $%s of type … was provided invalid value", name)))
		}
		p.variables[name] = value
	}
	p.next()
}

// typeName skips a type, and tells whether a value is required.
func (p *graphqlParser) typeName() (required bool) {
	if p.peek() == "[" {
		p.next()
		p.typeName()
		p.want("]")
	} else {
		p.name()
	}
	if p.peek() == "!" {
		p.next()
		return true
	}
	return false
}

func (p *graphqlParser) selections() []*selection {
	p.want("{")
	var fields []*selection
	for p.peek() != "}" {
		s := &selection{name: p.name()}
		if p.peek() == ":" {
			p.next()
			s.alias, s.name = s.name, p.name()
		}
		if p.peek() == "(" {
			s.args = p.arguments()
		}
		if p.peek() == "{" {
			s.fields = p.selections()
		}
		fields = append(fields, s)
	}
	p.next()
	if len(fields) == 0 {
		panic(graphqlMistake("a selection of nothing"))
	}
	return fields
}

func (p *graphqlParser) arguments() map[string]any {
	p.want("(")
	args := map[string]any{}
	for p.peek() != ")" {
		name := p.name()
		p.want(":")
		args[name] = p.value()
	}
	p.next()
	return args
}

func (p *graphqlParser) value() any {
	switch token := p.peek(); {
	case token == "$":
		p.next()
		name := p.name()
		value, declared := p.variables[name]
		if !declared {
			panic(graphqlMistake(fmt.Sprintf("Variable $%s is used by query but not declared", name)))
		}
		return value
	case token == "[":
		p.next()
		list := []any{}
		for p.peek() != "]" {
			list = append(list, p.value())
		}
		p.next()
		return list
	case strings.HasPrefix(token, `"`):
		text, err := strconv.Unquote(p.next())
		if err != nil {
			panic(graphqlMistake("a string with an unknown escape"))
		}
		return text
	case token == "true" || token == "false":
		return p.next() == "true"
	case token == "null":
		p.next()
		return nil
	case token == "":
		p.fail("a value")
		return nil
	default:
		token = p.next()
		if n, err := strconv.ParseFloat(token, 64); err == nil {
			return n
		}
		return token // one of an enumeration
	}
}
