package git

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sentry/internal/sentry"
)

// TestRetire: what is not configured and was not used for long goes, and nothing else; what is wanted again is fetched again.
func TestRetire(t *testing.T) {
	const week = 7 * 24 * time.Hour
	for _, restarted := range []bool{false, true} {
		b := newBench(t, Options{})
		repo, kept := b.server.Repo(t, "gone.git"), b.server.Repo(t, "kept.git")
		commit := repo.Commit(t, "main", map[string]string{"a": "b"}, "first")
		b.tree(repo.URL, "main", commit)
		keptCommit := kept.Commit(t, "main", map[string]string{"a": "c"}, "first")
		b.tree(kept.URL, "main", keptCommit)
		gone, stays := b.remote(repo.URL), b.remote(kept.URL)
		folder := func(r sentry.Remote) string { return filepath.Join(b.folders().Mirrors, mirrorName(r, false)) }
		foreign := filepath.Join(b.folders().Mirrors, "foreign.git")
		if err := os.Mkdir(foreign, 0o700); err != nil {
			t.Fatal(err)
		}
		if restarted {
			b.sources.Close()
			b.sources = b.git.NewSources(b.folders())
			former := filepath.Join(b.folders().Mirrors, ".removing-"+filepath.Base(folder(gone)))
			if err := os.MkdirAll(filepath.Join(former, "objects"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		age := func(by time.Duration) {
			for _, dir := range []string{folder(gone), folder(stays), foreign} {
				if err := os.Chtimes(dir, time.Now(), time.Now().Add(-by)); err != nil {
					t.Fatal(err)
				}
			}
		}
		retire := func(configured ...sentry.Remote) {
			t.Helper()
			if err := b.sources.Retire(configured, week); err != nil {
				t.Fatal(err)
			}
		}
		age(week - time.Minute)
		retire(stays)
		if !isDir(folder(gone)) {
			t.Error("it went before its time")
		}
		age(2 * week)
		retire(gone, stays) // configured: its time begins anew
		retire(stays)
		if !isDir(folder(gone)) {
			t.Error("it was configured a moment ago, and went")
		}
		age(2 * week)
		if !restarted {
			b.tree(repo.URL, "main", commit) // used
			b.tree(repo.URL, "main", commit)
			m := b.sources.mirror(gone, false)
			if _, err := m.bring(t.Context(), Auth{}, "main", commit, &strings.Builder{}); err != nil {
				t.Fatal(err)
			}
			retire(stays)
			if !isDir(folder(gone)) {
				t.Error("it was used a moment ago, and went")
			}
			age(2 * week)
			m.busy <- struct{}{}
			retire(stays)
			m.release()
			if !isDir(folder(gone)) {
				t.Error("it went while it was used")
			}
		}
		retire(stays)
		if isDir(folder(gone)) || !isDir(folder(stays)) || !isDir(foreign) {
			t.Errorf("restarted %v: gone is there: %v, kept: %v, foreign: %v", restarted, isDir(folder(gone)), isDir(folder(stays)), isDir(foreign))
		}
		if !strings.Contains(b.log.String(), "removed the mirror of a QA repository that is not configured any more") {
			t.Errorf("logged: %s", b.log.String())
		}
		b.tree(repo.URL, "main", commit)
	}
}
