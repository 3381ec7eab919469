//go:build unix

package store

import (
	"errors"
	"os"
	"syscall"
)

// syncDir makes what was created, renamed and removed in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// noRoom reports whether the operating system has no room for what was to be written: no space, quota used up, or the
// file may not grow.
func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

func isReadOnlyFS(err error) bool { return errors.Is(err, syscall.EROFS) }
