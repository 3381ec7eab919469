package command

import (
	"fmt"
	"io"
	"time"

	"sentry/internal/logger"
)

// Spec is one command to run.
type Spec struct {
	// Script is run by `bash -eo pipefail -c`, or by `sh -e -c` where there is no bash. It reaches the shell unchanged.
	Script string
	// Argv is a program and its arguments, used instead of Script where it is not empty.
	Argv []string
	// Dir is the working directory; empty is this process's own.
	Dir string
	// Env is the whole environment; nothing is added to it.
	Env []string
	// Writable are paths of this deployment (workspace, HOME, TMPDIR) that may be used although they are below a
	// protected one. Each must exist.
	Writable []string
	// Readable are paths that may be read, though not changed, although they are below a protected one: what a
	// workspace borrows from a mirror. Each must exist.
	Readable []string
	// Log is the file for what the command prints, see StepLog. Empty discards it.
	Log string
	// Output is an open log to use instead of Log: several tries of one step share it. It is not closed.
	Output *StepLog
	// Copy gets what goes into the log, before the log bounds it; nil for nobody. The command waits for it.
	Copy io.Writer
	// Mask hides secrets in what is printed; nil hides nothing.
	Mask *logger.Masker
	// Timeout is how long the command may run, 0 for ever.
	Timeout time.Duration
	// Begin is asked when everything is ready, on Linux the process as well: the command runs once Begin has returned nil,
	// and never where it gives an error, which Result.Err is then. So what has to be done before the command begins, such
	// as saving that it does, goes on while its process is made. Nil lets it begin.
	Begin func() error
	// OnStart is called with the process id once the command runs, before anything is waited for.
	OnStart func(pid int)
}

// Outcome is how a command ended.
type Outcome string

// The outcomes.
const (
	Exited     Outcome = "exited"      // by itself, with a code or by a signal that was not ours
	TimedOut   Outcome = "timed_out"   // it was ended because Spec.Timeout had passed
	Canceled   Outcome = "canceled"    // it was ended because the context had
	NotStarted Outcome = "not_started" // it never ran
)

// Result is what became of a command.
type Result struct {
	Outcome  Outcome
	ExitCode int    // -1 where it did not exit
	Signal   string // "SIGKILL" where a signal ended it, ours included
	// Err tells why a command was not started, or the cause of the context that canceled it; and, whatever the outcome,
	// that processes could not be ended, or that the log is incomplete. Nil where the command just exited, with any code.
	Err        error
	Swept      int // processes that were still there when the command had ended, and were ended then
	Output     Output
	StartedAt  time.Time
	FinishedAt time.Time
	Usage      Usage
}

// Output is how much a command printed.
type Output struct {
	Bytes   int64 // what it wrote
	Dropped int64 // how much of its masked output is not in the log
	Err     error // why the log is incomplete, where it could not be written. The command ran on.
}

// Usage is what the command consumed, together with those of its descendants that it waited for.
type Usage struct {
	UserCPU, SystemCPU time.Duration
	MaxRSS             int64 // bytes, of the largest process
}

// Succeeded reports whether the command ran to its end and exited with 0.
func (r Result) Succeeded() bool { return r.Outcome == Exited && r.ExitCode == 0 }

// Reason says in words for people how the command ended.
func (r Result) Reason() string {
	reason := ""
	switch {
	case r.Outcome == NotStarted:
		return fmt.Sprintf("not started: %v", r.Err)
	case r.Outcome == TimedOut:
		reason = fmt.Sprintf("timed out after %v", r.FinishedAt.Sub(r.StartedAt).Round(time.Second))
	case r.Outcome == Canceled:
		return fmt.Sprintf("ended: %v", r.Err)
	case r.Signal != "":
		reason = "killed by " + r.Signal
	default:
		reason = fmt.Sprintf("exit code %d", r.ExitCode)
	}
	if r.Err != nil {
		reason = fmt.Sprintf("%s: %v", reason, r.Err)
	}
	return reason
}
