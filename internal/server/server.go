package server

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sentry/internal/config"
	"sentry/internal/forge"
	"sentry/internal/monitor"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// Store is what the server reads from the state. *store.Store is one.
type Store interface {
	Heads(ctx context.Context) ([]sentry.Head, error)
	HeadsOf(ctx context.Context, repositories ...string) ([]sentry.Head, error)
	Rollout(ctx context.Context, id string) (sentry.Rollout, error)
	Rollouts(ctx context.Context, f store.Filter) ([]sentry.Rollout, error)
	Latest(ctx context.Context, groups ...string) (map[string]sentry.Rollout, error)
	Reports(ctx context.Context, id string) ([]sentry.Report, error)
	Why(ctx context.Context, f store.WhyFilter) ([]sentry.Decision, error)
	Paused(ctx context.Context) (map[string]store.Pause, error)
	Subscribe() (<-chan struct{}, func())
}

// Control is what can be asked of whoever owns the state: the daemon, or a command that holds the lock for a moment.
// Names and targets are checked before it is asked.
type Control interface {
	// Trigger queues rollouts that a person asked for, in this order, and returns when that is durable.
	Trigger(ctx context.Context, requests ...store.Request) ([]Queued, error)
	// Cancel ends a pending rollout, or asks a running one to end; it returns when the wish is durable.
	Cancel(ctx context.Context, id, by, reason string) (sentry.Status, error)
	Pause(ctx context.Context, group, by, reason string) error
	Resume(ctx context.Context, group, by string) error
	// Refuse writes into the ledger that something asked for was not done.
	Refuse(ctx context.Context, d sentry.Decision) error
	// Reload reads the configuration again. config.Problems is the error where the file is wrong.
	Reload(ctx context.Context) error
	// Hint makes a repository due now, as far as nothing forbids that, and does not wait.
	Hint(repository string)
	Watches() []monitor.WatchState
	Hosts() []monitor.HostState
	// Budgets tells what is left of what forges allow, without asking them.
	Budgets() []forge.BudgetState
	// Explain tells how a configured repository is asked, and why so; "" where that is not known.
	Explain(repository string) string
	// Info describes the daemon; nil where it is not one that goes on running.
	Info() *Daemon
}

// Options are what a handler needs.
type Options struct {
	Store Store // required
	// Config gives the configuration as it is now; nil, or a nil answer, where there is none that can be read.
	Config func() *config.Config
	// Control is nil where nobody owns the state: then every acting route answers 503.
	Control Control
	LogsDir string // the folder that Step.Log is relative to
	Version string
	// Authorize says who calls and whether that one has the role that a route needs. nil admits everybody to
	// everything, under the name that the caller gives: right for a unix socket, which its permissions guard, and for
	// calls inside one process. Its error is ErrUnauthenticated, or whatever says why the role is missing.
	Authorize func(r *http.Request, need Role) (Caller, error)
	// Hosts says whether a request may give a name to this server; nil: whatever it likes. On a listener that browsers
	// reach, a page of a stranger whose name suddenly stands for this machine would pass for a page of ours.
	Hosts func(host string) bool
	// Hooks takes webhooks; nil where none arrive.
	Hooks *Hooks
	// Metrics are told by /metrics; nil: nothing is.
	Metrics prometheus.Gatherer
	// Connections is the most that a server of New keeps at a time; 0 is any number.
	Connections int

	Log *slog.Logger     // default: discards
	Now func() time.Time // the wall clock, for relative times; default time.Now
}

// Role is what a caller must be allowed to.
type Role string

// The roles; each includes those before it.
const (
	RoleNone  Role = "none"  // everybody, also without a name: only what tells nothing
	RoleRead  Role = "read"  // see everything
	RoleAct   Role = "act"   // trigger, cancel, retry, pause, resume
	RoleAdmin Role = "admin" // change how Sentry itself works
)

// Caller is who sent a request.
type Caller struct {
	Name string
}

// How long a caller may take, and how much it may send.
const (
	maxBody       = 64 << 10
	bodyTimeout   = 10 * time.Second
	answerTimeout = 30 * time.Second // for routes that do not stream: the whole answer; for those that do: each write
	keepAlive     = 15 * time.Second // between two signs of life of a stream of events
)

// handler carries the options; its methods are the handlers of the table.
type handler struct {
	Options
	mux        *http.ServeMux
	exposition http.Handler // nil without Metrics
}

// Handler serves the table.
func Handler(o Options) http.Handler {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Config == nil {
		o.Config = func() *config.Config { return nil }
	}
	h := &handler{Options: o, mux: http.NewServeMux()}
	if o.Metrics != nil {
		h.exposition = exposition(o)
	}
	for _, r := range table() {
		h.mux.Handle(r.Method+" "+r.Path, h.serve(r))
	}
	h.mux.HandleFunc("/", h.noRoute)

	// A page that a browser shows must not be able to act here, wherever it comes from.
	browsers := http.NewCrossOriginProtection()
	browsers.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h.fail(w, nil, &Error{Status: http.StatusForbidden, Code: "cross_origin", Message: "requests from other sites are refused"})
	}))
	return h.guard(browsers.Handler(h.mux))
}

// New gives an HTTP server with the limits that a handler of this package relies on: a caller that sends its header
// slowly, or keeps a connection without using it, is dropped. The time for bodies and answers is set for each route.
func New(o Options) *http.Server {
	h := Handler(o)
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: bodyTimeout,
		ReadTimeout:       2 * bodyTimeout, // of what has no route
		WriteTimeout:      2 * answerTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	if o.Connections > 0 {
		newCrowd(o.Connections).watch(s)
	}
	if o.Log != nil {
		s.ErrorLog = slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug)
	}
	return s
}
