package deploy

import (
	"context"
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

// hooked does something right before a claim reaches the store; its error is that of the claim.
type hooked struct {
	*store.Store
	before func(id string) error
}

func (h *hooked) Claim(ctx context.Context, id string, version int64, p store.Plan) (sentry.Rollout, error) {
	if err := h.before(id); err != nil {
		return sentry.Rollout{}, err
	}
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

// A claim that fails harms nobody: what waited waits, or is over, and is looked at again.
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

func TestAPausedGroupHandsOverWhatMovedOut(t *testing.T) {
	for name, test := range map[string]struct {
		group    string // where a is by now
		branches []string
		before   func(t *testing.T, st *store.Store) // what is recorded first
		also     func(t *testing.T, st *store.Store)
		want     bool // it is rolled out although its old group is paused
	}{
		"moved":                      {group: "h", branches: []string{"main"}, want: true},
		"not moved":                  {group: "g", branches: []string{"main"}},
		"moved, with another branch": {group: "h", branches: []string{"other"}},
		"moved, and b waits as well": {group: "h", branches: []string{"main"}, want: true, also: func(t *testing.T, st *store.Store) { observe(t, st, "g", "b", "b1", true) }},
		"moved, and a person waits":  {group: "h", branches: []string{"main"}, want: true, also: func(t *testing.T, st *store.Store) { request(t, st, store.Request{Whole: true}) }},
		"moved, in a younger rollout": {group: "h", branches: []string{"main"}, want: true, before: func(t *testing.T, st *store.Store) {
			for _, short := range []string{"b1", "b2"} {
				must(st.RecordChanges(t.Context(), []store.Observation{{
					Watch: sentry.Watch{Repository: "b", Branch: "main"}, Revision: sentry.Revision{Commit: commit(short)},
					Group: "g", Queue: sentry.Every, Deploy: true,
				}}))(t)
			}
		}},
		"moved, and somebody wants b": {group: "h", branches: []string{"main"}, want: true, also: func(t *testing.T, st *store.Store) { request(t, st, store.Request{Repositories: []string{"b"}}) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := openMemory(t)
				policy := sentry.Policy{MaxParallel: 1, Scope: sentry.ScopeChanged}
				cfg := &config.Config{
					Groups:       []config.Group{{Name: "g", Policy: policy}, {Name: "h", Policy: policy}},
					Repositories: []config.Repository{member(t, "a", test.group, test.branches...), member(t, "b", "g", "main")},
				}
				if err := st.Pause(t.Context(), "g", "somebody", ""); err != nil {
					t.Fatal(err)
				}
				if test.before != nil {
					test.before(t, st)
				}
				observe(t, st, "g", "a", "a1", true)
				if test.also != nil {
					test.also(t, st)
				}
				script := &scripted{began: time.Now(), starts: map[sentry.Watch]time.Duration{}}
				s := New(Options{Store: st, Executor: script, Config: func() *config.Config { return cfg }, Log: slog.New(slog.DiscardHandler)})
				for range 3 {
					if _, err := s.Once(t.Context()); err != nil {
						t.Fatal(err)
					}
					s.Wait()
				}
				_, a := script.starts[sentry.Watch{Repository: "a", Branch: "main"}]
				if _, b := script.starts[sentry.Watch{Repository: "b", Branch: "main"}]; a != test.want || b {
					t.Errorf("a was rolled out: %v, want %v; b: %v", a, test.want, b)
				}
			})
		})
	}
}

// A commit is not forgotten because the configuration was without its branch for a while.
func TestWhatWasDroppedComesBackWithItsBranch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := openMemory(t)
		policy := sentry.Policy{MaxParallel: 1, Scope: sentry.ScopeChanged}
		groups := []config.Group{{Name: "g", Policy: policy}, {Name: "h", Policy: policy}}
		with := func(members ...config.Repository) *config.Config {
			return &config.Config{Groups: groups, Repositories: members}
		}
		var current atomic.Pointer[config.Config]
		c := &clock{T: t, st: st, since: map[string][]int{}, began: time.Now()}
		s := New(Options{Store: st, Executor: c, Config: current.Load, Log: slog.New(slog.DiscardHandler)})
		look := func(cfg *config.Config) {
			t.Helper()
			current.Store(cfg)
			for range 3 { // hand over, look again, begin
				if _, err := s.Once(t.Context()); err != nil {
					t.Fatal(err)
				}
				s.Wait()
			}
		}
		starts := func(want int, when string) {
			t.Helper()
			if got := len(c.since["a"]); got != want {
				t.Errorf("%s a was deployed %d times, want %d", when, got, want)
			}
		}
		observe(t, st, "g", "a", "a1", false)
		observe(t, st, "g", "a", "a2", false)
		look(with())
		starts(0, "without its repository")
		look(with(member(t, "a", "g", "other")))
		starts(0, "without its branch")
		look(with(member(t, "a", "h", "main")))
		starts(1, "back, in another group,")
		look(with(member(t, "b", "g", "main")))
		look(with(member(t, "a", "g", "main")))
		starts(1, "taken out and put back after its rollout")

		observe(t, st, "g", "a", "a3", false)
		look(with())
		observe(t, st, "g", "a", "a4", false)
		look(with(member(t, "a", "g", "main")))
		starts(2, "with a newer commit when it was back")
		for _, d := range must(st.Why(t.Context(), store.WhyFilter{Repository: "a", Limit: 1000}))(t) {
			if d.Verb == sentry.Recorded && strings.Contains(d.Reason, "watched again") {
				return
			}
		}
		t.Error("the ledger does not tell why it was rolled out")
	})
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func request(t *testing.T, st *store.Store, r store.Request) {
	t.Helper()
	r.Group, r.By = "g", "somebody"
	if _, _, err := st.Request(t.Context(), r); err != nil {
		t.Error(err)
	}
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
