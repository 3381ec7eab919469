package server

import (
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"sentry/internal/monitor"
	"sentry/internal/sentry"
)

// trigger asks for a rollout that looks first.
func (f *fixture) trigger(target string) Triggered {
	f.Helper()
	return decodeAs[Triggered](f, f.want("POST", "/api/v1/rollouts", `{"targets": ["`+target+`"], "by": "ada", "look": true}`, http.StatusAccepted))
}

// TestLookFirst: a wish that looks first hints the repositories that it is about, waits until they have answered or a
// moment is over, and says which have not.
func TestLookFirst(t *testing.T) {
	for name, c := range map[string]struct {
		target  string
		answers map[string]time.Duration // after how long a repository answers
		state   map[string]monitor.WatchState
		took    time.Duration
		left    []Unanswered
	}{
		"all answer":    {target: "web", answers: map[string]time.Duration{"shop": 200 * time.Millisecond, "pay": time.Second}, took: time.Second},
		"one of them":   {target: "shop", answers: map[string]time.Duration{"shop": 300 * time.Millisecond}, took: 300 * time.Millisecond},
		"one is silent": {target: "web", answers: map[string]time.Duration{"shop": time.Second}, took: lookFor, left: []Unanswered{{"pay", "no answer within 3s"}}},
		"one fails": {
			target: "web", answers: map[string]time.Duration{"shop": 100 * time.Millisecond, "pay": 200 * time.Millisecond}, took: 200 * time.Millisecond,
			state: map[string]monitor.WatchState{"pay": {Failures: 1, Answer: "failing: no route"}}, left: []Unanswered{{"pay", "failing: no route"}},
		},
		"one is left alone": {
			target: "web", answers: map[string]time.Duration{"shop": 100 * time.Millisecond}, took: 100 * time.Millisecond,
			state: map[string]monitor.WatchState{"pay": {Answer: "failing: left alone", NextDue: now.Add(time.Minute)}}, left: []Unanswered{{"pay", "failing: left alone"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				var hinted []string
				f := newFixture(t, func(o *Options) { o.Now = func() time.Time { return now.Add(time.Since(start)) } })
				f.control.hint = func(repository string) { hinted = append(hinted, repository) }
				f.control.asked = func() {
					f.control.watches = nil
					for _, name := range hinted {
						w := monitor.WatchState{Watch: sentry.Watch{Repository: name, Branch: "main"}, LastAsked: now.Add(-time.Minute), NextDue: now, Answer: "ok"}
						if s, ok := c.state[name]; ok {
							w.Failures, w.Answer, w.NextDue = s.Failures, s.Answer, s.NextDue
						}
						if after, ok := c.answers[name]; ok && time.Since(start) >= after {
							w.LastAsked, w.NextDue = now.Add(after), now.Add(time.Minute)
						} else if ok {
							w.LastAsked, w.NextDue = now, now // the question is out
						}
						f.control.watches = append(f.control.watches, w)
					}
				}
				got := f.trigger(c.target)
				if took := time.Since(start); took < c.took || took > c.took+200*time.Millisecond {
					t.Errorf("took %s, want %s", took, c.took)
				}
				if diff := cmp.Diff(c.left, got.Unanswered); diff != "" {
					t.Error(diff)
				}
				want := []string{"pay", "shop"}
				if c.target == "shop" {
					want = want[1:]
				}
				if slices.Sort(hinted); !slices.Equal(hinted, want) {
					t.Errorf("hinted %v, want %v", hinted, want)
				}
				if len(got.Items) != 1 || got.Items[0].Group != "web" || got.Items[0].Found {
					t.Errorf("queued %+v", got.Items)
				}
			})
		})
	}
}

// A daemon that ends asks nobody any more. What is asked of it is on disk for the next one.
func TestADaemonThatEndsDoesNotLook(t *testing.T) {
	f := newFixture(t)
	f.control.info = &Daemon{Draining: true}
	f.control.hint = func(repository string) { t.Errorf("%s is to be asked", repository) }
	began := time.Now()
	got := f.trigger("web")
	if took := time.Since(began); took > lookFor/2 || len(got.Items) != 1 {
		t.Errorf("queued %+v after %s", got.Items, took)
	}
	if want := (Unanswered{"shop", "not asked: the daemon is ending"}); !slices.Contains(got.Unanswered, want) {
		t.Errorf("%+v", got.Unanswered)
	}
}

// TestLookFindsNews: where looking first makes a rollout of what moved begin, that one is the answer, unless it does not
// have all that was asked for.
func TestLookFindsNews(t *testing.T) {
	for name, c := range map[string]struct {
		target string
		moves  func(f *fixture)
		found  bool
	}{
		"begun, with all of it": {"web", func(f *fixture) { f.claim(f.move("web", "shop@main:a"), "shop", "pay") }, true},
		"begun, with the one":   {"shop", func(f *fixture) { f.claim(f.move("web", "shop@main:a"), "shop") }, true},
		"begun, without it":     {"pay", func(f *fixture) { f.claim(f.move("web", "shop@main:a"), "shop") }, false},
		"begun, in part":        {"web", func(f *fixture) { f.claim(f.move("web", "shop@main:a"), "shop") }, false},
		"of another group":      {"web", func(f *fixture) { f.claim(f.move("lone", "lone@main:a"), "shop", "pay") }, false},
		"waiting":               {"web", func(f *fixture) { f.move("web", "shop@main:a") }, false},
		"nothing":               {"web", func(*fixture) {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			// The state's clock is a minute behind that of the server in the fixture.
			f := newFixture(t, func(o *Options) { o.Now = func() time.Time { return now.Add(-time.Minute) } })
			moved := false
			f.control.asked = func() {
				if !moved {
					moved = true
					c.moves(f)
				}
				f.control.watches = []monitor.WatchState{
					{Watch: sentry.Watch{Repository: "shop", Branch: "main"}, LastAsked: now, NextDue: now.Add(time.Minute)},
					{Watch: sentry.Watch{Repository: "pay", Branch: "main"}, LastAsked: now, NextDue: now.Add(time.Minute)},
				}
			}
			got := f.trigger(c.target)
			if len(got.Items) != 1 || got.Items[0].Found != c.found || got.Unanswered != nil {
				t.Errorf("got %+v", got)
			}
		})
	}
}
