package forgetest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"sentry/internal/git/gittest"
)

// Gitea is a Lab of a real Gitea. Between it and those who ask stands a front that counts and can be made to fail; what
// the Lab itself does goes straight to Gitea, so it is neither counted nor made to fail.
//
// Repositories belong to an administrator or to organisations. Whoever has a token of the Lab's is another, ordinary
// account, who may write to each of them.
type Gitea struct {
	t       testing.TB
	server  *giteaServer
	front   *httptest.Server
	passing *giteaFront
	faulty  *faulty
	pusher  string // the administrator's token

	mu     sync.Mutex // owns what follows
	local  map[string]*gittest.Repo
	owners map[string]bool
	tokens map[string]string // token: name
	serial int
}

var _ Lab = (*Gitea)(nil)

// The accounts of a Gitea, with one password for both.
const (
	giteaAdmin    = "ada"
	giteaWatcher  = "watcher"
	giteaPassword = "correct horse battery staple"
)

// NewGitea starts a Gitea for one test, with which it ends. Where none was built the test is skipped, or fails where
// SENTRY_NEED_GITEA is set.
func NewGitea(t testing.TB) *Gitea {
	t.Helper()
	g := &Gitea{t: t, local: map[string]*gittest.Repo{}, owners: map[string]bool{giteaAdmin: true}, tokens: map[string]string{}}
	var gitea url.URL
	g.faulty = &faulty{next: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&gitea)
			r.Out.Host = r.In.Host // Gitea makes the addresses that it tells of it
		},
		FlushInterval: -1,
	}}
	g.passing = &giteaFront{next: g.faulty}
	// It listens before Gitea starts, which has to know the address, and closes after it has ended.
	g.front = httptest.NewServer(g.passing)
	t.Cleanup(g.front.Close)

	g.server = startGitea(t, g.front.URL)
	direct, err := url.Parse(g.server.url)
	if err != nil {
		t.Fatal(err)
	}
	gitea = *direct
	g.pusher = g.server.newUser(t, giteaAdmin, giteaPassword, "--admin")
	g.server.newUser(t, giteaWatcher, giteaPassword)
	return g
}

// Kind is "gitea".
func (g *Gitea) Kind() string { return "gitea" }

// URL is the address of the front.
func (g *Gitea) URL() string { return g.front.URL }

// API is the base of the API.
func (g *Gitea) API() string { return g.URL() + "/api/v1" }

// Direct is the address of Gitea itself, past the front: for who measures how long something takes.
func (g *Gitea) Direct() string { return g.server.url }

// Dial is nil: it is on the network.
func (g *Gitea) Dial() func(ctx context.Context, network, address string) (net.Conn, error) {
	return nil
}

// Repository makes an empty repository.
func (g *Gitea) Repository(repository string, private bool) string {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	owner, name, _ := strings.Cut(repository, "/")
	g.own(owner)
	to := "/orgs/" + owner + "/repos"
	if owner == giteaAdmin {
		to = "/user/repos"
	}
	g.call(http.MethodPost, to, map[string]any{"name": name, "private": private, "default_branch": "main"}, nil)
	g.call(http.MethodPut, "/repos/"+repository+"/collaborators/"+giteaWatcher, map[string]any{"permission": "write"}, nil)
	remote := g.remote(repository)
	g.local[repository] = gittest.NewRepo(g.t, filepath.Join(g.t.TempDir(), "local.git"), remote)
	return remote
}

// own makes an organisation, unless it is there.
func (g *Gitea) own(owner string) {
	g.t.Helper()
	if !g.owners[owner] {
		g.owners[owner] = true
		g.call(http.MethodPost, "/orgs", map[string]any{"username": owner}, nil)
	}
}

func (g *Gitea) remote(repository string) string { return g.URL() + "/" + repository + ".git" }

// Push adds a commit to a branch and pushes it over HTTP, as anybody does. It makes the branch where there is none.
func (g *Gitea) Push(repository, branch string) string {
	g.t.Helper()
	return g.commit(repository, branch, false)
}

// ForcePush replaces a branch by a commit that follows from none.
func (g *Gitea) ForcePush(repository, branch string) string {
	g.t.Helper()
	return g.commit(repository, branch, true)
}

func (g *Gitea) commit(repository, branch string, anew bool) string {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	local := g.repo(repository)
	if anew {
		local.Delete(g.t, branch)
	}
	g.serial++
	text := fmt.Sprintf("commit %d", g.serial)
	commit := local.Commit(g.t, branch, map[string]string{"file": text}, text)
	g.push(repository, branch)
	return commit
}

// Commit is Push of a commit with these files, path to content; others stay.
func (g *Gitea) Commit(repository, branch string, files map[string]string) string {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.serial++
	commit := g.repo(repository).Commit(g.t, branch, files, fmt.Sprintf("commit %d", g.serial))
	g.push(repository, branch)
	return commit
}

// Set moves a branch, by force, to a commit that was pushed before.
func (g *Gitea) Set(repository, branch, commit string) {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.repo(repository).Branch(g.t, branch, commit)
	g.push(repository, branch)
}

// Delete removes a branch.
func (g *Gitea) Delete(repository, branch string) {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.repo(repository).Delete(g.t, branch)
	gittest.Git(g.t, g.repo(repository).Dir, "push", "--quiet", g.pushURL(repository), ":refs/heads/"+branch)
}

func (g *Gitea) push(repository, branch string) {
	g.t.Helper()
	ref := "refs/heads/" + branch
	gittest.Git(g.t, g.repo(repository).Dir, "push", "--quiet", "--force", g.pushURL(repository), ref+":"+ref)
}

// repo is where commits of a repository are made before they are pushed.
func (g *Gitea) repo(repository string) *gittest.Repo {
	g.t.Helper()
	if g.local[repository] == nil {
		g.t.Fatalf("there is no repository %s", repository)
	}
	return g.local[repository]
}

func (g *Gitea) pushURL(repository string) string {
	return strings.Replace(g.Direct(), "://", "://"+giteaAdmin+":"+g.pusher+"@", 1) + "/" + repository + ".git"
}

// Head is what a branch points at on Gitea's disk, "" where there is none.
func (g *Gitea) Head(repository, branch string) string {
	g.t.Helper()
	return (&gittest.Repo{Dir: g.Dir(repository)}).Head(g.t, branch)
}

// Dir is the folder of the bare repository on Gitea's disk.
func (g *Gitea) Dir(repository string) string {
	return filepath.Join(g.server.dir, "repositories", filepath.FromSlash(strings.ToLower(repository))+".git")
}

// RefFile is the file that holds the commit of a branch, from the moment that a push moved it.
func (g *Gitea) RefFile(repository, branch string) string {
	return filepath.Join(g.Dir(repository), "refs", "heads", filepath.FromSlash(branch))
}

// Rename gives a repository another name, or another owner too. Gitea leads who asks for the old one to the new one.
func (g *Gitea) Rename(repository, to string) {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	owner, name := path.Split(repository)
	newOwner, newName := path.Split(to)
	if newOwner != owner {
		g.own(path.Clean(newOwner))
		g.call(http.MethodPost, "/repos/"+repository+"/transfer", map[string]any{"new_owner": path.Clean(newOwner)}, nil)
	}
	if newName != name {
		g.call(http.MethodPatch, "/repos/"+newOwner+name, map[string]any{"name": newName}, nil)
	}
	g.local[to] = g.repo(repository)
	delete(g.local, repository)
}

// Remove deletes a repository.
func (g *Gitea) Remove(repository string) {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.call(http.MethodDelete, "/repos/"+repository, nil, nil)
	delete(g.local, repository)
}

// Token makes a token with scopes: read:repository, write:repository, read:user …
func (g *Gitea) Token(rights ...string) string {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(rights) == 0 {
		rights = []string{"write:repository", "read:user"}
	}
	g.serial++
	name := fmt.Sprintf("token %d", g.serial)
	var made struct {
		Token string `json:"sha1"`
	}
	g.call(http.MethodPost, "/users/"+giteaWatcher+"/tokens", map[string]any{"name": name, "scopes": rights}, &made)
	g.tokens[made.Token] = name
	return made.Token
}

// Revoke ends a token.
func (g *Gitea) Revoke(token string) {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.call(http.MethodDelete, "/users/"+giteaWatcher+"/tokens/"+url.PathEscape(g.tokens[token]), nil, nil)
}

// Webhook has the pushes to a repository told to an address, signed with a secret.
func (g *Gitea) Webhook(repository, to, secret string) {
	g.t.Helper()
	g.call(http.MethodPost, "/repos/"+repository+"/hooks", map[string]any{
		"type": "gitea", "active": true, "events": []string{"push"},
		"config": map[string]string{"url": to, "content_type": "json", "secret": secret},
	}, nil)
}

// Statuses gives those of a commit, the newest of each context.
func (g *Gitea) Statuses(repository, commit string) []Status {
	g.t.Helper()
	var newest []Status
	for _, s := range g.History(repository, commit) {
		newest = append(slices.DeleteFunc(newest, func(older Status) bool { return older.Context == s.Context }), s)
	}
	return newest
}

// History gives all that was ever said of a commit, oldest first: a forge keeps each status as a row of its own.
func (g *Gitea) History(repository, commit string) []Status {
	g.t.Helper()
	const most = 50
	type row struct {
		ID          int64  `json:"id"`
		Status      string `json:"status"`
		Context     string `json:"context"`
		Description string `json:"description"`
		URL         string `json:"target_url"`
	}
	var rows []row
	g.call(http.MethodGet, fmt.Sprintf("/repos/%s/statuses/%s?limit=%d", repository, commit, most), nil, &rows)
	if len(rows) == most {
		g.t.Fatalf("%s of %s has %d statuses or more", commit, repository, most)
	}
	slices.SortFunc(rows, func(a, b row) int { return cmp.Compare(a.ID, b.ID) }) // Gitea sorts them by the second
	var list []Status
	for _, r := range rows {
		list = append(list, Status{Context: r.Context, State: r.Status, Description: r.Description, URL: r.URL})
	}
	return list
}

// Requests tells what arrived at the front since the start. Gitea has no budget: every request of the API is charged.
func (g *Gitea) Requests() Counts { return g.passing.total() }

// Fail puts something between Gitea and those who ask.
func (g *Gitea) Fail(fault Fault) { g.faulty.set(fault) }

// call asks the API as the administrator: the path is below /api/v1, in is sent as JSON, the answer is read into out; nil
// stands for nothing. The test fails where the answer is not one of success.
func (g *Gitea) call(method, path string, in, out any) {
	g.t.Helper()
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			g.t.Fatal(err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, g.Direct()+"/api/v1"+path, body)
	if err != nil {
		g.t.Fatal(err)
	}
	req.SetBasicAuth(giteaAdmin, giteaPassword) // with a token nobody may make or revoke tokens
	req.Header.Set("Content-Type", "application/json")
	answer, err := g.server.client.Do(req)
	if err != nil {
		g.t.Fatalf("cannot ask Gitea: %v", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode/100 != 2 {
		g.t.Fatalf("%s %s: %s %v\n%s", method, path, answer.Status, err, text)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal(text, out); err != nil {
		g.t.Fatalf("%s %s: %v\n%s", method, path, err, text)
	}
}
