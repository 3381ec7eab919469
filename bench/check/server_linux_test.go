package check

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"sentry/bench/internal/child"
	"sentry/internal/git/gitserve"
)

func TestMain(m *testing.M) {
	child.Main(m, map[string]child.Role{"git server": serveGit, "instant server": serveInstantly})
}

// totals is what a server has sent so far, in bytes: on its connections, and of that the bodies of answers.
type totals struct{ Sent, Bodies int64 }

// server is one of the two servers, in a process of its own.
type server struct {
	URL string
	p   *child.Process
}

func startServer(t *testing.T, role string, args ...string) *server {
	t.Helper()
	s := &server{p: child.Start(t, role, "", args...)}
	s.p.Read(&s.URL)
	return s
}

func (s *server) totals() (now totals) {
	s.p.Ask("totals", &now)
	return now
}

// serveGit is a real git server over the folder that it is given.
func serveGit(args []string, in io.Reader) int {
	var bodies atomic.Int64
	git := gitserve.Handler(args[0], gitserve.Options{})
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		git.ServeHTTP(&countingWriter{w, &bodies}, r)
	})
	return serve(in, &bodies, func(l net.Listener) error {
		return http.Serve(l, counted)
	})
}

type countingWriter struct {
	http.ResponseWriter
	bytes *atomic.Int64
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.bytes.Add(int64(n))
	return n, err
}

// serveInstantly answers every ls-refs as if each of the refs that it is asked for were there, as fast as a program can
// that knows nothing but that.
func serveInstantly(_ []string, in io.Reader) int {
	return serve(in, new(atomic.Int64), func(l net.Listener) error {
		for {
			conn, err := l.Accept()
			if err != nil {
				return err
			}
			go answer(conn)
		}
	})
}

const someCommit = "a94a8fe5ccb19ba61c4c0873d391e987982fbbd3"

func answer(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 64<<10)
	for {
		request, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		body, err := io.ReadAll(request.Body)
		if err != nil {
			return
		}
		kind, reply := "advertisement", "000eversion 2\n000cls-refs\n0000"
		if request.Method == http.MethodPost {
			kind, reply = "result", listOf(body)
		}
		if _, err := fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-%s\r\nContent-Length: %d\r\n\r\n%s", kind, len(reply), reply); err != nil {
			return
		}
	}
}

func listOf(question []byte) string {
	var b strings.Builder
	for line := range bytes.Lines(question) {
		if _, prefix, ok := strings.Cut(strings.TrimSpace(string(line)), "ref-prefix "); ok {
			fmt.Fprintf(&b, "%04x%s %s\n", 4+len(someCommit)+1+len(prefix)+1, someCommit, prefix)
		}
	}
	return b.String() + "0000"
}

// serve listens, tells the parent where, and answers its questions until it ends.
func serve(in io.Reader, bodies *atomic.Int64, handle func(net.Listener) error) int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var sent atomic.Int64
	go func() { _ = handle(&countingListener{listener, &sent}) }()
	out := json.NewEncoder(os.Stdout)
	_ = out.Encode("http://" + listener.Addr().String())
	for lines := bufio.NewScanner(in); lines.Scan(); {
		_ = out.Encode(totals{Sent: sent.Load(), Bodies: bodies.Load()})
	}
	return 0
}

type countingListener struct {
	net.Listener
	sent *atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return &countingConn{conn, l.sent}, err
}

type countingConn struct {
	net.Conn
	sent *atomic.Int64
}

func (c *countingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n))
	return n, err
}
