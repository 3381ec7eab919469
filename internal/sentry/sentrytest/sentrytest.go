// Package sentrytest is for tests that need the project as a whole: where it is, and the program that it makes.
package sentrytest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Root is the folder of the project: the first above that of the test whose go.mod is the project's own.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if text, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && strings.HasPrefix(string(text), "module sentry\n") {
			return dir
		}
		above := filepath.Dir(dir)
		if above == dir {
			t.Fatal("this test runs outside of the project")
		}
		dir = above
	}
}

// built is the program, made once in a process.
var built struct {
	once sync.Once
	dir  string
	err  error
}

// Binary gives the path of Sentry, built as it is released: without C. The tests of the package run under Main.
func Binary(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "sentry-binary-"); built.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", filepath.Join(built.dir, "sentry"), ".")
		cmd.Dir = Root(t)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatalf("cannot build sentry: %v", built.err)
	}
	return filepath.Join(built.dir, "sentry")
}

// Main runs the tests of a package that uses Binary, and removes what that has built. It does not return.
func Main(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}
