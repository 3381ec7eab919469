package deploy

import (
	"fmt"
	"slices"
	"strings"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// Facts are what a plan is made from.
type Facts struct {
	Config  *config.Config
	Rollout sentry.Rollout // pending, with its changes
	Heads   []sentry.Head  // of the members of the group, at least
	// Later are the changes that wait in younger rollouts of the group, oldest first. What has a turn of its own is
	// not taken early: an older head must never start after a newer one.
	Later []sentry.Change
}

// Plan says what a rollout will do. It reads and writes nothing but its arguments.
//
// Each watch that changed gets a deployment at the commit it moved to. Members that did not change get one for their
// first branch at its recorded head, where the whole group is rolled out. A change that no longer belongs to the group
// is handed to the group that its repository is in now, or dropped when nothing watches it any more.
func Plan(f Facts) store.Plan {
	group, known := f.Config.Group(f.Rollout.Group)
	p := planner{facts: f, heads: map[sentry.Watch]sentry.Head{}, deferred: map[sentry.Watch]sentry.Change{}}
	for _, h := range f.Heads {
		p.heads[h.Watch] = h
	}
	for _, c := range f.Later {
		if _, older := p.deferred[c.Watch]; !older {
			p.deferred[c.Watch] = c
		}
	}
	p.sortChanges()
	if !known {
		return store.Plan{Strays: p.strays, Reason: fmt.Sprintf("group %s is no longer configured", f.Rollout.Group)}
	}
	plan := store.Plan{Policy: group.Policy, Strays: p.strays}
	for _, member := range f.Config.Members(group.Name) {
		p.member(member, group.Policy.Scope)
	}
	for i := range p.deployments {
		d := &p.deployments[i]
		d.Ordinal = i + 1
		d.ID = sentry.DeploymentID(f.Rollout.ID, d.Ordinal)
	}
	plan.Deployments = p.deployments
	plan.Vector = p.vector
	plan.Reason = p.summary(group.Policy)
	if len(plan.Deployments) == 0 {
		plan.Reason = "nothing is left to roll out: what it was for is no longer configured in group " + group.Name
	}
	return plan
}

// movedOut gives the changes of a rollout that belong to other groups by now.
func movedOut(cfg *config.Config, r sentry.Rollout) []store.Stray {
	p := planner{facts: Facts{Config: cfg, Rollout: r}}
	p.sortChanges()
	return slices.DeleteFunc(p.strays, func(s store.Stray) bool { return s.Group == "" })
}

type planner struct {
	facts       Facts
	heads       map[sentry.Watch]sentry.Head
	deferred    map[sentry.Watch]sentry.Change // the oldest change of a watch that has a later turn
	changes     map[sentry.Watch]sentry.Change // folded: from the first From to the last To
	strays      []store.Stray
	deployments []sentry.Deployment
	vector      []sentry.VectorEntry
}

// sortChanges folds the changes of each watch into one and sets those aside that do not belong to the group any more.
func (p *planner) sortChanges() {
	p.changes = map[sentry.Watch]sentry.Change{}
	for _, c := range p.facts.Rollout.Trigger.Changes {
		repo, ok := p.facts.Config.Repository(c.Repository)
		switch {
		case !ok:
			p.strays = append(p.strays, store.Stray{Change: c, Reason: fmt.Sprintf("repository %s is no longer configured", c.Repository)})
			continue
		case !watches(repo, c.Branch):
			p.strays = append(p.strays, store.Stray{Change: c, Reason: fmt.Sprintf("branch %s of %s is no longer watched", c.Branch, c.Repository)})
			continue
		case repo.Group != p.facts.Rollout.Group:
			stray := store.Stray{Change: c, Group: repo.Group, Queue: sentry.Latest, Reason: fmt.Sprintf("repository %s moved to group %s", c.Repository, repo.Group)}
			if g, ok := p.facts.Config.Group(repo.Group); ok {
				stray.Queue = g.Policy.Queue
			}
			p.strays = append(p.strays, stray)
			continue
		}
		if first, seen := p.changes[c.Watch]; seen {
			c.From = first.From
			c.Rewritten = c.Rewritten || first.Rewritten
		}
		p.changes[c.Watch] = c
	}
}

// member adds the deployments of one repository and its watches to the vector.
func (p *planner) member(repo *config.Repository, scope sentry.Scope) {
	wanted := p.branches(repo)
	t := p.facts.Rollout.Trigger
	whole := t.Whole || (scope == sentry.ScopeGroup && len(p.changes) > 0)
	asked := whole || slices.Contains(t.Repositories, repo.Name)

	first := true
	planned := 0
	for _, w := range wanted {
		change, changed := p.changes[w]
		head, recorded := p.standing(w)
		if changed {
			if recorded && head.Generation > change.Generation {
				// Its repository was in another group meanwhile, which rolled out a newer head: never go back.
				change.To, change.Generation, change.Author, change.Subject = head.Commit, head.Generation, head.Author, head.Subject
			}
			p.add(w, sentry.Revision{Commit: change.To, Author: change.Author, Subject: change.Subject}, change.From, change.Generation)
			p.vector = append(p.vector, sentry.VectorEntry{Watch: w, Commit: change.To, Generation: change.Generation, Changed: true})
			planned++
			first = false
			continue
		}
		if !recorded {
			if slices.Contains(t.Watches, w) { // asked for by name, and gone: that is an answer, not an omission
				p.add(w, sentry.Revision{}, "", 0)
				planned++
			}
			continue
		}
		p.vector = append(p.vector, sentry.VectorEntry{Watch: w, Commit: head.Commit, Generation: head.Generation})
		if slices.Contains(t.Watches, w) || (asked && first && !p.anyChange(repo.Name)) {
			p.add(w, head.Revision, "", head.Generation)
			planned++
		}
		first = false
	}
	if asked && planned == 0 {
		// It belongs to the rollout and cannot be part of it: that is a failure, and saying nothing would be a lie.
		p.add(sentry.Watch{Repository: repo.Name, Branch: firstPattern(repo)}, sentry.Revision{}, "", 0)
	}
}

func (p *planner) add(w sentry.Watch, r sentry.Revision, previous string, generation int64) {
	p.deployments = append(p.deployments, sentry.Deployment{
		Watch: w, Commit: r.Commit, Author: r.Author, Subject: r.Subject,
		Previous: previous, Generation: generation, Status: sentry.Pending,
	})
}

// summary says what will be done, for `why`.
func (p *planner) summary(policy sentry.Policy) string {
	const most = 6
	var parts []string
	for i, d := range p.deployments {
		if i == most {
			parts = append(parts, fmt.Sprintf("%d more", len(p.deployments)-most))
			break
		}
		what := "unchanged"
		switch _, moved := p.changes[d.Watch]; {
		case moved:
			what = "moved"
		case d.Commit == "":
			what = "no commit known"
		}
		parts = append(parts, strings.TrimSpace(d.Watch.String()+" "+sentry.ShortCommit(d.Commit))+" ("+what+")")
	}
	how := "one after the other"
	if policy.Limit() > 1 {
		how = fmt.Sprintf("at most %d at once", policy.Limit())
	}
	return fmt.Sprintf("%s, %s: %s", plural(len(p.deployments), "deployment"), how, strings.Join(parts, ", "))
}

func (p *planner) anyChange(repository string) bool {
	for w := range p.changes {
		if w.Repository == repository {
			return true
		}
	}
	return false
}

// standing gives the head of a watch as this rollout may use it: without the moves that have a later turn.
func (p *planner) standing(w sentry.Watch) (sentry.Head, bool) {
	head, ok := p.heads[w]
	if !ok || head.Deleted {
		return head, false
	}
	later, waits := p.deferred[w]
	if !waits {
		return head, true
	}
	if later.From == "" {
		return sentry.Head{}, false // its first sight has a later turn: there is nothing before it
	}
	return sentry.Head{Watch: w, Revision: sentry.Revision{Commit: later.From}, Generation: later.Generation - 1}, true
}

// branches lists the watches of a repository in the order of its configuration; those that one pattern matches by
// name, the newest recorded first where the pattern is not exact: it is the one that stands for the repository.
func (p *planner) branches(repo *config.Repository) []sentry.Watch {
	var out []sentry.Watch
	taken := map[string]bool{}
	for _, pattern := range repo.Monitor.Branches {
		var some []sentry.Head
		for w, h := range p.heads {
			if w.Repository == repo.Name && !taken[w.Branch] && pattern.Match(w.Branch) {
				some = append(some, h)
			}
		}
		for w := range p.changes {
			if _, known := p.heads[w]; !known && w.Repository == repo.Name && !taken[w.Branch] && pattern.Match(w.Branch) {
				some = append(some, sentry.Head{Watch: w})
			}
		}
		slices.SortFunc(some, func(a, b sentry.Head) int {
			if c := b.RecordedAt.Compare(a.RecordedAt); c != 0 {
				return c
			}
			return strings.Compare(a.Branch, b.Branch)
		})
		for _, h := range some {
			taken[h.Branch] = true
			out = append(out, h.Watch)
		}
	}
	return out
}

func watches(repo *config.Repository, branch string) bool {
	return slices.ContainsFunc(repo.Monitor.Branches, func(p sentry.Pattern) bool { return p.Match(branch) })
}

func firstPattern(repo *config.Repository) string {
	if len(repo.Monitor.Branches) == 0 {
		return ""
	}
	return repo.Monitor.Branches[0].String()
}
