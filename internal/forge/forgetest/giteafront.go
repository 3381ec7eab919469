package forgetest

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// giteaFront counts what passes. A fault behind it may answer that it is too much, and say when to come again: what comes
// earlier it counts as forbidden, by whichever door it comes.
type giteaFront struct {
	next http.Handler

	mu     sync.Mutex // owns what follows
	counts Counts
	now    int // requests under way
	closed time.Time
}

func (f *giteaFront) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	api := strings.HasPrefix(r.URL.Path, "/api/")
	f.came(api)
	seen := &statusSeen{ResponseWriter: w, status: http.StatusOK}
	defer func() { f.went(seen) }() // a fault may panic, to break the connection
	f.next.ServeHTTP(seen, r)
}

func (f *giteaFront) came(api bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if api {
		f.counts.API++
		f.counts.Charged++
	} else {
		f.counts.Git++
	}
	if time.Now().Before(f.closed) {
		f.counts.Forbidden++
	}
	f.now++
	f.counts.Most = max(f.counts.Most, f.now)
}

func (f *giteaFront) went(answer *statusSeen) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now--
	if answer.status == http.StatusTooManyRequests {
		f.counts.Refused++
	}
	if answer.status != http.StatusTooManyRequests && answer.status != http.StatusServiceUnavailable {
		return
	}
	if seconds, err := strconv.Atoi(answer.Header().Get("Retry-After")); err == nil {
		f.closed = time.Now().Add(time.Duration(seconds) * time.Second)
	}
}

func (f *giteaFront) total() Counts {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts
}

// statusSeen remembers the status of an answer.
type statusSeen struct {
	http.ResponseWriter
	status int
}

func (s *statusSeen) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap lets a proxy flush, and a fault take over the connection.
func (s *statusSeen) Unwrap() http.ResponseWriter { return s.ResponseWriter }
