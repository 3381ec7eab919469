package gittest

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sentry/internal/git/gitserve"
)

// Server is a Git server for one test; it is closed when the test ends.
type Server struct {
	URL string // "http://127.0.0.1:port", without a slash at the end
	Dir string // the folder of the bare repositories

	mu        sync.Mutex // owns what follows
	handler   http.Handler
	intercept func(w http.ResponseWriter, r *http.Request, next http.Handler)
	requests  []Request
}

// Kind is what a request asks for.
type Kind string

// The kinds of request.
const (
	Capabilities Kind = "capabilities" // GET info/refs of a client that speaks protocol v2
	Advertise    Kind = "advertise"    // GET info/refs of one that does not: the answer lists every ref
	LsRefs       Kind = "ls-refs"
	Fetch        Kind = "fetch"
	Push         Kind = "push"
	Other        Kind = "other"
)

// Request is one request that the server got.
type Request struct {
	Kind          Kind
	Method, Path  string // path without the query
	Repository    string // the name of the repository
	Authorization string
	Body          string // unpacked
	Status        int
	Sent          int64 // bytes of the answer's body
}

// NewServer starts a server without repositories that admits everybody.
func NewServer(t testing.TB) *Server {
	t.Helper()
	s := &Server{Dir: t.TempDir()}
	s.handler = gitserve.Handler(s.Dir, gitserve.Options{ReceivePack: true})
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	s.URL = h.URL
	return s
}

// SetToken changes the account that requests must show from now on; an empty token admits everybody.
func (s *Server) SetToken(user, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handler = gitserve.Handler(s.Dir, gitserve.Options{User: user, Token: token, ReceivePack: true})
}

// Intercept puts f before the repositories: it answers by itself, or lets next answer. It runs for several requests at
// once. nil takes it away.
func (s *Server) Intercept(f func(w http.ResponseWriter, r *http.Request, next http.Handler)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intercept = f
}

// Requests gives the requests answered so far, of the kinds named or all, in the order of their answers.
func (s *Server) Requests(kinds ...Kind) []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var some []Request
	for _, r := range s.requests {
		if len(kinds) == 0 || contains(kinds, r.Kind) {
			some = append(some, r)
		}
	}
	return some
}

// Count tells how many requests of these kinds (all, where none is named) were answered.
func (s *Server) Count(kinds ...Kind) int { return len(s.Requests(kinds...)) }

// Forget starts the counting again.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = nil
}

// Repo makes an empty bare repository; name may contain slashes. Its URL is the server's and the name.
func (s *Server) Repo(t testing.TB, name string) *Repo {
	t.Helper()
	return NewRepo(t, filepath.Join(s.Dir, filepath.FromSlash(name)), s.URL+"/"+name)
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	handler, intercept := s.handler, s.intercept
	s.mu.Unlock()

	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client went away
	}
	r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(raw)), int64(len(raw)), nil
	seen := Request{
		Method: r.Method, Path: r.URL.Path, Authorization: r.Header.Get("Authorization"),
		Body: plain(raw, r.Header.Get("Content-Encoding")), Status: http.StatusOK,
	}
	seen.Kind, seen.Repository = classify(r, seen.Body)

	counted := &counter{ResponseWriter: w, seen: &seen}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.requests = append(s.requests, seen)
	}()
	if intercept != nil {
		intercept(counted, r, handler)
		return
	}
	handler.ServeHTTP(counted, r)
}

func classify(r *http.Request, body string) (Kind, string) {
	p := strings.TrimPrefix(r.URL.Path, "/")
	if repo, ok := strings.CutSuffix(p, "/info/refs"); ok {
		switch {
		case r.URL.Query().Get("service") == "git-receive-pack":
			return Push, repo
		case strings.Contains(r.Header.Get("Git-Protocol"), "version=2"):
			return Capabilities, repo
		}
		return Advertise, repo
	}
	if repo, ok := strings.CutSuffix(p, "/git-receive-pack"); ok {
		return Push, repo
	}
	repo, ok := strings.CutSuffix(p, "/git-upload-pack")
	switch {
	case !ok:
		return Other, p
	case strings.Contains(body, "command=ls-refs"):
		return LsRefs, repo
	}
	return Fetch, repo
}

// plain unpacks a body as far as it can be unpacked.
func plain(raw []byte, encoding string) string {
	if encoding != "gzip" {
		return string(raw)
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return string(raw)
	}
	text, _ := io.ReadAll(z)
	return string(text)
}

// counter notes the status and the size of an answer.
type counter struct {
	http.ResponseWriter
	seen *Request
}

func (c *counter) WriteHeader(status int) {
	c.seen.Status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.seen.Sent += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController flush and hijack.
func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func contains(kinds []Kind, k Kind) bool {
	for _, one := range kinds {
		if one == k {
			return true
		}
	}
	return false
}
