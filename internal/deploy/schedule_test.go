package deploy

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// TestSchedule is the table of what happens when: one line a case, in seconds of a bubble's clock.
//
//	STRATEGY [LIMIT] [stop|continue] [timeout=N]: MEMBER:END[/SECONDS]… [!cancel@N] [!stop@N] -> MEMBER@START[:STATUS]… = STATUS
//
// END is ok, fail, or stuck (until it is ended from outside). Each member runs one second unless said otherwise.
// A member that never started has no @START. A status that is not told is succeeded.
func TestSchedule(t *testing.T) {
	for line := range strings.Lines(`
		# parallel: the limit, and the order of the configuration
		parallel 3 continue: a:ok b:ok c:ok -> a@0 b@0 c@0 = succeeded
		parallel 2 continue: a:ok b:ok c:ok -> a@0 b@0 c@1 = succeeded
		parallel 1 continue: a:ok b:ok c:ok -> a@0 b@1 c@2 = succeeded
		parallel 2 continue: a:ok/3 b:ok c:ok d:ok -> a@0 b@0 c@1 d@2 = succeeded
		parallel 9 continue: a:ok -> a@0 = succeeded

		# parallel: a failure
		parallel 3 continue: a:ok b:fail c:ok -> a@0 b@0:failed c@0 = failed
		parallel 2 continue: a:ok b:fail c:ok -> a@0 b@0:failed c@1 = failed
		parallel 2 stop: a:ok b:fail/0.5 c:ok -> a@0 b@0:failed c:skipped = failed
		parallel 2 stop: a:ok/5 b:fail c:ok -> a@0 b@0:failed c:skipped = failed
		parallel 2 stop: a:ok b:fail/1.5 c:ok d:ok e:ok -> a@0 b@0:failed c@1 d:skipped e:skipped = failed
		parallel 3 stop: a:fail b:fail c:ok -> a@0:failed b@0:failed c@0 = failed

		# sequential: one after the other, whatever the limit says
		sequential 3 continue: a:ok b:ok c:ok -> a@0 b@1 c@2 = succeeded
		sequential 3 continue: a:fail b:ok c:ok -> a@0:failed b@1 c@2 = failed
		sequential 3 stop: a:fail b:ok c:ok -> a@0:failed b:skipped c:skipped = failed
		sequential 3 stop: a:ok b:fail/2 c:ok -> a@0 b@1:failed c:skipped = failed

		# two deployments of one repository never run at once; others may pass, except in a sequence
		parallel 3 continue: a.x:ok a.y:ok b:ok -> a.x@0 a.y@1 b@0 = succeeded
		parallel 2 continue: a.x:ok/2 a.y:ok b:ok c:ok -> a.x@0 a.y@2 b@0 c@1 = succeeded
		sequential 3 continue: a.x:ok a.y:ok b:ok -> a.x@0 a.y@1 b@2 = succeeded

		# the deadline ends what runs and skips what waits
		parallel 2 continue timeout=3: a:stuck b:ok c:ok -> a@0:timed_out b@0 c@1 = timed_out
		parallel 2 continue timeout=3: a:stuck b:stuck c:ok -> a@0:timed_out b@0:timed_out c:skipped = timed_out
		parallel 2 stop timeout=3: a:stuck b:fail c:ok -> a@0:timed_out b@0:failed c:skipped = timed_out
		sequential 1 continue timeout=3: a:ok/2 b:ok/2 c:ok -> a@0 b@2:timed_out c:skipped = timed_out
		parallel 2 continue timeout=3: a:ok b:ok -> a@0 b@0 = succeeded

		# a person cancels: what runs and what waits is canceled, what had ended stays
		parallel 2 continue: a:ok b:stuck c:stuck d:ok !cancel@2 -> a@0 b@0:canceled c@1:canceled d:canceled = canceled
		sequential 1 continue: a:ok b:ok c:ok !cancel@1.5 -> a@0 b@1:canceled c:canceled = canceled
		parallel 1 stop: a:fail b:ok !cancel@5 -> a@0:failed b:skipped = failed

		# a drain interrupts what does not end within the grace period (2 seconds here); recovery finds it running
		parallel 2 continue: a:stuck b:ok c:ok !stop@0.5 -> a@0:running b@0 c@1 = running
		parallel 2 continue: a:ok b:ok !stop@0.5 -> a@0 b@0 = succeeded
		sequential 1 continue: a:ok b:ok/9 c:ok !stop@0.5 -> a@0 b@1:running c:pending = running
		parallel 2 continue hold: a:stuck b:ok c:stuck d:ok !stop@0.5 -> a@0:interrupted b@0 c@1:interrupted d:skipped = interrupted
	`) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		t.Run(line, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				given, want, ok := strings.Cut(line, " -> ")
				if !ok {
					t.Fatal("no arrow")
				}
				if got := playLine(t, given); got != want {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			})
		})
	}
}

// playLine carries out the left side of a case and writes what happened in the form of the right side.
func playLine(t *testing.T, given string) string {
	header, members, _ := strings.Cut(given, ": ")
	words := strings.Fields(header)
	policy := sentry.Policy{Strategy: sentry.Strategy(words[0]), MaxParallel: 1, Scope: sentry.ScopeGroup, OnInterrupt: sentry.Retry}
	for _, w := range words[1:] {
		switch n, err := strconv.Atoi(w); {
		case err == nil:
			policy.MaxParallel = n
		case w == "continue":
			policy.ContinueOnError = true
		case w == "hold":
			policy.OnInterrupt = sentry.Hold
		case strings.HasPrefix(w, "timeout="):
			policy.Timeout = sentry.Duration(seconds(t, strings.TrimPrefix(w, "timeout=")))
		case w != "stop":
			t.Fatalf("what is %q?", w)
		}
	}
	cfg := &config.Config{Groups: []config.Group{{Name: "g", Policy: policy}}}
	cfg.Global.Grace = 2 * time.Second
	script := &scripted{ends: map[sentry.Watch]end{}, began: time.Now(), starts: map[sentry.Watch]time.Duration{}}
	var watches []sentry.Watch
	var cancelAt, stopAt time.Duration
	for _, m := range strings.Fields(members) {
		if at, ok := strings.CutPrefix(m, "!cancel@"); ok {
			cancelAt = seconds(t, at)
			continue
		}
		if at, ok := strings.CutPrefix(m, "!stop@"); ok {
			stopAt = seconds(t, at)
			continue
		}
		name, how, _ := strings.Cut(m, ":")
		how, took, slow := strings.Cut(how, "/")
		e := end{how: how, after: time.Second}
		if slow {
			e.after = seconds(t, took)
		}
		repository, branch, several := strings.Cut(name, ".")
		if !several {
			branch = "main"
		}
		w := sentry.Watch{Repository: repository, Branch: branch}
		watches = append(watches, w)
		script.ends[w] = e
		if n := len(cfg.Repositories); n > 0 && cfg.Repositories[n-1].Name == repository {
			cfg.Repositories[n-1].Monitor.Branches = append(cfg.Repositories[n-1].Monitor.Branches, pattern(t, branch))
		} else {
			cfg.Repositories = append(cfg.Repositories, member(t, repository, "g", branch))
		}
	}

	st := openMemory(t)
	var seen []store.Observation
	for i, w := range watches {
		seen = append(seen, store.Observation{
			Watch: w, Revision: sentry.Revision{Commit: commit(fmt.Sprintf("a%d", i%10))}, Group: "g", Queue: sentry.Latest, Deploy: true,
		})
	}
	if _, err := st.RecordChanges(t.Context(), seen); err != nil {
		t.Fatal(err)
	}
	s := New(Options{Store: st, Executor: script, Config: func() *config.Config { return cfg }, Log: slog.New(slog.DiscardHandler)})
	ctx, stop := context.WithCancel(t.Context())
	var daemon sync.WaitGroup
	daemon.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
	if cancelAt > 0 {
		time.Sleep(cancelAt)
		if _, err := s.Cancel(t.Context(), "1", "tester", ""); err != nil && !isFinal(err) {
			t.Error(err)
		}
		time.Sleep(time.Second)
	}
	if stopAt > 0 {
		time.Sleep(stopAt)
	} else {
		for i := 0; i < 100 && !theOnly(t, st).Status.Terminal(); i++ {
			time.Sleep(time.Second)
		}
	}
	stop()
	daemon.Wait()

	r := theOnly(t, st)
	var out []string
	for _, w := range watches {
		for _, d := range r.Deployments {
			if d.Watch != w {
				continue
			}
			name := w.Repository
			if w.Branch != "main" {
				name += "." + w.Branch
			}
			if at, began := script.starts[w]; began {
				name += "@" + strconv.FormatFloat(at.Seconds(), 'f', -1, 64)
			}
			if d.Status != sentry.Succeeded {
				name += ":" + string(d.Status)
			}
			out = append(out, name)
		}
	}
	return strings.Join(out, " ") + " = " + string(r.Status)
}

func seconds(t *testing.T, text string) time.Duration {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(f * float64(time.Second))
}

func openMemory(t testing.TB) *store.Store {
	t.Helper()
	st, err := store.OpenMemory(t.Context(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

// theOnly gives the only rollout there is.
func theOnly(t testing.TB, st *store.Store) sentry.Rollout {
	t.Helper()
	all, err := st.Rollouts(context.Background(), store.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 {
		t.Fatalf("%d rollouts, want 1", len(all))
	}
	return all[0]
}

// end is how a scripted deployment ends.
type end struct {
	how   string // ok, fail, stuck
	after time.Duration
}

// scripted is an Executor whose deployments end as a script says.
type scripted struct {
	ends  map[sentry.Watch]end
	began time.Time

	mu     sync.Mutex
	starts map[sentry.Watch]time.Duration
}

func (x *scripted) Expect(*config.Repository, time.Time) {}

func (x *scripted) Execute(ctx context.Context, job Job, save func(sentry.Deployment) error) (sentry.Deployment, Outcome) {
	d := job.Deployment
	d.Steps = []sentry.Step{{Attempt: d.Attempt, Ordinal: 1, Kind: sentry.StepCommand, Name: "scripted", Status: sentry.Running, Tries: 1}}
	if err := save(d); err != nil {
		return d, Outcome{sentry.Interrupted, err.Error()}
	}
	x.mu.Lock()
	x.starts[d.Watch] = time.Since(x.began)
	x.mu.Unlock()
	e := x.ends[d.Watch]
	outcome := Outcome{sentry.Succeeded, "as scripted"}
	if e.how == "fail" {
		outcome = Outcome{sentry.Failed, "as scripted"}
	}
	var over <-chan time.Time
	if e.how != "stuck" {
		over = time.After(e.after)
	}
	select {
	case <-over:
	case <-ctx.Done():
		outcome = EndedBy(ctx, "it ran")
	}
	d.Steps[0].Status, d.Steps[0].Reason = outcome.Status, outcome.Reason
	if err := save(d); err != nil {
		return d, Outcome{sentry.Interrupted, err.Error()}
	}
	return d, outcome
}

func isFinal(err error) bool { return strings.Contains(err.Error(), store.ErrFinal.Error()) }
