package daemon

import (
	"context"
	"log/slog"
	"time"

	"sentry/internal/logger"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

const (
	// warmEvery is how often it is read which rollouts are running, at most.
	warmEvery = time.Second
	// maxWarm is how many of them are read, newest first: no more repositories than a few are hot at a time.
	maxWarm = 100
)

// rollouts is what keepWarm needs of the store.
type rollouts interface {
	Subscribe() (<-chan struct{}, func())
	Rollouts(ctx context.Context, f store.Filter) ([]sentry.Rollout, error)
}

// keepWarm tells of which groups a rollout is running, whenever that may have changed, until ctx ends: where something is
// being rolled out more will soon be pushed.
func keepWarm(ctx context.Context, s rollouts, tell func(groups map[string]bool), log *slog.Logger) {
	changed, stop := s.Subscribe()
	defer stop()
	for ctx.Err() == nil {
		running, err := s.Rollouts(ctx, store.Filter{Status: []sentry.Status{sentry.Running}, Limit: maxWarm})
		if err == nil {
			groups := make(map[string]bool, len(running))
			for i := range running {
				groups[running[i].Group] = true
			}
			tell(groups)
		} else if ctx.Err() == nil {
			log.Warn("cannot read which rollouts are running", logger.KeyError, err)
		}
		select {
		case <-time.After(warmEvery):
		case <-ctx.Done():
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}
