package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"sentry/internal/kube"
	"sentry/internal/sentry"
)

// The names of the steps that see to pipeline runs. A deployment whose last step is trackStep had done all else; where
// cancelStep comes after a step that did not succeed, the outcome of that one is the verdict.
const (
	trackStep  = "track"
	cancelStep = "cancel"
)

// resumable reports whether the commands of a deployment had ended when Sentry did, and its pipeline runs were followed,
// or canceled after a verdict.
func resumable(d sentry.Deployment) bool {
	if d.Status != sentry.Running {
		return false
	}
	steps := stepsOf(d)
	if n := len(steps); n > 0 && steps[n-1].Kind == sentry.StepTrack && steps[n-1].Name == trackStep {
		return true
	}
	_, stands := standing(d)
	return stands
}

// standing gives the verdict of a deployment whose pipeline runs were being canceled when Sentry ended, and reports whether
// there is one. One that was interrupted has none: what becomes of it is for the next start to say.
func standing(d sentry.Deployment) (Outcome, bool) {
	steps := stepsOf(d)
	n := len(steps)
	for n > 0 && steps[n-1].Kind == sentry.StepTrack && steps[n-1].Name == cancelStep {
		n--
	}
	if d.Status != sentry.Running || n == 0 || n == len(steps) {
		return Outcome{}, false
	}
	switch by := steps[n-1]; by.Status {
	case sentry.TimedOut, sentry.Canceled, sentry.Failed:
		return Outcome{by.Status, by.Reason}, true
	}
	return Outcome{}, false
}

// stepsOf gives the steps of the current attempt, in their order.
func stepsOf(d sentry.Deployment) []sentry.Step {
	var steps []sentry.Step
	for _, s := range d.Steps {
		if s.Attempt == d.Attempt {
			steps = append(steps, s)
		}
	}
	return steps
}

// left reports whether the Job of a deployment, or pipeline runs of it, may still run.
func left(d sentry.Deployment) bool {
	return inJob(d) || slices.ContainsFunc(d.PipelineRuns, sentry.PipelineRun.Open)
}

// seeOut sees to the pipeline runs that the work has created: it follows them where it went well, and ends them where it
// did not.
func (a *attempt) seeOut(ctx context.Context, outcome Outcome) Outcome {
	runs := a.keep.pick(func(_ int, run sentry.PipelineRun) bool { return a.keep.current(run) })
	switch {
	case len(runs) == 0 || outcome.Status == sentry.Running:
		return outcome
	case outcome.Status == sentry.Succeeded:
		return a.track(ctx, outcome.Reason)
	case errors.Is(context.Cause(ctx), errLost):
		return outcome // another owner may see to them by now
	}
	return a.endRuns(ctx, outcome, "what created them "+words(outcome.Status))
}

// track follows the pipeline runs of the attempt to their end. done is what went well before.
func (a *attempt) track(ctx context.Context, done string) Outcome {
	step := a.begin(sentry.StepTrack, trackStep)
	if err := a.keep.save(a.state()); err != nil {
		return a.end(step, Outcome{sentry.Interrupted, err.Error()})
	}
	// A crash from here on: the next start goes on with this step, and nothing runs again.
	log := a.openLog(step)
	outcome := a.follow(ctx, log)
	log.close()
	a.end(step, outcome)
	open := slices.ContainsFunc(a.keep.pick(func(int, sentry.PipelineRun) bool { return true }), sentry.PipelineRun.Open)
	if open && !errors.Is(context.Cause(ctx), errLost) && !a.again(ctx, outcome) { // else whoever comes next goes on with them
		return a.endRuns(ctx, outcome, outcome.Reason)
	}
	if outcome.Status == sentry.Succeeded && done != "" {
		outcome.Reason = done + ", " + outcome.Reason
	}
	return outcome
}

func (a *attempt) follow(ctx context.Context, log io.Writer) Outcome {
	runs := a.keep.pick(func(_ int, run sentry.PipelineRun) bool { return a.keep.current(run) && run.Open() })
	if err := a.reach(ctx, log); err != nil {
		fmt.Fprintln(log, err)
		return EndedBy(ctx, "it was not known how "+nameRuns(runs)+" ends")
	}
	now, err := a.cluster.Track(ctx, runs, kube.TrackOptions{
		Instance: a.Instance, Log: log, Away: a.tell, Progress: func(now []sentry.PipelineRun) error { return a.keep.progress(runs, now) },
	})
	a.keep.put(runs, now)
	counted := a.keep.pick(func(_ int, run sentry.PipelineRun) bool { return a.keep.current(run) })
	open := slices.DeleteFunc(slices.Clone(counted), func(r sentry.PipelineRun) bool { return !r.Open() })
	if len(open) == 0 {
		return foldRuns(counted)
	}
	if context.Cause(ctx) == nil {
		return Outcome{sentry.Failed, fmt.Sprintf("cannot follow %s: %v", nameRuns(open), err)}
	}
	return EndedBy(ctx, nameRuns(open)+" went on")
}

// foldRuns gives the outcome that pipeline runs make: the worst of theirs.
func foldRuns(runs []sentry.PipelineRun) Outcome {
	var outcomes []sentry.Status
	for _, run := range runs {
		outcomes = append(outcomes, run.Status)
	}
	if len(runs) == 0 {
		return Outcome{sentry.Succeeded, "no pipeline run was created after all"}
	}
	status := sentry.Fold(outcomes)
	if status == sentry.Succeeded && slices.Contains(outcomes, sentry.Canceled) {
		status = sentry.Canceled // what was canceled has not succeeded
	}
	if status == sentry.Succeeded {
		return Outcome{status, plural(len(runs), "pipeline run") + " succeeded"}
	}
	var told []string
	for _, run := range runs {
		if run.Status == status {
			told = append(told, describe(run))
		}
	}
	const most = 3
	reason := strings.Join(told[:min(most, len(told))], "; ")
	if len(told) > most {
		reason += fmt.Sprintf("; and %d more", len(told)-most)
	}
	return Outcome{status, reason}
}

// describe tells how a run ended: its name, the task that failed, and Tekton's word for it.
func describe(run sentry.PipelineRun) string {
	text := fmt.Sprintf("pipeline run %s/%s %s", run.Namespace, run.Name, words(run.Status))
	for _, task := range run.Tasks {
		if task.Status == run.Status && task.Status != sentry.Canceled {
			text += ": task " + task.Task
			if task.Reason != "" {
				text += ": " + task.Reason
			}
			break
		}
	}
	if !strings.Contains(text, ": ") && run.Reason != "" {
		text += ": " + run.Reason
	}
	if run.Condition != "" {
		text += " (" + run.Condition + ")"
	}
	return text
}

// nameRuns names runs, in few words.
func nameRuns(runs []sentry.PipelineRun) string {
	const most = 3
	var names []string
	for _, run := range runs[:min(most, len(runs))] {
		name := run.Name
		if run.Intent() {
			name = "one that was about to be created"
		}
		names = append(names, run.Namespace+"/"+name)
	}
	text := "pipeline run "
	if len(runs) > 1 {
		text = "pipeline runs "
	}
	text += strings.Join(names, ", ")
	if len(runs) > most {
		text += fmt.Sprintf(" and %d more", len(runs)-most)
	}
	return text
}

func words(s sentry.Status) string { return strings.ReplaceAll(string(s), "_", " ") }
