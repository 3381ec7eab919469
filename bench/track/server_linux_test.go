package track

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The runs, and what becomes of each: it changes so often, and then ends.
const (
	runs      = 500
	changes   = 6
	pause     = time.Second // between two changes of a run
	runBytes  = 40 << 10    // of an object, as a pipeline of twenty tasks has
	namespace = "ci"
)

const collection = "/apis/tekton.dev/v1/namespaces/" + namespace + "/pipelineruns"

// cluster is an API server with runs in it, as far as their watchers need one.
type cluster struct {
	mu      sync.Mutex
	version int
	state   [runs]int // changes so far
	when    [runs]int // version of the last
	changed chan struct{}

	watches, most, asked atomic.Int64
}

// address is what the server tells its parent.
type address struct{ URL, Authority string }

// tally is what was asked of it.
type tally struct{ Asked, Watches int64 }

// serve is the role of the server. At "go" its runs begin to change.
func serve(_ []string, in io.Reader) int {
	c := &cluster{version: 1, changed: make(chan struct{})}
	server := httptest.NewUnstartedServer(c)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	out := json.NewEncoder(os.Stdout)
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if out.Encode(address{server.URL, string(authority)}) != nil {
		return 1
	}
	var word string
	for {
		if _, err := fmt.Fscanln(in, &word); err != nil {
			server.CloseClientConnections()
			return 0
		}
		switch word {
		case "go":
			go c.live()
		}
		if out.Encode(tally{c.asked.Load(), c.most.Load()}) != nil {
			return 1
		}
	}
}

// live lets the runs change and end.
func (c *cluster) live() {
	for range changes + 1 {
		for i := range runs {
			c.mu.Lock()
			c.version++
			c.state[i]++
			c.when[i] = c.version
			if i%50 == 49 {
				close(c.changed)
				c.changed = make(chan struct{})
			}
			c.mu.Unlock()
		}
		time.Sleep(pause)
	}
}

var padding = strings.Repeat("echo the script of a task, which nobody needs who follows the run; ", runBytes/3/68)

// object is a run as JSON: a third each of spec, managed fields and the spec in its status.
func (c *cluster) object(i int) string {
	condition := fmt.Sprintf(`{"type":"Succeeded","status":"Unknown","reason":"Running","message":"Tasks Completed: %d (Failed: 0, Cancelled 0), Incomplete: %d, Skipped: 0"}`, c.state[i], changes-c.state[i])
	end := ""
	if c.state[i] > changes {
		condition = `{"type":"Succeeded","status":"True","reason":"Succeeded","message":"Tasks Completed: 6 (Failed: 0, Cancelled 0), Skipped: 0"}`
		end = `"completionTime":"2026-01-01T00:10:00Z","results":[{"name":"digest","value":"sha256:0123456789"}],`
	}
	var children []string
	for n := range min(c.state[i], changes) {
		children = append(children, fmt.Sprintf(`{"kind":"TaskRun","apiVersion":"tekton.dev/v1","name":"run-%d-task-%d","pipelineTaskName":"task-%d"}`, i, n, n))
	}
	return fmt.Sprintf(`{"apiVersion":"tekton.dev/v1","kind":"PipelineRun","metadata":{"name":"run-%d","namespace":%q,"uid":"uid-%d","resourceVersion":"%d",`+
		`"labels":{"sentry.dev/instance":"bench","sentry.dev/request":"nonce%d"},"managedFields":[{"manager":"controller","fieldsV1":{"f:x":%q}}]},`+
		`"spec":{"pipelineSpec":{"tasks":[{"name":"a","taskSpec":{"steps":[{"script":%q}]}}]}},`+
		`"status":{"startTime":"2026-01-01T00:00:00Z",%s"conditions":[%s],"childReferences":[%s],"pipelineSpec":{"tasks":[{"name":"a","taskSpec":{"steps":[{"script":%q}]}}]}}}`,
		i, namespace, i, max(c.when[i], 1), i, padding, padding, end, condition, strings.Join(children, ","), padding)
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.asked.Add(1)
	w.Header().Set("Content-Type", "application/json")
	query := r.URL.Query()
	switch {
	case r.URL.Path == "/apis/tekton.dev":
		fmt.Fprint(w, `{"versions":[{"version":"v1"}]}`)
	case r.URL.Path == collection && query.Has("watch"):
		c.watch(w, r)
	case r.URL.Path == collection:
		c.list(w, query.Get("limit"), query.Get("continue"))
	case path.Dir(r.URL.Path) == collection:
		i, _ := strconv.Atoi(strings.TrimPrefix(path.Base(r.URL.Path), "run-"))
		c.mu.Lock()
		o := c.object(i)
		c.mu.Unlock()
		fmt.Fprint(w, o)
	case path.Base(r.URL.Path) == "taskruns":
		c.taskRuns(w, strings.TrimPrefix(query.Get("labelSelector"), "tekton.dev/pipelineRun=run-"))
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (c *cluster) list(w io.Writer, limit, from string) {
	begin, _ := strconv.Atoi(from)
	size, _ := strconv.Atoi(limit)
	end := runs
	if size > 0 {
		end = min(runs, begin+size)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	next := ""
	if end < runs {
		next = strconv.Itoa(end)
	}
	fmt.Fprintf(w, `{"apiVersion":"tekton.dev/v1","kind":"PipelineRunList","metadata":{"resourceVersion":"%d","continue":%q},"items":[`, c.version, next)
	for i := begin; i < end; i++ {
		if i > begin {
			fmt.Fprint(w, ",")
		}
		fmt.Fprint(w, c.object(i))
	}
	fmt.Fprint(w, "]}")
}

func (c *cluster) watch(w http.ResponseWriter, r *http.Request) {
	c.most.Store(max(c.most.Load(), c.watches.Add(1)))
	defer c.watches.Add(-1)
	seen, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	flush := http.NewResponseController(w)
	for {
		_ = flush.Flush()
		c.mu.Lock()
		changed, version := c.changed, c.version
		var events []string
		for i := range runs {
			if c.when[i] > seen {
				events = append(events, `{"type":"MODIFIED","object":`+c.object(i)+"}\n")
			}
		}
		c.mu.Unlock()
		seen = version
		for _, e := range events {
			if _, err := io.WriteString(w, e); err != nil {
				return
			}
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// taskRuns answers with the ten TaskRuns of a run.
func (c *cluster) taskRuns(w io.Writer, run string) {
	var items []string
	for n := range changes {
		items = append(items, fmt.Sprintf(`{"metadata":{"name":"run-%s-task-%d","namespace":%q,"uid":"t","ownerReferences":[{"uid":"uid-%s"}]},`+
			`"status":{"startTime":"2026-01-01T00:00:00Z","completionTime":"2026-01-01T00:00:10Z","podName":"p","conditions":[{"type":"Succeeded","status":"True","reason":"Succeeded"}],"taskSpec":{"steps":[{"script":%q}]}}}`,
			run, n, namespace, run, padding[:4000]))
	}
	fmt.Fprintf(w, `{"metadata":{"resourceVersion":"9"},"items":[%s]}`, strings.Join(items, ","))
}
