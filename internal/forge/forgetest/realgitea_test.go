package forgetest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"sentry/internal/git/gittest"
)

// What the others' tests rely on.
func TestGitea(t *testing.T) {
	g := StartGitea(t)
	began := time.Now()

	t.Run("a private repository is pushed to and read with a token", func(t *testing.T) {
		r := g.Repository(t, "private", true)
		commit := r.Commit(t, "main", map[string]string{"a": "1"}, "first")
		if ref, err := os.ReadFile(r.RefFile("main")); err != nil || strings.TrimSpace(string(ref)) != commit {
			t.Errorf("on disk main is %q, %v; pushed was %s", ref, err, commit)
		}
		token := g.NewToken(t, "reader", "read:repository")
		if got := heads(t, r, token); got != commit {
			t.Errorf("with a token main is %q, pushed was %s", got, commit)
		}
		if got := heads(t, r, ""); got != "" {
			t.Errorf("without a token main is %q", got)
		}
		g.RevokeToken(t, "reader")
		if got := heads(t, r, token); got != "" {
			t.Errorf("with a revoked token main is %q", got)
		}
	})

	t.Run("a branch is rewritten, removed and made again", func(t *testing.T) {
		r := g.Repository(t, "branches", false)
		first := r.Commit(t, "main", nil, "first")
		r.Commit(t, "main", nil, "second")
		r.Local.Reset(t, "main", first)
		third := r.Commit(t, "main", nil, "third")
		if got := heads(t, r, ""); got != third {
			t.Errorf("main is %q, pushed was %s", got, third)
		}
		r.Commit(t, "gone", nil, "fourth")
		r.Delete(t, "gone")
		if _, err := os.Stat(r.RefFile("gone")); !os.IsNotExist(err) {
			t.Errorf("a deleted branch is on disk: %v", err)
		}
	})

	t.Run("a renamed repository is found under both names", func(t *testing.T) {
		r := g.Repository(t, "before", false)
		commit := r.Commit(t, "main", nil, "first")
		old := *r
		r.Rename(t, "after")
		for _, r := range []*GiteaRepository{&old, r} {
			if got := heads(t, r, ""); got != commit {
				t.Errorf("under the name %s main is %q, pushed was %s", r.Name, got, commit)
			}
		}
		if r.Commit(t, "main", nil, "second") == commit {
			t.Error("nothing was committed")
		}
	})

	t.Run("a push is told, signed", func(t *testing.T) {
		told := make(chan *http.Request, 10)
		receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			told <- r
		}))
		defer receiver.Close()
		r := g.Repository(t, "hooked", true)
		r.Webhook(t, receiver.URL+"/hooks/gitea", "secret")
		r.Commit(t, "main", nil, "first")
		select {
		case req := <-told:
			if req.URL.Path != "/hooks/gitea" || len(req.Header.Get("X-Gitea-Signature")) != 64 || req.Header.Get("X-Gitea-Event") != "push" {
				t.Errorf("told was %s with %v", req.URL, req.Header)
			}
		case <-time.After(30 * time.Second):
			t.Error("nothing was told")
		}
	})

	t.Run("a status is read back", func(t *testing.T) {
		r := g.Repository(t, "status", false)
		commit := r.Commit(t, "main", nil, "first")
		if list := r.Statuses(t, commit); len(list) != 0 {
			t.Errorf("statuses of a new commit: %v", list)
		}
		for _, state := range []string{"pending", "success"} {
			g.Call(t, http.MethodPost, r.api("/statuses/"+commit), map[string]string{"state": state, "context": "test/one"}, nil)
		}
		if list := r.Statuses(t, commit); len(list) != 2 || list[0].State != "pending" || list[1].State != "success" || list[1].Context != "test/one" {
			t.Errorf("statuses: %+v", list)
		}
	})
	t.Logf("all that took %v", time.Since(began))
}

// heads is what main is at for who has this token, "" where nobody is let in.
func heads(t *testing.T, r *GiteaRepository, token string) string {
	t.Helper()
	address := r.URL
	if token != "" {
		address = strings.Replace(address, "://", "://any:"+token+"@", 1)
	}
	cmd := exec.Command("git", "ls-remote", address, "refs/heads/main")
	cmd.Env = gittest.Environ()
	out, _ := cmd.Output()
	commit, _, _ := strings.Cut(string(out), "\t")
	return commit
}

// When a test ends, so does Gitea, with all that it started.
func TestGiteaEnds(t *testing.T) {
	var g *Gitea
	t.Run("a test", func(t *testing.T) {
		g = StartGitea(t)
		g.Repository(t, "some", false).Commit(t, "main", nil, "first")
		if len(below(g.dir)) == 0 {
			t.Error("Gitea is not seen to run")
		}
	})
	if g == nil {
		t.Skip("there is no Gitea")
	}
	if left := below(g.dir); len(left) != 0 {
		t.Errorf("processes are left: %v", left)
	}
	if _, err := os.Stat(g.dir); !os.IsNotExist(err) {
		t.Errorf("the folder is left: %v", err)
	}
}
