//go:build !linux

package forgetest

import (
	"os/exec"
	"testing"
)

// process is a server that was started.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has
}

// start starts a server.
func start(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd, make(chan struct{})}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait() // it is killed
	}()
	return p, nil
}

// stop ends the server. What it had started ends when it finds its other end gone.
func (p *process) stop(testing.TB, string) {
	_ = p.cmd.Process.Kill()
	<-p.ended
}
