package config

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"
)

// Equal texts and lists of branches are kept once, and lists that differ are not taken for one.
func TestEqualThingsAreKeptOnce(t *testing.T) {
	var text strings.Builder
	text.WriteString("repositories:\n")
	lists := []string{"[main, dev]", "[main, dev]", "[dev, main]", "[main]", "[main, dev, x]"}
	for i, list := range lists {
		fmt.Fprintf(&text, `  - name: r%d
    monitor: {repo_url: https://git.example.com/o/r%[1]d.git, branches: %s}
    deploy: {qa_repo_url: https://git.example.com/o/qa.git, qa_repo_branch: main, commands: [make deploy]}
`, i, list)
	}
	cfg, problems, err := Parse("sentry.yaml", []byte(text.String()), Options{})
	if err != nil {
		t.Fatal(problems, err)
	}
	first := cfg.Repositories[0]
	for i, list := range lists {
		r := cfg.Repositories[i]
		if got := strings.ReplaceAll(fmt.Sprint(r.Monitor.Branches), " ", ", "); got != list {
			t.Errorf("repository %d has the branches %s, want %s", i, got, list)
		}
		if same := unsafe.SliceData(r.Monitor.Branches) == unsafe.SliceData(first.Monitor.Branches); same != (i < 2) {
			t.Errorf("repository %d shares the list of the first: %t", i, same)
		}
		if unsafe.StringData(r.Deploy.Commands[0].Run) != unsafe.StringData(first.Deploy.Commands[0].Run) {
			t.Errorf("repository %d has a copy of its command", i)
		}
	}
}
