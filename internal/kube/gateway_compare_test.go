package kube

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sentry/internal/kube/kubetest"
)

// The objects of TestClusterCompare. IMAGE stands for an image with a shell.
const (
	compareApp = `
apiVersion: v1
kind: ConfigMap
metadata: {name: c1, labels: {app: x}, annotations: {a: b}}
data: {key: VALUE, "number": "12345678901234567890"}
---
apiVersion: v1
kind: Service
metadata: {name: s1, labels: {app: x}, annotations: {a: b}}
spec: {clusterIP: None, selector: {app: x}, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: d1, labels: {app: x}, annotations: {a: b}}
spec:
  replicas: 1
  selector: {matchLabels: {app: x}}
  template:
    metadata: {labels: {app: x}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: "IMAGE", imagePullPolicy: IfNotPresent, command: [sleep, "3600"]}]}
`
	compareServerSide = `
apiVersion: v1
kind: ConfigMap
metadata: {name: c2, labels: {app: x}, annotations: {a: b}}
data: {key: VALUE}
`
	comparePods = `
apiVersion: v1
kind: Pod
metadata: {name: p1, labels: {app: p}, annotations: {a: b}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "IMAGE", imagePullPolicy: IfNotPresent, stdin: true, command: [sh, -c, "echo started; while :; do nc -l -p 8080 -e cat; done >/dev/null 2>&1 & while read line; do echo got $line; done; sleep 3600"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: p2, labels: {app: p}, annotations: {a: b}}
spec: {restartPolicy: Never, containers: [{name: main, image: "IMAGE", imagePullPolicy: IfNotPresent, command: [sh, -c, "for i in 1 2 3 4; do echo line $i; sleep 2; done"]}]}
`
	compareRun = `
apiVersion: tekton.dev/v1
kind: PipelineRun
metadata: {name: r1, labels: {app: x}, annotations: {a: b}}
spec: {status: PipelineRunPending, pipelineSpec: {tasks: [{name: a, taskSpec: {steps: [{name: s, image: x}]}}]}}
`
	compareChart = `
apiVersion: v1
kind: ConfigMap
metadata: {name: "{{ .Release.Name }}", labels: {app: x}}
data: {color: "{{ .Values.color }}"}
`
)

// comparison is one command of TestClusterCompare.
type comparison struct {
	in, command string
	code        int
}

// comparisons are run on both ways, in this order. A command that begins with helm is Helm's, others are kubectl's; one
// with "|" has several words in its arguments, which are separated by "|".
func comparisons() []comparison {
	changed := strings.Replace(compareApp, "VALUE", "changed", 1)
	return []comparison{
		{"", "version", 0},
		{"", "api-versions", 0},
		{"", "api-resources", 0},
		{"", "explain pods.spec.containers", 0},
		{"", "explain pipelineruns.spec --recursive", 0},
		{"", "get nodes -o name", 0},
		{"", "get crd pipelineruns.tekton.dev -o yaml", 0},
		{"", "get --raw /apis/tekton.dev/v1", 0},
		{compareApp, "apply -f -", 0},
		{compareApp, "apply -f -", 0},
		{changed, "diff -f -", 1},
		{changed, "apply -f -", 0},
		{compareApp, "apply -f - --dry-run=server -o yaml", 0},
		{compareServerSide, "apply --server-side -f -", 0},
		{strings.Replace(compareServerSide, "VALUE", "changed", 1), "diff --server-side -f -", 1},
		{strings.Replace(compareServerSide, "VALUE", "changed", 1), "apply --server-side -f -", 0},
		{strings.Replace(compareServerSide, "VALUE", "third", 1), "apply --server-side --field-manager=other -f -", 1}, // a conflict
		{compareServerSide, "apply --server-side -f -", 0},
		{"", "get configmap c1 -o yaml", 0},
		{"", "get configmap c2 -o yaml", 0},
		{"", "get configmap c1 -o json", 0},
		{"", "get service s1 -o wide", 0},
		{"", "get deployment d1 -o jsonpath={.spec.template.spec.containers[0].image}", 0},
		{"", "get configmap,service,deployment -o name", 0},
		{"", "describe configmap c1", 0},
		{"", "describe service s1", 0},
		{"", "create configmap c3 --from-literal=a=b", 0},
		{"", "create configmap c3 --from-literal=a=b", 1}, // it exists
		{"", "create secret generic s3 --from-literal=a=b", 0},
		{"", "create role r3 --verb=get --resource=pods", 0},
		{"", "create rolebinding b3 --role=r3 --serviceaccount=default:default", 0},
		{compareRun, "create -f -", 0},
		{"", "get pipelinerun r1 -o jsonpath={.metadata.name}{.spec}", 0},
		{"", `patch|configmap|c1|--type=merge|-p|{"data":{"merged":"1"}}`, 0},
		{"", `patch|configmap|c1|--type=json|-p|[{"op":"add","path":"/data/json","value":"2"}]`, 0},
		{"", `patch|deployment|d1|--type=strategic|-p|{"spec":{"template":{"spec":{"containers":[{"name":"main","env":[{"name":"A","value":"b"}]}]}}}}`, 0},
		{"", "label configmap c1 extra=label", 0},
		{"", "annotate configmap c1 extra=annotation", 0},
		{"", "set env deployment/d1 B=c", 0},
		{"", "scale deployment d1 --replicas=2", 0},
		{"", "rollout status deployment/d1 --timeout=240s", 0},
		{"", "rollout history deployment/d1", 0},
		{"", "expose deployment d1 --name=s4 --port=80 --cluster-ip=None", 0},
		{comparePods, "create -f -", 0},
		{"", "wait --for=condition=Ready pod/p2 pod/p1 --timeout=240s", 0},
		{"", "logs -f p2", 0},
		{"", "wait --for=jsonpath={.status.phase}=Succeeded pod/p2 --timeout=240s", 0},
		{"", "logs p1", 0},
		{"", "get pods p1 p2 -o wide", 0},
		{"", "exec|p1|--|sh|-c|echo out; echo err >&2; exit 3", 3},
		{"from a pipe", "exec -i p1 -- cat", 0},
		{"", "cp here.txt p1:/tmp/there.txt", 0},
		{"", "exec p1 -- cat /tmp/there.txt", 0},
		{"", "cp p1:/tmp/there.txt back.txt", 0},
		{"", "auth can-i create pods", 0},
		{"", "auth can-i create nothing.example", 0},
		{"", "auth whoami", 0},
		{"", "top pods", 1},
		{"", "get configmap none", 1},
		{strings.Replace(changed, "changed", "replaced", 1), "replace -f -", 0},
		{compareServerSide, "replace --force -f -", 0},
		{"", "helm install rel ./chart", 0},
		{"", "helm list", 0},
		{"", "helm status rel", 0},
		{"", "helm upgrade rel ./chart --set color=blue", 0},
		{"", "helm get manifest rel", 0},
		{"", "helm get metadata rel", 0},
		{"", "helm history rel", 0},
		{"", "helm rollback rel 1", 0},
		{"", "helm uninstall rel", 0},
		{"", "delete configmap c3", 0},
		{"", "delete pods -l app=p --now", 0},
		{compareApp, "delete -f -", 0},
	}
}

// What differs for good reasons: names of namespaces, identities and times that the cluster gives, and our marks.
var compareNormal = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`(?m)^[ \t+-]*"?sentry\.dev/[a-z]+"?(=|: ).*\n`), ""},                   // our labels and our annotation
	{regexp.MustCompile(`,(\n\s*})`), "$1"},                                                     // the comma before them, in JSON
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "UID"}, //
	{regexp.MustCompile(`(resourceVersion"?: ")\d+"`), `${1}N"`},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| [+-]\d{4} UTC)?`), "TIME"},
	{regexp.MustCompile(`[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}`), "TIME"},
	{regexp.MustCompile(`LIVE-\d+|MERGED-\d+`), "FILE"}, // the temporary files of kubectl diff
	{regexp.MustCompile(`\b10\.\d+\.\d+\.\d+\b`), "ADDRESS"},
	{regexp.MustCompile(`(?m)(  +)(\d+[smhd])+\b`), "${1}AGE"},
	{regexp.MustCompile(`\(\d+s ago\)`), "(AGE)"},
	{regexp.MustCompile(` +`), " "}, // the columns around what was replaced
	{regexp.MustCompile(`(?m) +$`), ""},
	{regexp.MustCompile(`(?m)^Waiting for deployment .*\n`), ""}, // how far it was at which moment
	{regexp.MustCompile(`(?m)^---$\n`), ""},
	{regexp.MustCompile(`(?m)^tar: removing leading .*\n`), ""}, // kubectl cp ends with the archive, and does not wait for what else the pod says
}

// TestClusterCompare runs the same commands directly and through the gateway, each side in a namespace of its own, and
// compares output, errors and exit codes byte by byte, but for what compareNormal names. The credentials with which
// Sentry asks must be nowhere on the gateway's side.
func TestClusterCompare(t *testing.T) {
	k := kubetest.Find(t)
	k.NeedNode(t)
	if k.Helm == "" {
		t.Skip("there is no helm")
	}
	kubeconfig, token := tokenKubeconfig(t, k)
	config, err := os.ReadFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	c, log := connectWith(t, kubeconfig, Options{})
	direct, through := newSide(t, config), gatewaySide(t, c, Identity{}, &records{})
	sides := []*side{direct, through}
	for _, s := range sides {
		s.namespace = k.Namespace(t)
		s.prepare()
	}
	list := comparisons()
	if len(list) < 40 {
		t.Fatalf("only %d commands", len(list))
	}
	results := make([][]string, len(sides))
	var both sync.WaitGroup
	for i, s := range sides {
		both.Go(func() {
			for _, x := range list {
				results[i] = append(results[i], s.compared(k, x))
			}
			results[i] = append(results[i], s.forwarded(k), s.attached(k))
		})
	}
	both.Wait()
	for j := range results[0] {
		name := "port-forward, or attach"
		if j < len(list) {
			name = list[j].command
		}
		if diff := cmp.Diff(results[0][j], results[1][j]); diff != "" {
			t.Errorf("kubectl %s differs: - directly, + through the gateway\n%s", name, diff)
		}
	}
	t.Logf("%d commands gave the same on both ways", len(results[0]))
	noToken(t, through.home, token, strings.Join(through.seen, "\n"), log.String(), strings.Join(through.env, "\n"))
}

// noToken looks for the token in texts, and in every file below home.
func noToken(t *testing.T, home, token string, texts ...string) {
	t.Helper()
	signature := token[strings.LastIndexByte(token, '.')+1:]
	for _, text := range texts {
		if strings.Contains(text, signature) {
			t.Errorf("the token is seen in %.200s…", text)
		}
	}
	files := 0
	err := filepath.WalkDir(home, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		raw, err := os.ReadFile(name)
		if strings.Contains(string(raw), signature) {
			t.Errorf("the token is in %s", name)
		}
		return err
	})
	if err != nil || files < 3 {
		t.Errorf("%d files were looked at: %v", files, err)
	}
}

// prepare puts the files that the commands need into the home of a side.
func (s *side) prepare() {
	s.t.Helper()
	chart := filepath.Join(s.home, "chart", "templates")
	if err := os.MkdirAll(chart, 0o700); err != nil {
		s.t.Fatal(err)
	}
	for name, text := range map[string]string{
		"here.txt": "a file\n", "chart/Chart.yaml": "apiVersion: v2\nname: chart\nversion: 1.0.0\n", "chart/values.yaml": "color: red\n", "chart/templates/map.yaml": compareChart,
	} {
		if err := os.WriteFile(filepath.Join(s.home, name), []byte(text), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
}

// compared runs a command and gives its outcome in normal form.
func (s *side) compared(k *kubetest.Cluster, x comparison) string {
	args := strings.Fields(x.command)
	if strings.Contains(x.command, "|") {
		args = strings.Split(x.command, "|")
	}
	program := k.Kubectl
	if args[0] == "helm" {
		program, args = k.Helm, args[1:]
	}
	in := strings.ReplaceAll(x.in, "IMAGE", k.Busybox)
	out, errs, code := s.run(in, program, append([]string{"--namespace", s.namespace}, args...)...)
	s.seen = append(s.seen, out, errs)
	if code != x.code {
		s.t.Errorf("%s: exit code %d, want %d: %s%s", x.command, code, x.code, out, errs)
	}
	return s.normal(fmt.Sprintf("exit code %d\n%s\nerrors:\n%s", code, out, errs))
}

func (s *side) normal(text string) string {
	text = strings.ReplaceAll(text, s.namespace, "NAMESPACE")
	text = strings.ReplaceAll(text, s.home, "HOME")
	for _, n := range compareNormal {
		text = n.pattern.ReplaceAllString(text, n.with)
	}
	return text
}

// forwarded sends a line through a port that kubectl forwards, and gives what comes back.
func (s *side) forwarded(k *kubetest.Cluster) string {
	run := func(in string, args ...string) {
		s.run(in, k.Kubectl, append([]string{"--namespace", s.namespace}, args...)...)
	}
	run(strings.ReplaceAll(comparePods, "IMAGE", k.Busybox), "create", "-f", "-")
	run("", "wait", "--for=condition=Ready", "pod/p1", "--timeout=240s")
	var said string
	for limit := time.Now().Add(time.Minute); time.Now().Before(limit); time.Sleep(250 * time.Millisecond) { // who echoes may not listen yet
		if said = s.echoed(k); strings.Contains(said, "there and back") {
			return said
		}
	}
	s.t.Errorf("nothing comes back over a port that is forwarded: %s", said)
	return said
}

// echoed says something over a port that is forwarded, and gives what comes back.
func (s *side) echoed(k *kubetest.Cluster) string {
	line, end, err := s.firstLine(k, "", "port-forward", "pod/p1", ":8080")
	if err != nil {
		return err.Error()
	}
	defer end()
	address := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(line)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "there and back\n"); err != nil {
		return err.Error()
	}
	back, err := bufio.NewReader(conn).ReadString('\n')
	return fmt.Sprint(strings.Replace(line, address, "ADDRESS", 1), back, err)
}

// attached says something to a pod, and gives what it answers.
func (s *side) attached(k *kubetest.Cluster) string {
	line, end, err := s.firstLine(k, "a line\n", "attach", "-i", "p1", "--quiet")
	if err != nil {
		return err.Error()
	}
	end()
	return line
}

// firstLine starts kubectl, says something to it, and gives the first line that it writes. The caller ends it.
func (s *side) firstLine(k *kubetest.Cluster, in string, args ...string) (line string, end func(), err error) {
	ctx, cancel := context.WithCancel(s.t.Context())
	cmd := exec.CommandContext(ctx, k.Kubectl, append([]string{"--namespace", s.namespace}, args...)...)
	cmd.Env = s.env
	stdin, err := cmd.StdinPipe()
	if err != nil {
		cancel()
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return "", nil, err
	}
	end = func() {
		cancel()
		_ = cmd.Wait() // it was killed
	}
	_, err = io.WriteString(stdin, in)
	if err == nil {
		line, err = bufio.NewReader(out).ReadString('\n')
	}
	if err != nil {
		end()
	}
	return line, end, err
}

// TestClusterNamespaces asks with an unmodified kubectl for what the configuration does not allow.
func TestClusterNamespaces(t *testing.T) {
	k := kubetest.Find(t)
	ns := k.Namespace(t)
	c, _ := connectWith(t, k.Kubeconfig, Options{Namespaces: []string{ns}})
	s := gatewaySide(t, c, Identity{}, &records{})
	for _, x := range []struct {
		args string
		code int
		want string
	}{
		{"get configmaps", 0, "kube-root-ca.crt"},
		{"get namespace " + ns, 0, ns},
		{"wait --for=jsonpath={.status.phase}=Active namespace/" + ns, 0, "condition met"},
		{"api-resources", 0, "pipelineruns"},
		{"get crd pipelineruns.tekton.dev", 0, "pipelineruns.tekton.dev"},
		{"auth can-i create pods", 0, "yes"},
		{"auth whoami", 0, "Username"},
		{"get configmaps -n kube-system", 1, `Error from server (Forbidden): configmaps is forbidden: Sentry's configuration limits what may be used to kubernetes.namespaces: ` + ns + `; the namespace "kube-system" is not allowed`},
		{"get pods -A", 1, "Error from server (Forbidden): pods is forbidden: Sentry's configuration limits what may be used to kubernetes.namespaces"},
		{"get namespaces", 1, "only the allowed namespaces can be read, one by one"},
		{"delete namespace " + ns, 1, "namespaces themselves cannot be changed"},
		{"create namespace sentry-test-no", 1, "namespaces themselves cannot be changed"},
		{"get nodes", 1, "it is about all namespaces, or about the cluster as a whole"},
		{"create clusterrole sentry-test-no --verb=get --resource=pods", 1, "it is about all namespaces, or about the cluster as a whole"},
		{"get configmaps --as=admin", 1, "kubernetes.impersonate"},
		{"get --raw /metrics", 1, "it is not in a namespace"},
	} {
		out, errs, code := s.run("", k.Kubectl, strings.Fields(x.args)...)
		if code != x.code || !strings.Contains(out+errs, x.want) {
			t.Errorf("kubectl %s: exit code %d: %s%s; want %d: %s", x.args, code, out, errs, x.code, x.want)
		}
	}
}

// A CRD that comes through the gateway is there for the next command, and one that goes is gone.
func TestClusterDiscovery(t *testing.T) {
	k := kubetest.Find(t)
	ns := k.Namespace(t)
	c, _ := connectWith(t, k.Kubeconfig, Options{})
	s := gatewaySide(t, c, Identity{}, &records{})
	group := strings.ReplaceAll(ns, "-", "") + ".example.com"
	crd := `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"things.` + group + `"},"spec":{"group":"` + group + `","scope":"Namespaced","names":{"plural":"things","singular":"thing","kind":"Thing"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]}}`
	t.Cleanup(func() { k.TryKubectl("delete", "crd", "things."+group, "--ignore-not-found") })
	run := func(in string, want int, args ...string) string {
		t.Helper()
		out, errs, code := s.run(in, k.Kubectl, append([]string{"--cache-dir", t.TempDir(), "-n", ns}, args...)...)
		if code != want {
			t.Errorf("kubectl %v: exit code %d: %s%s", args, code, out, errs)
		}
		return out
	}
	run("", 1, "get", "things."+group)
	run(crd, 0, "create", "-f", "-")
	run("", 0, "wait", "--for=condition=Established", "crd/things."+group, "--timeout=240s")
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) { // it is told a moment after it is established
		out, err := k.TryKubectl("get", "things."+group, "--cache-dir", t.TempDir(), "-n", ns)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the cluster does not know things: %v\n%s", err, out)
		}
	}
	run(`{"apiVersion":"`+group+`/v1","kind":"Thing","metadata":{"name":"t"}}`, 0, "create", "-f", "-")
	if out := run("", 0, "get", "things."+group, "-o", "name"); out != "thing."+group+"/t\n" {
		t.Errorf("%q", out)
	}
	run("", 0, "delete", "crd", "things."+group)
	run("", 1, "get", "things."+group)
}

// tokenKubeconfig writes a kubeconfig with the token of an administrator: unlike a key, it is one text that can be looked
// for.
func tokenKubeconfig(t *testing.T, k *kubetest.Cluster) (file, token string) {
	t.Helper()
	ns := k.Namespace(t)
	k.Run(t, "create", "serviceaccount", "admin", "-n", ns)
	k.Run(t, "create", "clusterrolebinding", ns, "--clusterrole=cluster-admin", "--serviceaccount="+ns+":admin")
	t.Cleanup(func() { k.TryKubectl("delete", "clusterrolebinding", ns) })
	raw, token := k.As(t, ns, "admin")
	file = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return file, token
}
