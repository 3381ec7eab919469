//go:build unix

package command

import (
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// signalName names the signal that ended a process; empty where none did.
func signalName(state *os.ProcessState) string {
	status, ok := state.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return ""
	}
	if name := unix.SignalName(status.Signal()); name != "" {
		return name
	}
	return status.Signal().String()
}

// maxRSS is the most memory that a process had resident, in bytes.
func maxRSS(state *os.ProcessState) int64 {
	usage, ok := state.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	if runtime.GOOS == "darwin" || runtime.GOOS == "ios" {
		return usage.Maxrss // getrusage(2) of macOS: bytes
	}
	return usage.Maxrss * 1024
}
