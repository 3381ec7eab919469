package config

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// FuzzParse reads whatever comes: it must end, give either a whole configuration or problems that have a place, and
// what it accepts must survive being shown and read again.
func FuzzParse(f *testing.F) {
	for _, folder := range []string{"good", "bad", "suspicious"} {
		files, err := filepath.Glob(filepath.Join("testdata", folder, "*.yaml"))
		if err != nil || len(files) == 0 {
			f.Fatalf("no seeds in %s: %v", folder, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, warnings, err := Parse("x.yaml", data, Options{Environ: environ})
		for _, w := range warnings {
			if !w.Warning {
				t.Fatalf("%v is no warning", w)
			}
		}
		if err != nil {
			var problems Problems
			if c != nil || !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("got %v and %v", c, err)
			}
			for _, p := range problems {
				if p.Message == "" || p.File != "x.yaml" || p.Warning || p.Line > 0 && p.Column < 1 {
					t.Fatalf("a problem without a message or place: %+v", p)
				}
			}
			return
		}
		if len(c.Repositories) == 0 {
			t.Fatal("nothing to watch")
		}
		for i := range c.Repositories {
			r := &c.Repositories[i]
			_, known := c.Group(r.Group)
			if !known || r.Name == "" || r.Monitor.Remote.IsZero() || r.Deploy.Remote.IsZero() || len(r.Monitor.Branches) == 0 || len(r.Deploy.Commands) == 0 && c.Kubernetes == nil ||
				r.Deploy.Branch == "" || r.Deploy.ProjectName == "" || r.Monitor.Interval <= 0 {
				t.Fatalf("half a repository: %+v", r)
			}
		}
		for _, g := range c.Groups {
			if g.Policy.MaxParallel < 1 || g.Policy.Timeout <= 0 {
				t.Fatalf("half a group: %+v", g)
			}
		}
		view, err := View(c)
		if err != nil {
			t.Fatal(err)
		}
		again, _, err := Parse("x.yaml", view, Options{Environ: []string{}})
		if err != nil {
			t.Fatalf("the view does not read back: %v\n%s", err, view)
		}
		if second, err := View(again); err != nil || string(second) != string(view) {
			t.Fatalf("the view reads back as another (%v):\n%s\n%s", err, view, second)
		}
	})
}

func FuzzDotenv(f *testing.F) {
	for _, seed := range []string{"A=1\n", "export B='x'\n", "C=\"a\nb\"\n", "# c\n", "=x", "A", "A=\"", "A=$B ${C}\n", "A: 1\r\n", "\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		variables, problem := parseDotenv(".env", data)
		if problem != nil {
			if problem.Line < 1 || problem.Message == "" {
				t.Fatalf("%+v", problem)
			}
			return
		}
		for name := range variables {
			if !validVariable(name) {
				t.Fatalf("the name %q", name)
			}
		}
	})
}
