package forges

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sentry/bench/internal/child"
	"sentry/internal/daemon"
)

// sentryd is the real binary, and what it logs.
type sentryd struct {
	t      *testing.T
	client *http.Client

	mu    sync.Mutex // owns what follows
	lines []line
	text  strings.Builder // all of them, for the message of a test that failed
}

// line is what is needed of a line of the log.
type line struct {
	Time   time.Time
	Msg    string
	Status string
}

const hookSecret = "the-secret-of-the-hints"

// startSentry starts the binary with a configuration in which STATE and SECRET stand for its files; it ends with the test.
func startSentry(t *testing.T, config string) *sentryd {
	t.Helper()
	folder := t.TempDir()
	state, file, secret := filepath.Join(folder, "state"), filepath.Join(folder, "sentry.yaml"), filepath.Join(folder, "secret")
	config = strings.NewReplacer("STATE", state, "SECRET", secret).Replace(config)
	for name, text := range map[string]string{file: config, secret: hookSecret} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := &sentryd{t: t, client: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", daemon.SocketPath(state))
		},
	}}}
	cmd := exec.Command(child.Build(t), "--config", file, "watch")
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() { defer close(read); d.read(log) }()
	t.Cleanup(func() {
		d.client.CloseIdleConnections()
		_ = cmd.Process.Signal(syscall.SIGTERM) // it has ended where that fails
		<-read
		if err := cmd.Wait(); err != nil {
			t.Errorf("sentry ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the log:\n%s", d.text.String())
		}
	})
	return d
}

func (d *sentryd) read(log io.Reader) {
	for lines := bufio.NewScanner(log); lines.Scan(); {
		var l line
		_ = json.Unmarshal(lines.Bytes(), &l) // another line is kept for people only
		d.mu.Lock()
		d.lines = append(d.lines, l)
		fmt.Fprintln(&d.text, lines.Text())
		d.mu.Unlock()
	}
}

// forget makes place for the log of what comes next.
func (d *sentryd) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = nil
}

// wait waits until something was logged, and gives that line.
func (d *sentryd) wait(message string) line {
	d.t.Helper()
	for limit := time.Now().Add(time.Minute); time.Now().Before(limit); time.Sleep(5 * time.Millisecond) {
		d.mu.Lock()
		for _, l := range d.lines {
			if l.Msg == message {
				d.mu.Unlock()
				return l
			}
		}
		d.mu.Unlock()
	}
	d.t.Fatalf("%q was not logged within a minute", message)
	return line{}
}

// hint tells the daemon that something may have moved, as a webhook does.
func (d *sentryd) hint(body string) {
	d.t.Helper()
	r, err := http.NewRequest(http.MethodPost, "http://sentry/hooks/generic", strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+hookSecret)
	answer, err := d.client.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusAccepted {
		d.t.Fatalf("the hint is answered with %s", answer.Status)
	}
}
