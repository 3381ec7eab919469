package monitor

import (
	"cmp"
	"slices"
	"time"

	"github.com/sony/gobreaker/v2"

	"sentry/internal/config"
	"sentry/internal/sentry"
)

// WatchState is what a person may know of a watch. Its times are for display: they follow the wall clock as it is now.
type WatchState struct {
	sentry.Watch               // the branch, or a pattern that no branch matches
	Commit       string        `json:"commit,omitempty"`
	Answer       string        `json:"answer"` // Answer…, AnswerFailing and why
	Doubt        string        `json:"doubt,omitempty"`
	LastAsked    time.Time     `json:"last_asked,omitzero"`
	LastAnswered time.Time     `json:"last_answered,omitzero"`
	NextDue      time.Time     `json:"next_due,omitzero"` // not after now while it waits or is asked; zero when nothing is planned
	Interval     time.Duration `json:"interval_ns"`
	Failures     int           `json:"failures"` // in a row
}

// What WatchState.Answer says.
const (
	AnswerOK       = "ok"
	AnswerDeleted  = "deleted"
	AnswerNoBranch = "no such branch"
	AnswerNoMatch  = "no branch matches"
	AnswerNotAsked = "not asked yet"
	AnswerFailing  = "failing: " // and why
)

// HostState is what a person may know of a lane.
type HostState struct {
	Host    string    `json:"host"`              // scheme, name and port; and which account, where several are used there
	Breaker string    `json:"breaker"`           // closed, half-open or open
	Waiting int       `json:"waiting"`           // repositories that are due and not asked yet
	Active  int       `json:"active"`            // questions that are out
	RetryAt time.Time `json:"retry_at,omitzero"` // nothing is asked before; zero when it may be asked
	Reason  string    `json:"reason,omitempty"`
}

// chunk is how many repositories are copied under the lock at a time: some 20 µs.
const chunk = 256

// view is what Watches needs of a repository. Heads and doubts are never changed, so they are looked at without the lock.
type view struct {
	config   *config.Repository
	heads    []head
	doubts   doubts
	trouble  *trouble
	failures int
	asked    time.Duration
	answered time.Duration
	next     time.Duration
}

// Watches gives the state of every watch, in the order of the configuration and by branch. Questions go on meanwhile, so
// repositories far from each other may be shown some milliseconds apart.
func (m *Monitor) Watches() []WatchState {
	m.mu.Lock()
	order := m.order
	m.mu.Unlock()
	var out []WatchState
	views := make([]view, 0, chunk)
	for part := range slices.Chunk(order, chunk) {
		m.mu.Lock()
		views = views[:0]
		for _, r := range part {
			views = append(views, r.view())
		}
		m.mu.Unlock()
		display := m.display()
		for i := range views {
			out = views[i].appendTo(out, display)
		}
	}
	return out
}

// display turns moments into times for people; never into the zero time.
func (m *Monitor) display() func(time.Duration) time.Time {
	wall, now := time.Now().Round(0), m.now()
	return func(at time.Duration) time.Time {
		if at == never || at == forever {
			return time.Time{}
		}
		return wall.Add(at - now)
	}
}

func (r *repository) view() view {
	v := view{
		config: r.config, heads: r.heads, doubts: r.doubts, trouble: r.trouble, failures: int(r.failures),
		asked: r.asked, answered: r.answered, next: never,
	}
	if l := r.lane; v.trouble == nil && l.silent {
		v.trouble = &trouble{sentry.Transient, l.key + " is left alone: " + l.reason}
	}
	switch r.phase {
	case scheduled, waiting: // while it waits, the alarm has rung
		v.next = r.alarm.at
	case asking, recording:
		v.next = r.asked
	}
	return v
}

func (v *view) appendTo(out []WatchState, display func(time.Duration) time.Time) []WatchState {
	state := WatchState{
		LastAsked: display(v.asked), LastAnswered: display(v.answered), NextDue: display(v.next),
		Interval: v.config.Monitor.Interval, Failures: v.failures,
	}
	state.Repository = v.config.Name
	// How a repository answers goes over what its answer was.
	answer := func(answer string) string {
		switch {
		case v.trouble != nil:
			return AnswerFailing + v.trouble.reason
		case v.answered == never:
			return AnswerNotAsked
		}
		return answer
	}
	begin := len(out)
	for i := range v.heads {
		h := &v.heads[i]
		s := state
		s.Branch, s.Commit, s.Answer = h.branch, h.commit.String(), answer(AnswerOK)
		if h.deleted {
			s.Answer = answer(AnswerDeleted)
		}
		if d, ok := v.doubts[h.branch]; ok && d.since != never {
			s.Doubt = "said to be gone"
			if d.commit != "" {
				s.Doubt = "said to be back at " + d.commit
			}
		}
		out = append(out, s)
	}
	for _, p := range v.config.Monitor.Branches {
		if v.matched(p) {
			continue
		}
		s := state
		s.Branch, s.Answer = p.String(), answer(AnswerNoMatch)
		if p.Exact() {
			s.Answer = answer(AnswerNoBranch)
		}
		out = append(out, s)
	}
	slices.SortStableFunc(out[begin:], func(a, b WatchState) int { return cmp.Compare(a.Branch, b.Branch) })
	return out
}

// matched reports whether a head shows what a pattern stands for.
func (v *view) matched(p sentry.Pattern) bool {
	if p.Exact() {
		_, ok := find(v.heads, p.String())
		return ok
	}
	return slices.ContainsFunc(v.heads, func(h head) bool { return p.Match(h.branch) })
}

// Hosts gives the state of every lane, by name.
func (m *Monitor) Hosts() []HostState {
	m.mu.Lock()
	defer m.mu.Unlock()
	display, now := m.display(), m.now()
	out := make([]HostState, 0, len(m.lanes))
	for _, l := range m.lanes {
		s := HostState{Host: l.key, Breaker: gobreaker.StateClosed.String(), Waiting: l.waiting(), Active: l.active}
		if l.breaker != nil {
			s.Breaker = l.breaker.State().String()
		}
		if l.quiet > now {
			s.RetryAt, s.Reason = display(l.quiet), l.reason
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b HostState) int { return cmp.Compare(a.Host, b.Host) })
	return out
}
