package check

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	gogit "github.com/go-git/go-git/v5"
	gogitconfig "github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/storage/memory"

	"sentry/bench/internal/measure"
	"sentry/internal/git"
	"sentry/internal/git/gittest"
	"sentry/internal/sentry"
)

// The goals, and the bounds beyond which the test fails.
const (
	goalProgram, boundProgram   = 100.0, 50.0     // CPU of `git ls-remote` over ours, at 10,000 refs
	goalLibrary, boundLibrary   = 50.0, 25.0      // CPU of go-git over ours, at 10,000 refs
	goalBytes, boundBytes       = 10_000.0, 3_000 // bytes of an answer, theirs over ours, at 10,000 refs
	goalFlat, boundFlat         = 1.1, 1.5        // CPU at 100,000 refs over that at 10
	goalHundred, boundHundred   = 2.0, 3.0        // CPU for 100 branches over that for one
	goalInstant, boundInstant   = 50.0, 150.0     // microseconds of CPU for 10 branches of an instant server
	rounds                      = 9
	checksAtOnce, libraryAtOnce = 60, 6
)

var refCounts = []int{10, 1000, 10_000, 100_000}

// asker asks for one branch of a repository, or for several.
type asker struct {
	name  string
	times int // questions a round
	ask   func(url string, branches int)
}

// cost is what one question costs.
type cost struct {
	cpu  time.Duration // of this process and the children that it has waited for
	wall time.Duration
	sent int64 // bytes that the server sends, with the headers of HTTP
	body int64 // and without
}

// TestRatios asks for branches of repositories of 10 to 100,000 refs, by turns as Sentry does, by `git ls-remote` and by
// go-git's Remote.List, with a real git server in another process.
func TestRatios(t *testing.T) {
	machine := measure.Alone(t)
	dir := t.TempDir()
	for _, n := range refCounts {
		makeRepository(t, filepath.Join(dir, name(n)), n)
	}
	s := startServer(t, "git server", dir)
	sentryAsks, program, library := askSentry(t), askProgram(t), askLibrary(t)

	table := measure.Table{
		Title:   fmt.Sprintf("Is main where it was? One check, median of %d turns\n  (%s)", rounds, machine),
		Columns: []string{"refs", "who asks", "CPU", "over Sentry's", "wall", "over Sentry's", "bytes sent", "bodies", "over Sentry's"},
	}
	ours := map[int]cost{}
	for _, n := range refCounts {
		costs := compare(t, s, s.URL+"/"+name(n), 1, sentryAsks, program, library)
		ours[n] = costs[0]
		for i, who := range []asker{sentryAsks, program, library} {
			c := costs[i]
			table.Row(n, who.name, c.cpu, measure.Ratio(c.cpu, ours[n].cpu), c.wall, measure.Ratio(c.wall, ours[n].wall), c.sent, c.body,
				measure.Times(float64(c.body)/float64(ours[n].body)))
		}
		if n == 10_000 {
			judge(t, &table, "CPU of git ls-remote over ours", ratio(costs[1].cpu, ours[n].cpu), goalProgram, boundProgram)
			judge(t, &table, "CPU of go-git over ours", ratio(costs[2].cpu, ours[n].cpu), goalLibrary, boundLibrary)
			judge(t, &table, "bodies of go-git's answers over ours", float64(costs[2].body)/float64(ours[n].body), goalBytes, boundBytes)
		}
	}
	// Whether it stays the same is seen only where both are measured by turns.
	var askers []asker
	for _, n := range refCounts {
		askers = append(askers, asker{name(n), checksAtOnce, func(base string, branches int) { sentryAsks.ask(base+"/"+name(n), branches) }})
	}
	costs := compare(t, s, s.URL, 1, askers...)
	table.Note("CPU of Sentry by turns at %d refs: %s", refCounts, join(costs))
	below(t, &table, "CPU at 100,000 refs over that at 10", ratio(costs[3].cpu, costs[0].cpu), goalFlat, boundFlat)
	table.Print()

	table = measure.Table{
		Title:   "Are these branches where they were? One question, 10,000 refs",
		Columns: []string{"branches", "CPU", "a branch", "wall", "over that of one"},
	}
	counts := []int{1, 10, 100, 1000}
	askers = nil
	for _, n := range counts {
		askers = append(askers, asker{fmt.Sprint(n), 50, func(url string, _ int) { sentryAsks.ask(url, n) }})
	}
	costs = compare(t, s, s.URL+"/"+name(10_000), 0, askers...)
	for i, n := range counts {
		table.Row(n, costs[i].cpu, costs[i].cpu/time.Duration(n), costs[i].wall, measure.Ratio(costs[i].cpu, costs[0].cpu))
	}
	below(t, &table, "CPU for 100 branches over that for one", ratio(costs[2].cpu, costs[0].cpu), goalHundred, boundHundred)
	table.Print()

	table = measure.Table{
		Title:   "What is Sentry's own part? A server that answers at once, in another process",
		Columns: []string{"branches", "CPU", "allocated", "of a core for 10,000 repositories a minute"},
	}
	instant := startServer(t, "instant server")
	askers = nil
	for _, n := range counts {
		askers = append(askers, asker{fmt.Sprint(n), 500, func(url string, _ int) { sentryAsks.ask(url, n) }})
	}
	costs = compare(t, instant, instant.URL+"/team/repository", 0, askers...)
	for i, n := range counts {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 100 {
			askers[i].ask(instant.URL+"/team/repository", n)
		}
		runtime.ReadMemStats(&after)
		table.Row(n, costs[i].cpu, fmt.Sprintf("%d bytes", (after.TotalAlloc-before.TotalAlloc)/100),
			fmt.Sprintf("%.2f %%", 100*float64(costs[i].cpu)*10_000/float64(time.Minute)))
	}
	below(t, &table, "microseconds of CPU for 10 branches", float64(costs[1].cpu)/float64(time.Microsecond), goalInstant, boundInstant)
	table.Print()
}

func name(refs int) string { return fmt.Sprintf("refs-%d.git", refs) }

// makeRepository makes a repository with main and other refs, all packed into one file.
func makeRepository(t *testing.T, dir string, refs int) {
	t.Helper()
	repo := gittest.NewRepo(t, dir, "")
	commit := repo.Commit(t, "main", map[string]string{"README": "x"}, "first")
	repo.Branches(t, refs-1, "topic/b%06d", commit)
}

// branchNames are main, and of the others as many as are wanted.
func branchNames(n int) []string {
	names := []string{"main"}
	for i := range n - 1 {
		names = append(names, fmt.Sprintf("topic/b%06d", i))
	}
	return names
}

func askSentry(t *testing.T) asker {
	t.Helper()
	g, err := git.New(git.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	patterns := map[int][]sentry.Pattern{}
	for _, n := range []int{1, 10, 100, 1000} {
		for _, text := range branchNames(n) {
			p, err := sentry.ParsePattern(text)
			if err != nil {
				t.Fatal(err)
			}
			patterns[n] = append(patterns[n], p)
		}
	}
	return asker{"Sentry", checksAtOnce, func(url string, branches int) {
		r, err := sentry.ParseRemote(url, sentry.RemoteRules{InsecureHTTP: true})
		if err != nil {
			t.Fatal(err)
		}
		heads, err := g.Heads(context.Background(), r, git.Auth{}, patterns[branches])
		if err != nil || len(heads) == 0 || len(heads) > branches {
			t.Fatal(len(heads), err)
		}
	}}
}

func askProgram(t *testing.T) asker {
	t.Helper()
	return asker{"git ls-remote", 4, func(url string, _ int) {
		cmd := exec.Command("git", "ls-remote", url, "refs/heads/main")
		cmd.Env = gittest.Environ()
		out, err := cmd.Output()
		if err != nil || !strings.HasSuffix(string(out), "\trefs/heads/main\n") {
			t.Fatal(string(out), err)
		}
	}}
}

func askLibrary(t *testing.T) asker {
	t.Helper()
	return asker{"go-git Remote.List", libraryAtOnce, func(url string, _ int) {
		remote := gogit.NewRemote(memory.NewStorage(), &gogitconfig.RemoteConfig{Name: "origin", URLs: []string{url}})
		refs, err := remote.List(&gogit.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, ref := range refs {
			if ref.Name() == "refs/heads/main" {
				return
			}
		}
		t.Fatal("go-git has not found main")
	}}
}

// compare lets everybody ask by turns, and gives the medians.
func compare(t *testing.T, s *server, url string, branches int, askers ...asker) []cost {
	t.Helper()
	for _, a := range askers {
		a.ask(url, branches) // connections, pools and caches are there
	}
	turns := make([][]cost, len(askers))
	for range rounds {
		for i, a := range askers {
			runtime.GC() // what the one before has left is not this one's
			before, cpu, begin := s.totals(), used(t), time.Now()
			for range a.times {
				a.ask(url, branches)
			}
			wall := time.Since(begin)
			n := time.Duration(a.times)
			cpu = used(t) - cpu
			after := s.totals()
			turns[i] = append(turns[i], cost{
				cpu: cpu / n, wall: wall / n,
				sent: (after.Sent - before.Sent) / int64(a.times), body: (after.Bodies - before.Bodies) / int64(a.times),
			})
		}
	}
	medians := make([]cost, len(askers))
	for i := range askers {
		var cpu, wall []time.Duration
		var sent, body []int64
		for _, c := range turns[i] {
			cpu, wall, sent, body = append(cpu, c.cpu), append(wall, c.wall), append(sent, c.sent), append(body, c.body)
		}
		medians[i] = cost{measure.Median(cpu), measure.Median(wall), measure.Median(sent), measure.Median(body)}
	}
	return medians
}

// used is the processor time of this process and of all children that have ended, and their children.
func used(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u); err != nil {
		t.Fatal(err)
	}
	return measure.CPU() + time.Duration(u.Utime.Nano()+u.Stime.Nano())
}

func join(costs []cost) string {
	var all []string
	for _, c := range costs {
		all = append(all, measure.Time(c.cpu))
	}
	return strings.Join(all, ", ")
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

// judge notes a figure that should be at least the goal, and fails below the bound.
func judge(t *testing.T, table *measure.Table, what string, got, goal, bound float64) {
	t.Helper()
	table.Note("%s: %s, goal at least %s: %s", what, measure.Times(got), measure.Times(goal), measure.Verdict(got >= goal))
	if got < bound {
		t.Errorf("%s: %s, which must be at least %s", what, measure.Times(got), measure.Times(bound))
	}
}

// below notes a figure that should be at most the goal, and fails above the bound.
func below(t *testing.T, table *measure.Table, what string, got, goal, bound float64) {
	t.Helper()
	table.Note("%s: %.2f, goal at most %.2f: %s", what, got, goal, measure.Verdict(got <= goal))
	if got > bound {
		t.Errorf("%s: %.2f, which must be at most %.2f", what, got, bound)
	}
}
