package store

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sentry/internal/sentry"
)

// TestTakeOver: what a dead sentry left running is found and made ours, once for each epoch.
func TestTakeOver(t *testing.T) {
	dir := t.TempDir()
	s := openWith(t, Options{Dir: dir, Owner: "first"})
	record(t, s, see("a", "1"), see("b", "1"), see("a", "2"), see("b", "2"))
	r := claim(t, s, pending(t, s, "g"))
	d := r.Deployments[0]
	d.Status, d.Attempt = sentry.Running, 1
	d.Steps = []sentry.Step{
		{Attempt: 1, Ordinal: 1, Kind: sentry.StepClone, Name: "clone", Status: sentry.Succeeded},
		{Attempt: 1, Ordinal: 2, Kind: sentry.StepCommand, Name: "make", Status: sentry.Running, Bytes: 7},
	}
	noError(t, s.SaveDeployment(t.Context(), d))
	if left := must(s.Left(t.Context()))(t); len(left) != 0 {
		t.Errorf("what we run ourselves is not left: %v", left)
	}
	closed(t, s)

	s = openWith(t, Options{Dir: dir, Owner: "second"})
	wants(t, s.SaveDeployment(t.Context(), d), ErrFenced) // not before it was taken over
	wants(t, s.Finish(t.Context(), r.ID, sentry.Failed, ""), ErrFenced)
	left := must(s.Left(t.Context()))(t)
	if len(left) != 1 || left[0].ID != r.ID || left[0].Attempt != 1 || left[0].Deployments[0].Steps[1].Status != sentry.Running {
		t.Fatalf("%+v", left)
	}
	taken := must(s.TakeOver(t.Context(), r.ID, true))(t)
	want := left[0]
	want.Attempt, want.Interruptions = 2, 1
	step := &want.Deployments[0].Steps[1]
	step.Status, step.Reason, step.FinishedAt = sentry.Interrupted, taken.Deployments[0].Steps[1].Reason, taken.Deployments[0].Steps[1].FinishedAt
	if diff := cmp.Diff(want, taken); diff != "" || step.Reason == "" || step.FinishedAt.IsZero() {
		t.Errorf("taken over: %s", diff)
	}
	toldOfTakeOver(t, s, r.ID, sentry.Retried, "first ended while it ran (attempt 1); taken over by second")
	if diff := cmp.Diff(taken, must(s.TakeOver(t.Context(), r.ID, true))(t)); diff != "" {
		t.Errorf("taken over again: %s", diff)
	}
	if left := must(s.Left(t.Context()))(t); len(left) != 0 {
		t.Errorf("still left: %v", left)
	}
	// The next attempt keeps the steps of the first.
	d = taken.Deployments[0]
	d.Attempt = 2
	d.Steps = []sentry.Step{{Attempt: 2, Ordinal: 1, Kind: sentry.StepClone, Name: "clone", Status: sentry.Succeeded}}
	noError(t, s.SaveDeployment(t.Context(), d))
	d.Status = sentry.Succeeded
	noError(t, s.SaveDeployment(t.Context(), d))
	other := taken.Deployments[1]
	other.Status = sentry.Skipped
	noError(t, s.SaveDeployment(t.Context(), other))
	noError(t, s.Finish(t.Context(), r.ID, sentry.Succeeded, "at last"))
	var steps []string
	for _, step := range must(s.Rollout(t.Context(), r.ID))(t).Deployments[0].Steps {
		steps = append(steps, fmt.Sprintf("%d.%d %s", step.Attempt, step.Ordinal, step.Status))
	}
	if diff := cmp.Diff([]string{"1.1 succeeded", "1.2 interrupted", "2.1 succeeded"}, steps); diff != "" {
		t.Error(diff)
	}
	_, err := s.TakeOver(t.Context(), r.ID, true)
	wants(t, err, ErrFinal)
	record(t, s, see("a", "3"))
	_, err = s.TakeOver(t.Context(), pending(t, s, "g").Rollout.ID, true)
	wants(t, err, ErrStale)
	_, err = s.TakeOver(t.Context(), "99", true)
	wants(t, err, ErrNotFound)
	healthy(t, s)
}

// TestTakeOverLeavesJobs: what a Job does goes on without Sentry, so its steps do; those of an attempt beside Sentry, and
// those that Sentry does itself, have ended with it.
func TestTakeOverLeavesJobs(t *testing.T) {
	dir := t.TempDir()
	s := openWith(t, Options{Dir: dir, Owner: "first"})
	record(t, s, see("a", "1"), see("b", "1"), see("a", "2"), see("b", "2"))
	r := claim(t, s, pending(t, s, "g"))
	for i, jobOf := range []int{1, 2} {
		d := r.Deployments[i]
		d.Status, d.Attempt = sentry.Running, 2
		d.Job = &sentry.JobRef{Namespace: "qa", Name: "sentry-1", UID: "u", Attempt: jobOf}
		d.Steps = []sentry.Step{
			{Attempt: 2, Ordinal: 1, Kind: sentry.StepTrack, Name: "job", Status: sentry.Running},
			{Attempt: 2, Ordinal: 2, Kind: sentry.StepCommand, Name: "make", Status: sentry.Running},
		}
		noError(t, s.SaveDeployment(t.Context(), d))
	}
	closed(t, s)

	s = openWith(t, Options{Dir: dir, Owner: "second"})
	taken := must(s.TakeOver(t.Context(), r.ID, false))(t)
	for i, want := range []sentry.Status{sentry.Interrupted, sentry.Running} {
		d := taken.Deployments[i]
		if d.Steps[0].Status != sentry.Interrupted || d.Steps[1].Status != want {
			t.Errorf("with the Job of attempt %d the steps are %s and %s; want interrupted and %s", d.Job.Attempt, d.Steps[0].Status, d.Steps[1].Status, want)
		}
		if d.Job.UID != "u" {
			t.Errorf("the Job became %+v", d.Job)
		}
	}
	toldOfTakeOver(t, s, r.ID, sentry.Adopted, "first ended while it ran (attempt 2); taken over by second in the same attempt")
	d := taken.Deployments[1]
	d.Steps[1].Status = sentry.Succeeded
	noError(t, s.SaveDeployment(t.Context(), d))
}

// toldOfTakeOver holds that a decision about a rollout is that it was taken over, in these words.
func toldOfTakeOver(t *testing.T, s *Store, rollout string, verb sentry.Verb, reason string) {
	t.Helper()
	told := must(s.Why(t.Context(), WhyFilter{Rollout: rollout}))(t)
	if !slices.ContainsFunc(told, func(d sentry.Decision) bool { return d.Verb == verb && d.Reason == reason }) {
		t.Errorf("nothing was %s as %q: %+v", verb, reason, told)
	}
}

// TestFenced: once a younger epoch has begun, an older one writes nothing more, whatever became of its lock, and leaves
// the files alone when it ends.
func TestFenced(t *testing.T) {
	dir := t.TempDir()
	old := openWith(t, Options{Dir: dir, Owner: "old"})
	record(t, old, see("a", "1"), see("a", "2"), see("b", "1").in("h"), see("b", "2").in("h"))
	r := claim(t, old, pending(t, old, "g"))
	young := openWith(t, Options{Dir: dir, Owner: "young", unlocked: true})
	before := must(young.Why(t.Context(), WhyFilter{}))(t)

	d := r.Deployments[0]
	d.Status, d.Attempt = sentry.Running, 1
	waits := pending(t, old, "h")
	for name, write := range map[string]func() error{
		"record":  func() error { _, err := old.RecordChanges(t.Context(), []Observation{see("a", "3")}); return err },
		"request": func() error { _, _, err := old.Request(t.Context(), Request{Group: "g"}); return err },
		"claim": func() error {
			_, err := old.Claim(t.Context(), waits.Rollout.ID, waits.Version, planFor(waits))
			return err
		},
		"save":   func() error { return old.SaveDeployment(t.Context(), d) },
		"finish": func() error { return old.Finish(t.Context(), r.ID, sentry.Failed, "") },
		"cancel": func() error { _, err := old.Cancel(t.Context(), r.ID, "x", ""); return err },
		"take":   func() error { _, err := old.TakeOver(t.Context(), r.ID, true); return err },
		"pause":  func() error { return old.Pause(t.Context(), "g", "x", "") },
		"decide": func() error { return old.Decide(t.Context(), note("x")) },
		"prune": func() error {
			_, err := old.Prune(t.Context(), Retention{RolloutsPerGroup: 1, LedgerEntries: 1})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) { wants(t, write(), ErrFenced) })
	}
	if diff := cmp.Diff(before, must(young.Why(t.Context(), WhyFilter{}))(t)); diff != "" {
		t.Errorf("the older epoch has written: %s", diff)
	}
	closed(t, old)
	must(young.TakeOver(t.Context(), r.ID, true))(t)
	noError(t, young.SaveDeployment(t.Context(), d))
	closed(t, young)
	if s := openDir(t, dir); s.Epoch() != 3 {
		t.Errorf("epoch %d", s.Epoch())
	} else {
		healthy(t, s)
	}
}

// TestSuccessor: a state in memory can be followed like one on disk.
func TestSuccessor(t *testing.T) {
	s := inMemory(t)
	record(t, s, see("a", "1"), see("a", "2"))
	r := claim(t, s, pending(t, s, "g"))
	next := must(s.Successor())(t)
	wants(t, s.Decide(t.Context(), note("x")), ErrFenced)
	if left := must(next.Left(t.Context()))(t); len(left) != 1 || left[0].ID != r.ID {
		t.Errorf("%+v", left)
	}
	must(next.TakeOver(t.Context(), r.ID, true))(t)
	closed(t, next)
	closed(t, s)
	_, err := openDir(t, t.TempDir()).Successor()
	wants(t, err, ErrInvalid)
}
