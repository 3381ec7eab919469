package config

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// step is what happens between two ticks of a watcher, and whether the tick then tells of a change.
type step struct {
	name string
	do   func(t *testing.T, folder string)
	tell bool
}

func write(name, text string) func(*testing.T, string) {
	return func(t *testing.T, folder string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func nothing(*testing.T, string) {}

func TestWatcher(t *testing.T) {
	tests := []struct {
		name  string
		steps []step
	}{
		{"nothing happens", []step{{"", nothing, false}, {"", nothing, false}}},
		{"written in place", []step{
			{"write", write("sentry.yaml", "changed"), false},
			{"settle", nothing, true},
			{"after", nothing, false},
		}},
		{"emptied, then written in parts", []step{
			{"truncate", write("sentry.yaml", ""), false},
			{"first half", write("sentry.yaml", "cha"), false},
			{"second half", write("sentry.yaml", "changed"), false},
			{"settle", nothing, true},
			{"after", nothing, false},
		}},
		{"renamed over", []step{
			{"write beside it", write("sentry.yaml.tmp", "same!"), false},
			{"rename", func(t *testing.T, folder string) {
				if err := os.Rename(filepath.Join(folder, "sentry.yaml.tmp"), filepath.Join(folder, "sentry.yaml")); err != nil {
					t.Fatal(err)
				}
			}, false},
			{"settle", nothing, true},
			{"after", nothing, false},
		}},
		{"moved away and written anew", []step{
			{"move", func(t *testing.T, folder string) {
				if err := os.Rename(filepath.Join(folder, "sentry.yaml"), filepath.Join(folder, "sentry.yaml~")); err != nil {
					t.Fatal(err)
				}
			}, false},
			{"write", write("sentry.yaml", "changed"), false},
			{"settle", nothing, true},
		}},
		{"deleted, and back", []step{
			{"delete", func(t *testing.T, folder string) {
				if err := os.Remove(filepath.Join(folder, "sentry.yaml")); err != nil {
					t.Fatal(err)
				}
			}, false},
			{"settle", nothing, true},
			{"gone", nothing, false},
			{"write", write("sentry.yaml", "first"), false},
			{"settle", nothing, true},
		}},
		{"changed and changed back", []step{
			{"away", func(t *testing.T, folder string) {
				if err := os.Rename(filepath.Join(folder, "sentry.yaml"), filepath.Join(folder, "aside")); err != nil {
					t.Fatal(err)
				}
			}, false},
			{"back", func(t *testing.T, folder string) {
				if err := os.Rename(filepath.Join(folder, "aside"), filepath.Join(folder, "sentry.yaml")); err != nil {
					t.Fatal(err)
				}
			}, false},
			{"settle", nothing, false},
		}},
		{"variables", []step{
			{"create", write(".env", "A=1"), false},
			{"settle", nothing, true},
			{"write", write(".env", "A=22"), false},
			{"settle", nothing, true},
			{"after", nothing, false},
		}},
		{"another file", []step{
			{"write", write("notes.txt", "x"), false},
			{"settle", nothing, false},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			folder := t.TempDir()
			write("sentry.yaml", "first")(t, folder)
			w := newWatcher(&Config{File: filepath.Join(folder, "sentry.yaml")})
			run(t, w, folder, tt.steps)
		})
	}
}

func run(t *testing.T, w *watcher, folder string, steps []step) {
	t.Helper()
	for i, s := range steps {
		s.do(t, folder)
		if tell := w.tick(); tell != s.tell {
			t.Fatalf("step %d (%s): tells %v, want %v", i, s.name, tell, s.tell)
		}
	}
}

// TestWatcherSeesConfigMap swaps a folder the way the kubelet updates a ConfigMap: sentry.yaml → ..data/sentry.yaml, and
// ..data → a folder with a time in its name, replaced by a rename. The file at the end is new, and may well have the
// size and time of the old one.
func TestWatcherSeesConfigMap(t *testing.T) {
	folder := t.TempDir()
	version := func(t *testing.T, name string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(folder, name), 0o700); err != nil {
			t.Fatal(err)
		}
		write(name+"/sentry.yaml", "as long")(t, folder)
		at := time.Unix(1_700_000_000, 0)
		if err := os.Chtimes(filepath.Join(folder, name, "sentry.yaml"), at, at); err != nil {
			t.Fatal(err)
		}
	}
	link := func(t *testing.T, target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	version(t, "..2026_01")
	link(t, "..2026_01", "..data")
	link(t, "..data/sentry.yaml", "sentry.yaml")
	w := newWatcher(&Config{File: filepath.Join(folder, "sentry.yaml")})
	run(t, w, folder, []step{
		{"nothing", nothing, false},
		{"prepare", func(t *testing.T, folder string) {
			version(t, "..2026_02")
			link(t, "..2026_02", "..data_tmp")
		}, false},
		{"swap", func(t *testing.T, folder string) {
			if err := os.Rename(filepath.Join(folder, "..data_tmp"), filepath.Join(folder, "..data")); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"clean", func(t *testing.T, folder string) {
			if err := os.RemoveAll(filepath.Join(folder, "..2026_01")); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"after", nothing, false},
	})
}

// Watch itself: it tells once for one change, and ends with its context.
func TestWatch(t *testing.T) {
	folder := t.TempDir()
	write("sentry.yaml", "first")(t, folder)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var told atomic.Int32
		done := make(chan struct{})
		go func() {
			defer close(done)
			Watch(ctx, &Config{File: filepath.Join(folder, "sentry.yaml")}, func() { told.Add(1) })
		}()
		synctest.Wait() // it has looked
		time.Sleep(10 * watchInterval)
		if n := told.Load(); n != 0 {
			t.Errorf("told %d times of nothing", n)
		}
		write("sentry.yaml", "changed")(t, folder)
		time.Sleep(10 * watchInterval)
		if n := told.Load(); n != 1 {
			t.Errorf("told %d times of one change", n)
		}
		cancel()
		<-done
	})
}

// What changes between the reading of a configuration and the beginning of Watch is told, too: a daemon takes a while to
// start. Where nothing changes there is nothing to tell, whichever way the file was named.
func TestWatchSeesWhatChangedBeforeIt(t *testing.T) {
	folder := t.TempDir()
	write("sentry.yaml", minimal)(t, folder)
	t.Chdir(folder)
	for _, c := range []struct {
		name string
		do   func(*testing.T, string)
		want int32
	}{
		{"nothing", nothing, 0},
		{"the file", write("sentry.yaml", minimal+"# changed\n"), 1},
		{"the variables", write(".env", "A=b\n"), 1},
	} {
		config, _, err := Load("sentry.yaml", Options{Environ: []string{}})
		if err != nil {
			t.Fatal(err)
		}
		c.do(t, folder)
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			var told atomic.Int32
			done := make(chan struct{})
			go func() {
				defer close(done)
				Watch(ctx, config, func() { told.Add(1) })
			}()
			time.Sleep(10 * watchInterval)
			if n := told.Load(); n != c.want {
				t.Errorf("%s: told %d times, want %d", c.name, n, c.want)
			}
			cancel()
			<-done
		})
	}
}
