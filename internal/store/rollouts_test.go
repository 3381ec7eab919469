package store

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sentry/internal/sentry"
)

// TestLifeOfARollout follows one rollout through everything that is saved about it.
func TestLifeOfARollout(t *testing.T) {
	now := &clock{time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)}
	dir := t.TempDir()
	s := openWith(t, Options{Dir: dir, Owner: "me", Now: now.now})
	record(t, s, see("a", "a1"), see("b", "b1"), see("a", "a2"), see("b", "b2"))
	waits := pending(t, s, "g")
	policy := sentry.Policy{Strategy: sentry.Sequential, MaxParallel: 2, ContinueOnError: true, Timeout: sentry.Duration(15 * time.Minute), Scope: sentry.ScopeGroup, Queue: sentry.Latest, OnInterrupt: sentry.Retry}
	vector := []sentry.VectorEntry{{Watch: watchOf("a"), Commit: "a2", Generation: 2, Changed: true}, {Watch: watchOf("b"), Commit: "b2", Generation: 2, Changed: true}}
	now.Time = now.Add(time.Minute)
	r := must(s.Claim(t.Context(), waits.Rollout.ID, waits.Version, Plan{
		Policy: policy, Vector: vector, Reason: "both changed",
		Deployments: []sentry.Deployment{
			{Watch: watchOf("a"), Commit: "a2", Previous: "a1", Generation: 2, Author: "Ada", Subject: "one", Ordinal: 7, Status: sentry.Succeeded, Attempt: 9},
			{Watch: watchOf("b"), Commit: "b2", Previous: "b1", Generation: 2},
		},
	}))(t)
	want := waits.Rollout
	want.Status, want.Reason, want.Policy, want.Vector, want.Attempt, want.StartedAt = sentry.Running, "both changed", &policy, vector, 1, now.Time
	want.Deployments = []sentry.Deployment{
		{ID: want.ID + "-1", Ordinal: 1, Watch: watchOf("a"), Commit: "a2", Previous: "a1", Generation: 2, Author: "Ada", Subject: "one", Status: sentry.Pending, Steps: []sentry.Step{}, PipelineRuns: []sentry.PipelineRun{}},
		{ID: want.ID + "-2", Ordinal: 2, Watch: watchOf("b"), Commit: "b2", Previous: "b1", Generation: 2, Status: sentry.Pending, Steps: []sentry.Step{}, PipelineRuns: []sentry.PipelineRun{}},
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Fatalf("claimed: %s", diff)
	}

	one := 1
	d := r.Deployments[0]
	d.Status, d.Reason, d.Attempt, d.StartedAt = sentry.Running, "runs", 1, now.Time
	d.Source = &sentry.Source{URL: "https://example.com/qa.git", Branch: "main", Commit: "qa"}
	d.Steps = []sentry.Step{
		{Attempt: 1, Ordinal: 1, Kind: sentry.StepClone, Name: "clone", Status: sentry.Succeeded, Tries: 1, StartedAt: now.Time, FinishedAt: now.Add(time.Second), Log: "x/y.log", Bytes: 10, Dropped: 3},
		{Attempt: 1, Ordinal: 2, Kind: sentry.StepCommand, Name: "make", Status: sentry.Running, Tries: 1, StartedAt: now.Time},
	}
	noError(t, s.SaveDeployment(t.Context(), d))
	now.Time = now.Add(time.Minute)
	d.Status, d.Reason, d.FinishedAt = sentry.Failed, "make failed", now.Time
	d.Steps[1].Status, d.Steps[1].ExitCode, d.Steps[1].FinishedAt = sentry.Failed, &one, now.Time
	d.PipelineRuns = []sentry.PipelineRun{{Namespace: "ns", Name: "run", UID: "1-2", Status: sentry.Failed, Reason: "no"}}
	noError(t, s.SaveDeployment(t.Context(), d))
	d2 := r.Deployments[1]
	d2.Status, d2.Reason = sentry.Skipped, "a failed"
	noError(t, s.SaveDeployment(t.Context(), d2))
	noError(t, s.Finish(t.Context(), r.ID, sentry.Failed, "1 of 2 failed"))
	want.Status, want.Reason, want.FinishedAt = sentry.Failed, "1 of 2 failed", now.Time
	want.Deployments = []sentry.Deployment{d, d2}

	closed(t, s)
	s = openDir(t, dir)
	for _, name := range []string{r.ID, "1", "1-", r.ID[:4]} {
		if diff := cmp.Diff(want, must(s.Rollout(t.Context(), name))(t)); diff != "" {
			t.Fatalf("read back as %s: %s", name, diff)
		}
	}
	list := must(s.Rollouts(t.Context(), Filter{}))(t)
	want.Deployments[0].Steps = []sentry.Step{}
	if diff := cmp.Diff([]sentry.Rollout{want}, list); diff != "" {
		t.Fatalf("listed: %s", diff)
	}
	if got := verbs(must(s.Why(t.Context(), WhyFilter{Rollout: "1"}))(t)); got != "moved queued moved coalesced claimed planned finished" {
		t.Errorf("why: %s", got)
	}
	var events []string
	for _, m := range must(s.Outbox(t.Context(), 10))(t) {
		var e Event
		noError(t, json.Unmarshal(m.Payload, &e))
		events = append(events, fmt.Sprintf("%s %s %s %s", m.Topic, m.Key, e.Rollout, e.Status))
	}
	if diff := cmp.Diff([]string{"rollout.started g " + r.ID + " running", "deployment.pinned g " + r.ID + " running", "rollout.finished g " + r.ID + " failed"}, events); diff != "" {
		t.Errorf("outbox: %s", diff)
	}
	healthy(t, s)
}

// TestIdentifiers: the number is never given twice, and only names that contain the whole number find a rollout.
func TestIdentifiers(t *testing.T) {
	s := inMemory(t)
	for i := range 12 {
		id, _ := must2(s.Request(t.Context(), Request{Group: fmt.Sprint(i), By: "x"}))(t)
		if !strings.HasPrefix(id, fmt.Sprintf("%d-", i+1)) || len(id) != len(fmt.Sprintf("%d-abcde", i+1)) || strings.ToLower(id) != id {
			t.Fatalf("identifier %q", id)
		}
	}
	twelfth := must(s.Rollout(t.Context(), "12"))(t)
	for _, bad := range []string{"", "13", "x", "-", "012", "+1", "1x", "12x", "12-" + "0", twelfth.ID + "-1", "-1", "99999999999999999999", twelfth.ID[3:]} {
		_, err := s.Rollout(t.Context(), bad)
		if bad == "12-0" && strings.HasPrefix(twelfth.ID, bad) {
			continue
		}
		wants(t, err, ErrNotFound)
	}
	// The newest is removed; its number is not given again.
	must(s.Cancel(t.Context(), "12", "x", ""))(t)
	noError(t, s.write(t.Context(), func(tx *tx) error { return tx.exec(`DELETE FROM rollouts WHERE sequence = 12`) }))
	if id, _ := must2(s.Request(t.Context(), Request{Group: "next", By: "x"}))(t); !strings.HasPrefix(id, "13-") {
		t.Errorf("after 12 was removed comes %s", id)
	}
}

// must2 is must for two values.
func must2[A, B any](a A, b B, err error) func(testing.TB) (A, B) {
	return func(t testing.TB) (A, B) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return a, b
	}
}

// TestClaim is what Claim refuses.
func TestClaim(t *testing.T) {
	s := inMemory(t)
	record(t, s, see("a", "1"), see("b", "1"), see("a", "2"))
	stale := pending(t, s, "g")
	record(t, s, see("b", "2"))
	_, err := s.Claim(t.Context(), stale.Rollout.ID, stale.Version, planFor(stale))
	wants(t, err, ErrStale)
	fresh := pending(t, s, "g")
	if n := len(fresh.Rollout.Trigger.Changes); n != 2 {
		t.Fatalf("%d changes wait, want both", n)
	}
	r := claim(t, s, fresh)
	_, err = s.Claim(t.Context(), r.ID, fresh.Version, planFor(fresh))
	wants(t, err, ErrStale)
	record(t, s, see("a", "3"))
	next := pending(t, s, "g")
	_, err = s.Claim(t.Context(), next.Rollout.ID, next.Version, planFor(next))
	wants(t, err, ErrBusy) // one runs
	record(t, s, see("z", "1").in("i"), see("z", "2").in("i").queued(sentry.Every), see("z", "3").in("i").queued(sentry.Every))
	every := must(s.Pending(t.Context()))(t)[1:]
	_, err = s.Claim(t.Context(), every[1].Rollout.ID, every[1].Version, planFor(every[1]))
	wants(t, err, ErrBusy) // an older one waits
	claim(t, s, every[0])
	if later := must(s.Later(t.Context(), "g", r.ID))(t); len(later) != 1 || later[0].To != "3" {
		t.Errorf("later changes %+v", later)
	}
	if later := must(s.Later(t.Context(), "other", r.ID))(t); len(later) != 0 {
		t.Errorf("later changes of another group %+v", later)
	}
	deployed(t, s, r)
	noError(t, s.Finish(t.Context(), r.ID, sentry.Succeeded, ""))
	_, err = s.Claim(t.Context(), r.ID, fresh.Version, planFor(fresh))
	wants(t, err, ErrFinal)
	_, err = s.Claim(t.Context(), "77", 1, Plan{})
	wants(t, err, ErrNotFound)
	runThrough(t, s, next)
	healthy(t, s)
}

func TestClaimWithoutDeploymentsIsCanceled(t *testing.T) {
	s := inMemory(t)
	record(t, s, see("a", "1"), see("a", "2"))
	w := pending(t, s, "g")
	r := must(s.Claim(t.Context(), w.Rollout.ID, w.Version, Plan{Reason: "nothing to do"}))(t)
	if r.Status != sentry.Canceled || r.Reason != "nothing to do" || r.FinishedAt.IsZero() || len(r.Trigger.Changes) != 1 {
		t.Errorf("%+v", r)
	}
	if got := verbs(must(s.Why(t.Context(), WhyFilter{Rollout: r.ID}))(t)); got != "moved queued canceled" {
		t.Errorf("why: %s", got)
	}
	healthy(t, s)
}

// TestStrays: changes whose repository has left the group go to where it is now, in order, or are dropped.
func TestStrays(t *testing.T) {
	setUp := func(t *testing.T) (*Store, Waiting, map[string]sentry.Change) {
		s := inMemory(t)
		record(t, s, see("a", "1"), see("b", "1"), see("c", "1"), see("a", "2"), see("b", "2"), see("c", "2"))
		w := pending(t, s, "g")
		changes := map[string]sentry.Change{}
		for _, c := range w.Rollout.Trigger.Changes {
			changes[c.Repository] = c
		}
		return s, w, changes
	}
	only := func(w Waiting, keep string, strays ...Stray) Plan {
		p := planFor(w)
		p.Strays = strays
		p.Deployments = []sentry.Deployment{{Watch: watchOf(keep), Commit: "2", Generation: 2}}
		return p
	}
	t.Run("handed over and dropped", func(t *testing.T) {
		s, w, c := setUp(t)
		r := must(s.Claim(t.Context(), w.Rollout.ID, w.Version, only(w, "a",
			Stray{Change: c["b"], Group: "h", Queue: sentry.Latest}, Stray{Change: c["c"], Reason: "not configured any more"})))(t)
		if n := len(r.Trigger.Changes); n != 1 {
			t.Errorf("%d changes left, want 1", n)
		}
		if got := pending(t, s, "h").Rollout.Trigger.Changes; len(got) != 1 || got[0].Repository != "b" {
			t.Errorf("handed over: %+v", got)
		}
		if got := verbs(must(s.Why(t.Context(), WhyFilter{Repository: "c"}))(t)); got != "recorded coalesced moved coalesced refused claimed planned" &&
			!strings.Contains(got, "refused") {
			t.Errorf("why c: %s", got)
		}
		healthy(t, s)
	})
	t.Run("joins what waits there", func(t *testing.T) {
		s, w, c := setUp(t)
		record(t, s, see("d", "1").in("h"), see("d", "2").in("h"))
		before := pending(t, s, "h")
		must(s.Claim(t.Context(), w.Rollout.ID, w.Version, only(w, "a", Stray{Change: c["b"], Group: "h", Queue: sentry.Every}, Stray{Change: c["c"], Group: "h", Queue: sentry.Every})))(t)
		after := pending(t, s, "h")
		if after.Rollout.ID != before.Rollout.ID || after.Version != before.Version+1 || len(after.Rollout.Trigger.Changes) != 3 {
			t.Errorf("%+v", after)
		}
		healthy(t, s)
	})
	t.Run("not after a newer commit that waits", func(t *testing.T) {
		s, w, c := setUp(t)
		record(t, s, see("b", "3").in("h").queued(sentry.Every), see("b", "4").in("h").queued(sentry.Every))
		must(s.Claim(t.Context(), w.Rollout.ID, w.Version, only(w, "a", Stray{Change: c["b"], Group: "h", Queue: sentry.Every})))(t)
		var got []string
		for _, w := range must(s.Pending(t.Context()))(t) {
			line := ""
			for _, c := range w.Rollout.Trigger.Changes {
				line += c.To
			}
			got = append(got, line)
		}
		if diff := cmp.Diff([]string{"23", "4"}, got); diff != "" {
			t.Error(diff)
		}
		healthy(t, s)
	})
	t.Run("not after a newer commit that runs", func(t *testing.T) {
		s, w, c := setUp(t)
		record(t, s, see("b", "3").in("h"))
		runs := claim(t, s, pending(t, s, "h"))
		must(s.Claim(t.Context(), w.Rollout.ID, w.Version, only(w, "a", Stray{Change: c["b"], Group: "h", Queue: sentry.Every})))(t)
		if n := len(must(s.Pending(t.Context()))(t)); n != 0 {
			t.Errorf("%d rollouts wait, want none", n)
		}
		last := must(s.Why(t.Context(), WhyFilter{Repository: "b"}))(t)
		if !strings.Contains(fmt.Sprint(last), runs.ID+" has a newer commit") {
			t.Errorf("why: %v", last)
		}
		healthy(t, s)
	})
	t.Run("refused", func(t *testing.T) {
		s, w, c := setUp(t)
		other := c["b"]
		other.Generation = 9
		for _, bad := range []Stray{{Change: c["b"], Group: "g"}, {Change: other, Group: "h"}, {Change: other}} {
			_, err := s.Claim(t.Context(), w.Rollout.ID, w.Version, only(w, "a", bad))
			wants(t, err, ErrInvalid)
		}
		if again := pending(t, s, "g"); len(again.Rollout.Trigger.Changes) != 3 || again.Version != w.Version {
			t.Errorf("a refused claim changed something: %+v", again)
		}
	})
}

func TestSaveDeploymentRefuses(t *testing.T) {
	s := inMemory(t)
	record(t, s, see("a", "1"), see("a", "2"))
	w := pending(t, s, "g")
	wants(t, s.SaveDeployment(t.Context(), sentry.Deployment{ID: w.Rollout.ID + "-1", Ordinal: 1, Status: sentry.Running}), ErrStale)
	r := claim(t, s, w)
	d := r.Deployments[0]
	wants(t, s.SaveDeployment(t.Context(), sentry.Deployment{ID: "x"}), ErrNotFound)
	for _, wrong := range []sentry.Deployment{{ID: r.ID + "-2", Ordinal: 2}, {ID: r.ID + "-2", Ordinal: 1}, {ID: r.ID, Ordinal: 1}} {
		wrong.Status = sentry.Running
		wants(t, s.SaveDeployment(t.Context(), wrong), ErrNotFound)
	}
	d.Status = sentry.Succeeded
	wants(t, s.SaveDeployment(t.Context(), d), ErrInvalid) // from pending
	d.Status, d.Attempt = sentry.Running, 2
	d.Steps = []sentry.Step{{Attempt: 1, Ordinal: 1, Kind: sentry.StepClone, Status: sentry.Succeeded}, {Attempt: 2, Ordinal: 1, Kind: sentry.StepClone, Status: sentry.Succeeded}}
	noError(t, s.SaveDeployment(t.Context(), d))
	if steps := must(s.Rollout(t.Context(), r.ID))(t).Deployments[0].Steps; len(steps) != 1 || steps[0].Attempt != 2 {
		t.Errorf("steps %+v: only those of the current attempt are written", steps)
	}
	d.Attempt = 1
	wants(t, s.SaveDeployment(t.Context(), d), ErrInvalid)
	d.Attempt, d.Steps[1].Status = 2, sentry.Failed
	wants(t, s.SaveDeployment(t.Context(), d), ErrFinal)
	d.Steps[1].Status, d.Status = sentry.Succeeded, sentry.Failed
	noError(t, s.SaveDeployment(t.Context(), d))
	wants(t, s.SaveDeployment(t.Context(), d), ErrFinal)
	noError(t, s.Finish(t.Context(), r.ID, sentry.Failed, ""))
	wants(t, s.SaveDeployment(t.Context(), d), ErrFinal)
}

func TestFinishRefuses(t *testing.T) {
	s := inMemory(t)
	record(t, s, see("a", "1"), see("a", "2"))
	w := pending(t, s, "g")
	wants(t, s.Finish(t.Context(), w.Rollout.ID, sentry.Canceled, ""), ErrStale)
	r := claim(t, s, w)
	wants(t, s.Finish(t.Context(), r.ID, sentry.Succeeded, ""), ErrInvalid) // a deployment is pending
	deployed(t, s, r)
	for _, status := range []sentry.Status{sentry.Pending, sentry.Running, sentry.Skipped, "done"} {
		wants(t, s.Finish(t.Context(), r.ID, status, ""), ErrInvalid)
	}
	noError(t, s.Finish(t.Context(), r.ID, sentry.Succeeded, ""))
	wants(t, s.Finish(t.Context(), r.ID, sentry.Succeeded, ""), ErrFinal)
	wants(t, s.Finish(t.Context(), "5", sentry.Succeeded, ""), ErrNotFound)
}

func TestCancel(t *testing.T) {
	s := inMemory(t)
	record(t, s, see("a", "1"), see("a", "2"))
	waits := pending(t, s, "g")
	if got := must(s.Cancel(t.Context(), waits.Rollout.ID, "ada", "not now"))(t); got != sentry.Canceled {
		t.Errorf("a rollout that waited is %s", got)
	}
	r := must(s.Rollout(t.Context(), waits.Rollout.ID))(t)
	if r.Status != sentry.Canceled || r.CanceledBy != "ada" || r.Reason != "canceled by ada: not now" || r.FinishedAt.IsZero() {
		t.Errorf("%+v", r)
	}
	status, err := s.Cancel(t.Context(), r.ID, "bob", "")
	wants(t, err, ErrFinal)
	if status != sentry.Canceled {
		t.Errorf("status %s of what has ended", status)
	}
	record(t, s, see("a", "3"))
	r = claim(t, s, pending(t, s, "g"))
	for _, by := range []string{"ada", "bob"} {
		if got := must(s.Cancel(t.Context(), r.ID, by, ""))(t); got != sentry.Running {
			t.Errorf("a rollout that runs is %s", got)
		}
	}
	if r = must(s.Rollout(t.Context(), r.ID))(t); r.Status != sentry.Running || r.CanceledBy != "ada" {
		t.Errorf("%+v", r)
	}
	deployed(t, s, r)
	noError(t, s.Finish(t.Context(), r.ID, sentry.Canceled, "canceled by ada"))
	_, err = s.Cancel(t.Context(), "44", "x", "")
	wants(t, err, ErrNotFound)
	healthy(t, s)
}

// TestRequest: what a person asks for joins what waits, and takes nothing away from it.
func TestRequest(t *testing.T) {
	s := inMemory(t)
	record(t, s, see("a", "1"), see("a", "2"))
	if pending(t, s, "g").Urgent {
		t.Error("changes alone are not urgent")
	}
	id, joined := must2(s.Request(t.Context(), Request{Group: "g", By: "ada", Repositories: []string{"a", "b"}, Watches: []sentry.Watch{watchOf("a")}}))(t)
	if !joined || id != pending(t, s, "g").Rollout.ID {
		t.Errorf("%s, joined %t", id, joined)
	}
	id2, joined := must2(s.Request(t.Context(), Request{Group: "g", By: "bob", Kind: sentry.TriggerRetry, RetryOf: "9-xxxxx", Whole: true, Repositories: []string{"b", "c"}, Watches: []sentry.Watch{watchOf("a"), watchOf("b@x")}}))(t)
	if !joined || id2 != id {
		t.Errorf("%s, joined %t", id2, joined)
	}
	w := pending(t, s, "g")
	want := sentry.Trigger{
		Kind: sentry.TriggerChanges, By: "ada", RetryOf: "9-xxxxx", Whole: true, Repositories: []string{"a", "b", "c"},
		Watches: []sentry.Watch{watchOf("a"), watchOf("b@x")}, Changes: w.Rollout.Trigger.Changes,
	}
	if diff := cmp.Diff(want, w.Rollout.Trigger); diff != "" || !w.Urgent || w.Version != 3 || len(want.Changes) != 1 {
		t.Errorf("version %d, urgent %t: %s", w.Version, w.Urgent, diff)
	}
	id, joined = must2(s.Request(t.Context(), Request{Group: "h", By: "ada", Whole: true}))(t)
	if w := pending(t, s, "h"); joined || w.Rollout.ID != id || w.Rollout.Trigger.Kind != sentry.TriggerPerson || !w.Urgent {
		t.Errorf("%+v, joined %t", w, joined)
	}
	record(t, s, see("z", "1").in("h"))
	if out := record(t, s, see("z", "2").in("h")); out.Rollout != id || !out.Joined {
		t.Errorf("a change joins what a person asked for: %+v", out)
	}
	_, _, err := s.Request(t.Context(), Request{By: "x"})
	wants(t, err, ErrInvalid)
	healthy(t, s)
}

func TestRollouts(t *testing.T) {
	s := inMemory(t)
	record(t, s, see("a", "0"), see("b", "0").in("h"))
	for i := 1; i <= 3; i++ {
		record(t, s, see("a", fmt.Sprint(i)), see("b", fmt.Sprint(i)).in("h"))
		runThrough(t, s, pending(t, s, "g"))
		runThrough(t, s, pending(t, s, "h"))
	}
	record(t, s, see("a", "9"))
	numbers := func(f Filter) string {
		var list []string
		for _, r := range must(s.Rollouts(t.Context(), f))(t) {
			number, _, _ := strings.Cut(r.ID, "-")
			list = append(list, number)
		}
		return strings.Join(list, " ")
	}
	for want, f := range map[string]Filter{
		"7 6 5 4 3 2 1": {},
		"7 6":           {Limit: 2},
		"5 4":           {Limit: 2, Before: "6"},
		"7 5 3 1":       {Group: "g"},
		"6 4 2":         {Repository: "b"},
		"7":             {Status: []sentry.Status{sentry.Pending, sentry.Running}},
		"3 1":           {Repository: "a", Before: "5-xxxxx", Status: []sentry.Status{sentry.Succeeded}},
		"":              {Group: "none"},
	} {
		if got := numbers(f); got != want {
			t.Errorf("%+v gives %q, want %q", f, got, want)
		}
	}
	_, err := s.Rollouts(t.Context(), Filter{Before: "x"})
	wants(t, err, ErrNotFound)
}

func TestPause(t *testing.T) {
	now := &clock{time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)}
	s := must(OpenMemory(t.Context(), Options{Now: now.now}))(t)
	defer s.Close()
	noError(t, s.Pause(t.Context(), "g", "ada", "release"))
	noError(t, s.Pause(t.Context(), "g", "bob", ""))
	if diff := cmp.Diff(map[string]Pause{"g": {By: "bob", At: now.Time}}, must(s.Paused(t.Context()))(t)); diff != "" {
		t.Error(diff)
	}
	noError(t, s.Resume(t.Context(), "g", "ada"))
	noError(t, s.Resume(t.Context(), "g", "ada"))
	if got := must(s.Paused(t.Context()))(t); len(got) != 0 {
		t.Errorf("%v", got)
	}
	if got := verbs(must(s.Why(t.Context(), WhyFilter{Group: "g"}))(t)); got != "paused paused resumed" {
		t.Errorf("why: %s", got)
	}
	wants(t, s.Pause(t.Context(), "", "x", ""), ErrInvalid)
}

// TestWhy: the order is that in which things were recorded, also when the clock goes backwards, and moves are where they
// happened.
func TestWhy(t *testing.T) {
	now := &clock{time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)}
	s := must(OpenMemory(t.Context(), Options{Now: func() time.Time { now.Time = now.Add(-time.Hour); return now.Time }}))(t)
	defer s.Close()
	record(t, s, see("a", "1"), see("b", "1"))
	moved := see("a", "2")
	moved.Revision.Subject, moved.Revision.Author, moved.Why, moved.Rewritten = "fix", "Ada", "seen twice", true
	record(t, s, moved)
	noError(t, s.Decide(t.Context(), sentry.Decision{Verb: sentry.Doubted, Group: "g", Repository: "b", Reason: "flapping"}, sentry.Decision{Verb: sentry.Reloaded, Reason: "SIGHUP"}))
	record(t, s, see("b", "2"))
	all := must(s.Why(t.Context(), WhyFilter{}))(t)
	if got := verbs(all); got != "recorded recorded moved queued doubted reloaded moved coalesced" {
		t.Fatalf("all: %s", got)
	}
	if got, want := all[2].Reason, "moved from 1 to 2, a commit that it had before: fix (Ada); seen twice"; got != want {
		t.Errorf("reason %q, want %q", got, want)
	}
	if all[2].Rollout == "" || all[2].Rollout != all[3].Rollout {
		t.Errorf("rollout of the move %q, of the entry %q", all[2].Rollout, all[3].Rollout)
	}
	runThrough(t, s, pending(t, s, "g"))
	for want, f := range map[string]WhyFilter{
		"recorded moved queued claimed planned finished":            {Repository: "a"}, // b joined by itself
		"recorded doubted moved coalesced claimed planned finished": {Repository: "b", Limit: 7},
		"planned finished": {Limit: 2},
		"moved queued moved coalesced claimed planned finished":         {Rollout: "1"},
		"moved queued doubted moved coalesced claimed planned finished": {Group: "g", Limit: 8},
		"": {Group: "none"},
	} {
		if got := verbs(must(s.Why(t.Context(), f))(t)); got != want {
			t.Errorf("%+v gives %q, want %q", f, got, want)
		}
	}
	_, err := s.Why(t.Context(), WhyFilter{Rollout: "9"})
	wants(t, err, ErrNotFound)
}
