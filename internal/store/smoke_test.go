package store

import (
	"testing"
	"time"

	"sentry/internal/sentry"
)

func TestSmoke(t *testing.T) {
	ctx := t.Context()
	for _, mem := range []bool{true, false} {
		t0 := time.Now()
		var s *Store
		var err error
		dir := t.TempDir()
		if mem {
			s, err = OpenMemory(ctx, Options{})
		} else {
			s, err = Open(ctx, Options{Dir: dir})
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Log("open", time.Since(t0))
		t0 = time.Now()
		obs := func(c string) []Observation {
			return []Observation{{Watch: sentry.Watch{Repository: "a", Branch: "main"}, Revision: sentry.Revision{Commit: c}, Group: "g", Queue: sentry.Latest}}
		}
		for _, c := range []string{"1", "2", "3", "", "3", "4"} {
			out, err := s.RecordChanges(ctx, obs(c))
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", out)
		}
		p, err := s.Pending(ctx)
		if err != nil || len(p) != 1 {
			t.Fatal(p, err)
		}
		w := p[0]
		r, err := s.Claim(ctx, w.Rollout.ID, w.Version, Plan{Deployments: []sentry.Deployment{{Watch: sentry.Watch{Repository: "a", Branch: "main"}, Commit: "4"}}, Reason: "x"})
		if err != nil {
			t.Fatal(err)
		}
		d := r.Deployments[0]
		d.Status, d.Attempt = sentry.Running, 1
		d.Steps = []sentry.Step{{Attempt: 1, Ordinal: 1, Kind: sentry.StepClone, Status: sentry.Running}}
		if err := s.SaveDeployment(ctx, d); err != nil {
			t.Fatal(err)
		}
		d.Status = sentry.Succeeded
		d.Steps[0].Status = sentry.Succeeded
		if err := s.SaveDeployment(ctx, d); err != nil {
			t.Fatal(err)
		}
		if err := s.Finish(ctx, r.ID, sentry.Succeeded, "fine"); err != nil {
			t.Fatal(err)
		}
		why, err := s.Why(ctx, WhyFilter{})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range why {
			t.Log(d.Verb, d.Repository, d.Rollout, d.Reason)
		}
		broken, err := s.Check(ctx)
		if err != nil || broken != nil {
			t.Fatal(broken, err)
		}
		t.Log("done", time.Since(t0))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if !mem {
			s, err = Open(ctx, Options{Dir: dir, ReadOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			h, err := s.Heads(ctx)
			t.Log(h, err)
			s.Close()
			t0 = time.Now()
			s, err = Open(ctx, Options{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			t.Log("reopen", time.Since(t0))
			s.Close()
		}
	}
}
