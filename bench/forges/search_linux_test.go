package forges

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"sentry/bench/internal/measure"
	"sentry/internal/forge"
	"sentry/internal/forge/forgetest"
)

// TestRatiosSearch lets hours pass over ten thousand idle repositories with two branches each on a Gitea, emulated
// at the wire, that are watched every minute. Nothing moves: one search a minute tells that. What Sentry asks besides, so
// that it does not have to believe the search, is counted on its own.
func TestRatiosSearch(t *testing.T) {
	const settling, rounds = 200, 60
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, forgetest.NewEmulatedGitea(t, forgetest.EmulatedGiteaOptions{Late: time.Second}), idle, time.Minute)
		told := map[*forge.Repository]forge.Answer{}
		ask := func() {
			w.sweep(func(r *forge.Repository, a forge.Answer) {
				if a.Heads != nil {
					w.right(r, a)
					told[r] = a
				}
				if a.Err != nil || a.Same && told[r].Heads == nil {
					t.Fatalf("%s: %+v", r.Name, a)
				}
			})
			time.Sleep(time.Minute)
		}
		// All are asked themselves at the start, and then again one after the other over some hours.
		for range settling {
			ask()
		}
		before := w.lab.Requests()
		for range rounds {
			ask()
		}
		after := w.lab.Requests()

		searches, checks := float64(after.API-before.API)/rounds, float64(after.Git-before.Git)/rounds
		each := float64(idle * len(branches))
		table := measure.Table{
			Title:   fmt.Sprintf("Gitea: %s idle repositories × %d branches, watched every minute: requests a minute, over an hour after the first %d minutes", measure.Count(idle), len(branches), settling),
			Columns: []string{"what", "requests a minute", "fewer than one for each branch", "goal", ""},
		}
		table.Row("one for each branch", int(each), "", "", "")
		table.Row("searches", fmt.Sprintf("%.2f", searches), measure.Times(each/searches), "1 request", measure.Verdict(searches == 1))
		table.Row("with each repository asked itself now and then", fmt.Sprintf("%.1f", searches+checks), measure.Times(each/(searches+checks)), "", "")
		table.Note("%s", w.forges.Explain(w.all[0]))
		table.Print()
		if searches != 1 {
			t.Errorf("%v searches a minute", searches)
		}
		if checks > 100 {
			t.Errorf("%v repositories a minute are asked themselves", checks)
		}
	})
}
