package cli

import (
	"fmt"
	"time"

	"sentry/internal/sentry"
	"sentry/internal/server"
)

// frameOf draws rollouts as they stand, for a terminal that is redrawn: for each a line, and one for each deployment
// with what it does. What does not fit is counted in the last line.
func frameOf(s screen, rollouts []sentry.Rollout, now time.Time, width, height int) []string {
	var lines []string
	for _, r := range rollouts {
		lines = append(lines, rolloutLine(s, r, now, width))
		t := table{indent: 2, columns: []column{{}, {rank: 3}, {}, {}, {rank: 2, least: 12}}}
		for _, d := range r.Deployments {
			t.add(
				text(d.Watch.String()), cell{sentry.ShortCommit(d.Commit), dim},
				cell{words(d.Status), colourOf(d.Status)}, text(since(d.Status, d.StartedAt, d.FinishedAt, now)), text(doing(d)),
			)
		}
		for i, l := range t.lines(s, width) {
			if i > 0 { // no titles
				lines = append(lines, l[:len(l)-1])
			}
		}
	}
	return clip(s, lines, height)
}

// clip keeps what fits on the screen, and says how much does not.
func clip(s screen, lines []string, height int) []string {
	if height < 2 || len(lines) < height { // the cursor stands on the line below
		return lines
	}
	keep := max(height-2, 0)
	return append(lines[:keep:keep], s.paint(dim, fmt.Sprintf("… and %d lines more", len(lines)-keep)))
}

func rolloutLine(s screen, r sentry.Rollout, now time.Time, width int) string {
	t := table{columns: []column{{}, {}, {}, {}, {rank: 1, least: 10}}}
	why := r.Trigger.Summary()
	switch {
	case r.Status.Terminal():
		why = r.Reason
	case r.CanceledBy != "":
		why = "being canceled for " + r.CanceledBy
	}
	start := r.StartedAt
	if r.Status == sentry.Pending {
		start = r.RecordedAt
	}
	t.add(cell{r.ID, bold}, text(r.Group), cell{words(r.Status), colourOf(r.Status)}, text(since(r.Status, start, r.FinishedAt, now)), cell{why, dim})
	l := t.lines(s, width)[1]
	return l[:len(l)-1]
}

// since is how long something has taken, or took; empty before it begins, and where nobody knows.
func since(s sentry.Status, start, end, now time.Time) string {
	switch {
	case start.IsZero(), s == interrupted:
		return ""
	case end.IsZero():
		return server.Took(now.Sub(start).Truncate(time.Second))
	}
	return server.Took(end.Sub(start))
}

// doing says what a deployment does, or why it ended as it did.
func doing(d sentry.Deployment) string {
	if d.Status.Terminal() {
		if d.Status == sentry.Succeeded {
			return ""
		}
		return d.Reason
	}
	for i := len(d.Steps) - 1; i >= 0; i-- {
		if s := d.Steps[i]; s.Status == sentry.Running {
			text := fmt.Sprintf("%d %s", s.Ordinal, oneLine(s.Name))
			if s.Tries > 1 {
				text += fmt.Sprintf(" (try %d)", s.Tries)
			}
			if how := following(d); s.Kind == sentry.StepTrack && how != "" {
				text += ": " + how
			}
			return text
		}
	}
	return ""
}
