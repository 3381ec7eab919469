package kube_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"sentry/internal/kube"
)

// TestRealTryJob asks for Jobs that would be taken, and for others, and leaves nothing.
func TestRealTryJob(t *testing.T) {
	t.Parallel()
	h := newHome(t, "pod-security.kubernetes.io/warn=restricted")
	good := kube.JobSpec{Namespace: h.ns, Name: "try", Identity: h.id, Image: "localhost/nothing:1", Args: []string{"runner"}, ServiceAccount: "default"}
	for name, c := range map[string]struct {
		spec      func(s *kube.JobSpec)
		warning   string
		reason    string
		mentioned string
	}{
		"good":          {spec: func(*kube.JobSpec) {}},
		"no account":    {spec: func(s *kube.JobSpec) { s.ServiceAccount = "" }},
		"a stranger":    {spec: func(s *kube.JobSpec) { s.ServiceAccount = "stranger" }, reason: "NotFound", mentioned: `serviceaccounts "stranger" not found`},
		"no namespace":  {spec: func(s *kube.JobSpec) { s.Namespace = h.ns + "-not" }, reason: "NotFound", mentioned: "namespaces"},
		"an odd amount": {spec: func(s *kube.JobSpec) { s.Requests = map[string]string{"example.com/odd": "1.5"} }, reason: "Invalid", mentioned: "must be an integer"},
		"an odd key":    {spec: func(s *kube.JobSpec) { s.PodSecurity = map[string]any{"runAsUsr": 1} }, reason: "BadRequest", mentioned: "runAsUsr"},
		"privileged": {
			spec: func(s *kube.JobSpec) {
				s.ContainerSecurity = map[string]any{"privileged": true, "allowPrivilegeEscalation": true}
			},
			warning: "would violate PodSecurity",
		},
	} {
		spec := good
		c.spec(&spec)
		warnings, err := h.cluster.TryJob(t.Context(), spec)
		var refused *kube.JobError
		switch {
		case c.reason == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.reason != "" && (!errors.As(err, &refused) || refused.Reason != c.reason || !strings.Contains(refused.Message, c.mentioned)):
			t.Errorf("%s: %v, want %s with %q", name, err, c.reason, c.mentioned)
		}
		if got := strings.Join(warnings, "\n"); !strings.Contains(got, c.warning) || c.warning == "" && got != "" {
			t.Errorf("%s: warnings %q, want %q", name, got, c.warning)
		}
	}
	if _, found, err := h.cluster.FindJob(t.Context(), kube.JobRef{Namespace: h.ns, Name: "try"}); err != nil || found {
		t.Errorf("there is a Job now: %v, %v", found, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.cluster.TryJob(ctx, good); !errors.Is(err, context.Canceled) {
		t.Errorf("without time: %v", err)
	}
}
