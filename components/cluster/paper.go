package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// paper is the part of a cluster without a node that completes pods on paper: it writes into their status what a kubelet would
// have written. A pod of Tekton ends as the annotation of its PipelineRun says, other pods that may end succeed, and the rest
// are ready for ever.
func paper(l layout) error {
	c, err := loadCluster(l)
	if err != nil {
		return err
	}
	a, err := newAPI(c)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var under sync.WaitGroup
	defer under.Wait()
	begun := map[string]bool{}
	follow(ctx, a, "/api/v1/pods", func(all map[string]pod) {
		maps.DeleteFunc(begun, func(uid string, _ bool) bool { _, there := all[uid]; return !there })
		for uid, p := range all {
			if begun[uid] || p.Metadata.DeletedAt != "" || p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" {
				continue
			}
			begun[uid] = true
			under.Go(func() {
				if err := p.live(ctx, a); err != nil && ctx.Err() == nil {
					fmt.Fprintf(os.Stderr, "pod %s/%s: %v\n", p.Metadata.Namespace, p.Metadata.Name, err)
				}
			})
		}
	})
	return nil
}

// outcomeAnnotation is what the fixtures of the tests say of each task: JSON, by the name of the task.
const outcomeAnnotation = "sentry-test/outcome"

// outcome is how one task ends.
type outcome struct {
	Exit      int               `json:"exit"`
	Seconds   int               `json:"seconds"` // 0 is a moment
	Endless   bool              `json:"endless"`
	FailFirst int               `json:"fail_first"`
	Results   map[string]string `json:"results"`
}

type pod struct {
	item
	Spec struct {
		RestartPolicy  string      `json:"restartPolicy"`
		InitContainers []container `json:"initContainers"`
		Containers     []container `json:"containers"`
	} `json:"spec"`
	Status struct {
		Phase string `json:"phase"`
	} `json:"status"`
}

type container struct {
	Name  string `json:"name"`
	Image string `json:"image"`
}

// outcome tells how a pod ends.
func (p pod) outcome() (outcome, error) {
	if p.Spec.RestartPolicy == "Always" {
		return outcome{Endless: true}, nil
	}
	said := p.Metadata.Annotations[outcomeAnnotation]
	if said == "" {
		return outcome{}, nil
	}
	var tasks map[string]outcome
	if err := json.Unmarshal([]byte(said), &tasks); err != nil {
		return outcome{}, fmt.Errorf("the annotation %s: %w", outcomeAnnotation, err)
	}
	o := tasks[p.Metadata.Labels["tekton.dev/pipelineTask"]]
	// Tekton names the pods of a task NAME-pod, NAME-pod-retry1, NAME-pod-retry2, …
	try := 0
	if i := strings.LastIndex(p.Metadata.Name, "-retry"); i >= 0 {
		try, _ = strconv.Atoi(p.Metadata.Name[i+len("-retry"):])
	}
	if o.FailFirst > 0 && try >= o.FailFirst {
		o.Exit = 0
	}
	return o, nil
}

// live writes that the pod runs, and, when its time has come, how it ended.
func (p pod) live(ctx context.Context, a *api) error {
	o, err := p.outcome()
	if err != nil {
		return err
	}
	if err := p.write(ctx, a, "Running", o); err != nil {
		return err
	}
	if o.Endless {
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(max(200*time.Millisecond, time.Duration(o.Seconds)*time.Second)): // the work of the pod
	}
	if o.Exit != 0 {
		return p.write(ctx, a, "Failed", o)
	}
	return p.write(ctx, a, "Succeeded", o)
}

// write writes the status of the pod in a phase. That the pod has gone is as good.
func (p pod) write(ctx context.Context, a *api, phase string, o outcome) error {
	type obj = map[string]any
	now := time.Now().UTC().Format(time.RFC3339)
	ready := map[bool]string{true: "True", false: "False"}[phase == "Running"]
	state := func(c container, ended bool, exit int, message string) obj {
		id := "paper://" + p.Metadata.UID + "/" + c.Name
		one := obj{"name": c.Name, "image": c.Image, "imageID": c.Image, "containerID": id, "restartCount": 0, "ready": !ended, "started": !ended}
		if !ended {
			one["state"] = obj{"running": obj{"startedAt": now}}
			return one
		}
		reason := "Completed"
		if exit != 0 {
			reason = "Error"
		}
		one["state"] = obj{"terminated": obj{
			"exitCode": exit, "reason": reason, "startedAt": now, "finishedAt": now, "containerID": id, "message": message,
		}}
		return one
	}
	var first, then []obj
	for _, c := range p.Spec.InitContainers {
		first = append(first, state(c, true, 0, ""))
	}
	for _, c := range p.Spec.Containers {
		then = append(then, state(c, phase != "Running", o.Exit, o.message(now)))
	}
	status := obj{
		"phase": phase, "startTime": now, "containerStatuses": then, "initContainerStatuses": first,
		"conditions": []obj{
			{"type": "PodScheduled", "status": "True", "lastTransitionTime": now},
			{"type": "Initialized", "status": "True", "lastTransitionTime": now},
			{"type": "ContainersReady", "status": ready, "lastTransitionTime": now},
			{"type": "Ready", "status": ready, "lastTransitionTime": now},
		},
	}
	path := "/api/v1/namespaces/" + p.Metadata.Namespace + "/pods/" + p.Metadata.Name + "/status"
	err := a.call(ctx, http.MethodPatch, path, obj{"metadata": obj{"uid": p.Metadata.UID}, "status": status}, nil)
	if isCode(err, http.StatusNotFound) || isCode(err, http.StatusConflict) {
		return nil
	}
	return err
}

// message is what Tekton's entrypoint leaves as the last words of a step: when it began, and the results.
func (o outcome) message(began string) string {
	type entry struct {
		Key   string `json:"key"`
		Value string `json:"value"`
		Type  int    `json:"type"` // 1 is a result of the task, 3 is Tekton's own
	}
	all := []entry{{"StartedAt", strings.Replace(began, "Z", ".000Z", 1), 3}} // Tekton wants thousandths
	for _, name := range slices.Sorted(maps.Keys(o.Results)) {
		all = append(all, entry{name, o.Results[name], 1})
	}
	data, err := json.Marshal(all)
	if err != nil {
		panic(err) // strings and numbers
	}
	return string(data)
}
