package forge

import (
	"context"
	"errors"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"sentry/internal/sentry"

	"github.com/sony/gobreaker/v2"
)

// Of an API that does not answer.
const (
	breakAfter = 5 // failures in a row
	brokenTime = 30 * time.Second
)

// refusedTime is how long a token that was refused is not shown again.
const refusedTime = time.Minute

// renewTime is how often it is looked whether there is another token in the place of one that was refused.
const renewTime = time.Second

// accountKey tells accounts apart: a credential at an API.
type accountKey struct {
	kind Kind
	api  string // the base; the origin of the repositories for Git
	key  string // of the credential
}

// account is a credential at an API, or at a Git server: what shares a budget of requests. It outlives configurations
// that keep it.
type account struct {
	accountKey
	forges  *Forges
	base    *url.URL // of the API, without a slash at its end; nil for Git
	origin  string   // of the API, or of the Git server
	service service  // nil where only the Git protocol is known
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]
	// spending has the budget; nil for Git.
	spending atomic.Pointer[spending]
	used     atomic.Int64 // when a request was sent last, in Unix seconds

	mu      sync.Mutex // guards what follows
	auth    Auth
	members int
	former  bool // the configuration has it no more
	refused refused
	awaited sentry.Secret // a token that was refused, in whose place another one is awaited; empty: none is
	looking bool          // somebody looks for it
	seen    seen
}

// refused is a token that the other side does not want.
type refused struct {
	token sentry.Secret
	since time.Time // zero: none is
	next  time.Time // when it may be shown again
	err   error
	// suspects are repositories that refused the token over Git, in a row: one by itself may be the repository's fault.
	suspects map[*Repository]bool
}

// seen is what answers told of a token in passing.
type seen struct {
	of      sentry.Secret
	expires time.Time // zero: never, or nobody told
	warned  time.Time // when that was logged last
	next    time.Time // when it is asked for, where nothing tells before; zero: nobody thought of it yet
}

// open makes an account.
func (f *Forges) open(key accountKey, base *url.URL, auth Auth) *account {
	a := &account{accountKey: key, forges: f, auth: auth, base: base}
	if base == nil {
		a.origin = key.api
		return a
	}
	a.origin = originOf(base)
	var r rules
	switch key.kind {
	case GitHub:
		s := newGitHub(a)
		a.service, r = s, s.rules()
	case GitLab:
		s := newGitLab(a)
		a.service, r = s, s.rules()
	case Gitea:
		s := newGitea(a)
		a.service, r = s, s.rules()
	default:
		return a
	}
	f.shares.begin(a, newBudget(r, f.o.Network.host(a.origin)))
	a.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name: a.origin, Timeout: brokenTime,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakAfter },
		IsSuccessful: func(err error) bool { return err == nil },
		IsExcluded:   func(err error) bool { return errors.Is(err, errSaysNothing) },
	})
	return a
}

// recent reports whether a request was sent so lately that what was answered can still hold.
func (a *account) recent() bool { return time.Since(time.Unix(a.used.Load(), 0)) < 2*maxPause }

// isFormer reports whether the configuration has it no more: it is kept for what the forge has said to it.
func (a *account) isFormer() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.former
}

// abandon takes away what the configuration says of an account that it no longer has. One that it never had repositories
// for may still be used, for statuses. Nobody needs another token for it.
func (a *account) abandon() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.former = a.former || a.members > 0
	a.members = 0
}

// batches reports how many of its repositories are asked at once, as things are now: none together while the API does
// not answer, or has nothing left for us.
func (a *account) batches() (batch int, sweep bool) {
	if a.service == nil {
		return 1, false
	}
	batch, sweep = a.service.lane()
	if (batch > 1 || sweep) && a.silent() {
		return 1, false
	}
	return max(1, batch), sweep
}

// silent reports whether the API is not asked for the moment: it does not answer, or has nothing left for us.
func (a *account) silent() bool {
	return a.breaker.State() == gobreaker.StateOpen || a.budget().shut()
}

// trouble says why.
func (a *account) trouble() string {
	if a.breaker.State() == gobreaker.StateOpen {
		return hostOf(a.origin) + " has not answered its API several times"
	}
	for _, s := range a.budget().states("", "") {
		if s.Reason != "" {
			return s.Reason
		}
	}
	return "the budget of the API is used up"
}

// credential gives the Auth as it is configured now.
func (a *account) credential() Auth {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.auth
}

// token gives what to show now, empty for who asks anonymously. fresh wants another one than that, if there is any. The
// error is a *sentry.Fault.
func (a *account) token(ctx context.Context, fresh sentry.Secret) (sentry.Secret, error) {
	auth := a.credential()
	switch {
	case auth.App != nil:
		return a.forges.apps.token(ctx, a.base, *auth.App, fresh)
	case auth.Token == nil:
		return sentry.Secret{}, nil
	}
	token, err := auth.Token()
	if err != nil {
		return sentry.Secret{}, sentry.Faultf(sentry.Unauthorized, "cannot read the token: %w", err)
	}
	return token, nil
}

// admit tells whether a token may be shown: one that was refused is tried once in refusedTime.
func (a *account) admit(token sentry.Secret) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &a.refused
	if r.since.IsZero() || token.Empty() {
		return nil
	}
	if token != r.token { // it was rotated
		*r = refused{}
		return nil
	}
	now := time.Now()
	if now.Before(r.next) {
		return &sentry.Fault{
			Kind: sentry.Unauthorized, RetryAfter: 0,
			Err: &notAsked{since: r.since, key: a.key, cause: r.err},
		}
	}
	r.next = now.Add(refusedTime)
	return nil
}

// notAsked is why nobody was asked: the token was refused before.
type notAsked struct {
	since time.Time
	key   string
	cause error
}

func (e *notAsked) Error() string {
	name := "the credential"
	if e.key != "" {
		name = e.key
	}
	return "not asked: " + name + " is refused since " + clock(e.since) + " (asked again once a minute, and at once when it changes): " + e.cause.Error()
}

func (e *notAsked) Unwrap() error { return e.cause }

// refuse notes that a token was refused.
func (a *account) refuse(token sentry.Secret, err error) {
	if token.Empty() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	r := &a.refused
	if r.since.IsZero() || r.token != token {
		*r = refused{token: token, since: now, suspects: r.suspects}
		a.forges.log.Warn("a credential is refused; it is tried once a minute until it changes", "host", hostOf(a.origin), "credential", a.key)
	}
	r.next, r.err = now.Add(refusedTime), err
	a.await(token)
}

// await looks from now on, until the account is accepted again, for another token than one that was refused. That of an
// App is made, and not found. The caller holds a.mu.
func (a *account) await(token sentry.Secret) {
	if a.auth.Token == nil || a.auth.App != nil {
		return
	}
	if a.awaited = token; !a.looking {
		a.looking = true
		time.AfterFunc(renewTime, a.look)
	}
}

// look looks once for the token that is awaited.
func (a *account) look() {
	a.mu.Lock()
	was, auth := a.awaited, a.auth
	if was.Empty() || a.members == 0 || auth.Token == nil {
		a.awaited, a.looking = sentry.Secret{}, false
		a.mu.Unlock()
		return
	}
	a.mu.Unlock()
	token, err := auth.Token()
	if err != nil || token == was {
		time.AfterFunc(renewTime, a.look)
		return
	}
	a.mu.Lock()
	if a.refused.token == was {
		a.refused = refused{}
	}
	if a.awaited != was && !a.awaited.Empty() { // another one was refused while we looked
		time.AfterFunc(renewTime, a.look)
	} else {
		a.awaited, a.looking = sentry.Secret{}, false
	}
	a.mu.Unlock()
	a.forges.log.Info("a credential that was refused has changed; it is tried at once", "host", hostOf(a.origin), "credential", a.key)
	if a.forges.o.Renewed != nil {
		a.forges.o.Renewed(a.forges.membersOf(a))
	}
}

// isRefused reports whether the credential was refused when it was shown last.
func (a *account) isRefused() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.refused.since.IsZero()
}

// accept notes that a token was good for something.
func (a *account) accept(token sentry.Secret) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := &a.refused; !r.since.IsZero() && r.token == token {
		a.forges.log.Info("a credential is accepted again", "host", hostOf(a.origin), "credential", a.key)
		*r = refused{}
	}
	if a.awaited == token {
		a.awaited = sentry.Secret{}
	}
}

// name names an account among others at an origin.
func (a *account) name() string {
	if a.key == "" {
		return string(a.kind)
	}
	return string(a.kind) + " " + a.key
}
