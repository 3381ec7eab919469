package kube

import (
	"log/slog"
	"net/http"
	"time"

	"sentry/internal/logger"
)

// log is for what concerns the deployment.
func (c *call) log() *slog.Logger {
	id := c.access.id
	return c.access.gateway.log.With(logger.KeyGroup, id.Group, logger.KeyRollout, id.Rollout, logger.KeyDeployment, id.Deployment,
		logger.KeyRepository, id.Repository, logger.KeyAttempt, id.Attempt)
}

// done counts the request and, where it may have changed something, writes it down: once, as soon as the code of the
// answer is known, and before the client knows it. The reason is the gateway's own, for a request that it refused.
func (c *call) done(code int, reason string) {
	took := time.Since(c.began)
	c.access.gateway.traffic.answered(c.request, code, took)
	q := c.request
	if q == nil && code == http.StatusBadRequest {
		c.log().Warn("an odd request through the gateway to Kubernetes was refused", "reason", reason)
		return
	}
	if q == nil || !q.mutates() {
		return
	}
	name := q.name
	if c.name != "" {
		name = c.name
	}
	attrs := []any{"verb", q.verb, "resource", q.what(), "namespace", q.namespace, "name", name, "status", code, "seconds", took.Seconds()}
	if c.access.user != "" {
		attrs = append(attrs, "as", c.access.user)
	}
	if q.dryRun {
		attrs = append(attrs, "dry_run", true)
	}
	switch {
	case code >= http.StatusInternalServerError:
		c.log().Warn("a change to the cluster was not confirmed", append(attrs, "reason", reason)...)
		return
	case reason != "":
		c.log().Warn("a change to the cluster was refused", append(attrs, "reason", reason)...)
		return
	}
	c.log().Info("a change to the cluster", attrs...)
}
