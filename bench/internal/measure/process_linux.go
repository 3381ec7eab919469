package measure

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strings"
	"syscall"
	"testing"
	"time"
)

// CPU is the processor time that this process has used so far, without its children.
func CPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // it cannot fail with these arguments
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// CPUOf is the processor time that another process has used so far, by the kernel's count of its threads. It must have
// ended none that has worked.
func CPUOf(pid int) (time.Duration, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	var all time.Duration
	for _, file := range tasks {
		text, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		var nanoseconds int64
		if _, err := fmt.Sscan(string(text), &nanoseconds); err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		all += time.Duration(nanoseconds)
	}
	return all, nil
}

// Allocated is how many bytes this process has allocated on its heap so far, given back or not.
func Allocated() int64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}

// Resident is the memory of this process that is in RAM, in bytes.
func Resident() (int64, error) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		return 0, err
	}
	return pages * int64(os.Getpagesize()), nil
}

// Alone waits until no other benchmark runs on this machine, and keeps others waiting until the test ends: go test runs the
// tests of several packages at the same time. It gives what Machine says then.
func Alone(t testing.TB) (machine string) {
	t.Helper()
	lock, err := os.OpenFile(filepath.Join(os.TempDir(), fmt.Sprintf("sentry-bench-%d.lock", os.Getuid())), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lock.Close() })
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return Machine()
}

// Machine says on what is measured, and how busy that was with other things: the load of the last minute.
func Machine() string {
	load, _, _ := strings.Cut(read("/proc/loadavg"), " ")
	model := ""
	for line := range strings.Lines(read("/proc/cpuinfo")) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	return fmt.Sprintf("%d × %s, %s, Linux %s; load %s before", runtime.NumCPU(), model, runtime.Version(), strings.TrimSpace(read("/proc/sys/kernel/osrelease")), load)
}

func read(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return "?"
	}
	return string(text)
}
