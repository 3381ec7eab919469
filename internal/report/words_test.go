package report

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"sentry/internal/sentry"
)

var discard = slog.New(slog.DiscardHandler)

// ended makes a rollout from "repository[@branch]:status" words.
func ended(status sentry.Status, took time.Duration, members ...string) *sentry.Rollout {
	begun := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	r := &sentry.Rollout{Status: status, StartedAt: begun, FinishedAt: begun.Add(took)}
	for _, m := range members {
		name, status, _ := strings.Cut(m, ":")
		r.Deployments = append(r.Deployments, sentry.Deployment{Watch: watchOf(name), Status: sentry.Status(status)})
	}
	return r
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		rollout *sentry.Rollout
		state   sentry.State
		says    string
	}{
		{ended(sentry.Succeeded, 3*time.Second, "a:succeeded", "b:succeeded"), sentry.StateSuccess, "succeeded: 2 of 2 in 3s"},
		{ended(sentry.Succeeded, 420*time.Millisecond, "a:succeeded"), sentry.StateSuccess, "succeeded: 1 of 1 in 420ms"},
		{ended(sentry.Failed, 192*time.Second, "rag-ui:failed", "a:succeeded", "b:succeeded"), sentry.StateFailure, "failed: rag-ui (2 of 3 succeeded) in 3m12s"},
		{ended(sentry.Failed, time.Minute, "a:failed", "b:skipped", "c:skipped"), sentry.StateFailure, "failed: a (0 of 3 succeeded, 2 skipped) in 1m0s"},
		{ended(sentry.Failed, time.Minute, "a@main:failed", "a@next:failed", "b:succeeded"), sentry.StateFailure, "failed: a@main, a@next (1 of 3 succeeded) in 1m0s"},
		{ended(sentry.TimedOut, 15*time.Minute, "a:timed_out", "b:failed"), sentry.StateFailure, "timed out: a; failed: b (0 of 2 succeeded) in 15m0s"},
		{ended(sentry.TimedOut, time.Minute, "a:timed_out", "b:failed", "c:interrupted", "d:failed"), sentry.StateFailure, "timed out: a; failed: b, d; interrupted: c (0 of 4 succeeded) in 1m0s"},
		{ended(sentry.TimedOut, time.Minute, "a:timed_out", "a-long-name-of-a-repository:failed", "another-long-name-of-a-repository:failed"), sentry.StateFailure, "timed out: a; 2 failed (0 of 3 succeeded) in 1m0s"},
		{ended(sentry.TimedOut, time.Minute, "a:failed", "b:skipped"), sentry.StateFailure, "timed out before all had begun; failed: a (0 of 2 succeeded, 1 skipped) in 1m0s"},
		{ended(sentry.TimedOut, 15*time.Minute, "a:succeeded", "b:skipped"), sentry.StateFailure, "timed out before all had begun (1 of 2 succeeded, 1 skipped) in 15m0s"},
		{ended(sentry.Canceled, 2*time.Second, "a:canceled", "b:succeeded"), sentry.StateCanceled, "canceled (1 of 2 succeeded) after 2s"},
		{ended(sentry.Interrupted, time.Hour, "a:interrupted", "b:succeeded"), sentry.StateError, "interrupted, nobody knows how it ended: a (1 of 2 succeeded)"},
		{ended(sentry.Interrupted, time.Hour, "a:succeeded", "b:skipped"), sentry.StateError, "interrupted, and not begun again (1 of 2 succeeded, 1 skipped)"},
		{ended(sentry.Succeeded, -time.Hour, "a:succeeded"), sentry.StateSuccess, "succeeded: 1 of 1"}, // the clock was set meanwhile
		{ended(sentry.TimedOut, time.Hour), sentry.StateFailure, "timed out"},                          // not kept any more
	} {
		if state, says := verdict(c.rollout); state != c.state || says != c.says {
			t.Errorf("%s: %s %q, want %s %q", c.rollout.Status, state, says, c.state, c.says)
		}
	}
}

// TestDescriptionsFit: GitHub takes 140 characters, however many members there are and whatever they are called.
func TestDescriptionsFit(t *testing.T) {
	for _, name := range []string{"x", strings.Repeat("long-", 20), strings.Repeat("名", 60), strings.Repeat("y", 300)} {
		for _, n := range []int{1, 2, 10, 1000} {
			var members []string
			for i := range n {
				members = append(members, fmt.Sprintf("%s%d:failed", name, i))
			}
			for _, status := range []sentry.Status{sentry.Failed, sentry.TimedOut, sentry.Interrupted, sentry.Canceled, sentry.Succeeded} {
				for i := range members {
					members[i], _, _ = strings.Cut(members[i], ":")
					members[i] += ":" + string(status)
				}
				r := ended(status, 100*time.Hour+time.Minute, members...)
				_, says := verdict(r)
				for _, text := range []string{says, pending(r)} {
					if k := utf8.RuneCountInString(text); k > longest || k < 10 || !utf8.ValidString(text) {
						t.Errorf("%d characters: %q", k, text)
					}
				}
				if status == sentry.Failed && !strings.HasSuffix(says, fmt.Sprintf("(0 of %d succeeded) in 100h1m0s", n)) {
					t.Errorf("the counts are cut off: %q", says)
				}
			}
		}
	}
	if got := pending(ended(sentry.Running, 0, "a", "b", "c")); got != "rolling out a, b, c" {
		t.Error(got)
	}
	if got := naming("failed: ", []string{strings.Repeat("a", 60), strings.Repeat("b", 60), "c"}, " (0 of 3 succeeded)"); !strings.HasSuffix(got, "a and 2 more (0 of 3 succeeded)") {
		t.Error(got)
	}
}
