//go:build linux

package endtoend

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// states are what was said of a commit, in order, in the context of the group.
func (w *world) states(commit string) []string {
	w.t.Helper()
	var list []string
	for _, s := range w.gitea.History(watched, commit) {
		if s.Context != "sentry/g" {
			w.t.Errorf("of %s it is said in the context %q: %+v", commit, s.Context, s)
		}
		list = append(list, s.State)
	}
	return list
}

// said waits until so much was said of a commit, and fails where it is anything but this.
func (w *world) said(d *sentryd, commit string, want ...string) {
	w.t.Helper()
	d.until(strings.Join(want, ", then ")+" is said of the commit", func() string {
		if got := w.states(commit); len(got) < len(want) {
			return "said was " + strings.Join(got, ", then ")
		}
		return ""
	})
	if diff := cmp.Diff(want, w.states(commit)); diff != "" {
		w.t.Errorf("said of %s (-want +got):\n%s", commit, diff)
	}
}

// A rollout is pending on its commit as soon as it begins, and ends there with one verdict. A restart repeats nothing.
func TestStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.gitea.Head(watched, "main")
	s := settings{global: []string{"public_url: https://sentry.example.com"}}
	d := w.sentry(s, "main")

	// slowly pushes, and lets the rollout end when it is known to be pending: what ends at once has its verdict only.
	slowly := func(d *sentryd, verdict string) (commit string) {
		t.Helper()
		w.write("world/gate", "")
		commit = w.gitea.Push(watched, "main")
		w.said(d, commit, "pending")
		w.remove("world/gate")
		w.said(d, commit, "pending", verdict)
		return commit
	}

	good := slowly(d, "success")
	w.write("world/fail", "")
	bad := slowly(d, "failure")
	w.remove("world/fail")

	d.stop()
	d = w.sentry(s, "main")
	last := slowly(d, "success")
	w.said(d, good, "pending", "success")
	w.said(d, bad, "pending", "failure")
	if list := w.gitea.History(watched, first); len(list) != 0 {
		t.Errorf("a baseline is rolled out by nobody, and it is said: %+v", list)
	}
	w.rolledOut(d, "main "+good, "main "+bad, "main "+last)

	id := d.rollouts()[1].ID
	for _, status := range w.gitea.History(watched, bad) {
		if !strings.HasPrefix(status.URL, "https://sentry.example.com/") || !strings.Contains(status.URL, id) || status.Description == "" {
			t.Errorf("of rollout %s it is said %+v", id, status)
		}
	}
}

// A forge that takes no statuses holds no rollout up. What it missed it gets when it is back: the verdict in any case.
func TestStatusLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.sentry(settings{}, "main")
	var refused atomic.Int64
	w.gitea.Fail(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/statuses/") {
			refused.Add(1)
			http.Error(rw, "come again", http.StatusBadGateway)
			return
		}
		next.ServeHTTP(rw, r)
	})
	one := w.gitea.Push(watched, "main")
	w.rolledOut(d, "main "+one)
	two := w.gitea.Push(watched, "main")
	w.rolledOut(d, "main "+one, "main "+two)
	if refused.Load() == 0 {
		d.until("a status is refused", func() string {
			if refused.Load() == 0 {
				return "none was sent"
			}
			return ""
		})
	}
	w.gitea.Fail(nil)
	for _, commit := range []string{one, two} {
		d.until("the verdict is there", func() string {
			if got := w.states(commit); len(got) == 0 || got[len(got)-1] != "success" {
				return "said was " + strings.Join(got, ", then ")
			}
			return ""
		})
		if n := strings.Count(strings.Join(w.states(commit), " "), "success"); n != 1 {
			t.Errorf("there are %d verdicts", n)
		}
	}
}

// A token that may only read is no reason not to roll out. That it lacks a scope is said once, and which.
func TestStatusNotAllowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("token", w.gitea.Token("read:repository")+"\n")
	d := w.sentry(settings{}, "main")
	var commits []string
	for range 3 {
		commit := w.gitea.Push(watched, "main")
		commits = append(commits, "main "+commit)
		w.rolledOut(d, commits...)
		if list := w.gitea.History(watched, commit); len(list) != 0 {
			t.Fatalf("with a token that may only read it was said: %+v", list)
		}
	}
	d.until("the scope is named", func() string {
		if len(d.logged("WARN", "write:repository")) == 0 {
			return "nothing is logged"
		}
		return ""
	})
	if lines := d.logged("WARN", "write:repository"); len(lines) != 1 {
		t.Errorf("it is to be said once:\n%s", strings.Join(lines, "\n"))
	}
}
