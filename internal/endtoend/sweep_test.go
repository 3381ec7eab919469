//go:build linux

package endtoend

import (
	"fmt"
	"testing"
	"time"
)

// Many repositories of one Gitea cost it about as many requests as one, as long as nothing moves; what moves is found all
// the same.
func TestSweep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 24
	var more []string
	for i := range n {
		name := fmt.Sprintf("acme/other-%d", i)
		w.gitea.Repository(name, i%2 == 0)
		w.gitea.Push(name, "main")
		more = append(more, name)
	}
	d := w.sentry(settings{more: more}, "main")
	d.until("all are seen", func() string {
		for i := range n {
			if watch := d.watch(fmt.Sprintf("other-%d", i), "main"); watch.Commit == "" {
				return fmt.Sprintf("other-%d is not: %s", i, watch.Answer)
			}
		}
		return ""
	})

	// What was pushed a moment ago is looked at again: Gitea notes a push a moment after it. Then it is quiet, while each of
	// them is due once a second.
	var api, git int
	d.until("nearly nothing is asked", func() string {
		before := w.gitea.Requests()
		time.Sleep(5 * time.Second)
		after := w.gitea.Requests()
		api, git = after.API-before.API, after.Git-before.Git
		if api < 2 || api+git > 5*n/8 {
			return fmt.Sprintf("in five seconds there were %d requests of the API, and %d of Git", api, git)
		}
		return ""
	})
	t.Logf("%d repositories that are asked once a second come to %d requests of the API and %d of Git in five seconds", n+1, api, git)

	commit := w.gitea.Push(watched, "main")
	w.rolledOut(d, "main "+commit)
	other := w.gitea.ForcePush(more[7], "main")
	d.until("another one's move is seen", func() string {
		if watch := d.watch("other-7", "main"); watch.Commit != other {
			return "it is at " + watch.Commit
		}
		return ""
	})
}
