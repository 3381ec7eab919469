package store

import (
	"context"
	"encoding/json"
	"fmt"

	"sentry/internal/sentry"
)

// Plan is what a rollout will do, decided outside of the store.
type Plan struct {
	Policy      sentry.Policy
	Vector      []sentry.VectorEntry
	Deployments []sentry.Deployment // in order; the store gives identifiers and ordinals, and saves them pending
	Strays      []Stray             // changes of the rollout that are not its group's any more
	Reason      string              // what was planned and why, in words
}

// Stray is a change that the configuration has taken out of its group since it was recorded.
type Stray struct {
	Change sentry.Change
	Group  string       // where it belongs now; "" drops it: it is not configured any more
	Queue  sentry.Queue // of that group
	Reason string
}

// Claim makes a pending rollout running, with its plan, in one transaction. version is that of the Waiting which was
// planned. A plan without deployments ends the rollout as canceled instead, with the reason of the plan.
//
// A crash before it returns leaves the rollout pending, or running and found by Left.
//
// Errors: ErrStale where a cause joined meanwhile or somebody else has claimed it, ErrFinal where it was canceled,
// ErrBusy where another rollout of the group runs or an older one waits, ErrNotFound, ErrInvalid for a stray that is not its change.
func (s *Store) Claim(ctx context.Context, id string, version int64, p Plan) (sentry.Rollout, error) {
	var claimed sentry.Rollout
	err := s.write(ctx, func(t *tx) error {
		v, err := t.waiting(id, version)
		if err != nil {
			return fmt.Errorf("cannot claim rollout %s: %w", id, err)
		}
		if err := t.itsTurn(v); err != nil {
			return err
		}
		if err := t.handOver(v, p.Strays); err != nil {
			return err
		}
		if len(p.Deployments) == 0 {
			err = t.end(v, sentry.Canceled, p.Reason, sentry.CanceledIt)
		} else {
			err = t.begin(v, p)
		}
		if err != nil {
			return err
		}
		if v, err = t.find(v.ID); err != nil {
			return err
		}
		if err := t.fill(v, true); err != nil {
			return err
		}
		claimed = v.Rollout
		return nil
	})
	return claimed, err
}

// HandOver moves changes of a rollout that goes on waiting to the groups where they belong, in one transaction. version is as
// for Claim. Where nothing is left that the rollout is for, it ends as canceled.
//
// Errors: ErrStale where a cause joined meanwhile or it does not wait any more, ErrFinal where it was canceled, ErrNotFound,
// ErrInvalid for a stray that is not its change.
func (s *Store) HandOver(ctx context.Context, id string, version int64, strays []Stray) error {
	return s.write(ctx, func(t *tx) error {
		v, err := t.waiting(id, version)
		if err != nil {
			return fmt.Errorf("cannot hand over changes of rollout %s: %w", id, err)
		}
		if err := t.handOver(v, strays); err != nil {
			return err
		}
		left, err := t.changesOf(v.sequence)
		if err != nil {
			return err
		}
		if why := v.Trigger; len(left) == 0 && !why.Whole && len(why.Repositories) == 0 && len(why.Watches) == 0 {
			return t.end(v, sentry.Canceled, "nothing is left to roll out: what it was for belongs to other groups now", sentry.CanceledIt)
		}
		return t.exec(`UPDATE rollouts SET version = version + 1 WHERE sequence = ?`, v.sequence)
	})
}

// waiting finds a rollout that waits, as it was when it was looked at.
//
// Errors: ErrStale, ErrFinal, ErrNotFound.
func (t *tx) waiting(id string, version int64) (*rolloutRow, error) {
	v, err := t.find(id)
	switch {
	case err != nil:
		return nil, err
	case v.Status.Terminal():
		return nil, fmt.Errorf("%w as %s", ErrFinal, v.Status)
	case v.Status != sentry.Pending:
		return nil, fmt.Errorf("%w: it is %s already", ErrStale, v.Status)
	case v.version != version:
		return nil, fmt.Errorf("%w: version %d was planned, it is at %d", ErrStale, version, v.version)
	}
	return v, nil
}

// itsTurn makes sure that no other rollout of the group runs, and that no older one waits: an older commit of a branch
// must not begin after a newer one.
func (t *tx) itsTurn(v *rolloutRow) error {
	for _, other := range []struct{ clause, does string }{
		{`WHERE status = 'running' AND grp = ? AND sequence <> ? LIMIT 1`, "runs"},
		{`WHERE status = 'pending' AND grp = ? AND sequence < ? LIMIT 1`, "waits for longer"},
	} {
		found, err := t.rollouts(other.clause, v.Group, v.sequence)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			return fmt.Errorf("cannot claim rollout %s: %w: %s %s", v.ID, ErrBusy, found[0].ID, other.does)
		}
	}
	return nil
}

// handOver moves the strays of a rollout to where they belong, or drops them.
func (t *tx) handOver(v *rolloutRow, strays []Stray) error {
	q := queue{tx: t}
	for _, stray := range strays {
		c := stray.Change
		if stray.Group == v.Group {
			return fmt.Errorf("%w: %s is a stray of its own group %s", ErrInvalid, c.Watch, v.Group)
		}
		if stray.Group == "" {
			if err := t.drop(c, v, stray.Reason); err != nil {
				return fmt.Errorf("cannot drop %s: %w", c.Watch, err)
			}
			continue
		}
		if err := q.move(c, v, stray.Group, stray.Queue); err != nil {
			return fmt.Errorf("cannot hand %s to group %s: %w", c.Watch, stray.Group, err)
		}
	}
	return q.finish()
}

// begin writes the plan and makes the rollout running, ours.
func (t *tx) begin(v *rolloutRow, p Plan) error {
	policy, err := json.Marshal(p.Policy)
	if err != nil {
		return err
	}
	vector, err := text(p.Vector)
	if err != nil {
		return err
	}
	err = t.exec(`UPDATE rollouts SET status = 'running', reason = ?, policy = ?, vector = ?, attempt = 1, owner = ?, epoch = ?, started_at = ?
		WHERE sequence = ? AND status = 'pending'`, p.Reason, string(policy), vector, t.owner, t.epoch, t.now, v.sequence)
	if err != nil {
		return err
	}
	for i, d := range p.Deployments {
		d.Ordinal, d.Status, d.Attempt = i+1, sentry.Pending, 0
		if err := t.insertDeployment(v.sequence, d); err != nil {
			return fmt.Errorf("cannot plan %s: %w", d.Watch, err)
		}
	}
	decisions := []sentry.Decision{
		{Verb: sentry.Claimed, Group: v.Group, Rollout: v.ID, Reason: "begun by " + t.owner},
		{Verb: sentry.Planned, Group: v.Group, Rollout: v.ID, Reason: p.Reason},
	}
	for _, d := range decisions {
		if err := t.decide(d); err != nil {
			return err
		}
	}
	return t.post(TopicStarted, v, sentry.Running, p.Reason)
}
