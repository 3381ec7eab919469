package store

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sentry/internal/sentry"
)

// rows counts the rows of a table.
func rows(t testing.TB, s *Store, table string) (n int) {
	t.Helper()
	noError(t, s.read(t.Context(), func(c *conn) error {
		_, err := c.one(`SELECT count(*) FROM `+table, func(r row) error { n = int(r.int(0)); return nil })
		return err
	}))
	return n
}

// TestPrune: of each group the newest rollouts that have ended stay, with all that belongs to them; nothing that waits or
// runs goes, however old it is.
func TestPrune(t *testing.T) {
	s := inMemory(t)
	of := map[string][]string{} // by group: what has ended
	record(t, s, see("a", "0"), see("b", "0").in("h"), see("old", "0").in("old"), see("old", "1").in("old"))
	runs := claim(t, s, pending(t, s, "old"))
	waits := record(t, s, see("old", "2").in("old")).Rollout
	for i := range 6 { // that end before those two
		id := record(t, s, see("old", commitOf(i)).in("old").queued(sentry.Every)).Rollout
		must(s.Cancel(t.Context(), id, "x", ""))(t)
		of["old"] = append(of["old"], id)
	}
	for i := 1; i <= 7; i++ {
		record(t, s, see("a", fmt.Sprint(i)), see("b", fmt.Sprint(i)).in("h"))
		for _, group := range []string{"g", "h"} {
			if group == "h" && i > 3 {
				continue
			}
			of[group] = append(of[group], runThrough(t, s, pending(t, s, group)).ID)
		}
	}
	removed := must(s.Prune(t.Context(), Retention{RolloutsPerGroup: 4}))(t)
	if got, want := fmt.Sprint(removed), fmt.Sprint(append(of["old"][:2:2], of["g"][:3]...)); got != want {
		t.Errorf("removed %s, want %s", got, want)
	}
	for _, id := range of["g"][:3] {
		_, err := s.Rollout(t.Context(), id)
		wants(t, err, ErrNotFound)
	}
	for _, id := range append(of["g"][3:], append(of["h"], runs.ID, waits)...) {
		r := must(s.Rollout(t.Context(), id))(t)
		if len(r.Trigger.Changes) == 0 {
			t.Errorf("%s has lost its changes", id)
		}
	}
	if n := rows(t, s, "deployments"); n != 4+3+1 {
		t.Errorf("%d deployments left", n)
	}
	if n := rows(t, s, "steps"); n != 2*(4+3) {
		t.Errorf("%d steps left", n)
	}
	for i := range 8 {
		if !must(s.Recorded(t.Context(), watchOf("a"), fmt.Sprint(i)))(t) {
			t.Errorf("commit %d is forgotten with its rollout", i)
		}
	}
	healthy(t, s)
	if again := must(s.Prune(t.Context(), Retention{RolloutsPerGroup: 4}))(t); len(again) != 0 {
		t.Errorf("a second time it removes %v", again)
	}
	if got := verbs(must(s.Why(t.Context(), WhyFilter{Group: "g"}))(t)); !strings.HasPrefix(got, "recorded moved queued claimed planned finished moved") {
		t.Errorf("why: %s", got)
	}
}

// TestPruneRows: the ledger and the changes are bounded too, in several short transactions where there is much.
func TestPruneRows(t *testing.T) {
	s := inMemory(t)
	const moves = changesPerWatch + 60
	for i := range moves + 1 {
		record(t, s, see("a", commitOf(i)), see("b", "first").in("h"))
	}
	runThrough(t, s, pending(t, s, "g"))
	record(t, s, see("a", "last"))
	runThrough(t, s, pending(t, s, "g"))
	var many []sentry.Decision
	for i := range 2*rowChunk + 100 {
		many = append(many, note(fmt.Sprint(i)))
	}
	noError(t, s.Decide(t.Context(), many...))
	if removed := must(s.Prune(t.Context(), Retention{RolloutsPerGroup: 1, LedgerEntries: 50}))(t); len(removed) != 1 {
		t.Fatalf("removed %v", removed)
	}
	if n := rows(t, s, "ledger"); n != 50 {
		t.Errorf("%d entries left", n)
	}
	if n := rows(t, s, "changes"); n != changesPerWatch {
		t.Errorf("%d changes left, want %d", n, changesPerWatch)
	}
	if why := must(s.Why(t.Context(), WhyFilter{Limit: 1}))(t); why[0].Reason != fmt.Sprint(len(many)-1) {
		t.Errorf("the newest entry is %v", why[0])
	}
	healthy(t, s)
}

// TestPruneHeads: of the branches that are gone, each repository remembers the newest; what something tells of stays.
func TestPruneHeads(t *testing.T) {
	now := &clock{time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)}
	s := must(OpenMemory(t.Context(), Options{Now: now.now}))(t)
	defer s.Close()
	branch := func(i int) string { return fmt.Sprintf("a@feature/%04d", i) }
	var seen, moved, gone []Observation
	const extra = 10
	for i := range deletedPerRepository + extra {
		seen, moved, gone = append(seen, see(branch(i), "1")), append(moved, see(branch(i), "2")), append(gone, see(branch(i), ""))
	}
	must(s.RecordChanges(t.Context(), seen))(t)
	record(t, s, moved[0], moved[1], moved[2]) // 0 to 2 have a change
	runThrough(t, s, pending(t, s, "g"))
	record(t, s, moved[2]) // nothing new
	record(t, s, see("other", "1"), see("other", "2"))
	runThrough(t, s, pending(t, s, "g"))
	for _, o := range gone {
		now.Time = now.Add(time.Minute)
		record(t, s, o)
	}
	record(t, s, seen[3]) // 3 is back
	must(s.Prune(t.Context(), Retention{}))(t)
	heads := func() (n int, first string) {
		for _, h := range must(s.HeadsOf(t.Context(), "a"))(t) {
			if n++; first == "" || h.Branch == "feature/0009" || h.Branch == "feature/0008" {
				first += h.Branch + " "
			}
		}
		return n, first
	}
	// 1009 are gone: the oldest 9 are 0 to 2, which a rollout tells of, and 4 to 9.
	if n, which := heads(); n != deletedPerRepository+extra-6 || which != "feature/0000 " {
		t.Errorf("%d heads left: %s", n, which)
	}
	must(s.Prune(t.Context(), Retention{RolloutsPerGroup: 1}))(t)
	if n, _ := heads(); n != deletedPerRepository+1 {
		t.Errorf("%d heads left without the rollout", n)
	}
	if out := record(t, s, see(branch(9), "1")); out.Kind != Baseline {
		t.Errorf("a forgotten branch that is back is %s", out.Kind)
	}
	healthy(t, s)
}

// TestRetentionDefaults: the argument, else the options, else what is documented.
func TestRetentionDefaults(t *testing.T) {
	standard := Retention{RolloutsPerGroup: defaultRollouts, LedgerEntries: defaultLedger}
	for _, c := range []struct{ argument, options, want Retention }{
		{Retention{}, Retention{}, Retention{200, 100_000}},
		{Retention{RolloutsPerGroup: 3}, Retention{5, 6}, Retention{3, 6}},
		{Retention{}, Retention{LedgerEntries: 6}, Retention{200, 6}},
		{Retention{-1, -1}, Retention{}, Retention{200, 100_000}},
	} {
		if got := c.argument.or(c.options).or(standard); got != c.want {
			t.Errorf("%+v with %+v is %+v, want %+v", c.argument, c.options, got, c.want)
		}
	}
}
