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

func isQuota(err error) bool      { return errors.Is(err, syscall.EDQUOT) }
func isReadOnlyFS(err error) bool { return errors.Is(err, syscall.EROFS) }
