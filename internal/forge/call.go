package forge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"sentry/internal/sentry"

	"github.com/cenkalti/backoff/v5"
)

// userAgent is how Sentry calls itself; GitHub answers nobody without a name.
const userAgent = "sentry"

// maxSaid is how much of a refusal is read, and maxQuote how much of it is repeated, in bytes.
const (
	maxSaid  = 64 << 10
	maxQuote = 200
)

// call is one request to an API.
type call struct {
	class  class
	purse  purse  // corePurse where it is ""
	method string // GET where it is ""
	path   string // below the base, with a slash before it; or a whole address of the same origin
	query  url.Values
	accept string // application/json where it is ""
	header http.Header
	in     any // sent as JSON
	// heavy tells that a failure may be the fault of the question: it does not count against the API.
	heavy bool
	// once forbids to ask again after a passing failure. Only what reads is asked again at all.
	once bool
	// patience is how long to wait for a turn; 0: as long as anybody does.
	patience time.Duration
}

// reply is an answer, read to its end. Its status is one of 2xx, or 304.
type reply struct {
	status int
	header http.Header
	body   []byte
	took   time.Duration // from when it was sent, without the wait for a turn
}

// StatusError is an answer that refuses.
type StatusError struct {
	Status  int
	Said    string      // what the other side gave as the reason; one line, not to be trusted
	Header  http.Header // of the answer
	address string      // what was asked
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("%s answers with HTTP status %d", e.address, e.Status)
	if e.Said != "" {
		text += fmt.Sprintf(" and says %q", e.Said)
	}
	return text
}

// call sends a request and reads its answer. out, unless it is nil, takes the JSON of it. The error is a *sentry.Fault,
// with a *StatusError in it where there was an answer.
func (a *account) call(ctx context.Context, c call, out any) (*reply, error) {
	try := func() (*reply, error) {
		r, err := a.send(ctx, c)
		if err == nil && out != nil && r.status != http.StatusNotModified {
			if bad := json.Unmarshal(r.body, out); bad != nil {
				err = sentry.Faultf(sentry.Invalid, "%s answers with something else than the JSON that was expected: %s", a.address(c), jsonMistake(bad))
			}
		}
		if err != nil {
			if f := sentry.AsFault(err); f.Kind != sentry.Transient || f.RetryAfter > 0 || ctx.Err() != nil || errors.As(err, new(*unavailable)) {
				return r, backoff.Permanent(err)
			}
		}
		return r, err
	}
	if c.once || c.method != "" && c.method != http.MethodGet {
		r, err := try()
		return r, asFault(err)
	}
	// Full jitter: each wait is anything from nothing to twice the interval.
	wait := &backoff.ExponentialBackOff{InitialInterval: 200 * time.Millisecond, RandomizationFactor: 1, Multiplier: 3, MaxInterval: 2 * time.Second}
	r, err := backoff.Retry(ctx, try, backoff.WithBackOff(wait), backoff.WithMaxTries(3))
	return r, asFault(err)
}

// asFault takes what surrounds a fault away.
func asFault(err error) error {
	if err == nil {
		return nil
	}
	if permanent, ok := errors.AsType[*backoff.PermanentError](err); ok {
		err = permanent.Err
	}
	return sentry.AsFault(err)
}

// send sends a request once.
func (a *account) send(ctx context.Context, c call) (*reply, error) {
	req, err := a.request(ctx, c)
	if err != nil {
		return nil, &sentry.Fault{Kind: sentry.Invalid, Err: err}
	}
	s := &sender{class: c.class, purse: c.purse, heavy: c.heavy, patience: c.patience}
	resp, err := a.sending(s).Do(req)
	if err != nil {
		return nil, a.failed(ctx, a.address(c), err)
	}
	defer resp.Body.Close()
	limit := maxBody + 1
	if resp.StatusCode >= 400 {
		limit = maxSaid
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)))
	if err != nil {
		return nil, a.failed(ctx, a.address(c), err)
	}
	r := &reply{status: resp.StatusCode, header: resp.Header, body: body, took: time.Since(*s.sent.Load())}
	if resp.StatusCode/100 != 2 && resp.StatusCode != http.StatusNotModified {
		return r, statusFault(resp, body, a.address(c))
	}
	return r, nil
}

func (a *account) request(ctx context.Context, c call) (*http.Request, error) {
	address := c.path
	if strings.HasPrefix(address, "/") {
		address = a.base.String() + address
	}
	if len(c.query) > 0 {
		address += "?" + c.query.Encode()
	}
	var body io.Reader
	if c.in != nil {
		data, err := json.Marshal(c.in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
	}
	method := c.method
	if method == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, fmt.Errorf("cannot ask %s: %w", a.address(c), cause(err))
	}
	for name, values := range c.header {
		req.Header[name] = values
	}
	accept := c.accept
	if accept == "" {
		accept = "application/json"
	}
	req.Header.Set("Accept", accept)
	if c.in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// address is what is asked, as messages name it.
func (a *account) address(c call) string {
	if strings.HasPrefix(c.path, "/") {
		return label(a.base) + a.base.Path + c.path
	}
	u, err := url.Parse(c.path)
	if err != nil {
		return label(a.base)
	}
	return bare(u)
}

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
	a.refuse(token, fault)
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
	turn, err := a.budget.wait(req.Context(), s.purse, s.class, writes(req, s.purse), req.URL.Path, s.patience)
	if err != nil {
		done(errSaysNothing)
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(req.Context()), wholeTime)
	out := req.Clone(ctx)
	if out.Header.Get("User-Agent") == "" || strings.HasPrefix(out.Header.Get("User-Agent"), "go-") {
		out.Header.Set("User-Agent", userAgent)
	}
	if !token.Empty() {
		a.service.authorize(out.Header, token)
	}
	now := time.Now()
	s.sent.Store(&now)
	a.used.Store(now.Unix())
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
		if asked.Err() != nil || errors.As(err, new(*OffOriginError)) {
			done(errSaysNothing)
		} else {
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
		a.notice(resp.Header)
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

// failed says what a request came to that got no answer, or not all of it.
func (a *account) failed(ctx context.Context, address string, err error) error {
	if f, ok := errors.AsType[*sentry.Fault](err); ok {
		return &sentry.Fault{Kind: f.Kind, RetryAfter: f.RetryAfter, Err: fmt.Errorf("cannot ask %s: %w", address, f.Err)}
	}
	kind := sentry.Transient
	switch {
	case errors.Is(err, errTooLong), errors.Is(err, errHops):
		kind = sentry.Invalid
	case strings.Contains(err.Error(), " Location header"): // net/http has no type for it
		return sentry.Faultf(sentry.Invalid, "cannot ask %s: it redirects to nowhere", address)
	}
	if off, ok := errors.AsType[*OffOriginError](err); ok {
		return sentry.Faultf(sentry.NotFound, "cannot ask %s: %w", address, off)
	}
	if ctx.Err() != nil {
		return sentry.Faultf(kind, "cannot ask %s: %w", address, ctx.Err())
	}
	return sentry.Faultf(kind, "cannot ask %s: %w", address, cause(err))
}

// statusFault is what an answer means that refuses.
func statusFault(resp *http.Response, body []byte, address string) error {
	e := &StatusError{Status: resp.StatusCode, Said: message(body), Header: resp.Header, address: address}
	wait, _ := retryAfter(resp.Header, time.Now())
	f := &sentry.Fault{Kind: sentry.Invalid, RetryAfter: wait, Err: e}
	switch status := resp.StatusCode; {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		f.Kind = sentry.Unauthorized
	case status == http.StatusNotFound, status == http.StatusGone, status == http.StatusUnavailableForLegalReasons:
		f.Kind = sentry.NotFound
	case status == http.StatusTooManyRequests:
		f.Kind = sentry.RateLimited
	case status >= 500, status == http.StatusRequestTimeout, status == http.StatusTooEarly:
		f.Kind = sentry.Transient
	}
	return f
}

// libraryFault is what the error of a client library means; resp is the answer that it came with, or nil.
func (a *account) libraryFault(ctx context.Context, address string, err error, resp *http.Response) error {
	if _, ok := errors.AsType[*sentry.Fault](err); ok || resp == nil || resp.StatusCode < 300 {
		return a.failed(ctx, address, err)
	}
	return statusFault(resp, excerptOf(resp), address)
}

// excerptOf reads the beginning of a body, and closes it.
func excerptOf(resp *http.Response) []byte {
	if resp.Body == nil {
		return nil
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxSaid))
	return body
}

// message finds what a refusal says: the message of GitHub and Gitea, message or error of GitLab; in one line.
func message(body []byte) string {
	var said struct {
		Message any `json:"message"`
		Error   any `json:"error"`
		Detail  any `json:"error_description"`
	}
	if json.Unmarshal(body, &said) != nil {
		return ""
	}
	for _, v := range []any{said.Message, said.Detail, said.Error} {
		switch v := v.(type) {
		case nil:
		case string:
			if v != "" {
				return oneLine(v)
			}
		default:
			data, _ := json.Marshal(v)
			return oneLine(string(data))
		}
	}
	return ""
}

// oneLine makes a text of the other side fit for a message.
func oneLine(text string) string {
	var out strings.Builder
	for _, r := range strings.Join(strings.Fields(text), " ") {
		if out.Len() >= maxQuote {
			out.WriteString("…")
			break
		}
		if r != utf8.RuneError && unicode.IsPrint(r) {
			out.WriteRune(r)
		}
	}
	return out.String()
}

// jsonMistake says what is wrong with JSON, without what stands there.
func jsonMistake(err error) string {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Sprintf("%s is a %s", wrong.Field, wrong.Value)
	}
	if bad, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf("it breaks off or goes wrong after %d bytes", bad.Offset)
	}
	return "it cannot be read"
}
