package monitor

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// since gives when a repository was asked from a moment on, in time after it.
func (w *world) since(repository string, begin time.Duration) []time.Duration {
	var out []time.Duration
	for _, d := range w.forge.asked(repository, w.begin) {
		if d >= begin {
			out = append(out, d-begin)
		}
	}
	return out
}

// The curve: often at first, more and more seldom, and no longer than said; after a change from where it is not that often.
func TestHotCurve(t *testing.T) {
	for _, reason := range []string{"hint", "change", "late"} {
		t.Run(reason, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.run(w.filled(many(3, "h", time.Hour))...)
				w.wait(10 * minute)
				begin := time.Since(w.begin)
				switch reason {
				case "change": // it is found by chance
					w.forge.push("r0", "main", "B")
					w.wait(time.Hour)
					moments := w.since("r0", begin)
					begin += moments[0]
				case "late": // the hint comes before what it tells of
					w.Hint("r0")
					w.wait(5 * time.Second)
					w.forge.push("r0", "main", "B")
					w.wait(110 * time.Millisecond)
					if got := w.book.moves(); got != "main=A main=A main=A main=B!" {
						t.Errorf("recorded %s", got)
					}
					return
				default:
					w.Hint("r0")
				}
				seen, least, most := hotSpan, 200, 230
				if reason == "change" {
					seen, least, most = hotSpan-hotLater, 8, 12
				}
				w.wait(minute)
				moments := w.since("r0", begin)
				if moments[0] != 0 || len(moments) < least || len(moments) > most {
					t.Fatalf("%d questions, the first after %v", len(moments), moments[0])
				}
				for i, d := range gaps(moments) {
					want := max(hotFirst, (moments[i]+hotSpan-seen)/hotDecay)
					if d != want {
						t.Fatalf("after %v it waits %v, want %v", moments[i], d, want)
					}
				}
				if last := moments[len(moments)-1]; last < seen-time.Second || last > seen+time.Second {
					t.Errorf("hot for %v", last)
				}
				for _, other := range []string{"r1", "r2"} {
					if n := len(w.since(other, begin)); n > 1 {
						t.Errorf("%s was asked %d times", other, n)
					}
				}
			})
		})
	}
}

// What happens on a server is known a few hundredths of a second later, while it is hot.
func TestHotLatency(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.slow[h] = 6 * time.Millisecond
		w.run(w.filled([]config.Repository{repo("r", "h", minute)})...)
		w.wait(minute)
		w.Hint("r")
		var recorded time.Time
		w.book.set(func(b *book) { b.watch = func(store.Observation, store.Outcome) { recorded = time.Now() } })
		var waits []time.Duration
		for i := range 60 {
			w.wait(time.Duration(100+37*(i%17)) * time.Millisecond)
			pushed := time.Now()
			w.forge.push("r", "main", fmt.Sprint("c", i))
			w.wait(100 * time.Millisecond)
			waits = append(waits, recorded.Sub(pushed))
			w.Hint("r") // of what comes next
		}
		slices.Sort(waits)
		if waits[0] < 0 || waits[30] > 15*time.Millisecond || waits[59] > 40*time.Millisecond {
			t.Errorf("from the push to its record: %v at best, %v in the middle, %v at worst", waits[0], waits[30], waits[59])
		}
	})
}

// What was hinted at is waited for closely until it has come, whatever else ends meanwhile; then the server is left in peace.
func TestHotUntilItHasCome(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.run(w.filled([]config.Repository{repo("r", "h", time.Hour)})...)
		w.wait(10 * minute)
		asked := func(d time.Duration) int {
			begin := time.Since(w.begin)
			w.wait(d)
			return len(w.since("r", begin))
		}
		often := func(when string, hot bool) {
			t.Helper()
			if n := asked(time.Second); hot && n < 45 || !hot && (n < 1 || n > 3) {
				t.Errorf("%s it is asked %d times in a second", when, n)
			}
		}
		w.Hint("r")
		often("after a hint", true)
		w.forge.push("r", "main", "B")
		w.wait(100 * time.Millisecond)
		often("when it has come", false)
		w.Warm(map[string]bool{"g": true})
		often("while it is rolled out", true)
		w.forge.push("r", "main", "C")
		w.wait(100 * time.Millisecond)
		if n := asked(time.Second); n < 25 {
			t.Errorf("while it is rolled out, and something has come, it is asked %d times in a second", n)
		}
		w.Warm(nil)
		often("after the rollout", false)
		w.Warm(map[string]bool{"g": true})
		w.wait(time.Second)
		w.Hint("r")
		w.Warm(nil)
		often("after a rollout, of a hint during that,", true)
	})
}

// At most so many are hot, and the newest of those that could be; the others were asked once, for the hint.
func TestHotIsForFew(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		list := w.filled(many(100, "h", time.Hour))
		w.run(list...)
		w.wait(10 * minute)
		begin := time.Since(w.begin)
		for _, r := range list {
			w.Hint(r.Name)
			w.wait(time.Millisecond)
		}
		flood := time.Since(w.begin)
		w.wait(2 * time.Second)
		for i, r := range list {
			all, after := len(w.since(r.Name, begin)), len(w.since(r.Name, flood))
			hot := i >= len(list)-maxHot
			if all == 0 || hot != (after > 20) || !hot && after > 1 {
				t.Errorf("%s was asked %d times, %d of them after the flood", r.Name, all, after)
			}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.hot) != maxHot {
			t.Errorf("%d are hot", len(w.hot))
		}
	})
}

// However many hints there are, what they cost a server is bounded, and who has no hint is asked as ever.
func TestHotShare(t *testing.T) {
	for _, c := range []struct {
		name   string
		hinted int
		took   time.Duration
		every  time.Duration // between the floods
	}{
		{"one repository", 1, 20 * time.Millisecond, 10 * time.Millisecond},
		{"many repositories", 200, 20 * time.Millisecond, 100 * time.Millisecond},
		{"a slow server", 50, 700 * time.Millisecond, time.Second},
		{"a quick server", 200, time.Millisecond, 100 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				list := w.filled(many(250, "h", 10*minute))
				w.forge.slow[h] = c.took
				w.run(list...)
				w.wait(30 * minute)
				begin := time.Since(w.begin)
				const flood = 30 * minute
				for time.Since(w.begin)-begin < flood {
					for _, r := range list[:c.hinted] {
						w.Hint(r.Name)
					}
					w.wait(c.every)
				}
				spent := time.Duration(0)
				for _, r := range list[:c.hinted] {
					// What it would have been asked anyway does not count: that is once in nine minutes at most, and four times as
					// often for a while where something moved, which it did not.
					spent += time.Duration(max(0, len(w.since(r.Name, begin))-4)) * c.took
				}
				out := 8 * c.took
				if most := hotSaved + flood/hotShare + out; spent > most || spent < most/8 {
					t.Errorf("the hints took %v of the server's time, want at most %v", spent, most)
				}
				for _, r := range list[c.hinted:] {
					within(t, "the waits of "+r.Name, gaps(w.forge.asked(r.Name, w.begin))[2:], 9*minute, 11*minute+10*time.Second)
				}
				if p := w.forge.peak[h]; p > 8 {
					t.Errorf("%d questions at once", p)
				}
			})
		})
	}
}

// That a question waits before it is sent is no time of the server's.
func TestHotShareIsWithoutTheQueue(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.slow[h], w.forge.queue = 6*time.Millisecond, time.Second
		w.run(w.filled([]config.Repository{repo("r", "h", time.Hour)})...)
		w.wait(10 * minute)
		begin := time.Since(w.begin)
		for range 60 {
			w.Hint("r")
			w.wait(time.Second)
		}
		if n := len(w.since("r", begin)); n < 50 {
			t.Errorf("asked %d times in a minute", n)
		}
	})
}

// What is hot is asked when its heads cannot be read, and nobody is asked then.
func TestHotWhileTheStateIsGone(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.run(w.filled([]config.Repository{repo("r", "h", time.Hour)})...)
		w.wait(10 * minute)
		gone := errors.New("the disk is gone")
		w.book.set(func(b *book) { b.fault = gone })
		w.forge.push("r", "main", "B")
		for range 60 {
			w.Hint("r")
			w.wait(time.Second)
			w.book.set(func(b *book) { b.unreadable = gone })
		}
		w.book.set(func(b *book) { b.fault, b.unreadable = nil, nil })
		w.Hint("r")
		w.wait(2 * minute)
		if got := w.book.moves(); got != "main=A main=B!" {
			t.Errorf("recorded %s", got)
		}
	})
}

// Several accounts at one server are several lanes, but one server.
func TestHotShareIsOfTheServer(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.slow[h] = 100 * time.Millisecond
		w.forge.apart = true
		list := w.filled(many(20, "h", time.Hour))
		w.run(list...)
		if n := len(w.Hosts()); n != 20 {
			t.Fatalf("%d lanes", n)
		}
		w.wait(10 * minute)
		before := len(w.forge.asks)
		for range 600 {
			for _, r := range list {
				w.Hint(r.Name)
			}
			w.wait(time.Second)
		}
		most := hotSaved + 10*minute/hotShare + 20*100*time.Millisecond
		if spent := time.Duration(len(w.forge.asks)-before) * 100 * time.Millisecond; spent > most || spent < most/3 {
			t.Errorf("the hints took %v of the server's time, want at most %v", spent, most)
		}
	})
}

// Nothing is hot where the server is not well: not while it wants to be left alone, not while its breaker is open, and not
// what it refuses.
func TestHotSpares(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault error
		most  int // questions in five minutes
	}{
		{"limited", &sentry.Fault{Kind: sentry.RateLimited, RetryAfter: 4 * minute, Err: errors.New("429")}, 2},
		{"dead", sentry.Faultf(sentry.Transient, "connection refused"), 25},
		{"refused", sentry.Faultf(sentry.Unauthorized, "401"), 6},
		{"gone", sentry.Faultf(sentry.NotFound, "404"), 305}, // the failure ends the heat: only the hints are heard, once a second
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.run(w.filled([]config.Repository{repo("r", "h", minute)})...)
				w.wait(10 * minute)
				w.Hint("r")
				w.wait(time.Second)
				w.forge.fail("r", c.fault)
				before := len(w.forge.asks)
				for range 3000 {
					w.Hint("r")
					w.wait(100 * time.Millisecond)
				}
				if n := len(w.forge.asks) - before; n > c.most {
					t.Errorf("%d questions in five minutes of hints, want at most %d", n, c.most)
				}
			})
		})
	}
}

// Who waits for its turn is not sent back to the end of the queue by hints, nor kept from it by others'.
func TestHintsStarveNobody(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.remake(Options{PerLane: 1})
		w.forge.slow[h] = 100 * time.Millisecond
		list := w.filled(many(100, "h", 5*time.Second)) // twice as much as can be asked
		w.run(list...)
		w.wait(minute)
		for range 6000 {
			w.Hint("r3")
			w.Hint("r4")
			w.wait(10 * time.Millisecond)
		}
		for _, r := range list {
			if longest := slices.Max(gaps(w.forge.asked(r.Name, w.begin))[1:]); longest > 10*time.Second+hotSaved {
				t.Errorf("%s was not asked for %v", r.Name, longest)
			}
		}
	})
}

// While a group is rolled out, its repositories are hot; others are not, and nothing is afterwards.
func TestWarm(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		list := w.filled(many(50, "h", time.Hour))
		for i := range list {
			list[i].Group = []string{"g", "other"}[i/40]
		}
		w.run(list...)
		w.wait(10 * minute)
		begin := time.Since(w.begin)
		w.Warm(map[string]bool{"other": true, "g": false})
		w.wait(10 * minute)
		for i, r := range list {
			n := len(w.since(r.Name, begin))
			if warm := i >= 40; warm != (n > 300) || !warm && n > 1 {
				t.Errorf("%s of group %s was asked %d times", r.Name, r.Group, n)
			}
		}
		at := time.Since(w.begin)
		w.Warm(map[string]bool{"other": true})
		w.wait(5 * minute)
		if n := len(w.since("r45", at)); n < 5 || n > 60 {
			t.Errorf("asked %d times in the ten minutes after: it begins anew or has ended", n)
		}
		w.Warm(nil)
		w.wait(minute)
		at = time.Since(w.begin)
		w.wait(10 * minute)
		if n := len(w.since("", at)); n > 30 {
			t.Errorf("%d questions after the rollout", n)
		}
		w.mu.Lock()
		if len(w.hot) != 0 {
			t.Errorf("%d are hot after the rollout", len(w.hot))
		}
		w.mu.Unlock()

		// A group may be larger than what is hot at once, and be rolled out when it starts.
		w.halt()
		w.remake(Options{})
		w.Warm(map[string]bool{"g": true})
		w.run(list...)
		w.wait(11 * time.Second)
		at = time.Since(w.begin)
		w.wait(time.Second)
		asked := 0
		for _, r := range list {
			if n := len(w.since(r.Name, at)); n > 2 {
				asked++
			}
		}
		if asked != maxHot {
			t.Errorf("%d are hot, want %d", asked, maxHot)
		}
	})
}

// What is hot is asked for itself; the others go on to be asked together.
func TestHotAmongMany(t *testing.T) {
	for name, lane := range map[string]Lane{"batches": {Batch: 100}, "sweep": {Sweep: true}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.forge.lanes[h] = lane
				w.run(w.filled(many(90, "h", minute))...)
				w.wait(10 * minute)
				begin := time.Since(w.begin)
				w.Hint("r7")
				w.wait(29 * time.Second)
				if whole := w.whole(begin); !slices.Equal(whole, []string{"r7"}) {
					t.Errorf("asked in full: %q", whole)
				}
				for i, n := range w.batches(begin) {
					if n != 1 && n != 89 {
						t.Errorf("question %d was about %d repositories", i, n)
					}
				}
				w.wait(3 * minute)
				if sizes := w.batches(begin + 2*minute); slices.Min(sizes) < 2 {
					t.Errorf("afterwards the questions were about %v", sizes)
				}
			})
		})
	}
}
