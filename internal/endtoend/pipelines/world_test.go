//go:build linux

package pipelines

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sentry/internal/forge/forgetest"
	"sentry/internal/git/gittest"
	"sentry/internal/kube/kubetest"
	"sentry/internal/sentry"
	"sentry/internal/sentry/sentrytest"
)

func TestMain(m *testing.M) { sentrytest.Main(m) }

// patience is how long something may take that takes a moment: pods start, and other tests may have the processors.
const patience = 5 * time.Minute

// world is a cluster with a namespace, a QA repository, and a Sentry.
type world struct {
	t          testing.TB
	cluster    *kubetest.Cluster
	namespace  string
	kubeconfig string // of Sentry
	dir        string // of Sentry; world below it is what commands may write
	qa         *gittest.Repo
	watched    *gittest.Repo
	forge      *forgetest.EmulatedGitea // where onForge was called: each member watches a repository of its own there
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, cluster: kubetest.Find(t)}
	sentrytest.Binary(t)
	w.namespace, w.kubeconfig = w.cluster.Namespace(t), w.cluster.Kubeconfig
	var err error
	if w.dir, err = os.MkdirTemp("", "sentry-pipelines-"); err != nil { // t.TempDir's name has no place in a socket's address
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(w.dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(filepath.Join(w.dir, "world"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.qa = gittest.NewRepo(t, filepath.Join(w.dir, "qa.git"), "")
	w.watched = gittest.NewRepo(t, filepath.Join(w.dir, "watched.git"), "")
	w.watched.Commit(t, "main", map[string]string{"a": "1"}, "first")
	return w
}

// member is one repository of the group: its keys under deploy, and the files of its project's folder.
type member struct {
	name   string
	deploy string // YAML, at the indentation of the keys under deploy
	files  map[string]string
	alone  bool // in a group of its own
}

// configure writes the configuration and the QA repository.
func (w *world) configure(group string, members ...member) {
	w.t.Helper()
	files := map[string]string{"README": "QA"}
	var text strings.Builder
	interval, permissions := "3600", "allow_local_repositories: true"
	if w.forge != nil {
		interval, permissions = "1s", permissions+", allow_insecure_http: true"
	}
	fmt.Fprintf(&text, `polling_interval: %[5]s
global: {state_dir: %[1]s/state, %[6]s, log_format: json, log_level: debug, grace: 1s}
kubernetes: {kubeconfig: %[2]s, namespaces: [%[3]s]}
groups:
  g: {quiet_period: 0, %[4]s}
repositories:
`, w.dir, w.kubeconfig, w.namespace, group, interval, permissions)
	for _, m := range members {
		group := "group: g"
		if m.alone {
			group = "# alone"
		}
		fmt.Fprintf(&text, `  - name: %[1]s
    %[4]s
    monitor: {%[5]s, branches: [main]}
    deploy:
      qa_repo_url: %[2]s/qa.git
      qa_repo_branch: main
%[3]s`, m.name, w.dir, m.deploy, group, w.upstream(m.name))
		for name, content := range m.files {
			files[".tekton/"+m.name+"/"+name] = content
		}
	}
	w.qa.Commit(w.t, "main", files, "pipelines")
	if err := os.WriteFile(w.config(), []byte(text.String()), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// upstream is where a member's watched repository is, in YAML.
func (w *world) upstream(name string) string {
	if w.forge == nil {
		return "repo_url: " + w.dir + "/watched.git"
	}
	remote := w.forge.Repository(onForge(name), true)
	w.forge.Push(onForge(name), "main")
	return "repo_url: " + remote + ", repo_type: gitea, on_first_seen: deploy, auth: {token: \"" + w.forge.Token() + "\"}"
}

func (w *world) config() string { return filepath.Join(w.dir, "sentry.yaml") }

// command makes a command of Sentry's, in an environment that knows nothing of a cluster.
func (w *world) command(args ...string) *exec.Cmd {
	cmd := exec.Command(sentrytest.Binary(w.t), append([]string{"--config", w.config()}, args...)...)
	cmd.Env = []string{"PATH=" + filepath.Dir(w.cluster.Kubectl) + ":" + os.Getenv("PATH"), "HOME=" + w.dir}
	return cmd
}

// run runs a verb and gives what it printed and its exit code.
func (w *world) run(args ...string) (out string, code int) {
	w.t.Helper()
	cmd := w.command(args...)
	var problem strings.Builder
	cmd.Stderr = &problem
	text, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("sentry %s: %v", strings.Join(args, " "), err)
	}
	if code := cmd.ProcessState.ExitCode(); code > 1 {
		w.t.Logf("sentry %s ends with %d: %s", strings.Join(args, " "), code, problem.String())
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// trigger rolls out in the foreground.
func (w *world) trigger(args ...string) (sentry.Rollout, int) {
	w.t.Helper()
	_, code := w.run(append([]string{"trigger", "--log-level", "debug"}, args...)...)
	return w.rollout(), code
}

// rollout is the newest of the group.
func (w *world) rollout() sentry.Rollout { return w.rolloutOf("g") }

// rolloutOf is the newest of a group; the zero value where there is none.
func (w *world) rolloutOf(group string) sentry.Rollout {
	w.t.Helper()
	var list struct{ Items []sentry.Rollout }
	out, _ := w.run("history", group, "-o", "json")
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Items) == 0 {
		return sentry.Rollout{}
	}
	var r sentry.Rollout
	out, _ = w.run("show", list.Items[0].ID, "-o", "json")
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		w.t.Fatalf("%v\n%s", err, out)
	}
	return r
}

// of gives the deployment of a repository.
func of(r sentry.Rollout, repository string) sentry.Deployment {
	i := slices.IndexFunc(r.Deployments, func(d sentry.Deployment) bool { return d.Repository == repository })
	if i < 0 {
		return sentry.Deployment{}
	}
	return r.Deployments[i]
}

// daemon is a running Sentry.
type daemon struct {
	w      *world
	cmd    *exec.Cmd
	exited chan struct{}
}

// start starts a daemon and waits until it answers. It ends with the test.
func (w *world) start() *daemon {
	w.t.Helper()
	d := w.launch()
	d.answers()
	return d
}

// answers waits until the daemon does.
func (d *daemon) answers() {
	d.w.t.Helper()
	d.w.until("it answers", func() bool {
		var status struct{ Daemon *struct{ PID int } }
		out, _ := d.w.run("status", "-o", "json")
		return json.Unmarshal([]byte(out), &status) == nil && status.Daemon != nil && status.Daemon.PID == d.cmd.Process.Pid
	})
}

// launch starts a daemon, and waits for nothing.
func (w *world) launch() *daemon {
	w.t.Helper()
	d := &daemon{w: w, cmd: w.command("watch"), exited: make(chan struct{})}
	log, err := os.OpenFile(filepath.Join(w.dir, "sentry.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		defer close(d.exited)
		runtime.LockOSThread() // it would die with the thread that started it
		err := d.cmd.Start()
		started <- err
		if err == nil {
			_ = d.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		d.end(syscall.SIGTERM)
		if w.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			w.t.Logf("Sentry's log:\n%s", text[max(0, len(text)-12<<10):])
		}
	})
	return d
}

// end sends a signal and waits for the end.
func (d *daemon) end(signal syscall.Signal) {
	_ = d.cmd.Process.Signal(signal) // where that fails it has ended
	select {
	case <-d.exited:
	case <-time.After(patience):
		_ = d.cmd.Process.Kill()
		<-d.exited
		d.w.t.Error("sentry did not end")
	}
}

// until waits for something to become true.
func (w *world) until(what string, so func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if so() {
			return
		}
	}
	w.t.Fatalf("waited for %v until %s; the rollout: %+v", patience, what, w.rollout())
}

// pipelineRun is what the cluster says of one.
type pipelineRun struct {
	Metadata struct {
		Name   string
		UID    string
		Labels map[string]string
	}
	Status struct {
		CompletionTime string
		Conditions     []struct{ Status, Reason string }
	}
}

func (p pipelineRun) ended() bool { return p.Status.CompletionTime != "" }

func (p pipelineRun) reason() string {
	if len(p.Status.Conditions) == 0 {
		return ""
	}
	return p.Status.Conditions[0].Reason
}

// inCluster lists the pipeline runs that there are, oldest first.
func (w *world) inCluster() []pipelineRun {
	w.t.Helper()
	var list struct{ Items []pipelineRun }
	out, err := w.cluster.TryKubectl("get", "pipelineruns", "--namespace", w.namespace, "--sort-by=.metadata.creationTimestamp", "-o", "json")
	if err != nil {
		w.t.Fatalf("%v\n%s", err, out)
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		w.t.Fatalf("%v\n%s", err, out)
	}
	return list.Items
}

// witness is what the scripts wrote down.
func (w *world) witness() []string {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, "world", "witness"))
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// known compares what Sentry knows of pipeline runs with what there are: all, with the right UIDs, and all ended.
func (w *world) known(runs []sentry.PipelineRun) {
	w.t.Helper()
	there := w.inCluster()
	if len(runs) != len(there) {
		w.t.Errorf("Sentry knows %d pipeline runs, and there are %d", len(runs), len(there))
	}
	for _, p := range there {
		if !p.ended() {
			w.t.Errorf("%s has not ended", p.Metadata.Name)
		}
		if !slices.ContainsFunc(runs, func(r sentry.PipelineRun) bool { return r.UID == p.Metadata.UID && r.Name == p.Metadata.Name }) {
			w.t.Errorf("Sentry does not know %s", p.Metadata.Name)
		}
	}
}
