package gitwire_test

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"compress/zlib"
	"crypto/rand"
	"crypto/sha1"
	"errors"
	"fmt"
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

func TestLooseCommit(t *testing.T) {
	s := gittest.NewServer(t)
	s.SetToken("me", "secret")
	auth := gitwire.Auth{Username: "me", Token: sentry.NewSecret("secret")}
	repo := s.Repo(t, "r.git")
	other := gittest.NewRepo(t, filepath.Join(s.Dir, "new.git"), s.URL+"/new.git", "--object-format=sha256")
	c := gitwire.New(gitwire.Options{})
	for _, r := range []*gittest.Repo{repo, other} {
		id := r.Commit(t, "main", map[string]string{"f": randomText(100_000)}, "First: with a subject\n\nand a body")
		s.Forget()
		got, err := c.LooseCommit(t.Context(), remote(t, r.URL), auth, id)
		if err != nil {
			t.Fatal(err)
		}
		if got.AuthorName != "Ada Author" || got.AuthorEmail != "ada@example.com" || strings.TrimSpace(got.Message) != "First: with a subject\n\nand a body" || got.Time.Year() != 2023 {
			t.Errorf("%+v", got)
		}
		if asked := s.Requests(); len(asked) != 1 || asked[0].Method != http.MethodGet || asked[0].Sent > 300 {
			t.Errorf("it took %+v", asked)
		}
		if same, err := c.Commit(t.Context(), remote(t, r.URL), auth, id); err != nil || same != got {
			t.Errorf("it is %+v with a fetch, %+v without one: %v", same, got, err)
		}
		gittest.Git(t, r.Dir, "repack", "-adq")
		if _, err := c.LooseCommit(t.Context(), remote(t, r.URL), auth, id); sentry.AsFault(err).Kind != sentry.NotFound {
			t.Errorf("of a commit in a pack: %v", err)
		}
	}
	id := repo.Head(t, "main")
	if _, err := c.LooseCommit(t.Context(), remote(t, repo.URL), gitwire.Auth{Username: "me", Token: sentry.NewSecret("wrong")}, id); sentry.AsFault(err).Kind != sentry.Unauthorized || strings.Contains(err.Error(), "wrong") {
		t.Errorf("with another token: %v", err)
	}
	if _, err := c.LooseCommit(t.Context(), remote(t, repo.URL), auth, "main"); sentry.AsFault(err).Kind != sentry.Invalid {
		t.Errorf("of no commit: %v", err)
	}
}

// What is no file of that commit is not believed, whatever it is, and costs no more than a commit may.
func TestHostileLooseCommits(t *testing.T) {
	const commit = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor A <a@x> 1700000000 +0000\ncommitter A <a@x> 1700000000 +0000\n\nfirst\n"
	object := func(head, body string) string {
		var b bytes.Buffer
		w := zlib.NewWriter(&b)
		_, _ = w.Write([]byte(head + body))
		_ = w.Close()
		return b.String()
	}
	head := fmt.Sprintf("commit %d\x00", len(commit))
	id := fmt.Sprintf("%x", sha1.Sum([]byte(head+commit)))
	good := object(head, commit)
	large := strings.Repeat("x", 2<<20)
	answers := map[string]struct {
		body, kind, encoding string
		want                 sentry.FaultKind
	}{
		"the commit":                   {body: good},
		"the commit, packed":           {body: zipped(good), encoding: "gzip"},
		"the commit, packed otherwise": {body: good, encoding: "br", want: sentry.Invalid},
		"not packed":                   {body: good, encoding: "gzip", want: sentry.Invalid},
		"nothing":                      {want: sentry.Transient},
		"half of it":                   {body: good[:len(good)/2], want: sentry.Transient},
		"without its checksum":         {body: good[:len(good)-2], want: sentry.Transient},
		"with another checksum":        {body: good[:len(good)-2] + "xx", want: sentry.Invalid},
		"not compressed":               {body: head + commit, want: sentry.Invalid},
		"another commit":               {body: object(head, strings.Replace(commit, "first", "other", 1)), want: sentry.Invalid},
		"a longer commit":              {body: object(head, commit+"more"), want: sentry.Invalid},
		"a shorter commit":             {body: object(head, commit[:50]), want: sentry.Invalid},
		"a file":                       {body: object(strings.Replace(head, "commit", "blob", 1), commit), want: sentry.Invalid},
		"no header":                    {body: object("", commit), want: sentry.Invalid},
		"an empty object":              {body: object("", ""), want: sentry.Invalid},
		"a bomb":                       {body: object(fmt.Sprintf("commit %d\x00", len(large)), large), want: sentry.Invalid},
		"a page":                       {body: "<html>", kind: "text/html", want: sentry.Invalid},
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if want := "/r.git/objects/" + id[:2] + "/" + id[2:]; r.URL.Path != want {
					t.Errorf("asked for %s, not %s", r.URL.Path, want)
				}
				w.Header().Set("Content-Type", cmp.Or(answer.kind, "application/x-git-loose-object"))
				if answer.encoding != "" {
					w.Header().Set("Content-Encoding", answer.encoding)
				}
				_, _ = w.Write([]byte(answer.body))
			}))
			defer h.Close()
			got, err := gitwire.New(gitwire.Options{}).LooseCommit(t.Context(), remote(t, h.URL+"/r.git"), gitwire.Auth{}, id)
			switch {
			case answer.want == "" && (err != nil || got.Message != "first\n"):
				t.Errorf("%+v %v", got, err)
			case answer.want != "" && (err == nil || sentry.AsFault(err).Kind != answer.want):
				t.Errorf("%+v %v", got, err)
			}
		})
	}
}

func zipped(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	return b.String()
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
