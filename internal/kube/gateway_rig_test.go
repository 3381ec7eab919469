package kube

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"sentry/internal/sentry"
)

// canary is the credential of the fake API server, that no client may ever see.
const canary = "canary-7b1fe0d1c5"

// rig is a gateway to a fake API server.
type rig struct {
	t       *testing.T
	api     *httptest.Server
	gateway *Gateway
	log     *lockedBuffer

	mu     sync.Mutex
	answer http.HandlerFunc
	asked  []asked
}

// asked is a request that the API server saw.
type asked struct {
	method, uri, proto string
	header             http.Header
	body               []byte
}

// newRig starts an API server that answers with the function, and a gateway to it.
func newRig(t *testing.T, o Options, answer http.HandlerFunc) *rig {
	t.Helper()
	return newRigAs(t, fmt.Sprintf(`{"token": %q}`, canary), o, answer)
}

// newRigAs is newRig with what the kubeconfig says of the user.
func newRigAs(t *testing.T, user string, o Options, answer http.HandlerFunc) *rig {
	t.Helper()
	r := &rig{t: t, answer: answer, log: &lockedBuffer{}}
	r.api = httptest.NewUnstartedServer(http.HandlerFunc(r.serve))
	r.api.EnableHTTP2 = true
	r.api.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	r.api.StartTLS()
	t.Cleanup(r.api.Close)
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.api.Certificate().Raw})
	o.Kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": [{"name": "c", "cluster": {"server": %q, "certificate-authority-data": %q}}],
		"users": [{"name": "u", "user": %s}],
		"contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}`, r.api.URL, encode64(authority), user)
	if err := os.WriteFile(o.Kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Log = slog.New(slog.NewTextHandler(r.log, nil))
	o.UserAgent = ownAgent
	c, err := Connect(o)
	if err != nil {
		t.Fatal(err)
	}
	if r.gateway, err = c.NewGateway(GatewayOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.gateway.Close)
	return r
}

// ownAgent is Sentry itself, which asks which cluster this is before the first creation.
const ownAgent = "sentry/itself"

func (r *rig) serve(w http.ResponseWriter, req *http.Request) {
	if req.UserAgent() == ownAgent && strings.HasPrefix(req.URL.Path, "/api/v1/namespaces/") && strings.Count(req.URL.Path, "/") == 4 {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	body, _ := io.ReadAll(req.Body)
	req.Body = io.NopCloser(bytes.NewReader(body))
	r.mu.Lock()
	r.asked = append(r.asked, asked{req.Method, req.RequestURI, req.Proto, req.Header.Clone(), body})
	answer := r.answer
	r.mu.Unlock()
	if got := req.Header.Values("Authorization"); !slices.Equal(got, []string{"Bearer " + canary}) {
		r.t.Errorf("%s %s came with the authorization %q", req.Method, req.RequestURI, got)
	}
	answer(w, req)
}

// requests gives what the API server saw since it was last asked for.
func (r *rig) requests() []asked {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.asked
	r.asked = nil
	return list
}

// open opens access for a deployment.
func (r *rig) open(id Identity, recorder Recorder) *client {
	r.t.Helper()
	if id.Deployment == "" {
		id.Instance, id.Rollout, id.Deployment, id.Group, id.Repository, id.Commit, id.Attempt = "inst", "12", "12-a-1", "g", "a", "c0ffee", 1
	}
	a, err := r.gateway.Open(id, recorder)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(a.Close)
	return newClient(r.t, a)
}

// client is a client with the kubeconfig of an access.
type client struct {
	t      *testing.T
	access *Access
	config *rest.Config
	http   *http.Client
}

func newClient(t *testing.T, a *Access) *client {
	t.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig(a.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, access: a, config: config}
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	c.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c
}

// tls gives the configuration to speak with the gateway.
func (c *client) tls(protocols ...string) *tls.Config {
	c.t.Helper()
	config, err := rest.TLSConfigFor(c.config)
	if err != nil {
		c.t.Fatal(err)
	}
	config.NextProtos = protocols
	return config
}

// request makes a request with the token. Headers come as "Name: value".
func (c *client) request(method, path, body string, header ...string) *http.Request {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.config.Host+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.config.BearerToken)
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	return req
}

// do asks and reads the answer. The canary must not be in it.
func (c *client) do(req *http.Request) (*http.Response, string) {
	c.t.Helper()
	resp, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	if all := fmt.Sprint(resp.Header, string(body)); strings.Contains(all, canary) {
		c.t.Errorf("%s %s: the answer tells the credentials: %s", req.Method, req.URL, all)
	}
	return resp, string(body)
}

// ask asks and gives the code and the body of the answer.
func (c *client) ask(method, path, body string, header ...string) (int, string) {
	c.t.Helper()
	resp, text := c.do(c.request(method, path, body, header...))
	return resp.StatusCode, text
}

// readStatus reads a Status; the test ends where there is none.
func readStatus(t *testing.T, body string) metav1.Status {
	t.Helper()
	var s metav1.Status
	if err := json.Unmarshal([]byte(body), &s); err != nil || s.Kind != "Status" || s.APIVersion != "v1" || s.Status != "Failure" {
		t.Fatalf("%q is not a Status: %v", body, err)
	}
	return s
}

// records is a Recorder that remembers what it is told, and can fail.
type records struct {
	mu   sync.Mutex
	list []string // "intend NAMESPACE", "created NAMESPACE/NAME UID", "dropped"
	runs []sentry.PipelineRun
	fail map[string]error // by the first word
	hook func(word string)
}

func (r *records) tell(word, rest string, run sentry.PipelineRun) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hook != nil {
		r.hook(word)
	}
	if err := r.fail[word]; err != nil {
		return err
	}
	r.list = append(r.list, strings.TrimSpace(word+" "+rest))
	r.runs = append(r.runs, run)
	return nil
}

func (r *records) Intend(run sentry.PipelineRun) error {
	return r.tell("intend", run.Namespace, run)
}

func (r *records) Created(run sentry.PipelineRun) error {
	return r.tell("created", run.Namespace+"/"+run.Name+" "+run.UID, run)
}

func (r *records) Dropped(nonce string) error {
	return r.tell("dropped", "", sentry.PipelineRun{Nonce: nonce})
}

// take gives what was told since it was last asked for; of one nonce only.
func (r *records) take(t *testing.T) []string {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, run := range r.runs {
		if run.Nonce == "" || run.Nonce != r.runs[0].Nonce {
			t.Errorf("the nonces are %+v", r.runs)
		}
	}
	list := r.list
	r.list, r.runs = nil, nil
	return list
}
