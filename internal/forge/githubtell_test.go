package forge_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/forge"
	"sentry/internal/forge/forgetest"
	"sentry/internal/sentry"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// withApp replaces the token of all repositories by a GitHub App.
func (r *rig) withApp(id, installation int64, file string) {
	for _, one := range r.all {
		one.Auth = forge.Auth{Key: "the App", App: &forge.App{ID: id, Installation: installation, KeyFile: file}}
	}
	r.update()
}

// A server that says for how long no token is to be had from it is not asked before.
func TestAppTokensWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := githubRig(t, forgetest.GitHubOptions{}, 3, "-")
		id, installation, file := lab.App()
		r.withApp(id, installation, file)
		var tried []time.Time
		lab.Fail(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if strings.HasSuffix(req.URL.Path, "/access_tokens") {
				if tried = append(tried, time.Now()); len(tried) == 1 {
					w.Header().Set("Retry-After", "600")
					w.WriteHeader(http.StatusTooManyRequests)
					return
				}
			}
			next.ServeHTTP(w, req)
		})
		for range 20 {
			r.ask(false)
			time.Sleep(time.Minute)
		}
		if len(tried) != 2 || tried[1].Sub(tried[0]) < 10*time.Minute {
			t.Errorf("asked at %v", tried)
		}
	})
}

// The tokens of an App are renewed before they end, by one of those who ask, while the others go on.
func TestAppTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := githubRig(t, forgetest.GitHubOptions{}, 30, "-")
		id, installation, file := lab.App()
		r.withApp(id, installation, file)
		spent := r.requests(func() {
			for range 180 { // three hours
				var wait sync.WaitGroup
				for range 3 {
					wait.Go(func() { r.right(r.ask(false), "GraphQL") })
				}
				wait.Wait()
				time.Sleep(time.Minute)
			}
		})
		if made := lab.AppTokens(id); made < 3 || made > 4 {
			t.Errorf("%d tokens in three hours", made)
		}
		if spent.Refused > 0 {
			t.Errorf("it cost %+v", spent)
		}
		token, err := r.forges.Token(t.Context(), r.all[0])
		if err != nil || !strings.HasPrefix(token.Reveal(), "ghs_") {
			t.Errorf("for the Git side: %v", err)
		}
		// All end before their time: somebody changed the installation.
		lab.RevokeAppTokens(id)
		r.right(r.ask(false), "GraphQL")
		access, err := r.forges.Access(t.Context(), r.all[0])
		if err != nil || !access.CanReport || !slices.Contains(access.Scopes, "statuses: write") || !strings.Contains(access.User, fmt.Sprint(id)) || access.Limit != 5000 {
			t.Errorf("access: %+v, %v", access, err)
		}
	})
}

// What is wrong with an App is said, and it is not tried all the time.
func TestAppTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := githubRig(t, forgetest.GitHubOptions{}, 30, "-")
		id, installation, file := lab.App()
		other, _, otherFile := lab.App()
		key, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		noKey := t.TempDir() + "/none.pem"
		if err := os.WriteFile(noKey, []byte("secret-"+canary), 0o600); err != nil {
			t.Fatal(err)
		}
		cases := map[string]struct {
			id, installation int64
			file             string
			want             string
		}{
			"another key":          {id, installation, otherFile, "do not go together"},
			"another installation": {other, installation, otherFile, "no installation"},
			"no such App":          {77, installation, file, "no installation"},
			"no file":              {id, installation, file + "x", "no such file"},
			"no key":               {id, installation, noKey, "not in PEM form"},
		}
		for name, c := range cases {
			r.withApp(c.id, c.installation, c.file)
			for range 20 {
				for _, a := range r.ask(false)[:3] {
					if a.Err == nil || sentry.AsFault(a.Err).Kind != sentry.Unauthorized || !strings.Contains(a.Err.Error(), c.want) {
						t.Fatalf("%s: %s", name, show(a))
					}
					if strings.Contains(a.Err.Error(), canary) || strings.Contains(a.Err.Error(), string(key[40:80])) {
						t.Errorf("%s: it shows the key: %v", name, a.Err)
					}
				}
				time.Sleep(10 * time.Second)
			}
		}
		r.withApp(id, installation, file)
		lab.Suspend(id, true)
		if a := r.ask(false)[0]; a.Err == nil || !strings.Contains(a.Err.Error(), "suspended") {
			t.Errorf("suspended: %s", show(a))
		}
		before := lab.Requests().API
		for range 60 {
			r.ask(false)
			time.Sleep(10 * time.Second)
		}
		if n := lab.Requests().API - before; n > 10 {
			t.Errorf("%d requests in ten minutes while suspended", n)
		}
		lab.Suspend(id, false)
		time.Sleep(5 * time.Minute)
		r.right(r.ask(false), "GraphQL")
	})
}

// GitHub down while a token is due: the old one is used to its end.
func TestAppOutlivesTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := githubRig(t, forgetest.GitHubOptions{}, 30, "-")
		id, installation, file := lab.App()
		r.withApp(id, installation, file)
		r.right(r.ask(false), "GraphQL")
		time.Sleep(51 * time.Minute)
		lab.Fail(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if strings.Contains(req.URL.Path, "access_tokens") {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			next.ServeHTTP(w, req)
		})
		for range 7 {
			r.right(r.ask(false), "GraphQL")
			time.Sleep(time.Minute)
		}
		lab.Fail(nil)
		time.Sleep(5 * time.Minute)
		r.right(r.ask(false), "GraphQL")
		if made := lab.AppTokens(id); made != 2 {
			t.Errorf("%d tokens", made)
		}
	})
}

// A status arrives as it was meant; again, it replaces itself.
func TestGitHubStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := githubRig(t, forgetest.GitHubOptions{}, 2)
		one := r.all[0]
		commit := lab.Head(one.Name, "main")
		long := strings.Repeat("ü", 200)
		want := map[forge.State]string{forge.Pending: "pending", forge.Success: "success", forge.Failure: "failure", forge.Errored: "error", forge.Canceled: "error"}
		for state, word := range want {
			s := forge.Status{Commit: commit, State: state, Context: "sentry/rag", Description: long, URL: "https://sentry.example/r/1"}
			for range 2 {
				if err := r.forges.SetStatus(t.Context(), one, s); err != nil {
					t.Fatal(err)
				}
			}
			got := lab.Statuses(one.Name, commit)
			if len(got) != 1 || got[0].State != word || got[0].Context != "sentry/rag" || got[0].URL != s.URL || !strings.HasPrefix(long, strings.TrimSuffix(got[0].Description, "…")) {
				t.Errorf("%s: %+v", state, got)
			}
		}
		if err := r.forges.SetStatus(t.Context(), one, forge.Status{Commit: commit, State: forge.Success, Context: "x", URL: "javascript:alert(1)"}); err != nil {
			t.Errorf("an address that is none: %v", err)
		}
		lab.Rename(one.Name, "acme/elsewhere")
		if err := r.forges.SetStatus(t.Context(), one, forge.Status{Commit: commit, State: forge.Success, Context: "y"}); err != nil {
			t.Errorf("a repository that moved: %v", err)
		}
		if got := lab.Statuses("acme/elsewhere", commit); len(got) != 3 {
			t.Errorf("a repository that moved has %+v", got)
		}
	})
}

// What is missing for a status is said.
func TestGitHubStatusRefused(t *testing.T) {
	cases := map[string]struct {
		rights []string
		kind   sentry.FaultKind
		want   string
	}{
		"a scope":       {[]string{"public_repo"}, sentry.NotFound, "no repository"}, // the repository is private
		"a permission":  {[]string{"contents=read"}, sentry.Unauthorized, "Commit statuses: write"},
		"nothing shown": {[]string{"-"}, sentry.Unauthorized, "without a token"},
		"no commit":     {nil, sentry.NotFound, "has no commit"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, lab := githubRig(t, forgetest.GitHubOptions{}, 2, c.rights...)
				one := r.all[1]
				commit := lab.Head(one.Name, "main")
				if name == "no commit" {
					commit = strings.Repeat("ab", 20)
				}
				err := r.forges.SetStatus(t.Context(), one, forge.Status{Commit: commit, State: forge.Success, Context: "x"})
				if err == nil || sentry.AsFault(err).Kind != c.kind || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v", err)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		r, lab := githubRig(t, forgetest.GitHubOptions{}, 2, "read:user")
		one := r.all[0]
		err := r.forges.SetStatus(t.Context(), one, forge.Status{Commit: lab.Head(one.Name, "main"), State: forge.Success, Context: "x"})
		if err == nil || sentry.AsFault(err).Kind != sentry.Unauthorized || !strings.Contains(err.Error(), "this one has read:user") {
			t.Errorf("a public repository: %v", err)
		}
	})
}

// Statuses come through where the others have used up the budget, and one after the other.
func TestGitHubStatusesHaveAReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := githubRig(t, forgetest.GitHubOptions{PerHour: 100}, 2)
		one := r.all[0]
		lab.Spend(r.token.Reveal(), "core", 8)
		if _, err := r.forges.Access(t.Context(), one); err != nil { // learns it
			t.Fatal(err)
		}
		commit := lab.Head(one.Name, "main")
		start := time.Now()
		for i := range 3 {
			if err := r.forges.SetStatus(t.Context(), one, forge.Status{Commit: commit, State: forge.Success, Context: fmt.Sprint(i)}); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took < 2*time.Second {
			t.Errorf("three statuses within %v: GitHub wants a second between them", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := r.forges.Access(ctx, one); err == nil || sentry.AsFault(err).Kind != sentry.RateLimited {
			t.Errorf("what was kept for statuses was given away: %v", err)
		}
		if lab.Requests().Refused > 0 {
			t.Error("GitHub had to refuse something")
		}
	})
}

// What is wrong with a repository is found out, once for a while.
func TestGitHubDiagnose(t *testing.T) {
	answer := sentry.Faultf(sentry.NotFound, "there is none")
	cases := []struct {
		name   string
		rights []string
		do     func(lab *forgetest.GitHub)
		want   string
	}{
		{"moved", nil, func(lab *forgetest.GitHub) { lab.Rename("acme/r0001", "acme/new") }, "has moved to acme/new"},
		{"removed", nil, func(lab *forgetest.GitHub) { lab.Remove("acme/r0001") }, "there is no repository acme/r0001"},
		{"private", []string{"public_repo"}, func(*forgetest.GitHub) {}, "need the scope repo"},
		{"anonymous", []string{"-"}, func(*forgetest.GitHub) {}, "a token is needed"},
		{"nothing wrong", nil, func(*forgetest.GitHub) {}, "there is none"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, lab := githubRig(t, forgetest.GitHubOptions{}, 2, c.rights...)
				c.do(lab)
				spent := r.requests(func() {
					for range 5 {
						if err := r.forges.Diagnose(t.Context(), r.all[1], answer); !strings.Contains(err.Error(), c.want) {
							t.Errorf("%v", err)
						}
					}
				})
				if spent.API > 2 {
					t.Errorf("it cost %+v", spent)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		r, lab := githubRig(t, forgetest.GitHubOptions{}, 2)
		lab.Revoke(r.token.Reveal())
		if err := r.forges.Diagnose(t.Context(), r.all[1], sentry.Faultf(sentry.Unauthorized, "no")); !strings.Contains(err.Error(), "wrong, expired or revoked") {
			t.Errorf("revoked: %v", err)
		}
	})
}

// The rights, the end and the budget of a token are told; that it ends soon is a problem, logged, and a metric.
func TestGitHubAccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := forgetest.NewGitHub(t, forgetest.GitHubOptions{})
		var log strings.Builder
		register := prometheus.NewRegistry()
		network := forge.NewNetwork(forge.NetworkOptions{DialContext: lab.Dial(), Register: register})
		t.Cleanup(network.Close)
		r := &rig{t: t, lab: lab, forges: forge.New(forge.Options{Network: network, Log: slog.New(slog.NewTextHandler(&log, nil)), Register: register})}
		ends := time.Now().Add(5 * 24 * time.Hour)
		r.token = sentry.NewSecret(lab.TokenOf("octo", ends, "repo:status", "public_repo"))
		one := r.add("acme/app", false)
		lab.Push("acme/app", "main")
		r.update()
		access, err := r.forges.Access(t.Context(), one)
		if err != nil || access.User != "octo" || !slices.Equal(access.Scopes, []string{"repo:status", "public_repo"}) || !access.Expires.Equal(ends.Truncate(time.Second)) ||
			!access.CanReport || access.Limit != 5000 || access.Remaining < 4990 || access.Reset.IsZero() {
			t.Errorf("%+v, %v", access, err)
		}
		if len(access.Problems) != 1 || !strings.Contains(access.Problems[0], "ends on") {
			t.Errorf("problems: %q", access.Problems)
		}
		if n := strings.Count(log.String(), "ends soon"); n != 1 {
			t.Errorf("the log says it %d times: %s", n, log.String())
		}
		if err := testutil.GatherAndCompare(register, strings.NewReader(fmt.Sprintf(`
# HELP sentry_forge_budget_remaining Requests that are left of it.
# TYPE sentry_forge_budget_remaining gauge
sentry_forge_budget_remaining{host="github.test",resource="core"} 4998
# HELP sentry_forge_credential_expires_timestamp_seconds When a credential ends, where the forge tells.
# TYPE sentry_forge_credential_expires_timestamp_seconds gauge
sentry_forge_credential_expires_timestamp_seconds{host="github.test"} %d
`, ends.Unix())), "sentry_forge_budget_remaining", "sentry_forge_credential_expires_timestamp_seconds"); err != nil {
			t.Error(err)
		}
		states := r.forges.Budgets()
		if len(states) != 1 || states[0].Host != "github.test" || states[0].Key != "the token file" || states[0].Limit != 5000 || states[0].Used != 2 || states[0].Reserve != 250 {
			t.Errorf("budgets: %+v", states)
		}
		lab.Revoke(r.token.Reveal())
		if _, err := r.forges.Access(t.Context(), one); err == nil || sentry.AsFault(err).Kind != sentry.Unauthorized {
			t.Errorf("revoked: %v", err)
		}
	})
}

// Where Git is refused, as behind some proxies, branches are asked for over REST, and what has not moved costs nothing.
func TestGitHubREST(t *testing.T) {
	for _, stable := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			lab := forgetest.NewGitHub(t, forgetest.GitHubOptions{StableETag: stable})
			lab.Fail(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if !strings.HasPrefix(req.URL.Path, "/api/") {
					http.Error(w, "blocked by policy", http.StatusForbidden)
					return
				}
				next.ServeHTTP(w, req)
			})
			r := newRig(t, lab)
			one := r.add("acme/app", true, "main", "none", "release/*")
			empty := r.add("acme/empty", true, "main", "*")
			lab.Push("acme/app", "main")
			for i := range 150 {
				lab.Push("acme/app", fmt.Sprintf("release/%d", i))
			}
			lab.Push("acme/app", "release-1")
			r.update()
			check := func() {
				t.Helper()
				a := r.ask(false, one)[0]
				if a.Err != nil || a.Way != "REST" || len(a.Heads) != 151 || a.Heads["main"] != lab.Head("acme/app", "main") || a.Heads["release/149"] != lab.Head("acme/app", "release/149") {
					t.Fatal(show(a))
				}
			}
			check()
			lab.Push("acme/app", "main")
			check()
			for i := range 120 {
				lab.Delete("acme/app", fmt.Sprintf("release/%d", i))
			}
			if a := r.ask(false, one)[0]; len(a.Heads) != 31 {
				t.Fatal(show(a))
			}
			spent := r.requests(func() {
				for range 10 {
					if a := r.ask(false, one)[0]; len(a.Heads) != 31 || a.Way != "REST" {
						t.Fatal(show(a))
					}
				}
			})
			if spent.Git > 0 || spent.API != 30 || spent.Charged != 10 { // only the branch that is not there
				t.Errorf("ten times the same cost %+v", spent)
			}
			if a := r.ask(false, empty)[0]; a.Err != nil || len(a.Heads) != 0 {
				t.Error(show(a))
			}
		})
	}
}

// A failure that passes is tried again, one that stays is not hammered: the API is left alone, and all goes over Git.
func TestGitHubOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := githubRig(t, forgetest.GitHubOptions{}, 50)
		r.right(r.ask(false), "GraphQL")
		lab.Fail(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if strings.HasPrefix(req.URL.Path, "/api/") {
				http.Error(w, "<html>Unicorn!</html>", http.StatusInternalServerError)
				return
			}
			next.ServeHTTP(w, req)
		})
		spent := r.requests(func() {
			for range 60 {
				r.right(r.ask(false), "ls-refs")
				time.Sleep(10 * time.Second)
			}
		})
		if spent.API > 30 {
			t.Errorf("ten minutes of outage cost %+v", spent)
		}
		lab.Fail(nil)
		time.Sleep(time.Minute)
		r.right(r.ask(false), "GraphQL")
	})
}

// Answers that make no sense are errors, whatever they are, and move nothing.
func TestGitHubNonsense(t *testing.T) {
	good := func() (string, map[string]string) {
		commit := strings.Repeat("a1", 20)
		return `{"data":{"rateLimit":{"cost":1},"r0":{"nameWithOwner":"acme/r0000","b0":{"target":{"oid":"` + commit + `"}},"b1":null},` +
			`"r1":{"nameWithOwner":"acme/r0001","b0":{"target":{"oid":"` + commit + `"}},"b1":{"target":{"oid":"` + commit + `"}}},"r2":null,"r3":{"b0":null,"b1":null}}}`, map[string]string{"main": commit}
	}
	whole, want := good()
	bodies := []string{
		"", "null", "[]", "{}", "0", `""`, "<html>", `{"data":null}`, `{"data":[]}`, `{"data":{}}`, `{"data":{"r0":[]}}`, `{"data":{"r0":{"b0":{"target":{"oid":5}}}}}`,
		`{"data":{"r0":{"b0":{"target":{"oid":"xyz"}},"b1":null}}}`, `{"data":{"r0":{"b0":{"target":null},"b1":null}}}`, `{"errors":[]}`, `{"errors":[{"path":["r0"]}]}`,
		`{"data":{"r0":{"b0":null,"b1":null}},"errors":[{"type":"INTERNAL","path":["r0","b0"],"message":"x"}]}`, `{"errors":{"a":1}}`, strings.Repeat("[", 100_000),
		`{"data":{"r0":{"nameWithOwner":7,"b0":null}}}`,
	}
	for n := range len(whole) {
		bodies = append(bodies, whole[:n])
	}
	synctest.Test(t, func(t *testing.T) {
		lab := forgetest.NewGitHub(t, forgetest.GitHubOptions{})
		body := ""
		lab.Fail(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, body)
		})
		for _, body = range bodies {
			network := forge.NewNetwork(forge.NetworkOptions{DialContext: lab.Dial()})
			r := &rig{t: t, lab: lab, token: sentry.NewSecret(canary), forges: forge.New(forge.Options{
				Network: network, LsRefs: func(context.Context, *forge.Repository) (map[string]string, error) {
					return map[string]string{"git": "x"}, nil
				},
			})}
			for i := range 4 {
				r.configure("app", fmt.Sprintf("http://github.test/acme/r%04d", i), "main", "dev")
			}
			r.update()
			for i, a := range r.ask(false) {
				if a.Err == nil && a.Way != "ls-refs" {
					t.Fatalf("%d: %.80q is believed: %s", i, body, show(a))
				}
			}
			network.Close()
		}
		body = whole
		network := forge.NewNetwork(forge.NetworkOptions{DialContext: lab.Dial()})
		defer network.Close()
		r := &rig{t: t, lab: lab, token: sentry.NewSecret(canary), forges: forge.New(forge.Options{Network: network})}
		for i := range 4 {
			r.configure("app", fmt.Sprintf("http://github.test/acme/r%04d", i), "main", "dev")
		}
		r.update()
		answers := r.ask(false)
		if answers[0].Heads["main"] != want["main"] || len(answers[0].Heads) != 1 || len(answers[1].Heads) != 2 || answers[2].Err == nil || len(answers[3].Heads) != 0 || answers[3].Err != nil {
			t.Errorf("the whole answer is not: %v", answers)
		}
	})
}

// Many credentials at one host have lanes and budgets of their own; equal ones share.
func TestLanes(t *testing.T) {
	lab := forgetest.NewGitHub(t, forgetest.GitHubOptions{Loopback: true})
	r := newRig(t, lab)
	for i := range 30 {
		one := r.add(fmt.Sprintf("acme/r%d", i), false)
		one.Auth.Key = fmt.Sprintf("token %d", i%3)
		if i >= 24 {
			one.Kind = forge.Git
		}
	}
	r.all[23].Auth.Key = "alone"
	r.update()
	lanes := map[string]int{}
	for _, one := range r.all {
		lane := r.forges.Lane(one)
		lanes[fmt.Sprintf("%s %d", strings.Replace(lane.Key, lab.URL(), "URL", 1), lane.Batch)]++
	}
	want := map[string]int{"URL github token 0 100": 8, "URL github token 1 100": 8, "URL github token 2 100": 7, "URL 1": 7}
	if fmt.Sprint(lanes) != fmt.Sprint(want) {
		t.Errorf("%v", lanes)
	}
	r.all = r.all[:1]
	r.update()
	if lane := r.forges.Lane(r.all[0]); lane.Key != lab.URL() || lane.Batch != 1 {
		t.Errorf("%+v", lane)
	}
}

// What only reads is asked again where the failure may pass, a few times; what writes is left to who wants it written.
func TestPassingFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := githubRig(t, forgetest.GitHubOptions{}, 2)
		one, failures := r.all[0], 0
		lab.Fail(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if failures--; failures >= 0 {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			next.ServeHTTP(w, req)
		})
		failures = 2
		start := time.Now()
		if _, err := r.forges.Access(t.Context(), one); err != nil {
			t.Errorf("after two failures: %v", err)
		}
		if took := time.Since(start); took == 0 || took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
		failures = 3
		if _, err := r.forges.Access(t.Context(), one); err == nil || sentry.AsFault(err).Kind != sentry.Transient {
			t.Errorf("after three failures: %v", err)
		}
		failures = 1
		err := r.forges.SetStatus(t.Context(), one, forge.Status{Commit: lab.Head(one.Name, "main"), State: forge.Success, Context: "x"})
		if err == nil || sentry.AsFault(err).Kind != sentry.Transient || lab.StatusRows() != 0 {
			t.Errorf("a status: %v", err)
		}
	})
}
