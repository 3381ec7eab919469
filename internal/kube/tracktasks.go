package kube

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"sentry/internal/sentry"
)

// When to look at the tasks of a run that has not ended, after the last change of it: what keeps a task from starting
// stands in its TaskRun, not in the run.
var probeTimes = []time.Duration{3 * time.Second, 15 * time.Second, time.Minute, 3 * time.Minute, 10 * time.Minute}

// notBegun is after how long a run that no controller has begun deserves a word.
const notBegun = 10 * time.Second

// detailsTime is how long to try for what belongs to a verdict, when the verdict itself is known.
const detailsTime = 30 * time.Second

// task is what is known of one task of a run.
type task struct {
	sentry.TaskRun
	condition condition
	ignored   bool // it failed, and the pipeline goes on all the same
	pod       string
	step      wireStep // the one that failed
	problems  []string
	tests     *sentry.TestSummary
}

// ignoredReason is Tekton's word for a task that failed with onError: continue.
const ignoredReason = "FailureIgnored"

// taskOf reads a TaskRun or a CustomRun.
func taskOf(o *wireObject, name string) task {
	c := succeeded(o.Status.Conditions)
	t := task{condition: c, pod: strings.Clone(clip(o.Status.PodName, 253)), ignored: c.reason == ignoredReason}
	t.TaskRun = sentry.TaskRun{
		Task: name, Name: strings.Clone(o.Metadata.Name), Status: taskStatus(c, o.Status.StartTime != ""), Retries: len(o.Status.RetriesStatus),
		StartedAt: moment(o.Status.StartTime), FinishedAt: moment(o.Status.CompletionTime),
	}
	if c.status != "True" {
		t.Reason = c.message
		if t.Reason == "" {
			t.Reason = c.reason
		}
	}
	wire := o.Status.Results
	if len(wire) == 0 {
		wire = o.Status.TaskResults
	}
	t.Results, t.tests, t.problems = readResults(wire)
	for _, step := range o.Status.Steps {
		if step.Terminated != nil && step.Terminated.ExitCode != 0 {
			t.step = wireStep{Name: printable(step.Name), Container: strings.Clone(clip(step.Container, 253)), Terminated: step.Terminated}
			break
		}
	}
	return t
}

func taskStatus(c condition, started bool) sentry.Status {
	switch {
	case c.status == "True":
		return sentry.Succeeded
	case c.status == "False" && c.reason == taskCancelled:
		return sentry.Canceled
	case c.status == "False" && c.reason == taskTimeout:
		return sentry.TimedOut
	case c.status == "False":
		return sentry.Failed
	case started && c.reason != "Pending":
		return sentry.Running
	}
	return sentry.Pending
}

// line tells the task's outcome.
func (t task) line() string {
	text := t.Task + ": " + string(t.Status)
	if d := t.FinishedAt.Sub(t.StartedAt); d >= 0 && !t.FinishedAt.IsZero() && !t.StartedAt.IsZero() {
		text += fmt.Sprintf(" after %s", d)
	}
	if t.Retries > 0 {
		text += fmt.Sprintf(", begun again %d times", t.Retries)
	}
	if t.ignored {
		text += ", which the pipeline ignores"
	}
	if t.Reason != "" && t.Status != sentry.Succeeded {
		text += ": " + t.Reason
	}
	return text
}

// tasks asks for the run's TaskRuns: by label, and those of its references that the list did not bring one by one.
func (w *follower) tasks(ctx context.Context) ([]task, error) {
	version, err := w.api.tekton(ctx)
	if err != nil {
		return nil, err
	}
	found := map[string]task{}
	if LabelValue(w.run.Name) == w.run.Name {
		query := url.Values{"labelSelector": {"tekton.dev/pipelineRun=" + w.run.Name}}
		_, err = w.api.list(ctx, resourcePath(version, w.run.Namespace, "taskruns"), query, func(o *wireObject) {
			if w.owns(o) && len(found) < sentry.MaxTasks {
				found[o.Metadata.Name] = taskOf(o, printable(o.Metadata.Labels["tekton.dev/pipelineTask"]))
			}
		})
	}
	if err != nil && !isCode(err, http.StatusForbidden) {
		return nil, err
	}
	var all []task
	for _, child := range w.now.children {
		t, known := found[child.Name]
		delete(found, child.Name)
		if !known {
			if t, err = w.child(ctx, version, child); err != nil {
				return nil, err
			}
		}
		t.Task = child.PipelineTaskName
		all = append(all, t)
	}
	for _, t := range found {
		all = append(all, t)
	}
	for _, skipped := range w.now.skipped {
		all = append(all, task{TaskRun: skipped})
	}
	slices.SortStableFunc(all, func(a, b task) int {
		if a.StartedAt.IsZero() != b.StartedAt.IsZero() {
			if a.StartedAt.IsZero() {
				return 1
			}
			return -1
		}
		if n := a.StartedAt.Compare(b.StartedAt); n != 0 {
			return n
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all[:min(len(all), sentry.MaxTasks)], nil
}

func (w *follower) owns(o *wireObject) bool {
	for _, owner := range o.Metadata.OwnerReferences {
		if owner.UID == w.run.UID {
			return true
		}
	}
	return false
}

// child asks for one that the run refers to. One that cannot be had is interrupted: nobody knows how it ended.
func (w *follower) child(ctx context.Context, version string, child wireChild) (task, error) {
	resources := map[string]string{"TaskRun": "taskruns", "CustomRun": "customruns", "Run": "runs", "PipelineRun": "pipelineruns"}
	unknown := task{TaskRun: sentry.TaskRun{Name: child.Name, Status: sentry.Interrupted}}
	if resources[child.Kind] == "" {
		unknown.Reason = "Sentry does not read objects of kind " + printable(child.Kind)
		return unknown, nil
	}
	if _, theirs, ok := strings.Cut(child.APIVersion, "/"); ok {
		version = theirs
	}
	o, err := w.api.get(ctx, resourcePath(version, w.run.Namespace, resources[child.Kind], child.Name))
	switch {
	case err == nil && w.owns(o):
		return taskOf(o, child.PipelineTaskName), nil
	case err == nil:
		unknown.Reason = "another object has taken its name"
	case lasting(err):
		unknown.Reason = "it cannot be read: " + err.Error()
	default:
		return unknown, err
	}
	return unknown, nil
}

// outcomes gives the tasks of a run that has ended. Where they cannot be had it says why: the verdict does not wait.
func (w *follower) outcomes(ctx context.Context) []task {
	limited, cancel := context.WithTimeoutCause(ctx, detailsTime, fmt.Errorf("no answer within %s", detailsTime))
	defer cancel()
	tasks, err := w.endedTasks(limited)
	if err == nil {
		return tasks
	}
	w.say("how its tasks ended cannot be read: %s", err)
	var all []task
	for _, child := range w.now.children {
		all = append(all, task{TaskRun: sentry.TaskRun{
			Task: child.PipelineTaskName, Name: child.Name, Status: sentry.Interrupted, Reason: "it could not be read",
		}})
	}
	for _, skipped := range w.now.skipped {
		all = append(all, task{TaskRun: skipped})
	}
	return all
}

// endedTasks asks for the tasks of a run that has ended until they have, too, and not for long: Tekton ends the run before it
// ends the tasks that it gave up. The error is why they cannot be read; that some have not ended is none.
func (w *follower) endedTasks(ctx context.Context) ([]task, error) {
	var wait patience
	for looks := 1; ; looks++ {
		tasks, err := w.tasks(ctx)
		switch {
		case err == nil && (looks > 3 || !slices.ContainsFunc(tasks, func(t task) bool { return !t.Status.Terminal() })):
			return tasks, nil
		case err == nil:
			if sleep(ctx, settleTime) != nil {
				return tasks, nil
			}
			continue
		case lasting(err) || ctx.Err() != nil:
			return nil, err
		}
		if err := sleep(ctx, wait.after(err)); err != nil {
			return nil, err
		}
	}
}

// failing are the tasks that made a run fail, at most three.
func failing(tasks []task) []task {
	var all []task
	for _, t := range tasks {
		if (t.Status == sentry.Failed || t.Status == sentry.TimedOut) && !t.ignored && len(all) < 3 {
			all = append(all, t)
		}
	}
	return all
}

// verdict is the reason of a run that ended, for people: the failing task first.
func verdict(s *seen, run sentry.PipelineRun, tasks []task) string {
	bad := failing(tasks)
	if run.Status != sentry.Failed || s.canceledEnd() || len(bad) == 0 {
		return run.Reason
	}
	text := fmt.Sprintf("task %s %s", bad[0].Task, bad[0].Status)
	if bad[0].Reason != "" {
		text += ": " + bad[0].Reason
	}
	return clip(text, sentry.MaxTold)
}

// testsOf adds up what the tasks tell of tests.
func testsOf(tasks []task) *sentry.TestSummary {
	var all []sentry.TestSummary
	for _, t := range tasks {
		if t.tests != nil {
			all = append(all, *t.tests)
		}
	}
	return addSummaries(all)
}

// probe sets the next look at the tasks; from the beginning after a change.
func (w *follower) probe(changed bool) {
	if changed {
		w.probes = 0
	}
	w.probeAt = time.Now().Add(probeTimes[min(w.probes, len(probeTimes)-1)])
}

// explain looks at the tasks of a run that has not ended: what became of them, and what keeps them from starting.
func (w *follower) explain(ctx context.Context) error {
	w.probes++
	w.probe(false)
	if w.now.condition.status == "" && time.Since(w.began) > notBegun {
		w.say("nothing has begun it for %s: is Tekton's controller at work in the cluster?", notBegun)
	}
	tasks, err := w.tasks(ctx)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case denied(err):
		w.say("its tasks cannot be read: %s", err)
		return nil
	case err != nil:
		return nil // the watch tells of outages
	}
	run := w.run
	run.Tasks = nil
	for _, t := range tasks {
		run.Tasks = append(run.Tasks, t.TaskRun)
		if t.Status == sentry.Pending || t.condition.status == "Unknown" {
			w.why(ctx, t)
		}
	}
	w.run = run
	return w.t.publish(w.i, run)
}

// usual are the reasons of a task that goes its way, of which nobody needs to hear.
var usual = map[string]bool{"Running": true, "Started": true, "": true}

// why tells what keeps a task from going on: what its TaskRun says, or else its pod, or else the pod's events.
func (w *follower) why(ctx context.Context, t task) {
	c := t.condition
	if !usual[c.reason] && c.reason != "Pending" {
		w.say("task %s: %s: %s", t.Task, c.reason, c.message)
		return
	}
	if t.Status != sentry.Pending {
		return
	}
	text := ""
	if t.pod != "" {
		text = w.podWhy(ctx, t.pod)
	}
	if text == "" {
		text = w.eventWhy(ctx, t)
	}
	if text == "" && c.reason == "Pending" && w.probes > 1 { // before that it says what every pod goes through
		text = c.message
	}
	if text != "" {
		w.say("task %s does not start: %s", t.Task, text)
	}
}
