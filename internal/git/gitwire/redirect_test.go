package gitwire_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/git/gittest"
	"sentry/internal/git/gitwire"
	"sentry/internal/sentry"
)

type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// trap is a server that no request may reach.
func trap(t *testing.T) (url string, visits *atomic.Int32) {
	t.Helper()
	visits = new(atomic.Int32)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		visits.Add(1)
		t.Errorf("a request left the origin: %s %s %v", r.Method, r.URL, r.Header)
	}))
	t.Cleanup(h.Close)
	return h.URL, visits
}

// spy counts the hosts that requests are sent to, and lets those to other hosts than the real one fail.
type spy struct {
	next  http.RoundTripper
	home  string
	other atomic.Int32
}

func (s *spy) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme+"://"+r.URL.Host != s.home {
		s.other.Add(1)
		return nil, fmt.Errorf("asked %s with %d headers", r.URL.Host, len(r.Header))
	}
	return s.next.RoundTrip(r)
}

func TestRedirectsOffTheOriginAreNotFollowed(t *testing.T) {
	evil, visits := trap(t)
	s := gittest.NewServer(t)
	repo := s.Repo(t, "r.git")
	repo.Commit(t, "main", nil, "first")
	host := strings.TrimPrefix(s.URL, "http://")
	_, port, err := net.SplitHostPort(host)
	if err != nil {
		t.Fatal(err)
	}
	const tail = "/r.git/info/refs?service=git-upload-pack"
	for _, location := range []string{
		evil + tail,
		strings.Replace(evil, "127.0.0.1", "localhost", 1) + tail,
		"http://sub." + host + tail,
		"http://localhost:" + port + tail,
		"http://127.0.0.1" + tail,
		"https://" + host + tail,
		"http://bot:x@" + host + tail,
		"http://" + host + "@" + strings.TrimPrefix(evil, "http://") + tail,
		"http://" + host + ".evil.example" + tail,
		"http://evil.example/" + host + tail,
		"http://127.0.0.1.:" + port + tail,
		"http://0x7f.1:" + port + tail,
		"http://2130706433:" + port + tail,
		"http://[::ffff:7f00:1]:" + port + tail,
		"http://gıthub.com" + tail,
		"http://EVIL.EXAMPLE" + tail,
		"//evil.example" + tail,
		"http:\\\\evil.example" + tail,
		"http://169.254.169.254/latest/meta-data/info/refs",
		"file:///etc/info/refs", "ext::sh -c id/info/refs", "javascript:alert(1)", "", "::", "http://", "http:/info/refs", "/users/sign_in",
		"/r.git/info/refs/x", "?x=/info/refs", "/../../info/refs", "//r.git/info/refs",
	} {
		for _, status := range []int{301, 302, 303, 307, 308} {
			for _, a := range []gitwire.Auth{account, {}} {
				s.Intercept(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
					w.Header()["Location"] = []string{location}
					w.WriteHeader(status)
				})
				watched := &spy{next: gitwire.NewTransport(nil), home: s.URL}
				f := fault(t, gitwire.New(gitwire.Options{Transport: watched}), repo.URL, a)
				if f.Kind != sentry.Invalid && f.Kind != sentry.NotFound {
					t.Errorf("%d to %q: %s: %v", status, location, f.Kind, f)
				}
				if watched.other.Load() > 0 || visits.Load() > 0 {
					t.Errorf("%d to %q was followed: %v", status, location, f)
				}
				if leaks(f.Error()) || strings.Contains(f.Error(), "service=") {
					t.Errorf("%d to %q: the message is %v", status, location, f)
				}
			}
		}
	}
}

func TestTheMessageTellsWhereItMoved(t *testing.T) {
	s := gittest.NewServer(t)
	s.Intercept(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		http.Redirect(w, r, "https://new.example/team/r.git/info/refs?service=git-upload-pack&token=x", http.StatusMovedPermanently)
	})
	f := fault(t, gitwire.New(gitwire.Options{}), s.URL+"/r.git", gitwire.Auth{})
	if f.Kind != sentry.NotFound || !strings.Contains(f.Error(), `moved to "https://new.example/team/r.git"`) {
		t.Errorf("%s: %v", f.Kind, f)
	}
}

func TestRedirectOnTheSameServer(t *testing.T) {
	s := gittest.NewServer(t)
	s.SetToken("bot", canary)
	repo := s.Repo(t, "new/name.git")
	commit := repo.Commit(t, "main", nil, "first")
	moved := func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if rest, ok := strings.CutPrefix(r.URL.Path, "/old.git"); ok {
			http.Redirect(w, r, "/new/name.git"+rest+"?"+r.URL.RawQuery, http.StatusMovedPermanently)
			return
		}
		next.ServeHTTP(w, r)
	}
	s.Intercept(moved)
	c := gitwire.New(gitwire.Options{})
	old := remote(t, s.URL+"/old.git")
	for range 2 {
		refs, err := c.ListRefs(t.Context(), old, account, []string{"refs/heads/main"})
		if err != nil || len(refs) != 1 || refs[0].Commit != commit {
			t.Fatalf("got %v %v", refs, err)
		}
	}
	if got := c.Path(old); got != "/new/name.git" {
		t.Errorf("it is said to be at %s", got)
	}
	if n := s.Count(); n != 4 { // two to find it, and one for each check
		t.Errorf("%d requests", n)
	}

	// A repository that is back at its old address is found again.
	s.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.HasPrefix(r.URL.Path, "/new/") {
			http.NotFound(w, r)
			return
		}
		r.URL.Path = strings.Replace(r.URL.Path, "/old.git", "/new/name.git", 1)
		next.ServeHTTP(w, r)
	})
	if refs, err := c.ListRefs(t.Context(), old, account, []string{"refs/heads/main"}); err != nil || len(refs) != 1 {
		t.Errorf("back at its old address: %v %v", refs, err)
	}
	if got := c.Path(old); got != "/old.git" {
		t.Errorf("it is said to be at %s", got)
	}
}

// A repository that was given the name of one that has moved is found, though the other one still answers.
func TestRedirectIsLookedAtAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		taken := false
		asked := map[string]int{}
		transport := roundTrip(func(r *http.Request) (*http.Response, error) {
			asked[r.URL.Path]++
			if strings.HasPrefix(r.URL.Path, "/old.git/") && !taken {
				to := "https://forge.example/new.git" + strings.TrimPrefix(r.URL.RequestURI(), "/old.git")
				return &http.Response{StatusCode: 301, Header: http.Header{"Location": {to}}, Body: http.NoBody}, nil
			}
			commit := strings.Repeat("1", 40)
			if taken && strings.HasPrefix(r.URL.Path, "/old.git/") {
				commit = strings.Repeat("2", 40)
			}
			kind, body := "application/x-git-upload-pack-advertisement", "000eversion 2\n000cls-refs\n0000"
			if r.Method == http.MethodPost {
				kind, body = "application/x-git-upload-pack-result", "003d"+commit+" refs/heads/main\n0000"
			}
			return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {kind}}, Body: io.NopCloser(strings.NewReader(body))}, nil
		})
		c := gitwire.New(gitwire.Options{Transport: transport})
		ask := func(want string) {
			t.Helper()
			refs, err := c.ListRefs(t.Context(), remote(t, "https://forge.example/old.git"), gitwire.Auth{}, []string{"refs/heads/main"})
			if err != nil || len(refs) != 1 || refs[0].Commit[:1] != want {
				t.Fatalf("got %v %v", refs, err)
			}
		}
		for range 30 {
			ask("1")
			time.Sleep(time.Minute)
		}
		if n := asked["/old.git/info/refs"] + asked["/old.git/git-upload-pack"]; n > 9 {
			t.Errorf("in half an hour the old address was asked %d times: %v", n, asked)
		}
		taken = true
		time.Sleep(10 * time.Minute)
		ask("2")
	})
}

func TestRedirectsWithoutEnd(t *testing.T) {
	s := gittest.NewServer(t)
	s.Intercept(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		http.Redirect(w, r, "/x"+r.URL.Path, http.StatusFound)
	})
	f := fault(t, gitwire.New(gitwire.Options{}), s.URL+"/r.git", account)
	if f.Kind != sentry.Invalid || !strings.Contains(f.Error(), "more than 5 times") || s.Count() != 5 {
		t.Errorf("%s after %d requests: %v", f.Kind, s.Count(), f)
	}
}
