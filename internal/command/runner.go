package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Options say how a Runner runs commands.
type Options struct {
	// Protect lists files and directories that commands must not see: state, configuration, credentials, mirrors. They
	// need not exist yet. New entries in the directories above them are out of reach too for commands that are running
	// when they appear, see sandbox; so a protected path is best given a directory that nobody else uses.
	Protect []string
	// Grace is how long a command that is to end may take over it before it is killed. 10 s where it is 0.
	Grace time.Duration
	// Log gets what went wrong without making a command fail; nil discards it.
	Log *slog.Logger
}

// Runner runs commands. It is safe for concurrent use.
type Runner struct {
	grace time.Duration
	log   *slog.Logger
	box   *sandbox
}

// The times of an ending beside the grace, which is the user's.
const (
	defaultGrace = 10 * time.Second
	// settleTime is for processes that end by themselves just after the command: `> >(tee log)` leaves one.
	settleTime = 200 * time.Millisecond
	// sweepGrace is, at most, for what a command leaves in the background once it has ended by itself.
	sweepGrace = time.Second
	// killTime is how long killed processes may take to be gone. Longer takes only one in an uninterruptible sleep.
	killTime = time.Second
	// drainTime is for reading what is left in the pipe when a process that cannot be ended holds it open.
	drainTime = 500 * time.Millisecond
)

// New makes a Runner. From then on this process adopts orphaned descendants.
func New(o Options) *Runner {
	adoptOrphans()
	r := &Runner{grace: o.Grace, log: o.Log}
	if r.grace <= 0 {
		r.grace = defaultGrace
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.box = newSandbox(o.Protect, r.log)
	return r
}

// Expect tells that a command is likely to run in a moment. What is the same for every command is made ready for it, which
// is given up when none comes in some seconds. The command does not depend on it.
func (r *Runner) Expect() { r.box.expect() }

// Run runs one command to its end and gives what became of it. When ctx ends or the timeout passes, the command is
// ended; Run returns within the grace and two seconds of that, whatever the command does. When it returns, everything
// that the command has started has ended too, unless Result.Err says otherwise. Should this process be killed while it
// runs, the command's first process is killed with it, and Sweep ends the rest.
func (r *Runner) Run(ctx context.Context, s Spec) (res Result) {
	res = Result{Outcome: NotStarted, ExitCode: -1, StartedAt: time.Now()}
	defer func() { res.FinishedAt = time.Now() }()
	if ctx.Err() != nil {
		res.Err = context.Cause(ctx)
		return res
	}
	out, err := openOutput(s)
	if err != nil {
		res.Err = err
		return res
	}
	defer func() {
		res.Output = out.close()
		if res.Output.Err != nil {
			res.Err = also(res.Err, fmt.Errorf("its log is incomplete: %w", res.Output.Err))
		}
	}()

	t, err := r.start(s, out, func() error {
		if s.Begin != nil {
			if err := s.Begin(); err != nil {
				return err
			}
		}
		res.StartedAt = time.Now()
		return context.Cause(ctx)
	})
	if err != nil {
		res.Err = err
		return res
	}
	out.follow()
	if s.OnStart != nil {
		s.OnStart(t.pid())
	}
	res.Outcome, res.Err = await(ctx, t, s.Timeout)
	res.Swept, err = r.end(t, res.Outcome)
	res.Err = also(res.Err, err)
	if state := t.reap(); state != nil {
		res.ExitCode = state.ExitCode()
		res.Signal = signalName(state)
		res.Usage = Usage{UserCPU: state.UserTime(), SystemCPU: state.SystemTime(), MaxRSS: maxRSS(state)}
	}
	return res
}

// also is both errors, on one line.
func also(err, more error) error {
	if err == nil || more == nil {
		return errors.Join(err, more)
	}
	return fmt.Errorf("%w; %w", err, more)
}

// start starts the command with both its streams on the pipe of out, once begin allows it.
func (r *Runner) start(s Spec, out *output, begin func() error) (*tree, error) {
	path, words, err := program(s)
	if err != nil {
		return nil, err
	}
	if s.Dir != "" {
		// The error of starting would name the program, as if that were missing.
		if info, err := os.Stat(s.Dir); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("cannot start in %s: it is not a directory", s.Dir)
		}
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	rules, err := r.box.rules(s.Writable, s.Readable)
	if err != nil {
		return nil, err
	}
	defer rules.close()
	var refused error
	t, err := startTree(func() *exec.Cmd {
		return &exec.Cmd{
			Path: path, Args: words, Dir: s.Dir, Env: append([]string{}, s.Env...),
			Stdin: null, Stdout: out.write, Stderr: out.write,
		}
	}, s.Env, rules, func() error { refused = begin(); return refused })
	switch {
	case refused != nil:
		return nil, refused
	case errors.Is(err, syscall.E2BIG):
		return nil, fmt.Errorf("cannot start %s: the command (128 KiB at most) or its environment is too long: %w", path, err)
	case err != nil:
		return nil, fmt.Errorf("cannot start %s: %w", path, err)
	}
	return t, nil
}

// lookAfter is how often the processes of a running command are looked at: orphans that have ended are reaped.
const lookAfter = time.Second

// await waits for the command to end or to have to.
func await(ctx context.Context, t *tree, timeout time.Duration) (Outcome, error) {
	var expired <-chan time.Time
	if timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		expired = timer.C
	}
	ticker := time.NewTicker(lookAfter)
	defer ticker.Stop()
	for {
		select {
		case <-t.ended():
			return Exited, nil
		case <-expired:
			return TimedOut, nil
		case <-ctx.Done():
			return Canceled, context.Cause(ctx)
		case <-ticker.C:
			t.look()
		}
	}
}
