package sentry

import "time"

// Watch identifies one branch of one repository that is polled.
type Watch struct {
	Repository string `json:"repository"`
	Branch     string `json:"branch"`
}

func (w Watch) String() string { return w.Repository + "@" + w.Branch }

// Revision is what a branch pointed at when it was asked. Author, subject and time are empty where the question that
// was asked does not tell them.
type Revision struct {
	Commit  string    `json:"commit"` // 40 or 64 lower-case hexadecimal digits
	Author  string    `json:"author,omitempty"`
	Subject string    `json:"subject,omitempty"`
	Time    time.Time `json:"time,omitzero"`
}

// Head is the newest revision recorded for a watch. It is durable.
type Head struct {
	Watch
	Revision
	// Generation counts the moves of the head, from 1 for the baseline. (Watch, Generation) is the identity of work;
	// the commit alone is not, because a branch may come back to an old commit.
	Generation int64     `json:"generation"`
	Deleted    bool      `json:"deleted,omitempty"` // the branch was gone when last asked; Revision is its last one
	RecordedAt time.Time `json:"recorded_at"`
}

// Change is a head that moved.
type Change struct {
	Watch
	Generation int64     `json:"generation"` // the generation that To has
	From       string    `json:"from,omitempty"`
	To         string    `json:"to"`
	Author     string    `json:"author,omitempty"`
	Subject    string    `json:"subject,omitempty"`
	Time       time.Time `json:"time,omitzero"`
	// Rewritten tells that the branch went back to a commit that it had before (a force push or a reset).
	Rewritten  bool      `json:"rewritten,omitempty"`
	RecordedAt time.Time `json:"recorded_at"`
}
