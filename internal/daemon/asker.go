package daemon

import (
	"context"

	"sentry/internal/config"
	"sentry/internal/deploy"
	"sentry/internal/git"
	"sentry/internal/logger"
	"sentry/internal/monitor"
	"sentry/internal/sentry"
)

// asker asks Git servers for heads, one repository by one.
type asker struct {
	git  *git.Git
	mask *logger.Masker
}

// Lane has all of a server in one lane.
func (a *asker) Lane(r *config.Repository) monitor.Lane {
	return monitor.Lane{Key: r.Monitor.Remote.Origin(), Batch: 1}
}

// Heads asks each for itself.
func (a *asker) Heads(ctx context.Context, asks []monitor.Ask, answers []monitor.Answer) {
	for i := range asks {
		r := asks[i].Repository
		answers[i].Heads, answers[i].Err = a.git.Heads(ctx, r.Monitor.Remote, deploy.GitAuth(r.Monitor.Auth, a.mask), r.Monitor.Branches)
	}
}

// Revision asks who made a commit, and why.
func (a *asker) Revision(ctx context.Context, r *config.Repository, branch, commit string) (sentry.Revision, error) {
	return a.git.Revision(ctx, r.Monitor.Remote, deploy.GitAuth(r.Monitor.Auth, a.mask), branch, commit)
}
