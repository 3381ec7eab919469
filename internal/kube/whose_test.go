package kube

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/sentry"
)

func namespaceWith(uid string) object {
	return object{"metadata": object{"name": "x", "uid": uid, "resourceVersion": "1"}}
}

// TestAnotherClusterProvesNothing: what is not found in another cluster than that of its creation is neither deleted, nor
// canceled, nor never created; in the same one, reached in another way, it is.
func TestAnotherClusterProvesNothing(t *testing.T) {
	forbidden := func(names ...string) func(http.ResponseWriter, *http.Request) bool {
		return func(rw http.ResponseWriter, r *http.Request) bool {
			for _, name := range names {
				if r.URL.Path == "/api/v1/namespaces/"+name {
					status(rw, 403, name, "no")
					return true
				}
			}
			return false
		}
	}
	intent := sentry.PipelineRun{Namespace: ns, Nonce: "nonce-u9", Status: sentry.Pending}
	gone := recorded("gone", "u9")
	for name, c := range map[string]struct {
		run    sentry.PipelineRun
		was    sentry.ClusterID
		fault  func(http.ResponseWriter, *http.Request) bool
		status sentry.Status // as Track has it
		cancel sentry.Status // as Cancel has it
		told   string
	}{
		"the same":                    {run: gone, was: sentry.ClusterID{Server: "https://old", UID: "system"}, status: sentry.Failed, cancel: sentry.Canceled},
		"another":                     {run: gone, was: sentry.ClusterID{Server: "https://old", UID: "other"}, status: sentry.Interrupted, cancel: sentry.Interrupted, told: "https://old (UID other), and Sentry is configured for http://api (UID system)"},
		"another at the address":      {run: gone, was: sentry.ClusterID{Server: "http://api", UID: "other"}, status: sentry.Interrupted, cancel: sentry.Interrupted, told: "http://api (UID other)"},
		"an intent, the same":         {run: intent, was: sentry.ClusterID{UID: "system"}, status: sentry.Skipped, cancel: sentry.Skipped},
		"an intent, another":          {run: intent, was: sentry.ClusterID{Server: "https://old", UID: "other"}, status: sentry.Interrupted, cancel: sentry.Interrupted, told: "https://old"},
		"its name is taken, another":  {run: recorded("r", "u9"), was: sentry.ClusterID{Server: "https://old", UID: "other"}, status: sentry.Interrupted, cancel: sentry.Interrupted, told: "https://old"},
		"few rights, the same":        {run: gone, was: sentry.ClusterID{Server: "https://old", NamespaceUID: "space"}, fault: forbidden("kube-system"), status: sentry.Failed, cancel: sentry.Canceled},
		"few rights, another":         {run: gone, was: sentry.ClusterID{Server: "https://old", NamespaceUID: "other"}, fault: forbidden("kube-system"), status: sentry.Interrupted, cancel: sentry.Interrupted, told: "namespace with UID space"},
		"no rights, the same address": {run: gone, was: sentry.ClusterID{Server: "http://api"}, fault: forbidden("kube-system", ns), status: sentry.Failed, cancel: sentry.Canceled},
		"no rights, another address":  {run: gone, was: sentry.ClusterID{Server: "https://old"}, fault: forbidden("kube-system", ns), status: sentry.Interrupted, cancel: sentry.Interrupted, told: "https://old"},
		"it is there all the same":    {run: recorded("r", "u1"), was: sentry.ClusterID{UID: "other"}, status: sentry.Succeeded, cancel: sentry.Succeeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newFakeWorld(t)
				w.api.put("/api/v1/namespaces/kube-system", namespaceWith("system"))
				w.api.put("/api/v1/namespaces/"+ns, namespaceWith("space"))
				w.api.edit(runs+"/r", stands("True", "Succeeded", ""))
				w.api.setFault(c.fault)
				c.run.Cluster = &c.was
				w.track(t.Context(), c.run)
				run := w.over()
				if run.Status != c.status || !strings.Contains(run.Reason, c.told) {
					t.Errorf("followed, it is %s: %s", run.Status, run.Reason)
				}
				canceled, err := w.cluster.Cancel(t.Context(), []sentry.PipelineRun{c.run}, CancelOptions{})
				if canceled[0].Status != c.cancel || (err != nil) != (c.cancel == sentry.Interrupted) {
					t.Errorf("canceled, it is %s: %s, %v", canceled[0].Status, canceled[0].Reason, err)
				}
			})
		})
	}
}

// TestMarkOfACluster is what is recorded before a creation: what can be had in time, once.
func TestMarkOfACluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWorld(t)
		w.api.setFault(func(rw http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true })
		began := time.Now()
		for range 3 {
			if id := w.cluster.mark(t.Context(), ns); id.Server != "http://api" || id.UID != "" {
				t.Errorf("the server is away: %s", id)
			}
		}
		if took := time.Since(began); took != markTime {
			t.Errorf("to find out nothing took %s", took)
		}
		w.api.setFault(nil)
		w.api.put("/api/v1/namespaces/kube-system", namespaceWith("system"))
		w.api.put("/api/v1/namespaces/"+ns, namespaceWith("space"))
		time.Sleep(markPause)
		before := w.api.count("GET")
		for range 3 {
			if id := w.cluster.mark(t.Context(), ns); id.UID != "system" || id.NamespaceUID != "space" {
				t.Errorf("it is %s", id)
			}
		}
		if n := w.api.count("GET") - before; n != 2 {
			t.Errorf("%d questions", n)
		}
	})
}

// TestCredentialsThatCannotBeUsed decide nothing: neither a file that is missing for a while, nor a token that is refused.
func TestCredentialsThatCannotBeUsed(t *testing.T) {
	unauthorized := func(rw http.ResponseWriter, r *http.Request) bool {
		status(rw, 401, "", "Unauthorized")
		return true
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, w *fakeWorld) (mend func())
		told  string
	}{
		"refused": {func(t *testing.T, w *fakeWorld) func() {
			w.api.setFault(unauthorized)
			return func() { w.api.setFault(nil) }
		}, "the API server refuses to show the pipeline runs of namespace " + ns + ": Unauthorized (401)"},
		"a file is missing": {func(t *testing.T, w *fakeWorld) func() {
			client := w.cluster.tracking.api
			w.cluster.tracking.api = nil
			file := filepath.Join(t.TempDir(), "ca.crt")
			w.cluster.config.CAFile = file
			return func() {
				// What the file then makes is no connection to this server: it is put in place of it.
				w.cluster.tracking.mu.Lock()
				defer w.cluster.tracking.mu.Unlock()
				if _, err := os.Stat(file); err == nil {
					t.Error("it was made")
				}
				w.cluster.tracking.api = client
			}
		}, "cannot use the credentials of the Kubernetes cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newFakeWorld(t)
				mend := c.spoil(t, w)
				w.api.edit(runs+"/r", stands("True", "Succeeded", ""))
				var told []string
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
				defer cancel()
				ended := make(chan []sentry.PipelineRun)
				go func() {
					got, err := w.cluster.Track(ctx, []sentry.PipelineRun{recorded("r", "u1")}, TrackOptions{
						Log: &w.log, Away: func(why string) { told = append(told, why) },
					})
					if err != nil {
						t.Errorf("track: %v", err)
					}
					ended <- got
				}()
				time.Sleep(time.Hour)
				synctest.Wait()
				if len(told) != 1 || !strings.HasPrefix(told[0], c.told) {
					t.Errorf("after an hour was told %q", told)
				}
				mend()
				if run := (<-ended)[0]; run.Status != sentry.Succeeded {
					t.Errorf("it is %s: %s", run.Status, run.Reason)
				}
				if len(told) != 2 || told[1] != "" {
					t.Errorf("in the end was told %q", told)
				}
				w.logged(c.told)
			})
		})
	}
}
