package cli

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"sentry/internal/sentry"
	"sentry/internal/server"
)

func newWhy(a *app) *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "why GROUP|REPOSITORY|ID",
		Short: "Why Sentry did what it did, or did not",
		Long: `Why Sentry did what it did, or did not: how a group, repository or rollout stands now, and the decisions about it with
their reasons, oldest first.`,
		Args:              exactly(argName),
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 || limit > 10000 {
				return usage("--limit is a number from 1 to 10000, not %d", limit)
			}
			return a.why(cmd.Context(), args[0], limit)
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 50, "how many decisions at most, the newest")
	return cmd
}

func (a *app) why(ctx context.Context, about string, limit int) error {
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	var story server.Story
	if err := c.get(ctx, "why", url.Values{"about": {about}, "limit": {strconv.Itoa(limit)}}, &story); err != nil {
		return err
	}
	if a.asJSON() {
		return a.json(story)
	}
	_, err = io.WriteString(a.out, strings.Join(storyLines(a.out, story, a.out.width()), "\n")+"\n")
	return err
}

// storyLines draws a story: where things stand, then what was decided, with a line for each new day.
func storyLines(s screen, story server.Story, width int) []string {
	lines := wrap(tidy(story.Now), width)
	if len(story.Items) == 0 {
		return append(lines, "", s.paint(dim, "nothing has been decided about it yet"))
	}
	verbs, wheres := 0, 0
	for _, d := range story.Items {
		verbs = max(verbs, textWidth(string(d.Verb)))
		wheres = max(wheres, textWidth(tidy(where(d, story.About))))
	}
	indent := len("15:04:05") + 2*gap + verbs
	if wheres > 0 {
		indent += gap + wheres
	}
	// On a narrow terminal a reason has lines of its own.
	below := width > 0 && width-indent < 40
	if below {
		indent = 10
	}
	room := 0
	if width > 0 {
		room = max(width-indent, 10)
	}
	day := ""
	for _, d := range story.Items {
		at := d.At.Local()
		if today := at.Format("Monday, 2 January 2006"); today != day {
			day = today
			lines = append(lines, "", s.paint(bold, day))
		}
		head := s.paint(dim, at.Format("15:04:05")) + "  " + s.paint(colourOfVerb(d.Verb), pad(string(d.Verb), verbs)) + "  "
		if wheres > 0 {
			head += pad(tidy(where(d, story.About)), wheres) + "  "
		}
		if below {
			head = s.paint(dim, at.Format("15:04:05")) + "  " + s.paint(colourOfVerb(d.Verb), string(d.Verb))
			lines = append(lines, strings.TrimRight(head+"  "+cut(tidy(where(d, story.About)), width-verbs-2*gap-8), " "))
			head = strings.Repeat(" ", indent)
		}
		for i, l := range wrap(tidy(d.Reason), room) {
			if i > 0 {
				head = strings.Repeat(" ", indent)
			}
			lines = append(lines, strings.TrimRight(head+l, " "))
		}
	}
	return lines
}

// where says what a decision is about, as far as the story does not say it already.
func where(d sentry.Decision, about server.About) string {
	var parts []string
	if d.Repository != "" {
		watch := d.Repository
		if d.Branch != "" {
			watch = fmt.Sprintf("%s@%s", d.Repository, d.Branch)
		}
		parts = append(parts, watch)
	} else if d.Group != "" && d.Group != about.Name && about.Kind != "rollout" {
		parts = append(parts, d.Group)
	}
	if d.Rollout != "" && d.Rollout != about.Name {
		parts = append(parts, d.Rollout)
	}
	return strings.Join(parts, " ")
}

func colourOfVerb(v sentry.Verb) style {
	switch v {
	case sentry.Refused, sentry.Held, sentry.Doubted, sentry.Unreported:
		return red
	case sentry.Paused, sentry.Resumed, sentry.CanceledIt, sentry.SkippedIt, sentry.Retried:
		return yellow
	case sentry.Moved, sentry.Claimed, sentry.Finished:
		return cyan
	}
	return plain
}
