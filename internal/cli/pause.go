package cli

import (
	"context"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"sentry/internal/server"
)

func newPause(a *app) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "pause GROUP",
		Short: "Begin no rollouts of a group until it is resumed",
		Long: `Begin no rollouts of a group until it is resumed. What runs goes on. Changes are recorded all the same, and one rollout
answers them afterwards.`,
		Args:              exactly(argGroup),
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.setPause(cmd.Context(), args[0], "pause", server.PauseRequest{By: a.person(), Reason: reason})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for those who find it paused")
	return cmd
}

// setPause pauses or resumes a group and says how it stands then.
func (a *app) setPause(ctx context.Context, group, verb string, body any) error {
	c, err := a.own(ctx, verb == "pause")
	if err != nil {
		return err
	}
	defer c.Close()
	var g server.Group
	if err := c.post(ctx, "groups/"+url.PathEscape(group)+"/"+verb, body, &g); err != nil {
		return err
	}
	if a.asJSON() {
		return a.json(g)
	}
	switch {
	case g.Paused != nil && g.Current != nil:
		_, err = fmt.Fprintf(a.out, "group %s is paused after %s, which goes on\n", g.Name, g.Current.ID)
	case g.Paused != nil:
		_, err = fmt.Fprintf(a.out, "group %s is paused\n", g.Name)
	default:
		_, err = fmt.Fprintf(a.out, "group %s is resumed\n", g.Name)
	}
	return err
}
