package gitwire

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"sentry/internal/sentry"
)

// question is one call of ListRefs or ListBranches under way.
type question struct {
	*Client
	remote sentry.Remote
	auth   Auth
	last   Digest // of an answer that need not be read again
	now    Digest // of this answer; 0 where it has none
}

// ask puts the question for one set of prefixes. Where the server is known to speak protocol v2 that is one request;
// where it is not, or where its answer looks as if it did not for this repository, first contact comes before or again.
func (q *question) ask(ctx context.Context, want prefixSet) ([]Ref, error) {
	known := q.known(q.remote)
	var doubted error
	if known.protocol == version2 {
		refs, err := q.lsRefs(ctx, known, want)
		if err == nil || !doubtful(err) {
			return refs, err
		}
		doubted = err
	}
	met, refs, err := q.meet(ctx, want)
	if err != nil {
		return nil, err
	}
	q.learn(q.remote, met)
	switch {
	case met.protocol == listing:
		return refs, nil
	case doubted != nil && met == known:
		return nil, doubted // the server is what it was taken for: its error stands
	}
	return q.lsRefs(ctx, met, want)
}

// doubtful reports whether an error may come from a server that does not understand the question, or has moved the
// repository, rather than from one that cannot answer it now.
func doubtful(err error) bool {
	var said *serverError
	var refused *statusError
	switch {
	case errors.As(err, &refused):
		return refused.doubtful()
	case errors.As(err, &said), errors.Is(err, errTruncated), errors.Is(err, errNoPacket), errors.Is(err, errNonsense):
		return true
	}
	return false
}

// lsRefs asks by protocol v2.
func (q *question) lsRefs(ctx context.Context, at place, want prefixSet) ([]Ref, error) {
	size := 64
	for _, p := range want.rest {
		size += len("0000ref-prefix \n") + len(want.lead) + len(p)
	}
	var refs []Ref
	var now Digest
	err := q.command(ctx, at, appendLsRefs(make([]byte, 0, size), want, at.format), func(p *packetReader) (err error) {
		if now = p.digest(); now != 0 && now == q.last {
			return nil
		}
		refs, err = readLsRefs(p, want, at.format, make([]Ref, 0, max(1, len(want.rest))))
		return err
	})
	if err != nil {
		return nil, err
	}
	q.now = now
	return refs, nil
}

// command sends a command of protocol v2 and reads the answer.
func (q *question) command(ctx context.Context, at place, body []byte, read func(*packetReader) error) error {
	resp, err := q.send(ctx, q.path(at)+"/git-upload-pack", "", body)
	if err != nil {
		return err
	}
	defer drop(resp)
	if err := checkAnswer(resp, q.auth, "application/x-git-upload-pack-result"); err != nil {
		return err
	}
	return q.readPackets(resp, read)
}

// path is where the repository is.
func (q *question) path(at place) string {
	if at.path != "" {
		return at.path
	}
	return q.remote.Path()
}

// maxMoves is how many redirects lead from an address to its repository at most.
const maxMoves = 5

// meet makes first contact: what does the server speak for this repository? With an old protocol the answer has the
// refs themselves. Redirects are followed on the same server only: a token belongs to one origin, and where a
// repository without a token has gone is for a person to decide.
func (q *question) meet(ctx context.Context, want prefixSet) (met place, refs []Ref, err error) {
	for range maxMoves {
		path := q.path(met)
		resp, err := q.send(ctx, path+infoRefs, "service=git-upload-pack", nil)
		if err != nil {
			return met, nil, err
		}
		if isRedirect(resp.StatusCode) {
			met.path, err = movedTo(q.remote, path+infoRefs, resp)
			drop(resp)
			if err != nil {
				return met, nil, err
			}
			continue
		}
		defer drop(resp)
		if err := checkAnswer(resp, q.auth, "application/x-git-upload-pack-advertisement"); err != nil {
			return met, nil, err
		}
		var a advertisement
		err = q.readPackets(resp, func(p *packetReader) (err error) {
			a, err = readAdvertisement(p, want)
			return err
		})
		met.protocol, met.format, met.filter = a.protocol, a.format, a.filter
		if met.path == q.remote.Path() {
			met.path = ""
		}
		return met, a.refs, err
	}
	return met, nil, sentry.Faultf(sentry.Invalid, "it redirects more than %d times", maxMoves)
}

const infoRefs = "/info/refs"

// send makes one request: a GET, or a POST where there is a body.
func (q *question) send(ctx context.Context, path, query string, body []byte) (*http.Response, error) {
	req := new(http.Request).WithContext(ctx) // which copies it: what it has is better given to it afterwards
	req.Method, req.Proto, req.ProtoMajor, req.ProtoMinor = http.MethodGet, "HTTP/1.1", 1, 1
	req.URL = &url.URL{Scheme: q.remote.Scheme(), Host: q.remote.Host(), Path: path, RawQuery: query}
	if strings.Contains(path, "%") {
		decoded, err := url.PathUnescape(path)
		if err != nil {
			return nil, sentry.Faultf(sentry.Invalid, "its path cannot be decoded")
		}
		req.URL.Path, req.URL.RawPath = decoded, path
	}
	if body != nil {
		req.Method, req.ContentLength = http.MethodPost, int64(len(body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		req.Body, _ = req.GetBody()
	}
	req.Header = q.header(body != nil, q.auth)
	resp, err := q.transport.RoundTrip(req)
	if err != nil {
		return nil, sentry.AsFault(err) // a transport knows what it did not send, and why
	}
	return resp, nil
}

// maxHeaders is how many headers are kept.
const maxHeaders = 4096

// heading is what the header of a request depends on.
type heading struct {
	post bool
	auth Auth
}

// header gives the header of a request. A transport must not change it: all with the same account share it.
func (c *Client) header(post bool, a Auth) http.Header {
	of := heading{post, a}
	c.mu.RLock()
	h := c.headers[of]
	c.mu.RUnlock()
	if h == nil {
		h = c.newHeader(post, a)
		c.mu.Lock()
		if len(c.headers) >= maxHeaders {
			clear(c.headers)
		}
		c.headers[of] = h
		c.mu.Unlock()
	}
	return h
}

func (c *Client) newHeader(post bool, a Auth) http.Header {
	h := http.Header{
		"User-Agent":   {c.agent},
		"Git-Protocol": {"version=2"},
	}
	if post {
		h["Content-Type"] = []string{"application/x-git-upload-pack-request"}
		h["Accept"] = []string{"application/x-git-upload-pack-result"}
		// Without a value it is not sent. It tells net/http that the request may be sent again, which it is where the
		// server has closed the kept connection just now.
		h["Idempotency-Key"] = []string{}
	} else {
		h["Accept-Encoding"] = []string{"gzip"} // of use where all refs are listed
	}
	if !a.Token.Empty() {
		h["Authorization"] = []string{a.authorization()}
	}
	return h
}

// readPackets reads an answer with a pooled buffer, and turns what is wrong with it into a fault.
func (q *question) readPackets(resp *http.Response, read func(*packetReader) error) error {
	body, err := unpacked(resp)
	if err != nil {
		return err
	}
	p := readers.Get().(*packetReader)
	defer func() {
		p.reset(nil, 0)
		if cap(p.buf) <= 2*maxDigested {
			readers.Put(p)
		}
	}()
	p.reset(body, q.maxBytes)
	return q.unreadable(read(p))
}

// unpacked gives what an answer says. The error is a *sentry.Fault.
func unpacked(resp *http.Response) (io.Reader, error) {
	encoding := resp.Header["Content-Encoding"]
	if len(encoding) == 0 || resp.Uncompressed {
		return resp.Body, nil
	}
	if len(encoding) != 1 || encoding[0] != "gzip" {
		return nil, sentry.Faultf(sentry.Invalid, "its answer is packed in a way that was not asked for (%q)", clip(encoding[0]))
	}
	body, err := gzip.NewReader(resp.Body)
	if err != nil {
		return nil, sentry.Faultf(sentry.Invalid, "its answer cannot be unpacked: %w", err)
	}
	return body, nil
}

// unreadable is the fault of an answer that cannot be read, nil where err is.
func (q *question) unreadable(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errTooBig):
		return sentry.Faultf(sentry.Invalid, "%w: more than %d bytes", err, q.maxBytes)
	case errors.Is(err, errNoPacket), errors.Is(err, errNonsense), errors.Is(err, gzip.ErrChecksum), errors.Is(err, gzip.ErrHeader):
		return &sentry.Fault{Kind: sentry.Invalid, Err: err}
	}
	return &sentry.Fault{Kind: sentry.Transient, Err: err}
}

var readers = sync.Pool{New: func() any { return new(packetReader) }}

// drop ends an answer. What little is left of it is read, so that the connection can be used again.
func drop(resp *http.Response) {
	rest := rests.Get().(*[4 << 10]byte)
	defer rests.Put(rest)
	for left := rest[:]; len(left) > 0; {
		n, err := resp.Body.Read(left)
		if err != nil {
			break
		}
		left = left[n:]
	}
	_ = resp.Body.Close()
}

// rests has room for what is read and thrown away.
var rests = sync.Pool{New: func() any { return new([4 << 10]byte) }}
