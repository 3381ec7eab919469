package store

import (
	"context"
	"fmt"

	"sentry/internal/sentry"
)

// Finish ends a running rollout of this epoch. All its deployments must have ended.
//
// Errors: ErrFenced, ErrFinal, ErrStale where it does not run, ErrInvalid for a deployment that has not ended or a status
// that is not an end, ErrNotFound. On a full disk it uses the reserve.
func (s *Store) Finish(ctx context.Context, id string, status sentry.Status, reason string) error {
	err := s.writeEnd(ctx, func(t *tx) error {
		v, err := t.find(id)
		if err == nil {
			v, err = t.ours(v.ID)
		}
		if err != nil {
			return err
		}
		if !status.Terminal() || !v.Status.CanBecome(status) {
			return fmt.Errorf("%w: a running rollout cannot end as %s", ErrInvalid, status)
		}
		open, err := t.one(`SELECT 1 FROM deployments WHERE rollout = ? AND status IN ('pending', 'running') LIMIT 1`, func(row) error { return nil }, v.sequence)
		if err != nil {
			return err
		}
		if open {
			return fmt.Errorf("%w: a deployment has not ended", ErrInvalid)
		}
		return t.end(v, status, reason, sentry.Finished)
	})
	if err != nil {
		return fmt.Errorf("cannot finish rollout %s: %w", id, err)
	}
	return nil
}

// end writes the terminal status of a rollout, the decision, and the message that leaves: one transaction, so that
// nothing is reported that is not so, and nothing that is so stays unreported.
func (t *tx) end(v *rolloutRow, status sentry.Status, reason string, verb sentry.Verb) error {
	err := t.exec(`UPDATE rollouts SET status = ?, reason = ?, finished_at = ? WHERE sequence = ? AND status IN ('pending', 'running')`,
		status, reason, t.now, v.sequence)
	if err != nil {
		return err
	}
	err = t.decide(sentry.Decision{Verb: verb, Group: v.Group, Rollout: v.ID, Reason: orStatus(reason, status)})
	if err != nil {
		return err
	}
	return t.post(TopicFinished, v, status, reason)
}

func orStatus(reason string, status sentry.Status) string {
	if reason == "" {
		return string(status)
	}
	return reason
}

// Cancel asks that a rollout does not go on. One that waits is canceled at once. One that runs stays running: the request
// is durable, and whoever runs the rollout ends it. The first who asks is remembered.
//
// Errors: ErrFinal where it has ended, ErrNotFound.
func (s *Store) Cancel(ctx context.Context, id, by, reason string) (sentry.Status, error) {
	var status sentry.Status
	err := s.writeEnd(ctx, func(t *tx) error {
		v, err := t.find(id)
		if err != nil {
			return err
		}
		if v.Status.Terminal() {
			status = v.Status
			return fmt.Errorf("%w as %s", ErrFinal, v.Status)
		}
		if err := t.exec(`UPDATE rollouts SET canceled_by = ? WHERE sequence = ? AND canceled_by = ''`, orSomebody(by), v.sequence); err != nil {
			return err
		}
		words := "canceled by " + orSomebody(by)
		if reason != "" {
			words += ": " + reason
		}
		if v.Status == sentry.Pending {
			status = sentry.Canceled
			return t.end(v, sentry.Canceled, words, sentry.CanceledIt)
		}
		status = v.Status
		return t.decide(sentry.Decision{Verb: sentry.CanceledIt, Group: v.Group, Rollout: v.ID, Reason: "asked while it runs: " + words})
	})
	if err != nil {
		return status, fmt.Errorf("cannot cancel rollout %s: %w", id, err)
	}
	return status, nil
}

func orSomebody(by string) string {
	if by == "" {
		return "somebody"
	}
	return by
}
