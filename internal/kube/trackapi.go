package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"sentry/internal/logger"
)

// Bounds of what the API server is believed.
const (
	answerTime  = 30 * time.Second // for an answer that is not a watch, and for the head of one
	maxObject   = 8 << 20          // bytes of one object; etcd keeps no more than 1.5 MiB by default
	maxRefusal  = 64 << 10         // bytes of a Status
	maxPatience = time.Minute      // that a Retry-After is obeyed
	requests    = 8                // at once, watches not counted
)

// api asks an API server what tracking needs to know. It is no general client: it decodes as little as it can.
type api struct {
	base   string // without a slash at the end
	client *http.Client
	gate   chan struct{} // of requests at once

	mu      sync.Mutex
	version string // of Tekton's API; "" while unknown
}

func newAPI(base string, client *http.Client) *api {
	return &api{base: strings.TrimRight(base, "/"), client: client, gate: make(chan struct{}, requests)}
}

// refusal is an answer of the API server that says no.
type refusal struct {
	code   int
	reason string // of its Status: Kubernetes' word
	text   string // of its Status, harmless
	name   string // of the object that it speaks of; "" where it speaks of none
	after  time.Duration
}

func (r *refusal) Error() string { return fmt.Sprintf("%s (%d)", r.text, r.code) }

// refused gives the refusal in err; nil where the server did not answer at all.
func refused(err error) *refusal {
	var r *refusal
	errors.As(err, &r)
	return r
}

func isCode(err error, code int) bool {
	r := refused(err)
	return r != nil && r.code == code
}

// missing reports whether err says that there is no object of that name. That the server does not know the resource, as
// while its definition is replaced, is something else, and says nothing of the object.
func missing(err error, name string) bool {
	r := refused(err)
	return r != nil && r.code == http.StatusNotFound && r.name == name
}

// denied reports whether err is for a person to mend: the server knows us, or does not, and says no.
func denied(err error) bool {
	return isCode(err, http.StatusForbidden) || isCode(err, http.StatusUnauthorized)
}

// lasting reports whether asking again cannot help: the server understood, and said no.
func lasting(err error) bool {
	r := refused(err)
	return r != nil && r.code >= 400 && r.code < 500 && r.code != http.StatusTooManyRequests && r.code != http.StatusRequestTimeout
}

// send sends a request and gives an answer that says yes.
func (a *api) send(ctx context.Context, method, path string, query url.Values, body []byte, kind string) (*http.Response, error) {
	address := a.base + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	request, err := http.NewRequestWithContext(ctx, method, address, reader)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", kind)
	}
	response, err := a.client.Do(request)
	if err != nil {
		return nil, plainError(err)
	}
	if response.StatusCode/100 != 2 {
		defer response.Body.Close()
		return nil, readRefusal(response)
	}
	return response, nil
}

// plainError drops the method and the address, which the reader of a log knows, from what net/http says.
func plainError(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func readRefusal(response *http.Response) error {
	r := &refusal{code: response.StatusCode, after: retryAfter(response.Header.Get("Retry-After"))}
	body, _ := io.ReadAll(io.LimitReader(response.Body, maxRefusal))
	var status struct {
		Message string `json:"message"`
		Reason  string `json:"reason"`
		Details struct {
			Name string `json:"name"`
		} `json:"details"`
	}
	if json.Unmarshal(body, &status) == nil && status.Message != "" {
		r.text, r.name, r.reason = printable(status.Message), status.Details.Name, clip(printable(status.Reason), 60)
	} else {
		r.text = "the API server says " + logger.SanitizeLine(http.StatusText(r.code))
	}
	return r
}

// retryAfter reads the header in seconds, as API servers send it.
func retryAfter(header string) time.Duration {
	seconds, err := strconv.Atoi(header)
	if err != nil || seconds < 0 {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, maxPatience)
}

// unary sends a request and reads its answer with read, within answerTime and among few others.
func (a *api) unary(ctx context.Context, method, path string, query url.Values, body []byte, kind string, read func(io.Reader) error) error {
	select {
	case a.gate <- struct{}{}:
		defer func() { <-a.gate }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, fmt.Errorf("no answer within %s", answerTime))
	defer cancel()
	response, err := a.send(ctx, method, path, query, body, kind)
	if err == nil {
		defer response.Body.Close()
		err = read(response.Body)
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// object asks for one object, or sends one and gets one.
func (a *api) object(ctx context.Context, method, path string, query url.Values, body []byte, kind string) (*wireObject, error) {
	var o wireObject
	err := a.unary(ctx, method, path, query, body, kind, func(r io.Reader) error {
		if err := decodeInto(json.NewDecoder(io.LimitReader(r, maxObject)), &o); err != nil {
			return fmt.Errorf("the API server's answer cannot be read: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if method == http.MethodGet && o.Metadata.UID == "" {
		return nil, errors.New("the API server's answer is not an object with a UID")
	}
	return &o, nil
}

func (a *api) get(ctx context.Context, path string) (*wireObject, error) {
	return a.object(ctx, http.MethodGet, path, nil, nil, "")
}

// list goes through a collection, page by page, and gives the resourceVersion of its beginning.
func (a *api) list(ctx context.Context, path string, query url.Values, each func(*wireObject)) (version string, err error) {
	query.Set("limit", "100")
	for {
		var meta listMeta
		err := a.unary(ctx, http.MethodGet, path, query, nil, "", func(r io.Reader) error {
			meta, err = readList(r, each)
			return err
		})
		switch {
		case isCode(err, http.StatusGone) && query.Has("continue"):
			// It took us too long: once more, in one piece. Who listens has to bear what it knows already.
			query.Del("continue")
			query.Del("limit")
			continue
		case err != nil:
			return "", err
		}
		if meta.Continue == "" {
			return meta.ResourceVersion, nil
		}
		query.Set("continue", meta.Continue)
	}
}

type listMeta struct {
	ResourceVersion string `json:"resourceVersion"`
	Continue        string `json:"continue"`
}

// readList decodes a list one item after the other, so that only one is in memory.
func readList(r io.Reader, each func(*wireObject)) (meta listMeta, err error) {
	budget := &budgetReader{r: r}
	budget.refill()
	d := json.NewDecoder(budget)
	if err := expect(d, '{'); err != nil {
		return meta, err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return meta, garbled(err)
		}
		switch key {
		case "metadata":
			err = d.Decode(&meta)
		case "items":
			err = readItems(d, budget, each)
		default:
			var other json.RawMessage
			err = d.Decode(&other)
		}
		if err != nil {
			return meta, garbled(err)
		}
	}
	if err := expect(d, '}'); err != nil {
		return meta, err
	}
	if meta.ResourceVersion == "" {
		return meta, garbled(errors.New("a list without resourceVersion"))
	}
	return meta, nil
}

func readItems(d *json.Decoder, budget *budgetReader, each func(*wireObject)) error {
	start, err := d.Token()
	if err != nil || start == nil { // null is an empty list
		return err
	}
	if start != json.Delim('[') {
		return errors.New("items is not a list")
	}
	for d.More() {
		budget.refill()
		var o wireObject
		if err := decodeInto(d, &o); err != nil {
			return err
		}
		each(&o)
	}
	_, err = d.Token()
	return err
}

func expect(d *json.Decoder, want json.Delim) error {
	got, err := d.Token()
	if err != nil {
		return garbled(err)
	}
	if got != want {
		return garbled(fmt.Errorf("%v instead of %v", got, want))
	}
	return nil
}

func garbled(err error) error { return fmt.Errorf("the API server's answer cannot be read: %w", err) }

// budgetReader reads until its budget is used up: it bounds the objects of a stream that may last for ever.
type budgetReader struct {
	r    io.Reader
	left int
}

func (b *budgetReader) refill() { b.left = maxObject }

func (b *budgetReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("an object of more than %d bytes", maxObject)
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// patience is how long to wait before asking again: twice as long each time, with jitter, and not before the server
// wants it.
type patience struct{ next time.Duration }

const (
	patienceStart = 250 * time.Millisecond
	patienceEnd   = 15 * time.Second
	patienceOwn   = time.Minute // where a person must act first
)

func (p *patience) after(err error) time.Duration {
	end := patienceEnd
	if denied(err) || errors.Is(err, errNoTekton) {
		end = patienceOwn
	}
	p.next = min(max(2*p.next, patienceStart), end)
	wait := p.next/2 + rand.N(p.next/2+1)
	if r := refused(err); r != nil {
		wait = max(wait, r.after)
	}
	return wait
}

func (p *patience) reset() { p.next = 0 }

// sleep waits, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// group is Tekton's API group.
const group = "tekton.dev"

// errNoTekton is what a cluster without Tekton answers.
var errNoTekton = errors.New("the cluster has no Tekton: its API server does not know the group tekton.dev")

// tekton gives the version of Tekton's API that the server has. It asks once.
func (a *api) tekton(ctx context.Context) (string, error) {
	a.mu.Lock()
	version := a.version
	a.mu.Unlock()
	if version != "" {
		return version, nil
	}
	version, err := a.tektonVersion(ctx)
	if err == nil {
		a.mu.Lock()
		a.version = version
		a.mu.Unlock()
	}
	return version, err
}

// forgetTekton has the next one ask again.
func (a *api) forgetTekton() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version = ""
}

// tektonVersion finds the version of Tekton's API that the server has: v1, or v1beta1 where it is older.
func (a *api) tektonVersion(ctx context.Context) (string, error) {
	var served struct {
		Versions []struct {
			Version string `json:"version"`
		} `json:"versions"`
	}
	err := a.unary(ctx, http.MethodGet, "/apis/"+group, nil, nil, "", func(r io.Reader) error {
		return json.NewDecoder(io.LimitReader(r, maxObject)).Decode(&served)
	})
	switch {
	case isCode(err, http.StatusForbidden):
		return "v1", nil // discovery is closed to us: what a recent Tekton has
	case isCode(err, http.StatusNotFound):
		return "", errNoTekton
	case err != nil:
		return "", err
	}
	for _, want := range []string{"v1", "v1beta1"} {
		for _, v := range served.Versions {
			if v.Version == want {
				return want, nil
			}
		}
	}
	return "", errors.New("the cluster's Tekton has neither tekton.dev/v1 nor v1beta1")
}

// resourcePath is the path of a collection, or with a name of an object.
func resourcePath(version, namespace, resource string, name ...string) string {
	path := "/apis/" + group + "/" + version + "/namespaces/" + url.PathEscape(namespace) + "/" + resource
	for _, n := range name {
		path += "/" + url.PathEscape(n)
	}
	return path
}

// podPath is the path of a pod or of a part of one.
func podPath(namespace string, name ...string) string {
	path := "/api/v1/namespaces/" + url.PathEscape(namespace) + "/pods"
	for _, n := range name {
		path += "/" + url.PathEscape(n)
	}
	return path
}
