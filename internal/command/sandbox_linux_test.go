package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// house is a state directory with what belongs to it, and what lies around it.
type house struct {
	dir     string // on top of all
	state   string
	mine    string // the workspace of the deployment
	protect []string
}

// canary is in every file that a command must not see.
const canary = "canary-in-the-mine"

func newHouse(t *testing.T, dir string) house {
	t.Helper()
	h := house{dir: dir, state: filepath.Join(dir, "lib", "state")}
	h.mine = filepath.Join(h.state, "workspaces", "mine")
	for name, text := range map[string]string{
		"lib/state/state.db":               canary,
		"lib/state/logs/1-a/log":           canary,
		"lib/state/mirrors/m/objects/pack": "an object",
		"lib/state/workspaces/mine/file":   "my file",
		"lib/state/workspaces/other/file":  canary,
		"lib/neighbour/file":               "a neighbour",
		"etc/sentry.yaml":                  canary,
		"etc/.env":                         canary,
		"etc/hosts":                        "hosts",
		"secrets/..2026_1/token":           canary,
		"secrets/..2026_1/harmless":        "harmless",
		"outside/file":                     "outside",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"secrets/..data":   "..2026_1", // as Kubernetes mounts secrets
		"secrets/token":    "..data/token",
		"secrets/harmless": "..data/harmless",
		"outside/way":      "../lib/state",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	h.protect = []string{h.state, dir + "/etc/sentry.yaml", dir + "/etc/.env", dir + "/secrets/token", dir + "/not/there/yet"}
	return h
}

// spec runs a script in the workspace, with $D for the house.
func (h house) spec(script string, env ...string) Spec {
	return Spec{
		Script: script, Dir: h.mine, Writable: []string{h.mine}, Readable: []string{filepath.Join(h.state, "mirrors", "m", "objects")},
		Env: append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + h.mine, "TMPDIR=" + h.mine, "D=" + h.dir}, env...),
	}
}

func needLandlock(t *testing.T) {
	t.Helper()
	if landlockABI() < abiScope {
		t.Skipf("Landlock here is version %d", landlockABI())
	}
}

// Each of these must fail, and show nothing.
var forbidden = []string{
	"cat $D/lib/state/state.db",
	"cat ../../state.db",
	"cat ../other/file",
	"cat $D/outside/way/state.db",
	"cat $D/etc/sentry.yaml",
	"cat $D/etc/.env",
	"cat $D/secrets/token",
	"cat $D/secrets/..2026_1/token",
	"cat $D/lib/state/logs/1-a/log",
	"ln -s $D/lib/state/state.db link; cat link",
	"ln $D/lib/state/state.db hard; cat hard",
	"mv $D/lib/state/state.db moved; cat moved",
	"cp --reflink=auto ../../state.db copy; cat copy",
	": > $D/lib/state/state.db",
	"echo x >> $D/etc/.env",
	"truncate -s 0 $D/lib/state/state.db",
	"rm -f $D/lib/state/state.db && ! test -e $D/lib/state/state.db",
	"rm -rf $D/lib/state/logs $D/lib/state/state.db",
	"mv $D/lib/state $D/outside/taken",
	"mv $D/lib $D/outside/taken",
	"touch $D/lib/state/new",
	"touch $D/lib/new",
	"mkdir $D/lib/state/workspaces/next",
	"ln -sfn /etc $D/lib/state/workspaces/other",
	"echo x > $D/lib/state/mirrors/m/objects/pack",
	"rm $D/lib/state/mirrors/m/objects/pack",
	"cat /proc/$PPID/environ | grep -a .",
	"head -c 1 /proc/$PPID/mem",
	"cat /proc/$PPID/maps | grep -a .",
	"cat /proc/$PPID/fd/*",
	"readlink /proc/$PPID/fd/0",
	"cat /proc/$PPID/root/etc/hostname",
	"readlink /proc/$PPID/exe",
	"kill -0 $PPID",
	"kill -TERM $PPID",
	"kill -STOP $PPID",
	"kill -9 $PPID",
	"kill -0 $OUTSIDER",
	"TEST_ROLE=trace $SELF $PPID",
	"TEST_ROLE=abstract $SELF $SOCKET",
	"mount -t tmpfs none .",
	"mount --bind $D/lib/state .",
}

// Each of these must work.
var allowed = []string{
	"test \"$(cat file)\" = 'my file'; echo more >> file; rm file; echo 'my file' > file",
	"mkdir -p a/b; mv a/b c; rmdir a c; mkfifo p; rm p; ln -s file l; cat l; rm l; ln file h; rm h",
	"cat $D/outside/file $D/etc/hosts $D/lib/neighbour/file $D/secrets/harmless $D/secrets/..2026_1/harmless",
	"echo x > $D/outside/new; echo y > $D/lib/neighbour/new; mv $D/outside/new ./new; mv new $D/lib/neighbour/new; rm $D/lib/neighbour/new",
	"cat $D/lib/state/mirrors/m/objects/pack",
	"ls / $D $D/lib /proc /etc /dev > list; grep -q usr list; rm list",
	"mktemp; mktemp -d; rm -rf tmp.*",
	"echo x > /dev/null; head -c 10 /dev/zero > zeros; rm zeros; head -c 1 /dev/urandom > r; rm r; : < /dev/null; echo x > /dev/stdout; echo y > /dev/stderr",
	"echo x > /dev/shm/sentry-test-$$; cat /dev/shm/sentry-test-$$; rm /dev/shm/sentry-test-$$",
	"cat /etc/passwd /proc/self/status /proc/$$/environ > n; rm n",
	"printf '#!/bin/sh\\necho ran\\n' > s; chmod +x s; ./s; rm s",
	"sleep 100 & kill -9 $!; (sleep 100 & kill -9 $!); wait || true",
	"cd /; ls; cd $D; pwd; cd /etc; cat hosts > /dev/null",
	"stty -a < /dev/null || true; test ! -t 0; date; id; uname; ps > /dev/null || true",
	"exec 3<> /dev/tcp/127.0.0.1/$PORT; cat <&3",
	"TEST_ROLE=socket $SELF $D/outside/socket",
	"git init -q repo; cd repo; git config user.email a@b; git config user.name n; echo x > f; git add f; git commit -qm m; git log -1 --format=%s; git clone -q . ../clone; cd ..; rm -rf repo clone",
	"cat <(echo process substitution); cat <<< 'here'; time true",
}

func init() {
	roles["trace"] = func() error {
		var pid int
		if _, err := fmt.Sscan(os.Args[1], &pid); err != nil {
			return err
		}
		runtime.LockOSThread()
		if err := unix.PtraceSeize(pid); err != nil {
			return err
		}
		return unix.PtraceDetach(pid)
	}
	dial := func() error {
		conn, err := net.Dial("unix", os.Args[1])
		if err != nil {
			return err
		}
		return conn.Close()
	}
	roles["abstract"], roles["socket"] = dial, dial
}

// outsider starts a process that no command owns.
func outsider(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestSandbox(t *testing.T) {
	needLandlock(t)
	b := newBench(t)
	h := newHouse(t, b.dir)
	b.runner = New(Options{Protect: h.protect, Grace: testGrace})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	other := outsider(t)
	abstract := fmt.Sprintf("@sentry-test-%d", os.Getpid())
	var listeners []net.Listener
	for _, address := range [][2]string{{"tcp", "127.0.0.1:0"}, {"unix", h.dir + "/outside/socket"}, {"unix", abstract}} {
		l, err := net.Listen(address[0], address[1])
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listeners[0].Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	})
	env := []string{
		"SELF=" + self, fmt.Sprintf("OUTSIDER=%d", other.Process.Pid), "SOCKET=" + abstract,
		fmt.Sprintf("PORT=%d", listeners[0].Addr().(*net.TCPAddr).Port),
	}
	for _, script := range forbidden {
		res, output := b.spec(context.Background(), h.spec(script, env...))
		if res.Outcome != Exited || res.ExitCode == 0 || strings.Contains(output, canary) {
			t.Errorf("%s: %s, %q", script, res.Reason(), output)
		}
	}
	for _, script := range allowed {
		if res, output := b.spec(context.Background(), h.spec(script, env...)); !res.Succeeded() {
			t.Errorf("%s: %s, %q", script, res.Reason(), output)
		}
	}
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("a process outside was ended: %v", err)
	}
	_ = other.Process.Kill()
	_ = other.Wait()
	for _, l := range listeners {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	serving.Wait()
	data, err := os.ReadFile(filepath.Join(h.state, "state.db"))
	if err != nil || string(data) != canary {
		t.Errorf("the state: %q, %v", data, err)
	}
	unrestricted(t, h)
}

// unrestricted checks that no thread of this process bears what was meant for commands.
func unrestricted(t *testing.T, h house) {
	t.Helper()
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			if _, err := os.ReadFile(filepath.Join(h.state, "state.db")); err != nil {
				t.Errorf("this process is restricted: %v", err)
			}
		})
	}
	wg.Wait()
	// The threads that started commands are gone, or going.
	restricted := restrictedThreads(t)
	for range 200 {
		if len(restricted) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
		restricted = restrictedThreads(t)
	}
	if len(restricted) > 0 {
		t.Errorf("threads of this process stay restricted: %v", restricted)
	}
}

func restrictedThreads(t *testing.T) []string {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(tasks) == 0 {
		t.Fatal(err)
	}
	var found []string
	for _, task := range tasks {
		status, err := os.ReadFile(task)
		if err == nil && !bytes.Contains(status, []byte("NoNewPrivs:\t0")) {
			found = append(found, task)
		}
	}
	return found
}

// The first thread stands for the process towards others: it must not be lent to a command.
func TestOwnThreadIsNeverTheFirst(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	first := 0
	for range 300 {
		tid := make(chan int)
		onOwnThread(func() { tid <- unix.Gettid() })
		if <-tid == os.Getpid() {
			t.Fatal("a command would be started from the first thread")
		}
		go func() { tid <- unix.Gettid() }()
		if <-tid == os.Getpid() {
			first++
		}
	}
	t.Logf("an ordinary goroutine got it %d times", first)
}

// What is protected and what exists around it changes between commands.
func TestSandboxFollowsChanges(t *testing.T) {
	needLandlock(t)
	b := newBench(t)
	h := newHouse(t, b.dir)
	b.runner = New(Options{Protect: h.protect, Grace: testGrace})
	check := func(what, script string, want bool) {
		t.Helper()
		res, output := b.spec(context.Background(), h.spec(script))
		if res.Outcome != Exited || res.Succeeded() != want {
			t.Errorf("%s: %s, %q", what, res.Reason(), output)
		}
	}
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(h.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	check("before", "cat $D/outside/file", true)
	write("lib/later/file", "later")
	check("a new neighbour", "cat $D/lib/later/file", true)
	write("not/there/yet", canary)
	write("not/there/else", "else")
	check("a protected file that came to be", "cat $D/not/there/yet", false)
	check("its neighbour", "cat $D/not/there/else", true)
	// Kubernetes rotates a secret: a new directory, then one link turned.
	write("secrets/..2026_2/token", canary)
	write("secrets/..2026_2/harmless", "harmless")
	if err := os.Symlink("..2026_2", filepath.Join(h.dir, "secrets", "..tmp")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(h.dir, "secrets", "..tmp"), filepath.Join(h.dir, "secrets", "..data")); err != nil {
		t.Fatal(err)
	}
	check("a rotated token", "cat $D/secrets/token", false)
	check("a rotated token, by its place", "cat $D/secrets/..2026_2/token", false)
	check("what is beside it", "cat $D/secrets/harmless", true)
	if err := os.RemoveAll(filepath.Join(h.dir, "lib", "later")); err != nil {
		t.Fatal(err)
	}
	check("a neighbour that went", "cat $D/lib/neighbour/file", true)
}

func TestSandboxRefusesToOpenProtected(t *testing.T) {
	needLandlock(t)
	b := newBench(t)
	h := newHouse(t, b.dir)
	b.runner = New(Options{Protect: h.protect, Grace: testGrace})
	// An earlier command may replace what is its own by a link to what is not.
	if err := os.Symlink("../../logs", filepath.Join(h.mine, "tmp")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		h.state, h.dir, "/", h.dir + "/outside/way", h.dir + "/etc/.env", h.dir + "/no-such-path",
		h.mine + "/tmp", h.mine + "/tmp/1-a", h.dir + "/outside/way/workspaces/mine/tmp",
	} {
		for _, s := range []Spec{{Script: "true", Writable: []string{path}}, {Script: "true", Readable: []string{path}}} {
			if res, _ := b.spec(context.Background(), s); res.Outcome != NotStarted || !strings.Contains(res.Err.Error(), "use") {
				t.Errorf("%s as writable %v: %s", path, s.Writable, res.Reason())
			}
		}
	}
}

// The way to a workspace may lead over links that are not the command's.
func TestSandboxOverLinks(t *testing.T) {
	needLandlock(t)
	b := newBench(t)
	h := newHouse(t, b.dir)
	protect := append([]string{}, h.protect...)
	protect[0] = h.dir + "/outside/way" // leads to the state
	b.runner = New(Options{Protect: protect, Grace: testGrace})
	s := h.spec("cat file; echo x > file; ! cat ../other/file; ! cat $D/lib/state/state.db")
	s.Writable = []string{h.dir + "/outside/way/workspaces/mine"}
	if res, output := b.spec(context.Background(), s); !res.Succeeded() || strings.Contains(output, canary) {
		t.Errorf("%s, %q", res.Reason(), output)
	}
}

// With nothing to protect, processes are still kept from each other.
func TestSandboxBetweenProcesses(t *testing.T) {
	needLandlock(t)
	b := newBench(t)
	pids := make(chan int, 1)
	ctx, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	other := make(chan Result, 1)
	go func() {
		res, _ := b.spec(ctx, Spec{Script: "sleep 100 & wait", OnStart: func(pid int) { pids <- pid }})
		other <- res
	}()
	pid := <-pids
	for _, script := range []string{"kill -9 %d", "kill -9 -- -%d", "cat /proc/%d/environ | grep -a .", "cat /proc/%d/cwd/x /proc/%[1]d/root/etc/passwd"} {
		if res, output := b.run(fmt.Sprintf(script, pid)); res.Outcome != Exited || res.ExitCode == 0 {
			t.Errorf("%s of another command: %s, %q", script, res.Reason(), output)
		}
	}
	stop(errors.New("enough"))
	if res := <-other; res.Outcome != Canceled || res.Signal != "SIGTERM" {
		t.Errorf("the other command: %s, %s", res.Reason(), res.Signal)
	}
}

// A command loses what gets around the sandbox, and goes first when memory runs out.
func TestPrivileges(t *testing.T) {
	b := newBench(t)
	res, output := b.run("grep -E '^(NoNewPrivs|CapEff|CapAmb)' /proc/self/status; cat /proc/self/oom_score_adj")
	if !res.Succeeded() || !strings.Contains(output, "NoNewPrivs:\t1\n") || !strings.HasSuffix(output, "\n500\n") {
		t.Errorf("%s, %q", res.Reason(), output)
	}
	for _, name := range []string{"CapEff:\t", "CapAmb:\t"} {
		_, after, _ := strings.Cut(output, name)
		var capabilities uint64
		if _, err := fmt.Sscanf(after, "%x", &capabilities); err != nil {
			t.Fatal(err)
		}
		for _, capability := range withheld {
			if capabilities&(1<<capability) != 0 {
				t.Errorf("%s%x has capability %d", name, capabilities, capability)
			}
		}
	}
}

func TestPolicyErrors(t *testing.T) {
	needLandlock(t)
	b := newBench(t)
	loop := filepath.Join(b.dir, "loop")
	if err := os.Symlink("loop", loop); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/", loop} {
		b.runner = New(Options{Protect: []string{path}})
		if res, _ := b.run("true"); res.Outcome != NotStarted || !strings.Contains(fmt.Sprint(res.Err), "cannot protect "+path) {
			t.Errorf("protecting %s: %s", path, res.Reason())
		}
	}
}

// A directory with more entries than can be opened keeps the rest out of reach, and says so; what is on the way to the
// workspace stays open.
func TestPolicyOfHugeDirectory(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 10,000 files")
	}
	needLandlock(t)
	b := newBench(t)
	h := newHouse(t, b.dir)
	for i := range maxEntries + 1 {
		if err := os.WriteFile(fmt.Sprintf("%s/lib/f%d", h.dir, i), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.runner = New(Options{Protect: h.protect, Grace: testGrace})
	res, output := b.spec(context.Background(), h.spec("cat file; ! cat ../../state.db"))
	if !res.Succeeded() || strings.Contains(output, canary) {
		t.Errorf("%s, %q", res.Reason(), output)
	}
	found, _, err := b.runner.box.policy.opened()
	if err != nil || len(found) < maxEntries || len(found) > maxEntries+3000 {
		t.Errorf("%d paths are opened, %v", len(found), err)
	}
}

// Nobody needs to be root for it.
func TestSandboxUnprivileged(t *testing.T) {
	needLandlock(t)
	if os.Geteuid() != 0 {
		t.Skip("TestSandbox is unprivileged already")
	}
	b := newBench(t)
	dir, err := os.MkdirTemp("", "sentry-unprivileged")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	binary := copySelf(t, dir)
	h := newHouse(t, filepath.Join(dir, "house"))
	if err := os.Mkdir(filepath.Join(h.state, "workspace"), 0o700); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	err = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, nobody, nobody))
	})
	if err != nil {
		t.Fatal(err)
	}
	script := `for file in ../state.db ../workspaces/other/file /proc/$PPID/environ /proc/$PPID/mem; do
			if head -c 1 $file; then echo "can read $file"; exit 1; fi
		done
		if kill -0 $PPID; then exit 2; fi
		echo x > file; cat file /etc/passwd > /dev/null; git init -q repo
		(setsid env -i setsid sleep 100 &)
		(setsid sleep 100 &)
		sleep 0.1`
	cmd := play(t, "daemon", "STATE="+h.state, "TIMEOUT=60s", "SCRIPT="+script)
	cmd.Path, cmd.Args[0], cmd.Dir = binary, binary, dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	r := reportOf(t, cmd)
	if r.Outcome != Exited || r.ExitCode != 0 || r.Err != "" || r.Swept != 2 || strings.Contains(r.Log, canary) {
		t.Errorf("%+v", r)
	}
	if !strings.HasPrefix(r.Mark, "a message queue limit of ") {
		t.Errorf("the mark is %s", r.Mark)
	}
	_ = b
}

func copySelf(t *testing.T, dir string) string {
	t.Helper()
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	path := filepath.Join(dir, "command.test")
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, self); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// A command that kills everything kills itself. This runs in a process namespace of its own, so that a defect does not
// end the machine, and the script asks first whether signals are held back.
func TestKillEverything(t *testing.T) {
	needLandlock(t)
	if os.Geteuid() != 0 {
		t.Skip("needs a process namespace")
	}
	b := newBench(t)
	state := filepath.Join(b.dir, "state")
	if err := os.MkdirAll(filepath.Join(state, "workspace"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := play(t, "init", "STATE="+state, "TIMEOUT=60s", "SCRIPT="+`
		if kill -0 $OUTSIDER || kill -0 $PPID; then echo "signals are not held back"; exit 99; fi
		kill -9 $PPID || true
		(setsid env -i setsid sleep 100 &)
		sleep 0.1
		kill -9 -1 || true
		kill -TERM -1 || true
		echo survived`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	r := reportOf(t, cmd)
	if r.Outcome != Exited || r.ExitCode != 0 || r.Err != "" || !strings.HasSuffix(r.Log, "survived\n") {
		t.Errorf("%+v", r)
	}
}

func init() {
	// init is the first process of a namespace: it starts an outsider and a daemon, and passes on the daemon's report.
	roles["init"] = func() error {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
			return err
		}
		other := exec.Command("sleep", "1000")
		if err := other.Start(); err != nil {
			return err
		}
		daemon := exec.Command("/proc/self/exe")
		daemon.Env = append(os.Environ(), "TEST_ROLE=daemon", fmt.Sprintf("OUTSIDER=%d", other.Process.Pid))
		daemon.Stderr = os.Stderr
		out, err := daemon.Output()
		if err != nil {
			return fmt.Errorf("the daemon: %w", err)
		}
		if err := other.Process.Signal(syscall.Signal(0)); err != nil {
			return fmt.Errorf("the outsider: %w", err)
		}
		if !json.Valid(out) {
			return fmt.Errorf("no report: %q", out)
		}
		_, err = os.Stdout.Write(out)
		return err
	}
}
