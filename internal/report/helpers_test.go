package report

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/store"
	"sentry/internal/store/storetest"
)

// call is one request to put a status.
type call struct {
	at         time.Time
	host       string
	address    string
	repository string // as configured
	target     sentry.Target
	Status
}

func (c call) String() string {
	where := c.host + " " + c.repository
	if c.target == sentry.QA {
		where += "/qa"
	}
	return fmt.Sprintf("%s %s %s %s", where, c.Commit, c.Context, c.State)
}

// forges is all forges of a test.
type forges struct {
	mu    sync.Mutex
	calls []call                                          // guarded by mu: all that were made
	said  []call                                          // guarded by mu: those that were accepted
	act   func(ctx context.Context, c call) (bool, error) // guarded by mu: whether it is accepted, and what is answered; nil accepts all
}

func (f *forges) SetStatus(ctx context.Context, r *config.Repository, target sentry.Target, s Status) error {
	_, err := f.put(ctx, r, target, s)
	return err
}

// put is SetStatus, and tells whether the status is there now, whatever the answer is.
func (f *forges) put(ctx context.Context, r *config.Repository, target sentry.Target, s Status) (bool, error) {
	side := sideOf(r, target)
	c := call{time.Now(), side.host(), side.address(), r.Name, target, s}
	f.mu.Lock()
	f.calls = append(f.calls, c)
	act := f.act
	f.mu.Unlock()
	accepted, err := true, error(nil)
	if act != nil {
		accepted, err = act(ctx, c)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if accepted {
		f.said = append(f.said, c)
	}
	return accepted, err
}

// does makes the forges act otherwise from here on.
func (f *forges) does(act func(ctx context.Context, c call) (bool, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.act = act
}

// refuses makes every forge answer with an error.
func (f *forges) fails(err error) {
	f.does(func(context.Context, call) (bool, error) { return false, err })
}

// told gives what was accepted, a line each, and forgets it.
func (f *forges) told() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []string
	for _, c := range f.said {
		lines = append(lines, c.String())
	}
	f.said = nil
	return strings.Join(lines, "\n")
}

// asked gives how many requests there were, and forgets them.
func (f *forges) asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.calls)
	f.calls = nil
	return n
}

// scene is a state, a configuration and forges, in a bubble.
type scene struct {
	*store.Store
	t      *testing.T
	cfg    atomic.Pointer[config.Config]
	forges *forges
	log    *bytes.Buffer // read after synctest.Wait only
	stop   func()
	served *Service
}

// play runs a test in a bubble, with a service that runs.
func play(t *testing.T, cfg *config.Config, act func(*scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &scene{Store: storetest.Open(t), t: t, forges: &forges{}, log: &bytes.Buffer{}}
		s.cfg.Store(cfg)
		s.serve(s.Store)
		act(s)
		s.stop()
		if broken, err := s.Check(context.Background()); err != nil || len(broken) > 0 {
			t.Errorf("the state is broken: %v %q", err, broken)
		}
	})
}

// serve runs a service, over a store that may be wrapped.
func (s *scene) serve(st Store) {
	var mu sync.Mutex
	s.served = New(Options{
		Store: st, Config: s.cfg.Load, Publish: s.forges,
		Log: slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return s.log.Write(p)
		}), nil)),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.served.Run(ctx) }()
	var once sync.Once
	s.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				s.t.Errorf("the service ended: %v", err)
			}
		})
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// after lets time pass.
func (s *scene) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// push moves a head, given as "repository@branch", to a commit.
func (s *scene) push(watch, commit string) {
	s.t.Helper()
	w := watchOf(watch)
	repo, _ := s.cfg.Load().Repository(w.Repository)
	_, err := s.RecordChanges(context.Background(), []store.Observation{{Watch: w, Revision: sentry.Revision{Commit: commit}, Group: repo.Group}})
	s.must(err)
}

func watchOf(text string) sentry.Watch {
	repository, branch, _ := strings.Cut(text, "@")
	if branch == "" {
		branch = "main"
	}
	return sentry.Watch{Repository: repository, Branch: branch}
}

// begin claims the rollout of a group that waits: a deployment for every watch that was ever seen of its members.
func (s *scene) begin(group string) sentry.Rollout {
	s.t.Helper()
	waiting, err := s.Pending(context.Background())
	s.must(err)
	for _, w := range waiting {
		if w.Rollout.Group != group {
			continue
		}
		changed := map[sentry.Watch]bool{}
		for _, c := range w.Rollout.Trigger.Changes {
			changed[c.Watch] = true
		}
		p := store.Plan{Reason: "test"}
		for _, m := range s.cfg.Load().Members(group) {
			heads, err := s.HeadsOf(context.Background(), m.Name)
			s.must(err)
			for _, h := range heads {
				p.Vector = append(p.Vector, sentry.VectorEntry{Watch: h.Watch, Commit: h.Commit, Generation: h.Generation, Changed: changed[h.Watch]})
				p.Deployments = append(p.Deployments, sentry.Deployment{Watch: h.Watch, Commit: h.Commit, Generation: h.Generation})
			}
		}
		r, err := s.Claim(context.Background(), w.Rollout.ID, w.Version, p)
		s.must(err)
		return r
	}
	s.t.Fatalf("no rollout of %s waits", group)
	return sentry.Rollout{}
}

// pin begins deployments of a rollout, with a commit of their QA repositories.
func (s *scene) pin(r sentry.Rollout, commit string, attempt int) {
	s.t.Helper()
	for _, d := range r.Deployments {
		d.Status, d.Attempt = sentry.Running, attempt
		d.Source = &sentry.Source{URL: "https://git.example.com/qa", Branch: "qa-main", Commit: commit}
		s.must(s.SaveDeployment(context.Background(), d))
	}
}

// end ends a rollout: the deployments with these statuses, in order, the last of them for the rest; the rollout with their fold.
func (s *scene) end(r sentry.Rollout, statuses ...sentry.Status) {
	s.t.Helper()
	r, err := s.Rollout(context.Background(), r.ID)
	s.must(err)
	var all []sentry.Status
	for i, d := range r.Deployments {
		status := statuses[min(i, len(statuses)-1)]
		all = append(all, status)
		if status != sentry.Skipped && d.Status == sentry.Pending {
			d.Status, d.Attempt = sentry.Running, r.Attempt
			s.must(s.SaveDeployment(context.Background(), d))
		}
		d.Status = status
		s.must(s.SaveDeployment(context.Background(), d))
	}
	s.must(s.Finish(context.Background(), r.ID, sentry.Fold(all), "test"))
}

// ask queues a rollout in the name of a person.
func (s *scene) ask(r store.Request) {
	s.t.Helper()
	r.By = "ada"
	_, _, err := s.Request(context.Background(), r)
	s.must(err)
}

// reports tells what became of what was to be said of a rollout, in one line.
func (s *scene) reports(r sentry.Rollout) string {
	s.t.Helper()
	list, err := s.Reports(context.Background(), r.ID)
	s.must(err)
	var words []string
	for _, r := range list {
		text := string(r.State) + " " + string(r.Fate)
		if r.Error != "" {
			text += " (" + r.Error + ")"
		}
		words = append(words, text)
	}
	return strings.Join(words, ", ")
}

// unreported gives the reasons in the ledger for what was not said.
func (s *scene) unreported() []string {
	s.t.Helper()
	why, err := s.Why(context.Background(), store.WhyFilter{Limit: 10_000})
	s.must(err)
	var reasons []string
	for _, d := range why {
		if d.Verb == sentry.Unreported {
			reasons = append(reasons, d.Reason)
		}
	}
	return reasons
}

func (s *scene) is(what, got, want string) {
	s.t.Helper()
	if got != want {
		s.t.Errorf("%s:\n%s\nwant\n%s", what, got, want)
	}
}

// group makes a configuration of one group, g. Each member is "name" or "name=address"; the address is made of the name
// otherwise. Its QA repository is git.example.com/qa, a Gitea.
func group(t *testing.T, report, reportTo string, members ...string) *config.Config {
	t.Helper()
	c := &config.Config{Groups: []config.Group{{Name: "g", Report: report, ReportTo: reportTo}}}
	for _, m := range members {
		name, address, given := strings.Cut(m, "=")
		if !given {
			address = "https://github.com/acme/" + name
		}
		r := config.Repository{Name: name, Group: "g"}
		r.Monitor = config.Monitor{Remote: remote(t, address), Type: "github", Auth: config.Auth{Token: sentry.NewSecret("t1")}}
		r.Deploy = config.Deploy{Remote: remote(t, "https://git.example.com/qa"), Branch: "qa-main", Type: "gitea", Auth: config.Auth{Token: sentry.NewSecret("t2")}}
		c.Repositories = append(c.Repositories, r)
	}
	return c
}

// also puts another group, with one member of its name on a host, into a configuration.
func also(t *testing.T, c *config.Config, name, host string) *config.Config {
	c.Groups = append(c.Groups, config.Group{Name: name})
	r := config.Repository{Name: name, Group: name}
	r.Monitor = config.Monitor{Remote: remote(t, "https://"+host+"/acme/"+name), Type: "gitea", Auth: config.Auth{Token: sentry.NewSecret("t-" + name)}}
	c.Repositories = append(c.Repositories, r)
	return c
}

func remote(t *testing.T, address string) sentry.Remote {
	t.Helper()
	r, err := sentry.ParseRemote(address, sentry.RemoteRules{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}
