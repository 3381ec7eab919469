package store

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/ncruces/go-sqlite3"
)

// The kinds of error, by what the caller does next. Test with errors.Is; the messages are for people.
var (
	// ErrNoState: there is no state yet; only a read-only Open says so, any other begins one.
	ErrNoState = errors.New("no state yet")
	// ErrNewerSchema: the database was written by a newer Sentry. Use that one.
	ErrNewerSchema = errors.New("the state was written by a newer version of sentry")
	// ErrOlderSchema: a read-only Open cannot upgrade. Start the daemon once.
	ErrOlderSchema = errors.New("the state was written by an older version of sentry")
	// ErrCorrupt: bytes of the database are not what was written. Restore a copy.
	ErrCorrupt = errors.New("the state database is damaged")
	// ErrLost: there was a database, and it is gone. Restore a copy, or accept the loss.
	ErrLost = errors.New("the state database is gone")
	// ErrOlderCopy: the database is an older copy of the one that was here last.
	ErrOlderCopy = errors.New("the state database is an older copy")
	// ErrForeign: the file is a database, but not one of Sentry, or that of another Sentry.
	ErrForeign = errors.New("not the state database of this sentry")
	// ErrReadOnly: the state directory or its files cannot be written.
	ErrReadOnly = errors.New("the state cannot be written")
	// ErrNetworkFS: the state directory is on a network filesystem, whose locks cannot be trusted.
	ErrNetworkFS = errors.New("the state directory is on a network filesystem")
	// ErrDiskFull: no room. Nothing of the call was recorded; it may be tried again.
	ErrDiskFull = errors.New("the disk of the state directory is full")
	// ErrPoisoned: a write to the disk failed, so nobody knows what is on it. Nothing more is written; end the process.
	ErrPoisoned = errors.New("the state database failed and takes no more writes")
	// ErrClosed: the store was closed before.
	ErrClosed = errors.New("the state database is closed")
	// ErrNotFound: no such rollout.
	ErrNotFound = errors.New("not found")
	// ErrFenced: a younger epoch owns the store or the rollout. Stop working on it.
	ErrFenced = errors.New("another sentry has taken over")
	// ErrFinal: it has ended already, and an end is final.
	ErrFinal = errors.New("ended already")
	// ErrStale: what the caller decided upon has changed meanwhile. Read again.
	ErrStale = errors.New("changed meanwhile")
	// ErrBusy: another rollout of the group runs, or an older one waits. Wait for its end.
	ErrBusy = errors.New("not its turn")
	// ErrInvalid: the caller asks for what cannot be; a defect of the caller.
	ErrInvalid = errors.New("impossible")
)

// LockedError tells that another process uses the state directory.
type LockedError struct {
	Dir    string
	Holder string // what the lock file says about the other process: pid, host, since when
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("the state directory %s is in use by %s: stop that one first, or give this one another state directory", e.Dir, e.Holder)
}

// explain puts an error of SQLite into the kinds above and leaves every other error as it is.
func explain(err error) error {
	var code sqlite3.ErrorCode
	if err == nil || !errors.As(err, &code) {
		return err
	}
	switch {
	case diskFull(err):
		return fmt.Errorf("%w, nothing was recorded: make room (%w)", ErrDiskFull, err)
	case errors.Is(err, sqlite3.IOERR_DATA), code == sqlite3.CORRUPT, code == sqlite3.NOTADB:
		return fmt.Errorf("%w: stop sentry, run `sentry state check`, restore a copy (%w)", ErrCorrupt, err)
	case code == sqlite3.CONSTRAINT:
		return fmt.Errorf("%w: the database refuses it (%w)", ErrInvalid, err)
	case code == sqlite3.READONLY, code == sqlite3.PERM, errors.Is(err, fs.ErrPermission), isReadOnlyFS(err):
		return fmt.Errorf("%w: check permissions and mount options (%w)", ErrReadOnly, err)
	}
	return err
}

// diskFull reports whether an error of SQLite says that there was no room for what was to be written. An fsync that finds
// no room is not of that kind: by then nobody knows what is on the disk.
func diskFull(err error) bool {
	return errors.Is(err, sqlite3.FULL) || errors.Is(err, sqlite3.IOERR_SHMSIZE)
}

// fatal reports whether err leaves unknown what is on the disk, or says that what is there is wrong.
func fatal(err error) bool {
	var code sqlite3.ErrorCode
	if !errors.As(err, &code) || diskFull(err) {
		return false
	}
	switch code {
	case sqlite3.IOERR, sqlite3.CORRUPT, sqlite3.NOTADB, sqlite3.CANTOPEN, sqlite3.PROTOCOL, sqlite3.READONLY, sqlite3.INTERNAL:
		return true
	}
	return false
}
