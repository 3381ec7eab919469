package kubetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sentry/internal/sentry/sentrytest"
)

// Cluster is a Kubernetes with Tekton that answers.
type Cluster struct {
	Kubeconfig string // of an administrator
	Kubectl    string // the program
	Helm       string // the program; "" where there is none
	Host       string // an address of this machine that pods reach; "" where none is known
	Busybox    string // an image with a shell and the usual programs
	Node       bool   // pods really run; otherwise somebody completes them on paper, without logs and exec
	Ours       bool   // `make cluster` started it: its parts can be stopped, and images imported

	program string // components/cluster's, where the cluster is ours
	dir     string // the project's
}

// Find gives the project's own cluster. Where SENTRY_NEED_KUBE is set it is the one that KUBECONFIG names, if it names one, and
// the test fails where there is none. Otherwise the test is skipped then: nobody's cluster is tested with because it happens to
// be configured.
func Find(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{dir: sentrytest.Root(t)}
	if err := c.find(); err != nil {
		if os.Getenv("SENTRY_NEED_KUBE") != "" {
			t.Fatalf("there is no Kubernetes: %v; `make cluster` starts one", err)
		}
		t.Skipf("there is no Kubernetes to test with (%v): `make cluster` starts one", err)
	}
	if out, err := c.TryKubectl("get", "--raw", "/apis/tekton.dev/v1"); err != nil {
		t.Fatalf("the cluster of %s does not answer, or has no Tekton: %v\n%s", c.Kubeconfig, err, out)
	}
	return c
}

// ownCluster is what components/cluster writes of the cluster it started.
type ownCluster struct {
	Node                                              bool
	Host, Kubeconfig, Kubectl, Helm, Program, Busybox string
}

// find fills in the cluster.
func (c *Cluster) find() error {
	var own ownCluster
	data, err := os.ReadFile(filepath.Join(c.dir, ".cache", "cluster", "cluster.json"))
	if err == nil {
		err = json.Unmarshal(data, &own)
	}
	named := os.Getenv("KUBECONFIG")
	if os.Getenv("SENTRY_NEED_KUBE") == "" {
		named = ""
	}
	if err == nil && (named == "" || sameFile(named, own.Kubeconfig)) {
		c.Kubeconfig, c.Kubectl, c.Helm, c.Host, c.Busybox = own.Kubeconfig, own.Kubectl, own.Helm, own.Host, own.Busybox
		c.Node, c.Ours, c.program = own.Node, true, own.Program
		return nil
	}
	if named == "" {
		return err
	}
	c.Kubeconfig, c.Busybox, c.Node = named, "busybox:1", true
	if c.Kubectl, err = firstProgram(filepath.Join(c.dir, ".cache", "kubernetes", "current", "kubectl"), "kubectl"); err != nil {
		return err
	}
	c.Helm, _ = firstProgram(filepath.Join(c.dir, ".cache", "helm", "current", "helm"), "helm")
	c.Host = os.Getenv("SENTRY_KUBE_HOST") // somebody else's cluster does not tell
	return nil
}

// firstProgram is the first of the names that can be run.
func firstProgram(names ...string) (string, error) {
	var err error
	for _, name := range names {
		var found string
		if found, err = exec.LookPath(name); err == nil {
			return found, nil
		}
	}
	return "", err
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// NeedNode skips the test where pods only run on paper.
func (c *Cluster) NeedNode(t testing.TB) {
	t.Helper()
	if !c.Node {
		t.Skip("pods do not really run in this cluster: `make cluster` as root starts one in which they do")
	}
}

// Listen listens at an address that pods reach, and that this machine alone has where the cluster is ours.
func (c *Cluster) Listen(t testing.TB) net.Listener {
	t.Helper()
	if c.Host == "" {
		t.Skip("it is not known at which address the pods of this cluster reach this machine: SENTRY_KUBE_HOST tells it")
	}
	l, err := net.Listen("tcp", net.JoinHostPort(c.Host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TryKubectl runs kubectl as the administrator, and gives what it wrote to both of its streams.
func (c *Cluster) TryKubectl(args ...string) (string, error) {
	out, err := c.command(c.Kubectl, args...).CombinedOutput()
	return string(out), err
}

// Run runs kubectl as the administrator; the test ends where it fails. It gives the standard output.
func (c *Cluster) Run(t testing.TB, args ...string) string {
	t.Helper()
	return output(t, c.command(c.Kubectl, args...))
}

// Apply creates or changes what the manifest, in YAML or JSON, describes. Where it has a namespace only by its context, ns is it.
func (c *Cluster) Apply(t testing.TB, ns, manifest string) string {
	t.Helper()
	return c.withInput(t, manifest, "apply", "--namespace", ns, "--filename", "-")
}

// Create creates what the manifest describes, and gives its name, as "pipelinerun.tekton.dev/build-x7k2p".
func (c *Cluster) Create(t testing.TB, ns, manifest string) string {
	t.Helper()
	return strings.TrimSpace(c.withInput(t, manifest, "create", "--namespace", ns, "--filename", "-", "--output", "name"))
}

// RunHelm runs helm as the administrator; the test ends where it fails.
func (c *Cluster) RunHelm(t testing.TB, args ...string) string {
	t.Helper()
	if c.Helm == "" {
		t.Fatal("there is no helm: components/helm/build builds it")
	}
	return output(t, c.command(c.Helm, args...))
}

// As gives a kubeconfig with which a service account asks, by a token for an hour and nothing else, and the token.
func (c *Cluster) As(t testing.TB, ns, account string) (kubeconfig []byte, token string) {
	t.Helper()
	token = strings.TrimSpace(c.Run(t, "create", "token", account, "--namespace", ns, "--duration=1h"))
	var config map[string]any
	if err := json.Unmarshal([]byte(c.Run(t, "config", "view", "--raw", "--flatten", "--minify", "--output", "json")), &config); err != nil {
		t.Fatal(err)
	}
	config["users"].([]any)[0].(map[string]any)["user"] = map[string]any{"token": token}
	kubeconfig, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return kubeconfig, token
}

func (c *Cluster) withInput(t testing.TB, in string, args ...string) string {
	t.Helper()
	cmd := c.command(c.Kubectl, args...)
	cmd.Stdin = strings.NewReader(in)
	return output(t, cmd)
}

// command is a program with the administrator's configuration.
func (c *Cluster) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig)
	return cmd
}

// output gives what a command wrote; the test ends where it fails.
func output(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", filepath.Base(cmd.Path), strings.Join(cmd.Args[1:], " "), err, out.String(), problem.String())
	}
	return out.String()
}

// Namespace makes a namespace with a random name and the labels ("key=value"), and removes it with all that is in it when the
// test ends. It comes back when the namespace has its service account: before, no pod can be created in it.
func (c *Cluster) Namespace(t testing.TB, labels ...string) string {
	t.Helper()
	name := fmt.Sprintf("sentry-test-%08x", rand.Uint32())
	c.Run(t, "create", "namespace", name)
	t.Cleanup(func() { c.removeNamespace(t, name) })
	if len(labels) > 0 {
		c.Run(t, append([]string{"label", "namespace", name}, labels...)...)
	}
	c.Run(t, "wait", "--for=create", "serviceaccount/default", "--namespace", name, "--timeout="+patience.String())
	return name
}

// removeNamespace ends what runs in the namespace at once, and waits until it has gone.
func (c *Cluster) removeNamespace(t testing.TB, name string) {
	t.Helper()
	if t.Failed() {
		out, _ := c.TryKubectl("get", "pipelineruns,taskruns,pods,events", "--namespace", name)
		t.Logf("what was in the namespace %s:\n%s", name, out)
	}
	// Who would start again what ends goes first. Pods that do not care about a signal would hold the namespace for half a minute,
	// and those that are still there when it goes for a quarter.
	for _, args := range [][]string{
		{"delete", "pipelineruns,taskruns", "--all", "--wait=false"},
		{"delete", "deployments,statefulsets,jobs", "--all", "--wait=false"},
		{"delete", "pods", "--all", "--grace-period=1", "--timeout=" + patience.String()},
	} {
		if out, err := c.TryKubectl(append(args, "--namespace", name, "--ignore-not-found")...); err != nil {
			t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	if out, err := c.TryKubectl("delete", "namespace", name, "--ignore-not-found", "--timeout="+patience.String()); err != nil {
		t.Errorf("cannot remove the namespace %s: %v\n%s", name, err, out)
	}
}

// Wait waits until a condition holds, as `kubectl wait` understands it: "condition=Ready", "delete", "jsonpath={.status.x}=y".
func (c *Cluster) Wait(t testing.TB, ns, object, condition string, more ...string) {
	t.Helper()
	c.Run(t, append([]string{"wait", "--namespace", ns, object, "--for=" + condition, "--timeout=" + patience.String()}, more...)...)
}

// Ended waits until a PipelineRun has ended, and gives the status and the reason of its condition, as "True", "Succeeded".
func (c *Cluster) Ended(t testing.TB, ns, name string) (status, reason string) {
	t.Helper()
	name = "pipelinerun/" + name[strings.LastIndexByte(name, '/')+1:]
	c.Wait(t, ns, name, "jsonpath={.status.completionTime}")
	condition := `{range .status.conditions[?(@.type=="Succeeded")]}{.status} {.reason}{end}`
	status, reason, _ = strings.Cut(c.Run(t, "get", "--namespace", ns, name, "--output", "jsonpath="+condition), " ")
	return status, reason
}

// Import loads a docker-archive into the node's images.
func (c *Cluster) Import(t testing.TB, archive string) {
	t.Helper()
	c.needOurs(t)
	c.NeedNode(t)
	archive, err := filepath.Abs(archive)
	if err != nil {
		t.Fatal(err)
	}
	c.part(t, "import", archive)
}

// StopAPI ends the API server, for everybody who uses the cluster: where a test can do with one client who does not reach it,
// Line is the better choice. It is started again when the test ends, or by the function that this gives. The test is skipped
// where SENTRY_NEED_KUBE is not set, as tests of other packages may run with the cluster then.
func (c *Cluster) StopAPI(t testing.TB) (start func()) {
	t.Helper()
	c.needOurs(t)
	if os.Getenv("SENTRY_NEED_KUBE") == "" {
		t.Skip("this stops what others may use: `make test-kube` runs it")
	}
	started := true
	start = func() {
		t.Helper()
		if !started {
			c.part(t, "start", "kube-apiserver")
			started = true
		}
	}
	t.Cleanup(start)
	started = false
	c.part(t, "stop", "kube-apiserver")
	return start
}

func (c *Cluster) needOurs(t testing.TB) {
	t.Helper()
	if !c.Ours {
		t.Skip("this cluster is somebody else's, whose parts stay as they are: without KUBECONFIG the project's own is used")
	}
}

// part runs the program that started the cluster.
func (c *Cluster) part(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.Command(c.program, args...)
	cmd.Dir = c.dir
	output(t, cmd)
}

// freshFile gives a path in a folder that goes with the test, for what is private.
func freshFile(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	return path
}

// How long something may take at most: on this machine, and in the cluster, where other pods may have the processors.
const (
	soon     = 30 * time.Second
	patience = 4 * time.Minute
)
