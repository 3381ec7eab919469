package deploy

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// clock is a service on a stage where it is told when something happens, in milliseconds of a bubble's clock.
type clock struct {
	*testing.T
	st      *store.Store
	cfg     *config.Config
	service *Service
	began   time.Time

	mu    sync.Mutex
	asked []string         // "a@10": what was expected of a at 10
	since map[string][]int // by deployment's watch: the Since of each start
}

// Expect notes who is expected, and since when what is asked may have been.
func (c *clock) Expect(r *config.Repository, since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, fmt.Sprintf("%s@%d", r.Name, since.Sub(c.began).Milliseconds()))
}

func (c *clock) Execute(_ context.Context, job Job, save func(sentry.Deployment) error) (sentry.Deployment, Outcome) {
	if err := save(job.Deployment); err != nil {
		return job.Deployment, Outcome{sentry.Interrupted, err.Error()}
	}
	c.mu.Lock()
	w := job.Deployment.Repository
	c.since[w] = append(c.since[w], int(job.Since.Sub(c.began).Milliseconds()))
	c.mu.Unlock()
	time.Sleep(100 * time.Millisecond)
	return job.Deployment, Outcome{sentry.Succeeded, "so it goes"}
}

func (c *clock) at(ms int) { time.Sleep(time.Until(c.began.Add(time.Duration(ms) * time.Millisecond))) }

func (c *clock) record(repository, short string) {
	c.Helper()
	observe(c.T, c.st, "g", repository, short, false)
}

func (c *clock) found(repository, short string) {
	c.service.Expect(sentry.Watch{Repository: repository, Branch: "main"}, commit(short))
}

func (c *clock) request() {
	c.Helper()
	if _, _, err := c.st.Request(c.Context(), store.Request{Group: "g", By: "somebody", Repositories: []string{"a"}}); err != nil {
		c.Error(err)
	}
}

// newClock makes a service that does nothing yet, for a group g of a and b.
func newClock(t *testing.T, group config.Group) *clock {
	c := &clock{T: t, st: openMemory(t), since: map[string][]int{}}
	observe(t, c.st, "g", "a", "a1", false)
	observe(t, c.st, "g", "b", "b1", false)
	group.Name = "g"
	c.cfg = &config.Config{Groups: []config.Group{group}, Repositories: []config.Repository{member(t, "a", "g", "main"), member(t, "b", "g", "main")}}
	c.service = New(Options{Store: c.st, Executor: c, Config: func() *config.Config { return c.cfg }, Log: slog.New(slog.DiscardHandler)})
	c.began = time.Now()
	return c
}

// What a deployment is made of was asked for no earlier than what lets it begin had happened, and no later than need be.
// Each line tells what happens, and of a's deployments since when what they are made of may have been asked for.
func TestSince(t *testing.T) {
	for name, test := range map[string]struct {
		group config.Group
		play  func(c *clock)
		want  string // Since of each deployment of a
		asked string // what was expected, where that is of interest
	}{
		"a change that was told when it was found": {
			play: func(c *clock) { c.at(10); c.found("a", "a2"); c.at(20); c.record("a", "a2") }, want: "[10]", asked: "a@10 a@10",
		},
		"a change of what runs as a Job": {
			group: config.Group{Executor: config.ExecutorKubernetes},
			play:  func(c *clock) { c.at(10); c.found("a", "a2"); c.at(20); c.record("a", "a2") }, want: "[10]", asked: "nothing",
		},
		"a change that was not told": {
			play: func(c *clock) { c.at(20); c.record("a", "a2") }, want: "[20]", asked: "a@20",
		},
		"told, and it took long to be recorded": {
			play: func(c *clock) { c.at(10); c.found("a", "a2"); c.at(1500); c.record("a", "a2") }, want: "[1500]",
		},
		"another commit was told": {
			play: func(c *clock) { c.at(10); c.found("a", "a3"); c.at(20); c.record("a", "a2") }, want: "[20]",
		},
		"another branch was told": {
			play: func(c *clock) { c.at(10); c.found("b", "a2"); c.at(20); c.record("a", "a2") }, want: "[20]",
		},
		"one was told, another found after it": {
			play: func(c *clock) {
				c.at(10)
				c.found("a", "a2")
				c.at(15)
				c.found("b", "b2")
				c.at(20)
				_, err := c.st.RecordChanges(c.Context(), []store.Observation{
					{Watch: sentry.Watch{Repository: "a", Branch: "main"}, Revision: sentry.Revision{Commit: commit("a2")}, Group: "g"},
					{Watch: sentry.Watch{Repository: "b", Branch: "main"}, Revision: sentry.Revision{Commit: commit("b2")}, Group: "g"},
				})
				if err != nil {
					c.Error(err)
				}
			}, want: "[20]", asked: "a@10 a@20 b@20",
		},
		"told twice": {
			play: func(c *clock) {
				for i := range 20 {
					c.at(10 + i)
					c.found("a", "a2")
				}
				c.at(40)
				c.record("a", "a2")
			}, want: "[10]", asked: "a@10 a@10",
		},
		"a quiet period": {
			group: config.Group{QuietPeriod: 50 * time.Millisecond},
			play:  func(c *clock) { c.at(10); c.found("a", "a2"); c.at(20); c.record("a", "a2") }, want: "[70]", asked: "a@70",
		},
		"a pause": {
			play: func(c *clock) {
				if err := c.st.Pause(c.Context(), "g", "somebody", ""); err != nil {
					c.Error(err)
				}
				c.at(10)
				c.found("a", "a2")
				c.at(20)
				c.record("a", "a2")
				c.at(60)
				if err := c.st.Resume(c.Context(), "g", "somebody"); err != nil {
					c.Error(err)
				}
			}, want: "[60]", asked: "a@60",
		},
		"a pause that ends before the change is recorded": {
			play: func(c *clock) {
				if err := c.st.Pause(c.Context(), "g", "somebody", ""); err != nil {
					c.Error(err)
				}
				c.at(10)
				c.found("a", "a2")
				c.at(15)
				if err := c.st.Resume(c.Context(), "g", "somebody"); err != nil {
					c.Error(err)
				}
				c.at(20)
				c.record("a", "a2")
			}, want: "[20]",
		},
		"a person": {
			play: func(c *clock) { c.at(10); c.request() }, want: "[10]",
		},
		"a rollout of the group that runs": {
			play: func(c *clock) {
				c.record("a", "a2")
				c.at(50)
				c.found("a", "a3")
				c.at(60)
				c.record("a", "a3")
			}, want: "[0 100]",
		},
		"a rollout of the group that ran meanwhile": {
			play: func(c *clock) {
				c.at(10)
				c.found("a", "a2")
				c.at(20)
				c.request()
				c.at(300)
				c.record("a", "a2")
			}, want: "[20 300]",
		},
		"one after the other": {
			group: config.Group{Policy: sentry.Policy{Strategy: sentry.Sequential, Scope: sentry.ScopeGroup}},
			play:  func(c *clock) { c.at(10); c.found("b", "b2"); c.at(20); c.record("b", "b2") }, want: "[10]", asked: "a@10 a@10",
		},
		"all at once": {
			group: config.Group{Policy: sentry.Policy{MaxParallel: 9, Scope: sentry.ScopeGroup}},
			play:  func(c *clock) { c.at(10); c.found("b", "b2"); c.at(20); c.record("b", "b2") }, want: "[10]", asked: "a@10 b@10 a@10 b@10",
		},
		"a hint about what is not configured": {
			play: func(c *clock) { c.found("x", "a2"); c.at(20); c.record("a", "a2") }, want: "[20]", asked: "a@20",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				group := test.group
				if group.Policy == (sentry.Policy{}) {
					group.Policy = sentry.Policy{MaxParallel: 9, Scope: sentry.ScopeChanged}
				}
				c := newClock(t, group)
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- c.service.Run(ctx) }()
				synctest.Wait()
				c.began = time.Now()
				test.play(c)
				time.Sleep(time.Minute)
				stop()
				if err := <-ended; err != nil {
					t.Error(err)
				}
				if got := fmt.Sprint(c.since["a"]); got != test.want {
					t.Errorf("since %s, want %s", got, test.want)
				}
				if got := cmp.Or(strings.Join(c.asked, " "), "nothing"); test.asked != "" && got != test.asked {
					t.Errorf("asked %s, want %s", got, test.asked)
				}
				if strategy := group.Policy.Strategy; strategy == sentry.Sequential && !slices.Equal(c.since["b"], []int{110 + 10}) {
					t.Errorf("b, which waited for a, since %v", c.since["b"])
				}
			})
		})
	}
}

// Whoever joins a rollout before anybody has looked at it is served as well.
func TestSinceAPersonJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock(t, config.Group{Policy: sentry.Policy{MaxParallel: 9, Scope: sentry.ScopeChanged}})
		c.at(10)
		c.found("a", "a2")
		c.at(20)
		c.record("a", "a2")
		c.at(30)
		c.request()
		c.at(40)
		if _, err := c.service.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.service.Wait()
		if got := c.since["a"]; !slices.Equal(got, []int{40}) {
			t.Errorf("since %v, want 40: after the request", got)
		}
	})
}
