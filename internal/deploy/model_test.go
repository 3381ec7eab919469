package deploy

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// TestModel plays random histories (pushes, people, pauses, drains and crashes at every durable write) against the
// real service and the real store, and judges them by a witness: what the executor saw begin and end.
// SENTRY_MODEL_SEQUENCES is how many; `make test-long` asks for 100,000.
func TestModel(t *testing.T) {
	modelSequences(t, "300")
	rapid.Check(t, func(rt *rapid.T) {
		h := drawHistory(rt)
		var verdict []string
		synctest.Test(t, func(t *testing.T) { verdict = h.play(t) })
		if len(verdict) > 0 {
			rt.Fatalf("%s\n\n%s", strings.Join(verdict, "\n"), h)
		}
	})
}

// modelSequences sets how many histories are played: usual ones, or what SENTRY_MODEL_SEQUENCES says.
func modelSequences(t *testing.T, usual string) {
	t.Helper()
	sequences := cmp.Or(os.Getenv("SENTRY_MODEL_SEQUENCES"), usual)
	if testing.Short() {
		sequences = "50"
	}
	if err := flag.Set("rapid.checks", sequences); err != nil {
		t.Fatal(err)
	}
}

// history is everything that is random, drawn before the bubble begins.
type history struct {
	policies [2]sentry.Policy
	quiet    time.Duration
	events   []event
	fates    []fate // how deployments end: by watch, generation and attempt
}

type event struct {
	after time.Duration
	what  string // push, trigger, one, pause, resume, cancel, crash, lose, drain
	which int    // a watch, a group, or after how many writes to crash
}

// fate is how one attempt ends when nothing ends it from outside.
type fate struct {
	ok   bool
	took time.Duration
}

var modelWatches = []sentry.Watch{
	{Repository: "a", Branch: "main"},
	{Repository: "a", Branch: "dev"},
	{Repository: "b", Branch: "main"},
	{Repository: "c", Branch: "main"},
	{Repository: "d", Branch: "main"},
}

var modelGroups = []string{"g", "h"}

func groupOfWatch(w sentry.Watch) int {
	if w.Repository == "d" {
		return 1
	}
	return 0
}

func drawHistory(rt *rapid.T) *history {
	h := &history{quiet: time.Duration(rapid.IntRange(0, 2).Draw(rt, "quiet")) * time.Second}
	for i := range h.policies {
		h.policies[i] = sentry.Policy{
			Strategy:        rapid.SampledFrom([]sentry.Strategy{sentry.Parallel, sentry.Sequential}).Draw(rt, "strategy"),
			MaxParallel:     rapid.IntRange(1, 3).Draw(rt, "limit"),
			ContinueOnError: rapid.Bool().Draw(rt, "continue"),
			Timeout:         sentry.Duration(time.Duration(rapid.SampledFrom([]int{0, 3, 20}).Draw(rt, "timeout")) * time.Second),
			Scope:           rapid.SampledFrom([]sentry.Scope{sentry.ScopeGroup, sentry.ScopeChanged}).Draw(rt, "scope"),
			Queue:           rapid.SampledFrom([]sentry.Queue{sentry.Latest, sentry.Every}).Draw(rt, "queue"),
			OnInterrupt:     rapid.SampledFrom([]sentry.OnInterrupt{sentry.Retry, sentry.Retry, sentry.Hold}).Draw(rt, "interrupt"),
		}
	}
	kinds := []string{"push", "push", "push", "push", "push", "trigger", "one", "pause", "resume", "cancel", "crash", "crash", "lose", "drain"}
	for range rapid.IntRange(1, 25).Draw(rt, "events") {
		h.events = append(h.events, event{
			after: time.Duration(rapid.IntRange(0, 3000).Draw(rt, "after")) * time.Millisecond,
			what:  rapid.SampledFrom(kinds).Draw(rt, "what"),
			which: rapid.IntRange(0, 7).Draw(rt, "which"),
		})
	}
	for range 16 {
		h.fates = append(h.fates, fate{
			ok:   rapid.IntRange(0, 3).Draw(rt, "fate") > 0,
			took: time.Duration(rapid.IntRange(50, 4000).Draw(rt, "took")) * time.Millisecond,
		})
	}
	return h
}

func (h *history) String() string {
	var b strings.Builder
	for i, p := range h.policies {
		fmt.Fprintf(&b, "group %s: %+v quiet %s\n", modelGroups[i], p, h.quiet)
	}
	for _, e := range h.events {
		fmt.Fprintf(&b, "after %s %s %d\n", e.after, e.what, e.which)
	}
	return b.String()
}

// theatre is where a history is played. The driver goroutine owns it; the witness has its own lock.
type theatre struct {
	*history
	t       *testing.T
	cfg     *config.Config
	state   *store.Store // as the driver sees it; each life has a handle of its own
	life    *life
	heads   map[sentry.Watch]int64 // generations pushed
	witness *witness
	deaths  int
}

// life is one process.
type life struct {
	*store.Store
	mu       sync.Mutex
	dead     bool
	dieAfter int           // writes until death; 0 means never
	lose     bool          // the write that kills is not done
	died     chan struct{} // closed at death
	service  *Service
	stop     context.CancelFunc
	done     chan struct{} // closed when the service has returned
}

var errDead = errors.New("this process is dead")

// write does a write of a life that may die at it, before or after.
func (l *life) write(do func() error) error {
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

// The methods of Store that write; reads pass.

func (l *life) Claim(ctx context.Context, id string, version int64, p store.Plan) (r sentry.Rollout, err error) {
	err = l.write(func() error { r, err = l.Store.Claim(ctx, id, version, p); return err })
	return r, err
}

func (l *life) TakeOver(ctx context.Context, id string, interrupted bool) (r sentry.Rollout, err error) {
	err = l.write(func() error { r, err = l.Store.TakeOver(ctx, id, interrupted); return err })
	return r, err
}

func (l *life) SaveDeployment(ctx context.Context, d sentry.Deployment) error {
	return l.write(func() error { return l.Store.SaveDeployment(ctx, d) })
}

func (l *life) Finish(ctx context.Context, id string, s sentry.Status, reason string) error {
	return l.write(func() error { return l.Store.Finish(ctx, id, s, reason) })
}

func (l *life) Cancel(ctx context.Context, id, by, reason string) (s sentry.Status, err error) {
	err = l.write(func() error { s, err = l.Store.Cancel(ctx, id, by, reason); return err })
	return s, err
}

func (l *life) Decide(ctx context.Context, d ...sentry.Decision) error {
	return l.write(func() error { return l.Store.Decide(ctx, d...) })
}

// witness writes down what the executor sees. Its order is the truth.
type witness struct {
	mu     sync.Mutex
	events []seen
}

type seen struct {
	at      time.Time
	what    string // start, end, killed
	job     Job
	outcome Outcome
}

func (w *witness) note(s seen) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.at = time.Now()
	w.events = append(w.events, s)
}

// actor executes for one life.
type actor struct {
	*history
	*witness
	life *life
}

func (a *actor) Expect(*config.Repository, time.Time) {}

func (a *actor) Execute(ctx context.Context, job Job, save func(sentry.Deployment) error) (sentry.Deployment, Outcome) {
	d := job.Deployment
	d.Steps = []sentry.Step{{Attempt: d.Attempt, Ordinal: 1, Kind: sentry.StepCommand, Name: "act", Status: sentry.Running, Tries: 1}}
	if err := save(d); err != nil {
		return d, Outcome{sentry.Interrupted, err.Error()}
	}
	a.note(seen{what: "start", job: job})
	f := a.fates[(len(d.Repository+d.Branch)+int(d.Repository[0])+int(d.Generation)*3+d.Attempt*5)%len(a.fates)]
	outcome := Outcome{sentry.Failed, "fate"}
	if f.ok {
		outcome = Outcome{sentry.Succeeded, "fate"}
	}
	select {
	case <-time.After(f.took):
	case <-ctx.Done():
		outcome = EndedBy(ctx, "it ran")
	case <-a.life.died:
		a.note(seen{what: "killed", job: job})
		return d, Outcome{sentry.Interrupted, "dead"}
	}
	a.note(seen{what: "end", job: job, outcome: outcome})
	d.Steps[0].Status = outcome.Status
	if err := save(d); err != nil {
		return d, Outcome{sentry.Interrupted, err.Error()}
	}
	return d, outcome
}

// play plays the history and returns what is wrong with it.
func (h *history) play(t *testing.T) []string {
	th := &theatre{history: h, t: t, witness: &witness{}, heads: map[sentry.Watch]int64{}, state: openMemory(t)}
	th.cfg = &config.Config{}
	th.cfg.Global.Grace = time.Second
	for i, name := range modelGroups {
		th.cfg.Groups = append(th.cfg.Groups, config.Group{Name: name, Policy: h.policies[i], QuietPeriod: h.quiet})
	}
	th.cfg.Repositories = []config.Repository{
		member(t, "a", "g", "main", "dev"), member(t, "b", "g", "main"), member(t, "c", "g", "main"), member(t, "d", "h", "main"),
	}
	for _, w := range modelWatches {
		th.push(w) // the baseline
	}
	th.begin()
	for _, e := range h.events {
		time.Sleep(e.after)
		th.revive()
		th.do(e)
	}
	// Heal: nobody holds anything back, and the world stands still.
	for _, g := range modelGroups {
		th.must(th.now().Resume(t.Context(), g, "driver"))
	}
	for range 3600 {
		th.revive()
		th.life.service.Wake()
		time.Sleep(time.Second)
		if th.quietNow() {
			break
		}
	}
	th.life.stop()
	<-th.life.done
	problems := th.judge()
	if th.life.Store != th.state {
		th.must(th.life.Close())
	}
	return problems
}

func (th *theatre) must(err error) {
	if err != nil {
		th.t.Error(err)
	}
}

// now is the handle of the present life, or the first one.
func (th *theatre) now() *store.Store {
	if th.life == nil {
		return th.state
	}
	return th.life.Store
}

// begin starts a life. A life after the first has a younger epoch.
func (th *theatre) begin() {
	st, err := th.state.Successor()
	if err != nil {
		th.t.Fatal(err)
	}
	l := &life{Store: st, died: make(chan struct{}), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = cancel
	l.service = New(Options{
		Store: l, Executor: &actor{th.history, th.witness, l}, Log: slog.New(slog.DiscardHandler),
		Config: func() *config.Config { return th.cfg },
	})
	th.life = l
	go func() {
		defer close(l.done)
		if err := l.service.Run(ctx); err != nil && !errors.Is(err, errDead) {
			th.t.Errorf("the service ended: %v", err)
		}
	}()
}

// revive begins a new life where the present one is dead.
func (th *theatre) revive() {
	for {
		synctest.Wait()
		l := th.life
		l.mu.Lock()
		dead := l.dead
		l.mu.Unlock()
		if !dead {
			return
		}
		th.deaths++
		l.stop()
		<-l.done
		th.must(l.Close())
		th.begin()
	}
}

func (th *theatre) do(e event) {
	ctx := th.t.Context()
	group := modelGroups[e.which%2]
	switch e.what {
	case "push":
		th.push(modelWatches[e.which%len(modelWatches)])
	case "trigger":
		_, _, err := th.now().Request(ctx, store.Request{Group: group, By: "somebody", Kind: sentry.TriggerPerson, Whole: true})
		th.must(err)
	case "one":
		w := modelWatches[e.which%len(modelWatches)]
		_, _, err := th.now().Request(ctx, store.Request{
			Group: modelGroups[groupOfWatch(w)], By: "somebody", Kind: sentry.TriggerPerson, Repositories: []string{w.Repository},
		})
		th.must(err)
	case "pause":
		th.must(th.now().Pause(ctx, group, "somebody", "for the model"))
	case "resume":
		th.must(th.now().Resume(ctx, group, "somebody"))
	case "cancel":
		all, err := th.now().Rollouts(ctx, store.Filter{Group: group, Limit: 1})
		th.must(err)
		for _, r := range all {
			if _, err := th.life.service.Cancel(ctx, r.ID, "somebody", ""); err != nil && !errors.Is(err, store.ErrFinal) && !errors.Is(err, errDead) {
				th.t.Errorf("cancel: %v", err)
			}
		}
	case "crash", "lose":
		th.life.mu.Lock()
		th.life.dieAfter, th.life.lose = e.which+1, e.what == "lose"
		th.life.mu.Unlock()
	case "drain":
		l := th.life
		l.stop()
		<-l.done
		l.mu.Lock()
		l.die()
		l.mu.Unlock()
		th.revive()
	}
	th.life.service.Wake()
}

// push moves a head.
func (th *theatre) push(w sentry.Watch) {
	th.heads[w]++
	g := groupOfWatch(w)
	_, err := th.now().RecordChanges(th.t.Context(), []store.Observation{{
		Watch: w, Revision: sentry.Revision{Commit: fmt.Sprintf("%x%039d", w.Repository[0]-'a'+10, th.heads[w])},
		Group: modelGroups[g], Queue: th.policies[g].Queue,
	}})
	th.must(err)
}

// quietNow reports whether nothing waits or runs.
func (th *theatre) quietNow() bool {
	all, err := th.now().Rollouts(th.t.Context(), store.Filter{Status: []sentry.Status{sentry.Pending, sentry.Running}, Limit: 1})
	th.must(err)
	return len(all) == 0
}

// judge holds the witness and the state against the promise.
func (th *theatre) judge() []string {
	var wrong []string
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	ctx := th.t.Context()
	listed, err := th.now().Rollouts(ctx, store.Filter{Limit: 10_000})
	th.must(err)
	rollouts := map[string]sentry.Rollout{}
	for _, r := range listed {
		full, err := th.now().Rollout(ctx, r.ID)
		th.must(err)
		rollouts[r.ID] = full
		if !r.Status.Terminal() {
			say("rollout %s never ended: %s", r.ID, r.Status)
		}
	}
	th.judgeWitness(rollouts, say)
	th.judgeState(rollouts, say)
	broken, err := th.now().Check(ctx)
	th.must(err)
	return append(wrong, broken...)
}

// judgeWitness checks what began and ended: exclusive, within limits, in order, not doubled, truthful.
func (th *theatre) judgeWitness(rollouts map[string]sentry.Rollout, say func(string, ...any)) {
	live := map[string]seen{} // by deployment
	newest := map[sentry.Watch]int64{}
	starts := map[string]int{}
	ends := map[string]Outcome{}
	for _, e := range th.witness.events {
		d := e.job.Deployment
		if e.what != "start" {
			delete(live, d.ID)
			if e.what == "end" {
				ends[d.ID] = e.outcome
			}
			continue
		}
		policy := e.job.Rollout.Policy
		busy := 0
		for _, other := range live {
			if other.job.Rollout.Group != e.job.Rollout.Group {
				continue
			}
			busy++
			if other.job.Rollout.ID != e.job.Rollout.ID {
				say("%s began while %s of another rollout ran", d.ID, other.job.Deployment.ID)
			}
			if other.job.Deployment.Repository == d.Repository {
				say("%s and %s of one repository ran at once", d.ID, other.job.Deployment.ID)
			}
		}
		if busy >= policy.Limit() {
			say("%s began as number %d, the limit is %d", d.ID, busy+1, policy.Limit())
		}
		if d.Generation < newest[d.Watch] {
			say("%s began generation %d of %s after %d", d.ID, d.Generation, d.Watch, newest[d.Watch])
		}
		newest[d.Watch] = max(newest[d.Watch], d.Generation)
		if o, over := ends[d.ID]; over && o.Status != sentry.Interrupted {
			// It may have ended, and the process died before that was saved: then its state was running.
			if e.job.Rollout.Attempt < 2 {
				say("%s began again after it had ended as %s", d.ID, o.Status)
			}
		}
		starts[d.ID]++
		live[d.ID] = e
	}
	for id := range live {
		say("%s began and neither ended nor was killed", id)
	}
	for _, r := range rollouts {
		for _, d := range r.Deployments {
			if starts[d.ID] > d.Attempt {
				say("%s began %d times, its attempt is %d", d.ID, starts[d.ID], d.Attempt)
			}
			if d.Attempt > th.deaths+1 {
				say("%s has attempt %d after %d deaths", d.ID, d.Attempt, th.deaths)
			}
			switch o, over := ends[d.ID]; {
			case (d.Status == sentry.Succeeded || d.Status == sentry.Failed) && d.Commit != "" && (!over || o.Status != d.Status):
				say("%s is %s, the witness saw %q", d.ID, d.Status, o.Status)
			case d.Status == sentry.Skipped && starts[d.ID] > 0:
				say("%s is skipped, and began", d.ID)
			}
		}
	}
}

// judgeState checks that each move of a head is in exactly one rollout, and that the newest was not forgotten.
func (th *theatre) judgeState(rollouts map[string]sentry.Rollout, say func(string, ...any)) {
	turns := map[sentry.Watch][]int64{}
	answered := map[sentry.Watch][]int64{}
	for _, r := range rollouts {
		want, _ := Verdict(r.Deployments)
		unfinished := slices.ContainsFunc(r.Deployments, func(d sentry.Deployment) bool {
			return d.Status == sentry.Skipped || d.Status == sentry.Interrupted
		})
		switch gaveUp := r.Status == sentry.Interrupted || r.Status == sentry.TimedOut; {
		case len(r.Deployments) == 0, r.Status == want && (want != sentry.Succeeded || !unfinished):
		case gaveUp && unfinished: // the deadline, or a death, kept something from beginning
		default:
			say("rollout %s is %s, its deployments say %s", r.ID, r.Status, want)
		}
		for _, c := range r.Trigger.Changes {
			answered[c.Watch] = append(answered[c.Watch], c.Generation)
		}
		for _, v := range r.Vector {
			if v.Changed {
				turns[v.Watch] = append(turns[v.Watch], v.Generation)
			}
		}
	}
	for _, w := range modelWatches {
		slices.Sort(answered[w])
		for i, g := range answered[w] {
			if g != int64(i)+2 { // generation 1 is the baseline
				say("the moves of %s are answered as %v: each should be, once", w, answered[w])
				break
			}
		}
		if n := int64(len(answered[w])) + 1; n != th.heads[w] {
			say("%s moved to generation %d, and %d is the last that a rollout answered", w, th.heads[w], n)
		}
		slices.Sort(turns[w])
		if len(slices.Compact(slices.Clone(turns[w]))) != len(turns[w]) {
			say("%s has several rollouts for one generation: %v", w, turns[w])
		}
		if th.policies[groupOfWatch(w)].Queue == sentry.Every && int64(len(turns[w])) > th.heads[w]-1 {
			say("%s has more turns than moves: %v", w, turns[w])
		}
	}
}
