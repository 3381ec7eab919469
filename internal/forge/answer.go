package forge

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
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
	EndsAt      time.Time `json:"ends_at,omitzero"` // when the credential does; zero: never, or nobody told
}

// Budgets tells what every credential that is used has left, as far as it was asked for anything, without a request.
func (f *Forges) Budgets() []BudgetState {
	f.mu.RLock()
	accounts := slices.DeleteFunc(slices.Collect(maps.Values(f.accounts)), (*account).isFormer)
	f.mu.RUnlock()
	slices.SortFunc(accounts, func(a, b *account) int {
		return cmp.Or(cmp.Compare(a.origin, b.origin), cmp.Compare(a.key, b.key), cmp.Compare(a.kind, b.kind))
	})
	var all []BudgetState
	listed := map[*budget]bool{}
	for _, a := range accounts {
		b := a.budget()
		if b == nil || listed[b] {
			continue
		}
		listed[b] = true
		states := b.states(hostOf(a.origin), namesOf(accounts, b))
		for i := range states {
			states[i].EndsAt = a.endsAt()
		}
		all = append(all, states...)
	}
	return all
}

// namesOf names the credentials that spend of a budget: several where they are the same token.
func namesOf(accounts []*account, b *budget) string {
	var names []string
	for _, a := range accounts {
		if a.budget() == b {
			names = append(names, a.key)
		}
	}
	return strings.Join(names, ", ")
}

// Explain tells why a repository is asked the way it is, and where it is by now.
func (f *Forges) Explain(r *Repository) string {
	p := f.place(r)
	text := f.explain(r, p)
	if p == nil {
		return text
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.moved != "" {
		text += "; it has moved to " + oneLine(p.moved) + ": write the new address into repo_url"
	}
	return text
}

func (f *Forges) explain(r *Repository, p *place) string {
	if p == nil || p.account.service == nil {
		return "asked over Git (ls-refs), which costs no API quota"
	}
	p.mu.Lock()
	byAPI := time.Now().Before(p.byAPI)
	p.mu.Unlock()
	a := p.account
	batch, sweep := a.service.lane()
	silent := f.silence(r)
	switch {
	case silent != nil:
		return "not asked for the moment: " + strings.TrimPrefix(silent.Error(), "not asked: ")
	case byAPI:
		return "asked over the API, because Git is refused there"
	case (batch > 1 || sweep) && a.silent():
		return "asked over Git (ls-refs) for the moment: " + a.trouble()
	}
	return a.service.explain(r)
}

// diagnoses are remembered for so long: who is in trouble asks again and again.
const remembered = 10 * time.Minute

// Diagnose tells more of a NotFound or Unauthorized answer: a missing repository, one that is not shown to the credential,
// one that moved and where to, a right that is missing. It gives err where it finds out nothing. It uses the API and counts
// on the budget; what it finds is remembered for a while.
func (f *Forges) Diagnose(ctx context.Context, r *Repository, err error) error {
	if err == nil {
		return nil
	}
	kind := sentry.AsFault(err).Kind
	p := f.place(r)
	if p == nil || p.account.service == nil || kind != sentry.NotFound && kind != sentry.Unauthorized || errors.As(err, new(*notAsked)) {
		return err
	}
	p.mu.Lock()
	last := p.diagnosis
	p.mu.Unlock()
	if last.kind != kind || time.Since(last.at) > remembered {
		last = diagnosis{kind: kind, at: time.Now(), found: p.account.service.diagnose(ctx, r)}
		if ctx.Err() != nil {
			return err
		}
		p.mu.Lock()
		p.diagnosis = last
		p.mu.Unlock()
	}
	if last.found == nil {
		return err
	}
	return last.found
}

// diagnosis is what was found out about a repository.
type diagnosis struct {
	kind  sentry.FaultKind // of the answer that was looked into
	at    time.Time
	found error
}

// Refused reports whether the credential of a repository was refused when it was shown last, of which the log was told.
func (f *Forges) Refused(r *Repository) bool {
	p := f.place(r)
	return p != nil && p.account.isRefused()
}

// Access tells what the credential of a repository may do and what is left of it.
func (f *Forges) Access(ctx context.Context, r *Repository) (Access, error) {
	a := f.account(r)
	if a.service == nil {
		return Access{}, sentry.Faultf(sentry.Invalid, "%s is asked over Git only, which tells nothing about credentials", r.Name)
	}
	return a.service.access(ctx, r)
}

// SetStatus puts a status on a commit. Doing it again with the same commit and context replaces the status. A fault of
// kind Unauthorized says which right is missing; one of kind Invalid, or NotFound, will come again.
func (f *Forges) SetStatus(ctx context.Context, r *Repository, s Status) error {
	if err := sentry.CheckCommit(s.Commit); err != nil {
		return sentry.Faultf(sentry.Invalid, "cannot set a status: %w", err)
	}
	a := f.account(r)
	switch {
	case a.service == nil:
		return sentry.Faultf(sentry.Invalid, "cannot set a status: %s is known as a plain Git server, which keeps none; if it is a forge, say so with repo_type", r.Remote.Host())
	case a.credential().anonymous():
		return sentry.Faultf(sentry.Unauthorized, "cannot set a status on a commit of %s without a token", fullName(r))
	}
	return a.service.setStatus(ctx, r, s)
}

// Token gives the credential of a repository as it is now, for the Git side: of a GitHub App, the token of the day. The
// error is a *sentry.Fault.
func (f *Forges) Token(ctx context.Context, r *Repository) (sentry.Secret, error) {
	if r.Auth.App != nil {
		base, err := apiBase(r)
		if err != nil {
			return sentry.Secret{}, err
		}
		if base == nil || r.Kind != GitHub {
			return sentry.Secret{}, sentry.Faultf(sentry.Invalid, "%s is not on GitHub, so a GitHub App is no use for it", r.Name)
		}
		return f.apps.token(ctx, base, *r.Auth.App, sentry.Secret{})
	}
	if r.Auth.Token == nil {
		return sentry.Secret{}, nil
	}
	token, err := r.Auth.Token()
	if err != nil {
		return sentry.Secret{}, sentry.Faultf(sentry.Unauthorized, "cannot read the token: %w", err)
	}
	return token, nil
}
