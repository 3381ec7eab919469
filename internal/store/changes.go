package store

import (
	"context"

	"sentry/internal/sentry"
)

const changeColumns = `c.repository, c.branch, c.generation, c.from_commit, c.to_commit, c.author, c.subject, c.time, c.rewritten, c.recorded_at`

// scanChange reads changeColumns from column i on.
func scanChange(r row, i int) sentry.Change {
	return sentry.Change{
		Watch: sentry.Watch{Repository: r.text(i), Branch: r.text(i + 1)}, Generation: r.int(i + 2), From: r.text(i + 3), To: r.text(i + 4),
		Author: r.text(i + 5), Subject: r.text(i + 6), Time: r.time(i + 7), Rewritten: r.bool(i + 8), RecordedAt: r.time(i + 9),
	}
}

// changesOf gives the changes that a rollout answers, oldest first.
func (c *conn) changesOf(rollout int64) (changes []sentry.Change, err error) {
	err = c.query(`SELECT `+changeColumns+` FROM changes c WHERE c.rollout = ? ORDER BY c.id`, func(r row) error {
		changes = append(changes, scanChange(r, 0))
		return nil
	}, rollout)
	return changes, err
}

// Later gives the changes of a group that wait in rollouts younger than this one, oldest first.
//
// Errors: ErrNotFound.
func (s *Store) Later(ctx context.Context, group, rolloutID string) ([]sentry.Change, error) {
	var changes []sentry.Change
	err := s.read(ctx, func(c *conn) error {
		this, err := c.find(rolloutID)
		if err != nil {
			return err
		}
		return c.query(`SELECT `+changeColumns+` FROM changes c
			WHERE c.rollout IN (SELECT sequence FROM rollouts WHERE status = 'pending' AND grp = ? AND sequence > ?) ORDER BY c.id`, func(r row) error {
			changes = append(changes, scanChange(r, 0))
			return nil
		}, group, this.sequence)
	})
	return changes, err
}
