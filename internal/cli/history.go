package cli

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"sentry/internal/sentry"
	"sentry/internal/server"
)

func newHistory(a *app) *cobra.Command {
	var (
		status []string
		limit  int
		before string
	)
	cmd := &cobra.Command{
		Use:               "history [GROUP or REPOSITORY]",
		Short:             "What was: rollouts, newest first",
		Args:              between(0, argName),
		ValidArgsFunction: a.completeTargets,
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{"limit": {strconv.Itoa(limit)}}
			for _, s := range status {
				if _, err := sentry.ParseStatus(s); err != nil {
					return usage("--status: %v", err)
				}
				q.Add("status", s)
			}
			if limit < 1 || limit > 1000 {
				return usage("--limit is a number from 1 to 1000, not %d", limit)
			}
			if before != "" {
				q.Set("before", before)
			}
			return a.history(cmd.Context(), args, q)
		},
	}
	cmd.Flags().StringSliceVar(&status, "status", nil, "only rollouts with this status (may be repeated)")
	cmd.Flags().IntVar(&limit, "limit", 20, "how many at most")
	cmd.Flags().StringVar(&before, "before", "", "only rollouts before this one, to go on where a list ended")
	var statuses []string
	for _, s := range sentry.Statuses() {
		statuses = append(statuses, string(s))
	}
	fixed(cmd, "status", statuses...)
	return cmd
}

func (a *app) history(ctx context.Context, names []string, q url.Values) error {
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if len(names) > 0 {
		kind, err := c.kindOf(ctx, names[0])
		if err != nil {
			return err
		}
		q.Set(kind, names[0])
	}
	var list server.List[sentry.Rollout]
	if err := c.get(ctx, "rollouts", q, &list); err != nil {
		return err
	}
	if a.asJSON() {
		return a.json(list)
	}
	if len(list.Items) == 0 {
		a.note("there are no such rollouts")
		return nil
	}
	for i, r := range list.Items {
		list.Items[i] = c.asShown(r)
	}
	return a.historyTable(list.Items).write(a.out)
}

// kindOf tells whether a name is that of a group or of a repository, also of one that is not configured any more.
func (c *client) kindOf(ctx context.Context, name string) (string, error) {
	var status server.Status
	if err := c.get(ctx, "status", nil, &status); err != nil {
		return "", err
	}
	for _, g := range status.Items {
		if g.Name == name {
			return "group", nil
		}
	}
	for _, g := range status.Items {
		if slices.ContainsFunc(g.Members, func(m server.Member) bool { return m.Repository == name }) {
			return "repository", nil
		}
	}
	for _, kind := range []string{"group", "repository"} {
		var list server.List[sentry.Rollout]
		if err := c.get(ctx, "rollouts", url.Values{kind: {name}, "limit": {"1"}}, &list); err != nil {
			return "", err
		}
		if len(list.Items) > 0 {
			return kind, nil
		}
	}
	return "", &problem{code: exitNotFound, message: fmt.Sprintf("there is no group or repository %q, and no rollout of one", name), hint: "`sentry status` lists the groups"}
}

func (a *app) historyTable(rollouts []sentry.Rollout) *table {
	t := &table{columns: []column{
		{title: "ID"},
		{title: "GROUP", rank: 3, least: 10},
		{title: "STATUS"},
		{title: "WHEN"},
		{title: "TOOK", rank: 4},
		{title: "TRIGGER", rank: 2, least: 25},
		{title: "REASON", rank: 1, least: 15},
	}}
	now := a.now()
	for _, r := range rollouts {
		when := r.FinishedAt
		if when.IsZero() {
			if when = r.StartedAt; when.IsZero() {
				when = r.RecordedAt
			}
		}
		reason := r.Reason
		if r.Status == sentry.Succeeded || !r.Status.Terminal() {
			reason = ""
		}
		t.add(cell{r.ID, bold}, text(r.Group), cell{words(r.Status), colourOf(r.Status)}, text(ago(when, now)),
			text(since(r.Status, r.StartedAt, r.FinishedAt, now)), text(r.Trigger.Summary()), text(reason))
	}
	return t
}
