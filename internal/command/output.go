package command

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"sentry/internal/logger"
)

// idleTime is after how long without more output the last characters are shown, although they might begin a secret.
const idleTime = 100 * time.Millisecond

// drainBytes is how much a pipe can hold at most (/proc/sys/fs/pipe-max-size).
const drainBytes = 1 << 20

// output carries what a command prints from its pipe through the mask to the log.
type output struct {
	read, write *os.File // the pipe; write is nil once it is the command's alone
	log         *StepLog // nil discards
	owned       bool     // the log is ours to close
	before      int64    // what was dropped from the log before
	mask        *logger.MaskWriter

	done  chan struct{} // closed when following has ended; nil before it begins
	bytes int64         // read from the pipe; owned by the follower until done
	err   error         // of the log; owned likewise

	mu      sync.Mutex
	closing bool // the command has ended, the rest is to be drained
}

// openOutput makes the pipe and the log of a command.
func openOutput(s Spec) (*output, error) {
	o := &output{log: s.Output}
	if o.log == nil && s.Log != "" {
		log, err := CreateLog(s.Log)
		if err != nil {
			return nil, err
		}
		o.log, o.owned = log, true
	}
	var sink io.Writer = io.Discard
	if o.log != nil {
		sink, o.before = o.log, o.log.Dropped()
	}
	if s.Copy != nil {
		sink = io.MultiWriter(s.Copy, sink)
	}
	o.mask = s.Mask.Writer(sink)
	var err error
	if o.read, o.write, err = os.Pipe(); err != nil {
		return nil, errors.Join(err, o.closeLog())
	}
	return o, nil
}

func (o *output) closeLog() error {
	if !o.owned {
		return nil
	}
	return o.log.Close()
}

// follow begins to read. The write end is the command's from now on.
func (o *output) follow() {
	_ = o.write.Close()
	o.write = nil
	o.done = make(chan struct{})
	go func() {
		defer close(o.done)
		o.copy()
	}()
}

// copy reads until the pipe ends, or until it is closing and nothing comes any more. It goes on when the log cannot be
// written: the command is not to wait for a disk.
func (o *output) copy() {
	buf := make([]byte, 64<<10)
	idle := false
	for {
		var until time.Time
		if held := o.mask.Held(); !idle && 0 < held && held < logger.MinSecret {
			until = time.Now().Add(idleTime)
		}
		if !o.deadline(until) {
			o.drain(buf)
			break
		}
		n, err := o.read.Read(buf)
		o.pass(buf[:n])
		idle = n == 0
		if errors.Is(err, os.ErrDeadlineExceeded) {
			o.note(o.mask.FlushIdle())
		} else if err != nil {
			break
		}
	}
	o.note(o.mask.Flush())
}

// drain reads what is left in the pipe. If a process that cannot be ended holds it open, that is what comes without
// much waiting (the time for writing to the log does not count), and no more than a pipe can hold.
func (o *output) drain(buf []byte) {
	waited, end := time.Duration(0), o.bytes+drainBytes
	for waited < drainTime && o.bytes < end {
		begin := time.Now()
		if o.read.SetReadDeadline(begin.Add(drainTime-waited)) != nil {
			return
		}
		n, err := o.read.Read(buf)
		waited += time.Since(begin)
		o.pass(buf[:n])
		if err != nil {
			return
		}
	}
}

func (o *output) pass(p []byte) {
	if len(p) > 0 {
		o.bytes += int64(len(p))
		_, err := o.mask.Write(p)
		o.note(err)
	}
}

func (o *output) note(err error) {
	if o.err == nil {
		o.err = err
	}
}

// deadline sets the time until which to wait for output (zero for ever), and reports whether it may: not once the
// output is closing.
func (o *output) deadline(t time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closing {
		return false
	}
	err := o.read.SetReadDeadline(t)
	return err == nil || errors.Is(err, os.ErrNoDeadline)
}

// finish waits until the follower has ended. It reports false on a system without deadlines for pipes (Windows), where
// it cannot make it end.
func (o *output) finish() bool {
	o.mu.Lock()
	o.closing = true
	err := o.read.SetReadDeadline(time.Now()) // wakes the follower
	o.mu.Unlock()
	if err == nil {
		<-o.done
		return true
	}
	select {
	case <-o.done:
		return true
	case <-time.After(drainTime):
		return false
	}
}

// close waits for what is left in the pipe, not long if a process holds it open, and completes the log.
func (o *output) close() Output {
	if o.write != nil { // the command did not start
		_ = o.write.Close()
	}
	if o.done != nil && !o.finish() {
		return Output{Err: errors.New("a process holds the output of the command open")}
	}
	_ = o.read.Close()
	o.note(o.closeLog())
	out := Output{Bytes: o.bytes, Err: o.err}
	if o.log != nil {
		out.Dropped = o.log.Dropped() - o.before
	}
	return out
}
