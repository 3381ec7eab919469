package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sentry/internal/forge"
	"sentry/internal/sentry"
	"sentry/internal/server"
)

func newStatus(a *app) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:               "status [GROUP …]",
		Short:             "What is: the daemon, the groups, what they watch and roll out",
		Long:              "What is: the daemon, the groups with their rollouts, and the branches that they watch. With many branches only those\nwith trouble are listed; name a group to see all of its branches.",
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			if follow {
				return a.followStatus(cmd.Context(), args)
			}
			status, owner, err := a.status(cmd.Context(), args)
			if err != nil {
				return err
			}
			if a.asJSON() {
				return a.json(status)
			}
			return a.showStatus(status, owner, len(args) > 0)
		},
	}
	cmd.Flags().BoolVarP(&follow, "watch", "w", false, "go on showing it as it changes")
	return cmd
}

// status asks for what is, of all groups or some. owner is who has the state where no daemon answers.
func (a *app) status(ctx context.Context, groups []string) (status server.Status, owner string, err error) {
	c, err := a.connect(ctx)
	if err != nil {
		return status, "", err
	}
	defer c.Close()
	status, err = c.status(ctx, groups)
	return status, c.owner, err
}

func (c *client) status(ctx context.Context, groups []string) (server.Status, error) {
	var status server.Status
	if err := c.get(ctx, "status", nil, &status); err != nil {
		return status, err
	}
	for _, name := range groups {
		if !slices.ContainsFunc(status.Items, func(g server.Group) bool { return g.Name == name }) {
			p := &problem{code: exitNotFound, message: fmt.Sprintf("there is no group %q", name), hint: memberHint(status, name, "status")}
			if p.hint == "" {
				p.hint = "`sentry status` lists the groups"
			}
			return status, p
		}
	}
	if len(groups) > 0 {
		status.Items = slices.DeleteFunc(status.Items, func(g server.Group) bool { return !slices.Contains(groups, g.Name) })
	}
	return status, nil
}

// memberHint tells that a name is that of a repository, and of which group; "" where it is not. verb takes the group.
func memberHint(status server.Status, name, verb string) string {
	for _, g := range status.Items {
		if slices.ContainsFunc(g.Members, func(m server.Member) bool { return m.Repository == name }) {
			return fmt.Sprintf("%s is a repository of group %s: `sentry %s %s`", name, g.Name, verb, g.Name)
		}
	}
	return ""
}

func (a *app) showStatus(status server.Status, owner string, all bool) error {
	_, err := fmt.Fprint(a.out, strings.Join(statusLines(a.out, status, owner, a.now(), a.out.width(), all), "\n")+"\n")
	return err
}

// manyWatches is how many branches are listed without being asked for.
const manyWatches = 40

// statusLines draws the status for a width, 0 for no limit. owner is who has the state where no daemon answers.
func statusLines(s screen, status server.Status, owner string, now time.Time, width int, all bool) []string {
	lines := []string{daemonLine(s, status.Daemon, owner, now, width)}
	if d := status.Daemon; d != nil && d.Reload != nil && !d.Reload.OK {
		for _, l := range wrap(fmt.Sprintf("the configuration changed %s, but is not valid; the one before stays in use:", server.Ago(now.Sub(d.Reload.At))), width) {
			lines = append(lines, s.paint(red, l))
		}
		for _, l := range strings.Split(d.Reload.Message, "\n") {
			lines = append(lines, fit("  "+tidy(l), width))
		}
	}
	if len(status.Items) == 0 {
		return append(lines, "", "no groups are configured")
	}
	lines = append(lines, "")
	lines = append(lines, trimmed(groupTable(status.Items, now).lines(s, width))...)
	watches, hidden := watchTable(status, now, all)
	if len(watches.rows) > 0 {
		lines = append(append(lines, ""), trimmed(watches.lines(s, width))...)
	}
	if hidden > 0 {
		lines = append(lines, "")
		for _, l := range wrap(fmt.Sprintf("%s without trouble not listed; `sentry status GROUP` lists them", counted(hidden, "branch", "branches")), width) {
			lines = append(lines, s.paint(dim, l))
		}
	}
	budgets := budgetTable(status.Budgets, now)
	if len(budgets.rows) > 0 {
		lines = append(append(lines, ""), trimmed(budgets.lines(s, width))...)
	}
	hosts := hostTable(status.Hosts, now)
	if len(hosts.rows) > 0 {
		lines = append(append(lines, ""), trimmed(hosts.lines(s, width))...)
	}
	return lines
}

// trimmed takes the line ends off.
func trimmed(lines []string) []string {
	for i := range lines {
		lines[i] = strings.TrimSuffix(lines[i], "\n")
	}
	return lines
}

// fit cuts a line to a width, 0 for no limit.
func fit(line string, width int) string {
	if width <= 0 {
		return line
	}
	return cut(line, width)
}

func daemonLine(s screen, d *server.Daemon, owner string, now time.Time, width int) string {
	switch {
	case d == nil && owner != "":
		return s.paint(yellow, fit("no daemon answers, but "+tidy(owner)+" uses the state: a `trigger` at work, or a daemon that starts", width))
	case d == nil:
		return s.paint(yellow, fit("no daemon is running: nothing is polled (`sentry watch` starts one)", width))
	}
	text := fmt.Sprintf("daemon %s, pid %d, up %s, %s", d.Version, d.PID, server.Took(now.Sub(d.Since)), d.Config)
	if d.Listen != "" {
		text += ", listens on " + d.Listen
	}
	if r := d.Reload; r != nil && r.OK {
		text += fmt.Sprintf(", reloaded %s", server.Ago(now.Sub(r.At)))
	}
	if d.Draining {
		text += ", ending"
	}
	return fit(tidy(text), width)
}

func groupTable(groups []server.Group, now time.Time) *table {
	t := &table{columns: []column{
		{title: "GROUP", rank: 1, least: 12}, {title: "STATE"}, {title: "ROLLOUT"}, {title: "RESULT"}, {title: "WHEN"}, {title: "WHY", rank: 2, least: 12},
	}}
	for _, g := range groups {
		r, when, why := g.Last, "", ""
		switch {
		case g.Current != nil && g.State == server.GroupInterrupted:
			stopped := unattended(*g.Current)
			r, when, why = &stopped, "began "+server.Ago(now.Sub(g.Current.StartedAt)), "no daemon is running: the next start decides"
		case g.Current != nil:
			r = g.Current
			when, why = "for "+server.Took(now.Sub(r.StartedAt).Truncate(time.Second)), r.Trigger.Summary()
			if waits := hindrance(*r); waits != "" {
				why = waits
			}
		case g.Last != nil:
			when = server.Ago(now.Sub(r.FinishedAt))
			if why = r.Reason; r.Status == sentry.Succeeded {
				why = r.Trigger.Summary()
			}
		}
		if g.Paused != nil {
			why = "paused by " + g.Paused.By
			if g.Paused.Reason != "" {
				why += ": " + g.Paused.Reason
			}
		}
		state := string(g.State)
		if g.Waiting > 0 && g.State != server.GroupWaiting {
			state += fmt.Sprintf(", %d waiting", g.Waiting)
		}
		row := []cell{text(g.Name), {state, colourOfGroup(g.State)}, text("-"), text(""), text(when), text(why)}
		if r != nil {
			row[2], row[3] = cell{r.ID, bold}, cell{words(r.Status), colourOf(r.Status)}
		} else if g.Next != nil {
			row[2] = cell{g.Next.ID, bold}
		}
		t.add(row...)
	}
	return t
}

// hindrance is what a rollout that runs waits for, with the deployment that does; "" for nothing.
func hindrance(r sentry.Rollout) string {
	for _, d := range r.Deployments {
		if d.Status == sentry.Running && d.Reason != "" {
			return d.Watch.String() + ": " + d.Reason
		}
	}
	return ""
}

func colourOfGroup(s server.GroupState) style {
	switch s {
	case server.GroupRunning:
		return cyan
	case server.GroupPaused, server.GroupInterrupted:
		return yellow
	}
	return plain
}

// watchTable lists branches: all where that is asked for or they are few, else those with trouble. It tells how many it
// left out.
func watchTable(status server.Status, now time.Time, all bool) (t *table, hidden int) {
	t = &table{columns: []column{
		{title: "REPOSITORY", rank: 1, least: 12},
		{title: "BRANCH", rank: 2, least: 10},
		{title: "COMMIT", rank: 6},
		{title: "MOVED", rank: 4},
		{title: "SUBJECT", rank: 7, least: 10},
		{title: "ASKED", rank: 5},
		{title: "NEXT", rank: 5},
		{title: "ANSWER", rank: 3, least: 32},
	}}
	n := 0
	for _, g := range status.Items {
		for _, m := range g.Members {
			n += len(m.Watches)
		}
	}
	for _, g := range status.Items {
		for _, m := range g.Members {
			for _, w := range m.Watches {
				if !all && n > manyWatches && !w.Trouble && w.Doubt == "" {
					hidden++
					continue
				}
				answer := cell{text: w.Answer}
				switch {
				case w.Trouble:
					answer.style = red
				case w.Doubt != "":
					answer = cell{w.Doubt, yellow}
				case w.Pattern:
					answer = cell{"no branch matches yet", yellow}
				case w.Deleted:
					answer = cell{"deleted", yellow}
				case w.Commit == "" && w.Answer == "":
					answer = cell{"not asked yet", dim}
				}
				t.add(text(m.Repository), text(w.Branch), cell{sentry.ShortCommit(w.Commit), dim}, text(ago(w.MovedAt, now)), text(w.Subject),
					text(ago(w.AskedAt, now)), text(in(w.NextAt, now)), answer)
			}
		}
	}
	return t, hidden
}

// hostTable lists the servers with trouble.
func hostTable(hosts []server.Host, now time.Time) *table {
	t := &table{columns: []column{{title: "HOST", rank: 1, least: 12}, {title: "BREAKER"}, {title: "WAITING"}, {title: "RETRY"}, {title: "REASON", rank: 2, least: 12}}}
	for _, h := range hosts {
		if h.RetryAt.After(now) || h.Breaker != "" && h.Breaker != "closed" {
			t.add(text(h.Host), cell{h.Breaker, yellow}, text(fmt.Sprint(h.Waiting)), text(in(h.RetryAt, now)), text(h.Reason))
		}
	}
	return t
}

// manyBudgets is how many are listed without trouble.
const manyBudgets = 20

// budgetTable lists what is left of what forges allow: where these are many, only where it is little.
func budgetTable(budgets []forge.BudgetState, now time.Time) *table {
	t := &table{columns: []column{
		{title: "FORGE", rank: 1, least: 12},
		{title: "CREDENTIAL", rank: 3, least: 12},
		{title: "BUDGET", rank: 4},
		{title: "LEFT"},
		{title: "OF"},
		{title: "USED", rank: 5},
		{title: "RESET", rank: 2},
		{title: "WAITING", rank: 6},
		{title: "PAUSED", rank: 2, least: 12},
		{title: "TOKEN ENDS", rank: 2},
	}}
	for _, b := range budgets {
		ends := !b.EndsAt.IsZero() && b.EndsAt.Sub(now) < forge.EndsSoon
		if len(budgets) > manyBudgets && (b.Limit == 0 || b.Remaining >= b.Limit/5) && b.Waiting == 0 && !b.PausedUntil.After(now) && !ends {
			continue
		}
		left := cell{text: strconv.Itoa(b.Remaining)}
		switch {
		case b.Limit == 0: // it tells of no limit
			left.text = "-"
		case b.Remaining <= b.Reserve:
			left.style = red
		case b.Remaining < b.Limit/5:
			left.style = yellow
		}
		row := []cell{text(b.Host), text(cmp.Or(b.Key, "none")), text(b.Resource), left, text(""), text(""), text(""), text(""), text(""), text("")}
		if b.Limit > 0 {
			row[4], row[6] = text(strconv.Itoa(b.Limit)), text(in(b.Reset, now))
		}
		if b.Used > 0 {
			row[5] = text(strconv.Itoa(b.Used))
		}
		if b.Waiting > 0 {
			row[7] = text(strconv.Itoa(b.Waiting))
		}
		if b.PausedUntil.After(now) {
			row[8] = cell{strings.TrimSuffix("for "+server.Took(b.PausedUntil.Sub(now).Truncate(time.Second))+": "+b.Reason, ": "), red}
		}
		if ends {
			row[9] = cell{b.EndsAt.UTC().Format(time.DateOnly), yellow}
		}
		t.add(row...)
	}
	return t
}

// ago and in write moments relative to now; nothing for no moment.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return server.Ago(now.Sub(t))
}

func in(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return server.In(t.Sub(now))
}
