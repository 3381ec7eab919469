package cli

import (
	"context"
	"fmt"
	"net/http"

	"sentry/internal/monitor"
	"sentry/internal/sentry"
	"sentry/internal/server"
	"sentry/internal/store"
)

// custodian is the owner of a state directory for the moment of one command, where no daemon runs: it can change what
// is written down, but carries nothing out.
type custodian struct{ *store.Store }

// Trigger is not for a custodian: without somebody who carries it out, a rollout would wait for ever.
func (custodian) Trigger(context.Context, ...store.Request) ([]server.Queued, error) {
	return nil, errNoDaemon("carry it out")
}

// Refuse writes into the ledger that something asked for was not done.
func (c custodian) Refuse(ctx context.Context, d sentry.Decision) error { return c.Decide(ctx, d) }

// Reload has nothing to reload.
func (custodian) Reload(context.Context) error { return errNoDaemon("read it") }

// Watches are not known: nobody asks.
func (custodian) Watches() []monitor.WatchState { return nil }

// Hosts are not known: nobody asks.
func (custodian) Hosts() []monitor.HostState { return nil }

// Info is nil: this is no daemon.
func (custodian) Info() *server.Daemon { return nil }

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

// Why gives nothing.
func (noState) Why(context.Context, store.WhyFilter) ([]sentry.Decision, error) { return nil, nil }

// Paused gives none.
func (noState) Paused(context.Context) (map[string]store.Pause, error) { return nil, nil }

// Subscribe never tells anything.
func (noState) Subscribe() (<-chan struct{}, func()) { return nil, func() {} }
