//go:build unix

package git

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// removed removes dir and checks that its parent has nothing but the names that are to stay.
func removed(t *testing.T, dir string, stay ...string) {
	t.Helper()
	if err := RemoveTree(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Dir(dir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got, want := strings.Join(names, " "), strings.Join(stay, " "); got != want {
		t.Errorf("there is %q, want %q", got, want)
	}
}

func TestRemoveTree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "w")
	removed(t, dir) // not there
	for i := range entriesAtOnce + 100 {
		write(t, filepath.Join(dir, fmt.Sprint(i%2), fmt.Sprintf("%d/%d", i%3, i), "g"))
	}
	write(t, filepath.Join(filepath.Dir(dir), "other"))
	removed(t, dir, "other")
}

func TestRemoveTreeWithoutPermissions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "w")
	write(t, filepath.Join(dir, "a/b/c/file"))
	write(t, filepath.Join(dir, "d/file"))
	for _, p := range []string{"a/b/c/file", "a/b/c", "a/b", "a", "d/file", "d", "."} {
		if err := os.Chmod(filepath.Join(dir, p), 0); err != nil {
			t.Fatal(err)
		}
	}
	removed(t, dir)
}

func TestRemoveTreeFollowsNoLink(t *testing.T) {
	base := t.TempDir()
	precious := filepath.Join(base, "precious")
	write(t, filepath.Join(precious, "sub/file"))
	work := filepath.Join(base, "work")
	for name, target := range map[string]string{
		"w/a/root": "/", "w/a/abs": precious, "w/a/rel": "../../../precious", "w/a/loop": "loop", "w/gone": "nowhere", "w/up": "..",
	} {
		path := filepath.Join(work, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	removed(t, filepath.Join(work, "w"))

	// The workspace itself was replaced.
	if err := os.Symlink(precious, filepath.Join(work, "w")); err != nil {
		t.Fatal(err)
	}
	removed(t, filepath.Join(work, "w"))
	if _, err := os.Stat(filepath.Join(precious, "sub/file")); err != nil {
		t.Error(err)
	}
}

func TestRemoveDeepTree(t *testing.T) {
	dir := t.TempDir()
	top, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	// Far deeper than a path can name, and than there are descriptors.
	at, depth := top, 5000
	for i := range depth {
		if err := at.Mkdir("directory", 0o700); err != nil {
			t.Fatal(i, err)
		}
		next, err := at.OpenRoot("directory")
		if err != nil {
			t.Fatal(i, err)
		}
		if i%1000 == 0 {
			f, err := next.Create("file")
			if err != nil {
				t.Fatal(err)
			}
			_ = f.Close()
		}
		_ = at.Close()
		at = next
	}
	_ = at.Close()

	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	few := limit
	few.Cur = 256
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) }()
	removed(t, filepath.Join(dir, "directory"))
}

func TestRemoveTreeWhileSomebodyWrites(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "w")
	write(t, filepath.Join(dir, "sub/first"))
	inside, err := os.OpenRoot(dir) // knows the folder whatever it is called
	if err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var wrote atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; !stop.Load(); i++ {
			name := fmt.Sprintf("%d", i%50)
			if f, err := inside.Create(name); err == nil {
				wrote.Add(1)
				_ = f.Close()
			}
			_ = inside.Mkdir("d"+name, 0o700)
			if f, err := inside.Create("d" + name + "/f"); err == nil {
				_ = f.Close()
			}
		}
	})
	for wrote.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	time.AfterFunc(200*time.Millisecond, func() { stop.Store(true) })
	removed(t, dir)
	wg.Wait()
	_ = inside.Close()
}

// A writer that swaps a folder for a link to a place outside, all the time, gets nothing outside removed.
func TestRemoveTreeAgainstSwaps(t *testing.T) {
	base := t.TempDir()
	precious := filepath.Join(base, "precious")
	for i := range 20 {
		write(t, filepath.Join(precious, fmt.Sprint(i), "file"))
	}
	for round := range 20 {
		work := filepath.Join(base, fmt.Sprintf("work%d", round))
		dir := filepath.Join(work, "w")
		for i := range 50 {
			write(t, filepath.Join(dir, "folder", fmt.Sprint(i), "file"))
		}
		inside, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		var stop atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			for !stop.Load() {
				_ = inside.Rename("folder", "kept")
				_ = inside.Symlink(precious, "folder")
				_ = inside.Remove("folder")
				_ = inside.Rename("kept", "folder")
			}
		})
		time.AfterFunc(5*time.Millisecond, func() { stop.Store(true) })
		if err := RemoveTree(dir); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		stop.Store(true)
		wg.Wait()
		_ = inside.Close()
	}
	for i := range 20 {
		if _, err := os.Stat(filepath.Join(precious, fmt.Sprint(i), "file")); err != nil {
			t.Fatal(err)
		}
	}
}
