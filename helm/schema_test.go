package helm_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"sentry/internal/config"
)

const schemaFile = "sentry/values.schema.json"

// readSchema reads the schema of the values.
func readSchema(t *testing.T) map[string]any {
	t.Helper()
	raw, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(raw, &schema); err != nil {
		t.Fatal(err)
	}
	return schema
}

// TestSchemaOfTheConfiguration: helm refuses what `sentry validate` would refuse by its schema, because it is the same one.
func TestSchemaOfTheConfiguration(t *testing.T) {
	raw, err := config.Schema()
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]any
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	delete(want, "$schema") // it belongs to a whole schema
	schema := readSchema(t)
	definitions, ok := schema["$defs"].(map[string]any)
	if !ok {
		t.Fatal("the schema has no $defs")
	}
	if *update {
		definitions["configuration"] = want
		writeSchema(t, schema)
		return
	}
	got, _ := json.Marshal(definitions["configuration"])
	expected, _ := json.Marshal(want)
	if !bytes.Equal(got, expected) {
		t.Error("values.schema.json does not have the schema of the configuration, as `sentry config schema` prints it: run `make manifests`")
	}
}

func writeSchema(t *testing.T, schema map[string]any) {
	t.Helper()
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(schema); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(schemaFile, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestValuesAreComplete: every value has a default, a place in the schema, which refuses all others, and a line in the
// README with that default.
func TestValuesAreComplete(t *testing.T) {
	raw, err := os.ReadFile("sentry/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var defaults map[string]any
	if err := yaml.Unmarshal(raw, &defaults); err != nil {
		t.Fatal(err)
	}
	schema := readSchema(t)
	found := map[string]string{}
	walk(t, "", defaults, schema, found)
	if len(found) < 60 {
		t.Fatalf("only %d values: this test is looking at the wrong place", len(found))
	}
	text, err := os.ReadFile("sentry/README.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (?:`([^`]*)`|–) \\| .+ \\|$").FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = m[2]
	}
	for _, key := range slices.Sorted(maps.Keys(found)) {
		switch told, ok := documented[key]; {
		case !ok:
			t.Errorf("README.md has no line for %s, or not of the form | `%s` | `%s` | meaning |", key, key, found[key])
		case told != found[key]:
			t.Errorf("README.md: the default of %s is %q, and not %q", key, found[key], told)
		}
	}
	for key := range documented {
		if _, ok := found[key]; !ok {
			t.Errorf("README.md: there is no value %s", key)
		}
	}
}

// walk lists the values below a mapping with their defaults, as far as the schema fixes their names.
func walk(t *testing.T, prefix string, value, schema map[string]any, found map[string]string) {
	t.Helper()
	properties, _ := schema["properties"].(map[string]any)
	if schema["additionalProperties"] != false {
		t.Errorf("%q: the schema lets every key pass", prefix)
	}
	for key := range properties {
		if _, ok := value[key]; !ok && prefix+key != "global" && !strings.Contains(prefix, "Probe.") {
			t.Errorf("%s%s is in the schema, and has no default in values.yaml", prefix, key)
		}
	}
	for key, v := range value {
		property, ok := properties[key].(map[string]any)
		if !ok {
			t.Errorf("%s%s has a default, and is not in the schema", prefix, key)
			continue
		}
		if below, ok := v.(map[string]any); ok && property["properties"] != nil && !strings.HasSuffix(key, "Probe") {
			walk(t, prefix+key+".", below, property, found)
			continue
		}
		found[prefix+key] = written(v)
	}
}

// written gives a default as the README has it: nothing for what is empty.
func written(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case map[string]any:
		if len(v) == 0 {
			return ""
		}
	case []any:
		if len(v) == 0 {
			return ""
		}
	default:
		return fmt.Sprint(v)
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
