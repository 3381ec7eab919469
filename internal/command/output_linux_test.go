package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// However much a command prints and in whatever form, memory stays flat and the log bounded.
func TestHugeOutput(t *testing.T) {
	for _, tc := range []struct{ name, script string }{
		{"lines", "{ yes 'a line of a log that goes on and on' || true; } | head -c 200000000"},
		{"one line", "head -c 256000000 /dev/zero | tr '\\0' x"},
		{"binary", "head -c 64000000 /dev/urandom"},
		{"zeros", "head -c 200000000 /dev/zero"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if os.Getenv("SENTRY_TEST_HUGE") != "" { // 10 GB, and a line of 1 GB
				tc.script = strings.NewReplacer("200000000", "10000000000", "256000000", "1000000000").Replace(tc.script)
			}
			b := newBench(t)
			state := filepath.Join(b.dir, "state")
			begin := time.Now()
			r := daemon(t, state, tc.script, "TIMEOUT=300s")
			if r.Outcome != Exited || r.ExitCode != 0 || r.Err != "" {
				t.Errorf("%s, code %d, %s", r.Outcome, r.ExitCode, r.Err)
			}
			if r.Peak > 48<<20*raceFactor {
				t.Errorf("%d MB were resident", r.Peak>>20)
			}
			info, err := os.Stat(filepath.Join(state, "step.log"))
			if err != nil || info.Size() < headSize+tailSize || info.Size() > headSize+tailSize+100 {
				t.Errorf("the log has %d bytes, %v", info.Size(), err)
			}
			t.Logf("%v, peak %d MB", time.Since(begin).Round(time.Millisecond), r.Peak>>20)
		})
	}
}

// What is printed can be read at once, also by readers of the middle of a line, and also when it might begin a secret.
func TestLiveOutput(t *testing.T) {
	b := newBench(t)
	path := filepath.Join(b.dir, "live.log")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	result := make(chan Result, 1)
	go func() {
		result <- b.runner.Run(ctx, Spec{
			Script: "printf 'Password: '; until test -e go; do sleep 0.02; done; echo done", Dir: b.dir, Log: path,
			Env: []string{"PATH=" + os.Getenv("PATH")}, Mask: logger.NewMasker(sentry.NewSecret(": and so on")),
		})
	}()
	for text := ""; text != "Password: "; time.Sleep(10 * time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatalf("the log shows %q", text)
		}
		if data, err := os.ReadFile(path); err == nil {
			text = string(data)
		}
	}
	if err := os.WriteFile(filepath.Join(b.dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if res := <-result; !res.Succeeded() {
		t.Error(res.Reason())
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "Password: done\n" {
		t.Errorf("the log is %q, %v", data, err)
	}
}

// A command does not wait for a log that cannot be written, and its result says that the log is incomplete.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs a small file system")
	}
	b := newBench(t)
	disk := filepath.Join(b.dir, "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", disk, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("no small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(disk, "step.log")
	res := b.runner.Run(context.Background(), Spec{
		Script: "echo first; head -c 3000000 /dev/zero | tr '\\0' x; echo last; exit 3",
		Env:    []string{"PATH=" + os.Getenv("PATH")}, Log: path,
	})
	if res.Outcome != Exited || res.ExitCode != 3 || !errors.Is(res.Output.Err, unix.ENOSPC) || !errors.Is(res.Err, unix.ENOSPC) {
		t.Errorf("%s, %+v", res.Reason(), res.Output)
	}
	if res.Output.Bytes != 3_000_011 || res.Output.Dropped < 2_900_000 || res.Output.Dropped > res.Output.Bytes {
		t.Errorf("%+v", res.Output)
	}
	data, err := os.ReadFile(path)
	if err != nil || !bytes.HasPrefix(data, []byte("first\n")) {
		t.Errorf("the log begins with %q, %v", data[:min(len(data), 20)], err)
	}
}

// A process that is none of the command's holds the pipe open: it got the descriptor from it. The command ends anyway.
func TestPipeHeldByStranger(t *testing.T) {
	b := newBench(t)
	begin := time.Now()
	var held *os.File
	res, output := b.spec(context.Background(), Spec{
		Script: "echo out; touch ready; until test -e held; do sleep 0.02; done; echo end; exit 4",
		OnStart: func(pid int) {
			for held == nil && time.Since(begin) < 10*time.Second {
				if _, err := os.Stat(filepath.Join(b.dir, "ready")); err == nil {
					f, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/1", pid), os.O_WRONLY, 0)
					if err != nil {
						t.Error(err)
						break
					}
					held = f
				}
				time.Sleep(10 * time.Millisecond)
			}
			begin = time.Now()
			if err := os.WriteFile(filepath.Join(b.dir, "held"), nil, 0o600); err != nil {
				t.Error(err)
			}
		},
	})
	if held == nil {
		t.Fatal("the pipe could not be held")
	}
	if res.ExitCode != 4 || output != "out\nend\n" {
		t.Errorf("%s, %q", res.Reason(), output)
	}
	if took := time.Since(begin); took < drainTime || took > 2*time.Second*raceFactor {
		t.Errorf("it took %v", took)
	}
	if err := held.Close(); err != nil {
		t.Error(err)
	}
}
