package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"sentry/internal/sentry"
)

// Depth is how many commits of history a tree has: enough for git log, git diff HEAD~1 and the like in scripts, and a
// bound on what an old repository costs. Of one with 2,000 files and 3,000 commits, 50 commits took as long to fetch as
// the newest alone, and a fifth of the time and bytes of all of them; a new commit costs the same in each case.
const Depth = 50

const (
	maxPath      = 4096 // bytes of a path in a tree: PATH_MAX of Linux
	maxPathDepth = 256  // folders in each other
)

// errTreeTooBig is a commit with more in it than Sentry checks out.
var errTreeTooBig = errors.New("the tree is too big")

// checkTree reads what a commit would check out, before anything of it is written, and refuses what is out of bounds. A
// few kilobytes of objects can stand for billions of files, so the reading ends at the first that is too many.
func (g *Git) checkTree(ctx context.Context, repository, commit string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	count := &treeCounter{maxBytes: g.o.MaxTreeBytes, maxEntries: g.o.MaxTreeEntries, stop: cancel}
	_, err := g.run(ctx, call{
		args:   []string{"--git-dir=" + repository, "ls-tree", "-r", "-t", "-l", "-z", "--full-tree", "--end-of-options", commit},
		stdout: count,
	})
	switch {
	case count.err != nil:
		return &sentry.Fault{Kind: sentry.Invalid, Err: count.err}
	case err == nil && len(count.rest) > 0:
		return sentry.Faultf(sentry.Invalid, "git ls-tree ends in the middle of %q", clip(string(count.rest), 100))
	}
	return err
}

// treeCounter reads "mode type object size<TAB>path<NUL>" and counts.
type treeCounter struct {
	maxBytes   int64
	maxEntries int
	stop       func()

	bytes   int64
	entries int
	rest    []byte // of an entry that is not whole yet
	err     error
}

func (t *treeCounter) Write(p []byte) (int, error) {
	if t.err != nil {
		return 0, t.err
	}
	data := p
	if len(t.rest) > 0 {
		data = append(t.rest, p...)
	}
	for {
		entry, after, whole := bytes.Cut(data, []byte{0})
		if !whole {
			break
		}
		if t.err = t.add(string(entry)); t.err != nil {
			t.stop()
			return 0, t.err
		}
		data = after
	}
	t.rest = append(t.rest[:0:0], data...)
	if len(t.rest) > 2*maxPath {
		t.err = fmt.Errorf("%w: a path has more than %d bytes", errTreeTooBig, maxPath)
		t.stop()
	}
	return len(p), t.err
}

func (t *treeCounter) add(entry string) error {
	about, path, ok := strings.Cut(entry, "\t")
	fields := strings.Fields(about)
	if !ok || len(fields) != 4 {
		return fmt.Errorf("git ls-tree answers %q", clip(entry, 100))
	}
	if size := fields[3]; size != "-" {
		n, err := strconv.ParseInt(size, 10, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("git ls-tree answers %q", clip(entry, 100))
		}
		t.bytes += n
	}
	t.entries++
	switch {
	case t.entries > t.maxEntries:
		return fmt.Errorf("%w: more than %d files and folders", errTreeTooBig, t.maxEntries)
	case t.bytes > t.maxBytes || t.bytes < 0:
		return fmt.Errorf("%w: more than %d bytes of files", errTreeTooBig, t.maxBytes)
	case len(path) > maxPath:
		return fmt.Errorf("%w: a path has more than %d bytes", errTreeTooBig, maxPath)
	case strings.Count(path, "/") > maxPathDepth:
		return fmt.Errorf("%w: more than %d folders in each other", errTreeTooBig, maxPathDepth)
	}
	return nil
}

// plant makes dir a ready tree: the files of a commit, and a repository of its own with the objects of the mirror, the
// branch checked out and origin as its upstream. dir may be a tree of an earlier commit that nobody has worked in; then
// only what differs is written. When plant fails, dir is of no use any more.
func (g *Git) plant(ctx context.Context, mirror, dir string, r sentry.Remote, branch, commit string) error {
	repository := filepath.Join(dir, ".git")
	if err := RemoveTree(filepath.Join(repository, "objects")); err != nil { // of an earlier commit
		return err
	}
	for _, d := range []string{"objects/info", "objects/pack", "refs/heads", "refs/tags", "info"} {
		if err := os.MkdirAll(filepath.Join(repository, filepath.FromSlash(d)), 0o700); err != nil {
			return err
		}
	}
	// Where history ends is read before the objects: a fetch of another branch may add objects meanwhile, and let history
	// go further back.
	shallow, err := os.ReadFile(filepath.Join(mirror, "shallow"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := copyObjects(filepath.Join(mirror, "objects"), filepath.Join(repository, "objects")); err != nil {
		return fmt.Errorf("cannot copy the objects: %w", err)
	}
	for name, content := range map[string]string{
		"HEAD":    "ref: " + heads + branch + "\n",
		"config":  treeConfig(r, branch, len(commit) == 64),
		"shallow": string(shallow), // where history ends; empty: it does not
		// Written whole, as git itself writes it when it packs its refs.
		"packed-refs": "# pack-refs with: peeled fully-peeled sorted \n" +
			commit + " " + heads + branch + "\n" + commit + " refs/remotes/origin/" + branch + "\n",
	} {
		if err := os.WriteFile(filepath.Join(repository, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	if len(shallow) == 0 {
		if err := os.Remove(filepath.Join(repository, "shallow")); err != nil {
			return err
		}
	}
	_, err = g.run(ctx, call{dir: dir, args: []string{
		"--git-dir=" + repository, "--work-tree=" + dir, "read-tree", "--reset", "-u", "--end-of-options", commit,
	}})
	var failed *runError
	if errors.As(err, &failed) && strings.Contains(failed.stderr, "invalid path") {
		return &sentry.Fault{Kind: sentry.Invalid, Err: err} // git does not write such a name: .git, for instance
	}
	return err
}

// treeConfig is the configuration of a tree's repository.
func treeConfig(r sentry.Remote, branch string, sha256 bool) string {
	version, extensions := 0, ""
	if sha256 {
		version, extensions = 1, "[extensions]\n\tobjectFormat = sha256\n"
	}
	quoted := `"` + strings.ReplaceAll(branch, `"`, `\"`) + `"` // a branch has no backslash
	return fmt.Sprintf("[core]\n\trepositoryFormatVersion = %d\n\tfilemode = true\n\tbare = false\n\tlogAllRefUpdates = true\n\thooksPath = %s\n%s"+
		"[remote \"origin\"]\n\turl = \"%s\"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"+
		"[branch %s]\n\tremote = origin\n\tmerge = \"%s%s\"\n",
		version, filepath.ToSlash(os.DevNull), extensions, r, quoted, heads, strings.ReplaceAll(branch, `"`, `\"`))
}

// copyObjects copies the objects of a repository. They are not linked: a file with two names is
// one file, and what a command does to its own must not show in the mirror.
func copyObjects(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir() && name == "info":
			return fs.SkipDir // lists of other repositories, and graphs that an earlier history made
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o700)
		case !entry.Type().IsRegular() || strings.HasPrefix(entry.Name(), "tmp_") || strings.HasPrefix(entry.Name(), ".tmp-") ||
			strings.HasSuffix(name, ".lock") || strings.HasSuffix(name, ".keep"):
			return nil // of a fetch that is under way
		}
		return copyFile(path, filepath.Join(to, name))
	})
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := out.Close(); err == nil {
			err = closeErr
		}
	}()
	_, err = io.Copy(out, in)
	return err
}
