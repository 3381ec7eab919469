//go:build unix

package store

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// asNobody copies a state, makes it as prepare says, and runs this binary over it in a role as somebody who is not root,
// and so is bound by modes.
func asNobody(t *testing.T, state, role, want string, prepare func(dir string)) {
	t.Helper()
	dir, err := os.MkdirTemp("", "nobody") // t.TempDir is below a directory of mode 0700
	noError(t, err)
	t.Cleanup(func() { _ = os.Chmod(dir, 0o700); _ = os.RemoveAll(dir) })
	noError(t, os.Chmod(dir, 0o755))
	binary := os.Args[0]
	for _, name := range files(t, state) {
		noError(t, os.WriteFile(filepath.Join(dir, name), must(os.ReadFile(filepath.Join(state, name)))(t), 0o600))
	}
	cmd := as(t, role, dir)
	if os.Getuid() == 0 {
		// The test binary is in a directory of root; what is executed is the copy.
		place, err := os.MkdirTemp("", "nobody-binary")
		noError(t, err)
		t.Cleanup(func() { _ = os.RemoveAll(place) })
		noError(t, os.Chmod(place, 0o755))
		cmd.Path = filepath.Join(place, "store.test")
		noError(t, os.WriteFile(cmd.Path, must(os.ReadFile(binary))(t), 0o755))
		noError(t, os.Chmod(cmd.Path, 0o755))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	cmd.Dir = "/"
	prepare(dir)
	out, err := cmd.Output()
	if got := strings.TrimSpace(string(out)); err != nil || got != want {
		t.Errorf("%s of %v: %q, %v; want %q", role, files(t, dir), got, err, want)
	}
}
