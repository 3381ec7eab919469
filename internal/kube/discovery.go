package kube

import (
	"container/list"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// The memory of what the API server says about itself. Every kubectl begins with these questions, and a script runs
// many.
const (
	discoveryFresh   = 5 * time.Second  // an answer counts without asking
	discoveryUnrest  = 30 * time.Second // after a change of the API: the server shows it a little later, so always ask
	discoveryBytes   = 64 << 20         // of all answers
	discoveryLargest = 16 << 20         // of one
)

// discovery remembers answers to questions about the API itself, across commands and deployments. An answer that is
// older than discoveryFresh is asked for again, with its ETag where it has one. A change of the API through the gateway
// makes it forget everything.
type discovery struct {
	gateway *Gateway

	mu      sync.Mutex
	answers map[string]*list.Element // of *answer
	order   *list.List               // the one used last is at the front
	bytes   int
	unrest  time.Time // until then every question is asked
	forgotN int       // how often everything was forgotten
}

// answer is one answer that is remembered. It does not change.
type answer struct {
	key    string
	header http.Header
	body   []byte
	at     time.Time
}

func newDiscovery(g *Gateway) *discovery {
	return &discovery{gateway: g, answers: map[string]*list.Element{}, order: list.New()}
}

// about reports whether the request is such a question.
func (d *discovery) about(q *request) bool {
	if q.resource || q.method != http.MethodGet || q.upgrade {
		return false
	}
	first, rest, _ := strings.Cut(strings.Trim(q.path, "/"), "/")
	switch first {
	case "api":
		return true
	case "apis":
		return strings.Count(rest, "/") <= 1 // /apis, /apis/GROUP, /apis/GROUP/VERSION
	case "openapi":
		return true
	}
	return q.path == "/version"
}

// changes reports whether the request may change what the API server says about itself.
func (d *discovery) changes(q *request) bool {
	return q.resource && q.mutates() && !q.dryRun &&
		(q.group == "apiextensions.k8s.io" && q.kind == "customresourcedefinitions" || q.group == "apiregistration.k8s.io" && q.kind == "apiservices")
}

// forget forgets everything, and trusts nothing for a while.
func (d *discovery) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answers, d.order, d.bytes = map[string]*list.Element{}, list.New(), 0
	d.unrest = time.Now().Add(discoveryUnrest)
	d.forgotN++
}

// serve answers a question about the API.
func (d *discovery) serve(w http.ResponseWriter, r *http.Request, c *call) {
	key := strings.Join([]string{c.access.user, r.URL.RequestURI(), strings.Join(r.Header.Values("Accept"), ","), r.Header.Get("Accept-Encoding")}, "\n")
	known, fresh, epoch := d.recall(key)
	if fresh {
		d.gateway.traffic.discovery.WithLabelValues("hit").Inc()
		d.tell(w, r, c, known)
		return
	}
	out := r.Clone(r.Context())
	out.RequestURI, out.Body, out.ContentLength = "", nil, 0
	for _, name := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"} {
		out.Header.Del(name)
	}
	if known != nil && known.header.Get("Etag") != "" {
		out.Header.Set("If-None-Match", known.header.Get("Etag"))
	}
	if out.Header.Get("User-Agent") == "" {
		out.Header["User-Agent"] = []string{""}
	}
	d.gateway.aim(out, c)
	resp, err := d.gateway.send(out)
	if err != nil {
		c.refuse(w, d.gateway.unreachable(r.Context(), err))
		return
	}
	resp = d.gateway.clean(resp, out)
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified && known != nil {
		d.gateway.traffic.discovery.WithLabelValues("same").Inc()
		again := *known
		again.at = time.Now()
		d.remember(&again, epoch)
		d.tell(w, r, c, &again)
		return
	}
	d.gateway.traffic.discovery.WithLabelValues("miss").Inc()
	body, err := io.ReadAll(io.LimitReader(resp.Body, discoveryLargest+1))
	if err != nil {
		c.refuse(w, d.gateway.unreachable(r.Context(), err))
		return
	}
	for _, name := range []string{"Connection", "Keep-Alive", "Transfer-Encoding", "Trailer", "Upgrade"} {
		resp.Header.Del(name)
	}
	found := &answer{key: key, header: resp.Header, body: body, at: time.Now()}
	if resp.StatusCode == http.StatusOK && len(body) <= discoveryLargest {
		d.remember(found, epoch)
		d.tell(w, r, c, found)
		return
	}
	c.done(resp.StatusCode, "")
	copyHeader(w.Header(), resp.Header)
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(body) // here and below: a client that is gone needs no answer
	_, _ = io.Copy(w, resp.Body)
}

// tell answers from an answer.
func (d *discovery) tell(w http.ResponseWriter, r *http.Request, c *call, a *answer) {
	copyHeader(w.Header(), a.header)
	if tag := a.header.Get("Etag"); tag != "" && sameTag(r.Header.Values("If-None-Match"), tag) {
		w.Header().Del("Content-Length")
		w.Header().Del("Content-Type")
		c.done(http.StatusNotModified, "")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	c.done(http.StatusOK, "")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(a.body)
}

func copyHeader(to, from http.Header) {
	for name, values := range from {
		to[name] = slices.Clone(values)
	}
}

// sameTag reports whether a client already has what the tag stands for.
func sameTag(conditions []string, tag string) bool {
	for _, one := range strings.Split(strings.Join(conditions, ","), ",") {
		if one = strings.TrimSpace(one); one == "*" || strings.TrimPrefix(one, "W/") == strings.TrimPrefix(tag, "W/") {
			return true
		}
	}
	return false
}

// recall gives the answer that is known, whether it counts without asking, and the epoch to remember another with.
func (d *discovery) recall(key string) (a *answer, fresh bool, epoch int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.answers[key]
	if e == nil {
		return nil, false, d.forgotN
	}
	d.order.MoveToFront(e)
	a = e.Value.(*answer)
	now := time.Now()
	return a, now.Sub(a.at) < discoveryFresh && now.After(d.unrest), d.forgotN
}

// remember keeps an answer, unless everything was forgotten since the question was asked: then it may be old.
func (d *discovery) remember(a *answer, epoch int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if epoch != d.forgotN {
		return
	}
	if e := d.answers[a.key]; e != nil {
		d.drop(e)
	}
	d.answers[a.key] = d.order.PushFront(a)
	d.bytes += len(a.key) + len(a.body)
	for d.bytes > discoveryBytes {
		d.drop(d.order.Back())
	}
}

func (d *discovery) drop(e *list.Element) {
	a := d.order.Remove(e).(*answer)
	delete(d.answers, a.key)
	d.bytes -= len(a.key) + len(a.body)
}
