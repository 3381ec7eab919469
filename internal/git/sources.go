package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"sentry/internal/sentry"
)

// What holds where SourcesOptions do not say otherwise.
const (
	DefaultMaxSpares      = 3
	DefaultMaxSparesTotal = 64
	DefaultMaxSpareBytes  = 8 << 30
)

// SourcesOptions say where the trees of QA repositories come from, and how many are kept ready.
type SourcesOptions struct {
	// Mirrors is the folder of the mirrors. It survives; nothing but Sentry needs to read it.
	Mirrors string
	// Spares is the folder of the workspaces made ahead. It should be on the file system on which workspaces are wanted:
	// then handing one over is a rename. Whatever is in it at the start is removed.
	Spares string
	// Tree is the folder of a workspace in which its tree is, and Beside are folders that it has besides, empty at first.
	// Where Tree is "" the workspace is the tree, and nothing can be beside it.
	Tree   string
	Beside []string
	// MaxSpares bounds the spares of one branch of one repository, MaxSparesTotal those of all, MaxSpareBytes their sum on
	// disk. A branch has one spare to begin with, and one more each time that there was none when one was wanted.
	MaxSpares      int
	MaxSparesTotal int
	MaxSpareBytes  int64
}

// Sources makes ready trees of QA repositories. It is safe for concurrent use. One process at a time may have one over
// the same folders.
type Sources struct {
	git *Git
	o   SourcesOptions

	mu      sync.Mutex // owns mirrors
	mirrors map[string]*mirror

	shelves   *shelves
	questions questions
	// background runs something beside the caller, with a context that ends with the Sources. Close waits for it.
	background func(func(context.Context))
	working    sync.WaitGroup
	stop       context.CancelFunc
}

// NewSources begins with what the folders hold: mirrors are used again, spares are removed in the background. Close
// must be called.
func (g *Git) NewSources(o SourcesOptions) *Sources {
	setDefault(&o.MaxSpares, DefaultMaxSpares)
	setDefault(&o.MaxSparesTotal, DefaultMaxSparesTotal)
	setDefault(&o.MaxSpareBytes, DefaultMaxSpareBytes)
	ctx, stop := context.WithCancel(context.Background())
	s := &Sources{
		git: g, o: o, mirrors: map[string]*mirror{}, shelves: newShelves(o),
		questions: questions{latest: map[asking]*question{}}, stop: stop,
	}
	s.background = func(f func(context.Context)) { s.working.Go(func() { f(ctx) }) }
	leftovers := leftovers(o.Spares, g.temp, o.Mirrors)
	s.background(func(ctx context.Context) {
		s.removeAll(leftovers)
		s.keepSpares(ctx)
	})
	return s
}

// Close ends the background work and removes the spares. Nothing else may be called meanwhile, or after it.
func (s *Sources) Close() {
	s.stop()
	s.working.Wait()
	s.removeAll(s.shelves.takeAll())
}

// leftovers lists what a dead process has left: all in the folders of spares and of questions, and half-removed mirrors.
func leftovers(spares, temp, mirrors string) []string {
	var paths []string
	for _, pattern := range []string{filepath.Join(spares, "*"), filepath.Join(spares, ".*"), filepath.Join(temp, "*"), filepath.Join(mirrors, ".removing-*")} {
		found, _ := filepath.Glob(pattern)
		paths = append(paths, found...)
	}
	return paths
}

func (s *Sources) removeAll(paths []string) {
	for _, path := range paths {
		if err := RemoveTree(path); err != nil {
			s.git.log.Warn("cannot remove a tree that was made ahead", "error", err)
		}
	}
}

// source is one branch of one QA repository.
type source struct {
	remote sentry.Remote
	branch string
}

func (s source) String() string { return "branch " + s.branch + " of " + s.remote.String() }

// Want is a tree that is wanted.
type Want struct {
	Remote sentry.Remote
	Auth   Auth
	Branch string
	// Since is when the server may have been asked at the earliest what the branch is. The tree has all that was on the
	// branch then, and may have what came later. Zero is the time of the call.
	Since time.Time
}

func (w Want) source() source { return source{w.Remote, w.Branch} }

// Ask has the server asked what a branch is, and does not wait for the answer: a Workspace that is wanted with a Since
// before the call of Ask finds the answer, or the question under way. What comes of it is told there.
func (s *Sources) Ask(w Want) {
	if sentry.CheckBranch(w.Branch) == nil {
		s.ask(w, since(w))
	}
}

func since(w Want) time.Time {
	if w.Since.IsZero() {
		return time.Now()
	}
	return w.Since
}

// Workspace makes a workspace with a ready tree of what a branch is, as the server says when it is asked at Want.Since or
// later, whatever is known. It gives the commit that HEAD of the tree is. dir must not exist; its parent must. progress
// gets a line now and then, and what git says. An error of the server is a *sentry.Fault; afterwards dir does not exist.
//
// The tree has a repository of its own, without credentials and hooks, with the last Depth commits. Submodules are empty
// folders, and files that LFS keeps elsewhere are their pointers.
func (s *Sources) Workspace(ctx context.Context, w Want, dir string, progress io.Writer) (commit string, err error) {
	if progress == nil {
		progress = io.Discard
	}
	if err := sentry.CheckBranch(w.Branch); err != nil {
		return "", &sentry.Fault{Kind: sentry.Invalid, Err: err}
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("cannot make a tree at %s: %w", dir, cmpOr(err, fs.ErrExist))
	}
	if commit, err = s.ask(w, since(w)).wait(ctx); err != nil {
		return "", err
	}
	if commit, err = s.place(ctx, w.source(), w.Auth, commit, dir, progress); err != nil {
		return "", errors.Join(err, RemoveTree(dir))
	}
	s.shelves.order(order{source: w.source(), auth: w.Auth, commit: commit, after: time.Now().Add(restTime)})
	return commit, nil
}

// place puts a workspace with a commit, or a newer one, at dir: a spare, a spare of an earlier commit that is brought up
// to date, or a new one.
func (s *Sources) place(ctx context.Context, src source, a Auth, commit, dir string, progress io.Writer) (string, error) {
	if one, ok := s.shelves.take(src, commit); ok && !s.whole(one) {
		s.git.log.Warn("a tree that was made ahead is not whole any more, and is made anew", "source", src.String())
		s.removeAll([]string{one.dir})
	} else if ok {
		err := os.Rename(one.dir, dir)
		if err == nil && one.commit == commit {
			return commit, nil
		}
		if err == nil {
			// What has changed since then is less than all of it.
			return s.make(ctx, src, a, commit, spare{dir: dir, commit: one.commit}, progress)
		}
		if errors.Is(err, syscall.EXDEV) {
			s.shelves.giveUp() // spares on another file system than the trees are of no use
		}
		s.removeAll([]string{one.dir})
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	if err := s.furnish(dir); err != nil {
		return "", err
	}
	return s.make(ctx, src, a, commit, spare{dir: dir}, progress)
}

// Prepare fetches a branch and makes trees of it ahead, in the background.
func (s *Sources) Prepare(r sentry.Remote, a Auth, branch string) {
	if sentry.CheckBranch(branch) == nil {
		s.shelves.order(order{source: source{r, branch}, auth: a})
	}
}

// head asks the server what a branch points at.
func (s *Sources) head(ctx context.Context, src source, a Auth) (string, error) {
	exact, err := sentry.ParsePattern(src.branch)
	if err != nil || !exact.Exact() {
		return "", sentry.Faultf(sentry.Invalid, "%q is not the name of one branch", src.branch)
	}
	heads, err := s.git.Heads(ctx, src.remote, a, []sentry.Pattern{exact})
	if err != nil {
		return "", err
	}
	commit, ok := heads[src.branch]
	if !ok {
		return "", sentry.Faultf(sentry.NotFound, "%s has no branch %s", src.remote, src.branch)
	}
	return commit, nil
}

// make brings a commit and plants its tree in a workspace that has none, or one of another commit in which nobody has
// worked. Where the mirror turns out to be damaged, it is fetched anew, once.
func (s *Sources) make(ctx context.Context, src source, a Auth, commit string, at spare, progress io.Writer) (string, error) {
	m := s.mirror(src.remote, len(commit) == 64)
	for again := false; ; again = true {
		life := m.life()
		now, err := s.tryMake(ctx, m, src, a, commit, at, progress)
		if err == nil || again || !m.damaged(ctx, err) {
			return now, err
		}
		s.git.log.Warn("a mirror is damaged and is fetched anew", "url", src.remote.String(), "error", err)
		if err := m.discardLife(ctx, life); err != nil {
			return "", err
		}
		if err := s.clear(&at); err != nil {
			return "", err
		}
	}
}

// furnish makes the folders of a workspace.
func (s *Sources) furnish(dir string) error {
	if s.o.Tree == "" {
		return nil
	}
	for _, folder := range append([]string{s.o.Tree}, s.o.Beside...) {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// clear takes away what there is of a tree.
func (s *Sources) clear(one *spare) error {
	one.commit = ""
	tree := filepath.Join(one.dir, s.o.Tree)
	return errors.Join(RemoveTree(tree), os.Mkdir(tree, 0o700))
}

func (s *Sources) tryMake(ctx context.Context, m *mirror, src source, a Auth, commit string, at spare, progress io.Writer) (string, error) {
	limited, cancel := s.limit(ctx)
	now, err := m.bring(limited, a, src.branch, commit, progress)
	cancel()
	if err == nil && now != commit {
		err = s.moved(ctx, m, src, a, commit, now)
	}
	if err != nil {
		return "", fmt.Errorf("cannot fetch %s: %w", src, err)
	}
	limited, cancel = s.limit(ctx)
	defer cancel()
	if at.commit != "" && !m.canUpdate(limited, at.commit, now) {
		if err := s.clear(&at); err != nil {
			return "", err
		}
	}
	if err := m.plant(limited, filepath.Join(at.dir, s.o.Tree), src.branch, now); err != nil {
		return "", fmt.Errorf("cannot check out %s at %s: %w", src, sentry.ShortCommit(now), err)
	}
	return now, nil
}

// moved makes sure that a branch was at a commit before it was at the one that came. A server of several, one of which lags
// behind, may tell of the new one and then send the old one. The error is a *sentry.Fault: it passes.
func (s *Sources) moved(ctx context.Context, m *mirror, src source, a Auth, commit, came string) error {
	if m.has(ctx, commit) {
		return nil
	}
	// Its history does not tell: it was rewritten, or goes back further than what is fetched, or is not there yet.
	again, err := s.head(ctx, src, a)
	if err == nil && again != came {
		err = sentry.Faultf(sentry.Transient, "the server says that it is at %s, and sends %s", sentry.ShortCommit(again), sentry.ShortCommit(came))
	}
	return err
}

func (s *Sources) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.git.o.CloneTimeout, overdue(s.git.o.CloneTimeout))
}

// overdue is a context.DeadlineExceeded that tells how long the time was.
type overdue time.Duration

func (o overdue) Error() string { return fmt.Sprintf("not done within %s", time.Duration(o)) }

func (o overdue) Is(target error) bool { return target == context.DeadlineExceeded }

func (s *Sources) mirror(r sentry.Remote, sha256Format bool) *mirror {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := mirrorName(r, sha256Format)
	m := s.mirrors[key]
	if m == nil {
		m = newMirror(s.git, s.o.Mirrors, r, sha256Format)
		s.mirrors[key] = m
	}
	return m
}

func cmpOr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}
