package daemon

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"sentry/internal/git"
	"sentry/internal/logger"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

const (
	// settleIn is for what a start is about: to watch again, and to go on with what was left. Tidying up can wait so long.
	settleIn    = 10 * time.Second
	tidiedEvery = time.Hour
	// mirrorsKept is for how long a QA repository may be out of the configuration without being fetched anew when it is back.
	mirrorsKept = 7 * 24 * time.Hour
)

// housekeep keeps history within its bounds, soon after the start and every hour.
func (d *Daemon) housekeep(ctx context.Context) {
	timer := time.NewTimer(settleIn)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		d.prune(ctx)
		d.retireMirrors()
		settleHeap()
		timer.Reset(tidiedEvery)
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

// retireMirrors removes what was fetched of QA repositories that nobody has used for a while.
func (d *Daemon) retireMirrors() {
	var configured []sentry.Remote
	cfg := d.config.Load()
	for i := range cfg.Repositories {
		configured = append(configured, cfg.Repositories[i].Deploy.Remote)
	}
	if err := d.sources.Retire(configured, mirrorsKept); err != nil {
		d.log.Warn("cannot remove all mirrors that nobody uses", logger.KeyError, err)
	}
}

func (d *Daemon) removeLogs(rollout string) {
	if err := git.RemoveTree(filepath.Join(d.logsDir, rollout)); err != nil {
		d.log.Warn("cannot remove old logs", logger.KeyRollout, rollout, logger.KeyError, err)
	}
}
