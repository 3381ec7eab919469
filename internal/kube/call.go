package kube

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// call is one request on its way through the gateway. It belongs to the goroutine that serves the request.
type call struct {
	access  *Access
	began   time.Time
	request *request // nil until it was read

	run      sentry.PipelineRun // with a nonce where a PipelineRun is to be created
	name     string             // of what is created, as far as it is known
	reserved int64              // bytes of the gateway's marking
	told     bool               // the answer has begun
}

// callKey is the key of a call in the context of its request.
type callKey struct{}

// admit reads the request and decides whether it is passed on.
func (c *call) admit(r *http.Request) error {
	var err error
	if c.request, err = readRequest(r); err != nil {
		return err
	}
	for name := range r.Header {
		if strings.HasPrefix(name, "Impersonate-") {
			return refuse(http.StatusForbidden, metav1.StatusReasonForbidden,
				"Sentry's gateway does not let commands impersonate somebody (--as, --as-group): set kubernetes.impersonate in Sentry's configuration")
		}
	}
	if why := c.access.rule.refuses(c.request); why != "" {
		return refuse(http.StatusForbidden, metav1.StatusReasonForbidden, "%s", why)
	}
	return nil
}

// refuse answers with an error of the gateway's own.
func (c *call) refuse(w http.ResponseWriter, err error) {
	var told *denial
	if !errors.As(err, &told) {
		c.log().Error("a request through the gateway to Kubernetes has failed", logger.KeyError, err)
	}
	told = failure(err)
	c.done(told.code, told.message)
	told.write(w)
}

// contain keeps a mistake in this program from taking others down with it.
func (c *call) contain(w http.ResponseWriter) {
	c.access.gateway.marking.Release(c.reserved)
	mistake := recover()
	if mistake == nil {
		return
	}
	if mistake != http.ErrAbortHandler { // which is how the proxy cuts an answer
		c.log().Error("the gateway to Kubernetes has made a mistake", "panic", mistake, "stack", string(debug.Stack()))
		if !c.told {
			c.refuse(w, errors.New("a mistake in the program"))
			return
		}
	}
	panic(http.ErrAbortHandler) // the server ends the connection and says nothing
}

// roundTripper is a function that carries out a request.
type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip carries out a request.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// pass carries out a request of the proxy.
func (g *Gateway) pass(req *http.Request) (*http.Response, error) {
	c := req.Context().Value(callKey{}).(*call)
	if g.discovery.changes(c.request) {
		g.discovery.forget()
		defer g.discovery.forget() // what was asked meanwhile may be old
	}
	var resp *http.Response
	var err error
	if c.run.Nonce != "" {
		resp, err = c.create(req)
	} else {
		resp, err = g.send(req)
	}
	if err != nil {
		return nil, err // to lost
	}
	resp = g.clean(resp, req)
	c.done(resp.StatusCode, "")
	c.told = true
	return resp, nil
}

// send asks the API server.
func (g *Gateway) send(req *http.Request) (*http.Response, error) {
	if req.Header.Get("Upgrade") != "" {
		return g.upgrading.RoundTrip(req)
	}
	return g.plain.RoundTrip(req)
}

// clean takes from an answer what is between Sentry and the API server.
func (g *Gateway) clean(resp *http.Response, req *http.Request) *http.Response {
	resp.Header.Del("Set-Cookie")
	if resp.StatusCode != http.StatusUnauthorized {
		return resp
	}
	_ = resp.Body.Close() // nothing in it is for the client
	g.log.Warn("the Kubernetes API server refuses the credentials", "host", g.target.Host)
	return refuse(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable,
		"the Kubernetes API server refuses Sentry's credentials; see kubernetes.kubeconfig, or the service account of Sentry's pod").response(req)
}

// rewrite makes the request that goes to the API server of the one that came.
func (g *Gateway) rewrite(p *httputil.ProxyRequest) {
	g.aim(p.Out, p.In.Context().Value(callKey{}).(*call))
}

// aim turns a request to the API server, and leaves nothing in it that says who the client is.
func (g *Gateway) aim(out *http.Request, c *call) {
	out.URL.Scheme, out.URL.Host, out.Host = g.target.Scheme, g.target.Host, ""
	if base := strings.TrimSuffix(g.target.Path, "/"); base != "" {
		if out.URL.RawPath != "" {
			out.URL.RawPath = base + out.URL.RawPath
		}
		out.URL.Path = base + out.URL.Path
	}
	for name := range out.Header {
		if slices.Contains(identifying, name) || strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-") {
			out.Header.Del(name)
		}
	}
	if protocols := out.Header.Values("Sec-Websocket-Protocol"); len(protocols) > 0 {
		out.Header.Del("Sec-Websocket-Protocol")
		if rest := withoutToken(protocols); rest != "" {
			out.Header.Set("Sec-Websocket-Protocol", rest)
		}
	}
	if c.access.user != "" {
		out.Header.Set("Impersonate-User", c.access.user)
	}
}

// identifying are headers that say who the client is, or that some server on the way could take for more than they are.
var identifying = []string{"Authorization", "Cookie", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Uri", "X-Original-Url", "X-Rewrite-Url", "X-Real-Ip", "X-Http-Method-Override", "X-Http-Method", "X-Method-Override"}

// withoutToken leaves out the subprotocol by which browsers give a token.
func withoutToken(values []string) string {
	var rest []string
	for _, p := range strings.Split(strings.Join(values, ","), ",") {
		if p = strings.TrimSpace(p); p != "" && !strings.HasPrefix(strings.ToLower(p), "base64url.bearer.authorization.") {
			rest = append(rest, p)
		}
	}
	return strings.Join(rest, ", ")
}

// lost answers a request whose answer did not come.
func (g *Gateway) lost(w http.ResponseWriter, r *http.Request, err error) {
	c := r.Context().Value(callKey{}).(*call)
	c.refuse(w, g.unreachable(r.Context(), err))
}

// unreachable gives the denial for an error of the transport. What it says exactly stays in the log: the plugin of a
// kubeconfig may have written into it.
func (g *Gateway) unreachable(ctx context.Context, err error) error {
	var told *denial
	if errors.As(err, &told) {
		return told
	}
	if errors.As(context.Cause(ctx), &told) { // the access was closed
		return told
	}
	if ctx.Err() != nil {
		return refuse(499, metav1.StatusReasonTimeout, "the client is gone")
	}
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return refuse(http.StatusRequestEntityTooLarge, metav1.StatusReasonRequestEntityTooLarge, "the body has more than %d bytes", tooLarge.Limit)
	}
	g.log.Warn("the Kubernetes API server cannot be asked", "host", g.target.Host, logger.KeyError, err)
	return refuse(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "Sentry's gateway cannot ask the Kubernetes API server: %s", kindOf(err))
}

// kindOf says what kind of error it is, in words of our own.
func kindOf(err error) string {
	var network net.Error
	var lookup *net.DNSError
	switch {
	case errors.As(err, &lookup):
		return "its name cannot be looked up"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nobody answers at its address"
	case errors.As(err, &network) && network.Timeout():
		return "it does not answer in time"
	}
	return "the connection was lost, or never made; Sentry's log tells more"
}
