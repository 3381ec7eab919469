package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sentry/internal/config"
	"sentry/internal/kube"
)

// A right that is missing is told with what to add, once for each resource and namespace.
func TestMissingRights(t *testing.T) {
	list := missingRights([]kube.Right{
		{Verb: "get", Resource: "pipelineruns.tekton.dev", Namespace: "qa", Allowed: true, For: "to follow pipeline runs"},
		{Verb: "list", Resource: "pipelineruns.tekton.dev", Namespace: "qa", For: "to follow pipeline runs"},
		{Verb: "watch", Resource: "pipelineruns.tekton.dev", Namespace: "qa", For: "to follow pipeline runs"},
		{Verb: "get", Resource: "pods/log", Namespace: "qa", For: "to show the log of a task that failed"},
		{Verb: "list", Resource: "events", Namespace: "qa", Optional: true, For: "to tell why a pod does not start"},
		{Verb: "create", Resource: "serviceaccounts/token", Name: "runner", Namespace: "qa", For: "to give commands its rights"},
	})
	want := []finding{
		{checkFail, "kubernetes qa", "may not list, watch pipelineruns.tekton.dev in namespace qa, to follow pipeline runs", `add to its Role in qa: {apiGroups: ["tekton.dev"], resources: ["pipelineruns"], verbs: [list, watch]}`},
		{checkFail, "kubernetes qa", "may not get pods/log in namespace qa, to show the log of a task that failed", `add to its Role in qa: {apiGroups: [""], resources: ["pods/log"], verbs: [get]}`},
		{checkWarn, "kubernetes qa", "may not list events in namespace qa, to tell why a pod does not start", `add to its Role in qa: {apiGroups: [""], resources: ["events"], verbs: [list]}`},
		{checkFail, "kubernetes qa", "may not create serviceaccounts/token of runner in namespace qa, to give commands its rights", `add to its Role in qa: {apiGroups: [""], resources: ["serviceaccounts/token"], resourceNames: ["runner"], verbs: [create]}`},
	}
	if len(list) != len(want) {
		t.Fatalf("%d findings, want %d: %+v", len(list), len(want), list)
	}
	for i := range want {
		if list[i] != want[i] {
			t.Errorf("got  %+v\nwant %+v", list[i], want[i])
		}
	}
}

// granter is a cluster that grants everything but what it is told to refuse.
type granter struct {
	denied   string // a namespace
	refused  string // an image
	warned   string // an image
	accesses int
	tries    int
}

func (g *granter) Namespace() string { return "home" }

func (g *granter) JobAccess(_ context.Context, namespace, account string) ([]kube.Right, error) {
	g.accesses++
	return []kube.Right{
		{Verb: "create", Resource: "jobs.batch", Namespace: namespace, Allowed: namespace != g.denied, For: "to run deployments as Jobs"},
		{Verb: "list", Resource: "events", Namespace: namespace, Optional: true, For: "to tell why a Job does not start"},
	}, nil
}

func (g *granter) TryJob(_ context.Context, spec kube.JobSpec) ([]string, error) {
	g.tries++
	switch spec.Image {
	case g.refused:
		return nil, &kube.JobError{Reason: "Invalid", Message: "no such thing"}
	case g.warned:
		return []string{"would violate PodSecurity"}, nil
	}
	return nil, nil
}

// What Jobs take is asked for once for all that are alike, and only where something runs in them.
func TestCheckJobs(t *testing.T) {
	cfg := &config.Config{
		Kubernetes: &config.Kubernetes{Jobs: &config.JobSettings{Image: "all", ServiceAccount: "runner"}},
		Groups:     []config.Group{{Name: "jobs", Executor: config.ExecutorKubernetes}, {Name: "here"}},
	}
	for _, r := range []struct {
		name, group string
		job         *config.JobSettings
	}{
		{"one", "jobs", nil},
		{"two", "jobs", nil},
		{"local", "here", &config.JobSettings{Image: "refused"}},
		{"odd", "jobs", &config.JobSettings{Image: "refused"}},
		{"loud", "jobs", &config.JobSettings{Image: "warned"}},
		{"out", "jobs", &config.JobSettings{Image: "all", Namespace: "closed"}},
		{"lost", "jobs", &config.JobSettings{Image: "all", Namespace: "gone"}},
	} {
		cfg.Repositories = append(cfg.Repositories, config.Repository{Name: r.name, Group: r.group, Deploy: config.Deploy{Job: r.job}})
	}
	g := &granter{denied: "closed", refused: "refused", warned: "warned"}
	var got []string
	for _, f := range checkJobs(t.Context(), cfg, g, []string{"gone"}) {
		got = append(got, f.Status+" "+f.Subject+": "+f.Message)
	}
	want := []string{
		"warn kubernetes home: may not list events in namespace home, to tell why a Job does not start",
		"ok kubernetes home: one may run in Jobs in namespace home, as service account runner",
		"warn kubernetes home: may not list events in namespace home, to tell why a Job does not start",
		"fail kubernetes home: a Job for odd would be refused: Invalid: no such thing",
		"warn kubernetes home: of a Job for loud the API server says: would violate PodSecurity",
		"ok kubernetes home: loud may run in Jobs in namespace home, without access to the cluster",
		"fail kubernetes closed: may not create jobs.batch in namespace closed, to run deployments as Jobs",
		"warn kubernetes closed: may not list events in namespace closed, to tell why a Job does not start",
	}
	if !slices.Equal(got, want) || g.accesses != 3 || g.tries != 3 {
		t.Errorf("%d and %d questions:\n%s\nwant:\n%s", g.accesses, g.tries, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Where no cluster is meant there is nothing to check; one that is meant and cannot be used is a failure.
func TestCheckWithoutCluster(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if list := checkCluster(t.Context(), &config.Config{}); len(list) != 0 {
		t.Errorf("without a cluster: %+v", list)
	}
	for _, section := range []config.Kubernetes{{}, {Kubeconfig: filepath.Join(t.TempDir(), "missing")}} {
		list := checkCluster(t.Context(), &config.Config{Kubernetes: &section})
		if len(list) != 1 || list[0].Status != checkFail || list[0].Fix == "" || strings.Contains(list[0].Message, "%!") {
			t.Errorf("%+v: %+v", section, list)
		}
	}
}

// fakeCluster answers as an API server with Tekton to somebody with every right. It has the namespaces there, and forbids
// to read those of hidden.
func fakeCluster(t *testing.T, namespace string, there, hidden []string) (kubeconfig string) {
	t.Helper()
	mux := http.NewServeMux()
	answer := func(pattern, body string) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, body)
		})
	}
	answer("GET /version", `{"gitVersion":"v1.34.4"}`)
	answer("GET /apis/tekton.dev", `{"versions":[{"version":"v1"}]}`)
	answer("POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews", `{"status":{"allowed":true}}`)
	mux.HandleFunc("GET /api/v1/namespaces/{name}", func(w http.ResponseWriter, r *http.Request) {
		name, code := r.PathValue("name"), http.StatusNotFound
		switch {
		case slices.Contains(there, name):
			fmt.Fprintf(w, `{"metadata":{"name":%q,"uid":"u"}}`, name)
			return
		case slices.Contains(hidden, name):
			code = http.StatusForbidden
		case name == "broken":
			code = http.StatusTeapot
		}
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"kind":"Status","status":"Failure","code":%d,"message":"no %s","details":{"name":%q,"kind":"namespaces"}}`, code, name, name)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"c","cluster":{"server":%q}}],
		"users":[{"name":"u","user":{"token":"x"}}],"contexts":[{"name":"c","context":{"cluster":"c","user":"u","namespace":%q}}]}`, server.URL, namespace)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return kubeconfig
}

// A namespace that does not exist is a failure that says where it is named; one that may not be read is taken to be there.
func TestCheckNamespaces(t *testing.T) {
	at := regexp.MustCompile(` at http://\S+`)
	for name, c := range map[string]struct {
		context   string
		section   config.Kubernetes
		own, jobs string // of the repository
		want      []string
	}{
		"all there": {"x", config.Kubernetes{Namespaces: []string{"qa"}}, "", "", []string{"ok kubernetes: v1.34.4 with tekton.dev/v1; namespaces qa"}},
		"hidden":    {"x", config.Kubernetes{Namespaces: []string{"hidden", "qa"}}, "", "", []string{"ok kubernetes: v1.34.4 with tekton.dev/v1; namespaces hidden, qa"}},
		"configured": {"x", config.Kubernetes{Namespaces: []string{"qa", "gone"}}, "gone", "", []string{
			"ok kubernetes: v1.34.4 with tekton.dev/v1; namespaces qa",
			"fail kubernetes gone: the namespace gone does not exist; create it, or take it out of kubernetes.namespaces, deploy.kubernetes.namespaces of app",
		}},
		"of the context": {"gone", config.Kubernetes{}, "", "", []string{
			"ok kubernetes: v1.34.4 with tekton.dev/v1",
			"fail kubernetes gone: the namespace gone does not exist; create it, or name others in kubernetes.namespaces: it is that of the kubeconfig's context, or of the pod",
		}},
		"of all Jobs": {"qa", config.Kubernetes{Jobs: &config.JobSettings{Namespace: "gone"}}, "", "gone", []string{
			"ok kubernetes: v1.34.4 with tekton.dev/v1; namespaces qa",
			"fail kubernetes gone: the namespace gone does not exist; create it, or take it out of kubernetes.jobs.namespace",
		}},
		"of its Jobs": {"qa", config.Kubernetes{}, "", "gone", []string{
			"ok kubernetes: v1.34.4 with tekton.dev/v1; namespaces qa",
			"fail kubernetes gone: the namespace gone does not exist; create it, or take it out of deploy.job.namespace of app",
		}},
		"no answer": {"broken", config.Kubernetes{}, "", "", []string{
			"ok kubernetes: v1.34.4 with tekton.dev/v1; namespaces broken",
			"fail kubernetes broken: cannot ask the API server for the namespace broken: no broken (418); see whether the credentials are still valid",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c.section.Kubeconfig = fakeCluster(t, c.context, []string{"qa"}, []string{"hidden"})
			r := config.Repository{Name: "app"}
			if c.own != "" {
				r.Deploy.Kubernetes.Namespaces = []string{c.own}
			}
			if c.jobs != "" {
				r.Deploy.Executor, r.Deploy.Job = config.ExecutorKubernetes, &config.JobSettings{Namespace: c.jobs, Image: "i"}
			}
			list := checkCluster(t.Context(), &config.Config{Kubernetes: &c.section, Repositories: []config.Repository{r}})
			var got []string
			for _, f := range list {
				line := f.Status + " " + f.Subject + ": " + at.ReplaceAllString(f.Message, "")
				if f.Fix != "" {
					line += "; " + f.Fix
				}
				got = append(got, line)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("it says\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}
