package store

import (
	"context"
	"fmt"

	"sentry/internal/sentry"
)

// newestDropped says of a change c that it was dropped, and nothing later of its watch was not.
const newestDropped = `c.fate = 'dropped' AND NOT EXISTS (SELECT 1 FROM changes d
	WHERE d.repository = c.repository AND d.branch = c.branch AND d.generation > c.generation AND d.fate <> 'dropped')`

// Dropped gives the changes that were dropped because nothing watched their branch any more, oldest first: those after
// which no other of the branch is to be rolled out, or was. A commit is not forgotten because the configuration was
// without its branch for a while.
func (s *Store) Dropped(ctx context.Context) ([]sentry.Change, error) {
	var changes []sentry.Change
	err := s.read(ctx, func(c *conn) error {
		return c.query(`SELECT `+changeColumns+` FROM changes c WHERE `+newestDropped+` ORDER BY c.id`, func(r row) error {
			changes = append(changes, scanChange(r, 0))
			return nil
		})
	})
	return changes, err
}

// Return is a dropped change whose branch is watched again.
type Return struct {
	Change sentry.Change
	Group  string       // that it belongs to now
	Queue  sentry.Queue // of that group
}

// TakeBack queues dropped changes as if they had moved just now, in one transaction. Those that are not dropped any more,
// or after which the branch has moved on, are left alone: it may be called again with the same.
//
// Errors: ErrInvalid without a group, ErrFenced, ErrDiskFull, ErrPoisoned.
func (s *Store) TakeBack(ctx context.Context, returns []Return) error {
	return s.write(ctx, func(t *tx) error {
		q := queue{tx: t}
		for _, r := range returns {
			if err := q.takeBack(r); err != nil {
				return fmt.Errorf("cannot take back the change of %s: %w", r.Change.Watch, err)
			}
		}
		return q.finish()
	})
}

func (q *queue) takeBack(r Return) error {
	c := r.Change
	if r.Group == "" {
		return fmt.Errorf("%w: a change needs a group", ErrInvalid)
	}
	still, err := q.tx.one(`SELECT 1 FROM changes c WHERE c.repository = ? AND c.branch = ? AND c.generation = ? AND `+newestDropped,
		func(row) error { return nil }, c.Repository, c.Branch, c.Generation)
	if err != nil || !still {
		return err
	}
	p, err := q.find(c.Watch, r.Group, r.Queue)
	if err != nil {
		return err
	}
	if err := q.tx.exec(`UPDATE changes SET rollout = ?, grp = ?, fate = 'rollout' WHERE repository = ? AND branch = ? AND generation = ?`,
		p.sequence, r.Group, c.Repository, c.Branch, c.Generation); err != nil {
		return err
	}
	q.took(p, c)
	return q.tx.decide(sentry.Decision{
		Verb: sentry.Recorded, Group: r.Group, Repository: c.Repository, Branch: c.Branch, Rollout: p.id, Commit: c.To,
		Reason: "the branch is watched again: its change, which was dropped before it was rolled out, waits again",
	})
}
