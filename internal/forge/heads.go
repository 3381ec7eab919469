package forge

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sentry/internal/sentry"

	"golang.org/x/time/rate"
)

// Of asking over Git.
const (
	atOnce    = 8 // repositories of one question that are asked at the same time
	perSecond = 100
	burstOf   = 200
	troubles  = 3 // failures in a row, after which the rest of a question is not asked
	suspects  = 3 // repositories in a row that refuse a credential, until it may be the credential's fault

	// aside is how long it is remembered that Git is refused where the API is not, or that the API knows no better.
	aside = 10 * time.Minute
)

// Heads puts one question about repositories of one lane. answers[i] belongs to asks[i]; all are filled in. One broken
// repository never spoils the others. It may wait for the budget; where that would take longer than ctx it asks over Git,
// which has none, or gives faults of kind RateLimited at once.
func (f *Forges) Heads(ctx context.Context, asks []Ask) []Answer {
	answers := make([]Answer, len(asks))
	places := make([]*place, len(asks))
	together := map[*account][]int{}
	for i, ask := range asks {
		if places[i] = f.place(ask.Repository); places[i] != nil && places[i].joins(ask) {
			a := places[i].account
			together[a] = append(together[a], i)
		}
	}
	for a, of := range together {
		f.many(ctx, a, asks, of, answers)
	}
	var alone []int
	for i, p := range places {
		if !answers[i].answered() {
			alone = append(alone, i)
		} else if p != nil && answers[i].Err == nil {
			p.note(true) // that a question about many failed says nothing of one of them: nothing was missed
		}
	}
	f.each(ctx, asks, places, alone, answers)
	for _, i := range alone {
		if p := places[i]; p != nil {
			p.note(answers[i].Err == nil)
		}
	}
	return answers
}

// joins reports whether a repository may be asked together with others. One that was never asked may, even where its own
// answer is wanted: what is freshest matters to who knows something already.
func (p *place) joins(ask Ask) bool {
	batch, sweep := p.account.batches()
	if batch <= 1 && !sweep {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if sweep {
		return !ask.Full && p.known
	}
	return !ask.Full || !p.asked
}

// note remembers how the last question ended.
func (p *place) note(good bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known, p.asked = good, p.asked || good
}

// many asks those of asks that the indices name, in one question. What it leaves unanswered is to be asked one by one.
func (f *Forges) many(ctx context.Context, a *account, asks []Ask, indices []int, answers []Answer) {
	repositories := make([]*Repository, len(indices))
	for i, at := range indices {
		repositories[i] = asks[at].Repository
	}
	some := make([]Answer, len(indices))
	err := a.service.many(ctx, repositories, some)
	if err != nil && f.o.LsRefs != nil && ctx.Err() == nil && !isRefused(err) {
		f.log.Debug("a question about many repositories failed: they are asked one by one", "host", hostOf(a.origin), "repositories", len(indices), "error", err.Error())
		err = nil
	}
	for i, at := range indices {
		answers[at] = some[i]
		if err != nil && !some[i].answered() {
			answers[at] = Answer{Err: sentry.AsFault(err)}
		}
	}
}

// isRefused reports whether an error says that the credential is not accepted at all.
func isRefused(err error) bool {
	status, _ := statusOf(err)
	return status == http.StatusUnauthorized || errors.As(err, new(*notAsked))
}

// each asks repositories one by one, a few at a time, and gives up where nobody answers.
func (f *Forges) each(ctx context.Context, asks []Ask, places []*place, indices []int, answers []Answer) {
	if len(indices) == 1 {
		answers[indices[0]] = f.timed(ctx, asks[indices[0]], places[indices[0]])
		return
	}
	if len(indices) == 0 {
		return
	}
	few := atOnce
	if p := places[indices[0]]; p != nil {
		if most := f.atOnce(asks[indices[0]].Repository, p.account); most > 0 {
			few = min(few, most)
		}
	}
	var wait sync.WaitGroup
	var failing row
	free := make(chan struct{}, few)
	for _, i := range indices {
		free <- struct{}{}
		wait.Go(func() {
			defer func() { <-free }()
			if bad := failing.bad(); bad != nil {
				answers[i] = *bad
				return
			}
			answers[i] = f.timed(ctx, asks[i], places[i])
			failing.add(&answers[i])
		})
	}
	wait.Wait()
}

// timed is one; where the freshest is wanted, which may be often, it tells how much of its time was no time of the server's.
func (f *Forges) timed(ctx context.Context, ask Ask, p *place) Answer {
	if !ask.Full {
		return f.one(ctx, ask, p)
	}
	var w waits
	answer := f.one(w.in(ctx), ask, p)
	answer.Waited = time.Duration(w.Load())
	return answer
}

// row is of answers that failed one after the other.
type row struct {
	n    atomic.Int32
	last atomic.Pointer[Answer]
}

// bad is the answer for those that are no longer asked, nil as long as they are.
func (r *row) bad() *Answer {
	if r.n.Load() < troubles {
		return nil
	}
	return r.last.Load()
}

// add takes in one answer more.
func (r *row) add(a *Answer) {
	if a.Err != nil {
		if kind := sentry.AsFault(a.Err).Kind; kind == sentry.Transient || kind == sentry.RateLimited {
			r.last.Store(a)
			r.n.Add(1)
			return
		}
	}
	r.n.Store(0)
}

// one asks one repository by itself: over Git, or where Git is refused over the API.
func (f *Forges) one(ctx context.Context, ask Ask, p *place) Answer {
	r := ask.Repository
	if p == nil {
		return f.lsRefs(ctx, r)
	}
	a := p.account
	if f.o.LsRefs == nil && a.service != nil {
		return a.service.one(ctx, r)
	}
	token, err := a.gate(ctx)
	if err != nil {
		return Answer{Err: sentry.AsFault(err), Way: "ls-refs"}
	}
	now := time.Now()
	p.mu.Lock()
	byAPI, noAPI := now.Before(p.byAPI), now.Before(p.noAPI)
	p.mu.Unlock()
	if byAPI {
		if answer := a.service.one(ctx, r); answer.Err == nil {
			return answer
		}
	}
	if a.service != nil && !ask.Full {
		if err := f.pace(r).Wait(ctx); err != nil {
			if ctx.Err() != nil {
				return Answer{Err: sentry.Faultf(sentry.Transient, "not asked: %w", ctx.Err()), Way: "ls-refs"}
			}
			return Answer{Err: &sentry.Fault{Kind: sentry.RateLimited, RetryAfter: time.Second, Err: errors.New("not asked: too many repositories there are asked over Git at the moment")}, Way: "ls-refs"}
		}
	}
	answer := f.lsRefs(ctx, r)
	if answer.Err == nil {
		a.trust()
		return answer
	}
	kind := sentry.AsFault(answer.Err).Kind
	if kind != sentry.Unauthorized && kind != sentry.Invalid {
		return answer
	}
	if a.service != nil && !noAPI {
		other := a.service.one(ctx, r)
		p.mu.Lock()
		if other.Err == nil {
			p.byAPI = now.Add(aside)
		} else {
			p.noAPI = now.Add(aside)
		}
		p.mu.Unlock()
		if other.Err == nil {
			f.log.Info("a repository is asked over the API for a while: Git is refused", "repository", r.Name, "error", answer.Err.Error())
			return other
		}
	}
	if kind == sentry.Unauthorized {
		a.suspect(r, token, answer.Err)
	}
	return answer
}

// lsRefs asks one repository over Git, unless the server wants to be left alone.
func (f *Forges) lsRefs(ctx context.Context, r *Repository) Answer {
	if f.o.LsRefs == nil {
		return Answer{Err: sentry.Faultf(sentry.Invalid, "there is no way to ask %s", r.Remote)}
	}
	if err := f.silence(r); err != nil {
		return Answer{Err: err, Way: "ls-refs"}
	}
	if f.o.Network.host(r.Remote.Origin()).Concurrency > 0 { // else nothing waits for a seat
		at := ticket{look: func() error { return f.silence(r) }, heard: func(fault *sentry.Fault) { f.keepOut(r, fault) }}
		ctx = at.in(ctx)
	}
	heads, err := f.o.LsRefs(ctx, r)
	switch {
	case err != nil:
		fault := sentry.AsFault(err)
		f.keepOut(r, fault)
		return Answer{Err: fault, Way: "ls-refs"}
	case heads == nil:
		heads = map[string]string{}
	}
	if f.o.Path != nil {
		f.noteMoved(r, nameAt(f.o.Path(r)))
	}
	return Answer{Heads: heads, Way: "ls-refs"}
}

// nameAt is the name of a repository at a path; with a suffix or without, it is the same.
func nameAt(path string) string { return strings.TrimSuffix(strings.Trim(path, "/"), ".git") }

// noteMoved takes note of the name by which a forge knows a repository, and says so once where that is another than the
// configured one: it goes on answering to the old one until somebody else takes it.
func (f *Forges) noteMoved(r *Repository, now string) {
	p := f.place(r)
	if p == nil {
		return
	}
	if strings.EqualFold(now, nameAt(r.Remote.Path())) {
		now = ""
	}
	p.mu.Lock()
	before := p.moved
	p.moved = now
	p.mu.Unlock()
	if now != "" && now != before {
		f.log.Warn("a repository has moved; write its new address into the configuration, for the old name can be given to another",
			"repository", r.Name, "from", nameAt(r.Remote.Path()), "to", oneLine(now))
	}
}

// pace gives the limiter of an origin for questions over Git that stand in for one to the API: without it, an API that is
// used up would send thousands of them to the Git side in the same moment.
func (f *Forges) pace(r *Repository) *rate.Limiter {
	origin := r.Remote.Origin()
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.paces[origin]
	if l == nil {
		l = rate.NewLimiter(perSecond, burstOf)
		f.paces[origin] = l
	}
	return l
}

// gate tells whether a repository of the account may be asked over Git: not with a token that is refused. It gives the
// token where there is reason to look at it.
func (a *account) gate(ctx context.Context) (sentry.Secret, error) {
	auth := a.credential()
	if auth.anonymous() || a.base == nil && auth.App != nil {
		return sentry.Secret{}, nil
	}
	token, err := a.token(ctx, sentry.Secret{})
	if err != nil {
		return sentry.Secret{}, err
	}
	return token, a.admit(token)
}

// suspect notes that a repository refused the token over Git. That may be the repository's own affair. When one after the
// other does it, with none between that does not, it is the token's: three, or all where there are fewer, are enough where
// they say that they do not know who asks (401), as guessing goes on until the server locks everybody out; otherwise half
// of all.
func (a *account) suspect(r *Repository, token sentry.Secret, err error) {
	if token.Empty() {
		return
	}
	status := 0
	var told interface{ HTTPStatus() int }
	if errors.As(err, &told) {
		status = told.HTTPStatus()
	}
	a.mu.Lock()
	if a.refused.suspects == nil {
		a.refused.suspects = map[*Repository]bool{}
	}
	a.refused.suspects[r] = true
	a.await(token)
	enough := min(suspects, a.members)
	if status != http.StatusUnauthorized {
		enough = max(suspects, a.members/2)
	}
	guilty := len(a.refused.suspects) >= enough
	a.mu.Unlock()
	if guilty {
		a.refuse(token, err)
	}
}

// trust notes that a repository answered.
func (a *account) trust() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.refused.suspects) > 0 || !a.refused.since.IsZero() {
		if !a.refused.since.IsZero() {
			a.forges.log.Info("a credential is accepted again", "host", hostOf(a.origin), "credential", a.key)
		}
		a.refused = refused{}
	}
	a.awaited = sentry.Secret{}
}
