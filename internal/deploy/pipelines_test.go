package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/command"
	"sentry/internal/config"
	"sentry/internal/kube"
	"sentry/internal/logger"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// kubeWorld is a cluster that outlives the processes which use it. It has its own lock.
type kubeWorld struct {
	mu      sync.Mutex
	down    bool      // the API server does not answer
	stuck   bool      // it answers, but nothing ends
	since   time.Time // when that began; zero: nothing ever did
	refuses bool      // it refuses to create anything
	missing error     // why the cluster cannot be had
	cluster int       // which one it is; what was created in another is not found
	runs    []*fakeRun
	open    map[string]func(fakeRun) error // how to create, by the token in a kubeconfig
	late    []fakeRun                      // asked for by a process that is gone; they arrive when the access is closed
	seq     int
}

// fakeRun is a pipeline run that ends as its fate is.
type fakeRun struct {
	sentry.PipelineRun
	asked    time.Time // when it was canceled
	of       string    // the deployment that created it
	deleted  bool      // by somebody else, before its end
	attempt  int
	cluster  int
	ends     time.Time
	fate     sentry.Status
	canceled bool
}

// ended reports whether the run has ended by now. The caller has the lock.
func (r *fakeRun) ended(w *kubeWorld) bool {
	now := time.Now()
	if w.stuck {
		now = w.since
	}
	return r.deleted || r.canceled && !r.asked.After(now) || !r.ends.After(now)
}

func (r *fakeRun) now(w *kubeWorld) sentry.PipelineRun {
	run := r.PipelineRun
	run.Status = sentry.Running
	if r.ended(w) {
		run.Status, run.Condition = r.fate, "Fate"
		if r.fate == sentry.Failed {
			run.Tasks = []sentry.TaskRun{{Task: "build", Status: sentry.Succeeded}, {Task: "unit", Status: sentry.Failed, Reason: "exit code 3"}}
		}
		if r.canceled {
			run.Status, run.Condition = sentry.Canceled, "CancelledRunFinally"
		}
	}
	return run
}

// alive names the runs that have not ended.
func (w *kubeWorld) alive(but func(*fakeRun) bool) (names []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.runs {
		if !r.ended(w) && !but(r) {
			names = append(names, r.Name)
		}
	}
	return names
}

// fakeCluster is the world as one process sees it: when that is dead nothing happens any more.
type fakeCluster struct {
	JobCluster // none runs as a Job
	*kubeWorld
	died  <-chan struct{}
	disk  func() []sentry.PipelineRun // what is saved
	wrong func(format string, args ...any)
}

func (c *fakeCluster) Hold() (Cluster, func(), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.missing != nil {
		return nil, nil, c.missing
	}
	return c, func() {}, nil
}

func (c *fakeCluster) Find(context.Context, kube.Selector, []string) ([]sentry.PipelineRun, error) {
	return nil, errors.New("nobody asks")
}

func (c *fakeCluster) Follow(instance string, namespaces ...string) (func(), error) {
	return func() {}, nil
}

type fakeAccess struct {
	cluster *fakeCluster
	token   string
}

func (a *fakeAccess) Kubeconfig() []byte { return []byte(a.token) }

func (a *fakeAccess) Close() {
	a.cluster.mu.Lock()
	late, create := a.cluster.late, a.cluster.kubeWorld.open[a.token]
	a.cluster.late = nil
	a.cluster.mu.Unlock()
	for _, run := range late {
		_ = create(run)
	}
	a.cluster.mu.Lock()
	defer a.cluster.mu.Unlock()
	delete(a.cluster.kubeWorld.open, a.token)
}

func (c *fakeCluster) Open(id kube.Identity, r kube.Recorder) (Access, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	token := fmt.Sprint("token-", c.seq)
	c.open[token] = func(run fakeRun) error { return c.create(run, id, r) }
	return &fakeAccess{c, token}, nil
}

// create does what the gateway does: the intent, the request, the record.
func (c *fakeCluster) create(run fakeRun, id kube.Identity, r kube.Recorder) error {
	run.Nonce, run.Namespace, run.attempt, run.of = kube.NewNonce(), "qa", id.Attempt, id.Deployment
	if err := r.Intend(run.PipelineRun); err != nil {
		return err
	}
	if !slices.ContainsFunc(c.disk(), func(known sentry.PipelineRun) bool { return known.Nonce == run.Nonce }) {
		c.wrong("a pipeline run is asked for before that is saved")
	}
	c.mu.Lock()
	if c.refuses {
		c.mu.Unlock()
		return errors.Join(errors.New("forbidden"), r.Dropped(run.Nonce))
	}
	c.seq++
	run.cluster = c.cluster
	run.UID, run.Name, run.APIVersion = fmt.Sprint("uid-", c.seq), fmt.Sprint("run-", c.seq), "tekton.dev/v1"
	run.ends = run.ends.Add(time.Duration(time.Now().UnixNano()))
	c.runs = append(c.runs, &run)
	c.mu.Unlock()
	err := r.Created(run.PipelineRun)
	if err == nil && !slices.ContainsFunc(c.disk(), func(known sentry.PipelineRun) bool { return known.UID == run.UID && known.Name == run.Name }) {
		c.wrong("the client hears of %s before it is saved", run.Name)
	}
	return err
}

func (c *fakeCluster) Create(ctx context.Context, manifests []kube.Manifest, id kube.Identity, params map[string]string, r kube.Recorder) error {
	for _, m := range manifests {
		if err := c.create(parseRun(string(m.Data)), id, r); err != nil {
			return err
		}
	}
	return nil
}

// find gives the run that is meant, or nil. The caller has the lock.
func (c *fakeCluster) find(run sentry.PipelineRun) *fakeRun {
	for _, r := range c.runs {
		if run.UID == r.UID || run.Intent() && run.Nonce == r.Nonce {
			return r
		}
	}
	return nil
}

// look gives the runs as they are, until done says that this is enough, ctx ends or the process is dead.
func (c *fakeCluster) look(ctx context.Context, runs []sentry.PipelineRun, each func(*fakeRun), gone sentry.Status, away func(string), progress func([]sentry.PipelineRun) error) ([]sentry.PipelineRun, error) {
	now := slices.Clone(runs)
	told := false
	for {
		select {
		case <-c.died:
			return now, errDead
		default:
		}
		c.mu.Lock()
		down := c.down
		c.mu.Unlock()
		if down != told {
			told = down
			away(map[bool]string{true: "the API server does not answer"}[down])
		}
		c.mu.Lock()
		open, changed := false, false
		for i, run := range now {
			if c.down || run.Status.Terminal() {
				open = open || c.down
				continue
			}
			if r := c.find(run); r != nil && r.cluster != c.cluster {
				now[i].Status, now[i].Reason = sentry.Interrupted, "it was created in another cluster"
			} else if r != nil && r.deleted {
				now[i].Name, now[i].UID = r.Name, r.UID
				now[i].Status, now[i].Reason = gone, "it was deleted"
			} else if r != nil {
				each(r)
				now[i] = r.now(c.kubeWorld)
			} else {
				now[i].Status = sentry.Skipped // it never was
			}
			changed = changed || now[i].Status != run.Status
			open = open || !now[i].Status.Terminal()
		}
		c.mu.Unlock()
		if changed && progress != nil {
			if err := progress(slices.Clone(now)); err != nil {
				return now, err
			}
		}
		if !open {
			return now, nil
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return now, context.Cause(ctx)
		case <-c.died:
			return now, errDead
		}
	}
}

func (c *fakeCluster) Track(ctx context.Context, runs []sentry.PipelineRun, o kube.TrackOptions) ([]sentry.PipelineRun, error) {
	fmt.Fprintln(o.Log, "tracking")
	return c.look(ctx, runs, func(*fakeRun) {}, sentry.Failed, o.Away, o.Progress)
}

func (c *fakeCluster) Cancel(ctx context.Context, runs []sentry.PipelineRun, o kube.CancelOptions) ([]sentry.PipelineRun, error) {
	return c.look(ctx, runs, func(r *fakeRun) {
		if !r.ended(c.kubeWorld) {
			r.canceled, r.asked = true, time.Now()
		}
	}, sentry.Canceled, o.Away, nil)
}

// parseRun reads "NAME STATUS SECONDS".
func parseRun(text string) (run fakeRun) {
	var took int
	var name string
	if _, err := fmt.Sscan(text, &name, &run.fate, &took); err != nil {
		panic(fmt.Sprintf("%q: %v", text, err))
	}
	run.ends = time.Unix(int64(took), 0)
	return run
}

// scripts are commands: "run NAME STATUS SECONDS; late NAME STATUS SECONDS; sleep SECONDS; exit CODE; fail-once". It writes down what begins.
type scripts struct {
	t       *testing.T
	world   *kubeWorld
	died    <-chan struct{}
	witness *scriptWitness
}

// scriptWitness outlives processes, and has its own lock.
type scriptWitness struct {
	mu     sync.Mutex
	starts []string // DEPLOYMENT/ATTEMPT
	wrong  []string
	failed map[string]bool // DEPLOYMENT/ATTEMPT of commands that exited with another code than 0
}

// exits notes how a command exited.
func (w *scriptWitness) exits(env map[string]string, code int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed == nil {
		w.failed = map[string]bool{}
	}
	w.failed[env["SENTRY_DEPLOYMENT_ID"]+"/"+env["SENTRY_ATTEMPT"]] = code != 0
}

func (s *scripts) Expect() {}

func (s *scripts) Run(ctx context.Context, spec command.Spec) (result command.Result) {
	result = command.Result{Outcome: command.NotStarted}
	if result.Err = spec.Begin(); result.Err != nil {
		return result
	}
	env := map[string]string{}
	for _, v := range spec.Env {
		key, value, _ := strings.Cut(v, "=")
		env[key] = value
	}
	tries := s.begins(env)
	defer func() {
		if result.Outcome == command.Exited {
			s.witness.exits(env, result.ExitCode)
		}
	}()
	result.Outcome = command.Exited
	_ = os.WriteFile(spec.Log, []byte("output\n"), 0o600)
	if spec.Copy != nil {
		_, _ = io.WriteString(spec.Copy, "output\n")
	}
	for line := range strings.SplitSeq(spec.Script, ";") {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "run":
			if s.create(env["KUBECONFIG"], parseRun(rest)) != nil {
				result.ExitCode = 1
				return result
			}
		case "late":
			s.world.mu.Lock()
			s.world.late = append(s.world.late, parseRun(rest))
			s.world.mu.Unlock()
		case "sleep":
			d, _ := time.ParseDuration(rest)
			select {
			case <-time.After(d):
			case <-ctx.Done():
				result.Outcome = command.Canceled
				return result
			case <-s.died:
				result.Outcome = command.Canceled
				return result
			}
		case "fail-once":
			if tries == 1 {
				result.ExitCode = 7
				return result
			}
		case "exit":
			fmt.Sscan(rest, &result.ExitCode)
			return result
		}
	}
	return result
}

func (s *scripts) create(file string, run fakeRun) error {
	token, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	s.world.mu.Lock()
	create := s.world.open[string(token)]
	s.world.mu.Unlock()
	if create == nil {
		return errors.New("unauthorized")
	}
	return create(run)
}

// begins judges the moment: nothing that an earlier attempt created may still run. It tells how often commands of the
// deployment have begun by now.
func (s *scripts) begins(env map[string]string) (times int) {
	id, attempt := env["SENTRY_DEPLOYMENT_ID"], env["SENTRY_ATTEMPT"]
	alive := s.world.alive(func(r *fakeRun) bool { return fmt.Sprint(r.attempt) == attempt || r.of != id })
	s.witness.mu.Lock()
	defer s.witness.mu.Unlock()
	s.witness.starts = append(s.witness.starts, id+"/"+attempt)
	for _, start := range s.witness.starts {
		if strings.HasPrefix(start, id+"/") {
			times++
		}
	}
	if len(alive) > 0 {
		s.witness.wrong = append(s.witness.wrong, fmt.Sprintf("attempt %s begins while %v runs", attempt, alive))
	}
	return times
}

// stage is a group of one repository, a cluster, and a line of processes.
type stage struct {
	t       *testing.T
	dir     string
	cfg     *config.Config
	state   *store.Store
	world   *kubeWorld
	witness *scriptWitness
	life    *life
	ran     chan error
	stop    context.CancelFunc
	copyLog func(name string) io.WriteCloser // nil for nobody
	log     bytes.Buffer                     // what the services tell
	logger  *slog.Logger                     // into log: one for all lives
}

func newStage(t *testing.T, policy sentry.Policy, commands ...config.Command) *stage {
	t.Helper()
	s := &stage{
		t: t, dir: t.TempDir(), state: openMemory(t), cfg: &config.Config{},
		world: &kubeWorld{open: map[string]func(fakeRun) error{}}, witness: &scriptWitness{},
	}
	s.logger = slog.New(slog.NewTextHandler(&s.log, nil))
	for i := range commands {
		commands[i].Name, commands[i].Timeout = fmt.Sprint("c", i+1), time.Hour
	}
	a := member(t, "a", "g", "main")
	a.Deploy.ProjectName, a.Deploy.Track, a.Deploy.Commands = "project", config.TrackAuto, commands
	s.cfg.Global.Grace, s.cfg.Global.Cleanup = time.Second, true
	s.cfg.Groups = []config.Group{{Name: "g", Policy: policy}}
	s.cfg.Repositories = []config.Repository{a}
	return s
}

func (s *stage) repo() *config.Repository { return &s.cfg.Repositories[0] }

// begin starts a process; it dies at the dieAfter-th write, before it (lose) or right after it. 0 is never.
func (s *stage) begin(dieAfter int, lose bool) {
	s.t.Helper()
	st, err := s.state.Successor()
	if err != nil {
		s.t.Fatal(err)
	}
	l := &life{Store: st, died: make(chan struct{}), dieAfter: dieAfter, lose: lose}
	local := &Local{
		Root: filepath.Join(s.dir, "workspaces"), LogsDir: filepath.Join(s.dir, "logs"), Sources: &trees{},
		Commands: &scripts{s.t, s.world, l.died, s.witness}, Mask: logger.NewMasker(), Log: slog.New(slog.DiscardHandler),
		Instance: "instance", CopyLog: s.copyLog,
		Clusters: &fakeCluster{kubeWorld: s.world, died: l.died, wrong: s.t.Errorf, disk: func() []sentry.PipelineRun {
			r, err := st.Rollout(context.Background(), theOnly(s.t, st).ID)
			if err != nil {
				s.t.Error(err)
				return nil
			}
			return r.Deployments[0].PipelineRuns
		}},
	}
	l.service = New(Options{
		Store: l, Executor: local, Log: s.logger, Config: func() *config.Config { return s.cfg },
	})
	ctx, cancel := context.WithCancel(context.Background())
	s.life, s.ran, s.stop = l, make(chan error, 1), cancel
	ran := s.ran
	go func() { ran <- l.service.Run(ctx) }()
}

// change makes a rollout wait.
func (s *stage) change() {
	s.t.Helper()
	for n := range 2 { // the baseline, and a change
		_, err := s.life.Store.RecordChanges(s.t.Context(), []store.Observation{{
			Watch: sentry.Watch{Repository: "a", Branch: "main"}, Revision: sentry.Revision{Commit: commit(fmt.Sprint("a", n))}, Group: "g",
		}})
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// rollout gives the only one.
func (s *stage) rollout() sentry.Rollout {
	s.t.Helper()
	r := theOnly(s.t, s.life.Store)
	full, err := s.life.Store.Rollout(s.t.Context(), r.ID)
	if err != nil {
		s.t.Fatal(err)
	}
	return full
}

// until lets time pass until something is so, at most an hour. A process that dies meanwhile is followed by one that
// does not, where revive is set.
func (s *stage) until(revive bool, so func() bool) (deaths int) {
	s.t.Helper()
	for range 3600 {
		synctest.Wait()
		s.life.mu.Lock()
		dead := s.life.dead
		s.life.mu.Unlock()
		if dead && revive {
			deaths++
			s.end()
			s.begin(0, false)
			continue
		}
		if so() {
			return deaths
		}
		time.Sleep(time.Second)
	}
	s.t.Errorf("it is not so after an hour: %+v", s.rollout())
	return deaths
}

// end ends the process as SIGTERM does, or what is left of a dead one.
func (s *stage) end() {
	s.t.Helper()
	s.stop()
	if err := <-s.ran; err != nil && !errors.Is(err, errDead) {
		s.t.Errorf("the service ended: %v", err)
	}
	if err := s.life.Store.Close(); err != nil {
		s.t.Error(err)
	}
}

func (s *stage) ended() bool { return s.rollout().Status.Terminal() }

// play carries the change out, with a death at a write, and gives the rollout in the end.
func (s *stage) play(dieAfter int, lose bool) (r sentry.Rollout, deaths int) {
	s.t.Helper()
	s.begin(dieAfter, lose)
	s.change()
	deaths = s.until(true, s.ended)
	r = s.rollout()
	s.end()
	return r, deaths
}

var retryPolicy = sentry.Policy{Strategy: sentry.Parallel, MaxParallel: 1, ContinueOnError: true, OnInterrupt: sentry.Retry, Timeout: sentry.Duration(30 * time.Minute)}

// TestPipelineRunsDecide tells what a deployment ends as, and why.
func TestPipelineRunsDecide(t *testing.T) {
	cases := []struct {
		name     string
		commands []config.Command
		repo     func(*config.Repository)
		world    func(*kubeWorld)
		status   sentry.Status
		reason   string
		steps    string
		runs     string
	}{
		{"none", []config.Command{{Run: "exit 0"}}, nil, nil, sentry.Succeeded, "1 command succeeded", "clone c1", ""},
		{"good", []config.Command{{Run: "run a succeeded 60"}, {Run: "run b succeeded 5"}}, nil, nil, sentry.Succeeded, "2 commands succeeded, 2 pipeline runs succeeded", "clone c1 c2 track", "succeeded succeeded"},
		{"bad", []config.Command{{Run: "run a succeeded 60; run b failed 5"}}, nil, nil, sentry.Failed, "pipeline run qa/run-3 failed: task unit: exit code 3 (Fate)", "clone c1 track:failed", "succeeded failed"},
		{"worst", []config.Command{{Run: "run a failed 1; run b timed_out 5; run c canceled 1"}}, nil, nil, sentry.TimedOut, "pipeline run qa/run-3 timed out (Fate)", "clone c1 track:timed_out", "failed timed_out canceled"},
		{"canceled elsewhere", []config.Command{{Run: "run a succeeded 1; run b canceled 1"}}, nil, nil, sentry.Canceled, "pipeline run qa/run-3 canceled (Fate)", "clone c1 track:canceled", "succeeded canceled"},
		{"the command fails", []config.Command{{Run: "run a succeeded 600; exit 3"}}, nil, nil, sentry.Failed, "c1 exited with 3", "clone c1:failed cancel", "canceled"},
		{"tried again", []config.Command{{Run: "run a failed 600; fail-once", Retries: 2}}, func(r *config.Repository) {}, nil, sentry.Failed, "pipeline run qa/run-4 failed: task unit: exit code 3 (Fate)", "clone c1 track:failed", "canceled failed"},
		{"a try that failed does not count", []config.Command{{Run: "run a failed 0; sleep 1s; fail-once; run b succeeded 3", Retries: 1}, {Run: "exit 0"}}, func(r *config.Repository) {}, nil, sentry.Failed, "pipeline run qa/run-4 failed: task unit: exit code 3 (Fate)", "clone c1 c2 track:failed", "failed failed succeeded"},
		{"a request that outlives its try", []config.Command{{Run: "late a succeeded 60; fail-once", Retries: 1}}, nil, nil, sentry.Succeeded, "1 command succeeded, 1 pipeline run succeeded", "clone c1 track", "canceled succeeded"},
		{"one more that outlives its try", []config.Command{{Run: "run a succeeded 60; late b succeeded 60; fail-once", Retries: 1}}, nil, nil, sentry.Succeeded, "1 command succeeded, 2 pipeline runs succeeded", "clone c1 track", "canceled canceled succeeded succeeded"},
		{"refused", []config.Command{{Run: "run a succeeded 600"}}, nil, func(w *kubeWorld) { w.refuses = true }, sentry.Failed, "c1 exited with 1", "clone c1:failed", ""},
		{"off", []config.Command{{Run: "run a failed 600"}}, func(r *config.Repository) { r.Deploy.Track = config.TrackOff }, nil, sentry.Succeeded, "1 command succeeded", "clone c1", "pending"},
		{"a kubeconfig of its own", []config.Command{{Run: "run a failed 600"}}, func(r *config.Repository) {
			r.Deploy.Env = []config.EnvVar{{Name: "KUBECONFIG", Value: sentry.NewSecret("/nowhere")}}
		}, nil, sentry.Failed, "c1 exited with 1", "clone c1:failed", ""},
		{"the deployment's timeout", []config.Command{{Run: "run a succeeded 600"}}, func(r *config.Repository) { r.Deploy.Timeout = time.Minute }, nil, sentry.TimedOut, "the deployment's timeout is over, while pipeline run qa/run-2 went on", "clone c1 track:timed_out cancel", "canceled"},
		{"the group's timeout", []config.Command{{Run: "run a succeeded 3600"}}, nil, nil, sentry.TimedOut, "the group's global_timeout is over (30m0s), while pipeline run qa/run-2 went on", "clone c1 track:timed_out cancel", "canceled"},
		{"it cannot be canceled", []config.Command{{Run: "run a succeeded 600; exit 3"}}, nil, func(w *kubeWorld) { w.stuck = true }, sentry.Failed, "c1 exited with 3; pipeline run qa/run-2 may still run: the cluster did not do it within 2m0s", "clone c1:failed cancel:failed", "interrupted"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, retryPolicy, slices.Clone(c.commands)...)
				if c.repo != nil {
					c.repo(s.repo())
				}
				if c.world != nil {
					c.world(s.world)
				}
				r, _ := s.play(0, false)
				d := r.Deployments[0]
				if d.Status != c.status || d.Reason != c.reason {
					t.Errorf("it ended as %s: %s\nwant %s: %s", d.Status, d.Reason, c.status, c.reason)
				}
				if got := stepsText(d.Steps); got != c.steps {
					t.Errorf("steps %s\nwant %s", got, c.steps)
				}
				var runs []string
				for _, run := range d.PipelineRuns {
					runs = append(runs, string(run.Status))
					if run.Attempt != 1 {
						t.Errorf("a run of attempt %d", run.Attempt)
					}
				}
				if got := strings.Join(runs, " "); got != c.runs {
					t.Errorf("runs %s\nwant %s", got, c.runs)
				}
				if n := len(s.world.open); n > 0 {
					t.Errorf("%d tokens are left", n)
				}
			})
		})
	}
}

func stepsText(steps []sentry.Step) string {
	var names []string
	for _, step := range steps {
		name := step.Name
		if step.Status != sentry.Succeeded {
			name += ":" + string(step.Status)
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

// TestPipelineRunsSurviveDeath ends the process at each of its writes, before and after it, and judges by what the
// cluster and the commands saw.
func TestPipelineRunsSurviveDeath(t *testing.T) {
	hold := retryPolicy
	hold.OnInterrupt = sentry.Hold
	for _, c := range []struct {
		name     string
		policy   sentry.Policy
		commands []config.Command
		status   sentry.Status
	}{
		{"good", retryPolicy, []config.Command{{Run: "run a succeeded 60; sleep 1s"}, {Run: "run b succeeded 5"}}, sentry.Succeeded},
		{"bad", retryPolicy, []config.Command{{Run: "run a failed 60"}}, sentry.Failed},
		{"the command fails", retryPolicy, []config.Command{{Run: "run a succeeded 600; sleep 1s; exit 3"}}, sentry.Failed},
		{"hold", hold, []config.Command{{Run: "run a succeeded 60"}}, ""},
		{"timeout", retryPolicy, []config.Command{{Run: "run a succeeded 7200"}}, sentry.TimedOut},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, lose := range []bool{false, true} {
				for n := 1; ; n++ {
					died := false
					if !t.Run(fmt.Sprintf("write %d lose %v", n, lose), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) { died = judgeDeath(t, c.policy, c.commands, c.status, n, lose) })
					}) || !died {
						break
					}
				}
			}
		})
	}
}

// TestCancelWhileEarlierRunsEnd: whoever cancels while a new attempt waits for what the earlier one left means that, too.
func TestCancelWhileEarlierRunsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, retryPolicy, config.Command{Run: "run a succeeded 600; sleep 300s"})
		s.begin(0, false)
		s.change()
		s.until(false, func() bool { return len(s.world.alive(func(*fakeRun) bool { return false })) == 1 })
		s.life.mu.Lock()
		s.life.die()
		s.life.mu.Unlock()
		s.world.mu.Lock()
		s.world.down = true
		s.world.mu.Unlock()
		s.until(true, func() bool {
			steps := s.rollout().Deployments[0].Steps
			return len(steps) > 0 && steps[len(steps)-1].Name == cancelStep
		})
		if _, err := s.life.service.Cancel(t.Context(), s.rollout().ID, "ada", ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		s.world.mu.Lock()
		s.world.down = false
		s.world.mu.Unlock()
		s.until(false, s.ended)
		r := s.rollout()
		if r.Status != sentry.Canceled || r.Deployments[0].PipelineRuns[0].Status != sentry.Canceled {
			t.Errorf("it ended as %s: %s, %+v", r.Status, r.Reason, r.Deployments[0].PipelineRuns)
		}
		if n := len(s.witness.starts); n != 1 {
			t.Errorf("the command began %d times", n)
		}
		s.end()
	})
}

// TestServerAwayHoldsUpItsOwn: while the API server is away a rollout that needs it waits, and the service has begun; with
// hold it ends in the end, when the cluster is asked in vain for as long as the group's timeout.
func TestServerAwayHoldsUpItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := retryPolicy
		hold.OnInterrupt = sentry.Hold
		s := newStage(t, hold, config.Command{Run: "run a succeeded 600; sleep 300s"})
		s.begin(0, false)
		s.change()
		s.until(false, func() bool { return len(s.world.alive(func(*fakeRun) bool { return false })) == 1 })
		s.life.mu.Lock()
		s.life.die()
		s.life.mu.Unlock()
		s.world.mu.Lock()
		s.world.down = true
		s.world.mu.Unlock()
		s.until(true, func() bool { return true })
		time.Sleep(10 * time.Minute)
		if r := s.rollout(); r.Status != sentry.Running {
			t.Errorf("the server is away, and it is %s: %s", r.Status, r.Reason)
		}
		time.Sleep(25 * time.Minute)
		r := s.rollout()
		if d := r.Deployments[0]; r.Status != sentry.Interrupted || d.PipelineRuns[0].Status != sentry.Interrupted || !strings.Contains(d.Reason, "pipeline run qa/run-2 may still run") {
			t.Errorf("it ended as %s: %s: %s, %+v", r.Status, r.Reason, d.Reason, d.PipelineRuns)
		}
		s.end()
	})
}

// TestACancellationShortensTheWait: who cancels a rollout that only waits for a cluster which is away waits for minutes, not
// for as long as the group's timeout; neither does the group where that was before Sentry died.
func TestACancellationShortensTheWait(t *testing.T) {
	for _, before := range []bool{false, true} {
		t.Run(fmt.Sprintf("before the death %v", before), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hold := retryPolicy
				hold.OnInterrupt = sentry.Hold
				s := newStage(t, hold, config.Command{Run: "run a succeeded 6000; sleep 300s"})
				s.begin(0, false)
				s.change()
				s.until(false, func() bool { return len(s.world.alive(func(*fakeRun) bool { return false })) == 1 })
				s.away(true)
				cancel := func() {
					if _, err := s.life.service.Cancel(t.Context(), s.rollout().ID, "ada", ""); err != nil {
						t.Fatal(err)
					}
				}
				if before {
					cancel()
				}
				s.life.mu.Lock()
				s.life.die()
				s.life.mu.Unlock()
				s.until(true, func() bool { return true })
				time.Sleep(time.Minute)
				if !before {
					cancel()
				}
				time.Sleep(3 * time.Minute)
				r := s.rollout()
				if d := r.Deployments[0]; !r.Status.Terminal() || !strings.Contains(d.Reason, "may still run: the cluster did not do it within 2m0s") {
					t.Errorf("it is %s: %s: %s", r.Status, r.Reason, d.Reason)
				}
				s.away(false)
				s.until(false, s.ended)
				s.end()
			})
		})
	}
}

// TestNobodyForgetsWhatARepositoryThatIsGoneLeft: a deployment whose repository is no longer configured waits for what it
// left in the cluster; neither a stop nor a cancellation meanwhile makes that nobody's.
func TestNobodyForgetsWhatARepositoryThatIsGoneLeft(t *testing.T) {
	for _, c := range []struct {
		name    string
		meant   func(*stage)
		status  sentry.Status
		attempt int
	}{
		{"stopped", func(s *stage) { s.end(); s.begin(0, false) }, sentry.Failed, 3},
		{"canceled", func(s *stage) {
			if _, err := s.life.service.Cancel(s.t.Context(), s.rollout().ID, "ada", ""); err != nil {
				s.t.Fatal(err)
			}
		}, sentry.Canceled, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, retryPolicy, config.Command{Run: "run a succeeded 6000; sleep 300s"})
				s.begin(0, false)
				s.change()
				s.until(false, func() bool { return len(s.world.alive(func(*fakeRun) bool { return false })) == 1 })
				s.life.mu.Lock()
				s.life.die()
				s.life.mu.Unlock()
				s.away(true)
				<-s.ran
				s.ran <- nil
				s.cfg = &config.Config{Global: s.cfg.Global, Groups: s.cfg.Groups}
				s.until(true, func() bool {
					steps := s.rollout().Deployments[0].Steps
					return len(steps) > 0 && steps[len(steps)-1].Name == cancelStep
				})
				c.meant(s)
				time.Sleep(20 * time.Second)
				s.away(false)
				s.until(false, s.ended)
				r := s.rollout()
				d := r.Deployments[0]
				if r.Status != c.status || d.Status != c.status || d.Attempt != c.attempt || d.PipelineRuns[0].Status != sentry.Canceled {
					t.Errorf("it ended as %s: %s, attempt %d, %+v", r.Status, r.Reason, d.Attempt, d.PipelineRuns)
				}
				s.end()
			})
		})
	}
}

// away has the API server not answer, or answer again.
func (s *stage) away(down bool) {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	s.world.down = down
}

// judgeDeath plays one death, and reports whether there was one.
func judgeDeath(t *testing.T, policy sentry.Policy, commands []config.Command, want sentry.Status, n int, lose bool) bool {
	s := newStage(t, policy, slices.Clone(commands)...)
	s.begin(n, lose)
	s.change()
	tracked, starts := false, 0
	deaths := s.until(false, func() bool {
		s.life.mu.Lock()
		defer s.life.mu.Unlock()
		return s.life.dead || s.ended()
	})
	if !s.ended() {
		deaths = 1
		d := s.rollout().Deployments
		if len(d) > 0 && len(d[0].Steps) > 0 {
			last := d[0].Steps[len(d[0].Steps)-1]
			tracked = last.Kind == sentry.StepTrack && last.Name == "track" && last.Status == sentry.Running
		}
		starts = len(s.witness.starts)
	}
	s.until(true, s.ended)
	r := s.rollout()
	d := r.Deployments[0]
	if alive := s.world.alive(func(*fakeRun) bool { return false }); len(alive) > 0 {
		t.Errorf("the rollout has ended as %s (%s), and %v runs", r.Status, r.Reason, alive)
	}
	for _, run := range s.world.runs {
		if !slices.ContainsFunc(d.PipelineRuns, func(known sentry.PipelineRun) bool { return known.UID == run.UID && known.Status.Terminal() }) {
			t.Errorf("%s is forgotten: %+v", run.Name, d.PipelineRuns)
		}
	}
	if len(d.PipelineRuns) != len(s.world.runs) {
		t.Errorf("%d pipeline runs are known, there were %d", len(d.PipelineRuns), len(s.world.runs))
	}
	if tracked && len(s.witness.starts) != starts {
		t.Errorf("commands ran again although they had ended: %v", s.witness.starts)
	}
	for _, wrong := range s.witness.wrong {
		t.Error(wrong)
	}
	if want != "" && r.Status != want {
		t.Errorf("it ended as %s (%s), want %s", r.Status, r.Reason, want)
	}
	if want == "" && deaths == 0 && r.Status == sentry.Interrupted {
		t.Errorf("nobody died, and it is interrupted")
	}
	if policy.OnInterrupt == sentry.Hold && tracked && r.Status != sentry.Succeeded {
		t.Errorf("it was followed, and ended as %s (%s)", r.Status, r.Reason)
	}
	broken, err := s.life.Store.Check(t.Context())
	if err != nil || len(broken) > 0 {
		t.Errorf("the state: %v %v", broken, err)
	}
	s.end()
	return deaths > 0
}
