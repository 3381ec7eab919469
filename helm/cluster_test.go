package helm_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sentry/internal/git/gitserve"
	"sentry/internal/git/gittest"
	"sentry/internal/kube"
	"sentry/internal/kube/kubetest"
	"sentry/internal/sentry"
)

// The chart in a real cluster, with Pod Security's restricted profile enforced, and the image of this source.

// enforced are the labels of a namespace in which only restricted pods are let in, and no warning is kept back.
var enforced = []string{"pod-security.kubernetes.io/enforce=restricted", "pod-security.kubernetes.io/warn=restricted"}

// patience is how long something may take that takes a moment: pods start, and others may have the processors.
const patience = 4 * time.Minute

// site is one cluster, and the image in it.
type site struct {
	*kubetest.Cluster
	image string // arguments for helm that name it; empty where the chart's own default is there
}

// newSite finds a cluster.
func newSite(t *testing.T) *site {
	t.Helper()
	return &site{Cluster: kubetest.Find(t)}
}

// needImage sees to it that the image of this source is there.
func (s *site) needImage(t *testing.T) {
	t.Helper()
	s.SentryImage(t)
	s.image = os.Getenv("SENTRY_IMAGE")
}

// install installs the chart as a line of the documentation does, from the root of the source, and removes it at the end.
func (s *site) install(t *testing.T, name, namespace string, args ...string) {
	t.Helper()
	all := append([]string{"install", name, "./helm/sentry", "--namespace", namespace, "--create-namespace", "--wait", "--timeout", patience.String()}, args...)
	if s.image != "" {
		at := strings.LastIndexByte(s.image, ':')
		all = append(all, "--set", "image.repository="+s.image[:at]+",image.tag="+s.image[at+1:])
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := s.TryKubectl("describe", "pods", "--namespace", namespace)
			logs, _ := s.TryKubectl("logs", "deployment/"+name, "--namespace", namespace)
			t.Logf("%s\n%s", out, logs)
		}
		if out, err := s.run("uninstall", name, "--namespace", namespace, "--wait", "--timeout", patience.String()); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	if out, err := s.run(all...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// run runs helm against the cluster, from the root of the source.
func (s *site) run(args ...string) (string, error) {
	cmd := exec.Command(s.Helm, args...)
	cmd.Dir, cmd.Env = "..", append(os.Environ(), "KUBECONFIG="+s.Kubeconfig)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// named makes a namespace of this name in which Pod Security is enforced; what an earlier run left of it is removed.
func (s *site) named(t *testing.T, name string) {
	t.Helper()
	remove := func() {
		if out, err := s.TryKubectl("delete", "namespace", name, "--ignore-not-found", "--timeout="+patience.String()); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
	remove()
	s.Run(t, "create", "namespace", name)
	t.Cleanup(remove)
	s.Run(t, append([]string{"label", "namespace", name}, enforced...)...)
}

// volume makes a volume of the node for a claim, where nobody else does.
func (s *site) volume(t *testing.T, namespace, claim, size string) {
	t.Helper()
	if !s.Ours {
		return
	}
	dir, err := os.MkdirTemp("/var/tmp", "sentry-volume-")
	if err != nil {
		t.Fatal(err)
	}
	node := strings.TrimSpace(s.Run(t, "get", "nodes", "--output", "jsonpath={.items[0].metadata.name}"))
	name := filepath.Base(dir)
	t.Cleanup(func() {
		if out, err := s.TryKubectl("delete", "persistentvolume", name, "--wait=false"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s.Apply(t, "default", fmt.Sprintf(`{"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": %q}, "spec": {
		"capacity": {"storage": %q}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
		"claimRef": {"namespace": %q, "name": %q}, "local": {"path": %q},
		"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [%q]}]}]}}}}`,
		name, size, namespace, claim, dir, node))
}

// exec runs a command in the pod of a Deployment, as soon as that can be reached: another may just have come in its place.
func (s *site) exec(t *testing.T, namespace, deployment string, words ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	var err error
	until(t, fmt.Sprintf("%q runs in %s", words, deployment), func() bool {
		out.Reset()
		errs.Reset()
		cmd := exec.Command(s.Kubectl, append([]string{"exec", "deployment/" + deployment, "--namespace", namespace, "--"}, words...)...)
		cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "KUBECONFIG="+s.Kubeconfig), &out, &errs
		err = cmd.Run()
		return err == nil || strings.Contains(errs.String(), "command terminated with exit code")
	})
	if err != nil {
		t.Fatalf("%q in %s: %v\n%s%s", words, deployment, err, &out, &errs)
	}
	return out.String()
}

// TestClusterAdmits: the API server takes every object that the chart can make, and Pod Security has nothing to say.
func TestClusterAdmits(t *testing.T) {
	s := newSite(t)
	ns := s.Namespace(t, enforced...)
	all := least(values{
		"podDisruptionBudget": map[string]any{"enabled": true},
		"ingress":             map[string]any{"enabled": true, "host": "sentry.example.com", "tlsSecret": "tls", "className": "x"},
		"secret":              map[string]any{"data": map[string]any{"a": "b"}, "env": true},
		"networkPolicy":       map[string]any{"egress": []any{map[string]any{"ports": []any{map[string]any{"port": 443}}}}},
		"rbac":                map[string]any{"extraRules": []any{map[string]any{"apiGroups": []any{""}, "resources": []any{"configmaps"}, "verbs": []any{"get"}}}},
		"sidecars":            []any{},
		"commonLabels":        map[string]any{"team": "qa"},
		"tmp":                 map[string]any{"medium": "Memory"},
		"topologySpreadConstraints": []any{map[string]any{
			"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": map[string]any{},
		}},
	})
	inJobs := jobs.with(values{"jobs": map[string]any{"namespace": map[string]any{"create": false, "name": s.Namespace(t, enforced...)}}})
	for _, args := range [][]string{
		{"--values", least(inJobs).write(t)},
		{"--values", shipped[0].file},
		{"--values", shipped[1].file},
		{"--values", least(values{"config": map[string]any{"global": map[string]any{"listen": "127.0.0.1:1"}}}).write(t)},
		{"--values", all.write(t)},
	} {
		text, err := helm(t, append([]string{"template", "sentry", "sentry", "--namespace", ns}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "all.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := s.TryKubectl("apply", "--dry-run=server", "--filename", file)
		if err != nil || strings.Contains(out, "Warning") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}

// TestClusterRights: with the shipped Roles Sentry may do what it needs, by its own count, and nothing that would let a
// command take the cluster over.
func TestClusterRights(t *testing.T) {
	s := newSite(t)
	home, target, other := s.Namespace(t), s.Namespace(t), s.Namespace(t)
	v := least(values{"rbac": map[string]any{"namespaces": []any{target}}})
	text, err := helm(t, "template", "sentry", "sentry", "--namespace", home, "--values", v.write(t), "--show-only", "templates/rbac.yaml", "--show-only", "templates/serviceaccount.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rights.yaml") // it names its namespaces itself
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Run(t, "apply", "--filename", file)
	account := "system:serviceaccount:" + home + ":sentry"

	cluster, err := kube.Connect(kube.Options{Kubeconfig: s.Kubeconfig, Impersonate: account, Namespaces: []string{target}})
	if err != nil {
		t.Fatal(err)
	}
	needed, err := cluster.Access(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	if len(needed) < 10 {
		t.Fatalf("Sentry needs only %v", needed)
	}
	var may []string
	for _, r := range needed {
		may = append(may, r.Verb+" "+r.Resource)
	}
	for _, right := range may {
		s.can(t, account, target, right, true)
		s.can(t, account, home, right, false)
		s.can(t, account, other, right, false)
	}
	s.works(t, cluster, target)
	itself, there := s.account(t, home, "sentry"), s.ran(t, target)
	itself.tries(t, target, there, needed)
	for _, namespace := range []string{home, other, "kube-system", ""} {
		itself.tries(t, namespace, there, nil)
	}
	for _, right := range []string{
		"get secrets", "list secrets", "watch secrets", "create secrets", "get configmaps", "create configmaps",
		"get deployments.apps", "create deployments.apps", "patch deployments.apps", "delete deployments.apps",
		"create pods", "delete pods", "create pods/exec", "create pods/attach", "create pods/portforward", "create pods/ephemeralcontainers",
		"create serviceaccounts/token", "impersonate serviceaccounts", "impersonate users",
		"create roles.rbac.authorization.k8s.io", "create rolebindings.rbac.authorization.k8s.io", "escalate roles.rbac.authorization.k8s.io", "bind roles.rbac.authorization.k8s.io",
		"delete pipelineruns.tekton.dev", "update pipelineruns.tekton.dev", "deletecollection pipelineruns.tekton.dev", "create taskruns.tekton.dev", "create pipelines.tekton.dev", "create tasks.tekton.dev",
		"create jobs.batch", "create cronjobs.batch", "update pods", "get persistentvolumes", "get nodes", "list namespaces", "* *",
	} {
		s.can(t, account, target, right, false)
	}
	for _, namespace := range []string{home, other, "kube-system"} {
		s.can(t, account, namespace, "get secrets", false)
		s.can(t, account, namespace, "create pods", false)
	}
}

// seen is a kube.Recorder that remembers what was created last.
type seen struct{ sentry.PipelineRun }

func (s *seen) Intend(run sentry.PipelineRun) error  { s.PipelineRun = run; return nil }
func (s *seen) Created(run sentry.PipelineRun) error { s.PipelineRun = run; return nil }
func (s *seen) Dropped(string) error                 { return nil }

// works creates a PipelineRun, finds it, cancels it and follows it to its end, with the rights of the connection.
func (s *site) works(t *testing.T, cluster *kube.Cluster, namespace string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	id := kube.Identity{Instance: "rights", Rollout: "1", Deployment: "1-1", Group: "g", Repository: "r", Commit: strings.Repeat("a", 40), Attempt: 1}
	manifest := kubetest.PipelineRun{GenerateName: "rights-", Tasks: []kubetest.Task{kubetest.NeverEnds("wait")}}.Manifest(s.Cluster)
	var created seen
	if err := cluster.Create(ctx, []kube.Manifest{{Name: "run.yaml", Data: []byte(manifest)}}, id, nil, &created); err != nil {
		t.Fatal(err)
	}
	found, err := cluster.Find(ctx, kube.Selector{Instance: id.Instance, Deployment: id.Deployment}, []string{namespace})
	if err != nil || len(found) != 1 || found[0].UID != created.UID {
		t.Fatalf("created is %+v, found %+v: %v", created, found, err)
	}
	if ended, err := cluster.Cancel(ctx, found, kube.CancelOptions{}); err != nil || ended[0].Status != sentry.Canceled {
		t.Errorf("canceled: %v: %+v", err, ended)
	}
	var log bytes.Buffer
	followed, err := cluster.Track(ctx, found, kube.TrackOptions{Log: &log})
	if err != nil || followed[0].Status != sentry.Canceled || strings.Contains(log.String(), "cannot ") {
		t.Errorf("followed: %v: %+v\n%s", err, followed, log.String())
	}
}

// TestClusterJobRights: where Jobs are, Sentry may do what it takes to run them, and what runs in them may do nothing; where
// pipeline runs are it is the other way round.
func TestClusterJobRights(t *testing.T) {
	s := newSite(t)
	home, target, place := s.Namespace(t), s.Namespace(t), s.Namespace(t)
	v := least(jobs.with(values{
		"rbac": map[string]any{"namespaces": []any{target}}, "jobs": map[string]any{"namespace": map[string]any{"create": false, "name": place}},
	}))
	text, err := helm(t, "template", "sentry", "sentry", "--namespace", home, "--values", v.write(t),
		"--show-only", "templates/rbac.yaml", "--show-only", "templates/serviceaccount.yaml", "--show-only", "templates/jobs.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rights.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Run(t, "apply", "--filename", file)
	sentry, runner := "system:serviceaccount:"+home+":sentry", "system:serviceaccount:"+place+":sentry-runner"
	cluster, err := kube.Connect(kube.Options{Kubeconfig: s.Kubeconfig, Impersonate: sentry, Namespaces: []string{target}})
	if err != nil {
		t.Fatal(err)
	}
	needed, err := cluster.JobAccess(t.Context(), place, "sentry-runner")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range needed {
		if !r.Allowed {
			t.Errorf("Sentry may not %s %s %s", r.Verb, r.Resource, r.Name)
		}
		if right := r.Verb + " " + r.Resource; r.Name == "" {
			s.can(t, runner, place, right, false)
		}
	}
	for _, right := range []string{"create jobs.batch", "create pods/attach", "create serviceaccounts/token"} {
		s.can(t, sentry, target, right, false)
		s.can(t, sentry, home, right, false)
		s.can(t, runner, target, right, false)
	}
	for _, right := range []string{"get secrets", "create pods", "create pods/exec", "update jobs.batch", "create serviceaccounts/token", "create pipelineruns.tekton.dev"} {
		s.can(t, sentry, place, right, false)
		s.can(t, runner, place, right, false)
	}
	for _, right := range []string{"create pipelineruns.tekton.dev", "patch pipelineruns.tekton.dev", "get pods/log"} {
		s.can(t, runner, target, right, true)
	}
	following, err := cluster.Access(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	inTarget, inPlace := s.ran(t, target), s.ran(t, place)
	for _, a := range []*account{s.account(t, home, "sentry"), s.account(t, place, "sentry-runner")} {
		a.tries(t, target, inTarget, following)
		a.tries(t, home, inTarget, nil)
		a.tries(t, "", inTarget, nil)
		inPlaceToo := needed
		if a.name == runner {
			inPlaceToo = nil
		}
		a.tries(t, place, inPlace, inPlaceToo)
	}
}

// can asks the API server whether an account may do something.
func (s *site) can(t *testing.T, account, namespace, right string, want bool) {
	t.Helper()
	verb, resource, _ := strings.Cut(right, " ")
	out, _ := s.TryKubectl("auth", "can-i", verb, resource, "--as="+account, "--namespace", namespace) // "no" is exit code 1
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if answer := lines[len(lines)-1]; answer != map[bool]string{true: "yes", false: "no"}[want] {
		t.Errorf("%s in %s: %s", right, namespace, out)
	}
}

// TestClusterDev installs, upgrades and tests the chart with the lines of the documentation.
func TestClusterDev(t *testing.T) {
	s := newSite(t)
	s.needImage(t)
	s.named(t, "sentry-dev")
	s.install(t, "sentry-dev", "sentry-dev", "-f", "./helm/sentry/values-dev.yaml")
	if out := s.exec(t, "sentry-dev", "sentry-dev", "./sentry", "-action=validate"); !strings.Contains(out, "/etc/sentry/sentry.yaml is valid") {
		t.Error(out)
	}
	s.reachable(t, "sentry-dev", "sentry-dev")
	if out, err := s.run("test", "sentry-dev", "--namespace", "sentry-dev", "--timeout", patience.String()); err != nil || !strings.Contains(out, "Phase:          Succeeded") {
		t.Errorf("%v\n%s", err, out)
	}
}

// reachable makes a Service answer to its name where the cluster has neither DNS nor kube-proxy: this process passes
// connections on to what the Service has found, and the pods take the name for this machine.
func (s *site) reachable(t *testing.T, namespace, name string) {
	t.Helper()
	if _, err := s.TryKubectl("get", "service", "kube-dns", "--namespace", "kube-system"); err == nil {
		return
	}
	listener := s.Listen(t)
	host, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	hosts := fmt.Sprintf(`hostAliases=[{"ip": %q, "hostnames": [%q]}]`, host, name)
	if out, err := s.run("upgrade", name, "./helm/sentry", "--namespace", namespace, "--reuse-values", "--set-json", hosts, "--set", "service.port="+port, "--wait", "--timeout", patience.String()); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var found []string
	until(t, "the Service has found one pod and its port", func() bool {
		out, err := s.TryKubectl("get", "endpointslices", "--namespace", namespace, "--selector", "kubernetes.io/service-name="+name,
			"--output", "jsonpath={range .items[*].endpoints[?(@.conditions.ready==true)]}{.addresses[0]} {end}{.items[0].ports[0].port}")
		found = strings.Fields(out)
		return err == nil && len(found) == 2
	})
	var all sync.WaitGroup
	t.Cleanup(func() { _ = listener.Close(); all.Wait() })
	all.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() { pass(in, net.JoinHostPort(found[0], found[1])) })
		}
	})
}

// pass joins a connection with one to an address until either ends.
func pass(in net.Conn, address string) {
	defer in.Close()
	out, err := net.DialTimeout("tcp", address, 30*time.Second)
	if err != nil {
		return
	}
	defer out.Close()
	deadline := time.Now().Add(2 * time.Minute)
	_, _ = in.SetDeadline(deadline), out.SetDeadline(deadline)
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(out, in); _ = out.SetReadDeadline(time.Now()) })
	both.Go(func() { _, _ = io.Copy(in, out); _ = in.SetReadDeadline(time.Now()) })
	both.Wait()
}

// TestClusterManifests applies the manifests in k8s as they are, and looks after them as the seed does.
func TestClusterManifests(t *testing.T) {
	s := newSite(t)
	if !s.Ours {
		t.Skip("the image of the manifests is only in our own cluster")
	}
	s.needImage(t)
	remove := func() {
		if out, err := s.TryKubectl("delete", "namespace", "sentry-system", "--ignore-not-found", "--timeout="+patience.String()); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
	remove() // before there is a volume that a claim of an earlier run would take
	s.volume(t, "sentry-system", "sentry", "10Gi")
	t.Cleanup(remove)
	for _, m := range manifests {
		if out := s.Run(t, "apply", "--filename", filepath.Join("..", "k8s", m.file)); strings.Contains(out, "Warning") {
			t.Error(out)
		}
	}
	s.Run(t, "rollout", "status", "deployment/sentry", "--namespace", "sentry-system", "--timeout="+patience.String())
	if out := s.exec(t, "sentry-system", "sentry", "./sentry", "-action=validate"); !strings.Contains(out, "is valid: 1 repository") {
		t.Error(out)
	}
	until(t, "it says that it watches", func() bool {
		return strings.Contains(s.Run(t, "logs", "deployment/sentry", "--namespace", "sentry-system"), `"msg":"watching"`)
	})
}

// serve serves a watched repository, with a commit, and one for QA from this machine to pods, for robot with canary-token.
func (s *site) serve(t *testing.T) (shop, qa *gittest.Repo) {
	t.Helper()
	listener := s.Listen(t)
	root := t.TempDir()
	base := "http://" + listener.Addr().String()
	server := &http.Server{Handler: gitserve.Handler(root, gitserve.Options{User: "robot", Token: "canary-token"}), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	shop = gittest.NewRepo(t, filepath.Join(root, "shop.git"), base+"/shop.git")
	qa = gittest.NewRepo(t, filepath.Join(root, "qa.git"), base+"/qa.git")
	shop.Commit(t, "main", map[string]string{"a": "1"}, "first")
	return shop, qa
}

// TestClusterProduction has the chart watch a repository of this machine, with its state on a volume: a change is rolled
// out, in a pod that can change nothing beside its state and /tmp; the PipelineRun that the command creates is followed to its
// end; and the pod that comes after one that was deleted goes on with what that one followed.
func TestClusterProduction(t *testing.T) {
	s := newSite(t)
	s.needImage(t)
	shop, qa := s.serve(t)
	run := kubetest.PipelineRun{GenerateName: "shop-", Tasks: []kubetest.Task{{Name: "test", Script: "sleep 8\necho tested\n"}}}
	qa.CommitFiles(t, "main", []gittest.File{{Path: "test.sh", Mode: "100755", Content: inPod}, {Path: "run.json", Content: run.Manifest(s.Cluster)}}, "tests")
	runs := s.Namespace(t)

	auth := map[string]any{"username": "robot", "token_file": "/run/secrets/sentry/git"}
	v := values{
		"config": map[string]any{
			"polling_interval": 1,
			"global":           map[string]any{"allow_insecure_http": true, "grace": "2s"},
			"kubernetes":       map[string]any{"namespaces": []any{runs}},
			"repositories": []any{map[string]any{
				"name": "shop", "group": "ai-blueprints",
				"monitor": map[string]any{"repo_url": shop.URL, "branches": []any{"main"}, "auth": auth},
				"deploy":  map[string]any{"qa_repo_url": qa.URL, "qa_repo_branch": "main", "auth": auth, "commands": []any{"./test.sh"}},
			}},
		},
		"secret": map[string]any{"existingSecret": "sentry-tokens"},
	}
	s.named(t, "sentry-prod")
	s.volume(t, "sentry-prod", "sentry-prod", "20Gi")
	s.Run(t, "create", "secret", "generic", "sentry-tokens", "--namespace", "sentry-prod", "--from-literal=git=canary-token")
	s.install(t, "sentry-prod", "sentry-prod", "-f", "./helm/sentry/values-production.yaml", "-f", v.write(t))

	sentry := func(words ...string) string {
		t.Helper()
		return s.exec(t, "sentry-prod", "sentry-prod", append([]string{"./sentry"}, words...)...)
	}
	until(t, "the first head is recorded", func() bool { return strings.Contains(sentry("why", "shop"), "first seen: a baseline") })
	shop.Commit(t, "main", map[string]string{"a": "2"}, "second")
	ended := func(n int) func() bool {
		return func() bool { return len(rollouts(t, sentry("history", "-o", "json"))) == n }
	}
	until(t, "a rollout has ended", ended(1))
	if logs := sentry("logs", "1"); !strings.Contains(logs, "all is closed") {
		t.Errorf("the command wrote:\n%s\n%s", logs, sentry("show", "1"))
	}

	if check := sentry("check", "-o", "json", "--log-level", "error"); strings.Contains(check, "may not") || !strings.Contains(check, "namespaces "+runs) {
		t.Errorf("a right is missing: %s", check)
	}

	// The pod goes while a PipelineRun is followed: the next one goes on with it, and creates no other.
	shop.Commit(t, "main", map[string]string{"a": "3"}, "third")
	created := func(n int) func() bool {
		return func() bool {
			return len(strings.Fields(s.Run(t, "get", "pipelineruns", "--namespace", runs, "--output", "name"))) == n
		}
	}
	until(t, "the second PipelineRun is created", created(2))
	until(t, "it is followed", func() bool { return strings.Contains(sentry("show", "2"), "track") })
	pod := s.Run(t, "get", "pods", "--namespace", "sentry-prod", "--selector", "app.kubernetes.io/component=daemon", "--output", "name")
	s.Run(t, "delete", strings.TrimSpace(pod), "--namespace", "sentry-prod")
	s.Run(t, "rollout", "status", "deployment/sentry-prod", "--namespace", "sentry-prod", "--timeout="+patience.String())
	until(t, "the rollout goes on to its end", ended(2))
	for _, r := range rollouts(t, sentry("history", "-o", "json")) {
		if r.Status != "succeeded" {
			t.Errorf("%+v\n%s", r, sentry("show", r.ID))
		}
	}
	if !created(2)() {
		t.Errorf("PipelineRuns: %s", s.Run(t, "get", "pipelineruns", "--namespace", runs))
	}
	if logs := s.Run(t, "logs", "deployment/sentry-prod", "--namespace", "sentry-prod"); strings.Contains(logs, "canary-token") {
		t.Error("the log has the token")
	}
}

// TestClusterJobs: with the rights that the chart makes, a deployment runs in a Job, outlives the pod of Sentry, and leaves its
// credentials in no object.
func TestClusterJobs(t *testing.T) {
	s := newSite(t)
	s.needImage(t)
	shop, qa := s.serve(t)
	run := kubetest.PipelineRun{GenerateName: "shop-", Tasks: []kubetest.Task{kubetest.Succeeds("test", nil)}}
	qa.CommitFiles(t, "main", []gittest.File{{Path: "test.sh", Mode: "100755", Content: inPod}, {Path: "run.json", Content: run.Manifest(s.Cluster)}}, "tests")
	home, runs := s.Namespace(t, enforced...), s.Namespace(t)
	place := home + "-jobs" // made by the chart

	auth := map[string]any{"username": "robot", "token": "${GIT_TOKEN}"}
	v := jobs.with(values{
		"config": map[string]any{
			"polling_interval": 1,
			"global":           map[string]any{"allow_insecure_http": true, "grace": "2s"},
			"kubernetes": map[string]any{
				"namespaces": []any{runs}, "jobs": map[string]any{"resources": map[string]any{"limits": map[string]any{"memory": "512Mi"}}},
			},
			"repositories": []any{map[string]any{
				"name": "shop", "group": "all",
				"monitor": map[string]any{"repo_url": shop.URL, "branches": []any{"main"}, "auth": auth},
				"deploy": map[string]any{
					"qa_repo_url": qa.URL, "qa_repo_branch": "main", "auth": auth, "commands": []any{"sleep 20", "./test.sh"},
					"env": map[string]any{"APP_PASSWORD": "canary-password"},
				},
			}},
		},
		"secret": map[string]any{"data": map[string]any{"GIT_TOKEN": "canary-token"}, "env": true},
	})
	s.volume(t, home, "sentry", "10Gi")
	s.install(t, "sentry", home, "-f", v.write(t))
	sentry := func(words ...string) string {
		t.Helper()
		return s.exec(t, home, "sentry", append([]string{"./sentry"}, words...)...)
	}
	if check := sentry("check", "-o", "json", "--log-level", "error"); strings.Contains(check, "may not") || !strings.Contains(check, "may run in Jobs in namespace "+place) {
		t.Errorf("a right is missing: %s", check)
	}
	until(t, "the first head is recorded", func() bool { return strings.Contains(sentry("why", "shop"), "first seen: a baseline") })
	shop.Commit(t, "main", map[string]string{"a": "2"}, "second")
	until(t, "the rollout has begun", func() bool { return strings.Contains(sentry("history", "-o", "json"), `"running"`) })
	until(t, "the command runs", func() bool { return strings.Contains(sentry("show", "1"), "sleep 20") })
	pod := s.Run(t, "get", "pods", "--namespace", home, "--selector", "app.kubernetes.io/component=daemon", "--output", "name")
	s.Run(t, "delete", strings.TrimSpace(pod), "--namespace", home)
	s.Run(t, "rollout", "status", "deployment/sentry", "--namespace", home, "--timeout="+patience.String())
	until(t, "the rollout has ended", func() bool { return len(rollouts(t, sentry("history", "-o", "json"))) == 1 })
	told := sentry("show", "1") + sentry("logs", "1") + sentry("why", "shop")
	if r := rollouts(t, sentry("history", "-o", "json"))[0]; r.Status != "succeeded" || !strings.Contains(told, "all is closed") || !strings.Contains(told, "which went on") {
		t.Errorf("%+v\n%s", r, told)
	}
	if made := strings.Fields(s.Run(t, "get", "jobs", "--namespace", place, "--output", "name")); len(made) != 1 {
		t.Errorf("Jobs: %v", made)
	}
	if made := strings.Fields(s.Run(t, "get", "pipelineruns", "--namespace", runs, "--output", "name")); len(made) != 1 {
		t.Errorf("PipelineRuns: %v", made)
	}
	told += s.Run(t, "get", "jobs,pods,secrets,configmaps,events", "--namespace", place, "--output", "yaml") +
		s.Run(t, "logs", "--namespace", place, "--selector", kube.LabelJob, "--tail=-1")
	if strings.Contains(told, "canary") {
		t.Error("a credential is told, or in an object of the cluster")
	}
}

// inPod is what the command tries.
const inPod = `#!/bin/bash
set -eu
kubectl version --client >/dev/null && jq --version >/dev/null && curl --version >/dev/null && ssh -V 2>/dev/null
[ "$(id -u)" = 65532 ]
for file in /var/run/secrets/kubernetes.io/serviceaccount/token /run/secrets/sentry/git /etc/sentry/sentry.yaml /var/lib/sentry/sentry/state.db; do
	if cat "$file" >/dev/null 2>&1; then echo "$file is open to commands"; exit 1; fi
done
for dir in / /opt/sentry /usr/local/bin /etc /home/sentry /var/lib/sentry; do
	if touch "$dir/.try" 2>/dev/null; then echo "$dir can be written to"; exit 1; fi
done
touch /tmp/try "$HOME/try" "$TMPDIR/try"
if kubectl get secrets >/dev/null 2>&1 || kubectl get pods --namespace kube-system >/dev/null 2>&1; then echo "the cluster is open"; exit 1; fi
kubectl create -f run.json
echo "all is closed"
`

// rollout is what the test needs of one.
type rollout struct{ ID, Status string }

// rollouts gives those that have ended.
func rollouts(t *testing.T, text string) []rollout {
	t.Helper()
	var list struct{ Items []rollout }
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	var ended []rollout
	for _, r := range list.Items {
		if r.Status != "pending" && r.Status != "running" {
			ended = append(ended, r)
		}
	}
	return ended
}

// until waits until something is so.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !so(); time.Sleep(300 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v it is not so that %s", patience, what)
		}
	}
}
