package forge

import (
	"context"

	"sentry/internal/sentry"
)

func (g *gitHub) diagnose(ctx context.Context, r *Repository) error { return nil }

func (g *gitHub) access(ctx context.Context, r *Repository) (Access, error) { return Access{}, nil }

func (g *gitHub) setStatus(ctx context.Context, r *Repository, s Status) error {
	return sentry.Faultf(sentry.Invalid, "not yet")
}
