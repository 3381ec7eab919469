package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"sentry/internal/kube"
)

// holdCluster takes the cluster, and gives what lets it go.
func (a *attempt) holdCluster() (release func()) {
	a.takeCluster()
	return func() {
		if a.letGo != nil {
			a.letGo()
		}
	}
}

// takeCluster takes the cluster as it is configured now, if there is one that can be used.
func (a *attempt) takeCluster() {
	if a.Clusters == nil {
		return
	}
	cluster, release, err := a.Clusters.Hold()
	switch {
	case errors.Is(err, kube.ErrNoCluster):
		a.noCluster = nil
	case err != nil:
		a.noCluster = err
	default:
		a.cluster, a.noCluster, a.letGo = cluster, nil, release
		a.keep.created = a.watch
	}
}

// How soon the configured cluster is tried again where there is none: a file may be missing for a moment.
const (
	againSoon = time.Second
	againLate = 15 * time.Second
)

// reach waits for the cluster in which the pipeline runs of the deployment are, until ctx ends.
func (a *attempt) reach(ctx context.Context, log io.Writer) error {
	var told string
	for pause := againSoon; a.cluster == nil; pause = min(2*pause, againLate) {
		err := a.noCluster
		if err == nil {
			err = errors.New("no cluster is configured any more")
		}
		if told != err.Error() {
			told = err.Error()
			fmt.Fprintf(log, "%s; what became of the pipeline runs is unknown, trying again\n", told)
			a.tell(told + "; what became of the pipeline runs is unknown")
		}
		if !sleep(ctx, pause) {
			return fmt.Errorf("%w; %w", err, context.Cause(ctx))
		}
		a.takeCluster()
	}
	if told != "" {
		fmt.Fprintln(log, "there is a cluster again")
		a.tell("")
	}
	return nil
}

// tell has everybody who looks know what the deployment waits for; "" for nothing any more.
func (a *attempt) tell(hindrance string) {
	if hindrance == "" {
		a.log().Info("the cluster can be asked again")
	} else {
		a.log().Warn("the cluster cannot be asked; the deployment waits for it", "reason", hindrance)
	}
	a.keep.tell(hindrance)
}

// leave ends what the attempt has with the cluster.
func (a *attempt) leave() {
	a.closeAccess()
	a.d.PipelineRuns = a.keep.end()
	for _, stop := range a.watched {
		stop()
	}
}

// watch makes sure that a run which is gone before it is followed is known. The keeper calls it, one call at a time.
func (a *attempt) watch(namespace string) {
	if a.keep.untracked || a.watched[namespace] != nil {
		return
	}
	if a.watched == nil {
		a.watched = map[string]func(){}
	}
	stop, err := a.cluster.Follow(a.Instance, namespace)
	if err == nil { // else it is found when it is followed
		a.watched[namespace] = stop
	}
}

// identity is in whose name the cluster is asked.
func (a *attempt) identity() kube.Identity {
	limits := a.job.Repository.Deploy.Kubernetes
	return kube.Identity{
		Instance: a.Instance, Rollout: a.job.Rollout.ID, Deployment: a.d.ID, Group: a.job.Rollout.Group, Repository: a.d.Repository,
		Commit: a.d.Commit, Attempt: a.d.Attempt, Namespaces: limits.Namespaces, Impersonate: limits.Impersonate,
	}
}

// wantsAccess reports whether commands are to have access to a cluster.
func (a *attempt) wantsAccess() bool {
	d := &a.job.Repository.Deploy
	return (a.cluster != nil || a.noCluster != nil) && len(d.Commands) > 0 && !d.OwnKubeconfig()
}

// opening opens the access of the commands while the caller goes on, and gives what waits for that.
func (a *attempt) opening() func() error {
	if !a.wantsAccess() {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() { done <- a.open() }()
	return func() error { return <-done }
}

func (a *attempt) open() (err error) {
	if a.noCluster != nil {
		return a.noCluster
	}
	a.access, err = a.cluster.Open(a.identity(), a.keep)
	return err
}

// closeAccess ends the access of the commands. What they asked for has been recorded when it returns.
func (a *attempt) closeAccess() {
	if a.access != nil {
		a.access.Close()
		a.access = nil
	}
}

func (a *attempt) kubeconfig() string { return filepath.Join(a.dir, "kube", "config") }

// writeKubeconfig puts the access where the commands find it: beside the tree, so that no script commits it.
func (a *attempt) writeKubeconfig() error {
	if a.access == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(a.kubeconfig()), 0o700); err != nil {
		return err
	}
	return os.WriteFile(a.kubeconfig(), a.access.Kubeconfig(), 0o600)
}
