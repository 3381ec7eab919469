package forge_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"sentry/internal/forge"
	"sentry/internal/forge/forgetest"
	"sentry/internal/git/gitwire"
	"sentry/internal/sentry"
)

// ending is a forge with few repositories, and who watches when their token ends.
type ending struct {
	*rig
	register *prometheus.Registry
	mu       sync.Mutex
	log      strings.Builder
	asked    []time.Time // when the API was asked
}

func (e *ending) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.log.Write(p)
}

// warned gives how often the log warned of an end.
func (e *ending) warned() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Count(e.log.String(), "ends soon")
}

// questions gives how often the API was asked since the last call.
func (e *ending) questions() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := len(e.asked)
	e.asked = nil
	return n
}

// gauge compares the metric with a moment; zero for none.
func (e *ending) gauge(at time.Time) {
	e.t.Helper()
	const name = "sentry_forge_credential_expires_timestamp_seconds"
	want := ""
	if !at.IsZero() {
		want = fmt.Sprintf("# HELP %s When a credential ends, where the forge tells.\n# TYPE %s gauge\n%s{host=%q} %d\n", name, name, name, e.lab.Kind()+".test", at.Unix())
	}
	if err := testutil.GatherAndCompare(e.register, strings.NewReader(want), name); err != nil {
		e.t.Error(err)
	}
}

// newEnding makes one for a Lab with repositories that are asked over Git, as there are two, with a token.
func newEnding(t *testing.T, lab forgetest.Lab, token string) *ending {
	e := &ending{rig: &rig{t: t, lab: lab, every: time.Minute}, register: prometheus.NewRegistry()}
	e.token = sentry.NewSecret(token)
	e.pass()
	network := forge.NewNetwork(forge.NetworkOptions{DialContext: lab.Dial()})
	t.Cleanup(network.Close)
	transport := &http.Transport{DialContext: lab.Dial()}
	t.Cleanup(transport.CloseIdleConnections)
	wire := gitwire.New(gitwire.Options{Transport: transport})
	e.forges = forge.New(forge.Options{Network: network, Log: slog.New(slog.NewTextHandler(e, nil)), Register: e.register, LsRefs: func(ctx context.Context, one *forge.Repository) (map[string]string, error) {
		return e.lsRefs(ctx, wire, one)
	}})
	for _, name := range []string{"acme/one", "acme/two"} {
		e.add(name, true)
		lab.Push(name, "main")
	}
	e.update()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); e.forges.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; e.forges.Update(nil); time.Sleep(time.Minute) })
	return e
}

// pass lets the forge answer, and counts what its API is asked.
func (e *ending) pass(faults ...forgetest.Fault) {
	e.lab.Fail(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !strings.Contains(r.URL.Path, ".git/") {
			e.mu.Lock()
			e.asked = append(e.asked, time.Now())
			e.mu.Unlock()
			for _, fault := range faults {
				fault(w, r, next)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// watch asks all repositories once a minute for so long, and fails where one does not answer, except with what is excused.
func (e *ending) watch(d time.Duration, excused ...sentry.FaultKind) {
	e.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Minute) {
		for _, a := range e.ask(false) {
			if a.Way != "ls-refs" || a.Err != nil && !slices.Contains(excused, sentry.AsFault(a.Err).Kind) {
				e.t.Fatal(show(a))
			}
		}
	}
	synctest.Wait()
}

// endings are the forges that tell when a token ends.
var endings = map[string]func(t *testing.T) (lab forgetest.Lab, until func(time.Time) string){
	"GitHub": func(t *testing.T) (forgetest.Lab, func(time.Time) string) {
		lab := forgetest.NewGitHub(t, forgetest.GitHubOptions{})
		return lab, func(at time.Time) string { return lab.TokenOf("octo", at) }
	},
	"GitHub Enterprise": func(t *testing.T) (forgetest.Lab, func(time.Time) string) {
		lab := forgetest.NewGitHub(t, forgetest.GitHubOptions{NoLimits: true})
		return lab, func(at time.Time) string { return lab.TokenOf("octo", at) }
	},
	"GitLab": func(t *testing.T) (forgetest.Lab, func(time.Time) string) {
		lab := forgetest.NewGitLab(t, forgetest.GitLabOptions{})
		return lab, func(at time.Time) string { return lab.TokenUntil(at) }
	},
}

// Where all is asked over Git, the end of a token is known all the same, for a request a day: it is warned of, in time and
// once a day, and a metric.
func TestEndingIsKnown(t *testing.T) {
	for name, start := range endings {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lab, until := start(t)
				ends := time.Now().Truncate(24 * time.Hour).Add(20 * 24 * time.Hour)
				e := newEnding(t, lab, until(ends))
				each := 1
				if name == "GitHub Enterprise" { // which has no limits to tell of
					each = 2
				}
				e.gauge(time.Time{})
				e.watch(6 * time.Minute)
				e.gauge(ends)
				if n := e.questions(); n != each || e.warned() != 0 {
					t.Errorf("the API was asked %d times, and it was warned %d times", n, e.warned())
				}
				e.watch(8 * 24 * time.Hour)
				if n, warned := e.questions(), e.warned(); n != 8*each || warned < 2 || warned > 3 {
					t.Errorf("in eight days the API was asked %d times, and it was warned %d times", n, warned)
				}
				for _, b := range e.forges.Budgets() {
					if !b.EndsAt.Equal(ends) {
						t.Errorf("the budget is %+v", b)
					}
				}
				// It is rotated: the new one is looked at soon, and what was known is forgotten.
				before := e.warned()
				e.setToken(until(time.Time{}))
				e.watch(11 * time.Minute)
				e.gauge(time.Time{})
				e.watch(3 * 24 * time.Hour)
				if n, warned := e.questions(), e.warned(); n != 4*each || warned != before {
					t.Errorf("the API was asked %d times, and it was warned %d times", n, warned-before)
				}
			})
		})
	}
}

// What the API has against it costs nothing but the knowledge: Git is asked as before, and the API no more than once an
// hour, and not while it wants to be left alone.
func TestEndingIsNotTold(t *testing.T) {
	for name, start := range endings {
		for fault, c := range map[string]struct {
			answer      forgetest.Fault
			least, most int // questions of five hours, where each takes one
		}{
			"500":                       {says(500, "text/plain", "no"), 4, 6},
			"a token that it refuses":   {says(401, "application/json", `{"message":"Bad credentials"}`), 1, 1},
			"a right that is missing":   {says(403, "application/json", `{"message":"Forbidden"}`), 1, 1},
			"nothing of this kind":      {says(404, "application/json", `{"message":"Not Found"}`), 1, 1},
			"something else than JSON":  {says(200, "text/html", "<html>Please sign in</html>"), 1, 1},
			"that it is one too many":   {refused(429, "Retry later", 50*time.Minute), 4, 6},
			"that the budget is empty":  {emptied(1800), 4, 6},
			"that it is too much, only": {says(429, "text/plain", "Too many requests"), 3, 6},
		} {
			t.Run(name+"/"+fault, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					lab, until := start(t)
					e := newEnding(t, lab, until(time.Time{}))
					e.pass(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
						c.answer(w, r.WithContext(context.WithValue(r.Context(), labKey{}, lab)), next)
					})
					if lab.Kind() == "gitlab" { // where the whole server means what its API says
						e.watch(5*time.Hour, sentry.RateLimited)
					} else {
						e.watch(5 * time.Hour)
					}
					most := c.most
					if strings.HasPrefix(fault, "nothing") && strings.HasPrefix(name, "GitHub") {
						most *= 2
					}
					if n := e.questions(); n < c.least || n > most {
						t.Errorf("the API was asked %d times", n)
					}
					if c := lab.Requests(); c.Forbidden > 0 {
						t.Errorf("%d requests came although it had said to stay away", c.Forbidden)
					}
				})
			})
		}
	}
}

// Nobody is asked who told anyway, or has nothing to tell.
func TestEndingIsNotAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := forgetest.NewGitHub(t, forgetest.GitHubOptions{})
		e := newEnding(t, lab, lab.TokenOf("octo", time.Time{}))
		paths := map[string]int{}
		e.pass(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			paths[r.URL.Path]++ // one at a time, in this test
			next.ServeHTTP(w, r)
		})
		for i := range 4 { // with these they are enough for GraphQL
			lab.Push(e.add(fmt.Sprint("acme/more", i), false).Name, "main")
		}
		e.update()
		for range 48 {
			e.ask(false)
			time.Sleep(time.Hour)
		}
		if paths["/api/graphql"] < 48 || paths["/api/v3/rate_limit"] > 1 {
			t.Errorf("asked: %v", paths)
		}
	})
	for _, lab := range []func(t *testing.T) forgetest.Lab{
		func(t *testing.T) forgetest.Lab {
			return forgetest.NewEmulatedGitea(t, forgetest.EmulatedGiteaOptions{})
		},
		func(t *testing.T) forgetest.Lab { return forgetest.NewGitLab(t, forgetest.GitLabOptions{}) },
	} {
		synctest.Test(t, func(t *testing.T) {
			lab := lab(t)
			token := lab.Token()
			if lab.Kind() == "gitlab" {
				token = "" // and without one there is nothing that ends
			}
			e := newEnding(t, lab, token)
			time.Sleep(48 * time.Hour)
			if n := e.questions(); n != 0 {
				t.Errorf("a %s was asked %d times", lab.Kind(), n)
			}
		})
	}
}
