package config

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestHostileFiles reads files that are made to exhaust their reader. Each is refused for the reason it is made of, and
// soon: the bounds on the time are more than ten times what it takes on a slow machine, and much less than it would take
// without the limit.
func TestHostileFiles(t *testing.T) {
	var laughs strings.Builder
	laughs.WriteString("a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n")
	for c := 'b'; c <= 'z'; c++ {
		fmt.Fprintf(&laughs, "%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c]\n", c, c, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1)
	}
	var keys strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&keys, "key%d: 1\n", i)
	}
	var aliases strings.Builder
	aliases.WriteString("a: &a x\nb:\n")
	for range MaxAliases + 1 {
		aliases.WriteString("- *a\n")
	}
	deepBlock := func(n int) string {
		var out strings.Builder
		for i := range n {
			out.WriteString(strings.Repeat(" ", i) + "a:\n")
		}
		return out.String()
	}
	inRepository := func(key, value string) string {
		return strings.Replace(minimal, "branches", key+": "+value+"\n      branches", 1)
	}
	tests := []struct {
		name, text, want string
		bound            time.Duration
	}{
		{"billion laughs", laughs.String(), "stands for more than 1000000", time.Second},
		{"100,000 keys", keys.String(), "has 100000 keys", 2 * time.Second},
		{"10,000 deep, flow", strings.Repeat("[", 10_000), "exceeded max depth", time.Second},
		{"10,000 deep, mappings", strings.Repeat("{a: ", 10_000), "exceeded max depth", time.Second},
		{"1,000 deep, block", deepBlock(1000), "exceeded max depth", time.Second},
		{"many aliases", aliases.String(), "one of more than 20000 references", 2 * time.Second},
		{"10 MB in one line", inRepository("repo_type", strings.Repeat("x", 10<<20)), "at most 1048576 are read", time.Second},
		{"1 MB in one value", inRepository("repo_type", "|\n"+strings.Repeat("        x\n", 100_000)+"     "), "200000 bytes; at most 65536", 5 * time.Second},
		{"17 MB", strings.Repeat("#\n", 17<<19), "at most 16777216 are read", time.Second},
		{"too many lines", strings.Repeat("\n", maxLines+1), "more than 1000000 lines", time.Second},
		{"too many flow marks", "[" + strings.Repeat("a,", maxFlowMarks), "write lists and mappings with one entry on each line", time.Second},
		{"a long list many times over", "a: &a [" + strings.Repeat("x, ", 10_000) + "]\nb:\n" + strings.Repeat("- *a\n", 101), "stands for more than", 2 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			c, _, err := Parse("x.yaml", []byte(tt.text), Options{Environ: []string{}})
			took := time.Since(start)
			if c != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %.300v, want an error with %q", err, tt.want)
			}
			if took > tt.bound && !raceDetector {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// Aliases are worth having: one set of credentials for all repositories.
func TestManyRepositoriesShareAnAlias(t *testing.T) {
	var text strings.Builder
	text.WriteString("repositories:\n")
	for i := range 2000 {
		auth := "*bot"
		if i == 0 {
			auth = "&bot {username: bot, token: \"${GITHUB_TOKEN}\"}"
		}
		fmt.Fprintf(&text, "- {name: r%d, monitor: {repo_url: \"https://git.example.org/t/r%d\", branches: [main], auth: %s}, deploy: {qa_repo_url: \"https://git.example.org/q\", qa_repo_branch: main, auth: *bot, commands: [x]}}\n", i, i, auth)
	}
	c, _, err := Parse("x.yaml", []byte(text.String()), Options{Environ: environ})
	if err != nil {
		t.Fatal(err)
	}
	if last := c.Repositories[1999]; last.Monitor.Auth.Token.Reveal() != "ghp_token" || last.Deploy.Auth.Username != "bot" {
		t.Errorf("the last has %+v", last.Monitor.Auth)
	}
}

// manyRepositories writes a configuration of n repositories with ten watched branches each.
func manyRepositories(n int) []byte {
	var text strings.Builder
	text.WriteString("groups:\n")
	for i := range max(n/10, 1) {
		fmt.Fprintf(&text, "  group-%d:\n    execution_strategy: sequential\n    global_timeout: 15m\n", i)
	}
	text.WriteString("repositories:\n")
	for i := range n {
		fmt.Fprintf(&text, `  - name: service-%d
    group: group-%d
    monitor:
      repo_url: https://git.example.org/team-%d/service-%d.git
      branches: [main, dev, "release/*", "hotfix/**", stable, next, v1, v2, v3, '/^v[0-9.]+-rc$/']
      repo_type: gitea
      polling_interval: 60
      auth:
        username: ${GITHUB_USERNAME}
        token: ${GITHUB_TOKEN}
    deploy:
      qa_repo_url: https://git.example.org/qa/tests.git
      qa_repo_branch: main
      project_name: service-%d
      env:
        REGION: eu-west-1
      commands:
        - cd suites/service && ./run.sh "$SENTRY_COMMIT"
`, i, i/10%max(n/10, 1), i/100, i, i)
	}
	return []byte(text.String())
}

func TestTenThousandRepositories(t *testing.T) {
	if raceDetector {
		t.Skip("one goroutine does it all, and the race detector makes it slow")
	}
	data := manyRepositories(10_000)
	start := time.Now()
	c, warnings, err := Parse("x.yaml", data, Options{Environ: environ})
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%.500v %.500v", err, warnings)
	}
	// It is half a second; the bound catches what grows with the square.
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if len(c.Repositories) != 10_000 || len(c.Groups) != 1000 || len(c.Members("group-7")) != 10 {
		t.Errorf("%d repositories in %d groups", len(c.Repositories), len(c.Groups))
	}
}

func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		data := manyRepositories(n)
		b.Run(fmt.Sprintf("repositories=%d", n), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			var before, after runtime.MemStats
			var c *Config
			runtime.GC()
			runtime.ReadMemStats(&before)
			for b.Loop() {
				var err error
				if c, _, err = Parse("x.yaml", data, Options{Environ: environ}); err != nil {
					b.Fatal(err)
				}
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "kept-B/repository")
			runtime.KeepAlive(c)
		})
	}
}
