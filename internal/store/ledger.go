package store

import (
	"context"
	"slices"
	"strings"

	"sentry/internal/sentry"
)

// Decide appends decisions to the ledger. A decision without a time is of now.
func (s *Store) Decide(ctx context.Context, decisions ...sentry.Decision) error {
	if len(decisions) == 0 {
		return nil
	}
	return s.write(ctx, func(t *tx) error {
		for _, d := range decisions {
			if err := t.decide(d); err != nil {
				return err
			}
		}
		return nil
	})
}

// decide appends one decision within a transaction.
func (t *tx) decide(d sentry.Decision) error {
	if d.At.IsZero() {
		d.At = t.now
	}
	err := t.exec(`INSERT INTO ledger (at, verb, grp, repository, branch, rollout, commit_id, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		d.At, string(d.Verb), d.Group, d.Repository, d.Branch, d.Rollout, d.Commit, d.Reason)
	if err == nil {
		t.newest = t.LastInsertRowID()
	}
	return err
}

// newestEntry is the number of the newest entry that the ledger ever had, also when it was removed since.
func (t *tx) newestEntry() (int64, error) {
	if t.newest >= 0 {
		return t.newest, nil
	}
	newest := int64(0)
	_, err := t.one(`SELECT seq FROM sqlite_sequence WHERE name = 'ledger'`, func(r row) error { newest = r.int(0); return nil })
	if err == nil {
		t.newest = newest
	}
	return newest, err
}

// WhyFilter says what to explain. Empty fields do not limit.
type WhyFilter struct {
	Group      string
	Repository string // decisions about it, and about the rollouts that it is part of
	Rollout    string // any form that Rollout takes
	Limit      int    // how many of the newest; 0 means 200
}

// placed is a decision with its place in the common order of ledger and moves: a move comes after the entry that was the
// newest when it was recorded.
type placed struct {
	entry, move int64
	sentry.Decision
}

// Why gives the newest decisions that f asks for, oldest first, the moves of heads among them.
//
// Errors: ErrNotFound for a rollout that is not there.
func (s *Store) Why(ctx context.Context, f WhyFilter) ([]sentry.Decision, error) {
	if f.Limit <= 0 {
		f.Limit = 200
	}
	var found []placed
	err := s.read(ctx, func(c *conn) error {
		sequence := int64(0)
		if f.Rollout != "" {
			r, err := c.find(f.Rollout)
			if err != nil {
				return err
			}
			f.Rollout, sequence = r.ID, r.sequence
		}
		if err := c.entries(f, &found); err != nil {
			return err
		}
		return c.moves(f, sequence, &found)
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b placed) int {
		if a.entry != b.entry {
			return int(a.entry - b.entry)
		}
		return int(a.move - b.move)
	})
	found = found[max(0, len(found)-f.Limit):]
	decisions := make([]sentry.Decision, len(found))
	for i := range found {
		decisions[i] = found[i].Decision
	}
	return decisions, nil
}

// entries appends the newest entries of the ledger that f asks for.
func (c *conn) entries(f WhyFilter, into *[]placed) error {
	var where conditions
	where.equal("grp", f.Group)
	where.equal("rollout", f.Rollout)
	if f.Repository != "" {
		where.add(`(repository = ? OR repository = '' AND rollout IN (
			SELECT sequence || '-' || suffix FROM rollouts WHERE sequence IN (
				SELECT rollout FROM deployments WHERE repository = ?
				UNION SELECT rollout FROM changes WHERE repository = ? AND rollout IS NOT NULL)))`,
			f.Repository, f.Repository, f.Repository)
	}
	return c.query(`SELECT id, at, verb, grp, repository, branch, rollout, commit_id, reason FROM ledger`+
		where.text()+` ORDER BY id DESC LIMIT ?`, func(r row) error {
		*into = append(*into, placed{entry: r.int(0), Decision: sentry.Decision{
			At: r.time(1), Verb: sentry.Verb(r.text(2)), Group: r.text(3), Repository: r.text(4), Branch: r.text(5),
			Rollout: r.text(6), Commit: r.text(7), Reason: r.text(8),
		}})
		return nil
	}, append(where.args, f.Limit)...)
}

// moves appends the newest moves of heads that f asks for.
func (c *conn) moves(f WhyFilter, rollout int64, into *[]placed) error {
	var where conditions
	where.equal("c.grp", f.Group)
	where.equal("c.repository", f.Repository)
	if rollout != 0 {
		where.add("c.rollout = ?", rollout)
	}
	return c.query(`SELECT c.ledger, c.id, c.recorded_at, c.grp, c.reason, coalesce(r.sequence || '-' || r.suffix, ''), `+changeColumns+`
		FROM changes c LEFT JOIN rollouts r ON r.sequence = c.rollout`+where.text()+` ORDER BY c.id DESC LIMIT ?`, func(r row) error {
		change := scanChange(r, 6)
		*into = append(*into, placed{entry: r.int(0), move: r.int(1), Decision: sentry.Decision{
			At: r.time(2), Verb: sentry.Moved, Group: r.text(3), Repository: change.Repository, Branch: change.Branch,
			Rollout: r.text(5), Commit: change.To, Reason: describeMove(change, r.text(4)),
		}})
		return nil
	}, append(where.args, f.Limit)...)
}

// describeMove says in words what a change is.
func describeMove(c sentry.Change, why string) string {
	var b strings.Builder
	if c.From == "" {
		b.WriteString("first seen at " + sentry.ShortCommit(c.To))
	} else {
		b.WriteString("moved from " + sentry.ShortCommit(c.From) + " to " + sentry.ShortCommit(c.To))
	}
	if c.Rewritten {
		b.WriteString(", a commit that it had before")
	}
	if c.Subject != "" {
		b.WriteString(": " + c.Subject)
		if c.Author != "" {
			b.WriteString(" (" + c.Author + ")")
		}
	}
	if why != "" {
		b.WriteString("; " + why)
	}
	return b.String()
}

// conditions are those of a WHERE, joined by AND, with their parameters.
type conditions struct {
	parts []string
	args  []any
}

func (c *conditions) add(part string, args ...any) {
	c.parts = append(c.parts, part)
	c.args = append(c.args, args...)
}

// equal asks that a column has a value; an empty value asks nothing.
func (c *conditions) equal(column, value string) {
	if value != "" {
		c.add(column+" = ?", value)
	}
}

func (c *conditions) text() string {
	if len(c.parts) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(c.parts, " AND ")
}
