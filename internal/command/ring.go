package command

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// ring is a file that keeps the last bytes of what is written to it. Readers in other processes see it in a consistent
// state at any moment, and so do those that come after the writer was killed: the header says how much was written, and
// the room for data exceeds what counts as kept by one write, so that a write that is under way, or was never finished,
// overwrites only what does not count any more.
//
// The header is, in little-endian numbers of 8 bytes: the magic, the length of the head of the log, the number of bytes
// that count as kept, how much was written in all, 1 when the log is complete without the ring, how many bytes of the log
// never came, and how long the lines are in it that tell so.
type ring struct {
	file  *os.File
	head  int64
	keep  int64
	total int64
	whole bool
	lost  int64
	marks int64
}

const (
	ringMagic  = 0x32474e4952595453 // "STYRING2"
	ringHeader = 56
	ringChunk  = 64 << 10 // the longest single write
	maxKeep    = 64 << 20 // what a reader believes of a header
)

func ringPath(log string) string { return log + ".tail" }

func createRing(path string, head, keep int64) (*ring, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	r := &ring{file: file, head: head, keep: keep}
	if err := r.writeHeader(); err != nil {
		return nil, errors.Join(err, file.Close(), os.Remove(path))
	}
	return r, nil
}

func (r *ring) writeHeader() error {
	var header [ringHeader]byte
	whole := int64(0)
	if r.whole {
		whole = 1
	}
	for i, n := range []int64{ringMagic, r.head, r.keep, r.total, whole, r.lost, r.marks} {
		binary.LittleEndian.PutUint64(header[8*i:], uint64(n))
	}
	_, err := r.file.WriteAt(header[:], 0)
	return err
}

// errNoRing tells that a file is no ring, or not yet one.
var errNoRing = errors.New("not the tail of a log")

// openRing opens a ring for reading, or for writing, too.
func openRing(path string, flags int) (*ring, error) {
	file, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, err
	}
	r := &ring{file: file}
	if err := r.refresh(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return r, nil
}

// refresh reads the header again.
func (r *ring) refresh() error {
	var header [ringHeader]byte
	if _, err := r.file.ReadAt(header[:], 0); err != nil {
		return fmt.Errorf("%w: %w", errNoRing, err)
	}
	number := func(i int) int64 { return int64(binary.LittleEndian.Uint64(header[8*i:])) }
	r.head, r.keep, r.total, r.whole = number(1), number(2), number(3), number(4) == 1
	r.lost, r.marks = number(5), number(6)
	if number(0) != ringMagic || r.head < 0 || r.keep <= 0 || r.keep > maxKeep || r.total < 0 || r.lost < 0 || r.marks < 0 {
		return errNoRing
	}
	return nil
}

// room is how many bytes of data the file has place for.
func (r *ring) room() int64 { return r.keep + ringChunk }

// kept is how many of the bytes written count as kept.
func (r *ring) kept() int64 { return min(r.total, r.keep) }

// short reports whether the file lacks some of what counts as written.
func (r *ring) short() bool {
	info, err := r.file.Stat()
	return err != nil || info.Size() < ringHeader+min(r.total, r.room())
}

// Write adds p. What was written before an error counts.
func (r *ring) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		at := r.total % r.room()
		n := int(min(int64(len(p)-done), ringChunk, r.room()-at))
		if _, err := r.file.WriteAt(p[done:done+n], ringHeader+at); err != nil {
			return done, err
		}
		r.total += int64(n)
		if err := r.writeHeader(); err != nil {
			r.total -= int64(n)
			return done, err
		}
		done += n
	}
	return done, nil
}

// ReadAt reads from the position off of everything that was written, as far as the header said that it goes. It does
// not check that the bytes are still there: see read.
func (r *ring) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) && off < r.total {
		at := off % r.room()
		n, err := r.file.ReadAt(p[done:done+int(min(int64(len(p)-done), r.room()-at, r.total-off))], ringHeader+at)
		done += n
		off += int64(n)
		if err != nil {
			return done, err
		}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// read gives what there is from a position on, at most len(p), while a writer goes on: where the position is no longer
// kept it first moves on to one that is, and says how many bytes that skips. It gives nothing at the end.
func (r *ring) read(p []byte, from int64) (data []byte, skipped int64, err error) {
	if err := r.refresh(); err != nil {
		return nil, 0, err
	}
	skipped = max(0, r.total-r.keep-from)
	n, err := r.ReadAt(p, from+skipped)
	if err != nil && err != io.EOF {
		return nil, 0, err
	}
	// What was overwritten while we read is wrong: it is skipped too.
	if err := r.refresh(); err != nil {
		return nil, 0, err
	}
	stale := min(int64(n), max(0, r.total-r.keep-from-skipped))
	return p[stale:n], skipped + stale, nil
}

// close ends writing. The log is whole where the file of it has everything; the ring is not needed then.
func (r *ring) close(whole bool) error {
	if !whole {
		return r.file.Close()
	}
	// Where a reader keeps the file from being removed (Windows), the header tells.
	r.whole = true
	err := r.writeHeader()
	if removed := errors.Join(r.file.Close(), os.Remove(r.file.Name())); removed != nil && err != nil {
		return errors.Join(err, removed)
	}
	return nil
}
