package config

import (
	"slices"
	"strings"
	"testing"
)

// variables is an environment for tests of expansion.
func variables(name string) (string, bool) {
	values := map[string]string{
		"A": "one", "EMPTY": "", "NESTED": "${A}", "YAML": "a: b # c\n- d\"'", "_x9": "lower",
	}
	value, set := values[name]
	return value, set
}

func TestExpand(t *testing.T) {
	tests := []struct {
		text, want string
		unset      string // names, separated by spaces
	}{
		{"", "", ""},
		{"plain", "plain", ""},
		{"${A}", "one", ""},
		{"x${A}y${A}z", "xoneyonez", ""},
		{"${A}${A}", "oneone", ""},
		{"${_x9}", "lower", ""},
		{"${EMPTY}", "", ""},
		{"${EMPTY:-default}", "default", ""},
		{"${A:-default}", "one", ""},
		{"${NONE:-default}", "default", ""},
		{"${NONE:-}", "", ""},
		{"${NONE:-a:-b}", "a:-b", ""},
		{"${NONE:- a # b: c }", " a # b: c ", ""},
		{"${NONE:-$A}", "$A", ""},
		{"${NESTED}", "${A}", ""}, // what was put in is not looked at again
		{"${YAML}", "a: b # c\n- d\"'", ""},
		{"$${A}", "${A}", ""},
		{"$${", "${", ""},
		{"$$${A}", "$${A}", ""},
		{"$${A}${A}", "${A}one", ""},
		{"${A}$${A}", "one${A}", ""},
		{"$A $(id) `id` $$ $1 $", "$A $(id) `id` $$ $1 $", ""},
		{"} ${A} {", "} one {", ""},
		{"${NONE}", "", "NONE"},
		{"${NONE} ${A} ${OTHER}", "", "NONE OTHER"},
	}
	for _, tt := range tests {
		got, err := expand(tt.text, variables)
		if err != nil {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		if unset := strings.Join(got.unset, " "); unset != tt.unset {
			t.Errorf("%q: unset %q, want %q", tt.text, unset, tt.unset)
		}
		if tt.unset == "" && got.text != tt.want {
			t.Errorf("%q gives %q, want %q", tt.text, got.text, tt.want)
		}
	}
}

func TestExpandRefuses(t *testing.T) {
	for _, text := range []string{"${", "${A", "${}", "${ A}", "${A }", "${1}", "${A-b}", "${A:b}", "${A:?b}", "${A:+b}", "${#A}", "${A:-${B}}", "${${A}}", "${Ä}", "x ${A} ${"} {
		if got, err := expand(text, variables); err == nil {
			t.Errorf("%q gives %q", text, got.text)
		}
	}
}

func TestExpandTellsVariables(t *testing.T) {
	got, err := expand("${A} ${NONE:-x} ${EMPTY}", variables)
	if err != nil || !slices.Equal(got.variables, []variable{{"A", "one"}, {"EMPTY", ""}}) {
		t.Errorf("variables %v, %v", got.variables, err)
	}
}

// A value with a megabyte of references must take time in proportion.
func TestExpandIsLinear(t *testing.T) {
	text := strings.Repeat("${A}$${", 150_000)
	got, err := expand(text, variables)
	if err != nil || got.text != strings.Repeat("one${", 150_000) {
		t.Errorf("%d bytes, %v", len(got.text), err)
	}
}

func FuzzExpand(f *testing.F) {
	for _, seed := range []string{"", "${A}", "$${A}", "${NONE:-x}", "${NONE}", "$$${A}", "${A", "${A:-${B}}", "$A $(x) $f", "a${NESTED}b$${c}${EMPTY:-d}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		// Whatever is escaped comes back as it was.
		back, err := expand(escape(text), variables)
		if err != nil || back.text != text || len(back.variables) > 0 || len(back.unset) > 0 {
			t.Fatalf("%q escaped gives %q, %v", text, back.text, err)
		}
		got, err := expand(text, variables)
		if err != nil || len(got.unset) > 0 {
			return
		}
		if !strings.Contains(text, "${") && got.text != text {
			t.Fatalf("%q without a reference becomes %q", text, got.text)
		}
		// The value of a variable arrives whole, and nothing in it was put in again.
		for _, v := range got.variables {
			if !strings.Contains(got.text, v.value) {
				t.Fatalf("%q gives %q, without the %q of %s", text, got.text, v.value, v.name)
			}
		}
	})
}
