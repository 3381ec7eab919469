package store

import (
	"context"
	"fmt"
	"slices"

	"sentry/internal/sentry"
)

// Request is what a person asks for.
type Request struct {
	Group        string
	By           string // the person
	RetryOf      string // the rollout that is tried again, for TriggerRetry
	Whole        bool   // every member of the group
	Repositories []string
	Watches      []sentry.Watch
	Kind         sentry.TriggerKind // TriggerPerson where empty
}

// Request queues what a person asks for. It joins the newest pending rollout of the group, whatever that waits for, and
// hurries it; where none waits it makes one. joined tells which.
//
// Errors: ErrInvalid without a group, ErrFenced, ErrDiskFull, ErrPoisoned.
func (s *Store) Request(ctx context.Context, r Request) (id string, joined bool, err error) {
	if r.Kind == "" {
		r.Kind = sentry.TriggerPerson
	}
	if r.Group == "" {
		return "", false, fmt.Errorf("%w: a request needs a group", ErrInvalid)
	}
	err = s.write(ctx, func(t *tx) error {
		waits, err := t.newestPending(r.Group)
		if err != nil {
			return err
		}
		if joined = waits != nil; joined {
			id = waits.id
			return t.join(waits, r)
		}
		made, err := t.newRollout(r.Group, r.trigger(), true)
		if err != nil {
			return err
		}
		id = made.id
		return t.decide(sentry.Decision{Verb: sentry.Queued, Group: r.Group, Rollout: id, Reason: r.trigger().Summary() + ": a rollout waits for its turn"})
	})
	if err != nil {
		return "", false, err
	}
	return id, joined, nil
}

func (r Request) trigger() sentry.Trigger {
	return sentry.Trigger{Kind: r.Kind, By: r.By, RetryOf: r.RetryOf, Whole: r.Whole, Repositories: r.Repositories, Watches: r.Watches}
}

// join adds a request to a rollout that waits. What it was for before stays.
func (t *tx) join(p *place, r Request) error {
	found, err := t.rollouts(`WHERE sequence = ?`, p.sequence)
	if err != nil || len(found) != 1 {
		return fmt.Errorf("rollout %s: %w: %w", p.id, ErrNotFound, err)
	}
	why := found[0].Trigger
	why.Repositories = union(why.Repositories, r.Repositories)
	why.Watches = union(why.Watches, r.Watches)
	if why.By == "" {
		why.By = r.By
	}
	if why.RetryOf == "" {
		why.RetryOf = r.RetryOf
	}
	repositories, err := text(why.Repositories)
	if err != nil {
		return err
	}
	watches, err := text(why.Watches)
	if err != nil {
		return err
	}
	err = t.exec(`UPDATE rollouts SET asked_by = ?, retry_of = ?, whole = ?, repositories = ?, watches = ?, urgent = 1, version = version + 1 WHERE sequence = ?`,
		why.By, why.RetryOf, why.Whole || r.Whole, repositories, watches, p.sequence)
	if err != nil {
		return err
	}
	return t.decide(sentry.Decision{Verb: sentry.Coalesced, Group: r.Group, Rollout: p.id, Reason: r.trigger().Summary() + ": joined the rollout that waits"})
}

// union gives a and what of b is not in a, in that order.
func union[T comparable](a, b []T) []T {
	for _, v := range b {
		if !slices.Contains(a, v) {
			a = append(a, v)
		}
	}
	return a
}
