package deploy

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/config"
	"sentry/internal/sentry"
)

// evicting is an executor whose Jobs are taken away, so many times, before one gets to its end.
type evicting struct {
	times    int
	lost     bool // nobody knows whether they are
	adopted  int  // how often in a row they were taken over
	attempts []int
}

func (*evicting) Expect(*config.Repository, time.Time) {}

func (*evicting) Abandon(_ context.Context, job Job, _ func(sentry.Deployment) error) (sentry.Deployment, string) {
	return job.Deployment, ""
}

func (e *evicting) Execute(_ context.Context, job Job, save func(sentry.Deployment) error) (sentry.Deployment, Outcome) {
	d := job.Deployment
	e.attempts = append(e.attempts, d.Attempt)
	d.Job = &sentry.JobRef{Namespace: "qa", Name: fmt.Sprint("job-", d.Attempt), UID: "u", Attempt: d.Attempt}
	d.Steps = []sentry.Step{{Attempt: d.Attempt, Ordinal: 1, Kind: sentry.StepCommand, Name: "c1", Status: sentry.Running, Tries: 1}}
	if err := save(d); err != nil {
		return d, Outcome{sentry.Interrupted, err.Error()}
	}
	d.Steps = slices.Clone(d.Steps)
	if len(e.attempts) <= e.times {
		d.Steps[0].Status = sentry.Interrupted
		d.Job.Lost, d.Job.Adopted = e.lost, e.adopted
		return d, Outcome{sentry.Interrupted, "its pod was taken away"}
	}
	d.Steps[0].Status = sentry.Succeeded
	return d, Outcome{sentry.Succeeded, "done"}
}

// TestJobsThatAreTakenAway: an attempt whose pod is taken away is followed by another, as after an end of Sentry: so many
// times, only where the policy says so, and why it was is written down.
func TestJobsThatAreTakenAway(t *testing.T) {
	for name, c := range map[string]struct {
		times    int
		lost     bool
		adopted  int
		policy   sentry.OnInterrupt
		status   sentry.Status
		attempts int
	}{
		"twice":                  {2, false, 0, sentry.Retry, sentry.Succeeded, 3},
		"again and again":        {100, false, 0, sentry.Retry, sentry.Interrupted, 1 + sentry.MaxInterruptions},
		"once, where it is held": {1, false, 0, sentry.Hold, sentry.Interrupted, 1},
		"once, after it told something at the last start": {1, false, sentry.MaxInterruptions, sentry.Retry, sentry.Succeeded, 2},
		"once, and it may be what ends Sentry":            {1, false, sentry.MaxInterruptions + 1, sentry.Retry, sentry.Interrupted, 1},
		"once, and it may go on":                          {1, true, 0, sentry.Retry, sentry.Interrupted, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := openMemory(t)
				cfg := &config.Config{
					Groups:       []config.Group{{Name: "g", Policy: sentry.Policy{MaxParallel: 1, Scope: sentry.ScopeGroup, OnInterrupt: c.policy}}},
					Repositories: []config.Repository{member(t, "a", "g", "main")},
				}
				observe(t, st, "g", "a", "a1", true)
				e := &evicting{times: c.times, lost: c.lost, adopted: c.adopted}
				s := New(Options{Store: st, Executor: e, Config: func() *config.Config { return cfg }, Log: slog.New(slog.DiscardHandler)})
				if _, err := s.Once(t.Context()); err != nil {
					t.Fatal(err)
				}
				s.Wait()
				r := theOnly(t, st)
				d := r.Deployments[0]
				if r.Status != c.status || d.Attempt != c.attempts || d.Job == nil || d.Job.Attempt != c.attempts {
					t.Errorf("it is %s (%s) at attempt %d with %+v", r.Status, r.Reason, d.Attempt, d.Job)
				}
				for i, attempt := range e.attempts {
					if attempt != i+1 {
						t.Errorf("attempts: %v", e.attempts)
					}
				}
			})
		})
	}
}
