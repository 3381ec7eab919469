package kube

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/http"
	"net/url"
	"time"
)

// How the output of a Job is read.
const (
	logOverlap = time.Minute      // read once more after the connection was lost: the node's clock may have been set back
	logLinger  = 10 * time.Second // for the rest of the output, once the container has ended
	logTries   = 5                // to read the rest where the node does not give it
	logQuiet   = time.Second      // a connection that lasted so long is none that cannot be made
)

// jobLog reads the output of a pod's container. It is owned by the goroutine of run.
type jobLog struct {
	api       *api
	namespace string
	pod       string
	line      func([]byte) error
	say       func(format string, args ...any)
	last      time.Time // of the last line that was given
	sum       uint64    // of its text
	newest    time.Time // of all lines that were given
	lost      bool      // it was not found when it was looked for
	outage    bool      // it was said that nothing can be read
}

// lineError is what the taker of lines says.
type lineError struct{ error }

// nodeError is what the node says in place of the output.
type nodeError string

func (e nodeError) Error() string { return "the node says: " + string(e) }

// run gives the lines to the end. It is the end when all was read once more after over has ended. What cannot be read is
// said, and no error; an error is the taker's, or that of ctx.
func (l *jobLog) run(ctx, over context.Context) error {
	var wait patience
	for tries := 0; ; {
		final, began := over.Err() != nil, time.Now()
		err := l.read(ctx, over, !final)
		var taker lineError
		switch {
		case errors.As(err, &taker):
			return taker.error
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil && final:
			return nil
		case final && isCode(err, http.StatusNotFound):
			l.say("whether the whole output of pod %s was read is unknown: the pod has gone", l.pod)
			return nil
		case final && (refused(err) != nil || errors.As(err, new(nodeError))):
			if tries++; tries == logTries {
				l.say("the rest of the output of pod %s cannot be read: %s", l.pod, err)
				return nil
			}
		}
		l.tell(err)
		if time.Since(began) > logQuiet {
			wait.reset()
		}
		if err := sleepUnless(ctx, over, final, wait.after(err)); err != nil {
			return err
		}
	}
}

// tell says that nothing can be read, and that it can again.
func (l *jobLog) tell(err error) {
	switch {
	case err != nil && !l.outage:
		l.say("the output of pod %s cannot be read now (%s); trying on", l.pod, err)
	case err == nil && l.outage:
		l.say("the output of pod %s can be read again", l.pod)
	}
	l.outage = err != nil
}

// sleepUnless waits, or until over ends, if it had not before.
func sleepUnless(ctx, over context.Context, final bool, d time.Duration) error {
	if final {
		return sleep(ctx, d)
	}
	_ = sleep(over, d)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// read gives the lines that there are since shortly before the last one, and those that come where it is to follow.
func (l *jobLog) read(ctx, over context.Context, follow bool) error {
	query := url.Values{"container": {JobContainer}, "timestamps": {"true"}}
	again := !l.last.IsZero() && !l.lost
	if again {
		query.Set("sinceTime", l.last.Add(-logOverlap).UTC().Truncate(time.Second).Format(time.RFC3339))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	patient := answerTime
	if follow {
		query.Set("follow", "true")
		patient = watchTime // then it is asked anew, lest a connection that died in silence be trusted for ever
		defer context.AfterFunc(over, func() { time.AfterFunc(logLinger, cancel) })()
	}
	response, err := l.api.open(ctx, cancel, podPath(l.namespace, l.pod, "log"), query)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	quiet := time.AfterFunc(patient, cancel)
	defer quiet.Stop()
	lines := bufio.NewReaderSize(&timedReader{response.Body, quiet, patient}, 64<<10)
	for {
		line, err := readLine(lines)
		if err == nil || errors.Is(err, io.EOF) && !follow && len(line) > 0 {
			if err := l.give(line, &again); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF) && again && !follow:
			l.lost = true
			return errors.New("the last line that was read is not there any more")
		case errors.Is(err, io.EOF), follow && ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("the connection broke off: %w", plainError(err))
		}
	}
}

// give gives a line without its time. Those that came again are passed over, up to the one that was given last, while again
// is true: a node's clock may be set back, but a log keeps its order. What has no time is not of the container, but of the
// kubelet: why it cannot read. The error is a lineError or a nodeError.
func (l *jobLog) give(line []byte, again *bool) error {
	stamp, text, _ := bytes.Cut(line, []byte(" "))
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return nodeError(printable(string(line)))
	}
	sum := maphash.Bytes(saidSeed, text)
	if *again && !at.After(l.newest) {
		*again = !at.Equal(l.last) || sum != l.sum
		return nil
	}
	*again, l.last, l.sum, l.lost = false, at, sum, false
	if at.After(l.newest) {
		l.newest = at
	}
	if err := l.line(text); err != nil {
		return lineError{err}
	}
	return nil
}

// readLine reads a line of at most maxObject bytes, and gives it without its end; of a longer one the beginning. With an
// error it gives what there was of it.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part[:min(len(part), maxObject-len(line))]...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		return bytes.TrimSuffix(line, []byte("\n")), err
	}
}

// timedReader runs a timer while it waits.
type timedReader struct {
	r       io.Reader
	timer   *time.Timer
	patient time.Duration
}

func (t *timedReader) Read(p []byte) (int, error) {
	t.timer.Reset(t.patient)
	defer t.timer.Stop()
	return t.r.Read(p)
}
