package helm_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// manifestValues are the values of the manifests in k8s.
const manifestValues = "values-manifests.yaml"

// manifests are the files in k8s and the kinds in each, in the order in which they are applied.
var manifests = []struct {
	file  string
	kinds []string
}{
	{"01-namespace.yaml", []string{"Namespace"}},
	{"02-secret.yaml", []string{"Secret"}},
	{"03-configmap.yaml", []string{"ConfigMap"}},
	{"04-rbac.yaml", []string{"ServiceAccount", "Role", "RoleBinding"}},
	{"05-deployment.yaml", []string{"PersistentVolumeClaim", "Service", "NetworkPolicy", "Deployment"}},
}

// TestManifests: the manifests in k8s are what the chart makes, without what only helm needs.
func TestManifests(t *testing.T) {
	text, err := helm(t, "template", "sentry", "sentry", "--namespace", "sentry-system", "--values", manifestValues, "--skip-tests")
	if err != nil {
		t.Fatal(err)
	}
	of := map[string]string{}
	for _, document := range strings.Split(text, "\n---\n") {
		document = strings.TrimPrefix(document, "---\n")
		document = regexp.MustCompile(`(?m)^# Source: .*\n|^ +(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n`).ReplaceAllString(document, "")
		kind := regexp.MustCompile(`(?m)^kind: (\w+)$`).FindStringSubmatch(document)
		if kind == nil {
			continue
		}
		of[kind[1]] += "---\n" + strings.Trim(document, "\n") + "\n"
	}
	for _, m := range manifests {
		want := "# Made by `make manifests` from helm/sentry and helm/values-manifests.yaml: change it there.\n"
		for _, kind := range m.kinds {
			want += of[kind]
			if of[kind] == "" {
				t.Errorf("the chart makes no %s", kind)
			}
			delete(of, kind)
		}
		file := filepath.Join("..", "k8s", m.file)
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		} else if string(got) != want {
			t.Errorf("%s is not what the chart makes: run `make manifests`", file)
		}
	}
	for kind := range of {
		t.Errorf("the chart makes a %s, which is in none of the files", kind)
	}
	files, err := filepath.Glob(filepath.Join("..", "k8s", "*"))
	if err != nil || len(files) != len(manifests) {
		t.Errorf("k8s has %v (%v)", files, err)
	}
}
