//go:build linux

package endtoend

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"

	"sentry/internal/forge/forgetest"
	"sentry/internal/sentry/sentrytest"
)

// The repositories of a world, on Gitea.
const (
	watched = "acme/rag"
	qa      = "acme/qa"
)

// world is a Gitea with two private repositories, one that is watched and one with the commands, and a Sentry that may
// read both and put statuses on their commits.
type world struct {
	t     testing.TB
	gitea *forgetest.Gitea
	dir   string // of Sentry
	token string // with which it watches
}

// script is what Sentry runs: it testifies, waits as long as there is a gate, and fails where the test wants it to.
const script = `set -e
echo "$SENTRY_BRANCH $SENTRY_COMMIT" >>"$WORLD/witness"
while [ -e "$WORLD/gate" ]; do sleep 0.02; done
[ ! -e "$WORLD/fail" ]
`

// newWorld makes a world whose watched repository has a first commit on main.
func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, gitea: forgetest.NewGitea(t)}
	sentrytest.Binary(t) // before the clocks of the tests run
	// Not below the binary's or Gitea's folders, and not t.TempDir: its name has no place in a socket's address.
	var err error
	if w.dir, err = os.MkdirTemp("", "sentry-endtoend-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(w.dir); err != nil {
			t.Error(err)
		}
	})
	// Commands may not write beside credentials.
	if err := os.Mkdir(filepath.Join(w.dir, "world"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.gitea.Repository(watched, true)
	w.gitea.Repository(qa, true)
	w.gitea.Commit(qa, "main", map[string]string{"deploy.sh": script})
	w.gitea.Push(watched, "main")
	w.token = w.gitea.Token()
	w.write("token", w.token+"\n")
	w.write("qa-token", w.gitea.Token("read:repository")+"\n")
	return w
}

// write writes a file in Sentry's folder. Whoever reads it meanwhile finds the old or the new one.
func (w *world) write(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		w.t.Fatal(err)
	}
}

// remove removes a file of Sentry's folder.
func (w *world) remove(name string) {
	w.t.Helper()
	if err := os.Remove(filepath.Join(w.dir, name)); err != nil {
		w.t.Fatal(err)
	}
}

// settings vary the configuration.
type settings struct {
	interval string   // "1s" where empty
	branches string   // main where empty
	global   []string // more keys of global
	more     []string // repositories on Gitea that are watched too, each in a group of its own that does nothing
}

var configuration = template.Must(template.New("sentry.yaml").Parse(`polling_interval: {{.Interval}}
global:
  state_dir: {{.Dir}}/state
  allow_insecure_http: true
  log_format: json
  log_level: debug
  grace: 1s
{{- range .Global}}
  {{.}}
{{- end}}
groups:
  g: {quiet_period: 0}
repositories:
  - name: rag
    group: g
    monitor:
      repo_url: {{.Watched}}
      repo_type: gitea
      branches: [{{.Branches}}]
      auth: {token_file: {{.Dir}}/token}
    deploy:
      qa_repo_url: {{.QA}}
      qa_repo_branch: main
      repo_type: gitea
      auth: {token_file: {{.Dir}}/qa-token}
      env: {WORLD: {{.Dir}}/world}
      commands: [sh ./deploy.sh]
{{- range .More}}
  - name: {{.Name}}
    monitor: {repo_url: {{.URL}}, repo_type: gitea, branches: [main], auth: {token_file: {{$.Dir}}/token}}
    deploy: {qa_repo_url: {{$.QA}}, qa_repo_branch: main, repo_type: gitea, auth: {token_file: {{$.Dir}}/qa-token}, commands: ["true"]}
{{- end}}
`))

// sentry configures Sentry and starts it; it returns when each of these branches has been seen.
func (w *world) sentry(s settings, branches ...string) *sentryd {
	w.t.Helper()
	if s.interval == "" {
		s.interval = "1s"
	}
	if s.branches == "" {
		s.branches = "main"
	}
	type repository struct{ Name, URL string }
	var more []repository
	for _, name := range s.more {
		more = append(more, repository{path.Base(name), w.remote(name)})
	}
	var text bytes.Buffer
	err := configuration.Execute(&text, map[string]any{
		"Interval": s.interval, "Branches": s.branches, "Global": s.global, "Dir": w.dir,
		"Watched": w.remote(watched), "QA": w.remote(qa), "More": more,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.write("sentry.yaml", text.String())
	d := start(w.t, w.dir)
	for _, branch := range branches {
		w.seen(d, branch, w.gitea.Head(watched, branch))
	}
	return d
}

func (w *world) remote(repository string) string { return w.gitea.URL() + "/" + repository + ".git" }

// seen waits until Sentry knows that a branch is at a commit.
func (w *world) seen(d *sentryd, branch, commit string) {
	w.t.Helper()
	d.until(fmt.Sprintf("%s is seen at %.10s", branch, commit), func() string {
		if watch := d.watch("rag", branch); watch.Commit != commit {
			return fmt.Sprintf("it is at %q, and the last answer was %q", watch.Commit, watch.Answer)
		}
		return ""
	})
}

// testimony is what the commands were run for so far, in order: "branch commit".
func (w *world) testimony() []string {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, "world", "witness"))
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")[:bytes.Count(text, []byte("\n"))]
}

// rolledOut waits until all that was asked for is rolled out, and fails where that is anything but these: "branch commit".
func (w *world) rolledOut(d *sentryd, want ...string) {
	w.t.Helper()
	d.until(fmt.Sprintf("%v are rolled out", want), func() string {
		if got := w.testimony(); len(got) < len(want) {
			return fmt.Sprintf("the commands ran for %v", got)
		}
		for _, r := range d.rollouts() {
			if !r.Status.Terminal() {
				return fmt.Sprintf("rollout %s is %s", r.ID, r.Status)
			}
		}
		return ""
	})
	if got := w.testimony(); !slices.Equal(got, want) {
		w.t.Errorf("the commands ran for\n%s\nand should have for\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
