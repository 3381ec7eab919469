package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sentry/internal/command"
	"sentry/internal/config"
	"sentry/internal/git"
	"sentry/internal/git/gittest"
	"sentry/internal/logger"
	"sentry/internal/sentry"
	"sentry/internal/sentry/sentrytest"
)

func TestMain(m *testing.M) { sentrytest.Main(m) }

// What a contract has to hide.
const contractSecret = "xyzzy-plugh-12345"

// troupe is an executor with an attempt for it to carry out, and all that it saved.
type troupe struct {
	*Local
	t     *testing.T
	world *podWorld // nil where the attempt runs beside Sentry, or in a real cluster
	real  *realPlace
	job   Job
	qa    string // the commit of the QA repository
	dir   string // where commands leave what tests look for

	mu    sync.Mutex
	saved []sentry.Deployment
	// saving is asked before each save; nil saves.
	saving func(d sentry.Deployment) error
}

// newTroupe makes one with real commands and a real QA repository behind a token.
func newTroupe(t *testing.T, world *podWorld, commands ...config.Command) *troupe {
	t.Helper()
	return newTroupeAt(t, world, nil, commands...)
}

func newTroupeAt(t *testing.T, world *podWorld, real *realPlace, commands ...config.Command) *troupe {
	t.Helper()
	server := gittest.NewServer(t)
	server.SetToken("sentry", "token-of-the-qa-repository")
	repo := server.Repo(t, "qa.git")
	tr := &troupe{t: t, world: world, real: real, dir: t.TempDir(), qa: repo.Commit(t, "main", map[string]string{"hello.txt": "hello\n"}, "first")}
	tr.Local = tr.controller()
	member := member(t, "a", "g", "main")
	address := repo.URL
	if tr.real != nil {
		address = strings.Replace(address, server.URL, tr.real.passOn(t, server.URL), 1)
	}
	remote, err := sentry.ParseRemote(address, sentry.RemoteRules{InsecureHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	member.Deploy.Remote, member.Deploy.ProjectName = remote, "project-a"
	member.Deploy.Auth = config.Auth{Username: "sentry", Token: sentry.NewSecret("token-of-the-qa-repository")}
	member.Deploy.Env = []config.EnvVar{
		{Name: "WITNESS", Value: sentry.NewSecret(tr.dir)},
		{Name: "PASSWORD", Value: sentry.NewSecret(contractSecret), Sensitive: true},
	}
	member.Deploy.Commands = commands
	for i := range member.Deploy.Commands {
		c := &member.Deploy.Commands[i]
		c.Name = fmt.Sprintf("c%d", i+1)
		if c.Timeout == 0 {
			c.Timeout = time.Minute
		}
	}
	d := sentry.Deployment{
		ID: "1-x-1", Ordinal: 1, Watch: sentry.Watch{Repository: "a", Branch: "main"}, Commit: commit("a1"), Previous: commit("a0"),
		Author: "Ada", Subject: "a subject", Generation: 2, Attempt: 1, Status: sentry.Running,
	}
	tr.job = Job{
		Rollout:    sentry.Rollout{ID: "1-x", Group: "g", Attempt: 1, Policy: &sentry.Policy{OnInterrupt: sentry.Retry}, Deployments: []sentry.Deployment{d}},
		Deployment: d, Repository: &member, Global: config.Global{Cleanup: true, Timeout: time.Minute, Grace: time.Second},
	}
	if world != nil {
		tr.job.Pod = &Pod{Image: "sentry", StartTimeout: time.Minute, Resources: config.Resources{Limits: map[string]string{"memory": "64Mi"}}}
	}
	if real != nil {
		tr.job.Pod = real.pod()
		tr.job.Rollout.ID, tr.job.Deployment.ID = real.id, real.id+"-1"
	}
	return tr
}

// controller gives a Local as a process has it that begins.
func (tr *troupe) controller() *Local {
	t := tr.t
	dir := filepath.Join(tr.dir, "controller")
	g, err := git.New(git.Options{StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	l := &Local{
		Root: filepath.Join(dir, "workspaces"), LogsDir: filepath.Join(dir, "logs"), Instance: "instance",
		Commands: command.New(command.Options{Grace: time.Second}), Mask: logger.NewMasker(sentry.NewSecret(contractSecret)), Log: slog.New(slog.DiscardHandler),
	}
	if testing.Verbose() {
		l.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	sources := g.NewSources(l.SourcesOptions(filepath.Join(dir, "mirrors")))
	t.Cleanup(sources.Close)
	l.Sources = sources
	if tr.world != nil {
		l.Clusters = tr.world
	}
	if tr.real != nil {
		l.Clusters = tr.real
	}
	return l
}

// errDied is what a controller that is killed gets of its saves.
var errDied = fmt.Errorf("%w: the controller is dead", errLost)

// run carries the attempt out, and gives how it ended and what would be saved then.
func (tr *troupe) run(ctx context.Context) (sentry.Deployment, Outcome) {
	tr.t.Helper()
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("the test takes too long"))
	defer cancel()
	d, outcome := tr.Execute(ctx, tr.job, func(d sentry.Deployment) error {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		if tr.saving != nil {
			if err := tr.saving(d); err != nil {
				return err
			}
		}
		tr.saved = append(tr.saved, d)
		return nil
	})
	return d, outcome
}

// adopt lets the next process go on with what the last one saved.
func (tr *troupe) adopt() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.Local, tr.saving = tr.controller(), nil
	d := tr.job.Deployment
	tr.job.Adopt = false
	if len(tr.saved) > 0 {
		d = tr.saved[len(tr.saved)-1]
		tr.job.Adopt = d.Job != nil
	}
	d.Steps = slices.Clone(d.Steps)
	for i := range d.Steps { // as the store does it
		if step := &d.Steps[i]; step.Status == sentry.Running && step.Kind == sentry.StepTrack {
			step.Status = sentry.Interrupted
		}
	}
	tr.job.Deployment = d
}

// steps gives what the attempt did itself, whatever place it had.
func (tr *troupe) steps(d sentry.Deployment) []sentry.Step {
	return slices.DeleteFunc(slices.Clone(d.Steps), func(s sentry.Step) bool { return s.Name == jobStep })
}

// log gives the log of a step.
func (tr *troupe) log(s sentry.Step) string {
	tr.t.Helper()
	text, err := os.ReadFile(filepath.Join(tr.LogsDir, filepath.FromSlash(s.Log)))
	if err != nil {
		tr.t.Fatal(err)
	}
	return string(text)
}

// witness gives what commands have written to a file of that name.
func (tr *troupe) witness(name string) string {
	text, _ := os.ReadFile(filepath.Join(tr.dir, name))
	return string(text)
}

// until waits for something.
func (tr *troupe) until(what string, is func() bool) {
	tr.t.Helper()
	for end := time.Now().Add(3 * time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			tr.t.Errorf("it never came that %s", what)
			return
		}
	}
}

// told gives the steps in short: name, status, and how often a command was tried.
func told(steps []sentry.Step) string {
	var words []string
	for _, s := range steps {
		word := s.Name + ":" + string(s.Status)
		if s.Tries > 1 && s.Kind == sentry.StepCommand { // a slow machine may clone again
			word += fmt.Sprint("*", s.Tries)
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// contract is one thing that every executor does alike.
type contract struct {
	name     string
	beside   bool // it looks at what commands leave on their machine
	commands []config.Command
	prepare  func(tr *troupe)
	// ctx gives the context of the attempt, and during does something meanwhile; nil for nothing special.
	ctx    func(tr *troupe) (context.Context, context.CancelFunc)
	status sentry.Status
	reason string // a part of it
	steps  string // as told gives them
	check  func(t *testing.T, tr *troupe, d sentry.Deployment, steps []sentry.Step)
}

// when gives a context that ends for a cause once commands have written a file.
func when(file string, cause error) func(*troupe) (context.Context, context.CancelFunc) {
	return func(tr *troupe) (context.Context, context.CancelFunc) {
		ctx, end := context.WithCancelCause(tr.t.Context())
		waited := make(chan struct{})
		go func() {
			defer close(waited)
			tr.until("a command writes "+file, func() bool { return tr.witness(file) != "" })
			end(cause)
		}()
		return ctx, func() { <-waited }
	}
}

func entries(texts ...string) []config.Command {
	var commands []config.Command
	for _, s := range texts {
		commands = append(commands, config.Command{Run: s})
	}
	return commands
}

var contracts = []contract{
	{
		name:     "commands run in order, each in a shell of its own",
		commands: entries(`cat hello.txt; cd /; export LOST=1`, `test "$PWD" != /; test -z "${LOST:-}"; echo "on $SENTRY_BRANCH"; echo err >&2`),
		status:   sentry.Succeeded, reason: "2 commands succeeded", steps: "clone:succeeded c1:succeeded c2:succeeded",
		check: func(t *testing.T, tr *troupe, d sentry.Deployment, steps []sentry.Step) {
			if d.Source == nil || d.Source.Commit != tr.qa {
				t.Errorf("the source is %+v", d.Source)
			}
			if got := tr.log(steps[1]); got != "hello\n" || steps[1].Bytes != 6 || steps[1].Dropped != 0 || *steps[1].ExitCode != 0 {
				t.Errorf("the first command: %q, %+v", got, steps[1])
			}
			if got := tr.log(steps[2]); got != "on main\nerr\n" {
				t.Errorf("log of the second command: %q", got)
			}
			if got := tr.log(steps[0]); !strings.Contains(got, tr.qa) {
				t.Errorf("log of the clone: %q", got)
			}
		},
	},
	{
		name: "the first failure stops", beside: true, commands: entries(`true`, `echo no; exit 3`, `echo never > "$WITNESS/third"`),
		status: sentry.Failed, reason: "c2 exited with 3", steps: "clone:succeeded c1:succeeded c2:failed",
		check: func(t *testing.T, tr *troupe, _ sentry.Deployment, steps []sentry.Step) {
			if tr.witness("third") != "" || *steps[2].ExitCode != 3 || tr.log(steps[2]) != "no\n" {
				t.Errorf("the third ran, or the second is not told rightly: %+v", steps[2])
			}
		},
	},
	{
		name: "what may be tried again is", beside: true,
		commands: []config.Command{{Run: `echo x >> "$WITNESS/tries"; echo "try $(wc -l < "$WITNESS/tries")"; test $(wc -l < "$WITNESS/tries") = 2`, Retries: 2}},
		status:   sentry.Succeeded, steps: "clone:succeeded c1:succeeded*2",
		check: func(t *testing.T, tr *troupe, _ sentry.Deployment, steps []sentry.Step) {
			first := steps[1]
			first.Log = strings.Replace(first.Log, "-try2", "", 1)
			if tr.log(steps[1]) != "try 2\n" || tr.log(first) != "try 1\n" {
				t.Errorf("logs: %q and %q", tr.log(first), tr.log(steps[1]))
			}
		},
	},
	{
		name: "a command has its timeout", commands: []config.Command{{Run: `echo begun; sleep 600`, Timeout: 300 * time.Millisecond}},
		status: sentry.TimedOut, reason: "c1 took more than its timeout of 300ms", steps: "clone:succeeded c1:timed_out",
		check: func(t *testing.T, tr *troupe, _ sentry.Deployment, steps []sentry.Step) {
			if tr.log(steps[1]) != "begun\n" {
				t.Errorf("its log: %q", tr.log(steps[1]))
			}
		},
	},
	{
		name: "a deployment has its timeout", beside: true, commands: entries(`echo begun > "$WITNESS/begun"; echo begun; sleep 600`),
		ctx:    when("begun", context.DeadlineExceeded),
		status: sentry.TimedOut, reason: "the deployment's timeout is over, while c1 ran", steps: "clone:succeeded c1:timed_out",
		check: func(t *testing.T, tr *troupe, _ sentry.Deployment, steps []sentry.Step) {
			if tr.log(steps[1]) != "begun\n" {
				t.Errorf("its log: %q", tr.log(steps[1]))
			}
		},
	},
	{
		name: "a person cancels; the command may tidy up", beside: true,
		commands: entries(`trap 'echo tidied; echo x > "$WITNESS/tidied"; exit 1' TERM; echo x > "$WITNESS/begun"; sleep 600 & wait`, `true`),
		ctx:      when("begun", &canceledError{"ann", "no need"}),
		status:   sentry.Canceled, reason: "canceled by ann: no need, while c1 ran", steps: "clone:succeeded c1:canceled",
		check: func(t *testing.T, tr *troupe, _ sentry.Deployment, steps []sentry.Step) {
			if tr.witness("tidied") == "" || tr.log(steps[1]) != "tidied\n" {
				t.Errorf("it was not given its grace, or its last words are lost: %q", tr.log(steps[1]))
			}
		},
	},
	{
		name: "a stop with on_interrupt hold interrupts", beside: true, commands: entries(`echo x > "$WITNESS/begun"; sleep 600`),
		prepare: func(tr *troupe) { tr.job.Rollout.Policy = &sentry.Policy{OnInterrupt: sentry.Hold} },
		ctx:     when("begun", errShutdown),
		status:  sentry.Interrupted, reason: "sentry is stopping, while c1 ran", steps: "clone:succeeded c1:interrupted",
	},
	{
		name: "of ten megabytes the log has the beginning and the end", commands: entries(`seq -f 'line %09.0f' 700000`),
		status: sentry.Succeeded, steps: "clone:succeeded c1:succeeded",
		check: func(t *testing.T, tr *troupe, _ sentry.Deployment, steps []sentry.Step) {
			text, step := tr.log(steps[1]), steps[1]
			const all = 15 * 700000
			if step.Bytes != all || step.Dropped < all-6<<20 || step.Dropped > all-2<<20 {
				t.Errorf("%d bytes, of which %d are not kept", step.Bytes, step.Dropped)
			}
			gap := strings.Index(text, "[sentry: ")
			if gap < 0 {
				t.Fatal("nothing tells what is missing")
			}
			var kept, missing, lines int64 // a slow machine tells some of what is between
			for line := range strings.Lines(text) {
				if n, told := strings.CutPrefix(strings.ReplaceAll(line, ",", ""), "[sentry: "); told {
					lines++
					n, _ := strconv.ParseInt(strings.TrimSuffix(n, " bytes not kept]\n"), 10, 64)
					missing += n
				} else {
					kept += int64(len(line))
				}
			}
			if missing != step.Dropped {
				t.Errorf("%d bytes are said to be missing, but the step tells of %d", missing, step.Dropped)
			}
			if all-kept > missing || all-kept < missing-lines { // a newline before each line
				t.Errorf("%d bytes are in the log, %d are said to be missing", kept, missing)
			}
			if !strings.HasPrefix(text, "line 000000001\nline 000000002\n") || !strings.HasSuffix(text, "line 000699999\nline 000700000\n") {
				t.Error("it is not the beginning and the end")
			}
			if gap < 1<<20-100 {
				t.Errorf("only %d bytes of the beginning", gap)
			}
		},
	},
	{
		name:     "secrets are in no log and in nothing that is saved",
		commands: entries(`echo "it is $PASSWORD"; printf '%s' "${PASSWORD%?????}"; sleep 0.05; printf '%s\n' "${PASSWORD#????????????}"; exit 1`),
		status:   sentry.Failed, steps: "clone:succeeded c1:failed",
		check: func(t *testing.T, tr *troupe, d sentry.Deployment, steps []sentry.Step) {
			if got := tr.log(steps[1]); got != "it is [redacted]\n[redacted]\n" {
				t.Errorf("its log: %q", got)
			}
			all, err := json.Marshal(append(tr.saved, d))
			if err != nil || strings.Contains(string(all), contractSecret) || strings.Contains(string(all), "token-of-the-qa") {
				t.Errorf("a secret is saved, or nothing can be: %v", err)
			}
		},
	},
	{
		name:   "without commands and without a cluster there is nothing to do",
		status: sentry.Failed, reason: "the repository has no commands, and", steps: "clone:succeeded create .tekton/project-a:failed",
	},
	{
		name:     "the environment is complete, and nothing else is in it",
		commands: entries(`env | cut -d= -f1 | sort | tr '\n' ' '`, `echo "$SENTRY_ROLLOUT_ID $SENTRY_DEPLOYMENT_ID $SENTRY_ATTEMPT $SENTRY_GROUP $SENTRY_REPOSITORY $SENTRY_PROJECT_NAME $SENTRY_BRANCH $SENTRY_COMMIT $SENTRY_PREVIOUS_COMMIT $SENTRY_COMMIT_AUTHOR $SENTRY_COMMIT_SUBJECT $SENTRY_REPO_URL $SENTRY_QA_COMMIT"; grep -c "\"rollout\": \"$SENTRY_ROLLOUT_ID\"" "$SENTRY_VECTOR_FILE"; cd "$HOME"; touch x; cd "$TMPDIR"; touch x`),
		status:   sentry.Succeeded, steps: "clone:succeeded c1:succeeded c2:succeeded",
		check: func(t *testing.T, tr *troupe, _ sentry.Deployment, steps []sentry.Step) {
			names := "CI HOME LANG PASSWORD PATH PWD SENTRY_ATTEMPT SENTRY_BRANCH SENTRY_COMMIT SENTRY_COMMIT_AUTHOR SENTRY_COMMIT_SUBJECT " +
				"SENTRY_DEPLOYMENT_ID SENTRY_GROUP SENTRY_PREVIOUS_COMMIT SENTRY_PROJECT_NAME SENTRY_QA_COMMIT SENTRY_REPOSITORY SENTRY_REPO_URL " +
				"SENTRY_ROLLOUT_ID SENTRY_VECTOR_FILE SHLVL TMPDIR WITNESS _ "
			if got := tr.log(steps[1]); got != names {
				t.Errorf("names: %q", got)
			}
			want := fmt.Sprintf("%s %s 1 g a project-a main %s %s Ada a subject https://forge.example/a.git %s\n1\n", tr.job.Rollout.ID, tr.job.Deployment.ID, commit("a1"), commit("a0"), tr.qa)
			if got := tr.log(steps[2]); got != want {
				t.Errorf("values: %q, not %q", got, want)
			}
		},
	},
	{
		name: "nothing is left: no workspace, and no process", beside: true,
		commands: entries(`pwd > "$WITNESS/place"; setsid sleep 600 > /dev/null 2>&1 & echo $! > "$WITNESS/pid"`),
		status:   sentry.Succeeded, steps: "clone:succeeded c1:succeeded",
		check: func(t *testing.T, tr *troupe, _ sentry.Deployment, _ []sentry.Step) {
			if _, err := os.Stat(filepath.Dir(strings.TrimSpace(tr.witness("place")))); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the workspace: %v", err)
			}
			var pid int
			if _, err := fmt.Sscan(tr.witness("pid"), &pid); err != nil {
				t.Fatal(err)
			}
			tr.until("the process is gone", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
		},
	},
	{
		name: "a branch that is not there fails the clone", commands: entries(`true`),
		prepare: func(tr *troupe) { tr.job.Repository.Deploy.Branch = "gone" },
		status:  sentry.Failed, reason: "cannot clone QA repository", steps: "clone:failed",
	},
	{
		name: "a wrong token fails the clone", commands: entries(`true`),
		prepare: func(tr *troupe) { tr.job.Repository.Deploy.Auth.Token = sentry.NewSecret("not-the-token-of-it") },
		status:  sentry.Failed, reason: "cannot clone QA repository", steps: "clone:failed",
	},
}

// TestContract: what an attempt does and tells is the same beside Sentry and in a Job.
func TestContract(t *testing.T) {
	for _, place := range []string{"local", "job"} {
		for _, c := range contracts {
			t.Run(place+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				var world *podWorld
				if place == "job" {
					world = newPodWorld(t)
				}
				tr := newTroupe(t, world, c.commands...)
				if c.prepare != nil {
					c.prepare(tr)
				}
				ctx := t.Context()
				if c.ctx != nil {
					var done context.CancelFunc
					ctx, done = c.ctx(tr)
					defer done()
				}
				tr.play(t, ctx, c)
			})
		}
	}
}

// play carries the attempt out, and holds what came of it against the contract.
func (tr *troupe) play(t *testing.T, ctx context.Context, c contract) {
	t.Helper()
	d, outcome := tr.run(ctx)
	steps := tr.steps(d)
	if outcome.Status != c.status || !strings.Contains(outcome.Reason, c.reason) {
		t.Errorf("it ended as %s: %s", outcome.Status, outcome.Reason)
	}
	if told(steps) != c.steps {
		t.Fatalf("steps: %s", told(steps))
	}
	if c.check != nil {
		c.check(t, tr, d, steps)
	}
	for _, s := range d.Steps {
		if !s.Status.Terminal() || s.StartedAt.IsZero() || s.FinishedAt.IsZero() {
			t.Errorf("a step has not ended: %+v", s)
		}
	}
	if tr.world != nil {
		tr.until("the pod has ended", func() bool { j := tr.world.only(); return j == nil || closed(j.ended) })
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
