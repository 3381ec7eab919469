package forgetest

import (
	"context"
	"net"
	"net/http"
	"sync"
)

// Lab is a forge with repositories that a test moves as a pusher would. Repositories are named "owner/name", branches
// without "refs/heads/". What a Lab cannot do it says through the test that made it. It is safe for concurrent use.
type Lab interface {
	// Kind is "github", "gitlab" or "gitea".
	Kind() string
	// URL is the address of the web site and of Git, API the base of the API; both without a slash at the end.
	URL() string
	API() string
	// Dial is how to get there; nil where the network leads there.
	Dial() func(ctx context.Context, network, address string) (net.Conn, error)

	// Repository makes an empty repository and gives its address.
	Repository(repository string, private bool) (remote string)
	// Push gives a branch a new commit on top of its last one, ForcePush one that is not on top, and Set any that the
	// repository has or had.
	Push(repository, branch string) (commit string)
	ForcePush(repository, branch string) (commit string)
	Set(repository, branch, commit string)
	Delete(repository, branch string)
	Head(repository, branch string) (commit string) // "" where there is none
	// Rename moves a repository; what asks for the old name is led to the new one. Remove deletes it.
	Rename(repository, to string)
	Remove(repository string)

	// Token makes a token with rights in the forge's own words; none means all that Sentry needs. Revoke ends it.
	Token(rights ...string) string
	Revoke(token string)
	// Statuses gives those of a commit, the newest of each context.
	Statuses(repository, commit string) []Status

	// Requests tells what was asked since the start.
	Requests() Counts
	// Fail puts something between the forge and those who ask, nil takes it away.
	Fail(Fault)
}

// Status is what the forge shows at a commit, its state in the forge's words.
type Status struct{ Context, State, Description, URL string }

// Counts of requests.
type Counts struct {
	API, Git  int // requests that arrived
	Charged   int // requests, or points, that count on a budget
	Refused   int // answers that say "too many": 429, and 403 where the forge says it so
	Forbidden int // requests that came although the forge had said when to come again, and it was not yet time
	Most      int // at once
}

// Fault answers a request in place of the forge, spoils it, or passes it on to next.
type Fault func(w http.ResponseWriter, r *http.Request, next http.Handler)

// faulty is a handler with a Fault before it.
type faulty struct {
	next  http.Handler
	mu    sync.RWMutex
	fault Fault
}

func (f *faulty) set(fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

func (f *faulty) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.RLock()
	fault := f.fault
	f.mu.RUnlock()
	if fault == nil {
		f.next.ServeHTTP(w, r)
		return
	}
	fault(w, r, f.next)
}
