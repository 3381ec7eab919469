package git

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"sentry/internal/sentry"
)

// mirror is the bare repository in which the branches of one QA repository are kept, in one hash function. It belongs to
// one process (the state directory has one owner), and may be thrown away at any time: trees are copies.
type mirror struct {
	git    *Git
	remote sentry.Remote
	dir    string
	sha256 bool

	// busy has one place: whoever holds it may change the repository, and owns what follows.
	busy  chan struct{}
	ready bool              // this process has looked at the repository, and made it where it was missing
	heads map[string]string // branch → the commit that it has here, with all of its tree

	// use is held for reading while something is read from the repository, for writing while objects are taken away.
	use   sync.RWMutex
	lives int // how often the repository was taken away; guarded by use

	checkedMu sync.Mutex
	checked   string // the commit whose tree was found within bounds last
}

// mirrorName is the folder of a mirror: the same for the same repository in every run of Sentry.
func mirrorName(r sentry.Remote, sha256Format bool) string {
	sum := sha256.Sum256([]byte(r.String()))
	name := hex.EncodeToString(sum[:16])
	if sha256Format {
		name += "-sha256"
	}
	return name + ".git"
}

func newMirror(g *Git, folder string, r sentry.Remote, sha256Format bool) *mirror {
	return &mirror{
		git: g, remote: r, dir: filepath.Join(folder, mirrorName(r, sha256Format)), sha256: sha256Format,
		busy: make(chan struct{}, 1), heads: map[string]string{},
	}
}

// acquire waits for the right to change the repository.
func (m *mirror) acquire(ctx context.Context) error {
	select {
	case m.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (m *mirror) release() { <-m.busy }

// bring makes sure that the repository has what a branch pointed at when the server was asked just now, and gives the
// commit that it has: that one or, where the branch has moved on meanwhile, a newer one. However many ask at once, the
// branch is fetched once.
func (m *mirror) bring(ctx context.Context, a Auth, branch, commit string, progress io.Writer) (string, error) {
	if err := m.acquire(ctx); err != nil {
		return "", err
	}
	defer m.release()
	_ = touch(m.dir) // at worst the repository is fetched once more than it need be
	if m.heads[branch] == commit {
		return commit, nil
	}
	if err := m.open(ctx); err != nil {
		return "", err
	}
	if have, err := m.lookUp(ctx, branch); err == nil && have == commit {
		m.heads[branch] = have // a run before this one fetched it
		return have, nil
	}
	_, _ = fmt.Fprintf(progress, "fetching %s\n", sentry.ShortCommit(commit))
	err := m.fetch(ctx, a, branch, progress)
	if err != nil && m.damaged(ctx, err) {
		m.git.log.Warn("a mirror is damaged and is fetched anew", "url", m.remote.String())
		if err = m.discard(); err != nil {
			return "", err
		}
		if err = m.open(ctx); err == nil {
			err = m.fetch(ctx, a, branch, progress)
		}
	}
	if err != nil {
		if errors.Is(err, errMirrorTooBig) {
			// Whatever it was that made it grow, it must not stay on disk.
			err = errors.Join(err, m.discard())
		}
		return "", err
	}
	have, err := m.lookUp(ctx, branch)
	if err != nil {
		return "", err
	}
	m.heads[branch] = have
	return have, nil
}

func (m *mirror) fetch(ctx context.Context, a Auth, branch string, progress io.Writer) error {
	return m.git.fetch(ctx, fetching{
		remote: m.remote, auth: a, dir: m.dir, from: heads + branch, to: heads + branch,
		depth: Depth, maxBytes: m.git.o.MaxMirrorBytes, progress: progress,
	})
}

// lookUp gives the commit that a branch has in the repository.
func (m *mirror) lookUp(ctx context.Context, branch string) (string, error) {
	out, err := m.git.run(ctx, call{args: []string{
		"--git-dir=" + m.dir, "rev-parse", "--verify", "--quiet", "--end-of-options", heads + branch + "^{commit}",
	}})
	if err != nil {
		return "", err
	}
	commit := strings.TrimSpace(out)
	if err := sentry.CheckCommit(commit); err != nil {
		return "", fmt.Errorf("git rev-parse: %w", err)
	}
	return commit, nil
}

// open makes the repository usable at its first use by this process: it takes away what a killed process left, and makes
// a new one where there is none, or one in which something is missing.
func (m *mirror) open(ctx context.Context) error {
	if m.ready {
		return nil
	}
	missing := !isDir(m.dir)
	err := removeLeftovers(m.dir)
	if missing || err != nil || !m.sound(ctx) {
		if !missing {
			m.git.log.Warn("a mirror is damaged and is fetched anew", "url", m.remote.String())
		}
		if err := m.discard(); err != nil {
			return err
		}
		if err := os.MkdirAll(m.dir, 0o700); err != nil {
			return fmt.Errorf("cannot make a mirror: %w", err)
		}
		if err := m.git.initBare(ctx, m.dir, m.sha256); err != nil {
			return fmt.Errorf("cannot make a mirror: %w", err)
		}
	}
	m.ready = true
	return context.Cause(ctx)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// sound reports whether all that the branches need is there.
func (m *mirror) sound(ctx context.Context) bool {
	_, err := m.git.run(ctx, call{args: []string{"--git-dir=" + m.dir, "fsck", "--connectivity-only", "--no-dangling", "--no-progress"}})
	return err == nil || ctx.Err() != nil
}

// discard takes the repository away; the next open makes a new one. The caller holds busy.
func (m *mirror) discard() error {
	m.use.Lock()
	defer m.use.Unlock()
	m.lives++
	m.ready = false
	clear(m.heads)
	m.setChecked("")
	if err := RemoveTree(m.dir); err != nil {
		return fmt.Errorf("cannot take away a damaged mirror: %w", err)
	}
	return nil
}

// life tells the repository from those that come after it was taken away.
func (m *mirror) life() int {
	m.use.RLock()
	defer m.use.RUnlock()
	return m.lives
}

// discardLife takes the repository away, unless somebody else has done so already.
func (m *mirror) discardLife(ctx context.Context, life int) error {
	if err := m.acquire(ctx); err != nil {
		return err
	}
	defer m.release()
	if m.life() != life {
		return nil
	}
	return m.discard()
}

// plant makes a ready tree of a commit that was brought.
func (m *mirror) plant(ctx context.Context, dir, branch, commit string) error {
	m.use.RLock()
	defer m.use.RUnlock()
	if !m.wasChecked(commit) {
		if err := m.git.checkTree(ctx, m.dir, commit); err != nil {
			return err
		}
		m.setChecked(commit)
	}
	return m.git.plant(ctx, m.dir, dir, m.remote, branch, commit)
}

// has reports whether a commit is in the repository.
func (m *mirror) has(ctx context.Context, commit string) bool {
	m.use.RLock()
	defer m.use.RUnlock()
	_, err := m.git.run(ctx, call{args: []string{"--git-dir=" + m.dir, "cat-file", "-e", "--end-of-options", commit + "^{commit}"}})
	return err == nil
}

// canUpdate reports whether a tree of one commit, brought up to date, is what a new tree of the other would be. It is not
// where attributes differ: they change what is written for files that are the same in both.
func (m *mirror) canUpdate(ctx context.Context, from, to string) bool {
	m.use.RLock()
	defer m.use.RUnlock()
	_, err := m.git.run(ctx, call{args: []string{
		"--git-dir=" + m.dir, "diff", "--quiet", "--no-ext-diff", "--no-renames", "--end-of-options", from, to, "--", ":(glob)**/.gitattributes",
	}})
	return err == nil // and not where the other commit is not there any more
}

func (m *mirror) wasChecked(commit string) bool {
	m.checkedMu.Lock()
	defer m.checkedMu.Unlock()
	return m.checked == commit
}

func (m *mirror) setChecked(commit string) {
	m.checkedMu.Lock()
	defer m.checkedMu.Unlock()
	m.checked = commit
}

const (
	manyPacks = 10
	manyLoose = 500
)

// tidy packs the repository anew when fetches have left many small files, and drops what no branch needs any more.
// Every tree is a copy of all that is there.
func (m *mirror) tidy(ctx context.Context) error {
	packs, loose := 0, 0
	err := filepath.WalkDir(filepath.Join(m.dir, "objects"), func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case strings.HasSuffix(path, ".pack"):
			packs++
		case !entry.IsDir() && filepath.Base(filepath.Dir(path)) != "pack":
			loose++
		}
		return nil
	})
	if err != nil || packs <= manyPacks && loose <= manyLoose {
		return err
	}
	if err := m.acquire(ctx); err != nil {
		return err
	}
	defer m.release()
	m.use.Lock()
	defer m.use.Unlock()
	for _, args := range [][]string{{"repack", "-a", "-d", "-q"}, {"prune", "--expire=now"}} {
		if _, err := m.git.run(ctx, call{args: append([]string{"--git-dir=" + m.dir}, args...)}); err != nil {
			return err
		}
	}
	return nil
}
