package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// What the shell makes of scripts, and how their ends are told.
func TestOutcomes(t *testing.T) {
	b := newBench(t)
	for _, tc := range []struct {
		script string
		code   int
		signal string
		output string
	}{
		{"true", 0, "", ""},
		{"exit 3", 3, "", ""},
		{"exit 255", 255, "", ""},
		{"echo out; echo err >&2", 0, "", "out\nerr\n"},
		{"false; echo not reached", 1, "", ""},
		{"false | cat; echo not reached", 1, "", ""},
		{"cd / && false; echo not reached", 1, "", ""},
		{"if false; then :; fi; echo reached", 0, "", "reached\n"},
		{"kill -9 $$", -1, "SIGKILL", ""},
		{"kill -TERM $$", -1, "SIGTERM", ""},
		{"exec sh -c 'exit 4'", 4, "", ""},
		{"-x; true", 127, "", ""}, // no option of the shell
		{`echo "$f ${HOME:+home} $(echo sub) \x"`, 0, "", " home sub \\x\n"},
		{"cat", 0, "", ""},                                         // standard input is at its end
		{"read x", 1, "", ""},                                      // idem
		{"cat /dev/tty 2>/dev/null || echo none", 0, "", "none\n"}, // no terminal
		{"printf 'no newline'", 0, "", "no newline"},
		{`printf '\xff\xfe\x00\x1b['`, 0, "", "\xff\xfe\x00\x1b["},
		{"ulimit -c", 0, "", ulimitCore(t)},
	} {
		res, output := b.run(tc.script)
		if res.Outcome != Exited || res.ExitCode != tc.code || res.Signal != tc.signal || res.Err != nil || res.Swept != 0 {
			t.Errorf("%q: %s, code %d, signal %q, error %v, swept %d", tc.script, res.Outcome, res.ExitCode, res.Signal, res.Err, res.Swept)
		}
		if tc.code != 127 && output != tc.output || res.Output.Dropped != 0 || res.Output.Bytes != int64(len(output)) {
			t.Errorf("%q: %+v, log %q, want %q", tc.script, res.Output, output, tc.output)
		}
		if res.Succeeded() != (tc.code == 0) {
			t.Errorf("%q: Succeeded is %v", tc.script, res.Succeeded())
		}
		if res.StartedAt.IsZero() || res.FinishedAt.Before(res.StartedAt) || res.Usage.MaxRSS < 1<<18 {
			t.Errorf("%q: %v to %v, %+v", tc.script, res.StartedAt, res.FinishedAt, res.Usage)
		}
	}
}

// ulimitCore is the limit of this process, which Prepare has not changed.
func ulimitCore(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("bash", "-c", "ulimit -c").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestReasons(t *testing.T) {
	at := time.Now()
	for want, res := range map[string]Result{
		"exit code 3":                           {Outcome: Exited, ExitCode: 3},
		"killed by SIGKILL":                     {Outcome: Exited, ExitCode: -1, Signal: "SIGKILL"},
		"timed out after 1m30s":                 {Outcome: TimedOut, Signal: "SIGTERM", StartedAt: at, FinishedAt: at.Add(90 * time.Second)},
		"ended: canceled by eve":                {Outcome: Canceled, Err: errors.New("canceled by eve")},
		"not started: no bash":                  {Outcome: NotStarted, Err: errors.New("no bash")},
		"exit code 0: 2 of its processes stuck": {Outcome: Exited, Err: errors.New("2 of its processes stuck")},
	} {
		if got := res.Reason(); got != want {
			t.Errorf("%+v: %q, want %q", res, got, want)
		}
	}
}

func TestArgvDirEnvOnStart(t *testing.T) {
	b := newBench(t)
	started := 0
	res, output := b.spec(context.Background(), Spec{
		Argv: []string{"env", "--", "sh", "-c", `pwd; echo "$@"`, "sh", "a b", "$HOME", ""},
		Dir:  "/usr", Env: []string{"PATH=" + os.Getenv("PATH"), "A=b"}, OnStart: func(pid int) { started = pid },
	})
	if !res.Succeeded() || output != "/usr\na b $HOME \n" {
		t.Errorf("%s: %q", res.Reason(), output)
	}
	if started <= 1 {
		t.Errorf("OnStart got %d", started)
	}
	t.Setenv("LEAK", "me")
	if _, output := b.spec(context.Background(), Spec{Argv: []string{"env"}, Env: []string{"A=b", "C=d e"}}); output != "A=b\nC=d e\n" {
		t.Errorf("environment %q", output)
	}
	if _, output := b.spec(context.Background(), Spec{Argv: []string{"env"}, Env: []string{}}); output != "" {
		t.Errorf("empty environment %q", output)
	}
}

func TestNotStarted(t *testing.T) {
	b := newBench(t)
	ended, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("the reason"))
	file := filepath.Join(b.dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		ctx  context.Context
		spec Spec
		want string
	}{
		"context":     {ended, Spec{Script: "touch ran"}, "the reason"},
		"nothing":     {context.Background(), Spec{}, "no command"},
		"directory":   {context.Background(), Spec{Script: "touch ran", Dir: b.dir + "/missing"}, "missing"},
		"program":     {context.Background(), Spec{Argv: []string{"no-such-program"}}, "no-such-program"},
		"nul":         {context.Background(), Spec{Script: "touch ran\x00"}, "invalid argument"},
		"too long":    {context.Background(), Spec{Script: "touch ran #" + strings.Repeat("x", 1<<18)}, "too long"},
		"log":         {context.Background(), Spec{Script: "touch ran", Log: file + "/below/step.log"}, "not a directory"},
		"environment": {context.Background(), Spec{Script: "touch ran", Env: []string{"A=\x00"}}, ""},
	} {
		if tc.spec.Dir == "" {
			tc.spec.Dir = b.dir
		}
		res := b.runner.Run(tc.ctx, tc.spec)
		if res.Outcome != NotStarted || res.Err == nil || !strings.Contains(res.Err.Error(), tc.want) || res.ExitCode != -1 {
			t.Errorf("%s: %s", name, res.Reason())
		}
	}
	if _, err := os.Stat(filepath.Join(b.dir, "ran")); err == nil {
		t.Error("a command that was not started ran")
	}
}

// Everything that commands do to survive. Each must end on time with nothing left, see newBench.
func TestEndings(t *testing.T) {
	hop := filepath.Join(t.TempDir(), "hop")
	rush := hop + "-fast"
	for path, sleep := range map[string]string{hop: "sleep 0.01", rush: ":"} {
		if err := os.WriteFile(path, []byte("#!/bin/bash\ntrap '' TERM\n"+sleep+"\nsetsid \"$0\" &\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const ever = 300 * time.Millisecond // the timeout for what runs for ever
	for _, tc := range []struct {
		name, script string
		timeout      time.Duration // 0 where the command ends by itself
		code, swept  int           // swept: at least; -1 for none
		limit        time.Duration // it must have ended after this
	}{
		{"just runs", "sleep 100", ever, -1, -1, 0},
		{"ignores signals", "trap '' TERM INT HUP; while :; do sleep 0.05; done", ever, -1, 0, 0},
		{"ends gracefully", "trap 'echo bye; exit 7' TERM; sleep 100 & wait", ever, 7, 0, 0},
		{"its children ignore signals", "for i in 1 2 3; do (trap '' TERM; while :; do sleep 1; done) & done; wait", ever, -1, 3, 0},
		{"background child holds stdout", "sleep 100 & echo out", 0, 0, 1, 0},
		{"child closes its streams", "sleep 100 >&- 2>&- <&- & echo out", 0, 0, 1, 0},
		{"child ignores signals", "(trap '' TERM; echo ready > ready; while :; do sleep 1; done) & until test -s ready; do sleep 0.01; done", 0, 0, 1, 2 * time.Second},
		{"daemon", "(setsid sleep 100 >/dev/null 2>&1 &)", 0, 0, 1, 0},
		{"daemon without environment", "(setsid env -i setsid sh -c 'cd /; sleep 100 & sleep 101 &' &) ; sleep 0.1", 0, 0, 2, 0},
		{"daemon when it times out", "(setsid env -i setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' &) ; sleep 100", ever, -1, 1, 0},
		{"zombies", "for i in $(seq 50); do ( (exit 0) & exec sleep 100 ) & done; sleep 0.2", 0, 0, 50, 0},
		{"stops itself", "kill -STOP $$", ever, -1, -1, 0},
		{"stops its children", "sleep 100 & kill -STOP $!; (setsid sleep 100 & kill -STOP $!)", 0, 0, 2, 0},
		{"respawns at its end", "trap 'setsid sh -c \"trap \\\"\\\" TERM; sleep 100\" &' EXIT; exit 0", 0, 0, 1, 2 * time.Second},
		{"respawns when told to end", "trap 'setsid sleep 100 & setsid sleep 101 & exit 1' TERM; sleep 100 & wait", ever, 1, 0, 0},
		{"many children", "for i in $(seq 100); do sleep 100 & done", 0, 0, 100, 0},
		{"many short orphans", "for i in $(seq 200); do (true &); done", 0, 0, 0, 0},
		{"hops from session to session", "setsid " + hop + " & sleep 0.1", 0, 0, 1, 3 * time.Second},
		{"hops as fast as it can", "setsid " + rush + " & sleep 0.1", 0, 0, 0, 3 * time.Second},
		{"hides its limit", "(ulimit -S -q 4242; setsid env -i setsid sleep 100 &); sleep 0.1", 0, 0, 1, 0},
		{"hides its limit for good", "(ulimit -q 4242; setsid env -i setsid sleep 100 &); sleep 0.1", 0, 0, 1, 0},
		{"a process in a pipeline", "sleep 100 | sleep 100 & true", 0, 0, 2, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t)
			begin := time.Now()
			res, _ := b.spec(context.Background(), Spec{Script: tc.script, Timeout: tc.timeout})
			took := time.Since(begin)
			want, limit := Exited, tc.limit
			if tc.timeout > 0 {
				want, limit = TimedOut, tc.timeout+testGrace+2*time.Second
			} else if limit == 0 {
				limit = 2 * time.Second
			}
			if res.Outcome != want || res.ExitCode != tc.code || res.Err != nil {
				t.Errorf("%s (%s, code %d)", res.Reason(), res.Outcome, res.ExitCode)
			}
			if res.Swept < tc.swept || tc.swept < 0 && res.Swept > 0 {
				t.Errorf("swept %d processes, want %d", res.Swept, tc.swept)
			}
			if took > limit*raceFactor {
				t.Errorf("it took %v, want at most %v", took, limit)
			}
		})
	}
}

// A command that was told to end can still print, and what it prints is kept.
func TestGraceKeepsOutput(t *testing.T) {
	b := newBench(t)
	res, output := b.spec(context.Background(), Spec{
		Script:  "trap 'sleep 0.1; echo bye; exit 7' TERM; echo hello; sleep 100 & wait",
		Timeout: 300 * time.Millisecond,
	})
	if res.Outcome != TimedOut || res.ExitCode != 7 || output != "hello\nbye\n" {
		t.Errorf("%s, code %d, %q", res.Outcome, res.ExitCode, output)
	}
}

// What a script's helpers print just after it has ended is kept, and they are not counted as swept.
func TestHelpersMayFinish(t *testing.T) {
	b := newBench(t)
	res, output := b.run("exec > >(sleep 0.05; sed s/^/+/); echo one; echo two")
	if !res.Succeeded() || res.Swept != 0 || output != "+one\n+two\n" {
		t.Errorf("%s, swept %d, %q", res.Reason(), res.Swept, output)
	}
}

func TestCancel(t *testing.T) {
	b := newBench(t)
	cause := errors.New("canceled by eve")
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	begin := time.Now()
	res, _ := b.spec(ctx, Spec{Script: "trap '' TERM; sleep 100 & wait; sleep 100", OnStart: func(int) {
		time.AfterFunc(100*time.Millisecond, func() { cancel(cause) })
	}})
	if res.Outcome != Canceled || !errors.Is(res.Err, cause) || res.Signal != "SIGKILL" {
		t.Errorf("%s, %v, %s", res.Outcome, res.Err, res.Signal)
	}
	if took := time.Since(begin); took > (testGrace+2*time.Second)*raceFactor {
		t.Errorf("it took %v", took)
	}
}

// Signals reach everything once, and what left the group too.
func TestTermComesOnce(t *testing.T) {
	b := newBench(t)
	res, output := b.spec(context.Background(), Spec{
		Script: `count() { trap 'echo $1 >> log' TERM; for i in 1 2 3 4 5 6; do sleep 0.1 & wait $! || :; wait || :; done; }
			export -f count
			setsid bash -c 'count other' &
			count own`,
		Timeout: 250 * time.Millisecond,
	})
	data, err := os.ReadFile(filepath.Join(b.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(data))
	if strings.Count(string(data), "other") != 1 || strings.Count(string(data), "own") != 1 {
		t.Errorf("SIGTERM arrived so: %v (%s, %q)", lines, res.Reason(), output)
	}
}

// With several commands at once each one's end takes its own processes and spares the others'.
func TestParallelCommands(t *testing.T) {
	b := newBench(t)
	const n = 6
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			// Each leaves a daemon that nothing but its limit connects with it, and lives longer than the one before.
			// The daemon of a living command writes to the end; it must not be taken for that of one that ended.
			dir := filepath.Join(b.dir, fmt.Sprint(i))
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Error(err)
				return
			}
			script := fmt.Sprintf(`(setsid env -i setsid bash -c 'while :; do echo x >> beats; sleep 0.02; done' &)
				until test -s beats; do sleep 0.01; done
				sleep 0.%d5; before=$(wc -l < beats)
				for try in $(seq 100); do sleep 0.05; if test $(wc -l < beats) -gt $before; then exit 0; fi; done; exit 1`, i)
			res, output := b.spec(context.Background(), Spec{Script: script, Dir: dir})
			if !res.Succeeded() || res.Swept < 1 {
				t.Errorf("command %d: %s, swept %d, %q", i, res.Reason(), res.Swept, output)
			}
			after := beats(t, dir)
			time.Sleep(60 * time.Millisecond)
			if now := beats(t, dir); now != after {
				t.Errorf("command %d: its daemon went on: %d beats, then %d", i, after, now)
			}
		})
	}
	wg.Wait()
}

func beats(t *testing.T, dir string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "beats"))
	if err != nil {
		t.Error(err)
	}
	return len(data)
}

// A process that hid whose it is dies at the latest when the last command ends that it may belong to.
func TestHiddenProcessOfParallelCommand(t *testing.T) {
	b := newBench(t)
	other := make(chan Result, 1)
	started := make(chan struct{})
	ctx, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	go func() {
		res, _ := b.spec(ctx, Spec{Script: "sleep 100", OnStart: func(int) { close(started) }})
		other <- res
	}()
	<-started
	res, output := b.run("(ulimit -q 4242; setsid env -i setsid sh -c 'echo $$; sleep 100' &); sleep 0.1")
	var hidden int
	if _, err := fmt.Sscan(output, &hidden); err != nil || !res.Succeeded() {
		t.Fatalf("%s, %q", res.Reason(), output)
	}
	if res.Swept != 0 || syscall.Kill(hidden, 0) != nil {
		t.Errorf("the first took a process that may be the other's")
	}
	// A command that began later cannot own it: its end changes nothing.
	if res, _ := b.run("sleep 0.05"); !res.Succeeded() || res.Swept != 0 || syscall.Kill(hidden, 0) != nil {
		t.Errorf("the later one took the process: %s", res.Reason())
	}
	stop(errors.New("enough"))
	if res := <-other; res.Outcome != Canceled {
		t.Errorf("the other: %s", res.Reason())
	}
	if err := syscall.Kill(hidden, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the hidden process is still there: %v", err)
	}
}

// Other processes of this one, git say, are neither ended nor reaped by what commands need, however they were started.
func TestSparesOtherProcesses(t *testing.T) {
	b := newBench(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, attr := range []*syscall.SysProcAttr{nil, {Setpgid: true}, {Setsid: true}} {
		wg.Go(func() {
			for code := 0; ; code = (code + 1) % 50 {
				select {
				case <-stop:
					return
				default:
				}
				cmd := exec.Command("sh", "-c", fmt.Sprintf("sleep 0.01; exit %d", code))
				cmd.SysProcAttr = attr
				if err := cmd.Start(); err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Duration(code%7) * 5 * time.Millisecond) // sometimes it is a zombie for a while
				_ = cmd.Wait()
				if got := cmd.ProcessState.ExitCode(); got != code {
					t.Errorf("a process with %+v that exits with %d: %v", attr, code, cmd.ProcessState)
				}
			}
		})
	}
	for range 10 {
		if res, _ := b.run("for i in 1 2 3 4 5; do (setsid env -i sleep 100 &); (true &) ; done"); !res.Succeeded() || res.Swept != 5 {
			t.Errorf("%s, swept %d", res.Reason(), res.Swept)
		}
	}
	close(stop)
	wg.Wait()
}

// Orphans that git leaves (it is killed, its helper is not) are not ended, but do not stay as zombies.
func TestReapsOrphansOfOtherProcesses(t *testing.T) {
	b := newBench(t)
	cmd := exec.Command("bash", "-c", "sleep 2 & echo $!; exec sleep 100")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var orphan int
	if _, err := fmt.Fscan(out, &orphan); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if res, _ := b.run("sleep 0.05"); !res.Succeeded() {
		t.Error(res.Reason())
	}
	if err := syscall.Kill(orphan, 0); err != nil {
		t.Errorf("the orphan was ended: %v", err)
	}
	for !gonePid(orphan) {
		time.Sleep(20 * time.Millisecond)
	}
	if res, _ := b.run("true"); !res.Succeeded() { // it is taken away now, see newBench
		t.Error(res.Reason())
	}
}

// A long command's orphans are reaped while it runs.
func TestReapsWhileRunning(t *testing.T) {
	b := newBench(t)
	res, output := b.run(`for i in $(seq 40); do (setsid true &); done; sleep 2.3; cat /proc/$PPID/task/*/children | wc -w`)
	var children int
	if _, err := fmt.Sscan(output, &children); err != nil || children > 2 {
		t.Errorf("%s: %d children of the daemon after a look, %q", res.Reason(), children, output)
	}
}

func TestOwns(t *testing.T) {
	b := newBench(t)
	pid := 0
	result := make(chan Result, 1)
	started := make(chan struct{})
	go func() {
		res, _ := b.spec(context.Background(), Spec{
			Script:  "(setsid env -i setsid sh -c 'echo $$ > daemon; sleep 100' &); until test -e checked; do sleep 0.02; done",
			OnStart: func(p int) { pid = p; close(started) },
		})
		result <- res
	}()
	<-started
	daemon := 0
	for daemon == 0 {
		if data, err := os.ReadFile(filepath.Join(b.dir, "daemon")); err == nil {
			_, _ = fmt.Sscan(string(data), &daemon)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for who, owned := range map[int]bool{pid: true, daemon: true, os.Getpid(): false, os.Getppid(): false, 1: false} {
		if Owns(who) != owned {
			t.Errorf("Owns(%d) is %v", who, !owned)
		}
	}
	if err := os.WriteFile(filepath.Join(b.dir, "checked"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if res := <-result; !res.Succeeded() {
		t.Error(res.Reason())
	}
	if Owns(daemon) {
		t.Error("a process that is gone is owned")
	}
}

func TestMasksOutput(t *testing.T) {
	b := newBench(t)
	res, output := b.spec(context.Background(), Spec{
		Script: `printf 'a %s b\n' "${TOKEN:0:7}"; sleep 0.2; printf %s "${TOKEN:0:9}"; sleep 0.2; echo "${TOKEN:9} c"; echo "$TOKEN" | base64; set -x; : "$TOKEN"`,
		Env:    []string{"PATH=" + os.Getenv("PATH"), "TOKEN=s3cret-token-of-length"},
		Mask:   logger.NewMasker(sentry.NewSecret("s3cret-token-of-length")),
	})
	want := "a s3cret- b\n[redacted] c\n[redacted]Ao=\n+ : [redacted]\n"
	if !res.Succeeded() || output != want {
		t.Errorf("%s: got %q, want %q", res.Reason(), output, want)
	}
}

// Several commands may share a log.
func TestSharedLog(t *testing.T) {
	b := newBench(t)
	path := filepath.Join(b.dir, "shared.log")
	log, err := createLog(path, 64, 64)
	if err != nil {
		t.Fatal(err)
	}
	for i, dropped := range []int64{0, 32, 80} { // of the first 80 all are kept, of the next the last 64 only

		res := b.runner.Run(context.Background(), Spec{Script: "printf '%080d' 7; exit 1", Output: log, Env: []string{"PATH=" + os.Getenv("PATH")}})
		if res.ExitCode != 1 || res.Output.Bytes != 80 || res.Output.Dropped != dropped {
			t.Errorf("try %d: %s, %+v", i, res.Reason(), res.Output)
		}
	}
	if err := log.Close(); err != nil {
		t.Error(err)
	}
}
