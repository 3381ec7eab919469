package store

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"sentry/internal/sentry"
)

// TestFullDisk: on a disk without room nothing new is recorded, but what runs can end; then room heals everything.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs the right to mount a small disk")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("needs the right to mount a small disk: %v", err)
	}
	defer func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }()
	state := filepath.Join(dir, "state")
	s := openDir(t, state)
	record(t, s, see("a", "1"), see("a", "2"), see("b", "1").in("h"), see("b", "2").in("h"))
	runs := claim(t, s, pending(t, s, "g"))
	noError(t, fillDisk(filepath.Join(dir, "filler")))

	refused := 0
	for n := range 2000 { // what is left of the last page of the log takes some
		_, err := s.RecordChanges(t.Context(), []Observation{see("a", commitOf(n))})
		if err == nil {
			continue
		}
		wants(t, err, ErrDiskFull)
		if refused++; refused == 3 {
			break
		}
	}
	if refused != 3 {
		t.Fatal("the disk was never full")
	}
	if _, err := os.Stat(filepath.Join(state, reserveName)); err != nil {
		t.Errorf("what is new has used the reserve: %v", err)
	}
	deployed(t, s, runs)
	noError(t, s.Finish(t.Context(), runs.ID, sentry.Succeeded, "in time"))
	if _, err := os.Stat(filepath.Join(state, reserveName)); err == nil {
		t.Error("the reserve was not needed: this test shows nothing")
	}

	noError(t, os.Remove(filepath.Join(dir, "filler")))
	record(t, s, see("a", "new"))
	must(s.Prune(t.Context(), Retention{}))(t)
	if info, err := os.Stat(filepath.Join(state, reserveName)); err != nil || info.Size() != reserveSize {
		t.Errorf("the reserve is not there again: %v", err)
	}
	healthy(t, s)
	closed(t, s)
	s = openDir(t, state)
	if r := must(s.Rollout(t.Context(), runs.ID))(t); r.Status != sentry.Succeeded {
		t.Errorf("the rollout is %s", r.Status)
	}
	closed(t, s)

	// A first start without any room begins nothing.
	noError(t, fillDisk(filepath.Join(dir, "filler")))
	_, err := Open(t.Context(), Options{Dir: filepath.Join(dir, "other")})
	wants(t, err, ErrDiskFull)
	noError(t, os.Remove(filepath.Join(dir, "filler")))
	closed(t, openDir(t, filepath.Join(dir, "other")))
}

// fillDisk writes a file until there is no room.
func fillDisk(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for err == nil {
		_, err = f.Write(make([]byte, 512))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}
