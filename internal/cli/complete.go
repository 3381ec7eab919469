package cli

import (
	"context"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"sentry/internal/sentry"
	"sentry/internal/server"
)

// Completion asks what the verbs ask, but says nothing when it gets no answer, and never takes long.
const completionTime = 2 * time.Second

// completing runs a query for a completion.
func (a *app) completing(cmd *cobra.Command, ask func(ctx context.Context, c *client) []cobra.Completion) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	c, err := a.connect(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer c.Close()
	return ask(ctx, c), cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeGroups(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.completing(cmd, func(ctx context.Context, c *client) []cobra.Completion { return c.names(ctx, true, false) })
}

func (a *app) completeTargets(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.completing(cmd, func(ctx context.Context, c *client) []cobra.Completion { return c.names(ctx, true, true) })
}

func (a *app) completeNames(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completing(cmd, func(ctx context.Context, c *client) []cobra.Completion {
		return append(c.names(ctx, true, true), c.ids(ctx)...)
	})
}

func (a *app) completeRollouts(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completing(cmd, func(ctx context.Context, c *client) []cobra.Completion { return c.ids(ctx) })
}

// completeLogs completes a rollout, then a repository of it.
func (a *app) completeLogs(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.completing(cmd, func(ctx context.Context, c *client) []cobra.Completion {
		var r sentry.Rollout
		switch {
		case len(args) == 0:
			return c.ids(ctx)
		case len(args) > 1 || !idForm.MatchString(args[0]) || c.get(ctx, rolloutPath(args[0]), nil, &r) != nil:
			return nil
		}
		var list []cobra.Completion
		for _, d := range c.asShown(r).Deployments {
			list = append(list, cobra.CompletionWithDesc(d.Repository, words(d.Status)))
		}
		return list
	})
}

// names gives the names of groups and repositories with what they are; a repository that is its own group counts once.
func (c *client) names(ctx context.Context, groups, repositories bool) []cobra.Completion {
	var status server.Status
	if c.get(ctx, "status", nil, &status) != nil {
		return nil
	}
	var list []cobra.Completion
	for _, g := range status.Items {
		if groups {
			list = append(list, cobra.CompletionWithDesc(g.Name, "group, "+string(g.State)))
		}
		for _, m := range g.Members {
			if repositories && !(groups && m.Repository == g.Name) {
				list = append(list, cobra.CompletionWithDesc(m.Repository, "repository of "+g.Name))
			}
		}
	}
	return list
}

// ids gives the newest rollouts with what became of them.
func (c *client) ids(ctx context.Context) []cobra.Completion {
	var list server.List[sentry.Rollout]
	if c.get(ctx, "rollouts", url.Values{"limit": {"30"}}, &list) != nil {
		return nil
	}
	var ids []cobra.Completion
	for _, r := range list.Items {
		ids = append(ids, cobra.CompletionWithDesc(r.ID, r.Group+", "+words(c.asShown(r).Status)))
	}
	return ids
}
