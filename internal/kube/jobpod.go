package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// errNoPod says that a Job has no pod.
var errNoPod = errors.New("it has no pod")

// jobPods asks for the pods of a Job, the one that is meant first, and the version of the list.
func (a *api) jobPods(ctx context.Context, ref JobRef) (pods []*wirePod, version string, err error) {
	var list struct {
		Metadata listMeta   `json:"metadata"`
		Items    []*wirePod `json:"items"`
	}
	// A Job of ours has one pod; others may carry the label, but no name is worth more than a page of them.
	query := url.Values{"labelSelector": {jobSelector(ref)}, "limit": {"100"}}
	if err := a.decode(ctx, http.MethodGet, podPath(ref.Namespace), query, nil, &list); err != nil {
		return nil, "", err
	}
	if list.Metadata.ResourceVersion == "" {
		return nil, "", garbled(errors.New("a list without resourceVersion"))
	}
	for _, pod := range list.Items {
		if pod.of(ref) {
			pods = append(pods, pod)
		}
	}
	slices.SortFunc(pods, earlier)
	return pods, list.Metadata.ResourceVersion, nil
}

// jobPod gives the pod of a Job that has not ended; errNoPod where there is none.
func (a *api) jobPod(ctx context.Context, ref JobRef) (*wirePod, error) {
	pods, _, err := a.jobPods(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("cannot look for the pod of Job %s: %w", ref, err)
	}
	if len(pods) == 0 || pods[0].ended() {
		return nil, fmt.Errorf("the Job %s: %w that runs", ref, errNoPod)
	}
	return pods[0], nil
}

// jobSelector picks the pods of a Job.
func jobSelector(ref JobRef) string { return LabelJob + "=" + LabelValue(ref.Name) }

// of reports whether the Job controls the pod: a label anybody may write.
func (pod *wirePod) of(ref JobRef) bool {
	for _, owner := range pod.Metadata.OwnerReferences {
		if owner.Controller && (ref.UID == "" || owner.UID == ref.UID) {
			return true
		}
	}
	return false
}

// earlier orders pods: where a Job has two, the first one counts, for everybody who looks.
func earlier(a, b *wirePod) int {
	return cmp.Or(strings.Compare(a.Metadata.CreationTimestamp, b.Metadata.CreationTimestamp), strings.Compare(a.Metadata.Name, b.Metadata.Name))
}

// runner is the state of the pod's container; nil where the kubelet has told none yet.
func (pod *wirePod) runner() *wireContainer {
	for i, c := range pod.Status.ContainerStatuses {
		if c.Name == JobContainer {
			return &pod.Status.ContainerStatuses[i]
		}
	}
	return nil
}

// ended reports whether the container has ended, or will never run.
func (pod *wirePod) ended() bool {
	if pod.Status.Phase == "Succeeded" || pod.Status.Phase == "Failed" {
		return true
	}
	c := pod.runner()
	return c != nil && c.State.Terminated != nil
}

// running reports whether the container runs.
func (pod *wirePod) running() bool {
	c := pod.runner()
	return c != nil && c.State.Running != nil
}

// isQuota reports whether a refusal is for want of room in a quota.
func isQuota(text string) bool { return strings.Contains(text, "exceeded quota") }
