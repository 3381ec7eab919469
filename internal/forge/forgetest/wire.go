package forgetest

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// wire is the server of an emulated forge: on loopback, or over a Pipe for a synctest bubble. It counts what arrives and
// has room for a Fault.
type wire struct {
	url    string
	pipe   *Pipe // nil on loopback
	faulty *faulty
	apart  bool // the API and Git have limits of their own, as at GitHub

	mu     sync.Mutex // guards what follows
	counts Counts
	at     int                  // requests under way
	not    map[string]time.Time // until when a client was told to stay away
}

// isGit tells requests over the Git protocol from those of the API.
func isGit(r *http.Request) bool {
	_, git := gitRequest(r)
	return git
}

// newWire starts a server for one test. name is what a piped one is called.
func newWire(t testing.TB, name string, loopback bool, handler http.Handler) *wire {
	t.Helper()
	w := &wire{faulty: &faulty{next: handler}, not: map[string]time.Time{}}
	if loopback {
		server := httptest.NewServer(w)
		t.Cleanup(server.Close)
		w.url = server.URL
		return w
	}
	w.pipe, w.url = NewPipe(), "http://"+name
	server := &http.Server{Handler: w}
	served := make(chan error, 1)
	go func() { served <- server.Serve(w.pipe) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("%s ended: %v", name, err)
		}
	})
	return w
}

// ServeHTTP counts a request, from what comes first to what leaves last.
func (w *wire) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	if isGit(r) {
		w.counts.Git++
	} else {
		w.counts.API++
	}
	w.at++
	w.counts.Most = max(w.counts.Most, w.at)
	if time.Now().Before(w.not[door(r)+credential(r)]) {
		w.counts.Forbidden++
	}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.at--
		w.mu.Unlock()
	}()
	w.faulty.ServeHTTP(out, r)
}

// The doors of a forge.
const apiDoor, gitDoor = "api ", "git "

// door tells by which one a request comes.
func door(r *http.Request) string {
	if isGit(r) {
		return gitDoor
	}
	return apiDoor
}

// credential is the token of a request, in whichever of the ways of the forges it comes; "" where there is none.
func credential(r *http.Request) string {
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	if token := r.Header.Get("Private-Token"); token != "" {
		return token
	}
	return afterSpace(r.Header.Get("Authorization"))
}

func afterSpace(text string) string {
	for i := range len(text) {
		if text[i] == ' ' {
			return text[i+1:]
		}
	}
	return ""
}

// Forbid notes that a client was told to stay away for a while: what it sends before counts as Forbidden, by whichever door
// it comes, unless these are apart. A Fault that answers 429 in place of the forge calls it as the forge does.
func (w *wire) Forbid(r *http.Request, wait time.Duration) {
	if w.apart {
		w.forbid(r, wait, door(r))
		return
	}
	w.forbid(r, wait, apiDoor, gitDoor)
}

// ForbidDoor is Forbid where what was said is about one door: its budget is empty.
func (w *wire) ForbidDoor(r *http.Request, wait time.Duration) { w.forbid(r, wait, door(r)) }

func (w *wire) forbid(r *http.Request, wait time.Duration, doors ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts.Refused++
	until := time.Now().Add(wait)
	for _, d := range doors {
		if at := d + credential(r); until.After(w.not[at]) {
			w.not[at] = until
		}
	}
}

// charge counts what costs the client something.
func (w *wire) charge(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts.Charged += n
}

// URL is the address of the web site and of Git.
func (w *wire) URL() string { return w.url }

// Dial is how to get there; nil on loopback.
func (w *wire) Dial() func(ctx context.Context, network, address string) (net.Conn, error) {
	if w.pipe == nil {
		return nil
	}
	return w.pipe.DialContext
}

// Requests tells what was asked since the start.
func (w *wire) Requests() Counts {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts
}

// Fail puts something between the forge and those who ask.
func (w *wire) Fail(fault Fault) { w.faulty.set(fault) }
