package sentry

import (
	"strings"
	"testing"
)

func TestCheckName(t *testing.T) {
	good := []string{"a", "rag-project", "AI.Blueprints_2", "0", "v1.2", "git", "lock", strings.Repeat("x", MaxName)}
	bad := []string{
		"", ".", "..", ".git", "-rf", "_x", "a/b", `a\b`, "a b", "a\n", "a\x00", "ä", "a:b", "x.", "x.git", "X.GIT", "x.lock",
		"a*", "$(id)", "%2e", strings.Repeat("x", MaxName+1),
	}
	check(t, "CheckName", CheckName, good, bad)
}

func TestCheckProjectName(t *testing.T) {
	good := []string{"a", "rag", "rag-2", "0", strings.Repeat("x", 63)}
	bad := []string{"", "-a", "a-", "A", "a.b", "a_b", "a/b", "../..", "a b", "ä", "a\n", strings.Repeat("x", 64)}
	check(t, "CheckProjectName", CheckProjectName, good, bad)
}

// check asserts that f accepts every good text and refuses every bad one with an error of one printable line.
func check(t *testing.T, name string, f func(string) error, good, bad []string) {
	t.Helper()
	for _, text := range good {
		if err := f(text); err != nil {
			t.Errorf("%s(%q): %v", name, text, err)
		}
	}
	for _, text := range bad {
		err := f(text)
		switch {
		case err == nil:
			t.Errorf("%s(%q) accepts it", name, text)
		case strings.ContainsAny(err.Error(), "\x00\n\x1b"):
			t.Errorf("%s(%q): the error %q is not one printable line", name, text, err)
		}
	}
}
