//go:build unix

package git

import (
	"os/exec"
	"syscall"
)

// ownGroup makes git the leader of a process group, which ends with git: told to end when the context does, killed when
// git has ended or does not.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
}

// killGroup kills what is left of the group after git itself has been waited for. As long as a member of the group
// lives, no other process can get its number.
func killGroup(cmd *exec.Cmd) {
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
}
