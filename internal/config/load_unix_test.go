//go:build unix

package config

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Reading a pipe that nobody writes to would wait for ever.
func TestLoadOfPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(pipe, Options{}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("the configuration: %v", err)
	}
	if _, err := (Auth{TokenFile: pipe}).Secret(); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a token file: %v", err)
	}
}
