package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"sentry/internal/forge/forgetest"
	"sentry/internal/sentry"
)

type object = map[string]any

// fakeAPI is an API server at the wire, as far as tracking needs one: collections with resourceVersions, pages, watches
// with selectors, merge patches, and whatever fault a test scripts.
type fakeAPI struct {
	mu      sync.Mutex
	version int
	oldest  int // watches from before get 410
	objects map[string]object
	events  []fakeEvent
	changed chan struct{}
	texts   map[string]string // answers by path that are no objects
	served  []string          // versions of tekton.dev

	fault   func(w http.ResponseWriter, r *http.Request) bool // true: it has answered
	asked   []string
	watches int
	most    int                // watches at once
	cut     context.CancelFunc // ends all watches
	cutting context.Context
}

type fakeEvent struct {
	version  int
	path     string
	was, now object
}

func newFakeAPI() *fakeAPI {
	f := &fakeAPI{version: 100, objects: map[string]object{}, texts: map[string]string{}, changed: make(chan struct{}), served: []string{"v1", "v1beta1"}}
	f.cutting, f.cut = context.WithCancel(context.Background())
	return f
}

const (
	ns       = "ci"
	runs     = "/apis/tekton.dev/v1/namespaces/ci/pipelineruns"
	taskruns = "/apis/tekton.dev/v1/namespaces/ci/taskruns"
)

// put stores an object under its path; nil deletes it.
func (f *fakeAPI) put(name string, o object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.store(name, o)
}

func (f *fakeAPI) store(name string, o object) {
	f.version++
	event := fakeEvent{version: f.version, path: name, was: f.objects[name]}
	if o == nil {
		delete(f.objects, name)
		gone := deepCopy(event.was)
		gone["metadata"].(object)["resourceVersion"] = strconv.Itoa(f.version)
		event.now = nil
		event.was = gone
	} else {
		o = deepCopy(o)
		o["metadata"].(object)["resourceVersion"] = strconv.Itoa(f.version)
		f.objects[name], event.now = o, o
	}
	f.events = append(f.events, event)
	close(f.changed)
	f.changed = make(chan struct{})
}

// edit changes a stored object.
func (f *fakeAPI) edit(name string, change func(object)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := deepCopy(f.objects[name])
	change(o)
	f.store(name, o)
}

func (f *fakeAPI) drop(name string) { f.put(name, nil) }

// compact forgets the history.
func (f *fakeAPI) compact() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version++
	f.oldest, f.events = f.version, nil
}

// cutWatches breaks off every watch.
func (f *fakeAPI) cutWatches() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut()
	f.cutting, f.cut = context.WithCancel(context.Background())
}

func (f *fakeAPI) setFault(fault func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

// object gives what is stored under a path; nil for nothing. It is never changed.
func (f *fakeAPI) object(name string) object {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.objects[name]
}

// atOnce tells how many watches there were at once.
func (f *fakeAPI) atOnce() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.most
}

// count tells how many requests began with that.
func (f *fakeAPI) count(begin string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, one := range f.asked {
		if strings.HasPrefix(one, begin) {
			n++
		}
	}
	return n
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	fault := f.fault
	what := r.Method + " " + r.URL.Path
	if r.URL.Query().Get("watch") != "" {
		what = "WATCH " + r.URL.Path
	}
	f.asked = append(f.asked, what)
	f.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.URL.Path == "/apis/tekton.dev":
		var versions []object
		for _, v := range f.served {
			versions = append(versions, object{"version": v})
		}
		json.NewEncoder(w).Encode(object{"versions": versions})
	case r.URL.Query().Get("watch") != "":
		f.watch(w, r)
	case r.Method == http.MethodPost:
		f.create(w, r)
	case r.Method == http.MethodPatch:
		f.patch(w, r)
	case r.Method == http.MethodDelete:
		f.delete(w, r)
	case f.text(r.URL.Path) != "":
		w.Write([]byte(f.text(r.URL.Path)))
	case f.collection(r.URL.Path):
		f.list(w, r)
	default:
		o := f.object(r.URL.Path)
		if o == nil {
			status(w, 404, path.Base(r.URL.Path), "not found")
			return
		}
		json.NewEncoder(w).Encode(o)
	}
}

func (f *fakeAPI) text(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.texts[name]
}

func (f *fakeAPI) collection(name string) bool {
	return slices.Contains([]string{"pipelineruns", "taskruns", "events", "customruns", "pods", "jobs"}, path.Base(name))
}

func (f *fakeAPI) list(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	names := slices.Sorted(maps.Keys(f.objects))
	items := []object{}
	next := ""
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	for _, name := range names {
		if path.Dir(name) != r.URL.Path || !matches(r.URL.Query().Get("labelSelector"), f.objects[name]) || name <= r.URL.Query().Get("continue") {
			continue
		}
		if limit > 0 && len(items) == limit {
			next = path.Dir(name) + "/" + path.Base(items[len(items)-1]["metadata"].(object)["name"].(string))
			break
		}
		items = append(items, f.objects[name])
	}
	json.NewEncoder(w).Encode(object{
		"kind": "List", "apiVersion": "v1", "metadata": object{"resourceVersion": strconv.Itoa(f.version), "continue": next}, "items": items,
	})
}

func (f *fakeAPI) watch(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	from, _ := strconv.Atoi(query.Get("resourceVersion"))
	seconds, _ := strconv.Atoi(query.Get("timeoutSeconds"))
	f.mu.Lock()
	cutting := f.cutting
	if from < f.oldest {
		f.mu.Unlock()
		status(w, 410, "", "too old resource version")
		return
	}
	f.watches++
	f.most = max(f.most, f.watches)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.watches--
		f.mu.Unlock()
	}()
	end := time.NewTimer(time.Duration(seconds) * time.Second)
	defer end.Stop()
	bookmark := time.NewTicker(time.Minute)
	defer bookmark.Stop()
	w.WriteHeader(200)
	w.(http.Flusher).Flush()
	encoder := json.NewEncoder(w)
	for {
		f.mu.Lock()
		changed, version := f.changed, f.version
		var send []object
		for _, e := range f.events {
			if e.version > from && path.Dir(e.path) == r.URL.Path {
				send = append(send, eventFor(query.Get("labelSelector"), e)...)
			}
		}
		from = version
		f.mu.Unlock()
		for _, e := range send {
			encoder.Encode(e)
		}
		w.(http.Flusher).Flush()
		select {
		case <-changed:
		case <-bookmark.C:
			encoder.Encode(object{"type": "BOOKMARK", "object": object{"kind": "PipelineRun", "metadata": object{"resourceVersion": strconv.Itoa(version)}}})
		case <-end.C:
			return
		case <-cutting.Done():
			panic(http.ErrAbortHandler)
		case <-r.Context().Done():
			return
		}
	}
}

// eventFor is what a watch with a selector sees of a change.
func eventFor(selector string, e fakeEvent) []object {
	was, is := e.was != nil && matches(selector, e.was), e.now != nil && matches(selector, e.now)
	switch {
	case is && was:
		return []object{{"type": "MODIFIED", "object": e.now}}
	case is:
		return []object{{"type": "ADDED", "object": e.now}}
	case was && e.now == nil:
		return []object{{"type": "DELETED", "object": e.was}}
	case was:
		return []object{{"type": "DELETED", "object": e.now}}
	}
	return nil
}

func matches(selector string, o object) bool {
	labels, _ := o["metadata"].(object)["labels"].(object)
	for part := range strings.SplitSeq(selector, ",") {
		key, value, valued := strings.Cut(part, "=")
		if got, there := labels[key]; part != "" && (!there || valued && got != value) {
			return false
		}
	}
	return true
}

func (f *fakeAPI) create(w http.ResponseWriter, r *http.Request) {
	var o object
	if json.NewDecoder(r.Body).Decode(&o) != nil {
		status(w, 400, "", "no JSON")
		return
	}
	if path.Base(r.URL.Path) == "selfsubjectaccessreviews" {
		a := o["spec"].(object)["resourceAttributes"].(object)
		o["status"] = object{"allowed": a["resource"] != "events", "reason": "because"}
		json.NewEncoder(w).Encode(o)
		return
	}
	name := o["metadata"].(object)["name"].(string)
	f.mu.Lock()
	defer f.mu.Unlock()
	full := r.URL.Path + "/" + name
	if f.objects[full] != nil {
		status(w, 409, name, "already exists")
		return
	}
	o["metadata"].(object)["uid"] = fmt.Sprintf("uid-%d", f.version)
	f.store(full, o)
	w.WriteHeader(201)
	json.NewEncoder(w).Encode(f.objects[full])
}

func (f *fakeAPI) patch(w http.ResponseWriter, r *http.Request) {
	var change object
	json.NewDecoder(r.Body).Decode(&change)
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.objects[r.URL.Path]
	if o == nil {
		status(w, 404, path.Base(r.URL.Path), "not found")
		return
	}
	if o["metadata"].(object)["uid"] != change["metadata"].(object)["uid"] {
		status(w, 409, path.Base(r.URL.Path), "Precondition failed: UID in precondition")
		return
	}
	o = deepCopy(o)
	merge(o, change)
	f.store(r.URL.Path, o)
	json.NewEncoder(w).Encode(o)
}

// delete deletes an object at once, of the UID that is named.
func (f *fakeAPI) delete(w http.ResponseWriter, r *http.Request) {
	var options struct{ Preconditions struct{ UID string } }
	json.NewDecoder(r.Body).Decode(&options)
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.objects[r.URL.Path]
	switch {
	case o == nil:
		status(w, 404, path.Base(r.URL.Path), "not found")
	case options.Preconditions.UID != "" && o["metadata"].(object)["uid"] != options.Preconditions.UID:
		status(w, 409, path.Base(r.URL.Path), "Precondition failed: UID in precondition")
	default:
		f.store(r.URL.Path, nil)
		json.NewEncoder(w).Encode(o)
	}
}

func merge(o, change object) {
	for k, v := range change {
		if inner, ok := v.(object); ok {
			if _, there := o[k].(object); !there {
				o[k] = object{}
			}
			merge(o[k].(object), inner)
			continue
		}
		o[k] = v
	}
}

func deepCopy(o object) object {
	data, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	var c object
	if err := json.Unmarshal(data, &c); err != nil {
		panic(err)
	}
	return c
}

// status answers with a Status; about an object where name is not empty.
func status(w http.ResponseWriter, code int, name, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(object{"kind": "Status", "status": "Failure", "code": code, "message": message, "details": object{"name": name}})
}

// fakeRun is a PipelineRun that has just been made.
func fakeRun(name, uid string) object {
	return object{
		"apiVersion": "tekton.dev/v1", "kind": "PipelineRun",
		"metadata": object{
			"namespace": ns, "name": name, "uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z",
			"labels":        object{LabelInstance: "box", LabelRequest: "nonce-" + uid, LabelAttempt: "2"},
			"managedFields": []object{{"manager": "kubectl"}},
		},
		"spec": object{"pipelineSpec": object{"tasks": []object{}}},
	}
}

// condition sets the Succeeded condition; a final one sets the times too.
func stands(status, reason, message string) func(object) {
	return func(o object) {
		s, _ := o["status"].(object)
		if s == nil {
			s = object{}
			o["status"] = s
		}
		s["startTime"] = "2026-01-01T00:00:01Z"
		delete(s, "completionTime")
		if status != "Unknown" {
			s["completionTime"] = "2026-01-01T00:00:11Z"
		}
		s["conditions"] = []object{{"type": "Ready", "status": "False"}, {"type": "Succeeded", "status": status, "reason": reason, "message": message}}
	}
}

// fakeTask is a TaskRun of a run.
func fakeTask(name, task, ownerUID, owner string) object {
	return object{
		"apiVersion": "tekton.dev/v1", "kind": "TaskRun",
		"metadata": object{
			"namespace": ns, "name": name, "uid": "uid-" + name, "ownerReferences": []object{{"uid": ownerUID}},
			"labels": object{"tekton.dev/pipelineRun": owner, "tekton.dev/pipelineTask": task},
		},
	}
}

// fakeWorld is a cluster for one test, with one run "r" in it that is recorded.
type fakeWorld struct {
	*testing.T
	api     *fakeAPI
	cluster *Cluster
	log     lockedBuffer
	ended   chan struct{}
	got     []sentry.PipelineRun
	err     error

	mu    sync.Mutex
	saved [][]sentry.PipelineRun
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newFakeWorld serves a fake API in memory, so that time can be a bubble's.
func newFakeWorld(t *testing.T) *fakeWorld {
	w := &fakeWorld{T: t, api: newFakeAPI()}
	pipe := forgetest.NewPipe()
	server := &http.Server{Handler: w.api, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(pipe)
	}()
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return pipe.DialContext(ctx, network, address)
	}, MaxIdleConnsPerHost: 16}
	w.cluster = &Cluster{config: &rest.Config{Host: "http://api"}, log: slog.New(slog.DiscardHandler)}
	w.cluster.tracking.api = newAPI("http://api", &http.Client{Transport: transport})
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		server.Close()
		pipe.Close()
		<-served
	})
	w.api.put(runs+"/r", fakeRun("r", "u1"))
	return w
}

func recorded(name, uid string) sentry.PipelineRun {
	return sentry.PipelineRun{Namespace: ns, Name: name, UID: uid, APIVersion: "tekton.dev/v1", Attempt: 2, Nonce: "nonce-" + uid, Status: sentry.Pending}
}

// track begins to follow the runs.
func (w *fakeWorld) track(ctx context.Context, all ...sentry.PipelineRun) {
	w.ended = make(chan struct{})
	go func() {
		defer close(w.ended)
		w.got, w.err = w.cluster.Track(ctx, all, TrackOptions{Instance: "box", Log: &w.log, Progress: func(all []sentry.PipelineRun) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.saved = append(w.saved, all)
			return nil
		}})
	}()
}

// over waits for the end, and gives what became of the first run.
func (w *fakeWorld) over() sentry.PipelineRun {
	w.Helper()
	<-w.ended
	if w.err != nil {
		w.Fatalf("track: %v\n%s", w.err, w.log.String())
	}
	return w.got[0]
}

func (w *fakeWorld) running() bool {
	select {
	case <-w.ended:
		return false
	default:
		return true
	}
}

// logged demands that the step log says each text exactly once.
func (w *fakeWorld) logged(texts ...string) {
	w.Helper()
	for _, text := range texts {
		if n := strings.Count(w.log.String(), text); n != 1 {
			w.Errorf("the log says %q %d times:\n%s", text, n, w.log.String())
		}
	}
}
