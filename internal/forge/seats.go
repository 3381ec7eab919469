package forge

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sentry/internal/sentry"
)

// seats are how many requests may be under way at one origin, whoever asks and by whichever protocol. Who comes first is
// let in first, but those that are urgent, which are few, before all others. It is safe for concurrent use.
type seats struct {
	mu     sync.Mutex // guards what follows
	most   int        // 0: any number
	taken  int
	urgent []chan struct{} // closed when the turn has come
	queue  []chan struct{} // likewise, of the others
}

// bound sets how many there are, 0 for any number. Requests that are under way go on.
func (s *seats) bound(most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.most = most
	s.admit()
}

// take waits for a seat, until the Deadline of ctx also where its Done says nothing of it. Who has got one leaves
// it. The error is that of ctx.
func (s *seats) take(ctx context.Context, urgent bool) error {
	queue := &s.queue
	if urgent {
		queue = &s.urgent
	}
	s.mu.Lock()
	if s.free() { // and so nobody waits
		s.taken++
		s.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	*queue = append(*queue, turn)
	s.mu.Unlock()
	if end, ends := ctx.Deadline(); ends {
		within, stop := context.WithDeadline(ctx, end)
		defer stop()
		ctx = within
	}
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(*queue, turn); i >= 0 {
		*queue = slices.Delete(*queue, i, i+1)
	} else { // its turn came at the same moment
		s.taken--
		s.admit()
	}
	return ctx.Err()
}

// leave gives a seat back.
func (s *seats) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	s.admit()
}

func (s *seats) free() bool { return s.most <= 0 || s.taken < s.most }

// admit lets in those who wait, as far as there is room. The caller holds s.mu.
func (s *seats) admit() {
	for _, queue := range []*[]chan struct{}{&s.urgent, &s.queue} {
		for len(*queue) > 0 && s.free() {
			close((*queue)[0])
			*queue = (*queue)[1:]
			s.taken++
		}
	}
}

// Protocols that are told apart in metrics.
const (
	overAPI = "api"
	overGit = "git"
)

// Git puts questions over the Git protocol under what is known of their origins: they count among the requests at a time,
// and in the metrics, and are not put while a server wants to be left alone. next must go nowhere but where a request says.
func (n *Network) Git(next http.RoundTripper) http.RoundTripper {
	return &gitWay{network: n, next: next, origins: map[[2]string]string{}}
}

type gitWay struct {
	network *Network
	next    http.RoundTripper

	mu      sync.Mutex
	origins map[[2]string]string // by scheme and host as requests write them: every idle check looks here
}

// RoundTrip sends a request, unless the server wants to be left alone, which is noted as soon as it says so.
func (w *gitWay) RoundTrip(req *http.Request) (*http.Response, error) {
	origin := w.origin(req.URL)
	resp, err := w.network.carry(origin, overGit, w.next, req)
	if err == nil && resp.StatusCode >= 400 {
		w.network.hear(origin, resp, ticketOf(req))
	}
	return resp, err
}

func (w *gitWay) origin(u *url.URL) string {
	if u.User != nil {
		return originOf(u)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	as := [2]string{u.Scheme, u.Host}
	origin, known := w.origins[as]
	if !known {
		origin = originOf(u)
		w.origins[as] = origin
	}
	return origin
}

// ticket is what a request brings along when it comes for a seat, in its context.
type ticket struct {
	// urgent puts it before those that are not.
	urgent bool
	// look tells whether it may be sent now that it has its seat: much may have been said while it waited.
	look func() error
	// heard is told when the answer is "later", before anybody has read it.
	heard func(*sentry.Fault)
}

type ticketKey struct{}

func (t ticket) in(ctx context.Context) context.Context {
	return context.WithValue(ctx, ticketKey{}, t)
}

func ticketOf(req *http.Request) ticket {
	t, _ := req.Context().Value(ticketKey{}).(ticket)
	return t
}

// waits adds up, in the context of a question, how long its requests waited until they were sent: that is no time of the
// server's. In nanoseconds.
type waits struct{ atomic.Int64 }

type waitsKey struct{}

func (w *waits) in(ctx context.Context) context.Context {
	return context.WithValue(ctx, waitsKey{}, w)
}

// noteWait notes that a request has waited until now.
func noteWait(ctx context.Context, since time.Time) {
	if w, ok := ctx.Value(waitsKey{}).(*waits); ok {
		w.Add(int64(time.Since(since)))
	}
}

// errNoSeat ends a request that waited for a seat in vain.
type errNoSeat struct{ cause error }

func (e *errNoSeat) Error() string {
	return "waited in vain to be one of the requests at a time: " + e.cause.Error()
}

func (e *errNoSeat) Unwrap() error { return e.cause }

// admit waits for a seat, and gives it back where the request must not be sent any more.
func (n *Network) admit(origin, protocol string, req *http.Request) (*seats, error) {
	at, t := n.route(origin).seats, ticketOf(req)
	began := time.Now()
	err := at.take(req.Context(), t.urgent)
	noteWait(req.Context(), began)
	if err != nil {
		return nil, &errNoSeat{err}
	}
	if t.look != nil {
		err = t.look()
	}
	if err == nil && protocol == overGit {
		err = n.Silence(origin)
	}
	if err != nil {
		at.leave()
		return nil, err
	}
	return at, nil
}

// carry sends a request when there is a seat for it, counts it, and gives the seat back when its answer was closed.
func (n *Network) carry(origin, protocol string, by http.RoundTripper, req *http.Request) (*http.Response, error) {
	at, err := n.admit(origin, protocol, req)
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	meter := n.count.meter(origin, protocol)
	start := time.Now()
	resp, err := by.RoundTrip(req)
	meter.request(resp, err, time.Since(start))
	if err != nil {
		at.leave()
		return nil, err
	}
	resp.Body = &seated{ReadCloser: resp.Body, meter: meter, seats: at}
	return resp, nil
}

// seated is the body of an answer, which has a seat until it is closed.
type seated struct {
	io.ReadCloser
	meter *meter
	seats *seats
	once  sync.Once
}

func (b *seated) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.meter.received.Add(float64(n))
	return n, err
}

func (b *seated) Close() error {
	err := b.ReadCloser.Close()
	b.once.Do(b.seats.leave)
	return err
}
