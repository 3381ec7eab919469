package forge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"sentry/internal/sentry"
)

// class says what a request is for.
type class uint8

const (
	asking    class = iota // what branches point at
	looking                // what a person or a diagnosis wants to know
	reporting              // a status: few, and never behind the others
)

// purse is one of the budgets that an API keeps apart, in its own word for it where it has one.
type purse string

const (
	corePurse    purse = "core"    // REST
	graphqlPurse purse = "graphql" // queries
)

// budget is what one credential may ask of one API. Requests wait in it for their turn: never inside a window that the
// API has closed, spread over the time that what is left must last, those with the nearest deadline first, statuses
// before all others, and from a reserve of their own where nothing else is left. Since deadlines pass, nobody starves.
type budget struct {
	rules

	mu      sync.Mutex // guards what follows
	purses  map[purse]*window
	atOnce  int     // requests that may be out at once
	seated  bool    // the configuration says so, of whatever is asked of the host
	own     *window // the limit that the configuration sets, over all purses; nil: none
	queue   []*waiter
	active  int
	closed  time.Time // nothing is sent before this moment
	reason  string    // why
	silent  time.Time // before this moment the server is not to be asked at all
	strikes int       // pauses that were asked for in a row; above 0 one request is sent at a time
	empty   int       // refusals in a row because a purse was empty
	quiet   map[string]time.Time
	writes  []time.Time   // of the last hour
	took    []taken       // in the last minute
	usual   time.Duration // what a request takes
	timer   *time.Timer

	users int // accounts that spend of it; guarded by shares.mu
}

// taken is how long a request took.
type taken struct {
	at    time.Time // when it ended
	took  time.Duration
	purse purse
}

// waiter is a request that waits for its turn, and after it the permission for it.
type waiter struct {
	budget   *budget
	purse    purse
	class    class
	writes   bool
	path     string
	deadline time.Time
	turn     chan error // of size one

	since   time.Time // when it was sent, or its turn came where it was not yet; this and what follows is guarded by budget.mu
	learned bool      // its answer was read
	freed   bool
}

func newBudget(r rules, h Host) *budget {
	b := &budget{rules: r, purses: map[purse]*window{}, quiet: map[string]time.Time{}}
	b.configure(h)
	return b
}

// configure takes over what the configuration says of the host.
func (b *budget) configure(h Host) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.atOnce, b.seated = b.concurrency, h.Concurrency > 0
	if b.seated {
		b.atOnce = h.Concurrency
	}
	switch {
	case h.RequestsPerHour <= 0:
		b.own = nil
	case b.own == nil || b.own.limit != h.RequestsPerHour:
		b.own = newWindow(h.RequestsPerHour, time.Hour, time.Now())
	}
}

// wait waits until a request may be sent, but no longer than patience, which is longestQueue where it is 0. Where its turn
// would come later, or so late that there would be no time for an answer before ctx ends, it gives a fault of kind
// RateLimited at once. Whoever gets a waiter tells it what came of the request: learn, and free in any case.
func (b *budget) wait(ctx context.Context, p purse, c class, writes bool, path string, patience time.Duration) (*waiter, error) {
	w := &waiter{budget: b, purse: p, class: c, writes: writes, path: path, turn: make(chan error, 1)}
	if patience <= 0 {
		patience = longestQueue
	}
	now := time.Now()
	w.deadline = now.Add(patience)
	b.mu.Lock()
	if d, ok := ctx.Deadline(); ok {
		left := d.Sub(now)
		w.deadline = earlier(w.deadline, d.Add(-min(2*b.usual, left/2)))
	}
	at, _ := slices.BinarySearchFunc(b.queue, w, func(in, w *waiter) int {
		if in.before(w) {
			return -1
		}
		return 1
	})
	b.queue = slices.Insert(b.queue, at, w)
	b.pump(now)
	b.mu.Unlock()
	late := time.NewTimer(w.deadline.Sub(now))
	defer late.Stop()
	select {
	case err := <-w.turn:
		if err != nil {
			return nil, err
		}
		return w, nil
	case <-late.C:
	case <-ctx.Done():
	}
	b.mu.Lock()
	i := slices.Index(b.queue, w)
	if i >= 0 {
		b.queue = slices.Delete(b.queue, i, i+1)
		b.pump(time.Now())
	}
	b.mu.Unlock()
	if i < 0 && <-w.turn == nil { // its turn came at the same moment
		w.unsent()
	}
	if ctx.Err() != nil {
		return nil, sentry.Faultf(sentry.Transient, "waited for a turn among the requests of this credential: %w", ctx.Err())
	}
	return nil, &sentry.Fault{Kind: sentry.RateLimited, RetryAfter: time.Second, Err: errors.New("not asked: too many requests of this credential are waiting")}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// before reports whether w comes to its turn before other, or has come to the queue before it.
func (w *waiter) before(other *waiter) bool {
	if first := w.class == reporting; first != (other.class == reporting) {
		return first
	}
	return !w.deadline.After(other.deadline)
}

// pump lets those go whose turn it is, sends away those that would wait in vain, and comes back when there is something
// to do. The caller holds b.mu.
func (b *budget) pump(now time.Time) {
	next := time.Time{}
	ahead := map[purse]int{}
	kept := b.queue[:0]
	for _, w := range b.queue {
		at, why := b.moment(w, ahead[w.purse], now)
		switch {
		case at.After(w.deadline):
			w.turn <- &sentry.Fault{Kind: sentry.RateLimited, RetryAfter: at.Sub(now), Err: fmt.Errorf("not asked: %s", why)}
			continue
		case !at.After(now) && b.active < b.places(w.class):
			b.grant(w, now)
			w.turn <- nil
			continue
		case at.After(now) && (next.IsZero() || at.Before(next)):
			next = at
		}
		ahead[w.purse]++
		kept = append(kept, w)
	}
	clear(b.queue[len(kept):])
	b.queue = kept
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
	if !next.IsZero() {
		b.timer = time.AfterFunc(next.Sub(now), func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.pump(time.Now())
		})
	}
}

// places is how many requests may be out at once. After a pause one tries how things are. Where the host has seats there
// is one place more for a status: the others may be waiting for a seat, behind all that is asked over Git.
func (b *budget) places(c class) int {
	switch {
	case b.strikes > 0:
		return 1
	case c == reporting && b.seated:
		return b.atOnce + 1
	}
	return max(1, b.atOnce)
}

// moment is when a request may be sent, with so many others of its purse before it, and what it waits for. How many are
// out at once is not looked at: nobody knows when one of them comes back.
func (b *budget) moment(w *waiter, ahead int, now time.Time) (at time.Time, why string) {
	at = now
	later := func(t time.Time, text string) {
		if t.After(at) {
			at, why = t, text
		}
	}
	later(b.closed, b.reason)
	p := b.purse(w.purse, now)
	if t, out := p.moment(w.class, ahead+1, now); out {
		later(t, "the budget of this credential is used up until "+clock(t))
	} else {
		later(t, "what is left of the budget of this credential must last until "+clock(p.reset))
	}
	if b.own != nil {
		t, _ := b.own.moment(w.class, ahead+1, now)
		later(t, fmt.Sprintf("requests_per_hour: %d is used up for the moment", b.own.limit))
	}
	later(p.minute(b.points(w), int(minuteShare*float64(b.perMinute[w.purse])), now), "too many requests for one minute")
	later(b.rested(w.purse, now), "the requests of the last minute took the forge too long")
	if t, ok := b.quiet[w.path]; ok {
		later(t, "the forge asks to be asked this less often")
	}
	if w.writes {
		later(b.nextWrite(now), "one status after the other")
	}
	return at, why
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05 UTC") }

func (b *budget) points(w *waiter) int {
	if w.writes {
		return max(1, b.writePoints)
	}
	return 1
}

// purse gives the window of a purse as it is now.
func (b *budget) purse(p purse, now time.Time) *window {
	w := b.purses[p]
	if w == nil {
		w = newWindow(b.limit, b.window, now)
		b.purses[p] = w
	}
	return w
}

// rested is when the requests of the last minute no longer took too long.
func (b *budget) rested(p purse, now time.Time) time.Time {
	for len(b.took) > 0 && now.Sub(b.took[0].at) >= time.Minute+margin {
		b.took = b.took[1:]
	}
	at := now
	for _, of := range []purse{"", p} {
		allowed := time.Duration(minuteShare * float64(b.busy[of]))
		if allowed <= 0 {
			continue
		}
		sum := time.Duration(0)
		for i := len(b.took) - 1; i >= 0; i-- {
			if one := b.took[i]; of == "" || one.purse == of {
				if sum += one.took; sum >= allowed {
					at = later(at, one.at.Add(time.Minute+margin))
					break
				}
			}
		}
	}
	return at
}

// nextWrite is when something may be changed next.
func (b *budget) nextWrite(now time.Time) time.Time {
	for len(b.writes) > 0 && now.Sub(b.writes[0]) >= time.Hour+margin {
		b.writes = b.writes[1:]
	}
	n := len(b.writes)
	if n == 0 {
		return now
	}
	at := b.writes[n-1].Add(b.betweenWrites)
	if b.writesPerHour > 0 && n >= b.writesPerHour {
		at = later(at, b.writes[n-b.writesPerHour].Add(time.Hour+margin))
	}
	return at
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// grant takes what a request costs.
func (b *budget) grant(w *waiter, now time.Time) {
	b.active++
	w.since = now
	p := b.purse(w.purse, now)
	p.take(now)
	if b.perMinute[w.purse] > 0 {
		p.spent = append(p.spent, spent{now, b.points(w)})
	}
	if b.own != nil {
		b.own.take(now)
	}
	if w.writes && (b.betweenWrites > 0 || b.writesPerHour > 0) {
		b.writes = append(b.writes, now)
	}
}

// begin is called when a request whose turn has come can be sent, which may be later: it may have waited for a seat. Where
// the API was closed meanwhile it gives a fault, and the request must not be sent.
func (w *waiter) begin() error {
	b := w.budget
	b.mu.Lock()
	now := time.Now()
	shut, why := later(b.closed, b.purse(w.purse, now).until), b.reason
	if !shut.After(now) {
		w.since = now
		b.mu.Unlock()
		return nil
	}
	if shut.After(b.closed) {
		why = "the budget of this credential is used up until " + clock(shut)
	}
	b.mu.Unlock()
	w.unsent()
	return &sentry.Fault{Kind: sentry.RateLimited, RetryAfter: shut.Sub(now), Err: fmt.Errorf("not asked: %s", why)}
}

// free tells that a request has ended, its answer read or not.
func (w *waiter) free() {
	b := w.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.freed {
		return
	}
	w.freed = true
	now := time.Now()
	if !w.learned { // it may have arrived, and been counted
		b.spend(w, now)
	}
	took := now.Sub(w.since)
	b.usual += (took - b.usual) / 8
	if len(b.busy) > 0 {
		b.took = append(b.took, taken{now, took, w.purse})
	}
	b.active--
	b.pump(now)
}

// spend counts a request of which the answer did not tell what it cost.
func (b *budget) spend(w *waiter, now time.Time) {
	w.learned = true
	p := b.purse(w.purse, now)
	p.out--
	p.remaining = max(0, p.remaining-1)
	b.spendOwn()
}

func (b *budget) spendOwn() {
	if b.own != nil && b.own.out > 0 {
		b.own.out--
		b.own.remaining--
	}
}

// unsent gives back what a request would have cost that was not sent.
func (w *waiter) unsent() {
	b := w.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	w.freed, w.learned = true, true
	p := b.purse(w.purse, time.Now())
	for _, of := range []*window{p, b.own} {
		if of != nil && of.out > 0 {
			of.out--
			of.used--
			of.tokens++
		}
	}
	b.active--
	b.pump(time.Now())
}

// shut reports whether nobody who asks what branches point at has a turn for longer than patience.
func (b *budget) shut() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	soon := now.Add(patience)
	p := graphqlPurse
	if b.purses[p] == nil {
		p = corePurse
	}
	if b.rested(p, now).After(soon) {
		return true
	}
	for _, w := range []*window{b.purses[p], b.own} {
		if w == nil {
			continue
		}
		if at, _ := w.moment(asking, 1, now); at.After(soon) {
			return true
		}
	}
	return b.closed.After(soon)
}

// states tells what there is, for people and for metrics.
func (b *budget) states(host, key string) []BudgetState {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	var states []BudgetState
	add := func(name string, w *window) {
		w.turn(now)
		s := BudgetState{Host: host, Key: key, Resource: name, Limit: w.limit, Remaining: max(0, w.remaining-w.out), Used: w.used}
		if w.limit > 0 {
			s.Reserve, s.Reset = w.limit/reservePart, w.reset
		}
		for _, q := range b.queue {
			if name == string(q.purse) || w == b.own {
				s.Waiting++
			}
		}
		if b.closed.After(now) {
			s.PausedUntil, s.Reason = b.closed, b.reason
		}
		states = append(states, s)
	}
	for _, name := range []purse{corePurse, graphqlPurse} {
		if w := b.purses[name]; w != nil {
			add(string(name), w)
		}
	}
	if b.own != nil {
		add("requests_per_hour", b.own)
	}
	return states
}
