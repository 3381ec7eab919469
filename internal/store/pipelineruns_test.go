package store

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"sentry/internal/sentry"
)

// What a pipeline says cannot fill the database: results go before tasks, and no run is forgotten.
func TestPipelineRunsAreBounded(t *testing.T) {
	bulky := func(i int) sentry.PipelineRun {
		run := sentry.PipelineRun{Namespace: "qa", Name: fmt.Sprint("run-", i), UID: fmt.Sprint("uid-", i), Attempt: 1, Status: sentry.Failed, Reason: "no"}
		for j := range 50 {
			value := sentry.Result{Name: fmt.Sprint("r", j), Value: strings.Repeat("x", sentry.MaxResultValue)}
			run.Results = append(run.Results, value)
			run.Tasks = append(run.Tasks, sentry.TaskRun{Task: fmt.Sprint("t", j), Status: sentry.Failed, Results: []sentry.Result{value}})
		}
		return run
	}
	for _, n := range []int{1, 3, 5, 20, 400} {
		var runs []sentry.PipelineRun
		for i := range n {
			runs = append(runs, bulky(i))
		}
		encoded, err := encodeRuns(runs)
		if err != nil {
			t.Fatal(err)
		}
		if len(encoded) > maxRuns {
			t.Errorf("%d runs take %d bytes", n, len(encoded))
		}
		var kept []sentry.PipelineRun
		if err := json.Unmarshal([]byte(encoded), &kept); err != nil || len(kept) != n {
			t.Fatalf("%d runs became %d: %v", n, len(kept), err)
		}
		for i, run := range kept {
			if run.UID != runs[i].UID || run.Status != sentry.Failed || run.Reason != "no" || run.Attempt != 1 {
				t.Errorf("run %d became %+v", i, run)
			}
		}
		if last := kept[n-1]; n <= 3 && (len(last.Results) != 50 || len(last.Tasks) != 50) {
			t.Errorf("of %d runs the last has lost more than it had to: %d results, %d tasks", n, len(last.Results), len(last.Tasks))
		}
		if len(runs[0].Tasks) != 50 || len(runs[0].Tasks[0].Results) != 1 {
			t.Fatal("what was given to be written was changed")
		}
	}
}
