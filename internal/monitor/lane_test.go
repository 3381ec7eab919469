package monitor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sentry/internal/config"
	"sentry/internal/sentry"
)

const h = "https://h:443"

// batches gives the questions that begin after a moment: how many repositories each had.
func (w *world) batches(after time.Duration) (sizes []int) {
	last := 0
	for _, a := range w.forge.asks {
		switch {
		case a.at.Sub(w.begin) < after:
		case a.question != last:
			last, sizes = a.question, append(sizes, 1)
		default:
			sizes[len(sizes)-1]++
		}
	}
	return sizes
}

// whole gives the names that were asked in full after a moment, each once.
func (w *world) whole(after time.Duration) (names []string) {
	for _, a := range w.forge.asks {
		if a.full && a.at.Sub(w.begin) >= after && !slices.Contains(names, a.repository) {
			names = append(names, a.repository)
		}
	}
	return names
}

// Of repositories that may be asked together as many go into a question as fit, and each as often as ever.
func TestBatches(t *testing.T) {
	for _, c := range []struct {
		n, batch int
		most     int // questions in ten minutes
	}{
		{1, 100, 12}, {40, 100, 14}, {100, 100, 14}, {250, 100, 45}, {1000, 100, 140}, {250, 7, 450},
	} {
		t.Run(fmt.Sprintf("%d by %d", c.n, c.batch), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.forge.lanes[h] = Lane{Batch: c.batch}
				list := w.filled(many(c.n, "h", minute))
				w.run(list...)
				w.wait(2 * minute)
				since := time.Since(w.begin)
				w.wait(10 * minute)
				sizes := w.batches(since)
				if n := len(sizes); n > c.most || slices.Max(sizes) > c.batch {
					t.Errorf("%d questions, the largest about %d repositories; want at most %d about %d", n, slices.Max(sizes), c.most, c.batch)
				}
				for _, r := range list {
					within(t, "the waits of "+r.Name, gaps(w.forge.asked(r.Name, w.begin))[2:], 39*time.Second, 66*time.Second)
				}
				if whole := w.whole(0); whole != nil {
					t.Errorf("asked in full: %q", whole)
				}
				if p := w.forge.peak[h]; p > 8 {
					t.Errorf("%d questions at once", p)
				}

				w.forge.push("r0", "main", "B")
				w.wait(70 * time.Second)
				if s := w.state("r0", "main"); s.Commit != sha("B") || len(w.book.recorded) != c.n+1 {
					t.Errorf("an interval after a push: %+v, %d heads recorded", s, len(w.book.recorded))
				}
			})
		})
	}
}

// A server that is to be asked fewer questions at a time gets no more, until it may.
func TestQuestionsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.lanes[h] = Lane{AtOnce: 2}
		w.forge.slow[h] = time.Second
		list := many(30, "h", minute)
		w.run(list...)
		w.wait(5 * minute)
		if p := w.forge.peak[h]; p != 2 {
			t.Errorf("%d questions at once, want 2", p)
		}
		w.forge.lanes[h] = Lane{}
		w.Update(configure(many(100, "h", minute)...))
		w.wait(5 * minute)
		if p := w.forge.peak[h]; p != 8 {
			t.Errorf("%d questions at once later, want 8", p)
		}
	})
}

// The start takes no longer than it must: what is answered for many is good enough to begin with.
func TestBatchesAtTheStart(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.lanes[h] = Lane{Batch: 100}
		w.run(w.filled(many(5000, "h", minute))...)
		w.wait(10 * time.Second)
		if sizes := w.batches(0); len(sizes) > 60 || len(w.forge.last) != 5000 {
			t.Errorf("%d questions about %d repositories", len(sizes), len(w.forge.last))
		}
	})
}

// One of many has different intervals: it is asked as often as it wants to be, and takes others along only a little early.
func TestBatchesOfUnlikeIntervals(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.lanes[h] = Lane{Batch: 100}
		list := w.filled(append(many(20, "h", time.Hour), repo("quick", "h", 10*time.Second)))
		w.run(list...)
		w.wait(5 * time.Hour)
		within(t, "the quick one", gaps(w.forge.asked("quick", w.begin))[1:], 9*time.Second, 11*time.Second)
		within(t, "a slow one", gaps(w.forge.asked("r3", w.begin))[1:], 39*minute, 66*minute)
	})
}

// One repository that is broken fails alone, and is asked alone until it is well.
func TestBrokenOneOfABatch(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.lanes[h] = Lane{Batch: 100}
		w.run(w.filled(many(50, "h", minute))...)
		w.wait(5 * minute)
		w.forge.fail("r7", sentry.Faultf(sentry.Transient, "too much"))
		since := time.Since(w.begin)
		w.wait(10 * minute)
		if whole := w.whole(since); !slices.Equal(whole, []string{"r7"}) {
			t.Errorf("asked in full: %q", whole)
		}
		if s := w.state("r7", "main"); s.Answer != "failing: too much" || s.Failures < 5 {
			t.Errorf("the broken one: %+v", s)
		}
		if l := hostState(t, w, h); l.Breaker != "closed" || !l.RetryAt.IsZero() {
			t.Errorf("the lane: %+v", l)
		}
		within(t, "the waits of another", gaps(w.forge.asked("r8", w.begin))[1:], 39*time.Second, 66*time.Second)
		if told := w.book.decisions(sentry.Answering); len(told) != 1 {
			t.Errorf("the ledger: %q", told)
		}
		w.forge.fail("r7", nil)
		w.wait(2 * minute)
		since = time.Since(w.begin)
		w.wait(5 * minute)
		if whole := w.whole(since); whole != nil {
			t.Errorf("asked in full when it was well again: %q", whole)
		}
	})
}

// Where questions about several fail, each is asked for itself; a server that is dead is left alone all the same.
func TestBrokenBatches(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.lanes[h] = Lane{Batch: 10}
		list := w.filled(many(50, "h", minute))
		w.run(list...)
		w.wait(5 * minute)
		w.forge.broken[h] = sentry.Faultf(sentry.Transient, "502")
		w.wait(4 * minute)
		for _, r := range list {
			if s := w.state(r.Name, "main"); time.Since(s.LastAnswered) > 2*minute {
				t.Fatalf("%s was last answered %v ago", r.Name, time.Since(s.LastAnswered))
			}
		}
		w.forge.fail(h, sentry.Faultf(sentry.Transient, "connection refused"))
		w.wait(minute)
		before := w.forge.questions
		w.wait(10 * minute)
		if n := w.forge.questions - before; n < 18 || n > 21 {
			t.Errorf("a dead server was asked %d times in ten minutes, want once in 30 s", n)
		}
		w.forge.fail(h, nil)
		delete(w.forge.broken, h)
		w.wait(5 * minute)
		since := time.Since(w.begin)
		w.wait(5 * minute)
		if whole := w.whole(since); whole != nil || len(w.batches(since)) > 60 {
			t.Errorf("well again: %d questions, in full %q", len(w.batches(since)), whole)
		}
	})
}

// A limit that one of the answers tells is obeyed for the whole lane, and after it they are asked together again.
func TestRetryAfterInABatch(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.lanes[h] = Lane{Batch: 100}
		w.run(w.filled(many(100, "h", minute))...)
		w.wait(5 * minute)
		w.forge.fail("r7", &sentry.Fault{Kind: sentry.RateLimited, RetryAfter: 5 * minute, Err: errors.New("429")})
		w.forge.push("r8", "main", "B")
		w.forge.tell = func(context.Context) (sentry.Revision, error) {
			t.Error("asked for a revision while nothing was allowed")
			return sentry.Revision{}, nil
		}
		w.wait(70 * time.Second)
		if s := w.state("r8", "main"); s.Commit != sha("B") {
			t.Errorf("what was answered beside the refusal: %+v", s)
		}
		before := w.forge.questions
		w.forge.fail("r7", nil)
		w.wait(230 * time.Second)
		if n := w.forge.questions - before; n > 0 {
			t.Errorf("%d questions while none was allowed", n)
		}
		since := time.Since(w.begin)
		w.wait(3 * minute)
		if sizes := w.batches(since); len(sizes) > 8 || len(w.whole(since)) > 0 {
			t.Errorf("afterwards: questions %v, in full %q", sizes, w.whole(since))
		}
	})
}

// One question tells of all where a server can be swept.
func TestSweep(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.lanes[h] = Lane{Sweep: true}
		list := w.filled(many(2000, "h", minute))
		w.run(list...)
		w.wait(3 * minute)
		if whole := w.whole(0); len(whole) != 2000 {
			t.Errorf("%d of 2000 were asked in full to begin with", len(whole))
		}
		since := time.Since(w.begin)
		w.wait(10 * minute)
		sizes := w.batches(since)
		if len(sizes) < 9 || len(sizes) > 12 || slices.Min(sizes) != 2000 {
			t.Errorf("questions about %v repositories in ten minutes", sizes)
		}
		if len(w.whole(since)) > 0 {
			t.Errorf("%d were asked in full", len(w.whole(since)))
		}

		// What moves is found by the next sweep, a move back is doubted and asked for itself, and so is what was hinted at.
		w.forge.push("r3", "main", "B")
		w.wait(70 * time.Second)
		if s := w.state("r3", "main"); s.Commit != sha("B") {
			t.Errorf("after a push: %+v", s)
		}
		w.wait(10 * minute)
		since = time.Since(w.begin)
		w.forge.push("r3", "main", "A")
		w.wait(3 * minute)
		if s := w.state("r3", "main"); s.Commit != sha("A") || !slices.Equal(w.whole(since), []string{"r3"}) {
			t.Errorf("after a move back: %+v, in full %q", s, w.whole(since))
		}
		w.wait(10 * minute)
		since = time.Since(w.begin)
		w.Hint("r5")
		w.wait(0)
		if got := w.batches(since); !slices.Equal(got, []int{1}) || !slices.Equal(w.whole(since), []string{"r5"}) {
			t.Errorf("after a hint: questions %v, in full %q", got, w.whole(since))
		}
	})
}

// A lane that becomes another while it is asked loses nobody.
func TestLaneChanges(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		list := w.filled(many(100, "h", minute))
		w.run(list...)
		for i := range 40 {
			w.forge.set(func() {
				w.forge.lanes[h] = []Lane{{}, {Batch: 100}, {Batch: 3}, {Sweep: true}, {Batch: 100, Sweep: true}}[i%5]
			})
			w.wait(95 * time.Second)
		}
		for _, r := range list {
			within(t, "the waits of "+r.Name, gaps(w.forge.asked(r.Name, w.begin))[1:], 100*time.Millisecond, 66*time.Second)
		}
	})
}

// "Nothing has moved" is no answer where nobody knows since when.
func TestSameAsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.lanes[h] = Lane{Batch: 100, Sweep: true}
		w.run(w.filled([]config.Repository{repo("r", "h", minute)})...)
		w.wait(minute)
		w.halt()
		w.forge.push("r", "main", "B")
		w.remake(Options{})
		w.forge.last["r"] = w.forge.heads["r"] // it was asked meanwhile, by somebody else
		w.forge.lanes[h] = Lane{Batch: 100}
		w.forge.always = true
		w.run(repo("r", "h", minute))
		w.wait(time.Second)
		if got := w.book.moves(); got != "main=A main=B!" || w.forge.asks[2].full || !w.forge.asks[3].full {
			t.Errorf("recorded %s, with %+v", got, w.forge.asks[2:4])
		}
		w.forge.liar = true
		w.Hint("r")
		w.wait(time.Second)
		if s := w.state("r", "main"); !strings.Contains(s.Answer, "they have not moved") {
			t.Errorf("asked in full, and answered with nothing: %+v", s)
		}
	})
}

// A repository that comes to another lane by a new configuration is asked there, at once.
func TestUpdateChangesTheLane(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.lanes[h] = Lane{Batch: 100}
		list := w.filled(many(20, "h", minute))
		w.run(list...)
		w.wait(5*minute + 30*time.Second)
		w.forge.lanes[h] = Lane{Key: "the same, as somebody else", Batch: 5}
		since := time.Since(w.begin)
		w.Update(configure(many(20, "h", minute)...))
		w.wait(0)
		if hosts := w.Hosts(); len(hosts) != 1 || hosts[0].Host != "the same, as somebody else" {
			t.Errorf("lanes: %+v", hosts)
		}
		asked := 0
		for _, n := range w.batches(since) {
			asked += n
		}
		w.wait(5 * minute)
		if got := w.book.moves(); asked != 20 || len(w.book.recorded) != 20 {
			t.Errorf("%d were asked at once; recorded %s", asked, got)
		}
	})
}

// How a repository is asked is told when it changes; that it is asked by itself now and then is no change.
func TestWayIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.lanes[h] = Lane{Batch: 100}
		w.run(w.filled(many(2, "h", minute))...)
		w.wait(5 * minute)
		if told := w.book.decisions(sentry.Answering); len(told) > 0 {
			t.Errorf("of the usual way is told: %q", told)
		}
		for _, way := range []string{"GraphQL", UsualWay, "REST"} {
			w.forge.set(func() { w.forge.ways[h] = way })
			w.wait(3 * minute)
			w.Hint("r1")
			w.wait(3 * minute)
		}
		var want []string
		for _, way := range []string{"GraphQL", UsualWay, "REST"} {
			want = append(want, "r0@ asked by "+way, "r1@ asked by "+way)
		}
		told := w.book.decisions(sentry.Answering)
		for i := 0; i+1 < len(told); i += 2 {
			slices.Sort(told[i : i+2])
		}
		if !slices.Equal(told, want) {
			t.Errorf("the ledger: %q, want %q", told, want)
		}
	})
}
