//go:build linux

package endtoend

import (
	"os"
	"strings"
	"testing"

	"sentry/internal/sentry"
)

// What a push over HTTP to a private repository starts.
func TestPush(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.sentry(settings{}, "main")
	first := w.gitea.Push(watched, "main")
	w.rolledOut(d, "main "+first)
	second := w.gitea.Push(watched, "main")
	w.rolledOut(d, "main "+first, "main "+second)

	rollouts := d.rollouts()
	if len(rollouts) != 2 {
		t.Fatalf("there are %d rollouts: %+v", len(rollouts), rollouts)
	}
	last := rollouts[1]
	if last.Status != sentry.Succeeded || len(last.Deployments) != 1 {
		t.Fatalf("the last rollout is %+v", last)
	}
	one := last.Deployments[0]
	if one.Commit != second || one.Previous != first || one.Source.Commit != w.gitea.Head(qa, "main") {
		t.Errorf("the deployment is of %s after %s with the commands of %s", one.Commit, one.Previous, one.Source.Commit)
	}
	if !strings.Contains(one.Author, "Ada Author") || !strings.HasPrefix(one.Subject, "commit ") {
		t.Errorf("the commit is said to be by %q, with the subject %q", one.Author, one.Subject)
	}
	for _, level := range []string{"WARN", "ERROR"} {
		if lines := d.logged(level, ""); len(lines) > 0 {
			t.Errorf("nothing was wrong, but it was said:\n%s", strings.Join(lines, "\n"))
		}
	}
	if out, code := d.run("check"); code != 0 {
		t.Errorf("check ends with %d:\n%s", code, out)
	}
	// Neither the token nor its encoding for HTTP is anywhere that it could be read.
	for _, name := range []string{"sentry.log", "world/witness"} {
		text, err := os.ReadFile(w.dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), w.token) {
			t.Errorf("the token is in %s", name)
		}
	}
}

// A commit that a branch is forced to is rolled out as any other, and so is one that it is forced back to.
func TestForcePush(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.gitea.Head(watched, "main")
	d := w.sentry(settings{}, "main")
	second := w.gitea.ForcePush(watched, "main")
	w.rolledOut(d, "main "+second)
	w.gitea.Set(watched, "main", first)
	w.rolledOut(d, "main "+second, "main "+first)
}

// A branch that is deleted is told to be; back at the commit it had, nothing is rolled out, and at another that is.
func TestBranchDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	commit := w.gitea.Push(watched, "release/1")
	d := w.sentry(settings{branches: `main, "release/*"`}, "main", "release/1")
	deleted := func(want bool) {
		t.Helper()
		d.until("the deletion is seen, or its end", func() string {
			if watch := d.watch("rag", "release/1"); watch.Deleted != want {
				return "the watch is " + watch.Answer
			}
			return ""
		})
	}
	w.gitea.Delete(watched, "release/1")
	deleted(true)
	w.gitea.Set(watched, "release/1", commit)
	deleted(false)
	w.gitea.Delete(watched, "release/1")
	deleted(true)
	other := w.gitea.Push(watched, "release/1")
	w.rolledOut(d, "release/1 "+other)
}
