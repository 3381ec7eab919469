package forge_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/forge"
	"sentry/internal/forge/forgetest"
	"sentry/internal/sentry"
)

// plain makes repositories of a plain Git server with one token, and what answers for them.
func plain(t *testing.T, n int, answer func(r *forge.Repository) (map[string]string, error)) (*forge.Forges, []*forge.Repository, *int) {
	t.Helper()
	asked := 0
	var mu sync.Mutex
	f := forge.New(forge.Options{LsRefs: func(_ context.Context, r *forge.Repository) (map[string]string, error) {
		mu.Lock()
		asked++
		mu.Unlock()
		return answer(r)
	}})
	var all []*forge.Repository
	for i := range n {
		r := repository(t, fmt.Sprintf("https://git.example/r%d", i), forge.Git)
		all = append(all, r)
	}
	f.Update(all)
	return f, all, &asked
}

// refusal is what a Git server answers with.
type refusal struct{ status int }

func (r refusal) Error() string   { return fmt.Sprintf("HTTP status %d", r.status) }
func (r refusal) HTTPStatus() int { return r.status }

// A token that nobody accepts is shown once a minute; one that some do not accept is shown to all.
func TestRefusedOverGit(t *testing.T) {
	run := func(t *testing.T, answer func(r *forge.Repository) (map[string]string, error), cycles int) (asked, refused int) {
		f, all, n := plain(t, 20, answer)
		for range cycles {
			for _, r := range all {
				if a := f.Heads(t.Context(), []forge.Ask{{Repository: r}})[0]; a.Err != nil {
					refused++
				}
			}
			time.Sleep(10 * time.Second)
		}
		return *n, refused
	}
	synctest.Test(t, func(t *testing.T) {
		good := false
		answer := func(*forge.Repository) (map[string]string, error) {
			if good {
				return nil, nil
			}
			return nil, &sentry.Fault{Kind: sentry.Unauthorized, Err: refusal{http.StatusUnauthorized}}
		}
		if asked, _ := run(t, answer, 60); asked > 13 {
			t.Errorf("in ten minutes it was shown %d times", asked)
		}
		good = true
		if _, refused := run(t, answer, 2); refused > 0 {
			t.Errorf("%d are still not asked", refused)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		asked, refused := run(t, func(r *forge.Repository) (map[string]string, error) {
			if r.Remote.Path() < "/r15" {
				return nil, &sentry.Fault{Kind: sentry.Unauthorized, Err: refusal{http.StatusForbidden}}
			}
			return nil, nil
		}, 10)
		if asked != 200 || refused != 70 {
			t.Errorf("%d were asked, %d refused", asked, refused)
		}
	})
}

// That there is another token in the place of one that was refused is known within a second, of every repository that it
// is for; and the old one is not looked after for longer than it is configured.
func TestTokenIsRenewed(t *testing.T) {
	for _, kind := range []string{"GitHub", "GitLab", "Gitea"} {
		for _, n := range []int{1, 10} {
			t.Run(fmt.Sprint(kind, " ", n), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, emulated(t, kind))
					for i := range n {
						name := fmt.Sprintf("team/r%d", i)
						r.add(name, true)
						r.lab.Push(name, "main")
					}
					r.update()
					r.told(r.ask(true))
					r.lab.Revoke(r.token.Reveal())
					refused := false
					for range 3 {
						for _, a := range r.ask(true) {
							if a.Err != nil {
								refused = true
							}
						}
						time.Sleep(20 * time.Second)
					}
					if !refused || !r.forges.Refused(r.all[0]) || len(r.renewed) > 0 {
						t.Fatalf("refused is %v, and %v have another token", refused, r.renewed)
					}
					began := time.Now()
					r.setToken(r.lab.Token())
					time.Sleep(1500 * time.Millisecond)
					r.mu.Lock()
					known := maps.Clone(r.renewed)
					r.mu.Unlock()
					for _, one := range r.all {
						if at, ok := known[one.Name]; !ok || at.Sub(began) > time.Second {
							t.Errorf("another token for %s is known at %v", one.Name, at)
						}
					}
					r.told(r.ask(true))
					if r.forges.Refused(r.all[0]) {
						t.Error("it is refused still")
					}

					r.lab.Revoke(r.token.Reveal())
					r.ask(true)
					r.all = nil
					r.update()
					time.Sleep(5 * time.Second)
					r.mu.Lock()
					reads := r.reads
					r.mu.Unlock()
					time.Sleep(time.Minute)
					r.mu.Lock()
					defer r.mu.Unlock()
					if r.reads != reads {
						t.Errorf("a token that nobody uses was read %d times in a minute", r.reads-reads)
					}
				})
			})
		}
	}
}

// A question about many, of which the server has gone, ends soon: the first failures tell about the rest.
func TestEachGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, all, asked := plain(t, 100, func(*forge.Repository) (map[string]string, error) {
			time.Sleep(time.Second)
			return nil, sentry.Faultf(sentry.Transient, "nobody there")
		})
		asks := make([]forge.Ask, len(all))
		for i, r := range all {
			asks[i].Repository = r
		}
		for i, a := range f.Heads(t.Context(), asks) {
			if a.Err == nil || sentry.AsFault(a.Err).Kind != sentry.Transient {
				t.Fatalf("%d: %s", i, show(a))
			}
		}
		if *asked > 20 {
			t.Errorf("%d were asked", *asked)
		}
	})
}

// The address of the API follows from that of the repository.
func TestWhereTheAPIIs(t *testing.T) {
	cases := []struct {
		remote, api string
		kind        forge.Kind
		asked       string
	}{
		{"https://github.com/o/r.git", "", forge.GitHub, "https://api.github.com/repos/o/r"},
		{"git@github.com:o/r.git", "", forge.GitHub, "https://api.github.com/repos/o/r"},
		{"ssh://git@ssh.github.com:443/o/r.git", "", forge.GitHub, "https://api.github.com/repos/o/r"},
		{"https://acme.ghe.com/o/r", "", forge.GitHub, "https://api.acme.ghe.com/repos/o/r"},
		{"https://git.example/o/r", "", forge.GitHub, "https://git.example/api/v3/repos/o/r"},
		{"https://git.example:8443/o/r", "", forge.GitHub, "https://git.example:8443/api/v3/repos/o/r"},
		{"https://git.example/o/r", "https://api.git.example/v3/", forge.GitHub, "https://api.git.example/v3/repos/o/r"},
		{"http://localhost:3000/o/r", "", forge.Gitea, "http://localhost:3000/api/v1/repos/o/r"},
		{"https://gitlab.com/o/p/r", "", forge.GitLab, "https://gitlab.com/api/v4/projects/o%2Fp%2Fr"},
		{"ssh://git@git.example:2222/o/r", "", forge.GitLab, "https://git.example/api/v4/projects/o%2Fr"},
	}
	for _, c := range cases {
		var asked []string
		r := repository(t, c.remote, c.kind)
		r.API = c.api
		r.Auth = forge.Auth{}
		f := forge.New(forge.Options{Network: recording(&asked)})
		f.Update([]*forge.Repository{r})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, _ = f.Access(ctx, r)
		cancel()
		if len(asked) == 0 || !strings.HasPrefix(c.asked, asked[0]) {
			t.Errorf("%s is asked at %q, not %s", c.remote, asked, c.asked)
		}
	}
}

// What it costs is estimated by credential, and warned of before it is too much.
func TestCost(t *testing.T) {
	var all []*forge.Repository
	add := func(n int, address, key string, kind forge.Kind, interval time.Duration) {
		for i := range n {
			r := repository(t, fmt.Sprintf("%s/o/r%d", address, i), kind)
			r.Auth.Key, r.Interval = key, interval
			r.Auth.Token = func() (sentry.Secret, error) { return sentry.NewSecret("token " + key), nil }
			if key == "" {
				r.Auth = forge.Auth{}
			}
			all = append(all, r)
		}
	}
	add(1000, "https://github.com", "a", forge.GitHub, time.Minute)
	add(1000, "https://github.com", "b", forge.GitHub, 5*time.Second)
	add(50, "https://github.com", "", forge.GitHub, time.Minute)
	add(3, "https://git.example", "c", forge.GitHub, time.Minute)
	add(10, "https://other.example", "d", forge.Git, 30*time.Second)
	add(10, "https://other.example", "e", forge.Git, 30*time.Second)
	add(100, "https://gitea.example", "f", forge.Gitea, time.Minute)
	add(10, "https://gitlab.com", "g", forge.GitLab, time.Minute)
	pattern, err := sentry.ParsePattern("release/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range all[len(all)-6:] {
		one.Patterns = []sentry.Pattern{pattern}
	}
	costs := forge.Cost(all)
	want := []string{
		"github.com a GraphQL 1000 600 of 5000 false", "github.com b GraphQL 1000 7200 of 5000 true", "github.com  ls-refs 50 3000 of 0 false",
		"git.example c ls-refs 3 180 of 0 false", "other.example  ls-refs 20 2400 of 0 false", "gitea.example f search 100 460 of 0 false",
		"gitlab.com g GraphQL 10 420 of 120000 false",
	}
	if len(costs) != len(want) {
		t.Fatalf("%d: %+v", len(costs), costs)
	}
	for i, c := range costs {
		if got := fmt.Sprintf("%s %s %s %d %d of %d %v", c.Host, c.Key, c.Way, c.Repositories, c.RequestsPerHour, c.Limit, c.Problem != ""); got != want[i] {
			t.Errorf("%s, not %s", got, want[i])
		}
	}
}

// What a forge says is repeated on one line, short, and without the token.
func TestWhatIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := githubRig(t, forgetest.GitHubOptions{}, 5)
		token := r.token.Reveal()
		for _, status := range []int{400, 401, 403, 404, 422, 429, 500, 503} {
			lab.Fail(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				w.WriteHeader(status)
				fmt.Fprintf(w, `{"message":"\u001b]0;pwn\u0007you sent %s\nand\u202e more%s"}`, token, strings.Repeat("x", 5000))
			})
			_, err := r.forges.Access(t.Context(), r.all[0])
			err2 := r.forges.SetStatus(t.Context(), r.all[0], forge.Status{Commit: strings.Repeat("a", 40), State: forge.Success, Context: "x"})
			err3 := r.forges.Diagnose(t.Context(), r.all[1], sentry.Faultf(sentry.NotFound, "x"))
			for _, err := range []error{err, err2, err3} {
				if err == nil || strings.Contains(err.Error(), token) || strings.ContainsAny(err.Error(), "\x1b\x07\n\u202e") || len(err.Error()) > 1000 {
					t.Errorf("%d: %q", status, err)
				}
			}
			time.Sleep(10 * time.Hour)
		}
	})
}

// An answer that nothing has changed, to who knows nothing yet, is no answer: neither is the branch missing, nor has it
// the commit "".
func TestUnchangedWithoutBefore(t *testing.T) {
	for _, kind := range []string{"GitHub", "GitLab", "Gitea"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, emulated(t, kind))
				network := forge.NewNetwork(forge.NetworkOptions{DialContext: r.lab.Dial()})
				t.Cleanup(network.Close)
				r.forges = forge.New(forge.Options{Network: network}) // there is no Git: the API is asked for each branch
				one := r.add("team/app", true, "main")
				want := r.lab.Push(one.Name, "main")
				r.update()
				r.lab.Fail(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(http.StatusNotModified) })
				if a := r.ask(true)[0]; a.Err == nil || sentry.AsFault(a.Err).Kind != sentry.Invalid || !strings.Contains(a.Err.Error(), "304") {
					t.Errorf("it says %s", show(a))
				}
				r.lab.Fail(nil)
				if got := r.heads(one, true); got["main"] != want {
					t.Errorf("the branches are %v", got)
				}
			})
		})
	}
}

// A token is refused while it is looked whether there is another in the place of the one before: that one is waited for as well.
func TestTokenIsRenewedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, emulated(t, "GitHub"))
		one := r.add("team/app", true)
		r.lab.Push(one.Name, "main")
		var slow atomic.Bool
		read := one.Auth.Token
		one.Auth.Token = func() (sentry.Secret, error) {
			token, err := read()
			if slow.CompareAndSwap(true, false) {
				time.Sleep(10 * time.Second)
			}
			return token, err
		}
		r.update()
		r.told(r.ask(true))
		refuse := func() {
			r.lab.Revoke(r.token.Reveal())
			for !r.forges.Refused(one) {
				r.ask(true)
			}
		}
		refuse()
		r.setToken(r.lab.Token())
		slow.Store(true)
		time.Sleep(2 * time.Second) // it has the new token, and is slow to tell
		r.told(r.ask(true))
		refuse()
		r.setToken(r.lab.Token())
		time.Sleep(9500 * time.Millisecond) // now it has told
		r.mu.Lock()
		clear(r.renewed)
		r.mu.Unlock()
		time.Sleep(2 * time.Second)
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.renewed) == 0 {
			t.Error("nobody was told of the third token")
		}
	})
}
