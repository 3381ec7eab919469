package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"sentry/internal/sentry"
)

// How much of a pipeline run `show` writes; -o json has all of it.
const (
	maxTasksShown   = 30
	maxResultsShown = 10
	maxResultShown  = 300 // characters of a value
)

// runName is what a pipeline run is called.
func runName(p sentry.PipelineRun) string {
	if p.Intent() {
		return p.Namespace + "/(about to be created)"
	}
	return p.Namespace + "/" + p.Name
}

// runOutcome says how a pipeline run stands.
func runOutcome(p sentry.PipelineRun, now time.Time) string {
	text := words(p.Status)
	if took := since(p.Status, p.StartedAt, p.FinishedAt, now); took != "" && p.Status.Terminal() {
		text += " after " + took
	} else if took != "" {
		text += " for " + took
	}
	if p.Reason != "" && p.Status != sentry.Succeeded {
		text += ": " + p.Reason
	}
	if p.Condition != "" && p.Status != sentry.Succeeded && !strings.Contains(p.Reason, p.Condition) {
		text += " (" + p.Condition + ")"
	}
	switch {
	case p.Untracked:
		text = "created, and not followed"
	case p.Superseded:
		text += "; of a try that failed, it does not count"
	}
	return text
}

// pipelineRuns writes the pipeline runs of a deployment, with their tasks, results and tests.
func (d *document) pipelineRuns(one sentry.Deployment, now time.Time) {
	for _, p := range one.PipelineRuns {
		name := runName(p)
		if p.Attempt > 0 && p.Attempt < one.Attempt {
			name += fmt.Sprintf(" (attempt %d)", p.Attempt)
		}
		d.field("pipeline", name+": "+runOutcome(p, now))
		until := now
		if p.Status.Terminal() && !p.FinishedAt.IsZero() {
			until = p.FinishedAt // what nobody saw end ended with the run
		}
		d.tasks(p.Tasks, until)
		if p.Tests != nil {
			d.field("tests", testsText(*p.Tests))
		}
		for i, r := range p.Results {
			if i == maxResultsShown {
				d.field("results", fmt.Sprintf("and %d more; -o json has all", len(p.Results)-i))
				break
			}
			d.field("result", r.Name+" = "+cut(strings.Join(strings.Fields(tidy(r.Value)), " "), maxResultShown))
		}
	}
}

func (d *document) tasks(tasks []sentry.TaskRun, now time.Time) {
	if len(tasks) > maxTasksShown { // what went wrong must be among those that are shown
		tasks = slices.Clone(tasks)
		slices.SortStableFunc(tasks, func(a, b sentry.TaskRun) int { return weight(b.Status) - weight(a.Status) })
	}
	t := table{indent: 4, columns: []column{{title: "TASK", rank: 1, least: 10}, {title: "STATUS"}, {title: "TOOK"}, {title: "REASON", rank: 2, least: 10}}}
	for i, task := range tasks {
		if i == maxTasksShown {
			t.add(text(fmt.Sprintf("and %d more", len(tasks)-i)), text(""), text(""), text(""))
			break
		}
		reason := ""
		if task.Status != sentry.Succeeded {
			reason = task.Reason
		}
		if task.Retries > 0 {
			reason = strings.TrimPrefix(fmt.Sprintf("%s, try %d", reason, task.Retries+1), ", ")
		}
		t.add(text(oneLine(task.Task)), cell{words(task.Status), colourOf(task.Status)}, text(since(task.Status, task.StartedAt, task.FinishedAt, now)), text(oneLine(reason)))
	}
	if len(tasks) == 0 {
		return
	}
	for _, l := range trimmed(t.lines(d.s, d.width)) {
		d.line(l)
	}
}

// weight orders tasks by how much they have to say.
func weight(s sentry.Status) int {
	switch s {
	case sentry.Failed, sentry.TimedOut:
		return 2
	case sentry.Running, sentry.Canceled:
		return 1
	}
	return 0
}

// testsText is a summary of tests in a line.
func testsText(t sentry.TestSummary) string {
	parts := []string{fmt.Sprintf("%d passed", t.Passed), fmt.Sprintf("%d failed", t.Failed)}
	if t.Skipped > 0 {
		parts = append(parts, fmt.Sprintf("%d skipped", t.Skipped))
	}
	if t.Warnings > 0 {
		parts = append(parts, counted(t.Warnings, "warning", "warnings"))
	}
	text := strings.Join(parts, ", ")
	if t.Result != "" {
		text = t.Result + ": " + text
	}
	if t.Note != "" {
		text += "; " + t.Note
	}
	return text
}

// following says how far the pipeline runs of a deployment are that is followed.
func following(d sentry.Deployment) string {
	var all, ended int
	at := ""
	for _, p := range d.PipelineRuns {
		if p.Attempt != d.Attempt || p.Superseded || p.Untracked {
			continue
		}
		all++
		if p.Status.Terminal() {
			ended++
			continue
		}
		if at != "" {
			continue
		}
		at = runName(p)
		for _, task := range p.Tasks {
			if task.Status == sentry.Running {
				at += ", task " + task.Task
				break
			}
		}
	}
	if all == 0 {
		return ""
	}
	text := fmt.Sprintf("%d of %s ended", ended, counted(all, "pipeline run", "pipeline runs"))
	if at != "" {
		text += "; " + at
	}
	return text
}
