package deploy

import (
	"testing"
	"time"

	"sentry/internal/sentry"
)

// TestLogsOfTries: the tries of a clone share a log, those of a command have one each, and the log of a step that is told of
// from a Job is the one that its try has there.
func TestLogsOfTries(t *testing.T) {
	of := func() *attempt {
		return &attempt{now: time.Now, job: Job{Rollout: sentry.Rollout{ID: "1-x"}}, d: sentry.Deployment{Watch: sentry.Watch{Repository: "a"}, Attempt: 1}}
	}
	runner, j := of(), &shift{attempt: of()}
	want := []string{"1-x/a/01-clone.log", "1-x/a/02-c1-try2.log"}
	clone := runner.begin(sentry.StepClone, "clone")
	clone.Tries++
	clone.Status = sentry.Succeeded
	command := runner.begin(sentry.StepCommand, "c1")
	command.Tries++
	runner.setLog(command)
	if err := j.adoptSteps(runner.d.Steps); err != nil {
		t.Fatal(err)
	}
	for i, log := range want {
		if here, told := runner.d.Steps[i].Log, j.d.Steps[i].Log; here != log || told != log {
			t.Errorf("%s is in %s, and told to be in %s", log, here, told)
		}
	}
}
