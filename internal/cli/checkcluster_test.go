package cli

import (
	"path/filepath"
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
