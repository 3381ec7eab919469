package command

import (
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// adoptOrphans makes this process the one that orphaned descendants come to. It lasts for the life of the process and
// does nothing the second time.
func adoptOrphans() {
	// It cannot fail on Linux 3.4 or later, which Go needs anyway.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}

// Prepare makes this process one that can run commands safely, and should be called before anything is started: orphans
// come to it, no other process of the user can look into its memory or environment (nor can a debugger, except root's),
// it leaves no core dumps, and whatever it starts from now on bears the mark of the state directory. It may be called
// again. What it does lasts for the life of the process.
func Prepare(stateDir string) (Mark, error) {
	adoptOrphans()
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return Mark{}, fmt.Errorf("cannot close the process to others: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return Mark{}, fmt.Errorf("cannot switch off core dumps: %w", err)
	}
	mark, err := markOf(stateDir)
	if err != nil {
		return Mark{}, err
	}
	if !bear(mark.limit) {
		mark.limit = 0
	}
	borne.Store(mark.limit)
	return mark, nil
}

// borne is the mark that this process bears, 0 before Prepare or where it could not be set.
var borne atomic.Uint64

// bear sets the limit that is the mark, or finds it set.
func bear(limit uint64) bool {
	now, err := queueLimit(os.Getpid())
	switch {
	case err != nil:
		return false
	case now.Max == limit:
		return true
	case firstMark <= now.Max && now.Max < firstMark+marks:
		return false // we run inside a command of another Sentry: its mark is to stay
	}
	return unix.Setrlimit(unix.RLIMIT_MSGQUEUE, &unix.Rlimit{Cur: limit, Max: limit}) == nil
}
