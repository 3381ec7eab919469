package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// Asker puts questions to the other side. Its errors are *sentry.Fault where the other side is to blame. It must return
// soon after its context has ended: Run waits for it.
type Asker interface {
	// Lane says with whom a repository may be asked in one question. The key stays the same as long as the configuration
	// of the repository does; the rest is asked for again before each question. It is called with locks held: it must not
	// wait for anything.
	Lane(repository *config.Repository) Lane
	// Heads puts one question about repositories of one lane: answers[i] is to be what asks[i] comes to. It keeps neither.
	Heads(ctx context.Context, asks []Ask, answers []Answer)
	// Revision tells more of a commit that Heads gave.
	Revision(ctx context.Context, repository *config.Repository, branch, commit string) (sentry.Revision, error)
	// Explain tells people why a repository is asked the way it is.
	Explain(repository *config.Repository) string
}

// UsualWay is the Answer.Way of which nothing needs to be told.
const UsualWay = "ls-refs"

// Lane says with whom a repository may be asked in one question.
type Lane struct {
	Key   string // what shares a breaker, pauses and places
	Batch int    // repositories that one question may cover; 1, or less, is one by one
	Sweep bool   // one question covers all of the lane, however many
	// AtOnce is how many questions may be out at a time where that is less than what is usual; 0: what is usual.
	AtOnce int
}

// Ask is one repository of a question. One that is asked in full is alone in it, and is to be asked itself, by the freshest
// way.
type Ask struct {
	*config.Repository
	Full bool
}

// Answer is what a question came to for one repository.
type Answer struct {
	Heads map[string]string // branch → commit, of those that match the patterns
	Same  bool              // nothing has moved since the last answer with Heads, in place of them; not where Full was asked
	Err   error             // in place of both
	Way   string            // how it was asked, for people
	// Waited is how long it took until the other side was asked: that is no time of the other side's.
	Waited time.Duration
}

// Store is what the monitor needs of store.Store.
type Store interface {
	Heads(ctx context.Context) ([]sentry.Head, error)
	HeadsOf(ctx context.Context, repositories ...string) ([]sentry.Head, error)
	Recorded(ctx context.Context, watch sentry.Watch, commit string) (bool, error)
	RecordChanges(ctx context.Context, observations []store.Observation) ([]store.Outcome, error)
	Decide(ctx context.Context, decisions ...sentry.Decision) error
}

// Options are what a Monitor is made of. Store and Ask are required.
type Options struct {
	Store Store
	Ask   Asker
	Log   *slog.Logger // nil: nothing is logged
	Rand  *rand.Rand   // source of jitter; nil: seeded by chance

	PerLane  int           // questions that one lane gets at a time; 0 = 8
	Total    int           // questions that are out at a time; 0 = 64. Those out for over 2 s count no longer, up to 4 times as many
	Deadline time.Duration // of one question; 0 = 30 s
	Failures int           // in a row that open the breaker of a lane; 0 = 5
	Branches int           // that one repository may show; 0 = 50,000. More is an answer that is not believed
}

// Bounds that nobody needs to set.
const (
	slow          = 2 * time.Second       // a question that is out longer gives its place to others: a dead server holds up none
	slowFactor    = 4                     // as many times Total may be out that are slow
	maxRecording  = 1024                  // questions whose moves are being recorded at once: the store makes few transactions of them
	maxDescribing = 8                     // questions for revisions that are out at once
	describeEvery = 50 * time.Millisecond // and so often at most in the long run
	describeBurst = 40                    // but so many after some quiet
	describeLimit = 5 * time.Second
	large         = 1000 // repositories, from which on it is worth a collection to give memory back
)

// Monitor watches branches. All its methods may be called at the same time, except that Run and Once exclude each other.
type Monitor struct {
	options Options
	start   time.Time // moments are counted from here

	wake chan struct{} // size one: the first alarm has changed, or a place is free
	told chan struct{} // size one: there are decisions to be kept

	// recorders is held by 1 while what moved is being recorded and in full by Update: after a change of the
	// configuration nothing is recorded that was asked or grouped by the former one.
	recorders  *semaphore.Weighted
	describers *semaphore.Weighted
	revisions  *rate.Limiter // many moves at once are recorded without author and subject rather than late
	questions  sync.Pool     // of *question, that are not in use
	term       term          // of the questions that begin now

	mu           sync.Mutex // guards all below, and what hangs on it
	repositories map[string]*repository
	order        []*repository // as configured; replaced, never changed
	lanes        map[string]*lane
	allowances   map[string]*allowance // by origin
	hot          []*heat               // all that are
	warm         map[string]bool       // groups of which a rollout is running
	alarms       alarms
	relief       alarm         // when the oldest question becomes slow; set while all places are taken
	ready        []*lane       // that have somebody waiting and a place free, in turn
	out          []*question   // that are being asked
	busy         bool          // Run or Once goes on
	running      bool          // Run goes on, and the repositories have been scheduled
	pass         *pass         // of the Once that goes on
	armed        time.Duration // when the loop wakes by itself
	decisions    []sentry.Decision
	lost         int // decisions that found no room
}

// New makes a monitor that watches nothing yet.
func New(o Options) *Monitor {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Rand == nil {
		o.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	o.PerLane = orDefault(o.PerLane, 8)
	o.Total = orDefault(o.Total, 64)
	o.Deadline = orDefault(o.Deadline, 30*time.Second)
	o.Failures = orDefault(o.Failures, 5)
	o.Branches = orDefault(o.Branches, 50_000)
	return &Monitor{
		options:      o,
		start:        time.Now(),
		wake:         make(chan struct{}, 1),
		told:         make(chan struct{}, 1),
		recorders:    semaphore.NewWeighted(maxRecording),
		describers:   semaphore.NewWeighted(maxDescribing),
		revisions:    rate.NewLimiter(rate.Every(describeEvery), describeBurst),
		questions:    sync.Pool{New: func() any { return new(question) }},
		repositories: map[string]*repository{},
		lanes:        map[string]*lane{},
		allowances:   map[string]*allowance{},
		armed:        forever,
	}
}

func orDefault[T int | time.Duration](value, otherwise T) T {
	if value > 0 {
		return value
	}
	return otherwise
}

// now is the moment by the monotonic clock.
func (m *Monitor) now() time.Duration { return time.Since(m.start) }

// Run watches until ctx ends, and returns nil when the last question has ended then. An error tells that it could not
// begin: the recorded heads cannot be read, or Run or Once goes on already.
func (m *Monitor) Run(ctx context.Context) error {
	if err := m.begin(nil); err != nil {
		return err
	}
	defer m.finish()
	if err := m.loadAll(ctx); err != nil {
		return err
	}

	m.mu.Lock()
	m.running = true
	m.plan(m.order, m.now())
	n := len(m.order)
	m.mu.Unlock()
	if n > large {
		// The heads as the store has them take three times what is kept of them. The collector would reckon with as much
		// from now on, and need not: nothing like it is allocated again.
		debug.FreeOSMemory()
	}

	m.drive(ctx)
	return nil
}

// Once takes cfg and asks the named repositories, or all of them, one time each and now; it returns when what moved is
// recorded. A lane that wants to be left alone is not asked: that is an error of its repositories. The error joins those
// of the repositories, in the order of the configuration. A head that is doubted is not recorded by one call: it takes
// another, an interval later.
func (m *Monitor) Once(ctx context.Context, cfg *config.Config, repositories ...string) error {
	p := &pass{errors: map[*repository]error{}}
	if err := m.begin(p); err != nil {
		return err
	}
	defer m.finish()
	m.Update(cfg)
	if err := m.choose(p, repositories); err != nil {
		return err
	}
	if err := m.load(ctx, p.chosen); err != nil {
		return err
	}

	m.mu.Lock()
	now := m.now()
	for _, r := range p.chosen {
		r.due = now
		m.schedule(r, now)
	}
	m.mu.Unlock()

	m.drive(ctx)
	return p.err(ctx)
}

// pass is one Once: what it waits for, and what it found. Monitor.mu guards it.
type pass struct {
	chosen []*repository
	left   int
	errors map[*repository]error
}

// choose marks the repositories that the pass waits for.
func (m *Monitor) choose(p *pass, names []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	wanted := map[*repository]bool{}
	for _, name := range names {
		r := m.repositories[name]
		if r == nil {
			return fmt.Errorf("cannot ask repository %s: it is not configured", name)
		}
		wanted[r] = true
	}
	for _, r := range m.order {
		if len(names) == 0 || wanted[r] {
			p.chosen = append(p.chosen, r)
			r.counted = true
		}
	}
	p.left = len(p.chosen)
	return nil
}

func (p *pass) err(ctx context.Context) error {
	var all []error
	for _, r := range p.chosen {
		if err := p.errors[r]; err != nil {
			all = append(all, fmt.Errorf("repository %s: %w", r.config.Name, err))
		}
	}
	if ctx.Err() != nil {
		all = append(all, context.Cause(ctx))
	}
	return errors.Join(all...)
}

// begin and finish enclose Run and Once.
func (m *Monitor) begin(p *pass) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.busy {
		return errors.New("the monitor is running already")
	}
	m.busy, m.pass = true, p
	return nil
}

func (m *Monitor) finish() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.order {
		r.alarm.leave()
		m.cool(r)
		r.phase, r.counted, r.hinted, r.hastened = resting, false, false, false
	}
	for _, l := range m.lanes {
		l.wake.leave()
		l.listed = false
	}
	m.relief.leave()
	m.ready, m.armed = nil, forever
	m.busy, m.running, m.pass = false, false, nil
}

// drive is the loop of both Run and Once: it starts what is due and waits for what comes next. It returns when ctx or the
// pass has ended and everything that it started as well.
func (m *Monitor) drive(ctx context.Context) {
	var keeping, asking sync.WaitGroup
	ended := make(chan struct{})
	keeping.Go(func() { m.keepLedger(ctx, ended) })
	defer keeping.Wait()
	defer close(ended)
	defer m.term.close()
	defer asking.Wait()

	// A goroutine without a question waits here for one. A new one would begin with a small stack, and have it copied again
	// and again on the way down to the network: a tenth of what a question costs.
	idle := make(chan *question)
	defer close(idle)
	ask := func(q *question) {
		select {
		case idle <- q:
		default:
			asking.Go(func() {
				for more := true; more; q, more = <-idle {
					m.work(ctx, q)
				}
			})
		}
	}

	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		wait, done := m.turn(ask)
		if done {
			return
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-m.wake:
		}
	}
}

// turn starts all questions that may be asked now, and tells how long it is until the next. It never waits.
func (m *Monitor) turn(ask func(*question)) (wait time.Duration, done bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	m.armed = never // whatever is set in this turn is seen below: the loop need not be woken for it
	m.ring(now)
	q := m.questions.Get().(*question)
	for ; m.next(now, q); q = m.questions.Get().(*question) {
		ask(q)
	}
	m.questions.Put(q)
	m.armed = m.alarms.moment()
	return max(0, m.armed-now), m.pass != nil && m.pass.left == 0
}

// Hint makes a repository due now, and hot; it returns at once. It is for those who heard that something moved, which may
// be before it can be seen. Any number of hints before the next question are one; hints that come during a question are one
// more question after it. They never shorten a pause that a lane or refused credentials require.
func (m *Monitor) Hint(repository string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.repositories[repository]
	if r == nil || !m.running {
		return // all are asked when Run begins
	}
	now := m.now()
	if m.heatUp(r, now); r.heat != nil {
		r.heat.hinted = true
	}
	switch r.phase {
	case scheduled:
		r.fresh = true
		m.schedule(r, now)
	case waiting:
		if !r.fresh { // else it is where it should be
			r.fresh = true
			m.schedule(r, now)
		}
	case asking, recording:
		r.hinted = true
	}
}

// Renewed makes repositories due, those of them whose credentials were refused: there are others now, so that what was
// refused says nothing any more. Many are spread over some time.
func (m *Monitor) Renewed(repositories ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.running {
		return
	}
	now := m.now()
	for _, name := range repositories {
		r := m.repositories[name]
		if r == nil || r.trouble == nil || r.trouble.kind != sentry.Unauthorized {
			continue
		}
		r.notAgain = never
		switch r.phase {
		case scheduled:
			r.due = min(r.due, now+afterPause(r.interval(), len(repositories), m.options.Rand.Float64()))
			m.schedule(r, now)
		case asking, recording:
			r.hinted = true
		}
	}
}

// schedule plans the next question of a repository: when it is due, or before, where it is hot. The caller holds m.mu.
func (m *Monitor) schedule(r *repository, now time.Duration) {
	at := m.hotMoment(r, now)
	if r.hastened = at < r.due || r.fresh && at <= now; !r.hastened {
		at = r.due
	}
	m.setAlarm(r, at)
}

// setAlarm sets the alarm of a repository. The caller holds m.mu.
func (m *Monitor) setAlarm(r *repository, at time.Duration) {
	r.phase = scheduled
	if l := r.lane; !l.shares() || r.full() {
		m.alarms.set(&r.alarm, at)
	} else {
		l.soon.set(&r.alarm, at)
		if at = l.soon.moment(); l.wake.in != nil && l.wake.at <= at {
			return
		}
		m.alarms.set(&l.wake, at)
	}
	if at < m.armed {
		nudge(m.wake)
	}
}

// plan schedules repositories that are not scheduled yet. The caller holds m.mu.
func (m *Monitor) plan(list []*repository, now time.Duration) {
	for _, r := range list {
		r.spread = len(list) > few && !r.lane.sweep && r.lane.members > r.lane.batch
		r.due = early(now, first(r.interval(), len(list), m.options.Rand.Float64()))
		if m.warm[r.group.Name] {
			m.heatUp(r, now)
		}
		m.schedule(r, now)
	}
}

// nudge puts a token into a channel of size one, unless one is there.
func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
