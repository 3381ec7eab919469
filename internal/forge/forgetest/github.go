package forgetest

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// GitHub is an emulated GitHub: its REST and GraphQL APIs and its Git side, as far as who watches branches and reports on
// commits uses them, with its limits enforced. What it does is what GitHub's documentation says; each part names the page
// (of docs.github.com, where no other place is given).
type GitHub struct {
	*repositories
	*wire
	o GitHubOptions

	mu       sync.Mutex // guards what follows; taken after that of the repositories, where both are
	tokens   map[string]*githubToken
	users    map[string]*githubUser // by name; "" is everybody without a token
	apps     map[int64]*githubApp
	statuses []githubStatus
	queries  []GitHubQuery
	flaws    map[string]string // repositories whose answer to GraphQL has an error, by name: the type of the error
}

var _ Lab = (*GitHub)(nil)

// GitHubOptions of a GitHub; the zero value is an Enterprise server with the limits of github.com.
type GitHubOptions struct {
	Loopback   bool          // serve on loopback, not over a Pipe
	DotCom     bool          // be called github.com, with the API at api.github.com; over a Pipe only
	NoLimits   bool          // as an Enterprise server is by default
	PerHour    int           // requests, and points of GraphQL, of a user: 5,000 where 0
	Latency    time.Duration // of every request to the API
	Each       time.Duration // of each repository in a query, besides
	MostInOne  int           // repositories that a query may have before GitHub stops it and answers in part; 0: any
	NoGraphQL  bool          // there is none
	Terse      bool          // secondary limits are told without Retry-After
	StableETag bool          // the ETag of the media type "sha" is not the commit (who relies on that is in for a surprise)
}

// GitHubQuery is what a GraphQL query was.
type GitHubQuery struct{ Repositories, Refs, Connections, Cost, Nodes int }

// githubToken is a personal access token, classic or fine-grained, or that of an installation of an App.
type githubToken struct {
	user        *githubUser
	scopes      []string          // of a classic one
	permissions map[string]string // of a fine-grained one, and of an App's; nil for a classic one
	app         bool
	revoked     bool
	expires     time.Time // zero: never
}

// githubUser is who has a budget: "all of these requests count towards your personal rate limit"
// (rest/using-the-rest-api/rate-limits-for-the-rest-api). An installation has one of its own.
type githubUser struct {
	name      string
	id        int
	resources map[string]*githubWindow
	under     int         // requests under way
	spent     []githubUse // of the last minute
	created   []time.Time // content, in the last hour
	until     time.Time   // the end of a secondary limit
	times     int         // that one was reached in a row
}

type githubWindow struct {
	limit, used int
	reset       time.Time
}

type githubUse struct {
	at      time.Time
	points  int
	graphql bool
	cpu     time.Duration
}

// NewGitHub starts an emulated GitHub for one test.
func NewGitHub(t testing.TB, o GitHubOptions) *GitHub {
	t.Helper()
	if o.PerHour == 0 {
		o.PerHour = 5000
	}
	g := &GitHub{o: o, tokens: map[string]*githubToken{}, users: map[string]*githubUser{}, apps: map[int64]*githubApp{}, flaws: map[string]string{}}
	name := "github.test"
	if o.DotCom {
		name = "github.com"
	}
	// A handler may let time pass when the server is closed: a synctest bubble ends only after it.
	var handlers sync.WaitGroup
	t.Cleanup(handlers.Wait)
	g.wire = newWire(t, name, o.Loopback, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers.Add(1)
		defer handlers.Done()
		g.serve(w, r)
	}))
	g.wire.apart = true // what it limits is the API
	g.repositories = newRepositories(t, g.wire.url)
	return g
}

// Kind is "github".
func (g *GitHub) Kind() string { return "github" }

// API is the base of the REST API: an Enterprise server has it at /api/v3 (enterprise-server, rest/enterprise-admin).
func (g *GitHub) API() string {
	if g.o.DotCom {
		return "http://api.github.com"
	}
	return g.wire.url + "/api/v3"
}

// Token makes a token of a user of its own. Rights are scopes of a classic token ("repo", "public_repo", "repo:status"), or
// permissions of a fine-grained one ("contents=read", "statuses=write"); none means the scope repo.
func (g *GitHub) Token(rights ...string) string {
	return g.TokenOf(fmt.Sprintf("user%d", len(g.Tokens())+1), time.Time{}, rights...)
}

// Tokens gives all that were made.
func (g *GitHub) Tokens() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []string
	for text := range g.tokens {
		all = append(all, text)
	}
	return all
}

// TokenOf makes a token of a user, who may have others, that expires at a time, or never.
func (g *GitHub) TokenOf(user string, expires time.Time, rights ...string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	token := &githubToken{user: g.user(user), expires: expires}
	for _, right := range rights {
		if name, level, fine := strings.Cut(right, "="); fine {
			if token.permissions == nil {
				token.permissions = map[string]string{"metadata": "read"}
			}
			token.permissions[name] = level
			continue
		}
		token.scopes = append(token.scopes, right)
	}
	text := fmt.Sprintf("ghp_%036d", len(g.tokens)+1)
	if token.permissions != nil {
		text = fmt.Sprintf("github_pat_%022d", len(g.tokens)+1)
	} else if len(rights) == 0 {
		token.scopes = []string{"repo"}
	}
	g.tokens[text] = token
	return text
}

// user gives the one of a name. The caller holds g.mu.
func (g *GitHub) user(name string) *githubUser {
	u := g.users[name]
	if u == nil {
		u = &githubUser{name: name, id: len(g.users) + 1, resources: map[string]*githubWindow{}}
		g.users[name] = u
	}
	return u
}

// Revoke ends a token.
func (g *GitHub) Revoke(token string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tokens[token].revoked = true
}

// Flaw makes GraphQL answer for a repository with an error of a type ("FORBIDDEN", "RESOURCE_LIMITS_EXCEEDED", …) and
// nothing else, while all others are well; "" heals it.
func (g *GitHub) Flaw(repository, kind string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if kind == "" {
		delete(g.flaws, strings.ToLower(repository))
	} else {
		g.flaws[strings.ToLower(repository)] = kind
	}
}

// Queries tells of all GraphQL queries that were answered.
func (g *GitHub) Queries() []GitHubQuery {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.queries)
}

// Statuses gives those of a commit, the newest of each context.
func (g *GitHub) Statuses(repository, commit string) []Status {
	var id int
	g.look(func() { id = g.must(repository).id })
	g.mu.Lock()
	defer g.mu.Unlock()
	var newest []Status
	for _, s := range g.statuses {
		if s.repository == id && s.sha == commit {
			newest = slices.DeleteFunc(newest, func(older Status) bool { return older.Context == s.Context })
			newest = append(newest, s.Status)
		}
	}
	return newest
}

// StatusRows tells how many statuses were ever made.
func (g *GitHub) StatusRows() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.statuses)
}

func (g *GitHub) serve(w http.ResponseWriter, r *http.Request) {
	path := r.URL.EscapedPath()
	switch rest, enterprise := strings.CutPrefix(path, "/api/v3/"); {
	case isGit(r):
		g.serveGit(w, r)
	case g.o.DotCom && strings.HasPrefix(r.Host, "api."):
		g.serveAPI(w, r, strings.TrimPrefix(path, "/"), path == "/graphql")
	case enterprise && !g.o.DotCom:
		g.serveAPI(w, r, rest, false)
	case path == "/api/graphql" && !g.o.DotCom:
		g.serveAPI(w, r, "graphql", true)
	default:
		http.NotFound(w, r)
	}
}

// documentation is where the refusals point to.
const documentation = "https://docs.github.com/rest"

// refuse answers with the body that GitHub's refusals have.
func refuse(w http.ResponseWriter, status int, message, page string) {
	answerJSON(w, status, map[string]string{"message": message, "documentation_url": documentation + page, "status": strconv.Itoa(status)})
}

// authenticate gives the token of a request; nil for who shows none. ok is false for one that is not accepted, even where
// nobody needs one (rest/authentication/authenticating-to-the-rest-api: "Failed login limit", 401 for invalid credentials).
func (g *GitHub) authenticate(r *http.Request) (token *githubToken, ok bool) {
	text := credential(r)
	if text == "" {
		return nil, true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	token = g.tokens[text]
	if token == nil || token.revoked || !token.expires.IsZero() && !time.Now().Before(token.expires) {
		return nil, false
	}
	return token, true
}

// sees reports whether a repository is there for who has a token: private ones need the scope repo
// (apps/oauth-apps/building-oauth-apps/scopes-for-oauth-apps), or the permission metadata for the repository, and its code
// the permission contents.
func (t *githubToken) sees(one *repository) (repository, code bool) {
	switch {
	case !one.private:
		return true, true
	case t == nil:
		return false, false
	case t.permissions != nil:
		return true, t.permissions["contents"] != ""
	}
	all := slices.Contains(t.scopes, "repo")
	return all, all
}

// reports reports whether a token may make statuses (rest/commits/statuses: "Create a commit status").
func (t *githubToken) reports(one *repository) bool {
	switch {
	case t == nil:
		return false
	case t.permissions != nil:
		return t.permissions["statuses"] == "write"
	}
	return slices.Contains(t.scopes, "repo") || slices.Contains(t.scopes, "repo:status") || !one.private && slices.Contains(t.scopes, "public_repo")
}

// serveAPI answers a request to the API: limits come first.
func (g *GitHub) serveAPI(w http.ResponseWriter, r *http.Request, path string, graphql bool) {
	// rest/using-the-rest-api/getting-started-with-the-rest-api: "All API requests must include a valid User-Agent header".
	if r.Header.Get("User-Agent") == "" {
		http.Error(w, "Request forbidden by administrative rules. Please make sure your request has a User-Agent header", http.StatusForbidden)
		return
	}
	h := w.Header()
	h.Set("X-GitHub-Request-Id", "0001:0002:0003")
	h.Set("X-GitHub-Media-Type", "github.v3; format=json")
	if id, ok := strings.CutPrefix(path, "app/"); ok || path == "app" {
		g.serveApp(w, r, id)
		return
	}
	token, ok := g.authenticate(r)
	if !ok {
		refuse(w, http.StatusUnauthorized, "Bad credentials", "")
		return
	}
	g.describe(h, token)
	a := g.arrive(r, token, graphql)
	defer a.leave()
	if path == "rate_limit" {
		// "Calling this endpoint does not count against your primary rate limit, but it can count against your secondary rate
		// limit" (rest/using-the-rest-api/rate-limits-for-the-rest-api: "Checking the status of your rate limit").
		a.free()
	}
	if !a.admit(w, r) {
		return
	}
	pass(r, g.o.Latency)
	if graphql {
		if g.o.NoGraphQL {
			a.write(h)
			refuse(w, http.StatusNotFound, "Not Found", "")
			return
		}
		g.serveGraphQL(w, r, token, a)
		return
	}
	g.serveREST(w, r, token, a, path)
}

// pass lets time pass, unless the client has gone.
func pass(r *http.Request, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.Context().Done():
	}
}

// describe puts into an answer what it tells of the token: scopes of a classic one (apps/oauth-apps/building-oauth-apps/
// scopes-for-oauth-apps: "X-OAuth-Scopes lists the scopes your token has authorized"), and when it expires (the header has
// been there since the changelog of 2021-07-26).
func (g *GitHub) describe(h http.Header, token *githubToken) {
	if token == nil {
		return
	}
	if token.permissions == nil {
		h.Set("X-OAuth-Scopes", strings.Join(token.scopes, ", "))
	}
	if !token.expires.IsZero() && !token.app {
		h.Set("GitHub-Authentication-Token-Expiration", token.expires.UTC().Format("2006-01-02 15:04:05 MST"))
	}
}

// serveGit is the Git side over HTTP. Who shows wrong credentials is refused; who shows none, and asks for what is not
// public, is asked for some; who may not see a repository is told that there is none. A repository that was moved is
// redirected (repositories/creating-and-managing-repositories/renaming-a-repository: "all git clone, git fetch, or git push
// operations targeting the previous location will continue to function").
func (g *GitHub) serveGit(w http.ResponseWriter, r *http.Request) {
	name, _ := gitRequest(r)
	token, ok := g.authenticate(r)
	var refs []ref
	var to string
	found, readable := false, false
	g.look(func() {
		one := g.find(name)
		if one == nil {
			if one = g.findMoved(name); one != nil {
				to = one.name
			}
		}
		if one != nil {
			found, readable = token.sees(one)
			refs = one.refs()
		}
	})
	switch {
	case !ok, token == nil && !readable:
		w.Header().Set("Www-Authenticate", `Basic realm="GitHub"`)
		text := "Invalid username or token. Password authentication is not supported for Git operations."
		if ok {
			text = "Repository not found."
		}
		http.Error(w, text, http.StatusUnauthorized)
	case !found:
		http.Error(w, "Repository not found.", http.StatusNotFound)
	case !readable:
		http.Error(w, "Write access to repository not granted.", http.StatusForbidden)
	case to != "":
		u := *r.URL
		rest := r.URL.Path[strings.LastIndex(r.URL.Path, name)+len(name):]
		u.Path = "/" + to + rest
		http.Redirect(w, r, u.RequestURI(), http.StatusMovedPermanently)
	default:
		serveGit(w, r, refs)
	}
}
