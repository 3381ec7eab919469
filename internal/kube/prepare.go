package kube

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sentry/internal/sentry"
)

// What gets marks, and what does not.
//
// Whatever is created gets labels and an annotation that tell who created it, but for: what is not kept (reviews), and
// dry runs; events, which tell of something else; the records of Helm, which shows their labels as those of a release;
// and the definitions of Tekton (pipelines, tasks), whose labels Tekton copies to every run of them, also to those that
// somebody else creates. Only PipelineRuns get LabelRequest.
//
// A server-side apply makes the client the owner of all fields in it. So marks are added as new ones only to what does
// not exist yet; to what exists they are added as they are there. Then a later apply neither takes the marks away, nor
// changes them, nor is it a conflict with another owner: all own the same values. An apply to a PipelineRun that exists
// also gets its uid: should the run be deleted meanwhile, the API server refuses to create another one unseen.
//
// Formats: JSON, YAML, CBOR and protobuf. In another one, an object is passed on without marks; a PipelineRun is not
// passed on, nor in protobuf, which no custom resource knows. So is a body with more than maxMarked bytes.

// marked reports whether what the request creates gets marks.
func (q *request) marked() bool {
	switch q.group {
	case "authorization.k8s.io", "authentication.k8s.io", "events.k8s.io":
		return false
	case "tekton.dev":
		return slices.Contains([]string{"pipelineruns", "taskruns", "customruns"}, q.kind)
	case "":
		return q.kind != "events"
	}
	return true
}

// helmRecord is how the names of Helm's records begin, in secrets and config maps.
const helmRecord = "sh.helm.release.v1."

// prepare adds marks to what the request creates.
func (c *call) prepare(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	q := c.request
	f, apply := formatOf(r.Header)
	apply = apply && q.verb == "patch" && q.name != ""
	if !q.resource || q.subresource != "" || !q.marked() || !apply && (q.verb != "create" || q.dryRun) {
		return nil
	}
	must := q.pipelineRun() && !q.dryRun
	if f == formatUnknown || must && f == formatProtobuf {
		if must {
			return refuse(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
				"Sentry's gateway cannot record a PipelineRun in the format %q; use application/json or application/yaml", r.Header.Get("Content-Type"))
		}
		return nil
	}
	body, whole, err := c.readBody(ctx, w, r)
	if err != nil {
		return err
	}
	if !whole {
		if must {
			return refuse(http.StatusRequestEntityTooLarge, metav1.StatusReasonRequestEntityTooLarge, "a PipelineRun has at most %d bytes", maxMarked)
		}
		return nil
	}
	unreadable := func(err error) error {
		if must {
			return refuse(http.StatusBadRequest, metav1.StatusReasonBadRequest, "Sentry's gateway cannot read the PipelineRun: %v", err)
		}
		return nil // the API server's to refuse
	}
	if f, body, err = f.normal(body); err != nil {
		return unreadable(err)
	}
	var m marks
	if apply {
		m, err = c.applied(ctx, must)
		if err != nil {
			return err
		}
	} else {
		meta := f.readMeta(body)
		c.name = meta.Name + meta.GenerateName
		if strings.HasPrefix(meta.Name, helmRecord) {
			return nil
		}
		m = c.newMarks(meta.Name, must)
	}
	object, err := f.mark(body, m)
	if err != nil {
		return unreadable(err)
	}
	setBody(r, object)
	return nil
}

// newMarks are those of what the deployment creates. Where it is a PipelineRun, the call becomes one that is recorded.
func (c *call) newMarks(name string, must bool) marks {
	id, q := c.access.id, c.request
	if must {
		c.run = sentry.PipelineRun{
			Namespace: q.namespace, Name: name, APIVersion: q.group + "/" + q.version,
			Attempt: id.Attempt, Nonce: NewNonce(), Status: sentry.Pending,
		}
	}
	return marks{labels: id.Labels(c.run.Nonce), annotations: id.Annotations()}
}

// applied gives the marks for a server-side apply: those that the object has, or new ones where there is no object.
func (c *call) applied(ctx context.Context, must bool) (marks, error) {
	live, code, err := c.look(ctx, c.request.path, nil)
	switch {
	case err != nil && must:
		return marks{}, err
	case err != nil:
		return marks{}, nil
	case code == http.StatusOK && len(live) == 1:
		m := marks{labels: ours(live[0].Labels), annotations: ours(live[0].Annotations)}
		if must {
			m.uid = live[0].UID
		}
		return m, nil
	case c.request.dryRun || code != http.StatusNotFound && !must:
		return marks{}, nil
	}
	return c.newMarks(c.request.name, must), nil
}

// ours gives the labels or annotations that are Sentry's.
func ours(all map[string]string) map[string]string {
	found := maps.Clone(all)
	maps.DeleteFunc(found, func(key, _ string) bool { return !strings.HasPrefix(key, labelPrefix) })
	return found
}

// look reads the metadata of an object, or of those in a list.
func (c *call) look(ctx context.Context, path string, query url.Values) ([]objectMeta, int, error) {
	g := c.access.gateway
	what := "PartialObjectMetadata"
	if query != nil {
		what = "PartialObjectMetadataList"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, (&url.URL{Path: path, RawQuery: query.Encode()}).String(), nil)
	if err != nil {
		return nil, 0, err
	}
	g.aim(req, c)
	req.Header.Set("Accept", "application/json;as="+what+";g=meta.k8s.io;v=v1")
	req.Header.Set("User-Agent", g.cluster.config.UserAgent)
	resp, err := g.send(req)
	if err != nil {
		return nil, 0, g.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, 0, g.unreachable(ctx, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, resp.StatusCode, nil
	}
	return readMetas(body, query != nil), resp.StatusCode, nil
}

// readBody reads the body to which marks are added. It is not whole where it is too large: it can still be passed on.
func (c *call) readBody(ctx context.Context, w http.ResponseWriter, r *http.Request) (body []byte, whole bool, err error) {
	if r.ContentLength > maxMarked {
		return nil, false, nil
	}
	size := r.ContentLength
	if size < 0 {
		size = maxMarked
	}
	if err := c.access.gateway.marking.Acquire(ctx, size); err != nil {
		return nil, false, c.access.gateway.unreachable(ctx, err)
	}
	c.reserved = size
	deadline := http.NewResponseController(w)
	_ = deadline.SetReadDeadline(time.Now().Add(bodyTimeout)) // every connection of the server has one
	var buffer bytes.Buffer
	if r.ContentLength > 0 {
		buffer.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	_, err = buffer.ReadFrom(io.LimitReader(r.Body, maxMarked+1))
	body = buffer.Bytes()
	_ = deadline.SetReadDeadline(time.Time{})
	if err != nil {
		return nil, false, refuse(http.StatusBadRequest, metav1.StatusReasonBadRequest, "the body of the request did not arrive")
	}
	if len(body) > maxMarked {
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(body), r.Body), r.Body}
		return nil, false, nil
	}
	setBody(r, body)
	return body, true, nil
}

// setBody gives a request a body from memory, which can be sent again where the API server has not begun with it.
func setBody(r *http.Request, body []byte) {
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	r.Body, _ = r.GetBody()
	r.ContentLength, r.TransferEncoding = int64(len(body)), nil
	r.Header.Set("Content-Length", strconv.Itoa(len(body)))
}
