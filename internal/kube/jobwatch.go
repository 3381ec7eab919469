package kube

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// jobWatch keeps the pods of one Job as they were seen last.
type jobWatch struct {
	api  *api
	ref  JobRef
	wake chan struct{} // of size one: something has changed

	mu   sync.Mutex          // owns what follows
	pods map[string]*wirePod // by UID
	dead map[string]*wirePod // as those were when they went
	view podView
}

// podView is what a jobWatch knows at one moment.
type podView struct {
	pods   []*wirePod // the one that counts first
	synced bool       // there was a list
	fails  int        // requests that failed since one succeeded
	err    error      // of the last of them
}

func newJobWatch(a *api, ref JobRef) *jobWatch {
	return &jobWatch{api: a, ref: ref, wake: make(chan struct{}, 1), pods: map[string]*wirePod{}, dead: map[string]*wirePod{}}
}

// look gives what is known. What it points to does not change.
func (w *jobWatch) look() podView {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := w.view
	v.pods = slices.SortedFunc(maps.Values(w.pods), earlier)
	return v
}

// last gives a pod as it was when it went; nil where that was not seen.
func (w *jobWatch) last(uid string) *wirePod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dead[uid]
}

// run follows the pods until ctx ends: a list, then watches from there on, and another list where the server cannot go on.
func (w *jobWatch) run(ctx context.Context) {
	var wait patience
	version := ""
	for ctx.Err() == nil {
		var err error
		began, expired := time.Now(), false
		if version == "" {
			version, err = w.list(ctx)
		} else {
			version, err = watchFrom(ctx, w.api, podPath(w.ref.Namespace), jobSelector(w.ref), version, func() { w.report(nil) }, w.take)
			expired = err == nil && version == "" && time.Since(began) < watchSlack
			if err == nil && !expired {
				wait.reset()
			}
		}
		if ctx.Err() != nil {
			return
		}
		w.report(err)
		if (err != nil || expired) && sleep(ctx, wait.after(err)) != nil {
			return
		}
	}
}

// list reads all pods.
func (w *jobWatch) list(ctx context.Context) (version string, err error) {
	pods, version, err := w.api.jobPods(ctx, w.ref)
	if err != nil {
		return "", err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.pods)
	for _, pod := range pods {
		w.pods[pod.Metadata.UID] = pod
	}
	w.view.synced = true
	w.ring()
	return version, nil
}

// take keeps what a watch tells.
func (w *jobWatch) take(pod *wirePod, gone bool) {
	if !pod.of(w.ref) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if gone {
		delete(w.pods, pod.Metadata.UID)
		w.dead[pod.Metadata.UID] = pod
	} else {
		w.pods[pod.Metadata.UID] = pod
	}
	w.ring()
}

// report tells whether the server answers.
func (w *jobWatch) report(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && w.view.fails == 0 {
		return
	}
	w.view.err = err
	if w.view.fails++; err == nil {
		w.view.fails = 0
	}
	w.ring()
}

func (w *jobWatch) ring() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
