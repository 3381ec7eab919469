package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"sentry/internal/sentry"
	"sentry/internal/server"
)

func newCancel(a *app) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "cancel ID",
		Short: "Cancel a rollout that waits or runs",
		Long: `Cancel a rollout. One that waits ends at once. One that runs is asked to end: its commands are terminated, after the
grace period killed. This command returns when the wish is on disk, not when the commands have ended.`,
		Args:              exactly(argID),
		ValidArgsFunction: a.completeRollouts,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.cancel(cmd.Context(), args[0], reason) },
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the records")
	return cmd
}

func (a *app) cancel(ctx context.Context, id, reason string) error {
	c, err := a.own(ctx, false)
	if err != nil {
		return err
	}
	defer c.Close()
	var r sentry.Rollout
	if err := c.post(ctx, rolloutPath(id, "cancel"), server.CancelRequest{By: a.person(), Reason: reason}, &r); err != nil {
		return err
	}
	if a.asJSON() {
		return a.json(r)
	}
	switch {
	case r.Status.Terminal():
		_, err = fmt.Fprintf(a.out, "%s of group %s is canceled\n", r.ID, r.Group)
	case c.remote:
		_, err = fmt.Fprintf(a.out, "%s of group %s is being canceled\n", r.ID, r.Group)
		a.note("`sentry logs -f %s` shows its end", r.ID)
	default:
		_, err = fmt.Fprintf(a.out, "%s of group %s was running when Sentry died; it ends as canceled when Sentry starts again\n", r.ID, r.Group)
	}
	return err
}
