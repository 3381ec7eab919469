package gitwire

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	neturl "net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// get asks and reads the answer to its end.
func get(t *testing.T, over http.RoundTripper, url, body string) (string, error) {
	t.Helper()
	method, content := http.MethodGet, io.Reader(nil)
	if body != "" {
		method, content = http.MethodPost, strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, url, content)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := over.RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d %s", resp.StatusCode, text), err
}

// scripted answers the n-th request of the c-th connection (both from 0) with what the function gives, which may be all
// sorts of things, and closes the connection where it gives false.
func scripted(t *testing.T, answer func(c, n int, r *http.Request) (string, bool)) (url string, connections *atomic.Int32) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connections = new(atomic.Int32)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			c := int(connections.Add(1)) - 1
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				in := bufio.NewReader(conn)
				for n := 0; ; n++ {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, r.Body)
					text, more := answer(c, n, r)
					if _, err := io.WriteString(conn, text); err != nil || !more {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
	})
	return "http://" + listener.Addr().String(), connections
}

func newTestTransport(t *testing.T) *transport {
	t.Helper()
	over := newTransport(speak(&tls.Config{}))
	t.Cleanup(over.closeAll)
	return over
}

// speak gives every host the same configuration.
func speak(config *tls.Config) func(string) *tls.Config {
	return func(string) *tls.Config { return config }
}

// closeAll closes all idle connections.
func (t *transport) closeAll() {
	t.mu.Lock()
	t.idleTime = 0
	for _, p := range t.proxied {
		p.CloseIdleConnections()
	}
	t.mu.Unlock()
	t.closeOld()
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func TestConnectionIsKept(t *testing.T) {
	for name, text := range map[string]string{
		"length":        ok,
		"chunks":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
		"early hints":   "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + ok,
		"another proto": strings.Replace(ok, "200 OK", "200 Whatever", 1),
	} {
		url, connections := scripted(t, func(_, _ int, _ *http.Request) (string, bool) { return text, true })
		over := newTestTransport(t)
		for range 5 {
			if got, err := get(t, over, url, "question"); err != nil || got != "200 ok" {
				t.Errorf("%s: %q %v", name, got, err)
			}
		}
		if n := connections.Load(); n != 1 {
			t.Errorf("%s: %d connections", name, n)
		}
	}
}

// What makes a connection useless for another question, and what an answer over it may not do to the next one.
func TestConnectionIsNotKept(t *testing.T) {
	for name, text := range map[string]string{
		"said so":         strings.Replace(ok, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1),
		"old protocol":    strings.Replace(ok, "HTTP/1.1", "HTTP/1.0", 1),
		"too much":        ok + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
		"too much, later": ok,
	} {
		url, connections := scripted(t, func(_, n int, _ *http.Request) (string, bool) { return text, true })
		over := newTestTransport(t)
		if name == "too much, later" {
			var listener net.Listener
			url, listener = talkative(t)
			connections = nil
			defer func() { _ = listener.Close() }()
		}
		for range 3 {
			if got, err := get(t, over, url, "question"); err != nil || got != "200 ok" {
				t.Errorf("%s: %q %v", name, got, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
		if connections != nil && connections.Load() != 3 {
			t.Errorf("%s: %d connections", name, connections.Load())
		}
	}
}

// talkative answers, and a moment later answers again without having been asked.
func talkative(t *testing.T) (string, net.Listener) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
					return
				}
				_, _ = io.WriteString(conn, ok)
				time.Sleep(5 * time.Millisecond)
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
				time.Sleep(time.Second)
			}()
		}
	}()
	return "http://" + listener.Addr().String(), listener
}

func TestClosedConnectionsAreReplaced(t *testing.T) {
	// The server closes after each answer without a word, right away or only when the next question comes.
	for _, n := range []int{0, 1} {
		url, connections := scripted(t, func(_, at int, _ *http.Request) (string, bool) {
			if at == 1 {
				return "", false
			}
			return ok, n == 1
		})
		over := newTestTransport(t)
		for range 4 {
			if got, err := get(t, over, url, "question"); err != nil || got != "200 ok" {
				t.Errorf("%q %v", got, err)
			}
		}
		if got := connections.Load(); got != 4 {
			t.Errorf("%d connections", got)
		}
	}
}

func TestBrokenAnswersAreNotAskedForAgain(t *testing.T) {
	for name, text := range map[string]string{
		"half a header":   "HTTP/1.1 200 OK\r\nContent-Le",
		"no HTTP":         "220 mail.example ESMTP\r\n",
		"a bad length":    "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"two lengths":     "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok",
		"only interim":    strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 50),
		"a new protocol":  "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
		"a header bomb":   "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Bomb: "+strings.Repeat("x", 1000)+"\r\n", 100) + "\r\n",
		"a long line":     "HTTP/1.1 200 OK\r\nX-Bomb: " + strings.Repeat("x", 100_000) + "\r\n\r\n",
		"half of a body":  "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok",
		"half of a chunk": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok",
	} {
		url, connections := scripted(t, func(c, n int, _ *http.Request) (string, bool) {
			if n == 0 {
				return ok, true
			}
			return text, false
		})
		over := newTestTransport(t)
		if _, err := get(t, over, url, "question"); err != nil {
			t.Fatal(err)
		}
		if got, err := get(t, over, url, "question"); err == nil {
			t.Errorf("%s: %q", name, got)
		}
		if n := connections.Load(); n != 1 {
			t.Errorf("%s: %d connections", name, n)
		}
		if over.kept != 0 {
			t.Errorf("%s: the connection was kept", name)
		}
	}
}

func TestAnswerBeforeTheQuestionEnds(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 100))
			_, _ = io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
			_ = conn.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
	}()
	got, err := get(t, newTestTransport(t), "http://"+listener.Addr().String(), strings.Repeat("question ", 100_000))
	if err != nil || got != "413 no" {
		t.Errorf("%q %v", got, err)
	}
}

func TestIdleConnectionsAreBoundedAndClosed(t *testing.T) {
	url, connections := scripted(t, func(_, _ int, _ *http.Request) (string, bool) {
		time.Sleep(20 * time.Millisecond)
		return ok, true
	})
	over := newTestTransport(t)
	over.idleTime = 100 * time.Millisecond
	var wg sync.WaitGroup
	for range maxIdleOfOne + 20 {
		wg.Go(func() {
			if got, err := get(t, over, url, ""); err != nil || got != "200 ok" {
				t.Errorf("%q %v", got, err)
			}
		})
	}
	wg.Wait()
	over.mu.Lock()
	kept := over.kept
	over.mu.Unlock()
	if kept == 0 || kept > maxIdleOfOne || int(connections.Load()) < kept {
		t.Errorf("%d of %d connections are kept", kept, connections.Load())
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		over.mu.Lock()
		kept, timer, addresses := over.kept, over.sweep, len(over.idle)
		over.mu.Unlock()
		if kept == 0 && timer == nil && addresses == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are still kept", kept)
		}
	}
}

func TestCanceledWhileWaiting(t *testing.T) {
	url, _ := scripted(t, func(_, n int, _ *http.Request) (string, bool) {
		if n == 1 {
			time.Sleep(10 * time.Second)
		}
		return "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok", n == 0
	})
	over := newTestTransport(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	resp, err := over.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	_, err = io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 5*time.Second || over.kept != 0 {
		t.Errorf("after %s: %v, %d connections are kept", time.Since(begin), err, over.kept)
	}
}

func TestTLS(t *testing.T) {
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s resumed %v", r.Proto, r.TLS.DidResume)
	}))
	h.EnableHTTP2 = true
	h.StartTLS()
	defer h.Close()
	trusted := x509.NewCertPool()
	trusted.AddCert(h.Certificate())
	over := newTransport(speak(&tls.Config{RootCAs: trusted}))
	defer over.closeAll()
	for range 3 {
		if got, err := get(t, over, h.URL, "question"); err != nil || got != "200 HTTP/1.1 resumed false" {
			t.Errorf("%q %v", got, err)
		}
	}
	if over.kept != 1 {
		t.Errorf("%d connections are kept", over.kept)
	}
	h.CloseClientConnections()
	time.Sleep(20 * time.Millisecond)
	if got, err := get(t, over, h.URL, "question"); err != nil || got != "200 HTTP/1.1 resumed true" {
		t.Errorf("a new connection: %q %v", got, err)
	}
}

// How to speak to a server is asked for each connection, by its origin; what was agreed with one that is trusted no longer
// does not go on.
func TestTLSByOrigin(t *testing.T) {
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "resumed %v", r.TLS.DidResume)
	}))
	h.Config.ErrorLog = log.New(io.Discard, "", 0)
	h.StartTLS()
	defer h.Close()
	trusted := x509.NewCertPool()
	trusted.AddCert(h.Certificate())
	now := trusted
	var origins []string
	over := newTransport(func(origin string) *tls.Config {
		origins = append(origins, origin)
		return &tls.Config{RootCAs: now}
	})
	defer over.closeAll()
	for _, c := range []struct {
		trust *x509.CertPool
		want  string
	}{{trusted, "200 resumed false"}, {trusted, "200 resumed true"}, {x509.NewCertPool(), ""}, {trusted, "200 resumed true"}} {
		now = c.trust
		if got, err := get(t, over, h.URL, "question"); got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%q, %v, want %q", got, err, c.want)
		}
		over.closeAll()
	}
	if want := slices.Repeat([]string{h.URL}, 4); !slices.Equal(origins, want) {
		t.Errorf("asked how to speak to %q", origins)
	}
}

// Certificates are checked, whatever is wrong with them, and nothing is sent before.
func TestWrongCertificates(t *testing.T) {
	var asked atomic.Int32
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	h.Config.ErrorLog = log.New(io.Discard, "", 0)
	h.StartTLS()
	defer h.Close()
	trusted := x509.NewCertPool()
	trusted.AddCert(h.Certificate())
	_, port, _ := net.SplitHostPort(h.Listener.Addr().String())
	for name, c := range map[string]struct {
		config *tls.Config
		url    string
	}{
		"nobody has signed": {&tls.Config{}, h.URL},
		"another host":      {&tls.Config{RootCAs: trusted}, "https://localhost:" + port},
		"expired":           {&tls.Config{RootCAs: trusted, Time: func() time.Time { return h.Certificate().NotAfter.Add(time.Hour) }}, h.URL},
		"not TLS at all":    {&tls.Config{}, "https" + strings.TrimPrefix(plainServer(t), "http")},
	} {
		over := newTransport(speak(c.config))
		if got, err := get(t, over, c.url, "question"); err == nil {
			t.Errorf("%s: %s", name, got)
		}
		over.closeAll()
	}
	old := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	old.Config.ErrorLog = log.New(io.Discard, "", 0)
	old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	old.StartTLS()
	defer old.Close()
	r, _ := http.NewRequest(http.MethodGet, old.URL, nil)
	if _, err := NewTransport(nil).RoundTrip(r); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.1: %v", err)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d questions were sent", n)
	}
}

func plainServer(t *testing.T) string {
	t.Helper()
	url, _ := scripted(t, func(_, _ int, _ *http.Request) (string, bool) { return ok, true })
	return url
}

// Whom to believe and what to show is looked at for each question through a proxy as well: files may have come late, or
// been renewed.
func TestProxyByOrigin(t *testing.T) {
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, c := range r.TLS.PeerCertificates {
			_, _ = fmt.Fprint(w, c.SerialNumber)
		}
	}))
	h.Config.ErrorLog = log.New(io.Discard, "", 0)
	h.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	h.StartTLS()
	defer h.Close()
	trusted := x509.NewCertPool()
	trusted.AddCert(h.Certificate())
	over := newTransport(nil)
	proxy := tunnel(t)
	over.proxy = func(*http.Request) (*neturl.URL, error) { return neturl.Parse(proxy) }
	defer over.closeAll()
	var now tls.Config
	over.speak = func(string) *tls.Config { return &now }
	shows := func(serial int64) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		c := selfSigned(t, serial)
		return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c, nil }
	}
	seven, eight, nobody := shows(7), shows(8), x509.NewCertPool()
	for i, c := range []struct {
		trust *x509.CertPool
		show  func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
		want  string
	}{
		{nobody, nil, ""},
		{trusted, nil, "200 "},
		{nobody, nil, ""},
		{trusted, nil, "200 "},
		{trusted, seven, "200 7"},
		{trusted, eight, "200 8"},
		{trusted, nil, "200 "},
		{nobody, eight, ""},
	} {
		now = tls.Config{RootCAs: c.trust, GetClientCertificate: c.show}
		if got, err := get(t, over, h.URL, "question"); got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%d: %q, %v, want %q", i, got, err, c.want)
		}
		over.closeAll()
	}
}

// tunnel is a proxy that leads to wherever it is asked.
func tunnel(t *testing.T) string {
	var open sync.WaitGroup
	p := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		open.Add(1) // a server does not wait for those whose connection was taken over
		defer open.Done()
		to, err := net.Dial("tcp", r.RequestURI)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		from, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		carry := func(to, from net.Conn) {
			_, _ = io.Copy(to, from)
			_ = to.Close()
		}
		open.Go(func() { carry(to, from) })
		open.Go(func() { carry(from, to) })
	}))
	t.Cleanup(func() { p.Close(); open.Wait() })
	return p.URL
}

func selfSigned(t *testing.T, serial int64) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestProxy(t *testing.T) {
	url, connections := scripted(t, func(_, _ int, r *http.Request) (string, bool) {
		text := r.Method + " " + r.RequestURI
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text), true
	})
	over := newTestTransport(t)
	over.proxy = func(*http.Request) (*neturl.URL, error) { return neturl.Parse(url) }
	for range 2 {
		if got, err := get(t, over, "http://forge.example/team/r.git", ""); err != nil || got != "200 GET http://forge.example/team/r.git" {
			t.Errorf("%q %v", got, err)
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	over.proxy = func(*http.Request) (*neturl.URL, error) { return nil, errors.New("invalid proxy") }
	if _, err := get(t, over, "http://forge.example/team/r.git", ""); err == nil {
		t.Error("a proxy that cannot be understood is passed by")
	}
}

// A question's time is kept wherever it is spent, though its context has no timer of its own.
func TestTimeIsKept(t *testing.T) {
	never := make(chan struct{})
	t.Cleanup(func() { close(never) })
	wait := func(_, n int, _ *http.Request) (string, bool) {
		if n == 0 {
			return ok, true
		}
		<-never
		return "", false
	}
	half := func(_, n int, _ *http.Request) (string, bool) {
		if n == 0 {
			return ok, true
		}
		return "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok", true
	}
	silentTLS := func(t *testing.T) string { // who accepts, and never shakes hands
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
		return "https://" + listener.Addr().String()
	}
	through := func(answer func(_, n int, _ *http.Request) (string, bool), first bool) func(*testing.T, *transport) string {
		return func(t *testing.T, over *transport) string {
			url, _ := scripted(t, answer)
			if first { // the second question goes over the connection of the first
				if got, err := get(t, over, url, ""); got != "200 ok" || err != nil {
					t.Fatalf("%q %v", got, err)
				}
			}
			return url
		}
	}
	for name, prepare := range map[string]func(*testing.T, *transport) string{
		"no header":    through(wait, true),
		"half a body":  through(half, true),
		"no handshake": func(t *testing.T, _ *transport) string { return silentTLS(t) },
		"through a proxy, no header": func(t *testing.T, over *transport) string {
			url, _ := scripted(t, func(_, _ int, _ *http.Request) (string, bool) { <-never; return "", false })
			over.proxy = func(*http.Request) (*neturl.URL, error) { return neturl.Parse(url) }
			return "http://forge.example"
		},
		"through a proxy, half a body": func(t *testing.T, over *transport) string {
			url, _ := scripted(t, func(_, _ int, r *http.Request) (string, bool) { return half(0, 1, r) })
			over.proxy = func(*http.Request) (*neturl.URL, error) { return neturl.Parse(url) }
			return "http://forge.example"
		},
	} {
		t.Run(name, func(t *testing.T) {
			over := newTestTransport(t)
			url := prepare(t, over)
			begin := time.Now()
			r, _ := http.NewRequest(http.MethodGet, url, nil)
			resp, err := over.RoundTrip(r.WithContext(&limited{t.Context(), begin.Add(50 * time.Millisecond)}))
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				_ = resp.Body.Close()
			}
			took := time.Since(begin)
			if !errors.Is(err, context.DeadlineExceeded) || took < 50*time.Millisecond || took > 5*time.Second || over.kept != 0 {
				t.Errorf("after %s: %v, %d connections are kept", took, err, over.kept)
			}
		})
	}
}

// The time of one question is not that of the next over the same connection.
func TestTimeOfTheNextQuestion(t *testing.T) {
	url, connections := scripted(t, func(_, _ int, _ *http.Request) (string, bool) { return ok, true })
	over := newTestTransport(t)
	for range 3 {
		begin := time.Now()
		r, _ := http.NewRequest(http.MethodGet, url, nil)
		resp, err := over.RoundTrip(r.WithContext(&limited{t.Context(), begin.Add(500 * time.Millisecond)}))
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(resp.Body); string(text) != "ok" || err != nil {
			t.Fatalf("%q %v", text, err)
		}
		_ = resp.Body.Close()
		time.Sleep(time.Until(begin.Add(550 * time.Millisecond)))
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}
