package forge

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"sentry/internal/sentry"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// Kind is what a server speaks besides Git.
type Kind string

// The kinds of forge. Git stands for every server of which only the Git protocol is known.
const (
	GitHub Kind = "github"
	GitLab Kind = "gitlab"
	Gitea  Kind = "gitea" // and Forgejo
	Git    Kind = "git"
)

// Repository is what a forge is asked about.
type Repository struct {
	Name     string        // as configured, for messages
	Remote   sentry.Remote // the Git address
	Kind     Kind
	API      string // the base of the API as configured; "" derives it from Remote (see apiBase)
	Patterns []sentry.Pattern
	Auth     Auth
	Interval time.Duration // how often it is asked when nothing happens
}

// Auth is how to show who asks: a token, a GitHub App, or nothing. It belongs to the origin of the repository's Remote
// and to that of its API, and is sent to no other.
type Auth struct {
	Username string
	// Token gives the token, as it is now; nil means to ask anonymously. It is called again when a server refuses what it
	// gave, so that a token that was rotated is found without a restart.
	Token func() (sentry.Secret, error)
	// App stands in place of a token: an installation of a GitHub App.
	App *App
	// Key names the credential without telling it ("token_file /run/x", "token of repository rag"). Equal credentials have
	// equal keys: they share a budget.
	Key string
}

// anonymous reports whether there is no credential.
func (a Auth) anonymous() bool { return a.Token == nil && a.App == nil }

// App is an installation of a GitHub App, whose tokens last an hour and are renewed here.
type App struct {
	ID, Installation int64
	KeyFile          string // the App's private key, PEM; read again for each token
}

// Options of Forges.
type Options struct {
	Network *Network
	// LsRefs asks one repository over the Git protocol, which costs no API quota anywhere. The map holds the branches that
	// match the patterns; the error is a *sentry.Fault.
	LsRefs func(ctx context.Context, r *Repository) (map[string]string, error)
	// Path gives the path on its server at which a repository answered last over Git: another than its own where the
	// server says that it has moved. Nil: nobody knows.
	Path func(r *Repository) string
	// Renewed is told of repositories whose credential was refused, when there is another one: they are worth asking now.
	// It must not wait. Nil tells nobody.
	Renewed  func(repositories []*Repository)
	Log      *slog.Logger          // nil discards
	Register prometheus.Registerer // nil: no metrics
}

// Lane says with whom a repository may be asked in one question.
type Lane struct {
	// Key is what shares a budget, a breaker and pauses: the origin ("https://github.com:443"), with the credential's Key
	// after it where several credentials are used there.
	Key string
	// Batch is how many repositories one question may cover; 1 means one by one. It changes with what the forge can take.
	Batch int
	// Sweep tells that one question covers all that share the lane, however many.
	Sweep bool
	// AtOnce is how many questions may be out at a time, as the configuration says of the host; 0: it says nothing.
	AtOnce int
}

// Ask is one repository of a question.
type Ask struct {
	*Repository
	// Full tells that the repository itself is to be asked, by the freshest way: after a hint, while it is hot, in doubt.
	Full bool
}

// Answer is what one repository of a question has answered.
type Answer struct {
	Heads map[string]string // branch to commit, of those that match a pattern
	Same  bool              // nothing has moved since its last answer with Heads; Heads is nil then. Only where Full was not set
	Err   error             // *sentry.Fault
	Way   string            // how it was asked: "ls-refs", "GraphQL", "REST", "search"
	// Waited is how long its requests waited until they were sent, where Full was set.
	Waited time.Duration
}

// answered reports whether the answer says anything.
func (a *Answer) answered() bool { return a.Heads != nil || a.Same || a.Err != nil }

// Access is what a credential may do, and how much of it is left.
type Access struct {
	User             string
	Scopes           []string
	Expires          time.Time // zero: never, or the forge does not tell
	Limit, Remaining int       // requests of the present window; 0 and 0 where the forge does not tell
	Reset            time.Time
	CanReport        bool     // it may put a status on the repository's commits
	Problems         []string // each with what to do about it
}

// State is how a commit fares.
type State string

// The states. Where a forge has fewer, the nearest stands in.
const (
	Pending  State = "pending"
	Success  State = "success"
	Failure  State = "failure" // what was tested is bad
	Errored  State = "error"   // it could not be tested
	Canceled State = "canceled"
)

// Status is a verdict on a commit. Setting it again, with the same Commit and Context, replaces it.
type Status struct {
	Commit, Branch string
	State          State
	Context        string // who says it, "sentry/GROUP"
	Description    string
	URL            string // where to read more; may be ""
}

// Forges asks all forges. It is safe for concurrent use.
type Forges struct {
	o    Options
	log  *slog.Logger
	apps *apps
	// shares has the budgets.
	shares *shares

	mu       sync.RWMutex // guards what follows; Update replaces it as a whole
	accounts map[accountKey]*account
	places   map[*Repository]*place
	paces    map[string]*rate.Limiter // by origin

	updated chan struct{} // size one: there may be other credentials
}

// New makes a Forges that knows no repository yet.
func New(o Options) *Forges {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Network == nil {
		o.Network = NewNetwork(NetworkOptions{Log: o.Log})
	}
	f := &Forges{o: o, log: o.Log, apps: newApps(o.Network), shares: newShares(), accounts: map[accountKey]*account{}, places: map[*Repository]*place{}, paces: map[string]*rate.Limiter{}, updated: make(chan struct{}, 1)}
	if o.Register != nil {
		o.Register.MustRegister(gauges{f})
	}
	return f
}

// place is what is known of one repository.
type place struct {
	account *account
	lane    string

	mu    sync.Mutex
	known bool      // its last answer was good: a service may say that nothing has moved since
	asked bool      // it has answered at all
	byAPI time.Time // until then Git is refused, and the API is not
	noAPI time.Time // until then the API knows no better than Git
	moved string    // its name now, where that is another
	diagnosis
}
