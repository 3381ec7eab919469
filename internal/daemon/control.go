package daemon

import (
	"context"
	"fmt"
	"os"

	"sentry/internal/monitor"
	"sentry/internal/sentry"
	"sentry/internal/server"
	"sentry/internal/store"
)

// The methods of server.Control: what the API may make a running daemon do.

// Trigger queues rollouts that somebody asked for, or joins those that wait.
func (d *Daemon) Trigger(ctx context.Context, requests ...store.Request) ([]server.Queued, error) {
	defer d.deploy.Wake()
	var out []server.Queued
	for _, r := range requests {
		id, joined, err := d.store.Request(ctx, r)
		if err != nil {
			return out, fmt.Errorf("cannot queue a rollout of group %s: %w", r.Group, err)
		}
		out = append(out, server.Queued{ID: id, Group: r.Group, Joined: joined})
	}
	return out, nil
}

// Refuse writes into the ledger that something asked for was not done.
func (d *Daemon) Refuse(ctx context.Context, decision sentry.Decision) error {
	return d.store.Decide(ctx, decision)
}

// Cancel cancels a rollout that waits or runs.
func (d *Daemon) Cancel(ctx context.Context, id, by, reason string) (sentry.Status, error) {
	return d.deploy.Cancel(ctx, id, by, reason)
}

// Pause keeps a group from beginning rollouts.
func (d *Daemon) Pause(ctx context.Context, group, by, reason string) error {
	return d.store.Pause(ctx, group, by, reason)
}

// Resume lets a group begin rollouts again.
func (d *Daemon) Resume(ctx context.Context, group, by string) error {
	err := d.store.Resume(ctx, group, by)
	d.deploy.Wake()
	return err
}

// Watches tells how each watch stands.
func (d *Daemon) Watches() []monitor.WatchState { return d.monitor.Watches() }

// Hosts tells how each host answers.
func (d *Daemon) Hosts() []monitor.HostState { return d.monitor.Hosts() }

// Info tells about the process; nil in the foreground, where nothing goes on running.
func (d *Daemon) Info() *server.Daemon {
	if d.socket == nil {
		return nil
	}
	cfg := d.config.Load()
	return &server.Daemon{
		PID: os.Getpid(), Version: d.o.Version, Since: d.since, Config: cfg.File, StateDir: cfg.Global.StateDir, Listen: d.Addr(),
		Draining: d.draining.Load(), Reload: d.lastReload.Load(),
	}
}
