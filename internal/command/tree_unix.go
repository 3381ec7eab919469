//go:build unix && !linux

package command

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// tree is a command that was started: its first process, the leader of a session and group, and who stays in the group.
// Who leaves it is not found, see Limits.
type tree struct {
	leader int
	done   chan struct{}    // closed when the leader has ended
	state  *os.ProcessState // of the leader, once done
	late   bool             // the group got a signal after the leader had ended
}

func startTree(command func() *exec.Cmd, _ []string, _ *ruleset, begin func() error) (*tree, error) {
	if err := begin(); err != nil {
		return nil, err
	}
	cmd := command()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	t := &tree{leader: cmd.Process.Pid, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in the state
		t.state = cmd.ProcessState
		close(t.done)
	}()
	return t, nil
}

func (t *tree) pid() int { return t.leader }

// ended is closed when the leader has ended.
func (t *tree) ended() <-chan struct{} { return t.done }

func (t *tree) hasEnded() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// look does nothing: orphans do not come to this process.
func (t *tree) look() {}

// left is 0 when nothing is left of the group. Its number stays taken as long as it has a member.
func (t *tree) left() int {
	if t.hasEnded() && unix.Kill(-t.leader, 0) == unix.ESRCH {
		return 0
	}
	return 1
}

// signal sends a signal to the group.
func (t *tree) signal(sig syscall.Signal) {
	ended := t.hasEnded()
	err := unix.Kill(-t.leader, sig)
	if sig == unix.SIGTERM {
		_ = unix.Kill(-t.leader, unix.SIGCONT) // what is stopped cannot end
	}
	t.late = t.late || ended && err == nil
}

// swept is 1 where something got a signal after the leader had ended: how many they were is not known here.
func (t *tree) swept() int {
	if t.late {
		return 1
	}
	return 0
}

// reap gives how the leader ended, nil where it has not.
func (t *tree) reap() *os.ProcessState {
	if !t.hasEnded() {
		return nil
	}
	return t.state
}
