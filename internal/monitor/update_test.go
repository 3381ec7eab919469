package monitor

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"sentry/internal/config"
	"sentry/internal/store"
)

func grouped(r config.Repository, group string) config.Repository {
	r.Group = group
	return r
}

func TestUpdateAddsAndRemoves(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		list := w.filled([]config.Repository{repo("a", "h", minute), repo("b", "h", minute), repo("c", "other", minute)})
		w.run(list[0])
		w.wait(10*minute + 30*time.Second)
		due := w.state("a", "main").NextDue
		now := time.Since(w.begin)

		w.Update(configure(list...))
		w.wait(0)
		for _, name := range []string{"b", "c"} {
			if moments := w.forge.asked(name, w.begin); len(moments) != 1 || moments[0] != now {
				t.Errorf("%s, which is new, was asked at %v, want %v", name, moments, now)
			}
		}
		if again := w.state("a", "main").NextDue; !again.Equal(due) {
			t.Errorf("a, which has not changed, is due at %v, want %v", again, due)
		}
		if got := len(w.Hosts()); got != 2 {
			t.Errorf("%d hosts", got)
		}

		w.Update(configure(list[1]))
		before := len(w.forge.asked("a", w.begin)) + len(w.forge.asked("c", w.begin))
		w.Hint("a")
		w.wait(10 * minute)
		if n := len(w.forge.asked("a", w.begin)) + len(w.forge.asked("c", w.begin)) - before; n != 0 {
			t.Errorf("%d questions for repositories that are not configured", n)
		}
		if len(w.Watches()) != 1 || len(w.Hosts()) != 1 {
			t.Errorf("watches %+v, hosts %+v", w.Watches(), w.Hosts())
		}

		// Back again, and its head is known.
		w.forge.push("a", "main", "B")
		w.Update(configure(list...))
		w.wait(time.Second)
		if got := w.book.moves(); got != "main=A main=A main=A main=B!" {
			t.Errorf("recorded %s", got)
		}
	})
}

func TestUpdateChangesTheInterval(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		list := w.filled([]config.Repository{repo("r", "h", time.Hour)})
		w.run(list...)
		w.wait(30 * time.Second)
		w.Update(configure(repo("r", "h", minute)))
		w.wait(10 * minute)
		within(t, "the waits at a shorter interval", gaps(w.forge.asked("r", w.begin))[1:], 54*time.Second, 66*time.Second)
		w.Update(configure(repo("r", "h", time.Hour)))
		before := len(w.forge.asked("r", w.begin))
		w.wait(5 * time.Hour)
		within(t, "the waits at a longer interval", gaps(w.forge.asked("r", w.begin)[before:]), 54*minute, 66*minute)
	})
}

// What a question brings that was asked under a former configuration is thrown away.
func TestUpdateDuringAQuestion(t *testing.T) {
	for _, c := range []struct {
		name string
		next func(config.Repository) config.Repository
		want string
	}{
		{"nothing changes", func(r config.Repository) config.Repository { return r }, "g:main=B!"},
		{"another interval", func(r config.Repository) config.Repository {
			return repo("r", "h", 2*minute)
		}, "g:main=B!"},
		{"another group", func(r config.Repository) config.Repository { return grouped(r, "new") }, "new:main=B!"},
		{"another address", func(config.Repository) config.Repository { return repo("r", "mirror", minute) }, "g:main=B!"},
		{"other branches", func(config.Repository) config.Repository { return repo("r", "h", minute, "dev") }, "g:dev=D"},
		{"it is removed", func(config.Repository) config.Repository { return repo("x", "h", minute) }, "g:main=X"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				first := w.filled([]config.Repository{repo("r", "h", minute)})[0]
				w.forge.push("r", "dev", "D")
				w.forge.push("x", "main", "X")
				w.run(first)
				w.wait(90 * time.Second)
				w.forge.slow["https://h:443"] = 10 * time.Second
				w.forge.push("r", "main", "B")
				n := len(w.book.recorded)
				w.Hint("r")
				w.wait(5 * time.Second)
				asks := len(w.forge.asks)
				w.Update(configure(c.next(first)))
				w.wait(3 * minute)

				var got []string
				for i, o := range w.book.recorded[n:] {
					text := o.Group + ":" + o.Watch.Branch + "=" + name(o.Revision.Commit)
					if w.book.outcomes[n+i].Change != nil {
						text += "!"
					}
					got = append(got, text)
				}
				if s := strings.Join(got, " "); s != c.want {
					t.Errorf("recorded %s, want %s", s, c.want)
				}
				if replaced := c.name != "nothing changes" && c.name != "another interval"; replaced && w.forge.asks[asks].at.Sub(w.forge.asks[asks-1].at) > 10*time.Second {
					t.Errorf("what is watched now was asked %v after the former", w.forge.asks[asks].at.Sub(w.forge.asks[asks-1].at))
				}
			})
		})
	}
}

// Update waits for what is being recorded: what it returns after is grouped as before, and what comes then as now.
func TestUpdateDuringARecording(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		list := w.filled([]config.Repository{repo("r", "h", minute)})
		w.run(list...)
		w.wait(minute)
		w.book.slow = 20 * time.Second
		w.forge.push("r", "main", "B")
		w.Hint("r")
		w.wait(5 * time.Second)
		before := time.Now()
		w.Update(configure(grouped(list[0], "new")))
		if d := time.Since(before); d != 15*time.Second {
			t.Errorf("Update took %v, want what was left of the recording", d)
		}
		if last := w.book.recorded[len(w.book.recorded)-1]; last.Group != "g" || name(last.Revision.Commit) != "B" {
			t.Errorf("recorded %+v", last)
		}
		w.forge.push("r", "main", "C")
		w.wait(2 * minute)
		if last := w.book.recorded[len(w.book.recorded)-1]; last.Group != "new" || name(last.Revision.Commit) != "C" {
			t.Errorf("recorded %+v", last)
		}
		if got := w.book.moves(); got != "main=A main=B! main=C!" {
			t.Errorf("recorded %s", got)
		}
	})
}

// A watch that comes back is known, a new address keeps its head, and what was told is not told again.
func TestUpdateKeepsWhatIsKnown(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := repo("r", "h", minute, "main", "dev", "none")
		w.filled([]config.Repository{r})
		w.forge.push("r", "dev", "D")
		w.run(r)
		w.wait(minute)
		for _, next := range []config.Repository{
			repo("r", "h", minute, "main"),
			repo("r", "h", minute, "main", "dev", "none"),
			repo("r", "mirror", minute, "main", "dev", "none"),
			grouped(repo("r", "mirror", minute, "main", "dev", "none"), "new"),
		} {
			w.Update(configure(next))
			if s := w.state("r", "main"); s.Commit != sha("A") {
				t.Errorf("right after a new configuration: %+v", s)
			}
			w.wait(3 * minute)
		}
		if got := w.book.moves(); got != "dev=D main=A" {
			t.Errorf("recorded %s", got)
		}
		w.forge.push("r", "dev", "E")
		w.wait(2 * minute)
		if got := w.book.moves(); got != "dev=D main=A dev=E!" {
			t.Errorf("recorded %s", got)
		}
		// It goes back while it is not watched: doubted all the same when it is watched again.
		w.Update(configure(repo("r", "h", minute, "main")))
		w.wait(minute)
		w.forge.push("r", "dev", "D")
		w.Update(configure(repo("r", "h", minute, "main", "dev", "none")))
		w.wait(30 * time.Second)
		if s := w.state("r", "dev"); s.Commit != sha("E") || s.Doubt == "" {
			t.Errorf("a watch that is back: %+v", s)
		}
		w.wait(2 * minute)
		if got := w.book.moves(); got != "dev=D main=A dev=E! dev=D*" {
			t.Errorf("recorded %s", got)
		}
	})
}

// A pass does not wait for what is taken out of the configuration meanwhile.
func TestUpdateDuringOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		list := w.filled(many(20, "h", minute))
		w.forge.slow["https://h:443"] = time.Second
		var err error
		var once sync.WaitGroup
		once.Go(func() { err = w.Once(t.Context(), configure(list...)) })
		w.wait(1500 * time.Millisecond)
		w.Update(configure(list[0]))
		once.Wait()
		if n := len(w.forge.asks); n != 16 {
			t.Errorf("%d questions, want the 16 that had begun", n)
		}
		// Eight were through, eight were out, and four had not begun.
		if err == nil || strings.Count(err.Error(), errReplaced.Error()) != 12 {
			t.Errorf("error: %v", err)
		}
	})
}

// Everything at once, for the race detector: nothing is recorded under a group that Update has taken away.
func TestUpdateRaces(t *testing.T) {
	f, b := newForge(), newBook()
	m := New(Options{Store: b, Ask: f, Rand: rand.New(rand.NewPCG(3, 4))})
	former, group := "g0", "g0" // guarded by b.mu; they differ while Update goes on
	b.watch = func(o store.Observation, _ store.Outcome) {
		if o.Group != group && o.Group != former {
			t.Errorf("recorded for %s while the group is %s", o.Group, group)
		}
	}
	shape := func(n int) *config.Config {
		var list []config.Repository
		for i := range 10 + n%7 {
			r := repo(fmt.Sprintf("r%d", i), fmt.Sprintf("h%d", (i+n/5)%3), time.Millisecond, "main", "b*")
			if n%3 == 0 {
				r = repo(r.Name, "h0", time.Millisecond, "main")
			}
			list = append(list, grouped(r, fmt.Sprint("g", n)))
		}
		return configure(list...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	m.Update(shape(0))
	var all sync.WaitGroup
	all.Go(func() {
		if err := m.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	for range 2 {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				f.push(fmt.Sprintf("r%d", n%17), []string{"main", "b1", "b2"}[n%3], fmt.Sprint(n))
				m.Hint(fmt.Sprintf("r%d", n%20))
				m.Warm(map[string]bool{fmt.Sprint("g", n%40): true})
				_ = m.Watches()
				_ = m.Hosts()
				time.Sleep(100 * time.Microsecond)
			}
		})
	}
	for n := 1; ctx.Err() == nil; n++ {
		next := shape(n)
		b.set(func(*book) { group = fmt.Sprint("g", n) })
		m.Update(next)
		b.set(func(*book) { former = group })
		time.Sleep(time.Millisecond)
	}
	all.Wait()
	if len(b.recorded) < 20 {
		t.Errorf("%d heads were recorded: nothing was put to the test", len(b.recorded))
	}
}
