package forge

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Bounds of what goes over the network.
const (
	maxBody       = 8 << 20 // of an answer, unpacked; a hundred repositories with a hundred branches each are 1 MiB
	maxHeader     = 64 << 10
	wholeTime     = 45 * time.Second // of a request, from its first byte to the last of the answer; GitHub itself gives up after 10 s
	connectTime   = 10 * time.Second // for the connection, and again for TLS
	headerTime    = 30 * time.Second
	idleTime      = 90 * time.Second
	maxIdleOfHost = 16
	maxHops       = 5
	maxPEM        = 1 << 20
)

// Host is what is special about one origin.
type Host struct {
	Origin            string // scheme://host:port
	CAFile            string // certificates to believe besides the system's, PEM
	CertFile, KeyFile string // to show who we are, PEM
	RequestsPerHour   int    // at most, of each credential; 0: what the forge says
	Concurrency       int    // requests at once, at most, over the API and over Git; 0: what is usual
}

// NetworkOptions of a Network.
type NetworkOptions struct {
	Hosts       []Host
	DialContext func(ctx context.Context, network, address string) (net.Conn, error) // nil dials
	Proxy       func(*http.Request) (*url.URL, error)                                // nil: http.ProxyFromEnvironment
	Register    prometheus.Registerer                                                // nil: no metrics
	Log         *slog.Logger                                                         // nil discards
}

// Network is the one way to all forges: connections that are kept, HTTP/2 where the other side has it, bounded in size
// and time, and never to another origin than the one that was meant. It is safe for concurrent use.
type Network struct {
	o     NetworkOptions
	log   *slog.Logger
	count *traffic

	mu     sync.Mutex // guards what follows
	routes map[string]*route

	silent sync.RWMutex   // guards what follows
	outs   map[string]out // by origin: Git servers that want to be left alone
}

// route is how to reach one origin.
type route struct {
	host  Host
	seats *seats // outlives the configuration, as requests do

	mu        sync.Mutex // guards what follows
	transport *http.Transport
	roots     *x509.CertPool // nil: the system's
	cert      *tls.Certificate
	read      [3]stamp // of the files of host, when they were read
	complaint string   // that was logged last
}

// NewNetwork makes a Network.
func NewNetwork(o NetworkOptions) *Network {
	if o.DialContext == nil {
		o.DialContext = (&net.Dialer{Timeout: connectTime, KeepAlive: 30 * time.Second}).DialContext
	}
	if o.Proxy == nil {
		o.Proxy = http.ProxyFromEnvironment
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	n := &Network{o: o, log: o.Log, count: newTraffic(o.Register), routes: map[string]*route{}, outs: map[string]out{}}
	n.Update(o.Hosts)
	return n
}

// Update replaces what is special about hosts, after the configuration was read again. Connections that were made by
// other rules are closed when they become idle.
func (n *Network) Update(hosts []Host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	special := map[string]Host{}
	for _, h := range hosts {
		special[h.Origin] = h
	}
	for origin, r := range n.routes {
		wanted, ok := special[origin]
		if !ok {
			wanted = Host{Origin: origin}
		}
		if r.host != wanted {
			n.routes[origin] = &route{host: wanted, seats: r.seats}
			r.seats.bound(wanted.Concurrency)
			r.close()
		}
	}
	for origin, h := range special {
		if n.routes[origin] == nil {
			n.routes[origin] = newRoute(h)
		}
	}
}

func newRoute(h Host) *route { return &route{host: h, seats: &seats{most: h.Concurrency}} }

// Close closes the connections that nobody uses.
func (n *Network) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.routes {
		r.close()
	}
}

func (r *route) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.transport != nil {
		r.transport.CloseIdleConnections()
	}
}

// host gives what is special about an origin.
func (n *Network) host(origin string) Host { return n.route(origin).host }

func (n *Network) route(origin string) *route {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.routes[origin]
	if r == nil {
		r = newRoute(Host{Origin: origin})
		n.routes[origin] = r
	}
	return r
}

// Client gives a client for one origin. It sends nothing anywhere else: neither where an answer redirects to, nor where a
// link in one leads. Redirects within the origin are followed, a few of them. What is longer than maxBody is an error
// while the body is read, and so is what takes longer than wholeTime.
func (n *Network) Client(origin string) *http.Client {
	c := n.client(origin, n.only(origin))
	c.Timeout = wholeTime
	return c
}

// client is Client with something before the way out, which bounds the time.
func (n *Network) client(origin string, way http.RoundTripper) *http.Client {
	return &http.Client{Transport: way, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		return checkRedirect(origin, next, via)
	}}
}

// TLS is how to speak TLS to an origin, for the Git side. The files are looked at when it is called: call it for each
// connection. Where one cannot be read, no certificate of the other side is believed.
func (n *Network) TLS(origin string) *tls.Config {
	r := n.route(origin)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.reread(n); err != nil {
		return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: nobody}
	}
	return r.config()
}

// nobody is who is believed where it cannot be read who should be.
var nobody = x509.NewCertPool()

// only is the way to one origin.
func (n *Network) only(origin string) http.RoundTripper { return &way{n, origin} }

type way struct {
	network *Network
	origin  string
}

// RoundTrip sends a request, if it goes to where this way leads.
func (w *way) RoundTrip(req *http.Request) (*http.Response, error) {
	if to := originOf(req.URL); to != w.origin || req.Host != "" && !strings.EqualFold(req.Host, req.URL.Host) {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, &OffOriginError{From: w.origin, To: bare(req.URL)}
	}
	transport, err := w.network.route(w.origin).open(w.network)
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	resp, err := w.network.carry(w.origin, overAPI, transport, req)
	if err != nil {
		return nil, err
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, left: maxBody}
	return resp, nil
}

// OffOriginError tells that an answer led to another origin than the one that was meant, and was not followed there.
type OffOriginError struct {
	From string // an origin
	To   string // an address without user, query and fragment
}

func (e *OffOriginError) Error() string {
	if strings.HasPrefix(e.From, "https:") && strings.HasPrefix(e.To, "http:") {
		return fmt.Sprintf("it leads to %s, which is not encrypted: nothing is sent there", e.To)
	}
	return fmt.Sprintf("it leads to %s, and Sentry stays at %s; write the new address into the configuration if it is right", e.To, e.From)
}

// bare is an address that can be shown: only its scheme, host and path.
func bare(u *url.URL) string {
	text := (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
	if len(text) > 200 {
		text = text[:200] + "…"
	}
	return text
}

// errHops tells that one redirect led to the next.
var errHops = fmt.Errorf("it redirects more than %d times", maxHops)

// checkRedirect lets a client follow redirects within an origin. What changes something is only repeated where the other
// side says that the method and the body are to stay (307, 308): anything else would turn it into a GET.
func checkRedirect(origin string, next *http.Request, via []*http.Request) error {
	if originOf(next.URL) != origin {
		return &OffOriginError{From: origin, To: bare(next.URL)}
	}
	if len(via) > maxHops {
		return errHops
	}
	if first := via[0].Method; next.Method != first {
		return fmt.Errorf("it redirects a %s (HTTP status %d)", first, next.Response.StatusCode)
	}
	return nil
}

// errTooLong tells that an answer was longer than anybody needs.
var errTooLong = fmt.Errorf("the answer has more than %d MiB", maxBody>>20)

// boundedBody fails, and does not just end, where a body is too long.
type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left+1)])
	if n > b.left {
		b.left = 0
		return 0, errTooLong
	}
	b.left -= n
	return n, err
}

// open gives the transport of a route, a new one where a file has changed.
func (r *route) open(n *Network) (*http.Transport, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.read
	if err := r.reread(n); err != nil {
		return nil, err
	}
	if r.transport != nil && r.read == before {
		return r.transport, nil
	}
	if r.transport != nil {
		r.transport.CloseIdleConnections()
	}
	r.transport = &http.Transport{
		Proxy:                  n.o.Proxy,
		DialContext:            n.o.DialContext,
		TLSClientConfig:        r.config(),
		TLSHandshakeTimeout:    connectTime,
		ResponseHeaderTimeout:  headerTime,
		IdleConnTimeout:        idleTime,
		MaxIdleConnsPerHost:    maxIdleOfHost,
		MaxResponseHeaderBytes: maxHeader,
		ForceAttemptHTTP2:      true,
		// A connection whose other end is gone without a word is found by a ping, not by the next question's deadline.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
	return r.transport, nil
}

func (r *route) config() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: r.roots}
	if r.cert != nil {
		cert := r.cert
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return c
}

// stamp tells versions of a file apart.
type stamp struct {
	size int64
	time time.Time
}

// reread reads the files of a route where they have changed. The caller holds r.mu.
func (r *route) reread(n *Network) error {
	var now [3]stamp
	for i, name := range []string{r.host.CAFile, r.host.CertFile, r.host.KeyFile} {
		if name == "" {
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			return r.complain(n, fmt.Errorf("cannot read %s: %w", name, cause(err)))
		}
		now[i] = stamp{info.Size(), info.ModTime()}
	}
	if now == r.read {
		return nil
	}
	var roots *x509.CertPool
	if name := r.host.CAFile; name != "" {
		pem, err := readPEM(name)
		if err != nil {
			return r.complain(n, err)
		}
		if roots, err = x509.SystemCertPool(); err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(pem) {
			return r.complain(n, fmt.Errorf("%s holds no certificate in PEM form", name))
		}
	}
	var cert *tls.Certificate
	if r.host.CertFile != "" || r.host.KeyFile != "" {
		chain, err := readPEM(r.host.CertFile)
		if err != nil {
			return r.complain(n, err)
		}
		key, err := readPEM(r.host.KeyFile)
		if err != nil {
			return r.complain(n, err)
		}
		pair, err := tls.X509KeyPair(chain, key)
		if err != nil {
			return r.complain(n, fmt.Errorf("%s and %s are no certificate and its key: %w", r.host.CertFile, r.host.KeyFile, err))
		}
		cert = &pair
	}
	r.roots, r.cert, r.read, r.complaint = roots, cert, now, ""
	return nil
}

// complain logs an error once.
func (r *route) complain(n *Network, err error) error {
	if text := err.Error(); text != r.complaint {
		r.complaint = text
		n.log.Warn("cannot speak to a host as configured", "host", r.host.Origin, "error", text)
	}
	return err
}

func readPEM(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, cause(err))
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxPEM+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot read %s: %w", name, cause(err))
	case len(data) > maxPEM:
		return nil, fmt.Errorf("%s has more than %d bytes", name, maxPEM)
	case len(bytes.TrimSpace(data)) == 0:
		return nil, fmt.Errorf("%s is empty", name)
	}
	return data, nil
}

// cause gives an error without what the caller says anyway: the operation and the file, or the method and the address.
// An address can hold what is secret.
func cause(err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
