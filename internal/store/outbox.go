package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"sentry/internal/sentry"
)

// The topics of the outbox.
const (
	TopicStarted  = "rollout.started"   // once for a rollout, whatever interrupts it
	TopicPinned   = "deployment.pinned" // an attempt has the commit of its QA repository
	TopicFinished = "rollout.finished"
)

// Message is something to tell: written in the transaction that makes it true, and kept until Expand has turned it into
// what that means.
type Message struct {
	ID         int64 // grows with every message
	Topic      string
	Key        string          // what it is about: the group
	Payload    json.RawMessage // an Event
	RecordedAt time.Time
}

// Event is the payload of a message about a rollout. What else there is to say is read from the rollout.
type Event struct {
	Rollout string         `json:"rollout"`
	Group   string         `json:"group"`
	Status  sentry.Status  `json:"status"`
	Reason  string         `json:"reason"`
	Attempt int            `json:"attempt"`
	Watch   *sentry.Watch  `json:"watch,omitempty"`  // of TopicPinned: whose deployment
	Source  *sentry.Source `json:"source,omitempty"` // of TopicPinned
}

// post writes a message about a rollout in the transaction that makes it true.
func (t *tx) post(topic string, v *rolloutRow, status sentry.Status, reason string) error {
	return t.postEvent(topic, Event{Rollout: v.ID, Group: v.Group, Status: status, Reason: reason, Attempt: max(v.Attempt, 1)})
}

func (t *tx) postEvent(topic string, e Event) error {
	payload, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return t.exec(`INSERT INTO outbox (topic, key, payload, recorded_at) VALUES (?, ?, ?, ?)`, topic, e.Group, string(payload), t.now)
}

// Outbox gives the oldest messages that were not expanded, in order.
func (s *Store) Outbox(ctx context.Context, limit int) ([]Message, error) {
	var messages []Message
	err := s.read(ctx, func(c *conn) (err error) {
		messages, err = c.messages(`ORDER BY id LIMIT ?`, limit)
		return err
	})
	return messages, err
}

func (c *conn) messages(clause string, args ...any) (messages []Message, err error) {
	err = c.query(`SELECT id, topic, key, payload, recorded_at FROM outbox `+clause, func(r row) error {
		messages = append(messages, Message{ID: r.int(0), Topic: r.text(1), Key: r.text(2), Payload: json.RawMessage(r.text(3)), RecordedAt: r.time(4)})
		return nil
	}, args...)
	return messages, err
}

// Letter is a message with what is to be delivered because of it, which may be nothing.
type Letter struct {
	Message    int64
	Deliveries []Delivery
}

// Expand puts deliveries in the place of messages, in one transaction: a crash leaves the message or its deliveries, never
// both or none. A message that was expanded before is passed over, and so is a delivery that its rollout has made
// already. Where more wait than the outbox holds, the oldest are given up, which the ledger tells.
//
// It gives how many were given up. Errors: ErrInvalid for a delivery that says nothing or to nobody, ErrFenced,
// ErrDiskFull, ErrPoisoned.
func (s *Store) Expand(ctx context.Context, letters ...Letter) (dropped int, err error) {
	err = s.write(ctx, func(t *tx) error {
		for _, l := range letters {
			if err := t.exec(`DELETE FROM outbox WHERE id = ?`, l.Message); err != nil {
				return err
			}
			if t.Changes() == 0 {
				continue
			}
			for _, d := range l.Deliveries {
				if err := t.insertDelivery(d); err != nil {
					return fmt.Errorf("cannot report on %s: %w", sentry.ShortCommit(d.Commit), err)
				}
			}
		}
		dropped, err = t.dropDeliveries()
		return err
	})
	if err != nil {
		return 0, err
	}
	return dropped, nil
}

// dropMessages takes the oldest messages out where nobody reads them, and says so. Where a pending was delivered, the
// verdict that will not come is given up.
func (t *tx) dropMessages(keep, chunk int) (gone int64, err error) {
	old, err := t.messages(`WHERE id <= (SELECT max(id) FROM outbox) - ? ORDER BY id LIMIT ?`, keep, chunk)
	if err != nil {
		return 0, err
	}
	const reason = "more messages wait than are kept"
	for _, m := range old {
		if err := t.exec(`DELETE FROM outbox WHERE id = ?`, m.ID); err != nil {
			return 0, err
		}
		var e Event
		if m.Topic != TopicFinished || json.Unmarshal(m.Payload, &e) != nil {
			continue
		}
		err := t.exec(`INSERT INTO deliveries (kind, lane, address, repository, target, branch, commit_id, context, state, description, rollout, grp, watched, head, fate, error, next_at, recorded_at, ended_at)
			SELECT kind, lane, address, repository, target, branch, commit_id, context, 'error', '', rollout, grp, watched, head, 'given_up', ?2, 0, ?3, ?3
			FROM deliveries WHERE rollout = ?1 AND state = 'pending' ON CONFLICT DO NOTHING`, e.Rollout, reason, t.now)
		if err == nil { // and a pending that has not left does not leave
			err = t.exec(`UPDATE deliveries SET fate = 'given_up', error = ?, ended_at = ? WHERE rollout = ? AND fate = 'waiting'`, reason, t.now, e.Rollout)
		}
		if err == nil {
			err = t.decide(sentry.Decision{Verb: sentry.Unreported, Group: e.Group, Rollout: e.Rollout, Reason: "how it ended is told nobody: " + reason})
		}
		if err != nil {
			return 0, err
		}
	}
	return int64(len(old)), nil
}
