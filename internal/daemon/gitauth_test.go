package daemon

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sentry/internal/config"
	"sentry/internal/git"
	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// A GitHub App shows who asks for a QA repository, too: with a token that it makes for itself, and that nothing prints.
func TestAppForQARepositories(t *testing.T) {
	file := appKey(t)
	const token = "ghs_made_by_the_app"
	a := newAsking(t)
	a.server.Repo(t, "qa.git").Commit(t, "main", map[string]string{"f": "1"}, "First")
	a.server.SetToken("x-access-token", token)
	a.server.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method != http.MethodPost || r.URL.Path != "/api/v3/app/installations/8/access_tokens" {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_at": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)})
	})
	c := a.repository("qa", config.Auth{})
	c.Deploy.Type = "github"
	c.Deploy.Remote, c.Deploy.Auth = c.Monitor.Remote, config.Auth{App: &config.App{ID: 7, Installation: 8, KeyFile: file}}

	heads, err := a.git.Heads(t.Context(), c.Deploy.Remote, a.testAuth(&c), c.Monitor.Branches)
	if err != nil || len(heads) != 1 {
		t.Fatalf("%v, %v", heads, err)
	}
	var said strings.Builder
	masked := a.mask.Writer(&said)
	_, _ = masked.Write([]byte("the token is " + token + "\n"))
	_ = masked.Flush()
	if strings.Contains(said.String(), token) {
		t.Errorf("the token is not masked: %s", &said)
	}
	c.Deploy.Auth = config.Auth{}
	if _, err := a.git.Heads(t.Context(), c.Deploy.Remote, a.testAuth(&c), c.Monitor.Branches); sentry.AsFault(err).Kind != sentry.Unauthorized {
		t.Errorf("without it: %v", err)
	}
}

// Where the API is at another place than usual, the tokens of an App come from there for every repository of the server:
// the watched ones, those of QA, and when they are only looked at.
func TestAppAtAnAPIOfItsOwn(t *testing.T) {
	a := newAsking(t)
	a.server.Repo(t, "app.git").Commit(t, "main", map[string]string{"f": "1"}, "First")
	const token = "ghs_made_elsewhere"
	a.server.SetToken("x-access-token", token)
	made := make(chan string, 100)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		made <- r.URL.Path
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_at": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)})
	}))
	defer api.Close()
	c := a.repository("app", config.Auth{App: &config.App{ID: 7, Installation: 8, KeyFile: appKey(t)}})
	c.Monitor.Type, c.Monitor.APIURL = "github", api.URL+"/v3"
	c.Deploy.Remote, c.Deploy.Auth, c.Deploy.Type = c.Monitor.Remote, c.Monitor.Auth, "github"
	cfg := &config.Config{Repositories: []config.Repository{c}}
	a.update(cfg)
	if heads, err := a.git.Heads(t.Context(), c.Deploy.Remote, a.testAuth(&cfg.Repositories[0]), c.Monitor.Branches); err != nil || len(heads) != 1 {
		t.Errorf("of QA: %v, %v", heads, err)
	}
	q, err := NewInquiry(cfg, t.TempDir(), logger.NewMasker(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	for _, side := range []sentry.Target{sentry.Upstream, sentry.QA} {
		if heads, err := q.Heads(t.Context(), &cfg.Repositories[0], side, c.Monitor.Branches); err != nil || len(heads) != 1 {
			t.Errorf("%s, looked at: %v, %v", side, heads, err)
		}
	}
	close(made)
	for path := range made {
		if path != "/v3/app/installations/8/access_tokens" {
			t.Errorf("the API is asked for %s", path)
		}
	}
}

// Whoever waits for the token of an App waits no longer than it wants to.
func TestAppThatDoesNotAnswer(t *testing.T) {
	a := newAsking(t)
	a.server.Repo(t, "app.git").Commit(t, "main", map[string]string{"f": "1"}, "First")
	silent := make(chan struct{})
	api := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-silent }))
	defer api.Close()
	defer close(silent)
	c := a.repository("app", config.Auth{App: &config.App{ID: 7, Installation: 8, KeyFile: appKey(t)}})
	c.Monitor.Type, c.Monitor.APIURL = "github", api.URL
	c.Deploy.Remote, c.Deploy.Auth, c.Deploy.Type = c.Monitor.Remote, c.Monitor.Auth, "github"
	cfg := &config.Config{Repositories: []config.Repository{c}}
	a.update(cfg)
	began := time.Now()
	var all sync.WaitGroup
	for _, auth := range []git.Auth{a.testAuth(&cfg.Repositories[0]), a.lookup(&cfg.Repositories[0]).account.git, a.testAuth(&cfg.Repositories[0])} {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, err := a.git.Heads(ctx, c.Monitor.Remote, auth, c.Monitor.Branches); err == nil {
				t.Error("there is an answer")
			}
		})
	}
	all.Wait()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

// appKey makes a file with the private key of an App.
func appKey(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "app.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
