package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// The files of the store in the state directory.
const (
	databaseName = "state.db"
	sidecarName  = "state.id"
	lockName     = "lock"
)

// sidecar is what the file beside the database remembers: that there is a database, which, and how far it was. With it
// a lost or rolled back database is told from a first start. It is written after the database, so it is never ahead.
type sidecar struct {
	Instance string `json:"instance"`
	Epoch    int64  `json:"epoch"`
	Ledger   int64  `json:"ledger"` // the newest entry of the ledger when the store was last opened or closed
	Note     string `json:"note"`
}

const sidecarNote = "Written by sentry. It tells a lost state.db from a first start. Remove it only to accept that state.db is lost or was replaced by an older copy."

// readSidecar returns nil where there is none.
func readSidecar(dir string) (*sidecar, error) {
	path := filepath.Join(dir, sidecarName)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var s sidecar
	if err := json.Unmarshal(raw, &s); err != nil || s.Instance == "" || s.Epoch < 0 || s.Ledger < 0 {
		return nil, fmt.Errorf("%w: %s is not what sentry wrote: restore it together with %s, or remove it to accept %s as it is", ErrCorrupt, path, databaseName, databaseName)
	}
	return &s, nil
}

// writeSidecar replaces the file. A crash leaves the old one or the new one.
func writeSidecar(dir string, s sidecar) error {
	s.Note = sidecarNote
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, sidecarName), append(raw, '\n'))
}

// replaceFile writes data to path so that a crash leaves the file as it was or as it is to be, and nothing in between.
func replaceFile(path string, data []byte) error {
	next := path + ".new"
	if err := writeFileSync(next, data); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path)) // without it a power cut may bring the old name back
}

func writeFileSync(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// check compares the database with what the sidecar remembers of it.
func (s *sidecar) check(dir, instance string, epoch, ledger int64) error {
	path := filepath.Join(dir, databaseName)
	marker := filepath.Join(dir, sidecarName)
	switch {
	case s == nil: // its crash came between the database and the sidecar, or somebody accepted the database as it is
		return nil
	case s.Instance != instance:
		return fmt.Errorf("%w: %s belongs to another state directory: restore the right copy, or remove %s to accept this one", ErrForeign, path, marker)
	case epoch < s.Epoch, ledger < s.Ledger:
		return fmt.Errorf("%w: %s is of epoch %d (entry %d), but epoch %d (entry %d) was here: restore the newest copy, with its -wal file; or remove %s to go on from this one, which may deploy again what was deployed since",
			ErrOlderCopy, path, epoch, ledger, s.Epoch, s.Ledger, marker)
	}
	return nil
}
