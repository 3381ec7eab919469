package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"syscall"
	"time"

	"sentry/internal/config"
	"sentry/internal/daemon"
	"sentry/internal/server"
	"sentry/internal/store"
)

// client asks the API, wherever it is.
type client struct {
	http   *http.Client
	remote bool         // a daemon answers, not this process
	owner  string       // who has the state where no daemon answers: a trigger in the foreground; "" for nobody
	place  place        // what it is about
	close  func() error // gives back what it holds
}

// Close gives back what the client holds.
func (c *client) Close() error {
	c.http.CloseIdleConnections()
	if c.close == nil {
		return nil
	}
	return c.close()
}

// connect gives a client for verbs that only look: of the daemon where one runs, else of the state on disk.
func (a *app) connect(ctx context.Context) (*client, error) {
	p, err := a.locate()
	if err != nil {
		return nil, err
	}
	return a.connectTo(ctx, p)
}

func (a *app) connectTo(ctx context.Context, p place) (*client, error) {
	c, err := dial(ctx, p)
	if c != nil || err != nil {
		return c, err
	}
	a.elsewhere(ctx, p)
	var state server.Store
	s, err := store.Open(ctx, store.Options{Dir: p.stateDir, ReadOnly: true})
	var release func() error
	switch {
	case errors.Is(err, store.ErrNoState):
		state = noState{}
	case err != nil:
		return nil, fmt.Errorf("cannot read the state: %w", err)
	default:
		state, release = s, s.Close
	}
	o, owner := server.Options{Store: state}, store.Held(p.stateDir)
	if owner != "" { // what runs is run by somebody, though it cannot be asked
		o.Control = nobody{}
	}
	c = local(p, release, o)
	c.owner = owner
	return c, nil
}

// own gives a client for verbs that change something: of the daemon where one runs, else of the state on disk, which
// then is locked until the client is closed. Where there is no state yet, it is made only if begin says so.
func (a *app) own(ctx context.Context, begin bool) (*client, error) {
	p, err := a.locate()
	if err != nil {
		return nil, err
	}
	c, err := a.connectTo(ctx, p)
	if err != nil || c.remote {
		return c, err
	}
	if c.close == nil && !begin { // there is no state
		return c, nil
	}
	if err := c.Close(); err != nil {
		return nil, err
	}
	s, err := store.Open(ctx, store.Options{Dir: p.stateDir})
	if err != nil {
		return nil, err
	}
	return local(p, s.Close, server.Options{Store: s, Control: custodian{store: s}}), nil
}

// local gives a client of a handler in this process.
func local(p place, release func() error, o server.Options) *client {
	o.Config = func() *config.Config { return p.config }
	o.LogsDir = filepath.Join(p.stateDir, "logs")
	o.Version = version()
	return &client{http: &http.Client{Transport: inProcess{server.Handler(o)}}, place: p, close: release}
}

// dial gives a client of the daemon that owns a state directory; nil where none does.
func dial(ctx context.Context, p place) (*client, error) {
	path := daemon.SocketPath(p.stateDir)
	var d net.Dialer
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := d.DialContext(ctx, "unix", path)
	switch {
	case nobodyThere(err):
		return nil, nil
	case errors.Is(err, fs.ErrPermission):
		return nil, &problem{code: exitDenied, message: fmt.Sprintf("not allowed to talk to the daemon of %s", p.stateDir), hint: "run this as the user that runs the daemon", cause: err}
	case err != nil:
		return nil, &problem{code: exitUnreachable, message: fmt.Sprintf("the daemon of %s does not answer", p.stateDir), hint: "it is there but stuck: its log says more", cause: err}
	}
	_ = conn.Close() // it was only to see whether somebody listens
	return socketClient(path, p), nil
}

// socketClient gives a client of whoever listens at a socket.
func socketClient(path string, p place) *client {
	var d net.Dialer
	transport := &http.Transport{
		DialContext:           func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) },
		ResponseHeaderTimeout: time.Minute,
		DisableCompression:    true,
	}
	return &client{http: &http.Client{Transport: transport}, remote: true, place: p}
}

// maxAnswer bounds what is read of an answer: the status of 100,000 watches is some 30 MiB.
const maxAnswer = 256 << 20

// How long an answer may take: longer than the server itself gives an action, but nobody looks at nothing for long.
const (
	lookTimeout = 10 * time.Second
	actTimeout  = 45 * time.Second
)

// get asks for a thing.
func (c *client) get(ctx context.Context, path string, q url.Values, into any) error {
	return c.do(ctx, http.MethodGet, path, q, nil, into)
}

// post asks to do something.
func (c *client) post(ctx context.Context, path string, body, into any) error {
	return c.do(ctx, http.MethodPost, path, nil, body, into)
}

func (c *client) do(ctx context.Context, method, path string, q url.Values, body, into any) error {
	patience := lookTimeout
	if method != http.MethodGet {
		patience = actTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, &problem{
		code: exitUnreachable, message: fmt.Sprintf("the daemon of %s has not answered for %s", c.place.stateDir, patience), hint: "it is there but stuck: its log says more",
	})
	defer cancel()
	response, err := c.send(ctx, method, path, q, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return c.unreachable(ctx, err)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("the answer to %s %s cannot be understood: %w", method, path, err)
	}
	return nil
}

// stream asks for a thing that comes piece by piece. The caller closes it.
func (c *client) stream(ctx context.Context, path string, q url.Values) (io.ReadCloser, error) {
	response, err := c.send(ctx, http.MethodGet, path, q, nil)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

// send gives an answer that is a success; its body is the caller's.
func (c *client) send(ctx context.Context, method, path string, q url.Values, body any) (*http.Response, error) {
	base := url.URL{Scheme: "http", Host: "sentry", Path: "/"}
	target := base.JoinPath(server.Prefix, path)
	target.RawQuery = q.Encode()
	var content io.Reader = http.NoBody
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, target.String(), content)
	if err != nil {
		return nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if response.StatusCode < 300 {
		return response, nil
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	var failure server.Failure
	if json.Unmarshal(text, &failure) != nil || failure.Error.Message == "" {
		return nil, fmt.Errorf("%s %s is answered with %s", method, path, response.Status)
	}
	failure.Error.Status = response.StatusCode
	return nil, &failure.Error
}

// hintGone is for whoever asked a daemon that is not there any more.
const hintGone = "start it again with `sentry watch`; what was asked for before is on disk, and goes on then"

// nobodyThere reports whether an error of dialling says that no process answers at the socket.
func nobodyThere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOTDIR)
}

// unreachable says that the connection failed, unless it was given up on purpose.
func (c *client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !c.remote {
		return err
	}
	p := &problem{code: exitUnreachable, message: fmt.Sprintf("the daemon of %s went away", c.place.stateDir), hint: hintGone, cause: err}
	if nobodyThere(err) {
		p.message = fmt.Sprintf("the daemon of %s has ended", c.place.stateDir)
	}
	return p
}

// rolloutPath is the path of a rollout, whatever its id looks like.
func rolloutPath(id string, more ...string) string {
	path := "rollouts/" + url.PathEscape(id)
	for _, m := range more {
		path += "/" + m
	}
	return path
}
