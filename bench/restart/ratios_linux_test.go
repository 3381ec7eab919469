package restart

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"sentry/bench/internal/child"
	"sentry/bench/internal/fleet"
	"sentry/bench/internal/measure"
	"sentry/internal/config"
	"sentry/internal/daemon"
	"sentry/internal/git/gittest"
	"sentry/internal/server"
	"sentry/internal/store"
)

const (
	watches = 100_000
	rounds  = 5

	goal     = time.Second     // from the start of the process to its first question, and to answering
	boundCPU = 4 * time.Second // of processor time until then
)

func TestMain(m *testing.M) {
	child.Main(m, map[string]child.Role{"server": fleet.Role})
}

// TestRatios starts the real binary with next to nothing to watch, with 100,000 watches and 10,000 past rollouts after an
// orderly end, and the same after kill -9, in turn.
func TestRatios(t *testing.T) {
	machine := measure.Alone(t)
	t.Setenv(fleet.TokenName, fleet.TokenValue)
	binary := child.Build(t)
	repositories := t.TempDir()
	gittest.NewRepo(t, filepath.Join(repositories, "qa.git"), "").Commit(t, "main", map[string]string{"Makefile": "deploy:\n"}, "scripts")
	git := fleet.Start(t, repositories)

	small := newDaemon(t, binary, git, "small", fleet.Branches)
	full := newDaemon(t, binary, git, "full", watches)
	live(t, full.fleet)
	small.start().end(syscall.SIGTERM) // it makes its state
	full.start().end(syscall.SIGTERM)  // it fetches the QA repository

	ways := []*way{{name: "10 watches", daemon: small, after: syscall.SIGTERM}, {name: "100,000, stopped before", daemon: full, after: syscall.SIGTERM}, {name: "100,000, killed before", daemon: full, after: syscall.SIGKILL}}
	for range rounds {
		for _, way := range ways {
			way.daemon.start().end(way.after) // what comes before
			life := way.daemon.start()
			way.lives = append(way.lives, life)
			life.end(syscall.SIGTERM)
		}
	}

	table := measure.Table{
		Title: fmt.Sprintf("Restart with %s watches and %s past rollouts, from exec, the files in the page cache: medians of %d rounds in turn\n  (%s)",
			measure.Count(watches), measure.Count(rollouts), rounds, machine),
		Columns: []string{"", "answers", "asks", "from", "to", "CPU until then", "over the small", "whole status"},
	}
	for _, way := range ways {
		low, high := measure.Quartiles(way.all(asks))
		table.Row(way.name, way.median(answers), way.median(asks), low, high, way.median(used),
			measure.Ratio(way.median(asks), ways[0].median(asks)), way.median(whole))
	}
	for _, p := range parts(t, full) {
		table.Note("%s: %s", p.name, measure.Time(p.took))
	}
	worst := max(ways[1].median(asks), ways[2].median(asks), ways[1].median(answers), ways[2].median(answers))
	table.Note("watching again after %s; goal less than %s: %s", measure.Time(worst), measure.Time(goal), measure.Verdict(worst < goal))
	table.Print()

	if cpu := ways[2].median(used); cpu > boundCPU {
		t.Errorf("a restart takes %v of processor time", cpu)
	}
}

// way is one way to be started again.
type way struct {
	name   string
	daemon *daemonUnderTest
	after  syscall.Signal
	lives  []*life
}

func (w *way) all(what func(*life) time.Duration) (all []time.Duration) {
	for _, l := range w.lives {
		all = append(all, what(l))
	}
	return all
}

func (w *way) median(what func(*life) time.Duration) time.Duration {
	return measure.Median(w.all(what))
}

func answers(l *life) time.Duration { return l.answers }
func asks(l *life) time.Duration    { return l.asks }
func whole(l *life) time.Duration   { return l.whole }
func used(l *life) time.Duration    { return l.cpu }

// daemonUnderTest is a fleet and the binary that watches it.
type daemonUnderTest struct {
	t      *testing.T
	binary string
	fleet  fleet.Fleet
	file   string
	git    *fleet.Remote
	client *http.Client
}

func newDaemon(t *testing.T, binary string, git *fleet.Remote, name string, watches int) *daemonUnderTest {
	t.Helper()
	dir := t.TempDir()
	d := &daemonUnderTest{
		t: t, binary: binary, git: git, file: filepath.Join(dir, "sentry.yaml"),
		fleet: fleet.Fleet{Name: name, Watches: watches, Interval: time.Minute, Server: git.URL, StateDir: filepath.Join(dir, "state")},
	}
	d.client = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, // it is another process each time
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", daemon.SocketPath(d.fleet.StateDir))
		},
	}}
	if err := d.fleet.Write(d.file); err != nil {
		t.Fatal(err)
	}
	return d
}

// life is one run of the binary.
type life struct {
	d       *daemonUnderTest
	cmd     *exec.Cmd
	answers time.Duration // from the start until the API answers
	asks    time.Duration // until the first question reaches the server
	whole   time.Duration // from asking for the status of everything to its last byte
	cpu     time.Duration // used until it asks and answers
}

// start starts the binary, and returns when it watches.
func (d *daemonUnderTest) start() *life {
	d.t.Helper()
	d.git.Forget(d.fleet.Name)
	log, err := os.Create(d.file + ".log")
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	l := &life{d: d, cmd: exec.Command(d.binary, "--config", d.file, "watch")}
	l.cmd.Stderr = log
	start := time.Now()
	if err := l.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = l.cmd.Process.Kill() })
	var tally fleet.Tally
	for l.answers == 0 || l.asks == 0 {
		if l.answers == 0 && d.get("/healthz") == nil {
			l.answers = time.Since(start)
		}
		if tally = d.git.Tally(d.fleet.Name); tally.Questions > 0 {
			l.asks = tally.First.Sub(start)
		}
		if time.Since(start) > time.Minute {
			text, _ := os.ReadFile(d.file + ".log")
			d.t.Fatalf("it does not watch after a minute; its log:\n%s", text[max(0, len(text)-4000):])
		}
		time.Sleep(time.Millisecond)
	}
	if l.cpu, err = measure.CPUOf(l.cmd.Process.Pid); err != nil {
		d.t.Fatal(err)
	}
	asked := time.Now()
	if err := d.get(server.Prefix + "/status"); err != nil {
		d.t.Fatal(err)
	}
	l.whole = time.Since(asked)
	return l
}

func (d *daemonUnderTest) get(path string) error {
	answer, err := d.client.Get("http://sentry" + path)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}

// end ends the process, in order or not, and waits for that.
func (l *life) end(sig syscall.Signal) {
	l.d.t.Helper()
	if err := l.cmd.Process.Signal(sig); err != nil {
		l.d.t.Fatal(err)
	}
	if err := l.cmd.Wait(); err != nil && sig != syscall.SIGKILL {
		l.d.t.Fatalf("it ended with %v", err)
	}
}

// part is a part of a start.
type part struct {
	name string
	took time.Duration
}

// parts measures the parts of a start that grow with what is watched, in this process.
func parts(t *testing.T, d *daemonUnderTest) []part {
	t.Helper()
	var load, open, read []time.Duration
	for range rounds {
		start := time.Now()
		if _, _, err := config.Load(d.file, config.Options{}); err != nil {
			t.Fatal(err)
		}
		load = append(load, time.Since(start))

		start = time.Now()
		s, err := store.Open(t.Context(), store.Options{Dir: d.fleet.StateDir})
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, time.Since(start))
		start = time.Now()
		heads, err := s.Heads(t.Context())
		if err != nil || len(heads) != watches {
			t.Fatalf("%d heads, %v", len(heads), err)
		}
		read = append(read, time.Since(start))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return []part{
		{"of these, in a process of its own: reading the configuration", measure.Median(load)},
		{"opening the state", measure.Median(open)},
		{"reading the heads", measure.Median(read)},
	}
}
