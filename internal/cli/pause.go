package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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
		return c.notAGroup(ctx, err, group, verb)
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

// notAGroup says of a name for which there is no group that it is a repository's, where it is; verb takes groups only.
func (c *client) notAGroup(ctx context.Context, err error, name, verb string) error {
	var unknown *server.Error
	var status server.Status
	if !errors.As(err, &unknown) || unknown.Status != http.StatusNotFound || c.get(ctx, "status", nil, &status) != nil {
		return err
	}
	p := explain(ctx, err)
	if hint := memberHint(status, name, verb); hint != "" {
		p.hint = hint
	}
	return p
}
