package deploy

import (
	"context"
	"errors"
	"fmt"

	"sentry/internal/config"
	"sentry/internal/sentry"
)

// Job is one attempt at one deployment.
type Job struct {
	Rollout    sentry.Rollout // as planned: group, attempt, vector, policy
	Deployment sentry.Deployment
	Repository *config.Repository // as configured when the rollout began (or was taken over)
	Global     config.Global
}

// Outcome is how an attempt ended.
type Outcome struct {
	Status sentry.Status // succeeded, failed, timed_out, canceled or interrupted
	Reason string
}

// Executor carries out attempts. The service owns the deployment's row; the executor fills its source, steps and
// pipeline runs and calls save after each change of them, before it does the next thing. When save fails the attempt
// must end at once: what cannot be remembered must not go on.
//
// When ctx ends, Execute ends what it started and returns the outcome that EndedBy gives for the cause.
type Executor interface {
	Execute(ctx context.Context, job Job, save func(sentry.Deployment) error) Outcome
}

// The causes for which the context of a rollout ends.
var (
	errDeadline = errors.New("global_timeout is over")
	errShutdown = errors.New("sentry is stopping")
	errLost     = errors.New("the state can no longer be saved")
)

// canceledError is the cause when a person cancels.
type canceledError struct{ by, reason string }

func (e *canceledError) Error() string {
	text := "canceled by " + e.by
	if e.reason != "" {
		text += ": " + e.reason
	}
	return text
}

// EndedBy translates the cause of an ended context into an outcome; doing says what was going on.
func EndedBy(ctx context.Context, doing string) Outcome {
	cause := context.Cause(ctx)
	var person *canceledError
	switch {
	case errors.As(cause, &person):
		return Outcome{sentry.Canceled, fmt.Sprintf("%s, while %s", person, doing)}
	case errors.Is(cause, errDeadline):
		return Outcome{sentry.TimedOut, fmt.Sprintf("the group's %s, while %s", cause, doing)}
	case errors.Is(cause, context.DeadlineExceeded):
		return Outcome{sentry.TimedOut, fmt.Sprintf("the deployment's timeout is over, while %s", doing)}
	default:
		return Outcome{sentry.Interrupted, fmt.Sprintf("%v, while %s", cause, doing)}
	}
}
