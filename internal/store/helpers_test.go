package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sentry/internal/sentry"
)

// clock is a time that a test moves.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

// openDir opens the state in a directory and closes it with the test.
func openDir(t testing.TB, dir string) *Store { return openWith(t, Options{Dir: dir}) }

func openWith(t testing.TB, o Options) *Store {
	t.Helper()
	o.Owner = cmp.Or(o.Owner, "tester")
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func inMemory(t testing.TB) *Store {
	t.Helper()
	s, err := OpenMemory(t.Context(), Options{Owner: "tester"})
	if err != nil {
		t.Fatalf("OpenMemory: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// closed closes a state and fails the test if that fails.
func closed(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

// failer is what helpers need of a test: *testing.T, *testing.B or *rapid.T.
type failer interface {
	Helper()
	Fatal(args ...any)
}

// must gives a value, or ends the test.
func must[T any](v T, err error) func(failer) T {
	return func(t failer) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wants fails the test unless err is of a kind.
func wants(t testing.TB, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got error %v, want one that is %q", err, kind)
	}
}

// healthy fails the test if an invariant is broken.
func healthy(t testing.TB, s *Store) {
	t.Helper()
	broken, err := s.Check(context.Background())
	if err != nil || len(broken) > 0 {
		t.Fatalf("Check: %v\n%s", err, strings.Join(broken, "\n"))
	}
}

// commitOf makes the n-th commit.
func commitOf(n int) string { return fmt.Sprintf("%040x", n+1) }

// watchOf reads "repository@branch"; the branch is main where there is none.
func watchOf(text string) sentry.Watch {
	repository, branch, _ := strings.Cut(text, "@")
	return sentry.Watch{Repository: repository, Branch: cmp.Or(branch, "main")}
}

// see makes an observation of a watch in group g with queue: latest.
func see(watch, commit string) Observation {
	return Observation{Watch: watchOf(watch), Revision: sentry.Revision{Commit: commit}, Group: "g", Queue: sentry.Latest}
}

func (o Observation) in(group string) Observation          { o.Group = group; return o }
func (o Observation) queued(rule sentry.Queue) Observation { o.Queue = rule; return o }

// record records observations, each in a call of its own, and gives the last outcome.
func record(t testing.TB, s *Store, observations ...Observation) (last Outcome) {
	t.Helper()
	for _, o := range observations {
		last = must(s.RecordChanges(context.Background(), []Observation{o}))(t)[0]
	}
	return last
}

// pending gives the rollout that waits, which has to be the only one of its group.
func pending(t testing.TB, s *Store, group string) Waiting {
	t.Helper()
	var found []Waiting
	for _, w := range must(s.Pending(context.Background()))(t) {
		if w.Rollout.Group == group {
			found = append(found, w)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d rollouts of group %s wait, want 1", len(found), group)
	}
	return found[0]
}

// planFor plans a deployment for every watch that changed.
func planFor(w Waiting) Plan {
	p := Plan{Policy: sentry.Policy{Strategy: sentry.Parallel, MaxParallel: 3}, Reason: "what changed"}
	newest := map[sentry.Watch]sentry.Change{}
	for _, c := range w.Rollout.Trigger.Changes {
		newest[c.Watch] = c
	}
	for _, c := range newest {
		p.Vector = append(p.Vector, sentry.VectorEntry{Watch: c.Watch, Commit: c.To, Generation: c.Generation, Changed: true})
		p.Deployments = append(p.Deployments, sentry.Deployment{Watch: c.Watch, Commit: c.To, Previous: c.From, Generation: c.Generation})
	}
	slices.SortFunc(p.Deployments, func(a, b sentry.Deployment) int { return cmp.Compare(a.Watch.String(), b.Watch.String()) })
	if len(p.Deployments) == 0 {
		p.Deployments = []sentry.Deployment{{Watch: watchOf("asked"), Commit: commitOf(0), Generation: 1}}
	}
	return p
}

func claim(t testing.TB, s *Store, w Waiting) sentry.Rollout {
	t.Helper()
	return must(s.Claim(context.Background(), w.Rollout.ID, w.Version, planFor(w)))(t)
}

// deployed runs every deployment of a claimed rollout to its end, in two steps each.
func deployed(t testing.TB, s *Store, r sentry.Rollout) {
	t.Helper()
	for _, d := range r.Deployments {
		d.Status, d.Attempt = sentry.Running, max(1, r.Attempt)
		d.Steps = []sentry.Step{
			{Attempt: d.Attempt, Ordinal: 1, Kind: sentry.StepClone, Name: "clone", Status: sentry.Succeeded, Tries: 1},
			{Attempt: d.Attempt, Ordinal: 2, Kind: sentry.StepCommand, Name: "make deploy", Status: sentry.Running, Tries: 1},
		}
		noError(t, s.SaveDeployment(context.Background(), d))
		code := 0
		d.Status, d.Steps[1].Status, d.Steps[1].ExitCode = sentry.Succeeded, sentry.Succeeded, &code
		noError(t, s.SaveDeployment(context.Background(), d))
	}
}

// runThrough claims a rollout, runs it and finishes it.
func runThrough(t testing.TB, s *Store, w Waiting) sentry.Rollout {
	t.Helper()
	r := claim(t, s, w)
	deployed(t, s, r)
	noError(t, s.Finish(context.Background(), r.ID, sentry.Succeeded, "all succeeded"))
	return r
}

// verbs gives the verbs of decisions, in one line.
func verbs(decisions []sentry.Decision) string {
	words := make([]string, len(decisions))
	for i, d := range decisions {
		words[i] = string(d.Verb)
	}
	return strings.Join(words, " ")
}

// files lists a directory, sorted.
func files(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	for _, e := range must(os.ReadDir(dir))(t) {
		names = append(names, e.Name())
	}
	return names
}

// copyState copies the files of a state into a new directory, without the lock.
func copyState(t testing.TB, from string) string {
	t.Helper()
	to := t.TempDir()
	for _, name := range files(t, from) {
		if name == lockName || name == reserveName || name == databaseName+"-shm" {
			continue
		}
		noError(t, os.WriteFile(filepath.Join(to, name), must(os.ReadFile(filepath.Join(from, name)))(t), 0o600))
	}
	return to
}
