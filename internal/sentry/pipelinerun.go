package sentry

import "time"

// The most that is kept of a pipeline run, so that what a pipeline says cannot fill the state.
const (
	MaxResultValue = 4 << 10 // bytes of a result's value
	MaxResults     = 100     // results of a run, and of a task
	MaxTasks       = 500     // tasks of a run
	MaxTold        = 1 << 10 // bytes of a reason that Tekton gave
)

// PipelineRun is a Tekton PipelineRun that a deployment created, and what became of it. One without UID is an intent:
// its creation was about to be asked for, and nobody knows yet whether it exists.
type PipelineRun struct {
	Namespace  string `json:"namespace"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
	APIVersion string `json:"api_version,omitempty"` // "tekton.dev/v1"
	Attempt    int    `json:"attempt,omitempty"`     // of the deployment, that created it
	// Cluster is where it was created; nil where that is not recorded.
	Cluster *ClusterID `json:"cluster,omitempty"`
	// Nonce identifies the request that was to create it: the label sentry.dev/request of the run.
	Nonce string `json:"nonce,omitempty"`
	// Untracked tells that it is none of Sentry's business how it ends: `track: off`.
	Untracked bool `json:"untracked,omitempty"`
	// Superseded tells that what created it failed and was tried again: it does not count for the verdict.
	Superseded bool         `json:"superseded,omitempty"`
	Status     Status       `json:"status"`
	Reason     string       `json:"reason"`              // for people
	Condition  string       `json:"condition,omitempty"` // Tekton's own word: "Completed", "PipelineRunTimeout"
	Tasks      []TaskRun    `json:"tasks,omitempty"`
	Results    []Result     `json:"results,omitempty"`
	Tests      *TestSummary `json:"tests,omitempty"` // nil where no result is a summary of tests
	// StartedAt and FinishedAt are the cluster's times, for display only.
	StartedAt  time.Time `json:"started_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
}

// Intent reports whether nobody knows whether the run exists.
func (p PipelineRun) Intent() bool { return p.UID == "" }

// Open reports whether Sentry has to see to its end.
func (p PipelineRun) Open() bool { return !p.Status.Terminal() && !p.Untracked }

// TaskRun is one task of a pipeline run.
type TaskRun struct {
	Task       string    `json:"task"` // as the pipeline names it
	Name       string    `json:"name"` // of the TaskRun; "" where none was made
	Status     Status    `json:"status"`
	Reason     string    `json:"reason,omitempty"`
	Retries    int       `json:"retries,omitempty"` // how often Tekton began it again
	StartedAt  time.Time `json:"started_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
	Results    []Result  `json:"results,omitempty"`
}

// Result is a named value that a pipeline or a task gave. A long value is clipped to MaxResultValue bytes.
type Result struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// TestSummary is what a result tells of tests: TEST_OUTPUT as Konflux defines it, or JUnit.
type TestSummary struct {
	Result   string `json:"result"` // the verdict in the words of whoever wrote it: "SUCCESS", "FAILURE", "WARNING"
	Passed   int    `json:"passed"`
	Failed   int    `json:"failed"`
	Skipped  int    `json:"skipped"`
	Warnings int    `json:"warnings,omitempty"`
	Note     string `json:"note,omitempty"`
}
