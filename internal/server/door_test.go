package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Where nobody can prove who he is, nothing is told and nothing done.
func TestAnonymousSeesNothing(t *testing.T) {
	registry := prometheus.NewRegistry()
	for _, open := range [][]string{nil, {"/metrics"}} {
		f := newFixture(t, func(o *Options) { o.Authorize, o.Metrics = Anonymous(open...), registry })
		for _, r := range Routes() {
			path := strings.NewReplacer("{id}", "1", "{name}", "web", "{forge}", "github", "{repository}", "shop").Replace(r.Path)
			for _, header := range []map[string]string{nil, {"Authorization": "Bearer x"}, {"X-Forwarded-For": "127.0.0.1"}} {
				w := f.send(r.Method, path, "", header)
				switch {
				case r.Path == "/healthz" || r.Path == "/rollouts/{id}" || r.Path == "/metrics" && open != nil:
					if w.Code != 200 {
						t.Errorf("%s %s: %d %s", r.Method, path, w.Code, w.Body)
					}
				case strings.HasPrefix(r.Path, "/hooks/"):
					if w.Code != 404 { // without a secret
						t.Errorf("%s %s: %d %s", r.Method, path, w.Code, w.Body)
					}
				case w.Code != 401 || !strings.Contains(w.Body.String(), "cannot prove who they are") || strings.Contains(w.Body.String(), "shop"):
					t.Errorf("%s %s: %d %s", r.Method, path, w.Code, w.Body)
				}
			}
		}
		// As a form a browser could send, or with another method, it is still no way in.
		for _, path := range []string{"/metrics/", "//metrics", "/metrics/../api/v1/status", "/api/v1/status?/metrics", "/api/v1/../../metrics/x"} {
			if w := f.send("GET", path, "", nil); w.Code == 200 {
				t.Errorf("GET %s: %s", path, w.Body)
			}
		}
		for _, need := range []Role{RoleAct, RoleAdmin} {
			if _, err := Anonymous(open...)(httptest.NewRequest("POST", "/metrics", nil), need); !errors.Is(err, ErrUnauthenticated) {
				t.Errorf("whoever may look may %s: %v", need, err)
			}
		}
		if w := f.send("POST", "/metrics", "", nil); w.Code != 405 {
			t.Errorf("POST /metrics: %d", w.Code)
		}
	}
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "sentry_test_total", Help: "A test."})
	registry.MustRegister(c)
	c.Add(3)
	f := newFixture(t, func(o *Options) { o.Metrics = registry })
	f.want("GET", "/metrics", "", 200, "# TYPE sentry_test_total counter\nsentry_test_total 3\n")
	newFixture(t).want("GET", "/metrics", "", 404, "no_such_route")
}

// A name that a stranger's page was given for this machine is not one of ours.
func TestNamesOfTheServer(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Hosts = Named("sentry.example.org", "") })
	for host, ok := range map[string]bool{
		"127.0.0.1": true, "127.0.0.1:8080": true, "[::1]:8080": true, "[::1]": true, "localhost": true, "LocalHost:8080": true, "192.0.2.7:80": true,
		"sentry.example.org": true, "Sentry.Example.Org:8443": true,
		"evil.example": false, "evil.example:8080": false, "localhost.evil.example": false, "127.0.0.1.evil.example": false, "": false, ":8080": false,
		"sentry.example.org.evil.example": false, "127.0.0.1@evil.example": false, "0x7f.1": false, "2130706433": false,
	} {
		r := httptest.NewRequest("GET", Prefix+"/status", nil)
		r.Host = host
		w := httptest.NewRecorder()
		f.handler.ServeHTTP(w, r)
		if (w.Code == 200) != ok || !ok && (w.Code != 421 || !strings.Contains(w.Body.String(), `"wrong_host"`)) {
			t.Errorf("Host: %s: %d %s", host, w.Code, w.Body)
		}
		// What tells nothing is for everybody, as probes and forges use what name they like.
		r = httptest.NewRequest("GET", "/healthz", nil)
		r.Host = host
		w = httptest.NewRecorder()
		f.handler.ServeHTTP(w, r)
		if w.Code != 200 {
			t.Errorf("healthz at %s: %d", host, w.Code)
		}
	}
}

// pipeListener connects in memory, so that it can be used where time is simulated.
type pipeListener struct {
	conns chan net.Conn
	once  sync.Once
	ended chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), ended: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.ended:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.ended) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (l *pipeListener) dial() net.Conn {
	ours, theirs := net.Pipe()
	l.conns <- theirs
	return ours
}

// served runs a server over pipes until the test ends.
func served(t *testing.T, o Options) *pipeListener {
	l := newPipeListener()
	s := New(o)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return l
}

// A19: whoever takes his time is dropped.
func TestSlowSenders(t *testing.T) {
	for _, c := range []struct {
		name, text string
		every      time.Duration
		within     time.Duration
	}{
		{"says nothing", "", 0, 10 * time.Second},
		{"a head, byte by byte", "POST /hooks/github HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-A: b\r\n", 1000), time.Second, 10 * time.Second},
		{"a body, byte by byte", "POST /hooks/github HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nX-Hub-Signature-256: sha256=00\r\n\r\n" + strings.Repeat("x", 1000), time.Millisecond * 100, 20 * time.Second},
		{"a body in chunks that never ends", "POST /hooks/github HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1\r\nx\r\n", 1000), time.Millisecond * 10, 20 * time.Second},
		{"a body that never comes", "POST /hooks/github HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", time.Millisecond, 12 * time.Second},
		{"a body to where there is nothing", "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", time.Millisecond, 22 * time.Second},
		{"a body to what is not for him", "POST /api/v1/rollouts HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", time.Millisecond, 22 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newHookWorld(t, shapes[0].url)
			synctest.Test(t, func(t *testing.T) {
				w.hooks.o.Now = time.Now
				l := served(t, Options{Hooks: w.hooks, Authorize: Anonymous(), Connections: 10})
				conn := l.dial()
				ctx, cancel := context.WithCancel(t.Context())
				defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
				go trickle(ctx, conn, c.text, c.every)
				begun := time.Now()
				answer, _ := io.ReadAll(conn) // until the server has had enough
				took := time.Since(begun)
				cancel()
				if took > c.within {
					t.Errorf("dropped after %v, not within %v: %.100q", took, c.within, answer)
				}
				if strings.Contains(string(answer), "202") {
					t.Errorf("answer %.200q", answer)
				}
				synctest.Wait()
				if w.hooks.flood.inside != 0 || w.hooks.flood.held != 0 {
					t.Errorf("%d requests and %d bytes are left", w.hooks.flood.inside, w.hooks.flood.held)
				}
			})
		})
	}
}

// trickle writes a text byte by byte, until it is written, nobody reads it any more, or ctx ends.
func trickle(ctx context.Context, c net.Conn, text string, every time.Duration) {
	for i := range len(text) {
		if _, err := c.Write([]byte{text[i]}); err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
	}
}

// Who sends slowly stands in the way of a bounded number of others, and in that of other addresses not at all.
func TestSlowSendersDoNotKeepOthersOut(t *testing.T) {
	f := newFlood()
	for i := range insideOfOne {
		if _, ok := f.enter(fmt.Sprintf("192.0.2.1:%d", i+1), now.Add(time.Duration(i)*time.Second)); !ok {
			t.Fatalf("number %d is refused", i)
		}
	}
	later := now.Add(time.Hour)
	if _, ok := f.enter("192.0.2.1:9999", later); ok {
		t.Error("one more of the same address is let in")
	}
	for i := insideOfOne; i < insideOfAll; i++ {
		if _, ok := f.enter(fmt.Sprintf("192.0.2.2%d:1", i%20), later.Add(time.Duration(i)*time.Second)); !ok {
			t.Fatalf("number %d, of another address, is refused", i)
		}
	}
	if _, ok := f.enter("192.0.2.3:1", later.Add(time.Hour)); ok {
		t.Error("there is no end to it")
	}
}

// 5,000 connections that only stand there: whoever has something to ask is answered, and soon.
func TestIdleConnectionsDoNotHurt(t *testing.T) {
	const idle = 5000
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const most = 500
	s := New(Options{Authorize: Anonymous(), Connections: most, Log: slog.New(slog.DiscardHandler)})
	var open atomic.Int64
	old := s.ConnState
	s.ConnState = func(c net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
		old(c, state)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	defer func() { _ = s.Close(); <-ended }()

	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	var took []time.Duration
	for i := range idle {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		conns = append(conns, c)
		if i%3 == 0 { // some begin to say something
			_, _ = io.WriteString(c, "GET /healthz HTTP/1.1\r\nHo")
		}
		if i%10 != 0 {
			continue
		}
		begun := time.Now()
		r, err := client.Get("http://" + l.Addr().String() + "/healthz")
		if err != nil {
			t.Fatalf("among %d connections: %v", i, err)
		}
		_ = r.Body.Close()
		took = append(took, time.Since(begun))
		if r.StatusCode != 200 {
			t.Fatal(r.Status)
		}
	}
	slices.Sort(took)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	t.Logf("%d connections, %d open; answers p50 %v, p99 %v", idle, open.Load(), p50, p99)
	if n := open.Load(); n > most+10 {
		t.Errorf("%d connections are open", n)
	}
	if p99 > 50*time.Millisecond && !racing {
		t.Errorf("p99 is %v", p99)
	}
}

// What is being answered is not dropped for what only might ask.
func TestBusyConnectionsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		release := make(chan struct{})
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				<-release
			}
			_, _ = io.WriteString(w, "ok")
		})}
		c := newCrowd(3)
		c.watch(s)
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(l) }()

		ask := func(path string) net.Conn {
			conn := l.dial()
			if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Error(err)
			}
			synctest.Wait()
			return conn
		}
		answered := func(conn net.Conn) bool {
			r, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				return false
			}
			body, _ := io.ReadAll(r.Body)
			return bytes.Equal(body, []byte("ok"))
		}
		gone := func(conn net.Conn) bool {
			synctest.Wait()
			_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
			defer func() { _ = conn.SetReadDeadline(time.Time{}) }()
			_, err := conn.Read(make([]byte, 1))
			return errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe)
		}
		first, second := ask("/slow"), ask("/slow")
		idle := l.dial()
		fourth := l.dial() // takes the place of the idle one
		if !gone(idle) || gone(fourth) {
			t.Error("not the idle connection went")
		}
		if _, err := io.WriteString(fourth, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if fifth := l.dial(); !gone(fifth) {
			t.Error("there is a place for one more than there are")
		}
		close(release)
		for i, conn := range []net.Conn{first, second, fourth} {
			if !answered(conn) {
				t.Errorf("connection %d got no answer", i)
			}
		}
		// They are of no use again, and the one that has been so for the longest time makes room.
		for _, conn := range []net.Conn{first, fourth, second} {
			if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil || !answered(conn) {
				t.Errorf("a second request: %v", err)
			}
			synctest.Wait()
		}
		if sixth := ask("/"); !answered(sixth) || !gone(first) || gone(fourth) || gone(second) {
			t.Error("after the answers there is no room, or the wrong one made it")
		}
		_ = s.Close()
		<-ended
		synctest.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.all) != 0 || c.useless.Len() != 0 {
			t.Errorf("%d connections and %d places are left", len(c.all), c.useless.Len())
		}
	})
}
