//go:build linux

package endtoend

import (
	"fmt"
	"strings"
	"testing"
)

// A repository that has another name now goes on being watched, and has its verdicts, as long as Gitea leads there; the
// log, why and check say where it is.
func TestRenamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.sentry(settings{}, "main")
	const now = "acme/rag-of-today"
	w.gitea.Rename(watched, now)
	commit := w.gitea.Push(now, "main")
	w.rolledOut(d, "main "+commit)
	d.until("the commit has its verdict", func() string {
		list := w.gitea.Statuses(now, commit)
		if len(list) != 1 || list[0].State != "success" {
			return fmt.Sprintf("it is said %+v", list)
		}
		return ""
	})
	if lines := d.logged("WARN", "has moved"); len(lines) != 1 || !strings.Contains(lines[0], now) {
		t.Errorf("it is to be said once where it is:\n%s", strings.Join(lines, "\n"))
	}
	if out, _ := d.run("why", "rag"); !strings.Contains(strings.Join(strings.Fields(out), " "), "moved to "+now) {
		t.Errorf("why should name %s:\n%s", now, out)
	}
	if out, code := d.run("check"); code > 1 || !strings.Contains(out, now) {
		t.Errorf("check ends with %d, and should name %s:\n%s", code, now, out)
	}
}

// A repository that is gone is said to be: it, not its branch.
func TestRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.sentry(settings{branches: "main, gone"}, "main")
	if watch := d.watch("rag", "gone"); !strings.Contains(watch.Answer, "branch") {
		t.Errorf("of a branch that is not there it is said: %s", watch.Answer)
	}
	w.gitea.Remove(watched)
	d.until("it is said that the repository is gone", func() string {
		if watch := d.watch("rag", "main"); !strings.Contains(watch.Answer, "repository") {
			return "the last answer was " + watch.Answer
		}
		return ""
	})
	if lines := d.logged("WARN", ""); len(lines) != 1 {
		t.Errorf("it is to be said once:\n%s", strings.Join(lines, "\n"))
	}
}
