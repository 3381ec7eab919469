package monitor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sentry/internal/sentry"
)

// work asks one repository after the other for as long as a place is free for it.
func (m *Monitor) work(ctx context.Context, q question) {
	for more := true; more && ctx.Err() == nil; {
		q, more = m.check(ctx, q)
	}
}

// check puts one question and sees it through: its answer is judged, and what moved is recorded. It gives the question
// that its place is used for next; none where recording took its time, and the loop has given the place away.
func (m *Monitor) check(ctx context.Context, q question) (question, bool) {
	if !q.loaded { // it came with a new configuration
		if err := m.load(ctx, []*repository{q.repository}); err != nil {
			return m.failed(ctx, q, nil, err)
		}
	}
	answer, err := m.heads(ctx, q)
	if err != nil {
		return m.failed(ctx, q, sentry.AsFault(err), err)
	}
	if q.judged && q.since == never && unchanged(q.heads, q.live, answer) {
		return m.settled(ctx, q, nil)
	}
	e := m.evidence(q, answer)
	j, err := judge(e, answer, func(branch, commit string) (bool, error) {
		return m.options.Store.Recorded(ctx, sentry.Watch{Repository: q.config.Name, Branch: branch}, commit)
	})
	var fault *sentry.Fault
	switch {
	case errors.As(err, &fault):
		return m.failed(ctx, q, fault, err)
	case err != nil:
		m.mu.Lock()
		q.doubt(e.doubts)
		m.mu.Unlock()
		return m.failed(ctx, q, nil, fmt.Errorf("cannot tell whether a commit was recorded before: %w", err))
	case len(j.moves) == 0:
		return m.settled(ctx, q, &j)
	}
	m.record(ctx, q, e.doubts, &j, m.describe(ctx, q, j.moves))
	return question{}, false
}

// heads asks for the branches, for as long as one question may take.
func (m *Monitor) heads(ctx context.Context, q question) (map[string]string, error) {
	limited, cancel := context.WithTimeout(ctx, m.options.Deadline)
	defer cancel()
	answer, err := m.options.Ask.Heads(limited, q.config)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return nil, sentry.Faultf(sentry.Transient, "no answer within %v: %w", m.options.Deadline, err)
	}
	return answer, err
}

func (m *Monitor) evidence(q question, answer map[string]string) evidence {
	return evidence{
		repository: q.config.Name,
		group:      q.group.Name,
		heads:      q.heads,
		doubts:     q.doubts.against(answer),
		absent:     q.absent,
		patterns:   q.config.Monitor.Branches,
		interval:   max(time.Millisecond, q.config.Monitor.Interval),
		asked:      q.asked,
		now:        m.now(),
		branches:   m.options.Branches,
	}
}

// failed ends a question that brought nothing. fault is nil where the other side is not to blame for err.
func (m *Monitor) failed(ctx context.Context, q question, fault *sentry.Fault, err error) (question, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	switch {
	case ctx.Err() != nil: // the monitor ends: nobody failed
		m.release(q, &sentry.Fault{Kind: given, Err: err}, now)
		m.rest(q.repository, forever, ctx.Err())
		return question{}, false
	case fault == nil:
		m.release(q, &sentry.Fault{Kind: given, Err: err}, now)
		m.fail(q.repository, unrecorded, err, now)
	default:
		m.release(q, fault, now)
		m.fail(q.repository, fault.Kind, err, now)
	}
	return m.next(now)
}

// settled ends a question with nothing to record. j is nil where nothing at all has changed.
func (m *Monitor) settled(ctx context.Context, q question, j *judgement) (question, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	m.release(q, nil, now)
	m.accept(q.repository, j, now)
	if ctx.Err() != nil {
		return question{}, false
	}
	return m.next(now)
}

// accept takes over what was judged, and plans the next question. The caller holds m.mu, and has recorded the moves.
func (m *Monitor) accept(r *repository, j *judgement, now time.Duration) {
	if r.gone {
		m.rest(r, forever, errReplaced)
		return
	}
	if r.trouble != nil {
		m.sayAnswers(r, now)
	}
	r.trouble, r.failures, r.answered = nil, 0, now
	active := false
	if j != nil {
		for i := range j.moves {
			// First sights are not activity: all of them come at the first start.
			active = active || j.moves[i].kind != sighted || r.judged
		}
		r.heads, r.live, r.judged = j.heads, countLive(j.heads), true
		r.absent = j.absent
		r.doubt(j.doubts)
		m.say(j.said...)
	}
	if active {
		r.polls, r.changed = 0, now
	} else if r.polls < cold {
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
	before := r.trouble
	r.trouble = &trouble{kind, cut(err.Error(), 500)}
	if before == nil || before.kind != kind {
		m.sayFails(r)
	}
	interval := r.interval()
	wait := retry(interval, r.failures, m.options.Rand.Float64())
	gap := min(hotFloor, interval/4)
	if kind == sentry.Unauthorized {
		wait, gap = max(wait, refusedGap), refusedGap
	}
	r.notAgain = max(r.notAgain, late(now, gap))
	m.rest(r, late(now, wait), err)
}

// errReplaced is for a pass that waits for a repository whose configuration has changed meanwhile.
var errReplaced = errors.New("its configuration has changed meanwhile")
