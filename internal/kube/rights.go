package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// Right is one thing that Sentry does in a cluster, and whether it may.
type Right struct {
	Verb      string
	Resource  string // with its subresource and its group, as kubectl auth can-i takes it: "pods/log", "pipelineruns.tekton.dev"
	Name      string // of the one object that it is about; "" for all
	Namespace string
	Allowed   bool
	Reason    string // of the API server, where it gives one
	Optional  bool   // Sentry does without it, and tells less
	For       string // what it is needed for
}

// need is a right on a kind of object that Sentry needs in a namespace.
type need struct {
	group, resource, part string
	verbs                 []string
	optional              bool
	why                   string
}

// needs are what tracking takes; what commands do through the gateway is theirs to know.
var needs = []need{
	{group, "pipelineruns", "", []string{"get", "list", "watch"}, false, "to follow pipeline runs"},
	{group, "pipelineruns", "", []string{"create"}, false, "to create the pipeline runs of a repository"},
	{group, "pipelineruns", "", []string{"patch"}, false, "to cancel pipeline runs"},
	{group, "taskruns", "", []string{"get", "list"}, false, "to tell how the tasks ended"},
	{"", "pods", "", []string{"get", "list"}, false, "to tell why a task does not start"},
	{"", "pods", "log", []string{"get"}, false, "to show the log of a task that failed"},
	{"", "namespaces", "", []string{"get"}, true, "to know the cluster again when its address or certificates change"},
	{"", "events", "", []string{"list"}, true, "to tell why a pod does not start"},
}

// jobNeeds are what Jobs take where they are made.
var jobNeeds = []need{
	{"batch", "jobs", "", []string{"create", "get", "list", "watch", "delete"}, false, "to run deployments as Jobs"},
	{"", "pods", "", []string{"get", "list", "watch"}, false, "to follow the pods of Jobs"},
	{"", "pods", "log", []string{"get"}, false, "to read what Jobs report"},
	// A WebSocket begins with GET, and what came before it with POST; servers differ in which of the two they hold it for.
	{"", "pods", "attach", []string{"create", "get"}, false, "to hand Jobs what they are to do"},
	{"", "events", "", []string{"list"}, true, "to tell why a Job does not start"},
}

// tokenNeed is what it takes to give the commands of a Job the rights of a service account.
var tokenNeed = need{"", "serviceaccounts", "token", []string{"create"}, false, "to give commands in Jobs the rights of that service account"}

// Access asks the API server what Sentry may do in the namespaces, one question for each right.
func (c *Cluster) Access(ctx context.Context, namespaces ...string) (rights []Right, err error) {
	for _, namespace := range namespaces {
		found, err := c.granted(ctx, namespace, "", needs)
		rights = append(rights, found...)
		if err != nil {
			return rights, err
		}
	}
	return rights, nil
}

// NoNamespace reports whether the API server says that there is no such namespace. Where it may not be read nothing is known,
// and it is taken to be there.
func (c *Cluster) NoNamespace(ctx context.Context, name string) (bool, error) {
	a, err := c.tracker()
	if err != nil {
		return false, err
	}
	_, err = a.get(ctx, "/api/v1/namespaces/"+url.PathEscape(name))
	switch {
	case err == nil, isCode(err, http.StatusForbidden):
		return false, nil
	case missing(err, name):
		return true, nil
	}
	return false, fmt.Errorf("cannot ask the API server for the namespace %s: %w", name, err)
}

// JobAccess asks for what it takes to run Jobs in a namespace whose commands have the rights of the service account, or none
// where it is "".
func (c *Cluster) JobAccess(ctx context.Context, namespace, account string) ([]Right, error) {
	rights, err := c.granted(ctx, namespace, "", jobNeeds)
	if err != nil || account == "" {
		return rights, err
	}
	token, err := c.granted(ctx, namespace, account, []need{tokenNeed})
	return append(rights, token...), err
}

// granted asks for each need in a namespace, for one object or, where name is "", for all.
func (c *Cluster) granted(ctx context.Context, namespace, name string, needs []need) ([]Right, error) {
	a, err := c.tracker()
	if err != nil {
		return nil, err
	}
	var rights []Right
	for _, need := range needs {
		for _, verb := range need.verbs {
			r := Right{Verb: verb, Resource: need.resource, Name: name, Namespace: namespace, Optional: need.optional, For: need.why}
			if need.part != "" {
				r.Resource += "/" + need.part
			}
			if need.group != "" {
				r.Resource += "." + need.group
			}
			attributes := map[string]string{
				"namespace": namespace, "verb": verb, "group": need.group, "resource": need.resource, "subresource": need.part, "name": name,
			}
			if r.Allowed, r.Reason, err = a.may(ctx, attributes); err != nil {
				return rights, fmt.Errorf("cannot ask the API server for the right to %s %s in namespace %s: %w", verb, r.Resource, namespace, err)
			}
			rights = append(rights, r)
		}
	}
	return rights, nil
}

// may asks one question.
func (a *api) may(ctx context.Context, attributes map[string]string) (allowed bool, reason string, err error) {
	body, err := json.Marshal(map[string]any{
		"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
		"spec": map[string]any{"resourceAttributes": attributes},
	})
	if err != nil {
		return false, "", err
	}
	var review struct {
		Status struct {
			Allowed         bool   `json:"allowed"`
			Reason          string `json:"reason"`
			EvaluationError string `json:"evaluationError"`
		} `json:"status"`
	}
	err = a.unary(ctx, http.MethodPost, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", nil, body, "application/json", func(r io.Reader) error {
		return json.NewDecoder(io.LimitReader(r, maxObject)).Decode(&review)
	})
	if err != nil {
		return false, "", err
	}
	reason = review.Status.Reason
	if reason == "" {
		reason = review.Status.EvaluationError
	}
	return review.Status.Allowed, printable(reason), nil
}
