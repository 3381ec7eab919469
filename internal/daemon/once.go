package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"sentry/internal/logger"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// Interrupted gives the rollouts of the daemon's groups that a dead owner left running: they go on before anything else.
func (d *Daemon) Interrupted(ctx context.Context) ([]string, error) {
	left, err := d.store.Left(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, r := range left {
		if slices.Contains(d.o.Groups, r.Group) {
			ids = append(ids, r.ID)
		}
	}
	return ids, nil
}

// RolloutOnce does the work of `trigger` where no daemon runs: it asks the repositories of the groups for their heads,
// queues the rollouts and carries them out. begun is called with their identifiers before anything runs. When ctx ends
// they are canceled in the name of by. The Daemon must have been made with Options.Groups.
func (d *Daemon) RolloutOnce(ctx context.Context, requests []store.Request, by string, begun func(ids []string)) ([]sentry.Rollout, error) {
	cfg := d.config.Load()
	var members []string
	for _, r := range requests {
		for _, m := range cfg.Members(r.Group) {
			members = append(members, m.Name)
		}
	}
	if err := d.monitor.Once(ctx, cfg, members...); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		// What is recorded can still be rolled out; what is not fails with its own reason.
		d.log.Warn("not every repository answered", logger.KeyError, err)
	}
	var ids []string
	for _, r := range requests {
		id, _, err := d.store.Request(ctx, r)
		if err != nil {
			return nil, fmt.Errorf("cannot queue a rollout of group %s: %w", r.Group, err)
		}
		ids = append(ids, id)
	}
	begun(ids)

	changed, unsubscribe := d.store.Subscribe()
	defer unsubscribe()
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer d.reportMeanwhile()()
	failed := make(chan error, 1)
	go func() { failed <- d.deploy.Run(working) }()

	asked := ctx.Done()
	for {
		rollouts, err := d.ended(working, ids)
		if err != nil || rollouts != nil {
			stop()
			return rollouts, errors.Join(err, <-failed)
		}
		select {
		case <-changed:
		case err := <-failed:
			return nil, err
		case <-asked:
			asked = nil
			for _, id := range ids {
				if _, err := d.deploy.Cancel(working, id, by, ""); err != nil && !errors.Is(err, store.ErrFinal) {
					d.log.Error("cannot cancel", logger.KeyRollout, id, logger.KeyError, err)
				}
			}
		}
	}
}

// ended gives the rollouts when all of them have ended, and nil before.
func (d *Daemon) ended(ctx context.Context, ids []string) ([]sentry.Rollout, error) {
	var out []sentry.Rollout
	for _, id := range ids {
		r, err := d.store.Rollout(ctx, id)
		if err != nil {
			return nil, err
		}
		if !r.Status.Terminal() {
			return nil, nil
		}
		out = append(out, r)
	}
	return out, nil
}
