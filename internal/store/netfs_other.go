//go:build !linux

package store

// networkFS knows no network filesystem on this platform.
func networkFS(string) string { return "" }
