package deploy

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"sentry/internal/config"
	"sentry/internal/kube"
	"sentry/internal/kube/kubetest"
	"sentry/internal/sentry"
)

// realPlace is a namespace of a real cluster in which attempts run as Jobs of an image of this source.
type realPlace struct {
	*kubetest.Cluster
	cluster   *kube.Cluster
	namespace string
	image     string
	id        string // of the rollout
}

func newRealPlace(t *testing.T) *realPlace {
	t.Helper()
	p := &realPlace{Cluster: kubetest.Find(t)}
	p.image = p.SentryImage(t)
	if p.Host == "" {
		t.Skip("pods do not reach this machine")
	}
	p.namespace = p.Namespace(t, "pod-security.kubernetes.io/enforce=restricted")
	p.id = "1-" + p.namespace[strings.LastIndexByte(p.namespace, '-')+1:]
	var err error
	if p.cluster, err = kube.Connect(kube.Options{Kubeconfig: p.Kubeconfig, Namespaces: []string{p.namespace}}); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *realPlace) Hold() (Cluster, func(), error) { return Kube{Cluster: p.cluster}, func() {}, nil }

func (p *realPlace) pod() *Pod {
	return &Pod{Image: p.image, PullPolicy: "IfNotPresent", StartTimeout: 4 * time.Minute, Keep: time.Hour, Resources: config.Resources{
		Requests: map[string]string{"cpu": "10m"}, Limits: map[string]string{"memory": "256Mi"},
	}}
}

// passOn gives an address at which pods reach a server of this test.
func (p *realPlace) passOn(t *testing.T, server string) string {
	t.Helper()
	to, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(p.Host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: listener, Config: &http.Server{Handler: httputil.NewSingleHostReverseProxy(to)}}
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

// TestContractOnACluster: what needs no look at the machine of the commands is the same in a pod of a real cluster.
func TestContractOnACluster(t *testing.T) {
	for _, c := range contracts {
		if c.beside {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			tr := newTroupeAt(t, nil, newRealPlace(t), c.commands...)
			if c.prepare != nil {
				c.prepare(tr)
			}
			tr.play(t, t.Context(), c)
		})
	}
}

// TestGatewayInAPod: commands in a pod reach the cluster through the gateway there, by a token for the Job's service account;
// what they create is recorded and followed from here.
func TestGatewayInAPod(t *testing.T) {
	run := `apiVersion: tekton.dev/v1
kind: PipelineRun
metadata: {generateName: from-a-pod-}
spec:
  pipelineSpec:
    tasks:
      - name: say
        taskSpec:
          steps: [{name: say, image: "IMAGE", imagePullPolicy: IfNotPresent, script: "#!/bin/sh\nexit 0", computeResources: {requests: {cpu: 10m}},
            securityContext: {allowPrivilegeEscalation: false, runAsNonRoot: true, runAsUser: 65532, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}}]
`
	real := newRealPlace(t)
	real.namespace = real.Namespace(t) // Tekton's own containers do not ask for what restricted asks for
	var err error
	if real.cluster, err = kube.Connect(kube.Options{Kubeconfig: real.Kubeconfig, Namespaces: []string{real.namespace}}); err != nil {
		t.Fatal(err)
	}
	real.Run(t, "create", "serviceaccount", "commands", "--namespace", real.namespace)
	real.Run(t, "create", "role", "runs", "--verb=create,get,list,watch,patch", "--resource=pipelineruns.tekton.dev", "--namespace", real.namespace)
	real.Run(t, "create", "rolebinding", "runs", "--role=runs", "--serviceaccount="+real.namespace+":commands", "--namespace", real.namespace)
	script := "kubectl create -f - <<'END'\n" + strings.ReplaceAll(run, "IMAGE", real.Busybox) + "END\nkubectl get secrets 2>&1 || echo refused; env | grep -c TOKEN || true"
	tr := newTroupeAt(t, nil, real, entries(script)...)
	tr.job.Pod.ServiceAccount = "commands"
	d, outcome := tr.run(t.Context())
	if outcome.Status != sentry.Succeeded || told(d.Steps) != "job:succeeded clone:succeeded c1:succeeded track:succeeded" || len(d.PipelineRuns) != 1 {
		t.Fatalf("it ended as %s (%s) with %s and %+v; log: %s", outcome.Status, outcome.Reason, told(d.Steps), d.PipelineRuns, tr.log(d.Steps[len(d.Steps)-1]))
	}
	if log := tr.log(d.Steps[2]); !strings.Contains(log, "created") || !strings.Contains(log, "refused") {
		t.Errorf("the log of the command: %s", log)
	}
	if run := d.PipelineRuns[0]; run.Status != sentry.Succeeded || run.Namespace != real.namespace || run.UID == "" || run.Attempt != 1 {
		t.Errorf("the pipeline run: %+v", run)
	}
}

// running waits until it is saved that the first command runs.
func (tr *troupe) running() {
	tr.until("it is known that the first command runs", func() bool {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		n := len(tr.saved)
		return n > 0 && strings.HasSuffix(told(tr.saved[n-1].Steps), "c1:running")
	})
}

// TestJobsOnACluster: a Job of a real cluster is followed on by the next process, ended by whoever cancels, and told apart
// where its pod is deleted by somebody else.
func TestJobsOnACluster(t *testing.T) {
	t.Run("adopted", func(t *testing.T) {
		tr := newTroupeAt(t, nil, newRealPlace(t), entries(`seq 3000; sleep 15; echo end`)...)
		ctx, end := context.WithCancelCause(t.Context())
		go func() { tr.running(); end(errShutdown) }()
		d, outcome := tr.run(ctx)
		if outcome.Status != sentry.Running {
			t.Fatalf("the stop gave %s: %s", outcome.Status, outcome.Reason)
		}
		tr.saved = append(tr.saved, d)
		tr.adopt()
		d, outcome = tr.run(t.Context())
		if outcome.Status != sentry.Succeeded || told(d.Steps) != "job:succeeded clone:succeeded c1:succeeded" {
			t.Fatalf("it ended as %s (%s) with %s", outcome.Status, outcome.Reason, told(d.Steps))
		}
		if log := tr.log(d.Steps[2]); !strings.HasPrefix(log, "1\n2\n") || !strings.HasSuffix(log, "2999\n3000\nend\n") || int64(len(log)) != d.Steps[2].Bytes {
			t.Errorf("its log has %d bytes of %d", len(log), d.Steps[2].Bytes)
		}
	})
	t.Run("canceled", func(t *testing.T) {
		tr := newTroupeAt(t, nil, newRealPlace(t), entries(`trap 'echo tidied; exit 1' TERM; echo begun; sleep 600 & wait`)...)
		ctx, end := context.WithCancelCause(t.Context())
		go func() { tr.running(); end(&canceledError{"ann", ""}) }()
		d, outcome := tr.run(ctx)
		if outcome.Status != sentry.Canceled || outcome.Reason != "canceled by ann, while c1 ran" || told(d.Steps) != "job:succeeded clone:succeeded c1:canceled" {
			t.Errorf("it ended as %s (%s) with %s", outcome.Status, outcome.Reason, told(d.Steps))
		}
		if log := tr.log(d.Steps[2]); log != "begun\ntidied\n" {
			t.Errorf("its log: %q", log)
		}
		if left := tr.real.Run(t, "get", "pods", "--namespace", tr.real.namespace, "--output", "name"); strings.TrimSpace(left) != "" {
			t.Errorf("left: %s", left)
		}
	})
	t.Run("its pod is deleted", func(t *testing.T) {
		tr := newTroupeAt(t, nil, newRealPlace(t), entries(`echo begun; sleep 600`)...)
		go func() {
			tr.running()
			_, _ = tr.real.TryKubectl("delete", "pods", "--all", "--namespace", tr.real.namespace, "--wait=false")
		}()
		d, outcome := tr.run(t.Context())
		if outcome.Status != sentry.Interrupted || !strings.Contains(outcome.Reason, "was taken away") || told(d.Steps) != "job:succeeded clone:succeeded c1:interrupted" {
			t.Errorf("it ended as %s (%s) with %s", outcome.Status, outcome.Reason, told(d.Steps))
		}
	})
}
