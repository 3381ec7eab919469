package kube

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"sentry/bench/internal/measure"
	"sentry/internal/kube"
	"sentry/internal/kube/kubetest"
	"sentry/internal/sentry"
)

// The goals.
const (
	goalOverhead   = time.Millisecond // of a request, at the median
	goalThroughput = 0.8              // of what is reached without the gateway
)

// How often each thing is done on each way, in turns.
const (
	requests = 500
	creates  = 150
	runs     = 30 // Tekton looks at each of them
	applies  = 5
	watches  = 30
)

const (
	events  = 100     // of a watch
	objects = 12      // of an apply
	size    = 875_000 // bytes of each: together 10 MB
)

// way is one of the two to the API server.
type way struct {
	t      *testing.T
	client *http.Client
	host   string
	ns     string
}

// nobody records nothing: what is durable is measured elsewhere.
type nobody struct{}

func (nobody) Intend(sentry.PipelineRun) error  { return nil }
func (nobody) Created(sentry.PipelineRun) error { return nil }
func (nobody) Dropped(string) error             { return nil }

// ways gives the direct one, and that through a gateway in this process.
func ways(t *testing.T, k *kubetest.Cluster) [2]*way {
	t.Helper()
	ns := k.Namespace(t)
	config, err := os.ReadFile(k.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	c, err := kube.Connect(kube.Options{Kubeconfig: k.Kubeconfig, Namespaces: []string{ns}})
	if err != nil {
		t.Fatal(err)
	}
	g, err := c.NewGateway(kube.GatewayOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	a, err := g.Open(kube.Identity{Instance: "bench", Rollout: "1", Deployment: "1-a-1", Group: "g", Repository: "a", Attempt: 1}, nobody{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return [2]*way{newWay(t, config, ns), newWay(t, a.Kubeconfig(), ns)}
}

func newWay(t *testing.T, kubeconfig []byte, ns string) *way {
	t.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return &way{t, client, config.Host, ns}
}

// ask asks and reads the whole answer; the test ends where its code is another one.
func (w *way) ask(method, path, media string, body []byte, want int) []byte {
	w.t.Helper()
	resp := w.open(method, path, media, body)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != want {
		w.t.Fatalf("%s %s: %s %v %.300s", method, path, resp.Status, err, answer)
	}
	return answer
}

func (w *way) open(method, path, media string, body []byte) *http.Response {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.host+strings.ReplaceAll(path, "NS", w.ns), strings.NewReader(string(body)))
	if err != nil {
		w.t.Fatal(err)
	}
	if media != "" {
		req.Header.Set("Content-Type", media)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp
}

const maps = "/api/v1/namespaces/NS/configmaps"

func configMap(name, value string) []byte {
	raw, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name, "labels": map[string]any{"app": "bench"}}, "data": map[string]any{"key": value},
	})
	if err != nil {
		panic(err) // texts
	}
	return raw
}

// inTurns does the same on both ways n times, now the one first and now the other, and gives the times.
func inTurns(ways [2]*way, n int, do func(w *way, i int)) (took [2][]time.Duration) {
	for i := range n {
		for j := range 2 {
			side := (i + j) % 2
			began := time.Now()
			do(ways[side], 2*i+side)
			took[side] = append(took[side], time.Since(began))
		}
	}
	return took
}

// TestRatiosGateway compares the two ways, side by side in one run.
func TestRatiosGateway(t *testing.T) {
	k := kubetest.Find(t)
	machine := measure.Alone(t)
	both := ways(t, k)
	both[0].ask("POST", maps, "application/json", configMap("small", "x"), 201)
	inTurns(both, 20, func(w *way, _ int) { w.ask("GET", maps+"/small", "", nil, 200) }) // connections, and caches

	overhead := measure.Table{
		Title:   "A request through the gateway to Kubernetes, beside one without it: median",
		Columns: []string{"request", "directly", "gateway", "overhead", "goal", ""},
	}
	compare := func(name string, took [2][]time.Duration) {
		direct, through := measure.Median(took[0]), measure.Median(took[1])
		reached := through-direct <= goalOverhead
		more := "none"
		if through > direct {
			more = measure.Time(through - direct)
		}
		overhead.Row(name, direct, through, more, goalOverhead, measure.Verdict(reached))
		if !reached {
			t.Errorf("%s: %v more than the %v without the gateway", name, through-direct, direct)
		}
	}
	compare("get a config map", inTurns(both, requests, func(w *way, _ int) { w.ask("GET", maps+"/small", "", nil, 200) }))
	compare("create one, with labels added", inTurns(both, creates, func(w *way, i int) {
		w.ask("POST", maps, "application/json", configMap(fmt.Sprint("c", i), "x"), 201)
	}))
	compare("create a PipelineRun, recorded", inTurns(both, runs, func(w *way, i int) {
		w.ask("POST", "/apis/tekton.dev/v1/namespaces/NS/pipelineruns", "application/json", pipelineRun(i), 201)
	}))
	overhead.Note("%s", machine)
	overhead.Print()

	throughput := measure.Table{
		Title:   "Throughput through the gateway, beside that without it: median",
		Columns: []string{"what", "directly", "gateway", "of direct", "goal", ""},
	}
	rate := func(name string, took [2][]time.Duration) {
		direct, through := measure.Median(took[0]), measure.Median(took[1])
		ratio := float64(direct) / float64(through)
		throughput.Row(name, direct, through, fmt.Sprintf("%.0f %%", 100*ratio), fmt.Sprintf("%.0f %%", 100*goalThroughput), measure.Verdict(ratio >= goalThroughput))
		if ratio < goalThroughput {
			t.Errorf("%s: %v in place of %v", name, through, direct)
		}
	}
	text := strings.Repeat("0123456789abcdef", size/16)
	rate(fmt.Sprintf("10 MB created, in %d objects", objects), inTurns(both, applies, func(w *way, i int) {
		for o := range objects {
			w.ask("POST", maps, "application/json", configMap(fmt.Sprint("big", i, "-", o), text), 201)
		}
	}))
	rate(fmt.Sprintf("10 MB applied on the server, in %d objects", objects), inTurns(both, applies, func(w *way, i int) {
		for o := range objects {
			w.ask("PATCH", fmt.Sprint(maps, "/big", i, "-", o, "?fieldManager=bench&force=true"), "application/apply-patch+yaml", configMap(fmt.Sprint("big", i, "-", o), text[1:]), 200)
		}
	}))
	from := both[0].eventsOf()
	rate(fmt.Sprintf("a watch with %d events", events), inTurns(both, watches, func(w *way, _ int) { w.watch(from) }))
	throughput.Note("%s", machine)
	throughput.Print()
}

func pipelineRun(i int) []byte {
	return []byte(fmt.Sprintf(`{"apiVersion":"tekton.dev/v1","kind":"PipelineRun","metadata":{"name":"r%d"},"spec":{"status":"PipelineRunPending","pipelineRef":{"name":"p"}}}`, i))
}

// eventsOf changes a config map as often as a watch is to have events, and gives the version before.
func (w *way) eventsOf() string {
	w.t.Helper()
	var o struct {
		Metadata struct{ ResourceVersion string }
	}
	if err := json.Unmarshal(w.ask("GET", maps+"/small", "", nil, 200), &o); err != nil {
		w.t.Fatal(err)
	}
	for i := range events {
		w.ask("PATCH", maps+"/small", "application/merge-patch+json", []byte(fmt.Sprintf(`{"data":{"key":"%d"}}`, i)), 200)
	}
	return o.Metadata.ResourceVersion
}

// watch reads the events since a version.
func (w *way) watch(from string) {
	w.t.Helper()
	resp := w.open("GET", maps+"?watch=true&fieldSelector=metadata.name%3Dsmall&resourceVersion="+from, "", nil)
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for range events {
		if !lines.Scan() || !strings.Contains(lines.Text(), `"type":"MODIFIED"`) {
			w.t.Fatalf("%s %v %.200s", resp.Status, lines.Err(), lines.Text())
		}
	}
}
