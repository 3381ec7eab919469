package kube

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
)

// GatewayOptions are the bounds of a gateway.
type GatewayOptions struct {
	Requests int // of one deployment under way at once, watches included; 0 means 1000
}

// The gateway's bounds.
const (
	maxRequests    = 1000      // under way, of one deployment
	maxConnections = 4096      // of all
	maxMarked      = 4 << 20   // bytes of a body to which marks are added: the API server takes 3 MiB
	maxMarking     = 64 << 20  // bytes of all such bodies at once
	maxBody        = 256 << 20 // bytes of another body, which is passed on as it comes
	bodyTimeout    = time.Minute
	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
)

// Gateway lends a cluster to commands: it listens on loopback, and passes on what comes with the token of a deployment.
type Gateway struct {
	cluster   *Cluster
	log       *slog.Logger
	target    *url.URL          // the API server
	plain     http.RoundTripper // with the credentials
	upgrading http.RoundTripper // the same, for HTTP/1.1 only: there are no upgrades in HTTP/2
	proxy     *httputil.ReverseProxy
	server    *http.Server
	address   string // https://127.0.0.1:PORT
	authority []byte // PEM, for clients
	discovery *discovery
	traffic   *traffic
	marking   *semaphore.Weighted // bytes in memory
	requests  int
	served    chan struct{} // closed when the server has ended

	mu       sync.Mutex
	accesses map[[sha256.Size]byte]*Access // by the hash of the token; nil after Close
}

// NewGateway starts a gateway to the cluster. Nothing is asked of the cluster before a client does.
func (c *Cluster) NewGateway(o GatewayOptions) (*Gateway, error) {
	g := &Gateway{
		cluster: c, log: c.log, traffic: newTraffic(c.register), marking: semaphore.NewWeighted(maxMarking),
		requests: o.Requests, served: make(chan struct{}), accesses: map[[sha256.Size]byte]*Access{},
	}
	if g.requests == 0 {
		g.requests = maxRequests
	}
	g.discovery = newDiscovery(g)
	if err := g.reach(); err != nil {
		return nil, fmt.Errorf("cannot use the credentials of the Kubernetes cluster: %w", err)
	}
	certificate, authority, err := newCertificate(time.Now())
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		return nil, fmt.Errorf("cannot open a port for the gateway to Kubernetes: %w", err)
	}
	g.address, g.authority = "https://"+listener.Addr().String(), authority
	g.server = &http.Server{
		Handler:           http.HandlerFunc(g.serve),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}},
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		ErrorLog: slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: maxRequests, MaxReceiveBufferPerStream: 4 << 20, MaxReceiveBufferPerConnection: 16 << 20},
	}
	go func() {
		defer close(g.served)
		if err := g.server.ServeTLS(limit(listener, maxConnections), "", ""); !errors.Is(err, http.ErrServerClosed) {
			g.log.Error("the gateway to Kubernetes has ended", "error", err)
		}
	}()
	return g, nil
}

// reach makes the transports to the API server.
func (g *Gateway) reach() error {
	config := rest.CopyConfig(g.cluster.config)
	config.UserAgent = ""            // the client's: the API server names who manages a field after it
	config.DisableCompression = true // what a client can unpack is the client's to say
	var err error
	if g.target, _, err = rest.DefaultServerUrlFor(config); err != nil {
		return err
	}
	if g.plain, err = rest.TransportFor(config); err != nil {
		return err
	}
	config.NextProtos = []string{"http/1.1"}
	if g.upgrading, err = rest.TransportFor(config); err != nil {
		return err
	}
	buffers := &buffers{sync.Pool{New: func() any { return new([bufferSize]byte) }}}
	g.proxy = &httputil.ReverseProxy{
		Rewrite: g.rewrite, Transport: roundTripper(g.pass), FlushInterval: -1, BufferPool: buffers,
		ErrorHandler: g.lost, ErrorLog: slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
	return nil
}

// Close ends the gateway: all tokens, all connections, all that is under way.
func (g *Gateway) Close() {
	g.mu.Lock()
	var open []*Access
	for _, a := range g.accesses {
		open = append(open, a)
	}
	g.accesses = nil
	g.mu.Unlock()
	for _, a := range open {
		a.Close()
	}
	_ = g.server.Close() // of loopback connections: nothing is lost with them
	<-g.served
	utilnet.CloseIdleConnectionsFor(g.plain)
	utilnet.CloseIdleConnectionsFor(g.upgrading)
}

// Open gives a deployment access to the cluster until the access is closed. It is an error where the deployment is to
// use a namespace that is not among the cluster's.
func (g *Gateway) Open(id Identity, r Recorder) (*Access, error) {
	limits := rule{g.cluster.namespaces, "kubernetes.namespaces"}
	if len(id.Namespaces) > 0 {
		for _, n := range id.Namespaces {
			if len(limits.namespaces) > 0 && !slices.Contains(limits.namespaces, n) {
				return nil, fmt.Errorf("repository %s: its namespace %q is not among those of kubernetes.namespaces: %s", id.Repository, n, strings.Join(limits.namespaces, ", "))
			}
		}
		limits = rule{slices.Clone(id.Namespaces), "deploy.kubernetes.namespaces of " + id.Repository}
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, fmt.Errorf("cannot make a token: %w", err)
	}
	token := base64.RawURLEncoding.EncodeToString(secret)
	a := &Access{gateway: g, id: id, recorder: r, rule: limits, token: sha256.Sum256([]byte(token)), user: g.cluster.user}
	if id.Impersonate != "" {
		a.user = id.Impersonate
	}
	namespace := g.cluster.namespace
	if len(limits.namespaces) > 0 {
		namespace = limits.namespaces[0]
	}
	var err error
	if a.kubeconfig, err = newKubeconfig(g.address, g.authority, token, namespace); err != nil {
		return nil, err
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.accesses == nil {
		a.cancel()
		return nil, errors.New("the gateway to Kubernetes is closed")
	}
	g.accesses[a.token] = a
	return a, nil
}

// who gives the access of the request's token, nil where there is none. Tokens are looked up by their hash, so the time
// that it takes tells nothing about them.
func (g *Gateway) who(r *http.Request) *Access {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return nil
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return nil
	}
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	g.mu.Lock()
	a := g.accesses[sum]
	g.mu.Unlock()
	if a == nil || subtle.ConstantTimeCompare(a.token[:], sum[:]) != 1 {
		return nil
	}
	return a
}

var (
	errUnknownToken = refuse(http.StatusUnauthorized, metav1.StatusReasonUnauthorized, "Unauthorized: Sentry's gateway does not know this token, or the deployment that had it has ended")
	errTooMany      = refuse(http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests, "too many requests of this deployment are under way; end some watches first")
)

// serve answers one request of a client.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	a := g.who(r)
	if a == nil {
		g.traffic.answered(nil, http.StatusUnauthorized, time.Since(began))
		errUnknownToken.write(w)
		return
	}
	c := &call{access: a, began: began}
	ctx, end, err := a.begin(r.Context())
	if err != nil {
		c.refuse(w, err)
		return
	}
	defer end()
	defer c.contain(w)
	if err := c.admit(r); err != nil {
		c.refuse(w, err)
		return
	}
	if c.request.streams() {
		g.traffic.streams.Inc()
		defer g.traffic.streams.Dec()
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := c.prepare(ctx, w, r); err != nil {
		c.refuse(w, err)
		return
	}
	if g.discovery.about(c.request) {
		g.discovery.serve(w, r.WithContext(ctx), c)
		return
	}
	if r.Header.Get("Upgrade") != "" {
		w = taking{w, ctx}
	}
	g.proxy.ServeHTTP(w, r.WithContext(context.WithValue(ctx, callKey{}, c)))
}

// taking closes the client's connection, which the proxy takes over for exec and the like, when the context ends. The proxy by
// itself waits for the client after the API server has hung up, and the client may never notice.
type taking struct {
	http.ResponseWriter
	ctx context.Context
}

// Unwrap is for http.ResponseController.
func (t taking) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// Hijack gives the connection to the proxy.
func (t taking) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(t.ResponseWriter).Hijack()
	if err == nil {
		context.AfterFunc(t.ctx, func() { _ = conn.Close() })
	}
	return conn, buffered, err
}

// bufferSize is how much of an answer is copied at once.
const bufferSize = 32 << 10

// buffers lends the proxy its buffers.
type buffers struct{ sync.Pool }

// Get lends a buffer.
func (b *buffers) Get() []byte { return b.Pool.Get().(*[bufferSize]byte)[:] }

// Put takes it back.
func (b *buffers) Put(buffer []byte) { b.Pool.Put((*[bufferSize]byte)(buffer)) }
