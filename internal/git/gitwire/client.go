package gitwire

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"sentry/internal/sentry"
)

// What holds where Options do not say otherwise.
const (
	DefaultMaxBytes = 64 << 20 // a listing of 900,000 refs; an answer to ls-refs for one branch has 65 bytes
	DefaultTimeout  = 30 * time.Second
	// DefaultUserAgent begins with "git/" because GitHub wants that of a Git client (dulwich issue 562).
	DefaultUserAgent = "git/2 sentry"
	// DefaultUsername goes with a token that has no user name. GitHub wants this one for the tokens of its apps; for all
	// other tokens GitHub, GitLab and Gitea take any name.
	DefaultUsername = "x-access-token"
)

// Options of a Client; the zero value is ready for use.
type Options struct {
	// Transport carries the requests; nil means NewTransport(nil). It must not follow redirects, and must keep to the
	// Deadline of a request's context also where its Done says nothing.
	Transport http.RoundTripper
	// MaxBytes bounds one answer, unpacked, in bytes.
	MaxBytes int64
	// Timeout bounds one question from its first byte to the last of its answer, a second contact included.
	Timeout   time.Duration
	UserAgent string
}

// Client asks Git servers for refs. It is safe for concurrent use, and keeps a few bytes for each server and for each
// repository that is out of the ordinary: nothing for all the others.
type Client struct {
	transport http.RoundTripper
	maxBytes  int64
	timeout   time.Duration
	agent     string

	mu       sync.RWMutex
	modern   map[server]place            // servers that have answered with protocol v2: what their repositories are like
	peculiar map[sentry.Remote]place     // repositories that do not answer as their server's others do
	moved    map[sentry.Remote]time.Time // when it was learned that they have another path
	headers  map[heading]http.Header
}

// server identifies an origin without the cost of building its text.
type server struct{ scheme, host string }

// place is what is known of a repository.
type place struct {
	protocol protocol
	format   objectFormat
	filter   bool   // a fetch can leave objects out
	path     string // where it was moved to on the same server, or ""
}

// New makes a client.
func New(o Options) *Client {
	c := &Client{
		transport: o.Transport, maxBytes: o.MaxBytes, timeout: o.Timeout, agent: o.UserAgent,
		modern: map[server]place{}, peculiar: map[sentry.Remote]place{}, moved: map[sentry.Remote]time.Time{}, headers: map[heading]http.Header{},
	}
	if c.transport == nil {
		c.transport = NewTransport(nil)
	}
	if c.maxBytes <= 0 {
		c.maxBytes = DefaultMaxBytes
	}
	if c.timeout <= 0 {
		c.timeout = DefaultTimeout
	}
	if c.agent == "" {
		c.agent = DefaultUserAgent
	}
	return c
}

// ListRefs gives the refs of a repository whose full names begin with one of the prefixes, or all of them where there is
// no prefix, in the order of the server. Only http and https are spoken. The error is a *sentry.Fault.
func (c *Client) ListRefs(ctx context.Context, r sentry.Remote, a Auth, prefixes []string) ([]Ref, error) {
	refs, _, err := c.list(ctx, r, a, "", prefixes, 0)
	return refs, err
}

// ListBranches gives the branches of a repository whose names begin with one of the prefixes, of which there is one at
// least. It is for a question that is put again and again: now stands for the answer, and where the answer is the one that
// last stands for, refs is nil. The prefixes must be the same then.
func (c *Client) ListBranches(ctx context.Context, r sentry.Remote, a Auth, prefixes []string, last Digest) (refs []Ref, now Digest, err error) {
	return c.list(ctx, r, a, "refs/heads/", prefixes, last)
}

func (c *Client) list(ctx context.Context, r sentry.Remote, a Auth, lead string, prefixes []string, last Digest) (refs []Ref, now Digest, err error) {
	want, err := newPrefixSet(lead, prefixes)
	if err != nil {
		return nil, 0, &sentry.Fault{Kind: sentry.Invalid, Err: err}
	}
	err = c.converse(ctx, r, a, func(ctx context.Context, q *question) error {
		if len(want.rest) <= maxPrefixes {
			q.last = last
			refs, err = q.ask(ctx, want)
			now = q.now
			return err
		}
		for some := range want.parts(maxPrefixes) {
			more, err := q.ask(ctx, some)
			if err != nil {
				return err
			}
			refs = append(refs, more...)
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return refs, now, nil
}

// converse puts a question within the time that one may take, and makes whatever goes wrong a *sentry.Fault without
// secrets.
func (c *Client) converse(ctx context.Context, r sentry.Remote, a Auth, ask func(context.Context, *question) error) error {
	within := ctx
	if end, ends := ctx.Deadline(); !ends || time.Until(end) > c.timeout {
		within = &limited{ctx, time.Now().Add(c.timeout)}
	}
	var err error
	if s := r.Scheme(); s == "https" || s == "http" {
		err = ask(within, &question{Client: c, remote: r, auth: a})
	} else {
		err = sentry.Faultf(sentry.Invalid, "it is not on a web server")
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && !over(ctx):
		err = sentry.Faultf(sentry.Transient, "no whole answer within %s", c.timeout)
	}
	f := sentry.AsFault(err)
	return &sentry.Fault{Kind: f.Kind, RetryAfter: f.RetryAfter, Err: fmt.Errorf("cannot ask %s: %w", r, a.hide(err))}
}

// limited is a context that ends at a moment, without the timer and the bookkeeping of context.WithDeadline: those are
// a twentieth of what a question costs. Its Done tells only of the end of what it was made from; the transport keeps to
// the Deadline.
type limited struct {
	context.Context
	end time.Time
}

func (l *limited) Deadline() (time.Time, bool) { return l.end, true }

func (l *limited) Err() error {
	if err := l.Context.Err(); err != nil {
		return err
	}
	if over(l) {
		return context.DeadlineExceeded
	}
	return nil
}

// Path gives the path on its server at which a repository answered last: its own, or where the server said it was moved.
func (c *Client) Path(r sentry.Remote) string {
	if known := c.known(r); known.path != "" {
		return known.path
	}
	return r.Path()
}

// known gives what was learned of a repository. Of one that was never asked it is assumed that it answers as others of
// its server do: a wrong guess costs one question more.
func (c *Client) known(r sentry.Remote) place {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if len(c.peculiar) > 0 {
		if p, ok := c.peculiar[r]; ok && (p.path == "" || time.Since(c.moved[r]) < relook) {
			return p
		}
	}
	return c.modern[server{r.Scheme(), r.Host()}]
}

// relook is how long it is believed that a repository has moved: another one may have been given its name since.
const relook = 10 * time.Minute

// learn keeps what first contact told.
func (c *Client) learn(r sentry.Remote, p place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if delete(c.moved, r); p.path != "" {
		c.moved[r] = time.Now()
	}
	if p.protocol == version2 && p.format == sha1 && p.path == "" {
		c.modern[server{r.Scheme(), r.Host()}] = p
		delete(c.peculiar, r)
		return
	}
	if p.protocol == version2 {
		if at := (server{r.Scheme(), r.Host()}); c.modern[at] == (place{}) {
			c.modern[at] = place{protocol: version2, filter: p.filter}
		}
	}
	c.peculiar[r] = p
}
