package forge

import (
	"context"
	"sync"

	"sentry/internal/sentry"
)

// atOnce is how many repositories of one question are asked over the Git protocol at the same time.
const atOnce = 8

// Heads puts one question about repositories of one lane. answers[i] belongs to asks[i]; all are filled in. One broken
// repository never spoils the others. It may wait for the budget; where that would take longer than ctx it gives faults
// of kind RateLimited at once.
func (f *Forges) Heads(ctx context.Context, asks []Ask) []Answer {
	answers := make([]Answer, len(asks))
	together := map[*account][]int{}
	for i, ask := range asks {
		if p := f.place(ask.Repository); p != nil && p.joins(ask) {
			together[p.account] = append(together[p.account], i)
		}
	}
	for a, of := range together {
		f.many(ctx, a, asks, of, answers)
	}
	var alone []int
	for i := range asks {
		if !answers[i].answered() {
			alone = append(alone, i)
		}
	}
	each(alone, atOnce, func(i int) { answers[i] = f.one(ctx, asks[i].Repository) })
	for i := range asks {
		if p := f.place(asks[i].Repository); p != nil {
			p.mu.Lock()
			p.known = answers[i].Err == nil
			p.mu.Unlock()
		}
	}
	return answers
}

// joins reports whether a repository may be asked together with others.
func (p *place) joins(ask Ask) bool {
	batch, sweep := p.account.batches()
	if ask.Full || batch <= 1 && !sweep {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known || !sweep
}

// many asks those of asks that the indices name, in one question. What it leaves unanswered is to be asked one by one.
func (f *Forges) many(ctx context.Context, a *account, asks []Ask, indices []int, answers []Answer) {
	repositories := make([]*Repository, len(indices))
	for i, at := range indices {
		repositories[i] = asks[at].Repository
	}
	some := make([]Answer, len(indices))
	if err := a.service.many(ctx, repositories, some); err != nil {
		return
	}
	for i, at := range indices {
		answers[at] = some[i]
	}
}

// one asks one repository by itself.
func (f *Forges) one(ctx context.Context, r *Repository) Answer {
	if f.o.LsRefs == nil {
		return Answer{Err: sentry.Faultf(sentry.Invalid, "there is no way to ask %s", r.Remote)}
	}
	heads, err := f.o.LsRefs(ctx, r)
	if err != nil {
		return Answer{Err: sentry.AsFault(err), Way: "ls-refs"}
	}
	if heads == nil {
		heads = map[string]string{}
	}
	return Answer{Heads: heads, Way: "ls-refs"}
}

// each calls do for every index, at most n at a time, and waits for all.
func each(indices []int, n int, do func(int)) {
	if len(indices) == 1 {
		do(indices[0])
		return
	}
	var wait sync.WaitGroup
	free := make(chan struct{}, n)
	for _, i := range indices {
		free <- struct{}{}
		wait.Go(func() {
			defer func() { <-free }()
			do(i)
		})
	}
	wait.Wait()
}
