package command

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	// sweep ends what an earlier daemon of $STATE left, and prints how many processes that were.
	roles["sweep"] = func() error {
		if err := setQueueLimit(); err != nil {
			return err
		}
		mark, err := Prepare(os.Getenv("STATE"))
		if err != nil {
			return err
		}
		killed, err := Sweep(mark)
		fmt.Println(killed)
		return err
	}
	// prepare checks what Prepare does to the process itself.
	roles["prepare"] = func() error {
		dir := os.Getenv("STATE")
		mark, err := Prepare(dir)
		if err != nil {
			return err
		}
		again, err := Prepare(dir + "/../" + filepath.Base(dir) + "/.")
		if err != nil || again != mark || mark.limit == 0 {
			return fmt.Errorf("the mark is %v, then %v (%v)", mark, again, err)
		}
		if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable != 0 {
			return fmt.Errorf("dumpable is %d (%v)", dumpable, err)
		}
		out, err := exec.Command("env", "-i", "bash", "-c", "ulimit -Hq; ulimit -Hc; ulimit -Sc").Output()
		if want := fmt.Sprintf("%d\n0\n0\n", mark.limit); err != nil || string(out) != want {
			return fmt.Errorf("limits of a child are %q, want %q (%v)", out, want, err)
		}
		// A Sentry inside a command of this one keeps the outer mark: the outer one must be able to sweep it.
		inner, err := Prepare(dir + "-other")
		if err != nil || inner.limit != 0 {
			return fmt.Errorf("the mark of a Sentry inside is %v (%v)", inner, err)
		}
		if limit, err := queueLimit(os.Getpid()); err != nil || limit.Max != mark.limit {
			return fmt.Errorf("the limit is now %v (%v)", limit, err)
		}
		return nil
	}
}

// setQueueLimit makes the limit on message queues what a process starts with, or $QUEUE_LIMIT. Only root can raise it.
func setQueueLimit() error {
	limit := uint64(819_200)
	if text := os.Getenv("QUEUE_LIMIT"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return err
		}
		limit = n
	}
	return unix.Setrlimit(unix.RLIMIT_MSGQUEUE, &unix.Rlimit{Cur: limit, Max: limit})
}

func TestPrepare(t *testing.T) {
	if out, err := play(t, "prepare", "STATE="+t.TempDir()).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// A daemon that is killed takes the first process of its command with it; the next one ends the rest, and nothing else.
func TestSweepAfterKill(t *testing.T) {
	for name, limit := range map[string]string{"by limit": "", "by environment": "0"} {
		t.Run(name, func(t *testing.T) {
			if os.Geteuid() != 0 && limit == "" {
				if now, err := queueLimit(os.Getpid()); err != nil || now.Max != 819_200 {
					t.Skipf("the limit on message queues is %v", now)
				}
			}
			b := newBench(t)
			state := filepath.Join(b.dir, "state")
			if err := os.MkdirAll(filepath.Join(state, "workspace"), 0o700); err != nil {
				t.Fatal(err)
			}
			// Without the mark a process that clears its environment cannot be found: Limits says so.
			hidden := "env -i"
			if limit != "" {
				hidden = ""
			}
			script := `trap '' TERM
				setsid sh -c 'echo $$ >> pids; trap "" TERM; while :; do sleep 0.1; done' &
				(setsid ` + hidden + ` setsid sh -c 'echo $$ >> pids; sleep 100' &)
				echo $$ > leader
				while :; do sleep 0.1; done`
			env := []string{"STATE=" + state, "TIMEOUT=60s", "SCRIPT=" + script, "QUEUE_LIMIT=" + limit}
			daemon := play(t, "daemon", env...)
			if err := daemon.Start(); err != nil {
				t.Fatal(err)
			}
			workspace := filepath.Join(state, "workspace")
			leader := awaitPids(t, filepath.Join(workspace, "leader"), 1)[0]
			left := awaitPids(t, filepath.Join(workspace, "pids"), 2)
			bystander := outsider(t)
			if err := daemon.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = daemon.Wait()
			for range 200 {
				if gonePid(leader) {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			if !gonePid(leader) {
				t.Error("the first process of the command outlived the daemon")
			}
			for _, pid := range left {
				if gonePid(pid) {
					t.Errorf("process %d did not outlive the daemon: the test shows nothing", pid)
				}
			}
			out, err := play(t, "sweep", env...).Output()
			if killed, _ := strconv.Atoi(strings.TrimSpace(string(out))); err != nil || killed < 2 {
				t.Errorf("swept %q, %v", out, err)
			}
			for _, pid := range left {
				if !gonePid(pid) {
					t.Errorf("process %d outlived the sweep", pid)
				}
			}
			if gonePid(bystander.Process.Pid) {
				t.Error("a bystander was swept")
			}
			_ = bystander.Process.Kill()
			_ = bystander.Wait()
			// Nothing to do the second time.
			if out, err := play(t, "sweep", env...).Output(); err != nil || string(out) != "0\n" {
				t.Errorf("the second sweep: %q, %v", out, err)
			}
			for _, pid := range left { // they came to us
				reapOrphan(pid)
			}
			reapOrphan(leader)
			reapAll(t)
		})
	}
}

// reapAll takes away the zombies that came to the test process.
func reapAll(t *testing.T) {
	t.Helper()
	for range 100 {
		list, _, err := processes()
		if err != nil {
			t.Fatal(err)
		}
		left := 0
		for _, p := range list {
			if p.parent == os.Getpid() && !reapOrphan(p.pid) {
				left++
			}
		}
		if left == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func awaitPids(t *testing.T, path string, n int) []int {
	t.Helper()
	for range 1000 {
		if file, err := os.Open(path); err == nil {
			pids := readPids(file)
			_ = file.Close()
			if len(pids) >= n {
				return pids
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s does not come to have %d lines", path, n)
	return nil
}

func readPids(r io.Reader) []int {
	var pids []int
	for lines := bufio.NewScanner(r); lines.Scan(); {
		if pid, err := strconv.Atoi(lines.Text()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// gonePid reports whether a process has ended, reaped or not.
func gonePid(pid int) bool {
	p, err := readProcess(pid, make([]byte, 512))
	return err != nil || p.ended()
}

// Where a mark or tag cannot be set, and where a child cannot be traced, commands still end with all they started.
func TestWeakerSystems(t *testing.T) {
	for name, env := range map[string][]string{
		"no limit can be set":    {"QUEUE_LIMIT=0"},
		"no tracing":             {"UNTRACEABLE=1"},
		"neither":                {"QUEUE_LIMIT=0", "UNTRACEABLE=1"},
		"another Sentry outside": {"QUEUE_LIMIT=450000"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			r := daemon(t, filepath.Join(b.dir, "state"), `
				(setsid setsid sh -c 'cd /; exec sleep 100' &)
				setsid env -i sleep 101 &
				sleep 1.3
				(setsid sleep 102 &)
				(true &)
				sleep 0.2
				exit 5`, env...)
			if r.Outcome != Exited || r.ExitCode != 5 || r.Swept != 3 || r.Err != "" {
				t.Errorf("%+v", r)
			}
			if limit := strings.Join(r.Limits, "\n"); env[0] != "UNTRACEABLE=1" != strings.Contains(limit, "message queues") {
				t.Errorf("limits: %s", limit)
			}
		})
	}
}

func TestMarks(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	mark, err := markOf(dir)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := markOf(link); err != nil || same != mark {
		t.Errorf("the mark of %s is %v (%v), of a link to it %v", dir, mark, err, same)
	}
	seen := map[uint64]bool{}
	for i := range 1000 {
		m, err := markOf(filepath.Join(dir, strconv.Itoa(i)))
		if err != nil || m.limit < firstMark || m.limit >= firstMark+marks {
			t.Fatalf("mark %v, %v", m, err)
		}
		seen[m.limit] = true
	}
	if len(seen) < 990 {
		t.Errorf("1,000 directories share %d marks", len(seen))
	}
	for _, tc := range []struct {
		environ []string
		want    bool
	}{
		{nil, false},
		{[]string{"SENTRY_DEPLOYMENT_ID=1-a-1"}, false},
		{[]string{"HOME=" + dir + "/workspaces/x"}, false},
		{[]string{"SENTRY_DEPLOYMENT_ID=1-a-1", "HOME=" + dir + "-other/x"}, false},
		{[]string{"SENTRY_DEPLOYMENT_ID=1-a-1", "HOME=" + dir + "/workspaces/x"}, true},
	} {
		if got := mark.borneBy(tc.environ); got != tc.want {
			t.Errorf("borneBy(%q) is %v", tc.environ, got)
		}
	}
}

func TestParseStat(t *testing.T) {
	line := "42 (a) R (b) S) S 7 41 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 9 9 9\n"
	p, err := parseStat([]byte(line))
	if want := (process{identity{42, 123456}, 7, 41, 40, 'S'}); err != nil || p != want {
		t.Errorf("%+v, %v", p, err)
	}
	for end := range strings.Index(line, "123456") {
		if p, err := parseStat([]byte(line[:end])); err == nil {
			t.Errorf("%q is read as %+v", line[:end], p)
		}
	}
}

func TestParseQueueLimit(t *testing.T) {
	own, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		t.Fatal(err)
	}
	var want unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MSGQUEUE, &want); err != nil {
		t.Fatal(err)
	}
	if got, err := parseQueueLimit(own); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if got, err := parseQueueLimit([]byte("Max msgqueue size  unlimited  17 bytes")); err != nil || got.Cur != unix.RLIM_INFINITY || got.Max != 17 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, text := range []string{"", "Max msgqueue size", "Max msgqueue size 12"} {
		if got, err := parseQueueLimit([]byte(text)); err == nil {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}

// A signal never reaches a process that has got the id of another.
func TestSignalKnowsItsProcess(t *testing.T) {
	cmd := outsider(t)
	id, err := identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	former := id
	former.start--
	if err := former.signal(unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
		t.Errorf("a former process: %v", err)
	}
	if err := id.signal(0); err != nil {
		t.Errorf("the process: %v", err)
	}
	if err := id.signal(unix.SIGTERM); err != nil {
		t.Errorf("the process: %v", err)
	}
	_ = cmd.Wait()
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGTERM {
		t.Errorf("it ended by %v", status.Signal())
	}
	if err := id.signal(unix.SIGTERM); !errors.Is(err, unix.ESRCH) {
		t.Errorf("after its end: %v", err)
	}
}
