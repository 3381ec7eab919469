package report

import (
	"context"
	"fmt"
	"time"

	"sentry/internal/logger"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

const (
	// firstPause and longestPause bound the pauses between the tries of one status; each is a random part of twice the one
	// before.
	firstPause, longestPause = time.Second, 15 * time.Minute
	// longestRest bounds how long a lane rests after a failure: one small question a minute finds out that a forge is back.
	longestRest = time.Minute
	// longestWish bounds how long a forge's wish to be asked later is obeyed: what is longer is a mistake.
	longestWish = time.Hour
	// lookups is how often a status is tried on a commit that is not found: what was just pushed may be known to Git before
	// it is to the API.
	lookups = 4
	// sendTimeout ends one try.
	sendTimeout = 30 * time.Second
	// unsettled is how long nothing follows a try that ran out of time: it may be on its way still, and what comes last is
	// what the commit shows.
	unsettled = 10 * time.Second
	// window is how many deliveries of a lane are looked at.
	window = 64
	// errorLength is how much of an error is kept.
	errorLength = 500
)

// lane delivers what shares a server and a credential, one after the other: forges ask that nobody changes things at them
// in parallel. Its goroutine owns all fields but wake.
type lane struct {
	service *Service
	name    string
	wake    chan struct{} // size one: something new waits

	// moments are when what was seen of the lane is due, by the monotonic clock: whatever the clock on the wall does.
	moments  map[int64]moment
	failures int       // in a row
	told     bool      // that they are
	rest     time.Time // nothing is tried before
}

// moment is when a delivery is due: the moment that was read, and what that was on the monotonic clock.
type moment struct {
	read time.Time
	due  time.Time
}

func (l *lane) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// nothing is what once gives where nothing waits.
const nothing = -1

// run delivers until nothing waits, or the service ends.
func (l *lane) run(ctx context.Context) {
	for ctx.Err() == nil {
		wait, err := l.once(ctx)
		if err != nil {
			if ctx.Err() == nil {
				l.service.fail(err)
			}
			return
		}
		if wait == nothing && l.leave() {
			return
		}
		if wait <= 0 {
			continue
		}
		closing := l.service.closing
		select {
		case <-closing:
			if time.Now().Add(wait).After(l.service.end) {
				return
			}
			closing = nil // it is known
		default:
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-l.wake:
		case <-timer.C:
		case <-closing:
		}
		timer.Stop()
	}
}

// leave ends the lane, unless something was put into it since it was found empty: whoever does that nudges it, or finds it
// gone and makes another.
func (l *lane) leave() bool {
	l.service.mu.Lock()
	defer l.service.mu.Unlock()
	select {
	case <-l.wake:
		return false
	default:
		delete(l.service.lanes, l.name)
		return true
	}
}

// once does the next thing that is due, and tells after how long there is something to do again: 0 for at once, nothing
// where nothing waits.
func (l *lane) once(ctx context.Context) (time.Duration, error) {
	next, err := l.service.store.NextDeliveries(ctx, l.name, window)
	if err != nil {
		return 0, err
	}
	if len(next) == 0 {
		return nothing, nil
	}
	now, wait := time.Now(), slowly
	seen := make(map[int64]moment, len(next))
	for _, d := range next {
		m, known := l.moments[d.ID]
		if !known || !m.read.Equal(d.NextAt) {
			m = moment{read: d.NextAt, due: now.Add(min(max(time.Until(d.NextAt), 0), longestWish))}
		}
		seen[d.ID] = m
	}
	l.moments = seen
	for _, d := range next {
		if d.Overtaken {
			return 0, l.service.persist(ctx, func(ctx context.Context) error { return l.service.store.Supersede(ctx, d.ID) })
		}
		due := seen[d.ID].due
		if l.rest.After(due) {
			due = l.rest
		}
		if due.After(now) {
			wait = min(wait, due.Sub(now))
			continue
		}
		return 0, l.deliver(ctx, d)
	}
	return wait, nil
}

// deliver tries one delivery, and records what came of it. A crash in between is one of the tries of which nobody knows the
// end: the same is sent again.
func (l *lane) deliver(ctx context.Context, d store.Delivery) error {
	s := l.service
	cfg := s.config()
	repo, ok := cfg.Repository(d.Repository)
	if !ok {
		return l.giveUp(ctx, d, "repository "+d.Repository+" is no longer configured")
	}
	asked := refusal{side: sideOf(repo, d.Target), secret: secretOf(repo, d.Target)}
	switch problem := asked.side.problem(); {
	case asked.side.address() != d.Address:
		return l.giveUp(ctx, d, "repository "+d.Repository+" has another address now")
	case problem != "":
		return l.giveUp(ctx, d, problem)
	}
	if reason := s.refuses(repo, d.Target); reason != "" {
		return s.persist(ctx, func(ctx context.Context) error {
			_, err := s.store.Refuse(ctx, d, reason)
			return err
		})
	}
	status := Status{Commit: d.Commit, Branch: d.Branch, State: d.State, Context: d.Context, Description: d.Description}
	if base := cfg.Global.PublicURL; base != "" {
		status.URL = base + "/rollouts/" + d.Rollout
	}
	try, cancel := context.WithTimeout(ctx, sendTimeout)
	err := s.publish.SetStatus(try, repo, d.Target, status)
	late := try.Err() != nil
	cancel()
	switch {
	case err == nil:
		return l.arrived(ctx, d)
	case ctx.Err() != nil:
		return context.Cause(ctx) // nobody knows: the next start sends it again
	}
	fault := sentry.AsFault(err)
	reason := cut(err.Error())
	switch fault.Kind {
	case sentry.Invalid:
		return l.giveUp(ctx, d, reason)
	case sentry.NotFound:
		if d.Attempts+1 >= lookups {
			return l.giveUp(ctx, d, reason)
		}
		return l.failed(ctx, d, s.jitter(doubled(firstPause, d.Attempts, longestPause)), reason)
	case sentry.Unauthorized:
		// That is about this repository, and the others are not to wait for it. A token that is refused altogether is not shown
		// again and again by who holds it.
		l.rest = later(l.rest, time.Now().Add(s.jitter(firstPause)))
		return s.refuse(ctx, repo, d, reason, asked)
	case sentry.RateLimited:
		wish := min(fault.RetryAfter, longestWish)
		if wish <= 0 {
			wish = longestRest
		}
		l.rest = later(l.rest, time.Now().Add(wish))
		s.log.Info("no statuses for a while: the limit of requests is reached", "lane", l.name, "again_in", wish.Round(time.Second).String(), logger.KeyError, reason)
		return l.failed(ctx, d, wish, reason)
	default:
		wish := min(fault.RetryAfter, longestWish)
		if late {
			wish = max(wish, unsettled)
		}
		if l.pause(wish); !l.told {
			l.told = true
			s.log.Warn("statuses cannot be delivered; they are tried again", "lane", l.name, logger.KeyError, reason)
		}
		return l.failed(ctx, d, max(wish, s.jitter(doubled(firstPause, d.Attempts, longestPause))), reason)
	}
}

// pause lets the lane rest after a failure, at least for what the forge has wished.
func (l *lane) pause(wish time.Duration) {
	rest := l.service.jitter(doubled(firstPause, l.failures, longestRest))
	l.rest = later(l.rest, time.Now().Add(max(wish, rest)))
	l.failures++
}

func (l *lane) arrived(ctx context.Context, d store.Delivery) error {
	s := l.service
	if l.told {
		s.log.Info("statuses are delivered again", "lane", l.name)
	}
	l.failures, l.told = 0, false
	if err := s.persist(ctx, func(ctx context.Context) error { return s.store.Arrived(ctx, d.ID) }); err != nil {
		return err
	}
	s.count(sentry.Delivered)
	s.logOf(d).Debug("a status was delivered", "description", d.Description)
	return s.accepts(ctx, destination{d.Repository, d.Target})
}

func (l *lane) failed(ctx context.Context, d store.Delivery, after time.Duration, reason string) error {
	l.service.count(sentry.Waiting)
	l.service.logOf(d).Debug("a status was not delivered", logger.KeyError, reason, "again_in", after.String())
	return l.service.persist(ctx, func(ctx context.Context) error { return l.service.store.Failed(ctx, d.ID, after, reason) })
}

func (l *lane) giveUp(ctx context.Context, d store.Delivery, reason string) error {
	err := l.service.persist(ctx, func(ctx context.Context) error { return l.service.store.GiveUp(ctx, d.ID, reason) })
	if err == nil {
		l.service.count(sentry.GivenUp)
		l.service.logOf(d).Warn("a status is given up", logger.KeyError, reason)
	}
	return err
}

// doubled gives first, doubled so many times, and at most most.
func doubled(first time.Duration, times int, most time.Duration) time.Duration {
	for ; times > 0 && first < most; times-- {
		first *= 2
	}
	return min(first, most)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// cut bounds what is kept of an error.
func cut(text string) string {
	if len(text) <= errorLength {
		return text
	}
	return fmt.Sprintf("%.*s…", errorLength, text)
}
