package fleet

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

// Server answers ls-refs of protocol v2 for whatever repository it is asked, from memory: what is measured is who asks.
// /qa.git is the only repository that really exists; it is served by git.
type Server struct {
	refs, contact answer
	real          http.Handler

	mu    sync.Mutex
	tally map[string]*Tally // by fleet
}

// Tally is what a fleet has asked.
type Tally struct {
	Questions int64
	First     time.Time
}

type answer struct {
	kind []string
	body []byte
	size []string
}

func newAnswer(kind string, lines ...string) answer {
	var body []byte
	for _, l := range lines {
		body = fmt.Appendf(body, "%04x%s\n", len(l)+5, l)
	}
	body = append(body, "0000"...)
	return answer{[]string{kind}, body, []string{fmt.Sprint(len(body))}}
}

// NewServer makes a server that has the QA repository in a folder.
func NewServer(folder string) *Server {
	var refs []string
	for i := range Branches {
		refs = append(refs, Commit(i)+" refs/heads/"+Branch(i))
	}
	return &Server{
		contact: newAnswer("application/x-git-upload-pack-advertisement", "version 2", "agent=memory", "ls-refs", "fetch", "object-format=sha1"),
		refs:    newAnswer("application/x-git-upload-pack-result", refs...),
		real:    gitserve.Handler(folder, gitserve.Options{}),
		tally:   map[string]*Tally{},
	}
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/qa.git/") {
		s.real.ServeHTTP(w, r)
		return
	}
	a := s.contact
	if r.Method == http.MethodPost {
		a = s.refs
		fleet, _, _ := strings.Cut(r.URL.Path[1:], "/")
		s.count(fleet)
	}
	h := w.Header()
	h["Content-Type"], h["Content-Length"] = a.kind, a.size
	_, _ = w.Write(a.body) // whoever asked has gone where that fails
}

func (s *Server) count(fleet string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tally[fleet]
	if t == nil {
		t = &Tally{First: time.Now()}
		s.tally[fleet] = t
	}
	t.Questions++
}

// take gives what a fleet has asked since it was last told to forget.
func (s *Server) take(fleet string, forget bool) Tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tally[fleet]
	if forget {
		delete(s.tally, fleet)
	}
	if t == nil {
		return Tally{}
	}
	return *t
}

// Role is the role of a server in a process of its own. Its argument is the folder of the QA repository. It writes its
// URL, and answers "tally FLEET" and "forget FLEET" with the Tally so far.
func Role(args []string, in io.Reader) int {
	s := NewServer(args[0])
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	h := &http.Server{Handler: s}
	go func() { _ = h.Serve(listener) }() // it ends with the process
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode("http://" + listener.Addr().String()); err != nil {
		return 1
	}
	var verb, fleet string
	for {
		if _, err := fmt.Fscanln(in, &verb, &fleet); err != nil {
			return 0
		}
		if err := out.Encode(s.take(fleet, verb == "forget")); err != nil {
			return 1
		}
	}
}

// Remote is a server in a process of its own.
type Remote struct {
	URL string
	p   *child.Process
}

// Start starts a server in a process of its own. The package's TestMain must know Role by the name "server".
func Start(t testing.TB, folder string) *Remote {
	t.Helper()
	r := &Remote{p: child.Start(t, "server", "", folder)}
	r.p.Read(&r.URL)
	return r
}

// Tally gives what a fleet has asked so far.
func (r *Remote) Tally(fleet string) (t Tally) {
	r.p.Ask("tally "+fleet, &t)
	return t
}

// Forget counts a fleet from 0 again.
func (r *Remote) Forget(fleet string) {
	var t Tally
	r.p.Ask("forget "+fleet, &t)
}
