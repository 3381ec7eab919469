package forge_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/forge/forgetest"
	"sentry/internal/sentry"
)

// An API that is out of order for good does not keep Sentry from what Git tells: what is pushed is known, if later than
// usual at first.
func TestAPIOutOfOrder(t *testing.T) {
	for _, kind := range []string{"GitHub", "GitLab", "Gitea"} {
		for name, fault := range map[string]forgetest.Fault{
			"no answers": func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
				_, _ = io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
			},
			"500":         says(500, "text/html", "<html>Oops</html>"),
			"nonsense":    says(200, "application/json", `{"data":[]}`),
			"no data":     says(200, "application/json", `{"data":null,"errors":[{"message":"Timeout on Query.projects"}]}`),
			"not allowed": says(403, "application/json", `{"message":"not for you"}`),
			"not there":   says(404, "text/html", "<html>Not found</html>"),
			"slow": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				body, _ := io.ReadAll(r.Body)
				r.Body = io.NopCloser(bytes.NewReader(body))
				select {
				case <-time.After(25 * time.Second):
					next.ServeHTTP(w, r)
				case <-r.Context().Done():
				}
			},
		} {
			t.Run(kind+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, kind, 1)
					w.watch()
					time.Sleep(5 * time.Minute)
					w.lab.Fail(func(out http.ResponseWriter, r *http.Request, next http.Handler) {
						if !strings.Contains(r.URL.Path, ".git/") {
							fault(out, r, next)
							return
						}
						w.replicas(out, r, next)
					})
					time.Sleep(10 * time.Minute)
					for range 5 {
						w.push(true)
						time.Sleep(2*faultInterval + 5*time.Second)
						w.converged(func(sentry.Watch) bool { return true })
					}
					w.truthful()
				})
			})
		}
	}
}

// newWorld makes a world of a seed.
func newWorld(t *testing.T, kind string, seed uint64) *world {
	return &world{
		rig: newRig(t, emulated(t, kind)), t: t, random: rand.New(&source{PCG: rand.NewPCG(seed, 7)}), book: newBook(),
		made: map[sentry.Watch][]string{}, calm: map[sentry.Watch]bool{},
	}
}
