package crash

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sentry/internal/sentry"
)

// TestJudge shows the judge testimonies that are as they should be, and at least one for each rule that breaks it. The
// files are witness files with directives for what the commands do not know:
//
//	#want RULE: TEXT         a finding of this rule that contains the text; without any, there must be none
//	#forge WATCH COMMIT …    what the forge had; otherwise what was rolled out, after a baseline
//	#tree COMMIT TREE        what a workspace at a commit of the QA repository holds
//	#promise ROLLOUT         Sentry said that it was queued
//	#state ID NAME=VALUE …   what Sentry says of a rollout or deployment; otherwise what the witness saw
//	#deployment ID WATCH GENERATION COMMIT STATUS    one more that it says there was, for a change
//	#change ROLLOUT WATCH GENERATION COMMIT          one more that it says the rollout was for
//	#forgotten ID            a deployment of which it says nothing
func TestJudge(t *testing.T) {
	files, err := filepath.Glob("testdata/judge/*.witness")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testimonies: %v", err)
	}
	broken := map[string]bool{}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".witness"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			e, odd, wants := imagine(t, string(text))
			found := append(odd, judge(e)...)
			for _, want := range wants {
				rule, what, _ := strings.Cut(want, ": ")
				i := slices.IndexFunc(found, func(f finding) bool { return f.rule == rule && strings.Contains(f.what, what) })
				if i < 0 {
					t.Errorf("not found: %s", want)
					continue
				}
				broken[rule] = true
				found = slices.Delete(found, i, i+1)
			}
			for _, f := range found {
				t.Errorf("found without reason: %s", f)
			}
		})
	}
	for _, r := range rules {
		if !broken[r.name] {
			t.Errorf("no testimony breaks the rule %q: nobody knows whether it can find anything", r.name)
		}
	}
}

// imagine makes evidence from a witness file with directives.
func imagine(t *testing.T, text string) (e *evidence, odd []finding, wants []string) {
	t.Helper()
	saw, odd := read(text)
	e = &evidence{
		testimony: saw,
		groups: map[string]group{
			"p":    {limit: 2},
			"s":    {limit: 1, sequential: true, stop: true, every: true},
			"zeta": {limit: 3},
		},
		members: map[string]member{
			"alpha": {group: "p", steps: 1, fresh: true}, "beta": {group: "p", steps: 2}, "gamma": {group: "p", steps: 1, retries: 1},
			"delta": {group: "s", steps: 1}, "epsilon": {group: "s", steps: 1}, "zeta": {group: "zeta", steps: 1},
		},
	}
	e.forge = rolledOut(e)
	e.state = believed(e)
	for raw := range strings.Lines(text) {
		words := strings.Fields(raw)
		if !strings.HasPrefix(raw, "#") || words[0] == "#" {
			continue
		}
		if len(words) == 1 {
			t.Fatalf("%s: of what?", raw)
		}
		id := words[1]
		number := func(i int) int64 {
			n, err := strconv.ParseInt(words[i], 10, 64)
			if err != nil {
				t.Fatalf("%s: %v", raw, err)
			}
			return n
		}
		switch words[0] {
		case "#want":
			wants = append(wants, strings.TrimSpace(strings.TrimPrefix(raw, "#want ")))
		case "#forge":
			e.forge[watchOf(id)] = words[2:]
		case "#tree":
			if e.trees == nil {
				e.trees = map[string]string{}
			}
			e.trees[id] = words[2]
		case "#promise":
			e.promised = append(e.promised, id)
		case "#state":
			edit(t, e, id, words[2:])
		case "#deployment":
			r := stated(e, id[:strings.LastIndexByte(id, '-')])
			r.Deployments = append(r.Deployments, sentry.Deployment{
				ID: id, Watch: watchOf(words[2]), Generation: number(3), Commit: words[4], Status: sentry.Status(words[5]),
			})
			r.Trigger.Changes = append(r.Trigger.Changes, sentry.Change{Watch: watchOf(words[2]), Generation: number(3), To: words[4]})
		case "#change":
			r := stated(e, id)
			r.Trigger.Changes = append(r.Trigger.Changes, sentry.Change{Watch: watchOf(words[2]), Generation: number(3), To: words[4]})
		case "#forgotten":
			for i := range e.state {
				e.state[i].Deployments = slices.DeleteFunc(e.state[i].Deployments, func(d sentry.Deployment) bool { return d.ID == id })
			}
		default:
			t.Fatalf("%s: not understood", raw)
		}
	}
	return e, odd, wants
}

func watchOf(text string) sentry.Watch {
	repository, branch, _ := strings.Cut(text, "@")
	return sentry.Watch{Repository: repository, Branch: branch}
}

// rolledOut makes up a forge that had what was rolled out, by generation, and where a branch was not deployed at its
// first sight a baseline before.
func rolledOut(e *evidence) map[sentry.Watch][]string {
	byGeneration := map[sentry.Watch]map[int64]string{}
	for _, r := range e.runs {
		if byGeneration[r.watch] == nil {
			byGeneration[r.watch] = map[int64]string{}
		}
		byGeneration[r.watch][r.generation] = r.commit
	}
	forge := map[sentry.Watch][]string{}
	for watch, commits := range byGeneration {
		if _, first := commits[1]; !first {
			forge[watch] = []string{"baseline"}
		}
		for _, g := range slices.Sorted(maps.Keys(commits)) {
			forge[watch] = append(forge[watch], commits[g])
		}
	}
	return forge
}

// believed makes up a state that agrees with the witness.
func believed(e *evidence) []sentry.Rollout {
	deployments := map[string]sentry.Deployment{}
	changes := map[string]map[sentry.Change]bool{}
	groups := map[string]string{}
	for _, a := range e.attempts {
		one := a.one()
		status := sentry.Running
		switch m := e.members[one.watch.Repository]; {
		case a.succeeded(m.steps):
			status = sentry.Succeeded
		case a.failed(m.retries):
			status = sentry.Failed
		}
		groups[one.rollout] = one.group
		deployments[a.deployment] = sentry.Deployment{
			ID: a.deployment, Watch: one.watch, Commit: one.commit, Generation: one.generation, Attempt: a.number, Status: status,
		}
		if changes[one.rollout] == nil {
			changes[one.rollout] = map[sentry.Change]bool{}
		}
		if one.changed {
			changes[one.rollout][sentry.Change{Watch: one.watch, Generation: one.generation, To: one.commit}] = true
		}
	}
	var list []sentry.Rollout
	for id, group := range groups {
		r := sentry.Rollout{ID: id, Group: group, Trigger: sentry.Trigger{Changes: slices.Collect(maps.Keys(changes[id]))}}
		var outcomes []sentry.Status
		for _, name := range slices.Sorted(maps.Keys(deployments)) {
			if strings.HasPrefix(name, id+"-") {
				r.Deployments = append(r.Deployments, deployments[name])
				outcomes = append(outcomes, deployments[name].Status)
			}
		}
		r.Status = sentry.Fold(outcomes)
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b sentry.Rollout) int { return cmp.Compare(sequenceOf(a.ID), sequenceOf(b.ID)) })
	return list
}

func stated(e *evidence, id string) *sentry.Rollout {
	i := slices.IndexFunc(e.state, func(r sentry.Rollout) bool { return r.ID == id })
	if i < 0 {
		e.state = append(e.state, sentry.Rollout{ID: id, Group: "p", Status: sentry.Succeeded})
		i = len(e.state) - 1
	}
	return &e.state[i]
}

// edit changes what the state says of a rollout or deployment.
func edit(t *testing.T, e *evidence, id string, values []string) {
	t.Helper()
	for _, value := range values {
		name, text, _ := strings.Cut(value, "=")
		done := false
		for i := range e.state {
			r := &e.state[i]
			if r.ID == id && name == "status" {
				r.Status, done = sentry.Status(text), true
			}
			for j := range r.Deployments {
				d := &r.Deployments[j]
				if d.ID != id {
					continue
				}
				switch name {
				case "status":
					d.Status, done = sentry.Status(text), true
				case "commit":
					d.Commit, done = text, true
				case "attempt":
					_, err := fmt.Sscan(text, &d.Attempt)
					done = err == nil
				}
			}
		}
		if !done {
			t.Fatalf("cannot set %s of %s", value, id)
		}
	}
}
