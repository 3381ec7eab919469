package kube

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/sentry"
)

// tekton ends what is asked to end, the finally tasks after a while.
func (w *fakeWorld) tekton(ctx context.Context, name string, tidy time.Duration) {
	began := time.Time{}
	for sleep(ctx, 100*time.Millisecond) == nil {
		o := w.api.object(runs + "/" + name)
		if o == nil || o["status"] != nil && o["status"].(object)["completionTime"] != nil {
			continue
		}
		asked, _ := o["spec"].(object)["status"].(string)
		if asked != "" && began.IsZero() {
			began = time.Now()
		}
		if asked == specCancel || asked == specCancelTidy && time.Since(began) > tidy {
			w.api.edit(runs+"/"+name, stands("False", "Cancelled", "was cancelled"))
		}
	}
}

func TestCancel(t *testing.T) {
	tests := map[string]struct {
		tidy    time.Duration // that the finally tasks take; none: Tekton is at rest
		prepare func(w *fakeWorld)
		run     sentry.PipelineRun
		within  time.Duration
		status  sentry.Status
		asked   string // spec.status at the end
		err     string
	}{
		"tidily":         {tidy: time.Second, within: time.Hour, status: sentry.Canceled, asked: specCancelTidy},
		"harder":         {tidy: time.Hour, within: time.Hour, status: sentry.Canceled, asked: specCancel},
		"little time":    {tidy: time.Hour, within: 10 * time.Second, status: sentry.Canceled, asked: specCancel},
		"Tekton is away": {within: time.Minute, status: sentry.Pending, asked: specCancel, err: "pipeline run ci/r (u1) may still be running: it has not ended yet"},
		"it had ended": {tidy: 1, within: time.Hour, status: sentry.Succeeded, prepare: func(w *fakeWorld) {
			w.api.edit(runs+"/r", stands("True", "Succeeded", "fine"))
		}},
		"it is gone":             {tidy: 1, within: time.Hour, status: sentry.Canceled, prepare: func(w *fakeWorld) { w.api.drop(runs + "/r") }},
		"another has its name":   {tidy: 1, within: time.Hour, status: sentry.Canceled, run: recorded("r", "u0")},
		"an intent that was":     {tidy: 1, within: time.Hour, status: sentry.Canceled, asked: specCancelTidy, run: sentry.PipelineRun{Namespace: ns, Nonce: "nonce-u1", Status: sentry.Pending}},
		"an intent that was not": {tidy: 1, within: time.Hour, status: sentry.Skipped, run: sentry.PipelineRun{Namespace: ns, Nonce: "nonce-u9", Status: sentry.Pending}},
		"somebody wants it to pause": {tidy: time.Second, within: time.Hour, status: sentry.Canceled, asked: specCancelTidy, prepare: func(w *fakeWorld) {
			w.api.edit(runs+"/r", func(o object) { o["spec"].(object)["status"] = specPending })
		}},
		"the server is away": {tidy: time.Second, within: time.Hour, status: sentry.Canceled, prepare: func(w *fakeWorld) {
			end := time.Now().Add(10 * time.Minute)
			w.api.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				if time.Now().After(end) {
					return false
				}
				status(rw, 503, "", "not now")
				return true
			})
		}, asked: specCancelTidy},
		"the patch is refused": {tidy: time.Second, within: time.Minute, status: sentry.Pending, err: "cannot patch", prepare: func(w *fakeWorld) {
			w.api.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPatch {
					status(rw, 403, "r", "cannot patch")
				}
				return r.Method == http.MethodPatch
			})
		}},
		"it ends before the patch": {tidy: time.Second, within: time.Hour, status: sentry.Succeeded, prepare: func(w *fakeWorld) {
			w.api.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPatch {
					w.api.edit(runs+"/r", stands("True", "Succeeded", "fine"))
					status(rw, 400, "r", "once the PipelineRun is complete, no updates are allowed")
				}
				return r.Method == http.MethodPatch
			})
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newFakeWorld(t)
				if test.prepare != nil {
					test.prepare(w)
				}
				run := test.run
				if run.Namespace == "" {
					run = recorded("r", "u1")
				}
				ctx, cancel := context.WithTimeout(t.Context(), test.within)
				defer cancel()
				if test.tidy > 0 {
					go w.tekton(ctx, "r", test.tidy)
				}
				var log bytes.Buffer
				began := time.Now()
				got, err := w.cluster.Cancel(ctx, []sentry.PipelineRun{run}, CancelOptions{Log: &log})
				if (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
					t.Errorf("%v; want %q\n%s", err, test.err, log.String())
				}
				if got[0].Status != test.status {
					t.Errorf("%s %q; want %s\n%s", got[0].Status, got[0].Reason, test.status, log.String())
				}
				if test.tidy == time.Hour && time.Since(began) > tidyTime+5*time.Second {
					t.Errorf("it took %s", time.Since(began))
				}
				if o := w.api.object(runs + "/r"); o != nil {
					asked, _ := o["spec"].(object)["status"].(string)
					if asked != test.asked {
						t.Errorf("spec.status is %q; want %q\n%s", asked, test.asked, log.String())
					}
				}
				w.api.setFault(nil)
				if err == nil && got[0].UID != "" {
					again, err := w.cluster.Cancel(ctx, got, CancelOptions{Log: &log})
					if err != nil || again[0].Status != test.status {
						t.Errorf("again: %v %+v", err, again[0])
					}
				}
			})
		})
	}
}

// TestCancelTasks tells of the tasks how they ended, which is after their run.
func TestCancelTasks(t *testing.T) {
	for name, test := range map[string]struct {
		task   time.Duration // ends so long after its run
		denied bool
		want   sentry.Status
	}{
		"soon after it":  {task: 1500 * time.Millisecond, want: sentry.Canceled},
		"much later":     {task: time.Hour, want: sentry.Running},
		"nobody may see": {task: time.Second, denied: true, want: sentry.Running},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newFakeWorld(t)
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				goes := fakeTask("r-a", "a", "u1", "r")
				stands("Unknown", "Running", "Not all Steps in the Task have finished executing")(goes)
				w.api.put(taskruns+"/r-a", goes)
				run := recorded("r", "u1")
				run.Tasks = []sentry.TaskRun{{Task: "a", Name: "r-a", Status: sentry.Running}}
				if test.denied {
					w.api.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
						if strings.HasPrefix(r.URL.Path, taskruns) {
							status(rw, 500, "", "no")
						}
						return strings.HasPrefix(r.URL.Path, taskruns)
					})
				}
				go w.tekton(ctx, "r", time.Second)
				go func() {
					if sleep(ctx, 1500*time.Millisecond+test.task) == nil {
						w.api.edit(taskruns+"/r-a", stands("False", taskCancelled, "was cancelled"))
					}
				}()
				began := time.Now()
				got, err := w.cluster.Cancel(ctx, []sentry.PipelineRun{run}, CancelOptions{})
				if err != nil || got[0].Status != sentry.Canceled || len(got[0].Tasks) != 1 || got[0].Tasks[0].Status != test.want {
					t.Errorf("%+v %v", got[0], err)
				}
				if took := time.Since(began); took > 10*time.Second {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// memory is a Recorder for one run.
type memory struct {
	intent, created sentry.PipelineRun
	dropped         string
}

func (m *memory) Intend(run sentry.PipelineRun) error  { m.intent = run; return nil }
func (m *memory) Created(run sentry.PipelineRun) error { m.created = run; return nil }
func (m *memory) Dropped(nonce string) error           { m.dropped = nonce; return nil }

func TestCreateFaults(t *testing.T) {
	const manifest = `{"apiVersion":"tekton.dev/v1","kind":"PipelineRun","metadata":{"generateName":"r-"},"spec":{}}`
	tests := map[string]struct {
		fault   func(w *fakeWorld, n int32, rw http.ResponseWriter, r *http.Request) bool
		name    string // instead of generateName
		err     string
		dropped bool
	}{
		"nothing": {fault: func(w *fakeWorld, n int32, rw http.ResponseWriter, r *http.Request) bool { return false }},
		"the answer is lost": {fault: func(w *fakeWorld, n int32, rw http.ResponseWriter, r *http.Request) bool {
			if n == 1 {
				w.api.create(rw, r)
				panic(http.ErrAbortHandler)
			}
			return false
		}},
		"the answer is lost, and then the quota is full": {fault: func(w *fakeWorld, n int32, rw http.ResponseWriter, r *http.Request) bool {
			switch n {
			case 1:
				w.api.create(rw, r)
				panic(http.ErrAbortHandler)
			case 2:
				status(rw, 403, "r", "exceeded quota")
				return true
			}
			return false
		}},
		"away for an hour": {fault: func(w *fakeWorld, n int32, rw http.ResponseWriter, r *http.Request) bool {
			if n < 200 {
				status(rw, 503, "", "not now")
			}
			return n < 200
		}},
		"refused": {fault: func(w *fakeWorld, n int32, rw http.ResponseWriter, r *http.Request) bool {
			status(rw, 403, "", "cannot create")
			return true
		}, err: "refuses to create it: cannot create", dropped: true},
		"the name exists": {name: "r", fault: func(w *fakeWorld, n int32, rw http.ResponseWriter, r *http.Request) bool { return false }, err: "use generateName", dropped: true},
		"away for ever": {fault: func(w *fakeWorld, n int32, rw http.ResponseWriter, r *http.Request) bool {
			status(rw, 503, "", "not now")
			return true
		}, err: "nobody knows whether it was created"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newFakeWorld(t)
				var n atomic.Int32
				w.api.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
					if r.Method != http.MethodPost {
						return false
					}
					return test.fault(w, n.Add(1), rw, r)
				})
				text := manifest
				if test.name != "" {
					text = strings.Replace(text, `"generateName":"r-"`, `"name":"`+test.name+`"`, 1)
				}
				var m memory
				ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
				defer cancel()
				documents, err := w.cluster.readManifests([]Manifest{{Name: "f", Data: []byte(text)}}, Identity{Namespaces: []string{ns}})
				if err != nil {
					t.Fatal(err)
				}
				err = w.cluster.createOne(ctx, w.cluster.tracking.api, documents[0], Identity{Instance: "box"}, &m)
				if (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
					t.Errorf("%v; want %q", err, test.err)
				}
				if m.intent.Nonce == "" || m.intent.UID != "" || (m.dropped != "") != test.dropped {
					t.Errorf("%+v", m)
				}
				if test.err != "" {
					return
				}
				o := w.api.object(runs + "/" + m.created.Name)
				if o == nil || o["metadata"].(object)["uid"] != m.created.UID || m.created.Nonce != m.intent.Nonce {
					t.Errorf("%+v, %v", m, o)
				}
				if len(w.api.objects) != 2 {
					t.Errorf("%d runs", len(w.api.objects)-1)
				}
			})
		})
	}
}
