package store

import (
	"context"
	"fmt"
	"time"

	"sentry/internal/sentry"
)

// Pause is the wish of a person that no rollout of a group begins.
type Pause struct {
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
}

// Pause keeps the rollouts of a group from beginning until Resume. What runs goes on. Pausing again replaces who and why.
func (s *Store) Pause(ctx context.Context, group, by, reason string) error {
	if group == "" {
		return fmt.Errorf("%w: a pause needs a group", ErrInvalid)
	}
	return s.write(ctx, func(t *tx) error {
		err := t.exec(`INSERT INTO pauses (grp, by, reason, at) VALUES (?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET by = excluded.by, reason = excluded.reason, at = excluded.at`, group, by, reason, t.now)
		if err != nil {
			return err
		}
		words := "by " + orSomebody(by)
		if reason != "" {
			words += ": " + reason
		}
		return t.decide(sentry.Decision{Verb: sentry.Paused, Group: group, Reason: words})
	})
}

// Resume ends a pause. Without one it does nothing.
func (s *Store) Resume(ctx context.Context, group, by string) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.exec(`DELETE FROM pauses WHERE grp = ?`, group); err != nil || t.Changes() == 0 {
			return err
		}
		return t.decide(sentry.Decision{Verb: sentry.Resumed, Group: group, Reason: "by " + orSomebody(by)})
	})
}

// Paused gives the pauses, by group.
func (s *Store) Paused(ctx context.Context) (map[string]Pause, error) {
	paused := map[string]Pause{}
	err := s.read(ctx, func(c *conn) error {
		return c.query(`SELECT grp, by, reason, at FROM pauses`, func(r row) error {
			paused[r.text(0)] = Pause{By: r.text(1), Reason: r.text(2), At: r.time(3)}
			return nil
		})
	})
	return paused, err
}
