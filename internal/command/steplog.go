package command

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// How much of a log is kept, in bytes: what was printed first, and what was printed last.
const (
	headSize = 1 << 20
	tailSize = 4 << 20
)

// StepLog is the log of a step. Small ones are just a file. Of a large one the head and the tail are kept, and a line
// between them says how much is missing; memory stays flat and the disk bounded, whatever is written.
//
// While it is written, the head is in the file and the tail in a ring beside it (the path with ".tail" appended), from
// where Close brings it over. Readers, see OpenLog and FollowLog, understand both, at any moment: also after the writer
// was killed, when the ring stays.
//
// It is safe for concurrent use.
type StepLog struct {
	mu      sync.Mutex
	path    string
	file    *os.File
	head    int64 // bytes in file, at most max
	max     int64
	tail    int64 // capacity of the ring to be
	ring    *ring // nil while everything fits into the head
	broken  bool  // the head could not be written to its end: nothing may follow it
	lost    int64 // bytes that could not be written at all
	newline bool  // the last byte of the head is one
	err     error // the first one
	closed  bool
}

// CreateLog makes a log, and the directories it is in, for the owner's eyes only. A log that is there already is
// replaced.
func CreateLog(path string) (*StepLog, error) { return createLog(path, headSize, tailSize) }

func createLog(path string, head, tail int64) (*StepLog, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make a log: %w", err)
	}
	// A ring left by a writer that was killed would be taken for this log's.
	if err := os.Remove(ringPath(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot replace a log: %w", err)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot make a log: %w", err)
	}
	return &StepLog{path: path, file: file, max: head, tail: tail, newline: true}, nil
}

// Write adds p. When it fails, as on a full disk, what could not be written counts as dropped, and further writes still
// try: the writer need not stop for it.
func (l *StepLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, fmt.Errorf("write to %s: %w", l.path, fs.ErrClosed)
	}
	done, err := l.writeHead(p)
	if err == nil && done < len(p) {
		var n int
		n, err = l.writeTail(p[done:])
		done += n
	}
	if err != nil {
		l.lost += int64(len(p) - done)
		if l.err == nil {
			l.err = err
		}
	}
	return done, err
}

func (l *StepLog) writeHead(p []byte) (int, error) {
	if l.broken {
		return 0, nil
	}
	n := int(min(int64(len(p)), l.max-l.head))
	if n == 0 {
		return 0, nil
	}
	n, err := l.file.WriteAt(p[:n], l.head)
	if n > 0 {
		l.head += int64(n)
		l.newline = p[n-1] == '\n'
	}
	// After a gap nothing can follow in the head: the place for a gap is between it and the tail.
	l.broken = err != nil
	return n, err
}

func (l *StepLog) writeTail(p []byte) (int, error) {
	if l.ring == nil {
		r, err := createRing(ringPath(l.path), l.head, l.tail)
		if err != nil {
			return 0, err
		}
		l.ring = r
	}
	return l.ring.Write(p)
}

// Skip tells that the next n bytes of what is logged never came. The line between head and tail counts them.
func (l *StepLog) Skip(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n > 0 {
		l.lost += n
		l.broken = true
	}
}

// Dropped is how many bytes would be missing from the log if it were closed now.
func (l *StepLog) Dropped() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped()
}

func (l *StepLog) dropped() int64 {
	if l.ring == nil {
		return l.lost
	}
	return l.lost + l.ring.total - l.ring.kept()
}

// Close completes the file and removes the ring. It gives the first error that there was, also of writes.
//
// A crash before the ring is removed leaves it, and readers take the tail from there.
func (l *StepLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.err
	}
	l.closed = true
	err := l.complete()
	if l.ring != nil {
		err = errors.Join(err, l.ring.close(err == nil))
	}
	err = errors.Join(err, l.file.Close())
	if l.err == nil {
		l.err = err
	}
	return l.err
}

// complete writes after the head what is to follow it.
func (l *StepLog) complete() error {
	at := l.head
	if dropped := l.dropped(); dropped > 0 {
		n, err := l.file.WriteAt([]byte(gap(dropped, l.newline)), at)
		if err != nil {
			return err
		}
		at += int64(n)
	}
	if l.ring == nil {
		return nil
	}
	tail := io.NewSectionReader(l.ring, l.ring.total-l.ring.kept(), l.ring.kept())
	_, err := io.Copy(io.NewOffsetWriter(l.file, at), tail)
	return err
}

// gap is the line that stands for what is missing.
func gap(dropped int64, afterNewline bool) string {
	line := "[sentry: " + grouped(dropped) + " bytes not kept]\n"
	if !afterNewline {
		line = "\n" + line
	}
	return line
}

// grouped writes n with a comma for each thousand.
func grouped(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
