package forge_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/config"
	"sentry/internal/forge"
	"sentry/internal/forge/forgetest"
	"sentry/internal/monitor"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// A world is a monitor that watches an emulated forge, in a bubble of time, while things go wrong between the two.
type world struct {
	*rig
	t      *testing.T
	random *rand.Rand
	book   *book
	names  []string
	made   map[sentry.Watch][]string // what each branch was at, in turn; "" while it was not
	calm   map[sentry.Watch]bool     // its last move was to a new commit, which is believed at once
	moved  time.Time                 // when something was pushed last
	lags   map[string]lag            // of replicas: what they show in place of a commit
}

// source is chance that several goroutines share.
type source struct {
	mu sync.Mutex
	*rand.PCG
}

func (s *source) Uint64() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.PCG.Uint64()
}

type lag struct {
	commit string
	until  time.Time
}

const faultInterval = time.Minute

// faults are what goes wrong. Each gives what puts it there, at some of the doors of the forge and for some of the
// requests, and how long after its end it may go on to have an effect, because somebody said so.
var faults = []struct {
	name  string
	put   func(w *world) (heal func())
	after time.Duration
}{
	{name: "500", put: answered(says(500, "application/json", `{"message":"Internal Server Error"}`))},
	{name: "502 with a web page", put: answered(says(502, "text/html", "<html><body><h1>502 Bad Gateway</h1></body></html>"))},
	{name: "503", put: answered(says(503, "text/plain", "Service Unavailable"))},
	{name: "503 with Retry-After", put: answered(refused(503, "", 20*time.Second)), after: 20 * time.Second},
	{name: "403 for one repository", put: forbiddenOne},
	{name: "the default branch is renamed, and back", put: renamedDefault},
	{name: "504", put: answered(says(504, "text/html", "<html>Gateway Time-out</html>"))},
	{name: "a login page", put: answered(says(200, "text/html", "<html><body>Please sign in</body></html>"))},
	{name: "429 with Retry-After", put: answered(refused(429, "Retry later", 45*time.Second)), after: 45 * time.Second},
	{name: "429 with Retry-After as a date", put: answered(refusedUntil(30 * time.Second)), after: 31 * time.Second},
	{name: "429 that says nothing", put: answered(says(429, "text/plain", "Too many requests")), after: 15 * time.Minute},
	{name: "403 for a secondary limit", put: answered(refused(403, "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.", time.Minute)), after: time.Minute},
	{name: "403 for an empty budget", put: answered(emptied(90)), after: 92 * time.Second},
	{name: "a reset in the year 9999", put: answered(emptied(8000 * 365 * 24 * 3600)), after: 65 * time.Minute},
	{name: "a reset in the past", put: answered(emptied(-3600)), after: 16 * time.Minute},
	{name: "Retry-After that is absurd", put: answered(says429("99999999999999999999")), after: 15 * time.Minute},
	{name: "Retry-After that is negative", put: answered(says429("-5")), after: 15 * time.Minute},
	{name: "401", put: answered(says(401, "application/json", `{"message":"Bad credentials"}`)), after: time.Minute},
	{name: "a token that is revoked and rotated", put: func(w *world) func() {
		w.lab.Revoke(w.token.Reveal())
		return func() { w.setToken(w.lab.Token()) }
	}},
	{name: "404", put: answered(says(404, "application/json", `{"message":"Not Found"}`))},
	{name: "a repository that is away and comes back", put: func(w *world) func() {
		name := w.names[w.random.IntN(len(w.names))]
		w.lab.Fail(func(out http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.Contains(r.URL.Path, name) {
				says(404, "application/json", `{"message":"Not Found"}`)(out, r, next)
				return
			}
			w.replicas(out, r, next)
		})
		return w.healed
	}},
	{name: "a redirection to another host", put: answered(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		http.Redirect(w, r, "http://elsewhere.test"+r.URL.RequestURI(), http.StatusMovedPermanently)
	})},
	{name: "a redirection to itself", put: answered(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		http.Redirect(w, r, r.URL.RequestURI(), http.StatusFound)
	})},
	{name: "truncated answers", put: answered(spoiled(func(body string) string { return body[:len(body)*2/3] }))},
	{name: "empty answers", put: answered(spoiled(func(string) string { return "" }))},
	{name: "answers of another type", put: answered(says(200, "application/json", `{"ok":"yes","data":[],"errors":{}}`))},
	{name: "empty objects", put: answered(says(200, "application/json", `{}`))},
	{name: "null", put: answered(says(200, "application/json", `null`))},
	{name: "commits that are too short", put: answered(commits(func(sha string) string { return sha[:39] }))},
	{name: "commits that are no numbers", put: answered(commits(func(string) string { return strings.Repeat("x", 40) }))},
	{name: "nulls in place of commits", put: answered(spoiled(func(body string) string { return sha40Quoted.ReplaceAllString(body, "null") }))},
	{name: "endless answers", put: answered(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		for r.Context().Err() == nil {
			if _, err := w.Write([]byte(`[`)); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			select {
			case <-time.After(300 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
	})},
	{name: "slow answers", put: answered(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		select {
		case <-time.After(7 * time.Second):
		case <-r.Context().Done():
			return
		}
		next.ServeHTTP(w, r)
	})},
	{name: "no answers", put: answered(func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})},
	{name: "connections that are reset", put: answered(func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) })},
	{name: "a name that is not found", put: dialed(func(context.Context, dialer) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "forge.test", IsNotFound: true}}
	})},
	{name: "a server that is not there", put: dialed(func(context.Context, dialer) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	})},
	{name: "a black hole", put: dialed(func(ctx context.Context, _ dialer) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})},
	{name: "connections that break in the middle", put: dialed(func(ctx context.Context, dial dialer) (net.Conn, error) {
		c, err := dial(ctx, "tcp", "")
		return &breaking{Conn: c, left: 700}, err
	})},
	{name: "half-open connections", put: func(w *world) func() {
		frozen := make(chan struct{})
		thaw := sync.OnceFunc(func() { close(frozen) })
		w.setDetour(func(ctx context.Context, _, _ string, dial dialer) (net.Conn, error) {
			c, err := dial(ctx, "tcp", "")
			return &freezing{Conn: c, thaw: frozen, closed: make(chan struct{})}, err
		})
		return func() {
			thaw()
			w.setDetour(nil)
		}
	}},
	{name: "replicas that lag behind", put: func(w *world) func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.lags = map[string]lag{}
		return func() {}
	}, after: faultInterval / 2},
	{name: "a clock that is a year ahead", put: func(w *world) func() { return w.skew(365 * 24 * time.Hour) }},
	{name: "a clock that is a year behind", put: func(w *world) func() { return w.skew(-365 * 24 * time.Hour) }},
	{name: "a repository whose Git side is away", put: func(w *world) func() {
		lab, ok := w.lab.(*forgetest.GitLab)
		if !ok {
			return func() {}
		}
		sick := w.names[:1+w.random.IntN(len(w.names))]
		for _, name := range sick {
			lab.Sicken(name, w.random.IntN(2) == 0)
		}
		return func() {
			for _, name := range sick {
				lab.Heal(name)
			}
		}
	}},
	{name: "nothing", put: func(*world) func() { return func() {} }},
}

// answered puts something before the forge, at one of its doors or both, for all requests or some.
func answered(fault forgetest.Fault) func(w *world) func() {
	return func(w *world) func() {
		door, share := w.random.IntN(3), []float64{1, 1, 0.5, 0.2}[w.random.IntN(4)]
		w.lab.Fail(func(out http.ResponseWriter, r *http.Request, next http.Handler) {
			git := strings.Contains(r.URL.Path, ".git/")
			if door != 2 && git != (door == 0) || w.random.Float64() >= share {
				w.replicas(out, r, next)
				return
			}
			fault(out, r.WithContext(context.WithValue(r.Context(), labKey{}, w.lab)), next)
		})
		return w.healed
	}
}

// dialed makes new connections in another way, and ends the old ones.
func dialed(connect func(ctx context.Context, dial dialer) (net.Conn, error)) func(w *world) func() {
	return func(w *world) func() {
		w.setDetour(func(ctx context.Context, _, _ string, dial dialer) (net.Conn, error) { return connect(ctx, dial) })
		w.lab.Fail(func(out http.ResponseWriter, r *http.Request, next http.Handler) {
			out.Header().Set("Connection", "close")
			next.ServeHTTP(out, r)
		})
		return func() {
			w.setDetour(nil)
			w.healed()
		}
	}
}

// refused answers that it was too much, and when to come again.
func refused(status int, text string, wait time.Duration) forgetest.Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		late(r)
		forbid(r, wait)
		w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)))
		answerText(w, status, text)
	}
}

// refusedUntil is refused with a date.
func refusedUntil(wait time.Duration) forgetest.Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		late(r)
		forbid(r, wait)
		now := time.Now()
		w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
		w.Header().Set("Retry-After", now.Add(wait).UTC().Format(http.TimeFormat))
		answerText(w, 429, "slow down")
	}
}

// emptied answers that the budget is used up until then, in the headers of all forges.
func emptied(seconds int64) forgetest.Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		late(r)
		if seconds > 0 && seconds < 3600 { // nobody means a longer one
			forbidDoor(r, time.Duration(seconds)*time.Second)
		}
		for _, family := range []string{"X-RateLimit-", "RateLimit-"} {
			w.Header().Set(family+"Limit", "5000")
			w.Header().Set(family+"Remaining", "0")
			w.Header().Set(family+"Reset", strconv.FormatInt(time.Now().Unix()+seconds, 10))
		}
		answerText(w, 403, "API rate limit exceeded")
	}
}

// late lets an answer take some time, so that others are under way when it comes; these cannot know of it.
func late(r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	time.Sleep(time.Duration(1 + rand.Int64N(int64(200*time.Millisecond))))
}

func says429(retryAfter string) forgetest.Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Retry-After", retryAfter)
		answerText(w, 429, "Too many requests")
	}
}

func answerText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"message":%q}`, text)
}

// forbid tells the lab that who asks was told to stay away.
func forbid(r *http.Request, wait time.Duration) {
	if lab, ok := r.Context().Value(labKey{}).(interface {
		Forbid(r *http.Request, wait time.Duration)
	}); ok {
		lab.Forbid(r, wait)
	}
}

// forbidDoor is forbid for the door at which the request came.
func forbidDoor(r *http.Request, wait time.Duration) {
	if lab, ok := r.Context().Value(labKey{}).(interface {
		ForbidDoor(r *http.Request, wait time.Duration)
	}); ok {
		lab.ForbidDoor(r, wait)
	}
}

type labKey struct{}

// breaking is a connection that is reset after so many bytes.
type breaking struct {
	net.Conn
	left int
}

func (c *breaking) Read(p []byte) (int, error) {
	if c.left <= 0 {
		_ = c.Close()
		return 0, &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// freezing is a connection whose other end is gone without a word: what is sent is lost, and nothing comes.
type freezing struct {
	net.Conn
	thaw   chan struct{}
	closed chan struct{}
	once   sync.Once
}

func (c *freezing) Read([]byte) (int, error) {
	select {
	case <-c.thaw:
		return 0, &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *freezing) Write(p []byte) (int, error) { return len(p), nil }

func (c *freezing) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (w *world) setDetour(detour func(ctx context.Context, network, address string, dial dialer) (net.Conn, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.detour = detour
}

// healed lets the forge answer by itself, but for what its replicas do.
func (w *world) healed() { w.lab.Fail(w.replicas) }

// replicas lets the forge answer, with what one of its replicas knows: those of the commits that it has not yet are shown
// as what was there before.
func (w *world) replicas(out http.ResponseWriter, r *http.Request, next http.Handler) {
	time.Sleep(20*time.Millisecond + time.Duration(w.random.IntN(60))*time.Millisecond) // no server takes no time
	w.mu.Lock()
	lags := maps.Clone(w.lags)
	w.mu.Unlock()
	if lags == nil || w.random.IntN(2) == 0 {
		next.ServeHTTP(out, r)
		return
	}
	now := time.Now()
	commits(func(sha string) string {
		for l, ok := lags[sha]; ok && now.Before(l.until); l, ok = lags[sha] {
			sha = l.commit
		}
		return sha
	})(out, r, next)
}

// forbiddenOne refuses one repository, whoever asks and by whichever door. That is no word about the token.
func forbiddenOne(w *world) func() {
	name := w.names[w.random.IntN(len(w.names))]
	w.lab.Fail(func(out http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, name) {
			answerText(out, http.StatusForbidden, "Forbidden")
			return
		}
		w.replicas(out, r, next)
	})
	return func() {
		for _, one := range w.all {
			if w.forges.Refused(one) {
				w.t.Errorf("%s is refused, and the token is blamed by %s", name, one.Name)
			}
		}
		w.healed()
	}
}

// renamedDefault gives the default branch of a repository another name, which nobody watches: the branch that is watched is
// gone, until it has its name again.
func renamedDefault(w *world) func() {
	name := w.names[w.random.IntN(len(w.names))]
	watch := sentry.Watch{Repository: name, Branch: "main"}
	move := func(to string) {
		w.made[watch] = append(w.made[watch], to)
		w.calm[watch], w.moved = false, time.Now()
	}
	commit := w.lab.Head(name, "main")
	if commit == "" {
		commit = w.lab.Push(name, "main")
		move(commit)
	}
	w.lab.Set(name, "trunk", commit)
	w.lab.Delete(name, "main")
	move("")
	return func() {
		w.lab.Delete(name, "trunk")
		if w.lab.Head(name, "main") == "" { // nobody has made another one meanwhile
			w.lab.Set(name, "main", commit)
			move(commit)
		}
	}
}

// skew sets the clock of the forge: that of its answers, and of what it says about its budget.
func (w *world) skew(by time.Duration) func() {
	w.lab.Fail(func(out http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := &recorder{header: http.Header{}, status: http.StatusOK}
		next.ServeHTTP(rec, r)
		maps.Copy(out.Header(), rec.header)
		out.Header().Set("Date", time.Now().Add(by).UTC().Format(http.TimeFormat))
		for _, name := range []string{"X-Ratelimit-Reset", "Ratelimit-Reset"} {
			if at, err := strconv.ParseInt(rec.header.Get(name), 10, 64); err == nil {
				out.Header().Set(name, strconv.FormatInt(at+int64(by/time.Second), 10))
			}
		}
		out.WriteHeader(rec.status)
		_, _ = out.Write(rec.body.Bytes())
	})
	return w.healed
}

// push moves a branch somewhere, mostly forward.
func (w *world) push(forward bool) {
	name := w.names[w.random.IntN(len(w.names))]
	branch := []string{"main", "dev"}[w.random.IntN(2)]
	watch := sentry.Watch{Repository: name, Branch: branch}
	history := w.made[watch]
	before := history[len(history)-1]
	commit := ""
	switch what := w.random.IntN(10); {
	case forward || what < 7:
		commit = w.lab.Push(name, branch)
	case what < 8:
		commit = w.lab.ForcePush(name, branch)
	case what < 9:
		w.lab.Delete(name, branch)
	default:
		if commit = history[w.random.IntN(len(history))]; commit == "" {
			return
		}
		w.lab.Set(name, branch, commit)
	}
	w.made[watch] = append(history, commit)
	w.calm[watch] = commit != "" && !slices.Contains(history, commit)
	w.moved = time.Now()
	w.mu.Lock()
	if w.lags != nil && before != "" && w.calm[watch] {
		w.lags[commit] = lag{before, time.Now().Add(time.Duration(w.random.Int64N(int64(faultInterval / 2))))}
	}
	w.mu.Unlock()
}

// watch makes repositories, and a monitor that watches them until the test ends.
func (w *world) watch() *monitor.Monitor {
	for i := range 8 {
		name := fmt.Sprintf("team/r%d", i)
		w.add(name, i%2 == 0, "main", "dev")
		w.names = append(w.names, name)
		for _, branch := range []string{"main", "dev"} {
			w.made[sentry.Watch{Repository: name, Branch: branch}] = []string{w.lab.Push(name, branch)}
			w.calm[sentry.Watch{Repository: name, Branch: branch}] = true
		}
	}
	w.update()
	w.healed()
	m := monitor.New(monitor.Options{Store: w.book, Ask: &faultAsker{w}, Rand: rand.New(rand.NewPCG(w.random.Uint64(), 0))})
	m.Update(w.configuration())
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
		time.Sleep(time.Minute) // the forge comes to the end of answers that nobody waits for any more
	})
	return m
}

// run watches, lets a fault come and go, and looks whether what was recorded is what happened.
func (w *world) run(put func(*world) func(), after time.Duration) {
	m := w.watch()
	live := func(d time.Duration, pushes int, forward bool) {
		for end := time.Now().Add(d); time.Now().Before(end); {
			time.Sleep(min(time.Until(end), time.Duration(1+w.random.Int64N(int64(d)/int64(max(1, pushes))*2))))
			if pushes > 0 {
				w.push(forward)
			}
		}
	}
	live(4*faultInterval, 6, false)
	time.Sleep(2*faultInterval + 5*time.Second)
	heal := put(w)
	live(time.Duration(1+w.random.IntN(10))*faultInterval, w.random.IntN(12), w.random.IntN(2) == 0)
	heal()
	time.Sleep(after)
	live(faultInterval/2, 1, true)
	// What moved is known within two intervals; what is doubted, because it was seen before, takes an interval longer.
	time.Sleep(2*faultInterval + 5*time.Second)
	w.converged(func(watch sentry.Watch) bool { return w.calm[watch] })
	if w.t.Failed() {
		for _, s := range m.Watches() {
			w.t.Logf("%v: due at %v, asked at %v: %s", s.Watch, s.NextDue, s.LastAsked, s.Answer)
		}
		w.t.Logf("%+v", m.Hosts())
	}
	time.Sleep(2 * faultInterval)
	w.converged(func(sentry.Watch) bool { return true })
	w.truthful()
	if c := w.lab.Requests(); c.Forbidden > 0 {
		w.t.Errorf("%d of %+v requests came although the forge had said to stay away", c.Forbidden, c)
	}
}

// converged looks whether what is recorded is what is.
func (w *world) converged(of func(sentry.Watch) bool) {
	w.t.Helper()
	for watch := range w.made {
		if want, got := w.lab.Head(watch.Repository, watch.Branch), w.book.head(watch); of(watch) && got != want {
			w.t.Errorf("%s@%s is at %q, and %q is recorded", watch.Repository, watch.Branch, want, got)
		}
	}
}

// truthful looks whether all that was recorded happened, in that order.
func (w *world) truthful() {
	w.t.Helper()
	for watch, recorded := range w.book.recorded() {
		history, at := w.made[watch], 0
		for _, commit := range recorded {
			for at < len(history) && history[at] != commit {
				at++
			}
			if at == len(history) {
				w.t.Errorf("%s@%s was at %q, one after the other; recorded is %q", watch.Repository, watch.Branch, history, recorded)
				break
			}
		}
	}
}

func (w *world) configuration() *config.Config {
	cfg := &config.Config{Groups: []config.Group{{Name: "g", Policy: sentry.Policy{Queue: sentry.Latest}}}}
	for _, one := range w.all {
		cfg.Repositories = append(cfg.Repositories, config.Repository{Name: one.Name, Group: "g", Monitor: config.Monitor{
			Remote: one.Remote, Branches: one.Patterns, Type: string(one.Kind), Interval: faultInterval,
		}})
	}
	return cfg
}

// faultAsker puts the monitor's questions to the forges.
type faultAsker struct{ w *world }

func (a *faultAsker) find(c *config.Repository) *forge.Repository {
	for _, one := range a.w.all {
		if one.Name == c.Name {
			return one
		}
	}
	return nil
}

func (a *faultAsker) Lane(c *config.Repository) monitor.Lane {
	l := a.w.forges.Lane(a.find(c))
	return monitor.Lane{Key: l.Key, Batch: l.Batch, Sweep: l.Sweep}
}

func (a *faultAsker) Heads(ctx context.Context, asks []monitor.Ask, answers []monitor.Answer) {
	list := make([]forge.Ask, len(asks))
	for i := range asks {
		list[i] = forge.Ask{Repository: a.find(asks[i].Repository), Full: asks[i].Full}
	}
	for i, answer := range a.w.forges.Heads(ctx, list) {
		answers[i] = monitor.Answer(answer)
	}
}

func (a *faultAsker) Revision(context.Context, *config.Repository, string, string) (sentry.Revision, error) {
	return sentry.Revision{}, errors.New("nobody knows")
}

func (a *faultAsker) Explain(c *config.Repository) string { return a.w.forges.Explain(a.find(c)) }

// book is a store in memory.
type book struct {
	mu    sync.Mutex
	heads map[sentry.Watch]sentry.Head
	told  map[sentry.Watch][]string // what was recorded of each branch, in turn; "" for a deleted one
}

func newBook() *book {
	return &book{heads: map[sentry.Watch]sentry.Head{}, told: map[sentry.Watch][]string{}}
}

func (b *book) head(w sentry.Watch) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if h := b.heads[w]; !h.Deleted {
		return h.Commit
	}
	return ""
}

func (b *book) recorded() map[sentry.Watch][]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.told)
}

func (b *book) Heads(context.Context) ([]sentry.Head, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Values(b.heads)), nil
}

func (b *book) HeadsOf(_ context.Context, repositories ...string) ([]sentry.Head, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var some []sentry.Head
	for _, h := range b.heads {
		if slices.Contains(repositories, h.Repository) {
			some = append(some, h)
		}
	}
	return some, nil
}

func (b *book) Recorded(_ context.Context, w sentry.Watch, commit string) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(b.told[w], commit), nil
}

func (b *book) RecordChanges(_ context.Context, observations []store.Observation) ([]store.Outcome, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var outcomes []store.Outcome
	for _, o := range observations {
		h, known := b.heads[o.Watch]
		commit := o.Revision.Commit
		outcome := store.Outcome{Watch: o.Watch, Kind: store.Same}
		if known && commit == h.Commit && !h.Deleted || commit == "" && (!known || h.Deleted) {
			outcomes = append(outcomes, outcome)
			continue
		}
		switch {
		case !known:
			outcome.Kind = store.Baseline
		case commit == "":
			outcome.Kind = store.Gone
		case commit == h.Commit:
			outcome.Kind = store.Back
		default:
			outcome.Kind = store.Moved
		}
		h.Watch, h.Deleted = o.Watch, commit == ""
		if outcome.Kind == store.Moved || outcome.Kind == store.Baseline {
			from := h.Commit
			h.Revision = o.Revision
			h.Generation++
			if outcome.Kind == store.Moved {
				outcome.Change = &sentry.Change{Watch: o.Watch, From: from, To: commit, Generation: h.Generation}
			}
		}
		b.heads[o.Watch] = h
		b.told[o.Watch] = append(b.told[o.Watch], commit)
		outcomes = append(outcomes, outcome)
	}
	return outcomes, nil
}

func (b *book) Decide(context.Context, ...sentry.Decision) error { return nil }

// Every fault, on every forge, at the doors and in the share that chance gives: nothing is recorded that did not happen,
// what happened is recorded within two intervals of the end of it, and nobody is asked who wants to be left alone.
func TestFaults(t *testing.T) {
	for _, kind := range []string{"GitHub", "GitLab", "Gitea"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			for _, fault := range faults {
				t.Run(fault.name, func(t *testing.T) {
					for seed := range seeds {
						t.Run(fmt.Sprint(seed), func(t *testing.T) {
							synctest.Test(t, func(t *testing.T) {
								newWorld(t, kind, seed).run(fault.put, fault.after)
							})
						})
					}
				})
			}
		})
	}
}
