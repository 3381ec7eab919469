package forgetest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// EmulatedGitea is as much of a Gitea as who watches branches and reports on commits sees, for what a real one cannot do: live in
// a synctest bubble, have ten thousand repositories, be somebody else's busy instance. It answers as Gitea 1.26 was seen
// to; what is not said here is as on docs.gitea.com/api.
type EmulatedGitea struct {
	*repositories
	*wire
	o EmulatedGiteaOptions

	mu       sync.Mutex // guards what follows; taken after that of the repositories, where both are
	tokens   map[string][]string
	revoked  map[string]bool
	hidden   map[string]bool
	mirrors  map[string]time.Time
	statuses map[string][]giteaStatusRow // by repository and commit
	searches int
	rows     int
}

var _ Lab = (*EmulatedGitea)(nil)

// EmulatedGiteaOptions of an EmulatedGitea.
type EmulatedGiteaOptions struct {
	Loopback bool
	// Late is how long after a push updated_at is written, by a queue: up to 2 s with a real one.
	Late time.Duration
	// Clock is how far its clock is ahead of ours; the Date of its answers too.
	Clock time.Duration
	// Proxy is how far the clock of what stands before it is ahead of ours, which is where Date comes from then.
	Proxy time.Duration
}

type giteaStatusRow struct {
	ID          int    `json:"id"`
	State       string `json:"status"`
	Context     string `json:"context"`
	Description string `json:"description"`
	URL         string `json:"target_url"`
}

// NewEmulatedGitea starts one for one test.
func NewEmulatedGitea(t testing.TB, o EmulatedGiteaOptions) *EmulatedGitea {
	t.Helper()
	g := &EmulatedGitea{
		o: o, tokens: map[string][]string{}, revoked: map[string]bool{}, hidden: map[string]bool{},
		mirrors: map[string]time.Time{}, statuses: map[string][]giteaStatusRow{},
	}
	g.wire = newWire(t, "gitea.test", o.Loopback, http.HandlerFunc(g.serve))
	g.repositories = newRepositories(t, g.wire.url)
	return g
}

// Kind is "gitea".
func (g *EmulatedGitea) Kind() string { return "gitea" }

// API is the base of the API.
func (g *EmulatedGitea) API() string { return g.wire.url + "/api/v1" }

// Token makes a token with scopes.
func (g *EmulatedGitea) Token(rights ...string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(rights) == 0 {
		rights = []string{"write:repository", "read:user"}
	}
	token := fmt.Sprintf("%040x", len(g.tokens)+1)
	g.tokens[token] = rights
	return token
}

// Revoke ends a token.
func (g *EmulatedGitea) Revoke(token string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.revoked[token] = true
}

// Hide takes a repository out of the search, which shows it to nobody any more.
func (g *EmulatedGitea) Hide(repository string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hidden[strings.ToLower(repository)] = true
}

// Mirror makes a repository a mirror, whose updated_at is the time of its newest commit
// (services/mirror/mirror_pull.go).
func (g *EmulatedGitea) Mirror(repository string, committed time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mirrors[strings.ToLower(repository)] = committed
}

// Searches tells how many of the requests were searches.
func (g *EmulatedGitea) Searches() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.searches
}

// Statuses gives those of a commit, the newest of each context.
func (g *EmulatedGitea) Statuses(repository, commit string) []Status {
	var newest []Status
	for _, s := range g.latest(strings.ToLower(repository) + " " + commit) {
		newest = append(newest, Status{Context: s.Context, State: s.State, Description: s.Description, URL: s.URL})
	}
	return newest
}

// History gives all that was ever said of a commit, oldest first: each status is a row of its own.
func (g *EmulatedGitea) History(repository, commit string) []Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []Status
	for _, s := range g.statuses[strings.ToLower(repository)+" "+commit] {
		list = append(list, Status{Context: s.Context, State: s.State, Description: s.Description, URL: s.URL})
	}
	return list
}

// StatusRows tells how many statuses were ever made.
func (g *EmulatedGitea) StatusRows() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.rows
}

func (g *EmulatedGitea) latest(key string) []giteaStatusRow {
	g.mu.Lock()
	defer g.mu.Unlock()
	var latest []giteaStatusRow // null where there are none
	for _, s := range g.statuses[key] {
		latest = append(slices.DeleteFunc(latest, func(older giteaStatusRow) bool { return older.Context == s.Context }), s)
	}
	return latest
}

// updated is what a repository shows as updated_at: seconds, written some time after the last move. The caller holds the
// lock of the repositories.
func (g *EmulatedGitea) updated(one *repository, now time.Time) time.Time {
	g.mu.Lock()
	committed, mirror := g.mirrors[strings.ToLower(one.name)]
	g.mu.Unlock()
	if mirror {
		return committed.Truncate(time.Second)
	}
	for _, at := range slices.Backward(one.moves) {
		if written := at.Add(g.o.Late); !written.After(now) {
			return written.Add(g.o.Clock).Truncate(time.Second)
		}
	}
	return one.moves[0].Add(g.o.Clock).Truncate(time.Second)
}

func (g *EmulatedGitea) serve(w http.ResponseWriter, r *http.Request) {
	date := g.o.Clock
	if g.o.Proxy != 0 {
		date = g.o.Proxy
	}
	w.Header().Set("Date", time.Now().Add(date).UTC().Format(http.TimeFormat))
	token := credential(r)
	g.mu.Lock()
	scopes, good := g.tokens[token], !g.revoked[token]
	g.mu.Unlock()
	valid := token != "" && scopes != nil && good
	if isGit(r) {
		g.serveGit(w, r, token, valid, scopes)
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/api/v1/")
	switch {
	case !ok:
		http.NotFound(w, r)
		return
	case token != "" && !valid:
		answerJSON(w, http.StatusUnauthorized, map[string]any{"message": "invalid username, password or token", "url": g.wire.url + "/api/swagger"})
		return
	}
	g.charge(1)
	need := "read:repository"
	switch {
	case path == "user":
		need = "read:user"
	case r.Method != http.MethodGet:
		need = "write:repository"
	}
	if valid && !slices.Contains(scopes, need) && !slices.Contains(scopes, strings.Replace(need, "read:", "write:", 1)) && !slices.Contains(scopes, "all") {
		answerJSON(w, http.StatusForbidden, map[string]any{
			"message": fmt.Sprintf("token does not have at least one of required scope(s), required=[%s], token scope=%s", need, strings.Join(scopes, ",")),
			"url":     g.wire.url + "/api/swagger",
		})
		return
	}
	parts := strings.Split(path, "/")
	switch {
	case path == "user" && !valid:
		answerJSON(w, http.StatusUnauthorized, map[string]any{"message": "token is required", "url": g.wire.url + "/api/swagger"})
	case path == "user":
		answerJSON(w, http.StatusOK, map[string]any{"id": 2, "login": "watcher"})
	case path == "version":
		answerJSON(w, http.StatusOK, map[string]any{"version": "1.26.0"})
	case path == "repos/search":
		g.serveSearch(w, r, valid)
	case parts[0] == "repos" && len(parts) >= 3:
		g.serveRepository(w, r, valid, parts[1]+"/"+parts[2], parts[3:])
	default:
		g.notFound(w)
	}
}

func (g *EmulatedGitea) notFound(w http.ResponseWriter) {
	answerJSON(w, http.StatusNotFound, map[string]any{"errors": nil, "message": "not found", "url": g.wire.url + "/api/swagger"})
}

// serveGit is the Git side: who may not see a repository is told that it wants credentials, and with them that there is
// none. A repository that was moved is reached by a redirection.
func (g *EmulatedGitea) serveGit(w http.ResponseWriter, r *http.Request, token string, valid bool, scopes []string) {
	name, _ := gitRequest(r)
	var one *repository
	var refs []ref
	moved := ""
	g.look(func() {
		if one = g.find(name); one != nil {
			refs = one.refs()
		} else if other := g.findMoved(name); other != nil {
			moved = other.name
		}
	})
	switch {
	case token != "" && !valid, token == "" && (one == nil || one.private) && moved == "":
		w.Header().Set("WWW-Authenticate", `Basic realm="Gitea"`)
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
	case valid && !slices.ContainsFunc(scopes, func(s string) bool { return s == "all" || strings.HasSuffix(s, ":repository") }):
		http.Error(w, "token does not have scope: read:repository", http.StatusForbidden)
	case moved != "":
		to := *r.URL
		to.Path = "/" + moved + to.Path[strings.LastIndex(to.Path, ".git")+len(".git"):]
		http.Redirect(w, r, to.String(), http.StatusMovedPermanently)
	case one == nil:
		http.Error(w, "Repository not found", http.StatusNotFound)
	default:
		serveGit(w, r, refs)
	}
}

// found is a repository as the API shows it. The caller holds the lock of the repositories.
func (g *EmulatedGitea) found(one *repository, valid bool, now time.Time) map[string]any {
	_, mirror := g.mirrors[strings.ToLower(one.name)]
	owner, name, _ := strings.Cut(one.name, "/")
	return map[string]any{
		"id": one.id, "full_name": one.name, "name": name, "owner": map[string]any{"login": owner}, "private": one.private,
		"mirror": mirror, "empty": len(one.branches) == 0, "archived": false, "has_code": true, "default_branch": "main",
		"updated_at": g.updated(one, now), "clone_url": g.wire.url + "/" + one.name + ".git",
		"permissions": map[string]bool{"admin": false, "push": valid, "pull": true},
	}
}

// serveSearch searches among what the token may see, in pages of 30, or as many as wanted up to 50; q is part of a name, or
// of owner/name. The header tells how many there are.
func (g *EmulatedGitea) serveSearch(w http.ResponseWriter, r *http.Request, valid bool) {
	g.mu.Lock()
	g.searches++
	hidden := cloned(g.hidden)
	g.mu.Unlock()
	query := r.URL.Query()
	number := func(name string, standard, most int) int {
		n, err := strconv.Atoi(query.Get(name))
		if err != nil || n < 1 {
			return standard
		}
		return min(n, most)
	}
	limit, page := number("limit", 30, 50), number("page", 1, 1<<30)
	if sort := query.Get("sort"); sort != "" && sort != "updated" && sort != "id" && sort != "alpha" && sort != "created" && sort != "size" {
		answerJSON(w, http.StatusUnprocessableEntity, message("Invalid sort mode: "+strconv.Quote(sort)))
		return
	}
	type row struct {
		*repository
		updated time.Time
	}
	data, total := []any{}, 0
	g.look(func() {
		now := time.Now()
		var rows []row
		for name, one := range g.all {
			if (valid || !one.private) && !hidden[name] && strings.Contains(name, strings.ToLower(query.Get("q"))) {
				rows = append(rows, row{one, g.updated(one, now)})
			}
		}
		slices.SortFunc(rows, func(a, b row) int {
			by := a.id - b.id
			if query.Get("sort") == "updated" {
				if c := a.updated.Compare(b.updated); c != 0 {
					by = c
				}
			}
			if query.Get("order") == "desc" {
				return -by
			}
			return by
		})
		total = len(rows)
		from := min(total, (page-1)*limit)
		for _, one := range rows[from:min(total, from+limit)] {
			data = append(data, g.found(one.repository, valid, now))
		}
	})
	w.Header().Set("X-Total-Count", strconv.Itoa(total))
	answerJSON(w, http.StatusOK, map[string]any{"ok": true, "data": data})
}

// serveRepository answers for one repository. Its former names are led to its new one, whatever the method.
func (g *EmulatedGitea) serveRepository(w http.ResponseWriter, r *http.Request, valid bool, name string, rest []string) {
	var one repository
	var shown map[string]any
	moved := ""
	g.look(func() {
		switch p, other := g.find(name), g.findMoved(name); {
		case p != nil && (valid || !p.private):
			one = *p
			one.branches, one.commits = cloned(p.branches), cloned(p.commits)
			shown = g.found(p, valid, time.Now())
		case p == nil && other != nil && (valid || !other.private):
			moved = other.name
		}
	})
	if moved != "" {
		to := "/api/v1/repos/" + moved
		for _, part := range rest {
			to += "/" + url.PathEscape(part)
		}
		http.Redirect(w, r, to, http.StatusMovedPermanently)
		return
	}
	route := r.Method + " " + strings.Join(rest, "/")
	key := strings.ToLower(name)
	switch {
	case shown == nil:
		g.notFound(w)
	case route == "GET ":
		answerJSON(w, http.StatusOK, shown)
	case route == "GET branches":
		query := r.URL.Query()
		limit, err := strconv.Atoi(query.Get("limit"))
		if err != nil || limit < 1 {
			limit = 30
		}
		page, err := strconv.Atoi(query.Get("page"))
		if err != nil || page < 1 {
			page = 1
		}
		refs := one.refs()
		from := min(len(refs), (page-1)*min(limit, 50))
		list := []any{}
		for _, ref := range refs[from:min(len(refs), from+min(limit, 50))] {
			list = append(list, giteaBranchOf(ref))
		}
		w.Header().Set("X-Total-Count", strconv.Itoa(len(refs)))
		answerJSON(w, http.StatusOK, list)
	case strings.HasPrefix(route, "GET branches/"):
		branch := strings.Join(rest[1:], "/")
		if one.branches[branch] == "" {
			g.notFound(w)
			return
		}
		answerJSON(w, http.StatusOK, giteaBranchOf(ref{"refs/heads/" + branch, one.branches[branch]}))
	case strings.HasPrefix(route, "GET git/commits/") && len(rest) == 3:
		if !one.commits[rest[2]] {
			g.notFound(w)
			return
		}
		answerJSON(w, http.StatusOK, map[string]any{"sha": rest[2], "commit": map[string]any{"author": author(), "committer": author(), "message": commitMessage}})
	case strings.HasPrefix(route, "GET commits/") && len(rest) == 3 && rest[2] == "status":
		if !one.commits[rest[1]] {
			g.notFound(w)
			return
		}
		latest := g.latest(key + " " + rest[1])
		w.Header().Set("X-Total-Count", strconv.Itoa(len(latest)))
		answerJSON(w, http.StatusOK, map[string]any{"sha": rest[1], "total_count": len(latest), "statuses": latest, "repository": shown})
	case strings.HasPrefix(route, "POST statuses/") && len(rest) == 2:
		g.setStatus(w, r, &one, key, rest[1], valid)
	default:
		g.notFound(w)
	}
}

func giteaBranchOf(r ref) map[string]any {
	return map[string]any{"name": strings.TrimPrefix(r.name, "refs/heads/"), "commit": map[string]any{"id": r.commit, "message": "subject"}}
}

func (g *EmulatedGitea) setStatus(w http.ResponseWriter, r *http.Request, one *repository, key, sha string, valid bool) {
	var in struct {
		State, Context, Description string
		URL                         string `json:"target_url"`
	}
	text, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return // the client has gone
	}
	switch {
	case !valid:
		answerJSON(w, http.StatusUnauthorized, message("token is required"))
		return
	case json.Unmarshal(text, &in) != nil || !slices.Contains([]string{"pending", "success", "error", "failure", "warning", "skipped"}, in.State):
		answerJSON(w, http.StatusUnprocessableEntity, message("unknown state"))
		return
	case !one.commits[sha]:
		g.notFound(w)
		return
	}
	g.mu.Lock()
	g.rows++
	row := giteaStatusRow{g.rows, in.State, firstOf(in.Context, "default"), in.Description, in.URL}
	g.statuses[key+" "+sha] = append(g.statuses[key+" "+sha], row)
	g.mu.Unlock()
	answerJSON(w, http.StatusCreated, row)
}
