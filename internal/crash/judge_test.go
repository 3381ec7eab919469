package crash

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sentry/internal/sentry"
)

// evidence is all that a verdict is based on. The testimony comes from the commands, forge from the hand that moved the
// branches, state from Sentry; the rest was agreed before.
type evidence struct {
	testimony
	forge    map[sentry.Watch][]string // the commits each branch had, oldest first
	state    []sentry.Rollout          // what Sentry says of itself, oldest first
	promised []string                  // the rollouts that Sentry said it had queued for a person

	groups  map[string]group
	members map[string]member // by repository
	trees   map[string]string // what a workspace holds, by commit of the QA repository; nil where nobody looked
}

// group is how a group was configured.
type group struct {
	limit      int  // how many deployments at once
	sequential bool // then in their order, and limit is 1
	stop       bool // continue_on_error is false
	every      bool // queue: every
}

// member is how a repository was configured.
type member struct {
	group   string
	steps   int  // commands
	retries int  // of each
	fresh   bool // on_first_seen: deploy
}

// finding is one thing that must not be.
type finding struct {
	rule string
	line int // of the witness; 0 where it is about what is missing, or about the state
	what string
}

func (f finding) String() string {
	if f.line == 0 {
		return f.rule + ": " + f.what
	}
	return fmt.Sprintf("%s: line %d: %s", f.rule, f.line, f.what)
}

// The rules, and which invariants of the promise they are about.
var rules = []struct {
	name  string
	check func(*evidence, func(line int, format string, args ...any))
}{
	{"understood", understood}, // the evidence itself, and that no workspace was torn
	{"dead", dead},             // 6, 8: what a dead daemon left is ended before anything begins
	{"exclusive", exclusive},   // 3: one rollout of a group, one deployment of a repository, max_parallel
	{"sequence", sequence},     // 3: turns are kept, nothing begins after a failure that stops
	{"ordered", ordered},       // 5: no older head after a newer one
	{"doubled", doubled},       // 4: only an interruption or a configured retry repeats
	{"lost", lost},             // 1, 2: what the forge has in the end was rolled out; what was promised happened
	{"recorded", recorded},     // 1: each move of a head has its number and its one rollout
	{"terminal", terminal},     // 6, 10: everything has ended, and none was given up
	{"truthful", truthful},     // the verdicts are what the witness saw
}

// judge applies every rule.
func judge(e *evidence) []finding {
	var found []finding
	for _, r := range rules {
		told := map[string]bool{} // a process that outlives its time breaks a rule with each line
		r.check(e, func(line int, format string, args ...any) {
			what := fmt.Sprintf(format, args...)
			if !told[what] {
				told[what] = true
				found = append(found, finding{r.name, line, what})
			}
		})
	}
	slices.SortStableFunc(found, func(a, b finding) int { return cmp.Compare(a.line, b.line) })
	return found
}

func understood(e *evidence, report func(int, string, ...any)) {
	for _, r := range e.runs {
		switch m, ok := e.members[r.watch.Repository]; {
		case !ok || m.group != r.group:
			report(r.first, "%s: %s is not in group %s", r.key, r.watch.Repository, r.group)
		case !strings.HasPrefix(r.deployment, r.rollout+"-"):
			report(r.first, "%s is not of rollout %s", r.key, r.rollout)
		case r.vector != r.commit || r.generation < 1:
			report(r.first, "%s is for %s, and its vector says %s generation %d", r.key, r.commit, r.vector, r.generation)
		case e.trees != nil && e.trees[r.qa] == "":
			report(r.first, "%s ran in a workspace at %s, which the QA repository never was at", r.key, r.qa)
		case e.trees != nil && e.trees[r.qa] != r.tree:
			report(r.first, "%s ran in a torn workspace: %s is %s, not %s", r.key, r.qa, e.trees[r.qa], r.tree)
		}
	}
}

func dead(e *evidence, report func(int, string, ...any)) {
	newest, stopped := 0, 0
	for _, l := range e.lines {
		switch {
		case l.kind == "stopped":
			stopped = max(stopped, l.life)
		case l.run == nil:
		case l.life <= stopped:
			report(l.number, "the %s process of %s outlived the end of life %d", l.who, l.run.key, stopped)
		case l.life < newest:
			report(l.number, "the %s process of %s, of life %d, was alive after life %d had begun a command", l.who, l.run.key, l.life, newest)
		case l.kind == "start":
			newest = l.life
		}
	}
}

func exclusive(e *evidence, report func(int, string, ...any)) {
	rollout := map[string]string{} // that a group runs
	current := map[string]*run{}   // of a deployment
	for _, l := range e.lines {
		r := l.run
		if r == nil {
			continue
		}
		if l.kind == "start" {
			rollout[r.group], current[r.deployment] = r.rollout, r
			continue
		}
		if now := rollout[r.group]; now != r.rollout {
			report(l.number, "the %s process of %s was alive after rollout %s of its group had begun", l.who, r.key, now)
		}
		if now := current[r.deployment]; now != r {
			report(l.number, "the %s process of %s was alive after %s had begun", l.who, r.key, now.key)
		}
	}
	atOnce(e, report)
}

// atOnce counts the attempts that were alive at the same time: from the first line of one to its last.
func atOnce(e *evidence, report func(int, string, ...any)) {
	begins, ends := map[int]*attempt{}, map[int]*attempt{}
	for _, a := range e.attempts {
		begins[a.one().first], ends[a.last()] = a, a
	}
	alive := map[string][]*attempt{} // by group
	for _, l := range e.lines {
		if a := begins[l.number]; a != nil {
			group := a.one().group
			for _, other := range alive[group] {
				if other.one().watch.Repository == a.one().watch.Repository {
					report(l.number, "%s and %s ran at once: both are of repository %s", other.one().key, a.one().key, a.one().watch.Repository)
				}
			}
			alive[group] = append(alive[group], a)
			if n := len(alive[group]); n > e.groups[group].limit {
				report(l.number, "%d deployments of group %s at once, with %s", n, group, a.one().key)
			}
		}
		if a := ends[l.number]; a != nil {
			group := a.one().group
			alive[group] = slices.DeleteFunc(alive[group], func(other *attempt) bool { return other == a })
		}
	}
}

func sequence(e *evidence, report func(int, string, ...any)) {
	for _, a := range e.attempts {
		for i, r := range a.runs {
			switch {
			case i == 0 && (r.step != 1 || r.try != 1):
				report(r.first, "%s began in the middle", r.key)
			case i == 0:
			case r.try == 1 && (r.step != a.runs[i-1].step+1 || a.runs[i-1].end == 0 || a.runs[i-1].code != 0),
				r.try > 1 && (r.step != a.runs[i-1].step || r.try != a.runs[i-1].try+1 || a.runs[i-1].end == 0 || a.runs[i-1].code == 0):
				report(r.first, "%s does not follow from %s, which ended with %d", r.key, a.runs[i-1].key, a.runs[i-1].code)
			}
		}
	}
	newest := map[string]*run{}              // by group: of the youngest rollout
	furthest := map[string]map[string]*run{} // by rollout and, in a parallel group, repository: the highest ordinal begun
	broken := map[string]*run{}              // by rollout: a failure after which nothing of a higher ordinal may begin
	for _, l := range e.lines {
		r := l.run
		if r == nil {
			continue
		}
		g := e.groups[r.group]
		if l.kind == "end" && g.sequential && g.stop && r.code != 0 && r.try > e.members[r.watch.Repository].retries {
			broken[r.rollout] = r
		}
		if l.kind != "start" {
			continue
		}
		if before := newest[r.group]; before != nil && sequenceOf(before.rollout) > sequenceOf(r.rollout) {
			report(l.number, "rollout %s of group %s began after %s", r.rollout, r.group, before.rollout)
		} else {
			newest[r.group] = r
		}
		lane := r.watch.Repository
		if g.sequential {
			lane = "" // all in one
		}
		if furthest[r.rollout] == nil {
			furthest[r.rollout] = map[string]*run{}
		}
		if before := furthest[r.rollout][lane]; before != nil && before.ordinal() > r.ordinal() {
			report(l.number, "%s began after %s, which comes later", r.key, before.key)
		} else {
			furthest[r.rollout][lane] = r
		}
		if failed := broken[r.rollout]; failed != nil && failed.ordinal() < r.ordinal() {
			report(l.number, "%s began although %s had failed and continue_on_error is false", r.key, failed.key)
		}
	}
}

// sequenceOf is the number of a rollout.
func sequenceOf(rollout string) int {
	number, _, _ := strings.Cut(rollout, "-")
	n, _ := strconv.Atoi(number)
	return n
}

func ordered(e *evidence, report func(int, string, ...any)) {
	type place struct {
		generation int64
		index      int // in what the forge had
	}
	at := map[sentry.Watch]place{}
	first := map[sentry.Watch]map[int64]*run{}
	for _, r := range e.runs {
		now, seen := at[r.watch]
		if seen && r.generation < now.generation {
			report(r.first, "%s is for generation %d of %s, and %d had begun before", r.key, r.generation, r.watch, now.generation)
			continue
		}
		if first[r.watch] == nil {
			first[r.watch] = map[int64]*run{}
		}
		if same := first[r.watch][r.generation]; same != nil {
			if same.commit != r.commit {
				report(r.first, "generation %d of %s is %s for %s and %s for %s", r.generation, r.watch, same.commit, same.key, r.commit, r.key)
			}
			continue
		}
		first[r.watch][r.generation] = r
		index := now.index
		if seen {
			index++ // another generation is another moment of the forge
		}
		history := e.forge[r.watch]
		next := -1
		if index <= len(history) {
			next = slices.Index(history[index:], r.commit)
		}
		if next < 0 {
			report(r.first, "%s is for %s of %s, which the forge did not have after what began before", r.key, r.commit, r.watch)
			continue
		}
		at[r.watch] = place{r.generation, index + next}
	}
}

func doubled(e *evidence, report func(int, string, ...any)) {
	before := map[string]*attempt{}
	for _, a := range e.attempts {
		if b := before[a.deployment]; b != nil {
			if a.number <= b.number {
				report(a.one().first, "%s came after attempt %d", a.one().key, b.number)
			}
			if a.one().life <= b.one().life {
				report(a.one().first, "%s came in life %d, and nothing had interrupted attempt %d of life %d", a.one().key, a.one().life, b.number, b.one().life)
			}
		}
		before[a.deployment] = a
		final := a.runs[len(a.runs)-1]
		if most := 1 + e.members[final.watch.Repository].retries; final.try > most {
			report(final.first, "%s: %d are allowed", final.key, most)
		}
	}
	type work struct {
		sentry.Watch
		generation int64
	}
	rollout := map[work]string{}
	for _, r := range e.runs {
		if !r.changed {
			continue
		}
		w := work{r.watch, r.generation}
		if other, known := rollout[w]; known && other != r.rollout {
			report(r.first, "generation %d of %s was rolled out by %s and again by %s", r.generation, r.watch, other, r.rollout)
		}
		rollout[w] = r.rollout
	}
}

func lost(e *evidence, report func(int, string, ...any)) {
	newest := map[sentry.Watch]*attempt{}
	for _, a := range e.attempts {
		if b := newest[a.one().watch]; b == nil || a.one().generation >= b.one().generation {
			newest[a.one().watch] = a
		}
	}
	for watch, history := range e.forge {
		final := history[len(history)-1]
		a := newest[watch]
		switch {
		case a == nil && len(history) == 1 && !e.members[watch.Repository].fresh:
			// It never moved: a baseline.
		case a == nil:
			report(0, "%s is at %s, and nothing of it was ever rolled out", watch, final)
		case a.one().commit != final:
			report(0, "%s is at %s, and the last that was rolled out is %s, by %s", watch, final, a.one().commit, a.one().key)
		case !a.succeeded(e.members[watch.Repository].steps):
			report(0, "%s is at %s, and %s, the last of it, did not come to a good end", watch, final, a.one().key)
		}
	}
	for _, id := range e.promised {
		if !slices.ContainsFunc(e.state, func(r sentry.Rollout) bool { return r.ID == id }) {
			report(0, "rollout %s was promised and does not exist", id)
		}
	}
}

func recorded(e *evidence, report func(int, string, ...any)) {
	ran, failed := map[string]bool{}, map[string]bool{} // deployments that began, rollouts in which one failed
	for _, a := range e.attempts {
		ran[a.deployment] = true
		if a.failed(e.members[a.one().watch.Repository].retries) {
			failed[a.one().rollout] = true
		}
	}
	generations := map[sentry.Watch][]int64{}
	for _, rollout := range e.state {
		newest := map[sentry.Watch]int64{}
		for _, c := range rollout.Trigger.Changes {
			generations[c.Watch] = append(generations[c.Watch], c.Generation)
			if g := newest[c.Watch]; g != 0 && e.groups[rollout.Group].every {
				report(0, "rollout %s of group %s, which rolls out every change, has generations %d and %d of %s", rollout.ID, rollout.Group, g, c.Generation, c.Watch)
			}
			newest[c.Watch] = max(newest[c.Watch], c.Generation)
		}
		for watch, generation := range newest {
			i := slices.IndexFunc(rollout.Deployments, func(d sentry.Deployment) bool { return d.Watch == watch && d.Generation == generation })
			switch {
			case i < 0:
				report(0, "rollout %s has generation %d of %s as a change and no deployment for it", rollout.ID, generation, watch)
			case ran[rollout.Deployments[i].ID]:
			case rollout.Deployments[i].Status == sentry.Skipped && e.groups[rollout.Group].stop && failed[rollout.ID]:
			default:
				report(0, "deployment %s for generation %d of %s is %s and never began", rollout.Deployments[i].ID, generation, watch, rollout.Deployments[i].Status)
			}
		}
	}
	for watch, list := range generations {
		slices.Sort(list)
		expected := int64(2)
		if e.members[watch.Repository].fresh {
			expected = 1
		}
		for _, g := range list {
			switch {
			case g < expected:
				report(0, "generation %d of %s is a change of two rollouts", g, watch)
			case g > expected:
				report(0, "generation %d of %s is a change of no rollout", expected, watch)
				expected = g + 1
			default:
				expected++
			}
		}
	}
}

func terminal(e *evidence, report func(int, string, ...any)) {
	for _, rollout := range e.state {
		if !rollout.Status.Terminal() || rollout.Status == sentry.Interrupted {
			report(0, "rollout %s of group %s is %s: %s", rollout.ID, rollout.Group, rollout.Status, rollout.Reason)
		}
		for _, d := range rollout.Deployments {
			if !d.Status.Terminal() || d.Status == sentry.Interrupted {
				report(0, "deployment %s of %s is %s: %s", d.ID, d.Watch, d.Status, d.Reason)
			}
		}
	}
}

func truthful(e *evidence, report func(int, string, ...any)) {
	last := map[string]*attempt{}
	for _, a := range e.attempts {
		last[a.deployment] = a
	}
	for _, rollout := range e.state {
		outcomes := map[sentry.Status]bool{}
		for _, d := range rollout.Deployments {
			outcomes[d.Status] = true
			a, m := last[d.ID], e.members[d.Repository]
			delete(last, d.ID)
			if a == nil {
				// It may have been interrupted before its first command, but not have come to an end without one.
				if d.Status == sentry.Succeeded || d.Status == sentry.TimedOut || d.Status == sentry.Failed && d.Commit != "" {
					report(0, "deployment %s %s in attempt %d, and no command of it ever ran: %s", d.ID, d.Status, d.Attempt, d.Reason)
				}
				continue
			}
			one := a.one()
			switch {
			case one.rollout != rollout.ID || one.group != rollout.Group || one.watch != d.Watch || one.commit != d.Commit || one.generation != d.Generation:
				report(one.first, "%s is for generation %d of %s at %s, and deployment %s of group %s for generation %d of %s at %s",
					one.key, one.generation, one.watch, one.commit, d.ID, rollout.Group, d.Generation, d.Watch, d.Commit)
			case d.Attempt < a.number:
				report(one.first, "%s began, and attempt %d is the last that was recorded", one.key, d.Attempt)
			case d.Attempt > a.number && d.Status != sentry.Canceled:
				report(one.first, "deployment %s %s in attempt %d, and attempt %d was the last to begin", d.ID, d.Status, d.Attempt, a.number)
			case d.Status == sentry.Succeeded && !a.succeeded(m.steps):
				report(one.first, "deployment %s succeeded, and %s did not", d.ID, a.runs[len(a.runs)-1].key)
			case d.Status == sentry.Failed && !a.failed(m.retries):
				report(one.first, "deployment %s failed (%s), and %s did not", d.ID, d.Reason, a.runs[len(a.runs)-1].key)
			case d.Status != sentry.Succeeded && d.Status != sentry.Failed && d.Status != sentry.Interrupted && d.Status.Terminal():
				report(one.first, "deployment %s was %s (%s), and nobody asked for that", d.ID, d.Status, d.Reason)
			}
		}
		if rollout.Status == sentry.Succeeded && (outcomes[sentry.Failed] || outcomes[sentry.Skipped] || !outcomes[sentry.Succeeded]) {
			report(0, "rollout %s succeeded, and its deployments did not: %s", rollout.ID, rollout.Reason)
		}
		if rollout.Status == sentry.Failed && !outcomes[sentry.Failed] {
			report(0, "rollout %s failed, and none of its deployments did: %s", rollout.ID, rollout.Reason)
		}
	}
	for _, a := range last {
		report(a.one().first, "%s began, and the history has no such deployment", a.one().key)
	}
}
