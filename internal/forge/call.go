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
	"time"

	"sentry/internal/sentry"

	"github.com/cenkalti/backoff/v5"
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
	// apart tells that a refusal of the token says nothing of it where it is used otherwise.
	apart bool
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
	s := &sender{class: c.class, purse: c.purse, heavy: c.heavy, apart: c.apart, patience: c.patience}
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
	if resp.StatusCode == http.StatusNotModified && req.Header.Get("If-None-Match") == "" {
		return nil, sentry.Faultf(sentry.Invalid, "%s answers that nothing has changed (HTTP status 304) to a question without a validator: is there a cache before it?", a.address(c))
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
