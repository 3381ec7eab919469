package daemon

import (
	"context"
	"sync/atomic"

	"sentry/internal/config"
	"sentry/internal/deploy"
	"sentry/internal/forge"
	"sentry/internal/logger"
	"sentry/internal/report"
	"sentry/internal/sentry"
)

// publisher puts statuses on commits through the forges, over the connections and on the budgets by which they are asked.
type publisher struct {
	asker  *asker
	config func() *config.Config
	tests  atomic.Pointer[testRepositories]
}

// testRepositories are the QA repositories of a configuration, as forges know them.
type testRepositories struct {
	config *config.Config
	byName map[string]*forge.Repository
}

func (d *Daemon) newReports() *report.Service {
	return report.New(report.Options{
		Store: d.store, Config: d.config.Load, Publish: &publisher{asker: d.asker, config: d.config.Load}, Log: d.log, Register: d.metrics,
	})
}

// SetStatus puts a status on a commit of a repository or of its QA repository.
func (p *publisher) SetStatus(ctx context.Context, c *config.Repository, target sentry.Target, s report.Status) error {
	r := p.repository(c, target)
	if r == nil {
		return errChanged
	}
	return p.asker.forges.SetStatus(ctx, r, forge.Status{
		Commit: s.Commit, Branch: s.Branch, State: forge.State(s.State), Context: s.Context, Description: s.Description, URL: s.URL,
	})
}

// repository gives what a status goes to; nil where the configuration has changed meanwhile.
func (p *publisher) repository(c *config.Repository, target sentry.Target) *forge.Repository {
	if target == sentry.Upstream {
		if x := p.asker.lookup(c); x != nil {
			return x.Repository
		}
		return nil
	}
	cfg := p.config()
	if now, ok := cfg.Repository(c.Name); !ok || now != c {
		return nil
	}
	known := p.tests.Load()
	if known == nil || known.config != cfg {
		known = &testRepositories{cfg, p.asker.meetTests(cfg)}
		p.tests.Store(known)
	}
	return known.byName[c.Name]
}

// meetTests makes of the QA repositories of a configuration what the forges know. A credential that serves for watching too
// has the same name there, and shares its budget.
func (a *asker) meetTests(cfg *config.Config) map[string]*forge.Repository {
	keys := map[sentry.Secret]string{}
	for i := range cfg.Repositories {
		keyOf(cfg.Repositories[i].Name, cfg.Repositories[i].Monitor.Auth, keys)
	}
	byName := make(map[string]*forge.Repository, len(cfg.Repositories))
	for i := range cfg.Repositories {
		byName[cfg.Repositories[i].Name] = a.meetTest(&cfg.Repositories[i], keys)
	}
	return byName
}

func (a *asker) meetTest(c *config.Repository, keys map[sentry.Secret]string) *forge.Repository {
	auth := c.Deploy.Auth
	r := &forge.Repository{Name: c.Name + " (QA)", Remote: c.Deploy.Remote, Kind: forge.Kind(c.Deploy.Type), API: apiFor(c, sentry.QA)}
	r.Auth = forge.Auth{
		Username: auth.Username, Token: deploy.Token(auth, a.mask),
		// A name of its own, where it is not one that is known: a repository and its QA repository may have different tokens.
		Key: keyOf("for QA of "+c.Name, auth, keys),
	}
	if app := auth.App; app != nil {
		r.Auth.App = &forge.App{ID: app.ID, Installation: app.Installation, KeyFile: app.KeyFile}
	}
	return r
}

// reportMeanwhile delivers reports until the returned function is called, which then waits for what is due, some seconds
// at most: for a rollout in the foreground. What is left waits for the next start.
func (d *Daemon) reportMeanwhile() (finish func()) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.reports.Run(ctx) }()
	return func() {
		stop()
		if err := <-done; err != nil {
			d.log.Error("not everything was reported", logger.KeyError, err)
		}
	}
}
