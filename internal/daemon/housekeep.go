package daemon

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"sentry/internal/git"
	"sentry/internal/logger"
	"sentry/internal/store"
)

// housekeep keeps history within its bounds, now and every hour.
func (d *Daemon) housekeep(ctx context.Context) {
	ticker := time.NewTicker(time.Hour)
	defer ticker.Stop()
	for {
		d.prune(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (d *Daemon) prune(ctx context.Context) {
	h := d.config.Load().Global.History
	removed, err := d.store.Prune(ctx, store.Retention{RolloutsPerGroup: h.RolloutsPerGroup, LedgerEntries: h.LedgerEntries})
	if err != nil && ctx.Err() == nil {
		d.log.Error("cannot prune the history", logger.KeyError, err)
	}
	for _, id := range removed {
		d.removeLogs(id)
	}
	if h.LogDays <= 0 {
		return
	}
	oldest := time.Now().Add(-time.Duration(h.LogDays) * 24 * time.Hour)
	entries, err := os.ReadDir(d.logsDir)
	if err != nil {
		return // nothing was logged yet
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.ModTime().Before(oldest) && ctx.Err() == nil {
			d.removeLogs(e.Name())
		}
	}
}

func (d *Daemon) removeLogs(rollout string) {
	if err := git.RemoveTree(filepath.Join(d.logsDir, rollout)); err != nil {
		d.log.Warn("cannot remove old logs", logger.KeyRollout, rollout, logger.KeyError, err)
	}
}
