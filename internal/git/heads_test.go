package git

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"sentry/internal/git/gittest"
	"sentry/internal/git/gitwire"
	"sentry/internal/sentry"
)

func TestHeads(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "r.git")
	one := repo.Commit(t, "main", nil, "first")
	two := repo.Commit(t, "release/1.0", nil, "second")
	for _, branch := range []string{"main2", "release/1.0/x", "v1.2-draft", "not-v1.2-draft", "feature/a/b", "release2"} {
		if branch != "release/1.0/x" {
			repo.Branch(t, branch, one)
		}
	}
	repo.Branch(t, "release/2.0", one)
	// Names that git keeps and Sentry has no use for.
	for _, odd := range []string{"-x", strings.Repeat("long/", 60) + "x", "bad\xffutf", "bidi\u202ename"} {
		gittest.Git(t, repo.Dir, "update-ref", "refs/heads/"+odd, one)
	}
	gittest.Git(t, repo.Dir, "tag", "main")

	urls := []string{repo.URL, "file://" + repo.Dir}
	for _, c := range []struct {
		patterns []string
		want     map[string]string
	}{
		{[]string{"main"}, map[string]string{"main": one}},
		{[]string{"main", "main"}, map[string]string{"main": one}},
		{[]string{"gone"}, map[string]string{}},
		{nil, map[string]string{}},
		{[]string{"release/*"}, map[string]string{"release/1.0": two, "release/2.0": one}},
		{[]string{"/^v[0-9.]+-draft$/"}, map[string]string{"v1.2-draft": one}},
		{[]string{"feature/*"}, map[string]string{}},
		{[]string{"feature/**", "main*"}, map[string]string{"feature/a/b": one, "main": one, "main2": one}},
		{[]string{"a", "b", "c", "d", "e", "f", "g", "h", "main", "release/2*"}, map[string]string{"main": one, "release/2.0": one}},
	} {
		for _, url := range urls {
			got, err := b.git.Heads(t.Context(), b.remote(url), Auth{}, patterns(t, c.patterns...))
			if err != nil || !maps.Equal(got, c.want) {
				t.Errorf("%q of %s: %v %v, want %v", c.patterns, url, got, err, c.want)
			}
		}
	}
	all, err := b.git.Heads(t.Context(), b.remote(repo.URL), Auth{}, patterns(t, "**"))
	if err != nil {
		t.Fatal(err)
	}
	for branch := range all {
		if err := sentry.CheckBranch(branch); err != nil {
			t.Error(err)
		}
	}
	if len(all) < 8 {
		t.Errorf("all branches: %v", all)
	}
}

// A question that is put again is answered in full only where something has moved.
func TestHeadsSince(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "r.git")
	one := repo.Commit(t, "main", nil, "first")
	for _, c := range []struct {
		url      string
		remember bool // over HTTP
	}{{repo.URL, true}, {"file://" + repo.Dir, false}} {
		r, wanted := b.remote(c.url), patterns(t, "main", "release/*")
		repo.Reset(t, "main", one)
		want := map[string]string{"main": one}
		last := Digest(0)
		for step := range 6 {
			moved := step%2 == 0
			found, now, err := b.git.HeadsSince(t.Context(), r, Auth{}, wanted, last)
			if err != nil || (found == nil) != (c.remember && !moved) || found != nil && !maps.Equal(found, want) || (now != 0) != c.remember {
				t.Errorf("%s, step %d: %v, digest %x after %x, %v; want %v", c.url, step, found, now, last, err, want)
			}
			last = now
			if !moved {
				want = map[string]string{"main": repo.Commit(t, "main", nil, fmt.Sprint("step ", step))}
			}
		}
	}
}

func TestAllPatternsAreOneQuestion(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "r.git")
	commit := repo.Commit(t, "main", nil, "first")
	repo.Branches(t, 100, "b%02d", commit)
	var texts []string
	for i := range 100 {
		texts = append(texts, fmt.Sprintf("b%02d", i))
	}
	list := patterns(t, append(texts, "re*", "/^x/")...)
	for range 2 {
		b.server.Forget()
		if heads, err := b.git.Heads(t.Context(), b.remote(repo.URL), Auth{}, list); err != nil || len(heads) != 100 {
			t.Fatal(len(heads), err)
		}
	}
	if n := b.server.Count(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestHeadsOfWhatIsNotThere(t *testing.T) {
	b := newBench(t, Options{})
	for url, kind := range map[string]sentry.FaultKind{
		b.server.URL + "/none.git":           sentry.NotFound,
		"file://" + b.server.Dir + "/none":   sentry.NotFound,
		"http://127.0.0.1:1/none.git":        sentry.Transient,
		"ssh://git@127.0.0.1:1/none/of.this": sentry.Transient,
	} {
		_, err := b.git.Heads(within(t, 20*time.Second), b.remote(url), Auth{}, patterns(t, "main"))
		if err == nil || faultKind(t, err) != kind || !strings.Contains(err.Error(), "cannot ask ") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestFaultsOfGit(t *testing.T) {
	for text, kind := range map[string]sentry.FaultKind{
		"fatal: Authentication failed for 'https://forge.example/r.git/'":                                                                                 sentry.Unauthorized,
		"fatal: could not read Username for 'https://forge.example': terminal prompts disabled":                                                           sentry.Unauthorized,
		"git@forge.example: Permission denied (publickey).\nfatal: Could not read from remote repository.":                                                sentry.Unauthorized,
		"Host key verification failed.\nfatal: Could not read from remote repository.":                                                                    sentry.Unauthorized,
		"fatal: unable to access 'https://forge.example/r.git/': The requested URL returned error: 403":                                                   sentry.Unauthorized,
		"fatal: unable to access 'https://forge.example/r.git/': The requested URL returned error: 429":                                                   sentry.RateLimited,
		"remote: Repository not found.\nfatal: repository 'https://forge.example/r.git/' not found":                                                       sentry.NotFound,
		"fatal: couldn't find remote ref refs/heads/x":                                                                                                    sentry.NotFound,
		"fatal: '/srv/r.git' does not appear to be a git repository":                                                                                      sentry.NotFound,
		"fatal: unable to access 'https://forge.example/r.git/': The requested URL returned error: 302":                                                   sentry.Invalid,
		"fatal: unable to access 'https://forge.example/r.git/': The requested URL returned error: 503":                                                   sentry.Transient,
		"ssh: connect to host forge.example port 22: Connection timed out":                                                                                sentry.Transient,
		"error: RPC failed; curl 18 transfer closed with outstanding read data remaining\nfatal: early EOF\nfatal: fetch-pack: invalid index-pack output": sentry.Transient,
	} {
		err := remoteFault(fmt.Errorf("cannot: %w", &runError{command: "fetch", stderr: text, cause: fmt.Errorf("exit status 128")}))
		if got := faultKind(t, err); got != kind {
			t.Errorf("%s: %s, want %s", text, got, kind)
		}
	}
}

func TestHeadsKeepsTheFault(t *testing.T) {
	b := newBench(t, Options{})
	b.server.Intercept(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("Retry-After", "17")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	_, err := b.git.Heads(t.Context(), b.remote(b.server.URL+"/r.git"), Auth{}, patterns(t, "main"))
	if f := sentry.AsFault(err); f.Kind != sentry.RateLimited || f.RetryAfter != 17*time.Second {
		t.Errorf("%s after %s: %v", f.Kind, f.RetryAfter, err)
	}
}

func TestRevision(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "r.git")
	files := map[string]string{}
	for i := range 50 {
		files[fmt.Sprintf("f%d", i)] = strings.Repeat("x", 1000+i)
	}
	repo.Commit(t, "main", files, "first")
	commit := repo.Commit(t, "main", nil, "Second: with a subject\non two lines\n\nand a body")
	for _, url := range []string{repo.URL, "file://" + repo.Dir} {
		got, err := b.git.Revision(t.Context(), b.remote(url), Auth{}, "main", commit)
		if err != nil {
			t.Fatal(err)
		}
		if got.Commit != commit || got.Author != "Ada Author <ada@example.com>" || got.Subject != "Second: with a subject on two lines" ||
			got.Time.Year() != 2023 {
			t.Errorf("%+v", got)
		}
	}
	for _, r := range b.server.Requests(gittest.Fetch) {
		if r.Sent > 500 {
			t.Errorf("knowing the author took %d bytes", r.Sent)
		}
	}

	commit = repo.Commit(t, "main", nil, "evil\x1b[2J\u202e\r name "+strings.Repeat("long ", 1000))
	got, err := b.git.Revision(t.Context(), b.remote(repo.URL), Auth{}, "main", commit)
	if err != nil || !strings.HasPrefix(got.Subject, "evil\uFFFD[2J\uFFFD  name long") || len(got.Subject) > maxSubject+len("…") {
		t.Errorf("%q %v", got.Subject, err)
	}

	repo.Commit(t, "main", nil, "newer")
	if got, err := b.git.Revision(t.Context(), b.remote(repo.URL), Auth{}, "main", commit); err != nil || !strings.HasPrefix(got.Subject, "evil") {
		t.Errorf("a commit that the branch has left: %+v %v", got, err)
	}
	nobody := strings.Repeat("a", 40)
	if got, err := b.git.Revision(t.Context(), b.remote(repo.URL), Auth{}, "main", nobody); err == nil || got.Commit != nobody {
		t.Errorf("a commit that is not there: %+v %v", got, err)
	}
	b.server.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Header.Get("User-Agent") == gitwire.DefaultUserAgent {
			r.Header.Del("Git-Protocol") // then the git program does it
		}
		next.ServeHTTP(w, r)
	})
	commit = repo.Commit(t, "main", nil, "asked by git")
	if got, err := newBench(t, Options{}).git.Revision(t.Context(), b.remote(repo.URL), Auth{}, "main", commit); err != nil || got.Subject != "asked by git" {
		t.Errorf("from an old server: %+v %v", got, err)
	}
	b.server.Intercept(nil)
	sha256 := gittest.NewRepo(t, b.server.Dir+"/new.git", b.server.URL+"/new.git", "--object-format=sha256")
	commit = sha256.Commit(t, "main", nil, "with the other hash")
	if got, err := b.git.Revision(t.Context(), b.remote(sha256.URL), Auth{}, "main", commit); err != nil || got.Subject != "with the other hash" {
		t.Errorf("%+v %v", got, err)
	}
	if left := entries(t, b.git.temp); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
