package kube

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sentry/internal/kube/kubetest"
)

// side is one of two ways to the real cluster.
type side struct {
	t      *testing.T
	home   string
	env    []string
	access *Access // nil on the direct way

	namespace string   // in which it works
	seen      []string // what programs wrote
}

// newSide makes a home with the kubeconfig, and nothing else in the environment than what a command gets.
func newSide(t *testing.T, kubeconfig []byte) *side {
	t.Helper()
	s := &side{t: t, home: t.TempDir()}
	file := filepath.Join(s.home, "kubeconfig")
	if err := os.WriteFile(file, kubeconfig, 0o600); err != nil {
		t.Fatal(err)
	}
	s.env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.home, "KUBECONFIG=" + file, "TMPDIR=" + s.home}
	return s
}

// run runs a program with input, and gives what it wrote to its streams.
func (s *side) run(in, program string, args ...string) (out, errs string, code int) {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), program, args...)
	var o, e strings.Builder
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = s.home, s.env, strings.NewReader(in), &o, &e
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// connectWith connects to the real cluster, with a log for the test.
func connectWith(t *testing.T, kubeconfig string, o Options) (*Cluster, *lockedBuffer) {
	t.Helper()
	log := &lockedBuffer{}
	o.Kubeconfig, o.Log = kubeconfig, slog.New(slog.NewTextHandler(log, nil))
	c, err := Connect(o)
	if err != nil {
		t.Fatal(err)
	}
	return c, log
}

// gatewaySide opens a way through a gateway.
func gatewaySide(t *testing.T, c *Cluster, id Identity, r Recorder) *side {
	t.Helper()
	g, err := c.NewGateway(GatewayOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	id.Instance, id.Rollout, id.Deployment, id.Group, id.Repository, id.Commit, id.Attempt = "inst", "12", "12-a-1", "g", "a", "c0ffee", 1
	a, err := g.Open(id, r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	s := newSide(t, a.Kubeconfig())
	s.access = a
	return s
}

// TestClusterCreate creates a PipelineRun with an unmodified kubectl in the real cluster, in each way that there is.
func TestClusterCreate(t *testing.T) {
	k := kubetest.Find(t)
	ns := k.Namespace(t)
	c, _ := connectWith(t, k.Kubeconfig, Options{Namespaces: []string{ns}})
	recorder := &records{}
	s := gatewaySide(t, c, Identity{}, recorder)
	const manifest = `{apiVersion: tekton.dev/v1, kind: PipelineRun, metadata: {%s}, spec: {status: PipelineRunPending, pipelineRef: {name: p}}}`
	named := func(meta string) string { return strings.ReplaceAll(manifest, "%s", meta) }
	for _, x := range []struct {
		name, in string
		args     []string
		want     []string // recorded, with UID for the uid
	}{
		{"create", named("generateName: a-"), []string{"create", "-f", "-"}, []string{"intend " + ns, "created NAME UID"}},
		{"several", named("generateName: a-") + "\n---\n" + named("generateName: b-"), []string{"create", "-f", "-"}, []string{"intend " + ns, "created NAME UID", "intend " + ns, "created NAME UID"}},
		{"a list", "{apiVersion: v1, kind: List, items: [" + named("name: l1") + "]}", []string{"create", "-f", "-"}, []string{"intend " + ns, "created NAME UID"}},
		{"it exists", named("name: l1"), []string{"create", "-f", "-"}, []string{"intend " + ns, "dropped"}},
		{"apply", named("name: c"), []string{"apply", "-f", "-"}, []string{"intend " + ns, "created NAME UID"}},
		{"apply again", named("name: c"), []string{"apply", "-f", "-"}, nil},
		{"server-side apply", named("name: d"), []string{"apply", "--server-side", "-f", "-"}, []string{"intend " + ns, "created NAME UID"}},
		{"server-side apply again", named("name: d, labels: {x: z}"), []string{"apply", "--server-side", "-f", "-"}, nil},
		{"server-side apply by another", named("name: d, labels: {x: z}"), []string{"apply", "--server-side", "--field-manager=other", "-f", "-"}, nil},
		{"replace --force", named("name: c"), []string{"replace", "--force", "-f", "-"}, []string{"intend " + ns, "created NAME UID"}},
		{"replace", named("name: l1"), []string{"replace", "-f", "-"}, nil},
		{"dry run", named("name: e"), []string{"create", "--dry-run=server", "-f", "-"}, nil},
		{"apply, dry run", named("name: e"), []string{"apply", "--server-side", "--dry-run=server", "-f", "-"}, nil},
		{"v1beta1", strings.Replace(named("generateName: v-"), "/v1", "/v1beta1", 1), []string{"create", "-f", "-"}, []string{"intend " + ns, "created NAME UID"}},
		{"no JSON", named("name: y"), []string{"create", "--raw", "/apis/tekton.dev/v1/namespaces/" + ns + "/pipelineruns", "-f", "-"}, nil},
		{"raw, with a name in the path", `{"apiVersion":"tekton.dev/v1","kind":"PipelineRun","metadata":{"name":"z"},"spec":{"status":"PipelineRunPending","pipelineRef":{"name":"p"}}}`, []string{"create", "--raw", "/apis/tekton.dev/v1/namespaces/" + ns + "/pipelineruns/z", "-f", "-"}, []string{"intend " + ns, "created NAME UID"}},
	} {
		out, errs, code := s.run(x.in, k.Kubectl, x.args...)
		if refused := x.name == "it exists" || x.name == "no JSON"; (code != 0) != refused {
			t.Errorf("%s: exit code %d: %s%s", x.name, code, out, errs)
		}
		recorder.mu.Lock()
		list, runs := recorder.list, recorder.runs
		recorder.list, recorder.runs = nil, nil
		recorder.mu.Unlock()
		for i, run := range runs {
			if run.UID == "" {
				continue
			}
			if uid := k.Run(t, "get", "pipelinerun", run.Name, "-n", ns, "-o", `jsonpath={.metadata.uid} {.metadata.labels.sentry\.dev/request} {.metadata.labels.sentry\.dev/deployment}`); uid != run.UID+" "+run.Nonce+" 12-a-1" {
				t.Errorf("%s: recorded is %+v, there is %q", x.name, run, uid)
			}
			list[i] = "created NAME UID"
		}
		if !slices.Equal(list, x.want) {
			t.Errorf("%s: recorded is %q, want %q", x.name, list, x.want)
		}
	}
	for name, want := range map[string]string{"d": "12-a-1", "l1": ""} { // an apply leaves the labels, a replace does not
		if got := k.Run(t, "get", "pipelinerun", name, "-n", ns, "-o", `jsonpath={.metadata.labels.sentry\.dev/deployment}`); got != want {
			t.Errorf("%s has the label %q, want %q", name, got, want)
		}
	}
}
