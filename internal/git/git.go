package git

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"sentry/internal/git/gitwire"
	"sentry/internal/sentry"
)

// What holds where Options do not say otherwise. The bounds stop repositories that are made to fill a disk: a few
// kilobytes of pack can name a million files.
const (
	DefaultMaxMirrorBytes = 8 << 30
	DefaultMaxTreeBytes   = 4 << 30
	DefaultMaxTreeEntries = 500_000
	DefaultTimeout        = 5 * time.Minute
)

// Options of a Git.
type Options struct {
	// Binary is the git to run; "" takes the one of PATH.
	Binary string
	// StateDir is the folder of Sentry's state. Git gets the private folder "git" in it: an empty home, and room for what
	// lives as long as one question.
	StateDir string
	// MaxMirrorBytes bounds the objects of one mirror on disk, while they arrive as well.
	MaxMirrorBytes int64
	// MaxTreeBytes and MaxTreeEntries bound what is checked out: the sum of its files, and how many files and folders.
	MaxTreeBytes   int64
	MaxTreeEntries int
	// CloneTimeout bounds one fetch, and one checkout.
	CloneTimeout time.Duration
	// Transport carries the questions over HTTP; nil means gitwire.NewTransport.
	Transport http.RoundTripper
	// Certificates names the files (PEM) with the authorities to believe at an origin, and with the certificate and key to
	// show there; "" for none. They are for runs of git, which takes the former in place of those it knows; nil: none.
	Certificates func(origin string) (authorities, certificate, key string)
	// Silence gives a *sentry.Fault where the server at an origin wants to be left alone: no git is run for it then, as the
	// Transport does not carry a question. Nil: nobody knows.
	Silence func(origin string) error
	Log     *slog.Logger // nil discards
}

// Auth is how to show who asks. Credentials belong to the origin of the address that they are given with.
type Auth struct {
	Username string
	// Token gives the token; it may be nil. It is asked before each use, and once more when a server refuses what it
	// gave: a token that was rotated meanwhile is found without a restart. It must not wait longer than ctx.
	Token func(ctx context.Context) (sentry.Secret, error)
	// SSHKeyFile and KnownHostsFile are for ssh. Without a key ssh uses the account's own keys and agent; without a file
	// of known hosts it uses the account's. A host that is not known is refused.
	SSHKeyFile     string
	KnownHostsFile string
}

// Git runs git and asks servers. It is safe for concurrent use.
type Git struct {
	o      Options
	binary string
	home   string // empty, for the HOME of git
	temp   string // of questions that need a repository for a moment
	wire   *gitwire.Client
	log    *slog.Logger

	mu      sync.Mutex
	version Version // zero until it was asked
}

// New finds git and makes its private folders.
func New(o Options) (*Git, error) {
	if o.Binary == "" {
		o.Binary = "git"
	}
	binary, err := exec.LookPath(o.Binary)
	if err == nil {
		binary, err = filepath.Abs(binary)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot find git, which must be installed: %w", err)
	}
	state, err := filepath.Abs(o.StateDir)
	if err != nil {
		return nil, fmt.Errorf("cannot use the state directory: %w", err)
	}
	setDefault(&o.MaxMirrorBytes, DefaultMaxMirrorBytes)
	setDefault(&o.MaxTreeBytes, DefaultMaxTreeBytes)
	setDefault(&o.MaxTreeEntries, DefaultMaxTreeEntries)
	setDefault(&o.CloneTimeout, DefaultTimeout)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	g := &Git{
		o: o, binary: binary, log: o.Log,
		home: filepath.Join(state, "git", "home"),
		temp: filepath.Join(state, "git", "tmp"),
		wire: gitwire.New(gitwire.Options{Transport: o.Transport}),
	}
	for _, dir := range []string{g.home, g.temp} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("cannot prepare a private folder for git: %w", err)
		}
	}
	return g, nil
}

func setDefault[T int | int64 | time.Duration](value *T, to T) {
	if *value <= 0 {
		*value = to
	}
}

// Version asks git for its version, once.
func (g *Git) Version(ctx context.Context) (Version, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.version != (Version{}) {
		return g.version, nil
	}
	out, err := g.run(ctx, call{args: []string{"version"}})
	if err != nil {
		return Version{}, fmt.Errorf("cannot ask git for its version: %w", err)
	}
	v, err := ParseVersion(out)
	if err != nil {
		return Version{}, err
	}
	if v.Before(Oldest) {
		return Version{}, fmt.Errorf("git %s is too old; %s or newer is needed", v, Oldest)
	}
	g.version = v
	return v, nil
}

// withToken calls ask with the current token, and again with a new one where the server refuses the first and a
// different one is there by now.
func withToken(ctx context.Context, a Auth, ask func(sentry.Secret) error) error {
	if a.Token == nil {
		return ask(sentry.Secret{})
	}
	token, err := a.Token(ctx)
	if err != nil {
		return unreadable(err)
	}
	err = ask(token)
	if err == nil || sentry.AsFault(err).Kind != sentry.Unauthorized {
		return err
	}
	again, readErr := a.Token(ctx)
	if readErr != nil || again == token {
		return err
	}
	return ask(again)
}

// unreadable is the fault of a token that cannot be had. Where it comes from a server, that one knows whether it is worth
// trying again.
func unreadable(err error) error {
	fault := &sentry.Fault{Kind: sentry.Unauthorized, Err: fmt.Errorf("cannot read the token: %w", err)}
	var told *sentry.Fault
	if errors.As(err, &told) {
		fault.Kind, fault.RetryAfter = told.Kind, told.RetryAfter
	}
	return fault
}
