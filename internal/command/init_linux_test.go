package command

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestReapStrangers is about a Sentry that is the first process of a container: what others started beside it, and did
// not wait for, comes to it when that ends. What it started itself it leaves to whoever waits for that.
func TestReapStrangers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs a process namespace")
	}
	cmd := play(t, "first")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, Setsid: true}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func init() {
	roles["first"] = func() error {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
			return err
		}
		mine := exec.Command("true")
		mine.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := mine.Start(); err != nil {
			return err
		}
		// One orphan is in the session of what was started beside us, one leads its own.
		stranger := exec.Command("sh", "-c", "sleep 0.1 & setsid sleep 0.1 &")
		stranger.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := stranger.Run(); err != nil {
			return err
		}
		if err := zombies(func(n int) bool { return n == 3 }); err != nil {
			return fmt.Errorf("the orphans have not come: %w", err)
		}
		seen := ours.reapStrangers(nil)
		if len(seen) == 0 {
			return fmt.Errorf("no orphan was seen: %v", descendants(os.Getpid()))
		}
		ours.reapStrangers(seen)
		if err := zombies(func(n int) bool { return n == 1 }); err != nil {
			return err
		}
		return mine.Wait()
	}
}

// zombies waits until as many children of this process as wanted have ended.
func zombies(enough func(int) bool) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		n := 0
		all := descendants(os.Getpid())
		for _, p := range all {
			if strings.Contains(p, " Z ") {
				n++
			}
		}
		if enough(n) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("children are %v", all)
		}
	}
}
