package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The test binary plays other processes too: a daemon that can be killed, one that sweeps after it, and so on.
var roles = map[string]func() error{}

func TestMain(m *testing.M) {
	if role := os.Getenv("TEST_ROLE"); role != "" {
		if err := roles[role](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// play makes the command of this binary in a role.
func play(t *testing.T, role string, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TEST_ROLE=" + role}, env...)
	return cmd
}

// report is what the role "daemon" tells about the command it ran.
type report struct {
	Outcome  Outcome
	ExitCode int
	Signal   string
	Err      string
	Swept    int
	Log      string
	Mark     string
	Peak     int64 // most memory resident, bytes
	Limits   []string
}

func init() {
	// daemon prepares itself for $STATE, runs $SCRIPT in $STATE/workspace for at most $TIMEOUT, and reports.
	roles["daemon"] = func() error {
		state := os.Getenv("STATE")
		if os.Geteuid() == 0 || os.Getenv("QUEUE_LIMIT") != "" {
			if err := setQueueLimit(); err != nil {
				return err
			}
		}
		if os.Getenv("UNTRACEABLE") != "" {
			untraceable.Store(true)
		}
		mark, err := Prepare(state)
		if err != nil {
			return err
		}
		timeout, err := time.ParseDuration(os.Getenv("TIMEOUT"))
		if err != nil {
			return err
		}
		workspace := filepath.Join(state, "workspace")
		log := filepath.Join(state, "step.log")
		res := New(Options{Protect: []string{state}, Grace: time.Second}).Run(context.Background(), Spec{
			Script: os.Getenv("SCRIPT"), Dir: workspace, Writable: []string{workspace}, Log: log, Timeout: timeout,
			Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + workspace, "SENTRY_DEPLOYMENT_ID=7-x-1", "OUTSIDER=" + os.Getenv("OUTSIDER")},
		})
		text, err := os.ReadFile(log)
		if err != nil {
			return err
		}
		r := report{
			Outcome: res.Outcome, ExitCode: res.ExitCode, Signal: res.Signal, Swept: res.Swept, Log: string(text[:min(len(text), 10000)]),
			Mark: mark.String(), Peak: peak(), Limits: Limits(),
		}
		if res.Err != nil {
			r.Err = res.Err.Error()
		}
		if left := descendants(os.Getpid()); len(left) > 0 {
			r.Err += fmt.Sprintf(" left: %v", left)
		}
		return json.NewEncoder(os.Stdout).Encode(r)
	}
}

// daemon runs a script in a process of its own that is what a daemon is.
func daemon(t *testing.T, state, script string, env ...string) report {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(state, "workspace"), 0o700); err != nil {
		t.Fatal(err)
	}
	return reportOf(t, play(t, "daemon", append([]string{"STATE=" + state, "TIMEOUT=60s", "SCRIPT=" + script}, env...)...))
}

func reportOf(t *testing.T, cmd *exec.Cmd) report {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("the daemon: %v\n%s%s", err, out.String(), errs.String())
	}
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("the daemon's report: %v\n%s%s", err, out.String(), errs.String())
	}
	return r
}

// peak is the most memory that this process had resident, in bytes.
func peak() int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return -1
	}
	var kilobytes int64
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscan(after, &kilobytes); err != nil {
		return -1
	}
	return kilobytes << 10
}

// descendants lists the processes below one, zombies included.
func descendants(of int) []string {
	list, _, err := processes()
	if err != nil {
		return []string{err.Error()}
	}
	var found []string
	below := map[int]bool{of: true}
	for grown := true; grown; {
		grown = false
		for _, p := range list {
			if below[p.parent] && !below[p.pid] {
				below[p.pid], grown = true, true
				name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
				found = append(found, fmt.Sprintf("%d %c %q", p.pid, p.state, name))
			}
		}
	}
	return found
}

// bench is where commands of one test run.
type bench struct {
	t      *testing.T
	dir    string
	runner *Runner
}

const testGrace = 500 * time.Millisecond

// newBench gives a place for commands, and checks at the end of the test that nothing is left: no process, zombie,
// descriptor, goroutine or thread that is restricted.
func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), runner: New(Options{Grace: testGrace})}
	before := descriptors(t)
	t.Cleanup(func() {
		for _, p := range descendants(os.Getpid()) {
			t.Errorf("left behind: process %s", p)
		}
		goleak.VerifyNone(t)
		if after := descriptors(t); len(after) > len(before) {
			t.Errorf("descriptors left open: %v, were %v", after, before)
		}
		ours.mu.Lock()
		defer ours.mu.Unlock()
		if len(ours.live) > 0 {
			t.Errorf("%d commands count as living", len(ours.live))
		}
	})
	return b
}

func descriptors(t *testing.T) []string {
	t.Helper()
	runtime.GC() // closes files that were dropped, which would be a leak too, but not a steady one
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, entry := range entries {
		// The runtime opens its poller when it is first needed, and keeps it.
		if target, err := os.Readlink("/proc/self/fd/" + entry.Name()); err == nil && !strings.HasPrefix(target, "anon_inode:[event") {
			open = append(open, target)
		}
	}
	return open
}

// run runs a script, and gives what it printed with the result.
func (b *bench) run(script string) (Result, string) {
	b.t.Helper()
	return b.spec(context.Background(), Spec{Script: script})
}

var logNumber struct {
	sync.Mutex
	n int
}

func (b *bench) spec(ctx context.Context, s Spec) (Result, string) {
	b.t.Helper()
	logNumber.Lock()
	logNumber.n++
	s.Log = filepath.Join(b.dir, "logs", fmt.Sprintf("%d.log", logNumber.n))
	logNumber.Unlock()
	if s.Dir == "" {
		s.Dir = b.dir
	}
	if s.Env == nil {
		s.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.dir}
	}
	res := b.runner.Run(ctx, s)
	if res.Outcome == NotStarted {
		return res, ""
	}
	text, err := os.ReadFile(s.Log)
	if err != nil {
		b.t.Error(err)
	}
	return res, string(text)
}
