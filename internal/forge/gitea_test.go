package forge_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/forge"
	"sentry/internal/forge/forgetest"
	"sentry/internal/sentry"
)

// giteaRig makes an emulated Gitea with n repositories, half of them private.
func giteaRig(t *testing.T, o forgetest.EmulatedGiteaOptions, n int) (*rig, *forgetest.EmulatedGitea) {
	t.Helper()
	return giteaRigOf(t, o, n, time.Minute)
}

// giteaRigOf is giteaRig with repositories of an interval.
func giteaRigOf(t *testing.T, o forgetest.EmulatedGiteaOptions, n int, every time.Duration) (*rig, *forgetest.EmulatedGitea) {
	t.Helper()
	lab := forgetest.NewEmulatedGitea(t, o)
	r := newRig(t, lab)
	r.every = every
	for i := range n {
		name := fmt.Sprintf("team/r%d", i)
		r.add(name, i%2 == 0, "main", "dev")
		lab.Push(name, "main")
		lab.Push(name, "dev")
	}
	r.update()
	return r, lab
}

// rarely is an interval after which no repository is asked itself for hours, by chance, that the search says nothing
// about: for tests that count who is asked.
const rarely = time.Hour

// begin asks all for the first time, and until the search is trusted for all.
func (r *rig) begin() {
	r.t.Helper()
	time.Sleep(time.Minute)
	r.told(r.ask(true))
	for range 4 {
		time.Sleep(time.Minute)
		r.told(r.ask(false))
	}
}

// When nothing happens, one request answers for all; each is asked itself now and then, whatever the search says.
func TestGiteaSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 1200
		r, lab := giteaRig(t, forgetest.EmulatedGiteaOptions{}, n)
		r.begin()
		c := r.requests(func() {
			for range 20 {
				time.Sleep(time.Minute)
				r.told(r.ask(false))
			}
		})
		if c.API != 20 {
			t.Errorf("20 rounds took %d requests of the API", c.API)
		}
		if c.Git < n/2 || c.Git > 2*n {
			t.Errorf("in 20 minutes %d of %d repositories were asked themselves", c.Git, n)
		}
		t.Logf("20 rounds over %d idle repositories: %+v; %s", n, c, r.forges.Explain(r.all[0]))

		commit := lab.Push("team/r77", "dev")
		time.Sleep(3 * time.Second)
		a := r.ask(false)
		if a[77].Heads["dev"] != commit || a[77].Way != "ls-refs" {
			t.Errorf("what has moved: %s", show(a[77]))
		}
	})
}

// Whatever happens, in whatever order and however late it is written, what is told is what is or was, and what is is told
// within two intervals of the last push.
func TestGiteaConverges(t *testing.T) {
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 0))
				o := forgetest.EmulatedGiteaOptions{Late: time.Duration(random.IntN(4000)) * time.Millisecond}
				switch seed % 4 {
				case 1:
					o.Clock = time.Duration(random.IntN(7200)-3600) * time.Second
				case 2:
					o.Proxy = time.Duration(random.IntN(7200)-3600) * time.Second
				}
				const n = 40
				r, lab := giteaRig(t, o, n)
				for i := range 200 { // those of other people
					lab.Repository(fmt.Sprintf("others/r%d", i), false)
				}
				lab.Hide("team/r3")
				lab.Mirror("team/r4", time.Now().Add(-1000*time.Hour))
				lab.Mirror("others/r5", time.Now().Add(1000*time.Hour)) // a commit with a date in the future
				told := make([]map[string]string, n)
				was := map[string]bool{}
				round := func(interval time.Duration) {
					// The monitor asks some of them fresh, and all the others together.
					asks := make([]forge.Ask, n)
					for i, one := range r.all {
						asks[i] = forge.Ask{Repository: one, Full: told[i] == nil || random.IntN(20) == 0}
					}
					for i, a := range r.forges.Heads(t.Context(), asks) {
						switch {
						case a.Err != nil || a.Same && told[i] == nil:
							t.Fatalf("%s: %s", r.all[i].Name, show(a))
						case a.Heads != nil:
							told[i] = a.Heads
						}
						for _, commit := range told[i] {
							was[commit] = true
						}
					}
					time.Sleep(interval)
				}
				interval := time.Duration(1+random.IntN(60)) * time.Second
				for range 30 {
					for range random.IntN(30) {
						name := fmt.Sprintf("team/r%d", random.IntN(n))
						switch branch := []string{"main", "dev"}[random.IntN(2)]; random.IntN(6) {
						case 0:
							lab.Delete(name, branch)
						case 1:
							lab.Push(fmt.Sprintf("others/r%d", random.IntN(200)), "main")
						default:
							lab.Push(name, branch)
						}
						time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond)
					}
					round(time.Duration(random.Int64N(int64(interval))))
				}
				time.Sleep(o.Late)
				round(interval)
				round(max(interval, 4*time.Second))
				round(interval)
				for i, one := range r.all {
					for _, branch := range []string{"main", "dev"} {
						if got, want := told[i][branch], lab.Head(one.Name, branch); got != want {
							t.Errorf("%s of %s is %q, not %q (%s)", branch, one.Name, want, got, r.forges.Explain(one))
						}
					}
				}
			})
		})
	}
}

// A search that fails does not send everybody to the Git side, where there are many, and nothing is lost by it.
func TestGiteaSearchFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := giteaRigOf(t, forgetest.EmulatedGiteaOptions{}, 300, rarely)
		r.begin()
		lab.Fail(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if strings.HasSuffix(req.URL.Path, "/search") {
				http.Error(w, "Bad Gateway", http.StatusBadGateway)
				return
			}
			next.ServeHTTP(w, req)
		})
		commit := lab.Push("team/r7", "main")
		c := r.requests(func() {
			for _, a := range r.ask(false) {
				if a.Err == nil || sentry.AsFault(a.Err).Kind != sentry.Transient {
					t.Fatalf("while the search fails: %s", show(a))
				}
			}
		})
		if c.Git > 10 {
			t.Errorf("a failed search sent %d questions to the Git side", c.Git)
		}
		lab.Fail(nil)
		time.Sleep(time.Minute)
		c = r.requests(func() {
			if a := r.ask(false); a[7].Heads["main"] != commit {
				t.Errorf("afterwards: %s", show(a[7]))
			}
		})
		if c.Git > 10 {
			t.Errorf("afterwards %d questions were sent to the Git side", c.Git)
		}
	})
}

// Where the token may not search, each is asked over Git, and it is said why.
func TestGiteaWithoutSearch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := giteaRig(t, forgetest.EmulatedGiteaOptions{}, 10)
		r.told(r.ask(true))
		lab.Fail(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if strings.HasSuffix(req.URL.Path, "/search") {
				http.Error(w, `{"message":"Only signed in user is allowed to call APIs."}`, http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, req)
		})
		c := r.requests(func() {
			for range 60 {
				time.Sleep(time.Minute)
				r.told(r.ask(false))
			}
		})
		if c.API > 10 || c.Git != 600 {
			t.Errorf("an hour cost %+v", c)
		}
		r.told(r.ask(false))
		if why := r.forges.Explain(r.all[0]); !strings.Contains(why, "signed in") {
			t.Errorf("explained is %q", why)
		}
	})
}

// On an instance where much happens and little of it is watched, each is asked by itself.
func TestGiteaBusyElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := giteaRig(t, forgetest.EmulatedGiteaOptions{}, 6)
		for i := range 3000 {
			lab.Repository(fmt.Sprintf("others/r%d", i), false)
		}
		r.begin()
		next := 0
		c := r.requests(func() {
			for range 60 {
				for range 400 {
					lab.Push(fmt.Sprintf("others/r%d", next%3000), "main")
					next++
				}
				time.Sleep(time.Minute)
				r.told(r.ask(false))
			}
		})
		if c.API > 200 {
			t.Errorf("an hour cost %+v", c)
		}
		r.told(r.ask(false))
		t.Logf("an hour cost %+v; %s", c, r.forges.Explain(r.all[0]))
	})
}

// A repository that was given another name is seen to have moved, as soon as something is pushed to it.
func TestGiteaMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, lab := giteaRig(t, forgetest.EmulatedGiteaOptions{}, 10)
		r.begin()
		lab.Rename("team/r4", "team/elsewhere")
		commit := lab.Push("team/elsewhere", "main")
		time.Sleep(time.Minute)
		if a := r.ask(false); a[4].Heads["main"] != commit {
			t.Errorf("it answers %s", show(a[4]))
		}
		if why := r.forges.Explain(r.all[4]); !strings.Contains(why, "team/elsewhere") {
			t.Errorf("explained is %q", why)
		}
		lab.Repository("team/r4", false) // another one takes the name
		time.Sleep(20 * time.Minute)
		r.ask(false)
		if a := r.ask(false); a[4].Err != nil || len(a[4].Heads) > 0 {
			t.Errorf("the new one answers %s", show(a[4]))
		}
	})
}

// A Gitea below a path has its API there, and its repositories.
func TestGiteaBelowAPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := forgetest.NewEmulatedGitea(t, forgetest.EmulatedGiteaOptions{})
		lab.Fail(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			path, ok := strings.CutPrefix(r.URL.Path, "/gitea")
			if !ok {
				http.NotFound(w, r)
				return
			}
			r.URL.Path, r.URL.RawPath = path, strings.TrimPrefix(r.URL.RawPath, "/gitea")
			next.ServeHTTP(w, r)
		})
		r := newRig(t, lab)
		r.every = rarely
		for i := range 5 {
			name := fmt.Sprintf("team/r%d", i)
			lab.Repository(name, true)
			lab.Push(name, "main")
			one := r.configure(name, lab.URL()+"/gitea/"+name+".git")
			one.API = lab.URL() + "/gitea/api/v1"
		}
		r.update()
		r.begin()
		commit := lab.Push("team/r3", "main")
		time.Sleep(time.Minute)
		for i, a := range r.ask(false) {
			if a.Err != nil || a.Same == (i == 3) {
				t.Errorf("%s: %s", r.all[i].Name, show(a))
			}
		}
		if err := r.forges.SetStatus(t.Context(), r.all[3], forge.Status{Commit: commit, State: forge.Success, Context: "sentry/x"}); err != nil || len(lab.Statuses("team/r3", commit)) != 1 {
			t.Errorf("a status: %v", err)
		}
	})
}
