package store

import (
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
)

// Held tells who has taken a state directory, as LockedError would; "" where nobody has, or where that cannot be told. It
// makes nothing, and whoever takes the directory in the same moment does not notice: takeLock has more patience.
func Held(dir string) string {
	path := filepath.Join(dir, lockName)
	lock := flock.New(path, flock.SetFlag(os.O_RDONLY))
	free, err := lock.TryRLock()
	_ = lock.Close() // gives the lock back
	if free || err != nil {
		return ""
	}
	return holder(path)
}
