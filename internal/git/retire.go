package git

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"sentry/internal/sentry"
)

// mirrorFolder is what mirrorName gives: nothing else in the folder of the mirrors is ours to take away.
var mirrorFolder = regexp.MustCompile(`^[0-9a-f]{32}(-sha256)?\.git$`)

// Retire takes the mirrors away of repositories that are not among these, and that for this long nobody has used, nor
// were they among these when Retire was called. One that is used at the moment stays.
func (s *Sources) Retire(configured []sentry.Remote, unused time.Duration) error {
	keep := map[string]bool{}
	for _, r := range configured {
		keep[mirrorName(r, false)], keep[mirrorName(r, true)] = true, true
	}
	entries, err := os.ReadDir(s.o.Mirrors)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	now := time.Now()
	errs := []error{err}
	for _, e := range entries {
		name := e.Name()
		switch {
		case !mirrorFolder.MatchString(name):
		case keep[name]:
			errs = append(errs, touch(filepath.Join(s.o.Mirrors, name)))
		default:
			errs = append(errs, s.retire(name, now, unused))
		}
	}
	return errors.Join(errs...)
}

// retire takes one mirror away, unless it was used in the time before now.
func (s *Sources) retire(name string, now time.Time, unused time.Duration) error {
	since := now.Add(-unused)
	dir := filepath.Join(s.o.Mirrors, name)
	s.mu.Lock()
	m := s.mirrors[name]
	if m == nil { // nobody in this process has used it; nobody begins to before it has another name
		defer s.mu.Unlock()
		used, err := lastUsed(dir)
		if err != nil || !used.Before(since) {
			return err
		}
		// Another one of that name may still be on its way out.
		aside := filepath.Join(s.o.Mirrors, fmt.Sprintf(".removing-%s-%d", name, now.UnixNano()))
		if err := os.Rename(dir, aside); err != nil {
			return err
		}
		s.background(func(context.Context) { s.removeAll([]string{aside}) })
		s.git.log.Info("removed the mirror of a QA repository that is not configured any more", "mirror", name, "used", used)
		return nil
	}
	s.mu.Unlock()
	select {
	case m.busy <- struct{}{}:
	default:
		return nil // it is used at this moment
	}
	defer m.release()
	used, err := lastUsed(dir)
	if err != nil || !used.Before(since) {
		return err
	}
	if err := m.discard(); err != nil {
		return err
	}
	s.git.log.Info("removed the mirror of a QA repository that is not configured any more", "mirror", name, "url", m.remote.String(), "used", used)
	return nil
}

// lastUsed tells when a mirror was used last, or was configured when somebody looked.
func lastUsed(dir string) (time.Time, error) {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Now(), nil
	}
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// touch notes that a mirror is in use.
func touch(dir string) error {
	now := time.Now()
	if err := os.Chtimes(dir, now, now); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
