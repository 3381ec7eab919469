package git

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

// restTime is how long spares are not made after one was taken. Then the commands of a deployment begin, and should have
// the machine to themselves; and several trees are often wanted one after the other.
const restTime = 100 * time.Millisecond

// shelves hold the spares: workspaces that are ready and that nobody has worked in.
type shelves struct {
	o    SourcesOptions
	wake chan struct{} // has one place: there is an order

	mu     sync.Mutex // owns what follows
	shelf  map[source]*shelf
	count  int
	bytes  int64
	closed bool // no spares are taken in any more
}

// shelf is for one branch of one repository.
type shelf struct {
	spares  []spare
	wanted  int // how many spares it should have
	current string
	order   *order // what is to be done for it in the background
	used    time.Time
}

type spare struct {
	dir    string // of the workspace
	commit string // of its tree; "" while it is empty
	bytes  int64  // what is in it, as diskUse has counted it at made
	files  int
	made   time.Time
}

// checkAfter is from which age on a spare is looked at before it is handed over. What tidies up temporary folders, in
// which workspaces may be, takes away what nobody has used for days, file by file.
const checkAfter = time.Hour

// whole reports whether what was made is still there, as far as names and sizes tell.
func (s *Sources) whole(one spare) bool {
	if time.Since(one.made) < checkAfter {
		return true
	}
	bytes, files := diskUse(one.dir, s.o.MaxSpareBytes)
	return bytes == one.bytes && files == one.files
}

// order asks for the spares of a branch.
type order struct {
	source source
	auth   Auth
	commit string    // what the branch is known to be, or "": ask
	after  time.Time // not before
}

func newShelves(o SourcesOptions) *shelves {
	return &shelves{o: o, wake: make(chan struct{}, 1), shelf: map[source]*shelf{}}
}

func (s *shelves) of(src source) *shelf {
	sh := s.shelf[src]
	if sh == nil {
		sh = &shelf{wanted: 1}
		s.shelf[src] = sh
	}
	sh.used = time.Now()
	return sh
}

// take gives a spare of a commit or, where there is none, one of another commit of the branch; ok is false where there is
// neither. The caller owns it then.
func (s *shelves) take(src source, commit string) (one spare, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.of(src)
	if sh.current == commit && len(sh.spares) == 0 && !s.closed {
		sh.wanted = min(sh.wanted+1, s.o.MaxSpares)
	}
	sh.current = commit
	at := slices.IndexFunc(sh.spares, func(one spare) bool { return one.commit == commit })
	if at < 0 {
		at = len(sh.spares) - 1
	}
	if at < 0 {
		return spare{}, false
	}
	return s.drop(sh, at), true
}

// put adds a spare, and gives the folders of those that must go: spares of other commits, those for which there is no
// room, and those of the branches that were used the longest time ago.
func (s *shelves) put(src source, one spare) (surplus []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return []string{one.dir}
	}
	sh := s.of(src)
	sh.spares = append(sh.spares, one)
	s.count++
	s.bytes += one.bytes
	for s.count > s.o.MaxSparesTotal || s.bytes > s.o.MaxSpareBytes {
		var oldest *shelf
		for _, other := range s.shelf {
			if len(other.spares) > 0 && (oldest == nil || other.used.Before(oldest.used)) {
				oldest = other
			}
		}
		surplus = append(surplus, s.drop(oldest, 0).dir)
	}
	return surplus
}

// drop takes a spare from a shelf.
func (s *shelves) drop(sh *shelf, at int) spare {
	one := sh.spares[at]
	sh.spares = slices.Delete(sh.spares, at, at+1)
	s.count--
	s.bytes -= one.bytes
	return one
}

// missing tells how many spares of a commit a branch lacks.
func (s *shelves) missing(src source, commit string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0
	}
	sh := s.of(src)
	n := sh.wanted
	for _, one := range sh.spares {
		if one.commit == commit {
			n--
		}
	}
	return n
}

// outdated takes a spare of another commit off the shelf.
func (s *shelves) outdated(src source, commit string) (one spare, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.of(src)
	at := slices.IndexFunc(sh.spares, func(one spare) bool { return one.commit != commit })
	if at < 0 {
		return spare{}, false
	}
	return s.drop(sh, at), true
}

// order notes what is to be done for a branch, in place of what was noted before.
func (s *shelves) order(o order) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of(o.source).order = &o
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// next gives the order that is due, or how long to wait for the next one; 0 is until there is one.
func (s *shelves) next() (*order, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var first *shelf
	for _, sh := range s.shelf {
		if sh.order != nil && (first == nil || sh.order.after.Before(first.order.after)) {
			first = sh
		}
	}
	if first == nil {
		return nil, 0
	}
	if wait := time.Until(first.order.after); wait > 0 {
		return nil, wait
	}
	o := first.order
	first.order = nil
	return o, 0
}

// giveUp ends the making of spares. Branches are still fetched ahead.
func (s *shelves) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// takeAll empties the shelves for good.
func (s *shelves) takeAll() (dirs []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, sh := range s.shelf {
		for _, one := range sh.spares {
			dirs = append(dirs, one.dir)
		}
		sh.spares = nil
	}
	s.count, s.bytes = 0, 0
	return dirs
}

// keepSpares carries out orders, one after the other, until ctx ends.
func (s *Sources) keepSpares(ctx context.Context) {
	for ctx.Err() == nil {
		o, wait := s.shelves.next()
		if o != nil {
			if err := s.fill(ctx, *o); err != nil && ctx.Err() == nil {
				s.git.log.Warn("cannot prepare trees of a QA repository", "source", o.source.String(), "error", err)
			}
			continue
		}
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-ctx.Done():
		case <-timer:
		case <-s.shelves.wake:
		}
	}
}

// fill makes the spares that an order asks for.
func (s *Sources) fill(ctx context.Context, o order) error {
	commit := o.commit
	if commit == "" {
		var err error
		if commit, err = s.head(ctx, o.source, o.auth); err != nil {
			return err
		}
	}
	m := s.mirror(o.source.remote, len(commit) == 64)
	limited, cancel := s.limit(ctx)
	commit, err := m.bring(limited, o.auth, o.source.branch, commit, io.Discard)
	cancel()
	if err != nil {
		return err
	}
	for s.shelves.missing(o.source, commit) > 0 {
		one, ok := s.shelves.outdated(o.source, commit)
		if ok && !s.whole(one) {
			s.removeAll([]string{one.dir})
			continue
		}
		if !ok {
			if one.dir, err = s.newSpare(); err != nil {
				return err
			}
		}
		if one.commit, err = s.make(ctx, o.source, o.auth, commit, one, io.Discard); err != nil {
			s.removeAll([]string{one.dir})
			return err
		}
		commit = one.commit
		one.bytes, one.files = diskUse(one.dir, s.o.MaxSpareBytes)
		one.made = time.Now()
		surplus := s.shelves.put(o.source, one)
		s.removeAll(surplus)
		if len(surplus) > 0 {
			break // there is no room; making more would only push out others
		}
	}
	for {
		one, ok := s.shelves.outdated(o.source, commit)
		if !ok {
			break
		}
		s.removeAll([]string{one.dir})
	}
	return m.tidy(ctx)
}

// newSpare makes the folders of a spare.
func (s *Sources) newSpare() (dir string, err error) {
	if err := os.MkdirAll(s.o.Spares, 0o700); err != nil {
		return "", err
	}
	if dir, err = os.MkdirTemp(s.o.Spares, "tree-"); err != nil {
		return "", err
	}
	if err := s.furnish(dir); err != nil {
		return "", errors.Join(err, RemoveTree(dir))
	}
	return dir, nil
}
