package forgetest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// githubApp is a GitHub App with one installation.
type githubApp struct {
	id, installation int64
	key              *rsa.PublicKey
	permissions      map[string]string
	suspended        bool
	made             int // tokens
}

// App makes a GitHub App that is installed, with permissions ("contents=read"; none means what Sentry needs), and gives its
// ids and the file with its private key.
func (g *GitHub) App(permissions ...string) (id, installation int64, keyFile string) {
	g.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		g.t.Fatal(err)
	}
	keyFile = filepath.Join(g.t.TempDir(), "app.pem")
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(block), 0o600); err != nil {
		g.t.Fatal(err)
	}
	if len(permissions) == 0 {
		permissions = []string{"contents=read", "statuses=write"}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	app := &githubApp{id: int64(1000 + len(g.apps)), installation: int64(5000 + len(g.apps)), key: &key.PublicKey, permissions: map[string]string{"metadata": "read"}}
	for _, p := range permissions {
		name, level, _ := strings.Cut(p, "=")
		app.permissions[name] = level
	}
	g.apps[app.id] = app
	return app.id, app.installation, keyFile
}

// Suspend suspends the installation of an App, or ends that.
func (g *GitHub) Suspend(id int64, suspended bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.apps[id].suspended = suspended
}

// AppTokens tells how many tokens an App was given.
func (g *GitHub) AppTokens(id int64) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.apps[id].made
}

// RevokeAppTokens ends all tokens of an App, as when its installation was changed.
func (g *GitHub) RevokeAppTokens(id int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, token := range g.tokens {
		if token.app && token.user.name == fmt.Sprintf("installation %d", g.apps[id].installation) {
			token.revoked = true
		}
	}
}

// serveApp answers an App that shows who it is (apps/creating-github-apps/authenticating-with-a-github-app/generating-a-
// json-web-token-jwt-for-a-github-app): RS256, "iat", "exp" no more than ten minutes ahead, "iss" the App's id.
func (g *GitHub) serveApp(w http.ResponseWriter, r *http.Request, path string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var app *githubApp
	var claims jwt.RegisteredClaims
	_, err := jwt.ParseWithClaims(credential(r), &claims, func(*jwt.Token) (any, error) {
		id, _ := strconv.ParseInt(claims.Issuer, 10, 64)
		if app = g.apps[id]; app == nil {
			return nil, fmt.Errorf("no such App")
		}
		return app.key, nil
	}, jwt.WithValidMethods([]string{"RS256"}), jwt.WithIssuedAt(), jwt.WithExpirationRequired(), jwt.WithTimeFunc(time.Now))
	switch {
	case err != nil && app == nil:
		refuse(w, http.StatusNotFound, "Integration not found", "")
		return
	case err != nil:
		refuse(w, http.StatusUnauthorized, "A JSON web token could not be decoded", "")
		return
	case claims.ExpiresAt.After(time.Now().Add(10 * time.Minute)):
		refuse(w, http.StatusUnauthorized, "'Expiration time' claim ('exp') is too far in the future", "")
		return
	}
	switch path {
	case fmt.Sprintf("installations/%d/access_tokens", app.installation):
		g.createToken(w, r, app)
	case fmt.Sprintf("installations/%d", app.installation):
		answerJSON(w, http.StatusOK, map[string]any{"id": app.installation, "app_id": app.id, "permissions": app.permissions})
	default:
		refuse(w, http.StatusNotFound, "Not Found", "")
	}
}

// createToken is rest/apps/apps: "Create an installation access token for an app"; they expire after an hour. The caller
// holds g.mu.
func (g *GitHub) createToken(w http.ResponseWriter, r *http.Request, app *githubApp) {
	const page = "/apps/apps#create-an-installation-access-token-for-an-app"
	switch {
	case r.Method != http.MethodPost:
		refuse(w, http.StatusNotFound, "Not Found", page)
		return
	case app.suspended:
		refuse(w, http.StatusForbidden, "This installation has been suspended", page)
		return
	}
	app.made++
	text := fmt.Sprintf("ghs_%d_%030d", app.id, app.made)
	expires := time.Now().Add(time.Hour).Truncate(time.Second)
	g.tokens[text] = &githubToken{
		user: g.user(fmt.Sprintf("installation %d", app.installation)), permissions: maps.Clone(app.permissions), app: true, expires: expires,
	}
	answerJSON(w, http.StatusCreated, map[string]any{"token": text, "expires_at": expires.UTC().Format(time.RFC3339), "permissions": app.permissions, "repository_selection": "all"})
}
