package monitor

import (
	"time"

	"github.com/sony/gobreaker/v2"

	"sentry/internal/sentry"
)

// host is what the repositories of one origin share: a budget of questions, a breaker, and the pauses it asked for.
// Monitor.mu guards it.
type host struct {
	origin  string
	members int           // repositories configured for it
	openFor time.Duration // how long its breaker stays open

	head, tail *repository // the queue of those that are due
	waiting    int
	active     int  // questions that are out
	listed     bool // it is in Monitor.ready

	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]
	state   gobreaker.State // of the breaker
	quiet   time.Duration   // nothing is asked before this moment
	limited int             // pauses it asked for in a row; above 0 it is asked one question at a time
	reason  string          // why it is quiet, or was
	silent  bool            // the ledger was told that it is left alone
}

// setOpenFor gives the host a breaker that stays open for wait, unless it has one. A new breaker begins closed.
func (h *host) setOpenFor(wait time.Duration, failures int) {
	if h.breaker != nil && h.openFor == wait {
		return
	}
	h.openFor, h.state = wait, gobreaker.StateClosed
	h.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         h.origin,
		Timeout:      wait,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return int(c.ConsecutiveFailures) >= failures },
		IsSuccessful: answers,
		IsExcluded:   saysNothing,
		// Called with Monitor.mu held: every use of the breaker is.
		OnStateChange: func(_ string, _, to gobreaker.State) { h.state = to },
	})
}

// answers reports whether a question shows that the host is alive: that a repository is not there, or not ours, is an
// answer as well.
func answers(err error) bool {
	if err == nil {
		return true
	}
	kind := sentry.AsFault(err).Kind
	return kind == sentry.NotFound || kind == sentry.Unauthorized
}

// saysNothing reports whether the end of a question tells nothing about the host: we gave up ourselves, one repository
// answers nonsense, or a limit was reached, which has a pause of its own.
func saysNothing(err error) bool {
	if err == nil {
		return false
	}
	kind := sentry.AsFault(err).Kind
	return kind == sentry.Invalid || kind == sentry.RateLimited || kind == given
}

// given is the kind of the end of a question that the monitor gave up, because it ends.
const given sentry.FaultKind = "given up"

func (h *host) push(r *repository) {
	r.phase, r.next = waiting, nil
	if h.tail == nil {
		h.head = r
	} else {
		h.tail.next = r
	}
	h.tail = r
	h.waiting++
}

// pop takes the one that has waited longest, nil when none is left. Repositories that are gone are passed over; whoever
// marks one gone while it waits takes it off the count.
func (h *host) pop() *repository {
	for h.head != nil {
		r := h.head
		h.head, r.next = r.next, nil
		if h.head == nil {
			h.tail = nil
		}
		if !r.gone {
			h.waiting--
			return r
		}
	}
	return nil
}

// mayAsk reports whether one more question may be asked: a host that is not known to be well gets one at a time.
func (h *host) mayAsk(limit int) bool {
	if h.limited > 0 || h.state != gobreaker.StateClosed {
		limit = 1
	}
	return h.waiting > 0 && h.active < limit
}

// learn draws the lesson of a question for the host: the pause that it asked for, 0 for none.
func (h *host) learn(fault *sentry.Fault, now time.Duration) time.Duration {
	if fault == nil {
		h.limited = 0
		return 0
	}
	switch fault.Kind {
	case sentry.RateLimited:
		if h.limited == 0 || now >= h.quiet { // else it answers a question that was out when the pause began
			h.limited++
		}
		return patience(fault.RetryAfter, h.limited)
	case sentry.NotFound, sentry.Unauthorized, sentry.Invalid:
		h.limited = 0
	}
	if fault.RetryAfter > 0 { // "come back later" is heard whatever else it says
		return patience(fault.RetryAfter, 1)
	}
	return 0
}
