package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sentry/internal/config"
	"sentry/internal/sentry"
)

// ending is why and how a rollout ends that is not begun again.
type ending struct {
	status sentry.Status // of the deployments that ran: interrupted or canceled
	reason string
	follow bool // what goes on in a cluster is followed to its end all the same
	open   bool // a deployment had not ended, and was ended by this
}

// verdict corrects that of the deployments: a rollout that was given up before all had begun is no success.
func (e *ending) verdict(status sentry.Status, why string) (sentry.Status, string) {
	if e.open && e.status == sentry.Interrupted && (status == sentry.Canceled || status == sentry.Succeeded) {
		return sentry.Interrupted, e.reason + ": " + why
	}
	return status, why
}

// windUp ends the deployments that have not ended, except those that are followed, and writes down that it does.
func (r *run) windUp(ctx context.Context) error {
	var open []int
	for i, d := range r.rollout.Deployments {
		if !d.Status.Terminal() && !(r.over.follow && goesOn(d)) {
			open = append(open, i)
		}
	}
	if r.over.status == sentry.Interrupted && (len(open) > 0 || r.settled()) {
		held := sentry.Decision{
			Verb: sentry.Held, Group: r.rollout.Group, Rollout: r.rollout.ID,
			Reason: r.over.reason + "; `sentry retry " + r.rollout.ID + "` rolls it out again",
		}
		if err := r.service.persist(ctx, func(ctx context.Context) error { return r.service.store.Decide(ctx, held) }); err != nil {
			return err
		}
	}
	for _, i := range open {
		status := r.over.status
		if _, stands := standing(r.rollout.Deployments[i]); !stands {
			r.over.open = true
		}
		if r.rollout.Deployments[i].Status == sentry.Pending && status == sentry.Interrupted {
			status = sentry.Skipped
		}
		if err := r.end(ctx, i, status, r.over.reason); err != nil {
			return err
		}
	}
	return nil
}

// end ends a deployment that is not begun again, and before that what it left running in a cluster. A verdict that it has
// reached stands. The error is errShutdown where Sentry is told to stop meanwhile: then the next start does it.
func (r *run) end(ctx context.Context, i int, status sentry.Status, reason string) error {
	s, d := r.service, r.rollout.Deployments[i]
	if verdict, stands := standing(d); stands {
		status, reason = verdict.Status, verdict.Reason
	}
	save := func(current sentry.Deployment) error {
		saving := d
		saving.Steps, saving.PipelineRuns, saving.Reason = current.Steps, current.PipelineRuns, current.Reason
		return s.persist(ctx, func(ctx context.Context) error { return s.store.SaveDeployment(ctx, saving) })
	}
	if d.Status == sentry.Running && left(d) {
		limit, stop := r.patience(ctx)
		defer stop()
		was, undone := s.executor.Abandon(limit, r.job(r.rollout, d), save)
		d.Steps, d.PipelineRuns = was.Steps, was.PipelineRuns
		if undone != "" {
			if errors.Is(context.Cause(limit), errShutdown) {
				return errors.Join(save(d), errShutdown)
			}
			reason += "; " + undone
			d.PipelineRuns = forgotten(d.PipelineRuns)
		}
	}
	d.Status, d.Reason, d.FinishedAt = status, reason, s.now()
	if err := save(d); err != nil {
		return err
	}
	r.rollout.Deployments[i] = d
	return nil
}

// patience is how long it is tried to end what was left in a cluster: nobody waits for it but the group. Where a person
// has canceled the rollout, or does, that is too long; where ctx ended before, it is short; where Sentry is told to stop
// meanwhile, it ends.
func (r *run) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	switch {
	case errors.Is(context.Cause(ctx), errShutdown):
		return withPatience(ctx, stopPatience, nil)
	case ctx.Err() != nil || r.over != nil && r.over.status == sentry.Canceled:
		return withPatience(ctx, cancelPatience, r.service.stopping)
	}
	limit, done := withPatience(ctx, max(time.Duration(r.rollout.Policy.Timeout), cancelPatience), r.service.stopping)
	limit, shorten := context.WithCancelCause(limit)
	unhook := context.AfterFunc(ctx, func() {
		if !errors.Is(context.Cause(ctx), errShutdown) {
			time.AfterFunc(cancelPatience, func() { shorten(fmt.Errorf("the cluster did not do it within %s", cancelPatience)) })
		}
	})
	return limit, func() { unhook(); shorten(nil); done() }
}

// job is what the executor is given for a deployment that is not begun.
func (r *run) job(as sentry.Rollout, d sentry.Deployment) Job {
	repo, configured := r.config.Repository(d.Repository)
	if !configured {
		repo = &config.Repository{Name: d.Repository}
	}
	return Job{Rollout: as, Deployment: d, Repository: repo, Global: r.config.Global}
}

// forgotten gives the runs with those that may still run marked as interrupted: nobody knows how they end.
func forgotten(runs []sentry.PipelineRun) []sentry.PipelineRun {
	runs = slices.Clone(runs)
	for i := range runs {
		if run := &runs[i]; run.Open() {
			run.Status, run.Reason = sentry.Interrupted, "it could not be canceled, and may still run"
		}
	}
	return runs
}
