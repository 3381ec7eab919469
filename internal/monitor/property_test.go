package monitor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// A story is what happens to some repositories and their hosts for a while: drawn beforehand, and then played in a bubble
// of time.
type story struct {
	seed     uint64
	repos    []config.Repository
	events   []event
	lies     []lie // of each repository in turn, what becomes of its answers; an empty list is the truth
	restarts int   // Sentry is killed so often, evenly over the story
	length   time.Duration
}

// event changes the truth, or the health of a host, at a moment.
type event struct {
	at     time.Duration
	repo   int
	branch string
	commit string // "" deletes it
	fault  string // of the host of the repository, instead: "dead", "hangs", "limited", "store", "well"; or "hint", "warm", "cool"
}

// lie is what a forge does to one answer.
type lie string

const (
	truth   lie = "truth"
	stale   lie = "stale"   // every branch is at a commit that was recorded before
	partial lie = "partial" // some branches are missing
	empty   lie = "empty"
	garbage lie = "garbage"
	refuses lie = "refuses" // 401
	hidden  lie = "hidden"  // 404
	broken  lie = "broken"  // 500
)

func drawStory(t *rapid.T) story {
	s := story{seed: rapid.Uint64().Draw(t, "seed"), length: 40 * minute}
	for i := range rapid.IntRange(1, 6).Draw(t, "repositories") {
		interval := rapid.SampledFrom([]time.Duration{minute, 90 * time.Second, 2 * minute}).Draw(t, "interval")
		s.repos = append(s.repos, repo(fmt.Sprintf("r%d", i), fmt.Sprintf("h%d", i%3), interval, "main", "release/*"))
	}
	branches := []string{"main", "release/1", "release/2"}
	for range rapid.IntRange(0, 40).Draw(t, "events") {
		e := event{
			at:   time.Duration(rapid.Int64Range(0, int64(s.length)).Draw(t, "at")),
			repo: rapid.IntRange(0, len(s.repos)-1).Draw(t, "repo"),
		}
		if rapid.IntRange(0, 2).Draw(t, "what") == 0 {
			e.fault = rapid.SampledFrom([]string{"dead", "hangs", "limited", "store", "well", "well", "hint", "hint", "warm", "cool"}).Draw(t, "fault")
		} else {
			e.branch = rapid.SampledFrom(branches).Draw(t, "branch")
			e.commit = rapid.SampledFrom([]string{"A", "B", "C", "D", ""}).Draw(t, "commit")
		}
		s.events = append(s.events, e)
	}
	slices.SortStableFunc(s.events, func(a, b event) int { return int(a.at - b.at) })
	s.lies = rapid.SliceOfN(rapid.SampledFrom([]lie{truth, truth, truth, stale, stale, partial, empty, garbage, refuses, hidden, broken}), 0, 60).Draw(t, "lies")
	s.restarts = rapid.IntRange(0, 3).Draw(t, "restarts")
	return s
}

// liar is the forge of a story. It never lies twice in a row to one repository: what is false everywhere for an interval
// cannot be told from what is true.
type liar struct {
	mu       sync.Mutex
	book     *book
	truth    map[string]map[string]string
	served   map[string]map[string]string // the truth at the last answer of each repository that was given
	state    map[string]string            // of hosts: "", dead, hangs, limited
	until    map[string]time.Time         // hosts that may not be asked
	lied     map[string]bool
	answered map[string]map[string]string // what each repository was answered last
	lies     []lie
	asked    int
	rand     *rand.Rand
	wrong    []string
	out      map[string]int
}

func (l *liar) problem(format string, args ...any) {
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

func (*liar) Explain(*config.Repository) string { return "" }

func (l *liar) Revision(context.Context, *config.Repository, string, string) (sentry.Revision, error) {
	return sentry.Revision{}, errors.New("nobody knows")
}

// Lane: on the first host they are asked one by one, on the second two at a time, and the third tells of all at once.
func (l *liar) Lane(r *config.Repository) Lane {
	origin := r.Monitor.Remote.Origin()
	return Lane{Key: origin, Batch: map[string]int{"https://h1:443": 2}[origin], Sweep: origin == "https://h2:443"}
}

func (l *liar) Heads(ctx context.Context, asks []Ask, answers []Answer) {
	origin := asks[0].Monitor.Remote.Origin()
	l.mu.Lock()
	if lane := l.Lane(asks[0].Repository); len(asks) > 1 && !lane.Sweep && (len(asks) > lane.Batch || asks[0].Full) {
		l.problem("%d repositories in a question, the first in full: %t", len(asks), asks[0].Full)
	}
	if time.Now().Before(l.until[origin]) {
		l.problem("%s was asked %v before it allowed it", origin, time.Until(l.until[origin]))
	}
	if l.out[origin]++; l.out[origin] > 8 {
		l.problem("%d questions at once to %s", l.out[origin], origin)
	}
	hangs := l.state[origin] == "hangs"
	l.mu.Unlock()
	if hangs {
		<-ctx.Done()
	} else {
		time.Sleep(50 * time.Millisecond)
	}
	l.mu.Lock()
	l.out[origin]--
	l.mu.Unlock()
	for i := range asks {
		answers[i] = l.answer(ctx, asks[i], origin)
	}
}

func (l *liar) answer(ctx context.Context, a Ask, origin string) Answer {
	r := a.Repository
	history := map[string][]string{}
	l.book.set(func(b *book) {
		for w, commits := range b.history {
			if w.Repository == r.Name {
				history[w.Branch] = slices.Clone(commits)
			}
		}
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return Answer{Err: ctx.Err()}
	case l.state[origin] == "dead":
		return Answer{Err: sentry.Faultf(sentry.Transient, "connection refused")}
	case l.state[origin] == "limited":
		l.until[origin] = time.Now().Add(20 * time.Second)
		return Answer{Err: &sentry.Fault{Kind: sentry.RateLimited, RetryAfter: 20 * time.Second, Err: errors.New("429")}}
	}
	if last, known := l.answered[r.Name]; known && !a.Full && origin == "https://h2:443" && maps.Equal(last, l.truth[r.Name]) {
		l.lied[r.Name] = false
		l.served[r.Name] = maps.Clone(l.truth[r.Name])
		return Answer{Same: true}
	}
	how := truth
	if len(l.lies) > 0 {
		how = l.lies[l.asked%len(l.lies)]
		l.asked++
	}
	switch how {
	case refuses:
		return Answer{Err: sentry.Faultf(sentry.Unauthorized, "401")}
	case hidden:
		return Answer{Err: sentry.Faultf(sentry.NotFound, "404")}
	case broken:
		return Answer{Err: sentry.Faultf(sentry.Transient, "500")}
	case garbage:
		return Answer{Heads: map[string]string{"main": "<html>"}}
	}
	if l.lied[r.Name] {
		how = truth
	}
	l.lied[r.Name] = how != truth
	l.served[r.Name] = maps.Clone(l.truth[r.Name])
	answer := maps.Clone(l.truth[r.Name])
	for _, branch := range slices.Sorted(maps.Keys(answer)) {
		old := history[branch]
		switch {
		case how == stale && len(old) > 0:
			answer[branch] = old[l.rand.IntN(len(old))]
		case how == partial && l.rand.IntN(2) == 0, how == empty:
			delete(answer, branch)
		}
	}
	l.answered[r.Name] = maps.Clone(answer)
	return Answer{Heads: answer}
}

// play plays a story and tells what went wrong.
func (s story) play(t *testing.T) (wrong []string) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		l := &liar{
			book: b, truth: map[string]map[string]string{}, served: map[string]map[string]string{}, state: map[string]string{},
			answered: map[string]map[string]string{},
			until:    map[string]time.Time{}, lied: map[string]bool{}, out: map[string]int{}, lies: s.lies,
			rand: rand.New(rand.NewPCG(s.seed, 1)),
		}
		for _, r := range s.repos {
			l.truth[r.Name] = map[string]string{"main": sha("A")}
		}
		// Nothing is recorded but what was true when it was asked. (Moves are recorded as soon as they are known, so the
		// answer that was given last to the repository is the one.) A deleted branch that is back at its commit is believed at
		// once, as nothing follows from it.
		b.watch = func(o store.Observation, oc store.Outcome) {
			l.mu.Lock()
			defer l.mu.Unlock()
			if was := l.served[o.Watch.Repository][o.Watch.Branch]; was != o.Revision.Commit && oc.Kind != store.Back {
				l.problem("%v: %s was recorded at %q and was at %q", time.Now().Format("15:04:05"), o.Watch, name(o.Revision.Commit), name(was))
			}
		}
		cfg := configure(s.repos...)
		var m *Monitor
		start := func() (stop func()) {
			m = New(Options{Store: b, Ask: l, Rand: rand.New(rand.NewPCG(s.seed, 2))})
			m.Update(cfg)
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() {
				if err := m.Run(ctx); err != nil {
					l.problem("Run: %v", err)
				}
			})
			return func() { cancel(); running.Wait() }
		}
		stop := start()
		begin := time.Now()
		restart := s.length / time.Duration(s.restarts+1)
		next := restart
		for _, e := range append(s.events, event{at: s.length, fault: "end"}) {
			for ; next < e.at; next += restart {
				time.Sleep(time.Until(begin.Add(next)))
				stop()
				l.mu.Lock()
				clear(l.until) // pauses are not kept over a restart: each host may be asked once too early
				l.mu.Unlock()
				stop = start()
			}
			time.Sleep(time.Until(begin.Add(e.at)))
			switch e.fault {
			case "hint":
				m.Hint(s.repos[e.repo].Name)
			case "warm", "cool":
				m.Warm(map[string]bool{"g": e.fault == "warm"})
			default:
				l.apply(s, e)
			}
		}
		// All is well now. The slowest repository is asked within two intervals; what it says then may have to be confirmed
		// for one more, and the last lie may have been told just before.
		time.Sleep(2*2*minute + 2*minute + 10*time.Second)
		stop()

		l.mu.Lock()
		defer l.mu.Unlock()
		for _, r := range s.repos {
			for _, branch := range []string{"main", "release/1", "release/2"} {
				w := sentry.Watch{Repository: r.Name, Branch: branch}
				head, known := b.heads[w]
				switch commit := l.truth[r.Name][branch]; {
				case commit == "" && known && !head.Deleted:
					l.problem("%s is gone, and its head is still at %s", w, name(head.Commit))
				case commit != "" && (head.Deleted || head.Commit != commit):
					l.problem("%s is at %s, and its head at %q (deleted: %t)", w, name(commit), name(head.Commit), head.Deleted)
				}
			}
		}
		wrong = l.wrong
	})
	return wrong
}

func (l *liar) apply(s story, e event) {
	l.book.set(func(b *book) { // before l.mu, as b.watch takes it too
		switch {
		case e.fault == "well", e.fault == "end":
			b.fault, b.after = nil, nil
		case e.fault != "store":
		case b.fault == nil && b.after == nil:
			b.after = errors.New("failed, but happened")
		case b.fault == nil:
			b.after, b.fault = nil, errors.New("disk full")
		}
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.fault == "end" {
		l.lies, l.state = nil, map[string]string{}
		return
	}
	r := s.repos[e.repo]
	origin := r.Monitor.Remote.Origin()
	switch {
	case e.fault == "store":
	case e.fault == "well":
		l.state[origin] = ""
	case e.fault != "":
		l.state[origin] = e.fault
	case e.commit == "":
		delete(l.truth[r.Name], e.branch)
	default:
		l.truth[r.Name][e.branch] = sha(e.commit)
	}
}

// Whatever forges, networks and disks do: nothing is recorded that was not so, and when they are well again, what is so is
// recorded within two intervals, and one more where it had to be confirmed.
func TestStories(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := drawStory(rt)
		if wrong := s.play(t); len(wrong) > 0 {
			rt.Fatalf("%s", strings.Join(wrong, "\n"))
		}
	})
}

// Whatever is known and answered: an answer judged twice brings nothing the second time, and what is kept of it stays in
// order and small.
func TestJudgeTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		branch := rapid.SampledFrom([]string{"main", "dev", "release/1", "release/2", "release/10", "v1", "other", "release/..", "", "release/\x00"})
		commit := rapid.SampledFrom([]string{sha("A"), sha("B"), sha("C"), strings.Repeat("ab", 32)})
		e := evidence{patterns: parsePatterns("main", "release/*", "/^v[0-9]$/"), interval: minute, now: minute, asked: minute, branches: 100}
		for _, b := range []string{"main", "release/1", "release/2"} {
			if rapid.Bool().Draw(t, "known") {
				e.heads = append(e.heads, head{b, must(parseCommit(commit.Draw(t, "head"))), rapid.Bool().Draw(t, "deleted")})
			}
		}
		answer := rapid.MapOfN(branch, commit, 0, 8).Draw(t, "answer")
		old := rapid.SliceOf(commit).Draw(t, "old")
		recorded := func(_, commit string) (bool, error) { return slices.Contains(old, commit), nil }

		first, err := judge(e, answer, recorded)
		if err != nil {
			t.Fatal(err)
		}
		for i, h := range first.heads {
			if i > 0 && first.heads[i-1].branch >= h.branch {
				t.Fatalf("heads out of order: %q before %q", first.heads[i-1].branch, h.branch)
			}
			if !matches(e.patterns, h.branch) || sentry.CheckBranch(h.branch) != nil {
				t.Fatalf("%q is watched", h.branch)
			}
		}
		e.heads, e.absent, e.doubts = first.heads, first.absent, first.doubts.against(answer)
		second, err := judge(e, answer, recorded)
		if err != nil || len(second.moves) > 0 || len(second.said) > 0 {
			t.Fatalf("judged again: %+v, said %+v, %v", second.moves, second.said, err)
		}
		if len(first.doubts) == 0 && first.doubts.oldest() == never {
			own := map[string]string{}
			for b, c := range answer {
				if matches(e.patterns, b) && sentry.CheckBranch(b) == nil {
					own[b] = c
				}
			}
			if !unchanged(first.heads, countLive(first.heads), own) {
				t.Fatalf("the heads %+v are not what was answered: %v", first.heads, own)
			}
		}
	})
}
