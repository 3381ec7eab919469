package kube_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"sentry/internal/kube"
)

// restricted has the API server refuse pods that Pod Security's level restricted does not allow.
const restricted = "pod-security.kubernetes.io/enforce=restricted"

// job is a Job whose container runs a script.
func (h *home) job(name, script string) kube.JobSpec {
	return kube.JobSpec{
		Namespace: h.ns, Name: name, Identity: h.id, Image: h.real.Busybox, PullPolicy: "IfNotPresent",
		Command: []string{"sh", "-c", script}, Requests: map[string]string{"cpu": "10m"}, Deadline: 10 * time.Minute, Grace: 5 * time.Second, Keep: time.Hour,
	}
}

// output is what a follower is told.
type output struct {
	mu      sync.Mutex
	lines   []string
	waiting []string
	log     bytes.Buffer
	on      map[string]func() // called once, by line
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.log.Write(p)
}

func (o *output) line(line []byte) error {
	o.mu.Lock()
	o.lines = append(o.lines, string(line))
	do := o.on[string(line)]
	delete(o.on, string(line))
	o.mu.Unlock()
	if do != nil {
		do()
	}
	return nil
}

func (o *output) wait(why string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting = append(o.waiting, why)
}

// text is all lines.
func (o *output) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.lines, "\n")
}

// started starts a Job.
func (h *home) started(spec kube.JobSpec) kube.JobRef {
	h.Helper()
	ref, err := h.cluster.StartJob(h.Context(), spec)
	if err != nil {
		h.Fatal(err)
	}
	return ref
}

// followed follows a Job to its end.
func (h *home) followed(ref kube.JobRef, o *output, more ...func(*kube.JobFollow)) kube.JobEnd {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), 5*time.Minute)
	defer cancel()
	f := kube.JobFollow{Line: o.line, Waiting: o.wait, Log: o}
	for _, change := range more {
		change(&f)
	}
	end, err := h.cluster.FollowJob(ctx, ref, f)
	h.Logf("%+v; waited for %q; log %q", end, o.waiting, o.log.String())
	if err != nil {
		h.Fatal(err)
	}
	return end
}

// TestJob shows a Job from its start to its end, in a namespace that allows only what is restricted.
func TestJob(t *testing.T) {
	t.Parallel()
	h := newHome(t, restricted)
	spec := h.job("job", `
		echo hello
		while read -r line && [ -z "$line" ]; do :; done
		echo "got $line, ${#line}"
		id -u
		touch `+kube.JobWork+`/a /tmp/b && ! touch /c 2>/dev/null && echo folders
		head -n 1 /var/run/sentry/ca.crt
		ls /var/run/secrets 2>/dev/null
		head -c 100000 /dev/zero | tr '\0' x; echo
		exit 3`)
	spec.Scratch, spec.Limits = "16Mi", map[string]string{"memory": "64Mi"}
	h.real.Run(t, "create", "serviceaccount", "runner", "--namespace", h.ns)
	spec.ServiceAccount = "runner"
	ref := h.started(spec)
	if again := h.started(spec); again != ref || ref.UID == "" {
		t.Errorf("started again it is %v, not %v", again, ref)
	}
	if _, found, err := h.cluster.FindJob(t.Context(), kube.JobRef{Namespace: ref.Namespace, Name: ref.Name, UID: "another"}); found || err != nil {
		t.Errorf("a Job of another UID is found: %v, %v", found, err)
	}
	if found, ok, err := h.cluster.FindJob(t.Context(), kube.JobRef{Namespace: ref.Namespace, Name: ref.Name}); found != ref || !ok || err != nil {
		t.Errorf("found by name: %v, %v, %v", found, ok, err)
	}
	spec.Identity.Attempt = 2
	var refused *kube.JobError
	if _, err := h.cluster.StartJob(t.Context(), spec); !errors.As(err, &refused) || refused.Reason != "Taken" || refused.Later {
		t.Errorf("a Job of another attempt has the name: %v", err)
	}

	long := strings.Repeat("y", 300000)
	o := &output{on: map[string]func(){"hello": func() {
		token, expires, err := h.cluster.ServiceToken(t.Context(), ref, "runner", time.Minute)
		if err != nil || strings.Count(token, ".") != 2 || time.Until(expires) < time.Minute {
			t.Errorf("a token of %d bytes until %v: %v", len(token), expires, err)
		}
		if err := h.cluster.SendToJob(t.Context(), ref, []byte(long)); err != nil {
			t.Error(err)
		}
	}}}
	end := h.followed(ref, o)
	if !end.Started || end.ExitCode != 3 || end.Lost || end.Never || end.Reason != "Error" {
		t.Errorf("it ended as %+v", end)
	}
	want := []string{"hello", "got " + long + ", 300000", "65532", "folders", "-----BEGIN CERTIFICATE-----", strings.Repeat("x", 100000)}
	if got := o.text(); got != strings.Join(want, "\n") {
		t.Errorf("the output, of %d bytes, is %.300q", len(got), got)
	}
	again := &output{}
	if second := h.followed(ref, again); second != end || again.text() != o.text() {
		t.Errorf("followed once more it ended as %+v, and said %.300q", second, again.text())
	}
	if err := h.cluster.SendToJob(t.Context(), ref, []byte("x")); err == nil {
		t.Error("a line is sent to a container that has ended")
	}
	if err := h.cluster.EndJob(t.Context(), ref, time.Second); err != nil {
		t.Error(err)
	}
	if err := h.cluster.EndJob(t.Context(), ref, time.Second); err != nil {
		t.Errorf("to end what is gone: %v", err)
	}
	h.real.Wait(t, h.ns, "pods", "delete", "--all")
}

// TestJobEnds shows what is told of Jobs that do not end by themselves, or never begin.
func TestJobEnds(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	const forever = "trap 'echo bye; exit 9' TERM; echo hello; while :; do sleep 1 & wait $!; done"
	kubectl := func(args ...string) func(*home, kube.JobRef) {
		return func(h *home, _ kube.JobRef) { h.real.Run(h.T, append(args, "--namespace", h.ns, "--wait=false")...) }
	}
	for name, c := range map[string]struct {
		script  string
		change  func(*kube.JobSpec)
		patient time.Duration            // to start
		hello   func(*home, kube.JobRef) // when it says hello
		want    kube.JobEnd              // its message is a part of the one that is told
		last    string                   // line of its output
		why     string                   // a part of what it waits for
	}{
		"pod-deleted": {
			script: forever, hello: kubectl("delete", "pod", "--selector", kube.LabelJob+"=pod-deleted"),
			want: kube.JobEnd{Started: true, ExitCode: 9, Reason: "Deleted", Message: "somebody deleted its pod", Lost: true}, last: "bye",
		},
		"job-deleted": {
			script: forever, hello: kubectl("delete", "job", "job-deleted"),
			want: kube.JobEnd{Started: true, ExitCode: 9, Reason: "Deleted", Message: "somebody deleted the Job", Lost: true}, last: "bye",
		},
		"canceled": {
			script: forever, hello: func(h *home, ref kube.JobRef) {
				if err := h.cluster.EndJob(h.Context(), ref, 5*time.Second); err != nil {
					h.Error(err)
				}
			},
			want: kube.JobEnd{Started: true, ExitCode: 9, Reason: "Deleted", Lost: true}, last: "bye",
		},
		"deaf": {
			script: "trap '' TERM; echo hello; sleep 1000", hello: kubectl("delete", "job", "deaf"),
			want: kube.JobEnd{Started: true, ExitCode: 137, Reason: "Deleted", Lost: true}, last: "hello",
		},
		"deadline": {
			script: forever, change: func(s *kube.JobSpec) { s.Deadline = 30 * time.Second },
			want: kube.JobEnd{Started: true, ExitCode: 9, Reason: "DeadlineExceeded"},
		},
		"memory": {
			script: "echo hello; x=a; while :; do x=$x$x; done", change: func(s *kube.JobSpec) { s.Limits = map[string]string{"memory": "32Mi"} },
			want: kube.JobEnd{Started: true, ExitCode: 137, Reason: "OOMKilled", Message: "memory"}, last: "hello",
		},
		"no-program": {
			change: func(s *kube.JobSpec) { s.Command = []string{"/nothing"} },
			want:   kube.JobEnd{ExitCode: 128, Reason: "StartError", Message: "/nothing", Never: true},
		},
		"no-image": {
			change: func(s *kube.JobSpec) { s.Image, s.PullPolicy = "localhost/nothing:1", "Never" }, patient: 45 * time.Second,
			want: kube.JobEnd{ExitCode: -1, Reason: "StartTimeout", Message: "ErrImageNeverPull", Never: true}, why: "ErrImageNeverPull",
		},
		"root": {
			change: func(s *kube.JobSpec) { s.PodSecurity = map[string]any{"runAsUser": nil, "runAsGroup": nil} }, patient: 45 * time.Second,
			want: kube.JobEnd{ExitCode: -1, Reason: "StartTimeout", Message: "CreateContainerConfigError: container has runAsNonRoot", Never: true}, why: "CreateContainerConfigError",
		},
		"no-node": {
			change: func(s *kube.JobSpec) { s.NodeSelector = map[string]string{"sentry-test/no": "such"} }, patient: 45 * time.Second,
			want: kube.JobEnd{ExitCode: -1, Reason: "StartTimeout", Message: "node", Never: true}, why: "Unschedulable",
		},
		"no-account": {
			change: func(s *kube.JobSpec) { s.ServiceAccount = "nobody" }, patient: 45 * time.Second,
			want: kube.JobEnd{ExitCode: -1, Reason: "StartTimeout", Message: `serviceaccount "nobody" not found`, Never: true}, why: "FailedCreate",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := *h
			h.T = t
			spec := h.job(name, c.script)
			if c.change != nil {
				c.change(&spec)
			}
			ref := h.started(spec)
			o := &output{}
			if c.hello != nil {
				o.on = map[string]func(){"hello": func() { c.hello(&h, ref) }}
			}
			end := h.followed(ref, o, func(f *kube.JobFollow) { f.StartTimeout = c.patient })
			if message := end.Message; !strings.Contains(message, c.want.Message) {
				t.Errorf("its message is %q", message)
			}
			if end.Message = c.want.Message; end != c.want {
				t.Errorf("it ended as %+v, not as %+v", end, c.want)
			}
			if text := o.text(); !strings.HasSuffix(text, c.last) {
				t.Errorf("its output is %q", text)
			}
			if !strings.Contains(strings.Join(o.waiting, "\n"), c.why) {
				t.Errorf("it waited for %q", o.waiting)
			}
			if err := h.cluster.EndJob(t.Context(), ref, 5*time.Second); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestJobOverBadLines shows that no line is lost or told twice where the connection is cut again and again, and that a line
// is sent where WebSockets are not let through.
func TestJobOverBadLines(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	var want []string
	for i := range 200 {
		want = append(want, fmt.Sprintf("line %d %s", i, strings.Repeat("z", 20000)))
	}
	spec := h.job("job", `read -r line; read -r line
		i=0; while [ $i -lt 200 ]; do printf 'line %d ' $i; head -c 20000 /dev/zero | tr '\0' z; echo; i=$((i+1)); done
		echo "$line"`)
	ref := h.started(spec)
	h.real.Wait(t, h.ns, "pods", "condition=Ready", "--selector", kube.LabelJob+"=job")
	deaf := h.withoutSockets()
	if err := deaf.SendToJob(t.Context(), ref, []byte("go")); err != nil {
		t.Fatal(err)
	}
	o := &output{on: map[string]func(){}}
	for i := 0; i < 200; i += 40 {
		o.on[want[i]] = func() {
			h.line.Cut()
			time.AfterFunc(300*time.Millisecond, h.line.Mend)
		}
	}
	if end := h.followed(ref, o); end.ExitCode != 0 || !end.Started {
		t.Errorf("it ended as %+v", end)
	}
	if got := o.text(); got != strings.Join(append(want, "go"), "\n") {
		t.Errorf("there are %d lines, of %d bytes", len(o.lines), len(got))
	}
}

// withoutSockets gives the cluster through a proxy that lets no WebSocket through.
func (h *home) withoutSockets() *kube.Cluster {
	h.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", h.real.Kubeconfig)
	if err != nil {
		h.Fatal(err)
	}
	config.NextProtos = []string{"http/1.1"}
	through, err := rest.TransportFor(config)
	if err != nil {
		h.Fatal(err)
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		h.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = through
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
			http.Error(w, "no WebSockets here", http.StatusForbidden)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	h.Cleanup(server.Close)
	kubeconfig := filepath.Join(h.TempDir(), "kubeconfig")
	data := fmt.Sprintf(`{"clusters":[{"name":"c","cluster":{"server":%q}}],"contexts":[{"name":"c","context":{"cluster":"c"}}],"current-context":"c"}`, server.URL)
	if err := os.WriteFile(kubeconfig, []byte(data), 0o600); err != nil {
		h.Fatal(err)
	}
	cluster, err := kube.Connect(kube.Options{Kubeconfig: kubeconfig})
	if err != nil {
		h.Fatal(err)
	}
	return cluster
}
