package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"

	"github.com/spf13/cobra"

	"sentry/internal/config"
	"sentry/internal/daemon"
	"sentry/internal/logger"
	"sentry/internal/store"
)

func newWatch(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "watch",
		Short: "Watch and roll out until told to stop: the daemon",
		Long: `Watch the branches and roll out groups whose branches moved, until told to stop: this is the daemon. It logs to
standard error.

SIGHUP, or a change of the file, reads the configuration again; a wrong one changes nothing and is reported. SIGTERM or an
interrupt lets what runs end within the grace period, and interrupts the rest; a second one ends at once.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.watch(cmd.Context()) },
	}
}

func (a *app) watch(ctx context.Context) error {
	// From here on a signal is a wish to reload; before, it would end the process.
	reloads := make(chan os.Signal, 1)
	notifyReload(reloads)
	defer signal.Stop(reloads)
	cfg, warnings, err := config.Load(a.flags.config, a.configOptions(false))
	if err != nil {
		return a.noConfig(err)
	}
	level := new(slog.LevelVar)
	var follow *slog.LevelVar // the level of the configuration counts, now and after a reload
	if set, ok := a.logLevel(); ok {
		level.Set(set)
	} else {
		follow = level
		configured, err := logger.ParseLevel(cfg.Global.LogLevel)
		if err != nil {
			return err
		}
		level.Set(configured)
	}
	mask := logger.NewMasker(cfg.Secrets()...)
	format := new(logger.Format)
	format.Set(cfg.Global.LogFormat)
	log := logger.NewFollowing(a.err.Writer, level, format, mask)
	for _, w := range warnings {
		log.Warn("configuration", "problem", w.String())
	}
	d, err := daemon.New(ctx, daemon.Options{
		Config: cfg,
		Load: func() (*config.Config, config.Problems, error) {
			return config.Load(a.flags.config, a.configOptions(false))
		},
		Version: version(), Log: log, Level: follow, Format: format, Mask: mask,
	})
	if err != nil {
		return refusedStart(err)
	}
	running, stop := context.WithCancel(ctx)
	reloaded := make(chan struct{})
	go func() {
		defer close(reloaded)
		for {
			select {
			case <-reloads:
				_ = d.Reload(running) // it logs what is wrong
			case <-running.Done():
				return
			}
		}
	}()
	err = d.Run(ctx)
	stop()
	<-reloaded
	if err = errors.Join(err, d.Close()); err != nil {
		log.Log(context.WithoutCancel(ctx), logger.LevelFatal, "the daemon ended", logger.KeyError, err)
		return silent(exitFailed)
	}
	return nil
}

// refusedStart explains why a daemon did not start.
func refusedStart(err error) error {
	var locked *store.LockedError
	if errors.As(err, &locked) {
		return &problem{code: exitDenied, message: fmt.Sprintf("not started: %v", locked), cause: err}
	}
	return fmt.Errorf("cannot start: %w", err)
}

// logLevel gives the level that the flags ask for.
func (a *app) logLevel() (slog.Level, bool) {
	switch {
	case a.flags.logLevel != "":
		level, err := logger.ParseLevel(a.flags.logLevel) // checked with the flags
		return level, err == nil
	case a.flags.verbose:
		return slog.LevelDebug, true
	}
	return 0, false
}
