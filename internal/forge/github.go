package forge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"sentry/internal/sentry"
)

// GitHub is asked by GraphQL, a hundred repositories and all their branches in one query that costs one point of 5,000 an
// hour, where enough repositories share a token; over Git, which costs no quota, where there are few, after a hint, and in
// doubt; and over REST where Git is refused. What follows comes from docs.github.com, pages
// graphql/overview/rate-limits-and-query-limits-for-the-graphql-api and rest/using-the-rest-api/….

// Of the batches.
const (
	githubFew   = 4   // repositories from which on a query is worth its point
	githubBatch = 100 // repositories in a query, to begin with
	githubMost  = 250
	githubRefs  = 500 // branches in a query, asked by name
	githubLeast = 5   // a smaller query that fails does so for another reason than its size
)

// Of the answers. GitHub gives up a query after 10 s.
const (
	githubQuick   = 1500 * time.Millisecond // a query that takes no longer may grow
	githubSlow    = 4 * time.Second         // one that takes longer must shrink
	githubSettle  = time.Hour               // how long a size that was too much is remembered
	githubAside   = time.Hour               // how long GraphQL is left alone where it is refused, and a repository that does not fit
	githubRecheck = 20 * time.Minute        // how often what a search gave is compared with the repository itself
)

// gitHub is GitHub for one credential.
type gitHub struct {
	a *account

	mu      sync.Mutex // guards what follows
	members int
	size    int       // of a batch
	ceiling int       // that it does not reach before settled
	settled time.Time // when the ceiling falls
	refused time.Time // GraphQL is left alone until then
	why     string
	aside   map[*Repository]time.Time // are not asked by GraphQL until then
	checked map[*Repository]time.Time // of those with patterns: when they were left to Git last
	etags   map[*Repository]map[string]etag
}

func newGitHub(a *account) *gitHub {
	g := &gitHub{a: a, size: githubBatch, ceiling: githubMost}
	g.update(nil)
	return g
}

// rules are GitHub's own: pages rest/using-the-rest-api/rate-limits-for-the-rest-api and …/best-practices-for-using-the-
// rest-api. Enterprise servers have no limits unless their administrators set some, and then tell so.
func (g *gitHub) rules() rules {
	r := rules{
		window:        time.Hour,
		perMinute:     map[purse]int{corePurse: 900, graphqlPurse: 2000},
		writePoints:   5,
		busy:          map[purse]time.Duration{"": 90 * time.Second, graphqlPurse: 60 * time.Second},
		betweenWrites: time.Second,
		writesPerHour: 450, // 500 that create content
		concurrency:   4,   // "make requests serially"; 100 is where they are refused
	}
	if isGitHubCom(g.a.base.Host) {
		r.limit = 5000
		if g.a.credential().anonymous() {
			r.limit = 60
		}
	}
	return r
}

// isGitHubCom reports whether an API is GitHub's own, and not a server of somebody's.
func isGitHubCom(host string) bool {
	return host == "api.github.com" || strings.HasSuffix(host, ".ghe.com")
}

func (g *gitHub) authorize(h http.Header, token sentry.Secret) {
	h.Set("Authorization", "Bearer "+token.Reveal())
}

func (g *gitHub) update(members []*Repository) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.members = len(members)
	aside, checked, etags := g.aside, g.checked, g.etags
	g.aside, g.checked = map[*Repository]time.Time{}, map[*Repository]time.Time{}
	g.etags = map[*Repository]map[string]etag{}
	for _, r := range members {
		keep(g.aside, aside, r)
		keep(g.checked, checked, r)
		keep(g.etags, etags, r)
	}
}

func keep[K comparable, V any](in, from map[K]V, key K) {
	if v, ok := from[key]; ok {
		in[key] = v
	}
}

// lane says how many repositories a query covers. GraphQL is for those who show a token.
func (g *gitHub) lane() (batch int, sweep bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.members < githubFew || g.a.credential().anonymous() || time.Now().Before(g.refused) {
		return 1, false
	}
	return g.size, false
}

// many asks by GraphQL.
func (g *gitHub) many(ctx context.Context, repositories []*Repository, answers []Answer) error {
	var fit []*item
	for i, r := range repositories {
		it, err := newItem(r, &answers[i])
		switch {
		case err != nil:
			answers[i] = Answer{Err: sentry.AsFault(err), Way: "GraphQL"}
		case !g.leave(r, it.searches):
			fit = append(fit, it)
		}
	}
	if len(fit) < githubFew {
		return nil // Git does it for nothing
	}
	var first error
	for some := range g.queries(fit) {
		if err := g.ask(ctx, some); err != nil {
			if first == nil {
				first = err
			}
			if sentry.AsFault(err).Kind != sentry.Transient {
				break
			}
		}
	}
	if first != nil && slices.ContainsFunc(answers, func(a Answer) bool { return a.answered() }) {
		return nil // the others are asked one by one
	}
	return first
}

// leave reports whether a repository is to be asked over Git: it does not fit into a query, or it is time to compare what
// a search for branches gave with what the repository says.
func (g *gitHub) leave(r *Repository, searches int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if now.Before(g.aside[r]) {
		return true
	}
	if searches == 0 {
		return false
	}
	last, ok := g.checked[r]
	if !ok || now.Sub(last) >= githubRecheck {
		g.checked[r] = now
		return ok // the first answer of all is a comparison in itself: whoever gets it asks again where it matters
	}
	return false
}

// queries divides repositories into queries that cost a point each: no more than the size of a batch, no more searches than
// a hundred, and no more branches than GitHub answers for quickly.
func (g *gitHub) queries(items []*item) func(func([]*item) bool) {
	g.mu.Lock()
	size := g.size
	g.mu.Unlock()
	return func(yield func([]*item) bool) {
		// Equal parts: 101 are 51 and 50.
		parts := (len(items) + size - 1) / size
		size := (len(items) + parts - 1) / parts
		for start := 0; start < len(items); {
			end, searches, refs := start, 0, 0
			for end < len(items) && end-start < size {
				searches, refs = searches+items[end].searches, refs+len(items[end].branches)
				if end > start && (searches > connectionsPerPoint || refs > githubRefs) {
					break
				}
				end++
			}
			if !yield(items[start:end]) {
				return
			}
			start = end
		}
	}
}

// ask puts one query, and two smaller ones where it was too much. Items that are not answered then are left to Git.
func (g *gitHub) ask(ctx context.Context, items []*item) error {
	heavy := len(items) > githubLeast
	var said graphqlAnswer
	r, err := g.a.call(ctx, call{
		purse: graphqlPurse, method: http.MethodPost, path: graphqlAddress(g.a.base), in: map[string]string{"query": queryOf(items)}, heavy: heavy, once: true, patience: patience,
	}, &said)
	took := githubSlow
	if r != nil {
		took = r.took
	}
	outcome := said.judge(err)
	if outcome == fine {
		for i, it := range items {
			if it.read(&said, i) {
				outcome = tooMuch
			}
		}
		g.noteMoved(items)
	}
	switch {
	case outcome == fine:
		g.resize(len(items), took)
		return nil
	case outcome == tooMuch && heavy && !hasTime(ctx, 4*took):
		g.shrink(len(items)) // and what is left goes over Git, which is quick
		return err
	case outcome == tooMuch && heavy:
		g.shrink(len(items))
		items = slices.DeleteFunc(slices.Clone(items), func(it *item) bool { return it.answer.answered() })
		if len(items) == 0 {
			return nil
		}
		half := (len(items) + 1) / 2
		err := g.ask(ctx, items[:half])
		if half < len(items) && (err == nil || sentry.AsFault(err).Kind == sentry.Transient) {
			err = errors.Join(err, g.ask(ctx, items[half:]))
		}
		return asFault(err)
	case outcome == tooMuch: // even this little: their repositories are asked themselves
		for _, it := range items {
			if !it.answer.answered() {
				g.setAside(it.Repository)
			}
		}
		return err
	case outcome == limited:
		if err == nil {
			wait := g.a.budget().exceeded(graphqlPurse, retryOf(r), "it asked for a pause: "+said.text())
			err = &sentry.Fault{Kind: sentry.RateLimited, RetryAfter: wait, Err: fmt.Errorf("%s says %q", hostOf(g.a.origin), said.text())}
		}
		return err
	case outcome == notSpoken:
		return g.refuse(err, &said)
	}
	return err
}

// hasTime reports whether something that takes so long would be done before a context ends.
func hasTime(ctx context.Context, d time.Duration) bool {
	end, ok := ctx.Deadline()
	return ctx.Err() == nil && (!ok || time.Until(end) > d)
}

func retryOf(r *reply) time.Duration {
	if r == nil {
		return 0
	}
	wait, _ := retryAfter(r.header, time.Now())
	return wait
}

// refuse leaves GraphQL alone for a while, where the server does not speak it, or not with this credential.
func (g *gitHub) refuse(err error, said *graphqlAnswer) error {
	if err == nil {
		err = sentry.Faultf(sentry.Invalid, "%s does not answer GraphQL: it says %q", hostOf(g.a.origin), said.text())
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refused, g.why = time.Now().Add(githubAside), err.Error()
	g.a.forges.log.Warn("GitHub is asked over Git only for a while: it refuses GraphQL", "host", hostOf(g.a.origin), "error", err.Error())
	return err
}

// resize draws the lesson of a query that was answered.
func (g *gitHub) resize(n int, took time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if g.ceiling < githubMost && now.After(g.settled) {
		g.ceiling = githubMost
	}
	switch {
	case took > githubSlow:
		g.size = max(githubLeast, min(g.size, n*3/4))
	case took < githubQuick && n >= g.size:
		g.size = min(g.ceiling, g.size+max(1, g.size/10))
	}
}

// shrink draws the lesson of a query that was too much.
func (g *gitHub) shrink(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.size = max(githubLeast, min(g.size, n/2))
	g.ceiling, g.settled = max(githubLeast, min(g.ceiling, n*4/5)), time.Now().Add(githubSettle)
}

// setAside leaves a repository to Git for a while.
func (g *gitHub) setAside(r *Repository) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.aside[r] = time.Now().Add(githubAside)
}

// noteMoved takes note of which repositories have another name by now.
func (g *gitHub) noteMoved(items []*item) {
	for _, it := range items {
		if it.wide {
			g.setAside(it.Repository)
		}
		if it.now != "" {
			g.a.forges.noteMoved(it.Repository, it.now)
		}
	}
}

// explain says how a repository is asked.
func (g *gitHub) explain(r *Repository) string {
	auth := g.a.credential()
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	const free = "asked over Git (ls-refs), which costs no API quota"
	switch {
	case auth.anonymous():
		return free + ": GraphQL, which asks many at once, needs a token"
	case g.members < githubFew:
		return free + fmt.Sprintf(": GraphQL is for %d repositories or more with one credential, here are %d", githubFew, g.members)
	case now.Before(g.refused):
		return free + ": GraphQL is refused (" + g.why + ")"
	case now.Before(g.aside[r]):
		return free + ": it does not fit into a GraphQL query"
	}
	return fmt.Sprintf("asked by GraphQL, up to %d repositories in a query of one point (GitHub gives a user 5,000 an hour); over Git (ls-refs) after a hint, while it is hot, and in doubt", g.size)
}
