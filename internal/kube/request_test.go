package kube

import (
	"bufio"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
)

// info is what the API server makes of a request: RequestInfoFactory.NewRequestInfo of k8s.io/apiserver, with the words
// of the kube-apiserver, written down once more and apart from readRequest.
type info struct {
	resource                                        bool
	verb, group, namespace, kind, name, subresource string
	prefix, version                                 string
	parts                                           []string
}

func apiServerReads(method, decoded string) (i info, ok bool) {
	i.verb = strings.ToLower(method)
	p := strings.Split(strings.Trim(decoded, "/"), "/")
	if strings.Trim(decoded, "/") == "" {
		p = nil
	}
	if len(p) < 3 || p[0] != "api" && p[0] != "apis" {
		return i, true
	}
	i.prefix, p = p[0], p[1:]
	if i.prefix != "api" {
		if len(p) < 3 {
			return i, true
		}
		i.group, p = p[0], p[1:]
	}
	i.resource = true
	i.version, p = p[0], p[1:]
	if p[0] == "proxy" || p[0] == "watch" {
		if len(p) < 2 {
			return i, false
		}
		i.verb, p = p[0], p[1:]
	}
	if p[0] == "namespaces" {
		if len(p) > 1 {
			i.namespace = p[1]
			if len(p) > 2 && p[2] != "status" && p[2] != "finalize" {
				p = p[2:]
			}
		}
	}
	i.parts = p
	switch {
	case len(p) >= 3 && i.verb != "proxy":
		i.subresource = p[2]
		fallthrough
	case len(p) >= 2:
		i.name = p[1]
		fallthrough
	case len(p) >= 1:
		i.kind = p[0]
	}
	return i, true
}

// parsed reads a request as the server of the gateway does; nil where that does not take it.
func parsed(method, target string) *http.Request {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + target + " HTTP/1.1\r\nHost: x\r\n\r\n")))
	if err != nil {
		return nil
	}
	return r
}

func TestReadRequest(t *testing.T) {
	for _, c := range []struct{ method, target, want string }{
		{"GET", "/api/v1/namespaces/a/pods", "list pods in a"},
		{"GET", "/api/v1/namespaces/a/pods?watch=true", "watch pods in a"},
		{"GET", "/api/v1/namespaces/a/pods?watch", "watch pods in a"},
		{"GET", "/api/v1/namespaces/a/pods?watch=0", "list pods in a"},
		{"GET", "/api/v1/watch/namespaces/a/pods", "watch pods in a"},
		{"GET", "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dx", "list pods x in a"},
		{"HEAD", "/api/v1/namespaces/a/pods/x", "get pods x in a"},
		{"GET", "/api/v1/namespaces/a", "get namespaces a in a"},
		{"DELETE", "/api/v1/namespaces/a", "delete namespaces a in a"},
		{"PUT", "/api/v1/namespaces/a/finalize", "update namespaces/finalize a in a"},
		{"GET", "/api/v1/namespaces", "list namespaces"},
		{"GET", "/api/v1/namespaces?fieldSelector=metadata.name%3Da", "list namespaces a"},
		{"GET", "/api/v1/namespaces?fieldSelector=metadata.name%3Da&fieldSelector=", "list namespaces"},
		{"GET", "/api/v1/namespaces?fieldSelector=metadata.name!%3Da", "list namespaces"},
		{"POST", "/api/v1/namespaces/a/pods/x/exec?command=sh", "create pods/exec x in a"},
		{"GET", "/api/v1/namespaces/a/services/x:80/proxy/any//where?x=%2e%2f", "get services/proxy x:80 in a"},
		{"GET", "/api/v1/proxy/namespaces/a/services/x/y", "proxy services x in a"},
		{"POST", "/apis/tekton.dev/v1/namespaces/a/pipelineruns", "create pipelineruns.tekton.dev in a"},
		{"POST", "/apis/tekton.dev/v1/namespaces/a/pipelineruns/", "create pipelineruns.tekton.dev in a"},
		{"DELETE", "/apis/tekton.dev/v1/namespaces/a/pipelineruns", "deletecollection pipelineruns.tekton.dev in a"},
		{"GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node", "get clusterroles.rbac.authorization.k8s.io system:node"},
		{"GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode", "get clusterroles.rbac.authorization.k8s.io system:node"},
		{"GET", "/apis", "path /apis"},
		{"GET", "/apis/", "path /apis/"},
		{"GET", "/apis/tekton.dev/v1", "path /apis/tekton.dev/v1"},
		{"GET", "/", "path /"},
		{"GET", "/api/v1/namespaces/a/../b/pods", `odd: the path contains ".."`},
		{"GET", "/api/v1/namespaces/a/%2e%2E/b/pods", `odd: the path contains ".."`},
		{"GET", "/api/v1/namespaces/a/%252e%252e/b/pods", `odd: the path contains ".."`},
		{"GET", "/api/v1/namespaces/a/..;x/b/pods", `odd: the path contains ".."`},
		{"GET", "/api/v1/namespaces/a/services/x/proxy/..%5c..%5cb", `odd: the path contains ".."`},
		{"GET", "/api/v1/namespaces/a/services/x/proxy/%2e%2e/%2e%2e/x", `odd: the path contains ".."`},
		{"GET", "/api/v1/./namespaces/a/pods", `odd: the path contains "."`},
		{"GET", "//api/v1/namespaces/a/pods", `odd: "" is not a part`},
		{"GET", "/api/v1//namespaces/a/pods", `odd: "" is not a part`},
		{"GET", "/api/v1/namespaces//pods", `odd: "" is not a part`},
		{"GET", "/api/v1/namespaces/a/pods//", `odd: "" is not a part`},
		{"GET", "/api/v1/namespaces/a%2fb/pods", `odd: "a%2fb" is not a part`},
		{"GET", "/api/v1/namespaces%2fb%2fpods/a/pods", `odd: "namespaces%2fb%2fpods" is not a part`},
		{"GET", "/api/v1/namespaces/a%00/pods", "odd: the path contains control characters"},
		{"GET", "/api/v1/namespaces/%ff/pods", "odd: the path contains control characters, or is not UTF-8"},
		{"GET", "/api/v1/namespaces/a%25/pods", `odd: "a%25" is not a part`},
		{"GET", "/api/v1/namespaces/a%3b/pods", `odd: "a%3b" is not a part`},
		{"GET", "/api/v1/namespaces/a%23/pods", `odd: "a%23" is not a part`},
		{"GET", "/x%25252525252e", "odd: the path is encoded again and again"},
		{"GET", "/api/v1/watch", `odd: the path ends with "watch"`},
		{"GET", "/api/v1/pods?a=%zz", "odd: the query cannot be read"},
		{"GET", "/api/v1/pods?a;b", "odd: the query cannot be read"},
		{"GET", "https://elsewhere.example/api/v1/pods", "odd: the request names another server"},
		{"OPTIONS", "*", "odd: the request names another server, or no path"},
		{"OPTIONS", "/api", `odd: the method "OPTIONS" is none`},
		{"TRACE", "/api", `odd: the method "TRACE" is none`},
		{"get", "/api", `odd: the method "get" is none`},
	} {
		q, err := readRequest(parsed(c.method, c.target))
		got := ""
		switch {
		case err != nil:
			got = "odd: " + strings.TrimPrefix(err.Error(), "Sentry's gateway does not pass this on: ")
		case !q.resource:
			got = "path " + q.path
		default:
			got = q.verb + " " + q.what()
			if q.name != "" {
				got += " " + q.name
			}
			if q.namespace != "" {
				got += " in " + q.namespace
			}
		}
		if got != c.want && !(strings.HasPrefix(c.want, "odd") && strings.HasPrefix(got, c.want)) {
			t.Errorf("%s %s: %s, want %s", c.method, c.target, got, c.want)
		}
	}
}

func TestRule(t *testing.T) {
	r := rule{[]string{"a", "b"}, "kubernetes.namespaces"}
	for _, allowed := range []string{
		"GET /api", "GET /api/v1", "GET /apis/", "GET /apis/apps/v1", "GET /version", "GET /openapi/v2", "GET /openapi/v3/apis/apps/v1?hash=x", "GET /readyz", "HEAD /healthz",
		"GET /api/v1/namespaces/a/pods", "POST /api/v1/namespaces/b/pods", "DELETE /api/v1/namespaces/a/pods", "GET /api/v1/watch/namespaces/a/pods",
		"GET /api/v1/namespaces/a", "GET /api/v1/namespaces?fieldSelector=metadata.name%3Da", "GET /api/v1/namespaces?watch=true&fieldSelector=metadata.name%3Da",
		"POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "POST /apis/authorization.k8s.io/v1/selfsubjectrulesreviews", "POST /apis/authentication.k8s.io/v1/selfsubjectreviews",
		"POST /apis/authorization.k8s.io/v1/namespaces/a/localsubjectaccessreviews",
		"GET /apis/apiextensions.k8s.io/v1/customresourcedefinitions", "GET /apis/apiextensions.k8s.io/v1/customresourcedefinitions/x",
	} {
		method, target, _ := strings.Cut(allowed, " ")
		q, err := readRequest(parsed(method, target))
		if err != nil {
			t.Fatalf("%s: %v", allowed, err)
		}
		if why := r.refuses(q); why != "" {
			t.Errorf("%s: %s", allowed, why)
		}
	}
	for refused, want := range map[string]string{
		"GET /api/v1/namespaces/c/pods":                                `pods is forbidden: Sentry's configuration limits what may be used to kubernetes.namespaces: a, b; the namespace "c" is not allowed`,
		"POST /apis/tekton.dev/v1/namespaces/A/pipelineruns":           `the namespace "A" is not allowed`,
		"GET /api/v1/pods":                                             "it is about all namespaces, or about the cluster as a whole",
		"GET /api/v1/pods?fieldSelector=metadata.namespace%3Da":        "it is about all namespaces, or about the cluster as a whole",
		"GET /api/v1/watch/pods":                                       "it is about all namespaces, or about the cluster as a whole",
		"GET /api/v1/nodes":                                            "it is about all namespaces, or about the cluster as a whole",
		"GET /api/v1/nodes/n/proxy/pods":                               "it is about all namespaces, or about the cluster as a whole",
		"POST /apis/authentication.k8s.io/v1/tokenreviews":             "it is about all namespaces, or about the cluster as a whole",
		"POST /apis/authorization.k8s.io/v1/subjectaccessreviews":      "it is about all namespaces, or about the cluster as a whole",
		"POST /apis/apiextensions.k8s.io/v1/customresourcedefinitions": "it is about all namespaces, or about the cluster as a whole",
		"GET /apis/rbac.authorization.k8s.io/v1/clusterroles":          "it is about all namespaces, or about the cluster as a whole",
		"GET /api/v1/Namespaces/a/pods":                                "it is about all namespaces, or about the cluster as a whole",
		"GET /api/v1/namespaces":                                       "only the allowed namespaces can be read, one by one",
		"GET /api/v1/namespaces?fieldSelector=metadata.name%3Dc":       "only the allowed namespaces can be read, one by one",
		"GET /api/v1/namespaces/c":                                     "only the allowed namespaces can be read, one by one",
		"GET /api/v1/proxy/namespaces/a":                               "only the allowed namespaces can be read, one by one",
		"POST /api/v1/namespaces":                                      "namespaces themselves cannot be changed",
		"DELETE /api/v1/namespaces/a":                                  "namespaces themselves cannot be changed",
		"PATCH /api/v1/namespaces/a":                                   "namespaces themselves cannot be changed",
		"PUT /api/v1/namespaces/a/finalize":                            "namespaces themselves cannot be changed",
		"GET /api/v1/namespaces/a/status":                              "namespaces themselves cannot be changed",
		"GET /apis/x/v1/namespaces/a":                                  "namespaces themselves cannot be changed",
		"GET /metrics":                                                 "it is not in a namespace",
		"GET /":                                                        "it is not in a namespace",
		"GET /logs/kube-apiserver.log":                                 "it is not in a namespace",
		"GET /debug/pprof/":                                            "it is not in a namespace",
		"GET /API/v1/namespaces/a/pods":                                "it is not in a namespace",
		"POST /api":                                                    "it is not in a namespace",
	} {
		method, target, _ := strings.Cut(refused, " ")
		q, err := readRequest(parsed(method, target))
		if err != nil {
			t.Fatalf("%s: %v", refused, err)
		}
		if why := r.refuses(q); !strings.HasSuffix(why, want) || !strings.Contains(why, "kubernetes.namespaces: a, b") {
			t.Errorf("%s: %q, want %q", refused, why, want)
		}
		if why := (rule{}).refuses(q); why != "" {
			t.Errorf("%s without a rule: %s", refused, why)
		}
	}
}

// FuzzNamespace looks for a request that gets past the rule: for one that is passed on the API server, and a server on
// the way that decodes and cleans the path before it does the same, must see an allowed namespace, or one of the things
// that everybody may read.
func FuzzNamespace(f *testing.F) {
	for _, seed := range []string{
		"/api/v1/namespaces/a/pods", "/api/v1/namespaces/a/../b/pods", "/api/v1/namespaces/a%2f..%2fb/pods", "/api/v1//namespaces/a/pods", "/apis/tekton.dev/v1/namespaces/a/pipelineruns/x/status",
		"/api/v1/namespaces/a/services/x/proxy/%2e%2e/%2e%2e/", "/api/v1/watch/namespaces/a/pods", "/api/v1/proxy/namespaces/a/pods/x", "/api/v1/namespaces/a/finalize", "/API/v1/namespaces/b/pods",
		"/api/v1/namespaces/a;x/pods", "/api/v1/namespaces/%61/pods", "/openapi/v2/../../api/v1/secrets", "/api/v1/namespaces?fieldSelector=metadata.name=a", "https://x/api/v1/namespaces/a/pods", "/apis/a/b", "//", "/%2e%2e/", "/apis//v1/pods/x", "/api/v1/namespaces/a/services/x/proxy//..//",
	} {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			f.Add(method, seed)
		}
	}
	limits := rule{[]string{"a"}, "kubernetes.namespaces"}
	f.Fuzz(func(t *testing.T, method, target string) {
		r := parsed(method, target)
		if r == nil {
			return
		}
		q, err := readRequest(r)
		if err != nil || limits.refuses(q) != "" {
			return
		}
		sent := (&url.URL{Path: r.URL.Path, RawPath: r.URL.RawPath}).EscapedPath() // what the proxy writes
		received, err := url.ParseRequestURI(sent)
		if err != nil {
			t.Fatalf("%s %q is sent as %q: %v", method, target, sent, err)
		}
		views := []string{received.Path, path.Clean(received.Path)}
		twice, err := url.PathUnescape(received.Path)
		if err == nil {
			views = append(views, twice, path.Clean(twice), path.Clean(strings.ReplaceAll(twice, `\`, "/")))
		}
		for _, view := range views {
			i, ok := apiServerReads(method, view)
			if !ok {
				t.Fatalf("%s %q: the API server cannot read it", method, target)
			}
			if why := unsafe(i, method, view); why != "" {
				t.Fatalf("%s %q gets through as %q: %s (%+v)", method, target, view, why, i)
			}
		}
		i, _ := apiServerReads(method, received.Path)
		if i.resource != q.resource || i.namespace != q.namespace || i.kind != q.kind || i.group != q.group || i.subresource != q.subresource {
			t.Fatalf("%s %q: read as %+v, the API server reads %+v", method, target, q, i)
		}
	})
}

// unsafe says what is wrong with a request that the API server is asked.
func unsafe(i info, method, view string) string {
	reading := method == "GET" || method == "HEAD"
	full := i.kind
	if i.group != "" {
		full += "." + i.group
	}
	switch {
	case !i.resource:
		first := strings.Split(strings.Trim(view, "/"), "/")[0]
		if reading && slices.Contains([]string{"api", "apis", "version", "openapi", "healthz", "livez", "readyz"}, first) {
			return ""
		}
		return "a path that nobody may read"
	case i.kind == "namespaces":
		if reading && i.group == "" && i.subresource == "" && (i.name == "a" || i.name == "") {
			return "" // a list has the field selector, which the other test looks at
		}
		return "a namespace itself"
	case i.namespace == "a":
		return ""
	case i.namespace != "":
		return "another namespace"
	case i.verb == "post" || method == "POST":
		if slices.Contains(openReviews, i.kind) && i.subresource == "" && strings.HasSuffix(i.group, ".k8s.io") {
			return ""
		}
	case reading && slices.Contains(openKinds, full) && i.subresource == "":
		return ""
	}
	return fmt.Sprintf("the cluster as a whole: %s", full)
}
