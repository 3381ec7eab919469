package monitor

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sentry/internal/config"
	"sentry/internal/git/gittest"
	"sentry/internal/git/gitwire"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// gitAsker asks real servers for branches, as the daemon does.
type gitAsker struct {
	client *gitwire.Client
	dirs   map[string]string // of the repositories, to read revisions from
	t      testing.TB
}

func (a gitAsker) Lane(r *config.Repository) Lane { return Lane{Key: r.Monitor.Remote.Origin()} }

func (a gitAsker) Heads(ctx context.Context, asks []Ask, answers []Answer) {
	for i := range asks {
		answers[i].Heads, answers[i].Err = a.heads(ctx, asks[i].Repository)
	}
}

func (a gitAsker) heads(ctx context.Context, r *config.Repository) (map[string]string, error) {
	const heads = "refs/heads/"
	var prefixes []string
	for _, p := range r.Monitor.Branches {
		prefixes = append(prefixes, heads+p.Prefix())
	}
	refs, err := a.client.ListRefs(ctx, r.Monitor.Remote, gitwire.Auth{Token: r.Monitor.Auth.Token}, prefixes)
	if err != nil {
		return nil, err
	}
	answer := map[string]string{}
	for _, ref := range refs {
		if branch, ok := strings.CutPrefix(ref.Name, heads); ok {
			answer[branch] = ref.Commit
		}
	}
	return answer, nil
}

func (gitAsker) Explain(*config.Repository) string { return "" }

func (a gitAsker) Revision(_ context.Context, r *config.Repository, _, commit string) (sentry.Revision, error) {
	text := gittest.Git(a.t, a.dirs[r.Name], "log", "-1", "--format=%an%n%s", commit)
	author, subject, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return sentry.Revision{Commit: commit, Author: author, Subject: subject}, nil
}

// real is a monitor with a real store and a real Git server.
type real struct {
	t      *testing.T
	dir    string
	server *gittest.Server
	asker  gitAsker
	store  *store.Store
	stop   func()
}

func newReal(t *testing.T) *real {
	r := &real{t: t, dir: t.TempDir(), server: gittest.NewServer(t)}
	r.asker = gitAsker{gitwire.New(gitwire.Options{}), map[string]string{}, t}
	t.Cleanup(func() { r.halt() })
	return r
}

func (r *real) repo(name string, interval time.Duration, branches ...string) (config.Repository, *gittest.Repo) {
	r.t.Helper()
	bare := r.server.Repo(r.t, name+".git")
	r.asker.dirs[name] = bare.Dir
	remote, err := sentry.ParseRemote(bare.URL, sentry.RemoteRules{InsecureHTTP: true})
	if err != nil {
		r.t.Fatal(err)
	}
	c := repo(name, "unused", interval, branches...)
	c.Monitor.Remote = remote
	return c, bare
}

func (r *real) run(repositories ...config.Repository) *Monitor {
	r.t.Helper()
	var err error
	if r.store, err = store.Open(r.t.Context(), store.Options{Dir: r.dir}); err != nil {
		r.t.Fatal(err)
	}
	m := New(Options{Store: r.store, Ask: r.asker})
	m.Update(configure(repositories...))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := m.Run(ctx); err != nil {
			r.t.Errorf("Run: %v", err)
		}
	})
	r.stop = func() {
		cancel()
		running.Wait()
		if err := r.store.Close(); err != nil {
			r.t.Error(err)
		}
	}
	return m
}

func (r *real) halt() {
	if r.stop != nil {
		r.stop()
		r.stop = nil
	}
}

// eventually waits until what is recorded reads as wanted: "main=1:COMMIT gone=2:-…" with generations, by branch.
func (r *real) eventually(want ...string) {
	r.t.Helper()
	var got []string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		heads, err := r.store.Heads(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		got = got[:0]
		for _, h := range heads {
			text := fmt.Sprintf("%s=%d:%s", h.Watch, h.Generation, h.Commit)
			if h.Deleted {
				text += " deleted"
			}
			got = append(got, text)
		}
		slices.Sort(got)
		if slices.Equal(got, want) {
			return
		}
	}
	r.t.Fatalf("recorded\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
}

// changes gives what waits to be rolled out, oldest first.
func (r *real) changes() []sentry.Change {
	r.t.Helper()
	pending, err := r.store.Pending(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	var out []sentry.Change
	for _, p := range pending {
		out = append(out, p.Rollout.Trigger.Changes...)
	}
	return out
}

func TestRealGit(t *testing.T) {
	const interval = 100 * time.Millisecond
	r := newReal(t)
	cfg, bare := r.repo("shop", interval, "main", "release/*")
	a := bare.Commit(t, "main", map[string]string{"f": "1"}, "First")
	r.run(cfg)
	r.eventually("shop@main=1:" + a)

	b := bare.Commit(t, "main", map[string]string{"f": "2"}, "Second")
	r.eventually("shop@main=2:" + b)
	bare.Branch(t, "release/1", a)
	r.eventually("shop@main=2:"+b, "shop@release/1=1:"+a)

	// Back to a former commit: believed after an interval, and known as such.
	before := time.Now()
	bare.Reset(t, "main", a)
	r.eventually("shop@main=3:"+a, "shop@release/1=1:"+a)
	if d := time.Since(before); d < interval {
		t.Errorf("a move back was believed after %v", d)
	}
	bare.Delete(t, "release/1")
	r.eventually("shop@main=3:"+a, "shop@release/1=1:"+a+" deleted")

	// Killed and started again: nothing is recorded twice, and what happened meanwhile is found.
	r.halt()
	c := bare.Commit(t, "release/1", map[string]string{"f": "3"}, "Third")
	m := r.run(cfg)
	r.eventually("shop@main=3:"+a, "shop@release/1=2:"+c)
	for _, s := range m.Watches() {
		if s.Answer != AnswerOK || s.Failures != 0 {
			t.Errorf("state: %+v", s)
		}
	}

	type line struct {
		Watch, Author, Subject string
		Generation             int64
		Rewritten              bool
	}
	var got []line
	for _, c := range r.changes() {
		got = append(got, line{c.Watch.String(), c.Author, c.Subject, c.Generation, c.Rewritten})
	}
	want := []line{
		{"shop@main", "Ada Author", "Second", 2, false},
		{"shop@main", "Ada Author", "First", 3, true},
		{"shop@release/1", "Ada Author", "Third", 2, false},
	}
	if !slices.Equal(got, want) {
		t.Errorf("changes\n%+v\nwant\n%+v", got, want)
	}
	wrong, err := r.store.Check(t.Context())
	if err != nil || len(wrong) > 0 {
		t.Errorf("the state: %q, %v", wrong, err)
	}
}

// A real server that breaks in several ways, one after the other, while the branch moves.
func TestRealGitTroubles(t *testing.T) {
	r := newReal(t)
	cfg, bare := r.repo("shop", 100*time.Millisecond)
	commit := bare.Commit(t, "main", map[string]string{"f": "0"}, "0")
	m := r.run(cfg)
	r.eventually("shop@main=1:" + commit)

	for i, trouble := range []struct {
		name   string
		answer func(http.ResponseWriter)
		kind   sentry.FaultKind
	}{
		{"502 with a page", func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusBadGateway)
			fmt.Fprint(w, "<html>Bad Gateway</html>")
		}, sentry.Transient},
		{"nothing", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, sentry.Transient},
		{"404", func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }, sentry.NotFound},
		{"a page", func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<html>Please log in</html>")
		}, sentry.Invalid},
		{"429", func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}, sentry.RateLimited},
	} {
		var hits atomic.Int64
		r.server.Intercept(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			hits.Add(1)
			trouble.answer(w)
		})
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if s := m.Watches()[0]; strings.HasPrefix(s.Answer, "failing: ") && s.Commit == commit && hits.Load() > 0 {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %+v", trouble.name, m.Watches()[0])
			}
		}
		commit = bare.Commit(t, "main", map[string]string{"f": trouble.name}, trouble.name)
		r.server.Intercept(nil)
		r.eventually(fmt.Sprintf("shop@main=%d:%s", i+2, commit))
		told, err := r.store.Why(t.Context(), store.WhyFilter{Repository: "shop", Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(told, func(d sentry.Decision) bool {
			return d.Verb == sentry.Answering && strings.HasPrefix(d.Reason, fmt.Sprintf("failing (%s): ", trouble.kind))
		}) {
			t.Errorf("%s: the ledger does not tell of trouble of kind %s: %+v", trouble.name, trouble.kind, told)
		}
	}
	if n := len(r.changes()); n != 5 {
		t.Errorf("%d changes, want 5", n)
	}
}
