package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// Right is one thing that Sentry does in a cluster, and whether it may.
type Right struct {
	Verb      string
	Resource  string // with its subresource and its group, as kubectl auth can-i takes it: "pods/log", "pipelineruns.tekton.dev"
	Namespace string
	Allowed   bool
	Reason    string // of the API server, where it gives one
	Optional  bool   // Sentry does without it, and tells less
	For       string // what it is needed for
}

// needs are what tracking takes; what commands do through the gateway is theirs to know.
var needs = []struct {
	group, resource, part string
	verbs                 []string
	optional              bool
	why                   string
}{
	{group, "pipelineruns", "", []string{"get", "list", "watch"}, false, "to follow pipeline runs"},
	{group, "pipelineruns", "", []string{"create"}, false, "to create the pipeline runs of a repository"},
	{group, "pipelineruns", "", []string{"patch"}, false, "to cancel pipeline runs"},
	{group, "taskruns", "", []string{"get", "list"}, false, "to tell how the tasks ended"},
	{"", "pods", "", []string{"get", "list"}, false, "to tell why a task does not start"},
	{"", "pods", "log", []string{"get"}, false, "to show the log of a task that failed"},
	{"", "events", "", []string{"list"}, true, "to tell why a pod does not start"},
}

// Access asks the API server what Sentry may do in the namespaces, one question for each right.
func (c *Cluster) Access(ctx context.Context, namespaces ...string) ([]Right, error) {
	a, err := c.tracker()
	if err != nil {
		return nil, err
	}
	var rights []Right
	for _, namespace := range namespaces {
		for _, need := range needs {
			for _, verb := range need.verbs {
				r := Right{Verb: verb, Resource: need.resource, Namespace: namespace, Optional: need.optional, For: need.why}
				if need.part != "" {
					r.Resource += "/" + need.part
				}
				if need.group != "" {
					r.Resource += "." + need.group
				}
				attributes := map[string]string{
					"namespace": namespace, "verb": verb, "group": need.group, "resource": need.resource, "subresource": need.part,
				}
				if r.Allowed, r.Reason, err = a.may(ctx, attributes); err != nil {
					return rights, fmt.Errorf("cannot ask the API server for the right to %s %s in namespace %s: %w", verb, r.Resource, namespace, err)
				}
				rights = append(rights, r)
			}
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
