//go:build !unix

package store

// syncDir does nothing: this platform keeps names durable by itself and cannot sync a directory.
func syncDir(string) error { return nil }

func isQuota(error) bool      { return false }
func isReadOnlyFS(error) bool { return false }
