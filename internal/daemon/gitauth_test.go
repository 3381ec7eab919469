package daemon

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sentry/internal/config"
	"sentry/internal/sentry"
)

// A GitHub App shows who asks for a QA repository, too: with a token that it makes for itself, and that nothing prints.
func TestAppForQARepositories(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "app.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), 0o600); err != nil {
		t.Fatal(err)
	}
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
