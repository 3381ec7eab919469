package helm_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"sentry/internal/cli"
)

// The chart is rendered by the real helm, and judged by what comes out of it. What comes out for a cluster is tried in a
// real one, see cluster_test.go.

var update = flag.Bool("update", false, "write values.schema.json and the manifests in k8s anew")

// helmPath finds helm: HELM names it, or `make helm` has built it.
func helmPath(t *testing.T) string {
	t.Helper()
	path := os.Getenv("HELM")
	if path == "" {
		path = filepath.Join("..", ".cache", "helm", "current", "helm")
	}
	if found, err := exec.LookPath(path); err == nil {
		absolute, err := filepath.Abs(found)
		if err != nil {
			t.Fatal(err)
		}
		return absolute
	}
	if os.Getenv("SENTRY_NEED_KUBE") != "" {
		t.Fatalf("there is no helm at %s: components/helm/build makes it, or HELM names one", path)
	}
	t.Skipf("there is no helm at %s: components/helm/build makes it, or HELM names one", path)
	return ""
}

// helm runs helm with a home of its own, and gives what it printed.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(helmPath(t), args...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+home, "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("helm %s: %w\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// values is what somebody writes into a file for helm.
type values map[string]any

// write puts the values into a file, as JSON, which is YAML.
func (v values) write(t *testing.T) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "values") // the name of a test may have a comma, at which helm would split
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, "values.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// least are the fewest values with which the chart can be installed, and more.
func least(more values) values {
	v := values{"config": map[string]any{"repositories": []any{map[string]any{
		"name":    "shop",
		"monitor": map[string]any{"repo_url": "https://git.example.com/shop", "branches": []any{"main"}},
		"deploy":  map[string]any{"qa_repo_url": "https://git.example.com/qa", "qa_repo_branch": "main", "commands": []any{"true"}},
	}}}}
	return v.with(more)
}

// with gives these values with others put over them, as helm does it.
func (v values) with(more values) values {
	return values(merge(map[string]any(v), map[string]any(more)))
}

func merge(a, b map[string]any) map[string]any {
	out := map[string]any{}
	for key, value := range a {
		out[key] = value
	}
	for key, value := range b {
		below, ok := value.(map[string]any)
		above, both := out[key].(map[string]any)
		if ok && both {
			value = merge(above, below)
		}
		out[key] = value
	}
	return out
}

// object is one manifest.
type object map[string]any

// at gives what is at a path of keys, nil where there is nothing. A number is a place in a list.
func (o object) at(path ...any) any { return at(map[string]any(o), path...) }

func at(value any, path ...any) any {
	for _, step := range path {
		switch in := value.(type) {
		case map[string]any:
			key, _ := step.(string)
			value = in[key]
		case []any:
			i, ok := step.(int)
			if !ok || i >= len(in) {
				return nil
			}
			value = in[i]
		default:
			return nil
		}
	}
	return value
}

func (o object) kind() string { return fmt.Sprint(o["kind"]) }

func (o object) name() string { return fmt.Sprint(o.at("metadata", "name")) }

func (o object) namespace() string { return fmt.Sprint(o.at("metadata", "namespace")) }

// release is what helm made of the chart.
type release []object

// only gives the one object of a kind.
func (r release) only(t *testing.T, kind string) object {
	t.Helper()
	found := r.all(kind)
	if len(found) != 1 {
		t.Fatalf("%d objects of kind %s, want one", len(found), kind)
	}
	return found[0]
}

func (r release) all(kind string) []object {
	var found []object
	for _, o := range r {
		if o.kind() == kind {
			found = append(found, o)
		}
	}
	return found
}

// pod gives the pod of the daemon.
func (r release) pod(t *testing.T) map[string]any {
	t.Helper()
	pod, ok := r.only(t, "Deployment").at("spec", "template", "spec").(map[string]any)
	if !ok {
		t.Fatal("the Deployment has no pod")
	}
	return pod
}

// container gives the container of the daemon.
func (r release) container(t *testing.T) map[string]any {
	t.Helper()
	c, ok := at(r.pod(t), "containers", 0).(map[string]any)
	if !ok || c["name"] != "sentry" {
		t.Fatalf("the first container is %v", c)
	}
	return c
}

// configuration gives the text that Sentry reads.
func (r release) configuration(t *testing.T) string {
	t.Helper()
	text, ok := r.only(t, "ConfigMap").at("data", "sentry.yaml").(string)
	if !ok {
		t.Fatal("the ConfigMap has no sentry.yaml")
	}
	return text
}

// template renders the chart as the release sentry in the namespace ci.
func template(t *testing.T, args ...string) (release, error) {
	t.Helper()
	text, err := helm(t, append([]string{"template", "sentry", "sentry", "--namespace", "ci"}, args...)...)
	if err != nil {
		return nil, err
	}
	return objects(t, text), nil
}

// render renders the chart with values.
func render(t *testing.T, v values, args ...string) release {
	t.Helper()
	r, err := template(t, append([]string{"--values", v.write(t)}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// objects reads manifests, one after the other.
func objects(t *testing.T, text string) release {
	t.Helper()
	var r release
	d := yaml.NewDecoder(strings.NewReader(text))
	for {
		var o map[string]any
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return r
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if o != nil {
			r = append(r, object(o))
		}
	}
}

// validate has Sentry judge a configuration.
func validate(t *testing.T, text string, environ ...string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sentry.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if code := cli.Main([]string{"validate", "--config", file}, strings.NewReader(""), &out, &errs, environ); code != 0 {
		t.Errorf("sentry validate ends with %d:\n%s%s\n%s", code, &out, &errs, text)
	}
}
