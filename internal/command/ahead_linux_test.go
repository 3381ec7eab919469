package command

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// spareOf waits until a ruleset was made ahead, or was given up, and gives it.
func spareOf(t *testing.T, b *sandbox, there bool) *ruleset {
	t.Helper()
	for limit := time.Now().Add(10 * time.Second); time.Now().Before(limit); time.Sleep(time.Millisecond) {
		b.mu.Lock()
		spare, making := b.spare, b.making
		b.mu.Unlock()
		if !making && (spare != nil) == there {
			return spare
		}
	}
	t.Fatalf("after ten seconds a ruleset made ahead is there: %v", !there)
	return nil
}

// A command under rules that were made ahead may do what another may, and no more: also where something has changed since.
func TestExpect(t *testing.T) {
	needLandlock(t)
	b := newBench(t)
	h := newHouse(t, b.dir)
	b.runner = New(Options{Protect: h.protect, Grace: testGrace})
	box := b.runner.box
	const may = `cat file "$D/lib/neighbour/file" "$D/etc/hosts"; ! cat ../../state.db "$D/etc/sentry.yaml" "$D/lib/state/workspaces/other/file"`

	b.runner.Expect()
	b.runner.Expect() // one is enough
	before := spareOf(t, box, true)
	for range 2 { // with it, and without
		if res, output := b.spec(t.Context(), h.spec(may)); !res.Succeeded() || strings.Contains(output, canary) {
			t.Fatalf("%s: %q", res.Reason(), output)
		}
		if box.spare != nil || before.fd != -1 {
			t.Fatal("the rules made ahead are there after a command")
		}
	}

	b.runner.Expect()
	before = spareOf(t, box, true)
	for name, text := range map[string]string{"lib/new/file": "new", "etc/new": "new"} {
		path := filepath.Join(h.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(h.dir, "not", "there"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.dir, "not", "there", "yet"), []byte(canary), 0o644); err != nil {
		t.Fatal(err)
	}
	res, output := b.spec(t.Context(), h.spec(`cat "$D/lib/new/file" "$D/etc/new" && ! cat "$D/not/there/yet" && `+may))
	if !res.Succeeded() || strings.Contains(output, canary) || !strings.HasPrefix(output, "newnew") {
		t.Errorf("after a change: %s: %q", res.Reason(), output)
	}
	if before.fd != -1 {
		t.Error("rules that are out of date were not closed")
	}
}

// What is made ahead and not used is given up: newBench sees what is left open.
func TestExpectInVain(t *testing.T) {
	needLandlock(t)
	b := newBench(t)
	h := newHouse(t, b.dir)
	b.runner = New(Options{Protect: h.protect})
	b.runner.box.keep = 10 * time.Millisecond
	b.runner.Expect()
	spareOf(t, b.runner.box, false)

	// What cannot be made ahead is told to the command.
	b.runner = New(Options{Protect: []string{"/"}})
	b.runner.Expect()
	spareOf(t, b.runner.box, false)
	if res, _ := b.run("true"); res.Outcome != NotStarted || !strings.Contains(fmt.Sprint(res.Err), "cannot protect /") {
		t.Error(res.Reason())
	}
}

// Any number may be expected, and run, at once.
func TestExpectMany(t *testing.T) {
	needLandlock(t)
	b := newBench(t)
	h := newHouse(t, b.dir)
	b.runner = New(Options{Protect: h.protect, Grace: testGrace})
	b.runner.box.keep = time.Millisecond
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 4 {
				b.runner.Expect()
				res := b.runner.Run(context.Background(), h.spec(`cat file && ! cat ../../state.db 2> /dev/null`))
				if !res.Succeeded() {
					t.Error(res.Reason())
				}
			}
		})
	}
	all.Wait()
	spareOf(t, b.runner.box, false)
}
