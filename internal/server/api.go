package server

import (
	"time"

	"sentry/internal/config"
	"sentry/internal/forge"
	"sentry/internal/sentry"
)

// List is the form of every list.
type List[T any] struct {
	Items []T `json:"items"`
}

// Status is what is: the daemon, and for each group what it does and what it watches.
type Status struct {
	Daemon *Daemon `json:"daemon"` // nil where none is running
	Items  []Group `json:"items"`
	Hosts  []Host  `json:"hosts"`
	// Budgets are what is left of what the APIs of forges allow each credential, as far as they were asked.
	Budgets []forge.BudgetState `json:"budgets"`
}

// Daemon describes a running daemon.
type Daemon struct {
	PID      int       `json:"pid"`
	Version  string    `json:"version"`
	Since    time.Time `json:"since"`
	Config   string    `json:"config"` // the path of the configuration file
	StateDir string    `json:"state_dir"`
	Listen   string    `json:"listen,omitempty"`   // the address that webhooks come to, with the port that it got
	Draining bool      `json:"draining,omitempty"` // it was asked to end and begins nothing new
	Reload   *Reload   `json:"reload,omitempty"`   // how the configuration was last read again; nil when it never was
}

// Reload is how reading the configuration again ended.
type Reload struct {
	At      time.Time `json:"at"`
	OK      bool      `json:"ok"`
	Message string    `json:"message,omitempty"` // what is wrong with it, where it was not taken
}

// GroupState is what a group does.
type GroupState string

// The states of a group. One that runs and is paused is running: the pause holds for what comes after. One that is on
// record as running while nobody runs it is interrupted: its rollout begins again, or is given up, when Sentry starts.
const (
	GroupIdle        GroupState = "idle"
	GroupWaiting     GroupState = "waiting"
	GroupRunning     GroupState = "running"
	GroupInterrupted GroupState = "interrupted"
	GroupPaused      GroupState = "paused"
)

// Group is a group with its members.
type Group struct {
	Name     string          `json:"name"`
	Implicit bool            `json:"implicit"` // made for a repository that names no group
	State    GroupState      `json:"state"`
	Paused   *Pause          `json:"paused,omitempty"`
	Current  *sentry.Rollout `json:"current,omitempty"` // the one that runs, without its steps
	Next     *sentry.Rollout `json:"next,omitempty"`    // the oldest that waits
	Waiting  int             `json:"waiting"`           // how many wait
	Last     *sentry.Rollout `json:"last,omitempty"`    // the newest that has ended
	Policy   *sentry.Policy  `json:"policy,omitempty"`  // as configured now; nil where it is not configured any more
	Members  []Member        `json:"members"`

	unattended bool // nobody owns the state: nothing begins, and nothing goes on
}

// Pause is who paused a group, and why.
type Pause struct {
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// Member is a repository of a group.
type Member struct {
	Repository string  `json:"repository"`
	URL        string  `json:"url"`
	Watches    []Watch `json:"watches"`
}

// Watch is a branch that is polled, what it points at, and how the repository answers.
type Watch struct {
	Branch     string    `json:"branch"`
	Pattern    bool      `json:"pattern,omitempty"` // no branch: a pattern that matches none yet
	Commit     string    `json:"commit,omitempty"`
	Generation int64     `json:"generation,omitempty"`
	Author     string    `json:"author,omitempty"`
	Subject    string    `json:"subject,omitempty"`
	Deleted    bool      `json:"deleted,omitempty"`
	MovedAt    time.Time `json:"moved_at,omitzero"` // when this commit was recorded

	// Only a running daemon knows what follows.
	Answer     string          `json:"answer,omitempty"`  // "ok", or what was answered instead
	Trouble    bool            `json:"trouble,omitempty"` // somebody should look at the answer
	Doubt      string          `json:"doubt,omitempty"`   // what was answered but is not believed yet
	Failures   int             `json:"failures,omitempty"`
	AskedAt    time.Time       `json:"asked_at,omitzero"`
	AnsweredAt time.Time       `json:"answered_at,omitzero"`
	NextAt     time.Time       `json:"next_at,omitzero"`
	Interval   sentry.Duration `json:"interval,omitzero"`
}

// Host is a server that is polled.
type Host struct {
	Host    string    `json:"host"`
	Breaker string    `json:"breaker"`
	Waiting int       `json:"waiting"`
	Active  int       `json:"active"`
	RetryAt time.Time `json:"retry_at,omitzero"` // nothing is asked before
	Reason  string    `json:"reason,omitempty"`
}

// Rollout is one rollout, with what was said of it on the commits.
type Rollout struct {
	sentry.Rollout
	Reports []sentry.Report `json:"reports,omitempty"`
}

// Queued is a rollout that somebody asked for.
type Queued struct {
	ID     string `json:"id"`
	Group  string `json:"group"`
	Joined bool   `json:"joined"` // it waited already, and what was asked for was added to it
	// Found tells that looking first has found something that moved: this rollout of it is what was asked for.
	Found bool `json:"found,omitempty"`
}

// Triggered is what became of a wish for rollouts.
type Triggered struct {
	Items []Queued `json:"items"`
	// Unanswered are the repositories of which the recorded heads are rolled out, because looking first came to nothing.
	Unanswered []Unanswered `json:"unanswered,omitempty"`
}

// Unanswered is a repository that was to tell its heads, and why it did not.
type Unanswered struct {
	Repository string `json:"repository"`
	Reason     string `json:"reason"`
}

// Story says why things are as they are.
type Story struct {
	About About             `json:"about"`
	Now   string            `json:"now"` // the present state, in sentences
	Items []sentry.Decision `json:"items"`
}

// About is what a story is about.
type About struct {
	Kind string `json:"kind"` // group, repository or rollout
	Name string `json:"name"`
}

// TriggerRequest asks for rollouts.
type TriggerRequest struct {
	Targets []string `json:"targets"` // groups and repositories; none means every group
	By      string   `json:"by"`
	Look    bool     `json:"look"` // ask the repositories for their heads first, for at most 3 seconds
}

// CancelRequest asks for the end of a rollout.
type CancelRequest struct {
	By     string `json:"by"`
	Reason string `json:"reason"`
}

// RetryRequest asks for a rollout again.
type RetryRequest struct {
	Failed bool   `json:"failed"` // only the deployments that did not succeed
	By     string `json:"by"`
	Look   bool   `json:"look"` // ask the repositories for their heads first, for at most 3 seconds
}

// PauseRequest pauses a group.
type PauseRequest struct {
	By     string `json:"by"`
	Reason string `json:"reason"`
}

// ResumeRequest resumes a group.
type ResumeRequest struct {
	By string `json:"by"`
}

// Failure is the form of every answer that is not a success.
type Failure struct {
	Error Error `json:"error"`
}

// Error is what went wrong, for a program (Code) and for a person (Message, Hint).
type Error struct {
	Status  int    `json:"-"`
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"` // what to do about it
	// Problems are what is wrong with a configuration, for the code invalid_configuration.
	Problems []config.Problem `json:"problems,omitempty"`
}

func (e *Error) Error() string { return e.Message }
