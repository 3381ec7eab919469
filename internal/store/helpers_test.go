package store

import (
	"fmt"
	"testing"

	"sentry/internal/sentry"
)

// openDir opens the state in a directory and closes it with the test.
func openDir(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Options{Dir: dir, Owner: "test"})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// commitOf makes the n-th commit.
func commitOf(n int) string { return fmt.Sprintf("%040x", n+1) }

// runThrough claims a rollout with one deployment of two steps, runs it, and finishes it.
func runThrough(t testing.TB, s *Store, w Waiting) {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	change := w.Rollout.Trigger.Changes[0]
	r, err := s.Claim(t.Context(), w.Rollout.ID, w.Version, Plan{
		Vector:      []sentry.VectorEntry{{Watch: change.Watch, Commit: change.To, Generation: change.Generation, Changed: true}},
		Deployments: []sentry.Deployment{{Watch: change.Watch, Commit: change.To, Previous: change.From, Generation: change.Generation}},
		Reason:      "one deployment",
	})
	check(err)
	d := r.Deployments[0]
	d.Status, d.Attempt = sentry.Running, 1
	d.Steps = []sentry.Step{
		{Attempt: 1, Ordinal: 1, Kind: sentry.StepClone, Name: "clone", Status: sentry.Succeeded, Tries: 1},
		{Attempt: 1, Ordinal: 2, Kind: sentry.StepCommand, Name: "make deploy", Status: sentry.Running, Tries: 1},
	}
	check(s.SaveDeployment(t.Context(), d))
	code := 0
	d.Status, d.Steps[1].Status, d.Steps[1].ExitCode = sentry.Succeeded, sentry.Succeeded, &code
	check(s.SaveDeployment(t.Context(), d))
	check(s.Finish(t.Context(), r.ID, sentry.Succeeded, "1 of 1 succeeded"))
}
