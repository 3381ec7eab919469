package forgetest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// GitLab is an emulated GitLab: its REST API v4, its GraphQL API and its Git side, as far as who watches branches and
// reports on commits uses them. What it does is what GitLab's documentation and source say; each part names the page.
type GitLab struct {
	*repositories
	*wire
	o GitLabOptions

	mu       sync.Mutex // guards what follows; taken after that of the repositories, where both are
	tokens   map[string]*gitlabToken
	windows  map[string]*gitlabWindow // of requests, by who asks
	statuses []*gitlabStatus
	sick     map[string]bool // repositories whose Gitaly is away, in lower case: whether it says so
	queries  []GitLabQuery
	tooMuch  int // queries whose complexity was more than allowed
}

var _ Lab = (*GitLab)(nil)

// GitLabOptions of a GitLab; the zero value is like gitlab.com.
type GitLabOptions struct {
	Loopback  bool          // serve on loopback, not over a Pipe
	Version   string        // "18.5" where empty: what GraphQL knows depends on it
	PerMinute int           // requests of the API in a minute, for each token: 2,000 where 0
	Gitaly    time.Duration // how long GitLab takes to ask the Git side for one commit
	Allowed   int           // complexity of a query: 250 with a token, 200 without, where 0
	NoGraphQL bool          // as behind a proxy that lets only /api/v4 pass
}

// GitLabQuery is what a GraphQL query was.
type GitLabQuery struct {
	Complexity int
	Projects   int // that were asked about
	Commits    int // that were looked up
	Characters int
}

// gitlabToken is a personal, project or group access token.
type gitlabToken struct {
	id      int
	scopes  []string
	role    string
	revoked bool
	expires time.Time // zero: never
}

// gitlabWindow counts the requests of a minute.
type gitlabWindow struct {
	start time.Time
	n     int
}

// NewGitLab starts an emulated GitLab for one test.
func NewGitLab(t testing.TB, o GitLabOptions) *GitLab {
	t.Helper()
	if o.Version == "" {
		o.Version = "18.5"
	}
	if o.PerMinute == 0 {
		o.PerMinute = 2000 // docs.gitlab.com/user/gitlab_com: authenticated API traffic for a user
	}
	g := &GitLab{o: o, tokens: map[string]*gitlabToken{}, windows: map[string]*gitlabWindow{}, sick: map[string]bool{}}
	g.wire = newWire(t, "gitlab.test", o.Loopback, http.HandlerFunc(g.serve))
	g.repositories = newRepositories(t, g.wire.url)
	return g
}

// Kind is "gitlab".
func (g *GitLab) Kind() string { return "gitlab" }

// API is the base of the REST API.
func (g *GitLab) API() string { return g.wire.url + "/api/v4" }

// Token makes an access token. Rights are scopes ("api", "read_api", "read_repository") and, as "role:guest", the role of
// its owner in all projects; none means what Sentry needs: api, and Developer.
func (g *GitLab) Token(rights ...string) string {
	return g.TokenUntil(time.Time{}, rights...)
}

// TokenUntil is Token for one that expires at the begin of a day, as they do (UTC).
func (g *GitLab) TokenUntil(day time.Time, rights ...string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	one := &gitlabToken{id: len(g.tokens) + 1, role: "developer", expires: day}
	for _, right := range rights {
		if role, ok := strings.CutPrefix(right, "role:"); ok {
			one.role = role
		} else {
			one.scopes = append(one.scopes, right)
		}
	}
	if len(one.scopes) == 0 {
		one.scopes = []string{"api"}
	}
	text := fmt.Sprintf("glpat-%020d", one.id)
	g.tokens[text] = one
	return text
}

// Revoke ends a token.
func (g *GitLab) Revoke(token string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tokens[token].revoked = true
}

// Sicken takes away the Gitaly of a repository, which keeps its files. Silently means that GraphQL shows a commit as null,
// as it does where looking one up raises an error of Git (lib/gitlab/git/commit.rb rescues it); otherwise GraphQL says so.
func (g *GitLab) Sicken(repository string, silently bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sick[strings.ToLower(repository)] = !silently
}

// Heal gives it back.
func (g *GitLab) Heal(repository string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.sick, strings.ToLower(repository))
}

// Queries tells of all GraphQL queries that were answered.
func (g *GitLab) Queries() []GitLabQuery {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.queries)
}

// TooComplex tells how many queries were refused for their complexity.
func (g *GitLab) TooComplex() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.tooMuch
}

// Statuses gives those of a commit, the newest of each context.
func (g *GitLab) Statuses(repository, commit string) []Status {
	var id int
	g.look(func() { id = g.must(repository).id })
	g.mu.Lock()
	defer g.mu.Unlock()
	var newest []Status
	for _, s := range g.statuses {
		if s.project != id || s.SHA != commit {
			continue
		}
		newest = slices.DeleteFunc(newest, func(older Status) bool { return older.Context == s.Name })
		newest = append(newest, Status{Context: s.Name, State: s.State, Description: s.Description, URL: s.TargetURL})
	}
	return newest
}

// StatusRows tells how many statuses were ever made: GitLab keeps those that newer ones replace.
func (g *GitLab) StatusRows() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.statuses)
}

func (g *GitLab) serve(w http.ResponseWriter, r *http.Request) {
	switch path := r.URL.EscapedPath(); {
	case isGit(r):
		g.serveGit(w, r)
	case path == "/api/graphql":
		if g.o.NoGraphQL {
			http.NotFound(w, r)
		} else if g.admit(w, r) {
			g.serveGraphQL(w, r)
		}
	case strings.HasPrefix(path, "/api/v4/"):
		if g.admit(w, r) {
			g.serveREST(w, r, strings.TrimPrefix(path, "/api/v4/"))
		}
	default:
		http.NotFound(w, r)
	}
}

// admit counts a request on the limit of who asks, and answers it where that is used up
// (docs.gitlab.com/administration/settings/user_and_ip_rate_limits: "Response headers"; a request that exceeds a limit is
// answered with 429 and a plain-text body, by default "Retry later").
func (g *GitLab) admit(w http.ResponseWriter, r *http.Request) bool {
	g.mu.Lock()
	who, now := credential(r), time.Now()
	name := "throttle_authenticated_api"
	if g.tokens[who] == nil {
		who, name = "", "throttle_unauthenticated_api"
	}
	window := g.windows[who]
	if start := now.Truncate(time.Minute); window == nil || !window.start.Equal(start) {
		window = &gitlabWindow{start: start}
		g.windows[who] = window
	}
	window.n++
	observed, reset := window.n, window.start.Add(time.Minute)
	g.mu.Unlock()

	h := w.Header()
	h.Set("RateLimit-Name", name)
	h.Set("RateLimit-Limit", strconv.Itoa(g.o.PerMinute))
	h.Set("RateLimit-Observed", strconv.Itoa(observed))
	h.Set("RateLimit-Remaining", strconv.Itoa(max(0, g.o.PerMinute-observed)))
	h.Set("RateLimit-Reset", strconv.FormatInt(reset.Unix(), 10))
	g.charge(1)
	if observed <= g.o.PerMinute {
		return true
	}
	wait := reset.Sub(now).Truncate(time.Second) + time.Second
	h.Set("RateLimit-ResetTime", reset.UTC().Format(http.TimeFormat))
	h.Set("Retry-After", strconv.Itoa(int(wait/time.Second)))
	h.Set("Content-Type", "text/plain")
	g.Forbid(r, reset.Sub(now))
	w.WriteHeader(http.StatusTooManyRequests)
	fmt.Fprintln(w, "Retry later")
	return false
}

// refusal is why a token gets nothing.
type refusal struct {
	status int
	body   any
}

// authenticate gives the token of a request to the API; nil and no refusal for who shows none. One that shows an unusable
// token is refused, even where nobody needs one (docs.gitlab.com/api/rest/authentication: "401 Unauthorized"; the body is
// that of lib/api/api_guard.rb).
func (g *GitLab) authenticate(r *http.Request) (*gitlabToken, *refusal) {
	text := credential(r)
	if text == "" {
		return nil, nil
	}
	invalid := func(description string) *refusal {
		return &refusal{http.StatusUnauthorized, map[string]string{"error": "invalid_token", "error_description": description}}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	token := g.tokens[text]
	switch {
	case token == nil:
		return nil, &refusal{http.StatusUnauthorized, map[string]string{"message": "401 Unauthorized"}}
	case token.revoked:
		return nil, invalid("Token was revoked. You have to re-authorize from the user.")
	case !token.expires.IsZero() && !time.Now().Before(token.expires):
		return nil, invalid("Token is expired. You can either do re-authorization or token refresh.")
	}
	return token, nil
}

// may reports whether a token has one of these scopes.
func (t *gitlabToken) may(scopes ...string) bool {
	return t != nil && slices.ContainsFunc(t.scopes, func(has string) bool { return slices.Contains(scopes, has) })
}

// sees reports whether a project is there for who has a token, and its code: guests of a private project see no code
// (docs.gitlab.com/user/permissions).
func (t *gitlabToken) sees(one *repository) (project, code bool) {
	if !one.private {
		return true, true
	}
	return t != nil && t.role != "none", t != nil && t.role != "none" && t.role != "guest"
}

// serveGit is the Git side over HTTP (app/controllers/repositories/git_http_client_controller.rb). Who shows no credentials
// reads what is public, and is asked for them otherwise, whether or not there is a project; who shows wrong ones is refused
// always. A project that was moved is served under its old path, with a message to the person that fetches.
func (g *GitLab) serveGit(w http.ResponseWriter, r *http.Request) {
	name, _ := gitRequest(r)
	token, refused := g.authenticate(r)
	if refused == nil && credential(r) != "" && !token.may("read_repository", "write_repository", "api") {
		refused = &refusal{}
	}
	var refs []ref
	found, readable := false, false
	g.look(func() {
		one := g.find(name)
		if one == nil {
			one = g.findMoved(name)
		}
		if one != nil {
			found, readable = token.sees(one)
			refs = one.refs()
		}
	})
	_, sick := g.isSick(name)
	switch {
	case refused != nil, token == nil && !readable:
		w.Header().Set("Www-Authenticate", `Basic realm="GitLab"`)
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, "HTTP Basic: Access denied. The provided password or token is incorrect, or your account has 2FA enabled and you must use a personal access token instead of a password.")
	case !found:
		http.Error(w, "The project you were looking for could not be found or you don't have permission to view it.", http.StatusNotFound)
	case !readable:
		http.Error(w, "You are not allowed to download code from this project.", http.StatusForbidden)
	case sick:
		http.Error(w, "The git server, Gitaly, is not available at this time. Please contact your administrator.", http.StatusServiceUnavailable)
	default:
		serveGit(w, r, refs)
	}
}

// isSick reports whether a repository has lost its Gitaly, and whether that is said.
func (g *GitLab) isSick(name string) (loud, sick bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	loud, sick = g.sick[strings.ToLower(name)]
	return loud, sick
}

func answerJSON(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text)
}

// message is the body of most refusals: {"message": "404 Project Not Found"}.
func message(text string) map[string]string { return map[string]string{"message": text} }
