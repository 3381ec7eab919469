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
	ended   bool  // the last byte of all is one
	behind  int64 // bytes that come again, after a resumption
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
	return &StepLog{path: path, file: file, max: head, tail: tail, newline: true, ended: true}, nil
}

// ResumeLog goes on with a log whose writer was killed, or left it; one that is not there it makes. What is in it stays. taken
// is how many bytes of what is logged it has, or knows never to have come. It gives nil for a log that is complete, and a large
// one: nothing can be added to that.
func ResumeLog(path string) (log *StepLog, taken int64, err error) {
	return resumeLog(path, headSize, tailSize)
}

func resumeLog(path string, head, tail int64) (log *StepLog, taken int64, err error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		log, err = createLog(path, head, tail)
		return log, 0, err
	}
	if err != nil {
		return nil, 0, fmt.Errorf("cannot go on with a log: %w", err)
	}
	l := &StepLog{path: path, file: file, max: head, tail: tail}
	whole, err := l.resume()
	if whole || err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return l, l.taken(), nil
}

// resume finds out how far a log is. It reports whether it is complete.
func (l *StepLog) resume() (whole bool, err error) {
	size, err := l.file.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	r, err := openRing(ringPath(l.path), os.O_RDWR)
	if err == nil && !r.whole && (size < r.head || r.short()) { // the machine failed before all of it was on its disk
		err = errors.Join(errNoRing, r.file.Close())
	}
	switch {
	case errors.Is(err, errNoRing): // or its writer was killed just when it made it
		r, err = nil, os.Remove(ringPath(l.path))
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	}
	switch {
	case err != nil:
		return false, err
	case r != nil && r.whole:
		return true, r.file.Close()
	case r != nil:
		l.ring, l.head, l.lost, l.broken = r, r.head, r.lost, true
	case size > l.max:
		return true, nil
	default:
		l.head = size
	}
	last := []byte{'\n'}
	if l.head > 0 {
		_, err = l.file.ReadAt(last, l.head-1)
	}
	l.newline = last[0] == '\n'
	if l.ring != nil && l.ring.total > 0 {
		_, err = l.ring.ReadAt(last, l.ring.total-1)
	}
	l.ended = last[0] == '\n'
	return false, err
}

// taken is how many bytes it has, or knows never to have come.
func (l *StepLog) taken() int64 {
	if l.ring == nil {
		return l.head
	}
	return l.head + l.ring.total - l.ring.marks + l.ring.lost
}

// Repeat tells that the next n bytes come again: they are in the log.
func (l *StepLog) Repeat(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.behind = n
}

// Write adds p. When it fails, as on a full disk, what could not be written counts as dropped, and further writes still
// try: the writer need not stop for it.
func (l *StepLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, fmt.Errorf("write to %s: %w", l.path, fs.ErrClosed)
	}
	done := int(min(int64(len(p)), l.behind))
	l.behind -= int64(done)
	n, err := l.writeHead(p[done:])
	if done += n; err == nil && done < len(p) {
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
		l.ended = l.newline
	}
	// After a gap nothing can follow in the head: the place for a gap is between it and the tail.
	l.broken = err != nil
	return n, err
}

func (l *StepLog) writeTail(p []byte) (int, error) {
	if err := l.beginTail(); err != nil {
		return 0, err
	}
	n, err := l.ring.Write(p)
	if n > 0 {
		l.ended = p[n-1] == '\n'
	}
	return n, err
}

func (l *StepLog) beginTail() (err error) {
	if l.ring == nil {
		l.ring, err = createRing(ringPath(l.path), l.head, l.tail)
	}
	return err
}

// Skip tells that the next n bytes of what is logged never came. A line in the tail tells it.
func (l *StepLog) Skip(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := min(n, l.behind)
	l.behind -= known
	if n -= known; n <= 0 {
		return
	}
	l.lost += n
	l.broken = true
	if l.beginTail() == nil { // else the line between head and tail counts them
		line := gap(n, l.ended)
		l.ring.lost, l.ring.marks = l.ring.lost+n, l.ring.marks+int64(len(line))
		_, _ = l.writeTail([]byte(line))
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

// untold is how many bytes are missing of which no line in the tail tells.
func (l *StepLog) untold() int64 {
	if l.ring != nil && l.ring.kept() == l.ring.total {
		return l.lost - l.ring.lost
	}
	return l.dropped()
}

// Leave ends writing for now: ResumeLog goes on with it.
func (l *StepLog) Leave() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.err
	}
	l.closed = true
	l.err = errors.Join(l.err, l.file.Close())
	if l.ring != nil {
		l.err = errors.Join(l.err, l.ring.close(false))
	}
	return l.err
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
	if untold := l.untold(); untold > 0 {
		n, err := l.file.WriteAt([]byte(gap(untold, l.newline)), at)
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
