package forge

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"sentry/internal/sentry"
)

// userAgent is how Sentry calls itself; GitHub answers nobody without a name.
const userAgent = "sentry"

// client gives a client for the API, and nothing else, that shows the token, waits for its turn in the budget and learns
// from the answers; for our own requests and for those of client libraries. What it refuses itself, and what the other
// side refuses for being too much, or for the token, comes as a *sentry.Fault in the chain of the error.
func (a *account) client(c class, p purse, heavy bool) *http.Client {
	return a.sending(&sender{class: c, purse: p, heavy: heavy})
}

func (a *account) sending(s *sender) *http.Client {
	if s.purse == "" {
		s.purse = corePurse
	}
	s.account, s.next = a, a.forges.o.Network.only(a.origin)
	return a.forges.o.Network.client(a.origin, s)
}

// sender sends requests of an account.
type sender struct {
	account  *account
	class    class
	purse    purse
	heavy    bool
	apart    bool
	patience time.Duration
	next     http.RoundTripper
	sent     atomic.Pointer[time.Time] // when the last request was
}

// RoundTrip sends a request, when it may, with the token.
func (s *sender) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := s.roundTrip(req)
	if err != nil && req.Body != nil {
		_ = req.Body.Close()
	}
	return resp, err
}

func (s *sender) roundTrip(req *http.Request) (*http.Response, error) {
	a := s.account
	token, err := a.token(req.Context(), sentry.Secret{})
	if err != nil {
		return nil, err
	}
	if err := a.admit(token); err != nil {
		return nil, err
	}
	resp, err := s.once(req, token)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	body := excerptOf(resp)
	fault := statusFault(resp, body, bare(req.URL))
	if token.Empty() {
		return nil, fault
	}
	// It may have been rotated this very moment.
	again, err := a.token(req.Context(), token)
	if err == nil && again != token {
		if next, ok := rewound(req); ok {
			if resp, err = s.once(next, again); err != nil || resp.StatusCode != http.StatusUnauthorized {
				return resp, err
			}
			token, fault = again, statusFault(resp, excerptOf(resp), bare(req.URL))
		}
	}
	if !s.apart {
		a.refuse(token, fault)
	}
	return nil, fault
}

// rewound gives a request that can be sent again, if it can.
func rewound(req *http.Request) (*http.Request, bool) {
	again := req.Clone(req.Context())
	if req.Body == nil || req.Body == http.NoBody {
		return again, true
	}
	if req.GetBody == nil {
		return nil, false
	}
	body, err := req.GetBody()
	again.Body = body
	return again, err == nil
}

// once sends a request one time.
func (s *sender) once(req *http.Request, token sentry.Secret) (*http.Response, error) {
	a := s.account
	done, err := a.breaker.Allow()
	if err != nil {
		return nil, &sentry.Fault{Kind: sentry.Transient, RetryAfter: 0, Err: &unavailable{host: hostOf(a.origin)}}
	}
	began := time.Now()
	turn, err := a.forges.shares.of(a, token).wait(req.Context(), s.purse, s.class, writes(req, s.purse), req.URL.Path, s.patience)
	noteWait(req.Context(), began)
	if err != nil {
		done(errSaysNothing)
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(req.Context()), wholeTime)
	at := ticket{urgent: s.class == reporting, look: func() error { return s.begin(req.Context(), turn) }}
	out := req.Clone(at.in(ctx))
	if out.Header.Get("User-Agent") == "" || strings.HasPrefix(out.Header.Get("User-Agent"), "go-") {
		out.Header.Set("User-Agent", userAgent)
	}
	if !token.Empty() {
		a.service.authorize(out.Header, token)
	}
	over := func() { cancel(); turn.free() }
	came := make(chan arrival, 1)
	go func() {
		resp, err := s.exchange(req.Context(), out, token, turn, done)
		if err != nil {
			over()
		}
		came <- arrival{resp, err}
	}()
	select {
	case it := <-came:
		return it.handOver(req.Context(), cancel, over)
	case <-req.Context().Done():
	}
	if !errors.Is(req.Context().Err(), context.DeadlineExceeded) {
		cancel()
		it := <-came
		return it.handOver(req.Context(), cancel, over)
	}
	// It is too late for who asked, but not to hear that the forge wants to be left alone.
	late := time.AfterFunc(linger, cancel)
	go func() {
		if it := <-came; it.err == nil {
			_ = it.resp.Body.Close()
			over()
		}
		late.Stop()
	}()
	return nil, req.Context().Err()
}

// begin is called when a request can be sent, which may be later than its turn.
func (s *sender) begin(asked context.Context, turn *waiter) error {
	if err := asked.Err(); err != nil { // nobody waits for the answer any more
		return &errNoSeat{err}
	}
	if err := turn.begin(); err != nil {
		return err
	}
	now := time.Now()
	s.sent.Store(&now)
	s.account.used.Store(now.Unix())
	return nil
}

// linger is how long the head of an answer is waited for, to learn from it, when who asked has given up.
const linger = 5 * time.Second

// arrival is what came of a request that was sent.
type arrival struct {
	resp *http.Response
	err  error
}

// handOver gives an answer to who asked. From then on the request lasts no longer than ctx; over ends it.
func (it arrival) handOver(ctx context.Context, cancel, over func()) (*http.Response, error) {
	if it.err != nil {
		return nil, it.err
	}
	stop := context.AfterFunc(ctx, cancel)
	it.resp.Body = &freeing{ReadCloser: it.resp.Body, free: func() { stop(); over() }}
	return it.resp, nil
}

// exchange sends a request whose turn has come, and learns from the head of the answer. asked is the context of who asks,
// who may be gone when it comes; done takes what it says about the health of the other side.
func (s *sender) exchange(asked context.Context, out *http.Request, token sentry.Secret, turn *waiter, done func(error)) (*http.Response, error) {
	a := s.account
	resp, err := s.next.RoundTrip(out)
	if err != nil {
		switch {
		case errors.As(err, new(*errNoSeat)):
			turn.unsent()
			done(errSaysNothing)
		case asked.Err() != nil, errors.As(err, new(*sentry.Fault)), errors.As(err, new(*OffOriginError)):
			done(errSaysNothing)
		default:
			done(err)
		}
		return nil, err
	}
	switch status := resp.StatusCode; {
	case status < 500, status == http.StatusNotImplemented:
		done(nil)
	case s.heavy && (status == http.StatusBadGateway || status == http.StatusGatewayTimeout):
		done(errSaysNothing)
	default:
		done(errors.New(resp.Status))
	}
	var said []byte
	if resp.StatusCode >= 400 { // a refusal, which is going to be quoted
		said, _ = io.ReadAll(io.LimitReader(resp.Body, maxSaid))
		said = hide(said, token)
		resp.Body = readAgain{bytes.NewReader(said), resp.Body}
	}
	wait, limited := turn.learn(resp, said)
	if resp.StatusCode < 400 {
		a.accept(token)
		a.notice(token, resp.Header)
	}
	if limited {
		_ = resp.Body.Close()
		return nil, &sentry.Fault{Kind: sentry.RateLimited, RetryAfter: wait, Err: &StatusError{
			Status: resp.StatusCode, Said: message(said), Header: resp.Header, address: bare(out.URL),
		}}
	}
	return resp, nil
}

// hide takes a token out of what the other side says.
func hide(said []byte, token sentry.Secret) []byte {
	if text := token.Reveal(); text != "" {
		return bytes.ReplaceAll(said, []byte(text), []byte(sentry.Redacted))
	}
	return said
}

// errSaysNothing ends a request that tells nothing about the health of the other side.
var errSaysNothing = errors.New("not sent, or given up")

// unavailable tells that an API is left alone because it did not answer.
type unavailable struct{ host string }

func (e *unavailable) Error() string {
	return "not asked: " + e.host + " has not answered several times, and is left alone for a while"
}

// writes reports whether a request changes something.
func writes(req *http.Request, p purse) bool {
	switch req.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return false
	}
	return p != graphqlPurse // our queries change nothing
}

type readAgain struct {
	io.Reader
	io.Closer
}

// freeing gives the place of a request back when its body is closed.
type freeing struct {
	io.ReadCloser
	free func()
}

func (f *freeing) Close() error {
	err := f.ReadCloser.Close()
	f.free()
	return err
}
