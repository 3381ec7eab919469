package command

import (
	"os"
	"os/exec"
	"syscall"
)

// tree is a command that was started: on Windows its first process only, see Limits.
type tree struct {
	process *os.Process
	done    chan struct{}    // closed when the process has ended
	state   *os.ProcessState // once done
}

func startTree(command func() *exec.Cmd, _ []string, _ *ruleset, begin func() error) (*tree, error) {
	if err := begin(); err != nil {
		return nil, err
	}
	cmd := command()
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	t := &tree{process: cmd.Process, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in the state
		t.state = cmd.ProcessState
		close(t.done)
	}()
	return t, nil
}

func (t *tree) pid() int { return t.process.Pid }

// ended is closed when the process has ended.
func (t *tree) ended() <-chan struct{} { return t.done }

// look does nothing: there are no orphans here.
func (t *tree) look() {}

func (t *tree) left() int {
	select {
	case <-t.done:
		return 0
	default:
		return 1
	}
}

// signal ends the process, whatever the signal: there is no milder way that every program understands.
func (t *tree) signal(syscall.Signal) { _ = t.process.Kill() }

func (t *tree) swept() int { return 0 }

// reap gives how the process ended, nil where it has not.
func (t *tree) reap() *os.ProcessState {
	if t.left() > 0 {
		return nil
	}
	return t.state
}

func signalName(*os.ProcessState) string { return "" }

func maxRSS(*os.ProcessState) int64 { return 0 }
