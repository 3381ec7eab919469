package sentry

import (
	"fmt"
	"strings"
)

// Status is where a rollout, a deployment or a step stands. A terminal status is final.
type Status string

// The life of a rollout, deployment or step: Pending → Running → one of the terminal ones, or Pending → Skipped | Canceled.
const (
	Pending     Status = "pending"
	Running     Status = "running"
	Succeeded   Status = "succeeded"
	Failed      Status = "failed"
	TimedOut    Status = "timed_out"
	Canceled    Status = "canceled"
	Interrupted Status = "interrupted" // Sentry died meanwhile: nobody knows how it ended. Not the same as failed.
	Skipped     Status = "skipped"
)

// Statuses lists every status, in the order of a life.
func Statuses() []Status {
	return []Status{Pending, Running, Succeeded, Failed, TimedOut, Canceled, Interrupted, Skipped}
}

// ParseStatus returns the status with that name.
func ParseStatus(s string) (Status, error) {
	for _, known := range Statuses() {
		if string(known) == s {
			return known, nil
		}
	}
	return "", fmt.Errorf("%q is not a status; use one of %s", s, strings.Trim(strings.ReplaceAll(fmt.Sprint(Statuses()), " ", ", "), "[]"))
}

// Terminal reports whether nothing can follow s.
func (s Status) Terminal() bool { return s != Pending && s != Running }

// CanBecome reports whether next may follow s. A running thing may be saved as running again (a new attempt).
func (s Status) CanBecome(next Status) bool {
	switch s {
	case Pending:
		return next == Pending || next == Running || next == Skipped || next == Canceled
	case Running:
		return next != Pending && next != Skipped
	default:
		return false
	}
}

// severity orders the outcomes of deployments, mildest first. Skipped and canceled members do not decide a rollout.
var severity = map[Status]int{Succeeded: 1, Interrupted: 2, Failed: 3, TimedOut: 4}

// Fold gives the outcome of a rollout from those of its deployments: the worst of timed_out, failed, interrupted and
// succeeded. A rollout in which nothing was decided (all skipped or canceled) is canceled: it did not succeed.
func Fold(outcomes []Status) Status {
	worst := Canceled
	for _, s := range outcomes {
		if severity[s] > severity[worst] {
			worst = s
		}
	}
	return worst
}
