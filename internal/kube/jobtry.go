package kube

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// TryJob asks the API server whether it would take a Job, and make a token of its service account, without having it do
// either. It gives what the server warns of, such as that Pod Security would not let the pod in. Errors: *JobError where the
// API server refuses. It asks once.
func (c *Cluster) TryJob(ctx context.Context, spec JobSpec) (warnings []string, err error) {
	a, err := c.tracker()
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(spec.object())
	if err != nil {
		return nil, err
	}
	warnings, err = a.dry(ctx, jobPath(spec.Namespace), body)
	if err != nil || spec.ServiceAccount == "" {
		return warnings, err
	}
	path := "/api/v1/namespaces/" + url.PathEscape(spec.Namespace) + "/serviceaccounts/" + url.PathEscape(spec.ServiceAccount) + "/token"
	more, err := a.dry(ctx, path, []byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}`))
	return append(warnings, more...), err
}

// dry asks for an object to be made, but for making it.
func (a *api) dry(ctx context.Context, path string, body []byte) (warnings []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	query := url.Values{"dryRun": {"All"}, "fieldValidation": {"Strict"}}
	response, err := a.send(ctx, http.MethodPost, path, query, body, "application/json")
	if r := refused(err); r != nil {
		return nil, refusedJob(r)
	}
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, maxObject))
	told, _ := utilnet.ParseWarningHeaders(response.Header["Warning"])
	for _, w := range told {
		warnings = append(warnings, printable(w.Text))
	}
	return warnings, nil
}
