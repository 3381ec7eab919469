package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// While Begin is asked the process is there and has done nothing, not even become a shell that reads its files.
func TestBegin(t *testing.T) {
	b := newBench(t)
	mark := filepath.Join(b.dir, "mark")
	there := func() bool {
		_, err := os.Stat(mark)
		return err == nil
	}
	var asked time.Time
	res, output := b.spec(t.Context(), Spec{Script: "touch mark; echo done", Begin: func() error {
		asked = time.Now()
		if made := descendants(os.Getpid()); !untraceable.Load() && (len(made) != 1 || !strings.Contains(made[0], ` t "bash`)) {
			t.Errorf("while Begin is asked there is %v, want a shell that is held", made)
		}
		time.Sleep(50 * time.Millisecond)
		if there() {
			t.Error("the command ran before Begin had returned")
		}
		return nil
	}})
	if !res.Succeeded() || output != "done\n" || !there() || res.StartedAt.Before(asked.Add(50*time.Millisecond)) {
		t.Errorf("%s: %q, asked at %s, started at %s", res.Reason(), output, asked, res.StartedAt)
	}
	_ = os.Remove(mark)

	no := errors.New("it could not be saved")
	res, _ = b.spec(t.Context(), Spec{Script: "touch mark", Begin: func() error { return no }})
	if res.Outcome != NotStarted || !errors.Is(res.Err, no) || there() {
		t.Errorf("Begin said no: %s, it ran: %v", res.Reason(), there())
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	res, _ = b.spec(ctx, Spec{Script: "touch mark", Begin: func() error { cancel(errors.New("never mind")); return nil }})
	if res.Outcome != NotStarted || res.Err == nil || res.Err.Error() != "never mind" || there() {
		t.Errorf("canceled while Begin was asked: %s, it ran: %v", res.Reason(), there())
	}
}

// Where processes cannot be traced, the process is made once Begin has allowed it.
func TestBeginWithoutTracing(t *testing.T) {
	untraceable.Store(true)
	ours.mu.Lock()
	before := ours.untagged
	ours.mu.Unlock()
	t.Cleanup(func() {
		untraceable.Store(false)
		ours.mu.Lock()
		defer ours.mu.Unlock()
		ours.untagged = before
	})
	TestBegin(t)
}

func init() {
	// hesitant is about to begin a command that makes $MARK, for ever. It tells the process of it.
	roles["hesitant"] = func() error {
		New(Options{}).Run(context.Background(), Spec{
			Script: `touch "$MARK"`, Env: []string{"PATH=" + os.Getenv("PATH"), "MARK=" + os.Getenv("MARK")},
			Begin: func() error {
				fmt.Println(strings.Join(descendants(os.Getpid()), ""))
				select {}
			},
		})
		return nil
	}
}

// What is held does not get loose when this process is killed.
func TestKilledBeforeItBegan(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	for range 10 {
		cmd := play(t, "hesitant", "MARK="+mark)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		var pid int
		if _, scanErr := fmt.Sscan(line, &pid); err != nil || scanErr != nil {
			t.Fatalf("it told %q: %v", line, errors.Join(err, scanErr))
		}
		held, err := identify(pid)
		if err != nil {
			t.Fatal(err)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for limit := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if reapOrphan(pid) { // it comes to this process, where that has run a command
				break
			}
			if now, err := identify(pid); err != nil || now != held {
				break
			}
			if time.Now().After(limit) {
				t.Fatal("the command outlives Sentry")
			}
		}
		if _, err := os.Stat(mark); err == nil {
			t.Fatal("the command ran")
		}
	}
}
