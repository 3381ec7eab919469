package daemon

import (
	"context"
	"fmt"
	"time"

	"sentry/internal/config"
	"sentry/internal/logger"
	"sentry/internal/sentry"
	"sentry/internal/server"
)

// Reload reads the configuration again. All of it is checked first; only a whole valid one replaces the present one,
// in one step. What runs keeps what it started with.
func (d *Daemon) Reload(_ context.Context) error {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	old := d.config.Load()
	next, warnings, err := d.o.Load()
	if err == nil {
		err = needsRestart(old, next)
	}
	openNext := func() {}
	if err == nil {
		openNext, err = d.nextDoor(next)
	}
	result := &server.Reload{At: time.Now(), OK: err == nil}
	if err != nil {
		result.Message = err.Error()
		d.lastReload.Store(result)
		d.log.Error("the configuration was not changed: the new one cannot be used", logger.KeyError, err)
		d.decide(sentry.Decision{Verb: sentry.Refused, Reason: "the new configuration cannot be used, the old one stays: " + err.Error()})
		return err
	}
	for _, w := range warnings {
		d.log.Warn("configuration", "problem", w.String())
	}
	d.o.Mask.Add(next.Secrets()...)
	d.take(next)
	openNext()
	d.network.Update(hosts(next))
	d.cluster.update(next.Kubernetes)
	d.asker.update(next)
	d.monitor.Update(next)
	d.prepareSources(next)
	if d.o.Level != nil {
		if level, err := logger.ParseLevel(next.Global.LogLevel); err == nil {
			d.o.Level.Set(level)
		}
	}
	if d.o.Format != nil {
		d.o.Format.Set(next.Global.LogFormat)
	}
	d.deploy.Wake()
	d.reports.Wake()
	d.lastReload.Store(result)
	d.log.Info("configuration reloaded", "repositories", len(next.Repositories), "groups", len(next.Groups))
	d.decide(sentry.Decision{Verb: sentry.Reloaded, Reason: fmt.Sprintf("%d repositories in %d groups", len(next.Repositories), len(next.Groups))})
	return nil
}

// needsRestart refuses changes of what a running daemon cannot move.
func needsRestart(old, next *config.Config) error {
	switch {
	case old.Global.StateDir != next.Global.StateDir:
		return fmt.Errorf("global.state_dir changed from %s to %s: that needs a restart", old.Global.StateDir, next.Global.StateDir)
	case old.Global.TmpDir != next.Global.TmpDir:
		return fmt.Errorf("global.tmp_dir changed from %s to %s: that needs a restart", old.Global.TmpDir, next.Global.TmpDir)
	}
	return nil
}

// watchConfig reloads when the file changes.
func (d *Daemon) watchConfig(ctx context.Context) {
	config.Watch(ctx, d.config.Load(), func() {
		_ = d.Reload(ctx) // it has told what is wrong
	})
}

// decide writes to the ledger what is not worth failing for.
func (d *Daemon) decide(decision sentry.Decision) {
	if err := d.store.Decide(context.Background(), decision); err != nil {
		d.log.Error("cannot write to the ledger", logger.KeyError, err)
	}
}
