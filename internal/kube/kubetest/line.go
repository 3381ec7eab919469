package kubetest

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// Line is a connection to the API server that can be cut: for its user the API server is down, for everybody else it is not.
type Line struct {
	Kubeconfig string // like the cluster's, but through the line

	to string // the API server

	mu    sync.Mutex // owns what follows
	cut   bool
	conns map[net.Conn]bool
	seen  int
}

// Line makes a line to the API server.
func (c *Cluster) Line(t testing.TB) *Line {
	t.Helper()
	var config map[string]any
	if err := json.Unmarshal([]byte(c.Run(t, "config", "view", "--raw", "--flatten", "--minify", "--output", "json")), &config); err != nil {
		t.Fatal(err)
	}
	cluster := config["clusters"].([]any)[0].(map[string]any)["cluster"].(map[string]any)
	server, err := url.Parse(cluster["server"].(string))
	if err != nil {
		t.Fatal(err)
	}
	l := &Line{to: server.Host, conns: map[net.Conn]bool{}}
	if server.Port() == "" {
		l.to = net.JoinHostPort(server.Hostname(), "443")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if cluster["tls-server-name"] == nil {
		cluster["tls-server-name"] = server.Hostname() // the certificate is the API server's
	}
	server.Host = listener.Addr().String()
	cluster["server"] = server.String()
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	l.Kubeconfig = freshFile(t, "kubeconfig", data)

	var all sync.WaitGroup
	all.Go(func() { l.serve(listener, &all) })
	t.Cleanup(func() {
		listener.Close()
		l.Cut()
		all.Wait()
	})
	return l
}

// Cut breaks all connections, and refuses new ones.
func (l *Line) Cut() { l.set(true) }

// Mend lets connections through again.
func (l *Line) Mend() { l.set(false) }

// Connections is how many were asked for so far, also while the line was cut.
func (l *Line) Connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen
}

func (l *Line) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	if cut {
		for conn := range l.conns {
			conn.Close()
		}
		clear(l.conns)
	}
}

// serve takes connections until the listener is closed.
func (l *Line) serve(listener net.Listener, all *sync.WaitGroup) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		all.Go(func() { l.pass(conn) })
	}
}

// pass connects one client with the API server until either hangs up, or the line is cut.
func (l *Line) pass(conn net.Conn) {
	defer conn.Close()
	l.count()
	if !l.keep(conn) {
		return
	}
	defer l.drop(conn)
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	var dialer net.Dialer
	server, err := dialer.DialContext(ctx, "tcp", l.to)
	if err != nil {
		return
	}
	defer server.Close()
	if !l.keep(server) {
		return
	}
	defer l.drop(server)
	var back sync.WaitGroup
	back.Go(func() {
		io.Copy(conn, server)
		conn.Close()
	})
	io.Copy(server, conn)
	server.Close()
	back.Wait()
}

// keep notes a connection, to break it later; false where the line is cut.
func (l *Line) keep(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.cut {
		l.conns[conn] = true
	}
	return !l.cut
}

func (l *Line) count() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen++
}

func (l *Line) drop(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, conn)
}
