package kube

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/client-go/tools/clientcmd"
)

func empty(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{}`) }

func TestGatewayToken(t *testing.T) {
	r := newRig(t, Options{Namespaces: []string{"qa", "dev"}}, empty)
	one, two := r.open(Identity{}, nil), r.open(Identity{Namespaces: []string{"dev"}}, nil)
	if one.config.BearerToken == two.config.BearerToken || len(one.config.BearerToken) != 43 {
		t.Errorf("the tokens are %q and %q", one.config.BearerToken, two.config.BearerToken)
	}
	if one.config.CAFile != "" || len(one.config.CAData) == 0 || !strings.HasPrefix(one.config.Host, "https://127.0.0.1:") {
		t.Errorf("the kubeconfig needs more than itself: %+v", one.config)
	}
	for c, want := range map[*client]string{one: "qa", two: "dev"} {
		config, err := clientcmd.NewClientConfigFromBytes(c.access.Kubeconfig())
		if err != nil {
			t.Fatal(err)
		}
		if got, _, err := config.Namespace(); err != nil || got != want {
			t.Errorf("the namespace is %q, want %q: %v", got, want, err)
		}
	}
	const path = "/api/v1/namespaces/dev/pods"
	for _, authorization := range [][]string{
		nil,
		{""},
		{"Bearer"},
		{"Bearer "},
		{"Bearer x"},
		{"Bearer " + canary},
		{"Basic " + one.config.BearerToken},
		{"Bearer " + one.config.BearerToken + "x"},
		{"Bearer " + one.config.BearerToken, "Bearer " + one.config.BearerToken},
	} {
		req := one.request("GET", path, "")
		req.Header["Authorization"] = authorization
		resp, body := one.do(req)
		if s := readStatus(t, body); resp.StatusCode != 401 || s.Code != 401 || s.Reason != metav1.StatusReasonUnauthorized {
			t.Errorf("%q: %d %s", authorization, resp.StatusCode, body)
		}
	}
	if seen := r.requests(); len(seen) > 0 {
		t.Errorf("passed on without a token: %+v", seen)
	}
	if code, _ := one.ask("GET", path, ""); code != 200 {
		t.Errorf("with the token: %d", code)
	}
	one.access.Close()
	one.access.Close()
	if code, _ := one.ask("GET", path, ""); code != 401 {
		t.Errorf("after the end: %d", code)
	}
	if code, _ := two.ask("GET", path, ""); code != 200 {
		t.Errorf("another deployment's token: %d", code)
	}
	if _, err := r.gateway.Open(Identity{Repository: "a", Namespaces: []string{"prod"}}, nil); err == nil ||
		err.Error() != `repository a: its namespace "prod" is not among those of kubernetes.namespaces: qa, dev` {
		t.Errorf("a namespace that the cluster's do not hold: %v", err)
	}
	r.gateway.Close()
	if _, err := r.gateway.Open(Identity{}, nil); err == nil {
		t.Error("a closed gateway opens")
	}
}

// TestGatewayPlugin: where the kubeconfig names a program that gives credentials, as those of clouds do, it is asked once,
// and again when the API server takes them no longer.
func TestGatewayPlugin(t *testing.T) {
	dir := t.TempDir()
	credential, calls := filepath.Join(dir, "credential"), filepath.Join(dir, "calls")
	text := fmt.Sprintf(`{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": %q}}`, canary)
	if err := os.WriteFile(credential, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	user := fmt.Sprintf(`{"exec": {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "IfAvailable",
		"command": "/bin/sh", "args": ["-c", "echo called >> %s; cat %s"]}}`, calls, credential)
	var refuse atomic.Bool
	r := newRigAs(t, user, Options{}, func(w http.ResponseWriter, _ *http.Request) {
		if refuse.Load() {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		io.WriteString(w, `{}`)
	})
	c := r.open(Identity{}, nil)
	for _, step := range []struct {
		refuse bool
		code   int
		calls  int
	}{{false, 200, 1}, {false, 200, 1}, {true, 503, 1}, {false, 200, 2}} {
		refuse.Store(step.refuse)
		code, body := c.ask("GET", "/api/v1/namespaces/qa/pods", "")
		if code != step.code {
			t.Errorf("the answer is %d %s, want %d", code, body, step.code)
		}
		if step.refuse {
			continue // whether it is asked at once, or with the next request, is the library's affair
		}
		said, err := os.ReadFile(calls)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(said), "called"); n != step.calls {
			t.Errorf("the plugin was called %d times, want %d", n, step.calls)
		}
	}
	if strings.Contains(string(c.access.Kubeconfig()), credential) {
		t.Error("the commands' kubeconfig names the plugin's file")
	}
}

func TestGatewayTLS(t *testing.T) {
	r := newRig(t, Options{}, empty)
	c := r.open(Identity{}, nil)
	address := strings.TrimPrefix(c.config.Host, "https://")
	old := c.tls()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if conn, err := tls.Dial("tcp", address, old); err == nil {
		conn.Close()
		t.Error("TLS 1.1 is spoken")
	}
	conn, err := tls.Dial("tcp", address, c.tls("h2"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if conn.ConnectionState().NegotiatedProtocol != "h2" {
		t.Error("HTTP/2 is not spoken")
	}
	leaf := conn.ConnectionState().PeerCertificates[0]
	if leaf.IsCA || leaf.NotBefore.After(time.Now().AddDate(-1, 0, 0)) || leaf.NotAfter.Before(time.Now().AddDate(1, 0, 0)) {
		t.Errorf("the certificate is valid from %v to %v; an authority: %v", leaf.NotBefore, leaf.NotAfter, leaf.IsCA)
	}
	// In plain text there is no answer of the API.
	plain, err := http.Get("http://" + address + "/api")
	if err == nil {
		defer plain.Body.Close()
		if plain.StatusCode != 400 {
			t.Errorf("plain text: %s", plain.Status)
		}
	}
}

func TestGatewayHeaders(t *testing.T) {
	r := newRig(t, Options{Impersonate: "system:serviceaccount:qa:deployer"}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Set-Cookie", "session=1")
		w.Header().Set("Warning", `299 - "old"`)
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusFound)
	})
	c := r.open(Identity{}, nil)
	resp, _ := c.do(c.request("GET", "/api/v1/namespaces/qa/pods", "", "User-Agent: kubectl/v9", "Cookie: a=b", "X-Remote-User: admin", "X-Remote-Group: system:masters",
		"X-Remote-Extra-Scopes: all", "X-Forwarded-For: 10.0.0.1", "X-Original-Url: /api/v1/secrets", "X-Http-Method-Override: DELETE", "Accept: application/json;as=Table", "Audit-Id: mine",
		"Sec-Websocket-Protocol: base64url.bearer.authorization.k8s.io.c2VjcmV0, v5.channel.k8s.io"))
	if resp.StatusCode != 302 || resp.Header.Get("Location") != "/elsewhere" || resp.Header.Get("Warning") != `299 - "old"` || resp.Header.Get("Set-Cookie") != "" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
	seen := r.requests()
	if len(seen) != 1 {
		t.Fatalf("%d requests: a redirect was followed", len(seen))
	}
	want := http.Header{
		"Authorization": {"Bearer " + canary}, "Impersonate-User": {"system:serviceaccount:qa:deployer"}, "User-Agent": {"kubectl/v9"},
		"Accept": {"application/json;as=Table"}, "Audit-Id": {"mine"}, "Sec-Websocket-Protocol": {"v5.channel.k8s.io"},
	}
	if diff := cmp.Diff(want, seen[0].header); diff != "" {
		t.Error(diff)
	}
	own := r.open(Identity{Impersonate: "somebody"}, nil)
	own.ask("GET", "/api/v1/namespaces/qa/pods", "")
	if got := r.requests()[0].header.Get("Impersonate-User"); got != "somebody" {
		t.Errorf("the deployment's own impersonation is %q", got)
	}
	for _, h := range []string{"Impersonate-User: admin", "impersonate-group: system:masters", "Impersonate-Extra-x: y", "Impersonate-Uid: 1"} {
		code, body := c.ask("GET", "/api/v1/namespaces/qa/pods", "", h)
		if s := readStatus(t, body); code != 403 || s.Reason != metav1.StatusReasonForbidden || !strings.Contains(s.Message, "kubernetes.impersonate") {
			t.Errorf("%s: %d %s", h, code, body)
		}
	}
	if seen := r.requests(); len(seen) > 0 {
		t.Errorf("passed on: %+v", seen)
	}
}

func TestGatewayNamespaces(t *testing.T) {
	r := newRig(t, Options{Namespaces: []string{"qa"}}, creates)
	recorder := &records{}
	c := r.open(Identity{}, recorder)
	for _, x := range []struct{ method, path, want string }{
		{"POST", "/apis/tekton.dev/v1/namespaces/prod/pipelineruns", `pipelineruns.tekton.dev is forbidden: Sentry's configuration limits what may be used to kubernetes.namespaces: qa; the namespace "prod" is not allowed`},
		{"GET", "/api/v1/secrets", `secrets is forbidden: Sentry's configuration limits what may be used to kubernetes.namespaces: qa; it is about all namespaces, or about the cluster as a whole`},
		{"DELETE", "/api/v1/namespaces/qa", `namespaces is forbidden: Sentry's configuration limits what may be used to kubernetes.namespaces: qa; namespaces themselves cannot be changed`},
	} {
		code, body := c.ask(x.method, x.path, `{"metadata":{"name":"b"}}`)
		if s := readStatus(t, body); code != 403 || s.Code != 403 || s.Reason != metav1.StatusReasonForbidden || s.Message != x.want {
			t.Errorf("%s %s: %d %s", x.method, x.path, code, body)
		}
	}
	code, body := c.ask("GET", "/api/v1/namespaces/qa/../prod/secrets", "")
	if s := readStatus(t, body); code != 400 || s.Reason != metav1.StatusReasonBadRequest {
		t.Errorf("%d %s", code, body)
	}
	if seen := r.requests(); len(seen) > 0 || len(recorder.take(t)) > 0 {
		t.Errorf("passed on: %+v", seen)
	}
	for _, line := range []string{
		`level=WARN msg="a change to the cluster was refused" group=g rollout=12 deployment=12-a-1 repository=a attempt=1 verb=create resource=pipelineruns.tekton.dev namespace=prod name="" status=403`,
		`level=WARN msg="a change to the cluster was refused" group=g rollout=12 deployment=12-a-1 repository=a attempt=1 verb=delete resource=namespaces namespace=qa name=qa status=403`,
		`msg="an odd request through the gateway to Kubernetes was refused"`,
	} {
		if !strings.Contains(r.log.String(), line) {
			t.Errorf("the log lacks %s:\n%s", line, r.log)
		}
	}
	if strings.Contains(r.log.String(), "secrets") && strings.Contains(r.log.String(), "verb=list") {
		t.Errorf("a read is in the log of changes:\n%s", r.log)
	}
	narrow := r.open(Identity{Namespaces: []string{"qa"}, Repository: "a", Deployment: "x"}, nil)
	if _, body := narrow.ask("GET", "/api/v1/namespaces/dev/pods", ""); !strings.Contains(body, "deploy.kubernetes.namespaces of a: qa") {
		t.Errorf("the narrower rule is not named: %s", body)
	}
}

// Marks in each format, read back as the API server does.
func TestGatewayFormats(t *testing.T) {
	r := newRig(t, Options{}, empty)
	c := r.open(Identity{}, nil)
	const path = "/api/v1/namespaces/qa/configmaps"
	sent := func(media, body string) asked {
		t.Helper()
		if code, answer := c.ask("POST", path, body, "Content-Type: "+media); code != 200 {
			t.Fatalf("%s: %d %s", media, code, answer)
		}
		seen := r.requests()
		if len(seen) != 1 || seen[0].header.Get("Content-Type") != media || seen[0].header.Get("Content-Length") != fmt.Sprint(len(seen[0].body)) {
			t.Fatalf("%s: %+v", media, seen)
		}
		return seen[0]
	}
	check := func(media string, o sentObject) {
		t.Helper()
		want := objectMeta{Name: "b", Labels: c.access.id.Labels(""), Annotations: c.access.id.Annotations()}
		want.Labels["x"] = "y"
		if diff := cmp.Diff(want, o.Metadata); diff != "" {
			t.Errorf("%s: %s", media, diff)
		}
	}
	for _, media := range []string{"application/json", "application/json; charset=utf-8"} {
		check(media, readObject(t, sent(media, `{"metadata":{"name":"b","labels":{"x":"y"}}}`).body))
	}
	check("yaml", readObject(t, sent("application/yaml", "metadata:\n  name: b\n  labels: {x: 'y', sentry.dev/group: false}\n").body))

	raw, err := direct.Marshal(map[string]any{"metadata": map[string]any{"name": "b", "labels": map[string]any{"x": "y"}}, "n": int64(9007199254740993)})
	if err != nil {
		t.Fatal(err)
	}
	var decoded map[string]any
	if err := direct.Unmarshal(sent("application/cbor", string(raw)).body, &decoded); err != nil || decoded["n"] != int64(9007199254740993) {
		t.Fatalf("%+v: %v", decoded, err)
	}
	check("cbor", sentObject{Metadata: formatCBOR.readMeta(mustCBOR(t, decoded))})

	// Protobuf: an object whose first field is an ObjectMeta, as all of the API have it.
	meta := (&metav1.ObjectMeta{Name: "b", Labels: map[string]string{"x": "y", LabelGroup: "false"}})
	inner, err := meta.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	unknown := &runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, Raw: slices.Concat([]byte{0x0a, byte(len(inner))}, inner, []byte{0x12, 0x00})}
	envelope, err := unknown.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got := sent("application/vnd.kubernetes.protobuf", "k8s\x00"+string(envelope)).body
	var back runtime.Unknown
	if err := back.Unmarshal(bytes.TrimPrefix(got, []byte("k8s\x00"))); err != nil || back.Kind != "ConfigMap" || !bytes.HasPrefix(back.Raw, unknown.Raw) {
		t.Fatalf("%+v: %v", back, err)
	}
	added := back.Raw[len(unknown.Raw):]
	if added[0] != 0x0a {
		t.Fatalf("% x", added)
	}
	_, n := consume(added[1:])
	if err := meta.Unmarshal(added[1+n:]); err != nil { // without a reset, as a reader merges
		t.Fatal(err)
	}
	check("protobuf", sentObject{Metadata: objectMeta{Name: meta.Name, Labels: meta.Labels, Annotations: meta.Annotations}})
}

func mustCBOR(t *testing.T, value any) []byte {
	t.Helper()
	raw, err := direct.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// consume reads a varint.
func consume(b []byte) (value uint64, n int) {
	for {
		value |= uint64(b[n]&0x7f) << (7 * n)
		n++
		if b[n-1] < 0x80 {
			return value, n
		}
	}
}

// A server-side apply: what the client owns of the marks afterwards.
func TestGatewayApply(t *testing.T) {
	live := ""
	r := newRig(t, Options{}, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case req.Method == "GET" && live == "":
			w.WriteHeader(404)
		case req.Method == "GET" && live == "forbidden":
			w.WriteHeader(403)
		case req.Method == "GET":
			io.WriteString(w, live)
		default:
			w.WriteHeader(201)
			io.WriteString(w, `{"metadata":{"name":"b","uid":"u"}}`)
		}
	})
	recorder := &records{}
	c := r.open(Identity{}, recorder)
	const theirs = `{"metadata":{"uid":"u0","labels":{"sentry.dev/group":"old","sentry.dev/request":"n0","a":"b"},"annotations":{"sentry.dev/origin":"o","c":"d"}}}`
	const maps = "/api/v1/namespaces/qa/configmaps"
	for _, x := range []struct {
		name, live, path string
		labels           map[string]string
		uid              string
		recorded         []string
	}{
		{"a new run", "", runsPath + "/b?fieldManager=kubectl", nil, "", []string{"intend qa", "created qa/b u"}},
		{"a run that exists", theirs, runsPath + "/b", map[string]string{"sentry.dev/group": "old", "sentry.dev/request": "n0"}, "u0", nil},
		{"a run without marks", `{"metadata":{"uid":"u0"}}`, runsPath + "/b", map[string]string{}, "u0", nil},
		{"a run, dry", theirs, runsPath + "/b?dryRun=All", map[string]string{"sentry.dev/group": "old", "sentry.dev/request": "n0"}, "", nil},
		{"a new run, dry", "", runsPath + "/b?dryRun=All", map[string]string{}, "", nil},
		{"a run that may not be read", "forbidden", runsPath + "/b", nil, "", []string{"intend qa", "created qa/b u"}},
		{"a new map", "", maps + "/b", nil, "", nil},
		{"a map that exists", theirs, maps + "/b", map[string]string{"sentry.dev/group": "old", "sentry.dev/request": "n0"}, "", nil},
		{"a map that may not be read", "forbidden", maps + "/b", map[string]string{}, "", nil},
		{"a status", "", maps + "/b/status", map[string]string{}, "", nil},
	} {
		live = x.live
		if code, body := c.ask("PATCH", x.path, "metadata:\n  name: b\n", "Content-Type: application/apply-patch+yaml"); code != 201 {
			t.Errorf("%s: %d %s", x.name, code, body)
		}
		seen := r.requests()
		last := seen[len(seen)-1]
		if last.uri != x.path || last.header.Get("Content-Type") != "application/apply-patch+yaml" {
			t.Fatalf("%s: %+v", x.name, seen)
		}
		_, object, err := formatYAML.normal(last.body)
		if err != nil {
			t.Fatal(err)
		}
		o := readObject(t, object)
		nonce := o.Metadata.Labels[LabelRequest]
		want := x.labels
		if want == nil {
			want = c.access.id.Labels(nonce)
		}
		if diff := cmp.Diff(want, o.Metadata.Labels, equateEmpty); diff != "" || o.Metadata.UID != x.uid {
			t.Errorf("%s: uid %q, %s", x.name, o.Metadata.UID, diff)
		}
		if (nonce != "" && nonce != "n0") != (len(x.recorded) > 0) {
			t.Errorf("%s: the nonce is %q", x.name, nonce)
		}
		if got := recorder.take(t); !slices.Equal(got, x.recorded) {
			t.Errorf("%s: recorded is %q, want %q", x.name, got, x.recorded)
		}
	}
}

var equateEmpty = cmp.Transformer("nil", func(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
})

// Large bodies are passed on as they come, and what is read of them is bounded.
func TestGatewayBodies(t *testing.T) {
	received := make(chan int, 1)
	r := newRig(t, Options{}, empty)
	c := r.open(Identity{}, nil)
	large := `{"metadata":{"name":"b"},"data":"` + strings.Repeat("x", 10<<20) + `"}`
	for _, method := range []string{"PUT", "POST"} { // neither a known length nor an unknown one matters
		for _, chunked := range []bool{false, true} {
			req := c.request(method, "/api/v1/namespaces/qa/configmaps", large, "Content-Type: application/json")
			if chunked {
				req.ContentLength, req.Body = -1, io.NopCloser(strings.NewReader(large))
			}
			resp, body := c.do(req)
			seen := r.requests()
			if resp.StatusCode != 200 || len(seen) != 1 || string(seen[0].body) != large {
				t.Errorf("%s: %s %.100s", method, resp.Status, body)
			}
		}
	}
	// The first bytes are on their way before the last ones exist.
	first := make(chan string, 1)
	r.api.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		buffer := make([]byte, 5)
		_, _ = io.ReadFull(req.Body, buffer)
		first <- string(buffer)
		n, _ := io.Copy(io.Discard, req.Body)
		received <- int(n)
		io.WriteString(w, "{}")
	})
	reader, writer := io.Pipe()
	req := c.request("PUT", "/api/v1/namespaces/qa/configmaps/b", "")
	req.Body, req.ContentLength = reader, -1
	go func() {
		io.WriteString(writer, "first")
		<-first
		io.WriteString(writer, "rest")
		writer.Close()
	}()
	if resp, _ := c.do(req); resp.StatusCode != 200 || <-received != 4 {
		t.Errorf("%s", resp.Status)
	}
}

// A watch reaches the client event by event, and ends with the access.
func TestGatewayStreams(t *testing.T) {
	events, gone := make(chan string), make(chan struct{}, 1)
	r := newRig(t, Options{Register: prometheus.NewRegistry()}, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "application/json;stream=watch")
		w.WriteHeader(200)
		http.NewResponseController(w).Flush()
		for {
			select {
			case e := <-events:
				io.WriteString(w, e+"\n")
				http.NewResponseController(w).Flush()
			case <-req.Context().Done():
				gone <- struct{}{}
				return
			}
		}
	})
	streams := r.gateway.traffic.streams
	for _, end := range []string{"client", "access"} {
		c := r.open(Identity{}, nil)
		resp, err := c.http.Do(c.request("GET", "/api/v1/namespaces/qa/pods?watch=true", ""))
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(resp.Body)
		for _, e := range []string{"one", "two"} {
			events <- e
			if line, err := lines.ReadString('\n'); err != nil || line != e+"\n" {
				t.Fatalf("%q, %v", line, err)
			}
		}
		if n := testutil.ToFloat64(streams); n != 1 {
			t.Errorf("%v streams are open", n)
		}
		if end == "client" {
			resp.Body.Close()
		} else {
			c.access.Close()
			if rest, err := io.ReadAll(lines); err == nil && len(rest) > 0 {
				t.Errorf("after the end: %q", rest)
			}
			resp.Body.Close()
		}
		<-gone
		c.access.Close() // waits
		if n := testutil.ToFloat64(streams); n != 0 {
			t.Errorf("%s: %v streams are open afterwards", end, n)
		}
	}
	if n := testutil.ToFloat64(r.gateway.traffic.requests.WithLabelValues("watch", "2xx")); n != 2 {
		t.Errorf("%v watches are counted", n)
	}
}

// An upgrade goes over HTTP/1.1, both ways, and ends with the access.
func TestGatewayUpgrade(t *testing.T) {
	ended := make(chan struct{})
	r := newRig(t, Options{}, func(w http.ResponseWriter, req *http.Request) {
		if req.ProtoMajor != 1 || req.Header.Get("Upgrade") != "SPDY/3.1" || req.Header.Get("X-Stream-Protocol-Version") != "v4.channel.k8s.io" {
			t.Errorf("%s %v", req.Proto, req.Header)
		}
		conn, stream, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer close(ended)
		defer conn.Close()
		io.WriteString(stream, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
		stream.Flush()
		_, _ = io.Copy(conn, stream) // an echo
	})
	c := r.open(Identity{}, nil)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(c.config.Host, "https://"), c.tls("http/1.1"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	req := c.request("POST", "/api/v1/namespaces/qa/pods/x/exec?command=sh", "", "Connection: Upgrade", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v4.channel.k8s.io")
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, req)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "SPDY/3.1" {
		t.Fatalf("%+v, %v", resp, err)
	}
	for _, word := range []string{"ping\n", "pong\n"} {
		io.WriteString(conn, word)
		if got, err := reader.ReadString('\n'); err != nil || got != word {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if line := "verb=create resource=pods/exec namespace=qa name=x status=101"; !strings.Contains(r.log.String(), line) {
		t.Errorf("the log lacks %s:\n%s", line, r.log)
	}
	c.access.Close()
	if _, err := reader.ReadByte(); err == nil {
		t.Error("the connection outlives the access")
	}
	<-ended
}

// The API server has hung up, and the client does not: the access can be closed all the same.
func TestGatewayUpgradeHalfClosed(t *testing.T) {
	r := newRig(t, Options{}, func(w http.ResponseWriter, req *http.Request) {
		conn, stream, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(stream, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nbye\n")
		stream.Flush()
		conn.Close()
	})
	c := r.open(Identity{}, nil)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(c.config.Host, "https://"), c.tls("http/1.1"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	req := c.request("POST", "/api/v1/namespaces/qa/pods/x/exec?command=sh", "", "Connection: Upgrade", "Upgrade: SPDY/3.1")
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	if resp, err := http.ReadResponse(reader, req); err != nil || resp.StatusCode != 101 {
		t.Fatalf("%+v, %v", resp, err)
	}
	if rest, err := io.ReadAll(reader); string(rest) != "bye\n" || err != nil {
		t.Fatalf("%q, %v", rest, err)
	}
	closed := make(chan struct{})
	go func() { c.access.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		conn.Close() // so that it can end
		<-closed
		t.Error("the access waits for a client that says nothing")
	}
}

// The end of an access cuts what hangs, and a creation that hangs gets its grace.
func TestGatewayCloseWaits(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	r := newRig(t, Options{}, func(w http.ResponseWriter, req *http.Request) {
		close(asked)
		<-release
		creates(w, req)
	})
	recorder := &records{}
	c := r.open(Identity{}, recorder)
	answered := make(chan int)
	go func() {
		resp, err := c.http.Do(c.request("POST", runsPath, `{"metadata":{"name":"b"}}`))
		if err != nil {
			answered <- 0
			return
		}
		resp.Body.Close()
		answered <- resp.StatusCode
	}()
	<-asked
	closed := make(chan struct{})
	go func() {
		c.access.Close()
		close(closed)
	}()
	for c.http != nil { // until the access is closing: then another request is refused
		if code, _ := c.ask("GET", "/version", ""); code == 401 {
			break
		}
	}
	close(release)
	<-closed
	if got := recorder.take(t); !slices.Equal(got, []string{"intend qa", "created qa/b uid-1"}) {
		t.Errorf("recorded is %q", got)
	}
	<-answered
}

// A client that is gone does not leave a creation unknown.
func TestGatewayClientGone(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	r := newRig(t, Options{}, func(w http.ResponseWriter, req *http.Request) {
		close(asked)
		<-release
		creates(w, req)
	})
	recorder := &records{}
	c := r.open(Identity{}, recorder)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(c.config.Host, "https://"), c.tls("http/1.1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.request("POST", runsPath, `{"metadata":{"name":"b"}}`).Write(conn); err != nil {
		t.Fatal(err)
	}
	<-asked
	conn.Close()
	close(release)
	c.access.Close()
	if got := recorder.take(t); !slices.Equal(got, []string{"intend qa", "created qa/b uid-1"}) {
		t.Errorf("recorded is %q", got)
	}
}

func TestGatewayTooMany(t *testing.T) {
	r := newRig(t, Options{}, func(w http.ResponseWriter, req *http.Request) {
		http.NewResponseController(w).Flush()
		<-req.Context().Done()
	})
	r.gateway.requests = 2
	c := r.open(Identity{}, nil)
	for range 2 {
		resp, err := c.http.Do(c.request("GET", "/api/v1/namespaces/qa/pods?watch=1", ""))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
	}
	code, body := c.ask("GET", "/api/v1/namespaces/qa/pods", "")
	if s := readStatus(t, body); code != 429 || s.Reason != metav1.StatusReasonTooManyRequests {
		t.Errorf("%d %s", code, body)
	}
}

// A mistake in what the gateway calls ends one request, not the process.
func TestGatewayPanic(t *testing.T) {
	r := newRig(t, Options{}, creates)
	recorder := &records{hook: func(string) { panic("a mistake") }}
	c := r.open(Identity{}, recorder)
	code, body := c.ask("POST", runsPath, `{"metadata":{"name":"b"}}`)
	if s := readStatus(t, body); code != 500 || strings.Contains(s.Message, "mistake") {
		t.Errorf("%d %s", code, body)
	}
	if !strings.Contains(r.log.String(), `panic="a mistake"`) {
		t.Errorf("the log does not tell:\n%s", r.log)
	}
	if !r.gateway.marking.TryAcquire(maxMarking) {
		t.Error("memory stays reserved")
	}
}

// Requests that two servers could read in different ways.
func TestGatewaySmuggling(t *testing.T) {
	r := newRig(t, Options{Namespaces: []string{"qa"}}, empty)
	c := r.open(Identity{}, nil)
	const auth = "Host: x\r\nAuthorization: Bearer TOKEN\r\n"
	for name, raw := range map[string]string{
		"two lengths":         "POST /api/v1/namespaces/qa/pods HTTP/1.1\r\n" + auth + "Content-Length: 2\r\nContent-Length: 60\r\n\r\n{}",
		"length and chunks":   "POST /api/v1/namespaces/qa/pods/x/eviction HTTP/1.1\r\n" + auth + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /api/v1/secrets HTTP/1.1\r\nHost: x\r\n\r\n",
		"odd chunks":          "POST /api/v1/namespaces/qa/pods HTTP/1.1\r\n" + auth + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
		"space before colon":  "GET /api/v1/namespaces/qa/pods HTTP/1.1\r\n" + auth + "Impersonate-User : admin\r\n\r\n",
		"absolute form":       "GET https://10.0.0.1/api/v1/namespaces/qa/pods HTTP/1.1\r\n" + auth + "\r\n",
		"connect":             "CONNECT 10.0.0.1:443 HTTP/1.1\r\n" + auth + "\r\n",
		"hop by hop":          "GET /api/v1/secrets HTTP/1.1\r\n" + auth + "Connection: Authorization\r\n\r\n",
		"line feed in a path": "GET /api/v1/namespaces/qa/pods%0d%0aX:y HTTP/1.1\r\n" + auth + "\r\n",
	} {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(c.config.Host, "https://"), c.tls("http/1.1"))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(conn, strings.Replace(raw, "TOKEN", c.config.BearerToken, 1))
		var codes []int
		reader := bufio.NewReader(conn)
		for {
			resp, err := http.ReadResponse(reader, nil)
			if err != nil {
				break
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			codes = append(codes, resp.StatusCode)
			if resp.StatusCode >= 400 || resp.StatusCode == 200 && len(codes) == 2 {
				break
			}
			if resp.StatusCode == 200 {
				_ = conn.SetDeadline(time.Now().Add(200 * time.Millisecond)) // is there a second answer?
			}
		}
		conn.Close()
		for _, a := range r.requests() {
			if name != "length and chunks" || a.uri != "/api/v1/namespaces/qa/pods/x/eviction" {
				t.Errorf("%s: passed on: %s %s %v", name, a.method, a.uri, a.header)
			}
		}
		if name != "length and chunks" && (len(codes) != 1 || codes[0] < 400) {
			t.Errorf("%s: the answers are %v", name, codes)
		}
	}
}

// Nothing is left of a gateway: no goroutine, no descriptor.
func TestGatewayLeavesNothing(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Run("work", func(t *testing.T) {
		var watching atomic.Int32
		r := newRig(t, Options{}, func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Query().Get("watch") != "" {
				watching.Add(1)
				http.NewResponseController(w).Flush()
				<-req.Context().Done()
				return
			}
			creates(w, req)
		})
		for range 3 {
			c := r.open(Identity{}, &records{})
			c.ask("POST", runsPath, `{"metadata":{"name":"b"}}`)
			c.ask("GET", "/apis", "")
			resp, err := c.http.Do(c.request("GET", "/api/v1/namespaces/qa/pods?watch=1", ""))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			idle, err := net.Dial("tcp", strings.TrimPrefix(c.config.Host, "https://"))
			if err != nil {
				t.Fatal(err)
			}
			defer idle.Close()
		}
		r.gateway.Close()
		if _, err := net.DialTimeout("tcp", strings.TrimPrefix(r.gateway.address, "https://"), time.Second); err == nil {
			t.Error("the port is open")
		}
		if watching.Load() != 3 {
			t.Errorf("%d watches", watching.Load())
		}
	})
	goleak.VerifyNone(t, before)
}

func TestGatewayMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	r := newRig(t, Options{Register: registry, Namespaces: []string{"qa"}}, empty)
	c := r.open(Identity{}, nil)
	c.ask("GET", "/api/v1/namespaces/qa/pods", "")
	c.ask("GET", "/api/v1/namespaces/prod/pods", "")
	c.ask("GET", "/healthz", "")
	c.ask("GET", "/version", "")
	c.ask("GET", "/version", "")
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP sentry_kube_discovery_total What clients asked about the API itself: answered from memory (hit), after the API server said that nothing changed (same), or from its answer (miss).
# TYPE sentry_kube_discovery_total counter
sentry_kube_discovery_total{outcome="hit"} 1
sentry_kube_discovery_total{outcome="miss"} 1
# HELP sentry_kube_requests_total Requests through the gateway, by verb and class of the answer.
# TYPE sentry_kube_requests_total counter
sentry_kube_requests_total{code="2xx",verb="get"} 3
sentry_kube_requests_total{code="2xx",verb="list"} 1
sentry_kube_requests_total{code="4xx",verb="list"} 1
`), "sentry_kube_requests_total", "sentry_kube_discovery_total"); err != nil {
		t.Error(err)
	}
	again, err := r.gateway.cluster.NewGateway(GatewayOptions{}) // after a reload
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if again.traffic.requests != r.gateway.traffic.requests {
		t.Error("the next gateway counts for itself")
	}
}

func TestKindOf(t *testing.T) {
	for want, err := range map[string]error{
		"its name cannot be looked up":                                    &net.OpError{Err: &net.DNSError{Err: canary}},
		"it does not answer in time":                                      fmt.Errorf("%s: %w", canary, &net.OpError{Err: timeoutError{}}),
		"the connection was lost, or never made; Sentry's log tells more": errors.New(canary),
	} {
		if got := kindOf(err); got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
}

type timeoutError struct{}

func (timeoutError) Error() string { return canary }
func (timeoutError) Timeout() bool { return true }
