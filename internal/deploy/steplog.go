package deploy

import (
	"errors"
	"io"
	"sync"

	"sentry/internal/command"
	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// stepLog is the log of a step that Sentry itself does.
type stepLog struct {
	io.Writer
	close func()
}

// openLog begins the log of a step. One that cannot be written is told of, and goes nowhere.
func (a *attempt) openLog(step *sentry.Step) stepLog {
	log, err := command.CreateLog(a.logPath(step))
	if err != nil {
		a.log().Error("cannot write the log of a step", logger.KeyStep, step.Name, logger.KeyError, err)
		return stepLog{io.Discard, func() {}}
	}
	also := a.copyLog(step)
	counted := &counter{to: io.MultiWriter(also, log)}
	masked := a.Mask.Writer(counted)
	var turn sync.Mutex
	return stepLog{writer(func(p []byte) (int, error) {
		turn.Lock()
		defer turn.Unlock()
		return masked.Write(p)
	}), func() {
		_ = masked.Flush() // the log remembers what it could not keep
		step.Bytes, step.Dropped = counted.n, log.Dropped()
		if err := errors.Join(also.Close(), log.Close()); err != nil {
			a.log().Error("cannot write the log of a step", logger.KeyStep, step.Name, logger.KeyError, err)
		}
	}}
}

// counter counts the bytes that pass.
type counter struct {
	to io.Writer
	n  int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.to.Write(p)
}

// writer is a function that writes.
type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
