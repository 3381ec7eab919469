package forge

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"sentry/internal/sentry"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-github/v89/github"
)

// Of the tokens of GitHub Apps (docs.github.com, apps/creating-github-apps/authenticating-with-a-github-app).
const (
	jwtLife   = 9 * time.Minute // ten at most
	jwtBefore = time.Minute     // so much earlier it says it was made: their clock may be behind
	renewal   = 10 * time.Minute
	urgent    = time.Minute // with less left, everybody waits for the new one

	// After a token could not be had, the next try waits, twice as long each time.
	appRetry    = 5 * time.Second
	appMaxRetry = 5 * time.Minute
)

// apps gets the tokens of installations of GitHub Apps, and renews them before they end. It is safe for concurrent use.
type apps struct {
	network *Network

	mu    sync.Mutex // guards the map
	known map[appKey]*installation
}

type appKey struct {
	api string
	app App
}

// installation is one installation of a GitHub App. Whoever renews its token has put something into renewing; everybody
// else goes on with the token there is, while it lasts.
type installation struct {
	renewing chan struct{} // of size one: who waits for it may give up

	mu       sync.Mutex // guards what follows
	token    sentry.Secret
	expires  time.Time
	rights   []string // "contents: read"
	failures int
	next     time.Time // when it may be tried again
	err      error     // of the last try
}

func newApps(n *Network) *apps { return &apps{network: n, known: map[appKey]*installation{}} }

// token gives the token of an installation. fresh, unless empty, is one that was refused: another is wanted. The error is
// a *sentry.Fault.
func (a *apps) token(ctx context.Context, base *url.URL, app App, fresh sentry.Secret) (sentry.Secret, error) {
	key := appKey{base.String(), app}
	a.mu.Lock()
	in := a.known[key]
	if in == nil {
		in = &installation{renewing: make(chan struct{}, 1)}
		a.known[key] = in
	}
	a.mu.Unlock()

	token, left, err := in.state(fresh)
	switch {
	case err != nil:
		return sentry.Secret{}, err
	case left > renewal:
		return token, nil
	case left > urgent:
		select {
		case in.renewing <- struct{}{}:
		default:
			return token, nil
		}
	default:
		select {
		case in.renewing <- struct{}{}:
		case <-ctx.Done():
			return sentry.Secret{}, sentry.Faultf(sentry.Transient, "waited for a token of the GitHub App %d: %w", app.ID, ctx.Err())
		}
	}
	defer func() { <-in.renewing }()
	// Somebody else may have done it while we waited.
	if token, left, err = in.state(fresh); err != nil || left > renewal {
		return token, err
	}
	newer, err := a.create(ctx, base, app)
	in.mu.Lock()
	defer in.mu.Unlock()
	now := time.Now()
	if err != nil {
		if ctx.Err() == nil {
			in.failures++
			pause := min(appMaxRetry, appRetry<<min(in.failures-1, 10))
			in.next, in.err = now.Add(max(pause, sentry.AsFault(err).RetryAfter)), err
		}
		if left > urgent {
			return token, nil
		}
		return sentry.Secret{}, err
	}
	in.token, in.expires, in.rights, in.failures, in.next, in.err = sentry.NewSecret(newer.GetToken()), newer.GetExpiresAt().Time, rightsOf(newer), 0, time.Time{}, nil
	return in.token, nil
}

// state gives the token that there is, and for how long it lasts: not at all where it is the one that was refused. It
// gives the error of the last try where there is none and it is too early to try again.
func (in *installation) state(refused sentry.Secret) (token sentry.Secret, left time.Duration, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	now := time.Now()
	if !in.token.Empty() && in.token != refused {
		left = in.expires.Sub(now)
	}
	if now.Before(in.next) {
		if left > urgent {
			return in.token, renewal + 1, nil // good enough, until it may be tried again
		}
		return sentry.Secret{}, 0, in.err
	}
	return in.token, left, nil
}

// create asks for a new token, as the App itself.
func (a *apps) create(ctx context.Context, base *url.URL, app App) (*github.InstallationToken, error) {
	what := fmt.Sprintf("cannot get a token for the GitHub App %d", app.ID)
	signed, err := appJWT(app, time.Now())
	if err != nil {
		return nil, sentry.Faultf(sentry.Unauthorized, "%s: %w", what, err)
	}
	// Once an hour, and whatever is asked with it waits for it.
	ctx, cancel := context.WithTimeout(ticket{urgent: true}.in(ctx), wholeTime)
	defer cancel()
	origin := originOf(base)
	client, err := githubClient(base, a.network.client(origin, &asApp{a.network.only(origin), signed}))
	if err != nil {
		return nil, sentry.Faultf(sentry.Invalid, "%s: %w", what, err)
	}
	token, answer, err := client.Apps.CreateInstallationToken(ctx, app.Installation, nil)
	if err == nil && (token.GetToken() == "" || token.GetExpiresAt().IsZero()) {
		err = sentry.Faultf(sentry.Invalid, "the answer holds no token")
	}
	if err != nil {
		return nil, appFault(ctx, what, app, err, answer)
	}
	return token, nil
}

// rightsOf lists what a token may do.
func rightsOf(token *github.InstallationToken) []string {
	var all map[string]string
	data, err := json.Marshal(token.GetPermissions())
	if err != nil || json.Unmarshal(data, &all) != nil {
		return nil
	}
	var rights []string
	for name, level := range all {
		rights = append(rights, oneLine(name+": "+level))
	}
	slices.Sort(rights)
	return rights
}

// permissions tells what the token of an installation may do, as far as there is one.
func (a *apps) permissions(base *url.URL, app App) []string {
	a.mu.Lock()
	in := a.known[appKey{base.String(), app}]
	a.mu.Unlock()
	if in == nil {
		return nil
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clone(in.rights)
}

// appFault says what it means that a token could not be had.
func appFault(ctx context.Context, what string, app App, err error, answer *github.Response) error {
	if answer == nil || answer.Response == nil || answer.StatusCode < 300 {
		kind := sentry.Transient
		if f, ok := errors.AsType[*sentry.Fault](err); ok {
			kind = f.Kind
		}
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return sentry.Faultf(kind, "%s: %w", what, cause(err))
	}
	status := answer.StatusCode
	said := ""
	if refused, ok := errors.AsType[*github.ErrorResponse](err); ok {
		said = oneLine(refused.Message)
	}
	wait, asked := retryAfter(answer.Header, time.Now())
	fault := func(kind sentry.FaultKind, text string) error {
		return &sentry.Fault{Kind: kind, RetryAfter: wait, Err: fmt.Errorf("%s: %s (HTTP status %d, it says %q)", what, text, status, said)}
	}
	switch {
	case status == http.StatusTooManyRequests, status == http.StatusForbidden && asked:
		return fault(sentry.RateLimited, "it is asked too often")
	case status == http.StatusUnauthorized:
		return fault(sentry.Unauthorized, "its id and its private key do not go together, or this machine's clock is wrong")
	case status == http.StatusForbidden:
		return fault(sentry.Unauthorized, "the installation is suspended, or may not have tokens")
	case status == http.StatusNotFound:
		return fault(sentry.Unauthorized, fmt.Sprintf("it has no installation %d", app.Installation))
	case status >= 500:
		return fault(sentry.Transient, "the server is in trouble")
	}
	return fault(sentry.Invalid, "the answer is not what was expected")
}

// appJWT is what an App shows to prove who it is.
func appJWT(app App, now time.Time) (sentry.Secret, error) {
	pem, err := readPEM(app.KeyFile)
	if err != nil {
		return sentry.Secret{}, err
	}
	key, err := privateKey(pem)
	if err != nil {
		return sentry.Secret{}, fmt.Errorf("%s is no private key of a GitHub App: %w", app.KeyFile, err)
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.RegisteredClaims{
		Issuer: strconv.FormatInt(app.ID, 10), IssuedAt: jwt.NewNumericDate(now.Add(-jwtBefore)), ExpiresAt: jwt.NewNumericDate(now.Add(jwtLife)),
	}).SignedString(key)
	return sentry.NewSecret(token), err
}

func privateKey(pem []byte) (*rsa.PrivateKey, error) {
	if !bytes.Contains(pem, []byte("PRIVATE KEY-----")) {
		return nil, errors.New("it is not in PEM form, with PRIVATE KEY in its first line")
	}
	key, err := jwt.ParseRSAPrivateKeyFromPEM(pem)
	if err != nil {
		return nil, errors.New("it holds no RSA key that can be read") // the text of err could quote it
	}
	return key, nil
}

// asApp shows the proof of an App.
type asApp struct {
	next  http.RoundTripper
	proof sentry.Secret
}

// RoundTrip sends a request with it.
func (s *asApp) RoundTrip(req *http.Request) (*http.Response, error) {
	out := req.Clone(req.Context())
	out.Header.Set("Authorization", "Bearer "+s.proof.Reveal())
	out.Header.Set("User-Agent", userAgent)
	return s.next.RoundTrip(out)
}

// githubClient gives the client library, over one of our clients.
func githubClient(base *url.URL, c *http.Client) (*github.Client, error) {
	address := base.String() + "/"
	return github.NewClient(github.WithHTTPClient(c), github.WithURLs(&address, &address), github.WithDisableRateLimitCheck())
}
