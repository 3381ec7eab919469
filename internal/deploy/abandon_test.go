package deploy

import (
	"context"

	"sentry/internal/sentry"
)

// Executors of tests that leave nothing in a cluster.

func (c *clock) Abandon(_ context.Context, job Job, _ func(sentry.Deployment) error) (sentry.Deployment, string) {
	return job.Deployment, ""
}

func (a *actor) Abandon(_ context.Context, job Job, _ func(sentry.Deployment) error) (sentry.Deployment, string) {
	return job.Deployment, ""
}

func (x *scripted) Abandon(_ context.Context, job Job, _ func(sentry.Deployment) error) (sentry.Deployment, string) {
	return job.Deployment, ""
}

func (x *deaf) Abandon(_ context.Context, job Job, _ func(sentry.Deployment) error) (sentry.Deployment, string) {
	return job.Deployment, ""
}
