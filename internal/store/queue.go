package store

import (
	"crypto/rand"
	"fmt"
	"strings"

	"sentry/internal/sentry"
)

// queue puts the changes of one transaction into pending rollouts. It writes to the ledger once for each rollout, when
// it is finished.
type queue struct {
	tx     *tx
	newest map[string]*place // by group: the pending rollout that changes may join; absent while not looked for
	used   []*place          // in the order of their first change
}

// place is a pending rollout that takes changes.
type place struct {
	sequence int64
	id       string
	group    string
	waited   bool                  // it was there before this transaction
	watches  map[sentry.Watch]bool // of which it has a change; nil while not asked
	first    sentry.Change         // of this transaction
	count    int                   // changes of this transaction
}

// add records a new change in the rollout that is to answer it.
func (q *queue) add(c sentry.Change, group string, rule sentry.Queue, why string) (*place, error) {
	p, err := q.find(c.Watch, group, rule)
	if err != nil {
		return nil, err
	}
	entry, err := q.tx.newestEntry()
	if err != nil {
		return nil, err
	}
	err = q.tx.exec(`INSERT INTO changes (repository, branch, generation, from_commit, to_commit, author, subject, time, rewritten, grp, rollout, fate, reason, ledger, recorded_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'rollout', ?, ?, ?)`,
		c.Repository, c.Branch, c.Generation, c.From, c.To, c.Author, c.Subject, c.Time, c.Rewritten, group, p.sequence, why, entry, c.RecordedAt)
	if err != nil {
		return nil, err
	}
	q.took(p, c)
	return p, nil
}

// move hands a change, recorded in the rollout from, to one of its new group. Where that group has a newer change of the
// watch already, the older one must not come after it: it joins the rollout of the newer one while that waits, and is
// dropped once that has begun.
func (q *queue) move(c sentry.Change, from *rolloutRow, group string, rule sentry.Queue) error {
	p, begun, err := q.newer(c, group)
	if err != nil {
		return err
	}
	if begun != "" {
		return q.tx.drop(c, from, fmt.Sprintf("it belongs to group %s now, and %s has a newer commit of the branch", group, begun))
	}
	if p == nil {
		if p, err = q.find(c.Watch, group, rule); err != nil {
			return err
		}
	}
	err = q.tx.exec(`UPDATE changes SET rollout = ?, grp = ? WHERE repository = ? AND branch = ? AND generation = ? AND rollout = ?`,
		p.sequence, group, c.Repository, c.Branch, c.Generation, from.sequence)
	if err != nil {
		return err
	}
	if q.tx.Changes() != 1 {
		return notItsChange(c, from)
	}
	q.took(p, c)
	return nil
}

// newer looks for the next newer change of the same watch in a group: the rollout that waits with it, or the name of the
// one that has begun. Neither where there is no newer one.
func (q *queue) newer(c sentry.Change, group string) (waits *place, begun string, err error) {
	var (
		found  place
		status sentry.Status
	)
	// In whatever group it was: a repository may have moved more than once, and what has begun has begun.
	ok, err := q.tx.one(`SELECT coalesce(r.sequence, 0), coalesce(r.suffix, '') FROM changes c LEFT JOIN rollouts r ON r.sequence = c.rollout
		WHERE c.repository = ? AND c.branch = ? AND c.generation > ? AND (c.fate = 'pruned' OR r.status <> 'pending') ORDER BY c.generation LIMIT 1`, func(r row) error {
		if begun = "a rollout that is not kept any more"; r.int(0) > 0 {
			begun = "rollout " + sentry.RolloutID(r.int(0), r.text(1))
		}
		return nil
	}, c.Repository, c.Branch, c.Generation)
	if err != nil || ok {
		return nil, begun, err
	}
	ok, err = q.tx.one(`SELECT r.sequence, r.suffix, r.status FROM changes c JOIN rollouts r ON r.sequence = c.rollout
		WHERE c.repository = ? AND c.branch = ? AND c.generation > ? AND c.grp = ? ORDER BY c.generation LIMIT 1`, func(r row) error {
		found = place{sequence: r.int(0), id: sentry.RolloutID(r.int(0), r.text(1)), group: group, waited: true}
		status = r.status(2)
		return nil
	}, c.Repository, c.Branch, c.Generation, group)
	if err != nil || !ok {
		return nil, "", err
	}
	if status != sentry.Pending {
		return nil, "rollout " + found.id, nil
	}
	for _, p := range q.used {
		if p.sequence == found.sequence {
			return p, "", nil
		}
	}
	if p, err := q.waiting(group); err != nil || p.sequence == found.sequence {
		return p, "", err
	}
	return &found, "", nil
}

// drop takes a change out of its rollout for good, and says why.
func (t *tx) drop(c sentry.Change, from *rolloutRow, reason string) error {
	err := t.exec(`UPDATE changes SET rollout = NULL, fate = 'dropped' WHERE repository = ? AND branch = ? AND generation = ? AND rollout = ?`,
		c.Repository, c.Branch, c.Generation, from.sequence)
	if err != nil {
		return err
	}
	if t.Changes() != 1 {
		return notItsChange(c, from)
	}
	return t.decide(sentry.Decision{Verb: sentry.Refused, Group: from.Group, Repository: c.Repository, Branch: c.Branch, Rollout: from.ID, Commit: c.To, Reason: reason})
}

func notItsChange(c sentry.Change, from *rolloutRow) error {
	return fmt.Errorf("%w: generation %d is not a change of rollout %s", ErrInvalid, c.Generation, from.ID)
}

func (q *queue) took(p *place, c sentry.Change) {
	if p.count == 0 {
		p.first = c
		q.used = append(q.used, p)
	}
	p.count++
	if p.watches != nil {
		p.watches[c.Watch] = true
	}
}

// find gives the pending rollout of a group that a change of this watch joins, or makes one. Under Latest that is the
// newest; under Every the newest too, unless it has a change of the watch: then each generation gets its own.
func (q *queue) find(w sentry.Watch, group string, rule sentry.Queue) (*place, error) {
	p, err := q.waiting(group)
	if err != nil {
		return nil, err
	}
	if p != nil && rule == sentry.Every {
		if err := q.tx.loadWatches(p); err != nil {
			return nil, err
		}
		if p.watches[w] {
			p = nil
		}
	}
	if p == nil {
		if p, err = q.tx.newRollout(group, sentry.Trigger{Kind: sentry.TriggerChanges}, false); err != nil {
			return nil, err
		}
		q.newest[group] = p
	}
	return p, nil
}

// waiting gives the newest pending rollout of a group; nil where there is none.
func (q *queue) waiting(group string) (*place, error) {
	if p, ok := q.newest[group]; ok {
		return p, nil
	}
	p, err := q.tx.newestPending(group)
	if err != nil {
		return nil, err
	}
	if q.newest == nil {
		q.newest = map[string]*place{}
	}
	q.newest[group] = p
	return p, nil
}

// finish writes down what the changes came to: one entry for each rollout, and a new version of those that waited.
func (q *queue) finish() error {
	for _, p := range q.used {
		d := sentry.Decision{Verb: sentry.Queued, Group: p.group, Rollout: p.id, Reason: p.summary() + ": a rollout waits for its turn"}
		if p.count == 1 {
			d.Repository, d.Branch, d.Commit = p.first.Repository, p.first.Branch, p.first.To
		}
		if p.waited {
			d.Verb, d.Reason = sentry.Coalesced, p.summary()+": joined the rollout that waits"
			if err := q.tx.exec(`UPDATE rollouts SET version = version + 1 WHERE sequence = ?`, p.sequence); err != nil {
				return err
			}
		}
		if err := q.tx.decide(d); err != nil {
			return err
		}
	}
	return nil
}

func (p *place) summary() string {
	text := p.first.Watch.String() + " moved to " + sentry.ShortCommit(p.first.To)
	if p.count > 1 {
		text += fmt.Sprintf(" (and %d more)", p.count-1)
	}
	return text
}

// newestPending gives the newest pending rollout of a group; nil where there is none.
func (t *tx) newestPending(group string) (*place, error) {
	p := &place{group: group, waited: true}
	found, err := t.one(`SELECT sequence, suffix FROM rollouts WHERE status = 'pending' AND grp = ? ORDER BY sequence DESC LIMIT 1`, func(r row) error {
		p.sequence, p.id = r.int(0), sentry.RolloutID(r.int(0), r.text(1))
		return nil
	}, group)
	if err != nil || !found {
		return nil, err
	}
	return p, nil
}

func (t *tx) loadWatches(p *place) error {
	if p.watches != nil {
		return nil
	}
	p.watches = map[sentry.Watch]bool{}
	return t.query(`SELECT repository, branch FROM changes WHERE rollout = ?`, func(r row) error {
		p.watches[sentry.Watch{Repository: r.text(0), Branch: r.text(1)}] = true
		return nil
	}, p.sequence)
}

// newRollout makes a pending rollout. Its number is the next that was never given.
func (t *tx) newRollout(group string, why sentry.Trigger, urgent bool) (*place, error) {
	repositories, err := text(why.Repositories)
	if err != nil {
		return nil, err
	}
	watches, err := text(why.Watches)
	if err != nil {
		return nil, err
	}
	suffix := strings.ToLower(rand.Text()[:5])
	err = t.exec(`INSERT INTO rollouts (suffix, grp, status, kind, asked_by, retry_of, whole, repositories, watches, urgent, recorded_at)
		VALUES (?, ?, 'pending', ?, ?, ?, ?, ?, ?, ?, ?)`,
		suffix, group, string(why.Kind), why.By, why.RetryOf, why.Whole, repositories, watches, urgent, t.now)
	if err != nil {
		return nil, err
	}
	sequence := t.LastInsertRowID()
	return &place{sequence: sequence, id: sentry.RolloutID(sequence, suffix), group: group}, nil
}
