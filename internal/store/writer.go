package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/ncruces/go-sqlite3"
)

const (
	// batchLimit is how many closures share one transaction at most, so that the first of them does not wait for ever.
	batchLimit = 256
	// checkpointPages is how long the write-ahead log grows before its pages are moved into the database (4 MiB).
	checkpointPages = 1024
)

// job is one closure that waits for the writer.
type job struct {
	run  func(*tx) error
	err  error         // owned by the writer until done is closed
	done chan struct{} // closed when err is final

	mu    sync.Mutex
	state jobState // guarded by mu
}

type jobState int

const (
	waiting jobState = iota
	taken            // the writer runs it: its end is waited for
	dropped          // its caller has given up before it was taken
)

func (j *job) become(s jobState) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.state != waiting {
		return false
	}
	j.state = s
	return true
}

// tx is what a closure writes with. It is gone when the closure returns.
type tx struct {
	*conn
	now    time.Time
	owner  string
	epoch  int64
	newest int64 // the newest entry of the ledger; -1 while not asked
}

// writer owns the only connection that writes. Callers put closures into its queue; its goroutine takes all that
// wait, runs each in a savepoint of one transaction, commits once and answers all.
type writer struct {
	conn  *conn // owned by the goroutine after start
	now   func() time.Time
	owner string
	epoch int64
	path  string      // of the database file; "" in memory
	file  os.FileInfo // of the database file when it was opened
	pages int         // in the write-ahead log after the last commit
	long  int         // so many pages are moved into the database
	news  *news

	wake chan struct{} // size one: something was queued, or closed
	done chan struct{} // closed when the goroutine has ended

	mu     sync.Mutex
	queue  []*job // guarded by mu
	closed bool   // guarded by mu
	poison error  // guarded by mu; set once
}

func (w *writer) start() {
	w.wake, w.done = make(chan struct{}, 1), make(chan struct{})
	if w.path != "" {
		// Checkpoints are made here, where their errors are seen; SQLite's own would swallow them.
		_ = w.conn.WALAutoCheckpoint(0) // cannot fail: it sets a number
		w.conn.WALHook(func(_ *sqlite3.Conn, _ string, pages int) error {
			w.pages = pages
			return nil
		})
	}
	go func() {
		defer close(w.done)
		for range w.wake {
			for w.once() {
			}
			if w.ended() {
				return
			}
		}
	}()
}

// stop lets the writer finish what waits, and returns when it has. Later writes get ErrClosed.
func (w *writer) stop() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.nudge()
	<-w.done
}

func (w *writer) ended() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closed && len(w.queue) == 0
}

func (w *writer) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// write runs a closure in the next transaction and returns when that is on disk, or failed. A caller that gives up
// before the closure was begun gets the error of its context and nothing happened; afterwards its end is waited for, so
// that an error always means: not recorded. (ErrPoisoned is the exception: nobody knows.)
func (w *writer) write(ctx context.Context, run func(*tx) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	j := &job{run: run, done: make(chan struct{})}
	w.mu.Lock()
	switch {
	case w.poison != nil:
		defer w.mu.Unlock()
		return w.poison
	case w.closed:
		defer w.mu.Unlock()
		return ErrClosed
	}
	w.queue = append(w.queue, j)
	w.mu.Unlock()
	w.nudge()

	select {
	case <-j.done:
	case <-ctx.Done():
		if j.become(dropped) {
			return context.Cause(ctx)
		}
		<-j.done
	}
	return j.err
}

// once takes what waits, commits it and answers. It reports whether there was anything.
func (w *writer) once() bool {
	w.mu.Lock()
	n := min(len(w.queue), batchLimit)
	batch := append([]*job(nil), w.queue[:n]...)
	w.queue = w.queue[n:]
	if len(w.queue) == 0 {
		w.queue = nil
	}
	poison := w.poison
	w.mu.Unlock()
	if n == 0 {
		return false
	}

	live := batch[:0]
	for _, j := range batch {
		if j.become(taken) {
			live = append(live, j)
		}
	}
	switch {
	case len(live) == 0:
		return true
	case poison != nil:
		answer(live, poison)
	default:
		if poison = w.transaction(live); poison != nil {
			w.mu.Lock()
			w.poison = poison
			w.mu.Unlock()
		}
	}
	for _, j := range live {
		close(j.done)
	}
	return true
}

func answer(batch []*job, err error) {
	for _, j := range batch {
		j.err = err
	}
}

// transaction runs the closures and commits. It sets the error of each; the error that it returns is the end of all
// writing.
func (w *writer) transaction(batch []*job) (poison error) {
	if err := w.unmoved(); err != nil {
		answer(batch, err)
		return err
	}
	if err := w.begin(); err != nil {
		return w.abandon(batch, err)
	}
	changed := false
	for _, j := range batch {
		before := w.conn.TotalChanges()
		j.err = w.savepoint(j.run)
		if fatal(j.err) {
			return w.abandon(batch, j.err)
		}
		if w.conn.GetAutocommit() {
			// SQLite itself has rolled back all of it (the disk is full): those before j are undone as well.
			return w.abandon(batch, j.err)
		}
		changed = changed || j.err == nil && w.conn.TotalChanges() != before
	}
	// A crash before the next line: nothing of the batch happened. After it: all of it did, and callers who were not
	// answered find it recorded when they look again.
	if err := w.conn.exec(`COMMIT`); err != nil {
		if !fatal(err) && !diskFull(err) {
			err = fmt.Errorf("%w: %w", sqlite3.IOERR, err)
		}
		return w.abandon(batch, err)
	}
	if changed {
		w.news.tell()
	}
	return w.checkpoint()
}

// begin starts the transaction and sees to it that no younger epoch owns the database.
func (w *writer) begin() error {
	if err := w.conn.exec(`BEGIN IMMEDIATE`); err != nil {
		return err
	}
	var epoch int64
	_, err := w.conn.one(`SELECT epoch FROM meta`, func(r row) error { epoch = r.int(0); return nil })
	if err == nil && epoch != w.epoch {
		err = fmt.Errorf("%w: this is epoch %d, the state is in epoch %d", ErrFenced, w.epoch, epoch)
	}
	return err
}

// savepoint runs one closure so that its failure undoes it and nothing else.
func (w *writer) savepoint(run func(*tx) error) error {
	if err := w.conn.exec(`SAVEPOINT job`); err != nil {
		return err
	}
	err := run(&tx{conn: w.conn, now: w.now(), owner: w.owner, epoch: w.epoch, newest: -1})
	if err == nil {
		return w.conn.exec(`RELEASE job`)
	}
	if w.conn.GetAutocommit() {
		return err // the transaction is gone, and the savepoint with it
	}
	if undo := errors.Join(w.conn.exec(`ROLLBACK TO job`), w.conn.exec(`RELEASE job`)); undo != nil {
		return fmt.Errorf("%w: cannot undo: %w", sqlite3.INTERNAL, errors.Join(err, undo))
	}
	return err
}

// abandon rolls the transaction back and gives every closure of the batch the error. Where that leaves the disk unknown,
// or the store is not ours any more, it returns what all later writes get.
func (w *writer) abandon(batch []*job, err error) (poison error) {
	if !w.conn.GetAutocommit() {
		if undo := w.conn.exec(`ROLLBACK`); undo != nil && !w.conn.GetAutocommit() {
			err = fmt.Errorf("%w: cannot roll back: %w", sqlite3.INTERNAL, errors.Join(err, undo))
		}
	}
	switch {
	case errors.Is(err, ErrFenced):
		poison = err
	case fatal(err):
		err = fmt.Errorf("%w: %w", ErrPoisoned, explain(err))
		poison = err
	}
	answer(batch, err)
	return poison
}

// checkpoint moves the write-ahead log into the database when it is long. It waits for no reader.
func (w *writer) checkpoint() (poison error) {
	if w.pages < w.long {
		return nil
	}
	w.pages = 0
	_, _, err := w.conn.WALCheckpoint("main", sqlite3.CHECKPOINT_PASSIVE)
	if fatal(err) {
		// The commits are in the log all the same; but a disk that fails here cannot be believed later.
		return fmt.Errorf("%w: cannot move the log into the database: %w", ErrPoisoned, explain(err))
	}
	return nil // busy or full: the log goes on growing, the next commit tries again
}

// unmoved finds out that the database file was removed or replaced under us: what is written then goes nowhere.
func (w *writer) unmoved() error {
	if w.path == "" {
		return nil
	}
	now, err := os.Stat(w.path)
	if err == nil && os.SameFile(now, w.file) {
		return nil
	}
	return fmt.Errorf("%w: %s was removed or replaced while sentry was running", ErrPoisoned, w.path)
}

// news wakes whoever waits for a committed write.
type news struct {
	mu      sync.Mutex
	readers map[chan struct{}]struct{} // guarded by mu; each of size one
}

func (n *news) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.readers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (n *news) subscribe() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.readers == nil {
		n.readers = map[chan struct{}]struct{}{}
	}
	n.readers[c] = struct{}{}
	return c, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.readers, c)
	}
}
