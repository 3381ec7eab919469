package forge

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/sentry"
)

// miser is an API with a limit of its own, for a budget to keep.
type miser struct {
	t      *testing.T
	limit  int
	length time.Duration

	mu       sync.Mutex
	left     int
	reset    time.Time
	at       []time.Time // of all requests
	out      int
	most     int
	exceeded int
}

func newMiser(t *testing.T, limit int, length time.Duration) *miser {
	return &miser{t: t, limit: limit, length: length}
}

// answer is what a request gets, after some time.
func (l *miser) answer(took time.Duration) *http.Response {
	l.mu.Lock()
	now := time.Now()
	if !now.Before(l.reset) {
		l.left, l.reset = l.limit, now.Add(l.length).Truncate(time.Second)
	}
	status := http.StatusOK
	if l.left <= 0 {
		status = http.StatusForbidden
		l.exceeded++
	} else {
		l.left--
	}
	l.at = append(l.at, now)
	l.out++
	l.most = max(l.most, l.out)
	left, reset := l.left, l.reset
	l.mu.Unlock()
	time.Sleep(took)
	l.mu.Lock()
	l.out--
	l.mu.Unlock()
	h := http.Header{}
	h.Set("X-Ratelimit-Limit", strconv.Itoa(l.limit))
	h.Set("X-Ratelimit-Remaining", strconv.Itoa(left))
	h.Set("X-Ratelimit-Reset", strconv.FormatInt(reset.Unix(), 10))
	h.Set("X-Ratelimit-Resource", "core")
	return &http.Response{StatusCode: status, Header: h}
}

// ask waits for a turn and asks. It gives how long it waited.
func (l *miser) ask(ctx context.Context, b *budget, c class, took time.Duration) (time.Duration, error) {
	start := time.Now()
	w, err := b.wait(ctx, corePurse, c, false, "/x", 0)
	if err != nil {
		return time.Since(start), err
	}
	waited := time.Since(start)
	w.learn(l.answer(took), nil)
	w.free()
	return waited, nil
}

// However many want to ask, the API never has to refuse anything, and what it allows is used but for the reserve.
func TestBudgetKeepsTheLimit(t *testing.T) {
	for _, limit := range []int{60, 1000, 5000} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newMiser(t, limit, time.Hour)
				b := newBudget(rules{window: time.Hour, limit: 5000, concurrency: 4}, Host{})
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour+30*time.Minute)
				defer cancel()
				var wait sync.WaitGroup
				for range 20 {
					wait.Go(func() {
						for ctx.Err() == nil {
							limited, end := context.WithTimeout(ctx, 30*time.Second)
							_, err := l.ask(limited, b, asking, 100*time.Millisecond)
							end()
							if err != nil {
								time.Sleep(sentry.AsFault(err).RetryAfter + time.Second)
							}
						}
					})
				}
				wait.Wait()
				if l.exceeded > 0 {
					t.Errorf("%d requests too many", l.exceeded)
				}
				if l.most > 4 {
					t.Errorf("%d at once", l.most)
				}
				if want := limit * 2 * 9 / 10; len(l.at) < want {
					t.Errorf("in two and a half hours %d requests, less than %d", len(l.at), want)
				}
				// Spread: no ten minutes have more than twice their share, the first aside, which may spend what was saved up.
				share := float64(limit) / 6
				for from := 10 * time.Minute; from < 2*time.Hour; from += 10 * time.Minute {
					n := 0
					for _, at := range l.at {
						if d := at.Sub(l.at[0]); d >= from && d < from+10*time.Minute {
							n++
						}
					}
					if float64(n) > 2*share+minBurst {
						t.Errorf("%d requests from minute %v on, %v would be their share", n, from.Minutes(), share)
					}
				}
			})
		})
	}
}

// Others use the same token: what they use is not there for us, and is not missed.
func TestBudgetSharesWithOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMiser(t, 1000, time.Hour)
		b := newBudget(rules{window: time.Hour, concurrency: 4}, Host{})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
		defer cancel()
		var wait sync.WaitGroup
		theirs := 0
		wait.Go(func() { // a hundred at once, each ten minutes
			for ctx.Err() == nil {
				l.mu.Lock()
				n := min(100, l.left)
				l.left -= n
				theirs += n
				l.mu.Unlock()
				time.Sleep(10 * time.Minute)
			}
		})
		wait.Go(func() {
			for ctx.Err() == nil {
				limited, end := context.WithTimeout(ctx, 30*time.Second)
				if _, err := l.ask(limited, b, asking, 50*time.Millisecond); err != nil {
					time.Sleep(sentry.AsFault(err).RetryAfter + time.Second)
				}
				end()
			}
		})
		wait.Wait()
		// That they have used up everything shows in a refusal: one each hour, at most.
		if l.exceeded > 3 || theirs < 1000 || len(l.at) < 900 {
			t.Errorf("%d too many; they had %d, we %d", l.exceeded, theirs, len(l.at))
		}
	})
}

// Statuses go first, and have what is left when nothing else has.
func TestBudgetReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMiser(t, 200, time.Hour)
		b := newBudget(rules{window: time.Hour, concurrency: 2}, Host{})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Minute)
		defer cancel()
		var wait sync.WaitGroup
		for range 10 {
			wait.Go(func() {
				for ctx.Err() == nil {
					limited, end := context.WithTimeout(ctx, 20*time.Second)
					if _, err := l.ask(limited, b, asking, time.Second); err != nil {
						time.Sleep(time.Second)
					}
					end()
				}
			})
		}
		for range 8 {
			time.Sleep(6 * time.Minute)
			limited, end := context.WithTimeout(ctx, 10*time.Second)
			waited, err := l.ask(limited, b, reporting, 100*time.Millisecond)
			end()
			if err != nil || waited > 3*time.Second {
				t.Errorf("a status waited %v: %v", waited, err)
			}
		}
		cancel()
		wait.Wait()
		if l.exceeded > 0 {
			t.Errorf("%d too many", l.exceeded)
		}
	})
}

// Who would wait in vain is told at once, and for how long.
func TestBudgetSaysNoAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMiser(t, 100, time.Hour)
		b := newBudget(rules{window: time.Hour, concurrency: 2}, Host{})
		l.reset, l.left = time.Now().Add(20*time.Minute), 0
		if _, err := l.ask(t.Context(), b, asking, time.Second); err != nil {
			t.Fatal(err)
		}
		limited, end := context.WithTimeout(t.Context(), 30*time.Second)
		defer end()
		waited, err := l.ask(limited, b, asking, time.Second)
		f := sentry.AsFault(err)
		if waited != 0 || f.Kind != sentry.RateLimited || f.RetryAfter < 19*time.Minute || f.RetryAfter > 21*time.Minute {
			t.Errorf("after %v: %v, %v", waited, err, f.RetryAfter)
		}
	})
}

// A pause is kept by everybody, and the next is longer. One request tries how things are.
func TestBudgetPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(rules{concurrency: 8}, Host{})
		var until time.Time
		refuse := func(w *waiter, after string) time.Duration {
			h := http.Header{}
			if after != "" {
				h.Set("Retry-After", after)
			}
			wait, limited := w.learn(&http.Response{StatusCode: http.StatusTooManyRequests, Header: h}, nil)
			w.free()
			if !limited {
				t.Error("it is not taken for a refusal")
			}
			until = time.Now().Add(wait)
			return wait
		}
		turn := func() *waiter {
			t.Helper()
			for {
				w, err := b.wait(t.Context(), corePurse, asking, false, "/x", 0)
				if err == nil {
					if time.Now().Before(until) {
						t.Fatalf("%v too early", time.Until(until))
					}
					return w
				}
				time.Sleep(sentry.AsFault(err).RetryAfter)
			}
		}
		for i, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute} {
			if got := refuse(turn(), ""); got != want {
				t.Errorf("pause %d is %v, not %v", i, got, want)
			}
		}
		w := turn()
		limited, end := context.WithTimeout(t.Context(), time.Second)
		defer end()
		if _, err := b.wait(limited, corePurse, asking, false, "/x", 0); err == nil {
			t.Error("two are sent to see how things are")
		}
		w.learn(&http.Response{StatusCode: http.StatusOK, Header: http.Header{}}, nil)
		w.free()
		if got := refuse(turn(), "7"); got != 8*time.Second {
			t.Errorf("it said 7 seconds and gets %v", got)
		}
		for _, text := range []string{"99999999999", "-5", "0", "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 02 Jan 1995 00:00:00 GMT", "soon"} {
			if got := refuse(turn(), text); got <= 0 || got > time.Hour {
				t.Errorf("Retry-After: %s gets %v", text, got)
			}
		}
	})
}

// A refusal that says until when there is nothing left goes before answers that were under way and tell of more.
func TestBudgetRefusalHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(rules{concurrency: 8}, Host{})
		answer := func(status, limit, left int, reset time.Duration) *http.Response {
			h := http.Header{}
			h.Set("Ratelimit-Limit", strconv.Itoa(limit))
			h.Set("Ratelimit-Remaining", strconv.Itoa(left))
			h.Set("Ratelimit-Reset", strconv.FormatInt(time.Now().Add(reset).Unix(), 10))
			return &http.Response{StatusCode: status, Header: h}
		}
		var out [3]*waiter
		for i := range out {
			var err error
			if out[i], err = b.wait(t.Context(), corePurse, asking, false, "/x", 0); err != nil {
				t.Fatal(err)
			}
		}
		if wait, limited := out[0].learn(answer(http.StatusForbidden, 5000, 0, 90*time.Second), nil); !limited || wait != 90*time.Second+margin {
			t.Errorf("it is to wait %v", wait)
		}
		out[1].learn(answer(http.StatusOK, 2000, 1999, 10*time.Second), nil)
		time.Sleep(20 * time.Second)
		out[2].learn(answer(http.StatusOK, 5000, 4000, time.Hour), nil)
		for _, w := range out {
			w.free()
		}
		_, err := b.wait(t.Context(), corePurse, asking, false, "/x", 0)
		if f := sentry.AsFault(err); err == nil || f.RetryAfter != 70*time.Second+margin {
			t.Errorf("after 20 of 90 seconds: %v", err)
		}
		time.Sleep(70*time.Second + margin)
		w, err := b.wait(t.Context(), corePurse, asking, false, "/x", 0)
		if err != nil {
			t.Fatalf("afterwards: %v", err)
		}
		w.free()
	})
}

// A reset that makes no sense neither silences nor hammers.
func TestBudgetAbsurdResets(t *testing.T) {
	for _, reset := range []string{"", "-1", "0", "253402300799", "99999999999999999999", "abc", "1"} {
		t.Run(reset, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBudget(rules{window: time.Hour, concurrency: 1}, Host{})
				n := 0
				end := time.Now().Add(3 * time.Hour)
				for time.Now().Before(end) {
					w, err := b.wait(t.Context(), corePurse, asking, false, "/x", 0)
					if err != nil {
						time.Sleep(sentry.AsFault(err).RetryAfter)
						continue
					}
					n++
					h := http.Header{}
					h.Set("X-Ratelimit-Limit", "100")
					h.Set("X-Ratelimit-Remaining", "0")
					h.Set("X-Ratelimit-Reset", reset)
					w.learn(&http.Response{StatusCode: http.StatusForbidden, Header: h}, nil)
					w.free()
				}
				if n < 2 || n > 181 {
					t.Errorf("%d requests in three hours", n)
				}
			})
		})
	}
}

// The points of a minute, the time of a minute, and the pause between changes are kept; so is what the configuration says.
func TestBudgetOtherLimits(t *testing.T) {
	run := func(t *testing.T, b *budget, writes bool, took, lasting time.Duration) (at []time.Time) {
		ctx, cancel := context.WithTimeout(t.Context(), lasting)
		defer cancel()
		var mu sync.Mutex
		var wait sync.WaitGroup
		c := asking
		if writes {
			c = reporting
		}
		for range 10 {
			wait.Go(func() {
				for ctx.Err() == nil {
					w, err := b.wait(ctx, corePurse, c, writes, "/x", 0)
					if err != nil {
						time.Sleep(min(sentry.AsFault(err).RetryAfter+time.Second, lasting))
						continue
					}
					mu.Lock()
					at = append(at, time.Now())
					mu.Unlock()
					time.Sleep(took)
					w.learn(&http.Response{StatusCode: http.StatusOK, Header: http.Header{}}, nil)
					w.free()
				}
			})
		}
		wait.Wait()
		return at
	}
	most := func(at []time.Time, in time.Duration) (n int) {
		for i := range at {
			for j := i; j < len(at) && at[j].Sub(at[i]) < in; j++ {
				n = max(n, j-i+1)
			}
		}
		return n
	}
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(rules{perMinute: map[purse]int{corePurse: 900}, concurrency: 10}, Host{})
		at := run(t, b, false, 10*time.Millisecond, 5*time.Minute)
		if n := most(at, time.Minute); n > 720 || n < 700 {
			t.Errorf("%d points in a minute", n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(rules{busy: map[purse]time.Duration{"": 60 * time.Second}, concurrency: 2}, Host{})
		at := run(t, b, false, 5*time.Second, 10*time.Minute)
		if n := most(at, time.Minute); n > 12 || len(at) < 60 {
			t.Errorf("%d requests of 5 s in a minute, %d in all", n, len(at))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(rules{betweenWrites: time.Second, writesPerHour: 100, concurrency: 4}, Host{})
		at := run(t, b, true, 10*time.Millisecond, 2*time.Hour)
		if n := most(at, time.Hour); n != 100 || most(at, 990*time.Millisecond) != 1 {
			t.Errorf("%d changes in an hour, %d in a second", n, most(at, 990*time.Millisecond))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(rules{concurrency: 4}, Host{RequestsPerHour: 120, Concurrency: 3})
		at := run(t, b, false, 10*time.Millisecond, 3*time.Hour)
		if n := most(at, time.Hour); n > 130 || len(at) < 300 {
			t.Errorf("%d requests in an hour, %d in all", n, len(at))
		}
		if s := b.states("h", "k"); len(s) != 2 || s[1].Limit != 120 || s[1].Resource != "requests_per_hour" {
			t.Errorf("it shows %+v", s)
		}
	})
}

// What the configuration no longer says no longer holds.
func TestBudgetForgetsTheConfiguration(t *testing.T) {
	for _, h := range []Host{{Concurrency: 1}, {Concurrency: 50}} {
		b := newBudget(rules{concurrency: 4}, h)
		if b.places(asking) != h.Concurrency {
			t.Errorf("%d at once, want %d", b.places(asking), h.Concurrency)
		}
		if b.configure(Host{}); b.places(asking) != 4 {
			t.Errorf("%d at once without a limit of ours", b.places(asking))
		}
	}
}

// An answer may name any budget; only those that we spend of are remembered.
func TestBudgetNames(t *testing.T) {
	b := newBudget(rules{concurrency: 4}, Host{})
	for i := range 100 {
		w, err := b.wait(t.Context(), corePurse, asking, false, "/x", 0)
		if err != nil {
			t.Fatal(err)
		}
		h := http.Header{}
		h.Set("X-RateLimit-Limit", "5000")
		h.Set("X-RateLimit-Remaining", "4000")
		h.Set("X-RateLimit-Resource", []string{"core", "graphql", fmt.Sprintf("r%d", i)}[i%3])
		w.learn(&http.Response{StatusCode: http.StatusOK, Header: h}, nil)
		w.free()
	}
	if len(b.purses) != 2 {
		t.Errorf("it remembers %d budgets", len(b.purses))
	}
}

// Those with the nearest deadline go first, nobody is passed over for ever, and who gives up leaves no trace.
func TestBudgetOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(rules{concurrency: 1}, Host{})
		first, err := b.wait(t.Context(), corePurse, asking, false, "/x", 0)
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []string
		var wait sync.WaitGroup
		come := func(name string, c class, deadline time.Duration) {
			wait.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), deadline)
				defer cancel()
				w, err := b.wait(ctx, corePurse, c, false, "/x", 0)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					order = append(order, "not "+name)
					return
				}
				order = append(order, name)
				time.AfterFunc(time.Second, w.free)
			})
			synctest.Wait()
		}
		come("late", asking, 50*time.Second)
		come("early", asking, 20*time.Second)
		come("later", asking, 55*time.Second)
		come("gives up", asking, time.Second)
		come("status", reporting, 40*time.Second)
		come("early too", asking, 20*time.Second)
		time.Sleep(2 * time.Second)
		first.free()
		wait.Wait()
		if want := []string{"not gives up", "status", "early", "early too", "late", "later"}; !slices.Equal(order, want) {
			t.Errorf("%q, not %q", order, want)
		}
		time.Sleep(2 * time.Second)
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.active != 0 || len(b.queue) != 0 {
			t.Errorf("%d active, %d waiting", b.active, len(b.queue))
		}
	})
}

// Whatever comes in whatever order, places and counts are given back.
func TestBudgetConserves(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			l := newMiser(t, 300, 10*time.Minute)
			b := newBudget(rules{window: 10 * time.Minute, concurrency: 1 + rnd.IntN(6), perMinute: map[purse]int{corePurse: 100}}, Host{RequestsPerHour: 1000})
			var wait sync.WaitGroup
			for range 200 {
				delay, patience, took, c := time.Duration(rnd.IntN(1200))*time.Second, time.Duration(1+rnd.IntN(60))*time.Second, time.Duration(rnd.IntN(5000))*time.Millisecond, class(rnd.IntN(3))
				fate := rnd.IntN(10)
				wait.Go(func() {
					time.Sleep(delay)
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					w, err := b.wait(ctx, corePurse, c, false, "/x", 0)
					if err != nil {
						if f := sentry.AsFault(err); f.Kind != sentry.RateLimited && !errors.Is(err, context.DeadlineExceeded) {
							t.Errorf("it failed with %v", err)
						}
						return
					}
					switch resp := l.answer(took); fate {
					case 0: // no answer
					case 1:
						resp.StatusCode = http.StatusTooManyRequests
						resp.Header.Set("Retry-After", "20")
						w.learn(resp, nil)
					default:
						w.learn(resp, nil)
					}
					w.free()
					w.free()
				})
			}
			wait.Wait()
			if l.exceeded > 0 || b.active != 0 || len(b.queue) != 0 || b.purses[corePurse].out != 0 || b.own.out != 0 {
				t.Errorf("seed %d: %d too many, %d active, %d waiting, %d and %d out", seed, l.exceeded, b.active, len(b.queue), b.purses[corePurse].out, b.own.out)
			}
		})
	}
}

// An address that is to be asked less often is, and others are not held up by it.
func TestBudgetPollInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(rules{concurrency: 4}, Host{})
		ask := func(path string) time.Duration {
			t.Helper()
			start := time.Now()
			w, err := b.wait(t.Context(), corePurse, asking, false, path, 0)
			if err != nil {
				t.Fatal(err)
			}
			w.learn(&http.Response{StatusCode: http.StatusOK, Header: http.Header{"X-Poll-Interval": {"50"}}}, nil)
			w.free()
			return time.Since(start)
		}
		if d := ask("/a"); d != 0 {
			t.Errorf("the first waits %v", d)
		}
		if d := ask("/b"); d != 0 {
			t.Errorf("another waits %v", d)
		}
		if d := ask("/a"); d != 50*time.Second {
			t.Errorf("the second waits %v", d)
		}
	})
}
