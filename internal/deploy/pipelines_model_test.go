package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"sentry/internal/config"
	"sentry/internal/git"
	"sentry/internal/logger"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// TestModelOfPipelineRuns plays random histories of commands that create pipeline runs (which end, fail, are deleted, in a
// cluster that is away, stuck, missing or another one) with kills at every save, stops and cancellations, against the real
// service, executor and store, and judges them by what the cluster and the commands saw.
func TestModelOfPipelineRuns(t *testing.T) {
	modelSequences(t, "100")
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		h := drawPipelines(rt)
		n++
		var wrong []string
		synctest.Test(t, func(t *testing.T) { wrong = h.play(t, filepath.Join(dir, fmt.Sprint(n))) })
		if err := os.RemoveAll(filepath.Join(dir, fmt.Sprint(n))); err != nil {
			rt.Fatal(err)
		}
		if len(wrong) > 0 {
			rt.Fatalf("%s\n\n%s", strings.Join(wrong, "\n"), h)
		}
	})
}

// pipelines is everything that is random, drawn before the bubble begins.
type pipelines struct {
	policy   sentry.Policy
	timeouts []time.Duration    // by member
	commands [][]config.Command // by member
	events   []event
}

func drawPipelines(rt *rapid.T) *pipelines {
	seconds := func(name string, of ...int) time.Duration {
		return time.Duration(rapid.SampledFrom(of).Draw(rt, name)) * time.Second
	}
	h := &pipelines{policy: sentry.Policy{
		Strategy:        rapid.SampledFrom([]sentry.Strategy{sentry.Parallel, sentry.Sequential}).Draw(rt, "strategy"),
		MaxParallel:     2,
		ContinueOnError: rapid.Bool().Draw(rt, "continue"),
		Timeout:         sentry.Duration(seconds("timeout", 0, 30, 1200)),
		OnInterrupt:     rapid.SampledFrom([]sentry.OnInterrupt{sentry.Retry, sentry.Retry, sentry.Hold}).Draw(rt, "interrupt"),
	}}
	for range rapid.IntRange(1, 2).Draw(rt, "members") {
		var commands []config.Command
		for i := range rapid.IntRange(1, 2).Draw(rt, "commands") {
			var words []string
			for range rapid.IntRange(0, 2).Draw(rt, "runs") {
				fate := rapid.SampledFrom([]string{"succeeded", "succeeded", "succeeded", "failed", "timed_out"}).Draw(rt, "fate")
				words = append(words, fmt.Sprintf("run r %s %d", fate, rapid.IntRange(0, 40).Draw(rt, "took")))
			}
			words = append(words, fmt.Sprintf("sleep %ds", rapid.IntRange(0, 10).Draw(rt, "sleep")))
			if end := rapid.SampledFrom([]string{"", "", "", "exit 3", "fail-once"}).Draw(rt, "end"); end != "" {
				words = append(words, end)
			}
			commands = append(commands, config.Command{
				Name: fmt.Sprint("c", i+1), Timeout: time.Hour, Run: strings.Join(words, "; "), Retries: rapid.IntRange(0, 1).Draw(rt, "retries"),
			})
		}
		h.commands = append(h.commands, commands)
		h.timeouts = append(h.timeouts, seconds("member's timeout", 0, 0, 20))
	}
	kinds := []string{
		"push", "push", "crash", "crash", "crash", "lose", "lose", "drain", "drain", "down", "up", "up", "missing", "there", "stuck", "loose",
		"delete", "cancel", "move",
	}
	for range rapid.IntRange(1, 20).Draw(rt, "events") {
		h.events = append(h.events, event{
			after: time.Duration(rapid.IntRange(0, 15000).Draw(rt, "after")) * time.Millisecond,
			what:  rapid.SampledFrom(kinds).Draw(rt, "what"),
			which: rapid.IntRange(0, 7).Draw(rt, "which"),
		})
	}
	return h
}

func (h *pipelines) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%+v\n", h.policy)
	for i, commands := range h.commands {
		fmt.Fprintf(&b, "member %d, timeout %s\n", i, h.timeouts[i])
		for _, c := range commands {
			fmt.Fprintf(&b, "  %s (retries %d)\n", c.Run, c.Retries)
		}
	}
	for _, e := range h.events {
		fmt.Fprintf(&b, "after %s %s %d\n", e.after, e.what, e.which)
	}
	return b.String()
}

// seabed is where a history of pipeline runs is played. The driver goroutine owns it; world and witness have locks.
type seabed struct {
	*pipelines
	t        *testing.T
	dir      string
	cfg      *config.Config
	state    *store.Store
	life     *life
	world    *kubeWorld
	witness  *scriptWitness
	heads    []int
	deaths   int
	hampered bool           // the cluster was not what it should be
	moved    bool           // the configuration named another cluster
	decided  map[string]int // by deployment, the attempt whose commands had ended for good
	wrong    []string
}

func (s *seabed) say(format string, args ...any) {
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
}

func (h *pipelines) play(t *testing.T, dir string) []string {
	s := &seabed{
		pipelines: h, t: t, dir: dir, cfg: &config.Config{}, state: openMemory(t), decided: map[string]int{},
		world: &kubeWorld{open: map[string]func(fakeRun) error{}}, witness: &scriptWitness{},
	}
	s.cfg.Global.Grace, s.cfg.Global.Cleanup = time.Second, true
	s.cfg.Groups = []config.Group{{Name: "g", Policy: h.policy}}
	for i, commands := range h.commands {
		m := member(t, string(rune('a'+i)), "g", "main")
		m.Deploy.Track, m.Deploy.Commands, m.Deploy.Timeout = config.TrackAuto, commands, h.timeouts[i]
		s.cfg.Repositories = append(s.cfg.Repositories, m)
		s.heads = append(s.heads, 0)
	}
	s.begin()
	for i := range h.commands { // the baselines, and a change of each
		s.push(i)
		s.push(i)
	}
	for _, e := range h.events {
		for end := time.Now().Add(e.after); time.Now().Before(end); time.Sleep(min(time.Second, time.Until(end))) {
			s.revive()
		}
		s.revive()
		s.do(e)
	}
	s.world.mu.Lock()
	s.world.down, s.world.missing, s.world.stuck = false, nil, false
	s.world.mu.Unlock()
	for range 3600 {
		s.revive()
		s.life.service.Wake()
		if all := s.rollouts(sentry.Pending, sentry.Running); len(all) == 0 {
			break
		}
		time.Sleep(time.Second)
	}
	s.judge()
	s.life.stop()
	<-s.life.done
	s.must(s.life.Store.Close())
	return s.wrong
}

func (s *seabed) must(err error) {
	if err != nil {
		s.t.Error(err)
	}
}

// treesOnly makes workspaces with nothing in them.
type treesOnly struct{}

func (treesOnly) Ask(git.Want) {}

func (treesOnly) Workspace(_ context.Context, _ git.Want, dir string, _ io.Writer) (string, error) {
	for _, folder := range []string{treeDir, homeDir, tmpDir} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o700); err != nil {
			return "", err
		}
	}
	return commit("9a"), nil
}

// begin starts a life.
func (s *seabed) begin() {
	st, err := s.state.Successor()
	if err != nil {
		s.t.Fatal(err)
	}
	l := &life{Store: st, died: make(chan struct{}), done: make(chan struct{})}
	local := &Local{
		Root: filepath.Join(s.dir, "workspaces"), LogsDir: filepath.Join(s.dir, "logs"), Sources: treesOnly{},
		Commands: &scripts{s.t, s.world, l.died, s.witness}, Mask: logger.NewMasker(), Log: slog.New(slog.DiscardHandler),
		Instance: "instance", Clusters: &fakeCluster{kubeWorld: s.world, died: l.died, wrong: s.t.Errorf, disk: func() []sentry.PipelineRun {
			var runs []sentry.PipelineRun
			for _, r := range rolloutsOf(s.t, st) {
				for _, d := range r.Deployments {
					runs = append(runs, d.PipelineRuns...)
				}
			}
			return runs
		}},
	}
	if err := local.Sweep(); err != nil {
		s.t.Error(err)
	}
	l.service = New(Options{Store: l, Executor: local, Log: slog.New(slog.DiscardHandler), Config: func() *config.Config { return s.cfg }})
	ctx, cancel := context.WithCancel(context.Background())
	l.stop, s.life = cancel, l
	go func() {
		defer close(l.done)
		if err := l.service.Run(ctx); err != nil && !errors.Is(err, errDead) {
			s.t.Errorf("the service ended: %v", err)
		}
	}()
}

// rolloutsOf gives all rollouts with what is in them.
func rolloutsOf(t *testing.T, st *store.Store, status ...sentry.Status) []sentry.Rollout {
	listed, err := st.Rollouts(context.Background(), store.Filter{Status: status, Limit: 1000})
	if err != nil {
		t.Error(err)
	}
	for i, r := range listed {
		if listed[i], err = st.Rollout(context.Background(), r.ID); err != nil {
			t.Error(err)
		}
	}
	return listed
}

func (s *seabed) rollouts(status ...sentry.Status) []sentry.Rollout {
	return rolloutsOf(s.t, s.life.Store, status...)
}

// revive begins a new life where the present one is dead, when it is noted what had been decided.
func (s *seabed) revive() {
	for {
		synctest.Wait()
		l := s.life
		l.mu.Lock()
		dead := l.dead
		l.mu.Unlock()
		if !dead {
			return
		}
		s.deaths++
		l.stop()
		<-l.done
		for _, r := range s.rollouts(sentry.Running) {
			for _, d := range r.Deployments {
				if resumable(d) {
					s.decided[d.ID] = d.Attempt
				}
			}
		}
		s.world.mu.Lock()
		clear(s.world.open) // the tokens of the dead
		s.world.mu.Unlock()
		s.must(l.Store.Close())
		s.begin()
	}
}

func (s *seabed) push(i int) {
	s.heads[i]++
	_, err := s.life.Store.RecordChanges(s.t.Context(), []store.Observation{{
		Watch:    sentry.Watch{Repository: string(rune('a' + i)), Branch: "main"},
		Revision: sentry.Revision{Commit: fmt.Sprintf("%x%039d", 10+i, s.heads[i])}, Group: "g", Queue: sentry.Latest,
	}})
	s.must(err)
}

func (s *seabed) do(e event) {
	s.world.mu.Lock()
	switch e.what {
	case "down":
		s.world.down, s.hampered = true, true
	case "missing":
		s.world.missing, s.hampered = errors.New("the kubeconfig cannot be read"), true
	case "stuck":
		if !s.world.stuck {
			s.world.stuck, s.world.since, s.hampered = true, time.Now(), true
		}
	case "up":
		s.world.down = false
	case "there":
		s.world.missing = nil
	case "loose":
		s.world.stuck = false
	case "move":
		s.world.cluster, s.hampered, s.moved = 1-s.world.cluster, true, true
	case "delete":
		open := slices.DeleteFunc(slices.Clone(s.world.runs), func(r *fakeRun) bool { return r.ended(s.world) })
		if len(open) > 0 {
			open[e.which%len(open)].deleted = true
		}
	}
	s.world.mu.Unlock()
	switch e.what {
	case "push":
		s.push(e.which % len(s.commands))
	case "cancel":
		for _, r := range s.rollouts(sentry.Pending, sentry.Running) {
			if _, err := s.life.service.Cancel(s.t.Context(), r.ID, "somebody", ""); err != nil && !errors.Is(err, store.ErrFinal) && !errors.Is(err, errDead) {
				s.t.Errorf("cancel: %v", err)
			}
		}
	case "crash", "lose":
		s.life.mu.Lock()
		s.life.dieAfter, s.life.lose = e.which+1, e.what == "lose"
		s.life.mu.Unlock()
	case "drain":
		before := time.Now()
		s.life.stop()
		<-s.life.done
		if took := time.Since(before); took > s.cfg.Global.Grace+stopPatience+5*time.Second {
			s.say("to stop took %s", took)
		}
		s.life.mu.Lock()
		s.life.die()
		s.life.mu.Unlock()
		s.revive()
	}
	s.life.service.Wake()
}

// judge holds the state against what the world and the commands saw.
func (s *seabed) judge() {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	s.witness.mu.Lock()
	defer s.witness.mu.Unlock()
	s.wrong = append(s.wrong, s.witness.wrong...)
	recorded := map[string]sentry.PipelineRun{}
	for _, r := range s.rollouts() {
		if !r.Status.Terminal() {
			s.say("rollout %s never ended: %s", r.ID, r.Status)
			continue
		}
		if r.Interruptions > s.deaths {
			s.say("rollout %s was interrupted %d times by %d deaths", r.ID, r.Interruptions, s.deaths)
		}
		for _, d := range r.Deployments {
			for _, run := range d.PipelineRuns {
				unknown := run.Status == sentry.Interrupted && s.hampered
				if run.Intent() && !unknown || !run.Status.Terminal() {
					s.say("%s has ended, and its pipeline run %q is %s", d.ID, run.Name, run.Status)
				}
				recorded[run.Nonce] = run
			}
			s.judgeVerdict(r, d)
		}
	}
	for _, run := range s.world.runs {
		known, ok := recorded[run.Nonce]
		switch {
		case !ok:
			s.say("%s of %s is forgotten", run.Name, run.of)
		case !run.ended(s.world) && known.Status != sentry.Interrupted:
			s.say("%s of %s goes on, and is recorded as %s: %s", run.Name, run.of, known.Status, known.Reason)
		case !truthful(run, known.Status) && !(known.Status == sentry.Interrupted && s.hampered):
			s.say("%s of %s is recorded as %s (%s); fate %s, canceled %v, deleted %v", run.Name, run.of, known.Status, known.Reason, run.fate, run.canceled, run.deleted)
		}
		delete(recorded, run.Nonce)
	}
	for _, run := range recorded {
		if !run.Intent() {
			s.say("%s (%s) never was", run.Name, run.UID)
		}
	}
	for _, start := range s.witness.starts {
		id, attempt, _ := strings.Cut(start, "/")
		if ended, was := s.decided[id]; was && attempt > fmt.Sprint(ended) {
			s.say("commands of %s ran as attempt %s; those of attempt %d had ended", id, attempt, ended)
		}
	}
	broken, err := s.life.Store.Check(s.t.Context())
	s.must(err)
	s.wrong = append(s.wrong, broken...)
	if n := len(s.world.open); n > 0 {
		s.say("%d tokens are left", n)
	}
}

// truthful reports whether a run ended as it is recorded.
func truthful(run *fakeRun, status sentry.Status) bool {
	switch status {
	case sentry.Canceled:
		return run.canceled || run.deleted
	case sentry.Failed:
		return run.deleted || run.fate == sentry.Failed && !run.canceled
	}
	return run.fate == status && !run.canceled && !run.deleted
}

// judgeVerdict checks the verdict of a deployment against its pipeline runs and commands.
func (s *seabed) judgeVerdict(r sentry.Rollout, d sentry.Deployment) {
	count := map[sentry.Status]int{}
	for _, run := range d.PipelineRuns {
		if run.Attempt == d.Attempt && !run.Superseded {
			count[run.Status]++
		}
	}
	failed := s.witness.failed[fmt.Sprintf("%s/%d", d.ID, d.Attempt)]
	timeout := s.policy.Timeout > 0 || slices.Max(s.timeouts) > 0
	right := true
	switch d.Status {
	case sentry.Succeeded:
		right = count[sentry.Succeeded] == len(d.PipelineRuns)-s.others(d) && !failed
	case sentry.Failed:
		right = count[sentry.Failed] > 0 || failed || strings.Contains(d.Reason, "cannot give the commands access")
	case sentry.TimedOut:
		right = count[sentry.TimedOut] > 0 || timeout
	case sentry.Canceled:
		right = r.CanceledBy != ""
	case sentry.Interrupted:
		right = s.policy.OnInterrupt == sentry.Hold || r.Interruptions > sentry.MaxInterruptions || s.moved ||
			d.Attempt > 0 && s.deaths > 0 && (timeout || !s.policy.ContinueOnError)
	}
	if !right {
		s.say("%s is %s (%s), commands failed %v, its pipeline runs %v; canceled by %q, %d interruptions", d.ID, d.Status, d.Reason, failed, count, r.CanceledBy, r.Interruptions)
	}
}

// others counts the runs that do not matter for the verdict.
func (s *seabed) others(d sentry.Deployment) (n int) {
	for _, run := range d.PipelineRuns {
		if run.Attempt != d.Attempt || run.Superseded {
			n++
		}
	}
	return n
}
