package config

import (
	"fmt"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
	"go.yaml.in/yaml/v4"
)

// codec is everything there is to know about one kind of value inside a T: how it is described to an editor, how it is
// read, and how it is shown.
type codec[T any] struct {
	// schema describes the value.
	schema func() *jsonschema.Schema
	// read puts the value into the T, or reports why not.
	read func(d *decoder, at *place, n *yaml.Node, into *T)
	// show is the inverse of read, with secrets hidden; nil where there is nothing to show.
	show func(from *T) *yaml.Node
}

// key is one key of a mapping that becomes a T.
type key[T any] struct {
	name     string
	about    string // for people: what it means, and what goes wrong without it
	required bool
	value    codec[T]
}

// mapping is a mapping with a fixed set of keys.
type mapping[T any] struct {
	about   string
	keys    []key[T]
	initial func() T // holds the defaults
	// after looks at what needs several keys at once. given has the nodes of the keys that were in the file.
	after func(d *decoder, at *place, n *yaml.Node, given map[string]*yaml.Node, into *T)
}

func (m *mapping[T]) find(name string) int {
	for i := range m.keys {
		if m.keys[i].name == name {
			return i
		}
	}
	return -1
}

func (m *mapping[T]) read(d *decoder, at *place, n *yaml.Node, into *T) {
	n = follow(n)
	if n.Kind != yaml.MappingNode {
		d.wrongKind(at, n, "a mapping")
		return
	}
	given := make(map[string]*yaml.Node, len(n.Content)/2)
	for name, value := range d.pairs(at, n) {
		if m.find(name.Value) < 0 {
			d.unknownKey(at.at(name.Value), name, m.names())
			continue
		}
		given[name.Value] = value
	}
	// In the order of the table, not of the file: later keys may need earlier ones.
	for i := range m.keys {
		k := &m.keys[i]
		value, ok := given[k.name]
		switch {
		case ok && k.required && follow(value).Tag == "!!null":
			d.wrong(at.at(k.name), value, "it has no value", "give it "+gist(k.about))
		case ok:
			k.value.read(d, at.at(k.name), value, into)
		case k.required:
			d.wrong(at.at(k.name), n, "it is missing", "add it: "+gist(k.about))
		}
	}
	if m.after != nil {
		m.after(d, at, n, given, into)
	}
}

// pairs goes through the keys of a mapping, and reports those that are not text or were there before.
func (d *decoder) pairs(at *place, n *yaml.Node) func(yield func(name, value *yaml.Node) bool) {
	return func(yield func(name, value *yaml.Node) bool) {
		lines := make(map[string]int, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content) && !d.full(); i += 2 {
			name, value := n.Content[i], n.Content[i+1]
			switch {
			case name.Tag == "!!merge":
				d.wrong(at, name, "merge keys (<<) are not read", "write the keys out, or use an alias for a whole value")
				continue
			case name.Kind != yaml.ScalarNode || name.Tag == "!!null":
				d.wrong(at, name, "a key is "+kindOf(follow(name))+", not text", "")
				continue
			}
			if first, twice := lines[name.Value]; twice {
				d.wrong(at.at(name.Value), name, fmt.Sprintf("the key is there twice, first on line %d", first), "keep one of them")
				continue
			}
			lines[name.Value] = name.Line
			if !yield(name, value) {
				return
			}
		}
	}
}

func (m *mapping[T]) names() []string {
	names := make([]string, len(m.keys))
	for i := range m.keys {
		names[i] = m.keys[i].name
	}
	return names
}

func (m *mapping[T]) schema() *jsonschema.Schema {
	s := &jsonschema.Schema{
		Type:                 "object",
		Description:          m.about,
		Properties:           make(map[string]*jsonschema.Schema, len(m.keys)),
		PropertyOrder:        m.names(),
		AdditionalProperties: &jsonschema.Schema{Not: &jsonschema.Schema{}},
	}
	initial := m.initial()
	for i := range m.keys {
		k := &m.keys[i]
		property := k.value.schema()
		property.Description = k.about
		if value := k.value.show(&initial); value != nil && value.Kind == yaml.ScalarNode {
			property.Default = jsonOf(value)
		}
		s.Properties[k.name] = property
		if k.required {
			s.Required = append(s.Required, k.name)
		}
	}
	return s
}

func (m *mapping[T]) show(from *T) *yaml.Node {
	out := &yaml.Node{Kind: yaml.MappingNode}
	for i := range m.keys {
		if value := m.keys[i].value.show(from); value != nil {
			out.Content = append(out.Content, plain(m.keys[i].name), value)
		}
	}
	if len(out.Content) == 0 {
		return nil
	}
	return out
}

// nested is a mapping that becomes a part of a T.
func nested[T, P any](part func(*T) *P, keys func() *mapping[P]) codec[T] {
	m := keys()
	return codec[T]{
		schema: m.schema,
		read: func(d *decoder, at *place, n *yaml.Node, into *T) {
			m.read(d, at, n, part(into))
		},
		show: func(from *T) *yaml.Node { return m.show(part(from)) },
	}
}

// optional is a mapping that becomes a part of a T only where it is given.
func optional[T, P any](part func(*T) **P, keys func() *mapping[P]) codec[T] {
	m := keys()
	return codec[T]{
		schema: m.schema,
		read: func(d *decoder, at *place, n *yaml.Node, into *T) {
			initial := m.initial()
			*part(into) = &initial
			m.read(d, at, n, &initial)
		},
		show: func(from *T) *yaml.Node {
			if *part(from) == nil {
				return nil
			}
			return m.show(*part(from))
		},
	}
}

// list is a list whose items become a slice of a T. one names an item, for messages.
func list[T, I any](items func(*T) *[]I, least, most int, one string, initial func() I, item codec[I]) codec[T] {
	return codec[T]{
		schema: func() *jsonschema.Schema {
			return &jsonschema.Schema{Type: "array", Items: item.schema(), MinItems: &least, MaxItems: &most}
		},
		read: func(d *decoder, at *place, n *yaml.Node, into *T) {
			n = follow(n)
			switch {
			case n.Kind != yaml.SequenceNode:
				d.wrongKind(at, n, "a list")
				return
			case len(n.Content) < least:
				d.wrong(at, n, "the list is empty", "add at least one "+one)
				return
			case len(n.Content) > most:
				d.wrong(at, n, fmt.Sprintf("the list has %d entries; at most %d are accepted", len(n.Content), most), "")
				return
			}
			out := make([]I, 0, len(n.Content))
			for i, node := range n.Content {
				if d.full() {
					return
				}
				out = append(out, initial())
				item.read(d, at.item(i), node, &out[i])
			}
			*items(into) = out
		},
		show: func(from *T) *yaml.Node {
			out := &yaml.Node{Kind: yaml.SequenceNode}
			for i := range *items(from) {
				if shown := item.show(&(*items(from))[i]); shown != nil {
					out.Content = append(out.Content, shown)
				}
			}
			if len(out.Content) == 0 {
				return nil
			}
			return out
		},
	}
}

// asItem is a mapping as an item of a list.
func asItem[I any](keys func() *mapping[I]) codec[I] {
	m := keys()
	return codec[I]{schema: m.schema, read: m.read, show: m.show}
}

// raw leaves variables in the value, and below it, as they are.
func (c codec[T]) raw() codec[T] {
	read, show := c.read, c.show
	c.read = func(d *decoder, at *place, n *yaml.Node, into *T) {
		at.raw = true
		read(d, at, n, into)
	}
	c.show = func(from *T) *yaml.Node {
		shown := show(from)
		unescape(shown)
		return shown
	}
	return c
}

// unescape undoes escape in every value below n.
func unescape(n *yaml.Node) {
	if n == nil {
		return
	}
	n.Value = strings.ReplaceAll(n.Value, "$${", "${")
	for _, child := range n.Content {
		unescape(child)
	}
}

// unshown is a second way to write what another key shows.
func (c codec[T]) unshown() codec[T] {
	c.show = func(*T) *yaml.Node { return nil }
	return c
}

// gist is enough of an explanation for a hint: the first sentence, written as the rest of one.
func gist(about string) string {
	first, _, _ := strings.Cut(about, ". ")
	return strings.ToLower(first[:1]) + strings.TrimSuffix(first[1:], ".")
}
