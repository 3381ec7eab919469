package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"sentry/internal/config"
	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// run is one rollout that is being carried out. Its loop goroutine owns all fields; the goroutines of its deployments
// get copies and answer through done.
type run struct {
	service *Service
	config  *config.Config // as it was when the rollout began
	rollout sentry.Rollout
	done    chan ended
	running map[string]bool // repositories that have a deployment running: never two of one
	since   time.Time       // when that happened which lets the next deployments begin
	failure string          // the first failure, when no further deployment may begin because of it
	// over is why the rollout ends, where only what it has in a cluster is followed to its end; nil otherwise.
	over *ending
}

// ended is what a deployment's goroutine tells the loop.
type ended struct {
	index      int
	deployment sentry.Deployment
	err        error // the state could not be saved
}

// carryOut runs what is not terminal yet of the rollout and saves its verdict. It returns an error only where the
// state could not be saved; then the rollout stays as it is on disk, for the next start.
func (r *run) carryOut(ctx context.Context) error {
	policy := *r.rollout.Policy
	if policy.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(policy.Timeout), fmt.Errorf("%w (%s)", errDeadline, time.Duration(policy.Timeout)))
		defer cancel()
	}
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	if r.over != nil {
		if err := r.windUp(ctx); err != nil {
			return err
		}
	}
	r.done = make(chan ended)
	r.running = map[string]bool{}
	for _, d := range r.rollout.Deployments {
		if d.Status.Terminal() { // from an attempt before this one
			r.note(d)
		}
	}

	started := make([]bool, len(r.rollout.Deployments))
	var lost error
	for {
		for lost == nil && ctx.Err() == nil {
			i := r.next(started)
			if i < 0 || len(r.running) >= policy.Limit() && !goesOn(r.rollout.Deployments[i]) {
				break
			}
			started[i] = true
			d := r.rollout.Deployments[i]
			r.running[d.Repository] = true
			as := r.rollout // a copy: the loop goes on writing its own
			as.Deployments = slices.Clone(as.Deployments)
			since := r.since
			go func() { r.done <- r.deploy(ctx, as, i, d, since) }()
		}
		if len(r.running) == 0 {
			break
		}
		e := <-r.done
		r.since = time.Now() // what begins from here on has waited for it
		delete(r.running, e.deployment.Repository)
		r.rollout.Deployments[e.index] = e.deployment
		if e.err != nil {
			lost = errors.Join(lost, e.err)
			abort(errLost)
		}
		r.note(e.deployment)
	}
	if lost != nil {
		return lost
	}
	return r.finish(ctx, started)
}

// next gives the index of the deployment that may begin now, or -1. What goes on in a cluster comes first, whatever has
// failed: it runs. Deployments begin in the order of the plan; one whose repository is busy waits and lets the others
// pass, except in a sequence.
func (r *run) next(started []bool) int {
	for i, d := range r.rollout.Deployments {
		if !started[i] && goesOn(d) && !r.running[d.Repository] {
			return i
		}
	}
	if r.failure != "" {
		return -1
	}
	for i, d := range r.rollout.Deployments {
		if started[i] || d.Status.Terminal() {
			continue
		}
		if !r.running[d.Repository] {
			return i
		}
		if r.rollout.Policy.Strategy == sentry.Sequential {
			return -1
		}
	}
	return -1
}

// note remembers a failure after which nothing may begin.
func (r *run) note(d sentry.Deployment) {
	if r.failure != "" || r.rollout.Policy.ContinueOnError {
		return
	}
	switch d.Status {
	case sentry.Failed, sentry.TimedOut, sentry.Interrupted:
		r.failure = fmt.Sprintf("%s %s and continue_on_error is false", d.Watch, strings.ReplaceAll(string(d.Status), "_", " "))
	}
}

// finish ends what never began, folds, and saves the verdict.
func (r *run) finish(ctx context.Context, started []bool) error {
	cause := context.Cause(ctx)
	for i, d := range r.rollout.Deployments {
		if started[i] && !d.Status.Terminal() {
			return nil // it stays running on disk, under an owner that is gone: recovery goes on with it
		}
	}
	if errors.Is(cause, errShutdown) && !r.settled() {
		if r.rollout.Policy.OnInterrupt == sentry.Retry {
			return nil // it stays running on disk, under an owner that is gone: recovery begins it again
		}
		r.over = &ending{status: sentry.Interrupted, reason: "Sentry was stopped meanwhile, and on_interrupt is hold"}
		if err := r.windUp(ctx); err != nil {
			return err
		}
	}
	late := false // the deadline kept something from beginning
	for i, d := range r.rollout.Deployments {
		if d.Status.Terminal() || started[i] {
			continue
		}
		status, reason := sentry.Skipped, ""
		var person *canceledError
		switch {
		case errors.As(cause, &person):
			status, reason = sentry.Canceled, person.Error()
		case r.failure != "":
			reason = r.failure
		default:
			reason = cause.Error() + " before it began"
			late = errors.Is(cause, errDeadline)
		}
		if d.Attempt > 0 && status == sentry.Skipped { // an earlier attempt ran, and was interrupted
			status = sentry.Interrupted
		}
		if err := r.end(ctx, i, status, reason); err != nil {
			return err
		}
	}
	status, reason := Verdict(r.rollout.Deployments)
	if r.over != nil {
		status, reason = r.over.verdict(status, reason)
	}
	if late {
		status, reason = sentry.TimedOut, cause.Error()+" before all had begun: "+reason
	}
	err := r.service.persist(ctx, func(ctx context.Context) error {
		return r.service.store.Finish(ctx, r.rollout.ID, status, reason)
	})
	if err != nil {
		return err
	}
	r.rollout.Status, r.rollout.Reason = status, reason
	return nil
}

// settled reports whether every deployment has ended for good.
func (r *run) settled() bool {
	return !slices.ContainsFunc(r.rollout.Deployments, func(d sentry.Deployment) bool { return !d.Status.Terminal() })
}

// deploy carries out one attempt at one deployment and saves each of its transitions. It runs beside the loop, and uses
// what never changes of r, and its own copy of the rollout.
func (r *run) deploy(ctx context.Context, as sentry.Rollout, index int, d sentry.Deployment, since time.Time) ended {
	s := r.service
	how := Job{Resume: resumable(d), Adopt: inJob(d)}
	adopted := how.Resume || how.Adopt
	d.Status = sentry.Running
	d.Reason = ""
	if adopted {
		d.Steps = stepsOf(d)
	} else {
		d.Attempt++
		d.Steps = nil // the rows of earlier attempts stay in the store
	}
	log := s.log.With(logger.KeyGroup, r.rollout.Group, logger.KeyRollout, r.rollout.ID, logger.KeyRepository, d.Repository,
		logger.KeyBranch, d.Branch, logger.KeyCommit, d.Commit, logger.KeyDeployment, d.ID, logger.KeyAttempt, d.Attempt)
	if adopted {
		log.Info("going on with what the same attempt has in the cluster")
	}
	if d.StartedAt.IsZero() {
		d.StartedAt = s.now()
	}
	var lost error // what could not be saved is not forgotten because something later could
	save := func(current sentry.Deployment) error {
		saving := d
		saving.Source, saving.Steps, saving.PipelineRuns = current.Source, current.Steps, current.PipelineRuns
		saving.Job, saving.Reason = current.Job, current.Reason
		err := s.persist(ctx, func(ctx context.Context) error { return s.store.SaveDeployment(ctx, saving) })
		lost = errors.Join(lost, err)
		return err
	}

	was, outcome := r.attempt(ctx, as, d, since, how, save)
	d.Source, d.Steps, d.PipelineRuns, d.Job = was.Source, was.Steps, was.PipelineRuns, was.Job
	for lost == nil && ctx.Err() == nil && r.beginsAgain(d, outcome) {
		if lost = r.noteTakenAway(ctx, d, outcome); lost != nil || save(d) != nil {
			break
		}
		// A crash from here on: the next start begins the attempt that would have come now.
		d.Attempt++
		d.Steps = nil
		was, outcome = r.attempt(ctx, as, d, time.Now(), Job{}, save)
		d.Source, d.Steps, d.PipelineRuns, d.Job = was.Source, was.Steps, was.PipelineRuns, was.Job
	}
	if outcome.Status == sentry.Running {
		d.Reason = outcome.Reason
		log.Warn("deployment left for the next start", "reason", outcome.Reason)
	} else if outcome.Status == sentry.Interrupted && r.rollout.Policy.OnInterrupt == sentry.Retry && (ctx.Err() != nil || lost != nil) {
		// Nobody knows how it would have ended: it keeps running on disk, and the next start goes on with it.
		d.Reason = outcome.Reason + "; it begins again when Sentry does"
		if resumable(d) {
			d.Reason = outcome.Reason + "; they are followed again when Sentry starts"
		}
		log.Warn("deployment interrupted", "reason", outcome.Reason)
	} else {
		d.Status, d.Reason, d.FinishedAt = outcome.Status, outcome.Reason, s.now()
		s.logEnd(log, "deployment", d.Status, d.Reason, d.FinishedAt.Sub(d.StartedAt))
	}
	_ = save(d) // it is in lost
	return ended{index, d, lost}
}

// beginsAgain reports whether an attempt is followed by another, as its Job was taken away: by that it is interrupted, as it
// is by an end of Sentry. None follows where the Job may be what ends Sentry.
func (r *run) beginsAgain(d sentry.Deployment, o Outcome) bool {
	runs := func(run sentry.PipelineRun) bool {
		return run.Attempt == d.Attempt && (run.Open() || run.Status == sentry.Interrupted)
	}
	return o.Status == sentry.Interrupted && inJob(d) && !d.Job.Lost && d.Job.Adopted <= sentry.MaxInterruptions && !slices.ContainsFunc(d.PipelineRuns, runs) &&
		r.rollout.Policy.OnInterrupt == sentry.Retry && d.Attempt <= sentry.MaxInterruptions
}

// noteTakenAway writes down why a deployment begins again.
func (r *run) noteTakenAway(ctx context.Context, d sentry.Deployment, o Outcome) error {
	again := sentry.Decision{
		Verb: sentry.Retried, Group: r.rollout.Group, Repository: d.Repository, Branch: d.Branch, Rollout: r.rollout.ID, Commit: d.Commit,
		Reason: fmt.Sprintf("%s; attempt %d begins", o.Reason, d.Attempt+1),
	}
	return r.service.persist(ctx, func(ctx context.Context) error { return r.service.store.Decide(ctx, again) })
}

// attempt hands the deployment to the executor, unless it can be told beforehand that it must fail. how tells whether it goes
// on with one that has begun.
func (r *run) attempt(ctx context.Context, as sentry.Rollout, d sentry.Deployment, since time.Time, how Job, save func(sentry.Deployment) error) (sentry.Deployment, Outcome) {
	repo, configured := r.config.Repository(d.Repository)
	switch {
	case how.Resume && !configured: // what it takes to follow pipeline runs is known without
		repo = &config.Repository{Name: d.Repository}
	case how.Resume:
	case !configured:
		return r.refuse(ctx, as, d, save, fmt.Sprintf("repository %s is no longer configured", d.Repository))
	case d.Commit == "":
		return r.refuse(ctx, as, d, save, fmt.Sprintf("no commit of branch %s is known: it does not exist, or %s does not answer; `sentry check` tells which",
			d.Branch, repo.Monitor.Remote))
	}
	if repo.Deploy.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.service.timeFor(d, how, repo.Deploy.Timeout))
		defer cancel()
	}
	job := Job{
		Rollout: as, Deployment: d, Repository: repo, Global: r.config.Global, Since: since, Resume: how.Resume, Adopt: how.Adopt, Stop: r.service.stopping,
	}
	if how.Adopt || r.config.ExecutorOf(repo) == config.ExecutorKubernetes {
		pod := Pod(r.config.JobOf(repo))
		job.Pod = &pod
	}
	return r.service.executor.Execute(ctx, job, save)
}

// catchUp is what an attempt that went on without Sentry has at least, for it to be found out how it ended meanwhile.
const catchUp = 30 * time.Second

// timeFor gives how long an attempt may still take. One that went on without Sentry has taken its time all the same; one
// whose Job may not have been made has not.
func (s *Service) timeFor(d sentry.Deployment, how Job, timeout time.Duration) time.Duration {
	steps := stepsOf(d)
	wentOn := how.Resume || how.Adopt && (d.Job == nil || d.Job.UID != "")
	if !wentOn || len(steps) == 0 {
		return timeout
	}
	return min(timeout, max(catchUp, timeout-s.now().Sub(steps[0].StartedAt)))
}

// refuse saves the beginning of an attempt that cannot be made: no deployment goes from pending to failed directly. What
// earlier attempts left in a cluster ends before.
func (r *run) refuse(ctx context.Context, as sentry.Rollout, d sentry.Deployment, save func(sentry.Deployment) error, reason string) (sentry.Deployment, Outcome) {
	if err := save(d); err != nil {
		return d, Outcome{sentry.Interrupted, err.Error()}
	}
	outcome := Outcome{sentry.Failed, reason}
	if !left(d) {
		return d, outcome
	}
	d, undone := r.service.executor.Abandon(ctx, r.job(as, d), save)
	if undone != "" && ctx.Err() != nil {
		outcome = EndedBy(ctx, "pipeline runs of an earlier attempt were canceled")
		again := outcome.Status == sentry.Interrupted && r.rollout.Policy.OnInterrupt == sentry.Retry
		if again || errors.Is(context.Cause(ctx), errLost) {
			return d, outcome // whoever comes next does it
		}
		limit, stop := r.patience(ctx)
		defer stop()
		d, undone = r.service.executor.Abandon(limit, r.job(as, d), save)
	}
	if undone != "" {
		outcome.Reason += "; " + undone
		d.PipelineRuns = forgotten(d.PipelineRuns)
	}
	return d, outcome
}

// Verdict folds the deployments of a rollout into its status and the reason for it. A rollout that a person canceled
// is canceled if the cancellation ended or prevented anything.
func Verdict(deployments []sentry.Deployment) (sentry.Status, string) {
	var outcomes []sentry.Status
	count := map[sentry.Status]int{}
	var told []string
	canceled := ""
	for _, d := range deployments {
		outcomes = append(outcomes, d.Status)
		count[d.Status]++
		switch d.Status {
		case sentry.Succeeded, sentry.Skipped:
		case sentry.Canceled:
			canceled = d.Reason
		default:
			told = append(told, fmt.Sprintf("%s %s: %s", d.Watch, strings.ReplaceAll(string(d.Status), "_", " "), d.Reason))
		}
	}
	status := sentry.Fold(outcomes)
	if canceled != "" {
		status = sentry.Canceled
		told = append([]string{canceled}, told...)
	}
	var counts []string
	for _, s := range sentry.Statuses() {
		if n := count[s]; n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, strings.ReplaceAll(string(s), "_", " ")))
		}
	}
	reason := strings.Join(counts, ", ")
	if len(told) > 0 {
		reason += " (" + strings.Join(told, "; ") + ")"
	}
	return status, reason
}
