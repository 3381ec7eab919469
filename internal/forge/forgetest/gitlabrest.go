package forgetest

import (
	"crypto/md5"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// gitlabStatus is a status of a commit (docs.gitlab.com/api/commits: "Commit status").
type gitlabStatus struct {
	project     int
	ID          int    `json:"id"`
	SHA         string `json:"sha"`
	Ref         string `json:"ref"`
	State       string `json:"status"`
	Name        string `json:"name"`
	Description string `json:"description"`
	TargetURL   string `json:"target_url"`
}

// serveREST answers the API below /api/v4/, whose path comes as it was sent: slashes of names are "%2F" there
// (docs.gitlab.com/api/rest: "Namespaced paths").
func (g *GitLab) serveREST(w http.ResponseWriter, r *http.Request, path string) {
	token, refused := g.authenticate(r)
	if refused == nil && token != nil && !token.may("api", "read_api") && path != "personal_access_tokens/self" {
		refused = insufficient("api read_api")
	}
	if refused == nil && token != nil && r.Method != http.MethodGet && !token.may("api") {
		refused = insufficient("api")
	}
	if refused != nil {
		answerJSON(w, refused.status, refused.body)
		return
	}
	var parts []string
	for part := range strings.SplitSeq(path, "/") {
		plain, err := url.PathUnescape(part)
		if err != nil {
			answerJSON(w, http.StatusBadRequest, message("400 Bad Request"))
			return
		}
		parts = append(parts, plain)
	}
	switch {
	case path == "personal_access_tokens/self":
		g.serveToken(w, token)
	case path == "user":
		if token == nil {
			answerJSON(w, http.StatusUnauthorized, message("401 Unauthorized"))
			return
		}
		answerJSON(w, http.StatusOK, map[string]any{"id": 1, "username": "watcher", "state": "active"})
	case path == "metadata" || path == "version":
		answerJSON(w, http.StatusOK, map[string]any{"version": g.o.Version + ".0", "revision": "0123456789a"})
	case parts[0] == "projects" && len(parts) >= 2:
		g.serveProject(w, r, token, parts[1], parts[2:])
	default:
		answerJSON(w, http.StatusNotFound, map[string]string{"error": "404 Not Found"})
	}
}

// insufficient is the answer to a token whose scopes are too few (lib/api/api_guard.rb, RFC 6750).
func insufficient(scopes string) *refusal {
	return &refusal{http.StatusForbidden, map[string]string{
		"error":             "insufficient_scope",
		"error_description": "The request requires higher privileges than provided by the access token.",
		"scope":             scopes,
	}}
}

// serveToken tells of the token that asks (docs.gitlab.com/api/personal_access_tokens: "Self-inform"). It expires at the
// begin of a day, which is all that is told.
func (g *GitLab) serveToken(w http.ResponseWriter, token *gitlabToken) {
	if token == nil {
		answerJSON(w, http.StatusUnauthorized, message("401 Unauthorized"))
		return
	}
	body := map[string]any{
		"id": token.id, "name": "sentry", "revoked": false, "active": true, "user_id": 1,
		"created_at": "2024-07-23T14:31:47.729Z", "scopes": token.scopes, "expires_at": nil,
	}
	if !token.expires.IsZero() {
		body["expires_at"] = token.expires.UTC().Format(time.DateOnly)
	}
	answerJSON(w, http.StatusOK, body)
}

// serveProject answers for one project, named by number or by path. Who asks for one by a path that it no longer has is
// led to the number, if by GET; otherwise the answer is 405 (docs.gitlab.com/api/rest: "Redirects"; find_project! in
// lib/api/helpers.rb). What may not be seen is not found.
func (g *GitLab) serveProject(w http.ResponseWriter, r *http.Request, token *gitlabToken, name string, rest []string) {
	id, _ := strconv.Atoi(name)
	var one repository
	found, moved, code := false, false, false
	g.look(func() {
		p := g.find(name)
		for _, other := range g.all {
			if other.id == id {
				p = other
			}
		}
		if p == nil {
			p = g.findMoved(name)
			moved = p != nil
		}
		if p != nil {
			one = *p
			one.branches, one.commits = cloned(p.branches), cloned(p.commits)
			found, code = token.sees(p)
		}
	})
	switch {
	case !found:
		answerJSON(w, http.StatusNotFound, message("404 Project Not Found"))
		return
	case moved && r.Method != http.MethodGet:
		answerJSON(w, http.StatusMethodNotAllowed, message("Non GET methods are not allowed for moved projects"))
		return
	case moved:
		to := fmt.Sprintf("%s/api/v4/projects/%d", g.wire.url, one.id)
		for _, part := range rest {
			to += "/" + url.PathEscape(part)
		}
		w.Header().Set("Location", to)
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusMovedPermanently)
		fmt.Fprintf(w, "This resource has been moved permanently to %s", to)
		return
	}
	route := r.Method + " " + strings.Join(rest, "/")
	switch {
	case route == "GET ":
		answerJSON(w, http.StatusOK, g.project(&one, token))
	case !code:
		answerJSON(w, http.StatusForbidden, message("403 Forbidden"))
	case route == "GET repository/branches":
		g.serveBranches(w, r, &one)
	case strings.HasPrefix(route, "GET repository/branches/") && len(rest) == 3:
		commit, ok := one.branches[rest[2]]
		if !ok {
			answerJSON(w, http.StatusNotFound, message("404 Branch Not Found"))
			return
		}
		g.conditional(w, r, branchOf(rest[2], commit))
	case strings.HasPrefix(route, "GET repository/commits/") && len(rest) == 3:
		if !one.commits[rest[2]] {
			answerJSON(w, http.StatusNotFound, message("404 Commit Not Found"))
			return
		}
		answerJSON(w, http.StatusOK, map[string]any{
			"id": rest[2], "title": "A subject", "message": commitMessage, "author_name": authorName, "author_email": authorEmail,
			"authored_date": commitTime, "committed_date": commitTime,
		})
	case strings.HasPrefix(route, "GET repository/commits/") && len(rest) == 4 && rest[3] == "statuses":
		g.listStatuses(w, r, &one, rest[2])
	case strings.HasPrefix(route, "POST statuses/") && len(rest) == 2:
		g.setStatus(w, r, token, &one, rest[1])
	default:
		answerJSON(w, http.StatusNotFound, map[string]string{"error": "404 Not Found"})
	}
}

func cloned[V any](m map[string]V) map[string]V {
	c := make(map[string]V, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}

// project is a project as who asks sees it (docs.gitlab.com/api/projects: "Get a single project"). The permissions are
// there for who has shown a token.
func (g *GitLab) project(one *repository, token *gitlabToken) map[string]any {
	visibility := "public"
	if one.private {
		visibility = "private"
	}
	body := map[string]any{
		"id": one.id, "name": one.name[strings.LastIndexByte(one.name, '/')+1:], "path_with_namespace": one.name, "visibility": visibility,
		"default_branch": "main", "empty_repo": len(one.branches) == 0, "archived": false,
		"web_url": g.wire.url + "/" + one.name, "http_url_to_repo": g.wire.url + "/" + one.name + ".git",
	}
	if token != nil {
		level := map[string]int{"guest": 10, "reporter": 20, "developer": 30, "maintainer": 40}[token.role]
		access := any(nil)
		if level > 0 {
			access = map[string]any{"access_level": level, "notification_level": 3}
		}
		body["permissions"] = map[string]any{"project_access": access, "group_access": nil}
	}
	return body
}

func branchOf(name, commit string) map[string]any {
	return map[string]any{"name": name, "merged": false, "protected": false, "default": name == "main", "commit": map[string]any{
		"id": commit, "short_id": commit[:8], "title": "subject", "author_name": "Ada Author", "authored_date": "2024-05-06T07:08:09.000+00:00",
	}}
}

// conditional answers with a validator, as Rack::ETag makes them for every answer of the API, and with 304 to who has it.
func (g *GitLab) conditional(w http.ResponseWriter, r *http.Request, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	tag := fmt.Sprintf(`W/"%x"`, md5.Sum(text))
	w.Header().Set("ETag", tag)
	w.Header().Set("Cache-Control", "max-age=0, private, must-revalidate")
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text)
}

// serveBranches lists branches in pages of 20, or as many as asked for up to 100; search is part of a name, or a beginning
// after "^" (docs.gitlab.com/api/branches: "List repository branches"; docs.gitlab.com/api/rest: "Offset-based pagination").
func (g *GitLab) serveBranches(w http.ResponseWriter, r *http.Request, one *repository) {
	query := r.URL.Query()
	number := func(name string, standard, most int) int {
		n, err := strconv.Atoi(query.Get(name))
		if err != nil || n < 1 {
			return standard
		}
		return min(n, most)
	}
	perPage, page := number("per_page", 20, 100), number("page", 1, 1<<30)
	list := []any{}
	for _, ref := range one.refs() {
		name := strings.TrimPrefix(ref.name, "refs/heads/")
		beginning, fromStart := strings.CutPrefix(query.Get("search"), "^")
		if fromStart && strings.HasPrefix(name, beginning) || !fromStart && strings.Contains(name, query.Get("search")) {
			list = append(list, branchOf(name, ref.commit))
		}
	}
	from := min(len(list), (page-1)*perPage)
	to := min(len(list), from+perPage)
	if to < len(list) {
		next := *r.URL
		query.Set("page", strconv.Itoa(page+1))
		next.RawQuery = query.Encode()
		w.Header().Set("Link", fmt.Sprintf(`<%s%s>; rel="next"`, g.wire.url, next.String()))
		w.Header().Set("X-Next-Page", strconv.Itoa(page+1))
	}
	g.conditional(w, r, list[from:to])
}

// listStatuses gives the latest status of each name (docs.gitlab.com/api/commits: "List the statuses of a commit").
func (g *GitLab) listStatuses(w http.ResponseWriter, r *http.Request, one *repository, sha string) {
	if !one.commits[sha] {
		answerJSON(w, http.StatusNotFound, message("404 Commit Not Found"))
		return
	}
	query := r.URL.Query()
	g.mu.Lock()
	latest := []*gitlabStatus{}
	for _, s := range g.statuses {
		if s.project != one.id || s.SHA != sha || query.Get("name") != "" && query.Get("name") != s.Name || query.Get("ref") != "" && query.Get("ref") != s.Ref {
			continue
		}
		if query.Get("all") != "true" {
			latest = slices.DeleteFunc(latest, func(older *gitlabStatus) bool { return older.Name == s.Name && older.Ref == s.Ref })
		}
		copied := *s
		latest = append(latest, &copied)
	}
	g.mu.Unlock()
	answerJSON(w, http.StatusOK, latest)
}

var wholeID = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// setStatus makes or changes a status (docs.gitlab.com/api/commits: "Set commit pipeline status"): one that is pending or
// running is changed, and may not be changed to what it is already; otherwise there is a new one. It takes the role of a
// Developer. Descriptions and addresses have at most 255 characters.
func (g *GitLab) setStatus(w http.ResponseWriter, r *http.Request, token *gitlabToken, one *repository, sha string) {
	var in struct {
		State, Ref, Name, Context, Description string
		TargetURL                              string `json:"target_url"`
	}
	text, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return // the client has gone
	}
	if err := json.Unmarshal(text, &in); err != nil {
		answerJSON(w, http.StatusBadRequest, map[string]string{"error": "Problems parsing JSON"})
		return
	}
	in.Name = firstOf(in.Name, in.Context, "default")
	switch {
	case token == nil:
		answerJSON(w, http.StatusUnauthorized, message("401 Unauthorized"))
		return
	case token.role != "developer" && token.role != "maintainer":
		answerJSON(w, http.StatusForbidden, message("403 Forbidden"))
		return
	case !slices.Contains([]string{"pending", "running", "success", "failed", "canceled", "skipped"}, in.State):
		answerJSON(w, http.StatusBadRequest, map[string]string{"error": "state does not have a valid value"})
		return
	case !wholeID.MatchString(sha), !one.commits[sha]:
		answerJSON(w, http.StatusNotFound, message("404 Commit Not Found"))
		return
	case utf8.RuneCountInString(in.Description) > 255:
		answerJSON(w, http.StatusBadRequest, map[string]any{"message": map[string]any{"description": []string{"is too long (maximum is 255 characters)"}}})
		return
	case utf8.RuneCountInString(in.TargetURL) > 255:
		answerJSON(w, http.StatusBadRequest, map[string]any{"message": map[string]any{"target_url": []string{"is too long (maximum is 255 characters)"}}})
		return
	}
	if in.Ref == "" { // the first branch that has the commit
		for _, ref := range one.refs() {
			if ref.commit == sha && in.Ref == "" {
				in.Ref = strings.TrimPrefix(ref.name, "refs/heads/")
			}
		}
		if in.Ref == "" {
			answerJSON(w, http.StatusNotFound, message("404 References for commit Not Found"))
			return
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var s *gitlabStatus
	for _, other := range g.statuses {
		if other.project == one.id && other.SHA == sha && other.Name == in.Name && other.Ref == in.Ref && (other.State == "pending" || other.State == "running") {
			s = other
		}
	}
	switch {
	case s == nil:
		s = &gitlabStatus{project: one.id, ID: len(g.statuses) + 1, SHA: sha, Ref: in.Ref, Name: in.Name}
		g.statuses = append(g.statuses, s)
	case s.State == in.State || in.State == "pending":
		event := map[string]string{"pending": "enqueue", "running": "run"}[in.State]
		answerJSON(w, http.StatusBadRequest, message(fmt.Sprintf(`Cannot transition status via :%s from :%s (Reason(s): Status cannot transition via "%s")`, event, s.State, event)))
		return
	}
	s.State, s.Description, s.TargetURL = in.State, in.Description, in.TargetURL
	answerJSON(w, http.StatusCreated, s)
}

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}
