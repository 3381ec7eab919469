package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	"go.yaml.in/yaml/v4"
)

// variablePattern finds, for the schema, a value that a variable will give: of any type until it is known.
const variablePattern = `\$\{[A-Za-z_]`

// orVariable accepts what s does, or a text with a variable in it.
func orVariable(s *jsonschema.Schema) *jsonschema.Schema {
	return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{s, {Type: "string", Pattern: variablePattern}}}
}

// text is a text that check, which may be nil, accepts.
func text[T any](field func(*T) *string, check func(string) error) codec[T] {
	return parsed(
		func(d *decoder, s *scalar, into *T) error {
			if check != nil {
				if err := check(s.text); err != nil {
					return err
				}
			}
			*field(into) = s.text
			return nil
		},
		func(from *T) string { return *field(from) },
	)
}

// parsed is a text that parse turns into a part of a T, and show turns back; "" is not shown.
func parsed[T any](parse func(d *decoder, s *scalar, into *T) error, show func(*T) string) codec[T] {
	return codec[T]{
		schema: func() *jsonschema.Schema { return &jsonschema.Schema{Type: "string"} },
		read: func(d *decoder, at *place, n *yaml.Node, into *T) {
			if s, ok := d.text(at, n); ok {
				if err := parse(d, &s, into); err != nil {
					d.refuse(at, &s, err, hintOf(err))
				}
			}
		},
		show: func(from *T) *yaml.Node {
			if shown := show(from); shown != "" {
				return plain(escape(shown))
			}
			return nil
		},
	}
}

// text reads a single value that must be text to YAML.
func (d *decoder) text(at *place, n *yaml.Node) (scalar, bool) {
	s, ok := d.scalar(at, n, "text")
	if ok && s.tag != "!!str" {
		hint := ""
		if len(s.text) <= 60 {
			hint = "write it in quotes: " + strconv.Quote(s.text)
		}
		d.wrong(at, s.node, "it is "+kindOf(s.node)+", not text", hint)
		return s, false
	}
	return s, ok
}

// path is the path of a file or folder; a relative one starts at the folder of the configuration.
func path[T any](field func(*T) *string) codec[T] {
	return parsed(
		func(d *decoder, s *scalar, into *T) error {
			switch {
			case s.text == "":
				return withHint(errors.New("it is empty"), "give it a path, or leave the key out")
			case strings.HasPrefix(s.text, "~"):
				return withHint(errors.New(`"~" is not expanded`), "write ${HOME}")
			case strings.ContainsFunc(s.text, isControl):
				return errors.New("the path holds a control character")
			}
			*field(into) = d.resolve(s.text)
			return nil
		},
		func(from *T) string { return *field(from) },
	)
}

// oneOf is one of a few words.
func oneOf[T any, S ~string](field func(*T) *S, words ...S) codec[T] {
	names := make([]string, len(words))
	for i, w := range words {
		names[i] = string(w)
	}
	c := parsed(
		func(d *decoder, s *scalar, into *T) error {
			for _, w := range words {
				if string(w) == s.text {
					*field(into) = w
					return nil
				}
			}
			hint := "use " + listed(names, "or")
			if nearest, ok := suggest(s.text, names); ok {
				hint = fmt.Sprintf("did you mean %s? Use %s", nearest, listed(names, "or"))
			}
			return withHint(fmt.Errorf("%q is not one of the choices", clip(s.text, 60)), hint)
		},
		func(from *T) string { return string(*field(from)) },
	)
	c.schema = func() *jsonschema.Schema {
		choices := make([]any, len(names))
		for i, name := range names {
			choices[i] = name
		}
		return orVariable(&jsonschema.Schema{Enum: choices})
	}
	return c
}

// boolean is true or false.
func boolean[T any](field func(*T) *bool) codec[T] {
	const wants = "true or false"
	return codec[T]{
		schema: func() *jsonschema.Schema { return orVariable(&jsonschema.Schema{Type: "boolean"}) },
		read: func(d *decoder, at *place, n *yaml.Node, into *T) {
			s, ok := d.scalar(at, n, wants)
			if !ok {
				return
			}
			value := strings.ToLower(s.text)
			if (s.tag != "!!bool" && !s.variable()) || (value != "true" && value != "false") {
				d.wrong(at, s.node, fmt.Sprintf("%s is not true or false", s.show()), "write true or false, without quotes")
				return
			}
			*field(into) = value == "true"
		},
		show: func(from *T) *yaml.Node {
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(*field(from))}
		},
	}
}

// integer is a whole number within bounds.
func integer[T any, N ~int | ~int64](field func(*T) *N, least, most int64) codec[T] {
	wants := fmt.Sprintf("a whole number from %d to %d", least, most)
	return codec[T]{
		schema: func() *jsonschema.Schema {
			return orVariable(&jsonschema.Schema{Type: "integer", Minimum: jsonschema.Ptr(float64(least)), Maximum: jsonschema.Ptr(float64(most))})
		},
		read: func(d *decoder, at *place, n *yaml.Node, into *T) {
			s, ok := d.scalar(at, n, wants)
			if !ok {
				return
			}
			if !s.number() {
				d.wrong(at, s.node, fmt.Sprintf("%s is not a number", s.show()), "write "+wants+", without quotes")
				return
			}
			// Decimal digits only: 010 is eight to one reader of YAML and ten to the next.
			value, err := strconv.ParseInt(s.text, 10, 64)
			switch {
			case errors.Is(err, strconv.ErrRange):
				d.wrong(at, s.node, s.show()+" is out of range", "write "+wants)
			case err != nil || strconv.FormatInt(value, 10) != s.text:
				d.wrong(at, s.node, s.show()+" is not a whole number in decimal digits", "write "+wants)
			case value < least:
				d.wrong(at, s.node, fmt.Sprintf("%s is less than %d", s.show(), least), "write "+wants)
			case value > most:
				d.wrong(at, s.node, fmt.Sprintf("%s is more than %d", s.show(), most), "write "+wants)
			default:
				*field(into) = N(value)
			}
		},
		show: func(from *T) *yaml.Node {
			if *field(from) == 0 && least > 0 {
				return nil
			}
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.FormatInt(int64(*field(from)), 10)}
		},
	}
}

// durationPattern is what the schema accepts as a text: numbers with units, as time.ParseDuration does, but no sign.
const durationPattern = `^([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+$`

var durationText = regexp.MustCompile(durationPattern)

// duration is a span of time within bounds: a number is seconds, a text has units.
func duration[T any, D ~int64](field func(*T) *D, least, most time.Duration) codec[T] {
	wants := fmt.Sprintf("a time from %s to %s, in seconds or like 90s, 15m, 1h30m", span(least), span(most))
	return codec[T]{
		schema: func() *jsonschema.Schema {
			s := orVariable(&jsonschema.Schema{Type: "number", Minimum: jsonschema.Ptr(least.Seconds()), Maximum: jsonschema.Ptr(most.Seconds())})
			s.AnyOf = append(s.AnyOf, &jsonschema.Schema{Type: "string", Pattern: durationPattern})
			return s
		},
		read: func(d *decoder, at *place, n *yaml.Node, into *T) {
			s, ok := d.scalar(at, n, wants)
			if !ok {
				return
			}
			value, err := parseDuration(&s)
			switch {
			case err != nil:
				d.wrong(at, s.node, fmt.Sprintf("%s is not a time", s.show()), "write "+wants)
			case value < least:
				d.wrong(at, s.node, fmt.Sprintf("%s is less than %s", s.show(), span(least)), "write "+wants)
			case value > most:
				d.wrong(at, s.node, fmt.Sprintf("%s is more than %s", s.show(), span(most)), "write "+wants)
			default:
				*field(into) = D(value)
			}
		},
		show: func(from *T) *yaml.Node {
			if *field(from) == 0 && least > 0 {
				return nil
			}
			return plain(span(time.Duration(*field(from))))
		},
	}
}

var errNotDuration = errors.New("not a duration")

func parseDuration(s *scalar) (time.Duration, error) {
	if durationText.MatchString(s.text) {
		value, err := time.ParseDuration(s.text)
		if err != nil { // more than 292 years
			value = math.MaxInt64
		}
		return value, nil
	}
	if !s.number() || strings.ContainsAny(s.text, "xXoO_") {
		return 0, errNotDuration
	}
	seconds, err := strconv.ParseFloat(s.text, 64)
	if err != nil || math.IsNaN(seconds) {
		return 0, errNotDuration
	}
	// A conversion of what does not fit gives any number at all; no bound is near a century.
	const century = 100 * 365 * 24 * 3600
	return time.Duration(min(max(seconds, -century), century) * float64(time.Second)), nil
}

// span writes a duration as people do: 15m, not 15m0s.
func span(d time.Duration) string {
	out := d.String()
	if strings.HasSuffix(out, "m0s") {
		out = strings.TrimSuffix(out, "0s")
	}
	if strings.HasSuffix(out, "h0m") {
		out = strings.TrimSuffix(out, "0m")
	}
	return out
}

// plain is a node for a text, quoted by the encoder where YAML would take it for something else.
func plain(text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
}

// jsonOf gives a default for the schema.
func jsonOf(n *yaml.Node) json.RawMessage {
	if n.Tag == "!!str" {
		quoted, _ := json.Marshal(n.Value) // a string always encodes
		return quoted
	}
	return json.RawMessage(n.Value) // true, false and decimal numbers are the same in JSON
}

// hinted is an error that knows what would be right.
type hinted struct {
	error
	hint string
}

func withHint(err error, hint string) error { return hinted{err, hint} }

func hintOf(err error) string {
	var h hinted
	if errors.As(err, &h) {
		return h.hint
	}
	return ""
}

func (h hinted) Unwrap() error { return h.error }

func isControl(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }

// listed writes words as people do: a, b or c.
func listed(words []string, last string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " " + last + " " + words[len(words)-1]
}
