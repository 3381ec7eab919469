package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/server"
	"sentry/internal/store"
)

func newRetry(a *app) *cobra.Command {
	var (
		w      waiting
		failed bool
	)
	cmd := &cobra.Command{
		Use:   "retry ID",
		Short: "Roll out again what a rollout did",
		Long: `Roll out again what a rollout that has ended did, at the heads of now; with --failed only the members that did not
succeed. It waits as trigger does, and does the work itself where no daemon runs.`,
		Args:              exactly(argID),
		ValidArgsFunction: a.completeRollouts,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(); err != nil {
				return err
			}
			return a.retry(cmd.Context(), args[0], failed, w)
		},
	}
	cmd.Flags().BoolVar(&failed, "failed", false, "only the members whose deployment did not succeed")
	w.flags(cmd)
	return cmd
}

func (a *app) retry(ctx context.Context, id string, failed bool, w waiting) error {
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	if c.remote {
		defer c.Close()
		queued, err := a.ask(ctx, c, rolloutPath(id, "retry"), server.RetryRequest{Failed: failed, By: a.person(), Look: true})
		if err != nil {
			return err
		}
		return a.await(ctx, c, queued, w)
	}
	var old sentry.Rollout
	if err := errors.Join(c.get(ctx, rolloutPath(id), nil, &old), c.Close()); err != nil {
		return err
	}
	return a.foreground(ctx, w, func(cfg *config.Config) ([]store.Request, error) {
		request, err := server.Again(cfg, old, failed, a.person())
		return []store.Request{request}, err
	})
}
