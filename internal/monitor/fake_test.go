package monitor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// sha is the commit that a short name of a test stands for.
func sha(name string) string {
	var n uint64
	for _, c := range name {
		n = n<<8 | uint64(c)
	}
	return fmt.Sprintf("%040x", n)
}

// name is the opposite of sha.
func name(commit string) string {
	var n uint64
	_, _ = fmt.Sscanf(commit, "%x", &n)
	var out []byte
	for ; n > 0; n >>= 8 {
		out = append([]byte{byte(n)}, out...)
	}
	return string(out)
}

func parsePatterns(texts ...string) []sentry.Pattern {
	var out []sentry.Pattern
	for _, text := range texts {
		p, err := sentry.ParsePattern(text)
		if err != nil {
			panic(err)
		}
		out = append(out, p)
	}
	return out
}

// repo is a repository on a host, in the group "g".
func repo(name, host string, interval time.Duration, branches ...string) config.Repository {
	if len(branches) == 0 {
		branches = []string{"main"}
	}
	remote, err := sentry.ParseRemote("https://"+host+"/o/"+name+".git", sentry.RemoteRules{})
	if err != nil {
		panic(err)
	}
	return config.Repository{
		Name: name, Group: "g",
		Monitor: config.Monitor{Remote: remote, Branches: parsePatterns(branches...), Type: "git", Interval: interval},
	}
}

func configure(repositories ...config.Repository) *config.Config {
	cfg := &config.Config{Repositories: repositories}
	seen := map[string]bool{}
	for _, r := range repositories {
		if !seen[r.Group] {
			seen[r.Group] = true
			cfg.Groups = append(cfg.Groups, config.Group{Name: r.Group, Policy: sentry.Policy{Queue: sentry.Latest}})
		}
	}
	return cfg
}

// forge answers for all hosts of a test.
type forge struct {
	mu        sync.Mutex
	heads     map[string]map[string]string // repository → branch → commit
	faults    map[string]error             // by repository, or by origin
	slow      map[string]time.Duration     // by origin
	queue     time.Duration                // that a question waits before it is sent
	asks      []ask                        // every repository of every question, in order
	questions int
	out       map[string]int                            // questions out, by origin; "" is all of them
	peak      map[string]int                            // their greatest number
	told      []string                                  // repository@branch of every question for a revision
	lanes     map[string]Lane                           // by origin, without the key; others ask one by one
	last      map[string]map[string]string              // what each repository was answered last
	ways      map[string]string                         // how it is asked among others, by origin
	apart     bool                                      // each repository has a lane of its own
	always    bool                                      // they say so too
	liar      bool                                      // everybody always says "same"
	broken    map[string]error                          // of questions about several, by origin
	answer    func(repository string) map[string]string // in place of heads
	tell      func(ctx context.Context) (sentry.Revision, error)
}

type ask struct {
	repository, origin string
	at                 time.Time
	question           int // of the test
	full               bool
}

func newForge() *forge {
	return &forge{
		heads: map[string]map[string]string{}, faults: map[string]error{}, slow: map[string]time.Duration{},
		out: map[string]int{}, peak: map[string]int{}, lanes: map[string]Lane{}, ways: map[string]string{}, last: map[string]map[string]string{}, broken: map[string]error{},
	}
}

func (f *forge) Lane(r *config.Repository) Lane {
	origin := r.Monitor.Remote.Origin()
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.lanes[origin]
	if l.Key == "" {
		l.Key = origin
	}
	if f.apart {
		l.Key += " " + r.Name
	}
	return l
}

func (f *forge) Heads(ctx context.Context, asks []Ask, answers []Answer) {
	origin := asks[0].Monitor.Remote.Origin()
	f.mu.Lock()
	f.questions++
	for _, a := range asks {
		f.asks = append(f.asks, ask{a.Name, origin, time.Now(), f.questions, a.Full})
	}
	for _, key := range []string{"", origin} {
		f.out[key]++
		f.peak[key] = max(f.peak[key], f.out[key])
	}
	queue := f.queue
	wait := queue + f.slow[origin]
	f.mu.Unlock()
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.out[""]--
	f.out[origin]--
	for i, a := range asks {
		answers[i] = f.one(ctx, a, origin, len(asks) > 1)
		if answers[i].Way = UsualWay; !a.Full && f.ways[origin] != "" {
			answers[i].Way = f.ways[origin]
		}
		answers[i].Waited = queue
	}
}

// one answers for one repository of a question. A lane that is swept says "same" where it can.
func (f *forge) one(ctx context.Context, a Ask, origin string, several bool) Answer {
	heads := f.heads[a.Name]
	switch {
	case ctx.Err() != nil:
		return Answer{Err: ctx.Err()}
	case f.faults[a.Name] != nil:
		return Answer{Err: f.faults[a.Name]}
	case f.faults[origin] != nil:
		return Answer{Err: f.faults[origin]}
	case several && f.broken[origin] != nil:
		return Answer{Err: f.broken[origin]}
	case f.answer != nil:
		return Answer{Heads: f.answer(a.Name)}
	}
	last, known := f.last[a.Name]
	if f.liar || (f.lanes[origin].Sweep || f.always) && !a.Full && known && maps.Equal(last, heads) {
		return Answer{Same: true}
	}
	f.last[a.Name] = maps.Clone(heads)
	return Answer{Heads: maps.Clone(heads)}
}

func (f *forge) Explain(r *config.Repository) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return "asked by " + f.ways[r.Monitor.Remote.Origin()]
}

func (f *forge) Revision(ctx context.Context, r *config.Repository, branch, _ string) (sentry.Revision, error) {
	f.mu.Lock()
	f.told = append(f.told, r.Name+"@"+branch)
	tell := f.tell
	f.mu.Unlock()
	if tell == nil {
		return sentry.Revision{}, errors.New("nobody knows")
	}
	return tell(ctx)
}

// push sets a branch to the commit of a short name; "" deletes it.
func (f *forge) push(repository, branch, commit string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.heads[repository] == nil {
		f.heads[repository] = map[string]string{}
	}
	if commit == "" {
		delete(f.heads[repository], branch)
		return
	}
	f.heads[repository][branch] = sha(commit)
}

func (f *forge) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// fail makes a repository or an origin fail; nil heals it.
func (f *forge) fail(key string, err error) {
	f.set(func() { f.faults[key] = err })
}

// asked gives when a repository was asked, or all of them for "", in time since begin.
func (f *forge) asked(repository string, begin time.Time) []time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []time.Duration
	for _, a := range f.asks {
		if repository == "" || a.repository == repository {
			out = append(out, a.at.Sub(begin))
		}
	}
	return out
}

// book is a store in memory, with the semantics of the real one.
type book struct {
	mu         sync.Mutex
	heads      map[sentry.Watch]sentry.Head
	history    map[sentry.Watch][]string // of commits
	recorded   []store.Observation       // that were new
	outcomes   []store.Outcome           // of these
	ledger     []sentry.Decision
	writes     int   // transactions, those of the ledger included
	fault      error // of every write
	after      error // of every write, after it has happened
	unreadable error // of every question
	slow       time.Duration
	watch      func(store.Observation, store.Outcome)
}

func newBook() *book {
	return &book{heads: map[sentry.Watch]sentry.Head{}, history: map[sentry.Watch][]string{}}
}

func (b *book) Heads(context.Context) ([]sentry.Head, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Values(b.heads)), b.unreadable
}

func (b *book) HeadsOf(_ context.Context, repositories ...string) ([]sentry.Head, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []sentry.Head
	for _, h := range b.heads {
		if slices.Contains(repositories, h.Repository) {
			out = append(out, h)
		}
	}
	return out, b.unreadable
}

func (b *book) Recorded(_ context.Context, w sentry.Watch, commit string) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(b.history[w], commit), b.unreadable
}

func (b *book) RecordChanges(_ context.Context, observations []store.Observation) ([]store.Outcome, error) {
	if b.slow > 0 {
		time.Sleep(b.slow)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fault != nil {
		return nil, b.fault
	}
	b.writes++
	var out []store.Outcome
	for _, o := range observations {
		h, known := b.heads[o.Watch]
		oc := store.Outcome{Watch: o.Watch, Kind: store.Same}
		commit := o.Revision.Commit
		switch {
		case !known && commit == "", commit == "" && h.Deleted, known && commit == h.Commit && !h.Deleted:
			out = append(out, oc)
			continue
		case !known:
			oc.Kind = store.Baseline
		case commit == "":
			oc.Kind = store.Gone
		case commit == h.Commit:
			oc.Kind = store.Back
		default:
			oc.Kind = store.Moved
		}
		h.Watch, h.Deleted = o.Watch, commit == ""
		if oc.Kind == store.Moved || oc.Kind == store.Baseline {
			from := h.Commit
			h.Revision = o.Revision
			h.Generation++
			b.history[o.Watch] = append(b.history[o.Watch], commit)
			if oc.Kind == store.Moved || o.Deploy {
				oc.Change = &sentry.Change{Watch: o.Watch, From: from, To: commit, Generation: h.Generation}
			}
		}
		b.heads[o.Watch] = h
		b.recorded = append(b.recorded, o)
		b.outcomes = append(b.outcomes, oc)
		out = append(out, oc)
		if b.watch != nil {
			b.watch(o, oc)
		}
	}
	if b.after != nil {
		return nil, b.after
	}
	return out, nil
}

func (b *book) Decide(_ context.Context, decisions ...sentry.Decision) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fault != nil {
		return b.fault
	}
	b.writes++
	b.ledger = append(b.ledger, decisions...)
	return nil
}

func (b *book) set(change func(*book)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(b)
}

// moves writes what was recorded in short: "main=A main=B! main=-", with "!" for a change and "*" for a rewritten one.
func (b *book) moves() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for i, o := range b.recorded {
		text := o.Watch.Branch + "="
		switch oc := b.outcomes[i]; {
		case oc.Kind == store.Gone:
			text += "-"
		case oc.Change != nil && o.Rewritten:
			text += name(o.Revision.Commit) + "*"
		case oc.Change != nil:
			text += name(o.Revision.Commit) + "!"
		default:
			text += name(o.Revision.Commit)
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

// decisions writes the ledger in short, for one verb.
func (b *book) decisions(verb sentry.Verb) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := []string{}
	for _, d := range b.ledger {
		if d.Verb == verb {
			out = append(out, strings.TrimLeft(d.Repository+"@"+d.Branch+" ", "@ ")+d.Reason)
		}
	}
	return out
}

// world is a monitor that runs in a bubble of time.
type world struct {
	*Monitor
	t     *testing.T
	forge *forge
	book  *book
	begin time.Time
	stop  context.CancelFunc
	ended chan struct{}
}

// bubble runs a test in a bubble of time with a monitor that does not run yet.
func bubble(t *testing.T, test func(*testing.T, *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, forge: newForge(), book: newBook(), begin: time.Now()}
		w.remake(Options{})
		test(t, w)
		if w.stop != nil {
			w.halt()
		}
	})
}

// remake makes the monitor anew, as after a restart: the store is what stays.
func (w *world) remake(o Options) {
	o.Store, o.Ask, o.Rand = w.book, w.forge, rand.New(rand.NewPCG(1, 2))
	w.Monitor = New(o)
}

// run starts the monitor with a configuration.
func (w *world) run(repositories ...config.Repository) {
	w.fence()
	w.Update(configure(repositories...))
	ctx, cancel := context.WithCancel(w.t.Context())
	w.stop, w.ended = cancel, make(chan struct{})
	go func() {
		defer close(w.ended)
		if err := w.Run(ctx); err != nil {
			w.t.Errorf("Run: %v", err)
		}
	}()
	w.wait(0)
}

// halt ends the monitor and waits for it.
func (w *world) halt() {
	w.fence()
	w.stop()
	<-w.ended
	w.stop = nil
}

// wait lets time pass.
func (w *world) wait(d time.Duration) {
	w.fence()
	time.Sleep(d)
	synctest.Wait()
	w.fence()
}

// fence lets a test use the fields of forge and book directly while all else waits: locking orders what was done before
// and after it.
func (w *world) fence() {
	w.forge.set(func() {})
	w.book.set(func(*book) {})
}

// state gives the one watch of a repository and branch.
func (w *world) state(repository, branch string) WatchState {
	w.t.Helper()
	for _, s := range w.Watches() {
		if s.Repository == repository && s.Branch == branch {
			return s
		}
	}
	w.t.Fatalf("no watch %s@%s", repository, branch)
	return WatchState{}
}

// many makes repositories r0, r1, … on one host.
func many(n int, host string, interval time.Duration, branches ...string) []config.Repository {
	var out []config.Repository
	for i := range n {
		out = append(out, repo(fmt.Sprintf("r%d", i), host, interval, branches...))
	}
	return out
}

// filled gives each repository a branch main, and returns the list.
func (w *world) filled(list []config.Repository) []config.Repository {
	for _, r := range list {
		w.forge.push(r.Name, "main", "A")
	}
	return list
}
