package command

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// withheld are the capabilities that a command does not get although this process has them (it runs as root): with each
// of them the kernel, or another process, can be made to do what the sandbox forbids. Reading the environment of any
// process, for one, is open to CAP_PERFMON and CAP_SYS_ADMIN whatever Landlock says (may_access_mm in kernel/fork.c, Linux
// 6.13). What root needs to build, install and deploy it keeps.
var withheld = []uintptr{
	unix.CAP_SYS_ADMIN, unix.CAP_PERFMON, unix.CAP_SYS_PTRACE, unix.CAP_BPF, unix.CAP_CHECKPOINT_RESTORE,
	unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO, unix.CAP_SYS_BOOT, unix.CAP_SYS_RESOURCE, unix.CAP_DAC_READ_SEARCH,
	unix.CAP_MAC_ADMIN, unix.CAP_MAC_OVERRIDE, unix.CAP_SYSLOG,
}

// giveUpPrivileges sees to it that what is started from the calling thread gains none by running a program with more
// (sudo, ping of old), and has lost the withheld ones.
func giveUpPrivileges() error {
	for _, capability := range withheld {
		if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, capability, 0, 0, 0); err != nil || has != 1 {
			continue // the kernel does not know it, or it is gone already
		}
		// Without the right to drop it we are not root, and a command gets no capability but the ambient ones.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil && err != unix.EPERM {
			return fmt.Errorf("cannot give up capability %d: %w", capability, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil && err != unix.EINVAL {
		return fmt.Errorf("cannot give up ambient capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot give up new privileges: %w", err)
	}
	return nil
}

// firstToGo is how much likelier than others the kernel is to choose a process when memory runs out, in thousandths of
// the memory there is (proc_pid_oom_score_adj(5)).
const firstToGo = 500

// volunteer makes a process, and what it starts, go before this one when memory runs out.
func volunteer(pid int) {
	// Where it fails the process has a higher value, or has gone.
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(strconv.Itoa(firstToGo)), 0)
}
