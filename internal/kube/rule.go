package kube

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// rule says which namespaces a deployment may use. Without any, the rights of the credentials alone decide.
type rule struct {
	namespaces []string
	key        string // of the configuration, for messages
}

// openPaths are what everybody may read: what there is in the cluster, not what is in it. A path that ends with "/" stands
// for all below it.
var openPaths = []string{"/api", "/api/", "/apis", "/apis/", "/version", "/openapi/", "/healthz", "/livez", "/readyz"}

// openKinds are resources of the cluster as a whole that may be read: they tell what there is, and hold no secrets. Tools
// look at them before they create something.
var openKinds = []string{
	"customresourcedefinitions.apiextensions.k8s.io", "apiservices.apiregistration.k8s.io",
	"storageclasses.storage.k8s.io", "ingressclasses.networking.k8s.io", "priorityclasses.scheduling.k8s.io",
	"runtimeclasses.node.k8s.io", "gatewayclasses.gateway.networking.k8s.io",
}

// openReviews are questions about the one who asks.
var openReviews = []string{"selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"}

// refuses says why the request is not allowed, in words for the client; "" where it is.
func (r rule) refuses(q *request) string {
	if len(r.namespaces) == 0 {
		return ""
	}
	reading := q.method == http.MethodGet || q.method == http.MethodHead
	switch {
	case !q.resource:
		if reading && slices.ContainsFunc(openPaths, func(open string) bool {
			return q.path == open || strings.HasSuffix(open, "/") && strings.HasPrefix(q.path, open)
		}) {
			return ""
		}
		return r.because(q, "it is not in a namespace")
	case q.kind == "namespaces":
		return r.refusesNamespace(q, reading)
	case q.namespace != "":
		if slices.Contains(r.namespaces, q.namespace) {
			return ""
		}
		return r.because(q, fmt.Sprintf("the namespace %q is not allowed", q.namespace))
	case q.review() && q.subresource == "" && slices.Contains(openReviews, q.kind):
		return ""
	case reading && !q.upgrade && slices.Contains(openKinds, q.what()):
		return ""
	}
	return r.because(q, "it is about all namespaces, or about the cluster as a whole")
}

// refusesNamespace judges what is asked about a namespace itself: the allowed ones may be looked at, one by one.
func (r rule) refusesNamespace(q *request, reading bool) string {
	switch {
	case q.group != "" || q.subresource != "" || !reading:
		return r.because(q, "namespaces themselves cannot be changed")
	case q.verb == "proxy" || !slices.Contains(r.namespaces, q.name):
		return r.because(q, "only the allowed namespaces can be read, one by one")
	}
	return ""
}

func (r rule) because(q *request, why string) string {
	return fmt.Sprintf("%s is forbidden: Sentry's configuration limits what may be used to %s: %s; %s", q.what(), r.key, strings.Join(r.namespaces, ", "), why)
}
