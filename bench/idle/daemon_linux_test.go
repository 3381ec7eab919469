package idle

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"testing"
	"time"

	"sentry/bench/internal/child"
	"sentry/bench/internal/fleet"
	"sentry/bench/internal/measure"
	"sentry/internal/cli"
)

func TestMain(m *testing.M) {
	child.Main(m, map[string]child.Role{"server": fleet.Role, "daemon": daemon})
}

// cost is what a daemon has cost so far.
type cost struct {
	CPU       time.Duration
	Allocated int64 // bytes, ever
	Resident  int64 // bytes
	Heap      int64 // bytes in use after a collection; only where memory was given back
	Error     string
}

// daemon is `sentry watch`, all of it, in a process that tells on the side what it costs. It answers "now", and "settled"
// after it has given back to the system what it does not need.
func daemon(args []string, in io.Reader) int {
	ended := make(chan int, 1)
	go func() { ended <- cli.Main(append(args, "watch"), os.Stdin, io.Discard, os.Stderr, os.Environ()) }()
	out := json.NewEncoder(os.Stdout)
	var word string
	for {
		if _, err := fmt.Fscanln(in, &word); err != nil {
			break
		}
		c := cost{CPU: measure.CPU(), Allocated: measure.Allocated()}
		if word == "settled" {
			debug.FreeOSMemory()
			time.Sleep(100 * time.Millisecond) // what had a finalizer is free only now
			debug.FreeOSMemory()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			c.Heap = int64(m.HeapAlloc)
		}
		var err error
		if c.Resident, err = measure.Resident(); err != nil {
			c.Error = err.Error()
		}
		if err := out.Encode(c); err != nil {
			break
		}
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		return 1
	}
	return <-ended
}
