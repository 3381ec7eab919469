package gitwire_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sentry/internal/git/gittest"
	"sentry/internal/git/gitwire"
	"sentry/internal/sentry"
)

func remote(t testing.TB, url string) sentry.Remote {
	t.Helper()
	r, err := sentry.ParseRemote(url, sentry.RemoteRules{InsecureHTTP: true})
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return r
}

func list(t testing.TB, c *gitwire.Client, url string, prefixes ...string) []gitwire.Ref {
	t.Helper()
	refs, err := c.ListRefs(t.Context(), remote(t, url), gitwire.Auth{}, prefixes)
	if err != nil {
		t.Fatal(err)
	}
	return refs
}

// fault asks and expects a fault.
func fault(t testing.TB, c *gitwire.Client, url string, a gitwire.Auth) *sentry.Fault {
	t.Helper()
	refs, err := c.ListRefs(t.Context(), remote(t, url), a, []string{"refs/heads/main"})
	var f *sentry.Fault
	if !errors.As(err, &f) || refs != nil {
		t.Fatalf("%s is answered with %v, error %v", url, refs, err)
	}
	return f
}

func TestOneRequestAfterFirstContact(t *testing.T) {
	s := gittest.NewServer(t)
	one, two := s.Repo(t, "one.git"), s.Repo(t, "two.git")
	first := one.Commit(t, "main", nil, "first")
	other := two.Commit(t, "main", nil, "other")
	one.Branch(t, "main2", "main")
	c := gitwire.New(gitwire.Options{})

	want := []gitwire.Ref{{Name: "refs/heads/main", Commit: first}, {Name: "refs/heads/main2", Commit: first}}
	if got := list(t, c, one.URL, "refs/heads/main"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if n, m := s.Count(gittest.Capabilities), s.Count(gittest.LsRefs); n != 1 || m != 1 {
		t.Errorf("first contact took %d and %d requests", n, m)
	}
	s.Forget()
	second := one.Commit(t, "main", nil, "second")
	if got := list(t, c, one.URL, "refs/heads/main"); got[0].Commit != second {
		t.Errorf("got %v, want %s", got, second)
	}
	// What was learned of a server holds for its other repositories.
	if got := list(t, c, two.URL, "refs/heads/main"); got[0].Commit != other {
		t.Errorf("got %v, want %s", got, other)
	}
	if n, m := s.Count(gittest.LsRefs), s.Count(); n != 2 || m != 2 {
		t.Errorf("%d of %d requests were ls-refs; want 2 of 2", n, m)
	}
}

func TestAnswerDoesNotGrowWithTheRepository(t *testing.T) {
	s := gittest.NewServer(t)
	repo := s.Repo(t, "big.git")
	commit := repo.Commit(t, "main", nil, "first")
	repo.Branches(t, 5000, "topic/%d", commit)
	c := gitwire.New(gitwire.Options{})
	list(t, c, repo.URL, "refs/heads/main")
	for _, r := range s.Requests() {
		if r.Sent > 400 {
			t.Errorf("%s took %d bytes", r.Kind, r.Sent)
		}
	}
	if r := s.Requests(gittest.LsRefs)[0]; r.Sent != 65 {
		t.Errorf("the answer has %d bytes, want 65", r.Sent)
	}
	if got := list(t, c, repo.URL); len(got) != 5002 { // and HEAD, and main
		t.Errorf("without a prefix: %d refs", len(got))
	}
}

func TestHeadAndOtherRefs(t *testing.T) {
	s := gittest.NewServer(t)
	repo := s.Repo(t, "r.git")
	commit := repo.Commit(t, "main", nil, "first")
	gittest.Git(t, repo.Dir, "tag", "-m", "annotated", "v1", commit)
	tag := strings.TrimSpace(gittest.Git(t, repo.Dir, "rev-parse", "v1"))
	c := gitwire.New(gitwire.Options{})

	want := []gitwire.Ref{{Name: "HEAD", Commit: commit, Target: "refs/heads/main"}, {Name: "refs/tags/v1", Commit: tag}}
	if got := list(t, c, repo.URL, "HEAD", "refs/tags/"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := list(t, c, repo.URL, "refs/heads/gone"); len(got) != 0 {
		t.Errorf("a branch that is not there: %v", got)
	}
	if got := list(t, c, s.Repo(t, "empty.git").URL); len(got) != 0 {
		t.Errorf("an empty repository: %v", got)
	}
}

func TestSHA256(t *testing.T) {
	s := gittest.NewServer(t)
	repo := gittest.NewRepo(t, filepath.Join(s.Dir, "new.git"), s.URL+"/new.git", "--object-format=sha256")
	commit := repo.Commit(t, "main", nil, "first")
	old := s.Repo(t, "old.git")
	old.Commit(t, "main", nil, "first")
	c := gitwire.New(gitwire.Options{})
	list(t, c, old.URL, "refs/heads/main") // the server is known, and taken to use SHA-1 everywhere

	want := []gitwire.Ref{{Name: "refs/heads/main", Commit: commit}}
	if got := list(t, c, repo.URL, "refs/heads/main"); len(commit) != 64 || !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	s.Forget()
	list(t, c, repo.URL, "refs/heads/main")
	if n := s.Count(); n != 1 {
		t.Errorf("once known, a check takes %d requests", n)
	}
}

// downgrade lets the server see another version than the one asked for; "" is none.
func downgrade(version string) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		r.Header.Del("Git-Protocol")
		if version != "" {
			r.Header.Set("Git-Protocol", "version="+version)
		}
		next.ServeHTTP(w, r)
	}
}

func TestServersWithoutProtocol2(t *testing.T) {
	for _, version := range []string{"", "1"} {
		t.Run("version "+version, func(t *testing.T) {
			s := gittest.NewServer(t)
			repo, empty := s.Repo(t, "r.git"), s.Repo(t, "empty.git")
			commit := repo.Commit(t, "main", nil, "first")
			repo.Branches(t, 100, "topic/%d", commit)
			gittest.Git(t, repo.Dir, "tag", "-m", "annotated", "v1", commit)
			wants := [][]string{nil, {"HEAD"}, {"refs/heads/main"}, {"refs/heads/topic/9", "refs/tags/"}}
			modern := gitwire.New(gitwire.Options{})
			var want [][]gitwire.Ref
			for _, prefixes := range wants {
				want = append(want, list(t, modern, repo.URL, prefixes...))
			}

			s.Intercept(downgrade(version))
			c := gitwire.New(gitwire.Options{})
			for i, prefixes := range wants {
				if got := list(t, c, repo.URL, prefixes...); !slices.Equal(got, want[i]) {
					t.Errorf("%q: got %v, want %v", prefixes, got, want[i])
				}
			}
			if got := list(t, c, empty.URL); len(got) != 0 {
				t.Errorf("an empty repository: %v", got)
			}

			// Both ways: a server that is downgraded while we know it, and one that is upgraded.
			if got := list(t, modern, repo.URL, "refs/heads/main"); !slices.Equal(got, want[2]) {
				t.Errorf("after the downgrade: %v", got)
			}
			s.Intercept(nil)
			s.Forget()
			list(t, c, repo.URL, "refs/heads/main")
			list(t, c, repo.URL, "refs/heads/main")
			if n := s.Count(gittest.LsRefs); n != 2 {
				t.Errorf("after the upgrade %d of two checks are ls-refs", n)
			}
		})
	}
}

func TestMorePrefixesThanAQuestionHolds(t *testing.T) {
	s := gittest.NewServer(t)
	repo := s.Repo(t, "r.git")
	commit := repo.Commit(t, "main", nil, "first")
	repo.Branches(t, 3, "b%05d/x", commit)
	var prefixes []string
	for i := range 70_000 { // git itself ignores all prefixes from 65,536 on
		prefixes = append(prefixes, fmt.Sprintf("refs/heads/b%05d/", i))
	}
	c := gitwire.New(gitwire.Options{})
	if got := list(t, c, repo.URL, prefixes...); len(got) != 3 {
		t.Errorf("got %v", got)
	}
	if n := s.Count(gittest.LsRefs); n != 7 {
		t.Errorf("asked %d times, want 7", n)
	}
	for _, r := range s.Requests(gittest.LsRefs) {
		if r.Sent > 1000 {
			t.Errorf("an answer has %d bytes: the prefixes were ignored", r.Sent)
		}
	}
}

func TestDumbServersAndWebPages(t *testing.T) {
	s := gittest.NewServer(t)
	repo := s.Repo(t, "r.git")
	repo.Commit(t, "main", nil, "first")
	gittest.Git(t, repo.Dir, "update-server-info")
	for want, h := range map[string]http.Handler{
		`file-by-file ("dumb") HTTP`: http.FileServer(http.Dir(s.Dir)),
		"a web page": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("<!doctype html><title>Sign in</title>"))
		}),
		`answers with "application/json"`: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			_, _ = w.Write([]byte(`{}`))
		}),
	} {
		h := httptest.NewServer(h)
		f := fault(t, gitwire.New(gitwire.Options{}), h.URL+"/r.git", gitwire.Auth{})
		if f.Kind != sentry.Invalid || !strings.Contains(f.Error(), want) {
			t.Errorf("%s: %v, want …%s…", f.Kind, f, want)
		}
		h.Close()
	}
}

func TestTokenIsSentFromTheFirstRequest(t *testing.T) {
	s := gittest.NewServer(t)
	s.SetToken("bot", "s3cret-token")
	repo := s.Repo(t, "r.git")
	commit := repo.Commit(t, "main", nil, "first")
	c := gitwire.New(gitwire.Options{})

	for _, a := range []gitwire.Auth{{}, {Username: "bot", Token: sentry.NewSecret("old-token")}} {
		f := fault(t, c, repo.URL, a)
		if f.Kind != sentry.Unauthorized || strings.Contains(f.Error(), "old-token") {
			t.Errorf("%s: %v", f.Kind, f)
		}
	}
	s.Forget()
	refs, err := c.ListRefs(t.Context(), remote(t, repo.URL), gitwire.Auth{Username: "bot", Token: sentry.NewSecret("s3cret-token")}, []string{"refs/heads/"})
	if err != nil || len(refs) != 1 || refs[0].Commit != commit {
		t.Fatalf("got %v %v", refs, err)
	}
	for _, r := range s.Requests() {
		if r.Status != http.StatusOK || r.Authorization == "" {
			t.Errorf("a request without the token: %+v", r)
		}
	}
}

func TestConnectionsAreKeptAndReplaced(t *testing.T) {
	s := gittest.NewServer(t)
	repo := s.Repo(t, "r.git")
	repo.Commit(t, "main", nil, "first")
	var mu sync.Mutex
	peers := map[string]int{}
	s.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		mu.Lock()
		peers[r.RemoteAddr]++
		mu.Unlock()
		next.ServeHTTP(w, r)
	})
	transport := gitwire.NewTransport(nil)
	c := gitwire.New(gitwire.Options{Transport: transport})
	for range 20 {
		list(t, c, repo.URL, "refs/heads/main")
	}
	if len(peers) != 1 {
		t.Errorf("20 checks took %d connections", len(peers))
	}
	// The server drops the connection just when the next question is sent: the question goes again by another.
	front := closingProxy(t, s.URL)
	url := front + strings.TrimPrefix(repo.URL, s.URL)
	for i := range 20 {
		if _, err := c.ListRefs(t.Context(), remote(t, url), gitwire.Auth{}, []string{"refs/heads/main"}); err != nil {
			t.Fatalf("check %d: %v", i, err)
		}
	}
}

func TestDeadlineAndCancel(t *testing.T) {
	stuck := make(chan struct{})
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		_, _ = w.Write([]byte("000eversion 2\n"))
		_ = http.NewResponseController(w).Flush()
		<-stuck
	}))
	defer h.Close()
	defer close(stuck)

	begin := time.Now()
	f := fault(t, gitwire.New(gitwire.Options{Timeout: 50 * time.Millisecond}), h.URL+"/r.git", gitwire.Auth{})
	if f.Kind != sentry.Transient || !strings.Contains(f.Error(), "no whole answer within 50ms") {
		t.Errorf("%s: %v", f.Kind, f)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := gitwire.New(gitwire.Options{}).ListRefs(ctx, remote(t, h.URL+"/r.git"), gitwire.Auth{}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestServerThatIsNotThere(t *testing.T) {
	h := httptest.NewServer(nil)
	h.Close()
	f := fault(t, gitwire.New(gitwire.Options{}), h.URL+"/r.git", gitwire.Auth{})
	if f.Kind != sentry.Transient || !strings.Contains(f.Error(), "connection refused") {
		t.Errorf("%s: %v", f.Kind, f)
	}
}

func TestOnlyTheWeb(t *testing.T) {
	for _, url := range []string{"ssh://git@example.com/r.git", "file:///srv/r.git"} {
		r, err := sentry.ParseRemote(url, sentry.RemoteRules{Local: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := gitwire.New(gitwire.Options{}).ListRefs(t.Context(), r, gitwire.Auth{}, nil); sentry.AsFault(err).Kind != sentry.Invalid {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	s := gittest.NewServer(t)
	var repos []*gittest.Repo
	for i := range 4 {
		repos = append(repos, s.Repo(t, fmt.Sprintf("r%d.git", i)))
		repos[i].Commit(t, "main", nil, fmt.Sprint(i))
	}
	c := gitwire.New(gitwire.Options{})
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			repo := repos[i%len(repos)]
			refs, err := c.ListRefs(t.Context(), remote(t, repo.URL), gitwire.Auth{}, []string{"refs/heads/main"})
			if err != nil || len(refs) != 1 {
				t.Errorf("%v %v", refs, err)
			}
		})
	}
	wg.Wait()
}

func TestPasswordOfAProxyIsNotShown(t *testing.T) {
	f := fault(t, gitwire.New(gitwire.Options{Transport: failing{errors.New(`proxyconnect: "http://bot:canary-1234@proxy:1/" refused`)}}),
		"http://example.com/r.git", gitwire.Auth{})
	if strings.Contains(f.Error(), "canary") || !strings.Contains(f.Error(), "http://proxy:1/") {
		t.Errorf("%v", f)
	}
}

type failing struct{ err error }

func (f failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, f.err }
