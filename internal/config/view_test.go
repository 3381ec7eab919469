package config

import (
	"path/filepath"
	"strings"
	"testing"
)

// What View writes is a configuration that reads back as the same one, secrets apart.
func TestViewReadsBack(t *testing.T) {
	for _, file := range yamlFiles(t, "good") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c, _, err := parseFile(t, file)
			if err != nil {
				t.Fatal(err)
			}
			first, err := View(c)
			if err != nil {
				t.Fatal(err)
			}
			again, _, err := Parse("elsewhere/view.yaml", first, Options{Environ: []string{}})
			if err != nil {
				t.Fatalf("%v\n%s", err, first)
			}
			second, err := View(again)
			if err != nil {
				t.Fatal(err)
			}
			if string(first) != string(second) {
				t.Errorf("it reads back as another:\n%s\n%s", first, second)
			}
			if len(again.Groups) != len(c.Groups) || len(again.Repositories) != len(c.Repositories) {
				t.Errorf("%d groups and %d repositories became %d and %d", len(c.Groups), len(c.Repositories), len(again.Groups), len(again.Repositories))
			}
			if (again.Kubernetes == nil) != (c.Kubernetes == nil) {
				t.Errorf("kubernetes became %v, was %v", again.Kubernetes, c.Kubernetes)
			}
			for i := range c.Repositories {
				got, want := again.Repositories[i].Deploy.Commands, c.Repositories[i].Deploy.Commands
				if len(got) != len(want) || len(got) > 0 && got[0].Run != want[0].Run {
					t.Errorf("commands became %v, were %v", got, want)
				}
			}
		})
	}
}

func TestViewHidesSecrets(t *testing.T) {
	c, _, err := parseFile(t, "testdata/good/every-key.yaml")
	if err != nil {
		t.Fatal(err)
	}
	view, err := View(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range c.Secrets() {
		if strings.Contains(string(view), secret.Reveal()) {
			t.Errorf("%q is shown", secret.Reveal())
		}
	}
	for _, want := range []string{"https://hooks.example.org/[redacted]", "token: '[redacted]'", "DATABASE_PASSWORD: '[redacted]'", "VERSION: '1.10'"} {
		if !strings.Contains(string(view), want) {
			t.Errorf("it lacks %s:\n%s", want, view)
		}
	}
}

func TestSpan(t *testing.T) {
	for text, want := range map[string]string{"1h0m0s": "1h", "15m0s": "15m", "1h30m0s": "1h30m", "90s": "1m30s", "10s": "10s", "500ms": "500ms", "0s": "0s", "10m10s": "10m10s", "1h0m10s": "1h0m10s"} {
		s := scalar{expansion: expansion{text: text}, written: text}
		d, err := parseDuration(&s)
		if err != nil || span(d) != want {
			t.Errorf("%s is shown as %s, want %s (%v)", text, span(d), want, err)
		}
	}
}
