package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"sentry/internal/sentry"
)

// Delivery is a report that has to reach a forge, and how far it came.
//
// Those of one status (address, commit, context) are a chain: they leave in the order of their numbers, one after the
// other has ended. A pending that something follows in its chain is overtaken: it may only be superseded.
type Delivery struct {
	ID int64
	sentry.Report
	Rollout string // the full identifier
	Group   string
	Lane    string // what shares a server and a credential there: opaque here
	Address string // of the repository that gets it, in one spelling: opaque here
	Watched string // the branch of the member that it is about,
	Head    string // and its commit there. For an upstream the same as Branch and Commit
	Waited  time.Duration
	// Overtaken tells that it is a pending, and something after it waits in its chain.
	Overtaken bool
}

// waitingLimit is how many deliveries wait at once, and refusedLimit how many refused ones may yet be revived; the oldest
// go first.
const (
	waitingLimit = outboxLimit
	refusedLimit = 2_000
)

const deliveryColumns = `d.id, d.repository, d.target, d.branch, d.commit_id, d.context, d.state, d.description, d.fate, d.attempts, d.next_at, d.error, d.ended_at,
	d.rollout, d.grp, d.lane, d.address, d.watched, d.head, d.waited`

// inChain selects what has the same status as d.
const inChain = `e.address = d.address AND e.commit_id = d.commit_id AND e.context = d.context`

func scanDelivery(r row) Delivery {
	d := Delivery{
		ID: r.int(0), Rollout: r.text(13), Group: r.text(14), Lane: r.text(15), Address: r.text(16), Watched: r.text(17), Head: r.text(18),
		Waited: time.Duration(r.int(19)) * time.Millisecond,
	}
	d.Report = sentry.Report{
		Repository: r.text(1), Target: sentry.Target(r.text(2)), Branch: r.text(3), Commit: r.text(4), Context: r.text(5),
		State: sentry.State(r.text(6)), Description: r.text(7), Fate: sentry.Fate(r.text(8)), Attempts: int(r.int(9)), Error: r.text(11),
	}
	switch d.Fate {
	case sentry.Waiting:
		d.NextAt = r.time(10)
	case sentry.Delivered:
		d.DeliveredAt = r.time(12)
	}
	return d
}

func (c *conn) deliveries(clause string, args ...any) (found []Delivery, err error) {
	err = c.query(`SELECT `+deliveryColumns+` FROM deliveries d `+clause, func(r row) error {
		found = append(found, scanDelivery(r))
		return nil
	}, args...)
	return found, err
}

// insertDelivery makes a delivery, due at once. A verdict comes into the chain behind its pending: where that is still
// being tried, the verdict takes over its turn.
func (t *tx) insertDelivery(d Delivery) error {
	if d.Rollout == "" || d.Group == "" || d.Repository == "" || d.Lane == "" || d.Address == "" || d.Commit == "" || d.Context == "" {
		return fmt.Errorf("%w: a delivery needs a rollout, a repository and a status", ErrInvalid)
	}
	next := t.now
	if d.State != sentry.StatePending {
		_, err := t.one(`SELECT coalesce(max(next_at), 0) FROM deliveries e WHERE e.address = ? AND e.commit_id = ? AND e.context = ? AND e.rollout = ? AND e.fate = 'waiting' AND e.attempts > 0`,
			func(r row) error {
				if at := r.time(0); at.After(next) {
					next = at
				}
				return nil
			}, d.Address, d.Commit, d.Context, d.Rollout)
		if err != nil {
			return err
		}
		// It comes to the front of its lane, to be superseded there: unless it is on its way already.
		err = t.exec(`UPDATE deliveries SET next_at = 0 WHERE address = ? AND commit_id = ? AND context = ? AND rollout = ? AND fate = 'waiting'`,
			d.Address, d.Commit, d.Context, d.Rollout)
		if err != nil {
			return err
		}
	}
	return t.exec(`INSERT INTO deliveries (kind, lane, address, repository, target, branch, commit_id, context, state, description, rollout, grp, watched, head, fate, next_at, recorded_at)
		VALUES ('status', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'waiting', ?, ?) ON CONFLICT DO NOTHING`,
		d.Lane, d.Address, d.Repository, string(d.Target), d.Branch, d.Commit, d.Context, string(d.State), d.Description, d.Rollout, d.Group, d.Watched, d.Head, next, t.now)
}

// dropDeliveries gives up the oldest where too many wait.
func (t *tx) dropDeliveries() (int, error) {
	over := int64(0)
	_, err := t.one(`SELECT count(*) - ? FROM deliveries WHERE fate = 'waiting'`, func(r row) error { over = r.int(0); return nil }, waitingLimit)
	if err != nil || over <= 0 {
		return 0, err
	}
	oldest, err := t.deliveries(`WHERE d.fate = 'waiting' ORDER BY d.id LIMIT ?`, over)
	if err != nil {
		return 0, err
	}
	return len(oldest), t.giveUp(oldest, func(Delivery) string { return "more statuses wait than are kept" })
}

// giveUp ends deliveries that wait, and tells the ledger why: once for those of one rollout to one repository.
func (t *tx) giveUp(list []Delivery, why func(Delivery) string) error {
	type about struct {
		rollout, repository, reason string
		target                      sentry.Target
	}
	told := map[about]bool{}
	for _, d := range list {
		reason := why(d)
		if err := t.exec(`UPDATE deliveries SET fate = 'given_up', error = ?, ended_at = ? WHERE id = ? AND fate = 'waiting'`, reason, t.now, d.ID); err != nil {
			return err
		}
		if key := (about{d.Rollout, d.Repository, reason, d.Target}); !told[key] {
			told[key] = true
			if err := t.decide(d.unreported(reason)); err != nil {
				return err
			}
		}
	}
	return nil
}

// unreported is the entry of the ledger for a delivery that is given up.
func (d Delivery) unreported(reason string) sentry.Decision {
	where := ""
	if d.Target == sentry.QA {
		where = " of its QA repository"
	}
	return sentry.Decision{
		Verb: sentry.Unreported, Group: d.Group, Repository: d.Repository, Branch: d.Watched, Rollout: d.Rollout, Commit: d.Head,
		Reason: fmt.Sprintf("the status %s on commit %s%s is given up: %s", d.State, sentry.ShortCommit(d.Commit), where, reason),
	}
}

// Lanes gives the lanes in which something waits, in order.
func (s *Store) Lanes(ctx context.Context) (lanes []string, err error) {
	err = s.read(ctx, func(c *conn) error {
		return c.query(`SELECT DISTINCT lane FROM deliveries WHERE fate = 'waiting' ORDER BY lane`, func(r row) error {
			lanes = append(lanes, r.text(0))
			return nil
		})
	})
	return lanes, err
}

// NextDeliveries gives what may leave next in a lane: of each chain the first, and what is due soonest before the rest.
func (s *Store) NextDeliveries(ctx context.Context, lane string, limit int) (next []Delivery, err error) {
	err = s.read(ctx, func(c *conn) error {
		return c.query(`SELECT `+deliveryColumns+`, d.state = 'pending' AND EXISTS (SELECT 1 FROM deliveries e WHERE `+inChain+` AND e.id > d.id AND e.fate = 'waiting')
			FROM deliveries d WHERE d.lane = ? AND d.fate = 'waiting'
			AND NOT EXISTS (SELECT 1 FROM deliveries e WHERE `+inChain+` AND e.id < d.id AND e.fate = 'waiting') ORDER BY d.next_at, d.id LIMIT ?`, func(r row) error {
			d := scanDelivery(r)
			d.Overtaken = r.bool(20)
			next = append(next, d)
			return nil
		}, lane, limit)
	})
	return next, err
}

// Arrived records that the forge has a status. It is believed also of one that was ended meanwhile: it is there.
//
// A crash between the forge's answer and this sends the same status again: receivers see it at least once.
func (s *Store) Arrived(ctx context.Context, id int64) error {
	return s.writeEnd(ctx, func(t *tx) error {
		return t.exec(`UPDATE deliveries SET fate = 'delivered', refused = 0, error = '', attempts = attempts + 1, ended_at = ? WHERE id = ? AND fate <> 'delivered'`, t.now, id)
	})
}

// Failed records an attempt that did not succeed, and when the next one is due. A pending that has been overtaken
// meanwhile is superseded instead, and what follows it keeps to the same moment.
func (s *Store) Failed(ctx context.Context, id int64, after time.Duration, reason string) error {
	return s.write(ctx, func(t *tx) error {
		err := t.exec(`UPDATE deliveries SET attempts = attempts + 1, error = ?, next_at = ? WHERE id = ? AND fate = 'waiting'`, reason, t.now.Add(after), id)
		if err != nil {
			return err
		}
		return t.supersede(id)
	})
}

// Supersede ends a pending that was overtaken; any other delivery it leaves alone.
func (s *Store) Supersede(ctx context.Context, id int64) error {
	return s.write(ctx, func(t *tx) error { return t.supersede(id) })
}

func (t *tx) supersede(id int64) error {
	found, err := t.deliveries(`WHERE d.id = ? AND d.fate = 'waiting' AND d.state = 'pending' AND EXISTS (SELECT 1 FROM deliveries e WHERE `+inChain+` AND e.id > d.id AND e.fate = 'waiting')`, id)
	if err != nil || len(found) == 0 {
		return err
	}
	d := found[0]
	if d.Attempts > 0 { // what kept the pending from arriving keeps the verdict as long
		err := t.exec(`UPDATE deliveries SET next_at = max(next_at, ?) WHERE id = (SELECT min(id) FROM deliveries e WHERE e.address = ? AND e.commit_id = ? AND e.context = ? AND e.id > ? AND e.fate = 'waiting')`,
			d.NextAt, d.Address, d.Commit, d.Context, d.ID)
		if err != nil {
			return err
		}
	}
	return t.exec(`UPDATE deliveries SET fate = 'superseded', ended_at = ? WHERE id = ?`, t.now, id)
}

// GiveUp ends a delivery that no further try can help, and tells the ledger.
func (s *Store) GiveUp(ctx context.Context, id int64, reason string) error {
	return s.write(ctx, func(t *tx) error {
		found, err := t.deliveries(`WHERE d.id = ? AND d.fate = 'waiting'`, id)
		if err != nil {
			return err
		}
		if err := t.exec(`UPDATE deliveries SET attempts = attempts + 1 WHERE id = ? AND fate = 'waiting'`, id); err != nil {
			return err
		}
		return t.giveUp(found, func(Delivery) string { return reason })
	})
}

// Refuse gives up all that waits for one repository, for want of a right. Should it be granted soon, Revive brings back what
// is still worth saying. The ledger is told once of one reason, however often it is met: told says whether this was
// the time.
func (s *Store) Refuse(ctx context.Context, d Delivery, reason string) (told bool, err error) {
	err = s.write(ctx, func(t *tx) error {
		known, err := t.one(`SELECT 1 FROM deliveries WHERE repository = ?1 AND target = ?2 AND error = ?3 AND id > coalesce((
			SELECT max(id) FROM deliveries WHERE repository = ?1 AND target = ?2 AND fate = 'delivered'), 0) LIMIT 1`,
			func(row) error { return nil }, d.Repository, string(d.Target), reason)
		if err != nil {
			return err
		}
		told = !known
		err = t.exec(`UPDATE deliveries SET fate = 'given_up', refused = 1, error = ?, ended_at = ? WHERE repository = ? AND target = ? AND fate = 'waiting'`,
			reason, t.now, d.Repository, string(d.Target))
		if err != nil {
			return err
		}
		err = t.exec(`UPDATE deliveries SET refused = 0 WHERE id IN (SELECT id FROM deliveries WHERE refused = 1 ORDER BY id DESC LIMIT -1 OFFSET ?)`, refusedLimit)
		if err != nil || known {
			return err
		}
		decision := d.unreported(reason)
		decision.Reason = "no statuses: " + reason + "; they are given up until the configuration, the token or the right changes"
		return t.decide(decision)
	})
	return told, err
}

// Revive lets what was refused wait again, where nothing was said after it: of one repository and target, or of all where
// both are empty. It gives how many.
func (s *Store) Revive(ctx context.Context, repository string, target sentry.Target) (revived int, err error) {
	var where conditions
	where.equal("d.repository", repository)
	where.equal("d.target", string(target))
	where.add(`d.refused = 1`)
	some := false
	err = s.read(ctx, func(c *conn) (err error) {
		some, err = c.one(`SELECT 1 FROM deliveries d`+where.text()+` LIMIT 1`, func(row) error { return nil }, where.args...)
		return err
	})
	if err != nil || !some {
		return 0, err
	}
	err = s.write(ctx, func(t *tx) error {
		newest := where
		newest.parts = append(newest.parts[:len(newest.parts):len(newest.parts)], `NOT EXISTS (SELECT 1 FROM deliveries e WHERE `+inChain+` AND e.id > d.id)`)
		err := t.exec(`UPDATE deliveries AS d SET fate = 'waiting', refused = 0, next_at = ?, ended_at = 0`+newest.text(), append([]any{t.now}, where.args...)...)
		if err != nil {
			return err
		}
		revived = int(t.Changes())
		return t.exec(`UPDATE deliveries AS d SET refused = 0`+where.text(), where.args...)
	})
	return revived, err
}

// Age counts time towards the end of patience: for what waits, and for what may yet be revived. It gives up what has
// waited for as long as limit, and gives it. Time is what the caller has measured while it ran, so that neither a clock
// that is set nor a Sentry that is switched off ends anything.
func (s *Store) Age(ctx context.Context, by, limit time.Duration) (old []Delivery, err error) {
	some := false
	err = s.read(ctx, func(c *conn) (err error) {
		some, err = c.one(`SELECT 1 WHERE EXISTS (SELECT 1 FROM deliveries WHERE fate = 'waiting') OR EXISTS (SELECT 1 FROM deliveries WHERE refused = 1)`, func(row) error { return nil })
		return err
	})
	if err != nil || !some {
		return nil, err
	}
	err = s.write(ctx, func(t *tx) error {
		for _, which := range []string{`fate = 'waiting'`, `refused = 1`} {
			if err := t.exec(`UPDATE deliveries SET waited = waited + ? WHERE `+which, by.Milliseconds()); err != nil {
				return err
			}
		}
		if err := t.exec(`UPDATE deliveries SET refused = 0 WHERE refused = 1 AND waited >= ?`, limit.Milliseconds()); err != nil {
			return err
		}
		if old, err = t.deliveries(`WHERE d.fate = 'waiting' AND d.waited >= ? ORDER BY d.id`, limit.Milliseconds()); err != nil {
			return err
		}
		return t.giveUp(old, func(d Delivery) string {
			return strings.TrimSuffix(fmt.Sprintf("not delivered in %s: %s", limit, d.Error), ": ")
		})
	})
	return old, err
}

// Deliveries gives those of a rollout, in order, by its full identifier; also of one that is not kept any more.
func (s *Store) Deliveries(ctx context.Context, rollout string) (list []Delivery, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		list, err = c.deliveries(`WHERE d.rollout = ? ORDER BY d.id`, rollout)
		return err
	})
	return list, err
}

// Reports tells which statuses a rollout has led to, and what became of each, in order. id is anything that Rollout takes.
//
// Errors: ErrNotFound.
func (s *Store) Reports(ctx context.Context, id string) ([]sentry.Report, error) {
	reports := []sentry.Report{}
	err := s.read(ctx, func(c *conn) error {
		v, err := c.find(id)
		if err != nil {
			return err
		}
		list, err := c.deliveries(`WHERE d.rollout = ? ORDER BY d.id`, v.ID)
		for _, d := range list {
			reports = append(reports, d.Report)
		}
		return err
	})
	return reports, err
}

// Reported tells whether a rollout of a group has ever led to a status about this commit of a watch, as far as is known.
func (s *Store) Reported(ctx context.Context, group string, w sentry.Watch, commit string) (reported bool, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		reported, err = c.one(`SELECT 1 FROM deliveries WHERE repository = ? AND watched = ? AND head = ? AND grp = ? LIMIT 1`,
			func(row) error { return nil }, w.Repository, w.Branch, commit, group)
		return err
	})
	return reported, err
}
