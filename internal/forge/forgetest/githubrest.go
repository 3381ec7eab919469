package forgetest

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"sentry/internal/sentry"
)

// githubStatus is a status of a commit, and of which.
type githubStatus struct {
	repository int
	sha        string
	Status
}

// serveREST answers the REST API, whose path comes without the base and without a slash before it.
func (g *GitHub) serveREST(w http.ResponseWriter, r *http.Request, token *githubToken, a *arrival, path string) {
	parts := strings.Split(path, "/")
	for i, part := range parts {
		plain, err := url.PathUnescape(part)
		if err != nil {
			a.write(w.Header())
			refuse(w, http.StatusBadRequest, "Bad Request", "")
			return
		}
		parts[i] = plain
	}
	switch {
	case path == "rate_limit":
		g.serveRateLimit(w, a)
	case path == "user":
		g.serveUser(w, token, a)
	case parts[0] == "repos" && len(parts) >= 3:
		g.serveRepository(w, r, token, a, parts[1]+"/"+parts[2], parts[3:])
	case parts[0] == "repositories" && len(parts) >= 2:
		id, _ := strconv.Atoi(parts[1])
		name := ""
		g.look(func() {
			for _, one := range g.all {
				if one.id == id {
					name = one.name
				}
			}
		})
		g.serveRepository(w, r, token, a, name, parts[2:])
	default:
		g.notFound(w, a)
	}
}

func (g *GitHub) notFound(w http.ResponseWriter, a *arrival) {
	a.write(w.Header())
	refuse(w, http.StatusNotFound, "Not Found", "")
}

// serveRateLimit is rest/rate-limit/rate-limit: "Get rate limit status for the authenticated user".
func (g *GitHub) serveRateLimit(w http.ResponseWriter, a *arrival) {
	if g.o.NoLimits { // an Enterprise server without limits
		refuse(w, http.StatusNotFound, "Rate limiting is not enabled.", "")
		return
	}
	now, resources := time.Now(), map[string]any{}
	g.mu.Lock()
	limit := g.o.PerHour
	if a.user.name == "" {
		limit = githubAnonymous
	}
	for _, name := range []string{"core", "graphql"} {
		window := a.user.resources[name]
		if window == nil || !now.Before(window.reset) {
			window = &githubWindow{limit: limit, reset: now.Add(time.Hour)}
		}
		resources[name] = map[string]any{"limit": window.limit, "used": window.used, "remaining": max(0, window.limit-window.used), "reset": window.reset.Unix()}
	}
	g.mu.Unlock()
	a.write(w.Header())
	answerJSON(w, http.StatusOK, map[string]any{"resources": resources, "rate": resources["core"]})
}

// serveUser is rest/users/users: "Get the authenticated user". Installations of Apps are no users.
func (g *GitHub) serveUser(w http.ResponseWriter, token *githubToken, a *arrival) {
	a.write(w.Header())
	switch {
	case token == nil:
		refuse(w, http.StatusUnauthorized, "Requires authentication", "/users/users#get-the-authenticated-user")
	case token.app:
		refuse(w, http.StatusForbidden, "Resource not accessible by integration", "/users/users#get-the-authenticated-user")
	default:
		answerJSON(w, http.StatusOK, map[string]any{"login": token.user.name, "id": token.user.id, "type": "User"})
	}
}

// serveRepository answers what is asked of one repository.
func (g *GitHub) serveRepository(w http.ResponseWriter, r *http.Request, token *githubToken, a *arrival, name string, rest []string) {
	var one repository
	found, code, moved, has := false, false, false, false
	g.look(func() {
		at := g.find(name)
		if at == nil {
			at, moved = g.findMoved(name), true
		}
		if at != nil {
			found, code = token.sees(at)
			one = *at
			one.branches = make(map[string]string, len(at.branches))
			for branch, commit := range at.branches {
				one.branches[branch] = commit
			}
			one.commits = nil
			has = len(rest) == 3 && at.commits[rest[2]]
		}
	})
	switch {
	case !found:
		// "GitHub uses a 404 Not Found response instead of a 403 Forbidden response to avoid confirming the existence of private
		// repositories" (rest/using-the-rest-api/troubleshooting-the-rest-api).
		g.notFound(w, a)
	case moved:
		// "A 301 status code indicates permanent redirection" (rest/using-the-rest-api/best-practices-for-using-the-rest-api:
		// "Follow redirects"); what is not a GET is redirected so that its method stays.
		to := g.API() + "/repositories/" + strconv.Itoa(one.id)
		for _, part := range rest {
			to += "/" + url.PathEscape(part)
		}
		if r.URL.RawQuery != "" {
			to += "?" + r.URL.RawQuery
		}
		status, text := http.StatusMovedPermanently, "Moved Permanently"
		if r.Method != http.MethodGet {
			status, text = http.StatusTemporaryRedirect, "Temporary Redirect"
		}
		a.write(w.Header())
		w.Header().Set("Location", to)
		answerJSON(w, status, map[string]string{"message": text, "url": to, "documentation_url": documentation + "/guides/best-practices-for-using-the-rest-api#follow-redirects"})
	case len(rest) == 0:
		g.conditional(w, r, token, a, describeRepository(&one, token))
	case rest[0] == "statuses" && len(rest) == 2 && r.Method == http.MethodPost:
		g.createStatus(w, r, token, a, &one, rest[1])
	case !code:
		w.Header().Set("X-Accepted-GitHub-Permissions", "contents=read")
		a.write(w.Header())
		refuse(w, http.StatusForbidden, "Resource not accessible by personal access token", "/commits/commits#get-a-commit")
	case rest[0] == "commits" && len(rest) == 2:
		g.serveCommit(w, r, token, a, &one, rest[1])
	case rest[0] == "commits" && len(rest) == 3 && rest[2] == "statuses":
		g.mu.Lock()
		list := []map[string]any{}
		for _, s := range slices.Backward(g.statuses) {
			if s.repository == one.id && s.sha == rest[1] {
				list = append(list, map[string]any{"state": s.State, "context": s.Context, "description": s.Description, "target_url": s.URL})
			}
		}
		g.mu.Unlock()
		g.conditional(w, r, token, a, list)
	case rest[0] == "branches" && len(rest) >= 2:
		branch := strings.Join(rest[1:], "/")
		commit := one.branches[branch]
		if commit == "" {
			a.write(w.Header())
			refuse(w, http.StatusNotFound, "Branch not found", "/branches/branches#get-a-branch")
			return
		}
		g.conditional(w, r, token, a, map[string]any{"name": branch, "commit": map[string]any{"sha": commit}, "protected": false})
	case rest[0] == "git" && len(rest) == 3 && rest[1] == "commits":
		if !has {
			g.notFound(w, a)
			return
		}
		g.conditional(w, r, token, a, map[string]any{"sha": rest[2], "author": author(), "committer": author(), "message": commitMessage})
	case rest[0] == "git" && len(rest) >= 3 && rest[1] == "matching-refs":
		g.serveMatching(w, r, token, a, &one, strings.Join(rest[2:], "/"))
	default:
		g.notFound(w, a)
	}
}

// describeRepository is rest/repos/repos: "Get a repository", with what the token may do there.
func describeRepository(one *repository, token *githubToken) map[string]any {
	owner, name, _ := strings.Cut(one.name, "/")
	d := map[string]any{
		"id": one.id, "name": name, "full_name": one.name, "private": one.private, "default_branch": "main", "archived": false, "disabled": false,
		"owner": map[string]any{"login": owner},
	}
	if token != nil {
		push := token.permissions["contents"] == "write" || slices.Contains(token.scopes, "repo") || !one.private && slices.Contains(token.scopes, "public_repo")
		d["permissions"] = map[string]bool{"admin": false, "push": push, "pull": true}
	}
	return d
}

// conditional answers with JSON, or with 304 to who has it already: that costs nothing "if a 304 response is returned and
// the request was made while correctly authorized" (rest/using-the-rest-api/best-practices-for-using-the-rest-api: "Use
// conditional requests"). ETags depend on the token (eclipse-csi/otterdog issue 201).
func (g *GitHub) conditional(w http.ResponseWriter, r *http.Request, token *githubToken, a *arrival, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	tag := fmt.Sprintf(`W/"%x"`, sha256.Sum256(append([]byte(credential(r)+"\n"), text...)))
	g.answerTagged(w, r, token, a, tag, "application/json; charset=utf-8", text)
}

func (g *GitHub) answerTagged(w http.ResponseWriter, r *http.Request, token *githubToken, a *arrival, tag, media string, text []byte) {
	h := w.Header()
	h.Set("ETag", tag)
	h.Set("Cache-Control", "private, max-age=60, s-maxage=60")
	h.Set("Vary", "Accept, Authorization, Cookie, X-GitHub-OTP")
	known := slices.ContainsFunc(strings.Split(r.Header.Get("If-None-Match"), ","), func(one string) bool {
		return strings.TrimPrefix(strings.TrimSpace(one), "W/") == strings.TrimPrefix(tag, "W/")
	})
	if known && token != nil {
		a.charge(-a.cost)
	}
	a.write(h)
	if known {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", media)
	_, _ = w.Write(text)
}

// serveCommit is rest/commits/commits: "Get a commit". The media type sha gives the commit alone: "You can use this endpoint
// to check if a remote reference's SHA-1 hash is the same as your local reference's SHA-1 hash by providing the local SHA-1
// reference as the ETag". Without it an answer holds when its signature was verified, which changes the ETag
// (community discussion 143752).
func (g *GitHub) serveCommit(w http.ResponseWriter, r *http.Request, token *githubToken, a *arrival, one *repository, name string) {
	if len(one.branches) == 0 {
		a.write(w.Header())
		refuse(w, http.StatusConflict, "Git Repository is empty.", "/commits/commits#get-a-commit")
		return
	}
	commit := one.branches[strings.TrimPrefix(name, "heads/")]
	if commit == "" && sentry.CheckCommit(name) == nil {
		g.look(func() {
			if g.find(one.name).commits[name] {
				commit = name
			}
		})
	}
	if commit == "" {
		a.write(w.Header())
		refuse(w, http.StatusUnprocessableEntity, "No commit found for SHA: "+name, "/commits/commits#get-a-commit")
		return
	}
	if strings.Contains(r.Header.Get("Accept"), "sha") {
		tag := `"` + commit + `"`
		if g.o.StableETag {
			tag = fmt.Sprintf(`W/"%x"`, sha256.Sum256([]byte(credential(r)+commit)))
		}
		g.answerTagged(w, r, token, a, tag, "application/vnd.github.sha; charset=utf-8", []byte(commit))
		return
	}
	g.conditional(w, r, token, a, map[string]any{"sha": commit, "commit": map[string]any{
		"message": "A change", "author": map[string]any{"name": "A. Pusher", "date": "2026-01-02T03:04:05Z"},
		"verification": map[string]any{"verified": false, "verified_at": time.Now().UTC().Format(time.RFC3339Nano)},
	}})
}

// serveMatching is rest/git/refs: "List matching references".
func (g *GitHub) serveMatching(w http.ResponseWriter, r *http.Request, token *githubToken, a *arrival, one *repository, prefix string) {
	list := []map[string]any{}
	for _, ref := range one.refs() {
		if strings.HasPrefix(ref.name, "refs/"+prefix) {
			list = append(list, map[string]any{"ref": ref.name, "object": map[string]any{"type": "commit", "sha": ref.commit}})
		}
	}
	size := 30
	if n, err := strconv.Atoi(r.URL.Query().Get("per_page")); err == nil && n > 0 {
		size = min(n, 100)
	}
	page, _ := strconv.Atoi(r.URL.Query().Get("page"))
	page = max(1, page)
	start := min(len(list), (page-1)*size)
	end := min(len(list), start+size)
	if end < len(list) { // rest/using-the-rest-api/using-pagination-in-the-rest-api
		next := g.API() + "/repositories/" + strconv.Itoa(one.id) + "/git/matching-refs/" + prefix
		w.Header().Set("Link", fmt.Sprintf(`<%s?per_page=%d&page=%d>; rel="next"`, next, size, page+1))
	}
	g.conditional(w, r, token, a, list[start:end])
}

// createStatus is rest/commits/statuses: "Create a commit status".
func (g *GitHub) createStatus(w http.ResponseWriter, r *http.Request, token *githubToken, a *arrival, one *repository, sha string) {
	const page = "/commits/statuses#create-a-commit-status"
	a.write(w.Header())
	w.Header().Set("X-Accepted-OAuth-Scopes", "repo, repo:status")
	w.Header().Set("X-Accepted-GitHub-Permissions", "statuses=write")
	switch {
	case token == nil:
		refuse(w, http.StatusUnauthorized, "Requires authentication", page)
		return
	case !token.reports(one) && token.permissions == nil:
		refuse(w, http.StatusNotFound, "Not Found", page)
		return
	case !token.reports(one):
		who := "personal access token"
		if token.app {
			who = "integration"
		}
		refuse(w, http.StatusForbidden, "Resource not accessible by "+who, page)
		return
	}
	var in struct {
		State       string `json:"state"`
		TargetURL   string `json:"target_url"`
		Description string `json:"description"`
		Context     string `json:"context"`
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil || json.Unmarshal(data, &in) != nil {
		refuse(w, http.StatusBadRequest, "Problems parsing JSON", page)
		return
	}
	had := false
	g.look(func() { had = g.find(one.name) != nil && g.find(one.name).commits[sha] })
	g.mu.Lock()
	defer g.mu.Unlock()
	rows := 0
	for _, s := range g.statuses {
		if s.repository == one.id && s.sha == sha && s.Context == in.Context {
			rows++
		}
	}
	switch {
	case !slices.Contains([]string{"error", "failure", "pending", "success"}, in.State):
		refuse(w, http.StatusUnprocessableEntity, "Validation Failed", page)
	case utf8.RuneCountInString(in.Description) > 140:
		refuse(w, http.StatusUnprocessableEntity, "Validation Failed: description is too long (maximum is 140 characters)", page)
	case in.TargetURL != "" && !strings.HasPrefix(in.TargetURL, "http"):
		refuse(w, http.StatusUnprocessableEntity, "Validation Failed: target_url must use http(s) scheme", page)
	case !had:
		refuse(w, http.StatusUnprocessableEntity, "No commit found for SHA: "+sha, page)
	case rows >= 1000: // "there is a limit of 1000 statuses per sha and context within a repository"
		refuse(w, http.StatusUnprocessableEntity, "Validation Failed: This SHA and context has reached the maximum number of statuses.", page)
	default:
		if in.Context == "" {
			in.Context = "default"
		}
		g.statuses = append(g.statuses, githubStatus{one.id, sha, Status{Context: in.Context, State: in.State, Description: in.Description, URL: in.TargetURL}})
		answerJSON(w, http.StatusCreated, map[string]any{"id": len(g.statuses), "state": in.State, "context": in.Context, "description": in.Description, "target_url": in.TargetURL})
	}
}
