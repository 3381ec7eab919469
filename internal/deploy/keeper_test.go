package deploy

import (
	"fmt"
	"testing"

	"sentry/internal/sentry"
)

// TestBoundOfPipelineRunsIsPerAttempt: what earlier attempts created takes nothing from the present one.
func TestBoundOfPipelineRunsIsPerAttempt(t *testing.T) {
	d := sentry.Deployment{Attempt: 2}
	for i := range maxPipelineRuns {
		d.PipelineRuns = append(d.PipelineRuns, sentry.PipelineRun{UID: fmt.Sprint(i), Attempt: 1, Status: sentry.Canceled})
	}
	k := newKeeper(d, func(sentry.Deployment) error { return nil }, func(err error) { t.Error(err) })
	for i := range maxPipelineRuns {
		if err := k.Intend(sentry.PipelineRun{Nonce: fmt.Sprint("n", i)}); err != nil {
			t.Fatalf("number %d: %v", i, err)
		}
	}
	err := k.Intend(sentry.PipelineRun{Nonce: "one too many"})
	if want := "attempt 2 of the deployment has created 1000 pipeline runs, and may not create more"; err == nil || err.Error() != want {
		t.Errorf("one too many: %v\nwant %s", err, want)
	}
}
