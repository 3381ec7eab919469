package daemon

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sentry/internal/config"
	"sentry/internal/forge"
	"sentry/internal/git"
	"sentry/internal/git/gittest"
	"sentry/internal/logger"
	"sentry/internal/monitor"
	"sentry/internal/sentry"
)

// asking is an asker of repositories at one Git server.
type asking struct {
	*asker
	t      *testing.T
	server *gittest.Server
}

func newAsking(t *testing.T) *asking {
	g, err := git.New(git.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return &asking{newAsker(g, logger.NewMasker(), forge.Options{}), t, gittest.NewServer(t)}
}

func (a *asking) repository(name string, auth config.Auth) config.Repository {
	a.t.Helper()
	remote, err := sentry.ParseRemote(a.server.URL+"/"+name+".git", sentry.RemoteRules{InsecureHTTP: true})
	if err != nil {
		a.t.Fatal(err)
	}
	main, err := sentry.ParsePattern("main")
	if err != nil {
		a.t.Fatal(err)
	}
	return config.Repository{Name: name, Monitor: config.Monitor{Remote: remote, Branches: []sentry.Pattern{main}, Type: "git", Interval: time.Minute, Auth: auth}}
}

func (a *asking) heads(list ...*config.Repository) []monitor.Answer {
	asks, answers := make([]monitor.Ask, len(list)), make([]monitor.Answer, len(list))
	for i, r := range list {
		asks[i].Repository = r
	}
	a.Heads(a.t.Context(), asks, answers)
	return answers
}

func token(text string) config.Auth { return config.Auth{Token: sentry.NewSecret(text)} }

// Equal credentials have equal names, which do not tell them.
func TestCredentialsHaveNames(t *testing.T) {
	a := newAsking(t)
	app := &config.App{ID: 7, Installation: 8, KeyFile: "/run/key"}
	cfg := &config.Config{Repositories: []config.Repository{
		a.repository("a", token("secret-1")), a.repository("b", token("secret-2")), a.repository("c", token("secret-1")),
		a.repository("d", config.Auth{TokenFile: "/run/t"}), a.repository("e", config.Auth{}), a.repository("f", config.Auth{App: app}),
	}}
	a.update(cfg)
	var got []string
	for i := range cfg.Repositories {
		got = append(got, a.lookup(&cfg.Repositories[i]).Auth.Key)
	}
	if want := "[token of repository a token of repository b token of repository a token_file /run/t  app 7, installation 8]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}

// The tokens of an App come from the API of one server, and go to no other, whatever two configurations have in common.
func TestAppTokensStayAtTheirServer(t *testing.T) {
	a := newAsking(t)
	auth := config.Auth{App: &config.App{ID: 7, Installation: 8, KeyFile: "/run/key"}}
	cfg := &config.Config{Repositories: []config.Repository{a.repository("a", auth), a.repository("b", auth), a.repository("c", auth), a.repository("d", auth)}}
	cfg.Repositories[2].Monitor.APIURL = "https://api.example.com"
	a.server = gittest.NewServer(t)
	cfg.Repositories[3] = a.repository("d", auth)
	a.update(cfg)
	of := func(i int) *account { return a.lookup(&cfg.Repositories[i]).account }
	if of(0) != of(1) || of(0) == of(2) || of(0) == of(3) || of(2) == of(3) {
		t.Error("who shares the tokens of the App:", of(0) == of(1), of(0) == of(2), of(0) == of(3), of(2) == of(3))
	}
}

// What a new configuration leaves as it was is the same repository to the forges; questions of the former configuration
// are answered as long as they are still the same, and never with other credentials.
func TestNewConfiguration(t *testing.T) {
	a := newAsking(t)
	for _, name := range []string{"same", "other", "gone"} {
		a.server.Repo(t, name+".git").Commit(t, "main", map[string]string{"f": "1"}, "First")
	}
	first := &config.Config{Repositories: []config.Repository{
		a.repository("same", token("1")), a.repository("other", token("1")), a.repository("gone", token("1")),
	}}
	a.update(first)
	same, other := a.lookup(&first.Repositories[0]).Repository, a.lookup(&first.Repositories[1]).Repository
	second := &config.Config{Repositories: []config.Repository{a.repository("same", token("1")), a.repository("other", token("2"))}}
	a.update(second)
	if a.lookup(&second.Repositories[0]).Repository != same {
		t.Error("a repository that has not changed is another one")
	}
	if a.lookup(&second.Repositories[1]).Repository == other {
		t.Error("a repository with another token is the same")
	}
	if l := a.Lane(&second.Repositories[0]); l.Key != first.Repositories[0].Monitor.Remote.Origin() || l.Batch > 1 || l.Sweep {
		t.Errorf("lane: %+v", l)
	}
	for i, answer := range a.heads(&first.Repositories[0], &first.Repositories[1], &first.Repositories[2], &second.Repositories[1]) {
		if stale := i == 1 || i == 2; stale != (answer.Err != nil) || !stale && (len(answer.Heads) != 1 || answer.Way != "ls-refs") {
			t.Errorf("answer %d: %+v", i, answer)
		}
	}
	if _, err := a.Revision(t.Context(), &first.Repositories[1], "main", strings.Repeat("a", 40)); err == nil {
		t.Error("a revision of a repository with another token")
	}
}

// A token file that changes is read again, without a new configuration.
func TestTokenFile(t *testing.T) {
	a := newAsking(t)
	a.server.Repo(t, "r.git").Commit(t, "main", map[string]string{"f": "1"}, "First")
	a.server.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if _, password, _ := r.BasicAuth(); password != "new" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("old")
	cfg := &config.Config{Repositories: []config.Repository{a.repository("r", config.Auth{TokenFile: file})}}
	a.update(cfg)
	for _, c := range []struct {
		token string
		kind  sentry.FaultKind
	}{{"old", sentry.Unauthorized}, {"new", ""}, {"worse", sentry.Unauthorized}} {
		write(c.token)
		answer := a.heads(&cfg.Repositories[0])[0]
		if c.kind == "" && answer.Err != nil || c.kind != "" && (answer.Err == nil || sentry.AsFault(answer.Err).Kind != c.kind) {
			t.Errorf("with the token %s: %+v", c.token, answer)
		}
		if x := a.lookup(&cfg.Repositories[0]); (x.trouble.Load() != nil) != (c.kind != "") {
			t.Errorf("with the token %s the trouble is %+v", c.token, x.trouble.Load())
		}
	}
}

// Where nothing has moved since the last answer no heads are given, except to who wants them in full.
func TestSame(t *testing.T) {
	a := newAsking(t)
	repo := a.server.Repo(t, "r.git")
	cfg := &config.Config{Repositories: []config.Repository{a.repository("r", config.Auth{})}}
	r := &cfg.Repositories[0]
	commit := repo.Commit(t, "main", map[string]string{"f": "1"}, "First")
	a.update(cfg)
	for i, step := range []struct {
		full, same bool
		before     func()
	}{
		{false, false, nil},
		{false, true, nil},
		{true, false, nil},
		{false, true, nil},
		{false, false, func() { commit = repo.Commit(t, "main", map[string]string{"f": "2"}, "Second") }},
		{false, true, nil},
		{false, false, func() {
			// It was told by other means meanwhile that the branch is elsewhere.
			a.lookup(r).read(&monitor.Answer{Heads: map[string]string{"main": strings.Repeat("a", 40)}, Way: "GraphQL"})
		}},
		{false, true, nil},
		{false, false, func() { a.update(cfg) }},
	} {
		if step.before != nil {
			step.before()
		}
		var answer [1]monitor.Answer
		a.Heads(t.Context(), []monitor.Ask{{Repository: r, Full: step.full}}, answer[:])
		if got := answer[0]; got.Err != nil || got.Same != step.same || !step.same && (len(got.Heads) != 1 || got.Heads["main"] != commit) || step.same && got.Heads != nil {
			t.Errorf("step %d: %+v", i, got)
		}
	}
}

// Where Git is refused and the API is not, the API says who made a commit.
// A Gitea gives out the file of a new commit, which is asked for first; a commit that came in a large push has none.
func TestRevisionFromTheFile(t *testing.T) {
	a := newAsking(t)
	repo := a.server.Repo(t, "app.git")
	commit := repo.Commit(t, "main", nil, "First")
	for _, packed := range []bool{false, true} {
		if packed {
			gittest.Git(t, repo.Dir, "repack", "-adq")
		}
		for _, kind := range []string{"gitea", "git"} {
			cfg := &config.Config{Repositories: []config.Repository{a.repository("app", token("t"))}}
			r := &cfg.Repositories[0]
			r.Monitor.Type = kind
			a.update(cfg)
			a.server.Forget()
			revision, err := a.Revision(t.Context(), r, "main", commit)
			if err != nil || revision.Commit != commit || revision.Subject != "First" {
				t.Fatalf("it is %+v, %v", revision, err)
			}
			wantFiles, wantFetches := 1, 0
			if kind == "git" {
				wantFiles = 0
			}
			if packed || kind == "git" {
				wantFetches = 1
			}
			if files, fetches := a.server.Count(gittest.Other), a.server.Count(gittest.Fetch); files != wantFiles || fetches != wantFetches {
				t.Errorf("%s, packed %t: %d files and %d fetches", kind, packed, files, fetches)
			}
		}
	}
}

func TestRevisionOverTheAPI(t *testing.T) {
	a := newAsking(t)
	commit := a.server.Repo(t, "acme/app.git").Commit(t, "main", map[string]string{"f": "1"}, "First")
	var git atomic.Int32
	a.server.Intercept(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/api/v1/repos/acme/app/branches/main":
			fmt.Fprintf(w, `{"name": "main", "commit": {"id": %q}}`, commit)
		case "/api/v1/repos/acme/app/git/commits/" + commit:
			fmt.Fprintf(w, `{"sha": %q, "commit": {"author": {"name": "Ada\u001b[2J", "email": "ada@example.com"}, "committer": {"date": "2024-05-06T09:08:09+02:00"}, "message": "Sub\nject\n\nand why"}}`, commit)
		default:
			git.Add(1)
			w.WriteHeader(http.StatusForbidden)
		}
	})
	cfg := &config.Config{Repositories: []config.Repository{a.repository("acme/app", token("t"))}}
	r := &cfg.Repositories[0]
	r.Monitor.Type = "gitea"
	a.update(cfg)
	// Before it is known that Git is refused, and after.
	for range 2 {
		revision, err := a.Revision(t.Context(), r, "main", commit)
		if at := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC); err != nil || revision.Commit != commit || revision.Author != "Ada\ufffd[2J <ada@example.com>" || revision.Subject != "Sub ject" || !revision.Time.Equal(at) {
			t.Errorf("it is %+v, %v", revision, err)
		}
		if answer := a.heads(r)[0]; answer.Err != nil || answer.Heads["main"] != commit || answer.Way != "REST" {
			t.Fatalf("the heads are %+v", answer)
		}
	}
	before := git.Load()
	if _, err := a.Revision(t.Context(), r, "main", commit); err != nil || git.Load() != before {
		t.Errorf("%v, after %d questions over Git", err, git.Load()-before)
	}
	if _, err := a.Revision(t.Context(), r, "main", strings.Repeat("1", 40)); err == nil || !strings.Contains(err.Error(), "who made commit") {
		t.Errorf("of one that is not there: %v", err)
	}
}
