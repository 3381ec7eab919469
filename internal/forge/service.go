package forge

import (
	"context"
	"net/http"

	"sentry/internal/sentry"
)

// service is what each kind of forge implements (github.go, gitlab.go, gitea.go). There is one value for each account,
// which is an API with a credential; every request of it goes through that account, which knows the token, the budget
// and the only way there. It must be safe for concurrent use.
//
// A repository is never asked twice at once, so what a service remembers of one needs a lock only for its map.
type service interface {
	// authorize puts the token into a request. It is not called for anonymous requests.
	authorize(h http.Header, token sentry.Secret)

	// update is called with all repositories of the account whenever the configuration is read: what is remembered of
	// others can go.
	update(members []*Repository)

	// lane says how many repositories many takes at once now, and whether it takes all at once however many they are.
	// Batch 1 means that the API has nothing better than to ask each over Git.
	lane() (batch int, sweep bool)

	// many puts one question about several repositories of the account, and fills in the answer of each. An answer that
	// it leaves as it was means: this one may have moved, ask it by itself; the caller does so, after many has returned
	// (what many saw is then older than what the repository itself says, never newer). Same is only given for
	// repositories that were among those of an earlier call, of which it was then left open or answered with Heads;
	// whoever calls sees to it that a repository which could not be asked since then is not among repositories.
	// An error is for the question as a whole: nobody was answered.
	many(ctx context.Context, repositories []*Repository, answers []Answer) error

	// one asks a single repository over the API, where Git is refused or there is no ls-refs. It counts on the budget.
	one(ctx context.Context, r *Repository) Answer

	// commit tells who made a commit, where Git does not.
	commit(ctx context.Context, r *Repository, commit string) (Commit, error)

	// explain says how a repository is asked and what that costs, as one clause for `why`.
	explain(r *Repository) string

	// diagnose looks why a repository answers NotFound or Unauthorized. It gives a *sentry.Fault that says it better, or
	// nil where it finds nothing wrong.
	diagnose(ctx context.Context, r *Repository) error

	// access tells about the credential, with the repository r as an example for what may be done with it.
	access(ctx context.Context, r *Repository) (Access, error)

	// setStatus puts a status on a commit of a repository.
	setStatus(ctx context.Context, r *Repository, s Status) error
}
