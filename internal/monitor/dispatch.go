package monitor

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/sony/gobreaker/v2"

	"sentry/internal/config"
	"sentry/internal/sentry"
)

// The functions of this file are called with Monitor.mu held. They do no I/O and start nothing.

// question is what a goroutine is given to ask some repositories of a lane. It is used again and again.
type question struct {
	lane  *lane
	asked time.Duration // when it began
	seat  int           // in Monitor.out
	done  func(error)   // tells the breaker how it ended
	hot   bool          // it is put only because its repository is hot
	items []item

	asks    []Ask
	answers []Answer
	ends    []end // of each item
	lesson  lesson
	bells   []*bell // room to look for whom to take along
}

// item is one repository of a question.
type item struct {
	*repository
	config *config.Repository // this and group as they were when the question began
	group  *config.Group
	full   bool
}

// ring puts everything that is due into the queue of its lane.
func (m *Monitor) ring(now time.Duration) {
	for due := m.alarms.next(); due != nil && due.at <= now; due = m.alarms.next() {
		due.leave()
		switch {
		case due.repository != nil:
			m.enqueue(due.repository, now)
		case due.lane != nil:
			soon := &due.lane.soon
			for x := soon.next(); x != nil && x.at <= now; x = soon.next() {
				x.leave()
				m.enqueue(x.repository, now)
			}
			if at := soon.moment(); at != forever {
				m.alarms.set(due, at)
			}
		}
	}
}

// enqueue makes a repository wait for its lane; while that is to be left alone, until it no longer is.
func (m *Monitor) enqueue(r *repository, now time.Duration) {
	l := r.lane
	if l.quiet <= now {
		r.phase = waiting
		switch {
		case r.hastened:
			l.hot.add(&r.alarm)
		case r.full():
			l.alone.add(&r.alarm)
		default:
			l.together.add(&r.alarm)
		}
		m.list(l)
		return
	}
	if r.counted {
		m.rest(r, forever, sentry.Faultf(sentry.Transient, "not asked: %s is left alone for %v: %s", l.key, (l.quiet-now).Round(time.Second), l.reason))
		return
	}
	r.due = l.quiet + afterPause(r.interval(), l.members, m.options.Rand.Float64())
	m.schedule(r, now)
}

// list puts a lane into the turn where one of its repositories may be asked.
func (m *Monitor) list(l *lane) {
	if !l.listed && l.mayAsk(m.options.PerLane) {
		l.listed = true
		m.ready = append(m.ready, l)
	}
}

// next fills in the question to be asked now, and takes its places; it reports whether there is one. Lanes take turns.
func (m *Monitor) next(now time.Duration, q *question) bool {
	for len(m.ready) > 0 && m.room(now) {
		l := m.ready[0]
		m.ready = m.ready[1:]
		l.listed = false
		if !l.mayAsk(m.options.PerLane) {
			continue // what waited has gone, or the lane has fallen silent
		}
		m.spareHot(l, now)
		r := l.pop()
		if r == nil {
			continue
		}
		done, err := l.breaker.Allow()
		if err != nil {
			// The breaker's clock is a few microseconds behind ours.
			m.hush(l, now, now+time.Millisecond, l.reason)
			m.enqueue(r, now)
			continue
		}
		q.lane, q.asked, q.done, q.seat, q.hot = l, now, done, len(m.out), r.hastened
		m.fill(q, r)
		l.active++
		m.list(l)
		m.out = append(m.out, q)
		return true
	}
	return false
}

// spareHot takes those off the queue that are due only because they are hot, where the lane is to be spared.
func (m *Monitor) spareHot(l *lane, now time.Duration) {
	for l.hot.n > 0 && !(l.well() && l.allowance.now(now) > 0) {
		m.spare(l.hot.first.repository, now)
	}
}

// fill puts the repository that has waited longest into a question, and others that may come along: those that are due, as
// long as there is room, and then those that will be soonest. A sweep takes them all.
func (m *Monitor) fill(q *question, first *repository) {
	l := q.lane
	l.are(m.options.Ask.Lane(first.config))
	q.take(first)
	if q.items[0].full || !l.shares() {
		return
	}
	for x := l.together.first; x != nil && (l.sweep || len(q.items) < l.batch); x = l.together.first {
		x.leave()
		if r := x.repository; r.full() { // it was not when it came
			l.alone.add(x)
		} else {
			q.take(r)
		}
	}
	if !l.sweep && len(q.items) >= l.batch {
		return
	}
	q.bells = l.soon.inOrder(q.bells)
	for _, b := range q.bells {
		for x, next := b.first, (*alarm)(nil); x != nil; x = next {
			next = x.next
			r := x.repository
			if r.full() || r.notAgain > q.asked || !l.sweep && x.at-q.asked > ahead(r.interval()) {
				continue
			}
			x.leave()
			if q.take(r); !l.sweep && len(q.items) >= l.batch {
				return
			}
		}
	}
}

// take puts a repository into a question.
func (q *question) take(r *repository) {
	q.items = append(q.items, item{r, r.config, r.group, r.full()})
	r.phase, r.asked, r.fresh = asking, q.asked, false
}

// room reports whether one more question may be out. Those that are slow have given their places to others, so that
// servers which do not answer cannot take all of them.
func (m *Monitor) room(now time.Duration) bool {
	if len(m.out) < m.options.Total {
		return true
	}
	young, oldest := 0, now
	for _, q := range m.out {
		if now-q.asked < slow {
			young++
			oldest = min(oldest, q.asked)
		}
	}
	if young < m.options.Total && len(m.out) < m.options.Total*(1+slowFactor) {
		return true
	}
	if young > 0 {
		m.alarms.set(&m.relief, oldest+slow)
		if oldest+slow < m.armed {
			nudge(m.wake)
		}
	}
	return false
}

// release gives the places of a question back and draws the lessons of its end for the lane.
func (m *Monitor) release(q *question, now time.Duration) {
	last := len(m.out) - 1
	m.out[q.seat] = m.out[last]
	m.out[q.seat].seat = q.seat
	m.out[last], m.out = nil, m.out[:last]

	l := q.lane
	l.active--
	before := l.state
	q.done(q.lesson.verdict())
	pause := l.learn(q.lesson, now)
	if l.state == gobreaker.StateOpen && before != gobreaker.StateOpen {
		pause = max(pause, l.openFor+time.Millisecond)
	}
	switch {
	case pause > 0:
		if !l.silent {
			m.sayLane(l, slog.LevelWarn, fmt.Sprintf("left alone for %v, then asked one question at a time: %v", pause.Round(time.Second), q.lesson.fault))
		}
		l.silent = true
		m.hush(l, now, now+pause, q.lesson.fault.Error())
	case l.silent && l.state == gobreaker.StateClosed && l.limited == 0:
		l.silent = false
		m.sayLane(l, slog.LevelInfo, "well again")
	}
	m.list(l)
}

// hush leaves a lane alone until a later moment: what waits for it is scheduled anew.
func (m *Monitor) hush(l *lane, now, until time.Duration, reason string) {
	if until <= l.quiet {
		return
	}
	l.quiet, l.reason = until, reason
	for r := l.pop(); r != nil; r = l.pop() {
		m.enqueue(r, now)
	}
}

// rest ends the turn of a repository, and plans the next for the moment at. err is for the pass that waits for it.
func (m *Monitor) rest(r *repository, at time.Duration, err error) {
	r.phase = resting
	if r.counted {
		r.counted = false
		m.pass.left--
		m.pass.errors[r] = err
		if m.pass.left == 0 {
			nudge(m.wake)
		}
	}
	if r.gone || !m.running {
		return
	}
	r.fresh = r.fresh || r.hinted
	r.due, r.hinted = at, false
	m.schedule(r, m.now())
}
