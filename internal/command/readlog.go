package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// OpenLog opens a log as it is now, complete or not, also that of a writer that was killed. What is missing from the
// middle is told by a line. The error is fs.ErrNotExist where there is no log.
func OpenLog(path string) (io.ReadCloser, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	tail, err := openRing(ringPath(path), os.O_RDONLY)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return file, nil
	case errors.Is(err, errNoRing): // its writer was killed just when it made it: there is nothing in it
		return file, nil
	case err != nil:
		return nil, errors.Join(err, file.Close())
	}
	defer tail.file.Close()
	if tail.whole {
		return file, nil
	}
	rest := make([]byte, tail.kept())
	rest, dropped, err := tail.read(rest, 0)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	var between []byte
	if dropped > 0 {
		last := make([]byte, 1)
		_, err := file.ReadAt(last, max(0, tail.head-1))
		between = []byte(gap(dropped, err != nil || last[0] == '\n'))
	}
	parts := io.MultiReader(io.LimitReader(file, tail.head), bytes.NewReader(between), bytes.NewReader(rest))
	return struct {
		io.Reader
		io.Closer
	}{parts, file}, nil
}

// How often a log is looked at for more: soon while it grows, less often when it does not.
const (
	followSoon  = 50 * time.Millisecond
	followLater = 500 * time.Millisecond
)

// FollowLog copies a log to w as it grows, from its beginning, until done reports that nothing will be added to it and
// all of it is copied. It waits for a log that is not there yet. Where the log grows faster than it can be copied, a
// line tells how much was passed over. The error is the cause of ctx when that ends.
func FollowLog(ctx context.Context, path string, done func() bool, w io.Writer) error {
	f := follower{path: path, newline: true, buf: make([]byte, 128<<10)}
	defer f.close()
	last, pause := false, followSoon
	for {
		copied, err := f.copy(w)
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case copied > 0:
			pause = followSoon
			continue
		case last:
			return nil
		}
		if last = done(); last {
			continue // what came before it said so
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
			pause = min(2*pause, followLater)
		}
	}
}

// follower is how far somebody has read a log that is being written.
type follower struct {
	path    string
	file    *os.File // nil until there is one
	at      int64    // what of file was copied
	tail    *ring    // nil while the log has none, or none that is needed
	past    int64    // what of tail was copied or passed over
	newline bool     // the last byte copied is one
	buf     []byte
}

// copy copies some of what is there, and tells how many bytes; 0 where nothing new has been written.
func (f *follower) copy(w io.Writer) (int, error) {
	if f.file == nil {
		file, err := os.Open(f.path)
		if errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		f.file = file
	}
	if err := f.findTail(); err != nil {
		return 0, err
	}
	room := f.buf
	if f.tail != nil {
		room = room[:min(int64(len(room)), f.tail.head-f.at)]
	}
	if len(room) > 0 {
		n, err := f.file.ReadAt(room, f.at)
		if err != nil && err != io.EOF {
			return 0, err
		}
		f.at += int64(n)
		return n, f.write(w, room[:n])
	}
	data, skipped, err := f.tail.read(f.buf, f.past)
	if err != nil {
		return 0, err
	}
	f.past += skipped + int64(len(data))
	if skipped > 0 {
		if _, err := fmt.Fprint(w, gap(skipped, f.newline)); err != nil {
			return 0, err
		}
	}
	return len(data), f.write(w, data)
}

// findTail opens the ring once there is one. Where the log is completed between the question and the reading, the file
// has everything: it only grows. A ring that turns up when more than the head was read is that of such a log.
func (f *follower) findTail() error {
	if f.tail != nil {
		return nil
	}
	tail, err := openRing(ringPath(f.path), os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNoRing) {
		return nil
	}
	if err != nil {
		return err
	}
	if tail.whole || f.at > tail.head {
		return tail.file.Close()
	}
	f.tail = tail
	return nil
}

func (f *follower) write(w io.Writer, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	f.newline = p[len(p)-1] == '\n'
	_, err := w.Write(p)
	return err
}

func (f *follower) close() {
	if f.file != nil {
		_ = f.file.Close()
	}
	if f.tail != nil {
		_ = f.tail.file.Close()
	}
}
