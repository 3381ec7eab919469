package forge

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"sentry/internal/sentry"
)

// Where few repositories share a token they are asked over Git, which does not tell when the token ends. So the API is
// asked, once a day, about each token of which nothing else has told since.

// Of these questions.
const (
	endingEvery  = 24 * time.Hour
	endingSpread = 5 * time.Minute  // the first comes at any time within
	endingAgain  = time.Hour        // after one that came to nothing
	endingTime   = 15 * time.Second // that one may take
	endingIdle   = 10 * time.Minute // how often it is looked for tokens that are new
)

// teller is a service whose API tells when a token ends.
type teller interface {
	// tell asks the API for nothing else than that; what it answers is noted in passing. That it refuses says nothing of
	// the token where it is used otherwise. The error is a *sentry.Fault.
	tell(ctx context.Context) error
}

// Run asks once a day when tokens end, until ctx ends.
func (f *Forges) Run(ctx context.Context) {
	for ctx.Err() == nil {
		wait := f.askEndings(ctx)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-f.updated:
		}
		timer.Stop()
	}
}

// askEndings asks about the tokens that are due, and tells after how long there may be others.
func (f *Forges) askEndings(ctx context.Context) time.Duration {
	f.mu.RLock()
	accounts := make([]*account, 0, len(f.accounts))
	for _, a := range f.accounts {
		accounts = append(accounts, a)
	}
	f.mu.RUnlock()
	wait := endingIdle
	for _, a := range accounts {
		due, ok := a.endingDue(time.Now())
		switch {
		case !ok:
		case due > 0:
			wait = min(wait, due)
		case ctx.Err() == nil:
			a.askEnding(ctx)
		}
	}
	return wait
}

// endingDue is in how long the token is to be asked about; ok is false where it is not.
func (a *account) endingDue(now time.Time) (due time.Duration, ok bool) {
	auth := a.credential()
	if _, tells := a.service.(teller); !tells || auth.Token == nil || auth.App != nil {
		return 0, false
	}
	token, err := auth.Token()
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil || token.Empty() || a.members == 0 {
		return 0, false
	}
	s := &a.seen
	switch {
	case s.next.IsZero():
		s.of, s.next = token, now.Add(rand.N(endingSpread))
	case s.of != token: // it was rotated: what is known is about another one
		*s = seen{of: token, next: now}
	}
	return s.next.Sub(now), true
}

// askEnding asks about the token.
func (a *account) askEnding(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, endingTime)
	defer cancel()
	err := a.service.(teller).tell(limited)
	wait := endingEvery
	if err != nil {
		fault := sentry.AsFault(err)
		a.forges.log.Debug("it is not known when a credential ends", "host", hostOf(a.origin), "credential", a.key, "error", err.Error())
		if fault.Kind == sentry.Transient || fault.Kind == sentry.RateLimited || errors.As(err, new(*notAsked)) {
			wait = max(endingAgain, fault.RetryAfter) + rand.N(endingSpread)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen.next = time.Now().Add(wait)
}

// notice reads in passing what answers tell about a credential: GitHub says in each when a token ends, or nothing where it
// never does.
func (a *account) notice(token sentry.Secret, h http.Header) {
	if a.kind == GitHub && !token.Empty() && a.credential().App == nil {
		a.ends(token, githubExpiry(h))
	}
}

// ends notes when a token ends, zero for never, and warns of it once a day when that is soon.
func (a *account) ends(token sentry.Secret, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	s := &a.seen
	s.of, s.expires, s.next = token, at, now.Add(endingEvery)
	if !at.IsZero() && at.Sub(now) < EndsSoon && now.Sub(s.warned) >= endingEvery {
		s.warned = now
		a.forges.log.Warn("a credential ends soon; make a new one before", "host", hostOf(a.origin), "credential", a.key, "ends", at.UTC().Format(time.RFC3339))
	}
}

// endsAt is when the token ends, as far as anybody told.
func (a *account) endsAt() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen.expires
}

// endingNote is what `budget` says about it, as the end of a sentence, where everything else is asked over Git.
func endingNote(r *Repository) string {
	if r.Auth.Token == nil || r.Auth.App != nil {
		return ""
	}
	return "; one request a day asks when the token ends"
}
