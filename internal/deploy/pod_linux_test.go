package deploy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/command"
	"sentry/internal/config"
	"sentry/internal/kube"
	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// whole is how an attempt of the crash tests ends, however often nobody was there to see it.
const whole = "clone:succeeded c1:succeeded c2:succeeded"

// crashed are commands that count how often they ran.
func crashed() []config.Command {
	return entries(`echo one; echo x >> "$WITNESS/one"; seq 2000; sleep 0.2`, `echo two; echo x >> "$WITNESS/two"; sleep 0.2`)
}

// wholeLogs fails where a log of such an attempt is not what the commands printed.
func (tr *troupe) wholeLogs(d sentry.Deployment) {
	tr.t.Helper()
	var one strings.Builder
	one.WriteString("one\n")
	for i := range 2000 {
		fmt.Fprintln(&one, i+1)
	}
	steps := tr.steps(d)
	if got := tr.log(steps[1]); got != one.String() || steps[1].Bytes != int64(one.Len()) || steps[1].Dropped != 0 {
		tr.t.Errorf("the log of the first command has %d bytes, not %d; the step tells of %d and %d dropped", len(got), one.Len(), steps[1].Bytes, steps[1].Dropped)
	}
	if got := tr.log(steps[2]); got != "two\n" {
		tr.t.Errorf("the log of the second command is %q", got)
	}
}

// TestJobSurvivesControllers: a controller that dies at any save, or just before it, leaves a Job that the next one takes as
// it is: every command runs once, no log has a gap, and the verdict is right.
func TestJobSurvivesControllers(t *testing.T) {
	world := newPodWorld(t)
	saves := func() int {
		tr := newTroupe(t, world, crashed()...)
		tr.run(t.Context())
		return len(tr.saved)
	}()
	if saves < 6 {
		t.Fatalf("only %d saves", saves)
	}
	for n := range saves {
		for _, saved := range []bool{false, true} {
			t.Run(fmt.Sprintf("save %d saved %v", n+1, saved), func(t *testing.T) {
				t.Parallel()
				tr := newTroupe(t, newPodWorld(t), crashed()...)
				count := 0
				tr.saving = func(d sentry.Deployment) error {
					if count++; count <= n {
						return nil
					}
					if saved && count == n+1 {
						tr.saved = append(tr.saved, d)
					}
					return errDied
				}
				if _, outcome := tr.run(t.Context()); outcome.Status == sentry.Succeeded {
					t.Fatal("the dead controller has a verdict")
				}
				tr.adopt()
				d, outcome := tr.run(t.Context())
				if outcome.Status != sentry.Succeeded || told(tr.steps(d)) != whole {
					t.Fatalf("it ended as %s (%s) with %s", outcome.Status, outcome.Reason, told(tr.steps(d)))
				}
				if tr.witness("one") != "x\n" || tr.witness("two") != "x\n" || tr.world.starts != 1 {
					t.Errorf("the commands ran %q and %q in %d Jobs", tr.witness("one"), tr.witness("two"), tr.world.starts)
				}
				tr.wholeLogs(d)
			})
		}
	}
}

// TestJobGoesOnOverAStop: a daemon that is stopped, and begins rollouts again, leaves its Jobs alone. The next one follows
// them, also where they have ended meanwhile.
func TestJobGoesOnOverAStop(t *testing.T) {
	for _, meanwhile := range []string{"runs", "has ended", "has ended, and its log begins later"} {
		t.Run(meanwhile, func(t *testing.T) {
			tr := newTroupe(t, newPodWorld(t), crashed()...)
			ctx, end := context.WithCancelCause(t.Context())
			go func() {
				tr.until("the first command runs", func() bool { return tr.witness("one") != "" })
				end(errShutdown)
			}()
			d, outcome := tr.run(ctx)
			if outcome.Status != sentry.Running || !strings.Contains(outcome.Reason, "goes on") {
				t.Fatalf("the stop gave %s: %s", outcome.Status, outcome.Reason)
			}
			tr.saved = append(tr.saved, d)
			if meanwhile != "runs" {
				<-tr.world.only().ended
			}
			if strings.Contains(meanwhile, "later") {
				lines, err := readLines(tr.world.only().log)
				if err != nil {
					t.Fatal(err)
				}
				tr.world.lose = len(lines) / 2
			}
			tr.adopt()
			d, outcome = tr.run(t.Context())
			if outcome.Status != sentry.Succeeded || told(tr.steps(d)) != whole || tr.witness("one") != "x\n" || tr.world.starts != 1 {
				t.Fatalf("it ended as %s (%s) with %s", outcome.Status, outcome.Reason, told(tr.steps(d)))
			}
			if tr.world.lose == 0 {
				tr.wholeLogs(d)
			}
		})
	}
}

// TestJobLogTellsWhatIsMissing: where a node has thrown the beginning of the output away, the log of the step has what was
// heard before, what is left, and a line for what is missing.
func TestJobLogTellsWhatIsMissing(t *testing.T) {
	tr := newTroupe(t, nil)
	a := tr.attempt(tr.job, func(sentry.Deployment) error { return nil }, func(error) {})
	a.d.Job = &sentry.JobRef{Attempt: 1}
	j := &shift{attempt: a, pod: &Pod{}, logs: map[string]*toldLog{}}
	file := filepath.Join(a.logs(), "02-c1.log")
	if err := os.MkdirAll(path.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("heard before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, m := range []message{
		{Offset: 100, Text: []byte("the rest\n")},
		{Offset: 104, Text: []byte("rest\nand more\n")}, // told twice, in other pieces
		{Offset: 118, End: true},
	} {
		m.Seq, m.Kind, m.Log = int64(i+1), sayLog, "02-c1.log"
		if err := j.write(m); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := "heard before\n[sentry: 87 bytes not kept]\nthe rest\nand more\n"; string(text) != want {
		t.Errorf("the log is %q, not %q", text, want)
	}
	for _, name := range []string{"../x.log", "a/b.log", "x", ""} {
		if err := j.write(message{Log: name, Text: []byte("x")}); err == nil {
			t.Errorf("a log %q is written", name)
		}
	}
}

// TestReplayThatIsCutOff: what a log has does not get less because what a Job has told is read again, and that breaks off.
func TestReplayThatIsCutOff(t *testing.T) {
	tr := newTroupe(t, nil)
	line := func(i int) string { return fmt.Sprintf("line %058d\n", i) } // 64 bytes
	const lines = 3 << 20 / 64
	var all strings.Builder
	for i := range lines {
		all.WriteString(line(i))
	}
	begin := func() *shift {
		a := tr.attempt(tr.job, func(sentry.Deployment) error { return nil }, func(error) {})
		a.d.Job = &sentry.JobRef{Attempt: 1}
		return &shift{attempt: a, pod: &Pod{}, logs: map[string]*toldLog{}}
	}
	hear := func(j *shift, to int) {
		for i := range to {
			if err := j.write(message{Log: "02-c1.log", Offset: int64(64 * i), Text: []byte(line(i))}); err != nil {
				t.Fatal(err)
			}
		}
	}
	file := filepath.Join(begin().attempt.logs(), "02-c1.log")
	shown := func() string {
		log, err := command.OpenLog(file)
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		text, err := io.ReadAll(log)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	most := 0
	for _, to := range []int{10, 3, lines / 2, 5, lines - 7, lines / 2, 1, lines} {
		most = max(most, to)
		j := begin()
		hear(j, to)
		if got := shown(); got != all.String()[:64*most] {
			t.Fatalf("after %d lines, and %d before, the log has %d", to, most, len(got)/64)
		}
		if to < lines {
			j.suspend()
			continue
		}
		if err := j.write(message{Log: "02-c1.log", Offset: int64(64 * lines), End: true}); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != all.String() {
		t.Errorf("in the end the log has %d bytes, not %d: %v", len(text), all.Len(), err)
	}
	j := begin() // the process was killed before it was saved that the step has ended
	hear(j, 7)
	j.attempt.begin(sentry.StepClone, "clone")
	step := *j.attempt.begin(sentry.StepCommand, "c1")
	step.Status, step.Bytes, step.Dropped = sentry.Succeeded, 100, 10
	if err := j.adoptSteps([]sentry.Step{j.d.Steps[0], step}); err != nil {
		t.Fatal(err)
	}
	if got := shown(); got != all.String() || j.d.Steps[1].Bytes != 100 || j.d.Steps[1].Dropped != 10 {
		t.Errorf("a complete log has %d bytes, not %d; the step is %+v", len(got), all.Len(), j.d.Steps[1])
	}
}

// TestLogThatIsLeft: where Sentry stops in the middle of a secret, no part of it is in the log. What a log that is complete
// lacks it does not get from a replay, nor does it lack more. And a place that no log has is an error, not the end of Sentry.
func TestLogThatIsLeft(t *testing.T) {
	tr := newTroupe(t, nil)
	const secret, name = "one-of-another-repository", "01-c1.log"
	tr.Mask.Add(sentry.NewSecret(secret))
	begin := func() *shift {
		a := tr.attempt(tr.job, func(sentry.Deployment) error { return nil }, func(error) {})
		a.d.Job = &sentry.JobRef{Attempt: 1}
		return &shift{attempt: a, pod: &Pod{}, logs: map[string]*toldLog{}}
	}
	tell := func(j *shift, offset int64, text string, end bool) {
		if err := j.write(message{Log: name, Offset: offset, Text: []byte(text), End: end}); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(begin().attempt.logs(), name)
	shows := func(want string) {
		t.Helper()
		if text, err := os.ReadFile(file); err != nil || string(text) != want {
			t.Errorf("the log is %q, not %q: %v", text, want, err)
		}
	}

	j := begin()
	tell(j, 0, "it is "+secret[:12], false)
	j.suspend()
	shows("it is ")
	j = begin()
	tell(j, 0, "it is "+secret+".\n", true)
	shows("it is " + sentry.Redacted + ".\n")

	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	j = begin()
	tell(j, 1000, "the end\n", true)
	shows("[sentry: 1,000 bytes not kept]\nthe end\n")
	step := j.attempt.begin(sentry.StepCommand, "c1")
	step.Status, step.Dropped = sentry.Succeeded, j.logs[name].dropped
	ended := j.d.Steps
	j = begin()
	j.d.Steps = ended
	tell(j, 1004, "end\n", true)
	shows("[sentry: 1,000 bytes not kept]\nthe end\n")

	for _, offset := range []int64{math.MinInt64, -1, math.MaxInt64} {
		if err := begin().write(message{Log: "02-c2.log", Offset: offset, Text: []byte("x")}); err == nil {
			t.Errorf("a log has a byte %d", offset)
		}
	}
}

// TestJobTroubles: what can go wrong with a pod, and what it is called.
func TestJobTroubles(t *testing.T) {
	begun := `echo begun; sleep 0.5; echo x > "$WITNESS/begun"; sleep 600` // what was printed just before may be lost with the pod
	kill := func(how func(*podJob)) func(*troupe) {
		return func(tr *troupe) {
			go func() {
				tr.until("the command runs", func() bool { return tr.witness("begun") != "" })
				j := tr.world.only()
				how(j)
				j.kill()
			}()
		}
	}
	for _, c := range []struct {
		name    string
		prepare func(tr *troupe)
		script  string
		status  sentry.Status
		reason  []string
		steps   string
	}{
		{
			"the pod is evicted", kill(func(j *podJob) { j.taken = "Evicted" }), begun,
			sentry.Interrupted,
			[]string{"was taken away (Evicted), while c1 ran"},
			"job:succeeded clone:succeeded c1:interrupted",
		},
		{
			"the pod is killed for memory", kill(func(j *podJob) { j.oom = true }), begun,
			sentry.Failed,
			[]string{"OOMKilled", "64Mi", "while c1 ran"},
			"job:succeeded clone:succeeded c1:failed",
		},
		{
			"a command is killed for memory", func(tr *troupe) { tr.world.oom = true }, `kill -9 $$`,
			sentry.Failed,
			[]string{"SIGKILL", "OOMKilled", "64Mi"},
			"job:succeeded clone:succeeded c1:failed",
		},
		{
			"the pod fills its disk, and is told to end", func(tr *troupe) {
				go func() {
					tr.until("the command runs", func() bool { return tr.witness("begun") != "" })
					j := tr.world.only()
					j.own = true
					_ = j.cmd.Process.Signal(syscall.SIGTERM)
				}()
			}, begun,
			sentry.Failed,
			[]string{"was evicted for what it did itself, while c1 ran: it filled its disk"},
			"job:succeeded clone:succeeded c1:failed",
		},
		{
			"the runner is killed by nobody knows whom", kill(func(*podJob) {}), begun,
			sentry.Failed,
			[]string{"ended with exit code -1 (Error), while c1 ran"},
			"job:succeeded clone:succeeded c1:failed",
		},
		{
			"no image", func(tr *troupe) { tr.world.pending, tr.world.never = "ImagePullBackOff: no such image", true }, begun,
			sentry.Failed,
			[]string{"cannot start: ImagePullBackOff: no such image"},
			"job:failed",
		},
		{
			"a quota has no room", func(tr *troupe) {
				tr.world.refuse = &kube.JobError{Code: 403, Reason: "QuotaExceeded", Message: "exceeded quota: few"}
			}, begun,
			sentry.Failed,
			[]string{"cannot create Job qa/sentry-1-x-1-a1-", "exceeded quota: few"},
			"job:failed",
		},
		{
			"the stream is dropped, and the connection for the assignment cut off",
			func(tr *troupe) { tr.world.drop, tr.world.deaf = 7, 1 },
			`seq 3000`, sentry.Succeeded,
			[]string{"1 command succeeded"},
			"job:succeeded clone:succeeded c1:succeeded",
		},
		{
			"an image of another version", func(tr *troupe) {
				tr.world.pending = ""
				tr.world.binary = filepath.Join(tr.dir, "other")
				if err := os.WriteFile(tr.world.binary, []byte("#!/bin/sh\necho '{\"seq\":1,\"kind\":\"hello\",\"protocol\":99}'\nsleep 600\n"), 0o700); err != nil {
					tr.t.Fatal(err)
				}
			}, begun,
			sentry.Failed,
			[]string{"it speaks version 99", "must be of Sentry's own version"},
			"job:failed",
		},
		{
			"no cluster", func(tr *troupe) { tr.Clusters = nil }, begun,
			sentry.Failed,
			[]string{"cannot run as a Job"},
			"job:failed",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tr := newTroupe(t, newPodWorld(t), entries(c.script)...)
			c.prepare(tr)
			d, outcome := tr.run(t.Context())
			if outcome.Status != c.status || told(d.Steps) != c.steps {
				t.Errorf("it ended as %s (%s) with %s", outcome.Status, outcome.Reason, told(d.Steps))
			}
			for _, part := range c.reason {
				if !strings.Contains(outcome.Reason, part) {
					t.Errorf("the reason is %q: nothing of %q", outcome.Reason, part)
				}
			}
			if c.script == begun && len(tr.steps(d)) == 2 && tr.log(tr.steps(d)[1]) != "begun\n" {
				t.Errorf("the log is %q", tr.log(tr.steps(d)[1]))
			}
			if c.status == sentry.Succeeded && tr.steps(d)[1].Bytes != int64(len(tr.log(tr.steps(d)[1]))) {
				t.Errorf("the log has %d bytes of %d", len(tr.log(tr.steps(d)[1])), tr.steps(d)[1].Bytes)
			}
		})
	}
}

// TestJobWaits: why a pod does not start yet is in the step while it waits, and in its log. Whoever cancels then leaves
// nothing behind.
func TestJobWaits(t *testing.T) {
	tr := newTroupe(t, newPodWorld(t), entries(`true`)...)
	tr.world.pending = "0/3 nodes are available"
	ctx, end := context.WithCancelCause(t.Context())
	go func() {
		tr.until("it is told why it waits", func() bool {
			tr.mu.Lock()
			defer tr.mu.Unlock()
			n := len(tr.saved)
			return n > 0 && tr.saved[n-1].Reason == "0/3 nodes are available"
		})
		end(&canceledError{"ann", ""})
	}()
	d, outcome := tr.run(ctx)
	if outcome.Status != sentry.Canceled || told(d.Steps) != "job:canceled" || !strings.Contains(tr.log(d.Steps[0]), "0/3 nodes are available\n") {
		t.Errorf("it ended as %s (%s) with %s and the log %q", outcome.Status, outcome.Reason, told(d.Steps), tr.log(d.Steps[0]))
	}
	if tr.world.only() != nil {
		t.Error("the Job is left")
	}
}

// orphan gives the next process a deployment whose Job was there when the last one ended.
func (tr *troupe) orphan() {
	d := tr.job.Deployment
	d.Job = &sentry.JobRef{Namespace: "qa", Name: "sentry-gone", UID: "u", Attempt: 1}
	d.Steps = []sentry.Step{
		{Attempt: 1, Ordinal: 1, Kind: sentry.StepTrack, Name: jobStep, Status: sentry.Succeeded},
		{Attempt: 1, Ordinal: 2, Kind: sentry.StepClone, Name: "clone", Status: sentry.Running},
	}
	tr.saved = []sentry.Deployment{d}
	tr.adopt()
}

// TestOutageIsTold: while nobody knows what becomes of a Job, the deployment says so.
func TestOutageIsTold(t *testing.T) {
	tr := newTroupe(t, newPodWorld(t), entries(`true`)...)
	tr.world.outage = "the API server does not answer"
	d, outcome := tr.run(t.Context())
	if outcome.Status != sentry.Succeeded || !slices.ContainsFunc(tr.saved, func(d sentry.Deployment) bool { return d.Reason == tr.world.outage }) {
		t.Errorf("it ended as %s (%s) with %s", outcome.Status, outcome.Reason, told(d.Steps))
	}
	if last := tr.saved[len(tr.saved)-1]; last.Reason != "" {
		t.Errorf("it still says %q", last.Reason)
	}
}

// TestJobIsGone: a Job that was taken away while nobody looked has interrupted its attempt. Its pod may go on for a while: that
// is waited for, and what it has created is found.
func TestJobIsGone(t *testing.T) {
	tr := newTroupe(t, newPodWorld(t), entries(`true`)...)
	tr.world.found = []sentry.PipelineRun{{Namespace: "qa", Name: "build-1", UID: "r1", Status: sentry.Succeeded}}
	tr.orphan()
	d, outcome := tr.run(t.Context())
	if outcome.Status != sentry.Interrupted || !strings.Contains(outcome.Reason, "qa/sentry-gone is gone") || told(d.Steps) != "job:succeeded clone:interrupted cancel:succeeded" {
		t.Errorf("it ended as %s (%s) with %s", outcome.Status, outcome.Reason, told(d.Steps))
	}
	if len(tr.world.ended) != 1 || len(d.PipelineRuns) != 1 || d.PipelineRuns[0].Name != "build-1" || d.PipelineRuns[0].Attempt != 1 {
		t.Errorf("its pod was waited for: %v; it has created %+v", tr.world.ended, d.PipelineRuns)
	}
}

// TestJobThatEndsSentry: a Job that is taken over again and again, as Sentry is killed each time before it has told anything new,
// is ended, and no other attempt takes its place. A Sentry that is told to stop has survived it.
func TestJobThatEndsSentry(t *testing.T) {
	tr := newTroupe(t, newPodWorld(t), entries(`echo x > "$WITNESS/begun"; sleep 600`)...)
	tr.world.found = []sentry.PipelineRun{{Namespace: "qa", Name: "build-1", UID: "r1", Status: sentry.Succeeded}}
	stopped := func() (sentry.Deployment, Outcome) {
		ctx, end := context.WithCancelCause(t.Context())
		go func() {
			tr.until("the command runs", func() bool {
				tr.mu.Lock()
				defer tr.mu.Unlock()
				n := len(tr.saved)
				return n > 0 && len(tr.saved[n-1].Steps) == 3
			})
			end(errShutdown)
		}()
		d, outcome := tr.run(ctx)
		tr.saved = append(tr.saved, d)
		return d, outcome
	}
	killed := func() {
		ctx, end := context.WithCancelCause(t.Context())
		tr.saving = func(sentry.Deployment) error { end(errDied); return nil } // just when it has taken over
		tr.run(ctx)
		tr.adopt()
	}
	stopped()
	tr.adopt()
	for range sentry.MaxInterruptions - 1 {
		killed()
	}
	if d, outcome := stopped(); outcome.Status != sentry.Running || d.Job.Adopted != 0 {
		t.Fatalf("a start ended as %s (%s) with %+v", outcome.Status, outcome.Reason, d.Job)
	}
	tr.adopt()
	for range sentry.MaxInterruptions {
		killed()
	}
	d, outcome := tr.run(t.Context())
	if outcome.Status != sentry.Interrupted || !strings.Contains(outcome.Reason, "Sentry was killed 4 times") || told(tr.steps(d)) != "clone:succeeded c1:interrupted cancel:succeeded" {
		t.Errorf("it ended as %s (%s) with %s", outcome.Status, outcome.Reason, told(d.Steps))
	}
	if tr.world.only() != nil || len(d.PipelineRuns) != 1 || d.PipelineRuns[0].Name != "build-1" {
		t.Errorf("its Job is left: %v; it has created %+v", tr.world.only(), d.PipelineRuns)
	}
}

// TestJobInAnotherCluster: of a Job that was made in another cluster than the one that is configured now nobody knows how it
// ends. No other attempt takes its place, for it may go on; and nobody claims to have ended it.
func TestJobInAnotherCluster(t *testing.T) {
	tr := newTroupe(t, newPodWorld(t), entries(`true`)...)
	tr.orphan()
	tr.job.Deployment.Job.Cluster = &sentry.ClusterID{Server: "https://old", UID: "another one"}
	d, outcome := tr.run(t.Context())
	if outcome.Status != sentry.Interrupted || !strings.Contains(outcome.Reason, "another cluster: https://old (UID another one)") || !d.Job.Lost || tr.world.starts != 0 {
		t.Errorf("it ended as %s (%s); Job %+v, %d were made", outcome.Status, outcome.Reason, d.Job, tr.world.starts)
	}
	_, undone := tr.Abandon(t.Context(), tr.job, func(sentry.Deployment) error { return nil })
	if !strings.Contains(undone, "qa/sentry-gone may still run") || !strings.Contains(undone, "another cluster") {
		t.Errorf("left undone: %q", undone)
	}
}

// TestCancelWhileAJobIsLookedFor: whoever cancels an attempt of which it is not known yet whether its Job is there ends that.
func TestCancelWhileAJobIsLookedFor(t *testing.T) {
	tr := newTroupe(t, newPodWorld(t), entries(`true`)...)
	tr.world.silent = true
	tr.orphan()
	ctx, end := context.WithCancelCause(t.Context())
	end(&canceledError{"ann", ""})
	d, outcome := tr.run(ctx)
	if outcome.Status != sentry.Canceled || told(d.Steps) != "job:succeeded clone:canceled" || len(tr.world.ended) != 1 || tr.world.ended[0] != "sentry-gone" {
		t.Errorf("it ended as %s (%s) with %s; ended were %v", outcome.Status, outcome.Reason, told(d.Steps), tr.world.ended)
	}
}

// TestJobWithoutLastWords: where what a runner told last cannot be read, nobody knows how the attempt ended: it has not failed.
func TestJobWithoutLastWords(t *testing.T) {
	tr := newTroupe(t, newPodWorld(t), crashed()...)
	ctx, end := context.WithCancelCause(t.Context())
	go func() {
		tr.until("the first command runs", func() bool { return tr.witness("one") != "" })
		end(errShutdown)
	}()
	d, _ := tr.run(ctx)
	tr.saved = append(tr.saved, d)
	<-tr.world.only().ended
	tr.world.lose = 1 << 30
	tr.adopt()
	d, outcome := tr.run(t.Context())
	if outcome.Status != sentry.Interrupted || !strings.Contains(outcome.Reason, "its last words cannot be read") || len(tr.world.ended) != 1 {
		t.Errorf("it ended as %s (%s) with %s", outcome.Status, outcome.Reason, told(d.Steps))
	}
}

// TestAStopAfterAVerdict: where Sentry is told to stop while it ends a Job that has failed, the steps have ended, too.
func TestAStopAfterAVerdict(t *testing.T) {
	tr := newTroupe(t, newPodWorld(t), entries(`true`)...)
	tr.world.pending, tr.world.never = "ImagePullBackOff: no such image", true
	ctx, end := context.WithCancelCause(t.Context())
	tr.world.ending = func() { end(errShutdown) }
	d, outcome := tr.run(ctx)
	if outcome.Status != sentry.Failed || told(d.Steps) != "job:failed" {
		t.Errorf("it ended as %s (%s) with %s", outcome.Status, outcome.Reason, told(d.Steps))
	}
}

// TestAStopDoesNotWaitForAJob: told to stop while it ends a Job, in vain, Sentry leaves that to the next start.
func TestAStopDoesNotWaitForAJob(t *testing.T) {
	tr := newTroupe(t, newPodWorld(t), entries(`true`)...)
	tr.world.pending, tr.world.stuck = "0/3 nodes are available", true
	stop := make(chan struct{})
	tr.job.Stop = stop
	ctx, end := context.WithCancelCause(t.Context())
	tr.world.ending = func() { close(stop) }
	go func() {
		tr.until("there is a Job", func() bool { return tr.world.only() != nil })
		end(&canceledError{"ann", ""})
	}()
	before := time.Now()
	d, outcome := tr.run(ctx)
	if took := time.Since(before); outcome.Status != sentry.Running || !strings.Contains(outcome.Reason, "canceled by ann") || told(d.Steps) != "job:running" || took > 30*time.Second {
		t.Errorf("after %s it ended as %s (%s) with %s", took, outcome.Status, outcome.Reason, told(d.Steps))
	}
}

// TestRunnerWithoutAnAssignment: why a runner cannot be given its assignment is told at once, and not tried for ever.
func TestRunnerWithoutAnAssignment(t *testing.T) {
	tr := newTroupe(t, newPodWorld(t))
	var told []string
	a := tr.attempt(tr.job, func(d sentry.Deployment) error { told = append(told, d.Reason); return nil }, func(error) {})
	a.cluster = tr.world
	synctest.Test(t, func(t *testing.T) {
		j := &shift{attempt: a, pod: &Pod{ServiceAccount: "runner", StartTimeout: time.Minute}, logs: map[string]*toldLog{}}
		began, n := time.Now(), 0
		hello := func() error {
			n++
			return j.hear(t.Context(), fmt.Appendf(nil, `{"seq":%d,"kind":"hello","protocol":%d}`, n, protocol))
		}
		var err error
		for err == nil && time.Since(began) < time.Hour {
			err = hello()
			_ = hello() // after an outage many come at once
			time.Sleep(helloTime)
		}
		const why = "the runner cannot be given its assignment: no service account"
		if took := time.Since(began) - helloTime; err == nil || err.Error() != why || took < time.Minute || took > time.Minute+helloTime {
			t.Errorf("after %s: %v", took, err)
		}
		if want := why + "; trying again"; len(told) != 1 || told[0] != want {
			t.Errorf("it is told %q, not %q", told, want)
		}
	})
}

// TestWhatANodeLacks: what the node of a Job lacks to run commands safely is in the log of the Job's step.
func TestWhatANodeLacks(t *testing.T) {
	tr := newTroupe(t, newPodWorld(t))
	a := tr.attempt(tr.job, func(sentry.Deployment) error { return nil }, func(error) {})
	a.cluster = tr.world
	j := &shift{attempt: a, pod: &Pod{ServiceAccount: "runner"}, ref: kube.JobRef{Namespace: "qa", Name: "j"}}
	j.beginStep()
	read, write := io.Pipe()
	defer read.Close()
	go func() {
		_ = (&Runner{Dir: t.TempDir(), Lacks: []string{"the kernel has no Landlock"}}).Run(t.Context(), strings.NewReader(""), write)
	}()
	hello, err := bufio.NewReader(read).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := j.hear(t.Context(), hello); err != nil {
		t.Fatal(err)
	}
	if got := tr.log(a.d.Steps[0]); got != "Job qa/j\non its node the kernel has no Landlock\n" {
		t.Errorf("the log is %q", got)
	}
}

// TestTokensOfJobsAreForgotten: a token that each Job has anew is not looked for as long as Sentry runs.
func TestTokensOfJobsAreForgotten(t *testing.T) {
	tr := newTroupe(t, newPodWorld(t))
	tr.world.token = "the-token-of-a-single-job"
	a := tr.attempt(tr.job, func(sentry.Deployment) error { return nil }, func(error) {})
	a.cluster = tr.world
	j := &shift{attempt: a, pod: &Pod{ServiceAccount: "runner"}}
	assignment, err := j.assignment(t.Context())
	if err != nil || assignment.Cluster.Token != tr.world.token {
		t.Fatalf("%+v, %v", assignment, err)
	}
	if logger.NewMasker(assignment.secrets()...).String(tr.world.token) == tr.world.token {
		t.Error("the runner does not mask it")
	}
	if tr.Mask.String(tr.world.token) != tr.world.token {
		t.Error("it is kept")
	}
}

// TestAbandonEndsJobs: the Job of a deployment that is not begun again is ended, and its steps with it.
func TestAbandonEndsJobs(t *testing.T) {
	tr := newTroupe(t, newPodWorld(t), entries(`echo x > "$WITNESS/begun"; sleep 600`)...)
	ctx, end := context.WithCancelCause(t.Context())
	go func() {
		tr.until("it is known that the command runs", func() bool {
			tr.mu.Lock()
			defer tr.mu.Unlock()
			n := len(tr.saved)
			return n > 0 && len(tr.saved[n-1].Steps) == 3
		})
		end(errShutdown)
	}()
	d, _ := tr.run(ctx)
	tr.saved = append(tr.saved, d)
	job := tr.world.only()
	tr.adopt()
	d, undone := tr.Abandon(t.Context(), tr.job, func(sentry.Deployment) error { return nil })
	if undone != "" || !closed(job.ended) || tr.world.only() != nil {
		t.Errorf("it is left: %q", undone)
	}
	if told(tr.steps(d)) != "clone:succeeded c1:interrupted" {
		t.Errorf("steps: %s", told(tr.steps(d)))
	}
	tr.Clusters = nil
	ctx, end = context.WithCancelCause(t.Context())
	end(errShutdown)
	if _, undone := tr.Abandon(ctx, tr.job, func(sentry.Deployment) error { return nil }); !strings.Contains(undone, "may still run: no cluster") {
		t.Errorf("without a cluster: %q", undone)
	}
}

// TestRunnerWaits: a runner says that it waits until it has an assignment, whatever else it is sent, and ends where none
// can come any more.
func TestRunnerWaits(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	out := filepath.Join(t.TempDir(), "out")
	file, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	ended := make(chan error, 1)
	go func() { ended <- (&Runner{Dir: t.TempDir()}).Run(t.Context(), read, file) }()
	for _, line := range []string{"", "garbage", `{"protocol":2,"rep`, `{}`} {
		if _, err := fmt.Fprintln(write, line); err != nil {
			t.Fatal(err)
		}
	}
	write.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, errNoAssignment) {
			t.Errorf("it ended by %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it goes on")
	}
	text, err := os.ReadFile(out)
	if err != nil || string(text) != fmt.Sprintf(`{"seq":1,"kind":"hello","protocol":%d}`, protocol)+"\n" {
		t.Errorf("it said %q: %v", text, err)
	}
}

// TestJobToken: the token with which a Job reaches the cluster is asked for as long as its deployment may take, and no longer.
func TestJobToken(t *testing.T) {
	world := newPodWorld(t)
	tr := newTroupe(t, world, crashed()...)
	tr.job.Pod.ServiceAccount = "runner"
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	asked := make(chan time.Duration, 1)
	world.lifetime = func(lifetime time.Duration) {
		select {
		case asked <- lifetime:
		default:
		}
		cancel() // it is given none
	}
	tr.run(ctx)
	if got, most := <-asked, time.Minute+tr.job.Global.Grace+jobMargin; got <= 0 || got > most {
		t.Errorf("a token is asked for %s, not for %s", got, most)
	}
}
