package daemon_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sentry/internal/sentry"
)

// mirrors lists the folders of QA repositories that were fetched.
func (w *world) mirrors() []string {
	found, err := filepath.Glob(filepath.Join(w.stateDir(), "mirrors", "*.git"))
	if err != nil {
		w.t.Fatal(err)
	}
	return found
}

// TestFormerQARepositoriesAreForgotten: what was fetched of a QA repository goes when it is not configured any more, by a
// reload or at a restart; that of the others stays.
func TestFormerQARepositoriesAreForgotten(t *testing.T) {
	for _, how := range []string{"reload", "restart"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, `cat run.sh >> "$WITNESS/ran"`)
			other := w.server.Repo(t, "qa2")
			other.Commit(t, "main", map[string]string{"run.sh": "other\n"}, "scripts")
			d, stop := w.start()
			w.baselines()
			w.wait("the first mirror", func() bool { return len(w.mirrors()) == 1 })
			former := w.mirrors()[0]

			text, err := os.ReadFile(w.file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(w.file, []byte(strings.ReplaceAll(string(text), `/qa"`, `/qa2"`)), 0o600); err != nil {
				t.Fatal(err)
			}
			if how == "reload" {
				if err := d.Reload(t.Context()); err != nil {
					t.Fatal(err)
				}
			} else {
				stop()
				d, stop = w.start()
			}
			w.a.Commit(t, "main", nil, "go")
			w.rollout("1", sentry.Succeeded)
			w.wait("the second mirror", func() bool { return len(w.mirrors()) == 2 })
			if d.RetireMirrors(); !slices.Contains(w.mirrors(), former) {
				t.Error("it went at once")
			}
			old := time.Now().Add(-8 * 24 * time.Hour)
			for _, dir := range w.mirrors() {
				if err := os.Chtimes(dir, old, old); err != nil {
					t.Fatal(err)
				}
			}
			if d.RetireMirrors(); len(w.mirrors()) != 1 || slices.Contains(w.mirrors(), former) {
				t.Errorf("%q are left; %q should not be, and the other should", w.mirrors(), former)
			}
			w.b.Commit(t, "main", nil, "again")
			w.rollout("2", sentry.Succeeded)
			stop()
			if got := w.seen("ran"); got != strings.Repeat("other\n", 4) {
				t.Errorf("ran %q", got)
			}
		})
	}
}
