package forge_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/forge"
	"sentry/internal/forge/forgetest"
	"sentry/internal/git/gitwire"
	"sentry/internal/sentry"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Requests to the API and questions over Git share what the configuration allows a host at a time, also when it is
// changed, and both are counted.
func TestConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := emulated(t, "Gitea")
		var out, most atomic.Int32
		lab.Fail(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			n := out.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Second)
			out.Add(-1)
			_, _ = w.Write([]byte("an answer"))
		})
		origin := "http://" + strings.TrimPrefix(strings.TrimSuffix(lab.API(), "/api/v1"), "http://")
		if !strings.Contains(origin[len("http://"):], ":") {
			origin += ":80"
		}
		limited := func(n int) []forge.Host { return []forge.Host{{Origin: origin, Concurrency: n}} }
		register := prometheus.NewRegistry()
		network := forge.NewNetwork(forge.NetworkOptions{DialContext: lab.Dial(), Hosts: limited(3), Register: register})
		t.Cleanup(network.Close)
		direct := &http.Transport{DialContext: lab.Dial()}
		t.Cleanup(direct.CloseIdleConnections)
		clients := []*http.Client{network.Client(origin), {Transport: network.Git(direct)}}
		ask := func(ctx context.Context, c *http.Client) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, lab.API(), nil)
			if err != nil {
				t.Error(err)
				return nil
			}
			resp, err := c.Do(req)
			if err != nil {
				return err
			}
			if _, err := resp.Body.Read(make([]byte, 100)); err != nil && err.Error() != "EOF" {
				t.Error(err)
			}
			_ = resp.Body.Close()
			return resp.Body.Close() // again: a seat is given back once
		}
		flood := func(want int32) {
			t.Helper()
			most.Store(0)
			var wait sync.WaitGroup
			for i := range 20 {
				wait.Go(func() {
					if err := ask(t.Context(), clients[i%2]); err != nil {
						t.Error(err)
					}
				})
			}
			wait.Wait()
			if most.Load() != want {
				t.Errorf("%d at a time, want %d", most.Load(), want)
			}
		}
		flood(3)
		network.Update(limited(1))
		flood(1)
		network.Update(nil)
		flood(20)
		network.Update(limited(2))
		flood(2)

		// Who gives up while it waits takes nothing with it.
		network.Update(limited(1))
		var wait sync.WaitGroup
		for i := range 10 {
			wait.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
				defer cancel()
				_ = ask(ctx, clients[i%2])
			})
		}
		wait.Wait()
		time.Sleep(time.Minute) // the server is at work still for somebody who gave up
		flood(1)

		if n := testutil.CollectAndCount(register, "sentry_forge_received_bytes_total"); n != 2 {
			t.Errorf("%d counts of bytes, want one for each protocol", n)
		}
		families, err := register.Gather()
		if err != nil {
			t.Fatal(err)
		}
		counts := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if l.GetName() == "protocol" && f.GetName() == "sentry_forge_requests_total" {
						counts[l.GetValue()] += m.GetCounter().GetValue()
					}
				}
			}
		}
		if counts["api"] < 50 || counts["git"] < 50 {
			t.Errorf("counted were %v", counts)
		}
	})
}

// unsaid is a context whose Done says nothing of its Deadline, as that of a question over Git.
type unsaid struct {
	context.Context
	end time.Time
}

func (u unsaid) Deadline() (time.Time, bool) { return u.end, true }

// Nobody waits for a seat beyond the deadline, whatever tells of it.
func TestNobodyWaitsForASeatBeyondTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := forge.NewNetwork(forge.NetworkOptions{Hosts: []forge.Host{{Origin: "http://gitea.test:80", Concurrency: 1}}})
		t.Cleanup(network.Close)
		way := network.Git(answering{})
		ask := func(ctx context.Context) (*http.Response, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://gitea.test/a/b/info/refs", nil)
			if err != nil {
				t.Fatal(err)
			}
			return way.RoundTrip(req)
		}
		first, err := ask(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := ask(unsaid{t.Context(), began.Add(10 * time.Second)}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it came to %v", err)
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("it waited %s, want 10s", took)
		}
		_ = first.Body.Close()
		second, err := ask(unsaid{t.Context(), time.Now().Add(10 * time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		_ = second.Body.Close()
	})
}

// answering gives answers without a server.
type answering struct{}

func (answering) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
}

// seated makes a rig whose requests, those over Git as well, share so many seats of the server.
func seated(t *testing.T, lab forgetest.Lab, n int) *rig {
	t.Helper()
	r := newRig(t, lab)
	origin := r.add("team/a", false).Remote.Origin()
	r.add("team/b", false)
	network := forge.NewNetwork(forge.NetworkOptions{DialContext: lab.Dial(), Hosts: []forge.Host{{Origin: origin, Concurrency: n}}})
	t.Cleanup(network.Close)
	direct := &http.Transport{DialContext: lab.Dial()}
	t.Cleanup(direct.CloseIdleConnections)
	wire := gitwire.New(gitwire.Options{Transport: network.Git(direct)})
	r.forges = forge.New(forge.Options{Network: network, LsRefs: func(ctx context.Context, one *forge.Repository) (map[string]string, error) {
		return r.lsRefs(ctx, wire, one)
	}})
	r.update()
	for _, one := range r.all {
		lab.Push(one.Name, "main")
		r.heads(one, true)
	}
	return r
}

// by are the doors of a server: what asks for a repository there.
func (r *rig) by(door string, one *forge.Repository) error {
	if door == "Git" {
		return r.ask(true, one)[0].Err
	}
	return r.forges.SetStatus(r.t.Context(), one, forge.Status{Commit: r.lab.Head(one.Name, "main"), State: forge.Success, Context: "sentry/g"})
}

// Who waits while the server says "later" is not sent, whoever was told, and at whichever door.
func TestNothingIsSentInAWindowThatClosedMeanwhile(t *testing.T) {
	for _, c := range [][2]string{{"Git", "Git"}, {"Git", "the API"}, {"the API", "Git"}, {"the API", "the API"}} {
		t.Run(c[0]+" is told, "+c[1]+" waits", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lab := forgetest.NewGitLab(t, forgetest.GitLabOptions{})
				r := seated(t, lab, 1)
				var came atomic.Int32
				lab.Fail(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
					if came.Add(1) > 1 {
						next.ServeHTTP(w, req)
						return
					}
					time.Sleep(5 * time.Second)
					tooMuch("90")(w, req, next)
				})
				var wait sync.WaitGroup
				wait.Go(func() { _ = r.by(c[0], r.all[0]) })
				time.Sleep(time.Second)
				err := r.by(c[1], r.all[1])
				wait.Wait()
				if n := came.Load(); n != 1 {
					t.Errorf("%d requests came", n)
				}
				if f := sentry.AsFault(err); err == nil || f.Kind != sentry.RateLimited || f.RetryAfter < 85*time.Second {
					t.Errorf("it came to %v", err)
				}
				time.Sleep(92 * time.Second)
				if err := r.by(c[1], r.all[1]); err != nil || came.Load() < 2 {
					t.Errorf("when it is over: %v", err)
				}
			})
		})
	}
}

// What a server says is known when it begins to answer, not when its answer is read.
func TestSilenceBeginsWithTheHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := forgetest.NewGitLab(t, forgetest.GitLabOptions{})
		r := seated(t, lab, 2)
		var came atomic.Int32
		lab.Fail(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			came.Add(1)
			w.Header().Set("Retry-After", "90")
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusTooManyRequests)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(10 * time.Second)
			_, _ = w.Write([]byte("Retry later\n"))
		})
		var wait sync.WaitGroup
		wait.Go(func() { _ = r.by("Git", r.all[0]) })
		time.Sleep(time.Second)
		for _, door := range []string{"Git", "the API"} {
			if err := r.by(door, r.all[1]); err == nil || sentry.AsFault(err).Kind != sentry.RateLimited {
				t.Errorf("%s: %v", door, err)
			}
		}
		if n := came.Load(); n != 1 {
			t.Errorf("%d requests came", n)
		}
		wait.Wait()
	})
}

// TestSilenceHasAnEnd: no Git server is left alone for longer than an hour, whatever it says.
func TestSilenceHasAnEnd(t *testing.T) {
	remote, err := sentry.ParseRemote("https://git.example/a/b", sentry.RemoteRules{})
	if err != nil {
		t.Fatal(err)
	}
	for name, header := range map[string]http.Header{
		"a window that is empty": {"Ratelimit-Limit": {"10"}, "Ratelimit-Remaining": {"0"}, "Ratelimit-Reset": {"7000"}},
		"a date":                 {"Retry-After": {"Fri, 31 Dec 2199 23:59:59 GMT"}},
	} {
		n := forge.NewNetwork(forge.NetworkOptions{})
		way := n.Git(saying{http.StatusForbidden, header})
		req, err := http.NewRequest(http.MethodGet, remote.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := way.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if wait := sentry.AsFault(n.Silence(remote.Origin())).RetryAfter; wait < time.Minute || wait > time.Hour {
			t.Errorf("%s: it is left alone for %s", name, wait)
		}
		n.Close()
	}
}

// saying is a server that gives one answer.
type saying struct {
	status int
	header http.Header
}

func (s saying) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: s.status, Header: s.header, Body: http.NoBody}, nil
}

// What waits for a seat for nobody is not sent, and is no fault of the server.
func TestNobodyIsAskedForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := forgetest.NewGitLab(t, forgetest.GitLabOptions{})
		r := seated(t, lab, 1)
		var came atomic.Int32
		slow := func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			came.Add(1)
			time.Sleep(5 * time.Second)
			next.ServeHTTP(w, req)
		}
		for range 6 { // more than an API may fail to answer until it is left alone
			came.Store(0)
			lab.Fail(slow)
			var wait sync.WaitGroup
			wait.Go(func() { _ = r.by("Git", r.all[0]) })
			time.Sleep(time.Second)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			err := r.forges.SetStatus(ctx, r.all[1], forge.Status{Commit: lab.Head("team/b", "main"), State: forge.Success, Context: "sentry/g"})
			cancel()
			wait.Wait()
			time.Sleep(10 * time.Second)
			if n := came.Load(); err == nil || n != 1 {
				t.Errorf("%d requests came, it came to %v", n, err)
			}
		}
		lab.Fail(nil)
		if err := r.by("the API", r.all[1]); err != nil {
			t.Error(err)
		}
	})
}

// A status is put before all that waits to be asked, over Git or the API.
func TestAStatusDoesNotQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := forgetest.NewGitLab(t, forgetest.GitLabOptions{})
		r := seated(t, lab, 1)
		lab.Fail(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			time.Sleep(time.Second)
			next.ServeHTTP(w, req)
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		for range 100 {
			wait.Go(func() { r.forges.Heads(ctx, []forge.Ask{{Repository: r.all[0], Full: true}}) })
		}
		synctest.Wait()
		wait.Go(func() { _, _ = r.forges.Access(ctx, r.all[0]) })
		synctest.Wait()
		began := time.Now()
		for _, one := range r.all {
			wait.Go(func() {
				if err := r.by("the API", one); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took > 12*time.Second {
					t.Errorf("a status took %s", took)
				}
			})
		}
		time.Sleep(time.Minute)
		cancel()
		wait.Wait()
	})
}

// How long a question waited for its seat is told, and is not taken for time of the server's.
func TestWaitingIsNoTimeOfTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := forgetest.NewGitLab(t, forgetest.GitLabOptions{})
		r := seated(t, lab, 1)
		lab.Fail(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			time.Sleep(2 * time.Second)
			next.ServeHTTP(w, req)
		})
		var wait sync.WaitGroup
		for i := range 4 {
			wait.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				a := r.ask(true, r.all[i%2])[0]
				if want := time.Duration(i) * 1990 * time.Millisecond; a.Err != nil || a.Waited != want {
					t.Errorf("%s; it waited %s, want %s", show(a), a.Waited, want)
				}
			})
		}
		wait.Wait()
	})
}

// What the configuration no longer says of a host no longer holds.
func TestConcurrencyOfALane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := forgetest.NewGitLab(t, forgetest.GitLabOptions{})
		network := forge.NewNetwork(forge.NetworkOptions{DialContext: lab.Dial()})
		t.Cleanup(network.Close)
		r := newRig(t, lab)
		r.forges = forge.New(forge.Options{Network: network})
		one := r.add("group/one", false)
		r.update()
		for _, n := range []int{0, 5, 2, 0} {
			network.Update([]forge.Host{{Origin: one.Remote.Origin(), Concurrency: n}})
			r.update()
			if got := r.forges.Lane(one).AtOnce; got != n {
				t.Errorf("%d questions at a time, want %d", got, n)
			}
		}
	})
}
