package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sentry/internal/git/gitserve"
)

// world is what the demo plays in: two upstream repositories and a QA repository in a temporary folder, served over
// smart HTTP on loopback, and a configuration that watches them.
type world struct {
	dir    string // everything is below it
	url    string // http://127.0.0.1:PORT
	config string // the configuration file
	server *http.Server
}

// upstreams are the demo's monitored repositories: let them be somebody else's.
var upstreams = []string{"shop", "payments"}

// qaFiles are the demo's QA repository: what a real one would hold are scripts like these.
var qaFiles = map[string]string{
	"deploy.sh": `#!/bin/sh
# A real one would say: kubectl create -f pipelinerun.yaml
set -e
echo "deploying $SENTRY_REPOSITORY at $SENTRY_BRANCH, commit $SENTRY_COMMIT"
[ -z "$SENTRY_COMMIT_SUBJECT" ] || echo "new in it: $SENTRY_COMMIT_SUBJECT ($SENTRY_COMMIT_AUTHOR)"
sleep 1
echo "$SENTRY_REPOSITORY is deployed"
`,
	"test.sh": `#!/bin/sh
set -e
for suite in smoke api; do
	sleep 0.5
	echo "$suite tests of $SENTRY_REPOSITORY: ok"
done
echo "tested together:"
sed -n 's/.*"repository": "\(.*\)",/  \1/p' "$SENTRY_VECTOR_FILE"
`,
}

// newWorld makes the world. The caller closes it; on an error nothing is left.
func newWorld(ctx context.Context) (_ *world, err error) {
	if _, err := exec.LookPath("git"); err != nil {
		return nil, errors.New("the demo needs git, and there is none in PATH")
	}
	dir, err := os.MkdirTemp("", "sentry-demo-")
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, config: filepath.Join(dir, "sentry.yaml")}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	served := filepath.Join(dir, "served")
	if err := os.Mkdir(served, 0o700); err != nil {
		return nil, err
	}
	if err := w.serve(served); err != nil {
		return nil, err
	}
	for _, name := range upstreams {
		if err := w.makeRepository(ctx, name, map[string]string{"README.md": "# " + name + "\n"}); err != nil {
			return nil, err
		}
	}
	if err := w.makeRepository(ctx, "qa", qaFiles); err != nil {
		return nil, err
	}
	return w, os.WriteFile(w.config, []byte(w.yaml()), 0o600)
}

// serve answers for the repositories below root on a free port of loopback.
func (w *world) serve(root string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	w.url = "http://" + l.Addr().String()
	w.server = &http.Server{
		Handler:           gitserve.Handler(root, gitserve.Options{ReceivePack: true}),
		ReadHeaderTimeout: 10 * time.Second,
	}
	go func() { _ = w.server.Serve(l) }() // it ends with close
	return nil
}

// yaml is the demo's configuration: as small as a real one may be.
func (w *world) yaml() string {
	var b strings.Builder
	fmt.Fprintf(&b, `polling_interval: 1
global:
  state_dir: %s
  allow_insecure_http: true   # the demo's server is on loopback, without TLS
groups:
  storefront:
    execution_strategy: parallel
    max_parallel: 2
    global_timeout: 2m
repositories:
`, filepath.Join(w.dir, "state"))
	for _, name := range upstreams {
		fmt.Fprintf(&b, `  - name: %s
    group: storefront
    monitor:
      repo_url: %s/%s.git
      branches: [main]
      repo_type: git
    deploy:
      qa_repo_url: %s/qa.git
      qa_repo_branch: main
      repo_type: git
      project_name: %s
      commands:
        - {name: deploy, run: ./deploy.sh}
        - {name: test, run: ./test.sh}
`, name, w.url, name, w.url, name)
	}
	return b.String()
}

// clone is the work tree of a repository, in which a person may commit and push.
func (w *world) clone(name string) string { return filepath.Join(w.dir, name) }

// makeRepository makes a served repository and a clone of it with a first commit.
func (w *world) makeRepository(ctx context.Context, name string, files map[string]string) error {
	bare := filepath.Join(w.dir, "served", name+".git")
	if err := w.git(ctx, w.dir, "init", "--quiet", "--bare", "--initial-branch=main", bare); err != nil {
		return err
	}
	if err := w.git(ctx, w.dir, "init", "--quiet", "--initial-branch=main", w.clone(name)); err != nil {
		return err
	}
	for file, text := range files {
		if err := os.WriteFile(filepath.Join(w.clone(name), file), []byte(text), 0o700); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"config", "user.name", "Demo"},
		{"config", "user.email", "demo@sentry.invalid"},
		{"remote", "add", "origin", w.url + "/" + name + ".git"},
		{"config", "branch.main.remote", "origin"},
		{"config", "branch.main.merge", "refs/heads/main"},
		{"add", "--all"},
	} {
		if err := w.git(ctx, w.clone(name), args...); err != nil {
			return err
		}
	}
	_, err := w.push(ctx, name, "start "+name)
	return err
}

// push commits whatever is in the clone (or nothing) and pushes it. It gives the new commit.
func (w *world) push(ctx context.Context, name, subject string) (string, error) {
	dir := w.clone(name)
	if err := w.git(ctx, dir, "commit", "--quiet", "--allow-empty", "--all", "--message", subject); err != nil {
		return "", err
	}
	if err := w.git(ctx, dir, "push", "--quiet", "origin", "HEAD:main"); err != nil {
		return "", err
	}
	out, err := w.command(ctx, dir, "rev-parse", "HEAD").Output()
	return strings.TrimSpace(string(out)), err
}

func (w *world) git(ctx context.Context, dir string, args ...string) error {
	cmd := w.command(ctx, dir, args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(said.String()))
	}
	return nil
}

// command runs git without the user's and the system's configuration: the demo must look the same everywhere.
func (w *world) command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "GIT_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_TERMINAL_PROMPT=0", "LC_ALL=C", "no_proxy=*")
	return cmd
}

// close ends the server and removes everything.
func (w *world) close() error {
	var errs []error
	if w.server != nil {
		errs = append(errs, w.server.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}
