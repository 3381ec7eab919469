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
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"sentry/internal/git/gittest"
)

// Gitea is a real Gitea of its own for one test, on loopback: SQLite, no mail, no SSH, nothing that goes out. It ends with
// the test. Several goroutines may use it.
type Gitea struct {
	URL      string // "http://127.0.0.1:port", without a slash at the end
	User     string // an administrator, who owns what Repository makes
	Password string
	Token    string // of User, with every scope

	dir    string
	binary string
	client *http.Client
}

// The account of a test's Gitea.
const (
	giteaUser     = "ada"
	giteaPassword = "correct horse battery staple"
)

// giteaINI is its configuration. What hashes a password thousands of times to slow down a thief does it ten times here; a
// writer waits for another rather than fail; everything else that matters to who watches a forge is as Gitea ships it,
// its queues too.
var giteaINI = template.Must(template.New("app.ini").Parse(`RUN_MODE = prod
WORK_PATH = {{.Dir}}
I_AM_BEING_UNSAFE_RUNNING_AS_ROOT = true
[server]
HTTP_ADDR = 127.0.0.1
HTTP_PORT = {{.Port}}
ROOT_URL = {{.URL}}/
STATIC_ROOT_PATH = {{.Static}}
DISABLE_SSH = true
OFFLINE_MODE = true
LFS_START_SERVER = false
GRACEFUL_HAMMER_TIME = 2s
[database]
DB_TYPE = sqlite3
PATH = {{.Dir}}/gitea.db
SQLITE_JOURNAL_MODE = WAL
SQLITE_TIMEOUT = 20000
[repository]
ROOT = {{.Dir}}/repositories
DEFAULT_BRANCH = main
[security]
INSTALL_LOCK = true
SECRET_KEY = for-tests-only
INTERNAL_TOKEN = for-tests-only
PASSWORD_HASH_ALGO = pbkdf2$10$50
[oauth2]
ENABLED = false
[service]
DISABLE_REGISTRATION = true
[mailer]
ENABLED = false
[actions]
ENABLED = false
[packages]
ENABLED = false
[indexer]
ISSUE_INDEXER_TYPE = db
[cron]
ENABLED = false
[session]
PROVIDER = memory
[webhook]
ALLOWED_HOST_LIST = loopback
[log]
MODE = console
LEVEL = Info
`))

// StartGitea starts a Gitea. The test is skipped where none was built; with SENTRY_NEED_GITEA set it fails then.
func StartGitea(t testing.TB) *Gitea {
	t.Helper()
	home := giteaHome(t)
	g := &Gitea{
		User: giteaUser, Password: giteaPassword, binary: filepath.Join(home, "gitea"),
		client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 4}},
	}
	// Not t.TempDir: on failure the log is read after what it holds is gone.
	var err error
	if g.dir, err = os.MkdirTemp("", "sentry-gitea-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.remove(t) })

	// Gitea takes over a listener that is open already, as from systemd. So nobody can take the port in between, and who asks
	// before Gitea is ready waits in the queue of that listener: the first answer is the readiness.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	socket, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	g.URL = "http://" + listener.Addr().String()

	var ini bytes.Buffer
	err = giteaINI.Execute(&ini, map[string]any{
		"Dir": g.dir, "URL": g.URL, "Port": listener.Addr().(*net.TCPAddr).Port, "Static": filepath.Join(home, "static"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.ini(), ini.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	g.serve(t, socket)
	g.Token = g.newUser(t)
	return g
}

// giteaHome is where Gitea was built to.
func giteaHome(t testing.TB) string {
	t.Helper()
	_, file, _, _ := runtime.Caller(0)
	home := filepath.Join(filepath.Dir(file), "..", "..", "..", ".cache", "gitea", "current")
	if _, err := os.Stat(filepath.Join(home, "gitea")); err != nil {
		if os.Getenv("SENTRY_NEED_GITEA") != "" {
			t.Fatalf("there is no Gitea: %v; `make gitea` builds it", err)
		}
		t.Skip("there is no Gitea to test with: `make gitea` builds it, in some five minutes")
	}
	if _, err := os.Stat(filepath.Join(home, "static", "templates")); err != nil {
		t.Fatalf("Gitea's templates are gone: %v; `make gitea` brings them back", err)
	}
	return home
}

func (g *Gitea) ini() string     { return filepath.Join(g.dir, "app.ini") }
func (g *Gitea) logFile() string { return filepath.Join(g.dir, "gitea.log") }

// command is Gitea's program with its configuration, and nothing of this process's environment that could matter to it.
func (g *Gitea) command(args ...string) *exec.Cmd {
	cmd := exec.Command(g.binary, append([]string{"--config", g.ini()}, args...)...)
	cmd.Dir = g.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + g.dir, "USER=" + os.Getenv("USER"), "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C"}
	return cmd
}

// serve starts the server and waits until it answers.
func (g *Gitea) serve(t testing.TB, socket *os.File) {
	t.Helper()
	log, err := os.Create(g.logFile())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := g.command("web")
	cmd.Env = append(cmd.Env, "LISTEN_FDS=1")
	cmd.ExtraFiles = []*os.File{socket}
	cmd.Stdout, cmd.Stderr = log, log
	server, err := start(cmd)
	if err != nil {
		t.Fatalf("cannot start Gitea: %v", err)
	}
	t.Cleanup(func() {
		g.client.CloseIdleConnections() // it waits for those
		server.stop(t, g.dir)
		if t.Failed() {
			t.Logf("the end of Gitea's log:\n%s", g.lastLog())
		}
	})

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	go func() {
		select {
		case <-server.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.URL+"/api/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := (&http.Client{Transport: g.client.Transport}).Do(req)
	if err != nil {
		t.Fatalf("Gitea does not get ready: %v", err)
	}
	defer answer.Body.Close()
	if body, _ := io.ReadAll(answer.Body); answer.StatusCode != http.StatusOK {
		t.Fatalf("Gitea is not well: %s\n%s", answer.Status, body)
	}
}

// newUser makes the administrator by Gitea's own command line, and gives the access token.
func (g *Gitea) newUser(t testing.TB) string {
	t.Helper()
	out, err := g.command("admin", "user", "create", "--admin", "--username", g.User, "--password", g.Password,
		"--email", g.User+"@example.com", "--must-change-password=false",
		"--access-token", "--access-token-name", "first", "--access-token-scopes", "all").CombinedOutput()
	token := regexp.MustCompile(`created\.\.\. ([0-9a-f]{40})\s`).FindSubmatch(out)
	if err != nil || token == nil {
		t.Fatalf("cannot make a user of Gitea: %v\n%s", err, out)
	}
	return string(token[1])
}

// remove takes away what is on disk.
func (g *Gitea) remove(t testing.TB) {
	if err := os.RemoveAll(g.dir); err != nil {
		t.Errorf("Gitea left something that cannot be removed: %v", err)
	}
}

// lastLog is the end of the log: enough to see what went before a failure.
func (g *Gitea) lastLog() string {
	text, err := os.ReadFile(g.logFile())
	if err != nil {
		return err.Error()
	}
	const most = 16 << 10
	if len(text) > most {
		text = text[len(text)-most:]
		text = text[bytes.IndexByte(text, '\n')+1:]
	}
	return string(text)
}

// Call asks Gitea's API as the administrator: path is below /api/v1, in is sent as JSON (nil for no body), the answer is
// read into out (nil to ignore it). The test fails where the answer is not one of success.
func (g *Gitea) Call(t testing.TB, method, path string, in, out any) {
	t.Helper()
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, g.URL+"/api/v1"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	// By name and password: tokens are made and revoked by nobody else.
	req.SetBasicAuth(g.User, g.Password)
	req.Header.Set("Content-Type", "application/json")
	answer, err := g.client.Do(req)
	if err != nil {
		t.Fatalf("cannot ask Gitea: %v", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s %v\n%s", method, path, answer.Status, err, text)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal(text, out); err != nil {
		t.Fatalf("%s %s: %v\n%s", method, path, err, text)
	}
}

// NewToken makes another token of the administrator: "read:repository", "write:repository" … are the scopes.
func (g *Gitea) NewToken(t testing.TB, name string, scopes ...string) string {
	t.Helper()
	var made struct {
		Token string `json:"sha1"`
	}
	g.Call(t, http.MethodPost, "/users/"+g.User+"/tokens", map[string]any{"name": name, "scopes": scopes}, &made)
	return made.Token
}

// RevokeToken takes a token away, by the name that it was given.
func (g *Gitea) RevokeToken(t testing.TB, name string) {
	t.Helper()
	g.Call(t, http.MethodDelete, "/users/"+g.User+"/tokens/"+url.PathEscape(name), nil, nil)
}

// GiteaRepository is a repository of a Gitea. Commits are made in a bare repository beside it, and get there by a push over
// HTTP, as anybody's do. One goroutine at a time uses it.
type GiteaRepository struct {
	Name string // without the owner
	URL  string // to clone it
	// Local is where commits are made and branches moved before they are pushed.
	Local *gittest.Repo

	gitea *Gitea
}

// Repository makes an empty repository of the administrator's.
func (g *Gitea) Repository(t testing.TB, name string, private bool) *GiteaRepository {
	t.Helper()
	g.Call(t, http.MethodPost, "/user/repos", map[string]any{"name": name, "private": private, "default_branch": "main"}, nil)
	r := &GiteaRepository{gitea: g}
	r.named(name)
	r.Local = gittest.NewRepo(t, filepath.Join(t.TempDir(), name), r.URL)
	return r
}

func (r *GiteaRepository) named(name string) {
	r.Name, r.URL = name, fmt.Sprintf("%s/%s/%s.git", r.gitea.URL, r.gitea.User, name)
}

// api is the repository's part of the API.
func (r *GiteaRepository) api(rest string) string {
	return "/repos/" + r.gitea.User + "/" + r.Name + rest
}

// Dir is the folder of the bare repository on Gitea's disk: where a branch that was pushed is a file under refs/heads as
// soon as it has moved, and until it is packed.
func (r *GiteaRepository) Dir() string {
	return filepath.Join(r.gitea.dir, "repositories", r.gitea.User, strings.ToLower(r.Name)+".git")
}

// RefFile is the file of a branch.
func (r *GiteaRepository) RefFile(branch string) string {
	return filepath.Join(r.Dir(), "refs", "heads", filepath.FromSlash(branch))
}

// Commit adds a commit to a branch and pushes it. It gives the commit.
func (r *GiteaRepository) Commit(t testing.TB, branch string, files map[string]string, msg string) string {
	t.Helper()
	commit := r.Local.Commit(t, branch, files, msg)
	r.Push(t, branch)
	return commit
}

// Push pushes branches as they are in Local, whether that goes forward or not.
func (r *GiteaRepository) Push(t testing.TB, branches ...string) {
	t.Helper()
	args := []string{"push", "--quiet", "--force", r.withAccount()}
	for _, branch := range branches {
		ref := "refs/heads/" + branch
		args = append(args, ref+":"+ref)
	}
	gittest.Git(t, r.Local.Dir, args...)
}

// Delete removes a branch, here and there.
func (r *GiteaRepository) Delete(t testing.TB, branch string) {
	t.Helper()
	gittest.Git(t, r.Local.Dir, "push", "--quiet", r.withAccount(), ":refs/heads/"+branch)
	r.Local.Delete(t, branch)
}

// withAccount is the address with the administrator's token in it.
func (r *GiteaRepository) withAccount() string {
	return strings.Replace(r.URL, "://", "://"+r.gitea.User+":"+r.gitea.Token+"@", 1)
}

// Rename gives it another name. Gitea goes on answering to the old one, by a redirection.
func (r *GiteaRepository) Rename(t testing.TB, name string) {
	t.Helper()
	r.gitea.Call(t, http.MethodPatch, r.api(""), map[string]any{"name": name}, nil)
	r.named(name)
}

// Webhook has pushes told to an address, signed with the secret.
func (r *GiteaRepository) Webhook(t testing.TB, to, secret string) {
	t.Helper()
	r.gitea.Call(t, http.MethodPost, r.api("/hooks"), map[string]any{
		"type": "gitea", "active": true, "events": []string{"push"},
		"config": map[string]string{"url": to, "content_type": "json", "secret": secret},
	}, nil)
}

// GiteaStatus is what somebody said of a commit.
type GiteaStatus struct {
	ID          int64  `json:"id"`
	State       string `json:"status"` // pending, success, error, failure, warning
	Context     string `json:"context"`
	Description string `json:"description"`
	URL         string `json:"target_url"`
}

// Statuses lists all that was ever said of a commit, oldest first.
func (r *GiteaRepository) Statuses(t testing.TB, commit string) []GiteaStatus {
	t.Helper()
	var list []GiteaStatus
	r.gitea.Call(t, http.MethodGet, r.api("/statuses/"+commit)+"?limit=50", nil, &list)
	// Gitea sorts by the second.
	slices.SortFunc(list, func(a, b GiteaStatus) int { return cmp.Compare(a.ID, b.ID) })
	return list
}
