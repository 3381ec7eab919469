package kubetest

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestFixtures shows that the cluster does what the fixtures say, each in one run: results, a failing task, retries, a timeout.
func TestFixtures(t *testing.T) {
	t.Parallel()
	c := Find(t)
	ns := c.Namespace(t)
	for _, test := range []struct {
		run            PipelineRun
		status, reason string
	}{
		{PipelineRun{Name: "good", Tasks: []Task{Succeeds("build", map[string]string{"image": "it's one"})}, Results: map[string]string{"image": "$(tasks.build.results.image)"}}, "True", "Succeeded"},
		{PipelineRun{Name: "bad", Tasks: []Task{Fails("check", 3)}, Finally: []Task{Succeeds("clean", nil)}}, "False", "Failed"},
		{PipelineRun{Name: "flaky", Tasks: []Task{Flaky("again", 1)}}, "True", "Succeeded"},
		{PipelineRun{Name: "slow", Timeout: "15s", Tasks: []Task{NeverEnds("forever")}}, "False", "PipelineRunTimeout"},
	} {
		name := test.run.Create(t, c, ns)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, reason := c.Ended(t, ns, name)
			if status != test.status || reason != test.reason {
				t.Errorf("%s %s; want %s %s", status, reason, test.status, test.reason)
			}
			if name == "good" {
				if got := c.Run(t, "get", "pipelinerun", name, "--namespace", ns, "--output", "jsonpath={.status.results[0].value}"); got != "it's one" {
					t.Errorf("the result is %q", got)
				}
			}
		})
	}
}

// TestPods shows what a node brings: logs, exec, an address at which pods reach this machine, and the API server inside.
func TestPods(t *testing.T) {
	t.Parallel()
	c := Find(t)
	c.NeedNode(t)
	ns := c.Namespace(t, "pod-security.kubernetes.io/enforce=restricted")
	listener := c.Listen(t)
	served := make(chan error, 1)
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello from the host") })}
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() { server.Close(); <-served })

	if out, err := c.TryKubectl("run", "root", "--namespace", ns, "--image", c.Busybox, "--", "true"); err == nil || !strings.Contains(out, "violates PodSecurity") {
		t.Errorf("Pod Security does not keep out what runs as root: %v\n%s", err, out)
	}
	c.Apply(t, ns, `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"}, "spec": {
		"securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
		"terminationGracePeriodSeconds": 1,
		"containers": [{"name": "client", "image": "`+c.Busybox+`", "command": ["sh", "-c", "echo it runs; exec sleep 3600"],
			"resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "10m", "ephemeral-storage": "1Mi"}},
			"securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}}}]}}`)
	c.Wait(t, ns, "pod/client", "condition=Ready")
	if got := c.Run(t, "logs", "client", "--namespace", ns); got != "it runs\n" {
		t.Errorf("the log is %q", got)
	}
	if got := c.Run(t, "exec", "client", "--namespace", ns, "--", "wget", "-q", "-O", "-", "http://"+listener.Addr().String()); got != "hello from the host" {
		t.Errorf("the host says %q", got)
	}
	inside := c.Run(t, "exec", "client", "--namespace", ns, "--", "sh", "-c", "nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null && echo reached")
	if strings.TrimSpace(inside) != "reached" {
		t.Errorf("the API server inside of the cluster: %q", inside)
	}
}

// TestLine shows that a line is cut for its user alone.
func TestLine(t *testing.T) {
	t.Parallel()
	c := Find(t)
	line := c.Line(t)
	through := *c
	through.Kubeconfig = line.Kubeconfig
	through.Run(t, "get", "namespaces")
	line.Cut()
	if out, err := through.TryKubectl("get", "namespaces"); err == nil {
		t.Errorf("a line that was cut lets through: %s", out)
	}
	c.Run(t, "get", "namespaces")
	line.Mend()
	through.Run(t, "get", "namespaces")
	if line.Connections() < 3 {
		t.Errorf("%d connections were counted", line.Connections())
	}
}
