package command

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// onOwnThread runs f in a goroutine on a thread that is f's alone and ends with it, so that f may restrict the thread
// for good. It does not wait for f.
//
// The thread is never the first one of the process. The kernel takes the first for the whole when another process wants
// to signal or trace this one: had it been restricted together with a command, that command could do both. (And the
// runtime cannot end it.) What f restricts reaches no other goroutine: the runtime makes no new threads from one that
// is locked.
func onOwnThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			f()
			return
		}
		// We hold the first thread, so the next goroutine to lock one gets another.
		locked := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(locked)
			f()
		}()
		<-locked
		runtime.UnlockOSThread()
	}()
}
