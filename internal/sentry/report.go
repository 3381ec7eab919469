package sentry

import "time"

// Target says which of the two repositories of a member gets a status: the monitored one, or that of QA.
type Target string

// The targets.
const (
	Upstream Target = "upstream"
	QA       Target = "qa"
)

// State is what a status on a commit says, in the words that forges share.
type State string

// The states of a commit. A forge that has no word for one gets the nearest that it has.
const (
	StatePending  State = "pending"
	StateSuccess  State = "success"
	StateFailure  State = "failure"
	StateError    State = "error"
	StateCanceled State = "canceled"
)

// Fate is what became of a report.
type Fate string

// The fates of a report.
const (
	Waiting    Fate = "waiting"    // for its turn, or for another try
	Delivered  Fate = "delivered"  // the forge has it
	Superseded Fate = "superseded" // the verdict was there before the pending could be delivered: never sent
	GivenUp    Fate = "given_up"
)

// Report is a status on a commit, and what became of it.
type Report struct {
	Repository  string    `json:"repository"` // as configured
	Target      Target    `json:"target"`
	Branch      string    `json:"branch,omitempty"`
	Commit      string    `json:"commit"`
	Context     string    `json:"context"` // the name of the status: what comes later under the same name replaces it
	State       State     `json:"state"`
	Description string    `json:"description"`
	Fate        Fate      `json:"fate"`
	Attempts    int       `json:"attempts"`
	DeliveredAt time.Time `json:"delivered_at,omitzero"`
	NextAt      time.Time `json:"next_at,omitzero"` // of one that waits: when it is tried, again
	Error       string    `json:"error,omitempty"`  // of the last attempt, or why there is none any more
}
