package forge_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sentry/internal/forge"
	"sentry/internal/forge/forgetest"
	"sentry/internal/git/gitwire"
	"sentry/internal/sentry"
)

// seeds is how many random histories a test goes through: SENTRY_FORGE_SEEDS, or 4. `make test-forges` takes 20, and 2 with
// the race detector.
var seeds = func() uint64 {
	if n, err := strconv.ParseUint(os.Getenv("SENTRY_FORGE_SEEDS"), 10, 32); err == nil && n > 0 {
		return n
	}
	return 4
}()

// rig is a forge of a test with those who ask it.
type rig struct {
	t      testing.TB
	lab    forgetest.Lab
	forges *forge.Forges
	all    []*forge.Repository
	every  time.Duration // the interval of what is configured from now on

	mu    sync.Mutex
	token sentry.Secret // what the token file holds
	reads int           // how often it was read
	git   int           // questions over Git
	// renewed are the repositories of which there was another credential, and when that was known.
	renewed map[string]time.Time
	// detour, where there is one, makes the connections.
	detour func(ctx context.Context, network, address string, dial dialer) (net.Conn, error)
}

type dialer = func(ctx context.Context, network, address string) (net.Conn, error)

// newRig makes one for a Lab, with a token that has these rights; "-" for none at all.
func newRig(t testing.TB, lab forgetest.Lab, rights ...string) *rig {
	t.Helper()
	r := &rig{t: t, lab: lab, every: time.Minute}
	if len(rights) != 1 || rights[0] != "-" {
		r.token = sentry.NewSecret(lab.Token(rights...))
	}
	network := forge.NewNetwork(forge.NetworkOptions{DialContext: r.connect})
	t.Cleanup(network.Close)
	transport := &http.Transport{DialContext: r.connect, MaxIdleConnsPerHost: 16}
	t.Cleanup(transport.CloseIdleConnections)
	wire := gitwire.New(gitwire.Options{Transport: transport})
	r.renewed = map[string]time.Time{}
	renewed := func(list []*forge.Repository) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, one := range list {
			r.renewed[one.Name] = time.Now()
		}
	}
	path := func(one *forge.Repository) string { return wire.Path(one.Remote) }
	r.forges = forge.New(forge.Options{Network: network, Renewed: renewed, Path: path, LsRefs: func(ctx context.Context, one *forge.Repository) (map[string]string, error) {
		return r.lsRefs(ctx, wire, one)
	}})
	return r
}

// lsRefs asks over Git, as the git package does.
func (r *rig) lsRefs(ctx context.Context, wire *gitwire.Client, one *forge.Repository) (map[string]string, error) {
	r.mu.Lock()
	r.git++
	r.mu.Unlock()
	var auth gitwire.Auth
	if one.Auth.Token != nil {
		token, err := one.Auth.Token()
		if err != nil {
			return nil, err
		}
		auth.Token = token
	}
	var prefixes []string
	for _, p := range one.Patterns {
		prefixes = append(prefixes, "refs/heads/"+p.Prefix())
	}
	refs, err := wire.ListRefs(ctx, one.Remote, auth, prefixes)
	if err != nil {
		return nil, err
	}
	heads := map[string]string{}
	for _, ref := range refs {
		branch := ref.Name[len("refs/heads/"):]
		for _, p := range one.Patterns {
			if p.Match(branch) {
				heads[branch] = ref.Commit
			}
		}
	}
	return heads, nil
}

// connect goes to the lab, by way of what a test has put there.
func (r *rig) connect(ctx context.Context, network, address string) (net.Conn, error) {
	dial := r.lab.Dial()
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	r.mu.Lock()
	detour := r.detour
	r.mu.Unlock()
	if detour != nil {
		return detour(ctx, network, address, dial)
	}
	return dial(ctx, network, address)
}

// setToken puts another token into the file.
func (r *rig) setToken(token string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.token = sentry.NewSecret(token)
}

func (r *rig) auth() forge.Auth {
	if r.token.Empty() {
		return forge.Auth{}
	}
	return forge.Auth{Key: "the token file", Token: func() (sentry.Secret, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.reads++
		return r.token, nil
	}}
}

// add configures a repository of the forge, which it makes; Update is called by watch.
func (r *rig) add(name string, private bool, patterns ...string) *forge.Repository {
	r.t.Helper()
	return r.configure(name, r.lab.Repository(name, private), patterns...)
}

// configure configures a repository that there is, or is not.
func (r *rig) configure(name, address string, patterns ...string) *forge.Repository {
	r.t.Helper()
	remote, err := sentry.ParseRemote(address, sentry.RemoteRules{InsecureHTTP: true})
	if err != nil {
		r.t.Fatal(err)
	}
	one := &forge.Repository{
		Name: name, Remote: remote, Kind: forge.Kind(r.lab.Kind()), API: r.lab.API(), Auth: r.auth(), Interval: r.every,
	}
	if len(patterns) == 0 {
		patterns = []string{"main"}
	}
	for _, text := range patterns {
		p, err := sentry.ParsePattern(text)
		if err != nil {
			r.t.Fatal(err)
		}
		one.Patterns = append(one.Patterns, p)
	}
	r.all = append(r.all, one)
	return one
}

// update tells the forges of all repositories.
func (r *rig) update() { r.forges.Update(r.all) }

// ask puts a question about repositories, all that are configured where none is named, in as many questions as their
// lanes want.
func (r *rig) ask(full bool, repositories ...*forge.Repository) []forge.Answer {
	r.t.Helper()
	if len(repositories) == 0 {
		repositories = r.all
	}
	var answers []forge.Answer
	for len(repositories) > 0 {
		lane := r.forges.Lane(repositories[0])
		n := lane.Batch
		if lane.Sweep {
			n = len(repositories)
		}
		n = min(max(n, 1), len(repositories))
		asks := make([]forge.Ask, n)
		for i := range asks {
			asks[i] = forge.Ask{Repository: repositories[i], Full: full}
		}
		ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
		answers = append(answers, r.forges.Heads(ctx, asks)...)
		cancel()
		repositories = repositories[n:]
	}
	return answers
}

// heads asks one repository, by whichever way, and gives its heads; the test ends where it does not answer. Where it has
// not moved they are those that it answered with last.
func (r *rig) heads(one *forge.Repository, full bool) map[string]string {
	r.t.Helper()
	a := r.ask(full, one)[0]
	if a.Err != nil || a.Heads == nil {
		r.t.Fatalf("%s answers %+v", one.Name, a)
	}
	return a.Heads
}

// requests counts what do costs.
func (r *rig) requests(do func()) forgetest.Counts {
	before := r.lab.Requests()
	do()
	after := r.lab.Requests()
	return forgetest.Counts{
		API: after.API - before.API, Git: after.Git - before.Git, Charged: after.Charged - before.Charged,
		Refused: after.Refused - before.Refused, Forbidden: after.Forbidden - before.Forbidden, Most: after.Most,
	}
}

func show(a forge.Answer) string {
	switch {
	case a.Err != nil:
		return fmt.Sprintf("%s by %s: %v", sentry.AsFault(a.Err).Kind, a.Way, a.Err)
	case a.Same:
		return "the same by " + a.Way
	default:
		return fmt.Sprintf("%v by %s", a.Heads, a.Way)
	}
}

var (
	sha40       = regexp.MustCompile(`\b[0-9a-f]{40}\b`)
	sha40Quoted = regexp.MustCompile(`"[0-9a-f]{40}"`)
)

// recorder keeps an answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }
func (r *recorder) Flush()                      {}

// sharing is a Lab that several tests share: each has repositories of its own, whatever it calls them, and all have the
// others in common.
type sharing struct {
	forgetest.Lab
	suffix  string
	company bool // the others are there
}

func (l *sharing) name(repository string) string {
	if strings.HasPrefix(repository, "team/other") {
		return repository
	}
	return repository + l.suffix
}

func (l *sharing) Repository(repository string, private bool) string {
	return l.Lab.Repository(l.name(repository), private)
}

func (l *sharing) Push(repository, branch string) string {
	return l.Lab.Push(l.name(repository), branch)
}

func (l *sharing) ForcePush(repository, branch string) string {
	return l.Lab.ForcePush(l.name(repository), branch)
}

func (l *sharing) Set(repository, branch, commit string) {
	l.Lab.Set(l.name(repository), branch, commit)
}

func (l *sharing) Delete(repository, branch string) { l.Lab.Delete(l.name(repository), branch) }

func (l *sharing) Head(repository, branch string) string {
	return l.Lab.Head(l.name(repository), branch)
}

func (l *sharing) Rename(repository, to string) { l.Lab.Rename(l.name(repository), l.name(to)) }

func (l *sharing) Remove(repository string) { l.Lab.Remove(l.name(repository)) }

func (l *sharing) Statuses(repository, commit string) []forgetest.Status {
	return l.Lab.Statuses(l.name(repository), commit)
}

// History is that of a real Gitea.
func (l *sharing) History(repository, commit string) []forgetest.Status {
	return l.Lab.(interface {
		History(repository, commit string) []forgetest.Status
	}).History(l.name(repository), commit)
}
