//go:build linux

package endtoend

import (
	"bufio"
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

// patience is how long something may take that takes a moment: other tests may have the processors.
const patience = 90 * time.Second

// sentryd is a daemon. It ends with the test, in order, or the test fails.
type sentryd struct {
	t      testing.TB
	dir    string // everything of it is below
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has
	client *http.Client
}

// start starts a daemon with a configuration in its folder, and waits until it answers.
func start(t testing.TB, dir string) *sentryd {
	t.Helper()
	s := &sentryd{t: t, dir: dir, exited: make(chan struct{}), client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", daemon.SocketPath(filepath.Join(dir, "state")))
		},
	}}}
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s.cmd = exec.Command(sentrytest.Binary(t), "-config", s.config(), "watch")
	s.cmd.Env = s.environ()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // where the test is ended from outside
	started := make(chan error)
	go func() {
		defer close(s.exited)
		runtime.LockOSThread() // it would die with the thread that started it
		err := s.cmd.Start()
		started <- err
		if err == nil {
			_ = s.cmd.Wait() // how it ended is in ProcessState
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("cannot start sentry: %v", err)
	}
	t.Cleanup(s.stop)
	s.until("it answers", func() string {
		if err := s.ask("/status", new(server.Status)); err != nil {
			return err.Error()
		}
		return ""
	})
	return s
}

func (s *sentryd) config() string  { return filepath.Join(s.dir, "sentry.yaml") }
func (s *sentryd) logFile() string { return filepath.Join(s.dir, "sentry.log") }

func (s *sentryd) environ() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir}
}

// stop ends the daemon as an operator does, and shows what it said where the test has failed. It may be called twice.
func (s *sentryd) stop() {
	s.t.Helper()
	if s.cmd == nil {
		return
	}
	s.client.CloseIdleConnections()
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // where that fails it has ended; how is looked at below
	select {
	case <-s.exited:
	case <-time.After(patience):
		_ = s.cmd.Process.Kill()
		<-s.exited
		s.t.Errorf("sentry did not end within %v of being asked to", patience)
	}
	if state := s.cmd.ProcessState; !s.t.Failed() && state.ExitCode() != 0 {
		s.t.Errorf("sentry ended with %v", state)
	}
	if s.t.Failed() {
		s.t.Logf("the end of Sentry's log:\n%s", s.lastLog())
	}
	s.cmd = nil
}

// until waits for something to become true: the check says what is still missing. It fails the test where that takes too
// long, or the daemon has ended.
func (s *sentryd) until(what string, check func() (missing string)) {
	s.t.Helper()
	var missing string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if missing = check(); missing == "" {
			return
		}
		select {
		case <-s.exited:
			s.t.Fatalf("waiting until %s: sentry has ended with %v", what, s.cmd.ProcessState)
		case <-time.After(20 * time.Millisecond):
		}
	}
	s.t.Fatalf("waited for %v until %s: %s", patience, what, missing)
}

// ask reads from the API.
func (s *sentryd) ask(path string, into any) error {
	answer, err := s.client.Get("http://sentry" + server.Prefix + path)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, answer.Status)
	}
	return json.NewDecoder(answer.Body).Decode(into)
}

// watch is what Sentry knows of a watch; the zero value where it knows none.
func (s *sentryd) watch(repository, branch string) server.Watch {
	s.t.Helper()
	var status server.Status
	if err := s.ask("/status", &status); err != nil {
		s.t.Fatal(err)
	}
	for _, group := range status.Items {
		for _, member := range group.Members {
			for _, watch := range member.Watches {
				if member.Repository == repository && watch.Branch == branch {
					return watch
				}
			}
		}
	}
	return server.Watch{}
}

// rollouts lists all that there are, oldest first.
func (s *sentryd) rollouts() []sentry.Rollout {
	s.t.Helper()
	var list server.List[sentry.Rollout]
	if err := s.ask("/rollouts?limit=100", &list); err != nil {
		s.t.Fatal(err)
	}
	for i, j := 0, len(list.Items)-1; i < j; i, j = i+1, j-1 {
		list.Items[i], list.Items[j] = list.Items[j], list.Items[i]
	}
	return list.Items
}

// run runs another verb of the binary and gives what it printed and its exit code.
func (s *sentryd) run(args ...string) (out string, code int) {
	s.t.Helper()
	cmd := exec.Command(sentrytest.Binary(s.t), append([]string{"-config", s.config()}, args...)...)
	cmd.Env = s.environ()
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("sentry %s: %v", strings.Join(args, " "), err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// logged lists the lines of the log, of this daemon and those before it in the folder, of a level in which a text occurs.
func (s *sentryd) logged(level, text string) []string {
	s.t.Helper()
	raw, err := os.ReadFile(s.logFile())
	if err != nil {
		s.t.Fatal(err)
	}
	var found []string
	lines := bufio.NewScanner(bytes.NewReader(raw))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct{ Level string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Level == level && strings.Contains(lines.Text(), text) {
			found = append(found, lines.Text())
		}
	}
	return found
}

// lastLog is the end of what Sentry logged.
func (s *sentryd) lastLog() string {
	text, err := os.ReadFile(s.logFile())
	if err != nil {
		return err.Error()
	}
	const most = 16 << 10
	if len(text) > most {
		text = text[len(text)-most:]
		text = text[bytes.IndexByte(text, '\n')+1:]
	}
	return string(text)
}
