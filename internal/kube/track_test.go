package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/sentry"
)

// TestTrackEnds is how each end of a run is told.
func TestTrackEnds(t *testing.T) {
	tests := map[string]struct {
		end    func(object)
		status sentry.Status
		reason string
	}{
		"succeeded":           {stands("True", "Succeeded", "Tasks Completed: 1"), sentry.Succeeded, "Tasks Completed: 1"},
		"completed":           {stands("True", "Completed", "Skipped: 1"), sentry.Succeeded, "Skipped: 1"},
		"failed":              {stands("False", "Failed", "Tasks Failed: 1"), sentry.Failed, "Tasks Failed: 1"},
		"timed out":           {stands("False", "PipelineRunTimeout", "took too long"), sentry.TimedOut, "took too long"},
		"canceled by someone": {stands("False", "Cancelled", "was cancelled"), sentry.Failed, "canceled in the cluster, not by Sentry: was cancelled"},
		"canceled by us": {func(o object) {
			o["metadata"].(object)["annotations"] = object{annotationCanceled: "true"}
			stands("False", "Cancelled", "was cancelled")(o)
		}, sentry.Canceled, "canceled by Sentry"},
		"cannot be resolved": {stands("False", "CouldntGetPipeline", "no such pipeline"), sentry.Failed, "no such pipeline"},
		"without completion time": {func(o object) {
			stands("False", "Failed", "odd")(o)
			delete(o["status"].(object), "completionTime")
		}, sentry.Failed, "odd"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newFakeWorld(t)
				w.track(t.Context(), recorded("r", "u1"))
				time.Sleep(time.Second)
				w.api.edit(runs+"/r", stands("Unknown", "Running", "Tasks Completed: 0"))
				time.Sleep(time.Second)
				w.api.edit(runs+"/r", test.end)
				run := w.over()
				if run.Status != test.status || run.Reason != test.reason {
					t.Errorf("%s, %q; want %s, %q\n%s", run.Status, run.Reason, test.status, test.reason, w.log.String())
				}
				if run.StartedAt.IsZero() || run.FinishedAt.IsZero() {
					t.Error("the times are missing")
				}
				if n := w.api.count("WATCH"); n != 1 {
					t.Errorf("%d watches", n)
				}
			})
		})
	}
}

// TestTrackFaults drives a run to its end through each fault of an API server: the verdict is right, and never early.
func TestTrackFaults(t *testing.T) {
	down := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			status(w, code, "", "not now")
			return true
		}
	}
	tests := map[string]struct {
		status sentry.Status
		play   func(t *testing.T, w *fakeWorld)
		logged []string
	}{
		"the watch drops": {sentry.Succeeded, func(t *testing.T, w *fakeWorld) {
			for range 5 {
				w.api.cutWatches()
				time.Sleep(10 * time.Second)
			}
			w.api.edit(runs+"/r", stands("True", "Succeeded", ""))
		}, nil},
		"an end while the watch is away": {sentry.Failed, func(t *testing.T, w *fakeWorld) {
			w.api.setFault(down(503))
			w.api.cutWatches()
			w.api.edit(runs+"/r", stands("False", "Failed", "bad"))
			time.Sleep(time.Hour)
			w.api.setFault(nil)
		}, []string{"does not answer (not now (503)): what became of", "answers again"}},
		"410 as an answer": {sentry.Succeeded, func(t *testing.T, w *fakeWorld) {
			w.api.setFault(down(500))
			w.api.cutWatches()
			w.api.edit(runs+"/r", stands("True", "Succeeded", ""))
			w.api.compact()
			time.Sleep(time.Minute)
			w.api.setFault(nil)
		}, nil},
		"410 as an event, for ever": {sentry.Succeeded, func(t *testing.T, w *fakeWorld) {
			var n atomic.Int32
			w.api.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.URL.Query().Get("watch") == "" {
					return false
				}
				n.Add(1)
				fmt.Fprintln(rw, `{"type":"ERROR","object":{"kind":"Status","status":"Failure","code":410,"message":"too old"}}`)
				return true
			})
			w.api.cutWatches()
			time.Sleep(10 * time.Minute)
			if n.Load() < 10 || n.Load() > 200 {
				t.Errorf("asked %d times in ten minutes", n.Load())
			}
			w.api.edit(runs+"/r", stands("True", "Succeeded", ""))
		}, nil},
		"garbage in the watch": {sentry.Succeeded, func(t *testing.T, w *fakeWorld) {
			var n atomic.Int32
			w.api.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.URL.Query().Get("watch") == "" || n.Add(1) > 6 {
					return false
				}
				fmt.Fprint(rw, []string{"", "{", "\x00\xff", `{"type":"NEWS"}`, `{"type":"MODIFIED","object":[]}` + "\n", `<html>`}[n.Load()-1])
				return true
			})
			w.api.cutWatches()
			time.Sleep(3 * time.Minute)
			w.api.edit(runs+"/r", stands("True", "Succeeded", ""))
		}, nil},
		"429 with Retry-After": {sentry.Succeeded, func(t *testing.T, w *fakeWorld) {
			var n atomic.Int32
			w.api.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				n.Add(1)
				rw.Header().Set("Retry-After", "50")
				status(rw, 429, "", "slow down")
				return true
			})
			w.api.cutWatches()
			time.Sleep(5 * time.Minute)
			if n.Load() > 8 {
				t.Errorf("asked %d times in five minutes, though told to wait 50 s each time", n.Load())
			}
			w.api.edit(runs+"/r", stands("True", "Succeeded", ""))
			w.api.setFault(nil)
		}, nil},
		"a server that never answers": {sentry.Succeeded, func(t *testing.T, w *fakeWorld) {
			w.api.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				<-r.Context().Done()
				return true
			})
			w.api.cutWatches()
			time.Sleep(5 * time.Minute)
			w.api.setFault(nil)
			w.api.edit(runs+"/r", stands("True", "Succeeded", ""))
		}, []string{"no answer within 30s"}},
		"a list that is behind": {sentry.Succeeded, func(t *testing.T, w *fakeWorld) {
			w.api.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != runs || r.URL.Query().Get("watch") != "" {
					return false
				}
				fmt.Fprint(rw, `{"metadata":{"resourceVersion":"1"},"items":null}`)
				return true
			})
			w.api.compact()
			w.api.cutWatches()
			time.Sleep(time.Minute)
			if !w.running() {
				t.Fatal("believed a list that does not show the run")
			}
			w.api.edit(runs+"/r", stands("True", "Succeeded", ""))
		}, nil},
		"403 for a while": {sentry.Succeeded, func(t *testing.T, w *fakeWorld) {
			w.api.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				status(rw, 403, "", `pipelineruns.tekton.dev is forbidden: User "x" cannot list resource "pipelineruns"`)
				return true
			})
			w.api.cutWatches()
			time.Sleep(20 * time.Minute)
			w.api.setFault(nil)
			w.api.edit(runs+"/r", stands("True", "Succeeded", ""))
		}, []string{`refuses to show the pipeline runs of namespace ci: pipelineruns.tekton.dev is forbidden: User "x" cannot list`, "answers again"}},
		"Tekton's definitions are replaced": {sentry.Succeeded, func(t *testing.T, w *fakeWorld) {
			w.api.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				status(rw, 404, "", "the server could not find the requested resource")
				return true
			})
			w.api.cutWatches()
			time.Sleep(20 * time.Minute)
			w.api.setFault(nil)
			w.api.edit(runs+"/r", stands("True", "Succeeded", ""))
		}, []string{"the cluster has no Tekton"}},
		"a failure that turns": {sentry.Succeeded, func(t *testing.T, w *fakeWorld) {
			w.api.edit(runs+"/r", stands("False", "Failed", "one try"))
			time.Sleep(settleTime / 2)
			w.api.edit(runs+"/r", stands("Unknown", "Running", "another try"))
			time.Sleep(time.Minute)
			if !w.running() {
				t.Fatal("believed a failure that turned")
			}
			w.api.edit(runs+"/r", stands("True", "Succeeded", ""))
		}, nil},
		"a read that is behind": {sentry.Failed, func(t *testing.T, w *fakeWorld) {
			var n atomic.Int32
			w.api.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.Method != "GET" || r.URL.Path != runs+"/r" || n.Add(1) > 3 {
					return false
				}
				fmt.Fprint(rw, `{"metadata":{"name":"r","namespace":"ci","uid":"u1","resourceVersion":"1"},"status":{"startTime":"2026-01-01T00:00:01Z","conditions":[{"type":"Succeeded","status":"Unknown"}]}}`)
				return true
			})
			w.api.edit(runs+"/r", stands("False", "Failed", "bad"))
		}, nil},
		"deleted": {sentry.Failed, func(t *testing.T, w *fakeWorld) { w.api.drop(runs + "/r") }, []string{"it was deleted before Sentry saw it end; the cluster does not tell by whom"}},
		"deleted, and made again": {sentry.Failed, func(t *testing.T, w *fakeWorld) {
			w.api.drop(runs + "/r")
			again := fakeRun("r", "u2")
			stands("True", "Succeeded", "")(again)
			w.api.put(runs+"/r", again)
		}, []string{"another of the same name was made"}},
		"deleted after its end": {sentry.Succeeded, func(t *testing.T, w *fakeWorld) {
			w.api.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == runs+"/r" {
					status(rw, 500, "", "not now")
					return true
				}
				return false
			})
			w.api.edit(runs+"/r", stands("True", "Succeeded", ""))
			time.Sleep(time.Second)
			w.api.drop(runs + "/r")
			time.Sleep(time.Minute)
			w.api.setFault(nil)
		}, nil},
		"its labels are taken away": {sentry.Succeeded, func(t *testing.T, w *fakeWorld) {
			w.api.edit(runs+"/r", func(o object) { o["metadata"].(object)["labels"] = object{} })
			time.Sleep(10 * time.Minute)
			if !w.running() {
				t.Fatal("believed that it was deleted")
			}
			w.api.edit(runs+"/r", stands("True", "Succeeded", ""))
		}, []string{"following it by its name and UID"}},
		"a foreign run with our labels": {sentry.Succeeded, func(t *testing.T, w *fakeWorld) {
			foreign := fakeRun("s", "u9")
			stands("False", "Failed", "foreign")(foreign)
			w.api.put(runs+"/s", foreign)
			time.Sleep(time.Minute)
			w.api.edit(runs+"/r", stands("True", "Succeeded", ""))
		}, nil},
		"nothing happens for a day": {sentry.Succeeded, func(t *testing.T, w *fakeWorld) {
			time.Sleep(24 * time.Hour)
			if n := w.api.count(""); n > 2000 {
				t.Errorf("%d requests in a day", n)
			}
			w.api.edit(runs+"/r", stands("True", "Succeeded", ""))
		}, nil},
		"the watch goes deaf": {sentry.Succeeded, func(t *testing.T, w *fakeWorld) {
			w.api.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.URL.Query().Get("watch") == "" {
					return false
				}
				rw.(http.Flusher).Flush()
				<-r.Context().Done()
				return true
			})
			w.api.cutWatches()
			time.Sleep(time.Minute)
			w.api.edit(runs+"/r", stands("True", "Succeeded", ""))
		}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newFakeWorld(t)
				w.track(t.Context(), recorded("r", "u1"))
				time.Sleep(time.Second)
				w.api.edit(runs+"/r", stands("Unknown", "Running", "Tasks Completed: 0"))
				time.Sleep(time.Second)
				test.play(t, w)
				began := time.Now()
				if run := w.over(); run.Status != test.status {
					t.Errorf("%s, %q; want %s\n%s", run.Status, run.Reason, test.status, w.log.String())
				}
				if d := time.Since(began); d > 2*safetyPoll {
					t.Errorf("told only after %s", d)
				}
				w.logged(test.logged...)
				if n := w.api.atOnce(); n > 1 {
					t.Errorf("%d watches at once", n)
				}
			})
		})
	}
}

// TestTrackStarts is where the run is not as it was recorded when tracking begins.
func TestTrackStarts(t *testing.T) {
	tests := map[string]struct {
		prepare func(w *fakeWorld)
		run     sentry.PipelineRun
		status  sentry.Status
		uid     string
	}{
		"it has ended":       {func(w *fakeWorld) { w.api.edit(runs+"/r", stands("True", "Succeeded", "")) }, recorded("r", "u1"), sentry.Succeeded, "u1"},
		"it is gone":         {func(w *fakeWorld) { w.api.drop(runs + "/r") }, recorded("r", "u1"), sentry.Failed, "u1"},
		"it is another":      {func(w *fakeWorld) { w.api.edit(runs+"/r", stands("True", "Succeeded", "")) }, recorded("r", "u0"), sentry.Failed, "u0"},
		"an intent that was": {func(w *fakeWorld) { w.api.edit(runs+"/r", stands("True", "Succeeded", "")) }, sentry.PipelineRun{Namespace: ns, Nonce: "nonce-u1", Status: sentry.Pending}, sentry.Succeeded, "u1"},
		"an intent whose run has children": {func(w *fakeWorld) {
			w.api.edit(runs+"/r", stands("True", "Succeeded", ""))
			child := fakeRun("a-child", "u2") // its name comes first, and its second is the same
			child["metadata"].(object)["labels"].(object)[LabelRequest] = "nonce-u1"
			child["metadata"].(object)["ownerReferences"] = []object{{"uid": "u1", "controller": true}}
			stands("False", "Failed", "")(child)
			w.api.put(runs+"/a-child", child)
		}, sentry.PipelineRun{Namespace: ns, Nonce: "nonce-u1", Status: sentry.Pending}, sentry.Succeeded, "u1"},
		"an intent that was not": {func(w *fakeWorld) {}, sentry.PipelineRun{Namespace: ns, Nonce: "nonce-u7", Status: sentry.Pending}, sentry.Skipped, ""},
		"v1beta1 only": {func(w *fakeWorld) {
			w.api.served = []string{"v1beta1"}
			o := fakeRun("r", "u1")
			stands("True", "Succeeded", "")(o)
			o["status"].(object)["pipelineResults"] = []object{{"name": "digest", "value": "sha256:1"}}
			w.api.put(strings.Replace(runs, "/v1/", "/v1beta1/", 1)+"/r", o)
		}, recorded("r", "u1"), sentry.Succeeded, "u1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newFakeWorld(t)
				test.prepare(w)
				w.track(t.Context(), test.run)
				run := w.over()
				if run.Status != test.status || run.UID != test.uid {
					t.Errorf("%s %s %q\n%s", run.Status, run.UID, run.Reason, w.log.String())
				}
				if name == "v1beta1 only" && (len(run.Results) != 1 || run.Results[0].Value != "sha256:1") {
					t.Errorf("results: %+v", run.Results)
				}
			})
		})
	}
}

// TestTrackTells is what becomes of a failing run's tasks, results and logs.
func TestTrackTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWorld(t)
		w.api.texts["/api/v1/namespaces/ci/pods/r-test-pod/log"] = "first\n\x1b[2Jlast words\n"
		w.track(t.Context(), recorded("r", "u1"))
		hostile := "bad \x1b[31m\u202e\xff news\nsecond line" + strings.Repeat("é", 5000)
		test := fakeTask("r-test", "test", "u1", "r")
		stands("False", "Failed", `"step-run" exited with code 7`)(test)
		test["status"].(object)["podName"] = "r-test-pod"
		test["status"].(object)["retriesStatus"] = []object{{"podName": "r-test-pod-0"}}
		test["status"].(object)["steps"] = []object{
			{"name": "prepare", "container": "step-prepare", "terminated": object{"exitCode": 0}},
			{"name": "run", "container": "step-run", "terminated": object{"exitCode": 7}},
		}
		test["status"].(object)["results"] = []object{{"name": "TEST_OUTPUT", "value": `{"result":"FAILURE","timestamp":"1700000000","successes":3,"failures":1,"warnings":0,"note":"see it"}`}}
		w.api.put(taskruns+"/r-test", test)
		build := fakeTask("r-build", "build", "u1", "r")
		stands("True", "Succeeded", "fine")(build)
		build["metadata"].(object)["labels"] = object{} // only the reference leads to it
		w.api.put(taskruns+"/r-build", build)
		w.api.put(taskruns+"/foreign", fakeTask("foreign", "foreign", "u9", "r"))
		w.api.edit(runs+"/r", func(o object) {
			stands("False", "Failed", hostile)(o)
			s := o["status"].(object)
			s["childReferences"] = []object{
				{"kind": "TaskRun", "apiVersion": "tekton.dev/v1", "name": "r-build", "pipelineTaskName": "build"},
				{"kind": "TaskRun", "apiVersion": "tekton.dev/v1", "name": "r-test", "pipelineTaskName": "test"},
				{"kind": "TaskRun", "apiVersion": "tekton.dev/v1", "name": "r-lost", "pipelineTaskName": "lost"},
			}
			s["skippedTasks"] = []object{{"name": "deploy", "reason": "PipelineRun was stopping"}}
			s["results"] = []object{{"name": "list", "value": []string{"a", "b"}}, {"name": "long", "value": strings.Repeat("ü", 5000)}}
		})
		run := w.over()
		if run.Status != sentry.Failed || run.Reason != `task test failed: "step-run" exited with code 7` {
			t.Errorf("%s %q", run.Status, run.Reason)
		}
		var tasks []string
		for _, task := range run.Tasks {
			tasks = append(tasks, fmt.Sprintf("%s %s %d", task.Task, task.Status, task.Retries))
		}
		if got := strings.Join(tasks, ", "); got != "build succeeded 0, test failed 1, lost interrupted 0, deploy skipped 0" && got != "build succeeded 0, test failed 1, deploy skipped 0, lost interrupted 0" {
			t.Errorf("tasks: %s", got)
		}
		if run.Tests == nil || *run.Tests != (sentry.TestSummary{Result: "FAILURE", Passed: 3, Failed: 1, Note: "see it"}) {
			t.Errorf("tests: %+v", run.Tests)
		}
		if len(run.Results) != 2 || run.Results[0].Value != `["a","b"]` || len(run.Results[1].Value) > sentry.MaxResultValue {
			t.Errorf("results: %+v", run.Results)
		}
		w.logged("the end of the log of its step run, which ended with exit code 7:", `test | \x1B[2Jlast words`, "tests: FAILURE: 3 passed, 1 failed")
		if strings.ContainsAny(w.log.String(), "\x1b\u202e") {
			t.Errorf("the log holds what a terminal obeys: %q", w.log.String())
		}
		for _, saved := range w.saved {
			if len(saved[0].Reason) > sentry.MaxTold {
				t.Errorf("a reason of %d bytes", len(saved[0].Reason))
			}
		}
	})
}

// TestTrackWhy is what keeps a run from starting, each told once.
func TestTrackWhy(t *testing.T) {
	task := func(change func(object)) func(w *fakeWorld) {
		return func(w *fakeWorld) {
			w.api.edit(runs+"/r", stands("Unknown", "Running", ""))
			o := fakeTask("r-a", "a", "u1", "r")
			change(o)
			w.api.put(taskruns+"/r-a", o)
		}
	}
	pending := func(o object) {
		stands("Unknown", "Pending", "")(o)
		o["status"].(object)["podName"] = "pod"
	}
	tests := map[string]struct {
		prepare func(w *fakeWorld)
		logged  string
	}{
		"nobody begins it": {func(w *fakeWorld) {}, "is Tekton's controller at work"},
		"pending by its spec": {func(w *fakeWorld) {
			w.api.edit(runs+"/r", func(o object) { o["spec"].(object)["status"] = "PipelineRunPending" })
		}, "its spec.status is PipelineRunPending"},
		"resolver": {func(w *fakeWorld) {
			w.api.edit(runs+"/r", stands("Unknown", "ResolvingPipelineRef", "waiting for the bundle"))
		}, "waiting for the bundle"},
		"quota": {task(stands("Unknown", "ExceededResourceQuota", "pods 3 of 3")), "task a: ExceededResourceQuota: pods 3 of 3"},
		"image": {task(stands("Unknown", "PullImageFailed", "no such image")), "task a: PullImageFailed: no such image"},
		"unschedulable": {func(w *fakeWorld) {
			task(pending)(w)
			w.api.texts["/api/v1/namespaces/ci/pods/pod"] = `{"status":{"conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"0/1 nodes"}]}}`
		}, "task a does not start: Unschedulable: 0/1 nodes"},
		"image, by the pod": {func(w *fakeWorld) {
			task(pending)(w)
			w.api.texts["/api/v1/namespaces/ci/pods/pod"] = `{"status":{"containerStatuses":[{"state":{"waiting":{"reason":"ImagePullBackOff","message":"back-off"}}}]}}`
		}, "task a does not start: ImagePullBackOff: back-off"},
		"by its TaskRun, after a while": {func(w *fakeWorld) {
			task(stands("Unknown", "Pending", "containers with unready status: [step-s]"))(w)
		}, "task a does not start: containers with unready status: [step-s]"},
		"by an event": {func(w *fakeWorld) {
			task(pending)(w)
			w.api.texts["/api/v1/namespaces/ci/events"] = `{"items":[{"reason":"FailedMount","message":"no volume"}]}`
		}, "task a does not start: FailedMount: no volume"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newFakeWorld(t)
				test.prepare(w)
				w.track(t.Context(), recorded("r", "u1"))
				time.Sleep(time.Hour)
				w.logged(test.logged)
				if !w.running() {
					t.Error("it is over")
				}
				w.api.edit(runs+"/r", stands("True", "Succeeded", ""))
				w.over()
			})
		})
	}
}

// TestTrackWhyNot says nothing of what every pod goes through as it starts.
func TestTrackWhyNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWorld(t)
		w.api.edit(runs+"/r", stands("Unknown", "Running", ""))
		starts := fakeTask("r-a", "a", "u1", "r")
		stands("Unknown", "Pending", "containers with unready status: [step-s]")(starts)
		w.api.put(taskruns+"/r-a", starts)
		w.track(t.Context(), recorded("r", "u1"))
		time.Sleep(10 * time.Second)
		w.api.edit(taskruns+"/r-a", stands("Unknown", "Running", "Not all Steps in the Task have finished executing"))
		time.Sleep(time.Hour)
		w.api.edit(runs+"/r", stands("True", "Succeeded", ""))
		w.over()
		if log := w.log.String(); strings.Contains(log, "does not start") {
			t.Errorf("the log says\n%s", log)
		}
	})
}

// TestTrackLateWatch follows a run that the watch shows late: nobody has taken its labels away.
func TestTrackLateWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWorld(t)
		stop, err := w.cluster.Follow("box", ns)
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		time.Sleep(time.Second)
		w.api.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != runs {
				return false
			}
			status(rw, 503, "", "not now")
			return true
		})
		w.api.cutWatches()
		w.api.put(runs+"/late", fakeRun("late", "l1"))
		w.track(t.Context(), recorded("late", "l1"))
		time.Sleep(time.Minute)
		w.api.setFault(nil)
		time.Sleep(time.Minute)
		w.api.edit(runs+"/late", stands("True", "Succeeded", ""))
		if run := w.over(); run.Status != sentry.Succeeded {
			t.Errorf("%s %q", run.Status, run.Reason)
		}
		if log := w.log.String(); strings.Contains(log, "labels") {
			t.Errorf("the log says\n%s", log)
		}
	})
}

// TestTrackShares has many follow runs of a namespace, with one watch, and one that is deleted after its end.
func TestTrackShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWorld(t)
		stop, err := w.cluster.Follow("box", ns)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		early := fakeRun("early", "e1")
		w.api.put(runs+"/early", early)
		time.Sleep(time.Second)
		w.api.edit(runs+"/early", stands("True", "Succeeded", "quick"))
		time.Sleep(time.Second)
		w.api.drop(runs + "/early")
		time.Sleep(time.Second)
		const many = 50
		ends := make(chan sentry.PipelineRun, many)
		for i := range many {
			name := fmt.Sprintf("n%d", i)
			w.api.put(runs+"/"+name, fakeRun(name, "un"+name))
			go func() {
				got, _ := w.cluster.Track(t.Context(), []sentry.PipelineRun{recorded(name, "un"+name)}, TrackOptions{Instance: "box"})
				ends <- got[0]
			}()
		}
		w.track(t.Context(), recorded("early", "e1"))
		if run := w.over(); run.Status != sentry.Succeeded || run.Reason != "quick" {
			t.Errorf("%s %q\n%s", run.Status, run.Reason, w.log.String())
		}
		for i := range many {
			w.api.edit(fmt.Sprintf("%s/n%d", runs, i), stands("True", "Succeeded", ""))
		}
		for range many {
			if run := <-ends; run.Status != sentry.Succeeded {
				t.Errorf("%s: %s %s", run.Name, run.Status, run.Reason)
			}
		}
		stop()
		if w.api.atOnce() != 1 || w.api.count("WATCH") != 1 {
			t.Errorf("%d watches at once, %d in all", w.api.atOnce(), w.api.count("WATCH"))
		}
		if len(w.cluster.tracking.feeds.all) != 0 {
			t.Error("a watch outlives those who wanted it")
		}
	})
}

// TestTrackStops is the end of the context, and of the one who saves.
func TestTrackStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWorld(t)
		why := errors.New("the deployment is over")
		ctx, cancel := context.WithCancelCause(t.Context())
		w.track(ctx, recorded("r", "u1"))
		time.Sleep(time.Second)
		w.api.edit(runs+"/r", stands("Unknown", "Running", "half"))
		time.Sleep(time.Second)
		cancel(why)
		<-w.ended
		if !errors.Is(w.err, why) || w.got[0].Status != sentry.Running || w.got[0].Reason != "half" {
			t.Errorf("%v %+v", w.err, w.got)
		}
		full := errors.New("the disk is full")
		_, err := w.cluster.Track(t.Context(), []sentry.PipelineRun{recorded("r", "u1")}, TrackOptions{Progress: func([]sentry.PipelineRun) error { return full }})
		if !errors.Is(err, full) {
			t.Errorf("%v", err)
		}
	})
}
