package forgetest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"text/template"
	"time"

	"sentry/internal/sentry/sentrytest"
)

// giteaINI is its configuration. What hashes a password thousands of times to slow down a thief does it ten times here; a
// writer waits for another rather than fail; everything else that matters to who watches a forge is as Gitea ships it,
// its queues too. Gitea's own hooks do not come through the front.
var giteaINI = template.Must(template.New("app.ini").Parse(`RUN_MODE = prod
WORK_PATH = {{.Dir}}
I_AM_BEING_UNSAFE_RUNNING_AS_ROOT = true
[server]
HTTP_ADDR = 127.0.0.1
HTTP_PORT = {{.Port}}
ROOT_URL = {{.Front}}/
LOCAL_ROOT_URL = {{.Direct}}/
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

// giteaServer is a real Gitea on loopback with a folder of its own: SQLite, no mail, no SSH, nothing that goes out.
type giteaServer struct {
	url    string // without a slash at the end
	dir    string
	binary string
	client *http.Client
}

// startGitea starts a Gitea that calls itself by the address front, and ends it with the test. The test is skipped where
// none was built; where SENTRY_NEED_GITEA is set it fails.
func startGitea(t testing.TB, front string) *giteaServer {
	t.Helper()
	home := giteaHome(t)
	g := &giteaServer{
		binary: filepath.Join(home, "gitea"),
		client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 4}},
	}
	var err error
	if g.dir, err = os.MkdirTemp("", "sentry-gitea-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of Gitea's log:\n%s", g.lastLog())
		}
		if err := os.RemoveAll(g.dir); err != nil {
			t.Errorf("Gitea left what cannot be removed: %v", err)
		}
	})
	for tries := 1; !g.serve(t, freePort(t), front, home); tries++ {
		if tries == 3 {
			t.Fatalf("Gitea does not start:\n%s", g.lastLog())
		}
	}
	return g
}

// freePort gives a port for which nobody listens. It is not one of those that the system hands out by itself, to servers
// and to clients, so it is still free when Gitea gets to it, unless another test chooses the same just now.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 10_000 + rand.IntN(20_000)
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// giteaHome is where Gitea was built to.
func giteaHome(t testing.TB) string {
	t.Helper()
	home := filepath.Join(sentrytest.Root(t), ".cache", "gitea", "current")
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

func (g *giteaServer) ini() string     { return filepath.Join(g.dir, "app.ini") }
func (g *giteaServer) logFile() string { return filepath.Join(g.dir, "gitea.log") }

// command is Gitea's program with its configuration, and nothing of this process's environment that could matter to it.
func (g *giteaServer) command(args ...string) *exec.Cmd {
	cmd := exec.Command(g.binary, append([]string{"--config", g.ini()}, args...)...)
	cmd.Dir = g.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + g.dir, "USER=" + os.Getenv("USER"), "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C"}
	return cmd
}

// serve starts the server at a port and waits until it answers; where it ends before, it did not get the port.
func (g *giteaServer) serve(t testing.TB, port int, front, home string) bool {
	t.Helper()
	g.url = fmt.Sprintf("http://127.0.0.1:%d", port)
	var ini bytes.Buffer
	err := giteaINI.Execute(&ini, map[string]any{
		"Dir": g.dir, "Front": front, "Direct": g.url, "Port": port, "Static": filepath.Join(home, "static"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.ini(), ini.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(g.logFile())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := g.command("web")
	cmd.Stdout, cmd.Stderr = log, log
	server, err := start(cmd)
	if err != nil {
		t.Fatalf("cannot start Gitea: %v", err)
	}
	t.Cleanup(func() {
		select {
		case <-server.ended:
			if t.Failed() {
				t.Logf("Gitea had ended before, with %v", server.cmd.ProcessState)
			}
		default:
		}
		server.stop(t, g.dir)
		g.client.CloseIdleConnections()
	})

	late := time.After(2 * time.Minute)
	for {
		select {
		case <-server.ended:
			return false
		case <-late:
			t.Fatalf("Gitea does not get ready:\n%s", g.lastLog())
		case <-time.After(20 * time.Millisecond):
		}
		answer, err := g.client.Get(g.url + "/api/healthz")
		if err != nil {
			continue
		}
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			return true
		}
	}
}

// newUser makes a user by Gitea's own command line, and gives an access token with every scope.
func (g *giteaServer) newUser(t testing.TB, name, password string, more ...string) string {
	t.Helper()
	out, err := g.command(append([]string{
		"admin", "user", "create", "--username", name, "--password", password, "--email", name + "@example.com",
		"--must-change-password=false", "--access-token", "--access-token-name", "first", "--access-token-scopes", "all",
	}, more...)...).CombinedOutput()
	token := regexp.MustCompile(`created\.\.\. ([0-9a-f]{40})\s`).FindSubmatch(out)
	if err != nil || token == nil {
		t.Fatalf("cannot make a user of Gitea: %v\n%s", err, out)
	}
	return string(token[1])
}

// lastLog is the end of the log: enough to see what went before a failure.
func (g *giteaServer) lastLog() string {
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
