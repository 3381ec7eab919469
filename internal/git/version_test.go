package git

import (
	"slices"
	"strings"
	"testing"
)

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]Version{
		"git version 2.39.5\n":               {2, 39, 5},
		"git version 2.39.5 (Apple Git-154)": {2, 39, 5},
		"git version 2.43.0.windows.1":       {2, 43, 0},
		"git version 2.50.0-rc1":             {2, 50, 0},
		"git version 3.0":                    {3, 0, 0},
	} {
		if got, err := ParseVersion(text); err != nil || got != want {
			t.Errorf("%q: %v %v", text, got, err)
		}
	}
	for _, text := range []string{"", "2.39.5", "git version", "git version x.y", "hg version 2.3"} {
		if got, err := ParseVersion(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestInsecure(t *testing.T) {
	has := func(list []string, cve string) bool {
		return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, cve) })
	}
	for _, c := range []struct {
		v      Version
		lacks  []string
		hasFix []string
	}{
		{Version{2, 30, 0}, []string{"CVE-2021-21300", "CVE-2022-39253", "CVE-2023-25652", "CVE-2024-32002", "CVE-2025-48384"}, nil},
		{Version{2, 31, 0}, []string{"CVE-2022-39253"}, []string{"CVE-2021-21300"}},
		{Version{2, 39, 3}, []string{"CVE-2024-32002"}, []string{"CVE-2023-25652", "CVE-2022-23521"}},
		{Version{2, 39, 5}, []string{"CVE-2024-50349", "CVE-2025-48384"}, []string{"CVE-2024-32002"}},
		{Version{2, 43, 6}, []string{"CVE-2025-48384"}, []string{"CVE-2024-50349"}},
		{Version{2, 43, 7}, nil, []string{"CVE-2025-48384"}},
		{Version{2, 50, 0}, []string{"CVE-2025-48384"}, []string{"CVE-2024-50349"}},
		{Version{2, 50, 1}, nil, []string{"CVE-2025-48384"}},
		{Version{2, 51, 0}, nil, []string{"CVE"}},
		{Version{3, 0, 0}, nil, []string{"CVE"}},
		{Version{1, 9, 0}, []string{"CVE-2021-21300", "CVE-2025-48384"}, nil},
	} {
		got := c.v.Insecure()
		for _, cve := range c.lacks {
			if !has(got, cve) {
				t.Errorf("%s is said to have the fix of %s", c.v, cve)
			}
		}
		for _, cve := range c.hasFix {
			if has(got, cve) {
				t.Errorf("%s is said to lack the fix of %s", c.v, cve)
			}
		}
	}
}

func TestVersionOfTheMachine(t *testing.T) {
	g, err := New(Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := g.Version(t.Context()); err != nil || v.Before(Oldest) {
		t.Errorf("%v %v", v, err)
	}
	if _, err := New(Options{StateDir: t.TempDir(), Binary: "no-such-git"}); err == nil || !strings.Contains(err.Error(), "cannot find git") {
		t.Errorf("%v", err)
	}
}
