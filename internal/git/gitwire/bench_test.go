package gitwire_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"sentry/internal/git/gitwire"
	"sentry/internal/sentry"
)

// memory answers in the place of a network and a server, at next to no cost: what is left is our own.
type memory struct{ branches int }

const id = "a94a8fe5ccb19ba61c4c0873d391e987982fbbd3"

func (m memory) answer(path string) (kind, body string) {
	if strings.HasSuffix(path, "/info/refs") {
		return "application/x-git-upload-pack-advertisement", "000eversion 2\n000cls-refs\n0000"
	}
	var b strings.Builder
	for i := range m.branches {
		line := fmt.Sprintf("%s refs/heads/b%04d\n", id, i)
		fmt.Fprintf(&b, "%04x%s", len(line)+4, line)
	}
	return "application/x-git-upload-pack-result", b.String() + "0000"
}

func (m memory) transport() http.RoundTripper {
	headers, bodies := map[bool]http.Header{}, map[bool]string{}
	for _, contact := range []bool{true, false} {
		path := map[bool]string{true: "/info/refs", false: "/git-upload-pack"}[contact]
		kind, body := m.answer(path)
		headers[contact], bodies[contact] = http.Header{"Content-Type": {kind}}, body
	}
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		contact := r.Method == http.MethodGet
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return &http.Response{StatusCode: 200, Header: headers[contact], Body: io.NopCloser(strings.NewReader(bodies[contact]))}, nil
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func branches(n int) []string {
	var prefixes []string
	for i := range n {
		prefixes = append(prefixes, fmt.Sprintf("refs/heads/b%04d", i))
	}
	return prefixes
}

// BenchmarkOwnCost is what a check costs without the network.
func BenchmarkOwnCost(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("branches=%d", n), func(b *testing.B) {
			c := gitwire.New(gitwire.Options{Transport: memory{n}.transport()})
			check(b, c, remote(b, "https://forge.example/team/r.git"), branches(n))
		})
	}
}

// BenchmarkLoopback is what a check costs over kept-alive HTTP against a server in this process that does next to
// nothing: its part is in the figures.
func BenchmarkLoopback(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("branches=%d", n), func(b *testing.B) {
			c := gitwire.New(gitwire.Options{})
			check(b, c, remote(b, rawServer(b, memory{n})+"/team/r.git"), branches(n))
		})
	}
}

func check(b *testing.B, c *gitwire.Client, r sentry.Remote, prefixes []string) {
	a := gitwire.Auth{Token: sentry.NewSecret("token")}
	b.ReportAllocs()
	for b.Loop() {
		refs, err := c.ListRefs(b.Context(), r, a, prefixes)
		if err != nil || len(refs) != len(prefixes) {
			b.Fatal(len(refs), err)
		}
	}
}

// rawServer answers every request on a connection with prepared bytes.
func rawServer(tb testing.TB, m memory) string {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = listener.Close() })
	prepared := func(path string) []byte {
		kind, body := m.answer(path)
		return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", kind, len(body), body)
	}
	contact, refs := prepared("/info/refs"), prepared("/git-upload-pack")
	serve := func(conn net.Conn) {
		defer func() { _ = conn.Close() }()
		buf := make([]byte, 0, 64<<10)
		for {
			n, err := conn.Read(buf[len(buf):cap(buf)])
			if err != nil {
				return
			}
			buf = buf[:len(buf)+n]
			switch {
			case bytes.HasPrefix(buf, []byte("GET")) && bytes.HasSuffix(buf, []byte("\r\n\r\n")):
				_, err = conn.Write(contact)
			case bytes.HasPrefix(buf, []byte("POST")) && bytes.HasSuffix(buf, []byte("0000")):
				_, err = conn.Write(refs)
			default:
				continue
			}
			if err != nil {
				return
			}
			buf = buf[:0]
		}
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return "http://" + listener.Addr().String()
}

// A check of one branch may allocate 8 KiB, net/http's part and that of the connection included.
func TestAllocationOfACheck(t *testing.T) {
	c := gitwire.New(gitwire.Options{})
	r := remote(t, rawServer(t, memory{1})+"/team/r.git")
	prefixes := branches(1)
	a := gitwire.Auth{Token: sentry.NewSecret("token")}
	const rounds = 200
	var before, after runtime.MemStats
	for i := range rounds + 10 {
		if i == 10 { // the connection and the pools are there
			runtime.ReadMemStats(&before)
		}
		if _, err := c.ListRefs(t.Context(), r, a, prefixes); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if perCheck := (after.TotalAlloc - before.TotalAlloc) / rounds; perCheck > 8<<10 && !raceDetector {
		t.Errorf("a check allocates %d bytes", perCheck)
	} else {
		t.Logf("a check allocates %d bytes", perCheck)
	}
}
