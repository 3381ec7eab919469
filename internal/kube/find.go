package kube

import (
	"context"
	"errors"
	"fmt"

	"sentry/internal/sentry"
)

// Selector picks runs by the labels that the gateway and Create give them. An empty field does not select.
type Selector struct {
	Instance   string
	Deployment string
	Attempt    int
	Nonce      string
}

func (s Selector) labels() (string, error) {
	if s.Instance == "" && s.Deployment == "" && s.Nonce == "" {
		return "", errors.New("a search for pipeline runs needs an instance, a deployment or a nonce")
	}
	labels := selector(s.Instance)
	if s.Deployment != "" {
		labels += "," + LabelDeployment + "=" + LabelValue(s.Deployment)
	}
	if s.Attempt != 0 {
		labels += fmt.Sprintf(",%s=%d", LabelAttempt, s.Attempt)
	}
	if s.Nonce != "" {
		labels += "," + LabelRequest + "=" + LabelValue(s.Nonce)
	}
	return labels, nil
}

// Find asks once for the runs in the namespaces that carry these labels, oldest first within each namespace. Anybody
// may write labels: a run is ours only where its UID was recorded, or its Nonce is one that we recorded before we asked.
// One that has ended is given as running: how it ended is for Track or Cancel to tell, which verify it.
func (c *Cluster) Find(ctx context.Context, s Selector, namespaces []string) ([]sentry.PipelineRun, error) {
	labels, err := s.labels()
	if err != nil {
		return nil, err
	}
	a, err := c.tracker()
	if err != nil {
		return nil, err
	}
	var all []sentry.PipelineRun
	for _, namespace := range namespaces {
		found, err := find(ctx, a, namespace, labels)
		if err != nil {
			return nil, fmt.Errorf("cannot look for pipeline runs in namespace %s: %w", namespace, err)
		}
		all = append(all, found...)
	}
	return all, nil
}
