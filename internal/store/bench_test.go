package store

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"sentry/internal/sentry"
)

// BenchmarkRecord10000 records 10,000 changed heads of 100 groups in one call, on disk.
func BenchmarkRecord10000(b *testing.B) {
	s := openDir(b, b.TempDir())
	observations := make([]Observation, 10_000)
	round := func(n int) {
		for i := range observations {
			observations[i] = Observation{
				Watch: sentry.Watch{Repository: fmt.Sprintf("team/repository-%05d", i), Branch: "main"},
				Group: fmt.Sprintf("group-%02d", i%100), Queue: sentry.Latest,
				Revision: sentry.Revision{Commit: commitOf(n*len(observations) + i), Author: "Ada Lovelace <ada@example.com>", Subject: "engine: weave algebraical patterns", Time: time.Now()},
			}
		}
	}
	record := func() {
		if _, err := s.RecordChanges(b.Context(), observations); err != nil {
			b.Fatal(err)
		}
	}
	n := 0
	round(n)
	record()
	for b.Loop() {
		n++
		b.StopTimer()
		round(n)
		b.StartTimer()
		record()
	}
}

// BenchmarkTransaction is one durable write, alone and with many callers at once.
func BenchmarkTransaction(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := openDir(b, b.TempDir())
			work := make(chan int)
			var all sync.WaitGroup
			for range callers {
				all.Go(func() {
					for i := range work {
						if err := s.Decide(context.Background(), sentry.Decision{Verb: sentry.Answering, Reason: fmt.Sprint(i)}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			b.ResetTimer()
			for i := range b.N {
				work <- i
			}
			close(work)
			all.Wait()
		})
	}
}

// BenchmarkOpen100kHeads10kRollouts is a restart: open the state of 100,000 watches with 10,000 past rollouts, read all
// heads and what was left running.
func BenchmarkOpen100kHeads10kRollouts(b *testing.B) {
	dir := b.TempDir()
	fillLarge(b, dir, 100_000, 10_000)
	for b.Loop() {
		s := openDir(b, dir)
		heads, err := s.Heads(b.Context())
		if err != nil || len(heads) != 100_000 {
			b.Fatal(len(heads), err)
		}
		if _, err := s.Left(b.Context()); err != nil {
			b.Fatal(err)
		}
		if _, err := s.Pending(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkCheck100kHeads10kRollouts is `state check` of the same state.
func BenchmarkCheck100kHeads10kRollouts(b *testing.B) {
	dir := b.TempDir()
	fillLarge(b, dir, 100_000, 10_000)
	s := openDir(b, dir)
	for b.Loop() {
		healthy(b, s)
	}
}

// BenchmarkOpenMemory is what a test pays for a fresh state.
func BenchmarkOpenMemory(b *testing.B) {
	for b.Loop() {
		s, err := OpenMemory(b.Context(), Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// fillLarge makes a state with heads of 100 groups, and rollouts that have ended with a deployment of two steps each.
func fillLarge(b *testing.B, dir string, heads, rollouts int) {
	b.Helper()
	s := openDir(b, dir)
	observe := func(from, to, n int) {
		var batch []Observation
		for i := from; i < to; i++ {
			batch = append(batch, Observation{
				Watch: sentry.Watch{Repository: fmt.Sprintf("team/repository-%05d", i/10), Branch: fmt.Sprintf("release/%d", i%10)},
				Group: fmt.Sprintf("group-%02d", i%100), Queue: sentry.Latest,
				Revision: sentry.Revision{Commit: commitOf(n*heads + i), Author: "Ada Lovelace <ada@example.com>", Subject: "engine: weave algebraical patterns", Time: time.Now()},
			})
		}
		if _, err := s.RecordChanges(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	observe(0, heads, 0)
	for n := 1; n <= rollouts/100; n++ {
		observe(0, 100, n)
		waiting, err := s.Pending(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		var all sync.WaitGroup
		for _, w := range waiting {
			all.Go(func() { runThrough(b, s, w) })
		}
		all.Wait()
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}
