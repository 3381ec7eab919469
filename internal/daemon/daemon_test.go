package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sentry/internal/command"
	"sentry/internal/config"
	"sentry/internal/daemon"
	"sentry/internal/git/gittest"
	"sentry/internal/logger"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// TestMain lets this program be a command that asks a daemon over its socket.
func TestMain(m *testing.M) {
	if path := os.Getenv("ASK_SOCKET"); path != "" {
		answer, err := asker(path).Get("http://sentry/healthz")
		if err != nil {
			fmt.Println("refused:", err)
			return
		}
		fmt.Println("answered:", answer.Status)
		return
	}
	// A process bears one mark for good, that of the first state directory; a daemon that starts again there ends whatever
	// else bears it. Here many daemons are one process: it gets the mark of none of them.
	if _, err := command.Prepare(filepath.Join(os.TempDir(), "nobody's")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// asker gives a client that asks over a socket.
func asker(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
}

// world is a forge with two upstreams and a QA repository, and a daemon that watches them.
type world struct {
	t      *testing.T
	server *gittest.Server
	a, b   *gittest.Repo
	qa     *gittest.Repo
	dir    string
	file   string // the configuration
	log    *syncBuffer
	grace  time.Duration
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *syncBuffer) contains(text string) bool { return strings.Contains(b.String(), text) }

const canary = "tok-c4n4ry-0123456789abcdef"

func newWorld(t *testing.T, command string) *world {
	return newPatientWorld(t, command, 2*time.Second)
}

// newPatientWorld gives commands a grace period when the daemon drains.
func newPatientWorld(t *testing.T, command string, grace time.Duration) *world {
	t.Helper()
	w := &world{t: t, server: gittest.NewServer(t), dir: t.TempDir(), log: &syncBuffer{}, grace: grace}
	w.a, w.b, w.qa = w.server.Repo(t, "a"), w.server.Repo(t, "b"), w.server.Repo(t, "qa")
	w.a.Commit(t, "main", map[string]string{"README": "a"}, "first of a")
	w.b.Commit(t, "main", map[string]string{"README": "b"}, "first of b")
	w.qa.Commit(t, "main", map[string]string{"run.sh": "echo run"}, "scripts")
	w.server.SetToken("robot", canary)
	w.file = filepath.Join(w.dir, "sentry.yaml")
	w.configure(command)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", w.log)
		}
	})
	return w
}

// configure writes the configuration.
func (w *world) configure(command string) {
	w.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "polling_interval: 1\nglobal: {state_dir: %q, allow_insecure_http: true, grace: %s}\n", filepath.Join(w.dir, "state"), w.grace)
	b.WriteString("groups:\n  g: {quiet_period: 100ms, global_timeout: 30s}\nrepositories:\n")
	for _, name := range []string{"a", "b"} {
		fmt.Fprintf(&b, `  - name: %s
    group: g
    monitor: {repo_url: "%s/%s", branches: [main], repo_type: git, auth: {username: robot, token_file: %q}}
    deploy:
      qa_repo_url: "%s/qa"
      qa_repo_branch: main
      repo_type: git
      project_name: %s
      auth: {username: robot, token_file: %q}
      env: {WITNESS: %q}
      commands:
        - %q
`, name, w.server.URL, name, w.tokenFile(), w.server.URL, name, w.tokenFile(), w.witness(), command)
	}
	if err := os.WriteFile(w.tokenFile(), []byte(canary+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(w.file, []byte(b.String()), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) tokenFile() string { return filepath.Join(w.dir, "token") }
func (w *world) stateDir() string  { return filepath.Join(w.dir, "state") }

// witness is a folder beside everything that is protected, so that commands can write to it.
func (w *world) witness() string {
	dir := filepath.Join(w.dir, "witness")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

func (w *world) load() (*config.Config, config.Problems, error) {
	return config.Load(w.file, config.Options{Environ: []string{}})
}

// start runs a daemon and gives the function that stops it.
func (w *world) start() (d *daemon.Daemon, stop func()) {
	w.t.Helper()
	cfg, _, err := w.load()
	if err != nil {
		w.t.Fatal(err)
	}
	mask := logger.NewMasker()
	d, err = daemon.New(w.t.Context(), daemon.Options{
		Config: cfg, Load: w.load, Version: "test", Mask: mask, Log: logger.New(w.log, slog.LevelDebug, logger.FormatJSON, mask),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := errors.Join(<-ended, d.Close()); err != nil {
				w.t.Error(err)
			}
		})
	}
	w.t.Cleanup(stop)
	return d, stop
}

// read opens the state beside whoever owns it.
func (w *world) read(f func(*store.Store)) {
	w.t.Helper()
	s, err := store.Open(context.Background(), store.Options{Dir: w.stateDir(), ReadOnly: true})
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Close()
	f(s)
}

// wait asks until the answer is yes.
func (w *world) wait(what string, yes func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !yes(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited three minutes for %s", what)
		}
	}
}

func (w *world) baselines() {
	w.t.Helper()
	w.wait("the baselines", func() (yes bool) {
		w.read(func(s *store.Store) {
			heads, err := s.Heads(context.Background())
			yes = err == nil && len(heads) == 2
		})
		return yes
	})
}

// rollout waits for the n-th rollout to be in one of the states, and gives it.
func (w *world) rollout(id string, states ...sentry.Status) (r sentry.Rollout) {
	w.t.Helper()
	w.wait(fmt.Sprintf("rollout %s to be %v", id, states), func() (yes bool) {
		w.read(func(s *store.Store) {
			var err error
			r, err = s.Rollout(context.Background(), id)
			yes = err == nil && slices.Contains(states, r.Status)
		})
		return yes
	})
	return r
}

func TestACommitIsRolledOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `env | sort > "$WITNESS/$SENTRY_REPOSITORY.env"; pwd > "$WITNESS/$SENTRY_REPOSITORY.pwd"; cp "$SENTRY_VECTOR_FILE" "$WITNESS/"; git rev-parse HEAD; sh run.sh`)
	_, stop := w.start()
	w.baselines()
	to := w.a.Commit(t, "main", map[string]string{"README": "changed"}, "take $(touch /tmp/pwned) orders")

	r := w.rollout("1", sentry.Succeeded, sentry.Failed, sentry.TimedOut)
	if r.Status != sentry.Succeeded {
		t.Fatalf("%s: %s", r.Status, r.Reason)
	}
	if len(r.Deployments) != 2 || r.Deployments[0].Commit != to || r.Deployments[1].Repository != "b" {
		t.Errorf("deployments %+v", r.Deployments)
	}
	for _, d := range r.Deployments {
		if d.Source == nil || d.Source.Commit != w.qa.Head(t, "main") || len(d.Steps) != 2 {
			t.Errorf("%s: source %+v, steps %+v", d.ID, d.Source, d.Steps)
		}
	}
	env := w.seen("a.env")
	for _, want := range []string{
		"SENTRY_COMMIT=" + to, "SENTRY_REPOSITORY=a", "SENTRY_BRANCH=main", "SENTRY_GROUP=g", "SENTRY_ATTEMPT=1", "CI=true",
		"SENTRY_PROJECT_NAME=a", "SENTRY_ROLLOUT_ID=" + r.ID, "SENTRY_QA_COMMIT=" + w.qa.Head(t, "main"),
		"SENTRY_COMMIT_SUBJECT=take $(touch /tmp/pwned) orders", "SENTRY_REPO_URL=" + w.a.URL,
	} {
		if !strings.Contains(env, want+"\n") {
			t.Errorf("the environment lacks %s:\n%s", want, env)
		}
	}
	for _, never := range []string{"SENTRY_DSN=", "SENTRY_PROJECT=", "SENTRY_URL=", "SENTRY_RELEASE=", canary, "GIT_", "GOCACHE"} {
		if strings.Contains(env, never) {
			t.Errorf("the environment has %q:\n%s", never, env)
		}
	}
	if !strings.Contains(w.seen("vector.json"), to) {
		t.Errorf("vector %s", w.seen("vector.json"))
	}
	stop()
	w.clean()
}

// seen gives what a command wrote.
func (w *world) seen(name string) string {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.witness(), name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

// clean checks that nothing is left of the deployments, and that the token is nowhere.
func (w *world) clean() {
	w.t.Helper()
	entries, err := os.ReadDir(filepath.Join(w.stateDir(), "workspaces"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "spares" {
			w.t.Errorf("left behind: workspaces/%s", e.Name())
		}
	}
	err = filepath.WalkDir(w.stateDir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte(canary)) {
			w.t.Errorf("%s holds the token", path)
		}
		return err
	})
	if err != nil {
		w.t.Error(err)
	}
	if strings.Contains(w.log.String(), canary) {
		w.t.Error("the log holds the token")
	}
	if _, err := os.Stat(daemon.SocketPath(w.stateDir())); !errors.Is(err, fs.ErrNotExist) {
		w.t.Errorf("the socket is left behind: %v", err)
	}
}

func TestCommandsCannotSeeTheState(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `
		for f in ../../../state.db ../../../logs/*/*/*.log ../../../../token ../../../../sentry.yaml; do
			[ -e "$f" ] || echo "$f is not there" >> "$WITNESS/seen"
			if cat "$f" >/dev/null 2>&1; then echo "$f" >> "$WITNESS/seen"; fi
		done
		cat "/proc/$PPID/environ" > "$WITNESS/environ" 2>/dev/null || true`)
	_, stop := w.start()
	w.baselines()
	w.a.Commit(t, "main", nil, "go")
	if r := w.rollout("1", sentry.Succeeded, sentry.Failed); r.Status != sentry.Succeeded {
		t.Fatal(r.Reason)
	}
	stop()
	if text, err := os.ReadFile(filepath.Join(w.witness(), "seen")); err == nil {
		t.Errorf("a command could see: %s", text)
	}
	if text, err := os.ReadFile(filepath.Join(w.witness(), "environ")); err == nil && len(text) > 0 {
		t.Error("a command could read the daemon's environment")
	}
}

func TestRestartsLoseNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `echo "$SENTRY_REPOSITORY $SENTRY_COMMIT" >> "$WITNESS/ran"`)
	_, stop := w.start()
	w.baselines()
	stop()
	to := w.b.Commit(t, "main", nil, "while nobody watched")
	_, stop = w.start()
	if r := w.rollout("1", sentry.Succeeded, sentry.Failed); r.Status != sentry.Succeeded {
		t.Fatal(r.Reason)
	}
	stop()
	_, stop = w.start()
	time.Sleep(1500 * time.Millisecond) // a poll and more
	stop()
	if n := strings.Count(w.seen("ran"), "b "+to); n != 1 {
		t.Errorf("rolled out %d times, want once:\n%s", n, w.seen("ran"))
	}
	w.clean()
}

func TestASecondDaemonIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "true")
	w.start()
	cfg, _, err := w.load()
	if err != nil {
		t.Fatal(err)
	}
	_, err = daemon.New(t.Context(), daemon.Options{Config: cfg, Log: logger.New(w.log, slog.LevelDebug, logger.FormatJSON, nil), Mask: logger.NewMasker()})
	var locked *store.LockedError
	if !errors.As(err, &locked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("a second daemon must be refused and told of the first: %v", err)
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `echo one >> "$WITNESS/ran"`)
	d, stop := w.start()
	w.baselines()

	good, err := os.ReadFile(w.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.file, append(slices.Clone(good), []byte("nonsense: true\n")...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("a broken file must be refused with its reason: %v", err)
	}
	if info := d.Info(); info.Reload == nil || info.Reload.OK || !strings.Contains(info.Reload.Message, "nonsense") {
		t.Errorf("status must tell of the refusal: %+v", info.Reload)
	}
	w.a.Commit(t, "main", nil, "under the old configuration")
	w.rollout("1", sentry.Succeeded)

	w.configure(`echo two >> "$WITNESS/ran"`)
	// The change of the file is found by itself.
	w.wait("the reload", func() bool { return d.Info().Reload.OK })
	w.a.Commit(t, "main", nil, "under the new configuration")
	w.rollout("2", sentry.Succeeded)
	stop()
	if got := w.seen("ran"); got != "one\none\ntwo\ntwo\n" {
		t.Errorf("ran %q", got)
	}
}

func TestADrainLetsCommandsEnd(t *testing.T) {
	t.Parallel()
	w := newPatientWorld(t, `echo begin >> "$WITNESS/ran"; sleep 1; echo end >> "$WITNESS/ran"`, time.Minute)
	_, stop := w.start()
	w.baselines()
	w.a.Commit(t, "main", nil, "go")
	w.wait("both commands", func() bool {
		text, _ := os.ReadFile(filepath.Join(w.witness(), "ran"))
		return strings.Count(string(text), "begin") == 2
	})
	stop()
	if r := w.rollout("1", sentry.Succeeded, sentry.Running); r.Status != sentry.Succeeded {
		t.Errorf("what ends within the grace period ends well: %s %s", r.Status, r.Reason)
	}
	w.clean()
}

func TestADrainInterruptsAndTheNextStartGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `echo "begin $SENTRY_REPOSITORY $SENTRY_ATTEMPT" >> "$WITNESS/ran"; [ "$SENTRY_ATTEMPT" -gt 1 ] || sleep 60`)
	_, stop := w.start()
	w.baselines()
	w.a.Commit(t, "main", nil, "go")
	w.wait("both commands", func() bool {
		text, _ := os.ReadFile(filepath.Join(w.witness(), "ran"))
		return strings.Count(string(text), "begin") == 2
	})
	stop()
	w.clean()
	r := w.rollout("1", sentry.Running)
	if !strings.Contains(r.Deployments[0].Reason, "begins again") {
		t.Errorf("reason %q", r.Deployments[0].Reason)
	}
	_, stop = w.start()
	r = w.rollout("1", sentry.Succeeded, sentry.Failed)
	if r.Status != sentry.Succeeded || r.Attempt != 2 || r.Deployments[0].Attempt != 2 {
		t.Errorf("%s attempt %d: %s", r.Status, r.Attempt, r.Reason)
	}
	stop()
	w.clean()
}

func TestARotatedTokenNeedsNoRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `true`)
	_, stop := w.start()
	defer stop()
	w.baselines()
	w.server.SetToken("robot", "another-token-987654321")
	if err := os.WriteFile(w.tokenFile(), []byte("another-token-987654321\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.a.Commit(t, "main", nil, "go")
	if r := w.rollout("1", sentry.Succeeded, sentry.Failed); r.Status != sentry.Succeeded {
		t.Error(r.Reason)
	}
}

func TestTheSocketAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "true")
	_, stop := w.start()
	defer stop()
	path := daemon.SocketPath(w.stateDir())
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %s", info.Mode().Perm())
	}
	client := asker(path)
	defer client.CloseIdleConnections()
	answer, err := client.Get("http://sentry/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("answered %s", answer.Status)
	}
}

func TestCommandsCannotAsk(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, fmt.Sprintf(`ASK_SOCKET="$PWD/../../../sentry.sock" %q > "$WITNESS/answer" 2>&1`, self))
	_, stop := w.start()
	w.baselines()
	w.a.Commit(t, "main", nil, "go")
	if r := w.rollout("1", sentry.Succeeded, sentry.Failed); r.Status != sentry.Succeeded {
		t.Fatal(r.Reason)
	}
	stop()
	if got := w.seen("answer"); !strings.Contains(got, "refused: ") {
		t.Errorf("a command asked the daemon and got %q", got)
	}
}

func TestSocketPathIsShort(t *testing.T) {
	t.Parallel()
	long := "/" + strings.Repeat("a-long-folder-name/", 20)
	if got := daemon.SocketPath(long); len(got) > 100 {
		t.Errorf("%d bytes: %s", len(got), got)
	}
	if a, b := daemon.SocketPath(long+"1"), daemon.SocketPath(long+"2"); a == b {
		t.Errorf("two state directories share %s", a)
	}
}
