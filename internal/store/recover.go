package store

import (
	"context"
	"fmt"

	"sentry/internal/sentry"
)

// Left gives the rollouts that an older epoch left running, oldest first, with deployments and steps.
func (s *Store) Left(ctx context.Context) ([]sentry.Rollout, error) {
	var left []sentry.Rollout
	err := s.read(ctx, func(c *conn) error {
		found, err := c.rollouts(`WHERE status = 'running' AND epoch <> ? ORDER BY sequence`, s.Epoch())
		if err != nil {
			return err
		}
		for _, v := range found {
			if err := c.fill(v, true); err != nil {
				return err
			}
			left = append(left, v.Rollout)
		}
		return nil
	})
	return left, err
}

// TakeOver makes a running rollout of an older epoch ours: owner and epoch change, the attempt grows, the interruptions do
// where interrupted says that there was one, and steps that were left running are interrupted, but for those of a Job.
// Deployments that were left running stay so until the next attempt begins or they are
// ended. Taken over twice in one epoch it changes once: recovery may be interrupted and begun again.
//
// Errors: ErrFinal, ErrStale where it does not run, ErrNotFound.
func (s *Store) TakeOver(ctx context.Context, id string, interrupted bool) (sentry.Rollout, error) {
	var taken sentry.Rollout
	err := s.write(ctx, func(t *tx) error {
		v, err := t.find(id)
		switch {
		case err != nil:
			return err
		case v.Status.Terminal():
			return fmt.Errorf("%w as %s", ErrFinal, v.Status)
		case v.Status != sentry.Running:
			return fmt.Errorf("%w: it does not run", ErrStale)
		}
		if v.epoch != t.epoch {
			if err := t.takeOver(v, interrupted); err != nil {
				return err
			}
			if v, err = t.find(v.ID); err != nil {
				return err
			}
		}
		if err := t.fill(v, true); err != nil {
			return err
		}
		taken = v.Rollout
		return nil
	})
	if err != nil {
		return taken, fmt.Errorf("cannot take over rollout %s: %w", id, err)
	}
	return taken, nil
}

func (t *tx) takeOver(v *rolloutRow, interrupted bool) error {
	err := t.exec(`UPDATE rollouts SET attempt = attempt + 1, interruptions = interruptions + ?, owner = ?, epoch = ?
		WHERE sequence = ? AND status = 'running' AND epoch = ?`,
		interrupted, t.owner, t.epoch, v.sequence, v.epoch)
	if err != nil {
		return err
	}
	// What the Job of a deployment does goes on without Sentry: its steps run until the Job is asked.
	err = t.exec(`UPDATE steps SET status = 'interrupted', reason = 'sentry ended while it ran', finished_at = ? WHERE rollout = ? AND status = 'running'
		AND (kind = 'track' OR NOT EXISTS (SELECT 1 FROM deployments d WHERE d.rollout = steps.rollout AND d.ordinal = steps.deployment
			AND d.job <> '' AND json_extract(d.job, '$.attempt') = steps.attempt))`,
		t.now, v.sequence)
	if err != nil {
		return err
	}
	if err := t.fill(v, false); err != nil {
		return err
	}
	taken := sentry.Decision{
		Verb: sentry.Adopted, Group: v.Group, Rollout: v.ID,
		Reason: fmt.Sprintf("%s ended while it ran (attempt %d); taken over by %s", v.owner, v.Begun(), t.owner),
	}
	if interrupted {
		taken.Verb = sentry.Retried
	} else {
		taken.Reason += " in the same attempt"
	}
	return t.decide(taken)
}
