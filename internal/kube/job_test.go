package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/sentry"
)

const (
	fakeJobs = "/apis/batch/v1/namespaces/ci/jobs"
	fakePods = "/api/v1/namespaces/ci/pods"
)

// fakeJob is a Job "j" with the pod "j-1", whose container has begun, and somebody who follows it.
type fakeJob struct {
	*fakeWorld
	ref  JobRef
	end  JobEnd
	err  error
	over chan struct{}
	out  fakeOutput

	mu      sync.Mutex
	lines   []string
	waiting []string
	away    []string
}

func newFakeJob(t *testing.T) *fakeJob {
	j := &fakeJob{fakeWorld: newFakeWorld(t), ref: JobRef{Namespace: "ci", Name: "j", UID: "j1"}, over: make(chan struct{})}
	j.out.changed = make(chan struct{})
	j.api.put(fakeJobs+"/j", object{"metadata": object{"namespace": "ci", "name": "j", "uid": "j1", "labels": object{LabelInstance: "box", LabelDeployment: "d", LabelAttempt: "1"}}})
	j.api.put(fakePods+"/j-1", fakePod("j-1"))
	j.api.setFault(j.out.serve)
	return j
}

// mute has the API server answer nothing for a time, and after it until it is served again.
func (j *fakeJob) mute(long time.Duration) {
	j.api.setFault(func(w http.ResponseWriter, _ *http.Request) bool {
		status(w, 503, "", "not now")
		return true
	})
	j.api.cutWatches()
	time.Sleep(long)
}

// fakePod is a pod of the Job, whose container runs.
func fakePod(name string) object {
	return object{
		"metadata": object{
			"name": name, "uid": "uid-" + name, "labels": object{LabelJob: "j"}, "creationTimestamp": "2026-01-02T03:04:05Z",
			"ownerReferences": []any{object{"uid": "j1", "controller": true}},
		},
		"spec": object{"nodeName": "n"},
		"status": object{"phase": "Running", "containerStatuses": []any{
			object{"name": JobContainer, "state": object{"running": object{}}},
		}},
	}
}

// ended has the container of a pod end.
func ended(code int, reason string) func(object) {
	return func(pod object) {
		status := pod["status"].(object)
		status["phase"] = "Failed"
		status["containerStatuses"] = []any{object{"name": JobContainer, "state": object{"terminated": object{
			"exitCode": code, "reason": reason, "finishedAt": "2026-01-02T04:00:00Z",
		}}}}
	}
}

// deleted has a pod be deleted, with five seconds of grace.
func deleted(pod object) {
	metadata := pod["metadata"].(object)
	metadata["deletionTimestamp"], metadata["deletionGracePeriodSeconds"] = "2026-01-02T03:50:05Z", 5
}

// conditioned gives a pod, or a Job, a condition.
func conditioned(kind, reason, message string) func(object) {
	return func(o object) {
		if o["status"] == nil {
			o["status"] = object{}
		}
		o["status"].(object)["conditions"] = []any{object{"type": kind, "status": "True", "reason": reason, "message": message}}
	}
}

// waits has the container of a pod wait.
func waits(reason, message string) func(object) {
	return func(pod object) {
		pod["status"] = object{"phase": "Pending", "containerStatuses": []any{
			object{"name": JobContainer, "state": object{"waiting": object{"reason": reason, "message": message}}},
		}}
	}
}

// follow begins to follow the Job.
func (j *fakeJob) follow(start time.Duration) {
	go func() {
		defer close(j.over)
		j.end, j.err = j.cluster.FollowJob(j.Context(), j.ref, JobFollow{
			Line: func(line []byte) error {
				j.mu.Lock()
				defer j.mu.Unlock()
				j.lines = append(j.lines, string(line))
				if string(line) == "stop" {
					return errors.New("enough")
				}
				return nil
			},
			Waiting: func(why string) {
				j.mu.Lock()
				defer j.mu.Unlock()
				j.waiting = append(j.waiting, why)
			},
			Away: func(why string) {
				j.mu.Lock()
				defer j.mu.Unlock()
				j.away = append(j.away, why)
			},
			StartTimeout: start, Log: &j.log,
		})
	}()
	synctest.Wait()
}

// running demands that nothing is decided yet.
func (j *fakeJob) running() {
	j.Helper()
	synctest.Wait()
	select {
	case <-j.over:
		j.Fatalf("it is over: %+v, %v", j.end, j.err)
	default:
	}
}

// finish has the container end, and its output with it.
func (j *fakeJob) finish(code int, reason string) {
	j.out.finish()
	j.api.edit(fakePods+"/j-1", ended(code, reason))
}

// fakeOutput is what the kubelet has of the output of a container.
type fakeOutput struct {
	mu      sync.Mutex
	lines   []string // with their times
	ended   bool
	changed chan struct{}
	cuts    []int // after how many bytes one connection after the other is cut; 0 for never
	asked   int
	fault   func(w http.ResponseWriter, r *http.Request) bool
}

// say adds a line.
func (o *fakeOutput) say(text string) {
	o.add(time.Now().UTC().Format(time.RFC3339Nano) + " " + text)
}

func (o *fakeOutput) add(line string) {
	o.change(func() { o.lines = append(o.lines, line) })
}

func (o *fakeOutput) finish() { o.change(func() { o.ended = true }) }

func (o *fakeOutput) change(do func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	do()
	close(o.changed)
	o.changed = make(chan struct{})
}

// since gives the lines from number n on that are not from before a time.
func (o *fakeOutput) since(n int, since string) (lines []string, ended bool, changed chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	from, _ := time.Parse(time.RFC3339, since)
	for _, line := range o.lines[min(n, len(o.lines)):] {
		stamp, _, _ := strings.Cut(line, " ")
		if at, err := time.Parse(time.RFC3339Nano, stamp); err != nil || !at.Before(from) {
			lines = append(lines, line)
		}
	}
	return lines, o.ended, o.changed
}

// serve answers a question for the output.
func (o *fakeOutput) serve(w http.ResponseWriter, r *http.Request) bool {
	if !strings.HasSuffix(r.URL.Path, "/log") {
		return false
	}
	o.mu.Lock()
	fault, left := o.fault, 0
	if o.asked < len(o.cuts) {
		left = o.cuts[o.asked]
	}
	o.asked++
	o.mu.Unlock()
	if fault != nil && fault(w, r) {
		return true
	}
	w.WriteHeader(http.StatusOK)
	query := r.URL.Query()
	for n, cut := 0, left > 0; ; {
		lines, ended, changed := o.since(n, query.Get("sinceTime"))
		o.mu.Lock()
		n = len(o.lines)
		o.mu.Unlock()
		for _, line := range lines {
			line += "\n"
			if cut && len(line) >= left {
				w.Write([]byte(line[:left]))
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
			w.Write([]byte(line))
			left -= len(line)
		}
		w.(http.Flusher).Flush()
		if ended || query.Get("follow") == "" {
			return true
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return true
		}
	}
}

// TestFollowJob shows what is told of a Job, whatever happens meanwhile.
func TestFollowJob(t *testing.T) {
	lost := func(reason, message string) JobEnd {
		return JobEnd{Started: true, ExitCode: -1, Reason: reason, Message: message, Lost: true}
	}
	good := JobEnd{Started: true, Reason: "Completed"}
	for name, c := range map[string]struct {
		play   func(j *fakeJob)
		want   JobEnd
		lines  string // separated by blanks
		logged string
	}{
		"it ends well": {func(j *fakeJob) {
			j.follow(0)
			j.out.say("a")
			time.Sleep(time.Hour)
			j.out.say("b")
			j.finish(0, "Completed")
		}, good, "a b", ""},
		"it has ended before": {func(j *fakeJob) {
			j.out.say("a")
			j.finish(4, "Error")
			j.follow(0)
		}, JobEnd{Started: true, ExitCode: 4, Reason: "Error", Message: "its container ended with exit code 4"}, "a", ""},
		"the connection is cut inside of lines": {func(j *fakeJob) {
			j.out.cuts = []int{1, 33, 34, 40, 70, 71, 80, 0, 5, 45}
			for i := range 5 {
				j.out.say(fmt.Sprintf("line-%d", i))
				time.Sleep(time.Second)
			}
			j.follow(0)
			time.Sleep(time.Hour)
			j.out.say("end")
			j.finish(0, "Completed")
		}, good, "line-0 line-1 line-2 line-3 line-4 end", "can be read again"},
		"the connection ends though the container has not": {func(j *fakeJob) {
			j.out.say("a")
			j.out.ended = true
			j.follow(0)
			time.Sleep(time.Minute)
			j.running()
			j.out.say("b")
			j.finish(0, "Completed")
		}, good, "a b", ""},
		"the clock of the node is set back": {func(j *fakeJob) {
			j.out.say("a")
			j.out.say("b")
			j.out.cuts = []int{0, 0}
			j.follow(0)
			j.out.add(time.Now().Add(-30*time.Second).UTC().Format(time.RFC3339Nano) + " c")
			j.out.finish()
			time.Sleep(time.Second)
			j.finish(0, "Completed")
		}, good, "a b c", ""},
		"the log was rotated": {func(j *fakeJob) {
			j.out.say("a")
			j.follow(0)
			j.out.change(func() { j.out.lines = nil })
			j.out.say("b")
			j.finish(0, "Completed")
		}, good, "a b", ""},
		"the node does not give the end": {func(j *fakeJob) {
			j.out.say("a")
			j.follow(0)
			j.out.change(func() {
				j.out.ended = true
				j.out.fault = func(w http.ResponseWriter, _ *http.Request) bool {
					w.Write([]byte("unable to retrieve container logs for containerd://1"))
					return true
				}
			})
			j.api.edit(fakePods+"/j-1", ended(0, "Completed"))
		}, good, "a", "the rest of the output of pod j-1 cannot be read: the node says: unable to retrieve"},
		"the API server is away for a day": {func(j *fakeJob) {
			j.out.say("a")
			j.follow(time.Minute)
			j.api.setFault(func(w http.ResponseWriter, _ *http.Request) bool {
				status(w, 503, "", "not now")
				return true
			})
			j.api.cutWatches()
			time.Sleep(24 * time.Hour)
			j.running()
			j.out.say("b")
			j.finish(0, "Completed")
			j.api.setFault(j.out.serve)
		}, good, "a b", "the API server answers again"},
		"its history is compacted": {func(j *fakeJob) {
			j.follow(0)
			j.out.say("a")
			j.finish(0, "Completed")
			j.api.compact()
			j.api.cutWatches()
		}, good, "a", ""},
		"the Job is deleted": {func(j *fakeJob) {
			j.follow(0)
			j.out.say("a")
			j.api.drop(fakeJobs + "/j")
			j.api.edit(fakePods+"/j-1", deleted)
			time.Sleep(time.Second)
			j.running()
			j.finish(143, "Error")
		}, JobEnd{Started: true, ExitCode: 143, Reason: "Deleted", Message: "somebody deleted the Job", Lost: true}, "a", "is being deleted"},
		"all is gone at once": {func(j *fakeJob) {
			j.follow(0)
			j.out.say("a")
			j.out.finish()
			j.api.drop(fakeJobs + "/j")
			j.api.drop(fakePods + "/j-1")
		}, lost("Deleted", "somebody deleted the Job"), "a", ""},
		"the pod is gone, and was not seen to end": {func(j *fakeJob) {
			j.follow(0)
			j.out.say("a")
			j.out.finish()
			j.api.drop(fakePods + "/j-1")
		}, lost("Deleted", "somebody deleted its pod j-1 on node n"), "a", ""},
		"it ended well as it was deleted": {func(j *fakeJob) {
			j.follow(0)
			j.api.edit(fakePods+"/j-1", deleted)
			j.finish(0, "Completed")
		}, JobEnd{Started: true, Reason: "Deleted", Message: "somebody deleted its pod j-1 on node n"}, "", ""},
		"the pod is deleted when it has ended": {func(j *fakeJob) {
			j.api.edit(fakePods+"/j-1", ended(7, "Error"))
			j.api.edit(fakePods+"/j-1", func(pod object) {
				deleted(pod)
				pod["metadata"].(object)["deletionTimestamp"] = "2026-01-02T05:00:00Z"
			})
			j.out.finish()
			j.follow(0)
		}, JobEnd{Started: true, ExitCode: 7, Reason: "Error", Message: "its container ended with exit code 7"}, "", ""},
		"there is no Job": {func(j *fakeJob) {
			j.api.drop(fakeJobs + "/j")
			j.api.drop(fakePods + "/j-1")
			j.follow(0)
		}, JobEnd{ExitCode: -1, Reason: "Deleted", Message: "somebody deleted the Job", Lost: true}, "", ""},
		"there is another Job of its name": {func(j *fakeJob) {
			j.ref.UID = "j0"
			j.follow(0)
		}, JobEnd{ExitCode: -1, Reason: "Deleted", Message: "somebody deleted the Job", Lost: true}, "", ""},
		"the node is lost": {func(j *fakeJob) {
			j.follow(0)
			j.out.say("a")
			j.api.edit(fakePods+"/j-1", deleted)
			time.Sleep(lostTime)
			j.running()
			j.out.change(func() {
				j.out.fault = func(w http.ResponseWriter, _ *http.Request) bool {
					status(w, 500, "", "dial tcp: no route to host")
					return true
				}
			})
		}, lost("NodeLost", "pod j-1 on node n was deleted, and has not ended: its node does not answer"), "a", "no route to host"},
		"it is evicted": {func(j *fakeJob) {
			j.follow(0)
			j.out.finish()
			j.api.edit(fakePods+"/j-1", func(pod object) {
				ended(137, "Error")(pod)
				conditioned("DisruptionTarget", "TerminationByKubelet", "The node was low on resource: memory. ")(pod)
				pod["status"].(object)["reason"], pod["status"].(object)["message"] = "Evicted", "The node was low on resource: memory. "
			})
		}, JobEnd{Started: true, ExitCode: 137, Reason: "Evicted", Message: "The node was low on resource: memory.", Lost: true}, "", ""},
		"it is evicted before it begins": {func(j *fakeJob) {
			j.api.edit(fakePods+"/j-1", waits("ContainerCreating", ""))
			j.follow(0)
			j.api.edit(fakePods+"/j-1", func(pod object) {
				pod["status"] = object{"phase": "Failed", "reason": "Evicted", "message": "The node had condition: [DiskPressure]. "}
			})
		}, JobEnd{ExitCode: -1, Reason: "Evicted", Message: "The node had condition: [DiskPressure].", Lost: true}, "", ""},
		"it is preempted": {func(j *fakeJob) {
			j.follow(0)
			j.out.finish()
			j.api.edit(fakePods+"/j-1", func(pod object) {
				deleted(pod)
				conditioned("DisruptionTarget", "PreemptionByScheduler", "somebody is more important")(pod)
			})
			j.api.edit(fakePods+"/j-1", ended(143, "Error"))
			j.api.edit(fakePods+"/j-1", conditioned("DisruptionTarget", "PreemptionByScheduler", "somebody is more important"))
		}, JobEnd{Started: true, ExitCode: 143, Reason: "PreemptionByScheduler", Message: "somebody is more important", Lost: true}, "", ""},
		"it fills its disk": {func(j *fakeJob) {
			j.follow(0)
			j.out.finish()
			j.api.edit(fakePods+"/j-1", func(pod object) {
				ended(137, "Error")(pod)
				conditioned("DisruptionTarget", "TerminationByKubelet", "x")(pod)
				pod["status"].(object)["reason"], pod["status"].(object)["message"] = "Evicted", `Usage of EmptyDir volume "work" exceeds the limit "1Mi". `
			})
		}, JobEnd{Started: true, ExitCode: 137, Reason: "Evicted", Message: `Usage of EmptyDir volume "work" exceeds the limit "1Mi".`, Own: true}, "", ""},
		"it fills its disk, and ends well when it is told": {func(j *fakeJob) {
			j.follow(0)
			j.out.finish()
			j.api.edit(fakePods+"/j-1", func(pod object) {
				ended(0, "Completed")(pod)
				pod["status"].(object)["reason"], pod["status"].(object)["message"] = "Evicted", `Usage of EmptyDir volume "work" exceeds the limit "1Mi". `
			})
		}, JobEnd{Started: true, Reason: "Evicted", Message: `Usage of EmptyDir volume "work" exceeds the limit "1Mi".`, Own: true}, "", ""},
		"its time is over, and it ends well when it is told": {func(j *fakeJob) {
			j.follow(0)
			j.api.edit(fakeJobs+"/j", conditioned("FailureTarget", "DeadlineExceeded", "x"))
			j.api.edit(fakePods+"/j-1", deleted)
			j.finish(0, "Completed")
		}, JobEnd{Started: true, Reason: "DeadlineExceeded", Message: "it was still there when its time (activeDeadlineSeconds) was over"}, "", ""},
		"its node lost sight of it": {func(j *fakeJob) {
			j.out.finish()
			j.follow(0)
			j.api.edit(fakePods+"/j-1", ended(137, "ContainerStatusUnknown"))
		}, JobEnd{Started: true, ExitCode: 137, Reason: "NodeLost", Message: "its node has lost sight of it:", Lost: true}, "", ""},
		"its node was switched off, and on again": {func(j *fakeJob) {
			j.out.say("a")
			j.follow(0)
			j.finish(255, "Unknown")
		}, JobEnd{Started: true, ExitCode: 255, Reason: "NodeLost", Message: "its node does not know how it ended: it may have been restarted", Lost: true}, "a", ""},
		"its time is over": {func(j *fakeJob) {
			j.follow(0)
			j.api.edit(fakeJobs+"/j", conditioned("FailureTarget", "DeadlineExceeded", "x"))
			j.api.edit(fakePods+"/j-1", deleted)
			j.finish(143, "Error")
		}, JobEnd{Started: true, ExitCode: 143, Reason: "DeadlineExceeded", Message: "it was still there when its time (activeDeadlineSeconds) was over"}, "", ""},
		"it has two pods": {func(j *fakeJob) {
			other := fakePod("j-0")
			other["metadata"].(object)["creationTimestamp"] = "2026-01-02T03:04:06Z"
			j.api.put(fakePods+"/j-0", other)
			j.follow(0)
			j.api.edit(fakePods+"/j-0", ended(9, "Error"))
			time.Sleep(time.Minute)
			j.running()
			j.out.say("a")
			j.finish(0, "Completed")
		}, good, "a", "has another pod, pod j-0 on node n, beside pod j-1 on node n"},
		"somebody else's pod has its label": {func(j *fakeJob) {
			other := fakePod("j-0")
			other["metadata"].(object)["ownerReferences"] = []any{object{"uid": "j2", "controller": true}}
			j.api.put(fakePods+"/j-0", other)
			j.api.drop(fakePods + "/j-1")
			j.follow(0)
			j.api.edit(fakePods+"/j-0", ended(9, "Error"))
			time.Sleep(time.Minute)
			j.running()
			j.api.put(fakePods+"/j-1", fakePod("j-1"))
			j.finish(0, "Completed")
		}, good, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newFakeJob(t)
				c.play(j)
				<-j.over
				if j.err != nil || j.end != c.want {
					t.Errorf("it ended as %+v, %v, not as %+v", j.end, j.err, c.want)
				}
				if got := strings.Join(j.lines, " "); got != c.lines {
					t.Errorf("its output is %q, not %q", got, c.lines)
				}
				if !strings.Contains(j.log.String(), c.logged) {
					t.Errorf("%q is not in the log:\n%s", c.logged, j.log.String())
				}
			})
		})
	}
}

// TestJobWaits shows what is told of a Job that does not begin, and when it is given up.
func TestJobWaits(t *testing.T) {
	for name, c := range map[string]struct {
		play    func(j *fakeJob)
		waiting []string
		never   string // a part of the message; "" where it begins after all
	}{
		"the image cannot be had": {func(j *fakeJob) {
			j.api.edit(fakePods+"/j-1", waits("ErrImagePull", "no such host"))
			j.follow(time.Minute)
			j.api.edit(fakePods+"/j-1", waits("ImagePullBackOff", "Back-off pulling image"))
		}, []string{"pod j-1 on node n: ErrImagePull: no such host", "pod j-1 on node n: ImagePullBackOff: Back-off pulling image"}, "within 1m0s: pod j-1 on node n: ImagePullBackOff"},
		"it begins late": {func(j *fakeJob) {
			j.api.edit(fakePods+"/j-1", waits("ImagePullBackOff", "x"))
			j.follow(time.Minute)
			time.Sleep(59 * time.Second)
			j.api.put(fakePods+"/j-1", fakePod("j-1"))
			time.Sleep(time.Hour)
			j.running()
			j.finish(0, "Completed")
		}, []string{"pod j-1 on node n: ImagePullBackOff: x"}, ""},
		"there is no room in the quota": {func(j *fakeJob) {
			pod := fakePod("j-1")
			j.api.drop(fakePods + "/j-1")
			j.api.put("/api/v1/namespaces/ci/events/e", object{"metadata": object{"name": "e"}, "reason": "FailedCreate", "message": "exceeded quota: q"})
			j.follow(time.Minute)
			time.Sleep(30 * time.Second)
			j.api.put(fakePods+"/j-1", pod)
			j.finish(0, "Completed")
		}, []string{"FailedCreate: exceeded quota: q"}, ""},
		"it is suspended": {func(j *fakeJob) {
			j.api.drop(fakePods + "/j-1")
			j.api.edit(fakeJobs+"/j", func(job object) { job["spec"] = object{"suspend": true} })
			j.follow(time.Minute)
		}, []string{"it is suspended (spec.suspend): who did that, such as a queue for Jobs, has to let it go"}, "it is suspended"},
		"nobody knows while the API server is away": {func(j *fakeJob) {
			j.api.edit(fakePods+"/j-1", waits("ContainerCreating", ""))
			j.follow(time.Minute)
			j.mute(time.Hour)
			j.running()
			j.api.put(fakePods+"/j-1", fakePod("j-1"))
			j.api.setFault(j.out.serve)
			time.Sleep(time.Hour)
			j.running()
			j.finish(0, "Completed")
		}, []string{"pod j-1 on node n: its container is being started"}, ""},
		"nothing can begin while the API server is away": {func(j *fakeJob) {
			j.api.edit(fakePods+"/j-1", waits("ContainerCreating", ""))
			j.follow(time.Minute)
			j.mute(time.Hour)
			j.api.setFault(j.out.serve)
			time.Sleep(time.Minute)
			j.running()
			j.api.put(fakePods+"/j-1", fakePod("j-1"))
			j.finish(0, "Completed")
		}, []string{"pod j-1 on node n: its container is being started", "pod j-1 on node n: its container is being started"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newFakeJob(t)
				began := time.Now()
				c.play(j)
				<-j.over
				if j.err != nil || j.end.Never != (c.never != "") || !strings.Contains(j.end.Message, c.never) {
					t.Errorf("it ended as %+v, %v", j.end, j.err)
				}
				if took := time.Since(began); c.never != "" && (took < time.Minute || took > time.Minute+patienceEnd) {
					t.Errorf("it was given up after %s", took)
				}
				if !slices.Equal(j.waiting, c.waiting) {
					t.Errorf("it waited for %q, not for %q", j.waiting, c.waiting)
				}
			})
		})
	}
}

// TestAwayWhileAJobRuns shows that it is told while nobody knows what becomes of a Job, and when somebody does again.
func TestAwayWhileAJobRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newFakeJob(t)
		j.follow(0)
		j.api.setFault(func(w http.ResponseWriter, _ *http.Request) bool {
			status(w, 503, "", "not now")
			return true
		})
		j.api.cutWatches()
		time.Sleep(time.Hour)
		j.running()
		j.api.setFault(j.out.serve)
		time.Sleep(time.Hour)
		j.finish(0, "Completed")
		<-j.over
		if !slices.Equal(j.away, []string{"the API server does not answer (not now (503)); what became of Job ci/j is unknown", ""}) {
			t.Errorf("it is told %q", j.away)
		}
	})
}

// TestFollowJobStops shows that following ends with its context, and with an error of who takes the lines.
func TestFollowJobStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newFakeJob(t)
		j.out.say("stop")
		j.follow(0)
		<-j.over
		if j.err == nil || j.err.Error() != "enough" {
			t.Errorf("the error is %v", j.err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		j := newFakeJob(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("stop")
		time.AfterFunc(time.Hour, func() { cancel(stop) })
		if _, err := j.cluster.FollowJob(ctx, j.ref, JobFollow{Line: func([]byte) error { return nil }}); !errors.Is(err, stop) {
			t.Errorf("the error is %v", err)
		}
	})
}

// TestStartJob shows when a Job is taken for the one that was asked for, and what is asked for again.
func TestStartJob(t *testing.T) {
	spec := JobSpec{Namespace: "ci", Name: "n", Identity: Identity{Instance: "box", Deployment: "d", Attempt: 1}, Patience: time.Minute}
	refuse := func(code int, message string) func(*fakeJob) {
		return func(j *fakeJob) {
			j.api.setFault(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPost {
					status(w, code, "", message)
				}
				return r.Method == http.MethodPost
			})
		}
	}
	for name, c := range map[string]struct {
		play   func(*fakeJob)
		after  time.Duration
		reason string // of the refusal; "" where there is a Job
		later  bool
	}{
		"created": {func(*fakeJob) {}, 0, "", false},
		"the answer is lost": {func(j *fakeJob) {
			var once sync.Once
			j.api.setFault(func(w http.ResponseWriter, r *http.Request) (lost bool) {
				if r.Method == http.MethodPost {
					once.Do(func() {
						lost = true
						j.api.put(fakeJobs+"/n", object{"metadata": object{"namespace": "ci", "name": "n", "uid": "n1", "labels": object{LabelInstance: "box", LabelDeployment: "d", LabelAttempt: "1"}}})
						panic(http.ErrAbortHandler)
					})
				}
				return lost
			})
		}, 0, "", false},
		"somebody has the name": {func(j *fakeJob) {
			j.api.put(fakeJobs+"/n", object{"metadata": object{"namespace": "ci", "name": "n", "uid": "n1"}})
		}, 0, "Taken", false},
		"invalid":   {refuse(422, "Job is invalid"), 0, "Unprocessable Entity", false},
		"forbidden": {refuse(403, "jobs.batch is forbidden"), time.Minute, "Forbidden", true},
		"quota":     {refuse(403, "exceeded quota: q, requested: count/jobs.batch=1"), time.Minute, "QuotaExceeded", true},
		"away for an hour": {func(j *fakeJob) {
			refuse(503, "not now")(j)
			time.AfterFunc(time.Hour, func() { j.api.setFault(nil) })
		}, time.Hour, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newFakeJob(t)
				c.play(j)
				began := time.Now()
				ref, err := j.cluster.StartJob(t.Context(), spec)
				if took := time.Since(began); took < c.after/2 || took > c.after+patienceOwn {
					t.Errorf("it took %s", took)
				}
				var refused *JobError
				switch errors.As(err, &refused); {
				case c.reason == "" && (err != nil || ref.UID == "" || ref.Name != "n"):
					t.Errorf("started as %+v: %v", ref, err)
				case c.reason != "" && (refused == nil || refused.Reason != c.reason || refused.Later != c.later):
					t.Errorf("the error is %#v", err)
				}
			})
		})
	}
}

// TestEndJob shows that a Job counts as ended only when nothing of it runs.
func TestEndJob(t *testing.T) {
	for name, c := range map[string]struct {
		play func(*fakeJob)
		took time.Duration
		err  string
	}{
		"it goes": {func(j *fakeJob) {
			time.AfterFunc(10*time.Second, func() { j.api.drop(fakePods + "/j-1") })
		}, 10 * time.Second, ""},
		"its pod stays, but has ended": {func(j *fakeJob) {
			time.AfterFunc(10*time.Second, func() { j.api.edit(fakePods+"/j-1", ended(0, "Completed")) })
		}, 10 * time.Second, ""},
		"it has gone before": {func(j *fakeJob) {
			j.api.drop(fakeJobs + "/j")
			j.api.drop(fakePods + "/j-1")
		}, 0, ""},
		"the API server is away": {func(j *fakeJob) {
			j.api.setFault(func(w http.ResponseWriter, _ *http.Request) bool {
				status(w, 503, "", "not now")
				return true
			})
			time.AfterFunc(5*time.Minute, func() {
				j.api.setFault(nil)
				j.api.drop(fakePods + "/j-1")
			})
		}, 5 * time.Minute, ""},
		"its node is lost": {func(*fakeJob) {}, time.Hour, "the Job ci/j may still be running: it should have ended 59m50s ago: pod j-1 on node n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newFakeJob(t)
				c.play(j)
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				began := time.Now()
				err := j.cluster.EndJob(ctx, j.ref, 10*time.Second)
				if (err != nil) != (c.err != "") || err != nil && !strings.HasPrefix(err.Error(), c.err) {
					t.Errorf("the error is %v", err)
				}
				if took := time.Since(began); took < c.took || took > c.took+patienceEnd {
					t.Errorf("it took %s", took)
				}
				if j.api.object(fakeJobs+"/j") != nil {
					t.Error("the Job is there")
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		j := newFakeJob(t)
		if err := j.cluster.EndJob(t.Context(), JobRef{Namespace: "ci", Name: "j", UID: "j0"}, 0); err != nil || j.api.object(fakeJobs+"/j") == nil {
			t.Errorf("another Job of the name was ended: %v", err)
		}
	})
}

// TestJobOfAnotherCluster: a Job that is not found in another cluster than that of its creation is not gone, and has not ended.
func TestJobOfAnotherCluster(t *testing.T) {
	for was, here := range map[string]bool{"system": true, "other": false} {
		synctest.Test(t, func(t *testing.T) {
			j := newFakeJob(t)
			j.api.put("/api/v1/namespaces/kube-system", namespaceWith("system"))
			j.api.put("/api/v1/namespaces/ci", namespaceWith("space"))
			ref := JobRef{Namespace: "ci", Name: "gone", UID: "j9", Cluster: &sentry.ClusterID{Server: "https://old", UID: was}}
			_, found, err := j.cluster.FindJob(t.Context(), ref)
			if found || (err == nil) != here || err != nil && !strings.Contains(err.Error(), "https://old (UID other), and Sentry is configured for http://api") {
				t.Errorf("%s: found %v, %v", was, found, err)
			}
			if err := j.cluster.EndJob(t.Context(), ref, 0); (err == nil) != here || err != nil && !strings.Contains(err.Error(), "ci/gone may still be running: it was created in another cluster") {
				t.Errorf("%s: ended, %v", was, err)
			}
			if found, ok, err := j.cluster.FindJob(t.Context(), JobRef{Namespace: "ci", Name: "j", Cluster: ref.Cluster}); !ok || err != nil || found.UID != "j1" || found.Cluster != ref.Cluster {
				t.Errorf("%s: one that is there: %+v, %v", was, found, err)
			}
		})
	}
}
