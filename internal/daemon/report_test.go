package daemon_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sentry/internal/daemon"
	"sentry/internal/forge"
	"sentry/internal/git/gittest"
	"sentry/internal/logger"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// statuses is the part of a Gitea's API that keeps statuses, before the repositories of a server.
type statuses struct {
	mu    sync.Mutex
	down  bool     // guarded by mu
	lines []string // guarded by mu: what was set, in order
	urls  []string // guarded by mu
}

func (s *statuses) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	rest, api := strings.CutPrefix(r.URL.Path, "/api/v1/repos/")
	if !api {
		next.ServeHTTP(w, r)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	parts := strings.Split(rest, "/")
	switch {
	case s.down:
		w.WriteHeader(http.StatusBadGateway)
	case !strings.Contains(r.Header.Get("Authorization"), canary):
		w.WriteHeader(http.StatusUnauthorized)
	case r.Method == http.MethodGet && len(parts) == 5 && parts[2] == "commits" && parts[4] == "status":
		fmt.Fprint(w, `{"statuses": []}`)
	case r.Method == http.MethodPost && len(parts) == 4 && parts[2] == "statuses":
		var body struct {
			State, Context, Description string
			TargetURL                   string `json:"target_url"`
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.lines = append(s.lines, fmt.Sprintf("%s/%s %s %s %s", parts[0], parts[1], parts[3], body.Context, body.State))
		s.urls = append(s.urls, body.TargetURL)
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{}`)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (s *statuses) set() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.lines)
}

// reporting makes a world with one repository on what speaks Gitea, whose group reports to both sides.
func reporting(t *testing.T, command string) (w *world, up, qa *gittest.Repo, heard *statuses) {
	w = newWorld(t, command)
	up, qa = w.server.Repo(t, "acme/up"), w.server.Repo(t, "acme/tests")
	up.Commit(t, "main", map[string]string{"README": "x"}, "first")
	qa.Commit(t, "main", map[string]string{"run.sh": "echo run"}, "scripts")
	heard = &statuses{}
	w.server.Intercept(heard.serve)
	text := fmt.Sprintf(`polling_interval: 1
global: {state_dir: %q, allow_insecure_http: true, grace: 2s, public_url: "https://sentry.example.com"}
groups:
  g: {quiet_period: 0, report_to: both}
repositories:
  - name: up
    group: g
    monitor: {repo_url: "%s/acme/up", branches: [main], repo_type: gitea, auth: {username: robot, token_file: %q}}
    deploy:
      qa_repo_url: "%s/acme/tests"
      qa_repo_branch: main
      repo_type: gitea
      project_name: up
      auth: {username: robot, token_file: %q}
      commands: [%q]
`, w.stateDir(), w.server.URL, w.tokenFile(), w.server.URL, w.tokenFile(), command)
	if err := os.WriteFile(w.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return w, up, qa, heard
}

// TestStatusesAreSet: a push leads to pending and verdict, on the commit that was pushed and on that of the QA repository;
// what a forge was down for is said when it is back, by the next daemon if need be.
func TestStatusesAreSet(t *testing.T) {
	t.Parallel()
	w, up, qa, heard := reporting(t, `sleep 1; exit 1`)
	_, stop := w.start()
	w.wait("the baseline", func() (yes bool) {
		w.read(func(s *store.Store) {
			heads, err := s.Heads(context.Background())
			yes = err == nil && len(heads) == 1
		})
		return yes
	})
	pushed := up.Commit(t, "main", nil, "go")
	tested := qa.Head(t, "main")
	r := w.rollout("1", sentry.Failed)
	w.wait("four statuses", func() bool { return len(heard.set()) == 4 })
	got := heard.set()
	slices.Sort(got)
	want := []string{
		"acme/tests " + tested + " sentry/g failure", "acme/tests " + tested + " sentry/g pending",
		"acme/up " + pushed + " sentry/g failure", "acme/up " + pushed + " sentry/g pending",
	}
	if !slices.Equal(got, want) {
		t.Errorf("set:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, url := range heard.urls {
		if url != "https://sentry.example.com/rollouts/"+r.ID {
			t.Errorf("a link to %q", url)
		}
	}

	heard.mu.Lock()
	heard.down, heard.lines = true, nil
	heard.mu.Unlock()
	pushed = up.Commit(t, "main", nil, "again")
	w.rollout("2", sentry.Failed)
	stop()
	if got := heard.set(); len(got) != 0 {
		t.Errorf("set while it was down: %q", got)
	}
	heard.mu.Lock()
	heard.down = false
	heard.mu.Unlock()
	_, stop = w.start()
	w.wait("two verdicts", func() bool { return len(heard.set()) == 2 })
	stop()
	if got := heard.set(); len(got) != 2 || !slices.Contains(got, "acme/up "+pushed+" sentry/g failure") {
		t.Errorf("set after all: %q", got)
	}
	w.read(func(s *store.Store) {
		reports, err := s.Reports(context.Background(), "2")
		if err != nil || len(reports) != 4 {
			t.Errorf("%+v %v", reports, err)
		}
		if broken, err := s.Check(context.Background()); err != nil || len(broken) > 0 {
			t.Errorf("the state is broken: %v %q", err, broken)
		}
	})
	if strings.Contains(w.log.String(), canary) {
		t.Error("the log tells the token")
	}
}

// TestATriggerReports: without a daemon too, and it does not wait for a forge that is down.
func TestATriggerReports(t *testing.T) {
	t.Parallel()
	w, _, _, heard := reporting(t, `true`)
	text, err := os.ReadFile(w.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.file, []byte(strings.Replace(string(text), "report_to: both", "report: all", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	trigger := func() {
		cfg, _, err := w.load()
		if err != nil {
			t.Fatal(err)
		}
		mask := logger.NewMasker()
		d, err := daemon.New(t.Context(), daemon.Options{Config: cfg, Load: w.load, Version: "test", Mask: mask, Log: logger.New(w.log, slog.LevelDebug, logger.FormatJSON, mask), Groups: []string{"g"}})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		done, err := d.RolloutOnce(t.Context(), []store.Request{{Group: "g", Whole: true, By: "ada"}}, "ada", func([]string) {})
		if err != nil || len(done) != 1 || done[0].Status != sentry.Succeeded {
			t.Fatalf("%+v %v", done, err)
		}
	}
	trigger()
	if got := heard.set(); len(got) == 0 || !strings.HasSuffix(got[len(got)-1], " sentry/g success") {
		t.Errorf("set: %q", got)
	}
	heard.mu.Lock()
	heard.down = true
	heard.mu.Unlock()
	begun := time.Now()
	trigger()
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("it waited %s for a forge that is down", took)
	}
	w.read(func(s *store.Store) {
		reports, err := s.Reports(context.Background(), "2")
		if n := len(reports); err != nil || n == 0 || reports[n-1].Fate != sentry.Waiting || reports[n-1].Attempts == 0 {
			t.Errorf("%+v %v", reports, err)
		}
	})
}

// TestTokensAreAskedAbout: the daemon asks a forge when a token ends that nothing else tells of, soon after it has changed,
// and tells of it.
func TestTokensAreAskedAbout(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "true")
	text, err := os.ReadFile(w.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.file, []byte(strings.ReplaceAll(string(text), "repo_type: git,", "repo_type: gitlab,")), 0o600); err != nil {
		t.Fatal(err)
	}
	w.server.Intercept(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		switch path, api := strings.CutPrefix(r.URL.Path, "/api/v4/"); {
		case !api:
			next.ServeHTTP(rw, r)
		case path == "personal_access_tokens/self":
			rw.Header().Set("Content-Type", "application/json")
			fmt.Fprint(rw, `{"id": 1, "name": "sentry", "active": true, "revoked": false, "scopes": ["read_api"], "expires_at": "2199-12-31"}`)
		default:
			rw.WriteHeader(http.StatusNotFound)
		}
	})
	d, _ := w.start()
	w.baselines()
	// The first question comes within some minutes, that about another token at once.
	n := 0
	w.wait("the end of the token", func() bool {
		n++
		token := fmt.Sprintf("%s-%d", canary, n)
		w.server.SetToken("robot", token)
		if err := os.WriteFile(w.tokenFile(), []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := d.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(d.Budgets(), func(b forge.BudgetState) bool { return b.EndsAt.Year() == 2199 })
	})
}
