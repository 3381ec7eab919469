package kube_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sentry/internal/kube"
	"sentry/internal/kube/kubetest"
	"sentry/internal/sentry"
)

// home is a namespace of a real cluster, with our way to it.
type home struct {
	*testing.T
	real    *kubetest.Cluster
	cluster *kube.Cluster
	ns      string
	id      kube.Identity
	line    *kubetest.Line
}

// newHome makes one; through a line that can be cut.
func newHome(t *testing.T, labels ...string) *home {
	t.Helper()
	h := &home{T: t, real: kubetest.Find(t)}
	h.real.NeedNode(t)
	h.ns = h.real.Namespace(t, labels...)
	h.line = h.real.Line(t)
	var err error
	h.cluster, err = kube.Connect(kube.Options{Kubeconfig: h.line.Kubeconfig, Namespaces: []string{h.ns}, UserAgent: "sentry-test"})
	if err != nil {
		t.Fatal(err)
	}
	h.id = kube.Identity{Instance: "test-" + h.ns, Rollout: "r1", Deployment: "d-" + h.ns, Group: "g", Repository: "Ein Repository", Commit: strings.Repeat("a", 40), Attempt: 1}
	return h
}

// recorder is what deploy does, in memory.
type recorder struct {
	mu   sync.Mutex
	runs []sentry.PipelineRun
}

func (r *recorder) Intend(run sentry.PipelineRun) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.runs = append(r.runs, run)
	return nil
}

func (r *recorder) Created(run sentry.PipelineRun) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.runs {
		if r.runs[i].Nonce == run.Nonce {
			r.runs[i] = run
		}
	}
	return nil
}

func (r *recorder) Dropped(nonce string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.runs = slices.DeleteFunc(r.runs, func(run sentry.PipelineRun) bool { return run.Nonce == nonce })
	return nil
}

// create has Sentry create runs.
func (h *home) create(params map[string]string, all ...kubetest.PipelineRun) []sentry.PipelineRun {
	h.Helper()
	var manifests []kube.Manifest
	for i, run := range all {
		manifests = append(manifests, kube.Manifest{Name: fmt.Sprintf("%d.yaml", i), Data: []byte(run.Manifest(h.real))})
	}
	var r recorder
	if err := h.cluster.Create(h.Context(), manifests, h.id, params, &r); err != nil {
		h.Fatal(err)
	}
	return r.runs
}

// following is a Track that goes on.
type following struct {
	log   bytes.Buffer
	mu    sync.Mutex
	end   chan struct{}
	runs  []sentry.PipelineRun
	err   error
	told  chan []sentry.PipelineRun
	lines chan struct{} // of size one
}

func (f *following) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case f.lines <- struct{}{}:
	default:
	}
	return f.log.Write(p)
}

// says waits until the step log says the text.
func (f *following) says(t *testing.T, text string) {
	t.Helper()
	for !strings.Contains(f.String(), text) {
		select {
		case <-f.lines:
		case <-f.end:
			t.Fatalf("it is over without a word of %q: %v\n%s", text, f.err, f)
		}
	}
}

func (f *following) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.String()
}

// heard is a step log that does something when it says a text.
type heard struct {
	log  bytes.Buffer
	text string
	then func() // nil when it was done
}

func (h *heard) Write(p []byte) (int, error) {
	h.log.Write(p)
	if h.then != nil && strings.Contains(h.log.String(), h.text) {
		h.then()
		h.then = nil
	}
	return len(p), nil
}

func (h *home) track(all []sentry.PipelineRun) *following {
	ctx, cancel := context.WithTimeout(h.Context(), 6*time.Minute)
	f := &following{end: make(chan struct{}), told: make(chan []sentry.PipelineRun, 1000), lines: make(chan struct{}, 1)}
	go func() {
		defer close(f.end)
		defer cancel()
		f.runs, f.err = h.cluster.Track(ctx, all, kube.TrackOptions{Instance: h.id.Instance, Log: f, Progress: func(all []sentry.PipelineRun) error {
			f.told <- all
			return nil
		}})
	}()
	return f
}

// until waits until the runs stand as wanted.
func (h *home) until(f *following, want func([]sentry.PipelineRun) bool) {
	h.Helper()
	for {
		select {
		case all := <-f.told:
			if want(all) {
				return
			}
		case <-f.end:
			h.Fatalf("it is over: %v\n%s", f.err, f)
		}
	}
}

func (h *home) over(f *following) []sentry.PipelineRun {
	h.Helper()
	<-f.end
	if f.err != nil {
		h.Fatalf("track: %v\n%s", f.err, f)
	}
	return f.runs
}

func (h *home) expect(f *following, run sentry.PipelineRun, status sentry.Status, texts ...string) {
	h.Helper()
	if run.Status != status {
		h.Errorf("%s is %s (%s); want %s\n%s", run.Name, run.Status, run.Reason, status, f)
	}
	for _, text := range texts {
		if !strings.Contains(run.Reason+"\n"+f.String(), text) {
			h.Errorf("%s: nothing says %q: %q\n%s", run.Name, text, run.Reason, f)
		}
	}
}

// TestRealTekton is one deployment whose runs end in every way that Tekton has by itself.
func TestRealTekton(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	output := `{"result":"WARNING","timestamp":"1700000000","successes":5,"failures":0,"warnings":2,"note":"slow"}`
	broken := kubetest.PipelineRun{GenerateName: "image-", Timeout: "240s", Tasks: []kubetest.Task{kubetest.Succeeds("pull", nil)}}
	manifest := strings.ReplaceAll(broken.Manifest(h.real), h.real.Busybox, "localhost/no/such/image:1")
	runs := h.create(map[string]string{"SENTRY_COMMIT": "c0ffee"},
		kubetest.PipelineRun{GenerateName: "good-", Params: []string{"sentry-commit"}, Tasks: []kubetest.Task{
			{Name: "build", Script: "printf %s $(params.sentry-commit) >$(results.commit.path)", Results: map[string]string{"commit": "c0ffee"}},
			kubetest.Succeeds("test", map[string]string{"TEST_OUTPUT": output}),
		}, Results: map[string]string{"commit": "$(tasks.build.results.commit)"}},
		kubetest.PipelineRun{GenerateName: "bad-", Tasks: []kubetest.Task{kubetest.Fails("check", 3)}, Finally: []kubetest.Task{kubetest.Succeeds("clean", nil)}},
		kubetest.PipelineRun{GenerateName: "flaky-", Tasks: []kubetest.Task{kubetest.Flaky("again", 1)}},
		kubetest.PipelineRun{GenerateName: "slow-", Timeout: "15s", Tasks: []kubetest.Task{kubetest.NeverEnds("forever")}},
	)
	var r recorder
	if err := h.cluster.Create(t.Context(), []kube.Manifest{{Name: "image", Data: []byte(manifest)}}, h.id, nil, &r); err != nil {
		t.Fatal(err)
	}
	f := h.track(append(runs, r.runs...))
	got := h.over(f)
	good, bad, flaky, slow, image := got[0], got[1], got[2], got[3], got[4]
	h.expect(f, good, sentry.Succeeded)
	if len(good.Results) != 1 || good.Results[0].Value != "c0ffee" || good.Tests == nil || *good.Tests != (sentry.TestSummary{Result: "WARNING", Passed: 5, Warnings: 2, Note: "slow"}) || len(good.Tasks) != 2 {
		t.Errorf("results %+v, tests %+v, tasks %+v", good.Results, good.Tests, good.Tasks)
	}
	h.expect(f, bad, sentry.Failed, "task check failed", "check fails: no such luck", "exit code 3")
	if len(bad.Tasks) != 2 {
		t.Errorf("tasks: %+v", bad.Tasks)
	}
	h.expect(f, flaky, sentry.Succeeded)
	if len(flaky.Tasks) != 1 || flaky.Tasks[0].Retries != 1 {
		t.Errorf("tasks: %+v", flaky.Tasks)
	}
	h.expect(f, slow, sentry.TimedOut, "15s")
	h.expect(f, image, sentry.Failed, "no/such/image")
	for _, run := range got {
		if run.UID == "" || run.StartedAt.IsZero() || run.FinishedAt.Before(run.StartedAt) || run.Condition == "" {
			t.Errorf("%+v", run)
		}
	}
	found, err := h.cluster.Find(t.Context(), kube.Selector{Instance: h.id.Instance, Deployment: h.id.Deployment}, []string{h.ns})
	if err != nil || len(found) != 5 {
		t.Errorf("found %d: %v", len(found), err)
	}
	found, err = h.cluster.Find(t.Context(), kube.Selector{Instance: h.id.Instance, Nonce: bad.Nonce}, []string{h.ns})
	if err != nil || len(found) != 1 || found[0].UID != bad.UID || found[0].Attempt != 1 {
		t.Errorf("found %+v: %v", found, err)
	}
}

// TestRealOthers is what other people do to our runs.
func TestRealOthers(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	endless := func(name string) kubetest.PipelineRun {
		return kubetest.PipelineRun{GenerateName: name, Tasks: []kubetest.Task{kubetest.NeverEnds("forever")}}
	}
	runs := h.create(nil, endless("canceled-"), endless("deleted-"), endless("bare-"), endless("away-"))
	f := h.track(runs)
	h.until(f, func(all []sentry.PipelineRun) bool {
		return !slices.ContainsFunc(all, func(run sentry.PipelineRun) bool { return run.Status != sentry.Running })
	})
	cancel := func(name string) {
		h.real.Run(t, "patch", "pipelinerun", name, "--namespace", h.ns, "--type", "merge", "--patch", `{"spec":{"status":"Cancelled"}}`)
	}
	cancel(runs[0].Name)
	h.real.Run(t, "delete", "pipelinerun", runs[1].Name, "--namespace", h.ns)
	h.real.Run(t, "label", "pipelinerun", runs[2].Name, "--namespace", h.ns, kube.LabelInstance+"-", kube.LabelDeployment+"-")
	h.until(f, func(all []sentry.PipelineRun) bool { return all[0].Status.Terminal() && all[1].Status.Terminal() })
	cancel(runs[2].Name)
	h.until(f, func(all []sentry.PipelineRun) bool { return all[2].Status.Terminal() })
	h.line.Cut()
	cancel(runs[3].Name)
	h.real.Ended(t, h.ns, runs[3].Name)
	f.says(t, "does not answer")
	h.line.Mend()
	got := h.over(f)
	h.expect(f, got[0], sentry.Failed, "canceled in the cluster, not by Sentry")
	h.expect(f, got[1], sentry.Failed, "it was deleted before Sentry saw it end")
	h.expect(f, got[2], sentry.Failed, "following it by its name and UID")
	h.expect(f, got[3], sentry.Failed)
}

// TestRealCancel is how runs are ended.
func TestRealCancel(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	runs := h.create(nil,
		kubetest.PipelineRun{GenerateName: "tidy-", Tasks: []kubetest.Task{kubetest.NeverEnds("forever")}, Finally: []kubetest.Task{kubetest.Succeeds("clean", nil)}},
		kubetest.PipelineRun{GenerateName: "stubborn-", Tasks: []kubetest.Task{kubetest.NeverEnds("forever")}, Finally: []kubetest.Task{kubetest.NeverEnds("never-clean")}},
		kubetest.PipelineRun{GenerateName: "done-", Tasks: []kubetest.Task{kubetest.Succeeds("quick", nil)}},
		kubetest.PipelineRun{GenerateName: "gone-", Tasks: []kubetest.Task{kubetest.NeverEnds("forever")}},
	)
	pending := kubetest.PipelineRun{GenerateName: "pending-", Tasks: []kubetest.Task{kubetest.Succeeds("later", nil)}}.Manifest(h.real)
	var r recorder
	pending = strings.Replace(pending, `"spec": {`, `"spec": {"status": "PipelineRunPending",`, 1)
	if err := h.cluster.Create(t.Context(), []kube.Manifest{{Name: "pending", Data: []byte(pending)}}, h.id, nil, &r); err != nil {
		t.Fatal(err)
	}
	runs = append(runs, r.runs...)
	f := h.track(runs)
	h.until(f, func(all []sentry.PipelineRun) bool {
		return all[0].Status == sentry.Running && all[1].Status == sentry.Running && all[2].Status.Terminal() && all[4].Status == sentry.Pending
	})
	h.real.Run(t, "delete", "pipelinerun", runs[3].Name, "--namespace", h.ns)
	ctx, cancel := context.WithTimeout(t.Context(), 160*time.Second) // half of it for tidiness
	defer cancel()
	var log bytes.Buffer
	got, err := h.cluster.Cancel(ctx, runs, kube.CancelOptions{Log: &log})
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	for i, want := range []sentry.Status{sentry.Canceled, sentry.Canceled, sentry.Succeeded, sentry.Canceled, sentry.Canceled} {
		if got[i].Status != want {
			t.Errorf("%s: %s (%s); want %s\n%s", got[i].Name, got[i].Status, got[i].Reason, want, log.String())
		}
	}
	again, err := h.cluster.Cancel(ctx, runs, kube.CancelOptions{})
	if err != nil || again[0].Status != sentry.Canceled || again[2].Status != sentry.Succeeded {
		t.Errorf("again: %v %+v", err, again)
	}
	clean := h.real.Run(t, "get", "taskruns", "--namespace", h.ns, "-l", "tekton.dev/pipelineTask=clean", "--output", "jsonpath={.items[0].status.conditions[0].status}")
	if clean != "True" {
		t.Errorf("the finally task of the first run stands at %q", clean)
	}
	tracked := h.over(f)
	h.expect(f, tracked[0], sentry.Canceled, "canceled by Sentry")
	h.expect(f, tracked[2], sentry.Succeeded)
	h.expect(f, tracked[4], sentry.Canceled, "its spec.status is PipelineRunPending")
}

// TestRealWhy is a quota and Pod Security that keep pods out.
func TestRealWhy(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.real.Apply(t, h.ns, `{"apiVersion":"v1","kind":"ResourceQuota","metadata":{"name":"none"},"spec":{"hard":{"pods":"0"}}}`)
	f := h.track(h.create(nil, kubetest.PipelineRun{GenerateName: "quota-", Timeout: "40s", Tasks: []kubetest.Task{kubetest.Succeeds("a", nil)}}))
	strict := newHome(t, "pod-security.kubernetes.io/enforce=restricted")
	g := strict.track(strict.create(nil, kubetest.PipelineRun{GenerateName: "strict-", Timeout: "240s", Tasks: []kubetest.Task{kubetest.Succeeds("a", nil)}}))
	h.expect(f, h.over(f)[0], sentry.TimedOut, "exceeded quota")
	strict.expect(g, strict.over(g)[0], sentry.Failed, "PodSecurity")
}

// TestRealRights has a user who may do less and less.
func TestRealRights(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	rights, err := h.cluster.Access(t.Context(), h.ns)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rights {
		if !r.Allowed {
			t.Errorf("%+v", r)
		}
	}
	h.real.Apply(t, h.ns, `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"reader"},"rules":[{"apiGroups":["tekton.dev"],"resources":["pipelineruns"],"verbs":["get","list","watch"]}]}`)
	h.real.Run(t, "create", "rolebinding", "reader", "--namespace", h.ns, "--role=reader", "--user=reader-"+h.ns)
	reader, err := kube.Connect(kube.Options{Kubeconfig: h.real.Kubeconfig, Impersonate: "reader-" + h.ns})
	if err != nil {
		t.Fatal(err)
	}
	rights, err = reader.Access(t.Context(), h.ns)
	if err != nil {
		t.Fatal(err)
	}
	var may []string
	for _, r := range rights {
		if r.Allowed {
			may = append(may, r.Verb)
		}
	}
	if got := strings.Join(may, " "); got != "get list watch" {
		t.Errorf("the reader may %s", got)
	}
	h.real.Apply(t, h.ns, `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"tokens"},"rules":[
		{"apiGroups":[""],"resources":["serviceaccounts/token"],"resourceNames":["runner"],"verbs":["create"]},
		{"apiGroups":[""],"resources":["pods/attach"],"verbs":["create"]}]}`)
	h.real.Run(t, "create", "rolebinding", "tokens", "--namespace", h.ns, "--role=tokens", "--user=reader-"+h.ns)
	for account, want := range map[string]string{
		"": "create pods/attach", "runner": "create pods/attach, create serviceaccounts/token", "other": "create pods/attach",
	} {
		rights, err := reader.JobAccess(t.Context(), h.ns, account)
		if err != nil {
			t.Fatal(err)
		}
		var may []string
		for _, r := range rights {
			if r.Allowed {
				may = append(may, r.Verb+" "+r.Resource)
			}
		}
		if got := strings.Join(may, ", "); got != want {
			t.Errorf("with the service account %q the reader may %s, want %s", account, got, want)
		}
	}
	runs := h.create(nil, kubetest.PipelineRun{GenerateName: "bad-", Tasks: []kubetest.Task{kubetest.Fails("check", 3)}})
	var log bytes.Buffer
	got, err := reader.Track(t.Context(), runs, kube.TrackOptions{Log: &log})
	if err != nil || got[0].Status != sentry.Failed || len(got[0].Tasks) != 1 || got[0].Tasks[0].Status != sentry.Interrupted || !strings.Contains(log.String(), "cannot get resource") {
		t.Errorf("%v %+v\n%s", err, got, log.String())
	}
	stranger, err := kube.Connect(kube.Options{Kubeconfig: h.real.Kubeconfig, Impersonate: "stranger"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	refused := &heard{text: `cannot list resource "pipelineruns"`, then: cancel} // it would go on asking
	if _, err := stranger.Track(ctx, runs, kube.TrackOptions{Log: refused}); err == nil || refused.then != nil {
		t.Errorf("%v\n%s", err, refused.log.String())
	}
}

// TestRealAPIStops has the API server gone in the middle, for everybody who uses the cluster.
func TestRealAPIStops(t *testing.T) {
	h := newHome(t)
	slow := kubetest.Task{Name: "slow", Script: "sleep 20\necho bye\nexit 4"}
	runs := h.create(nil, kubetest.PipelineRun{GenerateName: "slow-", Tasks: []kubetest.Task{slow}})
	f := h.track(runs)
	h.until(f, func(all []sentry.PipelineRun) bool { return all[0].Status == sentry.Running })
	start := h.real.StopAPI(t)
	f.says(t, "does not answer")
	start()
	h.expect(f, h.over(f)[0], sentry.Failed, "answers again", "task slow failed")
}
