//go:build !unix

package store

import (
	"errors"
	"syscall"
)

// syncDir does nothing: this platform keeps names durable by itself and cannot sync a directory.
func syncDir(string) error { return nil }

// noRoom reports whether the operating system has no room for what was to be written.
func noRoom(err error) bool {
	const errorDiskFull, errorHandleDiskFull = syscall.Errno(112), syscall.Errno(39) // of Windows
	return errors.Is(err, errorDiskFull) || errors.Is(err, errorHandleDiskFull)
}

func isReadOnlyFS(error) bool { return false }
