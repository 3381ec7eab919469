// Package fleet makes configurations of very many watches, and the Git server in memory that they watch.
//
// A fleet has groups of ten repositories; each repository has ten branches that are watched by name, and an access token,
// and all share one QA repository. All branches of one name are at the same commit.
package fleet

import (
	"bufio"
	"fmt"
	"os"
	"time"

	"sentry/internal/sentry"
	"sentry/internal/store"
)

// What a fleet consists of.
const (
	Branches = 10 // of a repository
	Members  = 10 // of a group
)

// Fleet is a number of watches: a multiple of Branches, and not 0, as no configuration is without a repository.
type Fleet struct {
	Name     string // tells the fleets of one server apart
	Watches  int
	Interval time.Duration
	Server   string // its URL
	StateDir string
}

// Repositories is how many there are.
func (f Fleet) Repositories() int { return f.Watches / Branches }

// Groups is how many there are.
func (f Fleet) Groups() int { return (f.Repositories() + Members - 1) / Members }

// Repository, Group and Branch give names, by number from 0.
func Repository(i int) string { return fmt.Sprintf("repository-%05d", i) }

// Group is the name of the group that repository i belongs to.
func Group(i int) string { return fmt.Sprintf("group-%04d", i/Members) }

// Branch is the name of the i-th branch of any repository.
func Branch(i int) string { return fmt.Sprintf("release/1.%d", i) }

// Commit is where the server has the i-th branch of any repository.
func Commit(i int) string { return fmt.Sprintf("%040x", 0xc0ffee00+i) }

// Write writes the configuration of the fleet.
func (f Fleet) Write(file string) (err error) {
	out, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if e := out.Close(); err == nil {
			err = e
		}
	}()
	w := bufio.NewWriter(out)
	fmt.Fprintf(w, "polling_interval: %v\n", f.Interval)
	fmt.Fprintf(w, "global:\n  state_dir: %q\n  allow_insecure_http: true\n  log_format: json\n", f.StateDir)
	fmt.Fprintln(w, "groups:")
	for i := 0; i < f.Repositories(); i += Members {
		fmt.Fprintf(w, "  %s: {execution_strategy: parallel, max_parallel: 3}\n", Group(i))
	}
	fmt.Fprintln(w, "repositories:")
	for i := range f.Repositories() {
		fmt.Fprintf(w, `  - name: %s
    group: %s
    monitor:
      repo_url: %s/%s/%[1]s.git
      branches:
`, Repository(i), Group(i), f.Server, f.Name)
		for b := range Branches {
			fmt.Fprintf(w, "        - %s\n", Branch(b))
		}
		fmt.Fprintf(w, `      repo_type: git
      auth:
        username: robot
        token: ${FLEET_TOKEN}
    deploy:
      qa_repo_url: %s/qa.git
      qa_repo_branch: main
      repo_type: git
      project_name: %s
      auth:
        username: robot
        token: ${FLEET_TOKEN}
      commands:
        - make -C .tekton/%[2]s deploy
`, f.Server, Repository(i))
	}
	return w.Flush()
}

// TokenName and TokenValue are the variable that the configuration needs.
const (
	TokenName  = "FLEET_TOKEN"
	TokenValue = "t0ken-0123456789abcdef"
)

// Observation is that branch b of repository i was seen at a commit.
func Observation(i, b int, commit string) store.Observation {
	return store.Observation{
		Watch: sentry.Watch{Repository: Repository(i), Branch: Branch(b)},
		Revision: sentry.Revision{
			Commit: commit, Author: "Ada Lovelace <ada@example.com>", Subject: "engine: weave algebraical patterns", Time: time.Now(),
		},
		Group: Group(i), Queue: sentry.Latest,
	}
}
