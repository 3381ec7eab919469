package config

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// everyJobKey is kubernetes.jobs of testdata/good/every-key.yaml.
func everyJobKey() JobSettings {
	return JobSettings{
		Namespace:      "sentry-jobs",
		Image:          "registry.example.org:5000/tools/sentry:1.2@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		PullPolicy:     "IfNotPresent",
		PullSecrets:    []string{"registry"},
		ServiceAccount: "runner",
		Resources: Resources{
			Requests: map[string]string{"cpu": "500m", "memory": "256Mi"},
			Limits:   map[string]string{"cpu": "2", "memory": "1.5Gi", "nvidia.com/gpu": "1"},
		},
		NodeSelector: map[string]string{"kubernetes.io/os": "linux", "pool": "ci"},
		Tolerations: []map[string]any{
			{"key": "ci", "operator": "Equal", "value": "yes", "effect": "NoExecute", "tolerationSeconds": int64(60)},
			{"operator": "Exists"},
		},
		Security: map[string]any{
			"runAsUser": int64(1000), "capabilities": map[string]any{"drop": []any{"ALL"}, "add": []any{"NET_BIND_SERVICE"}},
		},
		PodSecurity: map[string]any{
			"fsGroup": int64(1000), "supplementalGroups": []any{int64(2000), int64(3000)},
			"seccompProfile": map[string]any{"type": "Localhost", "localhostProfile": "profiles/ci.json"},
			"sysctls":        []any{map[string]any{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}},
		},
		Scratch: "10Gi", StartTimeout: 10 * time.Minute, Keep: 2 * time.Hour,
		Labels:      map[string]string{"team": "qa", "kueue.x-k8s.io/queue-name": "ci"},
		Annotations: map[string]string{"sidecar.istio.io/inject": "false", "note": "${x} stays"},
	}
}

// What a repository says of its Jobs is laid over what holds for all, and changes nothing for others.
func TestOwnJob(t *testing.T) {
	c, _, err := parseFile(t, "testdata/good/every-key.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := everyJobKey()
	want.Namespace, want.Image, want.PullPolicy = "sentry-api", "registry.example.org/tools/sentry-api", "Always"
	want.PullSecrets, want.ServiceAccount = []string{"registry", "registry-api"}, "runner-api"
	want.Resources.Requests["memory"], want.Resources.Limits["memory"] = "1Gi", "4Gi"
	want.NodeSelector["pool"], want.Tolerations = "big", []map[string]any{{"key": "big", "operator": "Exists"}}
	want.Security["readOnlyRootFilesystem"], want.PodSecurity["fsGroup"] = false, int64(2000)
	want.Scratch, want.StartTimeout, want.Keep = "40Gi", time.Hour, time.Minute
	want.Labels["team"], want.Annotations["note"] = "api", "other"
	for _, tt := range []struct {
		name     string
		executor string
		job      JobSettings
	}{{"api", ExecutorKubernetes, want}, {"worker", ExecutorKubernetes, everyJobKey()}, {"local", ExecutorLocal, everyJobKey()}} {
		r, _ := c.Repository(tt.name)
		if diff := cmp.Diff(tt.job, c.JobOf(r)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", tt.name, diff)
		}
		if got := c.ExecutorOf(r); got != tt.executor {
			t.Errorf("%s runs %s", tt.name, got)
		}
	}
}

func TestAmount(t *testing.T) {
	for text, want := range map[string]float64{
		"2": 2, "500m": 0.5, "1.5Gi": 1.5 * (1 << 30), "1Ki": 1024, "1k": 1000, "3M": 3e6, "1e3": 1000, "1E3": 1000, "2E": 2e18, "1Ei": 1 << 60, "0": 0,
	} {
		if got, err := amount(text); err != nil || got != want {
			t.Errorf("%s is %v (%v), want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-1", "1 Gi", "1gi", "1KB", "Gi", ".5", "1.", "0x10", "1e", "1e999"} {
		if got, err := amount(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestExecutorOf(t *testing.T) {
	c := &Config{
		Groups: []Group{{Name: "here"}, {Name: "there", Executor: ExecutorKubernetes}},
		Repositories: []Repository{
			{Name: "a", Group: "here"},
			{Name: "b", Group: "here", Deploy: Deploy{Executor: ExecutorKubernetes}},
			{Name: "c", Group: "there"},
			{Name: "d", Group: "there", Deploy: Deploy{Executor: ExecutorLocal}},
		},
	}
	want := []string{ExecutorLocal, ExecutorKubernetes, ExecutorKubernetes, ExecutorLocal}
	for i := range c.Repositories {
		if got := c.ExecutorOf(&c.Repositories[i]); got != want[i] {
			t.Errorf("%s runs %s, want %s", c.Repositories[i].Name, got, want[i])
		}
	}
}

func TestJobOf(t *testing.T) {
	r := &Repository{Name: "a"}
	c := &Config{}
	if got := c.JobOf(r); got.StartTimeout == 0 || got.Keep == 0 || got.Image != "" {
		t.Errorf("without settings: %+v", got)
	}
	c.Kubernetes = &Kubernetes{Jobs: &JobSettings{Image: "all"}}
	if got := c.JobOf(r); got.Image != "all" {
		t.Errorf("for all: %+v", got)
	}
	r.Deploy.Job = &JobSettings{Image: "own"}
	if got := c.JobOf(r); got.Image != "own" {
		t.Errorf("its own: %+v", got)
	}
}

func TestCloneOfJobSettings(t *testing.T) {
	whole := JobSettings{
		Labels: map[string]string{"a": "1"}, Resources: Resources{Limits: map[string]string{"cpu": "1"}}, Security: map[string]any{"runAsUser": int64(1)},
	}
	own := whole.clone()
	own.Labels["a"], own.Resources.Limits["cpu"], own.Security["runAsUser"] = "2", "2", int64(2)
	if whole.Labels["a"] != "1" || whole.Resources.Limits["cpu"] != "1" || whole.Security["runAsUser"] != int64(1) {
		t.Errorf("the settings of one repository changed those of all: %+v", whole)
	}
}
