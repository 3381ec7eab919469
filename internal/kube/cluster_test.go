package kube

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sentry/internal/sentry"
)

func TestConnectKubeconfig(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	good := write("good", `
apiVersion: v1
kind: Config
current-context: one
clusters:
- {name: a, cluster: {server: "https://one.example:6443"}}
- {name: b, cluster: {server: "https://two.example:6443", insecure-skip-tls-verify: true}}
users:
- {name: u, user: {token: canary}}
- {name: e, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: get-token, interactiveMode: IfAvailable}}}
contexts:
- {name: one, context: {cluster: a, user: u, namespace: qa}}
- {name: two, context: {cluster: b, user: e}}
`)
	for _, c := range []struct {
		name            string
		o               Options
		host, namespace string
		want            string // of the error
	}{
		{"current context", Options{Kubeconfig: good}, "https://one.example:6443", "qa", ""},
		{"another", Options{Kubeconfig: good, Context: "two"}, "https://two.example:6443", "default", ""},
		{"namespaces", Options{Kubeconfig: good, Namespaces: []string{"x", "y"}}, "https://one.example:6443", "x", ""},
		{"no such context", Options{Kubeconfig: good, Context: "three"}, "", "", "cannot use the kubeconfig " + good + ": invalid configuration: [context was not found for specified context: three"},
		{"no such file", Options{Kubeconfig: filepath.Join(dir, "none")}, "", "", "cannot read the kubeconfig " + filepath.Join(dir, "none")},
		{"no kubeconfig", Options{Kubeconfig: write("bad", "{")}, "", "", "cannot read the kubeconfig"},
		{"empty", Options{Kubeconfig: write("empty", "")}, "", "", "cannot use the kubeconfig"},
		{"context alone", Options{Context: "one"}, "", "", `kubernetes.context is "one", but there is no kubernetes.kubeconfig`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Connect(c.o)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "canary") {
					t.Fatalf("the error is %v, want %s", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Host() != c.host || got.Namespace() != c.namespace {
				t.Errorf("%s, namespace %s; want %s, %s", got.Host(), got.Namespace(), c.host, c.namespace)
			}
			if e := got.config.ExecProvider; e != nil && !e.StdinUnavailable {
				t.Error("a plugin may ask questions")
			}
		})
	}
}

func TestConnectPod(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	t.Setenv("KUBERNETES_SERVICE_PORT", "")
	if _, err := Connect(Options{}); !errors.Is(err, ErrNoCluster) {
		t.Fatalf("outside of a pod: %v", err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	if _, _, err := loadPod(dir); !errors.Is(err, ErrNoCluster) {
		t.Fatalf("in a pod without a token: %v", err)
	}
	for name, text := range map[string]string{"token": "canary", "ca.crt": "authority", "namespace": "sentry-system\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config, namespace, err := loadPod(dir)
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "https://[fd00::1]:443" || namespace != "sentry-system" || config.BearerTokenFile == "" || config.BearerToken != "" {
		t.Errorf("%s, namespace %q, token file %q", config.Host, namespace, config.BearerTokenFile)
	}
	if err := os.Remove(filepath.Join(dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := loadPod(dir); err == nil || errors.Is(err, ErrNoCluster) {
		t.Errorf("without a certificate authority: %v", err)
	}
}

// TestConnectAsAPod: a pod that was given a token uses that, and nothing else. Where it does not know its cluster, that is
// an error: there is one.
func TestConnectAsAPod(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	t.Setenv("KUBERNETES_SERVICE_PORT", "")
	authority := filepath.Join(t.TempDir(), "ca.crt")
	pod := &PodAccess{Token: sentry.NewSecret("the-token"), Authority: authority}
	if _, err := Connect(Options{Pod: pod}); err == nil || errors.Is(err, ErrNoCluster) {
		t.Errorf("outside of a pod: %v", err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	if _, err := Connect(Options{Pod: pod}); err == nil || !strings.Contains(err.Error(), authority) {
		t.Errorf("without a certificate authority: %v", err)
	}
	_, certificate, err := newCertificate(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(authority, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Connect(Options{Pod: pod, Namespaces: []string{"qa", "stage"}})
	if err != nil {
		t.Fatal(err)
	}
	if c.Host() != "https://10.0.0.1:443" || c.config.BearerToken != "the-token" || c.Namespace() != "qa" || len(c.Namespaces()) != 2 {
		t.Errorf("it is %s in %v", c.Host(), c.Namespaces())
	}
}
