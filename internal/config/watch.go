package config

import (
	"context"
	"os"
	"path/filepath"
	"time"
)

// watchInterval is how often Watch looks. Asking the file system for two files costs microseconds; being told by the
// kernel would miss changes on network file systems and swaps of a link further up.
const watchInterval = time.Second

// Watch calls changed whenever the configuration file, or the .env beside it, is different from before and has stayed
// the same for a second: an editor that empties a file, writes it in parts, or renames another over it is done by then.
// A link to another file (as Kubernetes swaps ..data) is a change, and so is a file that has gone. It returns when ctx
// ends. What changes before it looks first goes unnoticed: start it before Load.
func Watch(ctx context.Context, file string, changed func()) {
	w := newWatcher(file)
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if w.tick() {
				changed()
			}
		}
	}
}

// watcher compares what is there with what was there. One goroutine owns it.
type watcher struct {
	files     []string
	known     []version // what was last told
	candidate []version // what was seen one tick ago, where that differs from known
}

func newWatcher(file string) *watcher {
	w := &watcher{files: []string{file, filepath.Join(filepath.Dir(file), dotenvName)}}
	w.known = w.look()
	return w
}

// tick looks once, and reports whether there is a change that has settled.
func (w *watcher) tick() bool {
	now := w.look()
	switch {
	case same(now, w.known):
		w.candidate = nil
		return false
	case w.candidate == nil || !same(now, w.candidate):
		w.candidate = now
		return false
	default:
		w.known, w.candidate = now, nil
		return true
	}
}

// version tells two states of a file apart.
type version struct {
	target string      // where its links lead
	info   os.FileInfo // nil where there is no file
}

func (w *watcher) look() []version {
	versions := make([]version, len(w.files))
	for i, file := range w.files {
		target, err := filepath.EvalSymlinks(file)
		if err != nil {
			continue
		}
		versions[i].target = target
		versions[i].info, _ = os.Stat(target) // gone since is the same as not there
	}
	return versions
}

func same(a, b []version) bool {
	for i := range a {
		x, y := a[i], b[i]
		switch {
		case x.target != y.target, (x.info == nil) != (y.info == nil):
			return false
		case x.info == nil:
		case x.info.Size() != y.info.Size(), !x.info.ModTime().Equal(y.info.ModTime()), !os.SameFile(x.info, y.info):
			return false
		}
	}
	return true
}
