package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"sentry/internal/kube"
	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// How long it is tried to cancel pipeline runs when their deployment ends, and when Sentry does: what is not done by then
// is told, and where the deployment is begun again, done before that.
const (
	cancelPatience = 2 * time.Minute
	stopPatience   = 10 * time.Second
)

// endRuns ends the pipeline runs of an attempt whose outcome is that of its last step. A crash from its first save on: where
// the outcome stands, the next start ends them; else it begins again, or gives up. So it is where Sentry is told to stop
// meanwhile.
func (a *attempt) endRuns(ctx context.Context, outcome Outcome, why string) Outcome {
	limit, done := a.patience(ctx)
	defer done()
	undone := a.cancelStep(limit, why)
	switch {
	case undone == "" || a.again(ctx, outcome):
	case errors.Is(context.Cause(limit), errShutdown), errors.Is(context.Cause(ctx), errShutdown) && outcome.Status != sentry.Interrupted:
		return Outcome{sentry.Running, outcome.Reason + "; its pipeline runs are canceled when Sentry starts again"}
	default:
		outcome.Reason += "; " + undone
		a.abandon()
	}
	return outcome
}

// again reports whether the deployment stays as it is, for the next start.
func (a *attempt) again(ctx context.Context, outcome Outcome) bool {
	return outcome.Status == sentry.Interrupted && ctx.Err() != nil && a.job.Rollout.Policy.OnInterrupt == sentry.Retry
}

// patience is how long it is tried to end pipeline runs, although ctx may have ended: not for long where Sentry was told
// to stop, and until it is told where that comes later.
func (a *attempt) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	if errors.Is(context.Cause(ctx), errShutdown) {
		return withPatience(ctx, stopPatience, nil)
	}
	return withPatience(ctx, cancelPatience, a.job.Stop)
}

// withPatience gives a context that ends after a time, whatever ends the given one, and with errShutdown when stop is closed.
func withPatience(ctx context.Context, most time.Duration, stop <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, expire := context.WithTimeoutCause(context.WithoutCancel(ctx), most, fmt.Errorf("the cluster did not do it within %s", most))
	ctx, end := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-stop:
			end(errShutdown)
		case <-ctx.Done():
		}
	})
	return ctx, func() { end(nil); expire(); watching.Wait() }
}

// clearEarlier ends what earlier attempts left running. The next one must not begin before.
func (a *attempt) clearEarlier(ctx context.Context) Outcome {
	if !left(a.d) {
		return Outcome{Status: sentry.Succeeded}
	}
	switch undone := a.cancelStep(ctx, "Sentry ended while what created them ran"); {
	case undone == "":
		return Outcome{Status: sentry.Succeeded}
	case ctx.Err() != nil:
		outcome := EndedBy(ctx, "pipeline runs of an earlier attempt were canceled")
		if a.again(ctx, outcome) || errors.Is(context.Cause(ctx), errLost) {
			return outcome
		}
		return a.endEarlier(ctx, outcome)
	default:
		a.abandon()
		return Outcome{sentry.Interrupted, "the deployment cannot begin again: " + undone}
	}
}

// endEarlier ends what earlier attempts left running, where the deployment has ended before that: whoever ended it meant
// them, too. Where Sentry is told to stop meanwhile, the next start ends them before it begins anything.
func (a *attempt) endEarlier(ctx context.Context, outcome Outcome) Outcome {
	limit, done := a.patience(ctx)
	defer done()
	undone := a.cancelStep(limit, "the deployment has ended")
	switch {
	case undone == "":
	case errors.Is(context.Cause(limit), errShutdown):
		return Outcome{sentry.Running, outcome.Reason + "; its pipeline runs are canceled when Sentry starts again"}
	default:
		outcome.Reason += "; " + undone
		a.abandon()
	}
	return outcome
}

// cancelStep ends all pipeline runs that may still run, in a step of its own, and tells what could not be done until ctx
// ended; "" for nothing.
func (a *attempt) cancelStep(ctx context.Context, why string) (undone string) {
	step := a.begin(sentry.StepTrack, cancelStep)
	a.keep.forget() // whoever cancels finds out anew whether the cluster answers
	if err := a.keep.save(a.state()); err != nil {
		a.end(step, Outcome{sentry.Interrupted, err.Error()})
		return err.Error()
	}
	log := a.openLog(step)
	runs := a.keep.pick(func(_ int, run sentry.PipelineRun) bool { return run.Open() })
	fmt.Fprintf(log, "canceling %s: %s\n", plural(len(runs), "pipeline run"), why)
	a.log().Info("canceling pipeline runs; the deployment waits for their end", logger.KeyStep, step.Name, "reason", why, "runs", nameRuns(runs))
	err := a.cancel(ctx, runs, log)
	log.close()
	if err != nil {
		a.end(step, Outcome{sentry.Failed, err.Error()})
		return err.Error()
	}
	a.end(step, Outcome{sentry.Succeeded, plural(len(runs), "pipeline run") + " canceled or ended before"})
	return ""
}

// cancel ends pipeline runs. It fails with what may still run.
func (a *attempt) cancel(ctx context.Context, runs []sentry.PipelineRun, log io.Writer) error {
	if len(runs) == 0 {
		return nil
	}
	if err := a.reach(ctx, log); err != nil {
		return fmt.Errorf("%s may still run: %w", nameRuns(runs), err)
	}
	now, err := a.cluster.Cancel(ctx, runs, kube.CancelOptions{Log: log, Away: a.tell})
	// What is in another cluster stays to be seen to: only where the deployment ends that is given up.
	var lost []sentry.PipelineRun
	a.lost = nil
	for i, run := range now {
		if run.Status == sentry.Interrupted {
			lost, a.lost = append(lost, run), append(a.lost, [2]sentry.PipelineRun{runs[i], run})
			now[i] = runs[i]
		}
	}
	a.keep.put(runs, now)
	open := slices.DeleteFunc(slices.Clone(now), func(r sentry.PipelineRun) bool { return !r.Open() })
	switch {
	case len(lost) > 0:
		return fmt.Errorf("%s may still run: %s", nameRuns(open), lost[0].Reason)
	case len(open) == 0:
		return nil
	case err == nil:
		err = errors.New("the cluster has not ended it")
	}
	fmt.Fprintln(log, err)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return fmt.Errorf("%s may still run: %w", nameRuns(open), err)
}

// abandon gives up what may still run: nobody knows how it ends.
func (a *attempt) abandon() {
	for _, l := range a.lost {
		a.keep.put(l[:1], l[1:])
	}
	a.keep.abandon()
}

// retract ends what a failed try has created, before the next one begins: it does not count.
func (a *attempt) retract(ctx context.Context, step *sentry.Step, mark int, also io.Writer) error {
	if a.access == nil {
		return nil
	}
	// A request may outlive the process that sent it: nothing of the failed try can create more when its access is closed.
	a.closeAccess()
	if err := a.retractRuns(ctx, step, mark, also); err != nil {
		return err
	}
	if err := a.open(); err != nil {
		return fmt.Errorf("cannot give the commands access to Kubernetes: %w", err)
	}
	return a.writeKubeconfig()
}

// retractRuns ends the pipeline runs from a place on, and tells of it in the log of the try.
func (a *attempt) retractRuns(ctx context.Context, step *sentry.Step, mark int, also io.Writer) error {
	runs := a.keep.pick(func(i int, run sentry.PipelineRun) bool { return i >= mark && a.keep.current(run) })
	if len(runs) == 0 {
		return nil
	}
	log, err := a.appendLog(step, also)
	if err != nil {
		return err
	}
	defer log.close()
	fmt.Fprintf(log, "sentry: canceling %s of the try that failed\n", plural(len(runs), "pipeline run"))
	open := slices.DeleteFunc(slices.Clone(runs), func(r sentry.PipelineRun) bool { return !r.Open() })
	if err := a.cancel(ctx, open, log); err != nil {
		return err
	}
	a.keep.supersede(mark)
	return nil
}

// Abandon ends the pipeline runs that earlier attempts left running.
func (l *Local) Abandon(ctx context.Context, job Job, save func(sentry.Deployment) error) (sentry.Deployment, string) {
	a := l.attempt(job, save, func(error) {})
	defer a.holdCluster()()
	a.d.Steps = stepsOf(a.d)
	undone := a.endLeft(ctx)
	a.leave()
	return a.d, undone
}
