//go:build linux

package pipelines

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sentry/internal/git/gitserve"
	"sentry/internal/kube/kubetest"
	"sentry/internal/sentry"
)

// token is what the QA repository asks for, and nobody but Sentry and its runner may know.
const token = "canary-token-of-jobs"

// jobWorld is a world whose deployments run as Jobs.
type jobWorld struct {
	*world
	home string // the namespace of the Jobs
}

// newJobWorld makes one, with the Jobs in a namespace of Pod Security's level restricted. Their QA repository is served over HTTP.
func newJobWorld(t *testing.T, group string, members ...member) *jobWorld {
	t.Helper()
	image := kubetest.Find(t).SentryImage(t)
	w := &jobWorld{world: newWorld(t)}
	w.home = w.cluster.Namespace(t, "pod-security.kubernetes.io/enforce=restricted")
	w.cluster.Run(t, "create", "serviceaccount", "runner", "--namespace", w.home)
	w.cluster.Run(t, "create", "role", "runner", "--namespace", w.namespace, "--verb=get,list,watch,create", "--resource=pipelineruns.tekton.dev")
	w.cluster.Run(t, "create", "rolebinding", "runner", "--namespace", w.namespace, "--role=runner", "--serviceaccount="+w.home+":runner")
	listener := w.cluster.Listen(t)
	server := &http.Server{Handler: gitserve.Handler(w.dir, gitserve.Options{User: "robot", Token: token}), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener) // until it is closed
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-served
	})
	w.configure(group, members...)
	text, err := os.ReadFile(w.config())
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer(
		"qa_repo_url: "+w.dir+"/qa.git", "qa_repo_url: http://"+listener.Addr().String()+"/qa.git\n      auth: {username: robot, token: "+token+"}\n      executor: kubernetes",
		"allow_local_repositories: true", "allow_local_repositories: true, allow_insecure_http: true",
		"kubernetes: {", "kubernetes: {jobs: {namespace: "+w.home+", image: "+image+", image_pull_policy: IfNotPresent, service_account: runner, scratch_size: 64Mi, start_timeout: 4m}, ",
	).Replace(string(text))
	if err := os.WriteFile(w.config(), []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

// jobs lists the names of the Jobs that there are.
func (w *jobWorld) jobs() []string {
	w.t.Helper()
	return strings.Fields(w.cluster.Run(w.t, "get", "jobs", "--namespace", w.home, "--output", "name"))
}

// A group of four, each deployment in a Job of its own: a pipeline run succeeds, a pipeline run fails, a command fails, and a
// command takes too long.
func TestJobs(t *testing.T) {
	t.Parallel()
	cluster := kubetest.Find(t)
	const inside = `      commands:
        - |
          ! env | grep -i canary
          ! grep -rs canary /work /tmp /var/run /proc/*/environ /proc/*/cmdline
          [ ! -e /var/run/secrets/kubernetes.io ]
          ! touch /opt/sentry/x 2>/dev/null
          id -u
          cd .tekton/good && kubectl create -f run.yaml
          ! kubectl get secrets
`
	w := newJobWorld(t, "max_parallel: 4",
		member{name: "good", deploy: inside, files: run(cluster, "good", kubetest.Succeeds("build", nil))},
		member{name: "bad", deploy: fmt.Sprintf(script, "bad"), files: run(cluster, "bad", kubetest.Fails("unit", 3))},
		member{name: "broken", deploy: "      commands: [\"echo before; exit 7\", \"echo never\"]\n"},
		member{name: "slow", deploy: "      timeout: 2m\n      commands: [\"echo begun; sleep 600\"]\n"},
	)
	r, code := w.trigger("g")
	if code != 1 || r.Status != sentry.TimedOut {
		t.Errorf("it ends with %d, and the rollout as %s: %s", code, r.Status, r.Reason)
	}
	for name, want := range map[string]struct {
		status sentry.Status
		steps  string
		reason string
		log    string
	}{
		"good":   {sentry.Succeeded, "track clone command track", "", "65532\n"},
		"bad":    {sentry.Failed, "track clone command track", "pipeline run " + w.namespace + "/bad-", "no such luck"},
		"broken": {sentry.Failed, "track clone command", "exited with 7", "before\n"},
		"slow":   {sentry.TimedOut, "track clone command", "timeout is over", "begun\n"},
	} {
		d := of(r, name)
		var steps []string
		for _, step := range d.Steps {
			steps = append(steps, string(step.Kind))
		}
		if d.Status != want.status || strings.Join(steps, " ") != want.steps || !strings.Contains(d.Reason, want.reason) || d.Job == nil || d.Job.UID == "" {
			t.Errorf("%s ended as %s (%s) with the steps %q, in %+v", name, d.Status, d.Reason, steps, d.Job)
		}
		text, _ := w.run("logs", r.ID, name)
		if !strings.Contains(text, want.log) || strings.Contains(text, token) {
			t.Errorf("the log of %s:\n%s", name, text)
		}
	}
	w.known(append(of(r, "good").PipelineRuns, of(r, "bad").PipelineRuns...))
	w.until("the Job that was ended has gone", func() bool { return len(w.jobs()) < 4 })
	if jobs := w.jobs(); len(jobs) != 3 {
		t.Errorf("the Jobs that stay are %q", jobs)
	}
	if all := w.cluster.Run(t, "get", "jobs,pods", "--namespace", w.home, "--output", "yaml"); strings.Contains(all, token) {
		t.Error("the token is in the cluster")
	}
	if pods := w.cluster.Run(t, "get", "pods", "--namespace", w.home, "--field-selector=status.phase=Running", "--output", "name", "--selector", "sentry.dev/job"); pods != "" {
		t.Errorf("there runs %s", pods)
	}
}

// A deployment goes on in its Job while Sentry is killed, and the next Sentry follows it to its end: nothing is done twice.
func TestJobOutlivesSentry(t *testing.T) {
	t.Parallel()
	w := newJobWorld(t, "on_interrupt: retry", member{name: "long", deploy: `      commands: ["echo begun; for i in $(seq 20); do sleep 1; echo $i; done", "echo second"]
`})
	d := w.start()
	if out, code := w.run("trigger", "--wait=false", "g"); code != 0 {
		t.Fatal(out)
	}
	for i, moment := range []string{"job", "clone", "begun", "7"} {
		w.until("it is at "+moment, func() bool {
			r := w.rollout()
			if i < 2 {
				return len(of(r, "long").Steps) > i
			}
			text, _ := w.run("logs", r.ID, "long")
			return strings.Contains(text, "\n"+moment+"\n")
		})
		d.end(syscall.SIGKILL)
		d = w.start()
	}
	w.until("it is over", func() bool { return w.rollout().Status.Terminal() })
	r := w.rollout()
	long := of(r, "long")
	if r.Status != sentry.Succeeded || long.Attempt != 1 {
		t.Errorf("it ended as %s (%s) at attempt %d", r.Status, r.Reason, long.Attempt)
	}
	if jobs := w.jobs(); len(jobs) != 1 {
		t.Errorf("the Jobs are %q", jobs)
	}
	var want strings.Builder
	want.WriteString("begun\n")
	for i := range 20 {
		fmt.Fprintln(&want, i+1)
	}
	told := false
	for _, step := range long.Steps {
		if strings.HasPrefix(step.Name, "echo begun") {
			text, err := os.ReadFile(filepath.Join(w.dir, "state", "logs", step.Log))
			if err != nil || string(text) != want.String() {
				t.Errorf("the log of the command is %q: %v", text, err)
			}
			told = true
		}
	}
	if !told {
		t.Errorf("the steps are %+v", long.Steps)
	}
}
