//go:build linux

package pipelines

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"sentry/internal/forge/forgetest"
	"sentry/internal/kube/kubetest"
	"sentry/internal/sentry"
)

// script is what people have: it knows nothing of Sentry.
const script = `      commands: ["cd .tekton/%s && kubectl create -f run.yaml"]
`

func run(c *kubetest.Cluster, name string, tasks ...kubetest.Task) map[string]string {
	r := kubetest.PipelineRun{GenerateName: name + "-", Tasks: tasks}
	if len(tasks[0].Results) > 0 {
		r.Results = map[string]string{}
		for result := range tasks[0].Results {
			r.Results[result] = fmt.Sprintf("$(tasks.%s.results.%s)", tasks[0].Name, result)
		}
	}
	return map[string]string{"run.yaml": r.Manifest(c)}
}

// A group of three with an unmodified script each: one pipeline fails, one succeeds, and one takes too long. A forge is told.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.forge = forgetest.NewEmulatedGitea(t, forgetest.EmulatedGiteaOptions{Loopback: true})
	test := `{"result":"SUCCESS","timestamp":"2026-11-22T10:00:00Z","successes":7,"failures":0,"warnings":1,"note":"fine"}`
	w.configure("max_parallel: 3, trigger: changed",
		member{name: "good", deploy: fmt.Sprintf(script, "good"), files: run(w.cluster, "good", kubetest.Succeeds("build", map[string]string{"IMAGE": "shop@sha256:1", "TEST_OUTPUT": test}))},
		member{name: "bad", deploy: fmt.Sprintf(script, "bad"), files: run(w.cluster, "bad", kubetest.Succeeds("build", nil), kubetest.Fails("unit", 3))},
		member{name: "slow", deploy: "      timeout: 40s\n" + fmt.Sprintf(script, "slow"), files: run(w.cluster, "slow", kubetest.NeverEnds("wait"))},
	)
	r, code := w.trigger("g")
	if code != 1 || r.Status != sentry.TimedOut {
		t.Errorf("it ends with %d, and the rollout as %s: %s", code, r.Status, r.Reason)
	}
	var all []sentry.PipelineRun
	for name, want := range map[string]sentry.Status{"good": sentry.Succeeded, "bad": sentry.Failed, "slow": sentry.TimedOut} {
		d := of(r, name)
		if d.Status != want || len(d.PipelineRuns) != 1 {
			t.Fatalf("%s ended as %s (%s), with %d pipeline runs", name, d.Status, d.Reason, len(d.PipelineRuns))
		}
		all = append(all, d.PipelineRuns...)
		if !slices.ContainsFunc(d.Steps, func(s sentry.Step) bool { return s.Name == "track" && s.Status == want }) {
			t.Errorf("the steps of %s are %+v", name, d.Steps)
		}
		if !strings.HasPrefix(d.PipelineRuns[0].Name, name+"-") {
			t.Errorf("%s has created %s", name, d.PipelineRuns[0].Name)
		}
	}
	w.known(all)
	good, bad, slow := of(r, "good"), of(r, "bad"), of(r, "slow")
	if got := good.PipelineRuns[0]; !slices.Contains(got.Results, sentry.Result{Name: "IMAGE", Value: "shop@sha256:1"}) || got.Tests == nil || got.Tests.Passed != 7 || got.Tests.Warnings != 1 {
		t.Errorf("the results of good: %+v %+v", got.Results, got.Tests)
	}
	if !strings.Contains(bad.Reason, "pipeline run "+w.namespace+"/bad-") || !strings.Contains(bad.Reason, "unit") {
		t.Errorf("why bad failed: %s", bad.Reason)
	}
	if got := slow.PipelineRuns[0].Status; got != sentry.Canceled {
		t.Errorf("the pipeline run of slow is %s", got)
	}
	for _, p := range w.inCluster() {
		if name := p.Metadata.Labels["sentry.dev/repository"]; strings.HasPrefix(p.Metadata.Name, "slow-") && !strings.HasPrefix(p.reason(), "Cancelled") || name == "" {
			t.Errorf("%s of %q ended with %s", p.Metadata.Name, name, p.reason())
		}
	}
	if text, _ := w.run("logs", r.ID, "bad"); w.cluster.Node && !strings.Contains(text, "no such luck") {
		t.Errorf("the end of the failing task's log is not in the log of the step:\n%s", text)
	}
	if text, _ := w.run("show", r.ID); !strings.Contains(text, "IMAGE = shop@sha256:1") || !strings.Contains(text, "7 passed") || !strings.Contains(text, "unit") {
		t.Errorf("show:\n%s", text)
	}
	w.statuses()
}

// Without commands the folder of the project is what there is to do. What is told to a run are its params.
func TestWithoutCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := kubetest.PipelineRun{
		GenerateName: "one-", Params: []string{"sentry_commit", "OTHER"},
		Tasks:   []kubetest.Task{{Name: "say", Script: "printf %s $(params.sentry_commit) >$(results.C.path)", Results: map[string]string{"C": ""}}},
		Results: map[string]string{"C": "$(tasks.say.results.C)"},
	}
	manifest := strings.Replace(one.Manifest(w.cluster), `"pipelineSpec"`, `"params": [{"name": "sentry_commit", "value": "none"}], "pipelineSpec"`, 1)
	w.configure("max_parallel: 1",
		member{name: "a", deploy: "      timeout: 5m\n", files: map[string]string{"1.yaml": manifest, "2.yml": run(w.cluster, "two", kubetest.Succeeds("b", nil))["run.yaml"], "notes.txt": "x"}},
		member{name: "b", deploy: "      timeout: 5m\n", files: nil},
	)
	r, code := w.trigger("g")
	a, b := of(r, "a"), of(r, "b")
	if code != 1 || a.Status != sentry.Succeeded || b.Status != sentry.Failed || !strings.Contains(b.Reason, "no folder .tekton/b") {
		t.Fatalf("it ends with %d; a %s: %s; b %s: %s", code, a.Status, a.Reason, b.Status, b.Reason)
	}
	w.known(a.PipelineRuns)
	commit := w.watched.Head(t, "main")
	got := a.PipelineRuns[0]
	if w.cluster.Node && !slices.Contains(got.Results, sentry.Result{Name: "C", Value: commit}) {
		t.Errorf("the run was not told the commit %s: %+v", commit, got.Results)
	}
	param := `jsonpath={.spec.params[?(@.name=="sentry_commit")].value}`
	if told := w.cluster.Run(t, "get", "pipelinerun", got.Name, "--namespace", w.namespace, "--output", param); told != commit {
		t.Errorf("the run was told the commit %q, not %s", told, commit)
	}
}

// gated is a script that writes down that it runs, creates a pipeline run, and waits for the gate to be opened.
func gated(w *world, name string) string {
	return fmt.Sprintf(`      env: {WORLD: %s/world}
      commands:
        - |
          echo %s >>"$WORLD/witness"
          kubectl create -f "$SENTRY_PROJECT_DIR/run.yaml"
          while [ -e "$WORLD/gate" ]; do sleep 0.05; done
`, w.dir, name)
}

// Killed while it follows a pipeline run, Sentry goes on with it: no command runs again.
func TestKilledWhileFollowing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure("max_parallel: 1", member{name: "a", deploy: gated(w, "a"), files: run(w.cluster, "a", kubetest.Sleeps("long", 15))})
	d := w.start()
	if _, code := w.run("trigger", "--wait=false", "g"); code != 0 {
		t.Fatal("it was not queued")
	}
	w.until("it is followed", func() bool {
		steps := of(w.rollout(), "a").Steps
		return len(steps) > 0 && steps[len(steps)-1].Kind == sentry.StepTrack
	})
	d.end(syscall.SIGKILL)
	w.start()
	w.until("it has ended", func() bool { return w.rollout().Status.Terminal() })
	r := w.rollout()
	if got := of(r, "a"); r.Status != sentry.Succeeded || got.Attempt != 1 || r.Attempt != 2 {
		t.Errorf("it ended as %s: %s; attempt %d", r.Status, r.Reason, got.Attempt)
	}
	w.known(of(r, "a").PipelineRuns)
	if got := w.witness(); len(got) != 1 {
		t.Errorf("the command ran %d times", len(got))
	}
	if text, _ := w.run("why", r.ID); !strings.Contains(text, "adopted") {
		t.Errorf("why:\n%s", text)
	}
}

// Killed among the commands, Sentry cancels what they had created before it runs them again.
func TestKilledAmongCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure("max_parallel: 1", member{name: "a", deploy: gated(w, "a"), files: run(w.cluster, "a", kubetest.Sleeps("long", 20))})
	gate := filepath.Join(w.dir, "world", "gate")
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := w.start()
	if _, code := w.run("trigger", "--wait=false", "g"); code != 0 {
		t.Fatal("it was not queued")
	}
	w.until("a pipeline run is there", func() bool { return len(w.inCluster()) == 1 })
	d.end(syscall.SIGKILL)
	if err := os.Remove(gate); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.until("it has ended", func() bool { return w.rollout().Status.Terminal() })
	r := w.rollout()
	got := of(r, "a")
	if r.Status != sentry.Succeeded || got.Attempt != 2 || len(got.PipelineRuns) != 2 {
		t.Fatalf("it ended as %s: %s; attempt %d with %d pipeline runs", r.Status, r.Reason, got.Attempt, len(got.PipelineRuns))
	}
	w.known(got.PipelineRuns)
	first, second := got.PipelineRuns[0], got.PipelineRuns[1]
	if first.Attempt != 1 || first.Status != sentry.Canceled || second.Attempt != 2 || second.Status != sentry.Succeeded || second.StartedAt.Before(first.FinishedAt) {
		t.Errorf("the first ended as %s at %s, the second began at %s and ended as %s", first.Status, first.FinishedAt, second.StartedAt, second.Status)
	}
	if got := w.witness(); len(got) != 2 {
		t.Errorf("the command ran %d times", len(got))
	}
}

// The API server goes away while a pipeline run is followed, and is still away when a killed Sentry starts again: others
// are rolled out meanwhile, and the verdict comes when it is back.
func TestServerAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	line := w.cluster.Line(t)
	w.kubeconfig = line.Kubeconfig
	w.configure("max_parallel: 1",
		member{name: "a", deploy: gated(w, "a"), files: run(w.cluster, "a", kubetest.Sleeps("long", 15))},
		member{name: "b", deploy: "      commands: [\"true\"]\n", alone: true},
	)
	d := w.start()
	if _, code := w.run("trigger", "--wait=false", "g"); code != 0 {
		t.Fatal("it was not queued")
	}
	w.until("it is followed", func() bool {
		steps := of(w.rollout(), "a").Steps
		return len(steps) > 0 && steps[len(steps)-1].Kind == sentry.StepTrack
	})
	line.Cut()
	d.end(syscall.SIGKILL)
	w.start()
	if out, code := w.run("trigger", "b"); code != 0 {
		t.Errorf("another group was not rolled out: %s", out)
	}
	if r := w.rollout(); r.Status != sentry.Running {
		t.Errorf("the API server is away, and the rollout %s: %s", r.Status, r.Reason)
	}
	line.Mend()
	w.until("it has ended", func() bool { return w.rollout().Status.Terminal() })
	r := w.rollout()
	if got := of(r, "a"); r.Status != sentry.Succeeded || got.Attempt != 1 {
		t.Errorf("it ended as %s: %s; attempt %d", r.Status, r.Reason, got.Attempt)
	}
	w.known(of(r, "a").PipelineRuns)
	if got := w.witness(); len(got) != 1 {
		t.Errorf("the command ran %d times", len(got))
	}
}

// The API server is stopped and started while pipeline runs are followed, for Tekton and everybody else, too: what became of
// them is unknown meanwhile, and then it is what Tekton says.
func TestAPIServerStops(t *testing.T) { // and not beside other tests
	w := newWorld(t)
	fails := kubetest.Task{Name: "long", Seconds: 25, Exit: 4, Script: "sleep 25\nexit 4\n"}
	w.configure("max_parallel: 2",
		member{name: "good", deploy: gated(w, "good"), files: run(w.cluster, "good", kubetest.Sleeps("long", 25))},
		member{name: "bad", deploy: gated(w, "bad"), files: run(w.cluster, "bad", fails)},
	)
	w.start()
	if out, code := w.run("trigger", "--wait=false", "g"); code != 0 {
		t.Fatalf("it was not queued: %s", out)
	}
	followed := func(d sentry.Deployment) bool {
		return len(d.Steps) > 0 && d.Steps[len(d.Steps)-1].Kind == sentry.StepTrack
	}
	w.until("both are followed", func() bool { r := w.rollout(); return followed(of(r, "good")) && followed(of(r, "bad")) })
	id := w.rollout().ID
	start := w.cluster.StopAPI(t)
	w.until("it is seen that the API server is away", func() bool {
		text, _ := w.run("logs", id)
		return strings.Count(text, "the API server does not answer") >= 2
	})
	if r := w.rollout(); r.Status != sentry.Running {
		t.Errorf("the API server is away, and the rollout %s: %s", r.Status, r.Reason)
	}
	start()
	w.until("it has ended", func() bool { return w.rollout().Status.Terminal() })
	r := w.rollout()
	good, bad := of(r, "good"), of(r, "bad")
	if r.Status != sentry.Failed || good.Status != sentry.Succeeded || bad.Status != sentry.Failed || good.Attempt != 1 || bad.Attempt != 1 {
		t.Errorf("it ended as %s: %s; good %s, bad %s", r.Status, r.Reason, good.Status, bad.Status)
	}
	w.known(append(good.PipelineRuns, bad.PipelineRuns...))
	if got := w.witness(); len(got) != 2 {
		t.Errorf("the commands ran %d times", len(got))
	}
}

// A person cancels while a pipeline run is followed; and Sentry is told to stop while another is, which goes on.
func TestCanceledAndStopped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure("max_parallel: 1", member{name: "a", deploy: gated(w, "a"), files: run(w.cluster, "a", kubetest.NeverEnds("for-ever"))})
	d := w.start()
	if _, code := w.run("trigger", "--wait=false", "g"); code != 0 {
		t.Fatal("it was not queued")
	}
	w.until("it is followed", func() bool {
		runs := of(w.rollout(), "a").PipelineRuns
		return len(runs) == 1 && runs[0].Status == sentry.Running
	})
	d.end(syscall.SIGTERM)
	if p := w.inCluster(); len(p) != 1 || p[0].ended() {
		t.Errorf("Sentry was stopped, and the pipeline run did not go on: %+v", p)
	}
	w.start()
	if out, code := w.run("cancel", w.rollout().ID); code != 0 {
		t.Fatalf("cancel: %s", out)
	}
	w.until("it has ended", func() bool { return w.rollout().Status.Terminal() })
	r := w.rollout()
	if got := of(r, "a"); r.Status != sentry.Canceled || got.Attempt != 1 || got.PipelineRuns[0].Status != sentry.Canceled {
		t.Errorf("it ended as %s: %s; %+v", r.Status, r.Reason, got.PipelineRuns)
	}
	w.known(of(r, "a").PipelineRuns)
}

// What a command finds of the cluster: access, and none of the credentials.
func TestWhatCommandsSee(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure("max_parallel: 1", member{name: "a", deploy: fmt.Sprintf(`      commands:
        - kubectl config view --raw --minify -o 'jsonpath={.clusters[0].cluster.server} {.contexts[0].context.namespace}{"\n"}'
        - kubectl get pipelineruns
        - '! cat %s'
        - '! kubectl get pods --namespace kube-system'
        - case "$KUBECONFIG" in "$PWD"/*) exit 1;; esac; stat -c %%a "$KUBECONFIG"
        - test "$SENTRY_PROJECT_DIR" = "$PWD/.tekton/a"
`, w.cluster.Kubeconfig), files: map[string]string{"x": "y"}})
	r, code := w.trigger("g")
	text, _ := w.run("logs", r.ID)
	if code != 0 {
		t.Fatalf("it ends with %d: %s\n%s", code, r.Reason, text)
	}
	for _, want := range []string{"https://127.0.0.1:", w.namespace, "kube-system", "600"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %q:\n%s", want, text)
		}
	}
	secret, err := os.ReadFile(w.cluster.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Fields(string(secret)) {
		if len(line) > 200 && strings.Contains(text, line) {
			t.Error("a credential of the cluster is in the log")
		}
	}
}
