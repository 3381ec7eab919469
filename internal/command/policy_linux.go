package command

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// policy finds out what has to be opened so that all but the protected paths is. It is safe for concurrent use.
type policy struct {
	protect []string // as configured
	log     *slog.Logger

	mu     sync.Mutex
	closed []string         // where the protected paths are and lead to, as of the last look
	found  []opened         // what to open for that
	look   int              // the number of that look
	listed map[string]stamp // the directories that were listed for it; nil before the first look
}

// opened is a path and how much of it is opened.
type opened struct {
	path string
	how  opening
}

type opening int

const (
	openWhole opening = iota // a directory with everything below
	openFile                 // something that is not a directory
	openNames                // a directory to be listed, and what is below to be listed
)

// stamp tells whether a directory has changed since it was listed.
type stamp struct {
	modified int64 // ns
	inode    uint64
}

// maxEntries bounds how many entries of one directory are opened: each costs a few microseconds whenever a command
// starts.
const maxEntries = 10_000

func newPolicy(protect []string, log *slog.Logger) *policy {
	return &policy{protect: protect, log: log}
}

// opened gives what is to be opened, and the number of the look that found it. It looks again where something has changed.
func (p *policy) opened() (found []opened, look int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var closed []string
	for _, path := range p.protect {
		places, err := trail(path)
		if err != nil {
			return nil, 0, fmt.Errorf("cannot protect %s: %w", path, err)
		}
		closed = append(closed, places...)
	}
	if slices.Equal(closed, p.closed) && p.fresh() {
		return p.found, p.look, nil
	}
	root := &place{}
	for _, path := range closed {
		root.close(path)
	}
	p.closed, p.found, p.listed = closed, nil, map[string]stamp{}
	p.look++
	p.walk(root, "/")
	return p.found, p.look, nil
}

func (p *policy) fresh() bool {
	for path, before := range p.listed {
		if now, err := stampOf(path); err != nil || now != before {
			return false
		}
	}
	return p.listed != nil
}

func stampOf(path string) (stamp, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return stamp{}, err
	}
	s := stamp{modified: info.ModTime().UnixNano()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = stat.Ino
	}
	return s, nil
}

// trail gives the place of path and, where that is a link, those that it leads to: no directory of these has links in
// its own path. None need exist.
func trail(path string) ([]string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	var places []string
	for range 40 { // as many links as the kernel follows
		if path, err = resolveParent(path); err != nil {
			return nil, err
		}
		places = append(places, path)
		target, err := os.Readlink(path)
		if err != nil {
			return places, nil // it is no link, or not there
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	return nil, errors.New("too many links")
}

// resolveParent resolves the links in the directory of path, as far as that exists.
func resolveParent(path string) (string, error) {
	dir, name := filepath.Split(filepath.Clean(path))
	if name == "" {
		return "", errors.New("it is everything")
	}
	missing := []string{name}
	for dir = filepath.Clean(dir); ; dir = filepath.Dir(dir) {
		resolved, err := filepath.EvalSymlinks(dir)
		if err == nil {
			return filepath.Join(append([]string{resolved}, missing...)...), nil
		}
		if !errors.Is(err, fs.ErrNotExist) || dir == "/" {
			return "", err
		}
		missing = append([]string{filepath.Base(dir)}, missing...)
	}
}

// place is a directory, or entry of one, on the way to a protected path.
type place struct {
	below  map[string]*place
	closed bool
}

// close marks path as protected. Every directory on the way is then opened entry by entry, so that a path that does not
// exist yet is closed when it comes to be.
func (at *place) close(path string) {
	for _, name := range strings.Split(strings.Trim(path, "/"), "/") {
		if at.below == nil {
			at.below = map[string]*place{}
		}
		if at.below[name] == nil {
			at.below[name] = &place{}
		}
		at = at.below[name]
	}
	at.closed = true
}

// walk opens path, except what is closed in it.
func (p *policy) walk(at *place, path string) {
	if at.closed {
		return
	}
	if at.below == nil {
		p.found = append(p.found, opened{path, openWhole})
		return
	}
	// The stamp first: what changes while we list is seen next time.
	before, err := stampOf(path)
	if err != nil {
		return // it is not there; when it comes, the stamp of its parent changes
	}
	p.listed[path] = before
	p.found = append(p.found, opened{path, openNames})
	entries, err := readDir(path)
	if err != nil {
		p.log.Warn("commands cannot use what is in a directory: it cannot be listed", "path", path, "error", err)
	}
	if len(entries) > maxEntries {
		p.log.Warn("commands cannot use all of a directory: it is too large", "path", path, "entries", maxEntries)
		entries = entries[:maxEntries]
	}
	for _, entry := range entries {
		child := filepath.Join(path, entry.Name())
		switch {
		case at.below[entry.Name()] != nil: // see below
		case entry.Type()&fs.ModeSymlink != 0: // where it leads to is opened, or not, by itself
		case entry.IsDir():
			p.found = append(p.found, opened{child, openWhole})
		default:
			p.found = append(p.found, opened{child, openFile})
		}
	}
	for name, child := range at.below {
		p.walk(child, filepath.Join(path, name))
	}
}

// readDir lists at most one entry more than may be opened.
func readDir(path string) ([]fs.DirEntry, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(maxEntries + 1)
	if err == io.EOF {
		err = nil // it is empty
	}
	return entries, err
}

// grant gives the place of a path that a command may use. It refuses one that would open a protected path with it, and
// one that leads elsewhere by a link below a protected path: an earlier command of the deployment may have put it there.
func (p *policy) grant(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	place, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", fmt.Errorf("cannot let a command use a path: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, closed := range p.closed {
		if place == closed || place == "/" || strings.HasPrefix(closed, place+"/") {
			return "", fmt.Errorf("a command must not use %s: that would open %s", path, closed)
		}
		if rest, inside := strings.CutPrefix(place, closed+"/"); inside {
			above, same := strings.CutSuffix(path, "/"+rest)
			if resolved, err := filepath.EvalSymlinks(above); !same || err != nil || resolved != closed {
				return "", fmt.Errorf("a command must not use %s: it is a link into %s", path, closed)
			}
		}
	}
	return place, nil
}
