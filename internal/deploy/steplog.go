package deploy

import (
	"errors"
	"fmt"
	"io"
	"os"
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
	step.Bytes = 0
	return a.writeLog(step, io.MultiWriter(also, log), func() error {
		step.Dropped = log.Dropped()
		return errors.Join(also.Close(), log.Close())
	})
}

// appendLog adds to the log of a try of a command that has ended; also gets a copy, and stays open.
func (a *attempt) appendLog(step *sentry.Step, also io.Writer) (stepLog, error) {
	file, err := os.OpenFile(a.logPath(step), os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return stepLog{}, fmt.Errorf("cannot write the log: %w", err)
	}
	return a.writeLog(step, io.MultiWriter(also, file), file.Close), nil
}

// writeLog masks and counts what is written to the log of a step. It may be written to by several goroutines.
func (a *attempt) writeLog(step *sentry.Step, to io.Writer, done func() error) stepLog {
	counted := &counter{to: to}
	masked := a.Mask.Writer(counted)
	var turn sync.Mutex
	return stepLog{writer(func(p []byte) (int, error) {
		turn.Lock()
		defer turn.Unlock()
		return masked.Write(p)
	}), func() {
		_ = masked.Flush() // the log remembers what it could not keep
		step.Bytes += counted.n
		if err := done(); err != nil {
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
