package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"sentry/internal/command"
	"sentry/internal/config"
	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// attempt is one attempt at one deployment on this machine. One goroutine owns it.
type attempt struct {
	*Local
	job     Job
	d       sentry.Deployment // as last saved, or about to be; what it created in a cluster is with keep
	keep    *keeper
	now     func() time.Time
	dir     string // the workspace
	project string // the folder of the project in the tree; "" where there is none

	cluster   Cluster           // nil for none
	noCluster error             // why there is none where one is configured
	letGo     func()            // lets the cluster go; nil for none
	access    Access            // of the commands to the cluster; nil for none
	watched   map[string]func() // by namespace, what ends the watch
	// lost are the pipeline runs that the last cancellation found to be in another cluster: as they are recorded, and as they
	// are if that stays so.
	lost [][2]sentry.PipelineRun

	place place
}

// carryOut does the steps in order and stops at the first that does not succeed.
func (a *attempt) carryOut(ctx context.Context) Outcome {
	verdict, stands := standing(a.d)
	switch {
	case stands:
		return a.endRuns(ctx, verdict, "the verdict was reached when Sentry ended")
	case a.job.Resume:
		return a.track(ctx, "")
	case a.job.Adopt:
		return a.seeOut(ctx, a.place.perform(ctx, a))
	}
	if outcome := a.clearEarlier(ctx); outcome.Status != sentry.Succeeded {
		return outcome
	}
	return a.seeOut(ctx, a.place.perform(ctx, a))
}

// work does what there is to do in the tree.
func (a *attempt) work(ctx context.Context) Outcome {
	commands := a.job.Repository.Deploy.Commands
	if len(commands) == 0 {
		return a.create(ctx)
	}
	for _, c := range commands {
		if outcome := a.command(ctx, c); outcome.Status != sentry.Succeeded {
			return outcome
		}
	}
	return Outcome{sentry.Succeeded, fmt.Sprintf("%s succeeded", plural(len(commands), "command"))}
}

func (a *attempt) source() string     { return filepath.Join(a.dir, treeDir) }
func (a *attempt) home() string       { return filepath.Join(a.dir, homeDir) }
func (a *attempt) tmp() string        { return filepath.Join(a.dir, tmpDir) }
func (a *attempt) vectorFile() string { return filepath.Join(a.dir, "vector.json") }

func (a *attempt) places() places {
	p := places{home: a.home(), tmp: a.tmp(), vector: a.vectorFile(), project: a.project}
	if a.access != nil {
		p.kubeconfig = a.kubeconfig()
	}
	return p
}

// logs is LogsDir/ROLLOUT/REPOSITORY, or REPOSITORY@ORDINAL where the rollout has several deployments of it.
func (a *attempt) logs() string {
	return filepath.Join(a.LogsDir, a.job.Rollout.ID, a.logFolder())
}

func (a *attempt) logFolder() string {
	n := 0
	for _, d := range a.job.Rollout.Deployments {
		if d.Repository == a.d.Repository {
			n++
		}
	}
	if n > 1 {
		return fmt.Sprintf("%s@%d", a.d.Repository, a.d.Ordinal)
	}
	return a.d.Repository
}

// state is how far the attempt is, to be saved while it goes on.
func (a *attempt) state() sentry.Deployment {
	d := a.d
	d.Steps = slices.Clone(d.Steps)
	return d
}

// saving saves how far the attempt is while the caller goes on, and gives what waits for the end of that. Everything that
// a crash must not leave unexplained comes after it, and so does the next save.
func (a *attempt) saving() (saved func() error) {
	state := a.state()
	done := make(chan error, 1)
	go func() { done <- a.keep.save(state) }()
	return sync.OnceValue(func() error { return <-done })
}

// begin appends a step. The caller has it saved.
func (a *attempt) begin(kind sentry.StepKind, name string) *sentry.Step {
	n := len(a.d.Steps) + 1
	a.d.Steps = append(a.d.Steps, sentry.Step{
		Attempt: a.d.Attempt, Ordinal: n, Kind: kind, Name: name, Status: sentry.Running, Tries: 1, StartedAt: a.now(),
	})
	step := &a.d.Steps[n-1]
	a.setLog(step)
	return step
}

// setLog gives the current try of a step its log file; those of a clone share one.
func (a *attempt) setLog(step *sentry.Step) {
	name := fmt.Sprintf("%02d-%s", step.Ordinal, slug(step.Name))
	if step.Attempt > 1 {
		name = fmt.Sprintf("attempt%d-%s", step.Attempt, name)
	}
	if step.Tries > 1 && step.Kind != sentry.StepClone {
		name = fmt.Sprintf("%s-try%d", name, step.Tries)
	}
	step.Log = filepath.ToSlash(filepath.Join(a.job.Rollout.ID, a.logFolder(), name+".log"))
}

func (a *attempt) logPath(step *sentry.Step) string {
	return filepath.Join(a.LogsDir, filepath.FromSlash(step.Log))
}

// copyLog opens what gets a copy of the log of a step.
func (a *attempt) copyLog(step *sentry.Step) io.WriteCloser {
	if a.CopyLog == nil {
		return nowhere{}
	}
	return a.CopyLog(path.Base(step.Log))
}

// nowhere is a copy that nobody wants.
type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) Close() error                { return nil }

// end ends the step with an outcome. It is saved with the next save: either that of the next step's beginning, or
// that of the deployment's end. A crash between repeats the attempt, which it would do anyway.
func (a *attempt) end(step *sentry.Step, o Outcome) Outcome {
	step.Status, step.Reason, step.FinishedAt = o.Status, o.Reason, a.now()
	a.log().Info("step ended", logger.KeyStep, step.Name, "status", step.Status, "reason", step.Reason,
		"took", step.FinishedAt.Sub(step.StartedAt).Round(time.Millisecond).String())
	return o
}

// ready is how long a tree takes at most that is there already. To save that it is being made would take longer.
const ready = 5 * time.Millisecond

// clone makes the tree of the QA repository, pinned to the commit that its branch has. Where that takes its time it is
// saved meanwhile that it goes on; otherwise it is saved with what comes next. Should Sentry be killed before, there is a
// folder too many, which the next start removes, and nothing has happened: no command begins unsaved.
func (a *attempt) clone(ctx context.Context) Outcome {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	step := a.begin(sentry.StepClone, "clone")
	state, saved := a.state(), make(chan error, 1)
	save := func() {
		err := a.keep.save(state)
		if err != nil {
			stop(errLost)
		}
		saved <- err
	}
	late := time.AfterFunc(ready, save)
	outcome := a.tree(ctx, step)
	if late.Stop() {
		if outcome.Status == sentry.Succeeded {
			return outcome
		}
		save() // it is the end of the attempt, and what has not begun on disk cannot end there
	}
	if err := <-saved; err != nil {
		return Outcome{sentry.Interrupted, err.Error()}
	}
	return outcome
}

// tree makes the workspace with the tree, and the file with the vector beside that.
func (a *attempt) tree(ctx context.Context, step *sentry.Step) Outcome {
	for _, dir := range []string{a.Root, a.logs()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return a.end(step, Outcome{sentry.Failed, fmt.Sprintf("cannot make a workspace: %v", err)})
		}
	}
	deploy := a.job.Repository.Deploy
	limit, cancel := withLimit(ctx, a.job.Global.Timeout)
	defer cancel()

	file, err := os.OpenFile(a.logPath(step), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return a.end(step, Outcome{sentry.Failed, fmt.Sprintf("cannot write the log: %v", err)})
	}
	defer file.Close()
	also := a.copyLog(step)
	defer also.Close()
	progress := a.Mask.Writer(io.MultiWriter(also, file))
	defer progress.Flush()

	opened := a.opening()
	commit, err := a.cloneWithRetries(limit, step, progress)
	noAccess := opened()
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return a.end(step, EndedBy(ctx, "the QA repository was cloned"))
	case limit.Err() != nil:
		return a.end(step, Outcome{sentry.TimedOut, fmt.Sprintf("cloning the QA repository took more than %s: %v", a.job.Global.Timeout, err)})
	default:
		fmt.Fprintf(progress, "%v\n", err)
		return a.end(step, Outcome{sentry.Failed, fmt.Sprintf("cannot clone QA repository: %v", err)})
	}
	if err := writeVector(a.vectorFile(), a.job.Rollout); err != nil {
		return a.end(step, Outcome{sentry.Failed, fmt.Sprintf("cannot make a workspace: %v", err)})
	}
	if noAccess == nil {
		noAccess = a.writeKubeconfig()
	}
	if noAccess != nil {
		return a.end(step, Outcome{sentry.Failed, fmt.Sprintf("cannot give the commands access to Kubernetes: %v", noAccess)})
	}
	a.project = projectDir(a.source(), deploy.ProjectName)
	a.d.Source = &sentry.Source{URL: deploy.Remote.String(), Branch: deploy.Branch, Commit: commit}
	fmt.Fprintf(progress, "%s is %s at branch %s\n", deploy.Remote, commit, deploy.Branch)
	return a.end(step, Outcome{sentry.Succeeded, "QA repository at " + sentry.ShortCommit(commit)})
}

// cloneTries is how often a clone is begun where the other side fails in a way that may pass.
const cloneTries = 4

func (a *attempt) cloneWithRetries(ctx context.Context, step *sentry.Step, progress io.Writer) (string, error) {
	want := a.want(a.job.Repository, a.job.Since)
	pause := time.Second
	for {
		commit, err := a.Sources.Workspace(ctx, want, a.dir, progress)
		if err == nil || ctx.Err() != nil || step.Tries == cloneTries {
			return commit, err
		}
		fault := sentry.AsFault(err)
		if fault.Kind != sentry.Transient && fault.Kind != sentry.RateLimited {
			return "", err
		}
		wait := max(fault.RetryAfter, pause/2+rand.N(pause)) // full jitter around the doubling pause
		fmt.Fprintf(progress, "%v; trying again in %s\n", err, wait.Round(time.Millisecond))
		if !sleep(ctx, wait) {
			return "", err
		}
		pause *= 2
		step.Tries++
		want.Since = time.Now() // much may have happened meanwhile
	}
}

// command runs one configured command, again after a failure where `retries` allows it.
func (a *attempt) command(ctx context.Context, c config.Command) Outcome {
	step := a.begin(sentry.StepCommand, c.Name)
	pause := time.Second
	for {
		outcome, again := a.tryAndRetract(ctx, step, c)
		if !again {
			return a.end(step, outcome)
		}
		if !sleep(ctx, pause/2+rand.N(pause)) {
			return a.end(step, EndedBy(ctx, step.Name+" waited to be tried again"))
		}
		a.log().Warn("command failed; trying again", logger.KeyStep, step.Name, "reason", outcome.Reason, "try", step.Tries)
		pause = min(2*pause, 30*time.Second)
		step.Tries++
		step.ExitCode = nil
		a.setLog(step)
	}
}

// tryAndRetract runs a command once, and takes back what that has created where it is to be tried again.
func (a *attempt) tryAndRetract(ctx context.Context, step *sentry.Step, c config.Command) (o Outcome, again bool) {
	mark := a.keep.mark()
	saved := a.saving()
	also := a.copyLog(step)
	defer also.Close()
	o, again = a.try(ctx, step, c, saved, also)
	if err := saved(); err != nil {
		return Outcome{sentry.Interrupted, err.Error()}, false
	}
	if !again || step.Tries > c.Retries {
		return o, false
	}
	if err := a.retract(ctx, step, mark, also); err != nil {
		if ctx.Err() != nil {
			return EndedBy(ctx, step.Name+" waited to be tried again"), false
		}
		o.Reason += fmt.Sprintf("; it is not tried again: %v", err)
		return o, false
	}
	return o, true
}

// try runs a command once. It begins when it is saved that it does; its process is made meanwhile. again tells whether
// another try could end otherwise.
func (a *attempt) try(ctx context.Context, step *sentry.Step, c config.Command, saved func() error, also io.Writer) (o Outcome, again bool) {
	// The folder may have been removed with the logs of old: a clock that jumps makes everything old.
	if err := os.MkdirAll(a.logs(), 0o700); err != nil {
		return Outcome{sentry.Failed, fmt.Sprintf("cannot write the log: %v", err)}, true
	}
	result := a.Commands.Run(ctx, command.Spec{
		Script:   c.Run,
		Dir:      a.source(),
		Env:      environment(a.job, a.d, a.places()),
		Writable: []string{a.dir},
		Log:      a.logPath(step),
		Copy:     also,
		Mask:     a.Mask,
		Timeout:  c.Timeout,
		Begin:    saved,
	})
	step.Bytes, step.Dropped = result.Output.Bytes, result.Output.Dropped
	doing := fmt.Sprintf("%s ran", step.Name)
	switch result.Outcome {
	case command.Exited:
		if result.Signal != "" {
			return Outcome{sentry.Failed, fmt.Sprintf("%s was ended by signal %s", step.Name, result.Signal)}, true
		}
		step.ExitCode = &result.ExitCode
		if result.ExitCode == 0 {
			if result.Err != nil { // it said yes, but what it said could not be kept
				return Outcome{sentry.Failed, fmt.Sprintf("%s exited with 0, but: %v", step.Name, result.Err)}, false
			}
			return Outcome{sentry.Succeeded, ""}, false
		}
		return Outcome{sentry.Failed, fmt.Sprintf("%s exited with %d", step.Name, result.ExitCode)}, true
	case command.TimedOut:
		return Outcome{sentry.TimedOut, fmt.Sprintf("%s took more than its timeout of %s", step.Name, c.Timeout)}, true
	case command.Canceled:
		return EndedBy(ctx, doing), false
	default:
		if ctx.Err() != nil {
			return EndedBy(ctx, step.Name+" was about to start"), false
		}
		return Outcome{sentry.Failed, fmt.Sprintf("cannot start %s: %v", step.Name, result.Err)}, true
	}
}

func (a *attempt) log() *slog.Logger {
	return a.Log.With(logger.KeyGroup, a.job.Rollout.Group, logger.KeyRollout, a.job.Rollout.ID, logger.KeyRepository, a.d.Repository,
		logger.KeyDeployment, a.d.ID, logger.KeyAttempt, a.d.Attempt)
}

// withLimit is context.WithTimeout where there is a limit.
func withLimit(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if limit <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, limit, errors.New("the step's timeout is over"))
}

// sleep waits, and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// slug makes a name into part of a file name: its letters and digits, with one dash for whatever is between.
func slug(name string) string {
	words := strings.FieldsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_'
	})
	const most = 40
	out := strings.Join(words, "-")
	if len(out) > most {
		out = strings.TrimRight(out[:most], "-")
	}
	if out == "" {
		return "step"
	}
	return out
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
