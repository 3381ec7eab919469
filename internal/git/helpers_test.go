package git

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sentry/internal/git/gittest"
	"sentry/internal/sentry"
)

// bench is a Git, its sources, a server, and a folder for trees.
type bench struct {
	*testing.T
	git     *Git
	sources *Sources
	server  *gittest.Server
	state   string // state directory
	trees   string
	log     *syncBuffer
	made    int
}

func newBench(t *testing.T, o Options) *bench {
	t.Helper()
	b := &bench{T: t, server: gittest.NewServer(t), state: t.TempDir(), trees: t.TempDir(), log: &syncBuffer{}}
	o.StateDir = b.state
	o.Log = slog.New(slog.NewTextHandler(b.log, nil))
	var err error
	if b.git, err = New(o); err != nil {
		t.Fatal(err)
	}
	b.restart()
	t.Cleanup(func() { b.sources.Close() })
	return b
}

// restart ends the sources, if there are some, and begins new ones over the same folders.
func (b *bench) restart() {
	b.Helper()
	if b.sources != nil {
		b.sources.Close()
	}
	b.sources = b.git.NewSources(b.folders())
}

func (b *bench) folders() SourcesOptions {
	return SourcesOptions{Mirrors: filepath.Join(b.state, "mirrors"), Spares: filepath.Join(b.trees, "spares")}
}

func (b *bench) remote(url string) sentry.Remote {
	b.Helper()
	r, err := sentry.ParseRemote(url, sentry.RemoteRules{InsecureHTTP: true, Local: true})
	if err != nil {
		b.Fatalf("%s: %v", url, err)
	}
	return r
}

// tree makes a tree of a branch and checks that it is that commit.
func (b *bench) tree(url, branch, commit string) (dir string) {
	b.Helper()
	dir = b.nextDir()
	got, err := b.sources.Workspace(b.Context(), Want{Remote: b.remote(url), Branch: branch}, dir, nil)
	if err != nil {
		b.Fatal(err)
	}
	if got != commit {
		b.Fatalf("the tree is said to be %s, want %s", got, commit)
	}
	b.check(dir, branch, commit)
	return dir
}

// check looks at a tree with an ordinary git, as a command would.
func (b *bench) check(dir, branch, commit string) {
	b.Helper()
	if got := b.ask(dir, "rev-parse", "HEAD"); got != commit {
		b.Errorf("HEAD is %s, want %s", got, commit)
	}
	if got := b.ask(dir, "symbolic-ref", "HEAD"); got != "refs/heads/"+branch {
		b.Errorf("HEAD stands for %s", got)
	}
	if got := b.ask(dir, "status", "--porcelain", "--branch"); got != "## "+branch+"...origin/"+branch {
		b.Errorf("git status says %q", got)
	}
	b.ask(dir, "fsck", "--no-progress")
}

func (b *bench) ask(dir string, args ...string) string {
	b.Helper()
	return strings.TrimSpace(gittest.Git(b.T, dir, args...))
}

func (b *bench) nextDir() string {
	b.made++
	return filepath.Join(b.trees, "w"+string(rune('a'+b.made/26))+string(rune('a'+b.made%26)))
}

// spares waits until there are n spares of a branch, of a commit.
func (b *bench) spares(url, branch, commit string, n int) {
	b.Helper()
	src := source{b.remote(url), branch}
	deadline := time.Now().Add(30 * time.Second)
	for {
		b.sources.shelves.mu.Lock()
		have, idle := 0, true
		for _, one := range b.sources.shelves.of(src).spares {
			if one.commit == commit {
				have++
			}
		}
		idle = b.sources.shelves.of(src).order == nil
		b.sources.shelves.mu.Unlock()
		if have == n && idle {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("%d spares of %s, want %d\n%s", have, commit, n, b.log)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// removeSpares takes the spares of a branch away, and sees to it that there will be no others.
func (b *bench) removeSpares(url, branch string) {
	b.Helper()
	b.sources.shelves.giveUp()
	for {
		one, ok := b.sources.shelves.take(source{b.remote(url), branch}, "")
		if !ok {
			return
		}
		if err := RemoveTree(one.dir); err != nil {
			b.Fatal(err)
		}
	}
}

// faultKind fails unless the error is a fault, and gives its kind.
func faultKind(t *testing.T, err error) sentry.FaultKind {
	t.Helper()
	var f *sentry.Fault
	if !errors.As(err, &f) {
		t.Fatalf("%v is no fault", err)
	}
	return f.Kind
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func token(text string) func(context.Context) (sentry.Secret, error) {
	return func(context.Context) (sentry.Secret, error) { return sentry.NewSecret(text), nil }
}

// syncBuffer is a buffer for several writers.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func patterns(t *testing.T, texts ...string) (list []sentry.Pattern) {
	t.Helper()
	for _, text := range texts {
		p, err := sentry.ParsePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return list
}

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
}
