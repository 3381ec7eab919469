package deploy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sentry/internal/config"
	"sentry/internal/sentry"
)

// Job is one attempt at one deployment.
type Job struct {
	Rollout    sentry.Rollout // as planned: group, attempt, vector, policy
	Deployment sentry.Deployment
	Repository *config.Repository // as configured when the rollout began (or was taken over)
	Global     config.Global
	// Since is the earliest moment at which what the attempt is made of may have been asked for: when that happened which
	// lets the deployment begin, see Service.since. What was there then is in it.
	Since time.Time
	// Pod is how the Job looks in which the attempt runs; nil where it runs beside Sentry.
	Pod *Pod
	// Adopt goes on with an attempt whose Job is in the cluster, or was about to be, when an earlier process ended: the Job is
	// in Deployment, and so are the steps of that attempt.
	Adopt bool
	// Resume goes on with an attempt that had begun to follow its pipeline runs when an earlier process ended: no command
	// runs again. Deployment then has the steps of that attempt.
	Resume bool
	// Stop is closed when Sentry is told to stop and the grace period is over, whatever ended the context of the attempt
	// before: what only waits for a cluster then ends.
	Stop <-chan struct{}
}

// Outcome is how an attempt ended.
type Outcome struct {
	// Status is succeeded, failed, timed_out, canceled or interrupted; running where the attempt was left as it is, for the
	// next start to go on with.
	Status sentry.Status `json:"status"`
	Reason string        `json:"reason"`
}

// Executor carries out attempts. The service owns the deployment's row; the executor fills its source, steps and
// pipeline runs, and as its reason what it waits for, if anything, and calls save after each change of them, one call after the other. What has an effect outside of the
// workspace waits until it is saved that it begins. When save fails the attempt must end at once: what cannot be
// remembered must not go on.
//
// Execute returns the deployment as it is in the end, which need not be saved, and how it ended. When ctx ends, it ends
// what it started and returns the outcome that EndedBy gives for the cause.
type Executor interface {
	// Expect tells that an attempt at a deployment of a repository is likely to begin in a moment. What it will need to
	// know from elsewhere may be asked for meanwhile; since is that of the Job. It does not wait.
	Expect(r *config.Repository, since time.Time)
	Execute(ctx context.Context, job Job, save func(sentry.Deployment) error) (sentry.Deployment, Outcome)
	// Abandon ends the pipeline runs that earlier attempts left running, for a deployment that is not begun again. It is
	// given, and gives, the deployment as Execute does, and "" or what may still be running.
	Abandon(ctx context.Context, job Job, save func(sentry.Deployment) error) (sentry.Deployment, string)
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
