package deploy

import (
	"context"
	"fmt"
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
	rollout, again, err := s.takeOver(ctx, cfg, old.ID)
	if !again {
		s.dismiss(old.Group, a)
		return err
	}
	s.log.Warn("rollout begins again", logger.KeyGroup, rollout.Group, logger.KeyRollout, rollout.ID, logger.KeyAttempt, rollout.Attempt)
	s.launch(work, a, cfg, rollout, time.Now())
	return nil
}

// takeOver makes a rollout ours, and ends it unless it is to begin again.
func (s *Service) takeOver(ctx context.Context, cfg *config.Config, id string) (rollout sentry.Rollout, again bool, err error) {
	err = s.persist(ctx, func(ctx context.Context) (err error) {
		rollout, err = s.store.TakeOver(ctx, id)
		return err
	})
	if err != nil {
		return rollout, false, err
	}
	_, configured := cfg.Group(rollout.Group)
	switch {
	case rollout.CanceledBy != "":
		err = s.end(rollout, sentry.Canceled, "canceled by "+rollout.CanceledBy+", before Sentry was interrupted")
	case rollout.Policy.OnInterrupt == sentry.Hold:
		err = s.giveUp(rollout, "Sentry died meanwhile, and on_interrupt is hold")
	case !configured:
		err = s.giveUp(rollout, fmt.Sprintf("Sentry died meanwhile, and group %s is no longer configured", rollout.Group))
	case rollout.Attempt > 1+sentry.MaxInterruptions:
		err = s.giveUp(rollout, fmt.Sprintf("interrupted %d times: it may be what ends Sentry", rollout.Attempt-1))
	default:
		again = true
	}
	return rollout, again, err
}

// giveUp ends a rollout whose end nobody knows: what ran is interrupted, what waited is skipped.
func (s *Service) giveUp(rollout sentry.Rollout, reason string) error {
	held := sentry.Decision{
		Verb: sentry.Held, Group: rollout.Group, Rollout: rollout.ID,
		Reason: reason + "; `sentry retry " + rollout.ID + "` rolls it out again",
	}
	err := s.persist(context.Background(), func(ctx context.Context) error { return s.store.Decide(ctx, held) })
	if err != nil {
		return err
	}
	return s.end(rollout, sentry.Interrupted, reason)
}

// end ends what is not terminal yet of a rollout with a status, and the rollout with the fold of all.
func (s *Service) end(rollout sentry.Rollout, status sentry.Status, reason string) error {
	ctx := context.Background()
	open := false // something had not ended
	for i, d := range rollout.Deployments {
		if d.Status.Terminal() {
			continue
		}
		open = true
		if d.Status == sentry.Pending && status == sentry.Interrupted {
			d.Status = sentry.Skipped
		} else {
			d.Status = status
		}
		d.Reason = reason
		d.FinishedAt = s.now()
		if err := s.persist(ctx, func(ctx context.Context) error { return s.store.SaveDeployment(ctx, d) }); err != nil {
			return err
		}
		rollout.Deployments[i] = d
	}
	verdict, why := Verdict(rollout.Deployments)
	if open && status == sentry.Interrupted && (verdict == sentry.Canceled || verdict == sentry.Succeeded) {
		verdict, why = sentry.Interrupted, reason+": "+why // it was given up before all had begun: that is no success
	}
	err := s.persist(ctx, func(ctx context.Context) error { return s.store.Finish(ctx, rollout.ID, verdict, why) })
	if err == nil {
		s.logEnd(s.log.With(logger.KeyGroup, rollout.Group, logger.KeyRollout, rollout.ID), "rollout", verdict, why, s.now().Sub(rollout.StartedAt))
	}
	return err
}
