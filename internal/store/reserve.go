package store

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
)

// reserve is room that is kept occupied on the disk, and given back when the disk is full, so that the end of what runs
// can still be recorded. What is new has to wait for a person to make room.
type reserve struct{ path string } // "" for none: in memory

const (
	reserveName = "reserve"
	reserveSize = 1 << 20
)

// fill occupies the room again. Without room it leaves nothing behind: the next time may be better. The file is not synced,
// because nobody ever reads it.
func (r reserve) fill() {
	if info, err := os.Stat(r.path); r.path == "" || err == nil && info.Size() == reserveSize {
		return
	}
	room := make([]byte, reserveSize)
	_, _ = rand.Read(room) // never fails; random, so that no filesystem makes it smaller
	if os.WriteFile(r.path, room, 0o600) != nil {
		r.release()
	}
}

// release gives the room back, and reports whether there was any.
func (r reserve) release() bool { return os.Remove(r.path) == nil }

// writeEnd is write for what must not fail for want of room.
func (s *Store) writeEnd(ctx context.Context, run func(*tx) error) error {
	err := s.write(ctx, run)
	if errors.Is(err, ErrDiskFull) && s.reserve().release() {
		err = s.write(ctx, run)
	}
	return err
}

func (s *Store) reserve() reserve {
	if s.memory != "" {
		return reserve{}
	}
	return reserve{filepath.Join(s.options.Dir, reserveName)}
}
