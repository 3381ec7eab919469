package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/server"
	"sentry/internal/store"
)

// waiting is how a verb that asks for rollouts waits for them.
type waiting struct {
	wait    bool
	timeout time.Duration
}

func (w *waiting) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.wait, "wait", true, "wait until what was asked for has ended")
	cmd.Flags().DurationVar(&w.timeout, "timeout", 0, "how long to wait at most, such as 10m (0: as long as it takes)")
}

func (w *waiting) check() error {
	if w.timeout < 0 {
		return usage("--timeout must not be negative")
	}
	if w.timeout > 0 && !w.wait {
		return usage("--timeout says how long to wait; --wait=false does not wait")
	}
	return nil
}

// limit ends a context when the patience of a person does.
func (w *waiting) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if w.timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, w.timeout, errPatience)
}

var errPatience = errors.New("timed out")

func newTrigger(a *app) *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use:   "trigger [GROUP or REPOSITORY …]",
		Short: "Roll out now, and wait for the verdict",
		Long: `Roll out groups or single repositories now; without a name, every group. Where a daemon runs it does the work and this
command waits; else this command does the work itself, and ends. Either way the repositories are asked for their newest
commits first; a daemon gives them 3 seconds, and takes those that it knows of the rest.

An interrupt while the daemon works only ends the waiting. Where this command works itself, it cancels the rollout.
--timeout does the same, with exit code 6.`,
		ValidArgsFunction: a.completeTargets,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(); err != nil {
				return err
			}
			return a.trigger(cmd.Context(), args, w)
		},
	}
	w.flags(cmd)
	return cmd
}

func (a *app) trigger(ctx context.Context, targets []string, w waiting) error {
	p, err := a.locate()
	if err != nil {
		return err
	}
	c, err := dial(ctx, p)
	if err != nil {
		return err
	}
	if c == nil {
		a.elsewhere(ctx, p)
		return a.foreground(ctx, w, func(cfg *config.Config) ([]store.Request, error) {
			return server.Targets(cfg, targets, a.person())
		})
	}
	defer c.Close()
	if targets == nil {
		targets = []string{}
	}
	queued, err := a.ask(ctx, c, "rollouts", server.TriggerRequest{Targets: targets, By: a.person(), Look: true})
	if err != nil {
		return err
	}
	return a.await(ctx, c, queued, w)
}

// ask asks a daemon for rollouts. The daemon asks the repositories for their heads first, so that who has just pushed
// gets that commit; a person is told where it takes its time, and where it came to nothing.
func (a *app) ask(ctx context.Context, c *client, path string, body any) ([]server.Queued, error) {
	slow := time.AfterFunc(500*time.Millisecond, func() { a.note("the daemon asks for the newest commits first, for at most 3s") })
	var result server.Triggered
	err := c.post(ctx, path, body, &result)
	slow.Stop()
	if err != nil {
		return nil, err
	}
	const most = 5
	for i, u := range result.Unanswered {
		if i == most {
			a.note("and %d more like this", len(result.Unanswered)-most)
			break
		}
		a.note("%s did not tell its newest commit (%s): the recorded one counts", u.Repository, u.Reason)
	}
	return result.Items, nil
}

// await waits for rollouts that a daemon carries out, and tells how they ended.
func (a *app) await(ctx context.Context, c *client, queued []server.Queued, w waiting) error {
	var ids []string
	for _, q := range queued {
		ids = append(ids, q.ID)
	}
	if !w.wait {
		return a.showQueued(queued)
	}
	for _, q := range queued {
		switch {
		case q.Found:
			a.note("%s of group %s has begun already, with a commit that was found just now", q.ID, q.Group)
		case q.Joined:
			a.note("%s of group %s was waiting already, and takes this with it", q.ID, q.Group)
		}
	}
	ctx, cancel := w.limit(ctx)
	defer cancel()
	l := a.newLive()
	rollouts, err := a.newWatcher(c, l, ids).wait(ctx)
	if err == nil {
		if l != nil {
			l.clear() // the table says the same
		}
		return a.verdict(rollouts)
	}
	if l != nil {
		l.leave()
	}
	var going []string
	for _, id := range ids {
		if !slices.ContainsFunc(rollouts, func(r sentry.Rollout) bool { return r.ID == id && r.Status.Terminal() }) {
			going = append(going, id)
		}
	}
	hint := fmt.Sprintf("`sentry cancel %s` cancels it, `sentry logs -f %s` shows what it does", going[0], going[0])
	switch {
	case errors.Is(err, errInterrupted):
		return &problem{code: exitInterrupted, message: "no longer waiting; the daemon goes on with " + strings.Join(going, ", "), hint: hint, cause: err}
	case errors.Is(err, errPatience):
		return &problem{code: exitTimeout, message: fmt.Sprintf("timed out after %s; the daemon goes on with %s", w.timeout, strings.Join(going, ", ")), hint: hint, cause: err}
	case !final(err):
		p := *explain(ctx, err)
		p.message += fmt.Sprintf(" while %s had not ended", strings.Join(going, ", "))
		p.hint += fmt.Sprintf("\n`sentry show %s` tells how it stands", going[0])
		return &p
	}
	return err
}

// showQueued tells what was asked for and is not waited for.
func (a *app) showQueued(queued []server.Queued) error {
	if a.asJSON() {
		return a.json(server.List[server.Queued]{Items: queued})
	}
	t := table{columns: []column{{title: "ID"}, {title: "GROUP"}, {title: "NOW"}}}
	for _, q := range queued {
		state := "queued"
		switch {
		case q.Found:
			state = "begun with a commit that was found just now"
		case q.Joined:
			state = "joined one that waited"
		}
		t.add(cell{q.ID, bold}, text(q.Group), text(state))
	}
	return t.write(a.out)
}

// verdict prints how rollouts ended. It fails unless all of them succeeded.
func (a *app) verdict(rollouts []sentry.Rollout) error {
	failed := slices.ContainsFunc(rollouts, func(r sentry.Rollout) bool { return r.Status != sentry.Succeeded })
	var err error
	if a.asJSON() {
		err = a.json(server.List[sentry.Rollout]{Items: rollouts})
	} else {
		err = a.verdictTable(rollouts).write(a.out)
	}
	if err != nil || !failed {
		return err
	}
	for _, r := range rollouts {
		if r.Status != sentry.Succeeded {
			text := words(r.Status)
			if a.asJSON() { // the table has said why
				text = outcome(r.Status, r.Reason)
			}
			fmt.Fprintf(a.err, "%s: %s\n", a.err.paint(colourOf(r.Status), tidy(r.ID+" of group "+r.Group)), tidy(text))
			a.note("  `sentry show %s` has the details, `sentry logs %s` the output", r.ID, r.ID)
		}
	}
	return silent(exitFailed)
}

func (a *app) verdictTable(rollouts []sentry.Rollout) *table {
	t := &table{columns: []column{
		{title: "ROLLOUT"},
		{title: "GROUP", rank: 5},
		{title: "DEPLOYMENT", rank: 1, least: 16},
		{title: "COMMIT", rank: 4},
		{title: "STATUS"},
		{title: "TOOK", rank: 3},
		{title: "REASON", rank: 2, least: 15},
	}}
	for _, r := range rollouts {
		if len(r.Deployments) == 0 {
			t.add(cell{r.ID, bold}, text(r.Group), text("-"), text(""), cell{words(r.Status), colourOf(r.Status)}, text(""), text(r.Reason))
		}
		for _, d := range r.Deployments {
			reason := d.Reason
			if d.Status == sentry.Succeeded {
				reason = ""
			}
			t.add(cell{r.ID, bold}, text(r.Group), text(d.Watch.String()), cell{sentry.ShortCommit(d.Commit), dim},
				cell{words(d.Status), colourOf(d.Status)}, text(since(d.Status, d.StartedAt, d.FinishedAt, a.now())), text(reason))
		}
	}
	return t
}
