package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"sentry/internal/sentry"
)

// fetching is one branch to bring into a repository.
type fetching struct {
	remote      sentry.Remote
	auth        Auth
	dir         string // of the bare repository
	from, to    string // full names of refs
	depth       int    // commits of history
	onlyCommits bool   // without folders and files, where the server can leave them out
	maxBytes    int64  // of the repository on disk
	progress    io.Writer
}

var errMirrorTooBig = errors.New("the repository is too big")

// initBare makes an empty bare repository in an empty folder.
func (g *Git) initBare(ctx context.Context, dir string, sha256 bool) error {
	format := "sha1"
	if sha256 {
		format = "sha256"
	}
	_, err := g.run(ctx, call{args: []string{"init", "--quiet", "--bare", "--template=", "--object-format=" + format, "--end-of-options", dir}})
	return err
}

// fetch brings one branch, and nothing else, into a repository, moving it there whatever it was. Where the server said
// over HTTP that the repository has moved on the same origin, it is fetched from there; git itself follows no redirect.
// An error of the server is a *sentry.Fault.
func (g *Git) fetch(ctx context.Context, f fetching) error {
	if err := g.silence(f.remote); err != nil {
		return err
	}
	v, err := g.Version(ctx)
	if err != nil {
		return err
	}
	args := []string{
		"--git-dir=" + f.dir, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance",
		"--no-recurse-submodules", "--no-show-forced-updates", "--depth=" + strconv.Itoa(f.depth),
	}
	if f.onlyCommits {
		args = append(args, "--filter=tree:0")
	}
	args = append(args, "--end-of-options", g.address(f.remote), "+"+f.from+":"+f.to)
	return withToken(ctx, f.auth, func(token sentry.Secret) error {
		env, hide, err := g.credentials(f.remote, f.auth, token, v)
		if err != nil {
			return &sentry.Fault{Kind: sentry.Unauthorized, Err: err}
		}
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		tooBig := fmt.Errorf("%w: more than %d bytes", errMirrorTooBig, f.maxBytes)
		stop := watchSize(ctx, f.dir, f.maxBytes, func() { cancel(tooBig) })
		_, err = g.run(ctx, call{args: args, scheme: f.remote.Scheme(), env: env, hide: hide, stderr: f.progress})
		stop()
		if size, _ := diskUse(f.dir, f.maxBytes); size > f.maxBytes {
			err = tooBig // all of it came between two looks
		}
		if errors.Is(err, errMirrorTooBig) {
			return &sentry.Fault{Kind: sentry.Invalid, Err: tooBig}
		}
		return remoteFault(advise(err, f.remote, f.auth))
	})
}

// silence gives a *sentry.Fault where the server of a repository wants to be left alone.
func (g *Git) silence(r sentry.Remote) error {
	if g.o.Silence == nil {
		return nil
	}
	return g.o.Silence(r.Origin())
}

// address is what git is given for a repository.
func (g *Git) address(r sentry.Remote) string {
	if r.Scheme() != "http" && r.Scheme() != "https" {
		return r.String()
	}
	return r.Scheme() + "://" + r.Host() + g.wire.Path(r)
}

// Path gives the path on its server at which a repository answered last over HTTP: another than its own where the server
// said that it has moved.
func (g *Git) Path(r sentry.Remote) string { return g.wire.Path(r) }

// watchSize looks now and then how big a folder has become, and calls tooBig once when it is more than most bytes. The
// function that it gives ends the watch and waits for its end.
func watchSize(ctx context.Context, dir string, most int64, tooBig func()) (stop func()) {
	const every = 200 * time.Millisecond
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if size, _ := diskUse(dir, most); size > most {
					tooBig()
					return
				}
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// diskUse adds up the sizes of the files below a folder, and stops when it has more than most. Files that come and go
// meanwhile may or may not count.
func diskUse(dir string, most int64) (bytes int64, files int) {
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil // gone meanwhile
		}
		if info, err := entry.Info(); err == nil {
			bytes += info.Size()
			files++
		}
		if bytes > most {
			return fs.SkipAll
		}
		return nil
	})
	return bytes, files
}

// removeLeftovers takes away what a git that was killed leaves in a repository: locks, which would stop the next one, and
// halves of packs. It must only be called while no git works there.
func removeLeftovers(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch name := filepath.Base(path); {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case path == dir:
			return nil
		case entry.IsDir() && strings.HasPrefix(name, "tmp_objdir-"):
			if err := RemoveTree(path); err != nil {
				return err
			}
			return fs.SkipDir
		case !entry.IsDir() && (strings.HasSuffix(name, ".lock") || strings.HasPrefix(name, "tmp_") || strings.HasPrefix(name, ".tmp-")):
			return os.Remove(path)
		}
		return nil
	})
}
