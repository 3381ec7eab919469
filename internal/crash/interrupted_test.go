//go:build linux

package crash

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"sentry/internal/sentry"
)

// TestGivenUp kills Sentry in the same rollout again and again, as a command would that takes the machine down with it.
// Sentry begins it again as often as it promises, then leaves it, and goes on with what comes next.
func TestGivenUp(t *testing.T) {
	interrupted(t, "on_interrupt: retry", 1+sentry.MaxInterruptions)
}

// TestHeld kills Sentry once in a rollout that is to be left to a person then.
func TestHeld(t *testing.T) {
	interrupted(t, "on_interrupt: hold", 1)
}

// interrupted kills Sentry at each of the attempts that it makes at the first rollout.
func interrupted(t *testing.T, policy string, attempts int) {
	t.Parallel()
	solo := sentry.Watch{Repository: "solo", Branch: "main"}
	d := newSentryd(t)
	w := newWorld(t, plan{
		groups:   map[string]group{"g": {limit: 3}},
		policies: map[string]string{"g": policy + ", quiet_period: 0"},
		members:  map[string]member{"solo": {group: "g", steps: 1}},
		branches: []sentry.Watch{solo},
	}, rand.New(rand.NewPCG(1, 2)), d.say)
	d.configure(w.config(d.state(), d.witness()))
	starts := newTail(t, d.witness())

	d.start()
	settle(d, w)
	w.commit(solo)
	for i := range attempts {
		if i > 0 {
			d.start()
		}
		for deadline := time.Now().Add(time.Minute); starts.count("start ") == 0; time.Sleep(time.Millisecond) {
			if !d.alive() || time.Now().After(deadline) {
				t.Fatalf("attempt %d does not begin:\n%s", i+1, d.lastLog())
			}
		}
		d.kill(unasked)
	}
	d.start()
	settle(d, w)
	w.commit(solo)
	settle(d, w)
	d.ask()
	d.ended(orderly)
	rest(d)

	history := d.history()
	if len(history) != 2 || history[0].Status != sentry.Interrupted || history[1].Status != sentry.Succeeded {
		t.Fatalf("the history should be a rollout that was interrupted and one that succeeded: %+v", history)
	}
	first := history[0]
	if out, code := d.run("why", first.ID); code != 0 || !strings.Contains(out, "sentry retry "+first.ID) {
		t.Errorf("why does not tell what to do about it: exit code %d\n%s", code, out)
	}
	saw, found := d.testimony()
	e := &evidence{testimony: saw, forge: w.forge, state: history, groups: w.groups, members: w.members, trees: w.trees}
	n := 0
	for _, a := range e.attempts {
		if a.one().rollout == first.ID {
			n++
		}
	}
	if n != attempts {
		t.Errorf("%d attempts were made, not %d", n, attempts)
	}
	for _, f := range append(found, judge(e)...) {
		if f.rule != "terminal" || !strings.Contains(f.what, fmt.Sprintf(" %s", first.ID)) {
			t.Error(f)
		}
	}
}
