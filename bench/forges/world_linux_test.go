package forges

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"sentry/internal/config"
	"sentry/internal/forge"
	"sentry/internal/forge/forgetest"
	"sentry/internal/git/gitwire"
	"sentry/internal/monitor"
	"sentry/internal/sentry"
)

// branches that every repository has, and that are watched.
var branches = []string{"main", "dev"}

// world is a forge with repositories, and Sentry's way to ask it.
type world struct {
	t      testing.TB
	lab    forgetest.Lab
	token  sentry.Secret
	config *config.Config
	forges *forge.Forges
	known  map[*config.Repository]*forge.Repository
	all    []*forge.Repository
}

// newWorld makes n repositories on a forge, and configures Sentry to watch them.
func newWorld(t testing.TB, lab forgetest.Lab, n int, interval time.Duration) *world {
	t.Helper()
	w := &world{t: t, lab: lab, token: sentry.NewSecret(lab.Token()), config: &config.Config{}, known: map[*config.Repository]*forge.Repository{}}
	var patterns []sentry.Pattern
	for _, branch := range branches {
		p, err := sentry.ParsePattern(branch)
		if err != nil {
			t.Fatal(err)
		}
		patterns = append(patterns, p)
	}
	for i := range n {
		name := fmt.Sprintf("r%05d", i)
		remote, err := sentry.ParseRemote(lab.Repository("acme/"+name, i%2 == 0), sentry.RemoteRules{InsecureHTTP: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, branch := range branches {
			lab.Push("acme/"+name, branch)
		}
		w.config.Repositories = append(w.config.Repositories, config.Repository{
			Name: name, Group: "g", Monitor: config.Monitor{Remote: remote, Branches: patterns, Type: lab.Kind(), Interval: interval},
		})
	}
	w.config.Groups = []config.Group{{Name: "g", Policy: sentry.Policy{Queue: sentry.Latest}}}
	for i := range w.config.Repositories {
		c := &w.config.Repositories[i]
		r := &forge.Repository{Name: c.Name, Remote: c.Monitor.Remote, Kind: forge.Kind(lab.Kind()), API: lab.API(), Patterns: patterns, Interval: interval, Auth: forge.Auth{
			Key: "the token", Token: func() (sentry.Secret, error) { return w.token, nil },
		}}
		w.known[c], w.all = r, append(w.all, r)
	}
	network := forge.NewNetwork(forge.NetworkOptions{DialContext: lab.Dial()})
	transport := &http.Transport{DialContext: lab.Dial(), MaxIdleConnsPerHost: 16}
	t.Cleanup(func() { network.Close(); transport.CloseIdleConnections() })
	wire := gitwire.New(gitwire.Options{Transport: transport})
	w.forges = forge.New(forge.Options{Network: network, LsRefs: func(ctx context.Context, r *forge.Repository) (map[string]string, error) {
		refs, err := wire.ListRefs(ctx, r.Remote, gitwire.Auth{Token: w.token}, []string{"refs/heads/main", "refs/heads/dev"})
		if err != nil {
			return nil, err
		}
		heads := map[string]string{}
		for _, ref := range refs {
			heads[ref.Name[len("refs/heads/"):]] = ref.Commit
		}
		return heads, nil
	}})
	w.forges.Update(w.all)
	return w
}

// sweep asks every repository once, as their lanes want it.
func (w *world) sweep(check func(r *forge.Repository, a forge.Answer)) {
	for rest := w.all; len(rest) > 0; {
		lane := w.forges.Lane(rest[0])
		n := min(len(rest), max(1, lane.Batch))
		if lane.Sweep {
			n = len(rest)
		}
		asks := make([]forge.Ask, n)
		for i := range asks {
			asks[i].Repository = rest[i]
		}
		for i, a := range w.forges.Heads(w.t.Context(), asks) {
			check(rest[i], a)
		}
		rest = rest[n:]
	}
}

// Lane is the monitor's question for the forge.
func (w *world) Lane(c *config.Repository) monitor.Lane {
	l := w.forges.Lane(w.known[c])
	return monitor.Lane{Key: l.Key, Batch: l.Batch, Sweep: l.Sweep}
}

// Heads is that, too.
func (w *world) Heads(ctx context.Context, asks []monitor.Ask, answers []monitor.Answer) {
	list := make([]forge.Ask, len(asks))
	for i, a := range asks {
		list[i] = forge.Ask{Repository: w.known[a.Repository], Full: a.Full}
	}
	for i, a := range w.forges.Heads(ctx, list) {
		answers[i] = monitor.Answer(a)
	}
}

// Revision tells no more than the commit.
func (w *world) Revision(_ context.Context, _ *config.Repository, _, commit string) (sentry.Revision, error) {
	return sentry.Revision{Commit: commit}, nil
}

// Explain says how a repository is asked.
func (w *world) Explain(c *config.Repository) string { return w.forges.Explain(w.known[c]) }
