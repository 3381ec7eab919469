package gitwire_test

import (
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sentry/internal/git/gittest"
	"sentry/internal/git/gitwire"
	"sentry/internal/sentry"
)

func TestCommit(t *testing.T) {
	s := gittest.NewServer(t)
	repo := s.Repo(t, "r.git")
	files := map[string]string{}
	for _, name := range strings.Fields("a b c d e f g h i j k l m n o p q r s t") {
		files[name] = strings.Repeat(name, 5000)
	}
	first := repo.Commit(t, "main", files, "First: with a subject\non two lines\n\nand a body")
	second := repo.Commit(t, "main", nil, "second")
	c := gitwire.New(gitwire.Options{})
	for id, message := range map[string]string{first: "First: with a subject\non two lines\n\nand a body", second: "second"} {
		got, err := c.Commit(t.Context(), remote(t, repo.URL), gitwire.Auth{}, id)
		if err != nil {
			t.Fatal(err)
		}
		if got.AuthorName != "Ada Author" || got.AuthorEmail != "ada@example.com" || strings.TrimSuffix(got.Message, "\n") != message || got.Time.Year() != 2023 {
			t.Errorf("%+v", got)
		}
	}
	for _, r := range s.Requests(gittest.Fetch) {
		if r.Sent > 500 {
			t.Errorf("a commit took %d bytes", r.Sent)
		}
	}
	if n := s.Count(); n != 3 {
		t.Errorf("%d requests", n)
	}

	other := gittest.NewRepo(t, filepath.Join(s.Dir, "new.git"), s.URL+"/new.git", "--object-format=sha256")
	id := other.Commit(t, "main", nil, "with the other hash")
	if got, err := c.Commit(t.Context(), remote(t, other.URL), gitwire.Auth{}, id); err != nil || !strings.HasPrefix(got.Message, "with the other hash") {
		t.Errorf("%+v %v", got, err)
	}
	for _, wrong := range []string{"", "main", "--upload-pack=x", strings.Repeat("0", 39), strings.Repeat("A", 40)} {
		if _, err := c.Commit(t.Context(), remote(t, repo.URL), gitwire.Auth{}, wrong); sentry.AsFault(err).Kind != sentry.Invalid {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	if _, err := c.Commit(t.Context(), remote(t, repo.URL), gitwire.Auth{}, strings.Repeat("a", 40)); err == nil || !strings.Contains(err.Error(), "not our ref") {
		t.Errorf("a commit that is not there: %v", err)
	}
}

// A server that cannot leave out files is left when the commit has come.
func TestCommitWithoutFilter(t *testing.T) {
	s := gittest.NewServer(t)
	repo := s.Repo(t, "r.git")
	files := map[string]string{"b": "b"}
	for i := range 30 {
		files["a"+strings.Repeat("x", i)] = randomText(100_000)
	}
	id := repo.Commit(t, "main", files, "big")
	s.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.HasSuffix(r.URL.Path, "/info/refs") {
			answer := httptest.NewRecorder()
			next.ServeHTTP(answer, r)
			w.Header().Set("Content-Type", answer.Header().Get("Content-Type"))
			_, _ = w.Write([]byte(strings.ReplaceAll(answer.Body.String(), "filter", "fxlter")))
			return
		}
		next.ServeHTTP(w, r)
	})
	c := gitwire.New(gitwire.Options{})
	got, err := c.Commit(t.Context(), remote(t, repo.URL), gitwire.Auth{}, id)
	if err != nil || !strings.HasPrefix(got.Message, "big") {
		t.Fatal(got, err)
	}
	if question := s.Requests(gittest.Fetch); len(question) > 0 && strings.Contains(question[0].Body, "filter tree") {
		t.Error("it was asked to leave out files nevertheless")
	}
	// And the next question goes through.
	if refs := list(t, c, repo.URL, "refs/heads/main"); len(refs) != 1 {
		t.Errorf("afterwards: %v", refs)
	}
}

func TestCommitFromAnOldServer(t *testing.T) {
	s := gittest.NewServer(t)
	repo := s.Repo(t, "r.git")
	id := repo.Commit(t, "main", nil, "first")
	s.Intercept(downgrade(""))
	if _, err := gitwire.New(gitwire.Options{}).Commit(t.Context(), remote(t, repo.URL), gitwire.Auth{}, id); !errors.Is(err, gitwire.ErrNoFetch) {
		t.Errorf("%v", err)
	}
}

func TestTruncatedCommits(t *testing.T) {
	s := gittest.NewServer(t)
	repo := s.Repo(t, "r.git")
	id := repo.Commit(t, "main", nil, "first")
	var answer *httptest.ResponseRecorder
	cut := 0
	c := gitwire.New(gitwire.Options{})
	list(t, c, repo.URL, "refs/heads/main")
	s.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if answer == nil {
			answer = httptest.NewRecorder()
			next.ServeHTTP(answer, r)
		}
		w.Header().Set("Content-Type", answer.Header().Get("Content-Type"))
		_, _ = w.Write(answer.Body.Bytes()[:min(cut, answer.Body.Len())])
	})
	good := -1
	for ; answer == nil || cut <= answer.Body.Len(); cut++ {
		_, err := c.Commit(t.Context(), remote(t, repo.URL), gitwire.Auth{}, id)
		switch {
		case err == nil && good < 0:
			good = cut
		case err != nil && good >= 0:
			t.Fatalf("the first %d bytes were enough, %d are not: %v", good, cut, err)
		case err != nil && sentry.AsFault(err).Kind != sentry.Transient:
			t.Fatalf("cut at %d: %v", cut, err)
		}
	}
	if good < 100 {
		t.Errorf("%d of %d bytes were believed", good, answer.Body.Len())
	}
}

func TestCommitInAnotherEncoding(t *testing.T) {
	s := gittest.NewServer(t)
	repo := s.Repo(t, "r.git")
	tree := strings.TrimSpace(gittest.Git(t, repo.Dir, "hash-object", "-t", "tree", "-w", "/dev/null"))
	for encoding, want := range map[string]string{"encoding ISO-8859-1\n": "J\u00f6rg", "": "J\uFFFDrg", "encoding utf-8\n": "J\uFFFDrg"} {
		text := "tree " + tree + "\nauthor J\xf6rg <j@x> 1700000000 +0000\ncommitter x <x@x> 99999999999999 +0000\n" + encoding + "\nJ\xf6rg was here\x1b\n"
		cmd := exec.Command("git", "hash-object", "-t", "commit", "-w", "--literally", "--stdin")
		cmd.Dir, cmd.Env, cmd.Stdin = repo.Dir, gittest.Environ(), strings.NewReader(text)
		id, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		gittest.Git(t, repo.Dir, "update-ref", "refs/heads/main", strings.TrimSpace(string(id)))
		got, err := gitwire.New(gitwire.Options{}).Commit(t.Context(), remote(t, repo.URL), gitwire.Auth{}, strings.TrimSpace(string(id)))
		if err != nil || got.AuthorName != want || got.Message != want+" was here\x1b\n" || !got.Time.IsZero() {
			t.Errorf("%q: %+v %v", encoding, got, err)
		}
	}
}

func randomText(n int) string {
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(rand.Text())
	}
	return b.String()
}
