package sentry

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Strategy is how the deployments of a rollout follow each other.
type Strategy string

// The strategies.
const (
	Parallel   Strategy = "parallel"
	Sequential Strategy = "sequential"
)

// Scope is what a change rolls out: the whole group, or the members that changed.
type Scope string

// The scopes (`trigger:` of a group).
const (
	ScopeGroup   Scope = "group"
	ScopeChanged Scope = "changed"
)

// Queue is what becomes of the changes that arrive while a rollout of their group waits.
type Queue string

// The queues: Latest folds them into the rollout that waits; Every gives each its turn, in order.
const (
	Latest Queue = "latest"
	Every  Queue = "every"
)

// OnInterrupt is what happens to a rollout that Sentry's death interrupted.
type OnInterrupt string

// The choices: run it again (at most MaxInterruptions times), or leave it interrupted for a person.
const (
	Retry OnInterrupt = "retry"
	Hold  OnInterrupt = "hold"
)

// MaxInterruptions is how often a rollout is begun again whose commands were interrupted, before it is given up as interrupted;
// and how often in a row a Job is taken over that tells nothing new.
const MaxInterruptions = 3

// Duration is a time.Duration that reads and writes itself as text ("15m0s") in JSON.
type Duration time.Duration

// MarshalText gives the form of time.Duration.String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// Policy is how a group is rolled out. It is frozen into a rollout when it is planned.
type Policy struct {
	Strategy        Strategy    `json:"execution_strategy"`
	MaxParallel     int         `json:"max_parallel"` // at least 1; a sequential strategy counts as 1
	ContinueOnError bool        `json:"continue_on_error"`
	Timeout         Duration    `json:"global_timeout"` // from claim to the end of the last pipeline run, retries included
	Scope           Scope       `json:"trigger"`
	Queue           Queue       `json:"queue"`
	OnInterrupt     OnInterrupt `json:"on_interrupt"`
}

// Limit is how many deployments may run at once.
func (p Policy) Limit() int {
	if p.Strategy == Sequential || p.MaxParallel < 1 {
		return 1
	}
	return p.MaxParallel
}

// TriggerKind is who asked for a rollout.
type TriggerKind string

// The kinds of trigger.
const (
	TriggerChanges TriggerKind = "changes"
	TriggerPerson  TriggerKind = "person"
	TriggerRetry   TriggerKind = "retry"
)

// Trigger is why a rollout exists. Several causes may join in one rollout while it waits; Kind is the first of them.
type Trigger struct {
	Kind    TriggerKind `json:"kind"`
	By      string      `json:"by,omitempty"`       // the person, for TriggerPerson and TriggerRetry
	RetryOf string      `json:"retry_of,omitempty"` // the rollout that is tried again
	// Whole asks for every member of the group, whatever changed.
	Whole bool `json:"whole,omitempty"`
	// Repositories asks for these members (each for its first branch), whatever changed.
	Repositories []string `json:"repositories,omitempty"`
	// Watches asks for exactly these watches, whatever changed.
	Watches []Watch `json:"watches,omitempty"`
	// Changes are the moves of heads that the rollout answers, oldest first. Set when a rollout is read.
	Changes []Change `json:"changes,omitempty"`
}

// Rollout is one run of a group.
type Rollout struct {
	ID      string        `json:"id"`
	Group   string        `json:"group"`
	Status  Status        `json:"status"`
	Reason  string        `json:"reason"`
	Trigger Trigger       `json:"trigger"`
	Policy  *Policy       `json:"policy,omitempty"` // nil until it is planned
	Vector  []VectorEntry `json:"vector"`
	Attempt int           `json:"attempt"` // 1 when it first ran; grows with each start of Sentry that goes on with it
	// Interruptions is how often Sentry ended while its commands ran. To follow pipeline runs on is none.
	Interruptions int          `json:"interruptions,omitempty"`
	RecordedAt    time.Time    `json:"recorded_at"`
	StartedAt     time.Time    `json:"started_at,omitzero"`
	FinishedAt    time.Time    `json:"finished_at,omitzero"`
	CanceledBy    string       `json:"canceled_by,omitempty"` // who asked to cancel it, whether or not it has ended yet
	Deployments   []Deployment `json:"deployments"`
}

// Begun is the highest attempt that a deployment of it has begun; 1 before any has.
func (r Rollout) Begun() int {
	begun := 1
	for _, d := range r.Deployments {
		begun = max(begun, d.Attempt)
	}
	return begun
}

// VectorEntry is one watch of the vector: the commits of all watches of the group that a rollout stands for.
type VectorEntry struct {
	Watch
	Commit     string `json:"commit"`
	Generation int64  `json:"generation"`
	Changed    bool   `json:"changed"` // it is one of the changes that triggered the rollout
}

// Deployment is one repository's part of a rollout, for one watch of it.
type Deployment struct {
	ID         string    `json:"id"`
	Ordinal    int       `json:"ordinal"` // its place in the rollout, from 1
	Watch                // repository and branch
	Commit     string    `json:"commit"`
	Previous   string    `json:"previous_commit,omitempty"`
	Generation int64     `json:"generation"`
	Author     string    `json:"author,omitempty"`
	Subject    string    `json:"subject,omitempty"`
	Status     Status    `json:"status"`
	Reason     string    `json:"reason"`
	Attempt    int       `json:"attempt"` // 0 until it starts
	Source     *Source   `json:"source,omitempty"`
	StartedAt  time.Time `json:"started_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
	Steps      []Step    `json:"steps"`
	// PipelineRuns are the Tekton PipelineRuns that its commands created.
	PipelineRuns []PipelineRun `json:"pipeline_runs"`
	// Job is the Kubernetes Job of the last attempt that had one; nil where the commands run beside Sentry.
	Job *JobRef `json:"job,omitempty"`
}

// JobRef names the Kubernetes Job in which an attempt at a deployment runs, or ran. One without UID is an intent: its
// creation was about to be asked for, and whether it exists is asked of the cluster, by its name.
type JobRef struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	Attempt   int    `json:"attempt"` // of the deployment
	Seq       int64  `json:"seq"`     // of what it has told, that was saved last
	// Adopted is how often Sentry has taken it over, after it was killed, since it told something that was saved.
	Adopted int `json:"adopted,omitempty"`
	// Cluster is where it is created; nil where that is not recorded.
	Cluster *ClusterID `json:"cluster,omitempty"`
	// Lost tells that nobody can find out what becomes of it: nothing begins by itself in its place.
	Lost bool `json:"lost,omitempty"`
}

// Source is the QA repository at a branch, pinned to a commit when the deployment starts.
type Source struct {
	URL    string `json:"url"` // without credentials
	Branch string `json:"branch"`
	Commit string `json:"commit"`
}

// StepKind is what a step does.
type StepKind string

// The kinds of step.
const (
	StepClone   StepKind = "clone"
	StepCommand StepKind = "command"
	StepTrack   StepKind = "track"
)

// Step is one thing that one attempt at a deployment does.
type Step struct {
	Attempt    int       `json:"attempt"`
	Ordinal    int       `json:"ordinal"` // its place in the attempt, from 1
	Kind       StepKind  `json:"kind"`
	Name       string    `json:"name"`
	Status     Status    `json:"status"`
	Reason     string    `json:"reason"`
	Tries      int       `json:"tries"`               // how often it was begun; more than 1 where `retries` allowed it
	ExitCode   *int      `json:"exit_code,omitempty"` // nil where it did not exit by itself
	StartedAt  time.Time `json:"started_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
	Log        string    `json:"log,omitempty"` // relative to the logs folder of the state directory
	Bytes      int64     `json:"bytes"`         // what it wrote
	Dropped    int64     `json:"dropped"`       // of these, how many were not kept
}

// RolloutID writes the identifier of the sequence-th rollout: the number for people, the suffix so that the labels of
// two Sentries in one cluster cannot collide. It is a valid DNS label.
func RolloutID(sequence int64, suffix string) string {
	return strconv.FormatInt(sequence, 10) + "-" + suffix
}

// DeploymentID writes the identifier of the ordinal-th deployment of a rollout.
func DeploymentID(rollout string, ordinal int) string {
	return fmt.Sprintf("%s-%d", rollout, ordinal)
}

// ShortCommit is the form of a commit for people.
func ShortCommit(commit string) string {
	if len(commit) > 10 {
		return commit[:10]
	}
	return commit
}

// Summary says what triggered a rollout, in a few words for people.
func (t Trigger) Summary() string {
	var parts []string
	switch t.Kind {
	case TriggerPerson:
		parts = append(parts, "asked for by "+orSomebody(t.By))
	case TriggerRetry:
		parts = append(parts, "retry of "+t.RetryOf+" by "+orSomebody(t.By))
	}
	if n := len(t.Changes); n > 0 {
		last := t.Changes[n-1]
		text := fmt.Sprintf("%s moved to %s", last.Watch, ShortCommit(last.To))
		if n > 1 {
			text += fmt.Sprintf(" (and %d more)", n-1)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}

func orSomebody(name string) string {
	if name == "" {
		return "somebody"
	}
	return name
}
