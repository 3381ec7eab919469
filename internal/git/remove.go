package git

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const (
	// removeTime bounds one removal, whatever is in the tree and whoever still writes to it.
	removeTime = 2 * time.Minute
	// removeTries is how often a removal that failed is tried again, each time after removePause: somebody who still
	// writes may have changed what was just looked at.
	removeTries = 100
	removePause = 10 * time.Millisecond
)

// RemoveTree removes a folder and all that is in it, or the file or link of that name; a name that is not there is no
// error. It is made for folders in which foreign commands have worked: it follows no link, opens folders without
// permissions, needs no more memory or open files for a tree of any depth, and tries again for a while when somebody
// still writes there. First the folder gets another name beside its own, so that nobody finds it by the old one.
func RemoveTree(dir string) error {
	dir = filepath.Clean(dir)
	parent, err := os.OpenRoot(filepath.Dir(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot remove %s: %w", dir, err)
	}
	defer func() { _ = parent.Close() }()
	if err := removeFrom(parent, filepath.Base(dir)); err != nil {
		return fmt.Errorf("cannot remove %s: %w", dir, err)
	}
	return nil
}

func removeFrom(parent *os.Root, name string) error {
	info, err := parent.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.IsDir():
		return parent.Remove(name)
	}
	aside, err := asideName(parent, name)
	if err != nil {
		return err
	}
	if err := parent.Chmod(aside, 0o700); err != nil {
		return err
	}
	tree, err := parent.OpenRoot(aside)
	if err != nil {
		return err
	}
	defer func() { _ = tree.Close() }()
	r := removal{tree: tree, until: time.Now().Add(removeTime)}
	for try := 1; ; try++ {
		err := r.empty()
		if err == nil {
			err = parent.Remove(aside)
		}
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if try == removeTries || time.Now().After(r.until) {
			return err
		}
		time.Sleep(removePause)
	}
}

// asideName renames an entry to a new name beside it.
func asideName(parent *os.Root, name string) (string, error) {
	for n := 0; ; n++ {
		aside := ".removing-" + strconv.FormatInt(time.Now().UnixNano(), 36) + strconv.Itoa(n)
		if _, err := parent.Lstat(aside); err == nil && n < 100 {
			continue
		}
		return aside, parent.Rename(name, aside)
	}
}

// removal empties a folder. It never looks deeper than into the folders at its top: what folders these have goes to the
// top itself first.
type removal struct {
	tree  *os.Root
	until time.Time
	moved int
}

const entriesAtOnce = 512

func (r *removal) empty() error {
	for {
		entries, err := list(r.tree)
		if err != nil || len(entries) == 0 {
			return err
		}
		for _, e := range entries {
			if err := r.remove(e); err != nil {
				return err
			}
		}
		if time.Now().After(r.until) {
			return errBusy
		}
	}
}

// remove takes away one entry at the top.
func (r *removal) remove(e fs.DirEntry) error {
	err := r.tree.Remove(e.Name())
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !e.IsDir() {
		return err
	}
	sub, err := r.open(e.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = sub.Close() }()
	for {
		entries, err := list(sub)
		if err != nil {
			return err
		}
		gone := 0
		for _, child := range entries {
			ok, err := r.removeOrLift(sub, e.Name(), child)
			if err != nil {
				return err
			}
			if ok {
				gone++
			}
		}
		if gone == 0 {
			break
		}
		if time.Now().After(r.until) {
			return errBusy
		}
	}
	// Where this fails because somebody has written or renamed meanwhile, the next round over the top finds the rest.
	_ = r.tree.Remove(e.Name())
	return nil
}

var errBusy = errors.New("somebody goes on writing to it")

// removeOrLift takes away a child of a folder at the top or, where it is a folder with something in it, lifts it to the
// top. It gives false where the folder is not where it was any more.
func (r *removal) removeOrLift(sub *os.Root, folder string, child fs.DirEntry) (ok bool, err error) {
	err = sub.Remove(child.Name())
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if !child.IsDir() {
		return false, err
	}
	// A folder that gets another parent must be writable itself.
	if err := sub.Chmod(child.Name(), 0o700); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	for {
		r.moved++
		err := r.tree.Rename(filepath.Join(folder, child.Name()), ".lifted-"+strconv.Itoa(r.moved))
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, fs.ErrNotExist):
			return false, nil
		case !errors.Is(err, fs.ErrExist) || time.Now().After(r.until):
			return false, err
		}
	}
}

// open opens a folder at the top, whatever its permissions are.
func (r *removal) open(name string) (*os.Root, error) {
	if err := r.tree.Chmod(name, 0o700); err != nil {
		return nil, err
	}
	return r.tree.OpenRoot(name)
}

// list gives some of the entries of a folder, none where it is empty.
func list(folder *os.Root) ([]fs.DirEntry, error) {
	f, err := folder.Open(".")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	entries, err := f.ReadDir(entriesAtOnce)
	if err == io.EOF {
		err = nil
	}
	return entries, err
}
