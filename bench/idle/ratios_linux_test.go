package idle

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"sentry/bench/internal/child"
	"sentry/bench/internal/fleet"
	"sentry/bench/internal/measure"
	"sentry/internal/git/gittest"
)

const (
	interval = time.Minute
	window   = time.Minute // what is measured: every repository is asked about once in it
)

// The goals, and the bounds beyond which the test fails.
const (
	goalMemory, boundMemory     = 64 << 20, 96 << 20 // bytes over the empty daemon, with 100,000 watches
	goalCPU, boundCPU           = 0.01, 0.03         // of a core, with 100,000 watches
	goalExponent, boundExponent = 1.05, 1.2
)

// TestRatios lets daemons with 10, 100, 1,000, 10,000 and 100,000 watches idle side by side, asking a server in another
// process. The one with 10 stands for the empty one: a configuration has one repository at least.
func TestRatios(t *testing.T) {
	machine := measure.Alone(t)
	t.Setenv(fleet.TokenName, fleet.TokenValue)
	repositories := t.TempDir()
	gittest.NewRepo(t, filepath.Join(repositories, "qa.git"), "").Commit(t, "main", map[string]string{"Makefile": "deploy:\n"}, "scripts")
	server := fleet.Start(t, repositories)

	var runs []*run
	for _, watches := range []int{fleet.Branches, 100, 1000, 10_000, 100_000} {
		r := &run{fleet: fleet.Fleet{Name: fmt.Sprintf("n%d", watches), Watches: watches, Interval: interval, Server: server.URL}}
		r.start(t)
		runs = append(runs, r)
	}
	for _, r := range runs {
		r.wait(t, server)
	}
	time.Sleep(2 * time.Second) // the last heads are being recorded

	start := time.Now()
	for _, r := range runs {
		server.Forget(r.fleet.Name)
		r.begin = r.ask("now")
	}
	for time.Since(start) < window {
		time.Sleep(window / 20)
		for _, r := range runs {
			r.resident = append(r.resident, r.ask("now").Resident)
		}
	}
	took := time.Since(start)
	for _, r := range runs {
		r.end = r.ask("now")
		r.asked = server.Tally(r.fleet.Name).Questions
	}
	for _, r := range runs {
		r.settled = r.ask("settled")
	}

	empty := runs[0]
	table := measure.Table{
		Title:   fmt.Sprintf("Idle: a minute of `sentry watch` at an interval of %v, %d branches to a repository\n  (%s)", interval, fleet.Branches, machine),
		Columns: []string{"watches", "questions", "CPU", "of a core", "CPU a question", "allocated a question", "resident", "over empty", "at most", "settled", "over empty", "live heap over empty", "bytes a watch"},
	}
	var watches, heap, cpu []float64
	for _, r := range runs {
		used := r.end.CPU - r.begin.CPU
		overHeap := r.settled.Heap - empty.settled.Heap
		each, allocated, bytes := "", "", ""
		if r != empty {
			more := used - (empty.end.CPU - empty.begin.CPU)
			each = "in the noise"
			if more > 0 {
				each = measure.Time(more / time.Duration(max(1, r.asked)))
			}
			allocated = measure.Count((r.end.Allocated-r.begin.Allocated-(empty.end.Allocated-empty.begin.Allocated))/max(1, r.asked)) + " B"
			bytes = measure.Count(overHeap / int64(r.fleet.Watches))
			if r.fleet.Watches >= 1000 { // below, the differences drown in what the empty daemon does
				watches, heap, cpu = append(watches, float64(r.fleet.Watches)), append(heap, float64(overHeap)), append(cpu, float64(max(1, more)))
			}
		}
		table.Row(r.fleet.Watches, r.asked, used, fmt.Sprintf("%.3f %%", 100*float64(used)/float64(took)), each, allocated,
			measure.Megabytes(r.usual()), measure.Megabytes(r.usual()-empty.usual()), measure.Megabytes(slices.Max(r.resident)-empty.usual()),
			measure.Megabytes(r.settled.Resident), measure.Megabytes(r.settled.Resident-empty.settled.Resident),
			measure.Megabytes(overHeap), bytes)
	}
	table.Note("empty: with 10 watches, as no configuration is without a repository. A question: what is spent over the empty one.")
	table.Note("resident: as it ran, the median of 20 looks; at most: the most of these. settled: after what the runtime keeps for itself was given back.")

	full := runs[len(runs)-1]
	memory := full.settled.Resident - empty.settled.Resident
	core := float64(full.end.CPU-full.begin.CPU) / float64(took)
	growsHeap, growsCPU := measure.Exponent(watches, heap), measure.Exponent(watches, cpu)
	table.Note("100,000 watches over the empty daemon, settled: %s; goal at most %s: %s", measure.Megabytes(memory), measure.Megabytes(goalMemory), measure.Verdict(memory <= goalMemory))
	table.Note("100,000 watches: %.2f %% of a core; goal at most %.0f %%: %s", 100*core, 100*goalCPU, measure.Verdict(core <= goalCPU))
	table.Note("growth from 1,000 to 100,000: memory n^%.2f, CPU n^%.2f; goal at most n^%.2f: %s", growsHeap, growsCPU, goalExponent, measure.Verdict(growsHeap <= goalExponent && growsCPU <= goalExponent))
	table.Print()

	if memory > boundMemory {
		t.Errorf("100,000 watches take %s over the empty daemon", measure.Megabytes(memory))
	}
	if core > boundCPU {
		t.Errorf("100,000 watches take %.1f %% of a core", 100*core)
	}
	if growsHeap > boundExponent {
		t.Errorf("memory grows with the watches to the power of %.2f", growsHeap)
	}
	if most := int64(1.2 * float64(full.fleet.Repositories())); full.asked > most || full.asked < most/2 {
		t.Errorf("%d questions in an interval for %d repositories", full.asked, full.fleet.Repositories())
	}
}

// run is one daemon.
type run struct {
	fleet   fleet.Fleet
	process *child.Process
	log     string

	begin, end, settled cost
	resident            []int64 // between begin and end
	asked               int64   // the same
}

// usual is the memory as it ran.
func (r *run) usual() int64 { return measure.Median(r.resident) }

func (r *run) start(t *testing.T) {
	dir := t.TempDir()
	r.fleet.StateDir = filepath.Join(dir, "state")
	file := filepath.Join(dir, "sentry.yaml")
	if err := r.fleet.Write(file); err != nil {
		t.Fatal(err)
	}
	r.log = filepath.Join(dir, "log")
	r.process = child.Start(t, "daemon", r.log, "--config", file)
}

// wait returns when every repository was asked.
func (r *run) wait(t *testing.T, server *fleet.Remote) {
	t.Helper()
	for limit := time.Now().Add(2 * time.Minute); server.Tally(r.fleet.Name).Questions < int64(r.fleet.Repositories()); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(limit) {
			log, _ := os.ReadFile(r.log)
			t.Fatalf("%d repositories, but %d questions after two minutes; the end of the log:\n%s",
				r.fleet.Repositories(), server.Tally(r.fleet.Name).Questions, log[max(0, len(log)-4000):])
		}
	}
}

func (r *run) ask(word string) (c cost) {
	r.process.Ask(word, &c)
	return c
}
