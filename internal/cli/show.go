package cli

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sentry/internal/sentry"
	"sentry/internal/server"
)

func newShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "show ID",
		Short:             "One rollout: its commits, its steps, why it ended as it did",
		Args:              exactly(argID),
		ValidArgsFunction: a.completeRollouts,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.show(cmd.Context(), args[0]) },
	}
}

func (a *app) show(ctx context.Context, id string) error {
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	var told server.Rollout
	if err := c.get(ctx, rolloutPath(id), nil, &told); err != nil {
		return err
	}
	if a.asJSON() {
		return a.json(told)
	}
	r := c.asShown(told.Rollout)
	output := map[string]string{}
	for _, d := range r.Deployments {
		if step, ok := decisive(d); ok {
			if output[d.ID], err = c.lastLines(ctx, r.ID, d, step); err != nil {
				return err
			}
		}
	}
	_, err = io.WriteString(a.out, strings.Join(rolloutLines(a.out, r, told.Reports, output, a.now(), a.out.width()), "\n")+"\n")
	return err
}

// decisive gives the step because of which a deployment did not succeed.
func decisive(d sentry.Deployment) (sentry.Step, bool) {
	for i := len(d.Steps) - 1; i >= 0 && d.Status != sentry.Succeeded; i-- {
		switch s := d.Steps[i]; s.Status {
		case sentry.Failed, sentry.TimedOut, sentry.Canceled, sentry.Interrupted, interrupted:
			return s, s.Log != ""
		}
	}
	return sentry.Step{}, false
}

const shownLines = 15

// lastLines gives the end of what a step wrote.
func (c *client) lastLines(ctx context.Context, id string, d sentry.Deployment, s sentry.Step) (string, error) {
	body, err := c.stream(ctx, rolloutPath(id, "logs"), url.Values{
		"repository": {d.Repository}, "branch": {d.Branch}, "step": {strconv.Itoa(s.Ordinal)}, "attempt": {strconv.Itoa(s.Attempt)},
		"tail": {strconv.Itoa(shownLines)},
	})
	if err != nil {
		return "", err
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, 1<<20))
	return string(text), err
}

// rolloutLines draws one rollout. output has the last lines of the decisive step, by deployment.
func rolloutLines(s screen, r sentry.Rollout, reports []sentry.Report, output map[string]string, now time.Time, width int) []string {
	d := &document{s: s, width: width}
	title := fmt.Sprintf("Rollout %s of group %s", r.ID, r.Group)
	d.line(s.paint(bold, title) + ": " + s.paint(colourOf(r.Status), words(r.Status)))
	d.field("reason", r.Reason)
	d.field("trigger", r.Trigger.Summary())
	if r.Policy != nil {
		d.field("policy", policyText(*r.Policy))
	}
	d.field("recorded", atClock(r.RecordedAt, now))
	d.field("started", atClock(r.StartedAt, now))
	if !r.FinishedAt.IsZero() && !r.StartedAt.IsZero() {
		d.field("finished", atClock(r.FinishedAt, now)+", after "+server.Took(r.FinishedAt.Sub(r.StartedAt)))
	} else {
		d.field("finished", atClock(r.FinishedAt, now))
	}
	d.field("attempt", attemptText(r))
	if r.CanceledBy != "" {
		d.field("canceled by", r.CanceledBy)
	}
	if len(r.Vector) > 0 {
		d.line("")
		d.line(s.paint(bold, "Commits of the group"))
		t := table{indent: 2, columns: []column{{title: "WATCH", rank: 1, least: 12}, {title: "COMMIT"}, {title: "GENERATION", rank: 3}, {title: "CHANGED", rank: 2}}}
		for _, v := range r.Vector {
			changed := ""
			if v.Changed {
				changed = "changed"
			}
			t.add(text(v.Watch.String()), cell{sentry.ShortCommit(v.Commit), dim}, text(strconv.FormatInt(v.Generation, 10)), cell{changed, cyan})
		}
		for _, l := range trimmed(t.lines(s, width)) {
			d.line(l)
		}
	}
	for _, one := range r.Deployments {
		d.deployment(one, output[one.ID], now)
	}
	d.reports(reports, now)
	d.next(r)
	return d.lines
}

// attemptText tells how often a rollout was interrupted, and how often it was taken over as it went on without Sentry: that
// is no interruption. After the last interruption none begins again where it was canceled or given up then.
func attemptText(r sentry.Rollout) string {
	if r.Attempt < 2 {
		return ""
	}
	begun := r.Begun()
	ended := func(d sentry.Deployment) bool { return d.Status == sentry.Interrupted || d.Status == sentry.Canceled }
	var told []string
	if n := r.Attempt - 1 - r.Interruptions; n > 0 {
		told = append(told, fmt.Sprintf("it went on without Sentry %s, and was taken over", counted(n, "time", "times")))
	}
	if n := r.Interruptions; n > 0 {
		text := "it was interrupted " + counted(n, "time", "times")
		if r.Status.Terminal() && begun <= n && slices.ContainsFunc(r.Deployments, ended) {
			text += ", and did not begin again"
		}
		told = append(told, text)
	}
	return fmt.Sprintf("%d: %s", begun, strings.Join(told, "; "))
}

// document is lines with a common layout.
type document struct {
	s     screen
	width int
	lines []string
}

func (d *document) line(l string) { d.lines = append(d.lines, l) }

// field writes a label and a text that may take several lines; nothing where there is no text.
func (d *document) field(label, text string) {
	if text == "" {
		return
	}
	const indent = 13
	room := 0
	if d.width > 0 {
		room = max(d.width-indent, 20)
	}
	for i, l := range wrap(tidy(text), room) {
		if i > 0 {
			label = ""
		}
		d.line("  " + d.s.paint(dim, label) + strings.Repeat(" ", max(1, indent-2-len(label))) + l)
	}
}

func (d *document) deployment(one sentry.Deployment, output string, now time.Time) {
	s := d.s
	d.line("")
	head := fmt.Sprintf("%d %s at %s", one.Ordinal, one.Watch, sentry.ShortCommit(one.Commit))
	d.line(s.paint(bold, tidy(head)) + ": " + s.paint(colourOf(one.Status), words(one.Status)) + tookText(one, now))
	if one.Status != sentry.Succeeded {
		d.field("reason", one.Reason)
	}
	if one.Subject != "" {
		subject := one.Subject
		if one.Author != "" {
			subject += " (" + one.Author + ")"
		}
		d.field("commit", subject)
	}
	if one.Source != nil {
		d.field("source", fmt.Sprintf("%s %s at %s", one.Source.URL, one.Source.Branch, sentry.ShortCommit(one.Source.Commit)))
	}
	if one.Job != nil {
		d.field("job", one.Job.Namespace+"/"+one.Job.Name)
	}
	t := table{indent: 4, columns: []column{{title: "STEP"}, {title: "NAME", rank: 1, least: 10}, {title: "STATUS"}, {title: "TOOK"}, {title: "REASON", rank: 2, least: 10}}}
	for _, step := range one.Steps {
		number := strconv.Itoa(step.Ordinal)
		if step.Attempt > 1 {
			number = fmt.Sprintf("%d.%s", step.Attempt, number)
		}
		reason := stepReason(step)
		if step.Tries > 1 {
			reason = strings.TrimSuffix(fmt.Sprintf("%s, try %d", reason, step.Tries), ", ")
			reason = strings.TrimPrefix(reason, ", ")
		}
		t.add(text(number), text(oneLine(step.Name)), cell{words(step.Status), colourOf(step.Status)}, text(since(step.Status, step.StartedAt, step.FinishedAt, now)), text(reason))
	}
	for _, l := range trimmed(t.lines(s, d.width)) {
		d.line(l)
	}
	d.pipelineRuns(one, now)
	if output = strings.TrimRight(output, "\n"); output == "" {
		return
	}
	d.line(s.paint(dim, "  the last lines that it wrote:"))
	for _, l := range strings.Split(output, "\n") {
		d.line(fit("  | "+tidy(strings.TrimSuffix(l, "\r")), d.width))
	}
}

// reports lists the statuses on commits: of each the newest, as that is what people see there.
func (d *document) reports(all []sentry.Report, now time.Time) {
	type place struct {
		repository, commit string
		target             sentry.Target
	}
	var order []place
	newest := map[place]sentry.Report{}
	for _, r := range all {
		at := place{r.Repository, r.Commit, r.Target}
		if _, known := newest[at]; !known {
			order = append(order, at)
		}
		newest[at] = r
	}
	if len(order) == 0 {
		return
	}
	d.line("")
	d.line(d.s.paint(bold, "Statuses on commits"))
	t := table{indent: 2, columns: []column{{title: "REPOSITORY", rank: 1, least: 12}, {title: "COMMIT"}, {title: "STATUS"}, {title: "DELIVERY", rank: 2, least: 12}}}
	for _, at := range order {
		r := newest[at]
		name := at.repository
		if at.target == sentry.QA {
			name += " (QA)"
		}
		t.add(text(name), cell{sentry.ShortCommit(at.commit), dim}, text(string(r.State)), delivery(r, now))
	}
	for _, l := range trimmed(t.lines(d.s, d.width)) {
		d.line(l)
	}
}

// delivery says what became of a status.
func delivery(r sentry.Report, now time.Time) cell {
	why := ""
	if r.Error != "" {
		why = ": " + r.Error
	}
	switch r.Fate {
	case sentry.Delivered:
		return cell{"delivered " + ago(r.DeliveredAt, now), green}
	case sentry.GivenUp:
		return cell{"given up" + why, red}
	case sentry.Superseded:
		return cell{"not sent: what came after it was there first", dim}
	}
	if r.Attempts > 0 {
		return cell{strings.TrimSpace("waits, tried "+counted(r.Attempts, "time", "times")+", again "+in(r.NextAt, now)) + why, yellow}
	}
	return text("waits for its turn")
}

// next says what to run now.
func (d *document) next(r sentry.Rollout) {
	type command struct{ line, does string }
	var list []command
	switch r.Status {
	case sentry.Pending, sentry.Running:
		list = []command{{"sentry logs -f " + r.ID, "its output as it comes"}, {"sentry cancel " + r.ID, "cancels it"}}
	case sentry.Succeeded:
		list = []command{{"sentry logs " + r.ID, "its output"}}
	case interrupted:
		list = []command{{"sentry watch", "starts the daemon, which goes on with it"}, {"sentry cancel " + r.ID, "ends it instead"}, {"sentry logs " + r.ID, "its output until then"}}
	default:
		logs := "sentry logs " + r.ID
		for _, one := range r.Deployments {
			if _, ok := decisive(one); ok {
				logs += " " + one.Repository
				break
			}
		}
		list = []command{{logs, "the whole output"}, {"sentry why " + r.ID, "how it came to this"}, {"sentry retry --failed " + r.ID, "tries again what did not succeed"}}
	}
	d.line("")
	d.line(d.s.paint(bold, "Next"))
	t := table{indent: 2, columns: []column{{}, {rank: 1, least: 8}}}
	for _, c := range list {
		t.add(text(c.line), cell{c.does, dim})
	}
	for i, l := range trimmed(t.lines(d.s, d.width)) {
		if i > 0 {
			d.line(l)
		}
	}
}

func policyText(p sentry.Policy) string {
	text := string(p.Strategy)
	if p.Strategy == sentry.Parallel {
		text += fmt.Sprintf(", at most %d at once", p.Limit())
	}
	if p.ContinueOnError {
		text += ", goes on after a failure"
	} else {
		text += ", begins nothing after a failure"
	}
	if p.Timeout > 0 {
		text += ", ends after " + server.Took(time.Duration(p.Timeout))
	}
	return text
}

// atClock writes a time for people: the clock and how long ago.
func atClock(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05") + " (" + server.Ago(now.Sub(t)) + ")"
}

func tookText(d sentry.Deployment, now time.Time) string {
	text := since(d.Status, d.StartedAt, d.FinishedAt, now)
	switch {
	case text == "":
		return ""
	case d.FinishedAt.IsZero():
		return " for " + text
	}
	return " after " + text
}
