package store

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sentry/internal/sentry"
)

// TestLatest: for each group that is asked for, Latest gives what a list of its ended rollouts begins with.
func TestLatest(t *testing.T) {
	s := inMemory(t)
	for _, group := range []string{"succeeded", "running", "waiting", "other"} {
		record(t, s, see(group, commitOf(0)).in(group))
		for n := range 3 {
			record(t, s, see(group, commitOf(n+1)).in(group))
			runThrough(t, s, pending(t, s, group))
		}
	}
	record(t, s, see("fresh", commitOf(0)).in("fresh"), see("fresh", commitOf(1)).in("fresh"))
	record(t, s, see("running", commitOf(9)).in("running"), see("waiting", commitOf(9)).in("waiting"))
	claim(t, s, pending(t, s, "running"))
	_, err := s.Cancel(t.Context(), pending(t, s, "waiting").Rollout.ID, "ada", "not wanted")
	noError(t, err)
	record(t, s, see("waiting", commitOf(10)).in("waiting"))

	groups := []string{"succeeded", "running", "waiting", "fresh", "never", "quo\"te", "succeeded"}
	want := map[string]sentry.Rollout{}
	for _, group := range groups {
		ended := Filter{Group: group, Status: []sentry.Status{sentry.Succeeded, sentry.Canceled}, Limit: 1}
		for _, r := range must(s.Rollouts(t.Context(), ended))(t) {
			want[group] = r
		}
	}
	if len(want) != 3 || want["waiting"].Status != sentry.Canceled || len(want["succeeded"].Deployments) != 1 {
		t.Fatalf("the test does not test what it should: %v", want)
	}
	if diff := cmp.Diff(want, must(s.Latest(t.Context(), groups...))(t)); diff != "" {
		t.Error(diff)
	}
	if none := must(s.Latest(t.Context()))(t); len(none) != 0 {
		t.Errorf("of no group: %v", none)
	}
}

// BenchmarkLatest10000 is what a status of 10,000 groups reads of their last rollouts.
func BenchmarkLatest10000(b *testing.B) {
	s := openDir(b, b.TempDir())
	groups := make([]string, 10_000)
	for n := range 3 {
		batch := make([]Observation, len(groups))
		for i := range groups {
			groups[i] = fmt.Sprintf("group-%05d", i)
			batch[i] = see(fmt.Sprintf("team/repository-%05d", i), commitOf(n*len(groups)+i)).in(groups[i])
			batch[i].Revision.Author, batch[i].Revision.Time = "Ada Lovelace <ada@example.com>", time.Now()
		}
		must(s.RecordChanges(context.Background(), batch))(b)
		var all sync.WaitGroup
		for _, w := range must(s.Pending(context.Background()))(b) {
			all.Go(func() { runThrough(b, s, w) })
		}
		all.Wait()
	}
	for b.Loop() {
		if found := must(s.Latest(b.Context(), groups...))(b); len(found) != len(groups) {
			b.Fatal(len(found))
		}
	}
}
