package kube

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestDiscoveryMemory(t *testing.T) {
	var version atomic.Int64
	r := newRig(t, Options{}, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/apis/broken.dev/v1" {
			w.WriteHeader(503)
			io.WriteString(w, "{}")
			return
		}
		tag := `"` + strings.Repeat("v", int(version.Load())+1) + `"`
		w.Header().Set("Content-Type", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
		w.Header().Set("Vary", "Accept")
		w.Header().Set("Etag", tag)
		if req.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		io.WriteString(w, "list "+tag+req.Header.Get("Accept"))
	})
	one, two := r.open(Identity{}, nil), r.open(Identity{}, nil)
	other := r.open(Identity{Impersonate: "somebody"}, nil)
	expect := func(c *client, asked int, want string, path string, header ...string) *http.Response {
		t.Helper()
		resp, body := c.do(c.request("GET", path, "", header...))
		if n := len(r.requests()); n != asked || body != want {
			t.Errorf("%s: the API server is asked %d times, the answer is %q; want %d, %q", path, n, body, asked, want)
		}
		return resp
	}
	resp := expect(one, 1, `list "v"a`, "/apis", "Accept: a")
	if resp.Header.Get("Etag") != `"v"` || resp.Header.Get("Vary") != "Accept" || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json;g=api") {
		t.Errorf("%v", resp.Header)
	}
	again := expect(two, 0, `list "v"a`, "/apis", "Accept: a") // another deployment's
	if again.Header.Get("Etag") != `"v"` || again.Header.Get("Content-Length") != resp.Header.Get("Content-Length") {
		t.Errorf("%v", again.Header)
	}
	expect(one, 1, `list "v"b`, "/apis", "Accept: b")
	expect(one, 1, `list "v"a`, "/apis?x=y", "Accept: a")
	expect(other, 1, `list "v"a`, "/apis", "Accept: a") // somebody else may see something else
	if resp := expect(one, 0, "", "/apis", "Accept: a", `If-None-Match: "v"`); resp.StatusCode != 304 {
		t.Errorf("with the tag: %s", resp.Status)
	}
	if resp := expect(one, 0, `list "v"a`, "/apis", "Accept: a", `If-None-Match: "w"`); resp.StatusCode != 200 {
		t.Errorf("with another tag: %s", resp.Status)
	}
	for range 2 {
		expect(one, 1, "{}", "/apis/broken.dev/v1")
	}

	// A change of the API through the gateway: nothing is believed for a while.
	for _, change := range []string{"/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "/apis/apiregistration.k8s.io/v1/apiservices"} {
		version.Add(1)
		one.ask("POST", change, `{"metadata":{"name":"x"}}`)
		r.requests()
		want := `list "` + strings.Repeat("v", int(version.Load())+1) + `"a`
		expect(two, 1, want, "/apis", "Accept: a")
		expect(two, 1, want, "/apis", "Accept: a") // it is asked again, with the tag
	}
	version.Add(1)
	one.ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?dryRun=All", `{"metadata":{"name":"x"}}`)
}

// The memory by itself: time, bounds, and answers that were overtaken.
func TestDiscoveryBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiscovery(nil)
		keep := func(key string, size int) {
			d.remember(&answer{key: key, body: make([]byte, size), at: time.Now()}, d.forgotN)
		}
		state := func(key string) string {
			a, fresh, _ := d.recall(key)
			switch {
			case a == nil:
				return "unknown"
			case fresh:
				return "fresh"
			}
			return "old"
		}
		keep("a", 10)
		if s := state("a"); s != "fresh" {
			t.Error(s)
		}
		time.Sleep(discoveryFresh)
		if s := state("a"); s != "old" {
			t.Error(s)
		}
		_, _, epoch := d.recall("a")
		d.forget()
		d.remember(&answer{key: "a", at: time.Now()}, epoch)
		if s := state("a"); s != "unknown" {
			t.Error("an answer from before a change is remembered: " + s)
		}
		keep("a", 10)
		if s := state("a"); s != "old" {
			t.Error("an answer is believed right after a change: " + s)
		}
		time.Sleep(discoveryUnrest + time.Second)
		keep("a", 10)
		if s := state("a"); s != "fresh" {
			t.Error(s)
		}
		for _, key := range []string{"b", "c", "d", "e"} {
			keep(key, discoveryBytes/4-100)
			state("a") // used
		}
		keep("f", discoveryBytes/4)
		for key, want := range map[string]string{"a": "fresh", "b": "unknown", "c": "fresh", "f": "fresh"} {
			if s := state(key); s != want {
				t.Errorf("%s is %s, want %s", key, s, want)
			}
		}
		if d.bytes > discoveryBytes || len(d.answers) != d.order.Len() {
			t.Errorf("%d bytes, %d answers, %d in order", d.bytes, len(d.answers), d.order.Len())
		}
	})
}
