//go:build unix

package monitor

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

const branchesPerRepository = 10

// memory answers at once and from memory, the same map again and again: what is measured is the monitor.
type memory struct {
	answers map[string]map[string]string
	batch   int
	asked   atomic.Int64
	warm    int64
	hot     chan struct{} // closed when warm questions were asked
	limit   int64
	full    chan struct{} // closed when limit questions were asked
}

func newMemory(repositories []config.Repository, commit string) *memory {
	a := &memory{answers: map[string]map[string]string{}, hot: make(chan struct{}), full: make(chan struct{})}
	for _, r := range repositories {
		answer := map[string]string{}
		for _, p := range r.Monitor.Branches {
			answer[p.String()] = commit
		}
		a.answers[r.Name] = answer
	}
	return a
}

func (a *memory) Lane(r *config.Repository) Lane {
	return Lane{Key: "https://forge.example:443", Batch: a.batch}
}

func (a *memory) Heads(_ context.Context, asks []Ask, answers []Answer) {
	for i := range asks {
		switch a.asked.Add(1) {
		case a.warm:
			close(a.hot)
		case a.limit:
			close(a.full)
		}
		answers[i].Heads = a.answers[asks[i].Name]
	}
}

func (*memory) Explain(*config.Repository) string { return "" }

func (a *memory) Revision(context.Context, *config.Repository, string, string) (sentry.Revision, error) {
	return sentry.Revision{}, sentry.Faultf(sentry.Transient, "nobody knows")
}

// sink takes everything and keeps nothing.
type sink struct{}

func (sink) Heads(context.Context) ([]sentry.Head, error)                 { return nil, nil }
func (sink) HeadsOf(context.Context, ...string) ([]sentry.Head, error)    { return nil, nil }
func (sink) Recorded(context.Context, sentry.Watch, string) (bool, error) { return false, nil }
func (sink) Decide(context.Context, ...sentry.Decision) error             { return nil }
func (sink) RecordChanges(context.Context, []store.Observation) ([]store.Outcome, error) {
	return nil, nil
}

// watchesOf makes repositories with so many watches in all.
func watchesOf(n int, interval time.Duration) []config.Repository {
	var branches []string
	for i := range branchesPerRepository {
		branches = append(branches, fmt.Sprintf("release/1.%d", i))
	}
	return many(max(1, n/branchesPerRepository), "forge.example", interval, branches...)
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resident gives the memory that the process holds and the heap that is in use, both in bytes and after a collection.
func resident(tb testing.TB) (rss, heap int64) {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		tb.Skip("needs /proc")
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		tb.Fatal(err)
	}
	return pages * int64(os.Getpagesize()), int64(m.HeapAlloc)
}

// BenchmarkIdle lets a monitor run in which nothing moves, with all repositories asked evenly and a thousand of them a
// second, however many there are: what a question costs, waking up included, and what a watch takes in memory.
func BenchmarkIdle(b *testing.B) {
	for _, watches := range []int{100, 1000, 10_000, 100_000} {
		b.Run(fmt.Sprint(watches), func(b *testing.B) {
			repositories := watches / branchesPerRepository
			list := watchesOf(watches, time.Duration(repositories)*time.Millisecond)
			cfg := configure(list...)
			asker := newMemory(list, sha("A"))
			rss, heap := resident(b)
			m := New(Options{Store: sink{}, Ask: asker, Rand: rand.New(rand.NewPCG(1, 2))})
			if err := m.Once(b.Context(), cfg); err != nil {
				b.Fatal(err)
			}
			rssAfter, heapAfter := resident(b)

			asker.warm = asker.asked.Load() + 200 // what it costs to begin is not counted
			asker.limit = asker.warm + int64(b.N)
			ctx, cancel := context.WithCancel(b.Context())
			var running sync.WaitGroup
			running.Go(func() {
				if err := m.Run(ctx); err != nil {
					b.Error(err)
				}
			})
			<-asker.hot
			b.ReportAllocs()
			b.ResetTimer()
			used := cpu()
			<-asker.full
			used = cpu() - used
			b.StopTimer()
			cancel()
			running.Wait()
			b.ReportMetric(float64(used.Nanoseconds())/float64(b.N), "cpu-ns/check")
			b.ReportMetric(float64(heapAfter-heap)/float64(watches), "heap-B/watch")
			b.ReportMetric(float64(rssAfter-rss)/float64(watches), "rss-B/watch")
			runtime.KeepAlive(m)
			runtime.KeepAlive(cfg)
		})
	}
}

// BenchmarkSweep asks everything once: a question without the waiting.
func BenchmarkSweep(b *testing.B) {
	for _, watches := range []int{100, 1000, 10_000, 100_000} {
		b.Run(fmt.Sprint(watches), func(b *testing.B) {
			list := watchesOf(watches, time.Minute)
			cfg := configure(list...)
			m := New(Options{Store: sink{}, Ask: newMemory(list, sha("A"))})
			if err := m.Once(b.Context(), cfg); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := m.Once(b.Context(), cfg); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(list)), "ns/check")
		})
	}
}

// BenchmarkRecord10k finds ten thousand heads of as many repositories moved, and records them in a store on disk.
func BenchmarkRecord10k(b *testing.B) {
	list := many(10_000, "forge.example", time.Minute)
	cfg := configure(list...)
	s, err := store.Open(b.Context(), store.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	m := New(Options{Store: s, Ask: newMemory(list, sha("A"))})
	if err := m.Once(b.Context(), cfg); err != nil {
		b.Fatal(err)
	}
	round := 0
	for b.Loop() {
		round++
		m.options.Ask = newMemory(list, sha(fmt.Sprint("B", round)))
		if err := m.Once(b.Context(), cfg); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStart100k starts a monitor over a store that knows a hundred thousand heads, until it has asked for the first
// time.
func BenchmarkStart100k(b *testing.B) {
	list := watchesOf(100_000, time.Minute)
	cfg := configure(list...)
	s, err := store.Open(b.Context(), store.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if err := New(Options{Store: s, Ask: newMemory(list, sha("A"))}).Once(b.Context(), cfg); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		asker := newMemory(nil, "")
		asker.limit = 1
		m := New(Options{Store: s, Ask: asker})
		m.Update(cfg)
		ctx, cancel := context.WithCancel(b.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := m.Run(ctx); err != nil {
				b.Error(err)
			}
		})
		<-asker.full
		cancel()
		running.Wait()
	}
}
