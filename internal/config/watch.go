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

// Watch calls changed whenever the file of a configuration, or the .env beside it, is different from before and has stayed
// the same for a second: an editor that empties a file, writes it in parts, or renames another over it is done by then.
// A link to another file (as Kubernetes swaps ..data) is a change, and so is a file that has gone. It returns when ctx
// ends. What has changed since Load read it is a change, too, however long ago that was.
func Watch(ctx context.Context, c *Config, changed func()) {
	w := newWatcher(c)
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

func newWatcher(c *Config) *watcher {
	w := &watcher{files: watched(c.File), known: c.versions}
	if w.known == nil { // nobody read it from a file
		w.known = look(w.files)
	}
	return w
}

// watched are the files that a configuration is read from.
func watched(file string) []string {
	return []string{file, filepath.Join(filepath.Dir(file), dotenvName)}
}

// tick looks once, and reports whether there is a change that has settled.
func (w *watcher) tick() bool {
	now := look(w.files)
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

func look(files []string) []version {
	versions := make([]version, len(files))
	for i, file := range files {
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
