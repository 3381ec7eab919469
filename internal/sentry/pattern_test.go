package sentry

import (
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestPatternMatch(t *testing.T) {
	tests := []struct {
		pattern, prefix string
		yes, no         string // branches, separated by spaces
	}{
		{"main", "main", "main", "mai main2 not-main-x Main x/main main/x"},
		{"v2.3.0-draft", "v2.3.0-draft", "v2.3.0-draft", "v2x3.0-draft"},
		{"release/*", "release/", "release/1 release/a-b", "release release/1/2 xrelease/1"},
		{"release/**", "release/", "release/1 release/1/2", "release xrelease/1"},
		{"*", "", "main a-b", "a/b"},
		{"**", "", "main a/b/c", ""},
		{"**/fix", "", "fix a/fix a/b/fix", "xfix a/xfix fix/a"},
		{"a/**/z", "a/", "a/z a/b/z a/b/c/z", "az a/bz a/z/b"},
		{"a**z", "a", "az abz a/b/z", "a za a/zb"},
		{"v?", "v", "v1 vé", "v v12 v/"},
		{"v?.*", "v", "v1. v1.2 v1.2.3", "v12 v1 v1.2/3"},
		{"*-rc*", "", "1-rc 1-rc2 a-rc-rc", "rc a/1-rc"},
		{"*/x/*-y", "", "a/x/b-y a/x/-y", "x/b-y a/b/x/c-y a/x/b/c-y"},
		{"**b*c/d**", "", "b-c/d a/b/bxc/de/f", "b/c/d"},
		{"/^v[0-9.]+-draft$/", "v", "v2.3.0-draft v1-draft", "v-draft xv1-draft v1-draft2"},
		{"/main/", "main", "main", "not-main-x xmain main2"},
		{"/a|b/", "", "a b", "ab xa bx"},
		{"/^release-(?:1|2)$/", "release-", "release-1 release-2", "release-3 release-12"},
		{"/(?i)main/", "", "main MAIN Main", "domain"},
		{"/feature/(ab)+c/", "feature/ab", "feature/abc feature/ababc", "feature/c"},
		{"/(?m)^a$/", "a", "a", "ab"},
		{"/(release)/[0-9]+/", "release/", "release/7", "release/x"},
	}
	for _, tt := range tests {
		t.Run(tt.pattern, func(t *testing.T) {
			p, err := ParsePattern(tt.pattern)
			if err != nil {
				t.Fatal(err)
			}
			if p.Prefix() != tt.prefix || p.String() != tt.pattern {
				t.Errorf("prefix %q, text %q", p.Prefix(), p)
			}
			if exact := !strings.ContainsAny(tt.pattern, "*?") && tt.pattern[0] != '/'; p.Exact() != exact {
				t.Errorf("Exact() = %v", p.Exact())
			}
			for _, branch := range strings.Fields(tt.yes) {
				if !p.Match(branch) {
					t.Errorf("does not match %q", branch)
				}
			}
			for _, branch := range append(strings.Fields(tt.no), "") {
				if p.Match(branch) {
					t.Errorf("matches %q", branch)
				}
			}
		})
	}
}

func TestParsePatternRefuses(t *testing.T) {
	tests := []struct{ text, want string }{
		{"", "empty"},
		{"-rf", `begins with "-"`},
		{"--upload-pack=x", `begins with "-"`},
		{"a b", `contains ' '`},
		{"a..b", `".."`},
		{"release/[0-9]", `'['`},
		{"***", "in a row"},
		{"-*", "matches no branch"},
		{"*..*", "matches no branch"},
		{"/*", "regular expression"},
		{"/main", "regular expression"},
		{"/", "regular expression"},
		{"//", "regular expression"},
		{"/(/", "not a regular expression"},
		{"/a)|(b/", "not a regular expression"},
		{`/(?=a)/`, "not a regular expression"},
		{`/.{1000}{1000}/`, "not a regular expression"},
		{"/" + strings.Repeat("(?:.{990})", 50) + "/", "instructions"},
		{"/" + strings.Repeat("x", MaxPattern) + "/", "at most 1024"},
		{"/\xff/", "UTF-8"},
	}
	for _, tt := range tests {
		_, err := ParsePattern(tt.text)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.40q: %v, want an error with %q", tt.text, err, tt.want)
		}
	}
}

// Matching must stay quick on what is made to be slow: a backtracking matcher needs longer than the universe has.
func TestPatternMatchIsBounded(t *testing.T) {
	name := strings.Repeat("a", MaxBranch)
	for _, text := range []string{"/(a+)+$b/", "/" + strings.Repeat("a?", 200) + strings.Repeat("a", 200) + "b/", strings.Repeat("*a", 120) + "b", "**" + strings.Repeat("a*", 120) + "b"} {
		p, err := ParsePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if p.Match(name) {
			t.Errorf("%.20s… matches", text)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("%.20s… took %v", text, took)
		}
	}
}

func TestZeroPatternMatchesNothing(t *testing.T) {
	var p Pattern
	if p.Match("") || p.Match("main") || p.Exact() {
		t.Error("the zero Pattern matches")
	}
}

func TestCheckBranch(t *testing.T) {
	good := []string{
		"main", "v2.3.0-draft", "release/1.0", "a/b/c", "feature/ü", "a;touch${IFS}/tmp/p", "$(id)", "`id`", "a-", "@a", "a@b", "x.lock.y",
		"refs/heads/x", "head", strings.Repeat("x", MaxBranch),
	}
	bad := []string{
		"", "-", "-rf", "--orphan=z", "@", "HEAD", "/a", "a/", "a//b", "a.", "a..b", ".a", "a/.b", "a.lock", "a.lock/b", "a@{b", "a b", "a~1", "a^",
		"a:b", "a?", "a*", "a[", `a\b`, "a\x00b", "a\nb", "a\x7fb", "a\u009bb", "\xff", strings.Repeat("x", MaxBranch+1),
	}
	check(t, "CheckBranch", CheckBranch, good, bad)
}

func TestCheckCommit(t *testing.T) {
	good := []string{strings.Repeat("0a", 20), strings.Repeat("f9", 32)}
	bad := []string{"", "abc", strings.Repeat("A", 40), strings.Repeat("g", 40), strings.Repeat("a", 41), strings.Repeat("a", 39) + "\n", strings.Repeat("a", 1<<20)}
	check(t, "CheckCommit", CheckCommit, good, bad)
}

func FuzzCheckBranch(f *testing.F) {
	for _, seed := range []string{"main", "a/b", "-x", "a..b", "@{", "x.lock", ".x", "a\x00", "é", "HEAD"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if CheckBranch(name) != nil {
			return
		}
		p, err := ParsePattern(name)
		if err != nil || !p.Exact() || !p.Match(name) || p.Prefix() != name {
			t.Fatalf("%q is a branch but not a pattern for itself: %v", name, err)
		}
		if name[0] == '-' || len(name) > MaxBranch || !utf8.ValidString(name) || strings.ContainsAny(name, "\x00\n\r ~^:?*[\\") {
			t.Fatalf("%q is accepted", name)
		}
	})
}

// FuzzParsePattern compares the glob matcher with a translation to regular expressions, and holds every pattern to the
// promise of Prefix.
func FuzzParsePattern(f *testing.F) {
	for _, seed := range [][2]string{
		{"main", "main"},
		{"release/*", "release/1"},
		{"**/x", "a/b/x"},
		{"a**b*c?d", "aabbccdd"},
		{"*/x*y/**z", "a/xby/c/z"},
		{"/^v[0-9.]+-draft$/", "v1-draft"},
		{"/a|b/", "a"},
		{"/(?i)x/", "X"},
		{"a/**/b", "a/b"},
		{"**a**/b", "xa/b/b"},
		{"/x(a+)b/", "xaab"},
		{"**/**/x", "x"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, text, branch string) {
		p, err := ParsePattern(text)
		if err != nil || CheckBranch(branch) != nil {
			return
		}
		got := p.Match(branch)
		if got && !strings.HasPrefix(branch, p.Prefix()) {
			t.Fatalf("%q matches %q, which does not begin with %q", text, branch, p.Prefix())
		}
		want := text == branch
		switch p.kind {
		case globPattern:
			want = globOracle(text).MatchString(branch)
		case regexpPattern:
			found := regexp.MustCompile(text[1 : len(text)-1])
			found.Longest()
			want = p.expression.MatchString(branch)
			if at := found.FindStringIndex(branch); want && at == nil {
				t.Fatalf("%q matches %q only with anchors", text, branch)
			}
		}
		if got != want {
			t.Fatalf("%q on %q: %v, want %v", text, branch, got, want)
		}
	})
}

// globOracle translates a glob, token by token, into a regular expression.
func globOracle(text string) *regexp.Regexp {
	var out strings.Builder
	out.WriteString(`(?s)\A`)
	for i := 0; i < len(text); {
		switch rest := text[i:]; {
		case strings.HasPrefix(rest, "**/") && (i == 0 || text[i-1] == '/'):
			out.WriteString(`(?:.*/)?`)
			i += 3
		case strings.HasPrefix(rest, "**"):
			out.WriteString(`.*`)
			i += 2
		case rest[0] == '*':
			out.WriteString(`[^/]*`)
			i++
		case rest[0] == '?':
			out.WriteString(`[^/]`)
			i++
		default:
			_, size := utf8.DecodeRuneInString(rest)
			out.WriteString(regexp.QuoteMeta(rest[:size]))
			i += size
		}
	}
	return regexp.MustCompile(out.String() + `\z`)
}
