package store

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"sentry/internal/sentry"
)

// drop ends the waiting rollout of a group, because nothing watches its branches any more.
func drop(t testing.TB, s *Store, group string) {
	t.Helper()
	w := pending(t, s, group)
	p := Plan{Reason: "nothing is left"}
	for _, c := range w.Rollout.Trigger.Changes {
		p.Strays = append(p.Strays, Stray{Change: c, Reason: "not watched"})
	}
	must(s.Claim(t.Context(), w.Rollout.ID, w.Version, p))(t)
}

func droppedCommits(t testing.TB, s *Store) (commits []string) {
	t.Helper()
	for _, c := range must(s.Dropped(t.Context()))(t) {
		commits = append(commits, c.To)
	}
	return commits
}

func TestTakeBack(t *testing.T) {
	s := inMemory(t)
	record(t, s, see("r", "a"), see("r", "b"), see("r", "c"), see("q", "a"), see("q", "b"))
	drop(t, s, "g")
	if diff := cmp.Diff([]string{"b", "c", "b"}, droppedCommits(t, s)); diff != "" {
		t.Fatal(diff)
	}
	healthy(t, s)

	// What moved on meanwhile has its turn already.
	record(t, s, see("q", "c"))
	all := must(s.Dropped(t.Context()))(t)
	if len(all) != 2 {
		t.Fatalf("%+v", all)
	}
	var returns []Return
	for _, c := range all {
		returns = append(returns, Return{Change: c, Group: "g", Queue: sentry.Every})
	}
	before := pending(t, s, "g")
	for range 2 { // the second time, nothing is dropped any more
		noError(t, s.TakeBack(t.Context(), returns))
	}
	var got []string
	for _, w := range must(s.Pending(t.Context()))(t) {
		line := w.Rollout.Group
		for _, c := range w.Rollout.Trigger.Changes {
			line += " " + c.Repository + c.From + c.To
		}
		got = append(got, line)
	}
	if diff := cmp.Diff([]string{"g rab qbc", "g rbc"}, got); diff != "" {
		t.Error(diff)
	}
	if now := must(s.Pending(t.Context()))(t)[0]; now.Version != before.Version+1 {
		t.Errorf("version %d after %d: what was planned meanwhile would be claimed", now.Version, before.Version)
	}
	if left := droppedCommits(t, s); len(left) != 0 {
		t.Errorf("%v are still dropped", left)
	}
	healthy(t, s)
	wants(t, s.TakeBack(t.Context(), []Return{{Change: all[0]}}), ErrInvalid)
}

func TestHandOver(t *testing.T) {
	s := inMemory(t)
	record(t, s, see("r", "a"), see("r", "b"), see("q", "a"), see("q", "b"))
	w := pending(t, s, "g")
	stray := func(i int) []Stray {
		return []Stray{{Change: w.Rollout.Trigger.Changes[i], Group: "h", Queue: sentry.Latest, Reason: "moved"}}
	}
	wants(t, s.HandOver(t.Context(), w.Rollout.ID, w.Version+1, stray(0)), ErrStale)
	noError(t, s.HandOver(t.Context(), w.Rollout.ID, w.Version, stray(0)))
	wants(t, s.HandOver(t.Context(), w.Rollout.ID, w.Version, stray(1)), ErrStale) // it is another by now
	if there := pending(t, s, "h").Rollout.Trigger.Changes; len(there) != 1 || there[0].Repository != "r" {
		t.Errorf("%+v", there)
	}
	left := pending(t, s, "g")
	if changes := left.Rollout.Trigger.Changes; left.Rollout.ID != w.Rollout.ID || len(changes) != 1 || changes[0].Repository != "q" {
		t.Errorf("%+v", left)
	}
	healthy(t, s)
	noError(t, s.HandOver(t.Context(), left.Rollout.ID, left.Version, stray(1)))
	if r := must(s.Rollout(t.Context(), w.Rollout.ID))(t); r.Status != sentry.Canceled {
		t.Errorf("it is %s, and nothing is left of it", r.Status)
	}
	healthy(t, s)
	wants(t, s.HandOver(t.Context(), left.Rollout.ID, left.Version, stray(1)), ErrFinal)

	// What a person asked for is left.
	record(t, s, see("r", "c").in("g"))
	_, _, err := s.Request(t.Context(), Request{Group: "g", By: "x", Repositories: []string{"q"}})
	noError(t, err)
	w = pending(t, s, "g")
	noError(t, s.HandOver(t.Context(), w.Rollout.ID, w.Version, stray(0)))
	if left := pending(t, s, "g"); len(left.Rollout.Trigger.Changes) != 0 {
		t.Errorf("%+v", left)
	}
	healthy(t, s)
}
