package store

import (
	"context"
	"encoding/json"
	"time"

	"sentry/internal/sentry"
)

// The topics of the outbox.
const (
	topicStarted  = "rollout.started"
	topicFinished = "rollout.finished"
)

// Message is something that has to leave, and is kept until it was delivered or has become too old.
type Message struct {
	ID         int64 // grows with every message
	Topic      string
	Key        string          // messages of one key leave in order: the group
	Payload    json.RawMessage // an Event
	RecordedAt time.Time
}

// Event is the payload of a message about a rollout. What else there is to say is read from the rollout.
type Event struct {
	Rollout string        `json:"rollout"`
	Group   string        `json:"group"`
	Status  sentry.Status `json:"status"`
	Reason  string        `json:"reason"`
	Attempt int           `json:"attempt"`
}

// post writes a message about a rollout in the transaction that makes it true.
func (t *tx) post(topic string, v *rolloutRow, status sentry.Status, reason string) error {
	payload, err := json.Marshal(Event{Rollout: v.ID, Group: v.Group, Status: status, Reason: reason, Attempt: max(v.Attempt, 1)})
	if err != nil {
		return err
	}
	return t.exec(`INSERT INTO outbox (topic, key, payload, recorded_at) VALUES (?, ?, ?, ?)`, topic, v.Group, string(payload), t.now)
}

// Outbox gives the oldest messages that were not delivered, in order.
func (s *Store) Outbox(ctx context.Context, limit int) ([]Message, error) {
	var messages []Message
	err := s.read(ctx, func(c *conn) error {
		return c.query(`SELECT id, topic, key, payload, recorded_at FROM outbox ORDER BY id LIMIT ?`, func(r row) error {
			messages = append(messages, Message{ID: r.int(0), Topic: r.text(1), Key: r.text(2), Payload: json.RawMessage(r.text(3)), RecordedAt: r.time(4)})
			return nil
		}, limit)
	})
	return messages, err
}

// Delivered takes messages out. A crash between delivery and this delivers them again: receivers see at least once.
func (s *Store) Delivered(ctx context.Context, ids ...int64) error {
	return s.write(ctx, func(t *tx) error {
		for _, id := range ids {
			if err := t.exec(`DELETE FROM outbox WHERE id = ?`, id); err != nil {
				return err
			}
		}
		return nil
	})
}
