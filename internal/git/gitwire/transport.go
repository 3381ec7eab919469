package gitwire

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"
)

// Bounds of the connections that are kept.
const (
	maxIdle        = 1024             // in all
	maxIdleOfOne   = 32               // to one server
	idleTime       = 90 * time.Second // servers close theirs after a minute or two
	connectTime    = 10 * time.Second // for the connection, and again for TLS
	maxHeaderBytes = 64 << 10         // of an answer
	maxInterim     = 5                // answers of status 1xx before the real one
	maxPools       = 64               // sets of trusted certificates with sessions of their own
)

// NewTransport makes the transport for many small questions to few servers. It carries one question at a time over a
// connection that it keeps (a new TLS handshake costs some twenty times what a question does), in the goroutine of who
// asks: http.Transport hands each question through two more, and their waking up is a third of what a check costs. An
// idle connection has neither goroutine nor buffer. Writing and reading HTTP are net/http's. Where the environment names
// a proxy for an address, http.Transport does it all.
//
// A question that finds its kept connection closed is sent again over a new one: requests must be safe to repeat.
// HTTP/1.1 is used because HTTP/2 takes more processor time for each question. Whoever asks bounds how many questions run
// at once.
//
// speak tells how to speak TLS to an origin (scheme://host:port), for each new connection, and where there is a proxy for
// each question; nil trusts whom the system does. Who trusts the same gives the same RootCAs.
func NewTransport(speak func(origin string) *tls.Config) http.RoundTripper {
	if speak == nil {
		usual := &tls.Config{MinVersion: tls.VersionTLS12}
		speak = func(string) *tls.Config { return usual }
	}
	return newTransport(speak)
}

func newTransport(speak func(origin string) *tls.Config) *transport {
	return &transport{
		proxy: http.ProxyFromEnvironment, speak: speak, sessions: map[*x509.CertPool]tls.ClientSessionCache{},
		idleTime: idleTime, idle: map[address][]*conn{}, proxied: map[string]*proxied{},
		dialer: net.Dialer{Timeout: connectTime, KeepAlive: 30 * time.Second},
	}
}

type transport struct {
	proxy    func(*http.Request) (*url.URL, error)
	dialer   net.Dialer
	speak    func(origin string) *tls.Config
	idleTime time.Duration

	mu      sync.Mutex // owns what follows
	idle    map[address][]*conn
	kept    int // connections in idle
	sweep   *time.Timer
	proxied map[string]*proxied // by origin

	sessions map[*x509.CertPool]tls.ClientSessionCache // by who is trusted, nil for the system's
}

// config is how to speak TLS to a host.
func (t *transport) config(u *url.URL) *tls.Config {
	c := t.speak("https://" + net.JoinHostPort(u.Hostname(), port(u))).Clone()
	c.ServerName, c.NextProtos = u.Hostname(), []string{"http/1.1"}
	if c.Certificates == nil && c.GetClientCertificate == nil { // who we are is the same in all sessions, then
		c.ClientSessionCache = t.sessionsOf(c.RootCAs)
	}
	return c
}

// sessionsOf gives the sessions that began while the same were trusted.
func (t *transport) sessionsOf(trusted *x509.CertPool) tls.ClientSessionCache {
	t.mu.Lock()
	defer t.mu.Unlock()
	cache := t.sessions[trusted]
	if cache == nil {
		if len(t.sessions) >= maxPools {
			clear(t.sessions)
		}
		cache = tls.NewLRUClientSessionCache(maxIdle)
		t.sessions[trusted] = cache
	}
	return cache
}

func port(u *url.URL) string {
	switch p := u.Port(); {
	case p != "":
		return p
	case u.Scheme == "https":
		return "443"
	}
	return "80"
}

// proxied carries questions to an origin through a proxy.
type proxied struct {
	*http.Transport
	trusted *x509.CertPool
	known   bool // we show who we are
}

// byProxy gives what carries questions to an address through a proxy: another one than before where others are trusted
// now, since http.Transport asks nobody about that for each connection.
func (t *transport) byProxy(u *url.URL) *http.Transport {
	origin := u.Scheme + "://" + u.Host
	config := t.config(u)
	trusted, known := config.RootCAs, config.GetClientCertificate != nil
	t.mu.Lock()
	defer t.mu.Unlock()
	over := t.proxied[origin]
	if over != nil && over.trusted == trusted && over.known == known {
		return over.Transport
	}
	if over != nil {
		defer over.CloseIdleConnections()
	}
	var plain http.Protocols
	plain.SetHTTP1(true)
	config.ServerName = "" // that of a proxy may be another one
	if known {
		config.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if now := t.config(u).GetClientCertificate; now != nil {
				return now(info)
			}
			return new(tls.Certificate), nil
		}
	}
	over = &proxied{trusted: trusted, known: known, Transport: &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) { return t.proxy(r) }, DialContext: t.dialer.DialContext,
		TLSClientConfig: config, TLSHandshakeTimeout: connectTime,
		Protocols: &plain, DisableCompression: true, MaxIdleConns: maxIdle, MaxIdleConnsPerHost: maxIdleOfOne, IdleConnTimeout: idleTime,
		MaxResponseHeaderBytes: maxHeaderBytes,
	}}
	t.proxied[origin] = over
	return over.Transport
}

// timed gives a context whose Done keeps to the Deadline, see limited.
func timed(ctx context.Context) (context.Context, context.CancelFunc) {
	if end, ends := ctx.Deadline(); ends {
		return context.WithDeadline(ctx, end)
	}
	return ctx, func() {}
}

// onTime has a request carried by what goes by Done alone.
func onTime(over http.RoundTripper, r *http.Request) (*http.Response, error) {
	ctx, cancel := timed(r.Context())
	resp, err := over.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &lastly{resp.Body, cancel}
	return resp, nil
}

// lastly is the body of an answer, with what is done when it is closed.
type lastly struct {
	io.ReadCloser
	do func()
}

func (l *lastly) Close() error {
	defer l.do()
	return l.ReadCloser.Close()
}

// address is a server: connections to it serve all its repositories.
type address struct {
	secure bool
	host   string // with the port, where there is one
}

// RoundTrip sends a request and gives the answer, whose body must be closed.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if proxy, err := t.proxy(r); proxy != nil || err != nil {
		return onTime(t.byProxy(r.URL), r)
	}
	to := address{r.URL.Scheme == "https", r.URL.Host}
	if c := t.take(to); c != nil {
		resp, err := t.exchange(c, r)
		if err == nil || c.answered || r.Context().Err() != nil {
			return resp, err
		}
		if r.Body != nil {
			if r.GetBody == nil {
				return nil, err
			}
			again := *r
			if again.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
			r = &again
		}
	}
	c, err := t.dial(r.Context(), to, r.URL)
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, endOf(r.Context(), err)
	}
	return t.exchange(c, r)
}

// conn is a connection to a server. Whoever took or dialed it owns it.
type conn struct {
	net.Conn          // over TLS where there is TLS
	raw      net.Conn // below it
	to       address
	since    time.Time // when it became idle
	left     int64     // bytes that may still be read
	answered bool      // something came back for the question under way
}

func (c *conn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errHeader
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	c.answered = c.answered || n > 0
	return n, err
}

var errHeader = errors.New("the header of the answer is too long")

// exchange sends a request over a connection and reads the header of the answer. It owns the connection from now on.
func (t *transport) exchange(c *conn, r *http.Request) (*http.Response, error) {
	// When the context ends, whatever waits for the connection does so no longer.
	if end, ends := r.Context().Deadline(); ends {
		_ = c.SetDeadline(end)
	}
	stop := context.AfterFunc(r.Context(), func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	c.left, c.answered = maxHeaderBytes, false
	in := bufferedReaders.Get().(*bufio.Reader)
	in.Reset(c)
	resp, err := c.converse(r, in)
	if err != nil {
		stop()
		_ = c.Close()
		putReader(in)
		return nil, endOf(r.Context(), err)
	}
	c.left = math.MaxInt64 // whoever reads the body bounds it
	resp.Body = &body{ReadCloser: resp.Body, transport: t, conn: c, in: in, stop: stop, ctx: r.Context(), keep: !resp.Close}
	return resp, nil
}

func (c *conn) converse(r *http.Request, in *bufio.Reader) (*http.Response, error) {
	out := bufferedWriters.Get().(*bufio.Writer)
	out.Reset(c.Conn)
	err := r.Write(out)
	if err == nil {
		err = out.Flush()
	}
	out.Reset(nil)
	bufferedWriters.Put(out)
	for range maxInterim {
		resp, readErr := http.ReadResponse(in, r)
		if readErr != nil {
			if err == nil {
				err = readErr
			}
			return nil, err
		}
		// A server may answer before it has read all, and close: then writing fails and reading does not.
		resp.Close = resp.Close || err != nil
		if resp.StatusCode >= 200 {
			return resp, nil
		}
		if resp.StatusCode == http.StatusSwitchingProtocols {
			break
		}
	}
	return nil, errors.New("the server does not come to an answer (HTTP status 1xx)")
}

// body is that of an answer. When it was read to its end the connection is kept.
type body struct {
	io.ReadCloser
	transport *transport
	conn      *conn
	in        *bufio.Reader
	stop      func() bool
	ctx       context.Context // of the request that this is the answer to
	keep      bool
	ended     bool
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		b.ended = true
	case err != nil:
		err = endOf(b.ctx, err)
	}
	return n, err
}

func (b *body) Close() error {
	if b.conn == nil {
		return nil
	}
	c, in := b.conn, b.in
	b.conn, b.in, b.ReadCloser = nil, nil, http.NoBody
	quiet := b.stop() && in.Buffered() == 0
	putReader(in)
	if b.ended && b.keep && quiet {
		b.transport.put(c)
		return nil
	}
	return c.Close()
}

// endOf gives the error of a context that has ended, since that is why a connection failed then.
func endOf(ctx context.Context, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && over(ctx) {
		return context.DeadlineExceeded
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// over reports whether the Deadline of a context has passed: its own timer may come a moment later than that of a
// connection.
func over(ctx context.Context) bool {
	end, ends := ctx.Deadline()
	return ends && !time.Now().Before(end)
}

// dial makes a connection.
func (t *transport) dial(ctx context.Context, to address, u *url.URL) (*conn, error) {
	ctx, cancel := timed(ctx)
	defer cancel()
	raw, err := t.dialer.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port(u)))
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, raw: raw, to: to}
	if !to.secure {
		return c, nil
	}
	ctx, cancel = context.WithTimeout(ctx, connectTime)
	defer cancel()
	secure := tls.Client(raw, t.config(u))
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	c.Conn = secure
	return c, nil
}

// take gives the connection that became idle last, or nil. A connection that the server has closed meanwhile, or over
// which it has said something unasked, is no more use: the next answer could be that to another question.
func (t *transport) take(to address) *conn {
	for {
		t.mu.Lock()
		list := t.idle[to]
		if len(list) == 0 {
			t.mu.Unlock()
			return nil
		}
		c := list[len(list)-1]
		list[len(list)-1] = nil
		t.idle[to] = list[:len(list)-1]
		t.kept--
		t.mu.Unlock()
		if time.Since(c.since) < t.idleTime && silent(c.raw) {
			return c
		}
		_ = c.Close()
	}
}

// put keeps a connection.
func (t *transport) put(c *conn) {
	c.since = time.Now()
	if c.SetDeadline(time.Time{}) != nil {
		_ = c.Close()
		return
	}
	t.mu.Lock()
	if t.kept >= maxIdle || len(t.idle[c.to]) >= maxIdleOfOne {
		t.mu.Unlock()
		_ = c.Close()
		return
	}
	t.idle[c.to] = append(t.idle[c.to], c)
	t.kept++
	if t.sweep == nil {
		t.sweep = time.AfterFunc(t.idleTime, t.closeOld)
	}
	t.mu.Unlock()
}

// closeOld closes what nobody has needed for long, and comes back while there is more.
func (t *transport) closeOld() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for to, list := range t.idle {
		old := 0
		for old < len(list) && time.Since(list[old].since) >= t.idleTime {
			_ = list[old].Close()
			old++
		}
		t.kept -= old
		if list = append([]*conn(nil), list[old:]...); len(list) == 0 {
			delete(t.idle, to)
		} else {
			t.idle[to] = list
		}
	}
	t.sweep = nil
	if t.kept > 0 {
		t.sweep = time.AfterFunc(t.idleTime/4, t.closeOld)
	}
}

// bufferSize lets a question for some 300 branches, and its answer, pass in one piece: each piece more wakes somebody up.
const bufferSize = 16 << 10

var (
	bufferedReaders = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, bufferSize) }}
	bufferedWriters = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, bufferSize) }}
)

func putReader(r *bufio.Reader) {
	r.Reset(nil)
	bufferedReaders.Put(r)
}
