package forge_test

import (
	"context"
	"fmt"
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

// gitlabRig makes a GitLab with n repositories of two branches each: in groups and subgroups, half of them private, and
// every fourth watched by other branches than the rest.
func gitlabRig(t *testing.T, o forgetest.GitLabOptions, n int, rights ...string) (*rig, *forgetest.GitLab) {
	t.Helper()
	lab := forgetest.NewGitLab(t, o)
	r := newRig(t, lab, rights...)
	for i := range n {
		name := fmt.Sprintf("Group/sub/deep/r%d", i)
		branches := []string{"main", "dev"}
		if i%4 == 0 {
			branches = []string{"main", fmt.Sprintf("release/%d", i)}
		}
		r.add(name, i%2 == 0, branches...)
		for _, b := range branches {
			lab.Push(name, b)
		}
	}
	r.update()
	return r, lab
}

// told fails the test unless all repositories answer what they are; it tells how many did so by GraphQL.
func (r *rig) told(answers []forge.Answer) (together int) {
	r.t.Helper()
	for i, a := range answers {
		one := r.all[i]
		if a.Err != nil || !a.Same && len(a.Heads) != len(one.Patterns) {
			r.t.Fatalf("%s: %s", one.Name, show(a))
		}
		for branch, commit := range a.Heads {
			if head := r.lab.Head(one.Name, branch); head != commit {
				r.t.Fatalf("%s: %s is %s, not %s", one.Name, branch, head, commit)
			}
		}
		if a.Way == "GraphQL" {
			together++
		}
	}
	return together
}

// Many repositories take few queries, each within what GitLab allows, however old it is.
func TestGitLabSweep(t *testing.T) {
	for version, most := range map[string]int{"18.5": 10, "17.0": 15, "15.0": 30} {
		t.Run(version, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, lab := gitlabRig(t, forgetest.GitLabOptions{Version: version}, 400)
				r.told(r.ask(false)) // the size of a query grows to what is good
				c := r.requests(func() {
					if together := r.told(r.ask(false)); together != 400 {
						t.Errorf("%d repositories are asked together", together)
					}
				})
				if c.API > most || c.Git > 0 {
					t.Errorf("800 branches cost %+v", c)
				}
				if n := lab.TooComplex(); n > 1 {
					t.Errorf("%d queries were too complex", n)
				}
				for _, q := range lab.Queries() {
					if q.Projects > 100 || q.Characters > 10_000 {
						t.Errorf("a query asks for too much: %+v", q)
					}
				}
				t.Logf("GitLab %s: 400 repositories with 800 branches: %d requests, in lanes of %d", version, c.API, r.forges.Lane(r.all[0]).Batch)
			})
		})
	}
}

// What a query may cost is read from the answers: there is no need to know it before.
func TestGitLabComplexityIsReadAtRunTime(t *testing.T) {
	for _, allowed := range []int{40, 100, 1000} {
		t.Run(fmt.Sprint(allowed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, lab := gitlabRig(t, forgetest.GitLabOptions{Allowed: allowed}, 100)
				for range 4 {
					if together := r.told(r.ask(false)); together != 100 {
						t.Errorf("%d repositories are asked together", together)
					}
				}
				if n := lab.TooComplex(); n > 2 {
					t.Errorf("%d queries were too complex", n)
				}
				last := lab.Queries()[len(lab.Queries())-1]
				if last.Complexity > allowed {
					t.Errorf("the last query was %+v", last)
				}
			})
		})
	}
}

// A GitLab whose Git side is slow gets smaller queries, none of which runs into its time limit.
func TestGitLabSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := gitlabRig(t, forgetest.GitLabOptions{Gitaly: 200 * time.Millisecond}, 200)
		for range 4 {
			r.told(r.ask(false))
		}
		before := len(lab.Queries())
		r.told(r.ask(false))
		for _, q := range lab.Queries()[before:] {
			if took := time.Duration(q.Commits) * 200 * time.Millisecond; took > 6*time.Second {
				t.Errorf("a query takes %v: %+v", took, q)
			}
		}
	})
}

// A branch that GraphQL does not show is asked for over Git: it may be GitLab's trouble, not the branch's.
func TestGitLabAbsenceIsNotBelieved(t *testing.T) {
	for _, silently := range []bool{true, false} {
		t.Run(fmt.Sprint(silently), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, lab := gitlabRig(t, forgetest.GitLabOptions{}, 20)
				r.told(r.ask(false))
				lab.Sicken(r.all[3].Name, silently)
				for i, a := range r.ask(false) {
					if sick := i == 3; sick != (a.Err != nil) {
						t.Errorf("%s: %s", r.all[i].Name, show(a))
					}
				}
				lab.Heal(r.all[3].Name)
				lab.Delete(r.all[5].Name, "dev")
				for i, a := range r.ask(false) {
					if _, there := a.Heads["dev"]; a.Err != nil || i == 5 && (there || len(a.Heads) != 1) {
						t.Errorf("%s: %s", r.all[i].Name, show(a))
					}
				}
			})
		})
	}
}

// Without GraphQL everything is asked over Git, and GraphQL is tried again only now and then.
func TestGitLabWithoutGraphQL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := gitlabRig(t, forgetest.GitLabOptions{NoGraphQL: true}, 20)
		c := r.requests(func() {
			for range 60 {
				if together := r.told(r.ask(false)); together != 0 {
					t.Fatal("it is asked by GraphQL")
				}
				time.Sleep(time.Minute)
			}
		})
		if c.API > 20 {
			t.Errorf("an hour without GraphQL cost %+v", c)
		}
		r.told(r.ask(false))
		if why := r.forges.Explain(r.all[0]); !strings.Contains(why, "ls-refs") || !strings.Contains(why, "404") {
			t.Errorf("explained is %q", why)
		}
	})
}

// A token that is for Git only is never shown to the API as if it were for that: GitLab would say that it is no good.
func TestGitLabTokenForGitOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := gitlabRig(t, forgetest.GitLabOptions{}, 20, "read_repository")
		c := r.requests(func() {
			for range 60 {
				r.told(r.ask(false))
				time.Sleep(time.Minute)
			}
		})
		if c.API > 10 {
			t.Errorf("an hour cost %+v", c)
		}
		r.told(r.ask(false))
		if why := r.forges.Explain(r.all[0]); !strings.Contains(why, "read_api") {
			t.Errorf("explained is %q", why)
		}
		r.setToken(r.lab.Token("read_api", "read_repository"))
		time.Sleep(11 * time.Minute)
		r.told(r.ask(false))
		if together := r.told(r.ask(false)); together != 20 {
			t.Errorf("with a better token %d are asked together", together)
		}
	})
}

// The limit of GitLab is kept, and no request is sent while it is used up; what does not fit is asked over Git.
func TestGitLabLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := gitlabRig(t, forgetest.GitLabOptions{PerMinute: 20}, 400)
		c := r.requests(func() {
			for range 30 {
				r.told(r.ask(false))
				time.Sleep(20 * time.Second)
			}
		})
		if c.Refused > 0 || c.Forbidden > 0 {
			t.Errorf("10 minutes cost %+v", c)
		}
		t.Logf("10 minutes with 20 requests a minute: %+v", c)
	})
}

// What is watched by patterns, or by very many branches, goes over Git; the rest of its lane does not.
func TestGitLabMixed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := gitlabRig(t, forgetest.GitLabOptions{}, 20)
		glob := r.add("Group/glob", false, "release/*")
		many := r.add("Group/many", false, strings.Split("a b c d e f g h i j k l m", " ")...)
		again := r.configure("again", lab.URL()+"/group/sub/deep/R7.git", "dev")
		again.Name = "Group/sub/deep/r7" // the same repository, spelled otherwise, watched for another branch
		lab.Push("Group/glob", "release/7")
		for _, p := range many.Patterns {
			lab.Push("Group/many", p.String())
		}
		r.update()
		r.ask(false)
		answers := r.ask(false)
		if got := answers[20]; got.Way != "ls-refs" || got.Heads["release/7"] != lab.Head(glob.Name, "release/7") {
			t.Errorf("by a pattern: %s", show(got))
		}
		if got := answers[21]; got.Way != "ls-refs" || len(got.Heads) != 13 {
			t.Errorf("many branches: %s", show(got))
		}
		if got := answers[22]; got.Way != "GraphQL" || got.Heads["dev"] != lab.Head(again.Name, "dev") {
			t.Errorf("the same repository: %s", show(got))
		}
		for i, a := range answers[:20] {
			if a.Way != "GraphQL" {
				t.Errorf("%s: %s", r.all[i].Name, show(a))
			}
		}
	})
}

// Where there is no Git, branches are asked for one by one, and those that have not moved cost a 304.
func TestGitLabREST(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := forgetest.NewGitLab(t, forgetest.GitLabOptions{})
		r := newRig(t, lab)
		network := forge.NewNetwork(forge.NetworkOptions{DialContext: lab.Dial()})
		t.Cleanup(network.Close)
		r.forges = forge.New(forge.Options{Network: network})
		one := r.add("group/one", true, "main", "feature/x+y", "missing")
		glob := r.add("group/two", true, "topic/**", "topic/v?")
		lab.Push("group/one", "main")
		lab.Push("group/one", "feature/x+y")
		for i := range 250 {
			lab.Push("group/two", fmt.Sprintf("topic/%d", i))
		}
		lab.Push("group/two", "other")
		r.update()
		unchanged := 0
		lab.Fail(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			out := &recorder{header: w.Header(), status: http.StatusOK}
			next.ServeHTTP(out, req)
			if out.status == http.StatusNotModified {
				unchanged++
			}
			w.WriteHeader(out.status)
			_, _ = w.Write(out.body.Bytes())
		})
		for range 3 {
			if got := r.heads(one, true); len(got) != 2 || got["main"] != lab.Head(one.Name, "main") || got["feature/x+y"] != lab.Head(one.Name, "feature/x+y") {
				t.Errorf("the branches are %v", got)
			}
		}
		if unchanged != 4 {
			t.Errorf("%d answers were 304", unchanged)
		}
		lab.Push("group/one", "main")
		if got := r.heads(one, true); got["main"] != lab.Head(one.Name, "main") {
			t.Errorf("the branches are %v", got)
		}
		if got := r.heads(glob, true); len(got) != 250 {
			t.Errorf("%d branches match", len(got))
		}
	})
}

// What a token may do, and for how long, is told; so is what it lacks.
func TestGitLabAccess(t *testing.T) {
	day := time.Date(2000, 3, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name    string
		rights  []string
		report  bool
		problem string
	}{
		{"all", []string{"api"}, true, ""},
		{"for some days more", []string{"api"}, true, "ends on 2000-01-05: make a new one"},
		{"to read", []string{"read_api", "read_repository"}, false, ""},
		{"for Git only", []string{"read_repository"}, false, "read_api"},
		{"for the API only", []string{"read_api"}, false, "read_repository"},
		{"of a reporter", []string{"api", "role:reporter"}, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lab := forgetest.NewGitLab(t, forgetest.GitLabOptions{})
				r := newRig(t, lab)
				day := day
				if c.name == "for some days more" {
					day = time.Date(2000, 1, 5, 0, 0, 0, 0, time.UTC)
				}
				r.setToken(lab.TokenUntil(day, c.rights...))
				one := r.add("group/one", false)
				r.update()
				access, err := r.forges.Access(t.Context(), one)
				if c.name == "for Git only" { // the project cannot be looked at, and that is told as well
					if err == nil || !strings.Contains(err.Error(), "read_api") {
						t.Errorf("the error is %v", err)
					}
				} else if err != nil {
					t.Fatal(err)
				}
				if !access.Expires.Equal(day) || access.Limit != 2000 || access.CanReport != c.report {
					t.Errorf("access is %+v", access)
				}
				if !slices.ContainsFunc(access.Problems, func(p string) bool { return strings.Contains(p, c.problem) }) && c.problem != "" || c.problem == "" && len(access.Problems) > 0 {
					t.Errorf("problems are %q", access.Problems)
				}
			})
		})
	}
}

// A diagnosis names what is wrong, and what to do about it.
func TestGitLabDiagnosis(t *testing.T) {
	cause := &sentry.Fault{Kind: sentry.NotFound, Err: fmt.Errorf("not found")}
	for _, c := range []struct {
		name   string
		rights []string
		want   string
	}{
		{"a guest", []string{"api", "role:guest"}, "Reporter"},
		{"no member", []string{"api", "role:none"}, "no member"},
		{"no scope for Git", []string{"read_api"}, "read_repository"},
		{"no scope for the API", []string{"read_repository", "role:none"}, "read_api"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lab := forgetest.NewGitLab(t, forgetest.GitLabOptions{})
				r := newRig(t, lab, c.rights...)
				one := r.add("group/one", true)
				r.update()
				if err := r.forges.Diagnose(t.Context(), one, cause); !strings.Contains(err.Error(), c.want) {
					t.Errorf("it says: %v", err)
				}
			})
		})
	}
}

// Statuses are cut to what GitLab takes, and one for a project that was moved says where to.
func TestGitLabStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := forgetest.NewGitLab(t, forgetest.GitLabOptions{})
		r := newRig(t, lab)
		one := r.add("group/one", false)
		commit := lab.Push("group/one", "main")
		r.update()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		s := forge.Status{Commit: commit, Branch: "main", State: forge.Success, Context: "sentry/g", Description: strings.Repeat("ä", 400), URL: "https://sentry.example/" + strings.Repeat("x", 300)}
		if err := r.forges.SetStatus(ctx, one, s); err != nil {
			t.Fatal(err)
		}
		if got := lab.Statuses("group/one", commit)[0]; len([]rune(got.Description)) != 255 || got.URL != "" {
			t.Errorf("the status is %+v", got)
		}
		if err := r.forges.SetStatus(ctx, one, forge.Status{Commit: strings.Repeat("a", 40), State: forge.Success, Context: "x"}); sentry.AsFault(err).Kind != sentry.NotFound {
			t.Errorf("of a commit that is not there: %v", err)
		}
		lab.Rename("group/one", "group/two")
		if err := r.forges.SetStatus(ctx, one, forge.Status{Commit: commit, Branch: "main", State: forge.Failure, Context: "y"}); err == nil || !strings.Contains(err.Error(), "group/two") {
			t.Errorf("of a project that was moved: %v", err)
		}
	})
}

// Who has no token asks about public projects together as well.
func TestGitLabAnonymous(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := forgetest.NewGitLab(t, forgetest.GitLabOptions{})
		r := newRig(t, lab, "-")
		for i := range 20 {
			r.add(fmt.Sprintf("group/r%d", i), false)
			lab.Push(fmt.Sprintf("group/r%d", i), "main")
		}
		r.update()
		for range 3 {
			if together := r.told(r.ask(false)); together != 20 {
				t.Errorf("%d repositories are asked together", together)
			}
		}
		if n := lab.TooComplex(); n > 0 {
			t.Errorf("%d queries were too complex", n)
		}
	})
}

// A GitLab below a path has its APIs there.
func TestGitLabBelowAPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := forgetest.NewGitLab(t, forgetest.GitLabOptions{})
		lab.Fail(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			path, ok := strings.CutPrefix(r.URL.Path, "/gitlab")
			if !ok {
				http.NotFound(w, r)
				return
			}
			r.URL.Path, r.URL.RawPath = path, strings.TrimPrefix(r.URL.RawPath, "/gitlab")
			next.ServeHTTP(w, r)
		})
		r := newRig(t, lab)
		for i := range 5 {
			name := fmt.Sprintf("group/r%d", i)
			lab.Repository(name, true)
			lab.Push(name, "main")
			// The path of the installation is part of the path of the repository, and not of its name.
			one := r.configure(name, lab.URL()+"/gitlab/"+name+".git")
			one.API = lab.URL() + "/gitlab/api/v4"
		}
		r.update()
		r.told(r.ask(false))
		if together := r.told(r.ask(false)); together != 5 {
			t.Errorf("%d repositories are asked together", together)
		}
	})
}
