package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// A Sentry that is killed while it starts another program leaves its files, and with them the lock, to the child until
// that has become the other program. It is a matter of milliseconds, but whoever starts the next one at once must not be
// told that there still is a first.
const (
	lockPatience = 2 * time.Second
	lockPause    = 20 * time.Millisecond
)

// takeLock takes the exclusive lock of a state directory and writes into its file who holds it. The kernel gives it back
// when the process ends, however it ends; the file stays.
//
// Errors: *LockedError, ErrReadOnly.
func takeLock(dir, owner string, now time.Time) (*flock.Flock, error) {
	path := filepath.Join(dir, lockName)
	lock := flock.New(path, flock.SetPermissions(0o600))
	ok, err := lock.TryLock()
	for start := time.Now(); err == nil && !ok && time.Since(start) < lockPatience; ok, err = lock.TryLock() {
		time.Sleep(lockPause)
	}
	switch {
	case errors.Is(err, fs.ErrPermission), isReadOnlyFS(err):
		return nil, fmt.Errorf("%w: cannot lock %s: %w", ErrReadOnly, dir, err)
	case err != nil:
		return nil, fmt.Errorf("cannot lock the state directory %s: %w", dir, err)
	case !ok:
		return nil, &LockedError{Dir: dir, Holder: holder(path)}
	}
	// The text is for people only: who holds the lock is the kernel's knowledge. So it is no error where it cannot be
	// written (on Windows a locked file cannot be).
	host, _ := os.Hostname()
	text := fmt.Sprintf("pid %d on %s (%s) since %s\n", os.Getpid(), orUnknown(host), owner, now.UTC().Format(time.RFC3339))
	_ = os.WriteFile(path, []byte(text), 0o600)
	return lock, nil
}

// holder reads who holds the lock.
func holder(path string) string {
	raw, err := os.ReadFile(path)
	line, _, _ := strings.Cut(string(raw), "\n")
	if err != nil || strings.TrimSpace(line) == "" {
		return "another process (it has not said which)"
	}
	return strings.TrimSpace(line)
}

func orUnknown(host string) string {
	if host == "" {
		return "an unknown host"
	}
	return host
}
