package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"sentry/internal/sentry"
)

// rolloutRow is a rollout with what only the store sees of it.
type rolloutRow struct {
	sentry.Rollout
	sequence int64
	version  int64
	urgent   bool
	owner    string
	epoch    int64
}

const rolloutColumns = `sequence, suffix, grp, status, reason, kind, asked_by, retry_of, whole, repositories, watches, urgent, version,
	policy, vector, attempt, owner, epoch, canceled_by, recorded_at, started_at, finished_at, interruptions`

// scanRollout reads rolloutColumns.
func scanRollout(r row) (*rolloutRow, error) {
	v := &rolloutRow{sequence: r.int(0), urgent: r.bool(11), version: r.int(12), owner: r.text(16), epoch: r.int(17)}
	v.Rollout = sentry.Rollout{
		ID: sentry.RolloutID(r.int(0), r.text(1)), Group: r.text(2), Status: r.status(3), Reason: r.text(4),
		Trigger: sentry.Trigger{Kind: sentry.TriggerKind(r.text(5)), By: r.text(6), RetryOf: r.text(7), Whole: r.bool(8)},
		Vector:  []sentry.VectorEntry{}, Attempt: int(r.int(15)), CanceledBy: r.text(18),
		RecordedAt: r.time(19), StartedAt: r.time(20), FinishedAt: r.time(21), Interruptions: int(r.int(22)), Deployments: []sentry.Deployment{},
	}
	for column, into := range map[int]any{9: &v.Trigger.Repositories, 10: &v.Trigger.Watches, 13: &v.Policy, 14: &v.Vector} {
		if err := r.json(column, into); err != nil {
			return nil, fmt.Errorf("rollout %s: %w", v.ID, err)
		}
	}
	return v, nil
}

// rollouts reads the rollouts that a clause selects, without changes and deployments.
func (c *conn) rollouts(clause string, args ...any) (found []*rolloutRow, err error) {
	err = c.query(`SELECT `+rolloutColumns+` FROM rollouts `+clause, func(r row) error {
		v, err := scanRollout(r)
		found = append(found, v)
		return err
	}, args...)
	return found, err
}

// find reads one rollout by what people and programs call it: its number, its identifier, or the beginning of that. The
// number alone is unique, so that every form which contains it is.
//
// Errors: ErrNotFound.
func (c *conn) find(id string) (*rolloutRow, error) {
	number, _, _ := strings.Cut(id, "-")
	sequence, err := strconv.ParseInt(number, 10, 64)
	if err != nil || strconv.FormatInt(sequence, 10) != number {
		return nil, fmt.Errorf("rollout %q: %w: a rollout is called by its number or its identifier, as in 17 or 17-abcde", id, ErrNotFound)
	}
	found, err := c.rollouts(`WHERE sequence = ?`, sequence)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 || !strings.HasPrefix(found[0].ID, id) {
		return nil, fmt.Errorf("rollout %s: %w", id, ErrNotFound)
	}
	return found[0], nil
}

// fill reads the changes and deployments of a rollout, and their steps where asked.
func (c *conn) fill(v *rolloutRow, steps bool) (err error) {
	if v.Trigger.Changes, err = c.changesOf(v.sequence); err != nil {
		return err
	}
	return c.fillDeployments(v, steps)
}

// Rollout reads one rollout with everything that belongs to it. id may be its number alone or any beginning of its
// identifier that contains the number.
//
// Errors: ErrNotFound.
func (s *Store) Rollout(ctx context.Context, id string) (sentry.Rollout, error) {
	var found sentry.Rollout
	err := s.read(ctx, func(c *conn) error {
		v, err := c.find(id)
		if err == nil {
			err = c.fill(v, true)
		}
		if err == nil {
			found = v.Rollout
		}
		return err
	})
	return found, err
}

// Filter says which rollouts to list. Empty fields do not limit.
type Filter struct {
	Group      string
	Repository string // that changed, or was deployed
	Status     []sentry.Status
	Before     string // only rollouts older than this one, for the next page
	Limit      int    // 0 means 50
}

// Rollouts lists rollouts, newest first, with their changes and deployments but without steps.
//
// Errors: ErrNotFound for a Before that is no rollout's name.
func (s *Store) Rollouts(ctx context.Context, f Filter) ([]sentry.Rollout, error) {
	if f.Limit <= 0 {
		f.Limit = 50
	}
	var where conditions
	where.equal("grp", f.Group)
	if f.Repository != "" {
		where.add(`(EXISTS (SELECT 1 FROM deployments d WHERE d.rollout = sequence AND d.repository = ?)
			OR EXISTS (SELECT 1 FROM changes c WHERE c.rollout = sequence AND c.repository = ?))`, f.Repository, f.Repository)
	}
	if len(f.Status) > 0 {
		marks := make([]string, len(f.Status))
		args := make([]any, len(f.Status))
		for i, status := range f.Status {
			marks[i], args[i] = "?", status
		}
		where.add(`status IN (`+strings.Join(marks, ", ")+`)`, args...)
	}
	if f.Before != "" {
		number, _, _ := strings.Cut(f.Before, "-")
		sequence, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("rollout %q: %w", f.Before, ErrNotFound)
		}
		where.add(`sequence < ?`, sequence) // it may have been removed since: its place in the order has not
	}
	list := []sentry.Rollout{}
	err := s.read(ctx, func(c *conn) error {
		found, err := c.rollouts(where.text()+` ORDER BY sequence DESC LIMIT ?`, append(where.args, f.Limit)...)
		if err != nil {
			return err
		}
		for _, v := range found {
			if err := c.fill(v, false); err != nil {
				return err
			}
			list = append(list, v.Rollout)
		}
		return nil
	})
	return list, err
}

// Waiting is a pending rollout, as a claim needs it.
type Waiting struct {
	Rollout sentry.Rollout // with its changes; it has no deployments yet
	Version int64          // to give to Claim: what was decided is decided about this version
	Urgent  bool           // a person asked for it: no quiet period
}

// Pending gives all pending rollouts, oldest first.
func (s *Store) Pending(ctx context.Context) ([]Waiting, error) {
	var waiting []Waiting
	err := s.read(ctx, func(c *conn) error {
		found, err := c.rollouts(`WHERE status = 'pending' ORDER BY sequence`)
		if err != nil {
			return err
		}
		for _, v := range found {
			if v.Trigger.Changes, err = c.changesOf(v.sequence); err != nil {
				return err
			}
			waiting = append(waiting, Waiting{Rollout: v.Rollout, Version: v.version, Urgent: v.urgent})
		}
		return nil
	})
	return waiting, err
}
