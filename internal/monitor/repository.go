package monitor

import (
	"slices"
	"strings"
	"time"

	"sentry/internal/config"
	"sentry/internal/sentry"
)

// phase is where a repository is between two questions.
type phase uint8

const (
	resting   phase = iota // nothing is planned: the monitor does not run, or not for this repository
	scheduled              // its alarm is set
	waiting                // it is due, and in a queue of its lane
	asking                 // a goroutine asks it, and holds a place of its lane
	recording              // a goroutine has what moved recorded; its lane is free again
)

// head is what the monitor keeps of a watch: 56 bytes and the name, where names that are equal share their bytes.
type head struct {
	branch  string
	commit  commitID
	deleted bool
}

// repository is the state of one repository. Monitor.mu guards it. While it is asking or recording, the goroutine that
// does so owns the fields under "what is known": it alone changes them, under the lock, so it reads them without. The
// slice and the map are replaced, never changed: a snapshot may keep them.
type repository struct {
	alarm alarm

	config *config.Repository
	group  *config.Group
	lane   *lane

	// what is known
	heads  []head        // by branch
	doubts doubts        // what is not believed yet, or was not
	way    string        // how it was asked last, among others
	absent []string      // exact names that the last answer did not have, and no head tells of
	since  time.Duration // when the oldest doubt began that stands; never where none does
	live   int32         // heads that are not deleted
	loaded bool          // heads holds what the store has
	judged bool          // heads, doubts and absent follow from an answer: the same answer changes nothing

	// how it goes
	polls    uint8         // questions answered since something moved, up to cold
	trouble  *trouble      // why the last question failed; nil where it did not
	failing  time.Duration // since when
	asked    time.Duration // when the last question began
	answered time.Duration // when the last one was answered
	changed  time.Duration // when something moved; the start of the monitor where nothing has
	notAgain time.Duration // not even a hint asks it before this moment
	due      time.Duration // when it is to be asked at the latest, hot or not
	heat     *heat         // why it is hot; nil where it is not
	failures int32         // in a row

	phase    phase
	hastened bool // it is due only because it is hot, or of a hint
	fresh    bool // the next question must ask it for itself
	hinted   bool // a hint came while it was asked: once more
	spread   bool // it is one of many new ones: its second question is drawn from the whole interval
	gone     bool // replaced or removed: what its last question brings is thrown away
	counted  bool // the pass that goes on waits for it
}

// trouble is why a repository does not answer.
type trouble struct {
	kind   sentry.FaultKind
	reason string
}

// unrecorded is the kind of trouble in which the repository answers, but what moved cannot be recorded.
const unrecorded sentry.FaultKind = "unrecorded"

func newRepository(c *config.Repository, g *config.Group) *repository {
	r := &repository{
		config: c, group: g, since: never, way: UsualWay,
		asked: never, answered: never, notAgain: never, polls: cold,
	}
	r.alarm.repository = r
	return r
}

// interval is the one configured, never below a millisecond: a monitor that spins helps nobody.
func (r *repository) interval() time.Duration {
	return max(time.Millisecond, r.config.Monitor.Interval)
}

// full reports whether the repository itself is to be asked, and not what tells of many: after a hint, hot, in doubt, when there
// is nothing that could have stayed the same, and when there was something wrong with it. Where an answer for many tells
// where their branches are, it is good enough to begin with: else the start would be one question for each.
func (r *repository) full() bool {
	return r.fresh || r.hastened || r.since != never || r.trouble != nil && r.trouble.kind != sentry.RateLimited ||
		!r.judged && (r.lane.sweep || r.answered != never)
}

func byBranch(a, b head) int { return strings.Compare(a.branch, b.branch) }

// doubt takes over what is doubted. The caller holds Monitor.mu.
func (r *repository) doubt(d doubts) { r.doubts, r.since = d, d.oldest() }

// find gives the place of a branch in heads, which are sorted by branch.
func find(heads []head, branch string) (int, bool) {
	return slices.BinarySearchFunc(heads, branch, func(h head, name string) int { return strings.Compare(h.branch, name) })
}

func countLive(heads []head) int32 {
	n := int32(0)
	for i := range heads {
		if !heads[i].deleted {
			n++
		}
	}
	return n
}

func matches(patterns []sentry.Pattern, branch string) bool {
	for _, p := range patterns {
		if p.Match(branch) {
			return true
		}
	}
	return false
}
