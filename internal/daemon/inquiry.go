package daemon

import (
	"context"
	"errors"
	"log/slog"

	"sentry/internal/config"
	"sentry/internal/forge"
	"sentry/internal/git"
	"sentry/internal/git/gitwire"
	"sentry/internal/kube"
	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// Repositories gives what the repositories of a configuration are to the forges, in its order, to compute with: nothing
// is asked of anybody.
func Repositories(cfg *config.Config) []*forge.Repository {
	a := &asker{mask: logger.NewMasker()}
	all := newAccounts()
	list := make([]*forge.Repository, len(cfg.Repositories))
	for i := range cfg.Repositories {
		list[i] = a.meet(&cfg.Repositories[i], all).Repository
	}
	return list
}

// Inquiry asks servers and forges by the ways of a daemon, for a command that looks how things stand. It leaves nothing
// behind.
type Inquiry struct {
	asker   *asker
	git     *git.Git
	network *forge.Network
	tests   map[string]*forge.Repository // those of QA, by the names of the entries
}

// NewInquiry makes an Inquiry for a configuration. git may keep files in folder. The caller calls Close.
func NewInquiry(cfg *config.Config, folder string, mask *logger.Masker, log *slog.Logger) (*Inquiry, error) {
	q := &Inquiry{network: forge.NewNetwork(forge.NetworkOptions{Hosts: hosts(cfg), Log: log})}
	var err error
	if q.git, err = git.New(git.Options{
		StateDir: folder, Transport: q.network.Git(gitwire.NewTransport(q.network.TLS)), Silence: q.network.Silence,
		Certificates: func(origin string) (string, string, string) { return certificates(cfg, origin) },
	}); err != nil {
		q.network.Close()
		return nil, err
	}
	q.asker = newAsker(q.git, mask, forge.Options{Network: q.network, Log: log})
	q.asker.update(cfg)
	q.tests = q.asker.meetTests(cfg)
	return q, nil
}

// Close gives the connections back.
func (q *Inquiry) Close() {
	q.asker.forges.Update(nil)
	q.network.Close()
}

// Git is the git that was found on the machine.
func (q *Inquiry) Git() *git.Git { return q.git }

// Heads asks one of the two repositories of an entry over Git for the branches that match.
func (q *Inquiry) Heads(ctx context.Context, r *config.Repository, side sentry.Target, patterns []sentry.Pattern) (map[string]string, error) {
	remote := r.Monitor.Remote
	if side == sentry.QA {
		remote = r.Deploy.Remote
	}
	return q.git.Heads(ctx, remote, q.asker.gitAuth(r, side), patterns)
}

// Diagnose says more of why a watched repository does not answer.
func (q *Inquiry) Diagnose(ctx context.Context, r *config.Repository, err error) error {
	if x := q.asker.lookup(r); x != nil {
		return q.asker.forges.Diagnose(ctx, x.Repository, err)
	}
	return err
}

// Account tells at which host and with which credential one of the two repositories of an entry is asked over an API;
// repositories with the same answer share what is allowed there. It reports false where there is no API.
func (q *Inquiry) Account(r *config.Repository, side sentry.Target) (host, credential string, ok bool) {
	x := q.repository(r, side)
	if x == nil || x.Kind == forge.Git || x.Remote.Scheme() == "file" {
		return "", "", false
	}
	return x.Remote.Host(), x.Auth.Key, true
}

// Access tells what the credential of one of the two repositories of an entry may do there, and what is left of it.
func (q *Inquiry) Access(ctx context.Context, r *config.Repository, side sentry.Target) (forge.Access, error) {
	x := q.repository(r, side)
	if x == nil {
		return forge.Access{}, errors.New("it is not in the configuration")
	}
	return q.asker.forges.Access(ctx, x)
}

// repository gives what the forges know one of the two repositories of an entry as; nil where there is none.
func (q *Inquiry) repository(r *config.Repository, side sentry.Target) *forge.Repository {
	if side == sentry.QA {
		return q.tests[r.Name]
	}
	if x := q.asker.lookup(r); x != nil {
		return x.Repository
	}
	return nil
}

// Cluster gives the cluster that a configuration means. Nothing is asked of it yet. Errors: those of kube.Connect.
func Cluster(cfg *config.Config, log *slog.Logger) (*kube.Cluster, error) {
	return connect(cfg.Kubernetes, "sentry", nil, log)
}
