package cli

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sentry/internal/daemon"
	"sentry/internal/server"
)

func TestInProcess(t *testing.T) {
	goes := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /plain", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Early", "1")
		w.WriteHeader(http.StatusTeapot)
		w.Header().Set("X-Late", "1")
		_, _ = io.WriteString(w, "text")
	})
	mux.HandleFunc("GET /nothing", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /stream", func(w http.ResponseWriter, r *http.Request) {
		defer close(goes)
		_ = http.NewResponseController(w).Flush()
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, "tick\n"); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("GET /abort", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	c := &http.Client{Transport: inProcess{mux}}

	get := func(path string) (*http.Response, string, error) {
		t.Helper()
		response, err := c.Get("http://sentry" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		return response, string(text), err
	}
	if response, text, err := get("/plain"); err != nil || response.StatusCode != http.StatusTeapot || text != "text" ||
		response.Header.Get("X-Early") != "1" || response.Header.Get("X-Late") != "" {
		t.Errorf("plain: %v %q %v %v", response.StatusCode, text, response.Header, err)
	}
	if response, text, err := get("/nothing"); err != nil || response.StatusCode != http.StatusOK || text != "" {
		t.Errorf("nothing: %v %q %v", response.StatusCode, text, err)
	}
	if _, text, err := get("/abort"); !errors.Is(err, io.ErrUnexpectedEOF) || text != "half" {
		t.Errorf("half an answer is taken for a whole one: %q %v", text, err)
	}
	response, err := c.Post("http://sentry/echo", "text/plain", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text, err := io.ReadAll(response.Body); err != nil || string(text) != "body" {
		t.Errorf("echo: %q, %v", text, err)
	}

	stream, err := c.Get("http://sentry/stream")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stream.Body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	_ = stream.Body.Close()
	select {
	case <-goes:
	default:
		t.Error("the handler goes on although the body is closed")
	}
}

// TestDaemonGoesAway asks a daemon that breaks the connection, and one that never answers in JSON.
func TestDaemonGoesAway(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", daemon.SocketPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/status") {
			http.Error(w, "<html>", http.StatusBadGateway)
			return
		}
		panic(http.ErrAbortHandler)
	}))
	h.Listener = l
	h.Start()
	defer h.Close()
	c, err := dial(context.Background(), place{stateDir: dir})
	if err != nil || c == nil {
		t.Fatalf("dial: %v, %v", c, err)
	}
	defer c.Close()
	err = c.get(context.Background(), "rollouts", nil, nil)
	if p := explain(context.Background(), err); p.code != exitUnreachable || !strings.Contains(p.message, "went away") || p.hint == "" {
		t.Errorf("a connection that breaks: %d %s", p.code, p.message)
	}
	var status server.Status
	if err := c.get(context.Background(), "status", nil, &status); err == nil || !strings.Contains(err.Error(), "502") {
		t.Errorf("an answer that is no JSON: %v", err)
	}
}

func TestDialFindsNobody(t *testing.T) {
	dir := t.TempDir()
	if c, err := dial(context.Background(), place{stateDir: dir}); c != nil || err != nil {
		t.Errorf("an empty directory: %v, %v", c, err)
	}
	if c, err := dial(context.Background(), place{stateDir: filepath.Join(dir, "missing")}); c != nil || err != nil {
		t.Errorf("no directory: %v, %v", c, err)
	}
	// The socket of a daemon that was killed is still there, but nobody listens.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: daemon.SocketPath(dir)})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	if c, err := dial(context.Background(), place{stateDir: dir}); c != nil || err != nil {
		t.Errorf("a socket of the dead: %v, %v", c, err)
	}
	if os.Geteuid() != 0 { // nothing is forbidden to root
		if err := os.Chmod(dir, 0); err != nil {
			t.Fatal(err)
		}
		defer os.Chmod(dir, 0o700)
		_, err := dial(context.Background(), place{stateDir: dir})
		if p := explain(context.Background(), err); p.code != exitDenied {
			t.Errorf("a directory of somebody else: %v", err)
		}
	}
}

// TestWatcherWakesUp counts how long a change takes to be seen: the events tell it, not the clock.
func TestListenWakes(t *testing.T) {
	push := make(chan string)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for text := range push {
			_, _ = io.WriteString(w, text)
		}
	})
	c := &client{http: &http.Client{Transport: inProcess{h}}}
	wake := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.listenOnce(context.Background(), wake)
	}()
	push <- ": listening\n\n"
	push <- "event: rollout\ndata: " + strings.Repeat("x", 1<<20) + "\n\n"
	select {
	case <-wake:
	case <-time.After(10 * time.Second):
		t.Fatal("an event does not wake")
	}
	push <- ": alive\n\n"
	push <- "event: change\ndata: {}\n\n"
	push <- "event: change\ndata: {}\n\n" // the channel is full: nothing waits
	close(push)
	<-done
	if len(wake) != 1 {
		t.Errorf("%d tokens", len(wake))
	}
}
