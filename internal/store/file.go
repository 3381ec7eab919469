package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ncruces/go-sqlite3"
)

// minimumSQLite is the oldest SQLite to trust: before it, resetting the write-ahead log could lose commits.
const minimumSQLite = 3_051_003

// connect opens one connection and sets it up.
func connect(name string, flags sqlite3.OpenFlag, setup string) (*conn, error) {
	raw, err := sqlite3.OpenFlags(name, flags|sqlite3.OPEN_URI)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, compiled: map[string]*sqlite3.Stmt{}}
	err = c.BusyTimeout(10 * time.Second)
	if err == nil {
		err = c.Exec(`PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY;` + setup)
	}
	if err == nil {
		err = c.trusted()
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// trusted refuses an SQLite that is too old, and a connection that would not verify checksums.
func (c *conn) trusted() error {
	var version, verifying string
	_, err := c.one(`SELECT sqlite_version()`, func(r row) error { version = r.text(0); return nil })
	if err != nil {
		return err
	}
	var major, minor, patch int
	if _, err := fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch); err != nil || major*1_000_000+minor*1_000+patch < minimumSQLite {
		return fmt.Errorf("%w: SQLite %s inside, at least 3.51.3 is needed", ErrInvalid, version)
	}
	// The header is read with the first page, and tells the connection that there are checksums.
	if _, err := c.one(`SELECT 1 FROM sqlite_schema LIMIT 1`, func(row) error { return nil }); err != nil {
		return err
	}
	_, err = c.one(`PRAGMA checksum_verification`, func(r row) error { verifying = r.text(0); return nil })
	if err == nil && verifying != "1" {
		err = fmt.Errorf("%w: its pages have no checksums", ErrCorrupt)
	}
	return err
}

// findDatabase looks at the file before SQLite does, because some damage (a file cut to nothing, a flipped byte in the
// header that switches the checksums off) looks to SQLite like another kind of database. known tells that a database
// was here before.
//
// Errors: ErrNoState, ErrLost, ErrCorrupt, ErrForeign.
func findDatabase(path string, known bool) error {
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && known:
		return fmt.Errorf("%w: %s does not exist any more, and sentry does not begin anew in its place, because it would not notice what changed meanwhile: restore a copy (with its -wal file), or remove %s to begin anew", ErrLost, path, filepath.Join(filepath.Dir(path), sidecarName))
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s does not exist: it is made when sentry watches or triggers for the first time", ErrNoState, path)
	case err != nil:
		return explainFile(filepath.Dir(path), err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %s is not a file", ErrForeign, path)
	}
	var header [100]byte
	n, err := io.ReadFull(f, header[:])
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %s cannot be read: %w", ErrCorrupt, path, err)
	}
	if err := checkHeader(path, header[:n]); err != nil {
		return err
	}
	if log, err := os.Stat(path + "-wal"); err == nil && log.Size() > logHeader {
		return nil // pages may be in the log only: SQLite looks there
	}
	if pages := int64(binary.BigEndian.Uint32(header[28:])); info.Size() < pages*pageSize {
		return fmt.Errorf("%w: %s is cut off after %d of %d bytes: %s", ErrCorrupt, path, info.Size(), pages*pageSize, restore)
	}
	return nil
}

// restore is the advice for damage.
const restore = "restore a copy (with its -wal file)"

// checkHeader verifies those bytes of the header that never change in a database of Sentry.
// https://sqlite.org/fileformat2.html#the_database_header
func checkHeader(path string, header []byte) error {
	switch {
	case len(header) == 0:
		return fmt.Errorf("%w: %s is empty: %s", ErrCorrupt, path, restore)
	case len(header) < 100:
		return fmt.Errorf("%w: %s is cut off after %d bytes: %s", ErrCorrupt, path, len(header), restore)
	case !bytes.Equal(header[:16], []byte("SQLite format 3\x00")):
		return fmt.Errorf("%w: %s is not an SQLite database, or its first bytes are damaged: %s", ErrCorrupt, path, restore)
	case binary.BigEndian.Uint32(header[68:]) != applicationID:
		return fmt.Errorf("%w: %s is an SQLite database of another program: move it away, or choose another state directory", ErrForeign, path)
	case binary.BigEndian.Uint16(header[16:]) != pageSize, header[18] != 2, header[19] != 2, header[20] != sumSize,
		header[21] != 64, header[22] != 32, header[23] != 32, binary.BigEndian.Uint32(header[56:]) != 1:
		return fmt.Errorf("%w: the header of %s is not what sentry wrote: %s", ErrCorrupt, path, restore)
	}
	return nil
}

// createDatabase makes an empty database under another name and renames it when it is complete and on disk: state.db is
// never half made, and an empty one is always damage.
func (s *Store) createDatabase(path string) error {
	next := path + ".new"
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} { // of an attempt that a crash ended
		if err := os.Remove(next + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	data, err := newTemplate()
	if err != nil {
		return err
	}
	if err := writeFileSync(next, data); err != nil {
		return err
	}
	c, err := connect(s.name(next, nil), sqlite3.OPEN_READWRITE, `PRAGMA synchronous = FULL; PRAGMA journal_mode = WAL`)
	if err != nil {
		return err
	}
	if err := errors.Join(c.exec(`UPDATE meta SET instance = ?`, newInstance()), c.Close()); err != nil { // Close empties the log
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
