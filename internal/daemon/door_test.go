package daemon_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sentry/internal/daemon"
	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// global writes the configuration with keys added under global.
func (w *world) global(keys string) {
	w.t.Helper()
	w.configure("true")
	w.edit("global: {", "global: {"+keys+", ")
}

// edit replaces something in the configuration.
func (w *world) edit(old, by string) {
	w.t.Helper()
	text, err := os.ReadFile(w.file)
	if err != nil {
		w.t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		w.t.Fatalf("the configuration has no %q:\n%s", old, text)
	}
	if err := os.WriteFile(w.file, []byte(strings.Replace(string(text), old, by, 1)), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// ask sends one request over a connection of its own and gives the status and the answer.
func ask(t *testing.T, method, url, host string, header map[string]string, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	for name, value := range header {
		r.Header.Set(name, value)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	answer, err := client.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func get(t *testing.T, address, path string) (int, string) {
	t.Helper()
	return ask(t, "GET", "http://"+address+path, "", nil, "")
}

func TestTheDoorAnswersWhatTellsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "true")
	w.global(`listen: "127.0.0.1:0", public_url: "https://sentry.example.org"`)
	d, stop := w.start()
	defer stop()
	address := d.Addr()
	if !strings.HasPrefix(address, "127.0.0.1:") || strings.HasSuffix(address, ":0") {
		t.Fatalf("the address is %q", address)
	}
	if !strings.Contains(w.log.String(), address) || d.Info().Listen != address {
		t.Errorf("the log and the status must tell that it is %s: %+v", address, d.Info())
	}
	for _, c := range []struct {
		method, path, host string
		status             int
		text               string
	}{
		{"GET", "/healthz", "", 200, "ok"},
		{"GET", "/healthz", "evil.example", 200, "ok"},
		{"GET", "/rollouts/1-qe6ur", "sentry.example.org", 200, "sentry show 1-qe6ur"},
		{"GET", "/metrics", "", 200, "sentry_info{version=\"test\"} 1"},
		{"GET", "/metrics", "sentry.example.org", 200, "go_goroutines"},
		{"GET", "/metrics", "localhost", 200, "process_open_fds"},
		{"GET", "/metrics", "evil.example", 421, "wrong_host"},
		{"GET", "/api/v1/status", "", 401, "cannot prove who they are"},
		{"GET", "/api/v1/status", "evil.example", 421, "wrong_host"},
		{"POST", "/api/v1/rollouts", "", 401, "cannot prove who they are"},
		{"POST", "/api/v1/reload", "", 401, "cannot prove who they are"},
		{"GET", "/api/v1/events", "", 401, "cannot prove who they are"},
		{"POST", "/hooks/github", "", 404, "no_such_route"},
		{"GET", "/debug/pprof/", "", 404, "no_such_route"},
		{"GET", "/", "", 404, "no_such_route"},
	} {
		if status, text := ask(t, c.method, "http://"+address+c.path, c.host, nil, ""); status != c.status || !strings.Contains(text, c.text) {
			t.Errorf("%s %s at %q: %d %s", c.method, c.path, c.host, status, text)
		}
	}
	w.wait("a question over Git is counted", func() bool {
		_, text := get(t, address, "/metrics")
		return strings.Contains(text, fmt.Sprintf("sentry_forge_requests_total{host=%q,outcome=\"2xx\",protocol=\"git\"}", strings.TrimPrefix(w.server.URL, "http://")))
	})
	stop()
	if status, _ := get(t, address, "/healthz"); status != 0 {
		t.Errorf("after the end it answers %d", status)
	}
}

// Beyond this machine not even metrics are told.
func TestTheDoorToEverybody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "true")
	w.global(`listen: "0.0.0.0:0"`)
	d, stop := w.start()
	defer stop()
	_, port, err := net.SplitHostPort(d.Addr())
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/healthz": 200, "/metrics": 401, "/api/v1/status": 401} {
		if status, text := get(t, "127.0.0.1:"+port, path); status != want {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	// Unless somebody opens them; no more is open then, and a reload is enough.
	for who, want := range map[string]int{"open": 200, "local": 401} {
		w.global(`listen: "0.0.0.0:0", metrics: ` + who)
		if err := d.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if status, _ := get(t, "127.0.0.1:"+port, "/metrics"); status != want {
			t.Errorf("metrics: %s: %d", who, status)
		}
		if status, _ := get(t, "127.0.0.1:"+port, "/api/v1/status"); status != 401 {
			t.Errorf("metrics: %s: the API answers %d", who, status)
		}
		if status, _ := ask(t, "GET", "http://127.0.0.1:"+port+"/metrics", "evil.example", nil, ""); status != 421 {
			t.Errorf("metrics: %s: under a strange name %d", who, status)
		}
	}
}

func TestAWebhookHastens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "true")
	secret := filepath.Join(w.dir, "hook-secret")
	const text = "a-secret-of-webhooks-0123456789"
	if err := os.WriteFile(secret, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.global(fmt.Sprintf(`listen: "127.0.0.1:0", webhook_secret_file: %q`, secret))
	w.edit("polling_interval: 1\n", "polling_interval: 24h\n")
	w.edit(`- "true"`, fmt.Sprintf("- cat %q > \"$WITNESS/stolen\" 2>/dev/null || true", secret))
	d, stop := w.start()
	w.baselines()
	to := w.a.Commit(t, "main", nil, "told of")
	begun := time.Now()
	body := fmt.Sprintf(`{"repository": "%s/a", "ref": "refs/heads/main"}`, w.server.URL)
	header := map[string]string{"Content-Type": "application/json", "Authorization": "Bearer " + text}
	for range 20 {
		if status, answer := ask(t, "POST", "http://"+d.Addr()+"/hooks/generic", "", header, body); status != 202 || answer != "" {
			t.Fatalf("%d %s", status, answer)
		}
	}
	r := w.rollout("1", sentry.Succeeded, sentry.Failed)
	if r.Status != sentry.Succeeded || r.Deployments[0].Commit != to {
		t.Errorf("%s: %+v", r.Status, r)
	}
	t.Logf("from the webhook to the end of the rollout: %v", time.Since(begun))
	_, metrics := get(t, d.Addr(), "/metrics")
	if !strings.Contains(metrics, `sentry_webhooks_hinted_total{forge="generic"} 1`) {
		t.Errorf("metrics: %s", metrics)
	}
	for _, private := range []string{text, canary, w.dir, to} {
		if strings.Contains(metrics, private) {
			t.Errorf("metrics tell %s:\n%s", private, metrics)
		}
	}
	// A stranger's word does nothing.
	header["Authorization"] = "Bearer " + text[1:]
	if status, _ := ask(t, "POST", "http://"+d.Addr()+"/hooks/generic", "", header, body); status != 401 {
		t.Errorf("without the secret: %d", status)
	}
	stop()
	if got := w.seen("stolen"); got != "" {
		t.Errorf("a command read the secret of webhooks: %q", got)
	}
	if strings.Contains(w.log.String(), text) {
		t.Error("the log has the secret of webhooks")
	}
	w.clean()
}

// busy listens on some port until the test ends.
func busy(t *testing.T) (address string, free func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	free = func() { once.Do(func() { _ = l.Close() }) }
	t.Cleanup(free)
	return l.Addr().String(), free
}

func TestAPortInUseIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "true")
	taken, _ := busy(t)
	w.global(fmt.Sprintf("listen: %q", taken))
	cfg, _, err := w.load()
	if err != nil {
		t.Fatal(err)
	}
	_, err = daemon.New(t.Context(), daemon.Options{Config: cfg, Log: logger.New(w.log, slog.LevelDebug, logger.FormatJSON, nil), Mask: logger.NewMasker()})
	if want := "global.listen: cannot listen on " + taken + ": another process does already"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	// What had been built was taken down again: another can start.
	w.global(`listen: "127.0.0.1:0"`)
	_, stop := w.start()
	stop()
}

func TestTheDoorFollowsAReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "true")
	w.global(`listen: "127.0.0.1:0"`)
	d, stop := w.start()
	defer stop()
	first := d.Addr()
	reload := func(keys string) error {
		t.Helper()
		w.global(keys)
		return d.Reload(t.Context())
	}
	alive := func(address string) bool {
		status, _ := get(t, address, "/healthz")
		return status == 200
	}
	// Nothing changes, nothing moves.
	if err := reload(`listen: "127.0.0.1:0", log_level: debug`); err != nil || d.Addr() != first || !alive(first) {
		t.Fatalf("%v, %s was %s", err, d.Addr(), first)
	}
	// One that cannot be had: the old one stays, and so does the configuration.
	taken, free := busy(t)
	if err := reload(fmt.Sprintf("listen: %q", taken)); err == nil || !strings.Contains(err.Error(), "global.listen: cannot listen on "+taken) {
		t.Errorf("a port in use: %v", err)
	}
	if d.Addr() != first || !alive(first) || d.Info().Reload.OK || !strings.Contains(d.Info().Reload.Message, "global.listen") {
		t.Errorf("after it: %s was %s, %+v", d.Addr(), first, d.Info().Reload)
	}
	// One that can: while somebody is being answered at the old one.
	free()
	conn, err := net.Dial("tcp", first)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// A git that was just being started may have it a little longer.
	w.wait("the new address", func() bool { return reload(fmt.Sprintf("listen: %q", taken)) == nil })
	if d.Addr() != taken || !alive(taken) {
		t.Fatalf("it listens on %s, not on %s", d.Addr(), taken)
	}
	w.wait("the old address to be left", func() bool { return !alive(first) })
	// The same port on all addresses, and back: they exclude each other.
	_, port, _ := net.SplitHostPort(taken)
	if err := reload(fmt.Sprintf("listen: %q", "0.0.0.0:"+port)); err != nil || !alive("127.0.0.1:"+port) {
		t.Fatalf("on all addresses: %v", err)
	}
	if status, _ := get(t, "127.0.0.1:"+port, "/metrics"); status != 401 {
		t.Errorf("metrics for everybody: %d", status)
	}
	if err := reload(fmt.Sprintf("listen: %q", taken)); err != nil || !alive(taken) {
		t.Fatalf("back: %v", err)
	}
	// To the same port where it cannot be had: 192.0.2.1 is nobody's here.
	if err := reload(fmt.Sprintf("listen: %q", "192.0.2.1:"+port)); err == nil || d.Addr() != taken || !alive(taken) {
		t.Errorf("an address that is not ours: %v, %s", err, d.Addr())
	}
	// To nothing, and from nothing.
	if err := reload("cleanup: true"); err != nil || d.Addr() != "" {
		t.Errorf("to nothing: %v, %q", err, d.Addr())
	}
	w.wait("the address to be left", func() bool { return !alive(taken) })
	if err := reload(`listen: "127.0.0.1:0"`); err != nil || !alive(d.Addr()) {
		t.Errorf("from nothing: %v, %q", err, d.Addr())
	}
	if strings.Contains(w.log.String(), "nobody is answered") {
		t.Error("the log tells of an accident")
	}
}

// Two addresses with one port exclude each other. The old one is back where the new one cannot be had.
func TestTheOldDoorIsBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "true")
	w.global(`listen: "127.0.0.1:0"`)
	d, stop := w.start()
	defer stop()
	first := d.Addr()
	_, port, _ := net.SplitHostPort(first)
	other, err := net.Listen("tcp", "127.0.0.2:"+port)
	if err != nil {
		t.Skipf("127.0.0.2 is not ours: %v", err)
	}
	defer other.Close()
	w.global(fmt.Sprintf("listen: %q", "0.0.0.0:"+port))
	if err := d.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "another process does already") {
		t.Errorf("%v", err)
	}
	if status, _ := get(t, first, "/healthz"); status != 200 || d.Addr() != first {
		t.Errorf("at the old address: %d, %s was %s", status, d.Addr(), first)
	}
	w.global(`listen: "127.0.0.1:0"`)
	if err := d.Reload(t.Context()); err != nil || d.Addr() != first {
		t.Errorf("as it was: %v, %s", err, d.Addr())
	}
}

// An edit between the reading of the configuration and the start is found.
func TestAnEditDuringTheStartIsFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "true")
	cfg, _, err := w.load()
	if err != nil {
		t.Fatal(err)
	}
	w.global("log_format: text")
	mask, format, said := logger.NewMasker(), new(logger.Format), &syncBuffer{}
	format.Set(logger.FormatJSON)
	d, err := daemon.New(t.Context(), daemon.Options{
		Config: cfg, Load: w.load, Version: "test", Mask: mask, Format: format, Log: logger.NewFollowing(said, slog.LevelInfo, format, mask),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	w.wait("the reload", func() bool { return d.Info().Reload != nil })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	lines := strings.Split(strings.TrimSpace(said.String()), "\n")
	if !strings.HasPrefix(lines[0], "{") || strings.HasPrefix(lines[len(lines)-1], "{") {
		t.Errorf("the format of the log did not follow:\n%s", said)
	}
}
