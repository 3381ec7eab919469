package daemon

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"sentry/internal/config"
	"sentry/internal/deploy"
	"sentry/internal/forge"
	"sentry/internal/git"
	"sentry/internal/git/gitwire"
	"sentry/internal/logger"
	"sentry/internal/monitor"
	"sentry/internal/sentry"
)

// asker puts the monitor's questions to the forges. It knows repositories as both sides do.
type asker struct {
	git    *git.Git
	mask   *logger.Masker
	forges *forge.Forges
	// moved is told of a branch at another commit than before, while who made that is asked for and before it is recorded.
	// Nil tells nobody.
	moved func(w sentry.Watch, commit string)

	updating sync.Mutex
	known    atomic.Pointer[map[string]*asked] // by name; replaced, never changed
}

// asked is one repository as it is asked.
type asked struct {
	*forge.Repository
	config  *config.Repository
	account *account
	trouble atomic.Pointer[diagnosis] // what the last answer said; nil while it is well

	// Of the question that is under way: there is one at a time. mu guards them.
	full    bool       // the heads are wanted whether they have moved or not
	last    git.Digest // of the last answer with heads, where that came over Git; else 0
	overGit bool       // the answer under way came over Git
	mu      sync.Mutex
}

// diagnosis is what was found out about an answer that refuses.
type diagnosis struct {
	kind sentry.FaultKind
	err  error
}

func newAsker(g *git.Git, mask *logger.Masker, o forge.Options) *asker {
	a := &asker{git: g, mask: mask}
	a.known.Store(&map[string]*asked{})
	o.LsRefs = a.lsRefs
	o.Path = func(r *forge.Repository) string { return a.git.Path(r.Remote) }
	a.forges = forge.New(o)
	return a
}

// update takes the repositories of a configuration, before the monitor does. Those that are asked as before keep what is
// known of them.
func (a *asker) update(cfg *config.Config) {
	a.updating.Lock()
	defer a.updating.Unlock()
	former := *a.known.Load()
	known := make(map[string]*asked, len(cfg.Repositories))
	all := newAccounts()
	list := make([]*forge.Repository, len(cfg.Repositories))
	for i := range cfg.Repositories {
		c := &cfg.Repositories[i]
		next := a.meet(c, all)
		if old := former[c.Name]; old != nil && old.Auth.Key == next.Auth.Key && sameQuestion(&old.config.Monitor, &c.Monitor) {
			next.Repository = old.Repository
			next.trouble.Store(old.trouble.Load())
		}
		known[c.Name], list[i] = next, next.Repository
	}
	a.known.Store(&known)
	a.forges.Update(list)
}

// account is a way to show who asks. Repositories with the same credentials share one: there may be ten thousand of them.
type account struct {
	forge forge.Auth
	git   git.Auth
}

// credentials is what tells accounts apart.
type credentials struct {
	username, tokenFile, sshKeyFile, knownHostsFile string
	token                                           sentry.Secret
	app                                             config.App
	api                                             string // who makes the tokens of the app: they are for nobody else
}

// accounts are those of a configuration.
type accounts struct {
	known map[credentials]*account
	keys  map[sentry.Secret]string // the names of tokens
}

func newAccounts() *accounts {
	return &accounts{map[credentials]*account{}, map[sentry.Secret]string{}}
}

// of gives the account of a repository.
func (all *accounts) of(a *asker, c *config.Repository, r *forge.Repository) *account {
	auth := c.Monitor.Auth
	key := credentials{
		username: auth.Username, tokenFile: auth.TokenFile, sshKeyFile: auth.SSHKeyFile, knownHostsFile: auth.KnownHostsFile, token: auth.Token,
	}
	if auth.App != nil {
		key.app, key.api = *auth.App, apiOf(r)
	}
	if x := all.known[key]; x != nil {
		return x
	}
	x := &account{git: deploy.GitAuth(auth, a.mask)}
	x.forge = forge.Auth{Username: auth.Username, Token: deploy.Token(auth, a.mask), Key: keyOf(c.Name, auth, all.keys)}
	if app := auth.App; app != nil {
		x.forge.App = &forge.App{ID: app.ID, Installation: app.Installation, KeyFile: app.KeyFile}
		x.git.Token = a.tokenOf(r)
	}
	all.known[key] = x
	return x
}

// apiOf is the API of a repository's server, as far as it tells servers apart.
func apiOf(r *forge.Repository) string {
	return r.API + " " + r.Remote.Origin()
}

// keyOf names a credential without telling it. Repositories that have the same token have the same name for it: that of
// the first of them.
func keyOf(repository string, a config.Auth, tokens map[sentry.Secret]string) string {
	switch {
	case a.App != nil:
		return fmt.Sprintf("app %d, installation %d", a.App.ID, a.App.Installation)
	case a.TokenFile != "":
		return "token_file " + a.TokenFile
	case a.Token.Empty():
		return ""
	}
	key, known := tokens[a.Token]
	if !known {
		key = "token of repository " + repository
		tokens[a.Token] = key
	}
	return key
}

// meet makes of a repository of the configuration what is asked.
func (a *asker) meet(c *config.Repository, all *accounts) *asked {
	m := &c.Monitor
	x := &asked{config: c, Repository: &forge.Repository{
		Name: c.Name, Remote: m.Remote, Kind: forge.Kind(m.Type), API: m.APIURL, Patterns: m.Branches, Interval: m.Interval,
	}}
	x.account = all.of(a, c, x.Repository)
	x.Auth = x.account.forge
	return x
}

// lookup gives what a repository of the configuration is asked as; nil where it is asked in another way by now.
func (a *asker) lookup(c *config.Repository) *asked {
	x := (*a.known.Load())[c.Name]
	if x != nil && (x.config == c || sameQuestion(&x.config.Monitor, &c.Monitor)) {
		return x
	}
	return nil
}

// sameQuestion reports whether two configurations of a repository lead to the same question.
func sameQuestion(a, b *config.Monitor) bool {
	return a.Remote == b.Remote && a.Type == b.Type && a.APIURL == b.APIURL && a.Interval == b.Interval && sameAuth(a.Auth, b.Auth) &&
		slices.EqualFunc(a.Branches, b.Branches, func(a, b sentry.Pattern) bool { return a.String() == b.String() })
}

func sameAuth(a, b config.Auth) bool {
	if (a.App == nil) != (b.App == nil) || a.App != nil && *a.App != *b.App {
		return false
	}
	return a.Username == b.Username && a.Token == b.Token && a.TokenFile == b.TokenFile &&
		a.SSHKeyFile == b.SSHKeyFile && a.KnownHostsFile == b.KnownHostsFile
}

// errChanged is for questions that a new configuration has overtaken: they are put again.
var errChanged = sentry.Faultf(sentry.Transient, "its configuration has changed meanwhile")

// Lane is as the forge says.
func (a *asker) Lane(c *config.Repository) monitor.Lane {
	x := a.lookup(c)
	if x == nil {
		return monitor.Lane{Key: c.Monitor.Remote.Origin()}
	}
	l := a.forges.Lane(x.Repository)
	return monitor.Lane(l)
}

// Heads asks the forge, and has it look closer where a repository is refused.
func (a *asker) Heads(ctx context.Context, asks []monitor.Ask, answers []monitor.Answer) {
	list := make([]forge.Ask, 0, len(asks))
	whose := make([]*asked, len(asks))
	for i := range asks {
		if x := a.lookup(asks[i].Repository); x != nil {
			whose[i] = x
			x.mu.Lock()
			x.full = asks[i].Full
			x.mu.Unlock()
			list = append(list, forge.Ask{Repository: whose[i].Repository, Full: asks[i].Full})
		}
	}
	if len(list) > 0 {
		a.put(ctx, list, whose, answers)
	}
	for i, x := range whose {
		if x == nil {
			answers[i].Err = errChanged
		}
	}
}

func (a *asker) put(ctx context.Context, list []forge.Ask, whose []*asked, answers []monitor.Answer) {
	told := a.forges.Heads(ctx, list)
	looked := 0
	for i, x := range whose {
		if x == nil {
			continue
		}
		answers[i] = monitor.Answer(told[0])
		told = told[1:]
		x.read(&answers[i])
		answers[i].Err = a.diagnose(ctx, x, answers[i].Err, &looked)
	}
}

// maxDiagnoses is how many repositories of one question are looked at closer.
const maxDiagnoses = 4

// diagnose gives the error with what the forge finds out about it: it is asked once, when the trouble begins.
func (a *asker) diagnose(ctx context.Context, x *asked, err error, looked *int) error {
	d := x.trouble.Load()
	if err == nil {
		if d != nil {
			x.trouble.Store(nil)
		}
		return nil
	}
	fault := sentry.AsFault(err)
	if fault.Kind != sentry.NotFound && fault.Kind != sentry.Unauthorized {
		return err
	}
	if d == nil || d.kind != fault.Kind {
		if *looked++; *looked > maxDiagnoses {
			return err
		}
		d = &diagnosis{fault.Kind, a.forges.Diagnose(ctx, x.Repository, err)}
		x.trouble.Store(d)
	}
	err = d.err
	if fault.Kind == sentry.Unauthorized && a.forges.Refused(x.Repository) {
		err = announced{err}
	}
	return &sentry.Fault{Kind: fault.Kind, RetryAfter: fault.RetryAfter, Err: err}
}

// announced is an error whose cause, a credential that is refused, the log was told of: it need not be said of each
// repository.
type announced struct{ error }

// Announced is what the monitor knows it by.
func (announced) Announced() {}

func (e announced) Unwrap() error { return e.error }

// lsRefs asks one repository over the Git protocol, for the forges.
func (a *asker) lsRefs(ctx context.Context, r *forge.Repository) (map[string]string, error) {
	x := (*a.known.Load())[r.Name]
	if x == nil || x.Repository != r {
		return nil, errChanged
	}
	x.mu.Lock()
	last := x.last
	if x.full {
		last = 0
	}
	x.mu.Unlock()
	found, now, err := a.git.HeadsSince(ctx, r.Remote, x.account.git, r.Patterns, last)
	switch {
	case err != nil:
		return nil, err
	case found == nil:
		return unmoved, nil
	}
	x.mu.Lock()
	x.last, x.overGit = now, true
	x.mu.Unlock()
	return found, nil
}

// unmoved is in the place of heads that are where they were when they were given last. The forges pass it on; no branch
// has no name.
var unmoved = map[string]string{"": ""}

// read takes an answer of the forges for what it is.
func (x *asked) read(answer *monitor.Answer) {
	if answer.Err != nil || answer.Heads == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, same := answer.Heads[""]; same && len(answer.Heads) == 1 {
		answer.Heads, answer.Same = nil, true
		return
	}
	if !x.overGit {
		x.last = 0 // later answers over Git would be compared with what was before this one
	}
	x.overGit = false
}

// Revision asks who made a commit, and why: over Git, or the API where Git is refused.
func (a *asker) Revision(ctx context.Context, c *config.Repository, branch, commit string) (sentry.Revision, error) {
	x := a.lookup(c)
	if x == nil {
		return sentry.Revision{}, errChanged
	}
	if a.moved != nil {
		a.moved(sentry.Watch{Repository: c.Name, Branch: branch}, commit)
	}
	overAPI := a.forges.OverAPI(x.Repository)
	if !overAPI {
		revision, err := a.revisionOverGit(ctx, x, branch, commit)
		if kind := sentry.AsFault(err).Kind; err == nil || x.Kind == forge.Git || kind != sentry.Unauthorized && kind != sentry.Invalid {
			return revision, err
		}
	}
	told, err := a.forges.Commit(ctx, x.Repository, commit)
	if err != nil {
		return sentry.Revision{Commit: commit}, fmt.Errorf("cannot learn who made commit %s of %s: %w", sentry.ShortCommit(commit), x.Remote, err)
	}
	return git.NewRevision(commit, gitwire.Commit(told)), nil
}

// revisionOverGit asks for a new commit's file first where that is quicker: it has one still, unless it came in a large push.
func (a *asker) revisionOverGit(ctx context.Context, x *asked, branch, commit string) (sentry.Revision, error) {
	if x.Kind == forge.Gitea {
		revision, err := a.git.LooseRevision(ctx, x.Remote, x.account.git, commit)
		if kind := sentry.AsFault(err).Kind; err == nil || kind != sentry.NotFound && kind != sentry.Invalid {
			return revision, err
		}
	}
	return a.git.Revision(ctx, x.Remote, x.account.git, branch, commit)
}

// Explain tells why a repository is asked the way it is.
func (a *asker) Explain(c *config.Repository) string {
	if x := a.lookup(c); x != nil {
		return a.forges.Explain(x.Repository)
	}
	return ""
}

// hosts gives what the configuration says of servers in the words of the forges.
func hosts(cfg *config.Config) []forge.Host {
	list := make([]forge.Host, len(cfg.Hosts))
	for i, h := range cfg.Hosts {
		list[i] = forge.Host(h)
	}
	return list
}
