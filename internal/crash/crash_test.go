//go:build linux

package crash

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"sentry/internal/sentry"
	"sentry/internal/sentry/sentrytest"
	"sentry/internal/server"
)

// lanes is how many Sentries are killed side by side, each with a world of its own. Mostly they wait; and what one sweeps
// up after its death must not be the other's.
const lanes = 2

// TestCrash kills Sentry again and again while it works, lets it come to rest, and judges by what its commands wrote.
func TestCrash(t *testing.T) {
	kills, seed := setting(t, "SENTRY_CRASH_KILLS", 100), seed(t)
	sentrytest.Binary(t)
	for lane := range lanes {
		t.Run(fmt.Sprintf("lane %d", lane+1), func(t *testing.T) {
			t.Parallel()
			crash(t, (kills+lane)/lanes, func(n uint64) *rand.Rand {
				return rand.New(rand.NewPCG(uint64(seed), uint64(lane)<<32|n))
			})
		})
	}
}

// crash kills one Sentry this many times. stream gives independent sources of chance.
func crash(t *testing.T, kills int, stream func(uint64) *rand.Rand) {
	began := time.Now()

	d := newSentryd(t)
	w := newWorld(t, everything(stream(0)), stream(1), d.say)
	d.configure(w.config(d.state(), d.witness()))
	r := newReaper(d, w, stream(2))

	var promised []string // owned by the mover until it has stopped
	stop := make(chan struct{})
	mover := func() {
		random := stream(3)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(50+random.IntN(250)) * time.Millisecond):
			}
			w.step()
			if random.IntN(20) == 0 {
				// What it answers with an identifier it has promised; an error promises nothing.
				if ids, err := d.trigger("somebody", []string{"p", "s", "zeta", "gamma"}[random.IntN(4)]); err == nil {
					promised = append(promised, ids...)
				}
			}
		}
	}
	var moving sync.WaitGroup
	moving.Go(mover)
	halt := sync.OnceFunc(func() { close(stop); moving.Wait() })
	defer halt()

	for r.kills < kills && !t.Failed() {
		r.reap()
		w.server.Forget()
	}
	halt()
	if t.Failed() {
		return
	}
	killing := time.Since(began)

	d.start()
	w.finish(func(watch sentry.Watch) {
		until(d, func(status server.Status) string { return w.seen(status, watch) })
	})
	settle(d, w)
	d.noteMark()
	d.checkDescriptors()
	d.ask()
	d.ended(orderly)
	rest(d)

	saw, found := d.testimony()
	e := &evidence{
		testimony: saw, forge: w.forge, state: d.history(), promised: promised, groups: w.groups, members: w.members, trees: w.trees,
	}
	report(t, append(found, judge(e)...))
	sum := tally(e)
	t.Logf("%d kills, %d drains, %d lives: %d rollouts, %d starts of commands, %d attempts begun again, %d deployments at most interrupted %d times, %d processes outlived the daemon, %d given up; killing took %v, all %v",
		r.kills, r.drains, d.life, len(e.state), len(e.runs), sum.again, sum.most, sum.mostTimes, sum.orphans, sum.givenUp,
		killing.Round(time.Second), time.Since(began).Round(time.Second))
	if kills >= 50 && (sum.again == 0 || sum.orphans == 0 || len(promised) == 0 || len(e.runs) < kills/4) {
		t.Errorf("hardly anything was put to the test: %+v, %d promises", sum, len(promised))
	}
}

// seed is what chance begins with; it is told, so that a failure can be tried again.
func seed(t *testing.T) int {
	seed := setting(t, "SENTRY_CRASH_SEED", int(time.Now().UnixNano()%1_000_000))
	t.Logf("SENTRY_CRASH_SEED=%d", seed)
	return seed
}

// setting reads a number from the environment.
func setting(t *testing.T, name string, otherwise int) int {
	text, ok := os.LookupEnv(name)
	if !ok {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s is a number from 1, not %q", name, text)
	}
	return n
}

// settle waits until Sentry says that it has seen what the forge has, and has nothing left to do. Whether that is true
// the judge decides.
func settle(d *sentryd, w *world) {
	d.t.Helper()
	until(d, func(status server.Status) string {
		for _, g := range status.Items {
			if g.State != server.GroupIdle {
				return fmt.Sprintf("group %s is %s", g.Name, g.State)
			}
		}
		for watch := range w.forge {
			if why := w.seen(status, watch); why != "" {
				return why
			}
		}
		return ""
	})
}

// until waits until something holds of what Sentry says: missing tells what it is that does not hold yet.
func until(d *sentryd, missing func(server.Status) string) {
	d.t.Helper()
	why := "it does not answer"
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline) && d.alive(); time.Sleep(50 * time.Millisecond) {
		if status, err := d.now(); err == nil {
			if why = missing(status); why == "" {
				return
			}
		}
	}
	if !d.alive() {
		d.check(unasked)
	}
	d.dump()
	d.t.Fatalf("still, in life %d: %s\n%s", d.life, why, d.lastLog())
}

// seen tells what is missing until the final commit of a branch is recorded.
func (w *world) seen(status server.Status, watch sentry.Watch) string {
	recorded := ""
	for _, g := range status.Items {
		for _, m := range g.Members {
			for _, known := range m.Watches {
				if m.Repository == watch.Repository && known.Branch == watch.Branch {
					recorded = known.Commit
				}
			}
		}
	}
	if final := w.final(watch); recorded != final {
		return fmt.Sprintf("%s is at %s, and the head recorded is %q", watch, final, recorded)
	}
	return ""
}

// rest checks that an orderly end left nothing: no process, no workspace, no lock, and a state that is whole.
func rest(d *sentryd) {
	d.t.Helper()
	if pids := d.left(); len(pids) > 0 {
		d.t.Errorf("processes outlived the end of the daemon: %v", pids)
	}
	if odd := d.litter(); len(odd) > 0 {
		d.t.Errorf("in the state directory is left: %v", odd)
	}
	if out, code := d.run("state", "check"); code != 0 {
		d.t.Errorf("sentry state check: exit code %d:\n%s", code, out)
	}
}

// report tells what the judge found.
func report(t *testing.T, found []finding) {
	t.Helper()
	for i, f := range found {
		if i == 40 {
			t.Errorf("… and %d more", len(found)-i)
			break
		}
		t.Error(f)
	}
}

// sums are figures of a run.
type sums struct {
	again     int // attempts that were not the first of their deployment
	most      int // deployments that took the most attempts,
	mostTimes int // and how many more than one that was
	orphans   int // processes that were heard of after the daemon that they belonged to had been killed
	givenUp   int // rollouts that ended as interrupted
}

func tally(e *evidence) sums {
	var s sums
	for _, a := range e.attempts {
		again := a.number - 1
		if again > 0 {
			s.again++
		}
		switch {
		case again > s.mostTimes:
			s.most, s.mostTimes = 1, again
		case again == s.mostTimes:
			s.most++
		}
	}
	killed := 0
	orphans := map[int]bool{}
	for _, l := range e.lines {
		switch {
		case l.kind == "kill":
			killed = l.life
		case l.run != nil && l.life <= killed:
			orphans[l.pid] = true
		}
	}
	s.orphans = len(orphans)
	for _, r := range e.state {
		if r.Status == sentry.Interrupted {
			s.givenUp++
		}
	}
	return s
}
