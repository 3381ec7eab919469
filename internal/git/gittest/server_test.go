package gittest_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"sentry/internal/git/gittest"
)

func TestServerCountsByKind(t *testing.T) {
	s := gittest.NewServer(t)
	repo := s.Repo(t, "a/b.git")
	first := repo.Commit(t, "main", map[string]string{"x": "1"}, "first")
	repo.Branches(t, 3, "many/%d", first)

	gittest.Git(t, "", "ls-remote", repo.URL, "refs/heads/main")
	gittest.Git(t, "", "-c", "protocol.version=0", "ls-remote", repo.URL)
	gittest.Git(t, "", "clone", "-q", repo.URL, filepath.Join(t.TempDir(), "tree"))

	for kind, want := range map[gittest.Kind]int{
		gittest.Capabilities: 2, gittest.Advertise: 1, gittest.LsRefs: 2, gittest.Fetch: 1, gittest.Push: 0,
	} {
		if got := s.Count(kind); got != want {
			t.Errorf("%d requests of kind %s, want %d", got, kind, want)
		}
	}
	for _, r := range s.Requests(gittest.LsRefs) {
		if r.Repository != "a/b.git" || r.Sent == 0 || r.Status != http.StatusOK {
			t.Errorf("noted %+v", r)
		}
	}
	s.Forget()
	if n := s.Count(); n != 0 {
		t.Errorf("%d requests after Forget", n)
	}
}

func TestRepoKeepsModesAndMoves(t *testing.T) {
	s := gittest.NewServer(t)
	repo := s.Repo(t, "modes.git")
	first := repo.CommitFiles(t, "main", []gittest.File{
		{Path: "run.sh", Content: "#!/bin/sh\n", Mode: "100755"},
		{Path: "link", Content: "run.sh", Mode: "120000"},
		{Path: "odd \"name\"\x1b", Content: "x"},
	}, "first")
	second := repo.CommitFiles(t, "main", []gittest.File{{Path: "link", Delete: true}}, "second")

	tree := filepath.Join(t.TempDir(), "tree")
	gittest.Git(t, "", "clone", "-q", repo.URL, tree)
	if info, err := os.Stat(filepath.Join(tree, "run.sh")); err != nil || info.Mode()&0o100 == 0 {
		t.Errorf("run.sh: %v %v", info, err)
	}
	if _, err := os.Lstat(filepath.Join(tree, "link")); !os.IsNotExist(err) {
		t.Errorf("link is still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(tree, "odd \"name\"\x1b")); err != nil {
		t.Error(err)
	}
	if first == second || repo.Head(t, "main") != second {
		t.Errorf("main is %s after %s and %s", repo.Head(t, "main"), first, second)
	}
	repo.Reset(t, "main", first)
	if got := repo.Head(t, "main"); got != first {
		t.Errorf("after the reset main is %s, want %s", got, first)
	}
	repo.Delete(t, "main")
	if got := repo.Head(t, "main"); got != "" {
		t.Errorf("after its deletion main is %s", got)
	}
}

func TestTokenAndIntercept(t *testing.T) {
	s := gittest.NewServer(t)
	repo := s.Repo(t, "r.git")
	repo.Commit(t, "main", nil, "first")
	status := func() int {
		resp, err := http.Get(repo.URL + "/info/refs?service=git-upload-pack")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	s.SetToken("bot", "t0ken")
	if got := status(); got != http.StatusUnauthorized {
		t.Errorf("without the token: %d", got)
	}
	s.SetToken("", "")
	s.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		http.Error(w, "maintenance", http.StatusServiceUnavailable)
	})
	if got := status(); got != http.StatusServiceUnavailable {
		t.Errorf("intercepted: %d", got)
	}
	s.Intercept(nil)
	if got := status(); got != http.StatusOK {
		t.Errorf("afterwards: %d", got)
	}
}
