package forge_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/forge"
	"sentry/internal/forge/forgetest"
	"sentry/internal/sentry"
)

// hush lets one door of a forge answer with a fault.
func hush(lab forgetest.Lab, git bool, fault forgetest.Fault) {
	lab.Fail(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, ".git/") == git {
			fault(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// tooMuch answers that it is too much at the moment; wait is "" where it does not say for how long.
func tooMuch(wait string) forgetest.Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		if wait != "" {
			w.Header().Set("Retry-After", wait)
		}
		answerText(w, http.StatusTooManyRequests, "Retry later")
	}
}

// What the API and Git of one server say of being asked later holds for both. GitHub counts them apart, and where nothing
// but the budget of the API is used up, Git is the way out.
func TestOneServerIsLeftAlone(t *testing.T) {
	for _, kind := range []string{"GitHub", "GitLab", "Gitea"} {
		for name, c := range map[string]struct {
			git    bool // the door that answers so
			fault  forgetest.Fault
			silent time.Duration // both doors; 0: the other one goes on
		}{
			"the API says when":         {false, tooMuch("90"), 90 * time.Second},
			"the API does not say when": {false, tooMuch(""), time.Minute},
			"the API is used up":        {false, emptied(90), 0},
			"Git says when":             {true, tooMuch("90"), 90 * time.Second},
		} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					lab := emulated(t, kind)
					r := newRig(t, lab)
					for _, name := range []string{"team/a", "team/b", "team/c", "team/d", "team/e"} {
						r.add(name, false)
						lab.Push(name, "main")
					}
					r.update()
					asks := func(full bool) (refused int) {
						for _, a := range r.ask(full) {
							if a.Err != nil {
								if sentry.AsFault(a.Err).Kind != sentry.RateLimited {
									t.Fatal(show(a))
								}
								refused++
							}
						}
						return refused
					}
					asks(false)
					time.Sleep(20 * time.Minute) // and all is asked, each itself as well
					asks(false)
					time.Sleep(time.Minute)
					hush(lab, c.git, c.fault)
					if c.git { // one that is asked itself
						asks(true)
					} else {
						_ = r.forges.SetStatus(t.Context(), r.all[0], forge.Status{Commit: lab.Head("team/a", "main"), State: forge.Success, Context: "sentry/g"})
					}
					hush(lab, false, func(w http.ResponseWriter, req *http.Request, next http.Handler) { next.ServeHTTP(w, req) })
					silent := c.silent
					if kind == "GitHub" {
						silent = 0
					}
					if silent == 0 {
						refused := 0
						spent := r.requests(func() { refused = asks(false) })
						other := spent.Git // and GitHub's queries have a budget of their own
						if c.git || kind == "GitHub" && strings.HasSuffix(name, "used up") {
							other = spent.API
						}
						if refused != 0 || other == 0 || other != spent.Git+spent.API {
							t.Errorf("%d are refused by the other door: %+v", refused, spent)
						}
						return
					}
					time.Sleep(silent - 20*time.Second) // who asks for many waits the last seconds
					spent := r.requests(func() {
						if refused := asks(false); refused != 5 {
							t.Errorf("%d are refused", refused)
						}
						if refused := asks(true); refused != 5 {
							t.Errorf("%d are refused of themselves", refused)
						}
					})
					if spent.API+spent.Git != 0 {
						t.Errorf("asked in spite of all: %+v", spent)
					}
					if why := r.forges.Explain(r.all[0]); !strings.HasPrefix(why, "not asked for the moment: ") {
						t.Errorf("explained: %s", why)
					}
					time.Sleep(25 * time.Second)
					if refused := asks(true); refused != 0 {
						t.Errorf("%d are refused when it is over", refused)
					}
				})
			})
		}
	}
}

// An API that says "too much" again and again, and not for how long, is left alone for longer and longer; Git is not.
func TestSilenceOfGitDoesNotGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := forgetest.NewGitLab(t, forgetest.GitLabOptions{})
		r := newRig(t, lab)
		for _, name := range []string{"team/a", "team/b", "team/c", "team/d"} {
			r.add(name, false)
			lab.Push(name, "main")
		}
		r.update()
		hush(lab, false, tooMuch(""))
		answered, minutes := 0, 120
		for range minutes {
			if a := r.ask(false); a[0].Err == nil && a[0].Way == "ls-refs" {
				answered++
			}
			time.Sleep(time.Minute)
		}
		if answered < minutes*8/10 {
			t.Errorf("answered in %d of %d minutes", answered, minutes)
		}
	})
}
