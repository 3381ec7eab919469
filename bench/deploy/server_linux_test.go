package deploy

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"sentry/bench/internal/child"
	"sentry/internal/git/gitserve"
)

func TestMain(m *testing.M) {
	child.Main(m, map[string]child.Role{"git server": gitServer})
}

// traffic is what a repository was asked, how many bytes of answers that took, and when the last request came and was
// answered.
type traffic struct {
	Requests, Bytes int64
	Asked, Answered time.Time
}

func (t traffic) minus(before traffic) traffic {
	t.Requests -= before.Requests
	t.Bytes -= before.Bytes
	return t
}

// gitServer serves the repositories of a folder, its argument, in a process of its own. It writes its URL, and answers the
// name of a repository with the traffic of that so far.
func gitServer(args []string, in io.Reader) int {
	c := &counting{next: gitserve.Handler(args[0], gitserve.Options{}), traffic: map[string]traffic{}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() { _ = (&http.Server{Handler: c}).Serve(listener) }() // it ends with the process
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode("http://" + listener.Addr().String()); err != nil {
		return 1
	}
	var repository string
	for {
		if _, err := fmt.Fscanln(in, &repository); err != nil {
			return 0
		}
		if err := out.Encode(c.of(repository)); err != nil {
			return 1
		}
	}
}

type counting struct {
	next http.Handler

	mu      sync.Mutex
	traffic map[string]traffic // by repository
}

func (c *counting) of(repository string) traffic {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.traffic[repository]
}

func (c *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	repository, _, _ := strings.Cut(r.URL.Path[1:], "/")
	body := &counter{ResponseWriter: w}
	asked := time.Now()
	c.next.ServeHTTP(body, r)
	answered := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.traffic[repository]
	c.traffic[repository] = traffic{t.Requests + 1, t.Bytes + body.n, asked, answered}
}

type counter struct {
	http.ResponseWriter
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	return n, err
}
