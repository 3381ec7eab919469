package sentry

import (
	"fmt"
	"io"
	"log/slog"
	"unique"
)

// Redacted is what every form of a Secret shows.
const Redacted = "[redacted]"

// Secret is a text that no printer, encoder or logger shows: fmt with every verb, slog, JSON, YAML and text all give
// Redacted (or nothing where it is empty). Only Reveal gives the text. Secrets are equal (==) where their texts are.
//
// The text is behind a pointer because fmt does not ask for methods while it reports a verb that does not fit: with the
// text in the struct, Sprintf("%s", struct{ N int; S Secret }{…}) would print it.
type Secret struct{ text unique.Handle[string] }

// NewSecret wraps a text.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{unique.Make(text)}
}

// Reveal gives the text. Whoever calls it answers for where it goes.
func (s Secret) Reveal() string {
	if s.Empty() {
		return ""
	}
	return s.text.Value()
}

// Empty reports whether there is no text.
func (s Secret) Empty() bool { return s == Secret{} }

// String hides the text.
func (s Secret) String() string {
	if s.Empty() {
		return ""
	}
	return Redacted
}

// Format hides the text from every verb of fmt, %#v included.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// GoString hides the text.
func (s Secret) GoString() string { return s.String() }

// LogValue hides the text from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the text from JSON, YAML and whatever else encodes text.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalYAML hides the text from YAML.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }
