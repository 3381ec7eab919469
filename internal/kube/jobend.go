package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// EndJob deletes a Job with its pod, and comes back when nothing of it runs any more; one that is gone already is none. The
// pod gets the grace that its JobSpec says; grace is how long to be patient with it: what runs longer is told in the error.
// While the API server does not answer it goes on until ctx ends. The error names the pod that may still run, and its node.
func (c *Cluster) EndJob(ctx context.Context, ref JobRef, grace time.Duration) error {
	a, err := c.tracker()
	if err != nil {
		return err
	}
	if ref.Cluster != nil { // of another cluster's Job nothing can be said, nor done
		if _, _, err := c.FindJob(ctx, ref); err != nil {
			return fmt.Errorf("the Job %s may still be running: %w", ref, err)
		}
	}
	e := jobEnder{api: a, ref: ref, late: time.Now().Add(grace)}
	var wait patience
	for {
		over, err := e.step(ctx)
		if over {
			return nil
		}
		last, pause := e.still, cancelPoll
		if err == nil {
			wait.reset()
		} else if ctx.Err() == nil {
			last, pause = err, wait.after(err)
		}
		if end := sleep(ctx, pause); end != nil {
			return fmt.Errorf("the Job %s may still be running: %w", ref, errors.Join(last, end))
		}
	}
}

// jobEnder ends one Job. It is owned by one goroutine.
type jobEnder struct {
	api   *api
	ref   JobRef
	asked bool
	late  time.Time // when a pod should have ended
	still error     // what ran when it was looked at last
}

// step asks for the end where that has not been done, and looks what is left.
func (e *jobEnder) step(ctx context.Context) (over bool, err error) {
	if !e.asked {
		if err := e.ask(ctx); err != nil {
			return false, err
		}
		e.asked = true
	}
	pods, _, err := e.api.jobPods(ctx, e.ref)
	if err != nil {
		return false, err
	}
	var left []string
	for _, pod := range pods {
		if !pod.ended() {
			left = append(left, pod.place())
		}
	}
	if len(left) > 0 {
		e.still = fmt.Errorf("it has not ended yet: %s", strings.Join(left, ", "))
		if time.Now().After(e.late) {
			e.still = fmt.Errorf("it should have ended %s ago: %s", time.Since(e.late).Round(time.Second), strings.Join(left, ", "))
		}
		return false, nil
	}
	// A Job that is there, and does not go, could make another pod.
	job, err := e.api.job(ctx, e.ref)
	if err != nil {
		return false, err
	}
	if job == nil || job.Metadata.DeletionTimestamp != "" || job.finished() != nil {
		return true, nil
	}
	e.still, e.asked = errors.New("it is not being deleted"), false
	return false, nil
}

// ask deletes the Job of this UID and no other.
func (e *jobEnder) ask(ctx context.Context) error {
	options := map[string]any{"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
	if e.ref.UID != "" {
		options["preconditions"] = map[string]string{"uid": e.ref.UID}
	}
	body, err := json.Marshal(options)
	if err != nil {
		return err
	}
	var answer struct{}
	err = e.api.decode(ctx, http.MethodDelete, jobPath(e.ref.Namespace, e.ref.Name), nil, body, &answer)
	if missing(err, e.ref.Name) || isCode(err, http.StatusConflict) {
		return nil // gone, or another one: the look tells
	}
	return err
}

// place tells where a pod is, for people.
func (pod *wirePod) place() string {
	if pod.Spec.NodeName == "" {
		return "pod " + pod.Metadata.Name
	}
	return "pod " + pod.Metadata.Name + " on node " + pod.Spec.NodeName
}

// finished gives the condition with which the Job has ended; nil where it has not.
func (j *wireJob) finished() *wireCondition {
	for i, c := range j.Status.Conditions {
		if c.Status == "True" && (c.Type == "Complete" || c.Type == "Failed") {
			return &j.Status.Conditions[i]
		}
	}
	return nil
}
