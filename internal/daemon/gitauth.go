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
	return a.gitAuth(c.Deploy.Remote, c.Deploy.Auth)
}

// gitAuth is how to show who asks for a repository over Git: by its keys, or as the installation of a GitHub App.
func (a *asker) gitAuth(remote sentry.Remote, c config.Auth) git.Auth {
	auth := deploy.GitAuth(c, a.mask)
	if c.App == nil {
		return auth
	}
	r := &forge.Repository{Name: remote.String(), Remote: remote, Kind: forge.GitHub, Auth: forge.Auth{App: (*forge.App)(c.App)}}
	auth.Token = func() (sentry.Secret, error) {
		// Who asks has a deadline of its own, and so has the forge.
		secret, err := a.forges.Token(context.Background(), r)
		a.mask.Add(secret)
		return secret, err
	}
	return auth
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
