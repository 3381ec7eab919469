//go:build linux || darwin

package store

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sentry/internal/sentry"
)

func init() { roles["cramped"] = roleCramped }

// TestNoFileMayGrow: at the limit for the size of files writes are refused as a whole, again and again, and with room
// they go on.
func TestNoFileMayGrow(t *testing.T) {
	out, err := as(t, "cramped", t.TempDir()).Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(out))); err != nil || n < 10 {
		t.Errorf("%q records were accepted", out)
	}
}

// roleCramped writes where no file may grow beyond a limit, until that is refused; then with room again.
func roleCramped(dir string) error {
	ctx := context.Background()
	signal.Ignore(syscall.SIGXFSZ)
	s, err := Open(ctx, Options{Dir: dir, checkpoint: 8})
	if err != nil {
		return err
	}
	defer s.Close()
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		return err
	}
	limit := func(n uint64) error {
		return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: n, Max: was.Max})
	}
	recorded := 0
	for round := range 5 {
		if err := limit(300_000 + uint64(round)*10_000); err != nil {
			return err
		}
		refused := false
		for range 10_000 {
			var batch []Observation
			for i := range 10 {
				o := see(fmt.Sprintf("r%d", i), commitOf(recorded+1))
				o.Revision.Subject = fmt.Sprintf("%0500d", recorded)
				batch = append(batch, o)
			}
			_, err := s.RecordChanges(ctx, batch)
			if errors.Is(err, ErrDiskFull) {
				refused = true
				break
			}
			if err != nil {
				return fmt.Errorf("round %d: %w", round, err)
			}
			recorded++
		}
		if !refused {
			return errors.New("the limit was never met")
		}
		if err := limit(was.Cur); err != nil {
			return err
		}
		heads, err := s.Heads(ctx)
		if err != nil {
			return err
		}
		for _, h := range heads {
			if h.Commit != commitOf(recorded) {
				return fmt.Errorf("round %d: %s is at %s after %d records", round, h.Watch, h.Commit, recorded)
			}
		}
		if err := s.Decide(ctx, sentry.Decision{Verb: sentry.Reloaded, Reason: "room again", At: time.Now()}); err != nil {
			return fmt.Errorf("round %d, with room again: %w", round, err)
		}
	}
	broken, err := s.Check(ctx)
	if err != nil || len(broken) > 0 {
		return fmt.Errorf("check: %v %w", broken, err)
	}
	fmt.Println(recorded)
	return nil
}
