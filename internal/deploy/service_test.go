package deploy

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// hooked does something right before a claim reaches the store.
type hooked struct {
	*store.Store
	before func(id string)
}

func (h *hooked) Claim(ctx context.Context, id string, version int64, p store.Plan) (sentry.Rollout, error) {
	h.before(id)
	return h.Store.Claim(ctx, id, version, p)
}

func observe(t *testing.T, st *store.Store, group, repository, short string, deploy bool) {
	t.Helper()
	_, err := st.RecordChanges(t.Context(), []store.Observation{{
		Watch: sentry.Watch{Repository: repository, Branch: "main"}, Revision: sentry.Revision{Commit: commit(short)},
		Group: group, Queue: sentry.Latest, Deploy: deploy,
	}})
	if err != nil {
		t.Fatal(err)
	}
}

func TestACancellationBeforeTheClaimHarmsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := openMemory(t)
		cfg := &config.Config{
			Groups:       []config.Group{{Name: "g", Policy: sentry.Policy{MaxParallel: 1, Scope: sentry.ScopeGroup}}},
			Repositories: []config.Repository{member(t, "a", "g", "main")},
		}
		observe(t, st, "g", "a", "a1", true)
		h := &hooked{Store: st, before: func(id string) {
			if _, err := st.Cancel(t.Context(), id, "somebody", ""); err != nil && !isFinal(err) {
				t.Error(err)
			}
		}}
		s := New(Options{Store: h, Executor: &scripted{}, Config: func() *config.Config { return cfg }, Log: slog.New(slog.DiscardHandler)})
		if _, err := s.Once(t.Context()); err != nil {
			t.Errorf("the service must go on: %v", err)
		}
		s.Wait()
		if r := theOnly(t, st); r.Status != sentry.Canceled {
			t.Errorf("it is %s", r.Status)
		}
	})
}

func TestARepositoryThatMovedWaitsForItsOldGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := openMemory(t)
		groups := []config.Group{
			{Name: "old", Policy: sentry.Policy{MaxParallel: 1, Scope: sentry.ScopeGroup}},
			{Name: "new", Policy: sentry.Policy{MaxParallel: 1, Scope: sentry.ScopeGroup}},
		}
		var current atomic.Pointer[config.Config]
		current.Store(&config.Config{Groups: groups, Repositories: []config.Repository{member(t, "a", "old", "main")}})
		a := sentry.Watch{Repository: "a", Branch: "main"}
		script := &scripted{ends: map[sentry.Watch]end{a: {how: "ok", after: 10 * time.Second}}, began: time.Now(), starts: map[sentry.Watch]time.Duration{}}
		observe(t, st, "old", "a", "a1", true)
		s := New(Options{Store: st, Executor: script, Config: current.Load, Log: slog.New(slog.DiscardHandler)})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		time.Sleep(time.Second)

		current.Store(&config.Config{Groups: groups, Repositories: []config.Repository{member(t, "a", "new", "main")}})
		observe(t, st, "new", "a", "a2", false)
		time.Sleep(30 * time.Second)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if at := script.starts[a]; at != 10*time.Second {
			t.Errorf("the second deployment of a began at %s, want 10s: when the first had ended", at)
		}
	})
}

func TestAGroupThatIsGoneHandsItsChangesOverThoughPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := openMemory(t)
		cfg := &config.Config{
			Groups:       []config.Group{{Name: "renamed", Policy: sentry.Policy{MaxParallel: 1, Scope: sentry.ScopeGroup}}},
			Repositories: []config.Repository{member(t, "a", "renamed", "main")},
		}
		if err := st.Pause(t.Context(), "g", "somebody", ""); err != nil {
			t.Fatal(err)
		}
		observe(t, st, "g", "a", "a1", true)
		a := sentry.Watch{Repository: "a", Branch: "main"}
		script := &scripted{ends: map[sentry.Watch]end{a: {how: "ok"}}, began: time.Now(), starts: map[sentry.Watch]time.Duration{}}
		s := New(Options{Store: st, Executor: script, Config: func() *config.Config { return cfg }, Log: slog.New(slog.DiscardHandler)})
		for range 3 {
			if _, err := s.Once(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.Wait()
		}
		if _, ran := script.starts[a]; !ran {
			t.Error("the change stayed behind in a group that does not exist")
		}
	})
}

func TestLateIsNotSuccess(t *testing.T) {
	for _, test := range []struct {
		how  string
		want sentry.Status
	}{{"deadline", sentry.TimedOut}, {"hold", sentry.Interrupted}} {
		t.Run(test.how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := openMemory(t)
				policy := sentry.Policy{MaxParallel: 1, ContinueOnError: true, Scope: sentry.ScopeGroup, OnInterrupt: sentry.Hold}
				if test.how == "deadline" {
					policy.Timeout = sentry.Duration(time.Second)
				}
				cfg := &config.Config{
					Groups:       []config.Group{{Name: "g", Policy: policy}},
					Repositories: []config.Repository{member(t, "a", "g", "main"), member(t, "b", "g", "main")},
				}
				observe(t, st, "g", "a", "a1", true)
				observe(t, st, "g", "b", "b1", true)
				x := &deaf{}
				s := New(Options{Store: st, Executor: x, Config: func() *config.Config { return cfg }, Log: slog.New(slog.DiscardHandler)})
				if _, err := s.Once(t.Context()); err != nil {
					t.Fatal(err)
				}
				if test.how == "hold" {
					s.Drain(time.Second)
				}
				s.Wait()
				if r := theOnly(t, st); r.Status != test.want || x.began.Load() != 1 {
					t.Errorf("%s after %d began: %s", r.Status, x.began.Load(), r.Reason)
				}
			})
		})
	}
}

// deaf is an Executor whose deployments succeed after two seconds, whatever happens meanwhile.
type deaf struct{ began atomic.Int32 }

func (x *deaf) Execute(_ context.Context, job Job, save func(sentry.Deployment) error) Outcome {
	x.began.Add(1)
	if err := save(job.Deployment); err != nil {
		return Outcome{sentry.Interrupted, err.Error()}
	}
	time.Sleep(2 * time.Second)
	return Outcome{sentry.Succeeded, "deaf"}
}
