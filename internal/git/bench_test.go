package git

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sentry/internal/git/gittest"
	"sentry/internal/sentry"
)

// BenchmarkWorkspace is the time from the call to a ready tree of a QA repository behind git http-backend on loopback,
// whose own time for the question is in it ("ask" is that part alone).
func BenchmarkWorkspace(b *testing.B) {
	for _, files := range []int{160, 2000, 20_000} {
		w := newWorkshop(b, files)
		b.Run(fmt.Sprintf("files=%d/spare", files), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				w.waitForSpare(b)
				b.StartTimer()
				w.tree(b)
			}
		})
		b.Run(fmt.Sprintf("files=%d/none", files), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				for _, dir := range w.sources.shelves.takeAll() {
					_ = RemoveTree(dir)
				}
				b.StartTimer()
				w.tree(b)
			}
		})
	}
	b.Run("ask", func(b *testing.B) {
		w := newWorkshop(b, 1)
		for b.Loop() {
			if _, err := w.sources.head(b.Context(), w.source, Auth{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// workshop has one QA repository with a number of files in folders of forty.
type workshop struct {
	git     *Git
	sources *Sources
	source  source
	commit  string
	trees   string
	made    int
}

func newWorkshop(b *testing.B, files int) *workshop {
	b.Helper()
	server := gittest.NewServer(b)
	repo := server.Repo(b, "qa.git")
	content := map[string]string{}
	for i := range files {
		content[fmt.Sprintf("dir%d/file%d.yaml", i/40, i)] = strings.Repeat(fmt.Sprintf("line of file %d\n", i), 100)
	}
	w := &workshop{trees: b.TempDir(), commit: repo.Commit(b, "main", content, "first")}
	remote, err := sentry.ParseRemote(repo.URL, sentry.RemoteRules{InsecureHTTP: true})
	if err != nil {
		b.Fatal(err)
	}
	w.source = source{remote, "main"}
	if w.git, err = New(Options{StateDir: b.TempDir()}); err != nil {
		b.Fatal(err)
	}
	w.sources = w.git.NewSources(SourcesOptions{Mirrors: filepath.Join(w.trees, "mirrors"), Spares: filepath.Join(w.trees, "spares")})
	b.Cleanup(w.sources.Close)
	w.sources.Prepare(remote, Auth{}, "main")
	return w
}

func (w *workshop) waitForSpare(b *testing.B) {
	b.Helper()
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		w.sources.shelves.mu.Lock()
		ready := len(w.sources.shelves.of(w.source).spares) > 0
		w.sources.shelves.mu.Unlock()
		if ready {
			return
		}
		if time.Since(begin) > time.Minute {
			b.Fatal("no spare")
		}
	}
}

func (w *workshop) tree(b *testing.B) {
	b.Helper()
	w.made++
	dir := filepath.Join(w.trees, fmt.Sprint("w", w.made))
	commit, err := w.sources.Workspace(b.Context(), Want{Remote: w.source.remote, Branch: w.source.branch}, dir, nil)
	if err != nil || commit != w.commit {
		b.Fatal(commit, err)
	}
	b.StopTimer()
	if err := RemoveTree(dir); err != nil {
		b.Fatal(err)
	}
	b.StartTimer()
}
