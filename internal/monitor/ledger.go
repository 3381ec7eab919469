package monitor

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"sentry/internal/logger"
	"sentry/internal/sentry"
)

const (
	// maxDecisions bounds what waits to be kept while the store does not take it. More is counted, and lost.
	maxDecisions = 10_000
	// ledgerRetry is how long the ledger is left alone after it did not take what was decided.
	ledgerRetry = 5 * time.Second
	// ledgerFarewell is how long the last decisions may take when the monitor ends.
	ledgerFarewell = 5 * time.Second
)

// say hands decisions to the ledger. The caller holds m.mu.
func (m *Monitor) say(decisions ...sentry.Decision) {
	for _, d := range decisions {
		if len(m.decisions) >= maxDecisions {
			m.lost++
			continue
		}
		d.At = time.Now()
		m.decisions = append(m.decisions, d)
	}
	if len(decisions) > 0 {
		nudge(m.told)
	}
}

// sayFails tells that a repository no longer answers as it did; known tells that the log was warned of the cause. What
// cannot be recorded is not told to the ledger, which is kept in the same place.
func (m *Monitor) sayFails(r *repository, known bool) {
	log := m.options.Log.With(logger.KeyRepository, r.config.Name, "kind", string(r.trouble.kind), logger.KeyError, r.trouble.reason)
	if r.trouble.kind == unrecorded {
		log.Error("what moved was not recorded: it will be found again")
		return
	}
	level := slog.LevelWarn
	if known {
		level = slog.LevelDebug
	}
	log.Log(context.Background(), level, "a repository does not answer")
	m.say(sentry.Decision{
		Verb: sentry.Answering, Group: r.group.Name, Repository: r.config.Name,
		Reason: fmt.Sprintf("failing (%s): %s", r.trouble.kind, r.trouble.reason),
	})
}

// sayAnswers tells that a repository answers again.
func (m *Monitor) sayAnswers(r *repository, now time.Duration) {
	if r.trouble.kind == unrecorded {
		m.options.Log.Info("what moves is recorded again", logger.KeyRepository, r.config.Name)
		return
	}
	m.options.Log.Info("a repository answers again", logger.KeyRepository, r.config.Name)
	m.say(sentry.Decision{
		Verb: sentry.Answering, Group: r.group.Name, Repository: r.config.Name,
		Reason: fmt.Sprintf("answers again, after %v in which %s", (now - r.failing).Round(time.Second), failed(r.failures)),
	})
}

func failed(questions int32) string {
	if questions == 1 {
		return "a question failed"
	}
	return fmt.Sprintf("%d questions failed", questions)
}

// sayLane tells what became of a lane. People know it by its host.
func (m *Monitor) sayLane(l *lane, level slog.Level, text string) {
	m.options.Log.Log(context.Background(), level, "a host is "+text, "host", l.key)
	m.say(sentry.Decision{Verb: sentry.Answering, Reason: l.key + ": " + text})
}

// keepLedger writes what is decided into the ledger until ended is closed, and then what is left. Decisions that come
// together share a transaction. Those that a crash finds unwritten are lost: they tell of answers, not of work.
func (m *Monitor) keepLedger(ctx context.Context, ended <-chan struct{}) {
	for {
		select {
		case <-m.told:
			if m.keep(ctx) {
				continue
			}
			select {
			case <-time.After(ledgerRetry):
				nudge(m.told)
			case <-ended:
			}
		case <-ended:
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), ledgerFarewell)
			m.keep(last)
			cancel()
			return
		}
	}
}

// keep writes what was decided so far, and reports whether the store took it.
func (m *Monitor) keep(ctx context.Context) bool {
	m.mu.Lock()
	batch, lost := m.decisions, m.lost
	m.decisions, m.lost = nil, 0
	m.mu.Unlock()
	if lost > 0 {
		batch = append(batch, sentry.Decision{At: time.Now(), Verb: sentry.Answering, Reason: fmt.Sprintf("%d decisions of the monitor were lost, as they could not be kept", lost)})
	}
	if len(batch) == 0 {
		return true
	}
	err := m.options.Store.Decide(ctx, batch...)
	if err == nil {
		return true
	}
	if ctx.Err() == nil {
		m.options.Log.Error("cannot keep what was decided", logger.KeyError, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	room := max(0, maxDecisions-len(m.decisions))
	m.lost += max(0, len(batch)-room)
	m.decisions = append(batch[:min(room, len(batch)):len(batch)], m.decisions...)
	return false
}
