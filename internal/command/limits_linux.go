package command

import (
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// Limits says in words what of the safety that this package gives is lacking here.
func Limits() []string {
	var lacks []string
	lack := func(text string) { lacks = append(lacks, text) }
	switch abi := landlockABI(); {
	case abi == 0:
		lack("the kernel has no Landlock (Linux 5.13 or later, enabled): commands can read and change all that Sentry can, its state and credentials included, and signal it")
	case abi < abiScope:
		lack("the kernel's Landlock cannot hold back signals (Linux 6.12 or later): a command can end Sentry and other commands")
	}
	if abi := landlockABI(); abi < abiSockets {
		lack("the kernel's Landlock cannot hold back connections to sockets: a command can reach those that Sentry's user can reach")
	}
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		lack("/proc is not mounted: processes that leave the session of their command outlive it")
	}
	if limit, err := queueLimit(os.Getpid()); err == nil && (borne.Load() == 0 || limit.Max != borne.Load()) {
		if limit.Max < firstMark+marks {
			lack("the limit on message queues (ulimit -q) is below 800,000 bytes, or another Sentry has set it: after a crash of Sentry, processes of commands that cleared their environment may be left")
		}
		if limit.Max < firstTag+tags {
			lack("the limit on message queues (ulimit -q) is below 400,000 bytes: a process that left the session of its command may be ended later than its command, if others run")
		}
	}
	if untraceable.Load() {
		lack("processes may not trace their children here: a process that leaves the session of its command in the first moment may be ended later than its command, if others run")
	}
	if os.Geteuid() == 0 && hasDisks() {
		lack("Sentry runs as root, and so do commands: by way of a disk device they can get around their sandbox. Run it as a user of its own")
	}
	if fd, err := unix.PidfdOpen(os.Getpid(), 0); err != nil {
		lack("the kernel has no process descriptors (Linux 5.3 or later): a process identifier that is used again at the wrong moment may be signaled")
	} else {
		_ = unix.Close(fd)
	}
	if _, err := exec.LookPath("bash"); err != nil {
		lack("there is no bash: commands run with sh -e, and a failure within a pipeline goes unnoticed")
	}
	return lacks
}

// hasDisks reports whether there are block devices to be read, as there are not in most containers.
func hasDisks() bool {
	entries, err := os.ReadDir("/dev")
	if err != nil {
		return false
	}
	for _, entry := range entries {
		if entry.Type()&os.ModeDevice != 0 && entry.Type()&os.ModeCharDevice == 0 {
			return true
		}
	}
	return false
}
