package monitor

import (
	"maps"
	"slices"
	"strings"
	"time"
	"unique"

	"sentry/internal/sentry"
)

// kind is what happened to a branch.
type kind uint8

const (
	sighted  kind = iota // never seen before
	moved                // at another commit
	returned             // deleted, and back at the same commit
	deleted
)

// move is one thing that is to be recorded.
type move struct {
	kind      kind
	branch    string
	from, to  string // commits; to is "" for a deleted branch, from for a sighted one
	rewritten bool   // it went back to a commit that it had before
	why       string
	revision  sentry.Revision // of to; author, subject and time where they could be learnt
}

// doubts maps branches to what is claimed of them. It is replaced, never changed.
type doubts map[string]doubt

// doubt is a claim of the other side that is not believed yet: replicas that lag behind serve answers of the past.
type doubt struct {
	commit string        // that the branch is said to be at; "" that it is gone
	since  time.Duration // the end of the first question so answered; never: it was contradicted, and is kept so that the same is not told twice
}

// evidence is what an answer is judged by.
type evidence struct {
	repository string
	group      string
	heads      []head
	doubts     doubts // that the answer does not contradict
	absent     []string
	patterns   []sentry.Pattern
	interval   time.Duration
	asked      time.Duration // when the question began
	now        time.Duration
	branches   int // that may be shown
}

// judgement is what follows from an answer. It holds once the moves are recorded, and not before.
type judgement struct {
	moves  []move
	heads  []head
	doubts doubts
	absent []string
	said   []sentry.Decision
}

// unchanged reports whether the answer holds exactly the heads that are alive, live of them, where they were. It is what
// nearly every answer comes to.
func unchanged(heads []head, live int32, answer map[string]string) bool {
	if len(answer) != int(live) {
		return false
	}
	for i := range heads {
		if h := &heads[i]; !h.deleted && !h.commit.is(answer[h.branch]) {
			return false
		}
	}
	return true
}

// judge decides what moved. It changes nothing that it is given. recorded tells whether a branch had a commit before; the
// error is recorded's, or a *sentry.Fault of kind Invalid where the answer cannot be believed at all.
//
//   - A branch at a commit that it never had has moved.
//   - A branch that is gone, or back at a commit that it had before, is doubted: it is believed when every answer for at
//     least an interval has said the same. An answer that says otherwise ends the doubt.
//   - A branch that was never seen is new; one that was deleted and is at the commit that it had then is back.
func judge(e evidence, answer map[string]string, recorded func(branch, commit string) (bool, error)) (judgement, error) {
	j := judgement{heads: slices.Clone(e.heads), doubts: maps.Clone(e.doubts)}
	known := 0
	for i := range j.heads {
		h := &j.heads[i]
		to, there := answer[h.branch]
		if there {
			known++
		}
		switch {
		case !there && h.deleted, there && !h.deleted && h.commit.is(to):
		case !there:
			if j.believe(e, h.branch, "") {
				j.moves = append(j.moves, move{kind: deleted, branch: h.branch, from: h.commit.String(), why: "in no answer for " + over(e, h.branch)})
				h.deleted = true
			}
		case h.commit.is(to):
			j.moves = append(j.moves, move{kind: returned, branch: h.branch, from: to, to: to})
			h.deleted = false
		default:
			if err := j.other(e, h, to, recorded); err != nil {
				return judgement{}, err
			}
		}
	}
	if known < len(answer) {
		if err := j.welcome(e, answer); err != nil {
			return judgement{}, err
		}
	}
	j.miss(e, answer)
	return j, nil
}

// other judges a branch that is at another commit than its head.
func (j *judgement) other(e evidence, h *head, to string, recorded func(branch, commit string) (bool, error)) error {
	commit, err := parseCommit(to)
	if err != nil {
		return sentry.Faultf(sentry.Invalid, "the answer has %s at %q: %w", h.branch, cut(to, 80), err)
	}
	d, doubted := e.doubts[h.branch]
	old := doubted && d.commit == to
	if !old {
		if old, err = recorded(h.branch, to); err != nil {
			return err
		}
	}
	why := ""
	if old {
		if !j.believe(e, h.branch, to) {
			return nil
		}
		why = "back at a commit that it had before, in every answer for " + over(e, h.branch)
	}
	delete(j.doubts, h.branch)
	j.moves = append(j.moves, move{kind: moved, branch: h.branch, from: h.commit.String(), to: to, rewritten: old, why: why})
	h.commit, h.deleted = commit, false
	return nil
}

// welcome takes in branches that were never seen.
func (j *judgement) welcome(e evidence, answer map[string]string) error {
	for branch, to := range answer {
		if _, known := find(e.heads, branch); known || !matches(e.patterns, branch) {
			continue
		}
		// Git makes no such names, so whoever sends one is no friend: it is not watched, and the others are.
		if sentry.CheckBranch(branch) != nil {
			continue
		}
		commit, err := parseCommit(to)
		if err != nil {
			return sentry.Faultf(sentry.Invalid, "the answer has %s at %q: %w", branch, cut(to, 80), err)
		}
		// The answer may share its bytes with everything else that came with it, and other repositories have the same names.
		branch, to = unique.Make(branch).Value(), strings.Clone(to)
		j.heads = append(j.heads, head{branch: branch, commit: commit})
		j.moves = append(j.moves, move{kind: sighted, branch: branch, to: to})
	}
	if n := int(countLive(j.heads)); n > e.branches {
		return sentry.Faultf(sentry.Invalid, "%d branches match; at most %d of one repository are watched", n, e.branches)
	}
	if len(j.heads) > len(e.heads) {
		j.heads = slices.Concat(j.heads) // without the room to grow that append has left
		slices.SortFunc(j.heads, byBranch)
		slices.SortStableFunc(j.moves, func(a, b move) int { return strings.Compare(a.branch, b.branch) })
	}
	return nil
}

// miss notes the exact names for which there is no branch. They are told once.
func (j *judgement) miss(e evidence, answer map[string]string) {
	for _, p := range e.patterns {
		if !p.Exact() {
			continue
		}
		name := p.String()
		if _, there := answer[name]; there {
			continue
		}
		if _, known := find(j.heads, name); known || slices.Contains(j.absent, name) {
			continue
		}
		j.absent = append(j.absent, name)
		if !slices.Contains(e.absent, name) {
			j.said = append(j.said, sentry.Decision{Verb: sentry.Answering, Group: e.group, Repository: e.repository, Branch: name, Reason: "there is no branch of this name"})
		}
	}
}

// believe reports whether a claim that was doubted is believed now; else the doubt begins, or stands.
func (j *judgement) believe(e evidence, branch, commit string) bool {
	d, known := e.doubts[branch]
	same := known && d.commit == commit
	if same && d.since != never {
		if e.asked-d.since < e.interval {
			return false
		}
		delete(j.doubts, branch)
		return true
	}
	if j.doubts == nil {
		j.doubts = doubts{}
	}
	j.doubts[branch] = doubt{strings.Clone(commit), e.now}
	if !same {
		reason := "it is said to be gone"
		if commit != "" {
			reason = "it is said to be back at a commit that it had before"
		}
		j.said = append(j.said, sentry.Decision{
			Verb: sentry.Doubted, Group: e.group, Repository: e.repository, Branch: branch, Commit: commit,
			Reason: reason + ": not believed before every answer for " + e.interval.String() + " has said so",
		})
	}
	return false
}

// over says how long a claim has been made.
func over(e evidence, branch string) string {
	return (e.now - e.doubts[branch].since).Round(time.Millisecond).String()
}

// against gives the doubts that are left after an answer: one ends, and is only remembered, when the answer does not claim
// the same. This holds whatever else becomes of the answer: else a lie, a truth that could not be recorded and the lie again
// would count as a lie that was never contradicted.
func (d doubts) against(answer map[string]string) doubts {
	var left doubts
	for branch, x := range d {
		if x.since == never || x.commit == answer[branch] {
			continue
		}
		if left == nil {
			left = maps.Clone(d)
		}
		x.since = never
		left[branch] = x
	}
	if left == nil {
		return d
	}
	return left
}

// oldest is when the oldest doubt that stands began; never where none does.
func (d doubts) oldest() time.Duration {
	since := never
	for _, x := range d {
		if x.since != never && (since == never || x.since < since) {
			since = x.since
		}
	}
	return since
}

// cut shortens a text from outside to n bytes for a message.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "") + "…"
}
