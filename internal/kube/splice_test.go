package kube

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplice(t *testing.T) {
	m := marks{labels: map[string]string{"sentry.dev/group": "g"}, annotations: map[string]string{"sentry.dev/origin": `{"a":"b"}`}}
	const labels, annotations = `"labels":{"sentry.dev/group":"g"}`, `"annotations":{"sentry.dev/origin":"{\"a\":\"b\"}"}`
	for _, c := range []struct{ name, in, want, err string }{
		{"nothing", `{}`, `{"metadata":{` + annotations + `,` + labels + `}}`, ""},
		{"no metadata", `{"kind":"X"}`, `{"metadata":{` + annotations + `,` + labels + `},"kind":"X"}`, ""},
		{"null", `{"metadata": null }`, `{"metadata": {` + annotations + `,` + labels + `} }`, ""},
		{"empty", "{ \"metadata\" : { } }", `{ "metadata" : {` + annotations + `,` + labels + ` } }`, ""},
		{"a name", `{"metadata":{"name":"a"}}`, `{"metadata":{` + annotations + `,` + labels + `,"name":"a"}}`, ""},
		{"null labels", `{"metadata":{"labels":null}}`, `{"metadata":{` + annotations + `,` + labels + `}}`, ""},
		{"others, and a false one", `{"metadata":{"labels":{"sentry.dev/group":"h","a":"b"}}}`, `{"metadata":{` + annotations + `,"labels":{"a":"b","sentry.dev/group":"g"}}}`, ""},
		{"numbers stay", `{"metadata":{},"spec":{"n":12345678901234567890,"e":1e400,"e":1.0}}`, `{"metadata":{` + annotations + `,` + labels + `},"spec":{"n":12345678901234567890,"e":1e400,"e":1.0}}`, ""},
		{"metadata elsewhere", `{"spec":{"metadata":{"labels":{"x":"}"}}},"a":["metadata",{"metadata":1}]}`, `{"metadata":{` + annotations + `,` + labels + `},"spec":{"metadata":{"labels":{"x":"}"}}},"a":["metadata",{"metadata":1}]}`, ""},
		{"an escaped key", `{"meta\u0064ata":{"name":"\\\"}"}}`, `{"meta\u0064ata":{` + annotations + `,` + labels + `,"name":"\\\"}"}}`, ""},
		{"twice", `{"metadata":{},"metadata":{}}`, "", `"metadata" is there twice`},
		{"twice, once escaped", `{"metadata":{},"meta\u0064ata":{}}`, "", `"metadata" is there twice`},
		{"labels twice", `{"metadata":{"labels":{},"labels":{}}}`, "", `metadata: "labels" is there twice`},
		{"a list", `[]`, "", "not an object"},
		{"a text", `"metadata"`, "", "not an object"},
		{"metadata is a text", `{"metadata":"x"}`, "", "metadata: not an object"},
		{"labels are a list", `{"metadata":{"labels":[]}}`, "", "metadata: labels is not an object"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := splice([]byte(c.in), m)
			if c.err != "" {
				if err == nil || err.Error() != c.err {
					t.Fatalf("%s, %v; want the error %s", got, err, c.err)
				}
				return
			}
			if err != nil || string(got) != c.want {
				t.Errorf("%v\n got %s\nwant %s", err, got, c.want)
			}
		})
	}
	got, err := splice([]byte(`{"metadata":{"uid":"a"}}`), marks{uid: "b"})
	if err != nil || string(got) != `{"metadata":{"uid":"b"}}` {
		t.Errorf("a uid: %s, %v", got, err)
	}
}

// FuzzSplice compares with what decoding, changing and encoding does.
func FuzzSplice(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"metadata":{"labels":{"a":"b"},"name":"x\\"},"spec":[1,{"a":null}]}`, `{"metadata":null}`, ` {"a" : "\"" , "metadata":{ "annotations" : { } } } `,
		`{"metadata":{"labels":{"k":"v"}}, "x":[[],{},"]}"]}`, `[]`, `{"":{"":""}}`, `{"metadata":{"a":-1.5e+3,"b":true}}`,
	} {
		f.Add(seed)
	}
	m := marks{labels: map[string]string{"k": "v"}, annotations: map[string]string{"n": `"`}, uid: "u"}
	f.Fuzz(func(t *testing.T, text string) {
		if !json.Valid([]byte(text)) {
			return
		}
		got, err := splice([]byte(text), m)
		if err != nil {
			return
		}
		decode := func(text []byte) (value map[string]any) {
			d := json.NewDecoder(strings.NewReader(string(text)))
			d.UseNumber()
			if err := d.Decode(&value); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			return value
		}
		want := decode([]byte(text))
		metadata, _ := want["metadata"].(map[string]any)
		if metadata == nil {
			metadata = map[string]any{}
		}
		for key, values := range map[string]map[string]string{"labels": m.labels, "annotations": m.annotations} {
			all, _ := metadata[key].(map[string]any)
			if all == nil {
				all = map[string]any{}
			}
			for k, v := range values {
				all[k] = v
			}
			metadata[key] = all
		}
		metadata["uid"], want["metadata"] = m.uid, metadata
		if diff := cmp.Diff(want, decode(got)); diff != "" {
			t.Errorf("%q becomes %q: %s", text, got, diff)
		}
	})
}
