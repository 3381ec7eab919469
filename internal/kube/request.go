package kube

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/fields"
)

// request is what a client asks, read as the API server reads it (RequestInfoFactory in k8s.io/apiserver/pkg/endpoints/
// request): what the rules below are applied to must be what is carried out.
type request struct {
	method   string
	path     string // decoded
	resource bool   // whether it is about a resource: /api/VERSION/… or /apis/GROUP/VERSION/…
	verb     string // get, list, watch, create, update, patch, delete, deletecollection; proxy by a path of old
	group    string
	version  string

	namespace   string // "" where the path names none; the namespace itself for /api/v1/namespaces/NAME
	kind        string // the resource: "pods"
	name        string // in lists and watches that of the field selector metadata.name
	subresource string

	dryRun  bool
	follow  bool // a log, as it grows
	upgrade bool // to another protocol: exec, attach, port-forward
}

// The parts of a path that the API server knows.
var (
	pathVerbs             = []string{"proxy", "watch"}
	namespaceSubresources = []string{"status", "finalize"}
)

// readRequest reads a request. The error is for the client: the request is odd, and nothing that is meant well asks so.
func readRequest(r *http.Request) (*request, error) {
	if r.URL.Host != "" || r.URL.User != nil || r.URL.Opaque != "" || !strings.HasPrefix(r.URL.Path, "/") {
		return nil, oddf("the request names another server, or no path")
	}
	if !slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}, r.Method) {
		return nil, oddf("the method %q is none of the Kubernetes API", r.Method)
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, oddf("the query cannot be read: %v", err)
	}
	q := &request{method: r.Method, path: r.URL.Path, verb: strings.ToLower(r.Method), upgrade: isUpgrade(r)}
	q.dryRun, q.follow = isDryRun(query), isTrue(query["follow"])
	segments := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	if segments[len(segments)-1] == "" {
		segments = segments[:len(segments)-1] // "/", and one slash at the end
	}
	if err := checkText(r.URL.EscapedPath()); err != nil {
		return nil, err
	}
	head, err := q.read(segments, query)
	if err != nil {
		return nil, err
	}
	for _, segment := range segments[:head] {
		if err := checkSegment(segment); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// read takes the path apart. It returns how many segments the API server looks at: all, but those behind /proxy, which
// are for somebody else.
func (q *request) read(segments []string, query url.Values) (int, error) {
	all := len(segments)
	if all < 3 {
		return all, nil
	}
	parts := segments
	switch parts[0] {
	case "api":
		parts = parts[1:]
	case "apis":
		if all < 4 {
			return all, nil
		}
		q.group, parts = parts[1], parts[2:]
	default:
		return all, nil
	}
	q.resource, q.version, parts = true, parts[0], parts[1:]
	byPath := slices.Contains(pathVerbs, parts[0])
	if byPath {
		if len(parts) < 2 {
			return 0, oddf("the path ends with %q", parts[0])
		}
		q.verb, parts = parts[0], parts[1:]
	} else {
		q.verb = map[string]string{"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[q.method]
	}
	if parts[0] == "namespaces" && len(parts) > 1 {
		q.namespace = parts[1]
		if len(parts) > 2 && !slices.Contains(namespaceSubresources, parts[2]) {
			parts = parts[2:]
		}
	}
	q.kind = parts[0]
	if len(parts) > 1 {
		q.name = parts[1]
	}
	if len(parts) > 2 && q.verb != "proxy" {
		q.subresource = parts[2]
	}
	q.unescape()
	if q.name == "" && !byPath {
		q.many(query)
	}
	if q.subresource == "proxy" {
		return all - len(parts) + 3, nil
	}
	return all, nil
}

// unescape decodes what was taken from the escaped path. That it can be decoded was checked when the URL was read.
func (q *request) unescape() {
	for _, s := range []*string{&q.group, &q.version, &q.namespace, &q.kind, &q.name, &q.subresource} {
		*s, _ = url.PathUnescape(*s)
	}
}

// many makes the verb of a request without a name one for many.
func (q *request) many(query url.Values) {
	switch q.verb {
	case "get":
		q.verb = "list"
		if isTrue(query["watch"]) {
			q.verb = "watch"
		}
		if s := query["fieldSelector"]; len(s) == 1 {
			if selector, err := fields.ParseSelector(s[0]); err == nil {
				q.name, _ = selector.RequiresExactMatch("metadata.name")
			}
		}
	case "delete":
		q.verb = "deletecollection"
	}
}

// mutates reports whether the request may change something, so that it is worth a line in the log: also one that opens
// a way into a pod.
func (q *request) mutates() bool {
	if !q.resource {
		return q.method != http.MethodGet && q.method != http.MethodHead
	}
	switch {
	case q.review():
		return false
	case slices.Contains([]string{"exec", "attach", "portforward"}, q.subresource):
		return true
	case q.subresource == "proxy" || q.verb == "proxy":
		return q.upgrade || q.method != http.MethodGet && q.method != http.MethodHead
	}
	return q.method != http.MethodGet && q.method != http.MethodHead
}

// streams reports whether its answer has no end of its own.
func (q *request) streams() bool {
	return q.upgrade || q.verb == "watch" || q.subresource == "log" && q.follow
}

// review reports whether it is a question that is asked by creating something which is not kept.
func (q *request) review() bool {
	return q.verb == "create" && (q.group == "authorization.k8s.io" || q.group == "authentication.k8s.io")
}

// pipelineRun reports whether it is about PipelineRuns themselves, in any version.
func (q *request) pipelineRun() bool {
	return q.group == "tekton.dev" && q.kind == "pipelineruns" && q.subresource == ""
}

// what names the resource as messages of the API server do: "pods/exec", "pipelineruns.tekton.dev".
func (q *request) what() string {
	if !q.resource {
		return q.path
	}
	name := q.kind
	if q.subresource != "" {
		name += "/" + q.subresource
	}
	if q.group != "" {
		name += "." + q.group
	}
	return name
}

// isDryRun reports whether nothing would be kept. Whatever else dryRun says is refused by the API server.
func isDryRun(query url.Values) bool {
	values := query["dryRun"]
	return len(values) > 0 && !slices.ContainsFunc(values, func(v string) bool { return v != "All" })
}

// isTrue reads a switch as the API server does: being there is enough.
func isTrue(values []string) bool {
	return len(values) > 0 && !strings.EqualFold(values[0], "false") && values[0] != "0"
}

func isUpgrade(r *http.Request) bool {
	return r.ProtoMajor == 1 && r.Header.Get("Upgrade") != "" && slices.ContainsFunc(r.Header.Values("Connection"), func(v string) bool {
		return strings.Contains(strings.ToLower(v), "upgrade")
	})
}

// checkText refuses a path that some server between here and the API server could read as another: one with "." or ".."
// as a segment in any encoding, with control characters, or one that is no text.
func checkText(escaped string) error {
	text := escaped
	for range 4 {
		if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return oddf("the path contains control characters, or is not UTF-8")
		}
		for _, segment := range strings.FieldsFunc(text, func(r rune) bool { return r == '/' || r == '\\' }) {
			if plain, _, _ := strings.Cut(segment, ";"); plain == "." || plain == ".." {
				return oddf("the path contains %q", plain)
			}
		}
		decoded, err := url.PathUnescape(text)
		if err != nil || decoded == text {
			return nil
		}
		text = decoded
	}
	return oddf("the path is encoded again and again")
}

// checkSegment refuses a segment that the API server would not take for a name, or that others may take for two.
func checkSegment(escaped string) error {
	segment, err := url.PathUnescape(escaped)
	if err != nil || segment == "" || strings.ContainsAny(segment, `/\%?#;`) {
		return oddf("%q is not a part of a path of the Kubernetes API", escaped)
	}
	return nil
}
