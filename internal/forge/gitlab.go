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

// GitLab is asked by GraphQL where enough repositories share a token: Query.projects takes fifty paths, and what is asked
// of each counts once on the complexity of the query, not once for each (app/graphql/types/base_field.rb), so that time,
// not complexity, is what bounds a batch. A commit that is there is believed. One that is not there is asked for over Git:
// GitLab shows null as well where its Git side is away (lib/gitlab/git/commit.rb). Repositories that are watched by
// patterns are asked over Git, as listing branches costs 170 of the 250 points of a query; so are those where GraphQL is
// refused, and all after a hint. What follows comes from docs.gitlab.com, pages api/graphql, api/rest, user/gitlab_com and
// administration/settings/user_and_ip_rate_limits.

// Of the batches.
const (
	gitlabFew      = 3   // repositories from which on a query is worth the wait
	gitlabBatch    = 25  // repositories in a query, to begin with
	gitlabMost     = 100 // each branch is a question of GitLab's to its own Git side
	gitlabLeast    = 5
	gitlabPaths    = 50     // "You cannot provide more than 50 full paths."
	gitlabBranches = 10     // a repository with more is asked over Git, which gives them all at once
	gitlabText     = 10_000 // characters of a query, variables aside
	gitlabAllowed  = 200    // complexity, until GitLab has told: what it allows to those it does not know
)

// Of the answers.
const (
	gitlabQuick = 1500 * time.Millisecond // a query that takes no longer may grow
	gitlabSlow  = 5 * time.Second         // one that takes longer must shrink
	gitlabLate  = 15 * time.Second        // one that takes longer is given up, while there is time to ask over Git
	gitlabTries = 3                       // of the smallest that came to nothing in a row, until GraphQL is left alone
	gitlabAside = 10 * time.Minute        // how long GraphQL is left alone where it is refused
	gitlabAgain = 24 * time.Hour          // how often the token is asked about
)

// gitlab is GitLab for one credential.
type gitlab struct {
	a       *account
	graphql string // its address

	mu       sync.Mutex // guards what follows
	together int        // repositories that can be asked in a query
	size     int        // of a batch, by the time that it takes
	fits     int        // of a batch, by its complexity
	dialect  dialect    // the newest that this GitLab understands
	limit    int        // complexity that a query may have
	factor   float64    // what GitLab reckons a query to be, by what is reckoned here
	refused  time.Time  // GraphQL is left alone until then
	why      string     // in words that go on after "because"
	failed   int        // of the smallest queries, in a row
	asked    time.Time  // when the token was asked about
	token    sentry.Secret
	lone     map[*Repository]string
	rest     map[*Repository]map[string]validated
}

func newGitLab(a *account) *gitlab {
	base := strings.TrimSuffix(a.base.String(), "/v4")
	return &gitlab{
		a: a, graphql: base + "/graphql", size: gitlabBatch, fits: gitlabMost, limit: gitlabAllowed, factor: 1,
		lone: map[*Repository]string{}, rest: map[*Repository]map[string]validated{},
	}
}

// project is the full path of a repository's project: "group/subgroup/name".
func (g *gitlab) project(r *Repository) string { return below(g.a.base, "/api/v4", r) }

// rules are those of all requests of the API, of which GitLab tells in every answer. They are counted by the minute.
func (g *gitlab) rules() rules { return rules{window: time.Minute, concurrency: 8} }

// authorize puts the token into a request.
func (g *gitlab) authorize(h http.Header, token sentry.Secret) {
	h.Set("Private-Token", token.Reveal())
}

// update forgets repositories that are gone.
func (g *gitlab) update(members []*Repository) {
	g.mu.Lock()
	defer g.mu.Unlock()
	lone, rest := map[*Repository]string{}, map[*Repository]map[string]validated{}
	g.together = 0
	for _, r := range members {
		if why := alone(r); why != "" {
			lone[r] = why
		} else {
			g.together++
		}
		if known := g.rest[r]; known != nil {
			rest[r] = known
		}
	}
	g.lone, g.rest = lone, rest
}

// alone says why a repository cannot be asked together with others, "" where it can.
func alone(r *Repository) string {
	for _, p := range r.Patterns {
		if !p.Exact() {
			return "GraphQL lists branches at too high a price"
		}
	}
	if len(r.Patterns) > gitlabBranches {
		return "it is cheaper for that many branches"
	}
	return ""
}

// lane says how many repositories are asked at once.
func (g *gitlab) lane() (batch int, sweep bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.together < gitlabFew || time.Now().Before(g.refused) {
		return 1, false
	}
	return min(g.size, g.fits), false
}

// explain says how a repository is asked.
func (g *gitlab) explain(r *Repository) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.lone[r] != "":
		return "asked over the Git protocol (ls-refs), which costs no API quota: " + g.lone[r]
	case time.Now().Before(g.refused):
		return "asked over the Git protocol (ls-refs), which costs no API quota: GraphQL is left alone, because " + g.why
	case g.together < gitlabFew:
		return "asked over the Git protocol (ls-refs), which costs no API quota: too few repositories share a token to ask them together"
	}
	return fmt.Sprintf("asked by GraphQL, up to %d repositories in a query, which is one API request; over the Git protocol (ls-refs) when hot, and where GraphQL shows a branch as missing", min(g.size, g.fits))
}

// many asks about several repositories in as few queries as their complexity allows.
func (g *gitlab) many(ctx context.Context, repositories []*Repository, answers []Answer) error {
	if err := g.ready(ctx); err != nil {
		return err
	}
	open := make([]int, 0, len(repositories))
	g.mu.Lock()
	for i, r := range repositories {
		if g.lone[r] == "" {
			open = append(open, i)
		}
	}
	g.mu.Unlock()

	// A query that this GitLab does not understand, or finds too complex, is put again in another way. That happens a few
	// times in the life of a process.
	for tries := 0; len(open) > 0; {
		question, rest := g.compose(repositories, open)
		reply, err := g.ask(ctx, question)
		var retry *rephrase
		if errors.As(err, &retry) && tries < 4 {
			tries++
			continue
		}
		if err != nil {
			if len(open) == len(repositories) {
				return err
			}
			return nil // what is left is asked one by one
		}
		question.read(reply, repositories, answers)
		open = rest
	}
	return nil
}

// ready makes sure, once in a while, that the token may use the API at all: one that is made for Git only would be refused
// as if it were no good.
func (g *gitlab) ready(ctx context.Context) error {
	token, err := g.a.token(ctx, sentry.Secret{})
	if err != nil || token.Empty() {
		return err
	}
	now := time.Now()
	g.mu.Lock()
	known := !g.asked.IsZero() && now.Sub(g.asked) < gitlabAgain && token == g.token
	g.mu.Unlock()
	if known {
		return nil
	}
	self, _, err := g.self(ctx, asking)
	if f := sentry.AsFault(err); err != nil && f.Kind != sentry.NotFound {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil && !slices.Contains(self.Scopes, "api") && !slices.Contains(self.Scopes, "read_api") {
		g.stop(gitlabAside, "the token has neither the scope read_api nor api")
		return sentry.Faultf(sentry.Unauthorized, "GraphQL is not asked: %s", g.why)
	}
	g.asked, g.token = now, token
	return nil
}

// stop leaves GraphQL alone for a while. The caller holds g.mu.
func (g *gitlab) stop(wait time.Duration, why string) {
	g.refused, g.why = time.Now().Add(wait), why
}

// rephrase tells that a query was put in a way that GitLab does not take, and that it is put otherwise from now on.
type rephrase struct{ said string }

func (e *rephrase) Error() string { return "GraphQL says " + e.said }

// ask puts a query. The error is a *sentry.Fault, or a *rephrase.
func (g *gitlab) ask(ctx context.Context, q *query) (*queryReply, error) {
	var out queryReply
	within, cancel := context.WithTimeout(ctx, gitlabLate)
	defer cancel()
	r, err := g.a.call(within, call{
		class: asking, method: http.MethodPost, path: g.graphql, heavy: true,
		in: map[string]any{"query": q.text, "variables": q.variables},
	}, &out)
	if err != nil {
		return nil, g.refuse(ctx, q, err)
	}
	if err := g.judge(q, &out); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failed = 0
	if c := out.complexity(); c.Limit > 0 && c.Score > 0 {
		g.limit, g.factor = c.Limit, max(1, float64(c.Score)/float64(q.complexity))
	}
	switch {
	case r.took > gitlabSlow:
		g.shrink(q)
	case r.took < gitlabQuick && q.repositories >= min(g.size, g.fits):
		g.size = min(gitlabMost, g.size*2)
	}
	if q.full {
		g.fits = max(1, q.repositories)
	} else if q.repositories >= g.fits {
		g.fits = min(gitlabMost, g.fits*2)
	}
	return &out, nil
}

// refuse takes note of a query that came to nothing.
func (g *gitlab) refuse(ctx context.Context, q *query, err error) error {
	f := sentry.AsFault(err)
	g.mu.Lock()
	defer g.mu.Unlock()
	var status *StatusError
	errors.As(err, &status)
	switch {
	case status != nil && status.Status == http.StatusUnprocessableEntity:
		g.stop(gitlabAside, fmt.Sprintf("it says %q", status.Said)) // too long: more branches with longer names than reckoned with
	case f.Kind == sentry.NotFound, f.Kind == sentry.Unauthorized, status != nil && (status.Status == http.StatusMethodNotAllowed || status.Status == http.StatusNotAcceptable):
		g.stop(gitlabAside, fmt.Sprintf("it was refused (%v)", f.Err))
	case f.Kind == sentry.Transient && f.RetryAfter == 0 && q.repositories > 1:
		// It may have been too much: GitLab itself gives up after 30 s.
		g.shrink(q)
		if ctx.Err() == nil && q.repositories <= gitlabLeast {
			if g.failed++; g.failed >= gitlabTries {
				g.failed = 0
				g.stop(gitlabAside, fmt.Sprintf("it does not work (%v)", f.Err))
			}
		}
	}
	return err
}

// shrink makes queries smaller after one that was too much. The caller holds g.mu.
func (g *gitlab) shrink(q *query) { g.size = max(gitlabLeast, min(g.size, q.repositories)/2) }

// judge reads the errors of an answer that are about the query as a whole.
func (g *gitlab) judge(q *query, out *queryReply) error {
	if out.Data != nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	said := "nothing"
	for _, e := range out.Errors {
		said = fmt.Sprintf("%q", oneLine(e.Message))
		switch code := e.Extensions.Code; {
		case code == "undefinedField" || code == "argumentNotAccepted":
			// Another query may have found it out meanwhile.
			if q.dialect == oldest && g.dialect == oldest {
				g.stop(gitlabAgain, "this GitLab is too old for it")
				return sentry.Faultf(sentry.Invalid, "GraphQL says %s", said)
			}
			g.dialect = max(g.dialect, q.dialect+1)
			return &rephrase{said}
		default:
			if is, most, ok := tooComplex(e.Message); ok {
				before := float64(g.limit) / g.factor
				g.limit, g.factor = most, max(g.factor, float64(is)/float64(q.complexity))
				if q.repositories == 1 || float64(g.limit)/g.factor >= before { // it would be the same again
					g.stop(gitlabAside, "it says "+said)
					return sentry.Faultf(sentry.Invalid, "GraphQL says %s", said)
				}
				return &rephrase{said}
			}
		}
	}
	if q.repositories > 1 {
		g.shrink(q) // a timeout comes as an error of its own
	}
	return sentry.Faultf(sentry.Transient, "GraphQL gives no data and says %s", said)
}
