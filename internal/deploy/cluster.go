package deploy

import (
	"context"

	"sentry/internal/kube"
	"sentry/internal/sentry"
)

// Cluster is what an attempt asks of Kubernetes. Kube is one.
type Cluster interface {
	JobCluster
	// Open gives the commands of a deployment access.
	Open(id kube.Identity, r kube.Recorder) (Access, error)
	// Follow makes sure that a run of a namespace is known even where it is gone when Track begins; until stop.
	Follow(instance string, namespaces ...string) (stop func(), err error)
	Track(ctx context.Context, runs []sentry.PipelineRun, o kube.TrackOptions) ([]sentry.PipelineRun, error)
	Cancel(ctx context.Context, runs []sentry.PipelineRun, o kube.CancelOptions) ([]sentry.PipelineRun, error)
	// Find looks for runs by their labels.
	Find(ctx context.Context, s kube.Selector, namespaces []string) ([]sentry.PipelineRun, error)
	Create(ctx context.Context, manifests []kube.Manifest, id kube.Identity, params map[string]string, r kube.Recorder) error
}

// Access is what commands reach a cluster with.
type Access interface {
	Kubeconfig() []byte
	Close() // nothing is passed on any more when it returns
}

// Clusters gives the cluster as it is configured now. Whoever has it keeps it until release, also over a reload.
type Clusters interface {
	// Hold fails with kube.ErrNoCluster where there is none.
	Hold() (c Cluster, release func(), err error)
}

// Kube is a cluster with the gateway to it.
type Kube struct {
	*kube.Cluster
	Gateway *kube.Gateway
}

// Open gives access through the gateway.
func (k Kube) Open(id kube.Identity, r kube.Recorder) (Access, error) {
	access, err := k.Gateway.Open(id, r)
	if err != nil {
		return nil, err
	}
	return access, nil
}
