package cli

import "sentry/internal/sentry"

// interrupted is how what is on record as running is shown where nobody runs it. It is no status that anything has: the
// next start decides whether it begins again.
const interrupted sentry.Status = "interrupted?"

// unattended reports whether nobody carries out what the state has as running.
func (c *client) unattended() bool { return !c.remote && c.owner == "" }

// asShown gives a rollout as tables show it: where nobody runs what is on record as running, that is interrupted.
func (c *client) asShown(r sentry.Rollout) sentry.Rollout {
	if c.unattended() {
		return unattended(r)
	}
	return r
}

// unattended gives a rollout which runs on record only; what has ended or waits stays as it is.
func unattended(r sentry.Rollout) sentry.Rollout {
	stopped := func(s *sentry.Status) {
		if *s == sentry.Running {
			*s = interrupted
		}
	}
	stopped(&r.Status)
	r.Deployments = append([]sentry.Deployment{}, r.Deployments...)
	for i := range r.Deployments {
		d := &r.Deployments[i]
		stopped(&d.Status)
		d.Steps = append([]sentry.Step{}, d.Steps...)
		for j := range d.Steps {
			stopped(&d.Steps[j].Status)
		}
	}
	return r
}
