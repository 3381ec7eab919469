package store

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

const (
	logMagic    = 0x377f0682 // checksums in little-endian order: what the SQLite inside writes on every machine
	logHeader   = 32
	frameHeader = 24
)

// checkLog looks for damage in the write-ahead log that a crash has left. SQLite takes the first frame whose checksum is
// wrong for the end of the log, whatever follows: right for a write that the crash cut off, but a flipped byte would
// silently take back every commit after it.
//
// The two can be told apart. Commits are synced one by one, so a crash cuts off at most the last transaction. A bad frame
// with the end of a transaction after it (or in it), and a genuine frame after that, had been synced: it is damage.
// A frame is genuine if it bears the salts of this round of the log and its checksum continues the one stored in the frame
// before it. What is bad among the last two transactions cannot be told from a cut with certainty; the state then is that
// of the commit before, as after a crash a moment earlier.
//
// Errors: ErrCorrupt. https://sqlite.org/fileformat2.html#the_write_ahead_log
func checkLog(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<20)

	var header [logHeader]byte
	switch _, err := io.ReadFull(in, header[:]); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil // nothing was ever committed to it
	case err != nil:
		return fmt.Errorf("%w: %s cannot be read: %w", ErrCorrupt, path, err)
	}
	var sum checksum
	sum.add(header[:24])
	bad := binary.BigEndian.Uint32(header[:]) != logMagic || !sum.is(header[24:])
	sum.set(header[24:])

	var (
		salts = [8]byte(header[16:24])
		frame = make([]byte, frameHeader+pageSize)
		ended bool // a transaction of this round ended in the bad frame or after it
	)
	for n := 1; ; n++ {
		if _, err := io.ReadFull(in, frame); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%w: %s cannot be read: %w", ErrCorrupt, path, err)
		}
		if bad && n == 1 {
			salts = [8]byte(frame[8:16]) // those of the header cannot be believed
		}
		ours := [8]byte(frame[8:16]) == salts
		sum.add(frame[:8])
		sum.add(frame[frameHeader:])
		genuine := ours && sum.is(frame[16:])
		if genuine && ended {
			return fmt.Errorf("%w: %s is damaged before its frame %d, and the commits after that would be lost: restore a copy of %s with its -wal file", ErrCorrupt, path, n, databaseName)
		}
		bad = bad || !genuine
		ended = ended || bad && ours && binary.BigEndian.Uint32(frame[4:]) != 0
		sum.set(frame[16:]) // the next frame continues what is stored in this one, right or wrong
	}
}

// inLog reports whether the log has a page in its current round.
func inLog(path string, page uint32) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	var header [logHeader]byte
	if _, err := f.ReadAt(header[:], 0); err != nil {
		return false, orEOF(err)
	}
	var frame [frameHeader]byte
	for offset := int64(logHeader); ; offset += frameHeader + pageSize {
		if _, err := f.ReadAt(frame[:], offset); err != nil {
			return false, orEOF(err)
		}
		if [8]byte(frame[8:16]) != [8]byte(header[16:24]) {
			return false, nil
		}
		if binary.BigEndian.Uint32(frame[:]) == page {
			return true, nil
		}
	}
}

// orEOF is no error at the end of a file.
func orEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// checksum is the running sum of the log.
type checksum struct{ s0, s1 uint32 }

func (c *checksum) add(b []byte) {
	for ; len(b) >= 8; b = b[8:] {
		c.s0 += binary.LittleEndian.Uint32(b) + c.s1
		c.s1 += binary.LittleEndian.Uint32(b[4:]) + c.s0
	}
}

func (c *checksum) is(b []byte) bool {
	return c.s0 == binary.BigEndian.Uint32(b) && c.s1 == binary.BigEndian.Uint32(b[4:])
}

func (c *checksum) set(b []byte) {
	c.s0, c.s1 = binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
}
