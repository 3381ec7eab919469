package store

import (
	"encoding/json"

	"sentry/internal/sentry"
)

// maxRuns is the most that the pipeline runs of one deployment take in the database, in bytes, where leaving out helps.
const maxRuns = 1 << 20

// encodeRuns writes the pipeline runs of a deployment. Where they are too much, what can be done without goes first: the
// results of tasks, then the tasks, then the results; of the oldest runs first. What identifies a run always stays, and
// so does how it ended.
func encodeRuns(runs []sentry.PipelineRun) (string, error) {
	encoded, err := text(runs)
	if err != nil || len(encoded) <= maxRuns {
		return encoded, err
	}
	lean := make([]sentry.PipelineRun, len(runs))
	copy(lean, runs)
	over := len(encoded) - maxRuns
	for _, without := range []func(*sentry.PipelineRun){withoutTaskResults, withoutTasks, withoutResults} {
		for i := range lean {
			if over <= 0 {
				return text(lean)
			}
			before := size(lean[i])
			without(&lean[i])
			over -= before - size(lean[i])
		}
	}
	return text(lean)
}

func size(run sentry.PipelineRun) int {
	raw, _ := json.Marshal(run) // texts, numbers and times
	return len(raw)
}

func withoutTaskResults(run *sentry.PipelineRun) {
	tasks := make([]sentry.TaskRun, len(run.Tasks))
	for i, task := range run.Tasks {
		task.Results = nil
		tasks[i] = task
	}
	run.Tasks = tasks
}

func withoutTasks(run *sentry.PipelineRun) { run.Tasks = nil }

func withoutResults(run *sentry.PipelineRun) { run.Results = nil }
