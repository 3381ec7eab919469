package forges

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sentry/bench/internal/measure"
	"sentry/internal/forge/forgetest"
	"sentry/internal/monitor"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

const (
	watched  = 7500 // repositories, so twice as many watches
	fresh    = time.Minute
	interval = 50 * time.Second // with its jitter, and the time in which a question is put, it stays below fresh
	pushes   = 300              // in the hour
)

// TestRatiosHour watches 15,000 branches with one token for a simulated hour, on a GitHub that enforces all limits that it
// documents: 5,000 points an hour, 2,000 a minute, a hundred requests at once, a minute of processor time in a minute. Every
// branch is to be known to the last minute all the time, and GitHub is to have to refuse nothing. Beside it, one request for
// each branch a minute: how many branches the same token carries.
func TestRatiosHour(t *testing.T) {
	table := measure.Table{
		Title:   fmt.Sprintf("An hour with one token of GitHub: branches that are known to the last %v", fresh),
		Columns: []string{"", "branches", "requests", "points", "refused", "oldest answer", "a push is seen after", "at most"},
	}
	kept := 0
	for _, n := range []int{83, 84} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, forgetest.NewGitHub(t, forgetest.GitHubOptions{DotCom: true}), (n+1)/2, 0)
			refused := w.hourly(n)
			c := w.lab.Requests()
			table.Row("one request for each branch", n, c.API, c.Charged, refused, "", "", "")
			if refused == 0 {
				kept = n
			}
		})
	}
	for _, run := range []struct {
		name   string
		each   time.Duration // that GitHub takes for a repository of a query
		oldest time.Duration // that an answer may become
	}{
		{"Sentry", 2 * time.Millisecond, fresh},
		{"Sentry, when GitHub is ten times as slow", 20 * time.Millisecond, 3 * fresh},
	} {
		synctest.Test(t, func(t *testing.T) {
			lab := forgetest.NewGitHub(t, forgetest.GitHubOptions{DotCom: true, Latency: 60 * time.Millisecond, Each: run.each})
			w := &watching{world: newWorld(t, lab, watched, interval), last: map[string]time.Time{}, pushed: map[string]time.Time{}}
			w.run(run.oldest)
			c := lab.Requests()
			table.Row(run.name, watched*len(branches), c.API+c.Git, c.Charged, c.Refused, measure.Time(w.oldest), measure.Time(measure.Median(w.seen)), measure.Time(maximum(w.seen)))
			if c.Refused > 0 || c.Forbidden > 0 {
				t.Errorf("GitHub refused %d requests, %d came in a window that it had closed", c.Refused, c.Forbidden)
			}
			if w.oldest > run.oldest {
				t.Errorf("an answer was %v old", w.oldest)
			}
			if len(w.seen) != pushes || maximum(w.seen) > run.oldest {
				t.Errorf("%d of %d pushes were seen, after %v at most", len(w.seen), pushes, maximum(w.seen))
			}
			table.Note("%s: %d queries of %.0f repositories, %d requests over Git; at most %d at once", run.name, len(lab.Queries()), perQuery(lab), c.Git, c.Most)
		})
	}
	ratio := float64(watched*len(branches)) / float64(kept)
	table.Note("%s more branches on the same token (goal %s): %s", measure.Times(ratio), measure.Times(180), measure.Verdict(ratio >= 180))
	if ratio < 180 {
		t.Errorf("only %v times as many", ratio)
	}
	table.Print()
}

func maximum(all []time.Duration) (most time.Duration) {
	for _, d := range all {
		most = max(most, d)
	}
	return most
}

// hourly asks for n branches once a minute, for an hour, spread over the minute. It gives how many requests are refused.
func (w *world) hourly(n int) (refused int) {
	client := &http.Client{Transport: &http.Transport{DialContext: w.lab.Dial()}}
	defer client.CloseIdleConnections()
	for range 60 {
		for i := range n {
			if status, _ := w.ask(client, w.all[i/2].Name, branches[i%2]); status != http.StatusOK {
				refused++
			}
			time.Sleep(time.Minute / time.Duration(n))
		}
	}
	return refused
}

// watching is a monitor at work on a world.
type watching struct {
	*world

	mu     sync.Mutex           // guards what follows
	last   map[string]time.Time // by repository: when the question was put that it answered last
	oldest time.Duration        // that an answer became before there was the next
	pushed map[string]time.Time // by commit: pushes that were not seen yet
	seen   []time.Duration
}

// Heads passes the questions on, and notes what they tell.
func (w *watching) Heads(ctx context.Context, asks []monitor.Ask, answers []monitor.Answer) {
	put := time.Now()
	w.world.Heads(ctx, asks, answers)
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for i, a := range asks {
		if answers[i].Err != nil {
			if ctx.Err() == nil && sentry.AsFault(answers[i].Err).Kind != sentry.RateLimited {
				w.t.Errorf("%s: %v", a.Name, answers[i].Err)
			}
			continue
		}
		if before, ok := w.last[a.Name]; ok {
			w.oldest = max(w.oldest, now.Sub(before))
		}
		w.last[a.Name] = put
		for _, commit := range answers[i].Heads {
			if at, ok := w.pushed[commit]; ok {
				w.seen = append(w.seen, now.Sub(at))
				delete(w.pushed, commit)
			}
		}
	}
}

var _ monitor.Asker = (*watching)(nil)

// run watches for an hour. No answer is to become older than a time.
func (w *watching) run(oldest time.Duration) {
	s, err := store.Open(w.t.Context(), store.Options{Dir: w.t.TempDir()})
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Close()
	m := monitor.New(monitor.Options{Store: s, Ask: w, Rand: rand.New(rand.NewPCG(1, 2))})
	m.Update(w.config)
	ctx, cancel := context.WithCancel(w.t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := m.Run(ctx); err != nil {
			w.t.Error(err)
		}
	})
	time.Sleep(2 * time.Minute)
	for i := range pushes {
		r := &w.config.Repositories[(i*37)%watched]
		w.mu.Lock()
		w.pushed[w.lab.Push("acme/"+r.Name, branches[i%2])] = time.Now()
		w.mu.Unlock()
		time.Sleep((time.Hour - 4*time.Minute) / pushes)
	}
	time.Sleep(max(2*time.Minute, oldest))
	w.mu.Lock()
	for name, at := range w.last {
		if age := time.Since(at); age > oldest {
			w.t.Errorf("%s was asked %v ago", name, age)
		}
	}
	if len(w.last) != watched {
		w.t.Errorf("%d repositories were asked", len(w.last))
	}
	w.mu.Unlock()
	cancel()
	running.Wait()
}

func perQuery(lab *forgetest.GitHub) float64 {
	n, queries := 0, lab.Queries()
	for _, q := range queries {
		n += q.Repositories
	}
	return float64(n) / float64(len(queries))
}
