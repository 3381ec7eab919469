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

	"github.com/google/go-cmp/cmp"

	"sentry/internal/git/gittest"
)

// What the others' tests rely on.
func TestGitea(t *testing.T) {
	g := NewGitea(t)

	t.Run("a private repository is pushed to, and read with a token", func(t *testing.T) {
		remote := g.Repository("acme/private", true)
		commit := g.Push("acme/private", "main")
		if ref, err := os.ReadFile(g.RefFile("acme/private", "main")); err != nil || strings.TrimSpace(string(ref)) != commit {
			t.Errorf("on disk main is %q, %v; pushed was %s", ref, err, commit)
		}
		token := g.Token("read:repository")
		if got := lsRemote(remote, token); got != commit {
			t.Errorf("with a token main is %q, pushed was %s", got, commit)
		}
		if got := lsRemote(remote, ""); got != "" {
			t.Errorf("without a token main is %q", got)
		}
		g.Revoke(token)
		if got := lsRemote(remote, token); got != "" {
			t.Errorf("with a revoked token main is %q", got)
		}
	})

	t.Run("a branch moves on, aside and back, goes and comes again", func(t *testing.T) {
		remote := g.Repository("ada/branches", false)
		first := g.Push("ada/branches", "main")
		var seen []string
		look := func(want string) {
			t.Helper()
			if got := lsRemote(remote, ""); got != want || g.Head("ada/branches", "main") != want {
				t.Errorf("main is %q, on disk %q; it should be %q", got, g.Head("ada/branches", "main"), want)
			}
			seen = append(seen, want)
		}
		look(first)
		look(g.Push("ada/branches", "main"))
		look(g.ForcePush("ada/branches", "main"))
		g.Set("ada/branches", "main", first)
		look(first)
		// Gitea lets nobody delete the default branch.
		g.Push("ada/branches", "gone")
		g.Delete("ada/branches", "gone")
		if head := g.Head("ada/branches", "gone"); head != "" {
			t.Errorf("a deleted branch is at %s", head)
		}
		if back := g.Push("ada/branches", "gone"); g.Head("ada/branches", "gone") != back {
			t.Errorf("a branch that is back is at %s, not at %s", g.Head("ada/branches", "gone"), back)
		}
		if seen[1] == seen[0] || seen[2] == seen[1] {
			t.Errorf("nothing moved: %v", seen)
		}
	})

	t.Run("a repository that moved is found under its old name", func(t *testing.T) {
		for _, to := range []string{"acme/after", "other/after", "other/again"} {
			old := g.Repository("acme/before", false)
			commit := g.Push("acme/before", "main")
			g.Rename("acme/before", to)
			if got := lsRemote(old, ""); got != commit {
				t.Errorf("moved to %s, main is %q under the old name; pushed was %s", to, got, commit)
			}
			if moved := g.Push(to, "main"); g.Head(to, "main") != moved {
				t.Errorf("%s does not move", to)
			}
			g.Remove(to)
			if got := lsRemote(old, ""); got != "" {
				t.Errorf("%s is removed, and main is %q", to, got)
			}
		}
	})

	t.Run("a push is told, signed", func(t *testing.T) {
		told := make(chan *http.Request, 10)
		receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			told <- r
		}))
		defer receiver.Close()
		g.Repository("acme/hooked", true)
		g.Webhook("acme/hooked", receiver.URL+"/hooks/gitea", "secret")
		g.Push("acme/hooked", "main")
		select {
		case r := <-told:
			if r.URL.Path != "/hooks/gitea" || len(r.Header.Get("X-Gitea-Signature")) != 64 || r.Header.Get("X-Gitea-Event") != "push" {
				t.Errorf("told was %s with %v", r.URL, r.Header)
			}
		case <-time.After(time.Minute):
			t.Error("nothing was told")
		}
	})

	t.Run("statuses are read back", func(t *testing.T) {
		g.Repository("acme/status", true)
		commit := g.Push("acme/status", "main")
		if list := g.History("acme/status", commit); len(list) != 0 {
			t.Errorf("statuses of a new commit: %v", list)
		}
		write, read := g.Token("write:repository"), g.Token("read:repository")
		for _, state := range []string{"pending", "success"} {
			body := `{"state": "` + state + `", "context": "one"}`
			if code := post(t, g.API()+"/repos/acme/status/statuses/"+commit, write, body); code != http.StatusCreated {
				t.Errorf("status %s: answered with %d", state, code)
			}
			if code := post(t, g.API()+"/repos/acme/status/statuses/"+commit, read, body); code != http.StatusForbidden {
				t.Errorf("status %s without the scope: answered with %d", state, code)
			}
		}
		if diff := cmp.Diff([]Status{{Context: "one", State: "pending"}, {Context: "one", State: "success"}}, g.History("acme/status", commit)); diff != "" {
			t.Errorf("history (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]Status{{Context: "one", State: "success"}}, g.Statuses("acme/status", commit)); diff != "" {
			t.Errorf("newest (-want +got):\n%s", diff)
		}
	})

	t.Run("what comes through the front is counted", func(t *testing.T) {
		remote := g.Repository("ada/counted", false)
		commit := g.Push("ada/counted", "main")
		before := g.Requests()
		post(t, g.API()+"/markdown/raw", "", "text")
		lsRemote(remote, "")
		after := g.Requests()
		if after.API-before.API != 1 || after.Charged-before.Charged != 1 || after.Git-before.Git != 2 || after.Most < 1 {
			t.Errorf("before %+v, after %+v", before, after)
		}
		g.Fail(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Retry-After", "60")
			w.WriteHeader(http.StatusTooManyRequests)
		})
		lsRemote(remote, "")
		lsRemote(remote, "")
		g.Fail(nil)
		if refused := g.Requests(); refused.Refused-after.Refused != 2 || refused.Forbidden-after.Forbidden != 1 {
			t.Errorf("before %+v, after two that are refused %+v", after, refused)
		}
		if got := lsRemote(remote, ""); got != commit {
			t.Errorf("afterwards main is %q", got)
		}
	})
}

// lsRemote is what main is at for who has this token ("" for nobody), and "" for who is not let in.
func lsRemote(remote, token string) string {
	if token != "" {
		remote = strings.Replace(remote, "://", "://any:"+token+"@", 1)
	}
	cmd := exec.Command("git", "ls-remote", remote, "refs/heads/main")
	cmd.Env = gittest.Environ()
	out, _ := cmd.Output()
	commit, _, _ := strings.Cut(string(out), "\t")
	return commit
}

// post sends JSON and gives the status of the answer.
func post(t *testing.T, url, token, body string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "token "+token)
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	return answer.StatusCode
}

// When a test ends, so does Gitea, with all that it started.
func TestGiteaEnds(t *testing.T) {
	var g *Gitea
	t.Run("a test", func(t *testing.T) {
		g = NewGitea(t)
		g.Repository("ada/some", false)
		g.Push("ada/some", "main")
		if len(below(g.server.dir)) == 0 {
			t.Error("Gitea is not seen to run")
		}
	})
	if g == nil {
		t.Skip("there is no Gitea")
	}
	if left := below(g.server.dir); len(left) != 0 {
		t.Errorf("processes are left: %v", left)
	}
	if _, err := os.Stat(g.server.dir); !os.IsNotExist(err) {
		t.Errorf("the folder is left: %v", err)
	}
}
