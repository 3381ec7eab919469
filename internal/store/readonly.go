package store

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
)

// openReadOnly opens the state for looking at it, while a daemon writes or while none does. It takes no lock that a
// daemon would wait for, and needs no right to write. It creates nothing, with one exception that is SQLite's: beside a
// log without its shared memory (a copy of a running state) it makes the latter, which holds no data.
func (s *Store) openReadOnly() error {
	path := filepath.Join(s.options.Dir, databaseName)
	marker, err := readSidecar(s.options.Dir)
	if err != nil {
		return explainFile(s.options.Dir, err)
	}
	if err := findDatabase(path, marker != nil); err != nil {
		return err
	}
	s.readers = s.readersOf(path)
	c, err := s.readers.take()
	if err != nil {
		return err
	}
	defer s.readers.put(c)
	return s.inspect(c, marker)
}

// readersOf chooses how to read. Where a daemon has been, its log and shared memory are beside the database, and are
// used as by any other reader. Without them, and with nothing in the log, there is nothing but the file: nobody has it
// open, and SQLite is told that it does not change, because it would make the two otherwise.
func (s *Store) readersOf(path string) *readers {
	log, noLog := os.Stat(path + "-wal")
	_, noShared := os.Stat(path + "-shm")
	if errors.Is(noLog, fs.ErrNotExist) || errors.Is(noShared, fs.ErrNotExist) && log != nil && log.Size() == 0 {
		return newReaders(s.name(path, url.Values{"immutable": {"1"}}))
	}
	return newReaders(s.name(path, nil))
}

// inspect refuses a database that this version cannot read, or that is not the one which was here.
func (s *Store) inspect(c *conn, marker *sidecar) error {
	known, err := newestVersion(s.options.migrations)
	if err != nil {
		return err
	}
	have, err := schemaVersion(c)
	switch {
	case err != nil:
		return err
	case have > known:
		return newerSchema(have, known)
	case have < known:
		return fmt.Errorf("%w (schema %d, this one knows %d): start the daemon once, it upgrades it", ErrOlderSchema, have, known)
	}
	var instance string
	var epoch int64
	_, err = c.one(`SELECT instance, epoch FROM meta`, func(r row) error {
		instance, epoch = r.text(0), r.int(1)
		return nil
	})
	if err != nil {
		return err
	}
	ledger, err := (&tx{conn: c, newest: -1}).newestEntry()
	if err != nil {
		return err
	}
	return marker.check(s.options.Dir, instance, epoch, ledger)
}
