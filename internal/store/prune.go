package store

import (
	"context"

	"sentry/internal/sentry"
)

// Retention bounds what is kept. What is 0 takes the value of Options.History, or else the default.
type Retention struct {
	RolloutsPerGroup int // that have ended; those that wait or run are always kept. Default 200
	LedgerEntries    int // of all groups together. Default 100,000
}

const (
	defaultRollouts = 200
	defaultLedger   = 100_000
	// changesPerWatch is how many moves of a head are kept beyond those of kept rollouts: Recorded knows them.
	changesPerWatch = 200
	// deletedPerRepository is how many deleted branches of a repository are remembered; one that comes back later is new.
	deletedPerRepository = 1_000
	// outboxLimit is how many messages wait to be expanded; the oldest go first.
	outboxLimit = 10_000
	// deliveriesKept is how many deliveries that have ended are kept, beyond which the oldest go; and each goes with its rollout.
	deliveriesKept = 20_000

	// The chunks keep one transaction short, because every other write waits for it.
	rolloutChunk = 50
	rowChunk     = 2_000
)

func (r Retention) or(other Retention) Retention {
	if r.RolloutsPerGroup <= 0 {
		r.RolloutsPerGroup = other.RolloutsPerGroup
	}
	if r.LedgerEntries <= 0 {
		r.LedgerEntries = other.LedgerEntries
	}
	return r
}

// Prune removes what is older than r allows, in many short transactions, and returns the rollouts that are gone: their
// logs may go too. Ended or killed in between, it has removed a part; the next call goes on. Rollouts whose removal was
// committed but not returned because of a crash have left their logs behind.
func (s *Store) Prune(ctx context.Context, r Retention) ([]string, error) {
	r = r.or(s.options.History).or(Retention{RolloutsPerGroup: defaultRollouts, LedgerEntries: defaultLedger})
	removed, err := s.pruneRollouts(ctx, r.RolloutsPerGroup)
	if err != nil {
		return removed, err
	}
	if err := s.pruneHeads(ctx); err != nil {
		return removed, err
	}
	rows := []struct {
		sql  string
		args []any
	}{
		{`DELETE FROM changes WHERE id IN (SELECT c.id FROM changes c JOIN heads h ON h.repository = c.repository AND h.branch = c.branch
			WHERE c.fate <> 'rollout' AND c.generation <= h.generation - ? LIMIT ?)`, []any{changesPerWatch}},
		{`DELETE FROM ledger WHERE id IN (SELECT id FROM ledger WHERE id <= (SELECT max(id) FROM ledger) - ? ORDER BY id LIMIT ?)`, []any{r.LedgerEntries}},
		{`DELETE FROM deliveries WHERE id IN (SELECT id FROM deliveries WHERE fate <> 'waiting' AND refused = 0
			AND id <= (SELECT max(id) FROM deliveries) - ? ORDER BY id LIMIT ?)`, []any{deliveriesKept}},
		{`DELETE FROM deliveries WHERE id IN (SELECT d.id FROM deliveries d WHERE d.fate <> 'waiting' AND d.refused = 0
			AND NOT EXISTS (SELECT 1 FROM rollouts r WHERE r.sequence = CAST(d.rollout AS INTEGER)) ORDER BY d.id LIMIT ?)`, nil},
	}
	for _, step := range rows {
		for gone := int64(rowChunk); gone == rowChunk; {
			err := s.write(ctx, func(t *tx) error {
				err := t.exec(step.sql, append(step.args[:len(step.args):len(step.args)], rowChunk)...)
				gone = t.Changes()
				return err
			})
			if err != nil {
				return removed, err
			}
		}
	}
	for gone := int64(rowChunk); gone == rowChunk; {
		err := s.write(ctx, func(t *tx) (err error) {
			gone, err = t.dropMessages(outboxLimit, rowChunk)
			return err
		})
		if err != nil {
			return removed, err
		}
	}
	s.reserve().fill()
	return removed, nil
}

func (s *Store) pruneRollouts(ctx context.Context, keep int) (removed []string, err error) {
	type old struct {
		sequence int64
		id       string
	}
	var list []old
	err = s.read(ctx, func(c *conn) error {
		return c.query(`SELECT sequence, suffix FROM (
			SELECT sequence, suffix, row_number() OVER (PARTITION BY grp ORDER BY sequence DESC) AS place
			FROM rollouts WHERE status NOT IN ('pending', 'running')) WHERE place > ? ORDER BY sequence`, func(r row) error {
			list = append(list, old{r.int(0), sentry.RolloutID(r.int(0), r.text(1))})
			return nil
		}, keep)
	})
	if err != nil {
		return nil, err
	}
	for len(list) > 0 {
		chunk := list[:min(rolloutChunk, len(list))]
		list = list[len(chunk):]
		err := s.write(ctx, func(t *tx) error {
			for _, o := range chunk { // terminal is final: what was read before the transaction still holds
				if err := t.exec(`UPDATE changes SET rollout = NULL, fate = 'pruned' WHERE rollout = ?`, o.sequence); err != nil {
					return err
				}
				if err := t.exec(`DELETE FROM rollouts WHERE sequence = ?`, o.sequence); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return removed, err
		}
		for _, o := range chunk {
			removed = append(removed, o.id)
		}
	}
	return removed, nil
}

// pruneHeads forgets branches that were deleted long ago, each as a whole and only where nothing that is kept tells of its
// generations: those begin anew if the branch comes back.
func (s *Store) pruneHeads(ctx context.Context) error {
	var list []sentry.Watch
	err := s.read(ctx, func(c *conn) error {
		return c.query(`SELECT repository, branch FROM (
			SELECT repository, branch, row_number() OVER (PARTITION BY repository ORDER BY recorded_at DESC, branch) AS place FROM heads WHERE deleted = 1)
			WHERE place > ?`, func(r row) error {
			list = append(list, sentry.Watch{Repository: r.text(0), Branch: r.text(1)})
			return nil
		}, deletedPerRepository)
	})
	for err == nil && len(list) > 0 {
		chunk := list[:min(rowChunk, len(list))]
		list = list[len(chunk):]
		err = s.write(ctx, func(t *tx) error {
			for _, w := range chunk {
				if err := t.forget(w); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return err
}

// forget removes a head and its changes, unless the branch is back or something tells of it.
func (t *tx) forget(w sentry.Watch) error {
	kept, err := t.one(`SELECT 1 FROM heads WHERE repository = ?1 AND branch = ?2 AND deleted = 0
		UNION ALL SELECT 1 FROM changes WHERE repository = ?1 AND branch = ?2 AND fate = 'rollout'
		UNION ALL SELECT 1 FROM deployments WHERE repository = ?1 AND branch = ?2 LIMIT 1`, func(row) error { return nil }, w.Repository, w.Branch)
	if err != nil || kept {
		return err
	}
	if err := t.exec(`DELETE FROM changes WHERE repository = ? AND branch = ?`, w.Repository, w.Branch); err != nil {
		return err
	}
	return t.exec(`DELETE FROM heads WHERE repository = ? AND branch = ?`, w.Repository, w.Branch)
}
