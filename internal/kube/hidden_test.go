package kube

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestCredentialFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "kubeconfig")
	text := `{"apiVersion": "v1", "kind": "Config", "users": [
		{"name": "a", "user": {"client-key": "keys/a.pem", "client-certificate": "a.crt"}},
		{"name": "b", "user": {"tokenFile": "/run/token"}}, {"name": "c", "user": {"token": "t"}}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got := credentialFiles(file, filepath.Join(dir, "none"))
	slices.Sort(got)
	if want := []string{"/run/token", filepath.Join(dir, "keys/a.pem"), file}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := credentialFiles("", dir); !slices.Equal(got, []string{dir}) {
		t.Errorf("in a pod: %q", got)
	}
	if got := credentialFiles(filepath.Join(dir, "missing"), filepath.Join(dir, "none")); len(got) != 1 {
		t.Errorf("a kubeconfig that is not there yet: %q", got)
	}
}
