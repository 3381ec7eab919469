package monitor

import (
	"time"

	"github.com/sony/gobreaker/v2"

	"sentry/internal/sentry"
)

// lane is what the repositories share that may be asked in one question: a budget of questions, a breaker, and the pauses
// that the other side asked for. Monitor.mu guards it.
type lane struct {
	key     string
	batch   int           // repositories that one question may cover
	sweep   bool          // one question may cover all of them
	atOnce  int           // questions that may be out at a time, where the asker bounds that; 0: it does not
	members int           // repositories configured for it
	openFor time.Duration // how long its breaker stays open

	// The queues of those that are due: who is so only because it is hot, who must be asked alone besides, and who may be
	// asked with others.
	hot, alone, together list
	allowance            *allowance // for the first
	// soon has the alarms of those that may be asked with others, where one question covers several; wake rings with the
	// first of them.
	soon alarms
	wake alarm

	active int  // questions that are out
	listed bool // it is in Monitor.ready

	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]
	state   gobreaker.State // of the breaker
	quiet   time.Duration   // nothing is asked before this moment
	limited int             // pauses it asked for in a row; above 0 it is asked one question at a time
	reason  string          // why it is quiet, or was
	silent  bool            // the ledger was told that it is left alone
}

func newLane(key string) *lane {
	l := &lane{key: key}
	l.wake.lane = l
	return l
}

// are takes over what the asker says of the lane now.
func (l *lane) are(now Lane) { l.batch, l.sweep, l.atOnce = max(1, now.Batch), now.Sweep, now.AtOnce }

// shares reports whether one question covers several repositories.
func (l *lane) shares() bool { return l.batch > 1 || l.sweep }

// setOpenFor gives the lane a breaker that stays open for wait, unless it has one. A new breaker begins closed.
func (l *lane) setOpenFor(wait time.Duration, failures int) {
	if l.breaker != nil && l.openFor == wait {
		return
	}
	l.openFor, l.state = wait, gobreaker.StateClosed
	l.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         l.key,
		Timeout:      wait,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return int(c.ConsecutiveFailures) >= failures },
		IsSuccessful: answers,
		IsExcluded:   saysNothing,
		// Called with Monitor.mu held: every use of the breaker is.
		OnStateChange: func(_ string, _, to gobreaker.State) { l.state = to },
	})
}

// answers reports whether the end of a question shows that somebody is there: that a repository is not there, or not ours,
// is an answer as well.
func answers(err error) bool {
	if err == nil {
		return true
	}
	kind := sentry.AsFault(err).Kind
	return kind == sentry.NotFound || kind == sentry.Unauthorized
}

// saysNothing reports whether the end of a question tells nothing about who is asked: we gave up ourselves, a repository
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

// waiting is how many are due and not asked yet.
func (l *lane) waiting() int { return l.hot.n + l.alone.n + l.together.n }

// well reports whether the lane is known to be well.
func (l *lane) well() bool { return l.limited == 0 && l.state == gobreaker.StateClosed }

// pop takes a hot one, or else the one that has waited longest, nil when none is left. Those that are hot have little of
// the lane's time: they cannot keep it from the others.
func (l *lane) pop() *repository {
	if x := l.hot.first; x != nil {
		x.leave()
		return x.repository
	}
	x := l.alone.first
	if y := l.together.first; x == nil || y != nil && y.at < x.at {
		x = y
	}
	if x == nil {
		return nil
	}
	x.leave()
	return x.repository
}

// mayAsk reports whether one more question may be asked: a lane that is not known to be well gets one at a time.
func (l *lane) mayAsk(limit int) bool {
	switch {
	case !l.well():
		limit = 1
	case l.atOnce > 0:
		limit = min(limit, l.atOnce)
	}
	return l.waiting() > 0 && l.active < limit
}

// lesson is what the answers to a question teach about its lane.
type lesson struct {
	alive bool          // one of them shows that somebody is there
	fault *sentry.Fault // the worst of them; nil where all is well
}

// add takes in one answer more.
func (s *lesson) add(fault *sentry.Fault) {
	if fault == nil {
		s.alive = true
		return
	}
	s.alive = s.alive || answers(fault)
	if s.fault == nil || worse(fault, s.fault) {
		s.fault = fault
	}
}

// worse reports whether a is more of a reason to leave a lane alone than b.
func worse(a, b *sentry.Fault) bool {
	if x, y := gravity(a), gravity(b); x != y {
		return x > y
	}
	return a.RetryAfter > b.RetryAfter
}

func gravity(f *sentry.Fault) int {
	switch {
	case f.Kind == sentry.RateLimited:
		return 4
	case f.RetryAfter > 0:
		return 3
	case f.Kind == sentry.Transient:
		return 2
	case f.Kind == sentry.Invalid:
		return 1
	}
	return 0
}

// verdict is the lesson for the breaker: one repository that is in trouble among others that are not is no trouble of the
// lane.
func (s lesson) verdict() error {
	if s.fault == nil || s.alive && s.fault.Kind != sentry.RateLimited {
		return nil
	}
	return s.fault
}

// learn draws the lesson of a question: the pause that was asked for, 0 for none.
func (l *lane) learn(s lesson, now time.Duration) time.Duration {
	if s.fault == nil {
		l.limited = 0
		return 0
	}
	if s.fault.Kind == sentry.RateLimited {
		if l.limited == 0 || now >= l.quiet { // else it answers a question that was out when the pause began
			l.limited++
		}
		return patience(s.fault.RetryAfter, l.limited)
	}
	if s.alive || s.fault.Kind == sentry.Invalid {
		l.limited = 0
	}
	if s.fault.RetryAfter > 0 { // "come back later" is heard whatever else it says
		return patience(s.fault.RetryAfter, 1)
	}
	return 0
}
