package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"sentry/internal/sentry"
)

// events streams what changes. It sends states, not differences: whoever loses the connection asks again and has missed
// nothing that still holds.
func (h *handler) events(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	changed, unsubscribe := h.Store.Subscribe()
	defer unsubscribe()
	seen, err := h.unended(r.Context(), nil)
	if err != nil {
		return err
	}
	out := newStream(w, "text/event-stream; charset=utf-8")
	for _, e := range seen {
		if err := e.send(out); err != nil {
			return nil //nolint:nilerror // the listener went away
		}
	}
	if _, err := io.WriteString(out, ": listening\n\n"); err != nil {
		return nil //nolint:nilerror // as above
	}
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	for {
		select {
		case <-r.Context().Done():
			return nil
		case <-alive.C:
			_, err = io.WriteString(out, ": alive\n\n")
		case <-changed:
			begun := time.Now()
			if seen, err = h.sendChanges(r.Context(), out, seen); err == nil {
				time.Sleep(max(calm, time.Since(begun))) // a listener takes at most half of a processor
			}
		}
		if err != nil {
			return nil //nolint:nilerror // the listener went away, or the state did: it asks again either way
		}
	}
}

// calm is the least time between two looks at the state on behalf of one listener.
const calm = 20 * time.Millisecond

// event is a rollout as it was last sent.
type event struct {
	rollout sentry.Rollout
	text    string
}

func (e event) send(out io.Writer) error {
	_, err := fmt.Fprintf(out, "event: rollout\ndata: %s\n\n", e.text)
	return err
}

// unended reads the rollouts that wait or run, and again those of before, which may have ended since.
func (h *handler) unended(ctx context.Context, before map[string]event) (map[string]event, error) {
	list, err := h.active(ctx)
	if err != nil {
		return nil, err
	}
	now := make(map[string]event, len(list))
	for _, r := range list {
		now[r.ID] = event{rollout: r}
	}
	for id, e := range before {
		if _, still := now[id]; still || e.rollout.Status.Terminal() {
			continue
		}
		r, err := h.Store.Rollout(ctx, id)
		if err != nil {
			return nil, err
		}
		now[id] = event{rollout: r}
	}
	for id, e := range now {
		full, err := h.Store.Rollout(ctx, id) // with its steps: they are what moves most
		if err != nil {
			return nil, err
		}
		text, err := json.Marshal(full)
		if err != nil {
			return nil, err
		}
		e.rollout, e.text = full, string(text)
		now[id] = e
	}
	return now, nil
}

// sendChanges sends what differs from seen, or that something else changed, and gives what is seen now.
func (h *handler) sendChanges(ctx context.Context, out io.Writer, seen map[string]event) (map[string]event, error) {
	now, err := h.unended(ctx, seen)
	if err != nil {
		return nil, err
	}
	sent := false
	for id, e := range now {
		if e.text == seen[id].text {
			continue
		}
		sent = true
		if err := e.send(out); err != nil {
			return nil, err
		}
	}
	if !sent {
		_, err = io.WriteString(out, "event: change\ndata: {}\n\n")
	}
	return now, err
}

// stream writes an answer piece by piece: each piece leaves at once, the header too, and has a deadline of its own.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func newStream(w http.ResponseWriter, contentType string) *stream {
	s := &stream{w, http.NewResponseController(w)}
	_ = s.control.SetReadDeadline(time.Time{}) // only the listener's going away ends it
	_ = s.control.SetWriteDeadline(time.Now().Add(answerTimeout))
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusOK)
	_ = s.control.Flush()
	return s
}

func (s *stream) Write(p []byte) (int, error) {
	_ = s.control.SetWriteDeadline(time.Now().Add(answerTimeout)) // not everything that carries answers has deadlines
	n, err := s.w.Write(p)
	if err == nil {
		err = s.control.Flush()
	}
	return n, err
}
