package cli

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sentry/internal/sentry"
)

// piped is a rollout whose commands created pipeline runs, with what strangers may have written in them.
func piped() sentry.Rollout {
	r := testRollout()
	r.Deployments = r.Deployments[:2]
	task := func(name string, status sentry.Status, reason string) sentry.TaskRun {
		return sentry.TaskRun{Task: name, Name: name + "-pod", Status: status, Reason: reason, StartedAt: before(3 * time.Minute), FinishedAt: before(2 * time.Minute)}
	}
	good := sentry.PipelineRun{
		Namespace: "qa", Name: "build-7xk2p", UID: "1", Attempt: 1, Status: sentry.Succeeded, Condition: "Completed", Reason: "Tasks Completed: 2",
		StartedAt: before(3 * time.Minute), FinishedAt: before(2 * time.Minute), Tasks: []sentry.TaskRun{task("fetch", sentry.Succeeded, ""), task("build", sentry.Succeeded, "")},
		Results: []sentry.Result{{Name: "IMAGE", Value: "registry.example/shop@sha256:" + strings.Repeat("a1", 32)}, {Name: "NOTE", Value: hostile + "\nsecond line"}},
		Tests:   &sentry.TestSummary{Result: "SUCCESS", Passed: 41, Skipped: 1},
	}
	for i := range 12 {
		good.Results = append(good.Results, sentry.Result{Name: fmt.Sprint("R", i), Value: "v"})
	}
	r.Deployments[0].PipelineRuns = []sentry.PipelineRun{good}
	retried := task("unit "+hostile, sentry.Failed, "exit code 3 in step test")
	retried.Retries = 1
	bad := sentry.PipelineRun{
		Namespace: "qa", Name: "verify-" + hostile, UID: "2", Attempt: 2, Status: sentry.Failed, Condition: "Failed", Reason: "Tasks Completed: 2 (Failed: 1): " + hostile,
		StartedAt: before(3 * time.Minute), FinishedAt: before(100 * time.Second), Tasks: []sentry.TaskRun{task("fetch", sentry.Succeeded, ""), retried},
		Tests: &sentry.TestSummary{Result: "FAILURE", Passed: 39, Failed: 2, Warnings: 1, Note: hostile},
	}
	for i := range 40 {
		bad.Tasks = append(bad.Tasks, task(fmt.Sprint("shard-", i), sentry.Skipped, "it was not begun"))
	}
	earlier, off, intent := good, good, sentry.PipelineRun{Namespace: "qa", Nonce: "n", Attempt: 2, Status: sentry.Pending, Reason: "it was asked for"}
	earlier.UID, earlier.Attempt, earlier.Status, earlier.Reason, earlier.Tasks, earlier.Results, earlier.Tests = "3", 1, sentry.Canceled, "", nil, nil, nil
	earlier.Condition = "CancelledRunFinally"
	off.UID, off.Status, off.Untracked, off.Tasks, off.Results, off.Tests = "4", sentry.Pending, true, nil, nil, nil
	superseded := earlier
	superseded.UID, superseded.Attempt, superseded.Superseded = "5", 2, true
	r.Deployments[1].PipelineRuns = []sentry.PipelineRun{earlier, superseded, bad, off, intent}
	return r
}

func TestPipelineRunsRender(t *testing.T) {
	for _, width := range []int{0, 80, 120} {
		lines := rolloutLines(on(width, false), piped(), nil, nil, testNow, width)
		golden(t, fmt.Sprintf("pipelineruns-%d", width), lines)
		for _, l := range lines {
			if strings.ContainsAny(l, "\x1b\a\r\u202e") {
				t.Errorf("at %d a control sequence passes: %q", width, l)
			}
			if width > 0 && textWidth(l) > width {
				t.Errorf("a line is wider than %d: %q", width, l)
			}
		}
	}
}

// What goes on in the cluster is told while it does.
func TestPipelineRunsWhileTheyRun(t *testing.T) {
	r := runningRollout()
	d := &r.Deployments[1]
	d.Steps[2].Status = sentry.Succeeded
	d.Steps = append(d.Steps, sentry.Step{Attempt: 2, Ordinal: 3, Kind: sentry.StepTrack, Name: "track", Status: sentry.Running, Tries: 1})
	d.PipelineRuns = []sentry.PipelineRun{
		{Namespace: "qa", Name: "one", UID: "1", Attempt: 2, Status: sentry.Succeeded},
		{Namespace: "qa", Name: "two", UID: "2", Attempt: 2, Status: sentry.Running, Tasks: []sentry.TaskRun{{Task: "fetch", Status: sentry.Succeeded}, {Task: "unit", Status: sentry.Running}}},
		{Namespace: "qa", Name: "old", UID: "3", Attempt: 1, Status: sentry.Canceled},
	}
	if got, want := doing(*d), "3 track: 1 of 2 pipeline runs ended; qa/two, task unit"; got != want {
		t.Errorf("it does %q, want %q", got, want)
	}
	was := r
	was.Deployments = append([]sentry.Deployment(nil), r.Deployments...)
	now := &r.Deployments[1]
	now.PipelineRuns = append([]sentry.PipelineRun(nil), now.PipelineRuns...)
	now.PipelineRuns[1].Status, now.PipelineRuns[1].Reason = sentry.Failed, "no"
	if got := changes(&was, r); len(got) != 1 || !strings.HasSuffix(got[0], "pipeline run qa/two: failed: no") {
		t.Errorf("what is new: %q", got)
	}
}

// A task that nobody saw end takes no longer than its run.
func TestPipelineRunThatEndedBeforeItsTask(t *testing.T) {
	r := piped()
	r.Deployments = r.Deployments[:1]
	r.Deployments[0].PipelineRuns = []sentry.PipelineRun{{
		Namespace: "qa", Name: "one", UID: "1", Attempt: 1, Status: sentry.Canceled, StartedAt: before(time.Hour), FinishedAt: before(50 * time.Minute),
		Tasks: []sentry.TaskRun{{Task: "unit", Status: sentry.Running, StartedAt: before(time.Hour)}},
	}}
	lines := strings.Join(rolloutLines(on(120, false), r, nil, nil, testNow, 120), "\n")
	if _, task, _ := strings.Cut(lines, "unit"); !strings.HasPrefix(strings.Join(strings.Fields(task), " "), "running 10m") {
		t.Errorf("the task is shown as\n%s", lines)
	}
}
