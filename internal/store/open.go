package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/ncruces/go-sqlite3"
)

// Options say where the state is and who opens it.
type Options struct {
	// Dir is the state directory. It is made (mode 0700) where it does not exist, unless ReadOnly.
	Dir string
	// ReadOnly opens the state for looking at, also while a daemon writes it: no lock, no epoch, nothing created.
	ReadOnly bool
	// Owner names this instance in the lock file and on the rollouts that it runs. Default: HOST/PID.
	Owner string
	// Now tells the time that is written. Default: time.Now.
	Now func() time.Time
	// History bounds what Prune leaves where its argument does not say.
	History Retention
	// AllowNetworkFS opens the state on a network filesystem, where a lock may be given to two processes. The epoch then
	// is all that keeps them apart.
	AllowNetworkFS bool

	migrations fs.FS  // other steps than the embedded ones, for tests
	unlocked   bool   // open without the lock, for tests of what comes behind it
	checkpoint int    // other than checkpointPages, for tests
	vfs        string // another layer between SQLite and the disk, for tests of what the disk does
}

// Store is the open state. Its methods may be called from any goroutine.
type Store struct {
	options Options
	readers *readers
	writer  *writer // nil where ReadOnly
	news    *news
	lock    *flock.Flock // nil where ReadOnly or in memory
	// instance is what the database is called in itself; "" where ReadOnly. Written before Open returns.
	instance string
	memory   string // the name of the database in memory; "" on disk
	// successor marks a later handle of a database in memory, which ends with the first one.
	successor bool
	closing   sync.Once
	closed    error // owned by closing
}

// Open opens the state, or begins one where there was none before. It never begins one in the place of a state that is
// lost, damaged, older or foreign. It takes the exclusive lock and begins an epoch.
//
// Errors: *LockedError, ErrNoState, ErrLost, ErrOlderCopy, ErrForeign, ErrCorrupt, ErrNewerSchema, ErrOlderSchema,
// ErrReadOnly, ErrNetworkFS, ErrDiskFull.
func Open(ctx context.Context, o Options) (*Store, error) {
	o = o.withDefaults()
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	o.Dir = dir
	s := &Store{options: o, news: &news{}}
	if o.ReadOnly {
		err = s.openReadOnly()
	} else {
		err = s.open(ctx)
	}
	if err != nil {
		return nil, errors.Join(explain(err), s.Close())
	}
	return s, nil
}

func (o Options) withDefaults() Options {
	if o.Owner == "" {
		host, _ := os.Hostname()
		o.Owner = fmt.Sprintf("%s/%d", orUnknown(host), os.Getpid())
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.checkpoint == 0 {
		o.checkpoint = checkpointPages
	}
	if o.vfs == "" {
		o.vfs = diskName
	}
	if o.migrations == nil {
		o.migrations = migrations
	}
	return o
}

// open takes the lock, finds or begins the database, and begins an epoch in it.
func (s *Store) open(ctx context.Context) error {
	o, path := s.options, filepath.Join(s.options.Dir, databaseName)
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return explainFile(o.Dir, err)
	}
	if name := networkFS(o.Dir); name != "" && !o.AllowNetworkFS {
		return fmt.Errorf("%w: %s is on %s, where a lock does not keep a second sentry out: use a local disk", ErrNetworkFS, o.Dir, name)
	}
	if !o.unlocked {
		lock, err := takeLock(o.Dir, o.Owner, o.Now())
		if err != nil {
			return err
		}
		s.lock = lock
	}
	marker, err := readSidecar(o.Dir)
	if err != nil {
		return explainFile(o.Dir, err)
	}
	if err := findDatabase(path, marker != nil); errors.Is(err, ErrNoState) {
		if err := s.createDatabase(path); err != nil {
			return explainFile(o.Dir, err)
		}
	} else if err != nil {
		return err
	}
	// The modes of these two are otherwise those of the umask. Empty they mean nothing.
	for _, suffix := range []string{"-wal", "-shm"} {
		f, err := os.OpenFile(path+suffix, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return explainFile(o.Dir, err)
		}
		if err := f.Close(); err != nil {
			return explainFile(o.Dir, err)
		}
	}
	if err := checkLog(path + "-wal"); err != nil {
		return err
	}
	file, err := os.Stat(path)
	if err != nil {
		return err
	}
	name := s.name(path, nil)
	c, err := connect(name, sqlite3.OPEN_READWRITE, `PRAGMA synchronous = FULL; PRAGMA cache_size = -8192`)
	if err != nil {
		return err
	}
	s.writer = &writer{conn: c, now: o.Now, owner: o.Owner, path: path, file: file, long: o.checkpoint, news: s.news}
	if err := s.upgrade(ctx, name); err != nil {
		return err
	}
	if _, err := c.FileControl("main", sqlite3.FCNTL_PERSIST_WAL, true); err != nil {
		return err
	}
	next, err := s.beginEpoch(marker)
	if err != nil {
		return err
	}
	if err := errors.Join(writeSidecar(o.Dir, next), syncDir(o.Dir)); err != nil {
		return explainFile(o.Dir, err)
	}
	s.reserve().fill()
	s.readers = newReaders(name)
	s.writer.start()
	return nil
}

// upgrade brings the schema up to what this version knows, and refuses a newer one.
func (s *Store) upgrade(ctx context.Context, name string) error {
	known, err := newestVersion(s.options.migrations)
	if err != nil {
		return err
	}
	have, err := schemaVersion(s.writer.conn)
	if err != nil {
		return err
	}
	switch {
	case have > known:
		return newerSchema(have, known)
	case have == known:
		return nil
	}
	return migrate(ctx, name, s.options.migrations)
}

// name is the database file as SQLite is told it.
func (s *Store) name(path string, query url.Values) string {
	if query == nil {
		query = url.Values{}
	}
	query.Set("vfs", s.options.vfs)
	slashed := filepath.ToSlash(path)
	if !strings.HasPrefix(slashed, "/") { // C:/…
		slashed = "/" + slashed
	}
	name := url.URL{Scheme: "file", OmitHost: true, Path: slashed, RawQuery: query.Encode()}
	return name.String()
}

func newerSchema(have, known int64) error {
	return fmt.Errorf("%w (schema %d, this one knows %d): use that version, or restore a copy of before the upgrade", ErrNewerSchema, have, known)
}

// beginEpoch makes this Store the one that may write. A crash before its commit: the next start does the same again.
// After it and before the sidecar: the database is ahead of the sidecar, which is allowed.
func (s *Store) beginEpoch(marker *sidecar) (sidecar, error) {
	w, next := s.writer, sidecar{}
	if err := w.conn.exec(`BEGIN IMMEDIATE`); err != nil {
		return next, err
	}
	read := func(r row) error {
		next.Instance, next.Epoch = r.text(0), r.int(1)
		return nil
	}
	if _, err := w.conn.one(`SELECT instance, epoch FROM meta`, read); err != nil {
		return next, err
	}
	t := &tx{conn: w.conn, newest: -1}
	ledger, err := t.newestEntry()
	if err != nil {
		return next, err
	}
	if err := marker.check(s.options.Dir, next.Instance, next.Epoch, ledger); err != nil {
		return next, err
	}
	s.instance = next.Instance
	next.Epoch++
	next.Ledger = ledger
	if err := w.conn.exec(`UPDATE meta SET epoch = ?`, next.Epoch); err != nil {
		return next, err
	}
	w.epoch = next.Epoch
	return next, w.conn.exec(`COMMIT`)
}

// Close lets the writes that wait finish, makes state.db complete in itself, and gives the lock back. Afterwards every
// method fails with ErrClosed.
func (s *Store) Close() error {
	s.closing.Do(func() { s.closed = s.close() })
	return s.closed
}

func (s *Store) close() error {
	var errs []error
	started := s.writer != nil && s.writer.done != nil
	if started {
		s.writer.stop()
	}
	if s.readers != nil {
		errs = append(errs, s.readers.close())
	}
	if s.writer != nil {
		switch {
		case s.memory != "":
		case started && s.writer.poison == nil:
			errs = append(errs, s.settle())
		default: // the log stays for the next start, which knows better what to believe
			_, err := s.writer.conn.Config(sqlite3.DBCONFIG_NO_CKPT_ON_CLOSE, true)
			errs = append(errs, err)
		}
		errs = append(errs, s.writer.conn.Close())
	}
	s.forget()
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return explain(errors.Join(errs...))
}

// settle moves the log into the database, so that a copy of state.db alone is the whole state, and notes how far it is.
func (s *Store) settle() error {
	c := s.writer.conn
	if err := c.BusyTimeout(time.Second); err != nil {
		return err
	}
	// A reader in another process may keep it from that; then the log stays, and is complete.
	if _, _, err := c.WALCheckpoint("main", sqlite3.CHECKPOINT_TRUNCATE); err != nil && !errors.Is(err, sqlite3.BUSY) {
		return err
	}
	var end sidecar
	_, err := c.one(`SELECT instance, epoch FROM meta`, func(r row) error {
		end.Instance, end.Epoch = r.text(0), r.int(1)
		return nil
	})
	if err != nil || end.Epoch != s.writer.epoch {
		return err // a younger epoch has taken over: the sidecar is its own
	}
	if end.Ledger, err = (&tx{conn: c, newest: -1}).newestEntry(); err != nil {
		return err
	}
	return explainFile(s.options.Dir, writeSidecar(s.options.Dir, end))
}

// Epoch counts how often the state was opened for writing, this time included; 0 where it is open for reading.
func (s *Store) Epoch() int64 {
	if s.writer == nil {
		return 0
	}
	return s.writer.epoch
}

// Instance names the state directory; that of a backup which was restored is another. "" where it is open for reading.
func (s *Store) Instance() string { return s.instance }

// Owner names this instance.
func (s *Store) Owner() string { return s.options.Owner }

// Subscribe gives a channel that has a token after any committed write since the last one was taken, and the function
// that ends the subscription. Writes of other processes are not seen.
func (s *Store) Subscribe() (<-chan struct{}, func()) { return s.news.subscribe() }

// explainFile puts an error of the operating system into the kinds of this package.
func explainFile(dir string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrPermission), isReadOnlyFS(err):
		return fmt.Errorf("%w: %s: check owner, permissions and mount options: %w", ErrReadOnly, dir, err)
	case diskFull(err), noRoom(err):
		return fmt.Errorf("%w: %s: %w", ErrDiskFull, dir, err)
	}
	return err
}
