package daemon_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sentry/internal/git/gittest"
	"sentry/internal/sentry"
)

// TestAClonePassesNoSilence: what is wanted of the server of a QA repository, by us or by git, waits for as long as the
// server said, whoever was told, and the log of the step tells of it.
func TestAClonePassesNoSilence(t *testing.T) {
	for told, path := range map[string]string{"the question for the head": "/qa/git-upload-pack", "another meanwhile": "/b/git-upload-pack"} {
		t.Run(told, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, `echo one >> "$WITNESS/ran"`)
			var mu sync.Mutex
			var until time.Time // guarded by mu
			armed := false      // likewise: the next request for path is told to come later
			early := 0          // likewise: requests for the QA repository that came too early
			hushed, changed := make(chan struct{}), make(chan struct{})
			w.server.Intercept(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
				mu.Lock()
				head := armed && until.IsZero() && r.URL.Path == "/qa/git-upload-pack"
				switch {
				case time.Now().Before(until) && strings.HasPrefix(r.URL.Path, "/qa/"):
					early++
				case armed && until.IsZero() && r.URL.Path == path && (head || w.log.contains("found elsewhere")):
					until = time.Now().Add(4 * time.Second)
					rw.Header().Set("Retry-After", "4")
					rw.WriteHeader(http.StatusTooManyRequests)
					close(hushed)
					mu.Unlock()
					return
				}
				mu.Unlock()
				if head { // it is told when the other one has been answered and heard of, and there is something to clone
					<-changed
				}
				next.ServeHTTP(rw, r)
			})
			_, stop := w.start()
			w.baselines()
			w.wait("the first clone", func() bool { return w.server.Count(gittest.Fetch) > 0 })
			mu.Lock()
			armed = true
			mu.Unlock()
			w.a.Commit(t, "main", nil, "go")
			<-hushed
			w.qa.Commit(t, "main", map[string]string{"run.sh": "echo again"}, "more")
			w.wait("the silence", func() bool { return w.log.contains("left alone for") })
			close(changed)
			r := w.rollout("1", sentry.Succeeded)
			stop()
			mu.Lock()
			defer mu.Unlock()
			if until.IsZero() || early > 0 || !r.FinishedAt.After(until) {
				t.Errorf("silent until %v, %d requests before that, the rollout ended at %v", until, early, r.FinishedAt)
			}
			said := ""
			_ = filepath.WalkDir(filepath.Join(w.stateDir(), "logs"), func(path string, entry os.DirEntry, err error) error {
				if err == nil && !entry.IsDir() {
					data, _ := os.ReadFile(path)
					said += string(data)
				}
				return nil
			})
			if !strings.Contains(said, "; trying again in ") {
				t.Errorf("the logs tell:\n%s", said)
			}
		})
	}
}
