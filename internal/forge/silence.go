package forge

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"sentry/internal/sentry"
)

// A server that says "later" means what is asked of it, and not by which door: where the API and Git are one server, what
// one of them says holds for both. That a budget of the API is empty is no such word. GitHub limits its API and not Git, on
// an Enterprise server as well, where both are one; what stands before such a server speaks for itself at each door.

// oneServer reports whether what the API says of being asked later holds for Git at an origin as well.
func (a *account) oneServer(origin string) bool {
	return a.budget() != nil && a.origin == origin && a.kind != GitHub
}

// out is a Git server that wants to be left alone.
type out struct {
	until time.Time
	said  bool // for how long
	cause error
}

// keepOut notes that a Git server wants to be left alone. Other questions to it are under way, and know nothing of it.
func (f *Forges) keepOut(r *Repository, fault *sentry.Fault) {
	if errors.As(fault, new(*keptOut)) || fault.RetryAfter <= 0 && fault.Kind != sentry.RateLimited {
		return
	}
	origin := r.Remote.Origin()
	wait := f.o.Network.keepOut(origin, fault.RetryAfter, fault.Err)
	if p := f.place(r); p != nil && p.account.oneServer(origin) {
		p.account.budget().closeFor(wait, fault.Err.Error())
	}
}

// silence gives the fault of a repository whose server wants to be left alone, nil where it may be asked over Git.
func (f *Forges) silence(r *Repository) error {
	origin := r.Remote.Origin()
	if err := f.o.Network.keptOut(origin); err != nil {
		return err
	}
	if p := f.place(r); p != nil && p.account.oneServer(origin) {
		if wait, why := p.account.budget().hushed(); wait > 0 {
			return &sentry.Fault{Kind: sentry.RateLimited, RetryAfter: wait, Err: &keptOut{errors.New(why)}}
		}
	}
	return nil
}

// keptOut is why a server was not asked: it has said something before.
type keptOut struct{ cause error }

func (e *keptOut) Error() string { return "not asked: " + e.cause.Error() }

func (e *keptOut) Unwrap() error { return e.cause }

// keepOut notes that a Git server wants to be left alone: for as long as it said, but no longer than anybody is, where that is
// above 0, and else for a minute. It gives for how long.
func (n *Network) keepOut(origin string, wait time.Duration, cause error) time.Duration {
	wait = min(wait, maxPause)
	said := wait > 0
	if !said {
		wait = unsaidPause - margin // who asks in its stead makes pauses of its own, none of them shorter than a minute
	}
	n.silent.Lock()
	defer n.silent.Unlock()
	if until := time.Now().Add(wait); !until.Before(n.outs[origin].until) {
		n.outs[origin] = out{until, said, cause}
	}
	return wait
}

// keptOut gives the fault of a Git server that wants to be left alone, nil where it may be asked. Where the server did not
// say for how long, nor does the fault: for who makes pauses of its own.
func (n *Network) keptOut(origin string) error {
	wait, o := n.out(origin)
	switch {
	case wait <= 0:
		return nil
	case !o.said:
		wait = 0
	}
	return &sentry.Fault{Kind: sentry.RateLimited, RetryAfter: wait, Err: &keptOut{o.cause}}
}

// Silence gives a fault where the Git server at an origin wants to be left alone, with the time that it is to be; nil where
// it may be asked. It is for who asks otherwise than by way of Git.
func (n *Network) Silence(origin string) error {
	if wait, o := n.out(origin); wait > 0 {
		return &sentry.Fault{Kind: sentry.RateLimited, RetryAfter: wait, Err: &keptOut{o.cause}}
	}
	return nil
}

// out tells for how long yet a Git server wants to be left alone.
func (n *Network) out(origin string) (wait time.Duration, o out) {
	n.silent.RLock()
	o, ok := n.outs[origin]
	n.silent.RUnlock()
	if !ok {
		return 0, out{}
	}
	return time.Until(o.until), o
}

// hear takes note of an answer over Git that says "later".
func (n *Network) hear(origin string, resp *http.Response, t ticket) {
	now := time.Now()
	wait, asked := retryAfter(resp.Header, now)
	if told := readLimits(resp.Header, now); !asked && told.known && told.remaining == 0 {
		wait, asked = max(0, told.reset.Sub(now)), true
	}
	if wait <= 0 && resp.StatusCode != http.StatusTooManyRequests && !(asked && resp.StatusCode == http.StatusForbidden) {
		return
	}
	fault := &sentry.Fault{Kind: sentry.RateLimited, RetryAfter: wait, Err: fmt.Errorf("it answers with HTTP status %d", resp.StatusCode)}
	if t.heard != nil {
		t.heard(fault)
		return
	}
	n.keepOut(origin, wait, fault.Err)
}

// closeFor closes the budget, by the word of the same server at another door.
func (b *budget) closeFor(wait time.Duration, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if until := now.Add(min(wait, maxPause) + margin); until.After(b.closed) {
		b.closed, b.reason = until, reason
	}
	b.pump(now)
}

// hush notes that the server asked for silence: for as long as it said, else for a minute, however much longer its API is
// left alone for what was not enough before. The caller holds b.mu.
func (b *budget) hush(said time.Duration, asked bool, now time.Time) {
	wait := unsaidPause
	if asked {
		wait = min(said, maxPause) + margin
	}
	b.silent = later(b.silent, now.Add(wait))
}

// hushed tells for how long the server has asked for silence, and in which words.
func (b *budget) hushed() (wait time.Duration, why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(0, time.Until(b.silent)), b.reason
}
