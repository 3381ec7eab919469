package deploy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// commit makes a commit id that can be told apart by eye: commit("a1") is a1 repeated.
func commit(short string) string { return strings.Repeat(short, 40/len(short)) }

func pattern(t testing.TB, text string) sentry.Pattern {
	t.Helper()
	p, err := sentry.ParsePattern(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// member makes a configured repository with branches.
func member(t testing.TB, name, group string, branches ...string) config.Repository {
	t.Helper()
	remote, err := sentry.ParseRemote("https://forge.example/"+name+".git", sentry.RemoteRules{})
	if err != nil {
		t.Fatal(err)
	}
	r := config.Repository{Name: name, Group: group}
	r.Monitor.Remote = remote
	r.Deploy.Remote = remote
	r.Deploy.Branch = "main"
	r.Deploy.Commands = []config.Command{{Name: "deploy", Run: "true"}}
	for _, b := range branches {
		r.Monitor.Branches = append(r.Monitor.Branches, pattern(t, b))
	}
	return r
}

func head(repository, branch, short string, generation int64) sentry.Head {
	return sentry.Head{
		Watch: sentry.Watch{Repository: repository, Branch: branch}, Revision: sentry.Revision{Commit: commit(short)},
		Generation: generation, RecordedAt: time.Unix(1_000_000+generation, 0),
	}
}

func change(repository, branch, from, to string, generation int64) sentry.Change {
	c := sentry.Change{Watch: sentry.Watch{Repository: repository, Branch: branch}, To: commit(to), Generation: generation}
	if from != "" {
		c.From = commit(from)
	}
	return c
}

// render writes a plan on few lines: deployments, vector, strays.
func render(p store.Plan) string {
	short := func(c string) string {
		if c == "" {
			return "?"
		}
		return c[:2]
	}
	var b strings.Builder
	for _, d := range p.Deployments {
		fmt.Fprintf(&b, "%d %s %s g%d\n", d.Ordinal, d.Watch, short(d.Commit), d.Generation)
	}
	for _, v := range p.Vector {
		mark := ""
		if v.Changed {
			mark = " changed"
		}
		fmt.Fprintf(&b, "v %s %s%s\n", v.Watch, short(v.Commit), mark)
	}
	for _, s := range p.Strays {
		fmt.Fprintf(&b, "stray %s g%d to %q: %s\n", s.Change.Watch, s.Change.Generation, s.Group, s.Reason)
	}
	if len(p.Deployments) == 0 {
		fmt.Fprintf(&b, "because %s\n", p.Reason)
	}
	return b.String()
}

func TestPlan(t *testing.T) {
	groupOf := func(scope sentry.Scope) config.Group {
		return config.Group{Name: "g", Policy: sentry.Policy{Strategy: sentry.Parallel, MaxParallel: 3, Scope: scope}}
	}
	ab := []config.Repository{member(t, "a", "g", "main", "dev"), member(t, "b", "g", "main")}
	abHeads := []sentry.Head{head("a", "main", "a1", 1), head("a", "dev", "ad", 1), head("b", "main", "b1", 1)}

	for _, test := range []struct {
		name         string
		scope        sentry.Scope
		repositories []config.Repository
		trigger      sentry.Trigger
		heads        []sentry.Head
		later        []sentry.Change
		want         string
	}{
		{
			name:    "a change rolls out the group, the others at their recorded heads",
			trigger: sentry.Trigger{Changes: []sentry.Change{change("a", "main", "a1", "a2", 2)}},
			want:    "1 a@main a2 g2\n2 b@main b1 g1\nv a@main a2 changed\nv a@dev ad\nv b@main b1\n",
		},
		{
			name: "trigger changed limits it to the members that changed", scope: sentry.ScopeChanged,
			trigger: sentry.Trigger{Changes: []sentry.Change{change("b", "main", "b1", "b2", 2)}},
			want:    "1 b@main b2 g2\nv a@main a1\nv a@dev ad\nv b@main b2 changed\n",
		},
		{
			name:    "each branch that changed gets a deployment",
			trigger: sentry.Trigger{Changes: []sentry.Change{change("a", "dev", "ad", "ae", 2), change("a", "main", "a1", "a2", 2)}},
			want:    "1 a@main a2 g2\n2 a@dev ae g2\n3 b@main b1 g1\nv a@main a2 changed\nv a@dev ae changed\nv b@main b1\n",
		},
		{
			name:    "a change of another branch stands for the member",
			trigger: sentry.Trigger{Changes: []sentry.Change{change("a", "dev", "ad", "ae", 2)}},
			want:    "1 a@dev ae g2\n2 b@main b1 g1\nv a@main a1\nv a@dev ae changed\nv b@main b1\n",
		},
		{
			name: "several moves of one head are one deployment at the newest",
			trigger: sentry.Trigger{Changes: []sentry.Change{
				change("a", "main", "a1", "a2", 2), change("a", "main", "a2", "a3", 3),
			}},
			scope: sentry.ScopeChanged,
			want:  "1 a@main a3 g3\nv a@main a3 changed\nv a@dev ad\nv b@main b1\n",
		},
		{
			name:    "what has a later turn is not taken early",
			trigger: sentry.Trigger{Changes: []sentry.Change{change("a", "main", "a1", "a2", 2)}},
			heads:   []sentry.Head{head("a", "main", "a2", 2), head("b", "main", "b3", 3)},
			later:   []sentry.Change{change("b", "main", "b1", "b2", 2), change("b", "main", "b2", "b3", 3)},
			want:    "1 a@main a2 g2\n2 b@main b1 g1\nv a@main a2 changed\nv b@main b1\n",
		},
		{
			name:    "a person asks for the whole group",
			scope:   sentry.ScopeChanged,
			trigger: sentry.Trigger{Kind: sentry.TriggerPerson, Whole: true},
			want:    "1 a@main a1 g1\n2 b@main b1 g1\nv a@main a1\nv a@dev ad\nv b@main b1\n",
		},
		{
			name:    "a person asks for one member",
			trigger: sentry.Trigger{Kind: sentry.TriggerPerson, Repositories: []string{"b"}},
			want:    "1 b@main b1 g1\nv a@main a1\nv a@dev ad\nv b@main b1\n",
		},
		{
			name:    "a retry asks for exactly one watch",
			trigger: sentry.Trigger{Kind: sentry.TriggerRetry, Watches: []sentry.Watch{{Repository: "a", Branch: "dev"}}},
			want:    "1 a@dev ad g1\nv a@main a1\nv a@dev ad\nv b@main b1\n",
		},
		{
			name:    "a member without a known head fails, it is not forgotten",
			trigger: sentry.Trigger{Kind: sentry.TriggerPerson, Whole: true},
			heads:   []sentry.Head{head("a", "main", "a1", 1)},
			want:    "1 a@main a1 g1\n2 b@main ? g0\nv a@main a1\n",
		},
		{
			name:    "a deleted branch does not stand for its member",
			trigger: sentry.Trigger{Kind: sentry.TriggerPerson, Repositories: []string{"a"}},
			heads: []sentry.Head{
				{Watch: sentry.Watch{Repository: "a", Branch: "main"}, Revision: sentry.Revision{Commit: commit("a1")}, Generation: 1, Deleted: true},
				head("a", "dev", "ad", 1),
			},
			want: "1 a@dev ad g1\nv a@dev ad\n",
		},
		{
			name:         "the newest branch of a pattern stands for its member",
			repositories: []config.Repository{member(t, "a", "g", "release/*")},
			trigger:      sentry.Trigger{Kind: sentry.TriggerPerson, Whole: true},
			heads:        []sentry.Head{head("a", "release/1", "a1", 1), head("a", "release/2", "a2", 2), head("a", "other", "a3", 3)},
			want:         "1 a@release/2 a2 g2\nv a@release/2 a2\nv a@release/1 a1\n",
		},
		{
			name: "a change whose repository moved goes with it; one that nothing watches is dropped",
			repositories: []config.Repository{
				member(t, "a", "g", "main"), member(t, "b", "other", "main"),
			},
			trigger: sentry.Trigger{Changes: []sentry.Change{
				change("b", "main", "b1", "b2", 2), change("gone", "main", "c1", "c2", 2), change("a", "dev", "ad", "ae", 2),
			}},
			want: "stray b@main g2 to \"other\": repository b moved to group other\n" +
				"stray gone@main g2 to \"\": repository gone is no longer configured\n" +
				"stray a@dev g2 to \"\": branch dev of a is no longer watched\n" +
				"v a@main a1\nbecause nothing is left to roll out: what it was for is no longer configured in group g\n",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := &config.Config{Groups: []config.Group{groupOf(test.scope), {Name: "other"}}, Repositories: ab}
			if test.scope == "" {
				cfg.Groups[0].Policy.Scope = sentry.ScopeGroup
			}
			if test.repositories != nil {
				cfg.Repositories = test.repositories
			}
			heads := test.heads
			if heads == nil {
				heads = abHeads
			}
			got := Plan(Facts{Config: cfg, Rollout: sentry.Rollout{ID: "1-x", Group: "g", Trigger: test.trigger}, Heads: heads, Later: test.later})
			if lines(render(got)) != lines(test.want) {
				t.Errorf("got:\n%s\nwant:\n%s", render(got), test.want)
			}
		})
	}
}

// lines sorts the lines of a text in which strays and vector may come in either order.
func lines(s string) string {
	out := strings.Split(s, "\n")
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func TestPlanOfAGroupThatIsGone(t *testing.T) {
	cfg := &config.Config{Repositories: []config.Repository{member(t, "a", "new", "main")}, Groups: []config.Group{{Name: "new", Policy: sentry.Policy{Queue: sentry.Every}}}}
	plan := Plan(Facts{Config: cfg, Rollout: sentry.Rollout{ID: "1-x", Group: "old", Trigger: sentry.Trigger{
		Changes: []sentry.Change{change("a", "main", "a1", "a2", 2)},
	}}})
	if len(plan.Deployments) != 0 || len(plan.Strays) != 1 || plan.Strays[0].Group != "new" || plan.Strays[0].Queue != sentry.Every {
		t.Errorf("the change must go to the group that its repository is in now: %+v", plan)
	}
	if !strings.Contains(plan.Reason, "old is no longer configured") {
		t.Errorf("reason %q", plan.Reason)
	}
}

func TestVerdict(t *testing.T) {
	for _, test := range []struct {
		statuses string
		want     sentry.Status
	}{
		{"succeeded succeeded", sentry.Succeeded},
		{"succeeded skipped", sentry.Succeeded},
		{"succeeded failed", sentry.Failed},
		{"failed timed_out", sentry.TimedOut},
		{"interrupted succeeded", sentry.Interrupted},
		{"interrupted failed", sentry.Failed},
		{"skipped skipped", sentry.Canceled},
		{"canceled succeeded", sentry.Canceled},
		{"canceled failed", sentry.Canceled},
	} {
		var deployments []sentry.Deployment
		for _, s := range strings.Fields(test.statuses) {
			deployments = append(deployments, sentry.Deployment{Status: sentry.Status(s), Reason: "because"})
		}
		if got, reason := Verdict(deployments); got != test.want || reason == "" {
			t.Errorf("%s: got %s (%s), want %s", test.statuses, got, reason, test.want)
		}
	}
}

func TestAPlanSaysWhatItWillDo(t *testing.T) {
	cfg := &config.Config{
		Groups:       []config.Group{{Name: "g", Policy: sentry.Policy{Strategy: sentry.Parallel, MaxParallel: 3, Scope: sentry.ScopeGroup}}},
		Repositories: []config.Repository{member(t, "a", "g", "main"), member(t, "b", "g", "main"), member(t, "c", "g", "main")},
	}
	plan := Plan(Facts{
		Config: cfg, Heads: []sentry.Head{head("a", "main", "a1", 2), head("b", "main", "b1", 1)},
		Rollout: sentry.Rollout{ID: "1-x", Group: "g", Trigger: sentry.Trigger{Changes: []sentry.Change{change("a", "main", "a0", "a1", 2)}}},
	})
	want := "3 deployments, at most 3 at once: a@main a1a1a1a1a1 (moved), b@main b1b1b1b1b1 (unchanged), c@main (no commit known)"
	if plan.Reason != want {
		t.Errorf("got  %s\nwant %s", plan.Reason, want)
	}
}
