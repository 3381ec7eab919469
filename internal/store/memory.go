package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs/memdb"
)

// OpenMemory opens an empty state that lives in memory and ends with Close. It works inside a bubble of
// testing/synctest. Options.Dir and ReadOnly mean nothing.
func OpenMemory(_ context.Context, o Options) (*Store, error) {
	data, err := newTemplate()
	if err != nil {
		return nil, err
	}
	s := &Store{options: o.withDefaults(), news: &news{}, memory: newInstance()}
	memdb.Create(s.memory, data)
	return s.openMemory()
}

// Successor opens a state in memory again, as a process does that follows a dead one: under a younger epoch, so that
// from here on every write through s is refused. The memory itself ends when s is closed. For tests of recovery.
//
// Errors: ErrInvalid for a state on disk.
func (s *Store) Successor() (*Store, error) {
	if s.memory == "" {
		return nil, fmt.Errorf("%w: only a state in memory has successors; open the directory again", ErrInvalid)
	}
	next := &Store{options: s.options, news: &news{}, memory: s.memory, successor: true}
	return next.openMemory()
}

// openMemory connects to the memory that s names, and begins an epoch in it.
func (s *Store) openMemory() (*Store, error) {
	c, err := connect(memoryName(s.memory), sqlite3.OPEN_READWRITE, `PRAGMA synchronous = OFF`)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.writer = &writer{conn: c, now: s.options.Now, owner: s.options.Owner, news: s.news}
	s.readers = &readers{writer: s.writer}
	if _, err := s.beginEpoch(nil); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.writer.start()
	return s, nil
}

// forget ends the memory with the store that made it.
func (s *Store) forget() {
	if s.memory != "" && !s.successor {
		memdb.Delete(s.memory)
	}
}
