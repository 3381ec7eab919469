package deploy

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sentry/bench/internal/child"
)

// sentryd is the real binary, and what it logs.
type sentryd struct {
	t     *testing.T
	state string
	pid   int

	mu    sync.Mutex
	lines []line
	text  strings.Builder // the same, for the message of a test that failed
}

// line is what is needed of a line of the log.
type line struct {
	Time       time.Time
	Msg        string
	Group      string // which is named after the only repository in it
	Repository string
	Step       string
	Status     string
}

func (l line) about(name string) bool { return l.Group == name || l.Repository == name }

// startSentry starts the binary; it ends with the test.
func startSentry(t *testing.T, config, state string) *sentryd {
	t.Helper()
	d := &sentryd{t: t, state: state}
	file := filepath.Join(t.TempDir(), "sentry.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(child.Build(t), "--config", file, "watch")
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.pid = cmd.Process.Pid
	read := make(chan struct{})
	go func() { defer close(read); d.read(log) }()
	t.Cleanup(func() {
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

// forget makes place for the log of the next rollout.
func (d *sentryd) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = nil
}

// wait waits until something was logged about a repository, and gives that line.
func (d *sentryd) wait(repository, message, step string) line {
	d.t.Helper()
	for limit := time.Now().Add(time.Minute); time.Now().Before(limit); time.Sleep(5 * time.Millisecond) {
		d.mu.Lock()
		for _, l := range d.lines {
			if l.about(repository) && l.Msg == message && l.Step == step {
				d.mu.Unlock()
				return l
			}
		}
		d.mu.Unlock()
	}
	d.t.Fatalf("%q was not logged about %s within a minute", message, repository)
	return line{}
}

// rest returns when so many trees are ready for what comes next, and nothing is being done any more.
func (d *sentryd) rest(trees int) {
	d.t.Helper()
	const calm = 300 * time.Millisecond
	before := d.ticks()
	for limit := time.Now().Add(2 * time.Minute); ; {
		time.Sleep(calm)
		now := d.ticks()
		if now-before <= 1 && d.ready() >= trees {
			return
		}
		before = now
		if time.Now().After(limit) {
			d.t.Fatalf("after two minutes %d trees are ready; want %d", d.ready(), trees)
		}
	}
}

// ready counts the trees that git has made ahead, to the end.
func (d *sentryd) ready() int {
	trees, _ := filepath.Glob(filepath.Join(d.state, "workspaces", "spares", "*"))
	whole, _ := filepath.Glob(filepath.Join(d.state, "workspaces", "spares", "*", "src", ".git", "index"))
	if len(whole) != len(trees) {
		return 0
	}
	return len(whole)
}

// ticks is the processor time that Sentry and all that it started have used so far, in hundredths of a second.
func (d *sentryd) ticks() (sum int64) {
	d.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.pid))
	if err != nil {
		d.t.Fatal(err)
	}
	after := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:])) // from the third field on
	for _, field := range after[11:15] {                                               // utime, stime, cutime, cstime
		var n int64
		if _, err := fmt.Sscan(field, &n); err != nil {
			d.t.Fatal(err)
		}
		sum += n
	}
	return sum
}
