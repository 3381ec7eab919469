package forge

import (
	"context"
	"time"

	"sentry/internal/sentry"
)

// BudgetState is how much one credential has left at one API.
type BudgetState struct {
	Host        string    `json:"host"`
	Key         string    `json:"key,omitempty"`      // the credential
	Resource    string    `json:"resource,omitempty"` // which of its budgets, where the API has several: "core", "graphql"
	Limit       int       `json:"limit,omitempty"`    // 0: the API has told nothing
	Remaining   int       `json:"remaining"`
	Reserve     int       `json:"reserve,omitempty"` // of what remains, kept for statuses
	Reset       time.Time `json:"reset,omitzero"`
	Used        int       `json:"used"` // by us, in the present window
	Waiting     int       `json:"waiting,omitempty"`
	PausedUntil time.Time `json:"paused_until,omitzero"`
	Reason      string    `json:"reason,omitempty"` // of the pause
}

// Budgets tells what every credential has left, without a request.
func (f *Forges) Budgets() []BudgetState { return nil }

// Explain tells why a repository is asked the way it is.
func (f *Forges) Explain(r *Repository) string {
	if p := f.place(r); p != nil && p.account.service != nil {
		return p.account.service.explain(r)
	}
	return "asked over the Git protocol (ls-refs): costs no API quota"
}

// Diagnose tells more of a NotFound or Unauthorized answer: a missing repository, one that is not visible to the
// credential, one that moved and where to, a right that is missing. It gives err where it finds out nothing. It uses the
// API and counts on the budget; what it finds is remembered for a while.
func (f *Forges) Diagnose(ctx context.Context, r *Repository, err error) error { return err }

// Access tells what the credential of a repository may do and what is left of it.
func (f *Forges) Access(ctx context.Context, r *Repository) (Access, error) {
	if p := f.place(r); p != nil && p.account.service != nil {
		return p.account.service.access(ctx, r)
	}
	return Access{}, sentry.Faultf(sentry.Invalid, "%s is asked over the Git protocol only, which tells nothing about credentials", r.Name)
}

// SetStatus puts a status on a commit. Doing it again with the same commit and context replaces the status. A fault of
// kind Unauthorized says which right is missing.
func (f *Forges) SetStatus(ctx context.Context, r *Repository, s Status) error {
	if p := f.place(r); p != nil && p.account.service != nil {
		return p.account.service.setStatus(ctx, r, s)
	}
	return sentry.Faultf(sentry.Invalid, "%s is a plain Git server, which keeps no statuses", r.Remote.Host())
}

// Token gives the credential of a repository as it is now: for the Git side, where a GitHub App stands in for a token.
func (f *Forges) Token(ctx context.Context, r *Repository) (sentry.Secret, error) {
	if r.Auth.Token == nil {
		return sentry.Secret{}, nil
	}
	return r.Auth.Token()
}

// Cost estimates what repositories will cost, one entry for each credential at an API. It makes no request.
func Cost(repositories []*Repository) []CostOf { return nil }
