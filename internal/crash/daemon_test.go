//go:build linux

package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"sentry/internal/daemon"
	"sentry/internal/sentry"
	"sentry/internal/sentry/sentrytest"
	"sentry/internal/server"
)

func TestMain(m *testing.M) { sentrytest.Main(m) }

// sentryd is the daemon under test in its succession of lives. One goroutine uses it.
type sentryd struct {
	t      testing.TB
	binary string
	base   string // everything is below it; it outlives a test that failed
	say    writer
	log    *os.File // of all lives
	life   int
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process of this life has ended
	client *http.Client
	mark   string // that it gives to all that it starts; empty until it has been seen
}

// newSentryd prepares the folders and the witness.
func newSentryd(t testing.TB) *sentryd {
	t.Helper()
	base, err := os.MkdirTemp("", "sentry-crash-")
	if err != nil {
		t.Fatal(err)
	}
	d := &sentryd{t: t, binary: sentrytest.Binary(t), base: base}
	for _, dir := range []string{"etc", "witness", "log", "home"} {
		if err := os.Mkdir(filepath.Join(base, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if d.say, err = newWriter(d.witness()); err != nil {
		t.Fatal(err)
	}
	if d.log, err = os.OpenFile(d.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		t.Fatal(err)
	}
	d.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, // it is another process all the time
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", daemon.SocketPath(d.state()))
		},
	}}
	t.Cleanup(func() {
		if d.alive() {
			_ = d.cmd.Process.Kill()
			<-d.exited
		}
		d.mark = "" // what only looks like ours is not ours to end
		for _, pid := range d.left() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		d.log.Close()
		d.say.file.Close()
		if t.Failed() {
			t.Logf("what happened is kept in %s: witness/lines, log/sentry.log, etc/sentry.yaml, state", base)
			return
		}
		if err := os.RemoveAll(base); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *sentryd) state() string   { return filepath.Join(d.base, "state") }
func (d *sentryd) config() string  { return filepath.Join(d.base, "etc", "sentry.yaml") }
func (d *sentryd) witness() string { return filepath.Join(d.base, "witness", "lines") }
func (d *sentryd) logFile() string { return filepath.Join(d.base, "log", "sentry.log") }

// configure writes the configuration.
func (d *sentryd) configure(text string) {
	d.t.Helper()
	if err := os.WriteFile(d.config(), []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// environ is all that Sentry gets: commands find the number of the life through the configuration.
func (d *sentryd) environ() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(d.base, "home"), fmt.Sprintf("CRASH_LIFE=%d", d.life),
	}
}

// start begins the next life.
func (d *sentryd) start() {
	d.t.Helper()
	d.life++
	d.tell("born life=%d", d.life)
	d.cmd = exec.Command(d.binary, "-config", d.config(), "watch")
	d.cmd.Env = d.environ()
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // where the test is ended from outside
	cmd, started, exited := d.cmd, make(chan error), make(chan struct{})
	go func() {
		defer close(exited)
		runtime.LockOSThread() // it would die with the thread that started it
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in ProcessState
		}
	}()
	if err := <-started; err != nil {
		d.t.Fatalf("cannot start sentry: %v", err)
	}
	d.exited = exited
}

func (d *sentryd) alive() bool {
	if d.cmd == nil {
		return false
	}
	select {
	case <-d.exited:
		return false
	default:
		return true
	}
}

// manner is how far a life may have come when its end was asked for, and so how it may end.
type manner int

const (
	unasked manner = iota // only SIGKILL can have ended it
	orderly               // it ends with 0, and nothing is left
	hasty                 // it was asked before it was ready, or twice: SIGTERM itself may have ended it
)

// kill ends the daemon, and only the daemon, by SIGKILL. The manner is that in which it was asked to end before.
func (d *sentryd) kill(m manner) {
	d.t.Helper()
	d.tell("kill life=%d", d.life)
	_ = d.cmd.Process.Kill() // it has ended where that fails; how is looked at below
	<-d.exited
	if status := d.status(); !status.Signaled() || status.Signal() != syscall.SIGKILL {
		d.check(m)
	}
}

// ask asks the daemon to end.
func (d *sentryd) ask() {
	d.t.Helper()
	d.tell("term life=%d", d.life)
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		<-d.exited
		d.check(unasked)
	}
}

// ended waits for the end that was asked for.
func (d *sentryd) ended(m manner) {
	d.t.Helper()
	const patience = time.Minute
	select {
	case <-d.exited:
	case <-time.After(patience):
		d.dump()
		d.t.Fatalf("life %d did not end within %v of being asked to:\n%s", d.life, patience, d.lastLog())
	}
	d.check(m)
}

// check fails the test where the daemon ended in another manner than it may have: nobody asked it to, or it failed.
func (d *sentryd) check(m manner) {
	d.t.Helper()
	status := d.status()
	switch {
	case m != unasked && status.Exited() && status.ExitStatus() == 0:
		d.tell("stopped life=%d", d.life)
	case m == hasty && status.Signaled() && status.Signal() == syscall.SIGTERM:
	case m == hasty && status.Exited() && status.ExitStatus() == 130:
	default:
		d.t.Fatalf("life %d ended with %v:\n%s", d.life, d.cmd.ProcessState, d.lastLog())
	}
}

func (d *sentryd) status() syscall.WaitStatus { return d.cmd.ProcessState.Sys().(syscall.WaitStatus) }

// dump makes the daemon write the stacks of its goroutines into the log.
func (d *sentryd) dump() {
	if d.cmd.Process.Signal(syscall.SIGQUIT) == nil {
		select {
		case <-d.exited:
		case <-time.After(5 * time.Second):
		}
	}
}

// lastLog is the end of what Sentry logged.
func (d *sentryd) lastLog() string {
	text, err := os.ReadFile(d.logFile())
	if err != nil {
		return err.Error()
	}
	if len(text) > 8000 {
		text = text[len(text)-8000:]
	}
	return string(text)
}

// now asks the daemon what is. It is an error where the daemon does not answer, or not yet.
func (d *sentryd) now() (server.Status, error) {
	var status server.Status
	return status, d.call(http.MethodGet, "/status", nil, &status)
}

// trigger asks the daemon for a rollout and gives the identifiers that it promises.
func (d *sentryd) trigger(by string, targets ...string) ([]string, error) {
	var queued server.List[server.Queued]
	err := d.call(http.MethodPost, "/rollouts", server.TriggerRequest{Targets: targets, By: by}, &queued)
	var ids []string
	for _, q := range queued.Items {
		ids = append(ids, q.ID)
	}
	return ids, err
}

func (d *sentryd) call(method, path string, body, into any) error {
	var raw bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&raw).Encode(body); err != nil {
			return err
		}
	}
	r, err := http.NewRequest(method, "http://sentry"+server.Prefix+path, &raw)
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := d.client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s", method, path, answer.Status)
	}
	return json.NewDecoder(answer.Body).Decode(into)
}

// run runs another verb of the binary and gives what it printed and its exit code.
func (d *sentryd) run(args ...string) (string, int) {
	d.t.Helper()
	cmd := exec.Command(d.binary, append([]string{"-config", d.config()}, args...)...)
	cmd.Env = d.environ()
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	var code *exec.ExitError
	if err != nil && !errors.As(err, &code) {
		d.t.Fatalf("sentry %s: %v", strings.Join(args, " "), err)
	}
	if stderr.Len() > 0 {
		d.t.Logf("sentry %s: %s", strings.Join(args, " "), &stderr)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// history asks the binary for everything that was ever rolled out, oldest first.
func (d *sentryd) history() []sentry.Rollout {
	d.t.Helper()
	var all []sentry.Rollout
	before := ""
	for {
		args := []string{"history", "-o", "json", "--limit", "1000"}
		if before != "" {
			args = append(args, "--before", before)
		}
		out, code := d.run(args...)
		var page server.List[sentry.Rollout]
		if err := json.Unmarshal([]byte(out), &page); err != nil || code != 0 {
			d.t.Fatalf("sentry history: exit code %d, %v:\n%s", code, err, out)
		}
		all = append(all, page.Items...)
		if len(page.Items) < 1000 {
			break
		}
		before = page.Items[len(page.Items)-1].ID
	}
	for i, j := 0, len(all)-1; i < j; i, j = i+1, j-1 {
		all[i], all[j] = all[j], all[i]
	}
	return all
}

// testimony reads the witness.
func (d *sentryd) testimony() (testimony, []finding) {
	d.t.Helper()
	text, err := os.ReadFile(d.witness())
	if err != nil {
		d.t.Fatal(err)
	}
	return read(string(text))
}

func (d *sentryd) tell(format string, args ...any) {
	d.t.Helper()
	if err := d.say.say(format, args...); err != nil {
		d.t.Fatalf("cannot write to the witness: %v", err)
	}
}
