package kube

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestReadManifests(t *testing.T) {
	const head = "apiVersion: tekton.dev/v1\nkind: PipelineRun\n"
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		last := string(c - 1)
		bomb += string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+last+",", 8) + "*" + last + "]\n"
	}
	tests := map[string]struct {
		data string
		want string // error, or namespaces of what is read
	}{
		"one":                {head + "metadata: {generateName: a-}\nspec: {}\n", "ci"},
		"several":            {"---\n---\n" + head + "metadata: {name: a, namespace: qa}\nspec: {}\n---\n# nothing\n---\n" + head + "metadata: {name: b}\nspec: {}\n...\n", "qa ci"},
		"JSON":               {`{"apiVersion":"tekton.dev/v1beta1","kind":"PipelineRun","metadata":{"name":"a"},"spec":{}}`, "ci"},
		"a time":             {head + "metadata: {name: a, annotations: {at: 2026-01-01}}\nspec: {}\n", "ci"},
		"an anchor":          {head + "metadata: &m {name: a}\nspec: {x: *m}\n", "ci"},
		"nothing":            {"# only words\n", "1 to 100 are created"},
		"another kind":       {"apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n", `it is "Secret" of "v1"; Sentry creates only PipelineRun`},
		"a list":             {"apiVersion: v1\nkind: List\nitems: []\n", `it is "List"`},
		"another group":      {"apiVersion: tekton.dev.example/v1\nkind: PipelineRun\nmetadata: {name: a}\nspec: {}\n", "Sentry creates only"},
		"another namespace":  {head + "metadata: {name: a, namespace: prod}\nspec: {}\n", `its namespace is "prod"; the configuration allows ci, qa`},
		"no name":            {head + "metadata: {}\nspec: {}\n", "neither name nor generateName"},
		"no metadata":        {head + "spec: {}\n", "it has no metadata"},
		"no spec":            {head + "metadata: {name: a}\n", "it has no spec"},
		"no mapping":         {"- a\n", "no mapping"},
		"no YAML":            {"a: [", "parser"},
		"too long":           {head + "x: " + strings.Repeat("y", maxManifest), "at most 1048576 are read"},
		"too many":           {strings.Repeat("---\n"+head+"metadata: {name: a}\nspec: {}\n", 101), "more than 100 documents"},
		"too deep":           {head + "x: " + strings.Repeat("[", 200) + strings.Repeat("]", 200), "depth"},
		"aliases of aliases": {bomb, "alias"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			documents, err := (&Cluster{}).readManifests([]Manifest{{Name: "f.yaml", Data: []byte(test.data)}}, Identity{Namespaces: []string{"ci", "qa"}})
			if err != nil {
				if !strings.Contains(err.Error(), test.want) {
					t.Errorf("%v; want %q", err, test.want)
				}
				return
			}
			var spaces []string
			for _, d := range documents {
				spaces = append(spaces, d.namespace)
				if _, _, err := d.body(Identity{}, "abcdefghijklmnop"); err != nil {
					t.Error(err)
				}
			}
			if got := strings.Join(spaces, " "); got != test.want {
				t.Errorf("namespaces %q; want %q", got, test.want)
			}
		})
	}
}

// TestCreateBody is what is sent: params, labels, annotation and name.
func TestCreateBody(t *testing.T) {
	const manifest = `
apiVersion: tekton.dev/v1
kind: PipelineRun
metadata:
  generateName: a-name-that-is-so-long-that-nothing-of-its-end-has-room-in-a-label-
  labels: {sentry.dev/deployment: forged, sentry.dev/own: forged, app: kept}
spec:
  params:
  - {name: sentry-commit, value: none}
  - {name: SENTRY_BRANCH}
  - {name: sentry_unknown, value: kept}
  - {name: plain, value: kept}
  pipelineSpec:
    params:
    - {name: sentry.author, type: string, default: ""}
    - {name: sentry-commit, type: string}
    - {name: other}
`
	documents, err := (&Cluster{}).readManifests([]Manifest{{Data: []byte(manifest)}}, Identity{})
	if err != nil {
		t.Fatal(err)
	}
	params := map[string]string{"SENTRY_COMMIT": "c0ffee", "SENTRY_BRANCH": "main", "SENTRY_AUTHOR": "$(params.x) \"y\"", "SENTRY_MESSAGE": "m"}
	if err := setParams(documents[0].object, params); err != nil {
		t.Fatal(err)
	}
	id := Identity{Instance: "box", Deployment: "d1", Attempt: 3}
	body, name, err := documents[0].body(id, "abcdefghijklmnopqrstuvwxyz")
	if err != nil {
		t.Fatal(err)
	}
	if len(name) != maxName || !strings.HasPrefix(name, "a-name-that") || !strings.HasSuffix(name, "abcdefghij") {
		t.Errorf("name %q", name)
	}
	var sent struct {
		Metadata struct {
			Name        string
			Labels      map[string]string
			Annotations map[string]string
		}
		Spec struct {
			Params []struct{ Name, Value string }
		}
	}
	if err := json.Unmarshal(body, &sent); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range sent.Spec.Params {
		got = append(got, p.Name+"="+p.Value)
	}
	if all := strings.Join(got, " "); all != `sentry-commit=c0ffee SENTRY_BRANCH=main sentry_unknown=kept plain=kept sentry.author=$(params.x) "y"` {
		t.Errorf("params %s", all)
	}
	l := sent.Metadata.Labels
	if l[LabelDeployment] != "d1" || l[LabelRequest] != "abcdefghijklmnopqrstuvwxyz" || l["app"] != "kept" || l["sentry.dev/own"] != "" || l[LabelAttempt] != "3" {
		t.Errorf("labels %v", l)
	}
	if sent.Metadata.Annotations[AnnotationOrigin] == "" || sent.Metadata.Name != name {
		t.Errorf("%+v", sent.Metadata)
	}
	if err := setParams(map[string]any{"spec": map[string]any{"params": []any{map[string]any{"name": "sentry-commit", "value": []any{"x"}}}}}, params); err == nil {
		t.Error("a list gets a text")
	}
}
