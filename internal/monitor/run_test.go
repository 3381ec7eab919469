package monitor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

const minute = time.Minute

// gaps gives the times between the moments.
func gaps(moments []time.Duration) []time.Duration {
	var out []time.Duration
	for i := 1; i < len(moments); i++ {
		out = append(out, moments[i]-moments[i-1])
	}
	return out
}

// within fails unless all of d lie between low and high, where the grid may have made a wait shorter at both its ends.
func within(t *testing.T, what string, d []time.Duration, low, high time.Duration) {
	t.Helper()
	for i, d := range d {
		if d < low-2*low/fineness || d > high {
			t.Errorf("%s: the %d. is %v, want %v … %v", what, i+1, d, low, high)
			return
		}
	}
}

func TestUsualRhythm(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.push("r", "main", "A")
		w.run(repo("r", "h", minute))
		w.wait(5 * time.Hour)
		moments := w.forge.asked("r", w.begin)
		if n := len(moments); moments[0] != 0 || n < 290 || n > 310 {
			t.Errorf("%d questions in five hours, the first after %v", n, moments[0])
		}
		within(t, "the waits", gaps(moments), 54*time.Second, 66*time.Second)
		if d := gaps(moments); slices.Max(d)-slices.Min(d) < 6*time.Second {
			t.Errorf("all waits are from %v to %v: where is the jitter?", slices.Min(d), slices.Max(d))
		}
	})
}

func TestFasterAfterAChange(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.push("r", "main", "A")
		w.run(repo("r", "h", minute))
		w.wait(10 * minute)
		w.forge.push("r", "main", "B")
		w.wait(20 * minute)
		if got := w.book.moves(); got != "main=A main=B!" {
			t.Fatalf("recorded %s", got)
		}
		moments := w.forge.asked("r", w.begin)
		change := slices.IndexFunc(moments, func(d time.Duration) bool { return d > 10*minute })
		cooled := slices.IndexFunc(moments, func(d time.Duration) bool { return d > moments[change]+hotSpan-hotLater }) // see TestHotCurve
		d := gaps(moments[cooled:])
		low, high := 13500*time.Millisecond, 16500*time.Millisecond
		for i := range 7 {
			within(t, fmt.Sprintf("wait %d after the change", i), d[i:i+1], low, min(high, minute))
			low, high = low*5/4, high*5/4
		}
		within(t, "the waits after that", d[8:], 54*time.Second, 66*time.Second)
	})
}

func TestSlowerWhenQuiet(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.push("r", "main", "A")
		w.run(repo("r", "h", time.Hour))
		w.wait(10 * 24 * time.Hour)
		var first, last []time.Duration
		moments := w.forge.asked("r", w.begin)
		for i, d := range gaps(moments) {
			switch {
			case moments[i] < 24*time.Hour:
				first = append(first, d)
			case moments[i] > 48*time.Hour:
				last = append(last, d)
			}
		}
		within(t, "the waits of the first day", first, 54*minute, 66*minute)
		within(t, "the waits from the third day on", last, 108*minute, 120*minute)

		w.forge.push("r", "main", "B")
		w.wait(2 * time.Hour)
		if got := w.book.moves(); got != "main=A main=B!" {
			t.Errorf("two intervals after a push: recorded %s", got)
		}
	})
}

func TestFirstQuestions(t *testing.T) {
	for _, c := range []struct {
		n    int
		last time.Duration
	}{{1, 0}, {few, 0}, {few + 1, 10 * time.Second}, {2000, 10 * time.Second}} {
		t.Run(fmt.Sprint(c.n), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.run(w.filled(many(c.n, "h", minute))...)
				w.wait(3 * minute)
				seen := map[string][]time.Duration{}
				for _, a := range w.forge.asks {
					seen[a.repository] = append(seen[a.repository], a.at.Sub(w.begin))
				}
				if len(seen) != c.n {
					t.Fatalf("%d of %d were asked", len(seen), c.n)
				}
				var firsts, seconds []time.Duration
				for _, moments := range seen {
					firsts = append(firsts, moments[0])
					seconds = append(seconds, moments[1]-moments[0])
				}
				if last := slices.Max(firsts); last > c.last || c.last > 0 && last < c.last/2 {
					t.Errorf("the last first question came after %v, want about %v", last, c.last)
				}
				if c.n > few {
					within(t, "second questions", seconds, 6*time.Second, minute)
					if slices.Min(seconds) > 30*time.Second {
						t.Error("the second questions are in step")
					}
				}
				if w.forge.peak["https://h:443"] > 8 {
					t.Errorf("%d questions at once to one host", w.forge.peak["https://h:443"])
				}
			})
		})
	}
}

func TestRetryAfter(t *testing.T) {
	limited := func(after time.Duration) error {
		return &sentry.Fault{Kind: sentry.RateLimited, RetryAfter: after, Err: errors.New("429 Too Many Requests")}
	}
	for _, c := range []struct {
		name   string
		fault  error
		window time.Duration
	}{
		{"said", limited(5 * minute), 5 * minute},
		{"not said", limited(0), minute},
		{"in the past", limited(-time.Hour), minute},
		{"too short", limited(time.Millisecond), time.Second},
		{"year 9999", limited(200 * 365 * 24 * time.Hour), time.Hour},
		{"503", &sentry.Fault{Kind: sentry.Transient, RetryAfter: 5 * minute, Err: errors.New("503")}, 5 * minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				list := w.filled(append(many(100, "h", minute), repo("other", "elsewhere", minute)))
				w.run(list...)
				w.wait(2 * minute)
				limit := time.Now()
				w.forge.fail("https://h:443", c.fault)
				w.forge.slow["https://h:443"] = 10 * time.Millisecond
				w.wait(10 * time.Second)
				var hit time.Time // when the first question that was refused was answered
				for _, a := range w.forge.asks {
					if a.origin == "https://h:443" && a.at.After(limit) {
						hit = a.at.Add(10 * time.Millisecond)
						break
					}
				}
				w.forge.fail("https://h:443", nil)
				for range 50 { // a flood of hints changes nothing
					w.Hint("r7")
					w.wait(c.window / 100)
				}
				if c.window >= minute {
					h := hostState(t, w, "https://h:443")
					if h.RetryAt.Sub(hit).Round(time.Second) != c.window || !strings.Contains(h.Reason, "429") && !strings.Contains(h.Reason, "503") {
						t.Errorf("host: %+v", h)
					}
				}
				w.wait(c.window + 3*minute)

				forbidden, after := 0, 0
				for _, a := range w.forge.asks {
					switch d := a.at.Sub(hit); {
					case a.origin != "https://h:443":
					case d > 0 && d < c.window:
						forbidden++
					case d >= c.window && d < c.window+minute:
						after++
					}
				}
				if c.window > time.Second && forbidden > 0 || forbidden > 8 {
					t.Errorf("%d questions while none was allowed", forbidden)
				}
				if after < 90 {
					t.Errorf("%d questions in the minute after, of 100 repositories", after)
				}
				within(t, "the waits of another host", gaps(w.forge.asked("other", w.begin))[1:], 54*time.Second, 66*time.Second)
				var told []string
				for _, d := range w.book.decisions(sentry.Answering) {
					if strings.HasPrefix(d, "https://h:443") {
						told = append(told, d)
					}
				}
				if len(told) != 2 || !strings.Contains(told[0], "left alone for "+c.window.String()) || !strings.HasSuffix(told[1], "well again") {
					t.Errorf("the ledger has of the host: %q", told)
				}
			})
		})
	}
}

func hostState(t *testing.T, w *world, origin string) HostState {
	t.Helper()
	for _, h := range w.Hosts() {
		if h.Host == origin {
			return h
		}
	}
	t.Fatalf("no host %s", origin)
	return HostState{}
}

func TestBreaker(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.run(w.filled(many(200, "h", minute))...)
		w.wait(5 * minute)
		w.forge.fail("https://h:443", sentry.Faultf(sentry.Transient, "connection refused"))
		w.wait(2 * minute)
		dead := len(w.forge.asks)
		w.wait(10 * minute)
		if n := len(w.forge.asks) - dead; n < 18 || n > 21 {
			t.Errorf("a dead host was asked %d times in ten minutes, want once in 30 s", n)
		}
		// Between two probes it is open.
		w.wait(10 * time.Second)
		if h := hostState(t, w, "https://h:443"); h.Breaker == "closed" || h.Waiting > 200 || h.Active > 1 {
			t.Errorf("a dead host: %+v", h)
		}
		failing := 0
		for _, s := range w.Watches() {
			if strings.HasPrefix(s.Answer, "failing: ") {
				failing++
			}
		}
		if failing == 0 {
			t.Error("no watch of a dead host is shown as failing")
		}

		healed := time.Now()
		w.forge.fail("https://h:443", nil)
		w.wait(2 * minute)
		asked := map[string]bool{}
		for _, a := range w.forge.asks {
			if a.at.After(healed) {
				asked[a.repository] = true
			}
		}
		if len(asked) != 200 {
			t.Errorf("%d of 200 repositories were asked within two intervals", len(asked))
		}
		if h := hostState(t, w, "https://h:443"); h.Breaker != "closed" || !h.RetryAt.IsZero() {
			t.Errorf("after it was healed: %+v", h)
		}
		var host []string
		repositories := map[string][]string{}
		for _, d := range w.book.decisions(sentry.Answering) {
			if text, ok := strings.CutPrefix(d, "https://h:443: "); ok {
				host = append(host, text)
				continue
			}
			name, text, _ := strings.Cut(d, "@")
			repositories[name] = append(repositories[name], text)
		}
		if len(host) != 2 || !strings.HasPrefix(host[0], "left alone for 30s") || host[1] != "well again" {
			t.Errorf("the ledger has of the host: %q", host)
		}
		if len(repositories) < 5 || len(repositories) > 40 {
			t.Errorf("the ledger has %d repositories", len(repositories))
		}
		for name, texts := range repositories {
			if len(texts) != 2 || !strings.Contains(texts[0], "failing (transient): connection refused") || !strings.Contains(texts[1], "answers again") {
				t.Errorf("the ledger has of %s: %q", name, texts)
			}
		}
	})
}

// What one repository answers is not held against its host.
func TestBreakerStaysClosed(t *testing.T) {
	for _, kind := range []sentry.FaultKind{sentry.NotFound, sentry.Unauthorized, sentry.Invalid} {
		t.Run(string(kind), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				list := w.filled(many(20, "h", minute))
				for i := range 19 {
					w.forge.fail(list[i].Name, sentry.Faultf(kind, "no"))
				}
				w.run(list...)
				w.wait(20 * minute)
				if h := hostState(t, w, "https://h:443"); h.Breaker != "closed" || !h.RetryAt.IsZero() {
					t.Errorf("host: %+v", h)
				}
				within(t, "the waits of the one that answers", gaps(w.forge.asked("r19", w.begin)), 54*time.Second, 66*time.Second)
				if n := len(w.book.decisions(sentry.Answering)); n != 19 {
					t.Errorf("%d lines in the ledger, want one for each of 19", n)
				}
			})
		})
	}
}

func TestBackoff(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.fail("r", sentry.Faultf(sentry.NotFound, "404"))
		w.run(repo("r", "h", minute))
		w.wait(3 * time.Hour)
		d := gaps(w.forge.asked("r", w.begin))
		within(t, "the first wait", d[:1], time.Second, 16500*time.Millisecond)
		within(t, "the second", d[1:2], time.Second, 32*time.Second)
		within(t, "all", d, time.Second, 93*time.Second)
		if slices.Max(d) < minute || slices.Min(d[4:]) > 30*time.Second {
			t.Errorf("from %v to %v: that is no full jitter", slices.Min(d[4:]), slices.Max(d))
		}
		if s := w.state("r", "main"); s.Answer != "failing: 404" || s.Failures != len(d)+1 || !s.LastAnswered.IsZero() {
			t.Errorf("state %+v", s)
		}
		w.forge.push("r", "main", "A")
		w.forge.fail("r", nil)
		w.wait(2 * minute)
		if s := w.state("r", "main"); s.Answer != "ok" || s.Failures != 0 || s.Commit != sha("A") {
			t.Errorf("state after it was healed: %+v", s)
		}
		if told := w.book.decisions(sentry.Answering); len(told) != 2 {
			t.Errorf("the ledger: %q", told)
		}
	})
}

func TestRefusedCredentials(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.fail("r", sentry.Faultf(sentry.Unauthorized, "401"))
		w.run(repo("r", "h", 2*time.Second))
		for range 600 {
			w.Hint("r")
			w.wait(time.Second)
		}
		d := gaps(w.forge.asked("r", w.begin))
		within(t, "the waits", d, 61*time.Second, 63*time.Second)
		if len(d) < 8 {
			t.Errorf("%d questions in ten minutes", len(d)+1)
		}
		// A new configuration with another token is tried at once.
		before := len(w.forge.asks)
		again := repo("r", "h", 2*time.Second)
		again.Monitor.Auth.Token = sentry.NewSecret("a new one")
		w.Update(configure(again))
		w.wait(0)
		if len(w.forge.asks) != before+1 {
			t.Error("a new token was not tried")
		}
	})
}

// Credentials that have changed are tried at once, without a new configuration: by those that were refused.
func TestRenewedCredentials(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.fail("r", sentry.Faultf(sentry.Unauthorized, "401"))
		w.forge.push("r", "main", "A")
		w.run(repo("r", "h", time.Hour), repo("well", "h", time.Hour))
		w.wait(10 * time.Second)
		w.forge.fail("r", nil)
		before := len(w.forge.asked("well", w.begin))
		w.Renewed("r", "well", "nobody")
		w.wait(time.Second)
		if s := w.state("r", "main"); s.Answer != "ok" {
			t.Errorf("a second later: %+v", s)
		}
		if after := len(w.forge.asked("well", w.begin)); after != before {
			t.Errorf("one that was not refused was asked %d times", after-before)
		}
	})
}

// known is an error that the log was told of.
type known struct{ error }

func (known) Announced() {}

// What was said of a credential is not said again of each repository.
func TestAnnouncedFailures(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var out bytes.Buffer
		w.remake(Options{Log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo}))})
		w.forge.fail("r", &sentry.Fault{Kind: sentry.Unauthorized, Err: known{errors.New("401")}})
		w.forge.fail("other", sentry.Faultf(sentry.Unauthorized, "401"))
		w.run(repo("r", "h", time.Minute), repo("other", "h", time.Minute))
		w.wait(5 * time.Minute)
		w.halt()
		if text := out.String(); strings.Count(text, "does not answer") != 1 || !strings.Contains(text, "repository=other") {
			t.Errorf("the log says:\n%s", text)
		}
		if told := w.book.decisions(sentry.Answering); len(told) != 2 {
			t.Errorf("the ledger: %q", told)
		}
	})
}

// Hosts that do not answer take neither the places nor the time of others.
func TestDeadHostsDelayNobody(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		list := many(20, "well", 10*time.Second)
		for h := range 12 {
			for i := range 20 {
				list = append(list, repo(fmt.Sprintf("dead%d-%d", h, i), fmt.Sprintf("dead%d", h), 10*time.Second))
			}
			w.forge.slow[fmt.Sprintf("https://dead%d:443", h)] = time.Hour
		}
		w.forge.slow["https://well:443"] = 100 * time.Millisecond
		w.run(list...)
		w.wait(10 * minute)
		for i := range 20 {
			moments := w.forge.asked(fmt.Sprintf("r%d", i), w.begin)
			// At the start nobody knows who is dead: it costs 2 s for each 64 questions that hang.
			if moments[0] > 15*time.Second {
				t.Errorf("r%d was first asked after %v", i, moments[0])
			}
			within(t, fmt.Sprintf("the waits of r%d", i), gaps(moments)[1:], 9*time.Second, 13500*time.Millisecond)
		}
		for host, n := range w.forge.peak {
			if host != "" && n > 8 {
				t.Errorf("%d questions at once to %s", n, host)
			}
		}
		if n := w.forge.peak[""]; n > 64*5 {
			t.Errorf("%d questions at once", n)
		}
		if s := w.state("dead3-4", "main"); !strings.HasPrefix(s.Answer, "failing: no answer within 30s") && s.Answer != AnswerNotAsked {
			t.Errorf("a watch of a dead host: %+v", s)
		}
	})
}

func TestTotalIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		list := many(0, "", 0)
		for i := range 400 {
			host := fmt.Sprintf("h%d", i%40)
			list = append(list, repo(fmt.Sprintf("r%d", i), host, minute))
			w.forge.slow["https://"+host+":443"] = time.Second
		}
		w.run(list...)
		w.wait(10 * minute)
		if n := w.forge.peak[""]; n < 32 || n > 64 {
			t.Errorf("%d questions at once, want at most 64", n)
		}
	})
}

func TestHints(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.push("r", "main", "A")
		w.Hint("r") // before it runs: nothing
		w.run(repo("r", "h", time.Hour))
		w.wait(10 * minute)
		count := func() int { return len(w.forge.asked("r", w.begin)) }

		w.forge.push("r", "main", "B")
		w.Hint("r")
		w.wait(0)
		if got := w.book.moves(); got != "main=A main=B!" {
			t.Errorf("right after a hint: recorded %s", got)
		}
		if n := count(); n != 2 {
			t.Errorf("%d questions after a hint, want 2", n)
		}
		w.wait(minute)

		// During a question: one more after it.
		w.forge.slow["https://h:443"] = time.Second
		before := count()
		w.Hint("r")
		w.wait(500 * time.Millisecond)
		w.forge.push("r", "main", "C")
		for range 1000 {
			w.Hint("r")
		}
		w.wait(1500 * time.Millisecond)
		if n := count() - before; n != 2 {
			t.Errorf("%d questions after hints during one, want 2", n)
		}
		if got := w.book.moves(); got != "main=A main=B! main=C!" {
			t.Errorf("recorded %s", got)
		}

		// One that is asked again and again is asked fifty times a second at most.
		w.forge.slow["https://h:443"] = 0
		w.wait(10 * minute)
		before = count()
		for range 1000 {
			w.Hint("r")
			w.wait(time.Millisecond)
		}
		if n := count() - before; n < 45 || n > 51 {
			t.Errorf("%d questions in a second of hints", n)
		}
		w.Hint("nobody")
	})
}

func TestIdleWritesNothingAndSleeps(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.run(w.filled(many(50, "h", minute))...)
		w.wait(minute)
		writes := w.book.writes
		w.wait(24 * time.Hour)
		if w.book.writes != writes {
			t.Errorf("%d writes in a day without a change", w.book.writes-writes)
		}
		if n := len(w.forge.told); n > 0 {
			t.Errorf("%d questions for revisions", n)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.armed != w.alarms.moment() || w.armed <= w.now() {
			t.Errorf("it is %v, the loop sleeps until %v, and %v is the next alarm", w.now(), w.armed, w.alarms.moment())
		}
	})
}

func TestRecordingFails(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.push("r", "main", "A")
		w.run(repo("r", "h", minute))
		w.wait(minute)
		w.forge.push("r", "main", "B")
		w.book.set(func(b *book) { b.fault = errors.New("the disk is full") })
		w.wait(10 * minute)
		if s := w.state("r", "main"); s.Commit != sha("A") || s.Answer != "failing: cannot record what moved: the disk is full" {
			t.Errorf("while the disk is full: %+v", s)
		}
		if h := hostState(t, w, "https://h:443"); h.Breaker != "closed" {
			t.Errorf("the host was blamed: %+v", h)
		}
		w.book.set(func(b *book) { b.fault = nil })
		w.wait(2 * minute)
		if s := w.state("r", "main"); s.Commit != sha("B") || s.Answer != "ok" || w.book.moves() != "main=A main=B!" {
			t.Errorf("afterwards: %+v, recorded %s", s, w.book.moves())
		}
		if n := len(w.book.decisions(sentry.Doubted)); n != 0 {
			t.Errorf("%d heads were doubted", n)
		}
	})
}

// What was decided while the store took nothing is kept when it does again.
func TestLedgerSurvivesAFullDisk(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.push("r", "main", "A")
		w.run(repo("r", "h", minute))
		w.wait(minute)
		w.book.set(func(b *book) { b.fault = errors.New("the disk is full") })
		w.forge.fail("r", sentry.Faultf(sentry.NotFound, "404"))
		w.wait(5 * minute)
		w.book.set(func(b *book) { b.fault = nil })
		w.wait(minute)
		if told := w.book.decisions(sentry.Answering); len(told) != 1 || told[0] != "r@ failing (not_found): 404" {
			t.Errorf("the ledger: %q", told)
		}
		w.mu.Lock()
		for range maxDecisions + 5 {
			w.say(sentry.Decision{Verb: sentry.Refused})
		}
		w.mu.Unlock()
		w.wait(minute)
		if n := len(w.book.decisions(sentry.Refused)); n != maxDecisions {
			t.Errorf("%d decisions were kept", n)
		}
		if told := w.book.decisions(sentry.Answering); len(told) != 2 || !strings.Contains(told[1], "5 decisions of the monitor were lost") {
			t.Errorf("the ledger: %q", told)
		}
	})
}

func TestRevisions(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		branches := []string{"main"}
		for i := range 100 {
			branches = append(branches, fmt.Sprintf("b%d", i))
		}
		for _, b := range branches {
			w.forge.push("r", b, "A")
		}
		r := repo("r", "h", minute, branches...)
		w.run(r)
		w.wait(minute)
		if len(w.forge.told) != 0 {
			t.Fatalf("asked for the revisions of baselines: %q", w.forge.told)
		}

		w.forge.tell = func(context.Context) (sentry.Revision, error) {
			return sentry.Revision{Commit: "something else", Author: "Ada", Subject: "Add", Time: w.begin}, nil
		}
		w.forge.push("r", "main", "B")
		w.wait(2 * minute)
		if o := w.book.recorded[len(w.book.recorded)-1]; o.Revision != (sentry.Revision{Commit: sha("B"), Author: "Ada", Subject: "Add", Time: w.begin}) {
			t.Errorf("recorded %+v", o.Revision)
		}

		// Nobody tells in time: it is recorded all the same, 5 s later.
		w.forge.tell = func(ctx context.Context) (sentry.Revision, error) {
			<-ctx.Done()
			return sentry.Revision{}, ctx.Err()
		}
		w.wait(10 * minute)
		w.forge.push("r", "main", "C")
		before := len(w.forge.asks)
		var recorded time.Time
		w.book.set(func(b *book) { b.watch = func(store.Observation, store.Outcome) { recorded = time.Now() } })
		w.wait(2 * minute)
		if d := recorded.Sub(w.forge.asks[before].at); d != 5*time.Second {
			t.Errorf("recorded %v after the question", d)
		}

		// A storm is not held up by questions.
		w.wait(10 * minute)
		told := len(w.forge.told)
		w.forge.tell = func(context.Context) (sentry.Revision, error) {
			time.Sleep(100 * time.Millisecond)
			return sentry.Revision{}, nil
		}
		for _, b := range branches {
			w.forge.push("r", b, "D")
		}
		before = len(w.forge.asks)
		w.wait(2 * minute)
		if n := len(w.forge.told) - told; n != describeBurst {
			t.Errorf("%d questions for revisions of 101 moves", n)
		}
		if d := recorded.Sub(w.forge.asks[before].at); d != 500*time.Millisecond {
			t.Errorf("recorded %v after the question", d)
		}
		if n := strings.Count(w.book.moves(), "=D!"); n != 101 {
			t.Errorf("%d of 101 moves were recorded", n)
		}
	})
}

func TestNewBranchesUnderAPattern(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.push("r", "main", "A")
		r := repo("r", "h", minute, "main", "release/*", "gone")
		d := repo("d", "h", minute, "release/*")
		d.Monitor.OnFirstSeen = "deploy"
		w.run(r, d)
		w.wait(5 * minute)
		if got := w.state("r", "release/*").Answer + ", " + w.state("r", "gone").Answer; got != AnswerNoMatch+", "+AnswerNoBranch {
			t.Errorf("states: %s", got)
		}
		if told := w.book.decisions(sentry.Answering); len(told) != 1 || told[0] != "r@gone there is no branch of this name" {
			t.Errorf("the ledger: %q", told)
		}
		w.forge.push("r", "release/1", "B")
		w.forge.push("d", "release/1", "C")
		w.wait(2 * minute)
		w.forge.push("r", "release/1", "D")
		w.wait(2 * minute)
		if got := w.book.moves(); got != "main=A release/1=B release/1=C! release/1=D!" && got != "main=A release/1=C! release/1=B release/1=D!" {
			t.Errorf("recorded %s", got)
		}
		for _, s := range w.Watches() {
			if s.Branch == "release/*" {
				t.Errorf("a pattern that matches is shown: %+v", s)
			}
		}
	})
}

func TestStopWaitsForQuestions(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.slow["https://h:443"] = time.Hour
		w.run(w.filled(many(100, "h", minute))...)
		w.wait(time.Second)
		stopped := time.Now()
		w.halt()
		if d := time.Since(stopped); d > time.Second {
			t.Errorf("it took %v to stop", d)
		}
		for key, n := range w.forge.out {
			if n != 0 {
				t.Errorf("%d questions are still out to %q", n, key)
			}
		}
		if told := w.book.decisions(sentry.Answering); len(told) > 0 {
			t.Errorf("giving up is told as a failure: %q", told)
		}
		// It can be started again.
		w.forge.slow = map[string]time.Duration{}
		before := len(w.forge.asks)
		w.run(w.filled(many(100, "h", minute))...)
		w.wait(minute)
		if n := len(w.forge.asks) - before; n < 100 {
			t.Errorf("%d questions after another start", n)
		}
	})
}

func TestRestart(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		list := many(200, "h", minute, "main", "release/*")
		for _, r := range list {
			w.forge.push(r.Name, "main", "A")
			w.forge.push(r.Name, "release/1", "B")
		}
		w.run(list...)
		w.wait(minute)
		w.halt()
		w.forge.push("r7", "release/1", "C")
		n := len(w.book.recorded)
		w.remake(Options{})
		w.run(list...)
		if s := w.state("r3", "release/1"); s.Commit != sha("B") || s.Answer != AnswerNotAsked && s.Answer != AnswerOK {
			t.Errorf("before the first question: %+v", s)
		}
		w.wait(minute)
		if len(w.book.recorded) != n+1 || !strings.HasSuffix(w.book.moves(), "release/1=C!") {
			t.Errorf("%d moves were recorded after a restart", len(w.book.recorded)-n)
		}
	})
}

func TestOnceErrors(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		cfg := configure(repo("a", "h", minute), repo("b", "h", minute), repo("c", "h", minute))
		if err := w.Once(t.Context(), cfg, "a", "x"); err == nil || !strings.Contains(err.Error(), "repository x") {
			t.Errorf("an unknown repository: %v", err)
		}
		w.forge.push("a", "main", "A")
		w.forge.push("c", "main", "A")
		w.forge.fail("b", sentry.Faultf(sentry.NotFound, "404"))
		w.forge.fail("c", sentry.Faultf(sentry.Unauthorized, "401"))
		err := w.Once(t.Context(), cfg, "c", "a", "b", "a")
		if err == nil || err.Error() != "repository b: 404\nrepository c: 401" {
			t.Errorf("errors: %v", err)
		}
		if len(w.forge.asks) != 3 || w.book.moves() != "main=A" {
			t.Errorf("%d questions, recorded %s", len(w.forge.asks), w.book.moves())
		}
		if told := w.book.decisions(sentry.Answering); len(told) != 2 {
			t.Errorf("the ledger: %q", told)
		}

		w.forge.fail("c", &sentry.Fault{Kind: sentry.RateLimited, RetryAfter: minute, Err: errors.New("429")})
		_ = w.Once(t.Context(), cfg, "c")
		err = w.Once(t.Context(), cfg)
		if err == nil || strings.Count(err.Error(), "not asked: https://h:443 is left alone for 1m0s: 429") != 3 {
			t.Errorf("while the host wants to be left alone: %v", err)
		}
		if len(w.forge.asks) != 4 {
			t.Errorf("%d questions", len(w.forge.asks))
		}

		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("enough"))
		if err := w.Once(ctx, cfg); err == nil || !strings.Contains(err.Error(), "enough") {
			t.Errorf("with a context that has ended: %v", err)
		}

		w.run(cfg.Repositories...)
		if err := w.Once(t.Context(), cfg); err == nil {
			t.Error("Once and Run at the same time")
		}
	})
}

// A host that still wants to be left alone after its pause learns so by one question, not by eight.
func TestOneQuestionAfterAPause(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.run(w.filled(many(100, "h", minute))...)
		w.wait(5 * minute)
		w.forge.fail("https://h:443", &sentry.Fault{Kind: sentry.RateLimited, RetryAfter: minute, Err: errors.New("429")})
		w.forge.slow["https://h:443"] = time.Second
		w.wait(minute)
		before := len(w.forge.asks)
		w.wait(30 * minute)
		if n := len(w.forge.asks) - before; n < 27 || n > 30 {
			t.Errorf("%d questions in thirty minutes, want one for each pause of a minute", n)
		}
		for i, s := range w.Watches() {
			if s.Answer != "failing: https://h:443 is left alone: 429" && s.Answer != "failing: 429" {
				t.Errorf("watch %d of a host that is left alone: %+v", i, s)
				break
			}
		}
	})
}

// A host may say that it has had enough when it is asked for more about a commit.
func TestRetryAfterOfARevision(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.run(w.filled([]config.Repository{repo("r", "h", minute)})...)
		w.wait(minute)
		w.forge.tell = func(context.Context) (sentry.Revision, error) {
			return sentry.Revision{}, &sentry.Fault{Kind: sentry.RateLimited, RetryAfter: 10 * minute, Err: errors.New("429")}
		}
		w.forge.push("r", "main", "B")
		w.Hint("r")
		w.wait(time.Second)
		if got := w.book.moves(); got != "main=A main=B!" {
			t.Errorf("recorded %s", got)
		}
		before := len(w.forge.asks)
		w.wait(9 * minute)
		if n := len(w.forge.asks) - before; n > 0 {
			t.Errorf("%d questions while none was allowed", n)
		}
		w.wait(3 * minute)
		if n := len(w.forge.asks) - before; n == 0 {
			t.Error("no question afterwards")
		}
	})
}

// What is doubted is shown, and asked for again before the interval is over.
func TestDoubtIsShown(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.forge.push("r", "dev", "D")
		w.run(w.filled([]config.Repository{repo("r", "h", 10*minute, "main", "dev")})...)
		w.wait(minute)
		w.forge.push("r", "main", "B")
		w.Hint("r")
		w.wait(time.Hour)
		w.forge.push("r", "main", "A")
		w.forge.push("r", "dev", "")
		before := time.Since(w.begin)
		for len(w.since("r", before)) == 0 {
			w.wait(time.Second)
		}
		if s := w.state("r", "main"); s.Commit != sha("B") || s.Answer != AnswerOK || s.Doubt != "said to be back at "+sha("A") {
			t.Errorf("main: %+v", s)
		}
		if s := w.state("r", "dev"); s.Commit != sha("D") || s.Answer != AnswerOK || s.Doubt != "said to be gone" {
			t.Errorf("dev: %+v", s)
		}
		before = time.Since(w.begin)
		for w.state("r", "main").Commit == sha("B") {
			w.wait(time.Second)
		}
		if n, d := len(w.since("r", before)), time.Since(w.begin)-before; d > 10*minute+20*time.Second || n < 4 || w.since("r", before)[3] < 9*minute {
			t.Errorf("it took %v to settle the doubt, with questions at %v", d, w.since("r", before)[:min(n, 5)])
		}
		if s := w.state("r", "main"); s.Commit != sha("A") || s.Doubt != "" {
			t.Errorf("main: %+v", s)
		}
		if s := w.state("r", "dev"); s.Commit != sha("D") || s.Answer != AnswerDeleted || s.Doubt != "" {
			t.Errorf("dev: %+v", s)
		}
	})
}

// Questions that hang give their places to others after two seconds, up to a bound.
func TestSlowQuestionsGiveTheirPlaces(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.remake(Options{Total: 4})
		var list []config.Repository
		for i := range 60 {
			host := fmt.Sprintf("dead%d", i)
			list = append(list, repo(host, host, minute))
			w.forge.slow["https://"+host+":443"] = time.Hour
		}
		list = slices.Insert(list, 10, repo("well", "well", minute))
		w.run(w.filled(list)...)
		w.wait(25 * time.Second)
		// Four at once, four after 2 s, and it is the third of those after 4 s.
		if moments := w.forge.asked("well", w.begin); len(moments) != 1 || moments[0] != 4*time.Second {
			t.Errorf("the one that is well was asked at %v, want at 4s", moments)
		}
		if n := len(w.forge.asks); n != 21 || w.forge.peak[""] != 20 {
			t.Errorf("%d questions, %d at once, want 20 that hang and one that does not", n, w.forge.peak[""])
		}
		if n := len(w.Hosts()); n != 61 {
			t.Errorf("%d hosts", n)
		}
		waiting := 0
		for _, h := range w.Hosts() {
			waiting += h.Waiting
		}
		if waiting != 40 {
			t.Errorf("%d repositories wait, want 40", waiting)
		}
		w.wait(10 * minute)
		for i, r := range list {
			if len(w.forge.asked(r.Name, w.begin)) == 0 {
				t.Errorf("%s, the %d., was never asked", r.Name, i+1)
			}
		}
	})
}

// The store cannot be read: nothing is lost, and Run says so when it begins.
func TestStoreCannotBeRead(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		list := w.filled(many(2, "h", minute))
		w.Update(configure(list...))
		w.book.unreadable = errors.New("the disk is gone")
		if err := w.Run(t.Context()); err == nil || err.Error() != "cannot read the recorded heads: the disk is gone" {
			t.Errorf("Run: %v", err)
		}
		if err := w.Once(t.Context(), configure(list...)); !errors.Is(err, w.book.unreadable) {
			t.Errorf("Once: %v", err)
		}
		w.book.unreadable = nil
		w.run(list[0])
		w.wait(minute)
		w.forge.push("r0", "main", "B")
		w.wait(2 * minute)

		// A repository that comes with a new configuration, and a move that may be one back.
		w.book.unreadable = errors.New("the disk is gone")
		w.Update(configure(list...))
		w.forge.push("r0", "main", "A")
		w.wait(5 * minute)
		if s := w.state("r1", "main"); s.Answer != "failing: cannot read the recorded heads: the disk is gone" {
			t.Errorf("r1: %+v", s)
		}
		if s := w.state("r0", "main"); s.Answer != "failing: cannot tell whether a commit was recorded before: the disk is gone" || s.Commit != sha("B") {
			t.Errorf("r0: %+v", s)
		}
		w.book.unreadable = nil
		w.wait(5 * minute)
		if got := w.book.moves(); got != "main=A main=B! main=A main=A*" {
			t.Errorf("recorded %s", got)
		}
	})
}
