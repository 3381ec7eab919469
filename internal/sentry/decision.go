package sentry

import "time"

// Verb names what was decided.
type Verb string

// The decisions that the ledger keeps.
const (
	Recorded   Verb = "recorded"  // a head was recorded: a baseline, a deleted or restored branch
	Moved      Verb = "moved"     // a head moved (read from the changes themselves)
	Queued     Verb = "queued"    // a rollout was queued
	Coalesced  Verb = "coalesced" // a cause joined a rollout that was waiting
	Claimed    Verb = "claimed"   // a rollout began
	Planned    Verb = "planned"   // what a rollout will do, and for which commits
	Finished   Verb = "finished"  // a rollout or a deployment ended
	SkippedIt  Verb = "skipped"   // a deployment was not begun
	Retried    Verb = "retried"   // an interrupted rollout was taken over, or a deployment is begun again
	Adopted    Verb = "adopted"   // a rollout or a deployment that goes on in a cluster was taken over, in the same attempt
	Held       Verb = "held"      // an interrupted rollout waits for a person
	Refused    Verb = "refused"   // something asked for was not done
	CanceledIt Verb = "canceled"
	Paused     Verb = "paused"
	Resumed    Verb = "resumed"
	Doubted    Verb = "doubted"    // an answer of a forge is not believed yet
	Answering  Verb = "answering"  // how a repository answers has changed
	Reloaded   Verb = "reloaded"   // the configuration was read again
	Unreported Verb = "unreported" // a status could not be put on a commit, and is given up
)

// Decision is one line of the ledger: what was decided, about what, and why.
type Decision struct {
	At         time.Time `json:"at"`
	Verb       Verb      `json:"verb"`
	Group      string    `json:"group,omitempty"`
	Repository string    `json:"repository,omitempty"`
	Branch     string    `json:"branch,omitempty"`
	Rollout    string    `json:"rollout,omitempty"`
	Commit     string    `json:"commit,omitempty"`
	Reason     string    `json:"reason"`
}
