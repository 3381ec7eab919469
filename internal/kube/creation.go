package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sentry/internal/logger"
)

// maxAnswer is the most that is read of an answer from which metadata is taken, in bytes.
const maxAnswer = 16 << 20

// create carries out the creation of a PipelineRun, so that a crash at any moment leaves a record of it: the intent is
// on disk before the request is sent, name and uid before the client gets the answer. Between the two nobody knows
// whether the run exists; so it stays where the connection is lost, or the API server says that something went wrong
// in it. The nonce, a label of the run, finds it then.
func (c *call) create(req *http.Request) (*http.Response, error) {
	recorder := c.access.recorder
	c.run.Cluster = c.access.gateway.cluster.mark(req.Context(), c.run.Namespace)
	if err := recorder.Intend(c.run); err != nil {
		c.log().Error("cannot record that a PipelineRun is to be created", "namespace", c.run.Namespace, logger.KeyError, err)
		return nil, refuse(http.StatusInternalServerError, metav1.StatusReasonInternalError,
			"the PipelineRun was not created: Sentry could not record it before; its log tells why")
	}
	// A crash from here on leaves the intent.
	var sent atomic.Bool
	ctx, end := c.access.creating(req.Context())
	defer end()
	req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }}))
	req.Header.Del("Accept-Encoding") // the answer is read here
	resp, err := c.access.gateway.send(req)
	if err != nil {
		if !sent.Load() {
			c.drop()
			return nil, c.access.gateway.unreachable(req.Context(), err)
		}
		return nil, c.unknown(err)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	_ = resp.Body.Close() // all of it was read, or the rest is of no use
	if len(body) > maxAnswer {
		err = errors.New("the answer is too long")
	}
	if known := c.settle(ctx, resp, body); known != nil {
		return nil, known
	}
	if err != nil {
		return nil, c.unknown(err)
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return resp, nil
}

// unknown gives the denial where the answer did not arrive.
func (c *call) unknown(err error) error {
	c.log().Warn("the answer to the creation of a PipelineRun was lost; whether it exists is found out by its label",
		"namespace", c.run.Namespace, "label", LabelRequest+"="+c.run.Nonce, logger.KeyError, err)
	return refuse(http.StatusGatewayTimeout, metav1.StatusReasonTimeout,
		"the answer of the Kubernetes API server was lost: the PipelineRun may exist. Sentry looks for it by the label %s=%s", LabelRequest, c.run.Nonce)
}

// settle records what an answer says of the run. With an error the client does not get the answer.
func (c *call) settle(ctx context.Context, resp *http.Response, body []byte) error {
	code := resp.StatusCode
	switch {
	case code >= 200 && code < 300:
		meta := readAnswer(resp.Header, body)
		if meta.UID == "" { // a table without objects, an answer that was cut
			found, err := c.byNonce(ctx)
			if err != nil || len(found) != 1 {
				return refuse(http.StatusInternalServerError, metav1.StatusReasonInternalError,
					"the PipelineRun was created, but the answer does not tell its uid: Sentry looks for it by the label %s=%s", LabelRequest, c.run.Nonce)
			}
			meta = found[0]
		}
		return c.created(meta)
	case code == http.StatusConflict:
		// Some server between here and the API server may have asked twice: then the first one was ours.
		if found, err := c.byNonce(ctx); err != nil || len(found) == 1 {
			if err == nil {
				return c.created(found[0])
			}
			return nil // the intent stays
		}
		c.drop()
	case code >= 300 && code < 500 && code != http.StatusRequestTimeout:
		c.drop()
	}
	return nil
}

// created records the run.
func (c *call) created(meta objectMeta) error {
	run := c.run
	run.Name, run.UID = meta.Name, meta.UID
	if meta.Namespace != "" {
		run.Namespace = meta.Namespace
	}
	c.name = run.Name
	if err := c.access.recorder.Created(run); err != nil {
		c.log().Error("cannot record a PipelineRun that was created", "namespace", run.Namespace, "name", run.Name, logger.KeyError, err)
		return refuse(http.StatusInternalServerError, metav1.StatusReasonInternalError,
			"the PipelineRun %s was created, but Sentry could not record it; its log tells why", run.Name)
	}
	return nil
}

// drop records that there is no run.
func (c *call) drop() {
	if err := c.access.recorder.Dropped(c.run.Nonce); err != nil {
		// The intent stays, and will be found to have come to nothing.
		c.log().Warn("cannot record that a PipelineRun was not created", logger.KeyError, err)
	}
}

// byNonce finds the runs that the request created: none or one.
func (c *call) byNonce(ctx context.Context) ([]objectMeta, error) {
	q := c.request
	path := fmt.Sprintf("/apis/%s/%s/namespaces/%s/pipelineruns", q.group, q.version, q.namespace)
	found, code, err := c.look(ctx, path, url.Values{"labelSelector": {LabelRequest + "=" + c.run.Nonce}})
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("the API server answers %d", code)
	}
	return found, err
}

// readMetas reads the metadata of an object, or of those in a list.
func readMetas(body []byte, list bool) []objectMeta {
	type object struct {
		Metadata objectMeta `json:"metadata"`
	}
	var all struct {
		object
		Items []object `json:"items"`
	}
	if json.Unmarshal(body, &all) != nil {
		return nil
	}
	if !list {
		return []objectMeta{all.Metadata}
	}
	var found []objectMeta
	for _, o := range all.Items {
		found = append(found, o.Metadata)
	}
	return found
}
