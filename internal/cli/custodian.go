package cli

import (
	"context"
	"fmt"
	"net/http"

	"sentry/internal/forge"
	"sentry/internal/monitor"
	"sentry/internal/sentry"
	"sentry/internal/server"
	"sentry/internal/store"
)

// nobody answers for a daemon where none runs: it carries nothing out and knows nothing.
type nobody struct{}

// Trigger would leave a rollout waiting for ever: there is nobody who carries it out.
func (nobody) Trigger(context.Context, ...store.Request) ([]server.Queued, error) {
	return nil, errNoDaemon("carry it out")
}

// Cancel needs somebody to be asked.
func (nobody) Cancel(context.Context, string, string, string) (sentry.Status, error) {
	return "", errNoDaemon("cancel it")
}

// Pause needs somebody to write it down.
func (nobody) Pause(context.Context, string, string, string) error { return errNoDaemon("pause it") }

// Resume needs somebody to write it down.
func (nobody) Resume(context.Context, string, string) error { return errNoDaemon("resume it") }

// Refuse needs somebody to write it down.
func (nobody) Refuse(context.Context, sentry.Decision) error { return errNoDaemon("write it down") }

// Reload has nothing to reload.
func (nobody) Reload(context.Context) error { return errNoDaemon("read it") }

// Hint reaches nobody.
func (nobody) Hint(string) {}

// Watches are not known: nobody asks.
func (nobody) Watches() []monitor.WatchState { return nil }

// Hosts are not known: nobody asks.
func (nobody) Hosts() []monitor.HostState { return nil }

// Budgets are not known: nobody asks.
func (nobody) Budgets() []forge.BudgetState { return nil }

// Explain has nothing to tell: nobody asks.
func (nobody) Explain(string) string { return "" }

// Info is nil: this is no daemon.
func (nobody) Info() *server.Daemon { return nil }

// custodian is the owner of a state directory for the moment of one command, where no daemon runs: it can change what
// is written down, but carries nothing out.
type custodian struct {
	nobody
	store *store.Store
}

// Cancel ends what waits, and writes down that what was running is not to begin again.
func (c custodian) Cancel(ctx context.Context, id, by, reason string) (sentry.Status, error) {
	return c.store.Cancel(ctx, id, by, reason)
}

// Pause writes it down.
func (c custodian) Pause(ctx context.Context, group, by, reason string) error {
	return c.store.Pause(ctx, group, by, reason)
}

// Resume writes it down.
func (c custodian) Resume(ctx context.Context, group, by string) error {
	return c.store.Resume(ctx, group, by)
}

// Refuse writes into the ledger that something asked for was not done.
func (c custodian) Refuse(ctx context.Context, d sentry.Decision) error {
	return c.store.Decide(ctx, d)
}

func errNoDaemon(what string) error {
	return &server.Error{Status: http.StatusServiceUnavailable, Code: "no_daemon", Message: "no daemon is running that could " + what, Hint: "start one with `sentry watch`"}
}

// noState is what there is before anything has happened.
type noState struct{}

// Heads gives none.
func (noState) Heads(context.Context) ([]sentry.Head, error) { return nil, nil }

// HeadsOf gives none.
func (noState) HeadsOf(context.Context, ...string) ([]sentry.Head, error) { return nil, nil }

// Rollout finds none.
func (noState) Rollout(_ context.Context, id string) (sentry.Rollout, error) {
	return sentry.Rollout{}, fmt.Errorf("rollout %q: %w: nothing has been rolled out yet", id, store.ErrNotFound)
}

// Rollouts gives none.
func (noState) Rollouts(context.Context, store.Filter) ([]sentry.Rollout, error) { return nil, nil }

// Latest gives none.
func (noState) Latest(context.Context, ...string) (map[string]sentry.Rollout, error) { return nil, nil }

// Reports gives none.
func (noState) Reports(context.Context, string) ([]sentry.Report, error) { return nil, nil }

// Why gives nothing.
func (noState) Why(context.Context, store.WhyFilter) ([]sentry.Decision, error) { return nil, nil }

// Paused gives none.
func (noState) Paused(context.Context) (map[string]store.Pause, error) { return nil, nil }

// Subscribe never tells anything.
func (noState) Subscribe() (<-chan struct{}, func()) { return nil, func() {} }
