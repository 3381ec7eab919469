package daemon

import (
	"context"

	"sentry/internal/config"
	"sentry/internal/deploy"
	"sentry/internal/forge"
	"sentry/internal/git"
	"sentry/internal/sentry"
)

// testAuth is how to show who asks for the QA repository of a repository.
func (a *asker) testAuth(c *config.Repository) git.Auth {
	return a.gitAuth(c, sentry.QA)
}

// gitAuth is how to show who asks for one of the two repositories of an entry over Git: by its keys, or as the
// installation of a GitHub App.
func (a *asker) gitAuth(c *config.Repository, side sentry.Target) git.Auth {
	remote, given := c.Monitor.Remote, c.Monitor.Auth
	if side == sentry.QA {
		remote, given = c.Deploy.Remote, c.Deploy.Auth
	}
	auth := deploy.GitAuth(given, a.mask)
	if given.App != nil {
		auth.Token = a.tokenOf(&forge.Repository{
			Name: remote.String(), Remote: remote, Kind: forge.GitHub, API: apiFor(c, side), Auth: forge.Auth{App: (*forge.App)(given.App)},
		})
	}
	return auth
}

// apiFor is the API that is configured for one of the two repositories of an entry, "" where it is derived: that of the
// QA repository is the same where it is on the same server.
func apiFor(c *config.Repository, side sentry.Target) string {
	if side == sentry.QA && (c.Deploy.Type != c.Monitor.Type || c.Deploy.Remote.Origin() != c.Monitor.Remote.Origin()) {
		return ""
	}
	return c.Monitor.APIURL
}

// tokenOf gives what asks the forges for the token of a repository, and hides it from output from then on.
func (a *asker) tokenOf(r *forge.Repository) func(context.Context) (sentry.Secret, error) {
	return func(ctx context.Context) (sentry.Secret, error) {
		secret, err := a.forges.Token(ctx, r)
		a.mask.Add(secret)
		return secret, err
	}
}

// certificates names the files with whom to believe at an origin, and with what to show there.
func certificates(cfg *config.Config, origin string) (authorities, certificate, key string) {
	for _, h := range cfg.Hosts {
		if h.Origin == origin {
			return h.CAFile, h.CertFile, h.KeyFile
		}
	}
	return "", "", ""
}
