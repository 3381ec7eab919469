package report

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/store"
	"sentry/internal/store/storetest"
)

// TestModel plays random histories (rollouts that begin, end, are canceled and tried again; forges that fail in every way;
// crashes before and after every write, and between what a forge did and what is known of it) against the real service
// and the real store, and judges them by a witness: what the forges were told, in order.
// SENTRY_MODEL_SEQUENCES is how many.
func TestModel(t *testing.T) {
	sequences := os.Getenv("SENTRY_MODEL_SEQUENCES")
	if sequences == "" {
		sequences = "300"
	}
	if testing.Short() {
		sequences = "50"
	}
	if err := flag.Set("rapid.checks", sequences); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		h := drawHistory(rt)
		var wrong []string
		synctest.Test(t, func(t *testing.T) { wrong = h.play(t) })
		if len(wrong) > 0 {
			rt.Fatalf("%s\n\n%s", strings.Join(wrong, "\n"), h)
		}
	})
}

// history is everything that is random, drawn before the bubble begins.
type history struct {
	to     string
	report string
	events []event
}

type event struct {
	after time.Duration
	what  string
	which int
}

func drawHistory(rt *rapid.T) *history {
	h := &history{
		to:     rapid.SampledFrom([]string{"upstream", "qa", "both"}).Draw(rt, "to"),
		report: rapid.SampledFrom([]string{"changed", "changed", "all"}).Draw(rt, "report"),
	}
	kinds := []string{
		"push", "push", "push", "begin", "begin", "begin", "begin", "pin", "pin", "end", "end", "end", "end", "cancel", "retry", "interrupt",
		"crash", "crash", "lose", "lose", "stop", "works", "works", "down", "forgets", "slow", "limited", "hangs", "prune",
	}
	for range rapid.IntRange(1, 30).Draw(rt, "events") {
		h.events = append(h.events, event{
			after: time.Duration(rapid.SampledFrom([]int{0, 1, 50, 99, 101, 150, 400, 1000, 5000, 60_000, 900_000}).Draw(rt, "after")) * time.Millisecond,
			what:  rapid.SampledFrom(kinds).Draw(rt, "what"),
			which: rapid.IntRange(0, 11).Draw(rt, "which"),
		})
	}
	return h
}

func (h *history) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "report %s to %s\n", h.report, h.to)
	for _, e := range h.events {
		fmt.Fprintf(&b, "after %s %s %d\n", e.after, e.what, e.which)
	}
	return b.String()
}

// life is one process: a store whose writes it may not survive.
type life struct {
	*store.Store
	mu       sync.Mutex
	dead     bool
	dieAfter int  // writes and answers of forges until death; 0 means never
	lose     bool // the write that kills is not done
	died     chan struct{}
}

var errDead = errors.New("this process is dead")

// step does something that a life may die at, before or after.
func (l *life) step(do func() error) error {
	l.mu.Lock()
	if l.dead {
		l.mu.Unlock()
		return errDead
	}
	dies := false
	if l.dieAfter > 0 {
		l.dieAfter--
		dies = l.dieAfter == 0
	}
	if dies && l.lose {
		l.die()
		l.mu.Unlock()
		return errDead
	}
	l.mu.Unlock()
	err := do()
	if dies {
		l.mu.Lock()
		l.die()
		l.mu.Unlock()
		return errDead
	}
	return err
}

// die is called with the lock held.
func (l *life) die() {
	if !l.dead {
		l.dead = true
		close(l.died)
	}
}

func (l *life) Expand(ctx context.Context, letters ...store.Letter) (n int, err error) {
	err = l.step(func() error { n, err = l.Store.Expand(ctx, letters...); return err })
	return n, err
}

func (l *life) Arrived(ctx context.Context, id int64) error {
	return l.step(func() error { return l.Store.Arrived(ctx, id) })
}

func (l *life) Failed(ctx context.Context, id int64, after time.Duration, reason string) error {
	return l.step(func() error { return l.Store.Failed(ctx, id, after, reason) })
}

func (l *life) Supersede(ctx context.Context, id int64) error {
	return l.step(func() error { return l.Store.Supersede(ctx, id) })
}

func (l *life) Revive(ctx context.Context, repository string, target sentry.Target) (n int, err error) {
	err = l.step(func() error { n, err = l.Store.Revive(ctx, repository, target); return err })
	return n, err
}

// theatre is where a history is played. The driver owns it.
type theatre struct {
	*scene
	*history
	life     *life
	commits  int
	deaths   int
	stops    int          // ends that were asked for
	unknown  atomic.Int64 // answers that were lost: what they answered was done
	rollouts []sentry.Rollout
}

// begin starts a life. A life after the first has a younger epoch.
func (th *theatre) live() {
	next, err := th.Store.Successor()
	th.must(err)
	th.t.Cleanup(func() { th.must(next.Close()) })
	th.Store = next
	th.life = &life{Store: next, died: make(chan struct{})}
	s := New(Options{Store: th.life, Config: th.cfg.Load, Publish: th, Log: discard})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	th.stop = func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, errDead) {
			th.t.Errorf("the service ended: %v", err)
		}
	}
}

// revive begins a new life where the present one is dead.
func (th *theatre) revive() {
	synctest.Wait()
	th.life.mu.Lock()
	dead := th.life.dead
	th.life.mu.Unlock()
	if dead {
		th.restart()
	}
}

func (th *theatre) restart() {
	th.deaths++
	th.life.mu.Lock()
	th.life.die()
	th.life.mu.Unlock()
	th.stop()
	th.live()
}

// play plays the history and returns what is wrong.
func (h *history) play(t *testing.T) []string {
	th := &theatre{history: h, scene: &scene{Store: storetest.Open(t), t: t, forges: &forges{}}}
	cfg := group(t, h.report, h.to, "a", "b", "c=git@github.com:acme/a.git")
	cfg.Global.PublicURL = "https://sentry.example.com"
	th.cfg.Store(cfg)
	for _, w := range []string{"a", "b", "c"} {
		th.push(w, "old")
	}
	th.live()
	for _, e := range h.events {
		time.Sleep(e.after)
		th.revive()
		th.do(e)
	}
	// Heal: what runs ends, and the forges work.
	th.forges.does(nil)
	for _, r := range th.runs() {
		th.end(r, sentry.Succeeded)
	}
	for range 8 {
		time.Sleep(20 * time.Minute)
		th.revive()
	}
	wrong := th.judge()
	th.stop()
	if broken, err := th.Check(context.Background()); err != nil || len(broken) > 0 {
		wrong = append(wrong, fmt.Sprintf("the state is broken: %v %q", err, broken))
	}
	return wrong
}

// runs gives the rollouts that run, taken over where a dead one has left them.
func (th *theatre) runs() []sentry.Rollout {
	for _, r := range must(th.Left(context.Background()))(th) {
		must(th.TakeOver(context.Background(), r.ID, true))(th)
	}
	list, err := th.Rollouts(context.Background(), store.Filter{Status: []sentry.Status{sentry.Running}})
	th.must(err)
	return list
}

func (th *theatre) do(e event) {
	switch e.what {
	case "push":
		th.commits++
		w := []string{"a", "b", "c"}[e.which%3]
		th.push(w, fmt.Sprint("m", th.commits/2)) // a and c may come to the same commit of what is one repository
	case "begin":
		if w, err := th.Pending(context.Background()); err != nil || len(w) == 0 || len(th.runs()) > 0 {
			return
		}
		th.rollouts = append(th.rollouts, th.begin("g"))
	case "pin", "interrupt":
		for _, r := range th.runs() {
			if e.what == "interrupt" {
				th.restart() // only what an older epoch has left can be taken over
				r = must(th.TakeOver(context.Background(), r.ID, true))(th)
			}
			th.pin(r, fmt.Sprint("q", e.which%2), r.Attempt)
		}
	case "end":
		for _, r := range th.runs() {
			th.end(r, []sentry.Status{sentry.Succeeded, sentry.Failed, sentry.TimedOut, sentry.Interrupted}[e.which%4], sentry.Succeeded)
		}
	case "cancel":
		w, err := th.Pending(context.Background())
		th.must(err)
		for _, w := range w {
			_, err := th.Cancel(context.Background(), w.Rollout.ID, "ada", "")
			th.must(err)
		}
	case "retry":
		if len(th.rollouts) > 0 {
			th.ask(store.Request{Group: "g", Kind: sentry.TriggerRetry, RetryOf: th.rollouts[e.which%len(th.rollouts)].ID, Whole: true})
		}
	case "prune":
		_, err := th.Prune(context.Background(), store.Retention{RolloutsPerGroup: 1000})
		th.must(err)
	case "crash", "lose":
		th.life.mu.Lock()
		th.life.dieAfter, th.life.lose = e.which+1, e.what == "lose"
		th.life.mu.Unlock()
	case "stop":
		th.stops++
		th.stop() // what is due is given some seconds
		th.live()
	case "works":
		th.forges.does(nil)
	case "down":
		th.forges.fails(errors.New("connection refused"))
	case "limited":
		th.forges.fails(&sentry.Fault{Kind: sentry.RateLimited, RetryAfter: time.Duration(e.which) * 10 * time.Second, Err: errors.New("limit")})
	case "forgets": // it does what it is asked, and the answer is lost
		th.forges.does(func(context.Context, call) (bool, error) { return true, errors.New("reset") })
	case "slow":
		th.forges.does(func(ctx context.Context, _ call) (bool, error) {
			select {
			case <-time.After(time.Duration(e.which) * time.Second):
				return true, nil
			case <-th.life.died:
				return true, errDead
			}
		})
	case "hangs":
		th.forges.does(func(ctx context.Context, _ call) (bool, error) { <-ctx.Done(); return e.which%2 == 0, ctx.Err() })
	}
}

// SetStatus is the forges, for a process that may die at any answer: what a dead one sends arrives nowhere.
func (th *theatre) SetStatus(ctx context.Context, r *config.Repository, target sentry.Target, s Status) error {
	done := false
	err := th.life.step(func() error {
		accepted, err := th.forges.put(ctx, r, target, s)
		done = accepted
		return err
	})
	if done && err != nil {
		th.unknown.Add(1)
	}
	return err
}

func (th *theatre) address(repository string, target sentry.Target) string {
	r, _ := th.cfg.Load().Repository(repository)
	return sideOf(r, target).address()
}

// judge looks at what the forges were told.
func (th *theatre) judge() (wrong []string) {
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	type place struct{ where, commit string }
	heard := map[place][]call{} // without repetitions
	places := []place{}
	repeated := 0
	th.forges.mu.Lock()
	said := slices.Clone(th.forges.said)
	th.forges.mu.Unlock()
	for _, c := range said {
		p := place{c.address, c.Commit}
		before := heard[p]
		if len(before) == 0 {
			places = append(places, p)
		}
		if n := len(before); n > 0 && before[n-1].Status == c.Status {
			repeated++
			continue
		}
		heard[p] = append(before, c)
	}
	// What a process did not live to record is said again: of each lane, of which there are two, one status at most. So is
	// what a forge did when the seconds of a stop were over.
	if most := (th.deaths+th.stops)*2 + int(th.unknown.Load()); repeated > most {
		complain("%d repetitions, with %d deaths, %d stops and %d answers lost", repeated, th.deaths, th.stops, th.unknown.Load())
	}
	began := map[string]sentry.Rollout{}
	verdicts := map[place]map[string]int{}
	all, err := th.Rollouts(context.Background(), store.Filter{Limit: 1000})
	th.must(err)
	for _, r := range all {
		began[r.ID] = r
	}
	for _, p := range places {
		verdicts[p] = map[string]int{}
		last := int64(0)
		open := "" // the rollout whose pending was heard
		for _, c := range heard[p] {
			id := strings.TrimPrefix(c.URL, "https://sentry.example.com/rollouts/")
			var number int64
			_, _ = fmt.Sscan(strings.Split(id, "-")[0], &number)
			r, known := began[id]
			switch {
			case !known || c.Context != "sentry/g":
				complain("%v: %s is no rollout", p, id)
			case number < last:
				complain("%v: %s after rollout %d", p, c, last)
			case verdicts[p][id] > 0:
				complain("%v: %s after the verdict of %s", p, c.State, id)
			case open != "" && open != id:
				complain("%v: %s of %s while %s is pending", p, c.State, id, open)
			case c.State == sentry.StatePending:
				open = id
			default:
				state, says := verdict(&r)
				if c.target == sentry.QA && c.State == sentry.StateError && strings.HasPrefix(c.Description, "interrupted: begun again") {
					state, says = c.State, c.Description
				}
				if c.State != state || c.Description != says {
					complain("%v: %s %q, but %s is %s", p, c.State, c.Description, id, r.Status)
				}
				verdicts[p][id]++
				open = ""
			}
			last = number
		}
		if open != "" {
			complain("%v: %s is pending for ever", p, open)
		}
	}
	// Nothing is left unsaid: every rollout that began has its verdict where it is to be heard.
	for _, r := range th.rollouts {
		r = began[r.ID]
		for _, v := range r.Vector {
			if th.to != "qa" && (v.Changed || th.report == "all") && verdicts[place{th.address(v.Repository, sentry.Upstream), v.Commit}][r.ID] != 1 {
				complain("%s of %s: no verdict on %s", r.ID, v.Watch, v.Commit)
			}
		}
		for _, d := range r.Deployments {
			i := slices.IndexFunc(r.Vector, func(v sentry.VectorEntry) bool { return v.Watch == d.Watch && (v.Changed || th.report == "all") })
			if th.to != "upstream" && d.Source != nil && i >= 0 && verdicts[place{th.address(d.Repository, sentry.QA), d.Source.Commit}][r.ID] != 1 {
				complain("%s: no verdict on %s of QA", r.ID, d.Source.Commit)
			}
		}
		for _, report := range must(th.Reports(context.Background(), r.ID))(th) {
			if report.Fate != sentry.Delivered && report.Fate != sentry.Superseded {
				complain("%s: %+v", r.ID, report)
			}
		}
	}
	if m := must(th.Outbox(context.Background(), 10))(th); len(m) > 0 {
		complain("left in the outbox: %+v", m)
	}
	return wrong
}

func must[T any](v T, err error) func(*theatre) T {
	return func(th *theatre) T {
		th.t.Helper()
		th.must(err)
		return v
	}
}
