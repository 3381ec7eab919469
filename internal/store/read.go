package store

import (
	"context"
	"errors"
	"sync"

	"github.com/ncruces/go-sqlite3"
)

// readerLimit is how many queries run at once.
const readerLimit = 4

// readers lend connections that only read. Each query sees one state of the database, whatever is written meanwhile.
// A database in memory has one connection only, so its queries pass through the writer.
type readers struct {
	writer *writer // of a database in memory; nil on disk

	name  string
	slots chan struct{} // one token for every connection in use
	mu    sync.Mutex
	idle  []*conn // guarded by mu
	ended bool    // guarded by mu
}

func newReaders(name string) *readers {
	return &readers{name: name, slots: make(chan struct{}, readerLimit)}
}

// read runs a closure within one read transaction.
func (r *readers) read(ctx context.Context, run func(*conn) error) error {
	if r.writer != nil {
		return r.writer.write(ctx, func(t *tx) error { return run(t.conn) })
	}
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	c, err := r.take()
	if err != nil {
		return err
	}
	old := c.SetInterrupt(ctx)
	err = c.exec(`BEGIN`)
	if err == nil {
		err = run(c)
	}
	c.SetInterrupt(old)
	if !c.GetAutocommit() {
		err = errors.Join(err, c.exec(`ROLLBACK`))
	}
	r.put(c)
	if errors.Is(err, sqlite3.INTERRUPT) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (r *readers) take() (*conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return nil, ErrClosed
	}
	if n := len(r.idle); n > 0 {
		c := r.idle[n-1]
		r.idle = r.idle[:n-1]
		return c, nil
	}
	return connect(r.name, sqlite3.OPEN_READONLY, `PRAGMA query_only = ON`)
}

func (r *readers) put(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		_ = c.Close() // it only read
		return
	}
	r.idle = append(r.idle, c)
}

// close ends the connections that nobody uses, and has the others end when they come back.
func (r *readers) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	var errs []error
	for _, c := range r.idle {
		errs = append(errs, c.Close())
	}
	r.idle = nil
	return errors.Join(errs...)
}

// read runs a closure within one read transaction of s.
func (s *Store) read(ctx context.Context, run func(*conn) error) error {
	return explain(s.readers.read(ctx, run))
}

// write runs a closure in a transaction and returns when it is on disk, or undone.
func (s *Store) write(ctx context.Context, run func(*tx) error) error {
	if s.writer == nil {
		return ErrReadOnly
	}
	return explain(s.writer.write(ctx, run))
}
