package cli

import (
	"testing"

	"sentry/internal/sentry"
)

// TestAttemptText: what went on without Sentry was not interrupted, and of it nobody says that it did not begin again.
func TestAttemptText(t *testing.T) {
	for _, c := range []struct {
		starts, interruptions, attempt int
		status                         sentry.Status // of the deployment
		want                           string
	}{
		{1, 0, 1, sentry.Succeeded, ""},
		{2, 0, 1, sentry.Running, "1: it went on without Sentry 1 time, and was taken over"},
		{2, 0, 1, sentry.Succeeded, "1: it went on without Sentry 1 time, and was taken over"},
		{2, 0, 1, sentry.Canceled, "1: it went on without Sentry 1 time, and was taken over"},
		{2, 1, 2, sentry.Succeeded, "2: it was interrupted 1 time"},
		{2, 1, 1, sentry.Running, "1: it was interrupted 1 time"},
		{2, 1, 1, sentry.Succeeded, "1: it was interrupted 1 time"}, // between two deployments
		{2, 1, 1, sentry.Canceled, "1: it was interrupted 1 time, and did not begin again"},
		{5, 4, 4, sentry.Interrupted, "4: it was interrupted 4 times, and did not begin again"},
		{4, 1, 2, sentry.Succeeded, "2: it went on without Sentry 2 times, and was taken over; it was interrupted 1 time"},
	} {
		r := sentry.Rollout{Status: c.status, Attempt: c.starts, Interruptions: c.interruptions, Deployments: []sentry.Deployment{{Status: c.status, Attempt: c.attempt}}}
		if got := attemptText(r); got != c.want {
			t.Errorf("%d starts, %d interruptions, attempt %d %s: %q; want %q", c.starts, c.interruptions, c.attempt, c.status, got, c.want)
		}
	}
}
