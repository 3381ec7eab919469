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

// question is what a goroutine is given to ask one repository.
type question struct {
	*repository
	config *config.Repository // this and group as they were when the question began
	group  *config.Group
	done   func(error) // tells the breaker how it ended
}

// ring puts everything that is due into the queue of its host.
func (m *Monitor) ring(now time.Duration) {
	for due := m.alarms.next(); due != nil && due.at <= now; due = m.alarms.next() {
		m.alarms.clear(due)
		if due.repository != nil {
			m.enqueue(due.repository, now)
		}
	}
}

// enqueue makes a repository wait for its host; while that is to be left alone, until it no longer is.
func (m *Monitor) enqueue(r *repository, now time.Duration) {
	h := r.host
	if h.quiet <= now {
		h.push(r)
		m.list(h)
		return
	}
	if r.counted {
		m.rest(r, forever, sentry.Faultf(sentry.Transient, "not asked: %s is left alone for %v: %s", h.origin, (h.quiet-now).Round(time.Second), h.reason))
		return
	}
	m.schedule(r, h.quiet+afterPause(r.interval(), h.members, m.options.Rand.Float64()))
}

// list puts a host into the turn where one of its repositories may be asked.
func (m *Monitor) list(h *host) {
	if !h.listed && h.mayAsk(m.options.PerHost) {
		h.listed = true
		m.ready = append(m.ready, h)
	}
}

// next gives the question to be asked now, with its places taken, or false. Hosts take turns.
func (m *Monitor) next(now time.Duration) (question, bool) {
	for len(m.ready) > 0 && m.room(now) {
		h := m.ready[0]
		m.ready = m.ready[1:]
		h.listed = false
		if !h.mayAsk(m.options.PerHost) {
			continue // what waited has gone, or the host has fallen silent
		}
		done, err := h.breaker.Allow()
		if err != nil {
			// The breaker's clock is a few microseconds behind ours.
			m.hush(h, now, now+time.Millisecond, h.reason)
			continue
		}
		r := h.pop()
		h.active++
		m.list(h)
		m.out = append(m.out, r)
		r.seat = len(m.out) - 1
		r.phase, r.asked, r.notAgain = asking, now, now+hintGap
		return question{r, r.config, r.group, done}, true
	}
	return question{}, false
}

// room reports whether one more question may be out. Those that are slow have given their places to others, so that
// hosts which do not answer cannot take all of them.
func (m *Monitor) room(now time.Duration) bool {
	if len(m.out) < m.options.Total {
		return true
	}
	young, oldest := 0, now
	for _, r := range m.out {
		if now-r.asked < slow {
			young++
			oldest = min(oldest, r.asked)
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

// release gives the places of a question back and draws the lessons of its end for the host.
func (m *Monitor) release(q question, fault *sentry.Fault, now time.Duration) {
	last := len(m.out) - 1
	m.out[q.seat] = m.out[last]
	m.out[q.seat].seat = q.seat
	m.out[last], m.out = nil, m.out[:last]

	h := q.host
	h.active--
	before := h.state
	if fault == nil {
		q.done(nil)
	} else {
		q.done(fault)
	}
	pause := h.learn(fault, now)
	if h.state == gobreaker.StateOpen && before != gobreaker.StateOpen {
		pause = max(pause, h.openFor+time.Millisecond)
	}
	switch {
	case pause > 0:
		if !h.silent {
			m.sayHost(h, slog.LevelWarn, fmt.Sprintf("left alone for %v, then asked one question at a time: %v", pause.Round(time.Second), fault))
		}
		h.silent = true
		m.hush(h, now, now+pause, fault.Error())
	case h.silent && h.state == gobreaker.StateClosed && h.limited == 0:
		h.silent = false
		m.sayHost(h, slog.LevelInfo, "well again")
	}
	m.list(h)
}

// hush leaves a host alone until a later moment: what waits for it is scheduled anew.
func (m *Monitor) hush(h *host, now, until time.Duration, reason string) {
	if until <= h.quiet {
		return
	}
	h.quiet, h.reason = until, reason
	for r := h.pop(); r != nil; r = h.pop() {
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
	if r.hinted {
		at, r.hinted = max(m.now(), r.notAgain), false
	}
	m.schedule(r, at)
}
