package deploy

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// hooked does something right before a claim reaches the store, and something with what comes of it.
type hooked struct {
	*store.Store
	before func(id string) error
	after  func(claimed sentry.Rollout, p store.Plan)
}

func (h *hooked) Claim(ctx context.Context, id string, version int64, p store.Plan) (sentry.Rollout, error) {
	if err := h.before(id); err != nil {
		return sentry.Rollout{}, err
	}
	claimed, err := h.Store.Claim(ctx, id, version, p)
	if h.after != nil && err == nil {
		h.after(claimed, p)
	}
	return claimed, err
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
		h := &hooked{Store: st, before: func(id string) error {
			if _, err := st.Cancel(t.Context(), id, "somebody", ""); err != nil && !isFinal(err) {
				t.Error(err)
			}
			return nil
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

// What begins beside a claim that fails does nothing that matters, and begins again once it is claimed.
func TestAClaimThatFails(t *testing.T) {
	for name, fail := range map[string]func(c *clock) error{
		"another change joins": func(c *clock) error { c.record("b", "b2"); return nil },
		"the disk is full":     func(*clock) error { return store.ErrDiskFull },
		"somebody cancels": func(c *clock) error {
			_, err := c.st.Cancel(c.Context(), "1", "somebody", "")
			c.record("a", "a3")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClock(t, config.Group{Policy: sentry.Policy{MaxParallel: 9, Scope: sentry.ScopeChanged}})
				claims := 0
				c.service.store = &hooked{Store: c.st, before: func(string) error {
					if claims++; claims == 1 {
						return fail(c)
					}
					return nil
				}}
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- c.service.Run(ctx) }()
				c.record("a", "a2")
				time.Sleep(time.Minute)
				stop()
				if err := <-ended; err != nil {
					t.Error(err)
				}
				if n := len(c.since["a"]); n != 1 || claims != 2 {
					t.Errorf("a was deployed %d times after %d claims, want once after two", n, claims)
				}
				if rollouts, err := c.st.Rollouts(t.Context(), store.Filter{Limit: 1}); err != nil || rollouts[0].Status != sentry.Succeeded {
					t.Error(rollouts, err)
				}
			})
		})
	}
}

// What runs beside its claim takes itself for what it is once it is claimed.
func TestPlannedIsWhatIsClaimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock(t, config.Group{Policy: sentry.Policy{MaxParallel: 9, Scope: sentry.ScopeGroup}})
		compared := false
		c.service.store = &hooked{Store: c.st, before: func(string) error { return nil }, after: func(claimed sentry.Rollout, p store.Plan) {
			compared = true
			pending, err := c.st.Rollout(t.Context(), claimed.ID)
			if err != nil {
				t.Fatal(err)
			}
			pending.Status, pending.Policy, pending.Deployments, pending.Attempt = sentry.Pending, nil, nil, 0
			want, _ := json.Marshal(claimed)
			got, _ := json.Marshal(planned(pending, p, claimed.StartedAt))
			if none := strings.NewReplacer(`"steps":null`, `"steps":[]`, `"pipeline_runs":null`, `"pipeline_runs":[]`); none.Replace(string(got)) != string(want) {
				t.Errorf("it runs as\n%s\nand was claimed as\n%s", got, want)
			}
		}}
		c.record("a", "a2")
		c.request()
		if _, err := c.service.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.service.Wait()
		if !compared {
			t.Error("nothing was claimed")
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

func (x *deaf) Expect(*config.Repository, time.Time) {}

func (x *deaf) Execute(_ context.Context, job Job, save func(sentry.Deployment) error) (sentry.Deployment, Outcome) {
	x.began.Add(1)
	if err := save(job.Deployment); err != nil {
		return job.Deployment, Outcome{sentry.Interrupted, err.Error()}
	}
	time.Sleep(2 * time.Second)
	return job.Deployment, Outcome{sentry.Succeeded, "deaf"}
}
