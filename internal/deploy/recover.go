package deploy

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sentry/internal/config"
	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// Recover takes over the rollouts that an earlier owner of the state left running: those it may begin again run in the
// background, through the same code as any other; the rest ends here. The caller has ended the processes of the dead
// owner before. A crash anywhere in here is answered by calling it again.
func (s *Service) Recover() error {
	ctx := context.Background()
	left, err := s.store.Left(ctx)
	if err != nil {
		return fmt.Errorf("cannot read the rollouts that were interrupted: %w", err)
	}
	for _, old := range left {
		if s.groups != nil && !s.groups[old.Group] {
			continue
		}
		if err := s.recoverOne(ctx, old); err != nil {
			return fmt.Errorf("cannot recover rollout %s: %w", old.ID, err)
		}
	}
	return nil
}

func (s *Service) recoverOne(ctx context.Context, old sentry.Rollout) error {
	work, a := s.enlist(old.Group, old.ID, old.Deployments)
	cfg := s.config()
	rollout, over, err := s.takeOver(ctx, cfg, old)
	if err != nil {
		s.dismiss(old.Group, a)
		return err
	}
	if over == nil {
		s.logGoing(rollout)
	} else if !slices.ContainsFunc(rollout.Deployments, left) && !slices.ContainsFunc(rollout.Deployments, resumable) {
		// Nothing of it is in a cluster, which may be away: it ends here and now.
		r := &run{service: s, config: cfg, rollout: rollout, over: over}
		err := r.carryOut(work)
		s.logRollout(r.rollout)
		s.dismiss(old.Group, a)
		return err
	}
	s.launch(work, a, cfg, rollout, over, time.Now())
	return nil
}

// logGoing tells how a rollout that was taken over goes on: in the same attempt, or in another.
func (s *Service) logGoing(r sentry.Rollout) {
	log := s.log.With(logger.KeyGroup, r.Group, logger.KeyRollout, r.ID)
	if !interrupted(r) {
		log.Info("rollout goes on in the same attempt", logger.KeyAttempt, r.Begun())
		return
	}
	attempt := 0
	for _, d := range r.Deployments {
		if d.Status == sentry.Running && !goesOn(d) {
			attempt = max(attempt, d.Attempt+1)
		}
	}
	if attempt == 0 { // it was between two deployments
		attempt = r.Begun()
	}
	log.Warn("rollout begins again", logger.KeyAttempt, attempt)
}

// takeOver makes a rollout ours, and tells how it ends unless it is to begin again.
func (s *Service) takeOver(ctx context.Context, cfg *config.Config, old sentry.Rollout) (rollout sentry.Rollout, over *ending, err error) {
	err = s.persist(ctx, func(ctx context.Context) (err error) {
		rollout, err = s.store.TakeOver(ctx, old.ID, interrupted(old))
		return err
	})
	if err != nil {
		return rollout, nil, err
	}
	_, configured := cfg.Group(rollout.Group)
	giveUp := func(format string, args ...any) *ending {
		return &ending{status: sentry.Interrupted, reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case rollout.CanceledBy != "":
		over = &ending{status: sentry.Canceled, reason: "canceled by " + rollout.CanceledBy + ", before Sentry was interrupted"}
	case rollout.Policy.OnInterrupt == sentry.Hold:
		over = giveUp("Sentry died meanwhile, and on_interrupt is hold")
		over.follow = true
	case !configured:
		over = giveUp("Sentry died meanwhile, and group %s is no longer configured", rollout.Group)
	case rollout.Interruptions > sentry.MaxInterruptions:
		over = giveUp("interrupted %d times: it may be what ends Sentry", rollout.Interruptions)
	}
	if over != nil && !over.follow {
		return rollout, over, nil
	}
	return rollout, over, s.decideAdopted(ctx, rollout)
}

// interrupted reports whether the end of Sentry cut something off that begins again. What is only followed on was not: it
// cannot be what ends Sentry.
func interrupted(r sentry.Rollout) bool {
	runs := func(d sentry.Deployment) bool { return d.Status == sentry.Running }
	cut := func(d sentry.Deployment) bool { return runs(d) && !goesOn(d) }
	return slices.ContainsFunc(r.Deployments, cut) || !slices.ContainsFunc(r.Deployments, runs)
}

// decideAdopted writes down for which deployments no command runs again.
func (s *Service) decideAdopted(ctx context.Context, rollout sentry.Rollout) error {
	for _, d := range rollout.Deployments {
		if _, stands := standing(d); stands || !goesOn(d) {
			continue
		}
		n := 0
		for _, run := range d.PipelineRuns {
			if run.Attempt == d.Attempt && run.Open() {
				n++
			}
		}
		why := fmt.Sprintf("its commands had ended: %s of attempt %d followed on, and no command runs again", plural(n, "pipeline run"), d.Attempt)
		if inJob(d) {
			why = fmt.Sprintf("attempt %d is in Job %s, which went on", d.Attempt, jobName(d.Job))
		}
		adopted := sentry.Decision{
			Verb: sentry.Adopted, Group: rollout.Group, Repository: d.Repository, Branch: d.Branch, Rollout: rollout.ID, Commit: d.Commit, Reason: why,
		}
		if err := s.persist(ctx, func(ctx context.Context) error { return s.store.Decide(ctx, adopted) }); err != nil {
			return err
		}
	}
	return nil
}
