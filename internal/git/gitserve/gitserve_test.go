package gitserve_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sentry/internal/git/gitserve"
	"sentry/internal/git/gittest"
)

func serve(t *testing.T, o gitserve.Options) (base string, repo *gittest.Repo) {
	t.Helper()
	root := t.TempDir()
	server := httptest.NewServer(gitserve.Handler(root, o))
	t.Cleanup(server.Close)
	repo = gittest.NewRepo(t, filepath.Join(root, "team", "qa.git"), server.URL+"/team/qa.git")
	return server.URL, repo
}

func TestCloneAndPush(t *testing.T) {
	_, repo := serve(t, gitserve.Options{ReceivePack: true})
	commit := repo.Commit(t, "main", map[string]string{"a.txt": "one"}, "first")

	tree := filepath.Join(t.TempDir(), "tree")
	gittest.Git(t, "", "clone", "-q", repo.URL, tree)
	if got := strings.TrimSpace(gittest.Git(t, tree, "rev-parse", "HEAD")); got != commit {
		t.Fatalf("cloned %s, want %s", got, commit)
	}
	gittest.Git(t, tree, "commit", "-q", "--allow-empty", "-m", "second")
	// Without a post buffer the pack comes in chunks, which CGI knows nothing of.
	gittest.Git(t, tree, "-c", "http.postBuffer=1", "push", "-q", "origin", "main")
	if got, want := repo.Head(t, "main"), strings.TrimSpace(gittest.Git(t, tree, "rev-parse", "HEAD")); got != want || got == commit {
		t.Fatalf("after the push main is %s, want %s", got, want)
	}
}

func TestPushIsRefusedUnlessAllowed(t *testing.T) {
	_, repo := serve(t, gitserve.Options{})
	commit := repo.Commit(t, "main", nil, "first")
	tree := filepath.Join(t.TempDir(), "tree")
	gittest.Git(t, "", "clone", "-q", repo.URL, tree)
	gittest.Git(t, tree, "commit", "-q", "--allow-empty", "-m", "second")

	push := exec.Command("git", "push", "-q", "origin", "main")
	push.Dir, push.Env = tree, gittest.Environ()
	if out, err := push.CombinedOutput(); err == nil {
		t.Fatalf("the push went through: %s", out)
	}
	if got := repo.Head(t, "main"); got != commit {
		t.Fatalf("main moved to %s", got)
	}
}

func TestProtocolVersion2(t *testing.T) {
	_, repo := serve(t, gitserve.Options{})
	repo.Commit(t, "main", nil, "first")
	for header, want := range map[string]string{
		"version=2":            "version 2",
		"":                     "# service=git-upload-pack",
		"version=2\tinjected=": "# service=git-upload-pack", // not in the grammar: as if it were not there
	} {
		r, _ := http.NewRequest(http.MethodGet, repo.URL+"/info/refs?service=git-upload-pack", nil)
		if header != "" {
			r.Header.Set("Git-Protocol", header)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		line, _, _ := strings.Cut(string(body), "\n")
		if !strings.HasSuffix(line, want) {
			t.Errorf("Git-Protocol %q is answered with %q, want …%q", header, line, want)
		}
	}
}

func TestAccount(t *testing.T) {
	_, repo := serve(t, gitserve.Options{User: "bot", Token: "s3cret"})
	repo.Commit(t, "main", nil, "first")
	for _, c := range []struct {
		user, token string
		want        int
	}{
		{"", "", http.StatusUnauthorized},
		{"bot", "wrong", http.StatusUnauthorized},
		{"other", "s3cret", http.StatusUnauthorized},
		{"bot", "s3cret", http.StatusOK},
	} {
		r, _ := http.NewRequest(http.MethodGet, repo.URL+"/info/refs?service=git-upload-pack", nil)
		if c.user != "" {
			r.SetBasicAuth(c.user, c.token)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%q with %q: status %d, want %d", c.user, c.token, resp.StatusCode, c.want)
		}
		if asked := resp.Header.Get("WWW-Authenticate") != ""; asked != (c.want == http.StatusUnauthorized) {
			t.Errorf("%q with %q: WWW-Authenticate is %q", c.user, c.token, resp.Header.Get("WWW-Authenticate"))
		}
	}
}

func TestNothingOutsideRootIsServed(t *testing.T) {
	root := t.TempDir()
	outside := gittest.NewRepo(t, filepath.Join(root, "outside.git"), "")
	outside.Commit(t, "main", nil, "secret")
	h := gitserve.Handler(filepath.Join(root, "served"), gitserve.Options{})
	for _, p := range []string{"/../outside.git", "/x/../../outside.git", "//outside.git", "/./outside.git"} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL.Path, r.URL.RawQuery = p+"/info/refs", "service=git-upload-pack"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusNotFound {
			t.Errorf("%s is answered with %d: %s", p, w.Code, w.Body)
		}
	}
}
