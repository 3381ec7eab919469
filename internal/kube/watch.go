package kube

import (
	"context"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// How a watch is asked for. The server ends each after its time, so that connections do not pile up on one server; a
// connection that died in silence is noticed when that time is over.
const (
	watchTime    = 5 * time.Minute // at least; up to twice that
	watchSlack   = 30 * time.Second
	maxUnclaimed = 1000 // runs kept for Follow without anybody who tracks them
)

// feed is the one watch of a namespace. It runs while anybody uses it, and keeps the state of the runs that somebody
// wants, by UID. It believes nothing to be gone: it only tells that a run is not in sight, which is for the tracker
// to look into.
type feed struct {
	api       *api
	namespace string
	selector  string

	stop func() // ends run, and waits until it has

	mu     sync.Mutex
	users  int // of the registry: guarded by it
	runs   map[string]*sight
	keep   int           // how many want every run that is seen unended
	came   int           // runs that came without being asked for
	synced int           // how many lists were complete
	fails  int           // requests that failed since one succeeded
	err    error         // of the last of them
	since  time.Time     // of the first of them
	all    map[*ear]bool // those who listen
}

// sight is how one run was seen last.
type sight struct {
	seen    *seen
	gone    bool // not in the list, or a watch said that it is deleted or no longer ours
	ears    map[*ear]bool
	ordinal int // of its coming, for those nobody claims
}

// ear is how one who follows a run is woken. Owned by the feed's mutex but for the channel.
type ear struct {
	uid  string
	wake chan struct{} // of size one
}

func (e *ear) ring() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// view is what a feed knows, at one moment, that matters to who follows one run.
type view struct {
	seen   *seen // nil: never seen
	gone   bool
	synced bool
	fails  int
	err    error
	since  time.Time
}

func newFeed(a *api, namespace, selector string) *feed {
	return &feed{api: a, namespace: namespace, selector: selector, runs: map[string]*sight{}, all: map[*ear]bool{}}
}

// listen begins to keep the run with that UID.
func (f *feed) listen(uid string) *ear {
	e := &ear{uid: uid, wake: make(chan struct{}, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all[e] = true
	s := f.runs[uid]
	if s == nil {
		s = &sight{gone: f.synced > 0, ears: map[*ear]bool{}}
		f.runs[uid] = s
	}
	s.ears[e] = true
	return e
}

// hush ends it.
func (f *feed) hush(e *ear) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.all, e)
	s := f.runs[e.uid]
	delete(s.ears, e)
	if len(s.ears) == 0 && f.keep == 0 {
		delete(f.runs, e.uid)
	}
}

// look tells what is known for an ear.
func (f *feed) look(e *ear) view {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.runs[e.uid]
	return view{seen: s.seen, gone: s.gone, synced: f.synced > 0, fails: f.fails, err: f.err, since: f.since}
}

// retain keeps every run that is seen before it ended, until the returned function is called.
func (f *feed) retain() (release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keep++
	return sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.keep--
		if f.keep > 0 {
			return
		}
		for uid, s := range f.runs {
			if len(s.ears) == 0 {
				delete(f.runs, uid)
			}
		}
	})
}

// run follows the namespace until ctx ends: a list, then watches from there on, and another list where the server
// cannot continue.
func (f *feed) run(ctx context.Context) {
	var wait patience
	version, path := "", ""
	for ctx.Err() == nil {
		var err error
		began, expired := time.Now(), false
		switch {
		case path == "":
			path, err = f.path(ctx)
		case version == "":
			version, err = f.list(ctx, path)
		default:
			version, err = f.watch(ctx, path, version)
			// A server may say again and again that it cannot go on from its own list.
			expired = err == nil && version == "" && time.Since(began) < watchSlack
			if err == nil && !expired {
				wait.reset()
			}
		}
		if isCode(err, http.StatusNotFound) {
			path, version = "", "" // Tekton went, or came in another version
			f.api.forgetTekton()
			err = errNoTekton
		}
		if ctx.Err() != nil {
			return
		}
		f.report(err)
		if (err != nil || expired) && sleep(ctx, wait.after(err)) != nil {
			return
		}
	}
}

// path finds out where the namespace's PipelineRuns are.
func (f *feed) path(ctx context.Context) (string, error) {
	version, err := f.api.tekton(ctx)
	if err != nil {
		return "", err
	}
	return resourcePath(version, f.namespace, "pipelineruns"), nil
}

// report tells those who listen that the server answers again, or does not.
func (f *feed) report(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && f.fails == 0 {
		return
	}
	f.err = err
	if err == nil {
		f.fails, f.since = 0, time.Time{}
	} else {
		if f.fails == 0 {
			f.since = time.Now()
		}
		f.fails++
	}
	for e := range f.all {
		e.ring()
	}
}

// list reads every run of the namespace, and notes which of those that were in sight are no longer.
func (f *feed) list(ctx context.Context, path string) (version string, err error) {
	there := map[string]bool{}
	version, err = f.api.list(ctx, path, url.Values{"labelSelector": {f.selector}}, func(o *wireObject) {
		if f.take(o, false) {
			there[o.Metadata.UID] = true
		}
	})
	if err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.synced++
	for uid, s := range f.runs {
		if !there[uid] {
			s.gone = true
			f.tell(s)
		}
	}
	if f.synced == 1 {
		for e := range f.all {
			e.ring()
		}
	}
	return version, nil
}

// watch follows the changes since version, see watchFrom.
func (f *feed) watch(ctx context.Context, path, version string) (string, error) {
	return watchFrom(ctx, f.api, path, f.selector, version, func() { f.report(nil) }, func(o *wireObject, gone bool) { f.take(o, gone) })
}

// take keeps what was seen of a run, if anybody wants it.
func (f *feed) take(o *wireObject, gone bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.runs[o.Metadata.UID]
	if s == nil && (f.keep == 0 || gone || o.Metadata.UID == "") {
		return false
	}
	now := sees(o)
	if s == nil {
		// Nobody asked for it by name, but somebody may: it must have been seen running, for what has ended before is
		// not of the deployment that is followed.
		if now.final() || len(f.runs) >= maxUnclaimed && !f.forget() {
			return false
		}
		f.came++
		s = &sight{ears: map[*ear]bool{}, ordinal: f.came}
		f.runs[now.uid] = s
	}
	if s.seen != nil && s.seen.version == now.version && s.gone == gone {
		return true
	}
	s.seen, s.gone = now, gone
	f.tell(s)
	return true
}

// forget drops the oldest run that nobody claimed; false where there is none.
func (f *feed) forget() bool {
	oldest := ""
	for uid, s := range f.runs {
		if len(s.ears) == 0 && (oldest == "" || s.ordinal < f.runs[oldest].ordinal) {
			oldest = uid
		}
	}
	delete(f.runs, oldest)
	return oldest != ""
}

func (f *feed) tell(s *sight) {
	for e := range s.ears {
		e.ring()
	}
}

// feeds are the watches of a cluster, one a namespace, each for as long as somebody uses it.
type feeds struct {
	mu  sync.Mutex
	all map[string]*feed
}

// use gives the feed of a namespace, and starts it for the first who wants it. The last one to call release waits until
// it has ended.
func (s *feeds) use(a *api, namespace, selector string) (f *feed, release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := namespace + "\x00" + selector
	f = s.all[key]
	if f == nil {
		f = newFeed(a, namespace, selector)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			f.run(ctx)
		}()
		f.stop = func() { cancel(); <-ended }
		if s.all == nil {
			s.all = map[string]*feed{}
		}
		s.all[key] = f
	}
	f.users++
	return f, sync.OnceFunc(func() { s.release(key, f) })
}

func (s *feeds) release(key string, f *feed) {
	s.mu.Lock()
	f.users--
	last := f.users == 0
	if last {
		delete(s.all, key)
	}
	s.mu.Unlock()
	if last {
		f.stop()
	}
}
