package forge

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"maps"
	"slices"
	"sync"

	"sentry/internal/sentry"
)

// shares tells which accounts show the same token to the same API. They have one budget, whatever the configuration calls
// the token: two files may hold the same one. It remembers tokens as sums, with a key that is this process's own.
type shares struct {
	key []byte

	mu    sync.Mutex // guards known and budget.users
	known map[share]*budget
}

// share is a token at an API.
type share struct {
	kind Kind
	api  string
	sum  [sha256.Size]byte
}

// spending is the budget of an account, and the token that it is of.
type spending struct {
	token  sentry.Secret // empty: none was shown yet
	share  share
	budget *budget
	over   bool // the account has been left behind, and does not count among the users
}

func newShares() *shares {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // it never fails
	return &shares{key: key, known: map[share]*budget{}}
}

// begin gives an account a budget of its own, until it shows a token that another one shows.
func (s *shares) begin(a *account, b *budget) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.users++
	a.spending.Store(&spending{budget: b})
}

// of gives the budget for a request of an account with a token. Where that is another one than before, it has been
// rotated: what is known of a budget that nobody else uses goes on to hold, and where others still use it, a copy of it.
// Who shows what another one shows already joins that one.
func (s *shares) of(a *account, token sentry.Secret) *budget {
	now := a.spending.Load()
	if token.Empty() || token == now.token || a.credential().App != nil {
		return now.budget
	}
	next := spending{token: token, share: share{kind: a.kind, api: a.api}}
	sum := hmac.New(sha256.New, s.key)
	_, _ = sum.Write([]byte(token.Reveal()))
	sum.Sum(next.share.sum[:0])

	s.mu.Lock()
	defer s.mu.Unlock()
	if now = a.spending.Load(); now.token == token || now.over {
		return now.budget
	}
	switch next.budget = s.known[next.share]; {
	case next.budget != nil:
	case now.budget.users <= 1:
		next.budget = now.budget
	default:
		next.budget = now.budget.fork()
	}
	s.release(now)
	next.budget.users++
	s.known[next.share] = next.budget
	a.spending.Store(&next)
	return next.budget
}

// end takes an account that is no longer needed out.
func (s *shares) end(a *account) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := *a.spending.Load()
	if now.over {
		return
	}
	s.release(&now)
	now.over = true
	a.spending.Store(&now)
}

// release forgets a token that nobody shows any more. The caller holds s.mu.
func (s *shares) release(was *spending) {
	if was.budget.users--; was.budget.users == 0 && s.known[was.share] == was.budget {
		delete(s.known, was.share)
	}
}

// budget is what the account spends of now; nil where there is no API.
func (a *account) budget() *budget {
	if now := a.spending.Load(); now != nil {
		return now.budget
	}
	return nil
}

// fork gives a budget that begins as this one is. Requests that are under way are not of it.
func (b *budget) fork() *budget {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := &budget{
		rules: b.rules, atOnce: b.atOnce, seated: b.seated, purses: map[purse]*window{}, closed: b.closed, silent: b.silent, reason: b.reason, strikes: b.strikes, empty: b.empty,
		quiet: maps.Clone(b.quiet), writes: slices.Clone(b.writes), took: slices.Clone(b.took), usual: b.usual,
	}
	for p, w := range b.purses {
		n.purses[p] = w.fork()
	}
	if b.own != nil {
		n.own = b.own.fork()
	}
	return n
}

func (w *window) fork() *window {
	n := *w
	n.out, n.spent = 0, slices.Clone(w.spent)
	return &n
}
