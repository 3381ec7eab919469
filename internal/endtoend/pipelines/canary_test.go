//go:build linux

package pipelines

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"sentry/internal/kube/kubetest"
	"sentry/internal/sentry"
)

// looksAround is a script that writes down all that it sees, waits for the gate, and uses the cluster meanwhile.
const looksAround = `      env: {WORLD: %WORLD%}
      commands:
        - |
          mkdir "$WORLD/seen"
          env >"$WORLD/seen/env"
          cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline >"$WORLD/seen/processes" 2>/dev/null || true
          cp -r "$HOME" "$WORLD/seen/home"
          cp -r "$(dirname "$KUBECONFIG")" "$WORLD/seen/kube"
          kubectl config view --raw --flatten
          kubectl --v=9 create -f "$SENTRY_PROJECT_DIR/run.yaml"
          kubectl --v=9 get pods
          ! cat %KUBECONFIG%
          echo looked >>"$WORLD/witness"
          while [ -e "$WORLD/gate" ]; do sleep 0.05; done
`

// The token with which Sentry asks the cluster is a canary: it is not in the environment of a command, nor in its files, nor in
// anybody's arguments, nor in what was logged, nor in what Sentry keeps.
func TestCanaryToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.useToken()
	signature := []byte(token[strings.LastIndexByte(token, '.')+1:])
	if len(signature) < 40 {
		t.Fatalf("the token has no signature of the length that is expected, but of %d", len(signature))
	}
	deploy := strings.NewReplacer("%WORLD%", filepath.Join(w.dir, "world"), "%KUBECONFIG%", w.kubeconfig).Replace(looksAround)
	w.configure("max_parallel: 1", member{name: "a", deploy: deploy, files: run(w.cluster, "a", kubetest.Fails("unit", 3))})
	gate := filepath.Join(w.dir, "world", "gate")
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := w.start()
	if out, code := w.run("trigger", "--wait=false", "g"); code != 0 {
		t.Fatalf("it was not queued: %s", out)
	}
	w.until("the command has looked around", func() bool { return len(w.witness()) == 1 || w.rollout().Status.Terminal() })
	w.processesWithout(signature)
	if err := os.Remove(gate); err != nil {
		t.Fatal(err)
	}
	w.until("it has ended", func() bool { return w.rollout().Status.Terminal() })
	r := w.rollout()
	if got := of(r, "a"); got.Status != sentry.Failed || len(got.PipelineRuns) != 1 {
		t.Fatalf("it ended as %s: %s, with %d pipeline runs", got.Status, got.Reason, len(got.PipelineRuns))
	}
	w.known(of(r, "a").PipelineRuns)
	for _, verb := range []string{"logs", "show", "why"} {
		if text, _ := w.run(verb, r.ID); bytes.Contains([]byte(text), signature) {
			t.Errorf("sentry %s shows the token", verb)
		}
	}
	d.end(syscall.SIGTERM) // all is on disk
	found, files := w.filesWith(signature)
	if want := []string{w.kubeconfig}; !slices.Equal(found, want) {
		t.Errorf("the token is in %v; want it in %v alone, where it was put", found, want)
	}
	for _, want := range []string{"world/seen/env", "world/seen/processes", "world/seen/kube/config", "sentry.log", "state/state.db"} {
		if !slices.Contains(files, filepath.Join(w.dir, want)) {
			t.Errorf("nobody has looked into %s", want)
		}
	}
	if text, _ := w.run("logs", r.ID); !strings.Contains(text, "Authorization") && !strings.Contains(text, "Response Status") {
		t.Errorf("kubectl does not tell its requests in the log:\n%s", text)
	}
}

// useToken has Sentry ask with the token of a service account that may do everything in the namespace.
func (w *world) useToken() (token string) {
	w.t.Helper()
	ns := w.namespace
	w.cluster.Run(w.t, "create", "serviceaccount", "canary", "--namespace", ns)
	w.cluster.Run(w.t, "create", "rolebinding", "canary", "--namespace", ns, "--clusterrole=cluster-admin", "--serviceaccount="+ns+":canary")
	data, token := w.cluster.As(w.t, ns, "canary")
	w.kubeconfig = filepath.Join(w.dir, "kubeconfig")
	if err := os.WriteFile(w.kubeconfig, data, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return token
}

// processesWithout looks into the arguments and the environment of every process of this machine.
func (w *world) processesWithout(secret []byte) {
	w.t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/*")
	if err != nil {
		w.t.Fatal(err)
	}
	looked := 0
	for _, file := range files {
		if base := filepath.Base(file); base != "environ" && base != "cmdline" {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended, or is not ours to look at
		}
		looked++
		if bytes.Contains(text, secret) {
			w.t.Errorf("the token is in %s", file)
		}
	}
	if looked < 10 {
		w.t.Errorf("only %d processes were looked at", looked)
	}
}

// filesWith gives the files below Sentry's folder that hold the secret, and all of them.
func (w *world) filesWith(secret []byte) (found, files []string) {
	w.t.Helper()
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files = append(files, path)
		text, err := os.ReadFile(path)
		if bytes.Contains(text, secret) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return found, files
}
