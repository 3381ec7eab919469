//go:build linux

package crash

import (
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"sentry/internal/sentry"
)

// TestFirstStart kills Sentry while it makes its state directory, once or several times. The next start finds half of
// one, and must neither refuse it as damaged nor trip over it: it rolls out what moves next.
func TestFirstStart(t *testing.T) {
	t.Parallel()
	solo := sentry.Watch{Repository: "solo", Branch: "main"}
	births, seed := max(5, setting(t, "SENTRY_CRASH_KILLS", 100)/10), seed(t)
	random := rand.New(rand.NewPCG(uint64(seed), 4))
	d := newSentryd(t)
	w := newWorld(t, plan{
		groups:   map[string]group{"g": {limit: 3}},
		policies: map[string]string{"g": "quiet_period: 0"},
		members:  map[string]member{"solo": {group: "g", steps: 1}},
		branches: []sentry.Watch{solo},
	}, random, d.say)
	d.configure(w.config(d.state(), d.witness()))

	span := time.Duration(0) // from a start to the first answer
	for birth := range births {
		if err := os.RemoveAll(d.state()); err != nil {
			t.Fatal(err)
		}
		if birth > 0 {
			for range 1 + random.IntN(3) {
				d.start()
				time.Sleep(time.Duration(random.Int64N(int64(span))))
				d.kill(unasked)
			}
		}
		began := time.Now()
		d.start()
		settle(d, w)
		span = max(time.Since(began), 10*time.Millisecond)
		w.commit(solo)
		settle(d, w)
		d.ask()
		d.ended(orderly)
		rest(d)
		saw, found := d.testimony()
		report(t, found)
		if n := len(saw.attempts); n == 0 || saw.attempts[n-1].one().commit != w.final(solo) || !saw.attempts[n-1].succeeded(1) {
			t.Fatalf("%s is at %s, and that was not rolled out", solo, w.final(solo))
		}
	}
}
