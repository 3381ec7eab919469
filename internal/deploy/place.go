package deploy

import (
	"context"

	"sentry/internal/sentry"
)

// place is where the middle of an attempt is done: the clone, and the commands, or the creation of pipeline runs instead.
// What is before and after it, the end of what earlier attempts left and the pipeline runs, is Sentry's own everywhere.
type place interface {
	perform(ctx context.Context, a *attempt) Outcome
}

// here is this process.
type here struct{}

func (here) perform(ctx context.Context, a *attempt) Outcome {
	defer a.closeAccess()
	if outcome := a.clone(ctx); outcome.Status != sentry.Succeeded {
		return outcome
	}
	return a.work(ctx)
}
