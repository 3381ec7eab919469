package report

import (
	"context"
	"slices"
	"time"

	"sentry/internal/config"
	"sentry/internal/logger"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// refusedFor is how long a refusal is believed: a right may be granted at the forge, where nothing here changes. Then what
// was given up is tried once more.
const refusedFor = time.Hour

// againAtOnce is how many destinations are tried again in a minute for that reason alone: others use their lanes.
const againAtOnce = 10

// destination is what a refusal is about.
type destination struct {
	repository string
	target     sentry.Target
}

// refusal is a destination that refuses statuses, and with what it was asked.
type refusal struct {
	side   side
	secret sentry.Secret // what the token file held
	since  time.Time     // by the monotonic clock
	reason string
	again  bool // it is tried once more: what comes of that ends the refusal, or begins another
}

// secretOf gives the token as it is now; none where it cannot be read.
func secretOf(r *config.Repository, target sentry.Target) sentry.Secret {
	auth := r.Monitor.Auth
	if target == sentry.QA {
		auth = r.Deploy.Auth
	}
	secret, err := auth.Secret()
	if err != nil {
		return sentry.Secret{}
	}
	return secret
}

// refuses gives the reason for which a destination would refuse a status; "" where it is to be tried.
func (s *Service) refuses(repo *config.Repository, target sentry.Target) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.refusals[destination{repo.Name, target}]
	if r == nil || r.again || r.changed(repo, target) {
		return ""
	}
	return r.reason
}

// refuse gives up all that waits for a destination, and remembers why. It is told once.
func (s *Service) refuse(ctx context.Context, repo *config.Repository, d store.Delivery, reason string, asked refusal) error {
	var told bool
	err := s.persist(ctx, func(ctx context.Context) (err error) {
		told, err = s.store.Refuse(ctx, d, reason)
		return err
	})
	if err != nil {
		return err
	}
	s.count(sentry.GivenUp)
	if told {
		s.logOf(d).Warn("no statuses can be put on the commits of a repository; they are given up until the configuration, the token or the right changes",
			logger.KeyError, reason)
	}
	asked.since, asked.reason = time.Now(), reason
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusals[destination{repo.Name, d.Target}] = &asked
	return nil
}

// changed reports whether a destination would be asked differently now.
func (r *refusal) changed(repo *config.Repository, target sentry.Target) bool {
	return r.side != sideOf(repo, target) || r.secret != secretOf(repo, target)
}

// accepts forgets that a destination refused, now that a status has arrived there, and brings back what is still worth
// saying.
func (s *Service) accepts(ctx context.Context, to destination) error {
	s.mu.Lock()
	_, refused := s.refusals[to]
	delete(s.refusals, to)
	s.mu.Unlock()
	if !refused {
		return nil
	}
	s.log.Info("statuses are taken again", logger.KeyRepository, to.repository, "target", to.target)
	return s.revive(ctx, to)
}

// revive lets what a destination refused wait again.
func (s *Service) revive(ctx context.Context, to destination) error {
	return s.persist(ctx, func(ctx context.Context) error {
		_, err := s.store.Revive(ctx, to.repository, to.target)
		return err
	})
}

// reconsider tries again what was refused and would be asked for differently now, or was refused so long ago that the right
// may have been granted.
func (s *Service) reconsider(ctx context.Context) error {
	cfg := s.config()
	var again, old []destination
	s.mu.Lock()
	for to, r := range s.refusals {
		repo, ok := cfg.Repository(to.repository)
		switch {
		case !ok: // what waits is given up for that reason
			delete(s.refusals, to)
			again = append(again, to)
		case r.again:
		case r.changed(repo, to.target):
			again = append(again, to)
		case time.Since(r.since) >= refusedFor:
			old = append(old, to)
		}
	}
	slices.SortFunc(old, func(a, b destination) int { return s.refusals[a].since.Compare(s.refusals[b].since) })
	again = append(again, old[:min(len(old), againAtOnce)]...)
	for _, to := range again {
		if r := s.refusals[to]; r != nil {
			r.again = true
		}
	}
	s.mu.Unlock()
	for _, to := range again {
		if err := s.revive(ctx, to); err != nil {
			return err
		}
	}
	return nil
}
