package record

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"sentry/bench/internal/fleet"
	"sentry/bench/internal/measure"
	"sentry/internal/store"
)

const (
	changes = 10_000
	few     = 1000 // what the slow way records in a round
	rounds  = 5
	callers = 16

	goal     = time.Second     // for all changes in one sweep
	boundCPU = 5 * time.Second // of processor time for the same
)

// TestRatios has ten thousand moved heads of a thousand groups recorded on disk: in one call, by sixteen callers of whom
// each has one at a time, and by one caller who has one at a time, which is a transaction and an fsync for each.
func TestRatios(t *testing.T) {
	machine := measure.Alone(t)
	s, err := store.Open(t.Context(), store.Options{Dir: filepath.Join(t.TempDir(), "state")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := &world{t: t, store: s}
	w.together(w.moved()) // the first sight

	ways := []*way{
		{name: "one call", changes: changes, record: w.together},
		{name: fmt.Sprintf("%d callers, one change each", callers), changes: changes, record: w.callers},
		{name: "one after the other", changes: few, record: w.single},
	}
	for range rounds {
		for _, way := range ways {
			way.measure(w.moved()[:way.changes])
		}
	}

	slow := ways[len(ways)-1]
	table := measure.Table{
		Title:   fmt.Sprintf("Record heads that moved, durably: medians of %d rounds in turn\n  (%s)", rounds, machine),
		Columns: []string{"", "changes", "time", "from", "to", "CPU", "time a change", "CPU a change", "faster", "less CPU"},
	}
	for _, way := range ways {
		wall, cpu := measure.Median(way.wall), measure.Median(way.cpu)
		low, high := measure.Quartiles(way.wall)
		table.Row(way.name, way.changes, wall, low, high, cpu, way.each(way.wall), way.each(way.cpu),
			measure.Ratio(slow.each(slow.wall), way.each(way.wall)), measure.Ratio(slow.each(slow.cpu), way.each(way.cpu)))
	}
	table.Note("from, to: the quartiles of the time.")
	took := measure.Median(ways[0].wall)
	table.Note("%s changes in one sweep: %s; goal less than %s: %s", measure.Count(changes), measure.Time(took), measure.Time(goal), measure.Verdict(took < goal))
	table.Print()

	if used := measure.Median(ways[0].cpu); used > boundCPU {
		t.Errorf("recording %d changes takes %v of processor time", changes, used)
	}
	heads, err := s.Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, h := range heads { // in the order of the repositories
		want := int64(1 + rounds*len(ways))
		if i >= few {
			want -= rounds
		}
		if h.Generation != want {
			t.Fatalf("%s is in generation %d, want %d: a change was lost", h.Watch, h.Generation, want)
		}
	}
	if len(heads) != changes {
		t.Fatalf("%d heads, want %d", len(heads), changes)
	}
}

// way is a way to record changes, and what it took.
type way struct {
	name    string
	changes int
	record  func([]store.Observation)
	wall    []time.Duration
	cpu     []time.Duration
}

// each is the median for one change.
func (w *way) each(took []time.Duration) time.Duration {
	return measure.Median(took) / time.Duration(w.changes)
}

func (w *way) measure(moved []store.Observation) {
	start, used := time.Now(), measure.CPU()
	w.record(moved)
	w.wall = append(w.wall, time.Since(start))
	w.cpu = append(w.cpu, measure.CPU()-used)
}

// world is the state in which is recorded.
type world struct {
	t     *testing.T
	store *store.Store
	round int
}

// moved is one branch of each repository, at a commit where it has not been yet.
func (w *world) moved() []store.Observation {
	w.round++
	list := make([]store.Observation, changes)
	for i := range list {
		list[i] = fleet.Observation(i, 0, fmt.Sprintf("%040x", w.round*changes+i))
	}
	return list
}

func (w *world) record(some []store.Observation) {
	if _, err := w.store.RecordChanges(context.Background(), some); err != nil {
		w.t.Error(err)
	}
}

func (w *world) together(all []store.Observation) { w.record(all) }

func (w *world) single(all []store.Observation) {
	for i := range all {
		w.record(all[i : i+1])
	}
}

func (w *world) callers(all []store.Observation) {
	next := make(chan int)
	var working sync.WaitGroup
	for range callers {
		working.Go(func() {
			for i := range next {
				w.record(all[i : i+1])
			}
		})
	}
	for i := range all {
		next <- i
	}
	close(next)
	working.Wait()
}
