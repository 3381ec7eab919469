package helm_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"sentry/internal/kube"
	"sentry/internal/kube/kubetest"
)

// request is one thing that an account tries.
type request struct {
	verb     string
	resource string // with its subresource and its group, as kubectl auth can-i takes it: "pods/log", "pipelineruns.tekton.dev"
	name     string // of the object; POD and TASKRUN stand for those that are there, TRIED for what is created, NAMESPACE for the namespace
	body     string // IMAGE stands for an image that is there
}

func (r request) String() string { return strings.TrimSpace(r.verb + " " + r.resource + " " + r.name) }

// What is created where it may be: it begins nothing.
const (
	idleRun = `{"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "metadata": {"name": "TRIED"}, "spec": {"status": "PipelineRunPending",
		"pipelineSpec": {"tasks": [{"name": "a", "taskSpec": {"steps": [{"name": "s", "image": "IMAGE"}]}}]}}}`
	idleJob = `{"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "TRIED"}, "spec": {"suspend": true,
		"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "IMAGE"}]}}}}`
	labeled = `{"metadata": {"labels": {"a": "b"}}}`
	token   = `{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}`
)

// requests are tried in this order with each account in each namespace. What it may do is what Sentry says that it needs;
// everything else is refused.
var requests = []request{
	{"create", "pipelineruns.tekton.dev", "", idleRun},
	{"get", "pipelineruns.tekton.dev", "TRIED", ""},
	{"list", "pipelineruns.tekton.dev", "", ""},
	{"watch", "pipelineruns.tekton.dev", "", ""},
	{"patch", "pipelineruns.tekton.dev", "TRIED", labeled},
	{"update", "pipelineruns.tekton.dev", "TRIED", idleRun},
	{"delete", "pipelineruns.tekton.dev", "TRIED", ""},
	{"deletecollection", "pipelineruns.tekton.dev", "", ""},
	{"get", "taskruns.tekton.dev", "TASKRUN", ""},
	{"list", "taskruns.tekton.dev", "", ""},
	{"create", "taskruns.tekton.dev", "", "{}"},
	{"patch", "taskruns.tekton.dev", "TASKRUN", labeled},
	{"create", "pipelines.tekton.dev", "", "{}"},
	{"create", "tasks.tekton.dev", "", "{}"},

	{"get", "pods", "POD", ""},
	{"list", "pods", "", ""},
	{"watch", "pods", "", ""},
	{"get", "pods/log", "POD", ""},
	{"create", "pods", "", "{}"},
	{"update", "pods", "POD", "{}"},
	{"patch", "pods", "POD", labeled},
	{"delete", "pods", "POD", ""},
	{"create", "pods/exec", "POD", ""},
	{"create", "pods/attach", "POD", ""},
	{"get", "pods/attach", "POD", ""},
	{"create", "pods/portforward", "POD", ""},
	{"patch", "pods/ephemeralcontainers", "POD", "{}"},
	{"list", "events", "", ""},
	{"create", "events", "", "{}"},

	{"create", "jobs.batch", "", idleJob},
	{"get", "jobs.batch", "TRIED", ""},
	{"list", "jobs.batch", "", ""},
	{"watch", "jobs.batch", "", ""},
	{"patch", "jobs.batch", "TRIED", labeled},
	{"update", "jobs.batch", "TRIED", idleJob},
	{"deletecollection", "jobs.batch", "", ""},
	{"delete", "jobs.batch", "TRIED", `{"propagationPolicy": "Background"}`},
	{"create", "cronjobs.batch", "", "{}"},

	{"get", "secrets", "any", ""},
	{"list", "secrets", "", ""},
	{"watch", "secrets", "", ""},
	{"create", "secrets", "", "{}"},
	{"patch", "secrets", "any", "{}"},
	{"delete", "secrets", "any", ""},
	{"get", "configmaps", "kube-root-ca.crt", ""},
	{"list", "configmaps", "", ""},
	{"create", "configmaps", "", "{}"},
	{"get", "deployments.apps", "any", ""},
	{"list", "deployments.apps", "", ""},
	{"create", "deployments.apps", "", "{}"},
	{"patch", "deployments.apps", "any", "{}"},
	{"patch", "deployments/scale.apps", "any", "{}"},
	{"delete", "deployments.apps", "any", ""},
	{"create", "daemonsets.apps", "", "{}"},
	{"create", "statefulsets.apps", "", "{}"},

	{"create", "serviceaccounts", "", "{}"},
	{"create", "serviceaccounts/token", "sentry-runner", token},
	{"create", "serviceaccounts/token", "default", token},
	{"create", "roles.rbac.authorization.k8s.io", "", "{}"},
	{"create", "rolebindings.rbac.authorization.k8s.io", "", "{}"},
	{"create", "clusterrolebindings.rbac.authorization.k8s.io", "", "{}"},
	{"impersonate", "users", "admin", ""},
	{"get", "namespaces", "NAMESPACE", ""},
	{"list", "namespaces", "", ""},
	{"patch", "namespaces", "NAMESPACE", labeled},
	{"list", "nodes", "", ""},
	{"list", "persistentvolumes", "", ""},
	{"list", "persistentvolumeclaims", "", ""},
}

// http makes the request of it, for a namespace, or for all where that is "". What is to be refused is a dry run, lest it
// does harm.
func (r request) http(t *testing.T, server, namespace string, dry bool) *http.Request {
	t.Helper()
	methods := map[string]string{"create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE", "deletecollection": "DELETE"}
	method, changes := methods[r.verb]
	if !changes {
		method = http.MethodGet
	}
	kind, group, _ := strings.Cut(r.resource, ".")
	kind, below, _ := strings.Cut(kind, "/")
	path := "/api/v1"
	if group != "" {
		path = "/apis/" + group + "/v1"
	}
	if namespace != "" && kind != "namespaces" && r.verb != "impersonate" {
		path += "/namespaces/" + namespace
	}
	path += "/" + strings.Trim(kind+"/"+r.name+"/"+below, "/")
	if r.verb == "impersonate" {
		path = "/api/v1/namespaces"
	}
	query := map[string]string{"watch": "?watch=true&timeoutSeconds=1"}[r.verb]
	if changes && dry {
		query = "?dryRun=All"
	}
	req, err := http.NewRequestWithContext(t.Context(), method, server+path+query, strings.NewReader(r.body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if r.verb == "patch" {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	if r.verb == "impersonate" {
		req.Header.Set("Impersonate-User", r.name)
	}
	return req
}

// account asks the API server with the token of a service account.
type account struct {
	name   string // system:serviceaccount:NAMESPACE:NAME
	server string
	node   bool // pods have logs
	client *http.Client
}

// account gives one.
func (s *site) account(t *testing.T, namespace, name string) *account {
	t.Helper()
	kubeconfig, _ := s.As(t, namespace, name)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, kubeconfig, 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		t.Fatal(err)
	}
	config.Timeout = patience
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	return &account{name: "system:serviceaccount:" + namespace + ":" + name, server: strings.TrimSuffix(config.Host, "/"), node: s.Node, client: client}
}

// present is what there is in a namespace.
type present struct{ pod, taskRun, image string }

// ran has a pipeline run end in a namespace, for what there is to be read of one.
func (s *site) ran(t *testing.T, namespace string) present {
	t.Helper()
	name := kubetest.PipelineRun{Tasks: []kubetest.Task{kubetest.Succeeds("say", nil)}}.Create(t, s.Cluster, namespace)
	s.Ended(t, namespace, name)
	found := strings.Fields(s.Run(t, "get", "taskruns", "--namespace", namespace, "--selector", "tekton.dev/pipelineRun="+name,
		"--output", "jsonpath={.items[0].metadata.name} {.items[0].status.podName}"))
	if len(found) != 2 {
		t.Fatalf("of the pipeline run there is %q, want its task run and its pod", found)
	}
	return present{taskRun: found[0], pod: found[1], image: s.Busybox}
}

// tries sends all requests in a namespace: those that the rights allow are done, and the others are refused, with the reason
// that the account may not.
func (a *account) tries(t *testing.T, namespace string, there present, rights []kube.Right) {
	t.Helper()
	done := map[string]bool{}
	place := namespace
	if place == "" {
		place = "default" // for the name of one
	}
	tried := "tried-by-" + a.name[strings.LastIndexByte(a.name, ':')+1:]
	fill := strings.NewReplacer("POD", there.pod, "TASKRUN", there.taskRun, "TRIED", tried, "NAMESPACE", place, "IMAGE", there.image)
	for _, r := range requests {
		r.name, r.body = fill.Replace(r.name), fill.Replace(r.body)
		may := slices.ContainsFunc(rights, func(right kube.Right) bool {
			return right.Verb == r.verb && right.Resource == r.resource && (right.Name == "" || right.Name == r.name)
		})
		code, body, err := a.ask(r.http(t, a.server, namespace, !may))
		if err != nil {
			t.Errorf("%s in %q: %v", r, namespace, err)
			continue
		}
		done[r.verb+" "+r.resource] = may || done[r.verb+" "+r.resource]
		if problem := a.judge(r, may, code, body); problem != "" {
			t.Errorf("%s in %q: %s", r, namespace, problem)
		}
		if r.resource == "pods/log" && may && a.node && !strings.Contains(body, "say works") {
			t.Errorf("the log of %s in %q is %q", r.name, namespace, body)
		}
	}
	for _, right := range rights {
		if !done[right.Verb+" "+right.Resource] {
			t.Errorf("nobody has tried to %s %s in %q", right.Verb, right.Resource, namespace)
		}
	}
}

// ask gives the status code and the beginning of the body.
func (a *account) ask(req *http.Request) (code int, body string, err error) {
	resp, err := a.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(text), err
}

// judge tells what is wrong with an answer; "" for nothing.
func (a *account) judge(r request, may bool, code int, body string) string {
	// To attach takes another protocol, and a pod that runs: that it fails as a bad request shows that it is allowed.
	allowed := code/100 == 2 || r.resource == "pods/attach" && code == http.StatusBadRequest || r.resource == "pods/log" && !a.node && code != http.StatusForbidden
	switch {
	case may && allowed:
		return ""
	case may:
		return fmt.Sprintf("it should be done, and the answer is %d: %.300s", code, body)
	}
	kind, _, _ := strings.Cut(r.resource, ".")
	var status struct{ Kind, Reason, Message string }
	want := fmt.Sprintf("User %q cannot %s resource %q", a.name, r.verb, kind)
	if err := json.Unmarshal([]byte(body), &status); err != nil || code != http.StatusForbidden || status.Kind != "Status" ||
		status.Reason != "Forbidden" || !strings.Contains(status.Message, want) {
		return fmt.Sprintf("it should be refused with %d, as %s, and the answer is %d: %.300s", http.StatusForbidden, want, code, body)
	}
	return ""
}
