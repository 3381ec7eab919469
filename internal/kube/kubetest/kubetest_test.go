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

// TestServices shows that a pod finds another by the name of a service, and gets a volume that it can write to without root.
func TestServices(t *testing.T) {
	t.Parallel()
	c := Find(t)
	c.NeedNode(t)
	ns := c.Namespace(t)
	c.Apply(t, ns, `{"apiVersion": "v1", "kind": "List", "items": [
		{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
			"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}},
		{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
			"spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}},
		{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {
			"securityContext": {"runAsUser": 65532, "fsGroup": 65532}, "terminationGracePeriodSeconds": 1,
			"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
			"containers": [{"name": "web", "image": "`+c.Busybox+`", "command": ["sh", "-c", "echo served >/data/index.html && exec httpd -f -p 8080 -h /data"],
				"ports": [{"name": "http", "containerPort": 8080}], "volumeMounts": [{"name": "data", "mountPath": "/data"}],
				"readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1}}]}},
		{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"}, "spec": {
			"containers": [{"name": "client", "image": "`+c.Busybox+`", "command": ["sleep", "3600"]}]}}]}`)
	c.Wait(t, ns, "pod/web", "condition=Ready")
	c.Wait(t, ns, "pod/client", "condition=Ready")
	c.Wait(t, ns, "endpointslice", "jsonpath={.endpoints[0].conditions.ready}=true", "--selector=kubernetes.io/service-name=web")
	ip := c.Run(t, "get", "service", "web", "--namespace", ns, "--output", "jsonpath={.spec.clusterIP}")
	if got := c.Run(t, "exec", "client", "--namespace", ns, "--", "nslookup", "web."+ns+".svc.cluster.local"); !strings.Contains(got, ip) {
		t.Errorf("the name of the service leads to %q, not to %s", got, ip)
	}
	if got := c.Run(t, "exec", "client", "--namespace", ns, "--", "wget", "-q", "-O", "-", "http://web"); got != "served\n" {
		t.Errorf("the service says %q", got)
	}
	if out, err := c.TryKubectl("exec", "client", "--namespace", ns, "--", "nslookup", "nobody.example.com"); err == nil {
		t.Errorf("a name of elsewhere is known: %s", out)
	}
}

// TestStopAPI shows that the cluster goes on where it was when its API server comes back.
func TestStopAPI(t *testing.T) {
	c := Find(t)
	ns := c.Namespace(t)
	start := c.StopAPI(t)
	if out, err := c.TryKubectl("get", "namespaces", "--request-timeout=5s"); err == nil {
		t.Errorf("an API server that was stopped answers: %s", out)
	}
	start()
	name := PipelineRun{Tasks: []Task{Succeeds("after", nil)}}.Create(t, c, ns)
	if status, reason := c.Ended(t, ns, name); status != "True" {
		t.Errorf("a run after the API server has come back: %s %s", status, reason)
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
