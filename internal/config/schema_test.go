package config

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
	"go.yaml.in/yaml/v4"
)

func readSchema(t *testing.T) (*jsonschema.Schema, *jsonschema.Resolved) {
	t.Helper()
	text, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	// Defaults must themselves be valid.
	resolved, err := s.Resolve(&jsonschema.ResolveOptions{ValidateDefaults: true})
	if err != nil {
		t.Fatal(err)
	}
	return &s, resolved
}

// asEditor reads a file as an editor's validator does.
func asEditor(t *testing.T, file string) any {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var value any
	if err := yaml.Load(data, &value); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestSchemaAcceptsGoodFiles(t *testing.T) {
	_, schema := readSchema(t)
	files := slices.Concat(yamlFiles(t, "good"), yamlFiles(t, "suspicious"), []string{"../../sentry.yaml"})
	for _, file := range files {
		if err := schema.Validate(asEditor(t, file)); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// The schema must refuse whatever is wrong in structure: what depends on the text of a value is not for it.
func TestSchemaRefusesBadStructure(t *testing.T) {
	_, schema := readSchema(t)
	for _, name := range []string{
		"unknown-key", "key-in-the-wrong-place", "wrong-type", "not-a-mapping", "repositories-as-mapping", "no-value", "missing-keys",
		"nothing-to-watch", "variable-in-key", "number-out-of-range", "kubernetes", "unknown-strategy", "unknown-choice", "bad-environment", "unknown-report", "incomplete-app", "jobs",
	} {
		if err := schema.Validate(asEditor(t, filepath.Join("testdata", "bad", name+".yaml"))); err == nil {
			t.Errorf("%s.yaml passes", name)
		}
	}
}

// walk goes through every key that the schema knows, with where it stands.
func walk(section string, s *jsonschema.Schema, visit func(section, key string, parent, property *jsonschema.Schema)) {
	if s == nil {
		return
	}
	for key, property := range s.Properties {
		visit(section, key, s, property)
		walk(strings.TrimPrefix(section+"."+key, "."), property, visit)
	}
	walk(section+"[]", s.Items, visit)
	walk(section+".NAME", s.AdditionalProperties, visit)
	for _, choice := range s.AnyOf {
		walk(section, choice, visit)
	}
}

// TestSchemaIsComplete wants, for editors, every key explained and every mapping closed.
func TestSchemaIsComplete(t *testing.T) {
	s, _ := readSchema(t)
	if s.Schema != "https://json-schema.org/draft/2020-12/schema" || s.Type != "object" {
		t.Errorf("it is %q of type %q", s.Schema, s.Type)
	}
	keys := 0
	walk("", s, func(section, key string, parent, property *jsonschema.Schema) {
		keys++
		if property.Description == "" {
			t.Errorf("%s.%s has no description", section, key)
		}
		if parent.AdditionalProperties == nil || parent.AdditionalProperties.Not == nil {
			t.Errorf("%s accepts unknown keys", section)
		}
	})
	if keys < 50 {
		t.Errorf("only %d keys", keys)
	}
	if got := string(s.Properties["polling_interval"].Default); got != `"1m"` {
		t.Errorf("the default of polling_interval is %s", got)
	}
	cleanup := s.Properties["global"].Properties["cleanup"]
	if got := string(cleanup.Default); got != "true" {
		t.Errorf("the default of global.cleanup is %s", got)
	}
}

// TestEveryKeyIsInTheExample holds the file that sets every key to the schema: a new key must be added there, and so to
// TestEveryKeyArrives.
func TestEveryKeyIsInTheExample(t *testing.T) {
	s, _ := readSchema(t)
	used := map[string]bool{}
	var collect func(section string, value any)
	collect = func(section string, value any) {
		switch value := value.(type) {
		case map[string]any:
			for key, inner := range value {
				used[section+"."+key] = true
				step := key
				if section == ".groups" {
					step = "NAME"
				}
				collect(section+"."+step, inner)
			}
		case []any:
			for _, inner := range value {
				collect(section+"[]", inner)
			}
		}
	}
	collect("", asEditor(t, "testdata/good/every-key.yaml"))
	walk("", s, func(section, key string, _, _ *jsonschema.Schema) {
		if section != "" {
			section = "." + section
		}
		// The one at the top is the same as global.webhook_url, and only one of the two may be given.
		if at := section + "." + key; !used[at] && at != ".global.webhook_url" {
			t.Errorf("testdata/good/every-key.yaml lacks %s", at)
		}
	})
}

// TestKeysAgree asks the decoder about each key of the schema, in its place: it knows the key, and its suggestion for a
// slip in it is that key. That the three are made from one table is what this guards.
func TestKeysAgree(t *testing.T) {
	s, _ := readSchema(t)
	walk("", s, func(section, key string, _, _ *jsonschema.Schema) {
		slip := key + "x"
		_, _, err := Parse("x.yaml", documentWith(section, key), Options{})
		if err != nil && strings.Contains(err.Error(), fmt.Sprintf("the key %q is not known", key)) {
			t.Errorf("the decoder does not know %s.%s: %v", section, key, err)
		}
		_, _, err = Parse("x.yaml", documentWith(section, slip), Options{})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("the key %q is not known here; did you mean %s?", slip, key)) {
			t.Errorf("for %s.%s the decoder says: %v", section, slip, err)
		}
	})
}

// documentWith writes a document with one key in a section such as repositories[].monitor.
func documentWith(section, key string) []byte {
	text := "{" + key + ": 0}"
	parts := strings.FieldsFunc(section, func(r rune) bool { return r == '.' })
	slices.Reverse(parts)
	for _, part := range parts {
		name, list := strings.CutSuffix(part, "[]")
		if list {
			text = "[" + text + "]"
		}
		text = "{" + name + ": " + text + "}"
	}
	return []byte(text)
}

// Every reserved or known word that a message proposes must be one that is accepted.
func TestSuggest(t *testing.T) {
	known := []string{"polling_interval", "global", "groups", "repositories", "webhook_url", "timeout", "retries"}
	tests := []struct{ word, want string }{
		{"poling_interval", "polling_interval"},
		{"pollinginterval", "polling_interval"},
		{"polling-interval", "polling_interval"},
		{"Groups", "groups"},
		{"gruops", "groups"},
		{"group", "groups"},
		{"repository", "repositories"},
		{"retry", "retries"},
		{"webhok", "webhook_url"},
		{"x", ""},
		{"kubernetes", ""},
		{"", ""},
		{strings.Repeat("groups", 100), ""},
	}
	for _, tt := range tests {
		if got, ok := suggest(tt.word, known); got != tt.want || ok != (tt.want != "") {
			t.Errorf("suggest(%q) = %q, %v; want %q", tt.word, got, ok, tt.want)
		}
	}
}

func TestDistance(t *testing.T) {
	tests := []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "a", 0}, {"a", "", 1}, {"", "abc", 3}, {"abc", "acb", 1}, {"abc", "adc", 1}, {"abc", "abcd", 1}, {"kitten", "sitting", 3}, {"gruop", "group", 1},
	}
	for _, tt := range tests {
		if got := distance(tt.a, tt.b, 10); got != tt.want || distance(tt.b, tt.a, 10) != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
	if got := distance("abcdef", "", 2); got != 2 {
		t.Errorf("beyond the limit: %d", got)
	}
}
