// Package sentry holds the nouns of the system: watches, heads, changes, rollouts, deployments, steps and the
// decisions about them. It depends on the standard library only and does no I/O, so that every other package can
// speak the same language without depending on each other.
package sentry
