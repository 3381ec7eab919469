package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sentry/internal/command"
	"sentry/internal/config"
	"sentry/internal/git"
	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// trees makes workspaces without a remote side; each answer may be an error.
type trees struct {
	answers       []error
	takes         time.Duration
	calls         int
	asked, wanted []git.Want
}

func (s *trees) Ask(w git.Want) { s.asked = append(s.asked, w) }

func (s *trees) Workspace(ctx context.Context, w git.Want, dir string, _ io.Writer) (string, error) {
	s.wanted = append(s.wanted, w)
	s.calls++
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if len(s.answers) >= s.calls && s.answers[s.calls-1] != nil {
		return "", s.answers[s.calls-1]
	}
	for _, folder := range []string{treeDir, homeDir, tmpDir} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o700); err != nil {
			return "", err
		}
	}
	return commit("9a"), nil
}

// bench is a Local with real commands, and what it saved.
type bench struct {
	*Local
	t       *testing.T
	sources *trees
	job     Job
	saved   []sentry.Deployment
	saveErr func(d sentry.Deployment) error
}

func newBench(t *testing.T, commands ...config.Command) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{t: t, sources: &trees{}, saveErr: func(sentry.Deployment) error { return nil }}
	b.Local = &Local{
		Root: filepath.Join(dir, "workspaces"), LogsDir: filepath.Join(dir, "logs"), Sources: b.sources,
		Commands: command.New(command.Options{Grace: 200 * time.Millisecond}), Mask: logger.NewMasker(sentry.NewSecret("hunter22-secret")), Log: slog.New(slog.DiscardHandler),
	}
	repo := member(t, "a", "g", "main")
	repo.Deploy.Commands = commands
	for i := range repo.Deploy.Commands {
		c := &repo.Deploy.Commands[i]
		if c.Name == "" {
			c.Name = fmt.Sprintf("c%d", i+1)
		}
		if c.Timeout == 0 {
			c.Timeout = time.Minute
		}
	}
	d := sentry.Deployment{
		ID: "1-x-1", Ordinal: 1, Watch: sentry.Watch{Repository: "a", Branch: "main"}, Commit: commit("a1"), Generation: 2, Attempt: 1, Status: sentry.Running,
	}
	b.job = Job{
		Rollout:    sentry.Rollout{ID: "1-x", Group: "g", Attempt: 1, Policy: &sentry.Policy{}, Deployments: []sentry.Deployment{d}},
		Deployment: d, Repository: &repo, Global: config.Global{Cleanup: true, Timeout: time.Minute},
	}
	return b
}

func (b *bench) run(ctx context.Context) Outcome {
	b.t.Helper()
	d, outcome := b.Execute(ctx, b.job, func(d sentry.Deployment) error {
		b.saved = append(b.saved, d)
		return b.saveErr(d)
	})
	b.saved = append(b.saved, d) // as the service does
	return outcome
}

// last gives the steps as last saved.
func (b *bench) last() []sentry.Step { return b.saved[len(b.saved)-1].Steps }

func (b *bench) log(step int) string {
	b.t.Helper()
	text, err := os.ReadFile(filepath.Join(b.LogsDir, b.last()[step-1].Log))
	if err != nil {
		b.t.Fatal(err)
	}
	return string(text)
}

func (b *bench) left() []string {
	entries, _ := os.ReadDir(b.Root)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestCommandsRunInOrderEachInItsOwnShell(t *testing.T) {
	t.Run("the tree is there", func(t *testing.T) { testCommandsRunInOrder(t, 0) })
	t.Run("the tree takes its time", func(t *testing.T) { testCommandsRunInOrder(t, 10*ready) })
}

func testCommandsRunInOrder(t *testing.T, takes time.Duration) {
	b := newBench(t,
		config.Command{Run: `echo one; cd /; export LOST=1`},
		config.Command{Run: `test "$PWD" != /; test -z "${LOST:-}"; echo "two hunter22-secret $SENTRY_COMMIT"`},
	)
	b.sources.takes = takes
	if o := b.run(t.Context()); o.Status != sentry.Succeeded {
		t.Fatal(o)
	}
	if got := b.log(2); got != "one\n" {
		t.Errorf("log of the first command: %q", got)
	}
	if got := b.log(3); strings.Contains(got, "hunter22") || !strings.HasSuffix(got, " "+commit("a1")+"\n") {
		t.Errorf("log of the second command: %q", got)
	}
	if left := b.left(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	// Each command is saved as running before it does anything, with the end of the step before; the clone only where it
	// takes longer than saving would.
	var story []string
	for _, d := range b.saved {
		var one []string
		for _, s := range d.Steps {
			one = append(one, s.Name+":"+string(s.Status))
		}
		story = append(story, strings.Join(one, " "))
	}
	want := "clone:succeeded c1:running|clone:succeeded c1:succeeded c2:running|clone:succeeded c1:succeeded c2:succeeded"
	got := strings.Join(story, "|")
	if takes > 0 {
		want = "clone:running|" + want
	} else {
		got = strings.TrimPrefix(got, "clone:running|") // a busy machine takes its time for everything
	}
	if got != want {
		t.Errorf("saved %s\nwant  %s", got, want)
	}
}

func TestTheFirstFailureStopsTheDeployment(t *testing.T) {
	for _, test := range []struct {
		name, script, status, reason string
	}{
		{"exit code", `exit 3`, "failed", "c1 exited with 3"},
		{"in the middle of a list", `false; true`, "failed", "c1 exited with 1"},
		{"in a pipe", `false | cat`, "failed", "c1 exited with 1"},
		{"by a signal", `kill -KILL $$`, "failed", "SIGKILL"},
		{"out of time", `sleep 60`, "timed_out", "took more than its timeout of 300ms"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			first := config.Command{Run: test.script}
			if test.status == "timed_out" {
				first.Timeout = 300 * time.Millisecond
			}
			b := newBench(t, first, config.Command{Run: "echo must not run"})
			o := b.run(t.Context())
			if string(o.Status) != test.status || !strings.Contains(o.Reason, test.reason) {
				t.Errorf("%s: %s", o.Status, o.Reason)
			}
			if n := len(b.last()); n != 2 {
				t.Errorf("%d steps, want clone and the one that failed", n)
			}
			if left := b.left(); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestRetriesOfACommand(t *testing.T) {
	t.Parallel()
	b := newBench(t, config.Command{Run: `echo x >> "$HOME/tries"; [ "$(wc -l < "$HOME/tries")" -ge 2 ]`, Retries: 3})
	if o := b.run(t.Context()); o.Status != sentry.Succeeded {
		t.Fatal(o)
	}
	step := b.saved[len(b.saved)-1].Steps[1]
	if step.Tries != 2 || !strings.HasSuffix(step.Log, "-try2.log") {
		t.Errorf("tries %d, log %s: want 2 tries with a log each", step.Tries, step.Log)
	}

	b = newBench(t, config.Command{Run: `exit 7`, Retries: 1})
	if o := b.run(t.Context()); o.Status != sentry.Failed || !strings.Contains(o.Reason, "exited with 7") {
		t.Errorf("%s: %s", o.Status, o.Reason)
	}
	if n := b.last()[1].Tries; n != 2 {
		t.Errorf("%d tries, want 2", n)
	}
}

func TestACloneIsTriedAgainWhereThatMayHelp(t *testing.T) {
	t.Parallel()
	b := newBench(t, config.Command{Run: "true"})
	b.sources.answers = []error{sentry.Faultf(sentry.Transient, "502 bad gateway")}
	if o := b.run(t.Context()); o.Status != sentry.Succeeded || b.sources.calls != 2 {
		t.Errorf("%v after %d calls", o, b.sources.calls)
	}
	b = newBench(t, config.Command{Run: "true"})
	b.sources.answers = []error{sentry.Faultf(sentry.Unauthorized, "the token is refused")}
	o := b.run(t.Context())
	if len(b.saved) < 2 || b.saved[0].Status != sentry.Running || len(b.saved[0].Steps) != 1 || b.saved[0].Steps[0].Status != sentry.Running {
		t.Errorf("what fails at once has not begun on disk: %+v", b.saved) // the state takes no end of what has not begun
	}
	if o.Status != sentry.Failed || b.sources.calls != 1 || !strings.Contains(o.Reason, "cannot clone QA repository: the token is refused") {
		t.Errorf("%v after %d calls", o, b.sources.calls)
	}
}

func TestTheSourceIsAskedForAhead(t *testing.T) {
	t.Parallel()
	b := newBench(t, config.Command{Run: "true"})
	b.sources.answers = []error{sentry.Faultf(sentry.Transient, "502 bad gateway")}
	b.job.Since = time.Now().Add(-time.Second)
	b.Expect(b.job.Repository, b.job.Since)
	if o := b.run(t.Context()); o.Status != sentry.Succeeded {
		t.Fatal(o)
	}
	ahead, first, second := b.sources.asked[0], b.sources.wanted[0], b.sources.wanted[1]
	ahead.Auth, first.Auth = git.Auth{}, git.Auth{} // functions cannot be compared
	if deploy := b.job.Repository.Deploy; ahead.Remote != deploy.Remote || ahead.Branch != deploy.Branch || !ahead.Since.Equal(b.job.Since) {
		t.Errorf("ahead it asks for %+v", ahead)
	}
	if !first.Since.Equal(ahead.Since) || first.Remote != ahead.Remote || first.Branch != ahead.Branch {
		t.Errorf("it wants %+v, and asked ahead for %+v", first, ahead)
	}
	if !second.Since.After(b.job.Since.Add(time.Second)) {
		t.Errorf("a second later it is content with what was at %s, and it began at %s", second.Since, b.job.Since)
	}
}

func TestAFailedWorkspaceIsKeptWhereAskedFor(t *testing.T) {
	t.Parallel()
	b := newBench(t, config.Command{Run: "echo evidence > found; exit 1"})
	b.job.Global.Cleanup = false
	o := b.run(t.Context())
	kept := filepath.Join(b.Root, keptDir, "1-x-1-a1")
	if !strings.Contains(o.Reason, kept) {
		t.Errorf("the reason must say where: %s", o.Reason)
	}
	if _, err := os.Stat(filepath.Join(kept, "src", "found")); err != nil {
		t.Error(err)
	}
	for i := range keptMost + 5 {
		b.job.Deployment.ID = fmt.Sprintf("%d-y-1", i)
		b.run(t.Context())
	}
	entries, err := os.ReadDir(filepath.Join(b.Root, keptDir))
	if err != nil || len(entries) != keptMost {
		t.Errorf("%d workspaces are kept (%v), want %d", len(entries), err, keptMost)
	}
	if err := b.Sweep(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(b.Root, keptDir)); err != nil {
		t.Errorf("a sweep removes what a dead process left, not what a person wants to see: %v", err)
	}
}

func TestTheCauseDecidesTheOutcome(t *testing.T) {
	for _, test := range []struct {
		cause error
		want  sentry.Status
	}{
		{&canceledError{by: "somebody"}, sentry.Canceled},
		{fmt.Errorf("%w (15m)", errDeadline), sentry.TimedOut},
		{errShutdown, sentry.Interrupted},
		{errLost, sentry.Interrupted},
	} {
		t.Run(test.cause.Error(), func(t *testing.T) {
			t.Parallel()
			b := newBench(t, config.Command{Run: "touch began; sleep 60", Retries: 5})
			ctx, cancel := context.WithCancelCause(t.Context())
			var waiting sync.WaitGroup
			waiting.Go(func() {
				for began := filepath.Join(b.Root, "1-x-1-a1", "src", "began"); ctx.Err() == nil; time.Sleep(time.Millisecond) {
					if _, err := os.Stat(began); err == nil {
						cancel(test.cause)
					}
				}
			})
			o := b.run(ctx)
			cancel(nil)
			waiting.Wait()
			if o.Status != test.want || !strings.Contains(o.Reason, "while c1 ran") {
				t.Errorf("%s: %s, want %s", o.Status, o.Reason, test.want)
			}
			if left := b.left(); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestWhatCannotBeSavedDoesNotBegin(t *testing.T) {
	t.Parallel()
	marker := filepath.Join(t.TempDir(), "ran")
	for n := 1; n <= 2; n++ {
		b := newBench(t, config.Command{Run: "touch " + marker})
		b.sources.takes = 10 * ready
		b.saveErr = func(d sentry.Deployment) error {
			if len(d.Steps) == n {
				return errors.New("the disk is gone")
			}
			return nil
		}
		if o := b.run(t.Context()); o.Status != sentry.Interrupted {
			t.Errorf("saving step %d failed, and the outcome is %v", n, o)
		}
		if _, err := os.Stat(marker); err == nil {
			t.Fatalf("saving step %d failed, and the command ran", n)
		}
		if left := b.left(); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

func TestACloneDoesNotGoOnUnsaved(t *testing.T) {
	b := newBench(t, config.Command{Run: "true"})
	b.sources.takes = time.Hour
	b.saveErr = func(sentry.Deployment) error { return errLost }
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if outcome := b.run(ctx); outcome.Status != sentry.Interrupted || ctx.Err() != nil {
		t.Errorf("%+v", outcome)
	}
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"a\nb":         "a b",
		"\x1b[2Jx\x00": " [2Jx ",
		"bad\xff":      "bad\uFFFD",
	} {
		if got := oneLine(in); got != want {
			t.Errorf("oneLine(%q) = %q, want %q", in, got, want)
		}
	}
	if got := oneLine(strings.Repeat("é", 4096)); len(got) > 4096 || !strings.HasSuffix(got, "é") {
		t.Errorf("%d bytes", len(got))
	}
}

func TestSlug(t *testing.T) {
	for in, want := range map[string]string{
		"deploy":                         "deploy",
		`[ -t 1 ] || echo "$x" ; exit 3`: "t-1-echo-x-exit-3",
		"../../etc":                      "etc",
		"日本":                             "step",
		strings.Repeat("ab ", 30):        "ab-ab-ab-ab-ab-ab-ab-ab-ab-ab-ab-ab-ab-a",
	} {
		if got := slug(in); got != want {
			t.Errorf("slug(%q) = %q, want %q", in, got, want)
		}
	}
}
