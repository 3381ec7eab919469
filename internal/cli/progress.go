package cli

import (
	"fmt"
	"strings"

	"sentry/internal/sentry"
	"sentry/internal/server"
)

// changes says what is new in a rollout since it was last looked at, one line for each thing. Without an earlier state
// it says how things stand.
func changes(old *sentry.Rollout, now sentry.Rollout) []string {
	var lines []string
	say := func(format string, args ...any) {
		lines = append(lines, now.ID+" "+fmt.Sprintf(format, args...))
	}
	before := map[string]sentry.Deployment{}
	if old != nil {
		for _, d := range old.Deployments {
			before[d.ID] = d
		}
	}
	if (old == nil || old.Status != now.Status) && !now.Status.Terminal() {
		say("%s: %s", now.Group, begun(now))
	}
	if now.CanceledBy != "" && !now.Status.Terminal() && (old == nil || old.CanceledBy == "") {
		say("%s: %s asked to cancel it", now.Group, now.CanceledBy)
	}
	for _, d := range now.Deployments {
		was, known := before[d.ID]
		if d.Status == sentry.Running && (was.Status != d.Status || was.Attempt != d.Attempt) {
			attempt := ""
			if d.Attempt > 1 {
				attempt = fmt.Sprintf(", attempt %d", d.Attempt)
			}
			say("%s: begins at %s%s", d.Watch, sentry.ShortCommit(d.Commit), attempt)
		}
		for _, s := range d.Steps {
			if s.Status.Terminal() && !ended(was, s) {
				say("%s: %s", d.Watch, stepLine(s))
			}
		}
		for _, p := range d.PipelineRuns {
			if p.Status.Terminal() && p.Attempt == d.Attempt && !runEnded(was, p) {
				say("%s: pipeline run %s: %s", d.Watch, oneLine(runName(p)), oneLine(runOutcome(p, p.FinishedAt)))
			}
		}
		if d.Status.Terminal() && (!known || !was.Status.Terminal()) {
			reason := d.Reason
			if s, ok := decisive(d); ok && s.Reason == reason { // the line above has said it
				reason = ""
			}
			say("%s: %s", d.Watch, outcome(d.Status, reason))
		}
	}
	if now.Status.Terminal() && (old == nil || !old.Status.Terminal()) {
		say("%s: %s", now.Group, outcome(now.Status, now.Reason))
	}
	return lines
}

func begun(r sentry.Rollout) string {
	if r.Status == sentry.Pending {
		return "waits for its turn"
	}
	text := "begins"
	switch n := len(r.Deployments); n {
	case 0:
	case 1:
		text += " with 1 deployment"
	default:
		text += fmt.Sprintf(" with %d deployments", n)
	}
	if why := r.Trigger.Summary(); why != "" {
		text += ": " + why
	}
	return text
}

func ended(d sentry.Deployment, step sentry.Step) bool {
	for _, s := range d.Steps {
		if s.Attempt == step.Attempt && s.Ordinal == step.Ordinal {
			return s.Status.Terminal()
		}
	}
	return false
}

func runEnded(d sentry.Deployment, run sentry.PipelineRun) bool {
	for _, p := range d.PipelineRuns {
		if p.UID == run.UID && p.Nonce == run.Nonce {
			return p.Status.Terminal()
		}
	}
	return false
}

func stepLine(s sentry.Step) string {
	text := fmt.Sprintf("%d %s: %s", s.Ordinal, oneLine(s.Name), words(s.Status))
	if !s.StartedAt.IsZero() && !s.FinishedAt.IsZero() {
		text += " after " + server.Took(s.FinishedAt.Sub(s.StartedAt))
	}
	if reason := stepReason(s); reason != "" {
		text += ": " + reason
	}
	return text
}

// stepReason is why a step did not succeed, to stand beside its name: without repeating that.
func stepReason(s sentry.Step) string {
	if s.Status == sentry.Succeeded {
		return ""
	}
	return strings.TrimPrefix(s.Reason, s.Name+" ")
}

func outcome(s sentry.Status, reason string) string {
	if reason == "" || s == sentry.Succeeded {
		return words(s)
	}
	if strings.HasPrefix(reason, words(s)) { // it says so itself
		return reason
	}
	return words(s) + ": " + reason
}

// words writes a status for people.
func words(s sentry.Status) string { return strings.ReplaceAll(string(s), "_", " ") }

// colourOf gives the style of a status.
func colourOf(s sentry.Status) style {
	switch s {
	case sentry.Succeeded:
		return green
	case sentry.Failed, sentry.TimedOut:
		return red
	case sentry.Interrupted, interrupted, sentry.Canceled, sentry.Skipped:
		return yellow
	case sentry.Running:
		return cyan
	}
	return plain
}
