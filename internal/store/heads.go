package store

import (
	"context"
	"fmt"
	"slices"

	"sentry/internal/sentry"
)

// Heads gives the head of every watch that was ever seen, ordered by repository and branch.
func (s *Store) Heads(ctx context.Context) ([]sentry.Head, error) {
	var heads []sentry.Head
	err := s.read(ctx, func(c *conn) error {
		if _, err := c.one(`SELECT count(*) FROM heads`, func(r row) error { heads = make([]sentry.Head, 0, r.int(0)); return nil }); err != nil {
			return err
		}
		return c.query(`SELECT `+headColumns+` FROM heads ORDER BY repository, branch`, func(r row) error {
			heads = append(heads, scanHead(r))
			return nil
		})
	})
	return heads, err
}

// HeadsOf gives the heads of these repositories, ordered by repository and branch.
func (s *Store) HeadsOf(ctx context.Context, repositories ...string) ([]sentry.Head, error) {
	names := slices.Clone(repositories)
	slices.Sort(names)
	var heads []sentry.Head
	err := s.read(ctx, func(c *conn) error {
		for _, name := range slices.Compact(names) {
			err := c.query(`SELECT `+headColumns+` FROM heads WHERE repository = ? ORDER BY branch`, func(r row) error {
				heads = append(heads, scanHead(r))
				return nil
			}, name)
			if err != nil {
				return err
			}
		}
		return nil
	})
	return heads, err
}

// Recorded reports whether a commit is the head of a watch, or was one within the history that is kept.
func (s *Store) Recorded(ctx context.Context, w sentry.Watch, commit string) (bool, error) {
	var found bool
	err := s.read(ctx, func(c *conn) (err error) {
		found, err = c.one(`SELECT 1 FROM heads WHERE repository = ?1 AND branch = ?2 AND commit_id = ?3
			UNION ALL SELECT 1 FROM changes WHERE repository = ?1 AND branch = ?2 AND (to_commit = ?3 OR from_commit = ?3)
			LIMIT 1`, func(row) error { return nil }, w.Repository, w.Branch, commit)
		return err
	})
	return found && commit != "", err
}

const headColumns = `repository, branch, commit_id, author, subject, time, generation, deleted, recorded_at`

func scanHead(r row) sentry.Head {
	return sentry.Head{
		Watch:      sentry.Watch{Repository: r.text(0), Branch: r.text(1)},
		Revision:   sentry.Revision{Commit: r.text(2), Author: r.text(3), Subject: r.text(4), Time: r.time(5)},
		Generation: r.int(6), Deleted: r.bool(7), RecordedAt: r.time(8),
	}
}

// Observation is what a branch pointed at when it was asked, and what to do if that is new.
type Observation struct {
	Watch     sentry.Watch
	Revision  sentry.Revision // Commit "" tells that the branch is gone
	Group     string          // the group that a move rolls out
	Queue     sentry.Queue
	Deploy    bool   // also roll out the first sight of the branch
	Rewritten bool   // the commit was a head of the watch before
	Why       string // what made the monitor believe it, for the ledger; may be empty
}

// The kinds of outcome of an observation.
const (
	Baseline = "baseline" // the first sight of a branch
	Moved    = "moved"    // another commit
	Gone     = "gone"     // the branch was deleted
	Back     = "back"     // a deleted branch is there again, at the commit that it had
	Same     = "same"     // nothing new; nothing was written
)

// Outcome is what an observation came to.
type Outcome struct {
	Watch   sentry.Watch
	Kind    string
	Change  *sentry.Change // of a move, and of a first sight that is rolled out; else nil
	Rollout string         // that answers the change; "" without one
	Joined  bool           // Rollout was waiting before
}

// RecordChanges compares observations with the heads, and records what is new in one transaction: heads, generations,
// changes, the rollouts that answer them, the ledger. The outcomes are in the order of the observations.
//
// A crash before it returns: all of it happened or nothing; whoever observes the same again gets outcomes for what is
// left, so that no change is counted twice and none is lost.
//
// Errors: ErrInvalid for an observation without watch or group, ErrFenced, ErrDiskFull, ErrPoisoned.
func (s *Store) RecordChanges(ctx context.Context, observations []Observation) ([]Outcome, error) {
	outcomes := make([]Outcome, len(observations))
	err := s.write(ctx, func(t *tx) error {
		q := queue{tx: t}
		for i, o := range observations {
			var err error
			if outcomes[i], err = t.record(o, &q); err != nil {
				return fmt.Errorf("cannot record %s: %w", o.Watch, err)
			}
		}
		return q.finish()
	})
	if err != nil {
		return nil, err
	}
	return outcomes, nil
}

// record handles one observation.
func (t *tx) record(o Observation, q *queue) (Outcome, error) {
	out := Outcome{Watch: o.Watch, Kind: Same}
	if o.Watch.Repository == "" || o.Watch.Branch == "" || o.Group == "" {
		return out, fmt.Errorf("%w: an observation needs a watch and a group", ErrInvalid)
	}
	var head struct {
		commit     string
		generation int64
		deleted    bool
	}
	known, err := t.one(`SELECT commit_id, generation, deleted FROM heads WHERE repository = ? AND branch = ?`, func(r row) error {
		head.commit, head.generation, head.deleted = r.text(0), r.int(1), r.bool(2)
		return nil
	}, o.Watch.Repository, o.Watch.Branch)
	if err != nil {
		return out, err
	}
	switch {
	case !known && o.Revision.Commit == "":
		return out, nil
	case !known:
		out.Kind = Baseline
	case o.Revision.Commit == "" && head.deleted, o.Revision.Commit == head.commit && !head.deleted:
		return out, nil
	case o.Revision.Commit == "":
		out.Kind = Gone
		return out, t.setDeleted(o, head.commit, true)
	case o.Revision.Commit == head.commit:
		out.Kind = Back
		return out, t.setDeleted(o, head.commit, false)
	default:
		out.Kind = Moved
	}

	r := o.Revision
	err = t.exec(`INSERT INTO heads (repository, branch, generation, commit_id, author, subject, time, deleted, recorded_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?)
		ON CONFLICT DO UPDATE SET generation = excluded.generation, commit_id = excluded.commit_id, author = excluded.author,
			subject = excluded.subject, time = excluded.time, deleted = 0, recorded_at = excluded.recorded_at`,
		o.Watch.Repository, o.Watch.Branch, head.generation+1, r.Commit, r.Author, r.Subject, r.Time, t.now)
	if err != nil {
		return out, err
	}
	if !known {
		if err := t.decide(baseline(o)); err != nil || !o.Deploy {
			return out, err
		}
	}
	out.Change = &sentry.Change{
		Watch: o.Watch, Generation: head.generation + 1, From: head.commit, To: r.Commit,
		Author: r.Author, Subject: r.Subject, Time: asKept(r.Time), Rewritten: o.Rewritten, RecordedAt: asKept(t.now),
	}
	rollout, err := q.add(*out.Change, o.Group, o.Queue, o.Why)
	if err != nil {
		return out, err
	}
	out.Rollout, out.Joined = rollout.id, rollout.waited
	return out, nil
}

// baseline is the entry of the ledger for the first sight of a branch.
func baseline(o Observation) sentry.Decision {
	reason := "first seen: a baseline, not rolled out"
	if o.Deploy {
		reason = "first seen, and rolled out because of on_first_seen: deploy"
	}
	if o.Why != "" {
		reason += "; " + o.Why
	}
	return sentry.Decision{Verb: sentry.Recorded, Group: o.Group, Repository: o.Watch.Repository, Branch: o.Watch.Branch, Commit: o.Revision.Commit, Reason: reason}
}

// setDeleted records that a branch is gone, or back at the commit that it had. Neither is a change.
func (t *tx) setDeleted(o Observation, commit string, deleted bool) error {
	err := t.exec(`UPDATE heads SET deleted = ?, recorded_at = ? WHERE repository = ? AND branch = ?`,
		deleted, t.now, o.Watch.Repository, o.Watch.Branch)
	if err != nil {
		return err
	}
	reason := "the branch is gone; its last commit was " + sentry.ShortCommit(commit)
	if !deleted {
		reason = "the branch is back at the commit that it had: nothing to roll out"
	}
	if o.Why != "" {
		reason += "; " + o.Why
	}
	return t.decide(sentry.Decision{Verb: sentry.Recorded, Group: o.Group, Repository: o.Watch.Repository, Branch: o.Watch.Branch, Commit: commit, Reason: reason})
}
