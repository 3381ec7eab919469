package forge_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/forge"
	"sentry/internal/forge/forgetest"
	"sentry/internal/sentry"
)

// githubRig makes a GitHub and n repositories in it, each with the branches main and dev.
func githubRig(t *testing.T, o forgetest.GitHubOptions, n int, rights ...string) (*rig, *forgetest.GitHub) {
	t.Helper()
	lab := forgetest.NewGitHub(t, o)
	r := newRig(t, lab, rights...)
	for i := range n {
		name := fmt.Sprintf("acme/r%04d", i)
		r.add(name, i%2 == 1, "main", "dev")
		lab.Push(name, "main")
		lab.Push(name, "dev")
	}
	r.update()
	return r, lab
}

// right fails the test unless every answer is what the forge has.
func (r *rig) right(answers []forge.Answer, way string) {
	r.t.Helper()
	for i, a := range answers {
		one := r.all[i]
		if a.Err != nil || a.Same {
			r.t.Fatalf("%s: %s", one.Name, show(a))
		}
		for _, branch := range []string{"main", "dev"} {
			if got, want := a.Heads[branch], r.lab.Head(one.Name, branch); got != want {
				r.t.Fatalf("%s: %s is %q, not %q", one.Name, branch, want, show(a))
			}
		}
		if way != "" && a.Way != way {
			r.t.Fatalf("%s was asked by %s, not %s", one.Name, a.Way, way)
		}
	}
}

// 10,000 repositories with two branches each are 100 queries and as many points.
func TestGitHubBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := githubRig(t, forgetest.GitHubOptions{}, 250)
		spent := r.requests(func() { r.right(r.ask(false), "GraphQL") })
		if spent.API != 3 || spent.Git != 0 || spent.Charged != 3 {
			t.Errorf("250 repositories cost %+v", spent)
		}
		if queries := lab.Queries(); queries[0].Repositories != 100 || queries[0].Refs != 200 || queries[0].Cost != 1 {
			t.Errorf("the first query was %+v", queries[0])
		}
		lab.Push("acme/r0007", "dev")
		lab.Delete("acme/r0008", "dev")
		r.right(r.ask(false), "GraphQL")
	})
}

// What is wanted fresh is asked over Git, once it has answered.
func TestGitHubFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := githubRig(t, forgetest.GitHubOptions{}, 20)
		if spent := r.requests(func() { r.right(r.ask(true), "GraphQL") }); spent.Git != 0 {
			t.Errorf("the first questions cost %+v", spent)
		}
		if spent := r.requests(func() { r.right(r.ask(true), "ls-refs") }); spent.API != 0 {
			t.Errorf("the second questions cost %+v", spent)
		}
	})
}

// Few repositories, or none with a token, cost no quota at all.
func TestGitHubFewOverGit(t *testing.T) {
	for name, n := range map[string]int{"few": 3, "anonymous": 20} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var rights []string
				if name == "anonymous" {
					rights = []string{"-"}
				}
				lab := forgetest.NewGitHub(t, forgetest.GitHubOptions{})
				r := newRig(t, lab, rights...)
				for i := range n {
					r.add(fmt.Sprintf("acme/r%d", i), false, "main", "dev")
					lab.Push(fmt.Sprintf("acme/r%d", i), "main")
				}
				r.update()
				if lane := r.forges.Lane(r.all[0]); lane.Batch != 1 || lane.Sweep {
					t.Errorf("the lane is %+v", lane)
				}
				if spent := r.requests(func() { r.right(r.ask(false), "ls-refs") }); spent.API != 0 {
					t.Errorf("it cost %+v", spent)
				}
			})
		})
	}
}

// One that is gone, one that is not to be seen, one that was renamed and one whose answer is an error are asked with 96
// others, and spoil none of them.
func TestGitHubPartialErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := githubRig(t, forgetest.GitHubOptions{}, 100)
		lab.Remove("acme/r0010")
		lab.Rename("acme/r0020", "other/place")
		lab.Flaw("acme/r0030", "INTERNAL")
		lab.Flaw("acme/r0040", "RESOURCE_LIMITS_EXCEEDED")
		answers := r.ask(false)
		for i, a := range answers {
			switch i {
			case 10:
				if a.Err == nil || sentry.AsFault(a.Err).Kind != sentry.NotFound || !strings.Contains(a.Err.Error(), "acme/r0010") {
					t.Errorf("the one that is gone: %s", show(a))
				}
			case 20:
				if a.Heads["main"] != lab.Head("other/place", "main") {
					t.Errorf("the one that moved: %s", show(a))
				}
			case 30, 40:
				if a.Way != "ls-refs" || a.Heads["main"] != lab.Head(r.all[i].Name, "main") {
					t.Errorf("the one with an error: %s", show(a))
				}
			default:
				if a.Way != "GraphQL" || a.Heads["main"] != lab.Head(r.all[i].Name, "main") || a.Heads["dev"] != lab.Head(r.all[i].Name, "dev") {
					t.Errorf("%s: %s", r.all[i].Name, show(a))
				}
			}
		}
	})
}

// A query that is too much is divided until it is not, and the next ones are smaller.
func TestGitHubAdapts(t *testing.T) {
	tests := map[string]forgetest.GitHubOptions{
		"resources": {MostInOne: 30},
		"time":      {Each: 300 * time.Millisecond},
	}
	for name, o := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, lab := githubRig(t, o, 100)
				for range 4 {
					r.right(r.ask(false), "")
					time.Sleep(time.Minute)
				}
				if batch := r.forges.Lane(r.all[0]).Batch; batch > 30 || batch < 5 {
					t.Errorf("the next questions cover %d repositories", batch)
				}
				before := len(lab.Queries())
				for range 3 {
					r.right(r.ask(false), "GraphQL")
					time.Sleep(time.Minute)
				}
				queries := lab.Queries()[before:]
				for _, q := range queries {
					if q.Repositories > 30 {
						t.Errorf("a query too much, after it was known: %+v", q)
					}
				}
			})
		})
	}
	t.Run("up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, _ := githubRig(t, forgetest.GitHubOptions{Latency: 200 * time.Millisecond}, 300)
			for range 10 {
				r.right(r.ask(false), "GraphQL")
			}
			if batch := r.forges.Lane(r.all[0]).Batch; batch < 200 {
				t.Errorf("quick answers, and still only %d repositories in a query", batch)
			}
		})
	})
}

// Patterns are searches: a hundred of them are a point, so no query has more.
func TestGitHubPatterns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := forgetest.NewGitHub(t, forgetest.GitHubOptions{})
		r := newRig(t, lab)
		for i := range 60 {
			name := fmt.Sprintf("acme/r%02d", i)
			r.add(name, false, "main", "release/*", "/^v[0-9]+$/")
			for _, branch := range []string{"main", "release/1", "release/2/x", "old-release/1", "v1", "v2-draft", "dev"} {
				lab.Push(name, branch)
			}
		}
		for i := range 120 { // more than a page
			lab.Push("acme/r07", fmt.Sprintf("release/n%d", i))
		}
		r.update()
		answers := r.ask(false)
		for i, a := range answers {
			var got []string
			for branch, commit := range a.Heads {
				if commit != lab.Head(r.all[i].Name, branch) {
					t.Errorf("%s: %s is at %s", r.all[i].Name, branch, commit)
				}
				got = append(got, branch)
			}
			slices.Sort(got)
			if i == 7 {
				if len(got) != 123 || a.Way != "ls-refs" {
					t.Errorf("the one with many branches has %d, by %s", len(got), a.Way)
				}
				continue
			}
			if want := []string{"main", "release/1", "v1"}; !slices.Equal(got, want) || a.Way != "GraphQL" {
				t.Errorf("%s: %s", r.all[i].Name, show(a))
			}
		}
		for _, q := range lab.Queries() {
			if q.Cost != 1 {
				t.Errorf("a query cost %+v", q)
			}
		}
	})
}

// Where GraphQL is not spoken, or refused, all goes over Git, and nobody is asked for GraphQL again and again.
func TestGitHubWithoutGraphQL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := githubRig(t, forgetest.GitHubOptions{NoGraphQL: true}, 30)
		spent := r.requests(func() {
			for range 5 {
				r.right(r.ask(false), "ls-refs")
			}
		})
		if spent.API != 1 {
			t.Errorf("it cost %+v", spent)
		}
		if why := r.forges.Explain(r.all[0]); !strings.Contains(why, "GraphQL is refused") {
			t.Errorf("it explains: %s", why)
		}
	})
}

// When another program has used up what the token may ask, all goes over Git until the window ends; nothing is sent in
// between.
func TestGitHubUsedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := githubRig(t, forgetest.GitHubOptions{}, 50)
		r.right(r.ask(false), "GraphQL")
		lab.Spend(r.token.Reveal(), "graphql", 0)
		spent := r.requests(func() {
			for range 10 {
				r.right(r.ask(false), "ls-refs")
				time.Sleep(time.Minute)
			}
		})
		if spent.API != 1 || spent.Forbidden != 0 {
			t.Errorf("it cost %+v", spent)
		}
		time.Sleep(time.Hour)
		r.right(r.ask(false), "GraphQL")
	})
}

// A secondary limit is obeyed, and a second one for longer.
func TestGitHubSecondaryLimit(t *testing.T) {
	for _, terse := range []bool{false, true} {
		t.Run(fmt.Sprintf("terse %v", terse), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, lab := githubRig(t, forgetest.GitHubOptions{Terse: terse}, 50)
				r.right(r.ask(false), "GraphQL")
				lab.Limit(r.token.Reveal(), 55*time.Second)
				spent := r.requests(func() {
					for range 12 {
						r.right(r.ask(false), "")
						time.Sleep(5 * time.Second)
					}
				})
				if spent.Forbidden != 0 || spent.Refused != 1 {
					t.Errorf("it cost %+v", spent)
				}
				time.Sleep(5 * time.Second)
				r.right(r.ask(false), "GraphQL")
			})
		})
	}
}

// That GitHub wants to be left alone is heard although whoever asked it has given up meanwhile.
func TestGitHubRefusalComesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := githubRig(t, forgetest.GitHubOptions{}, 50)
		r.right(r.ask(false), "GraphQL")
		lab.Fail(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if strings.Contains(req.URL.Path, ".git/") {
				next.ServeHTTP(w, req)
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			time.Sleep(3 * time.Second)
			lab.Forbid(req, 5*time.Minute)
			w.Header().Set("Retry-After", "300")
			http.Error(w, "later", http.StatusForbidden)
		})
		asks := make([]forge.Ask, len(r.all))
		for i, one := range r.all {
			asks[i].Repository = one
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		for i, a := range r.forges.Heads(ctx, asks) {
			if a.Err == nil {
				t.Fatalf("%s answers in time: %s", r.all[i].Name, show(a))
			}
		}
		time.Sleep(2 * time.Second)
		spent := r.requests(func() {
			for range 12 {
				r.right(r.ask(false), "ls-refs")
				time.Sleep(20 * time.Second)
			}
		})
		if spent.API != 0 || spent.Forbidden != 0 {
			t.Errorf("it cost %+v", spent)
		}
	})
}

// What GitHub has asked for holds after the configuration was read again, too, though nothing in it is as it was.
func TestGitHubPauseOutlivesConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := githubRig(t, forgetest.GitHubOptions{}, 50)
		lab.Limit(r.token.Reveal(), 10*time.Minute)
		r.right(r.ask(false), "ls-refs")
		all := r.all
		r.all = nil
		r.update()
		for _, one := range all {
			again := *one
			r.all = append(r.all, &again)
		}
		r.update()
		spent := r.requests(func() {
			for range 9 {
				r.right(r.ask(false), "ls-refs")
				time.Sleep(time.Minute)
			}
		})
		if spent.API > 0 {
			t.Errorf("it cost %+v", spent)
		}
	})
}

// A token that was rotated is found on the first refusal; one that is revoked is shown once a minute.
func TestGitHubToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := githubRig(t, forgetest.GitHubOptions{}, 50)
		r.right(r.ask(false), "GraphQL")
		old := r.token.Reveal()
		again := lab.Token()
		lab.Revoke(old)
		spent := r.requests(func() {
			for range 60 {
				for _, a := range r.ask(false) {
					if a.Err == nil || sentry.AsFault(a.Err).Kind != sentry.Unauthorized {
						t.Fatalf("a revoked token: %s", show(a))
					}
					if strings.Contains(a.Err.Error(), old) {
						t.Fatalf("it shows the token: %v", a.Err)
					}
				}
				time.Sleep(10 * time.Second)
			}
		})
		if spent.API+spent.Git > 11 {
			t.Errorf("in ten minutes it cost %+v", spent)
		}
		r.setToken(again)
		r.right(r.ask(false), "GraphQL")
	})
}
