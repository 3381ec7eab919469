package kube

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func encode64(raw []byte) string { return base64.StdEncoding.EncodeToString(raw) }

const runsPath = "/apis/tekton.dev/v1/namespaces/qa/pipelineruns"

// sentObject is what the tests look at of an object.
type sentObject struct {
	Kind     string         `json:"kind"`
	Metadata objectMeta     `json:"metadata"`
	Spec     map[string]any `json:"spec"`
}

func readObject(t *testing.T, text []byte) (o sentObject) {
	t.Helper()
	if err := json.Unmarshal(text, &o); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return o
}

// creates answers a creation as the API server does, and a question for the label with nothing.
func creates(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.Method == http.MethodGet {
		fmt.Fprint(w, `{"kind":"PartialObjectMetadataList","items":[]}`)
		return
	}
	var o map[string]any
	body, _ := io.ReadAll(r.Body)
	if err := json.Unmarshal(body, &o); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	meta, _ := o["metadata"].(map[string]any)
	if generate, ok := meta["generateName"].(string); ok {
		meta["name"] = generate + "x7k2p"
	}
	meta["uid"], meta["namespace"] = "uid-1", "qa"
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(o)
}

func TestCreateRecords(t *testing.T) {
	r := newRig(t, Options{}, creates)
	recorder := &records{}
	c := r.open(Identity{}, recorder)
	for _, version := range []string{"v1", "v1beta1"} {
		path := "/apis/tekton.dev/" + version + "/namespaces/qa/pipelineruns"
		code, body := c.ask("POST", path+"?fieldManager=kubectl-create&fieldValidation=Strict", `{"kind":"PipelineRun","metadata":{"generateName":"build-"},"spec":{"n":1.0}}`, "Content-Type: application/json")
		if code != http.StatusCreated {
			t.Fatalf("%d %s", code, body)
		}
		if diff := cmp.Diff([]string{"intend qa", "created qa/build-x7k2p uid-1"}, recorder.take(t)); diff != "" {
			t.Error(diff)
		}
		seen := r.requests()
		if len(seen) != 1 || seen[0].uri != path+"?fieldManager=kubectl-create&fieldValidation=Strict" || seen[0].proto != "HTTP/2.0" {
			t.Fatalf("%+v", seen)
		}
		o := readObject(t, seen[0].body)
		nonce := o.Metadata.Labels[LabelRequest]
		want := map[string]string{
			LabelInstance: "inst", LabelRollout: "12", LabelDeployment: "12-a-1", LabelRepository: "a", LabelGroup: "g", LabelAttempt: "1", LabelRequest: nonce,
		}
		if diff := cmp.Diff(want, o.Metadata.Labels); diff != "" || len(nonce) < 20 {
			t.Errorf("nonce %q: %s", nonce, diff)
		}
		if !strings.Contains(o.Metadata.Annotations[AnnotationOrigin], `"commit":"c0ffee"`) || !strings.Contains(string(seen[0].body), `"spec":{"n":1.0}`) {
			t.Errorf("%s", seen[0].body)
		}
	}
	if n := strings.Count(r.log.String(), `msg="a change to the cluster" group=g rollout=12 deployment=12-a-1 repository=a attempt=1 verb=create resource=pipelineruns.tekton.dev namespace=qa name=build-x7k2p status=201`); n != 2 {
		t.Errorf("%d lines in the log:\n%s", n, r.log)
	}
}

// Durable before act: what the recorder knows at the moment at which the API server, and then the client, learn of it.
func TestCreateOrder(t *testing.T) {
	recorder := &records{}
	var atServer []string
	r := newRig(t, Options{}, func(w http.ResponseWriter, req *http.Request) {
		recorder.mu.Lock()
		atServer = slices.Clone(recorder.list)
		recorder.mu.Unlock()
		creates(w, req)
	})
	c := r.open(Identity{}, recorder)
	c.ask("POST", runsPath, `{"metadata":{"name":"b"}}`)
	if !slices.Equal(atServer, []string{"intend qa"}) {
		t.Errorf("the API server was asked when the recorder knew %q", atServer)
	}
	recorder.take(t)

	recorder.fail = map[string]error{"intend": errors.New("disk full, says " + canary)}
	code, body := c.ask("POST", runsPath, `{"metadata":{"name":"b"}}`)
	r.requests()
	if s := readStatus(t, body); code != 500 || s.Reason != "InternalError" {
		t.Errorf("no intent: %d %s", code, body)
	}
	if seen := r.requests(); len(seen) != 0 || len(recorder.take(t)) != 0 {
		t.Errorf("it was asked for without an intent: %+v", seen)
	}

	recorder.fail = map[string]error{"created": errors.New("disk full")}
	code, body = c.ask("POST", runsPath, `{"metadata":{"name":"b"}}`)
	if s := readStatus(t, body); code != 500 || !strings.Contains(s.Message, "the PipelineRun b was created, but Sentry could not record it") {
		t.Errorf("not recorded: %d %s", code, body)
	}
	if got := recorder.take(t); !slices.Equal(got, []string{"intend qa"}) {
		t.Errorf("%q: the intent must stay", got)
	}
}

// TestCreateEnds tells what is recorded for each way in which a creation may end.
func TestCreateEnds(t *testing.T) {
	const found = `{"kind":"PartialObjectMetadataList","items":[{"metadata":{"name":"b","namespace":"qa","uid":"uid-2"}}]}`
	const none = `{"kind":"PartialObjectMetadataList","items":[]}`
	plain := func(code int, body string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			io.WriteString(w, body)
		}
	}
	for _, c := range []struct {
		name   string
		answer func(http.ResponseWriter)
		byName string // what a question for the label gives; "" is an error
		code   int
		want   []string
	}{
		{"created", plain(201, `{"metadata":{"name":"b","uid":"u"}}`), none, 201, []string{"intend qa", "created qa/b u"}},
		{"accepted", plain(202, `{"metadata":{"name":"b","uid":"u"}}`), none, 202, []string{"intend qa", "created qa/b u"}},
		{"a table", plain(201, `{"kind":"Table","rows":[{"object":{"metadata":{"name":"b","uid":"u"}}}]}`), none, 201, []string{"intend qa", "created qa/b u"}},
		{"a table without objects", plain(201, `{"kind":"Table","rows":[{"cells":[]}]}`), found, 201, []string{"intend qa", "created qa/b uid-2"}},
		{"no object in the answer", plain(201, `{}`), "", 500, []string{"intend qa"}},
		{"nonsense", plain(201, `{`), found, 201, []string{"intend qa", "created qa/b uid-2"}},
		{"YAML", func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/yaml")
			w.WriteHeader(201)
			io.WriteString(w, "metadata:\n  name: b\n  uid: u\n")
		}, none, 201, []string{"intend qa", "created qa/b u"}},
		{"bad request", plain(400, `{}`), none, 400, []string{"intend qa", "dropped"}},
		{"forbidden", plain(403, `{}`), none, 403, []string{"intend qa", "dropped"}},
		{"credentials refused", plain(401, `{"message":"`+canary+`"}`), none, 503, []string{"intend qa", "dropped"}},
		{"no such resource", plain(404, `{}`), none, 404, []string{"intend qa", "dropped"}},
		{"invalid", plain(422, `{}`), none, 422, []string{"intend qa", "dropped"}},
		{"too many", plain(429, `{}`), none, 429, []string{"intend qa", "dropped"}},
		{"moved", func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://elsewhere.example/")
			w.WriteHeader(307)
		}, none, 307, []string{"intend qa", "dropped"}},
		{"exists", plain(409, `{"kind":"Status","reason":"AlreadyExists"}`), none, 409, []string{"intend qa", "dropped"}},
		{"exists, and is ours", plain(409, `{}`), found, 409, []string{"intend qa", "created qa/b uid-2"}},
		{"exists, and nobody knows whose", plain(409, `{}`), "", 409, []string{"intend qa"}},
		{"timeout", plain(408, `{}`), none, 408, []string{"intend qa"}},
		{"broken", plain(500, `{"kind":"Status","message":"etcdserver: request timed out"}`), none, 500, []string{"intend qa"}},
		{"overloaded", plain(503, `{}`), none, 503, []string{"intend qa"}},
		{"late", plain(504, `{}`), none, 504, []string{"intend qa"}},
		{"connection lost", func(w http.ResponseWriter) { panic(http.ErrAbortHandler) }, none, 504, []string{"intend qa"}},
		{"cut in the middle", func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(201)
			io.WriteString(w, `{"metadata":{"name":"b",`)
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, found, 504, []string{"intend qa", "created qa/b uid-2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			recorder := &records{}
			r := newRig(t, Options{}, func(w http.ResponseWriter, req *http.Request) {
				if req.Method != http.MethodGet {
					c.answer(w)
					return
				}
				if c.byName == "" {
					w.WriteHeader(500)
				}
				io.WriteString(w, c.byName)
			})
			code, body := r.open(Identity{}, recorder).ask("POST", runsPath, `{"metadata":{"name":"b"}}`)
			if code != c.code {
				t.Errorf("the client gets %d %s, want %d", code, body, c.code)
			}
			if got := recorder.take(t); !slices.Equal(got, c.want) {
				t.Errorf("recorded is %q, want %q", got, c.want)
			}
			for _, a := range r.requests() {
				if a.method == "GET" && !strings.HasPrefix(a.uri, runsPath+"?labelSelector=sentry.dev%2Frequest%3D") {
					t.Errorf("asked for %s", a.uri)
				}
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		recorder := &records{}
		r := newRig(t, Options{}, creates)
		c := r.open(Identity{}, recorder)
		r.api.Close()
		code, body := c.ask("POST", runsPath, `{"metadata":{"name":"b"}}`)
		if s := readStatus(t, body); code != 503 || !strings.HasSuffix(s.Message, "cannot ask the Kubernetes API server: nobody answers at its address") {
			t.Errorf("%d %s", code, body)
		}
		if got := recorder.take(t); !slices.Equal(got, []string{"intend qa", "dropped"}) {
			t.Errorf("recorded is %q", got)
		}
	})
}

// What is no creation of a PipelineRun is not recorded, and not changed.
func TestCreateNot(t *testing.T) {
	for _, c := range []struct{ name, method, path, media, body string }{
		{"dry run", "POST", runsPath + "?dryRun=All", "application/json", `{"metadata":{"name":"b"}}`},
		{"status", "PUT", runsPath + "/b/status", "application/json", `{"metadata":{"name":"b"}}`},
		{"subresource", "POST", runsPath + "/b/finalizers", "application/json", `{"metadata":{"name":"b"}}`},
		{"update", "PUT", runsPath + "/b", "application/json", `{"metadata":{"name":"b"}}`},
		{"merge patch", "PATCH", runsPath + "/b", "application/merge-patch+json", `{"metadata":{"labels":{"a":"b"}}}`},
		{"JSON patch", "PATCH", runsPath + "/b", "application/json-patch+json", `[]`},
		{"delete", "DELETE", runsPath + "/b", "application/json", `{"kind":"DeleteOptions"}`},
		{"a pipeline", "POST", "/apis/tekton.dev/v1/namespaces/qa/pipelines", "application/json", `{"metadata":{"name":"b"}}`},
		{"a task", "POST", "/apis/tekton.dev/v1/namespaces/qa/tasks", "application/json", `{"metadata":{"name":"b"}}`},
		{"an event", "POST", "/api/v1/namespaces/qa/events", "application/json", `{"metadata":{"name":"b"}}`},
		{"a review", "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "application/json", `{"spec":{}}`},
		{"a record of Helm", "POST", "/api/v1/namespaces/qa/secrets", "application/json", `{"metadata":{"name":"sh.helm.release.v1.x.v1"},"type":"helm.sh/release.v1"}`},
		{"a token", "POST", "/api/v1/namespaces/qa/serviceaccounts/default/token", "application/json", `{"spec":{}}`},
		{"nonsense", "POST", "/api/v1/namespaces/qa/configmaps", "application/json", `{"metadata":`},
		{"unknown format", "POST", "/api/v1/namespaces/qa/configmaps", "application/x-thing", `thing`},
		{"packed", "POST", "/api/v1/namespaces/qa/configmaps", "", "\x1f\x8b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			recorder := &records{}
			r := newRig(t, Options{}, func(w http.ResponseWriter, req *http.Request) { io.WriteString(w, `{}`) })
			headers := []string{"Content-Type: " + c.media}
			if c.name == "packed" {
				headers = append(headers, "Content-Encoding: gzip")
			}
			if code, body := r.open(Identity{}, recorder).ask(c.method, c.path, c.body, headers...); code != 200 {
				t.Errorf("%d %s", code, body)
			}
			seen := r.requests()
			if len(seen) != 1 || string(seen[0].body) != c.body || seen[0].uri != c.path || seen[0].header.Get("Content-Type") != c.media {
				t.Errorf("%+v", seen)
			}
			if got := recorder.take(t); len(got) > 0 {
				t.Errorf("recorded: %q", got)
			}
		})
	}
}

// A PipelineRun that cannot be marked does not get through.
func TestCreateRefused(t *testing.T) {
	r := newRig(t, Options{}, creates)
	recorder := &records{}
	c := r.open(Identity{}, recorder)
	for _, x := range []struct {
		name, path, body string
		header           []string
		code             int
		want             string
	}{
		{"no JSON", runsPath, `{`, nil, 400, "cannot read the PipelineRun: the body is not valid JSON"},
		{"empty", runsPath, ``, nil, 400, "cannot read the PipelineRun: the body is not valid JSON"},
		{"metadata twice", runsPath, `{"metadata":{},"metadata":{}}`, nil, 400, `"metadata" is there twice`},
		{"bad YAML", runsPath, "a: b: c", []string{"Content-Type: application/yaml"}, 400, "the body is not valid YAML"},
		{"no object", runsPath, "[]", []string{"Content-Type: application/yaml"}, 400, "not an object"},
		{"bad CBOR", runsPath, "\xff", []string{"Content-Type: application/cbor"}, 400, "the body is not valid CBOR"},
		{"protobuf", runsPath, "k8s\x00", []string{"Content-Type: application/vnd.kubernetes.protobuf"}, 415, "cannot record a PipelineRun in the format"},
		{"unknown", runsPath, "x", []string{"Content-Type: text/x"}, 415, "cannot record a PipelineRun in the format"},
		{"no media type", runsPath, "x", []string{"Content-Type: ;;"}, 415, "cannot record a PipelineRun in the format"},
		{"packed", runsPath, "x", []string{"Content-Encoding: gzip"}, 415, "cannot record a PipelineRun in the format"},
		{"too large", runsPath, `{"a":"` + strings.Repeat("x", maxMarked) + `"}`, nil, 413, "a PipelineRun has at most"},
		{"apply, no YAML", runsPath + "/b", "a: b: c", []string{"Content-Type: application/apply-patch+yaml"}, 400, "the body is not valid YAML"},
	} {
		method := "POST"
		if strings.HasPrefix(x.name, "apply") {
			method = "PATCH"
		}
		code, body := c.ask(method, x.path, x.body, x.header...)
		if s := readStatus(t, body); code != x.code || int(s.Code) != code || !strings.Contains(s.Message, x.want) {
			t.Errorf("%s: %d %s, want %d %s", x.name, code, body, x.code, x.want)
		}
		for _, a := range r.requests() {
			if a.method != "GET" {
				t.Errorf("%s: it got through: %s %s", x.name, a.method, a.uri)
			}
		}
		if got := recorder.take(t); len(got) > 0 && !slices.Equal(got, []string{"intend qa", "dropped"}) {
			t.Errorf("%s: recorded: %q", x.name, got)
		}
	}
}
