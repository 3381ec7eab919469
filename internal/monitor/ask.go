package monitor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"sentry/internal/sentry"
)

// end is what a question came to for one repository. The zero end: it was answered, and nothing at all has changed.
type end struct {
	err   error
	fault *sentry.Fault // of the other side; nil where it is not to blame for err
	j     *judgement    // nil: nothing at all has changed
	left  doubts        // what remains in doubt where j cannot be recorded, or there is none
	again bool          // the answer cannot be used: it is to be asked once more, for itself
	way   string        // it was asked otherwise than before; "" where it was not, or was asked for itself
	why   string        // it was
}

// work asks one question after the other for as long as a place is free for it.
func (m *Monitor) work(ctx context.Context, q *question) {
	for more := true; more; {
		more = m.check(ctx, q)
	}
	m.questions.Put(q)
}

// check puts one question and sees it through: its answers are judged, and what moved is recorded. It reports whether q is
// now the question that its place is used for next; it is not where recording took its time, and the loop has given the
// place away.
func (m *Monitor) check(ctx context.Context, q *question) bool {
	q.lesson = lesson{}
	m.complete(ctx, q)
	m.put(ctx, q)
	took := m.now() - q.asked
	moved := 0
	for i := range q.items {
		e := m.understand(ctx, &q.items[i], &q.answers[i])
		if it, way := &q.items[i], q.answers[i].Way; e.err == nil && !it.full && way != "" && way != it.way {
			e.way, e.why = way, m.options.Ask.Explain(it.config)
		}
		if q.ends = append(q.ends, e); e.moves() {
			moved++
		}
	}
	m.mu.Lock()
	now := m.now()
	if q.hot && len(q.items) > 0 {
		q.charge(max(0, took-q.answers[0].Waited), now)
	}
	for i := range q.items {
		if e := &q.ends[i]; !e.moves() {
			m.settle(ctx, q.items[i].repository, e, now)
		}
	}
	if moved > 0 {
		m.mu.Unlock()
		m.report(ctx, q)
		q.clear()
		return false
	}
	defer m.mu.Unlock()
	m.release(q, now)
	q.clear()
	return ctx.Err() == nil && m.next(now, q)
}

// clear forgets what a question was about, and keeps its room.
func (q *question) clear() {
	clear(q.items)
	clear(q.asks)
	clear(q.answers)
	clear(q.ends)
	clear(q.bells)
	q.items, q.asks, q.answers, q.ends, q.bells = q.items[:0], q.asks[:0], q.answers[:0], q.ends[:0], q.bells[:0]
}

// complete reads the recorded heads of those that came with a new configuration. Those of which they cannot be read are
// not asked.
func (m *Monitor) complete(ctx context.Context, q *question) {
	var missing []*repository
	for i := range q.items {
		if !q.items[i].loaded {
			missing = append(missing, q.items[i].repository)
		}
	}
	if missing == nil {
		return
	}
	err := m.load(ctx, missing)
	if err == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	kept := q.items[:0]
	for _, it := range q.items {
		if it.loaded {
			kept = append(kept, it)
			continue
		}
		m.settle(ctx, it.repository, &end{err: err, left: it.doubts}, m.now())
	}
	clear(q.items[len(kept):])
	q.items = kept
}

// put asks for the branches, for as long as one question may take, and learns what the answers teach about the lane.
func (m *Monitor) put(ctx context.Context, q *question) {
	if len(q.items) == 0 {
		q.lesson.add(&sentry.Fault{Kind: given, Err: errors.New("nobody was asked")})
		return
	}
	for i := range q.items {
		q.asks = append(q.asks, Ask{q.items[i].config, q.items[i].full})
		q.answers = append(q.answers, Answer{})
	}
	limited := m.term.within(ctx, m.options.Deadline)
	m.options.Ask.Heads(limited, q.asks, q.answers)
	late := limited.Err() != nil && ctx.Err() == nil
	for i := range q.answers {
		a := &q.answers[i]
		if a.Err == nil {
			q.lesson.add(nil)
			continue
		}
		var fault *sentry.Fault
		switch {
		case ctx.Err() != nil: // the monitor ends: nobody failed
			fault = &sentry.Fault{Kind: given, Err: a.Err}
		case late && errors.Is(a.Err, context.DeadlineExceeded):
			fault = &sentry.Fault{Kind: sentry.Transient, Err: fmt.Errorf("no answer within %v: %w", m.options.Deadline, a.Err)}
		default:
			fault = sentry.AsFault(a.Err)
		}
		a.Err = fault
		q.lesson.add(fault)
	}
}

// term is the time of questions that begin within a moment. To make a context with a timer, and to hang up in it what ends
// a connection, takes a tenth of all that a question does: the many questions of one waking share one.
type term struct {
	mu    sync.Mutex
	of    context.Context
	begun time.Time
	ctx   context.Context
	end   context.CancelFunc
}

// terms is what part of its time a question may lose to those that began before it.
const terms = 64

// within gives a context that ends with ctx, or when the time is over, of which a small part may be over already.
func (t *term) within(ctx context.Context, limit time.Duration) context.Context {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); t.of != ctx || now.Sub(t.begun) >= limit/terms {
		t.of, t.begun = ctx, now
		t.ctx, t.end = context.WithTimeout(ctx, limit) // the one before ends by itself: it may be in use
	}
	return t.ctx
}

// close gives back the timer. No question is under way any more.
func (t *term) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.end != nil {
		t.end()
	}
	t.of, t.ctx, t.end = nil, nil, nil
}

// understand decides what an answer means.
func (m *Monitor) understand(ctx context.Context, it *item, a *Answer) end {
	settled := it.judged && it.since == never
	switch {
	case a.Err != nil:
		fault := sentry.AsFault(a.Err)
		return end{err: fault, fault: fault, left: it.doubts}
	case a.Same && it.full:
		fault := &sentry.Fault{Kind: sentry.Invalid, Err: errors.New("it was asked where its branches are, and the answer is that they have not moved")}
		return end{err: fault, fault: fault, left: it.doubts}
	case a.Same && !settled: // as what?
		return end{again: true, left: it.doubts}
	case a.Same, settled && unchanged(it.heads, it.live, a.Heads):
		return end{left: it.doubts}
	}
	evidence := m.evidence(it, a.Heads)
	j, err := judge(evidence, a.Heads, func(branch, commit string) (bool, error) {
		return m.options.Store.Recorded(ctx, sentry.Watch{Repository: it.config.Name, Branch: branch}, commit)
	})
	var fault *sentry.Fault
	switch {
	case errors.As(err, &fault):
		return end{err: err, fault: fault, left: it.doubts}
	case err != nil:
		return end{err: fmt.Errorf("cannot tell whether a commit was recorded before: %w", err), left: evidence.doubts}
	}
	return end{j: &j, left: evidence.doubts}
}

// moves reports whether something is to be recorded.
func (e *end) moves() bool { return e.err == nil && e.j != nil && len(e.j.moves) > 0 }

func (m *Monitor) evidence(it *item, answer map[string]string) evidence {
	return evidence{
		repository: it.config.Name,
		group:      it.group.Name,
		heads:      it.heads,
		doubts:     it.doubts.against(answer),
		absent:     it.absent,
		patterns:   it.config.Monitor.Branches,
		interval:   max(time.Millisecond, it.config.Monitor.Interval),
		asked:      it.asked,
		now:        m.now(),
		branches:   m.options.Branches,
	}
}

// settle ends a question for a repository of which nothing is to be recorded. The caller holds m.mu.
func (m *Monitor) settle(ctx context.Context, r *repository, e *end, now time.Duration) {
	switch {
	case e.err == nil && e.again && !r.gone:
		r.fresh = true
		m.enqueue(r, now)
	case e.err == nil:
		m.accept(r, e, now)
	case ctx.Err() != nil: // the monitor ends: nobody failed
		m.rest(r, forever, ctx.Err())
	case e.fault == nil:
		r.doubt(e.left)
		m.fail(r, unrecorded, e.err, now)
	default:
		m.fail(r, e.fault.Kind, e.err, now)
	}
}

// accept takes over what was judged, and plans the next question. The caller holds m.mu, and has recorded the moves.
func (m *Monitor) accept(r *repository, e *end, now time.Duration) {
	if r.gone {
		m.rest(r, forever, errReplaced)
		return
	}
	if r.trouble != nil {
		m.sayAnswers(r, now)
	}
	r.trouble, r.failures, r.answered = nil, 0, now
	if e.way != "" {
		r.way = e.way
		m.say(sentry.Decision{Verb: sentry.Answering, Group: r.group.Name, Repository: r.config.Name, Reason: e.why})
	}
	active, hot := false, r.hastened
	if j := e.j; j != nil {
		for i := range j.moves {
			// First sights are not activity: all of them come at the first start.
			active = active || j.moves[i].kind != sighted || r.judged
		}
		r.heads, r.live, r.judged = j.heads, countLive(j.heads), true
		r.absent = j.absent
		r.doubt(j.doubts)
		m.say(j.said...)
	}
	switch {
	case active:
		r.polls, r.changed = 0, now
		m.simmer(r, now)
	case !hot && r.polls < cold:
		r.polls++
	}
	var at time.Duration
	switch interval := r.interval(); {
	case r.since != never:
		at = late(now, doubting(interval, r.since, now))
	case r.spread:
		at = early(now, second(interval, m.options.Rand.Float64()))
	default:
		at = early(now, usual(interval, now-r.changed, r.polls, m.options.Rand.Float64()))
	}
	r.spread = false
	m.rest(r, at, nil)
}

// fail notes that a question came to nothing, and plans the next. The caller holds m.mu.
func (m *Monitor) fail(r *repository, kind sentry.FaultKind, err error, now time.Duration) {
	if r.gone {
		m.rest(r, forever, errReplaced)
		return
	}
	if r.trouble == nil {
		r.failing = now
	}
	r.failures++
	m.cool(r)
	before := r.trouble
	r.trouble = &trouble{kind, cut(err.Error(), 500)}
	if before == nil || before.kind != kind {
		m.sayFails(r, errors.As(err, new(announced)))
	}
	interval := r.interval()
	wait := retry(interval, int(r.failures), m.options.Rand.Float64())
	gap := min(briskFloor, interval/4)
	if kind == sentry.Unauthorized {
		wait, gap = max(wait, refusedGap), refusedGap
	}
	r.notAgain = max(r.notAgain, late(now, gap))
	m.rest(r, late(now, wait), err)
}

// announced marks errors whose cause the log was warned of already, as it is not one repository's alone: a credential that
// is refused, say.
type announced interface{ Announced() }

// errReplaced is for a pass that waits for a repository whose configuration has changed meanwhile.
var errReplaced = errors.New("its configuration has changed meanwhile")
