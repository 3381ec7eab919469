package daemon

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"sentry/internal/config"
	"sentry/internal/deploy"
	"sentry/internal/kube"
)

// kubeconfigFor writes a kubeconfig of an API server that nobody asks.
func kubeconfigFor(t *testing.T, server string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
		"clusters": [{"name": "k", "cluster": {"server": "` + server + `"}}], "users": [{"name": "u", "user": {"token": "t"}}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Who has a cluster keeps it over a reload, and with it the gateway; who comes after it gets the new one.
func TestClustersOutliveAReload(t *testing.T) {
	c := newClusters("test", nil, slog.New(slog.DiscardHandler))
	defer func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
		if len(c.open) != 0 {
			t.Errorf("%d gateways are left", len(c.open))
		}
	}()
	c.update(nil)
	if _, _, err := c.Hold(); !errors.Is(err, kube.ErrNoCluster) {
		t.Fatalf("without a cluster: %v", err)
	}
	missing := filepath.Join(t.TempDir(), "later")
	c.update(&config.Kubernetes{Kubeconfig: missing})
	if _, _, err := c.Hold(); err == nil || errors.Is(err, kube.ErrNoCluster) {
		t.Fatalf("with a file that is missing: %v", err)
	}
	first := kubeconfigFor(t, "https://first.example:6443")
	if err := os.Link(first, missing); err != nil {
		t.Fatal(err)
	}
	held, release, err := c.Hold()
	if err != nil {
		t.Fatalf("the file is there by now: %v", err)
	}
	c.update(&config.Kubernetes{Kubeconfig: missing}) // the same again
	if len(c.open) != 1 {
		t.Errorf("%d gateways after a reload that changed nothing", len(c.open))
	}
	c.update(&config.Kubernetes{Kubeconfig: kubeconfigFor(t, "https://second.example:6443"), Namespaces: []string{"qa"}})
	next, releaseNext, err := c.Hold()
	if err != nil {
		t.Fatal(err)
	}
	defer releaseNext()
	host := func(c deploy.Cluster) string { return c.(*holding).Host() }
	if host(held) != "https://first.example:6443" || host(next) != "https://second.example:6443" || len(c.open) != 2 {
		t.Errorf("held %s, new %s, %d gateways", host(held), host(next), len(c.open))
	}
	access, err := held.Open(kube.Identity{Deployment: "1-x-1"}, nil)
	if err != nil {
		t.Errorf("what is held does not work any more: %v", err)
	} else {
		access.Close()
	}
	release()
	release() // harmless
	if len(c.open) != 1 {
		t.Errorf("%d gateways when nobody uses the first any more", len(c.open))
	}
	c.update(nil)
	if _, _, err := c.Hold(); !errors.Is(err, kube.ErrNoCluster) {
		t.Errorf("taken out of the configuration: %v", err)
	}
}

// A kubeconfig that says something else by now is read again by whoever needs the cluster next.
func TestClustersReadTheKubeconfigAgain(t *testing.T) {
	c := newClusters("test", nil, slog.New(slog.DiscardHandler))
	defer func() { _ = c.close() }()
	file := kubeconfigFor(t, "https://first.example:6443")
	renewed := 0
	c.renewed = func() { renewed++ }
	c.update(&config.Kubernetes{Kubeconfig: file})
	hold := func() (host string, release func()) {
		t.Helper()
		held, release, err := c.Hold()
		if err != nil {
			t.Fatal(err)
		}
		return held.(*holding).Host(), release
	}
	put := func(text []byte) {
		t.Helper()
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first, release := hold()
	put([]byte("{"))
	half, releaseHalf := hold()
	if half != first || len(c.open) != 1 || renewed != 0 {
		t.Errorf("while it was written it was %s, with %d gateways", half, len(c.open))
	}
	releaseHalf()
	text, err := os.ReadFile(kubeconfigFor(t, "https://second.example:6443"))
	if err != nil {
		t.Fatal(err)
	}
	put(text)
	for range 2 {
		second, releaseSecond := hold()
		if second != "https://second.example:6443" || len(c.open) != 2 {
			t.Errorf("when it was written it was %s, with %d gateways", second, len(c.open))
		}
		releaseSecond()
	}
	if renewed != 1 {
		t.Errorf("what it names is kept from commands %d times", renewed)
	}
	release()
	if len(c.open) != 1 {
		t.Errorf("%d gateways when nobody uses the first any more", len(c.open))
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if gone, _ := hold(); gone != "https://second.example:6443" {
		t.Errorf("when the file was taken away it was %s", gone)
	}
}
