package forge_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/forge/forgetest"
)

// A sweep of many repositories takes few queries, each within what GitLab allows.
func TestGitLabSweep(t *testing.T) {
	for _, version := range []string{"18.5", "17.0", "15.0"} {
		t.Run(version, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lab := forgetest.NewGitLab(t, forgetest.GitLabOptions{Version: version})
				r := newRig(t, lab)
				const n = 400
				for i := range n {
					name := fmt.Sprintf("group/sub/r%d", i)
					branches := []string{"main", "dev"}
					if i%4 == 0 {
						branches = []string{"main", fmt.Sprintf("release/%d", i)}
					}
					r.add(name, i%2 == 0, branches...)
					for _, b := range branches {
						lab.Push(name, b)
					}
				}
				r.update()
				r.ask(false)
				c := r.requests(func() {
					for i, a := range r.ask(false) {
						if a.Err != nil || a.Heads["main"] != lab.Head(r.all[i].Name, "main") || len(a.Heads) != 2 {
							t.Fatalf("%s answers %s", r.all[i].Name, show(a))
						}
					}
				})
				t.Logf("%d repositories: %+v; lane %+v", n, c, r.forges.Lane(r.all[0]))
				for _, q := range lab.Queries() {
					t.Logf("%+v", q)
				}
			})
		})
	}
	_ = time.Second
}
