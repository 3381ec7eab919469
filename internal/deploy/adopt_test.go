package deploy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/config"
	"sentry/internal/kube"
	"sentry/internal/sentry"
)

// kill ends the process as SIGKILL does, and lets the next one begin.
func (s *stage) kill() {
	s.t.Helper()
	s.life.mu.Lock()
	s.life.die()
	s.life.mu.Unlock()
	s.until(true, func() bool { return true })
}

// alive tells how many pipeline runs go on.
func (s *stage) alive() int { return len(s.world.alive(func(*fakeRun) bool { return false })) }

// begun tells which commands have begun, as DEPLOYMENT/ATTEMPT.
func (s *stage) begun() []string {
	s.witness.mu.Lock()
	defer s.witness.mu.Unlock()
	return slices.Clone(s.witness.starts)
}

// last gives the name and the status of the last step.
func (s *stage) last() (string, sentry.Status) {
	steps := s.rollout().Deployments[0].Steps
	if len(steps) == 0 {
		return "", ""
	}
	return steps[len(steps)-1].Name, steps[len(steps)-1].Status
}

// TestToFollowOnIsNoInterruption: however often Sentry ends while pipeline runs are followed, they are followed to their
// end; what interrupts commands is counted as ever.
func TestToFollowOnIsNoInterruption(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, retryPolicy, config.Command{Run: "run a succeeded 600; sleep 20s"})
		s.begin(0, false)
		s.change()
		s.until(false, func() bool { return s.alive() == 1 })
		s.kill() // among the commands
		for range 2 * sentry.MaxInterruptions {
			s.until(false, func() bool { name, status := s.last(); return name == trackStep && status == sentry.Running })
			time.Sleep(10 * time.Second)
			s.kill()
		}
		s.until(false, s.ended)
		r := s.rollout()
		if r.Status != sentry.Succeeded || r.Interruptions != 1 || r.Attempt != 2+2*sentry.MaxInterruptions || r.Deployments[0].Attempt != 2 {
			t.Errorf("it ended as %s (%s) after %d interruptions and %d starts; attempt %d of the deployment", r.Status, r.Reason, r.Interruptions, r.Attempt, r.Deployments[0].Attempt)
		}
		s.end()
		told := s.log.String()
		for what, times := range map[string]int{`level=WARN msg="rollout begins again"`: 1, `level=INFO msg="rollout goes on in the same attempt"`: 2 * sentry.MaxInterruptions} {
			whole := regexp.MustCompile(what + ` group=\S+ rollout=` + r.ID + ` attempt=2\n`)
			if n := len(whole.FindAllString(told, -1)); n != times {
				t.Errorf("%s is told %d times with attempt 2, want %d:\n%s", what, n, times, told)
			}
		}
	})
}

// TestAStopDoesNotWaitForACancellation: told to stop while it cancels pipeline runs after a verdict, in vain, Sentry leaves
// that to the next start: the verdict stands, no command runs again, and nothing is left running.
func TestAStopDoesNotWaitForACancellation(t *testing.T) {
	hold := retryPolicy
	hold.OnInterrupt = sentry.Hold
	for _, c := range []struct {
		name    string
		policy  sentry.Policy
		command string
		timeout time.Duration
		status  sentry.Status
	}{
		{"followed, the timeout", retryPolicy, "run a succeeded 6000", time.Minute, sentry.TimedOut},
		{"followed, the timeout, hold", hold, "run a succeeded 6000", time.Minute, sentry.TimedOut},
		{"the command, the timeout", retryPolicy, "run a succeeded 6000; sleep 6000s", time.Minute, sentry.TimedOut},
		{"the command failed", retryPolicy, "run a succeeded 6000; sleep 60s; exit 3", 0, sentry.Failed},
		{"the command failed, hold", hold, "run a succeeded 6000; sleep 60s; exit 3", 0, sentry.Failed},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, c.policy, config.Command{Run: c.command})
				s.repo().Deploy.Timeout = c.timeout
				s.begin(0, false)
				s.change()
				s.until(false, func() bool { return s.alive() == 1 })
				s.away(true)
				s.until(false, func() bool { name, _ := s.last(); return name == cancelStep })
				before := time.Now()
				s.end()
				if took := time.Since(before); took > 5*time.Second {
					t.Errorf("to stop took %s", took)
				}
				s.begin(0, false)
				if r := s.rollout(); r.Status.Terminal() {
					t.Errorf("it ended as %s: %s", r.Status, r.Reason)
				}
				s.away(false)
				s.until(false, s.ended)
				r := s.rollout()
				d := r.Deployments[0]
				if d.Status != c.status || r.Status != c.status || d.PipelineRuns[0].Status != sentry.Canceled {
					t.Errorf("it ended as %s (%s), the deployment as %s (%s), the run as %s", r.Status, r.Reason, d.Status, d.Reason, d.PipelineRuns[0].Status)
				}
				if len(s.begun()) != 1 || r.Interruptions != 0 {
					t.Errorf("commands began %v, %d interruptions", s.begun(), r.Interruptions)
				}
				s.end()
			})
		})
	}
}

// TestAVerdictStandsOverACancellation: what had failed before a person canceled the rollout has failed, also where Sentry is
// killed while it cancels the pipeline runs.
func TestAVerdictStandsOverACancellation(t *testing.T) {
	for _, earlier := range []bool{true, false} {
		t.Run(fmt.Sprintf("before the kill: %t", earlier), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, retryPolicy, config.Command{Run: "run a succeeded 6000; sleep 60s; exit 3"})
				cancel := func() {
					if _, err := s.life.service.Cancel(t.Context(), s.rollout().ID, "ada", ""); err != nil {
						t.Error(err)
					}
				}
				s.begin(0, false)
				s.change()
				s.until(false, func() bool { return s.alive() == 1 })
				s.away(true)
				s.until(false, func() bool { name, _ := s.last(); return name == cancelStep })
				if earlier {
					cancel()
				}
				s.kill()
				if !earlier {
					cancel()
				}
				s.away(false)
				s.until(false, s.ended)
				r := s.rollout()
				if d := r.Deployments[0]; d.Status != sentry.Failed || r.Status != sentry.Failed || d.PipelineRuns[0].Status != sentry.Canceled {
					t.Errorf("it ended as %s (%s), the deployment as %s (%s), the run as %s", r.Status, r.Reason, d.Status, d.Reason, d.PipelineRuns[0].Status)
				}
				if len(s.begun()) != 1 {
					t.Errorf("commands began %v", s.begun())
				}
				s.end()
			})
		})
	}
}

// TestHeldAndKilledIsInterrupted: where a stop ends what is followed, the verdict is that it was interrupted, also where
// Sentry is killed before the pipeline runs have ended.
func TestHeldAndKilledIsInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := retryPolicy
		hold.OnInterrupt = sentry.Hold
		s := newStage(t, hold, config.Command{Run: "run a succeeded 600"})
		s.begin(0, false)
		s.change()
		s.until(false, func() bool { name, _ := s.last(); return name == trackStep })
		s.world.mu.Lock()
		s.world.stuck = true
		s.world.mu.Unlock()
		s.stop()
		s.until(false, func() bool {
			s.world.mu.Lock()
			defer s.world.mu.Unlock()
			return s.world.runs[0].canceled
		})
		time.Sleep(time.Second)
		s.world.mu.Lock()
		s.world.stuck = false
		s.world.mu.Unlock()
		s.kill()
		s.until(false, s.ended)
		r := s.rollout()
		if d := r.Deployments[0]; r.Status != sentry.Interrupted || d.Status != sentry.Interrupted || d.PipelineRuns[0].Status != sentry.Canceled {
			t.Errorf("it ended as %s (%s), the run as %s", r.Status, r.Reason, d.PipelineRuns[0].Status)
		}
		s.end()
	})
}

// TestTheTimeoutGoesOn: what went on without Sentry has taken its time: the timeout of a deployment does not begin anew with each
// start that follows it on. What had ended before is not ended by that.
func TestTheTimeoutGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, retryPolicy, config.Command{Run: "run a succeeded 60000"})
		s.repo().Deploy.Timeout = 5 * time.Minute
		s.begin(0, false)
		s.change()
		for n := 0; n < 8 && !s.ended(); n++ {
			s.until(false, func() bool {
				name, status := s.last()
				return name == trackStep && status == sentry.Running || s.ended()
			})
			time.Sleep(time.Minute)
			s.kill()
		}
		s.until(false, s.ended)
		d := s.rollout().Deployments[0]
		if took := d.FinishedAt.Sub(d.StartedAt); d.Status != sentry.TimedOut || took < 5*time.Minute || took > 5*time.Minute+2*catchUp {
			t.Errorf("it ended as %s (%s) after %s", d.Status, d.Reason, took)
		}
		s.end()
	})
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, retryPolicy, config.Command{Run: "run a succeeded 60"})
		s.repo().Deploy.Timeout = 5 * time.Minute
		s.begin(0, false)
		s.change()
		s.until(false, func() bool { name, _ := s.last(); return name == trackStep })
		s.end()
		time.Sleep(time.Hour)
		s.begin(0, false)
		s.until(false, s.ended)
		if d := s.rollout().Deployments[0]; d.Status != sentry.Succeeded {
			t.Errorf("it ended as %s (%s)", d.Status, d.Reason)
		}
		s.end()
	})
}

// TestTimeForAnAttempt: the same holds for one that is in a Job; one that begins has all of its time.
func TestTimeForAnAttempt(t *testing.T) {
	now := time.Now()
	s := &Service{now: func() time.Time { return now }}
	for name, c := range map[string]struct {
		how   Job
		began time.Duration // before now
		want  time.Duration
	}{
		"it begins":                    {Job{}, time.Hour, 10 * time.Minute},
		"in a Job":                     {Job{Adopt: true}, 4 * time.Minute, 6 * time.Minute},
		"in a Job, for long":           {Job{Adopt: true}, time.Hour, catchUp},
		"in a Job, the clock was back": {Job{Adopt: true}, -time.Hour, 10 * time.Minute},
		"its runs are followed":        {Job{Resume: true}, 4 * time.Minute, 6 * time.Minute},
	} {
		d := sentry.Deployment{Attempt: 2, Steps: []sentry.Step{
			{Attempt: 1, StartedAt: now.Add(-24 * time.Hour)}, {Attempt: 2, StartedAt: now.Add(-c.began)}, {Attempt: 2, StartedAt: now},
		}}
		if got := s.timeFor(d, c.how, 10*time.Minute); got != c.want {
			t.Errorf("%s: it has %s", name, got)
		}
	}
	for _, made := range []bool{false, true} {
		d := sentry.Deployment{Attempt: 1, Job: &sentry.JobRef{Attempt: 1}, Steps: []sentry.Step{{Attempt: 1, StartedAt: now.Add(-time.Hour)}}}
		want := 10 * time.Minute
		if made {
			d.Job.UID, want = "u1", catchUp
		}
		if got := s.timeFor(d, Job{Adopt: true}, 10*time.Minute); got != want {
			t.Errorf("known to be made: %v; its Job has %s", made, got)
		}
	}
	if got := s.timeFor(sentry.Deployment{Attempt: 1}, Job{Adopt: true}, time.Minute); got != time.Minute {
		t.Errorf("without a step it has %s", got)
	}
}

// reachable has the cluster be had again, or not for a reason.
func (s *stage) reachable(why error) {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	s.world.missing = why
}

// TestWithoutAClusterItIsUnknown: a cluster that cannot be had at the start, for a moment, decides nothing; the deployment
// waits for it as long as it may take, and says so.
func TestWithoutAClusterItIsUnknown(t *testing.T) {
	for _, c := range []struct {
		name    string
		missing error
		away    time.Duration
		status  sentry.Status
		told    string
	}{
		{"unreadable for a moment", errors.New("cannot read the kubeconfig"), 5 * time.Minute, sentry.Succeeded, "cannot read the kubeconfig; what became of the pipeline runs is unknown"},
		{"not configured for a moment", kube.ErrNoCluster, 5 * time.Minute, sentry.Succeeded, "no cluster is configured any more; what became of the pipeline runs is unknown"},
		{"unreadable for good", errors.New("cannot read the kubeconfig"), time.Hour, sentry.TimedOut, "cannot read the kubeconfig; what became of the pipeline runs is unknown"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, retryPolicy, config.Command{Run: "run a succeeded 60"})
				s.begin(0, false)
				s.change()
				s.until(false, func() bool { name, _ := s.last(); return name == trackStep })
				s.reachable(c.missing)
				s.kill()
				time.Sleep(2 * time.Minute)
				if r := s.rollout(); r.Status != sentry.Running || r.Deployments[0].Reason != c.told {
					t.Errorf("it is %s: %q", r.Status, r.Deployments[0].Reason)
				}
				time.Sleep(c.away - 2*time.Minute)
				s.reachable(nil)
				s.until(false, s.ended)
				r := s.rollout()
				if d := r.Deployments[0]; r.Status != c.status || strings.Contains(d.Reason, "unknown") || len(s.begun()) != 1 {
					t.Errorf("it ended as %s (%s), commands began %v", r.Status, r.Reason, s.begun())
				}
				s.end()
			})
		})
	}
}

// TestACancellationSaysWhatItWaitsFor: where the cluster answers again when the time of a deployment is over, it is not said
// of the cancellation that follows that the cluster does not.
func TestACancellationSaysWhatItWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, retryPolicy, config.Command{Run: "run a succeeded 6000"})
		s.repo().Deploy.Timeout = time.Minute + time.Second/2 // between two looks at the cluster
		s.begin(0, false)
		s.change()
		s.until(false, func() bool { name, _ := s.last(); return name == trackStep })
		s.away(true)
		s.until(false, func() bool { return s.rollout().Deployments[0].Reason != "" })
		began := s.rollout().Deployments[0].StartedAt
		time.Sleep(time.Until(began.Add(time.Minute + time.Second/4)))
		s.world.mu.Lock()
		s.world.down, s.world.stuck = false, true
		s.world.mu.Unlock()
		time.Sleep(time.Second)
		if name, status := s.last(); name != cancelStep || status != sentry.Running {
			t.Fatalf("step %s is %s", name, status)
		}
		if reason := s.rollout().Deployments[0].Reason; reason != "" {
			t.Errorf("it is said of the cancellation: %s", reason)
		}
		s.world.mu.Lock()
		s.world.stuck = false
		s.world.mu.Unlock()
		s.until(false, s.ended)
		if r := s.rollout(); r.Status != sentry.TimedOut {
			t.Errorf("it ended as %s (%s)", r.Status, r.Reason)
		}
		s.end()
	})
}

// copies are the copies of logs, by their names.
type copies map[string]*copied

type copied struct {
	strings.Builder
	closed int
}

func (c *copied) Close() error { c.closed++; return nil }

// TestCopiesOfLogsAreWhole: whoever gets a copy of the logs gets all of them, in order, before they are closed: also that pipeline
// runs of a try which failed are canceled.
func TestCopiesOfLogsAreWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, retryPolicy, config.Command{Run: "run a succeeded 60; fail-once", Retries: 1})
		got := copies{}
		s.copyLog = func(name string) io.WriteCloser {
			if got[name] != nil {
				t.Errorf("the copy of %s begins again", name)
			}
			got[name] = &copied{}
			return got[name]
		}
		s.begin(0, false)
		s.change()
		s.until(false, s.ended)
		s.end()
		files, _ := filepath.Glob(filepath.Join(s.dir, "logs", "*", "*", "*.log"))
		for _, file := range files {
			text, err := os.ReadFile(file)
			if c := got[filepath.Base(file)]; err != nil || c == nil || c.closed != 1 || c.String() != string(text) {
				t.Errorf("%s is %q, its copy %+v", file, text, c)
			}
		}
		const want = "output\nsentry: canceling 1 pipeline run of the try that failed\n"
		if c := got["02-c1.log"]; len(files) != 4 || c == nil || !strings.HasPrefix(c.String(), want) {
			t.Errorf("logs: %v; of the first try: %+v", files, c)
		}
	})
}

// TestWhatIsInAnotherClusterIsUnknown: where the configuration names another cluster by now, what was created in the old
// one is neither deleted nor canceled nor failed, and nothing is begun beside it.
func TestWhatIsInAnotherClusterIsUnknown(t *testing.T) {
	for name, command := range map[string]string{
		"followed":           "run a succeeded 600",
		"among the commands": "run a succeeded 600; sleep 60s",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, retryPolicy, config.Command{Run: command})
				s.begin(0, false)
				s.change()
				s.until(false, func() bool { return s.alive() == 1 })
				time.Sleep(time.Second)
				s.world.mu.Lock()
				s.world.cluster = 2
				s.world.mu.Unlock()
				s.kill()
				s.until(false, s.ended)
				r := s.rollout()
				d := r.Deployments[0]
				if r.Status != sentry.Interrupted || d.PipelineRuns[0].Status != sentry.Interrupted || !strings.Contains(d.Reason, "it was created in another cluster") {
					t.Errorf("it ended as %s: %s, %+v", r.Status, d.Reason, d.PipelineRuns)
				}
				if len(s.begun()) != 1 {
					t.Errorf("commands began %v", s.begun())
				}
				s.end()
			})
		})
	}
}

// TestACancellationThatWaitsSaysSo: while what is to be canceled before a command is tried again cannot be reached, the
// deployment tells what it waits for.
func TestACancellationThatWaitsSaysSo(t *testing.T) {
	for name, c := range map[string]struct {
		command config.Command
		kill    bool
	}{
		"a try that failed":  {config.Command{Run: "run a succeeded 6000; sleep 60s; fail-once", Retries: 1}, false},
		"an earlier attempt": {config.Command{Run: "run a succeeded 6000; sleep 60s"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				unlimited := retryPolicy
				unlimited.Timeout = 0
				s := newStage(t, unlimited, c.command)
				s.begin(0, false)
				s.change()
				s.until(false, func() bool { return s.alive() == 1 })
				s.away(true)
				if c.kill {
					s.kill()
				}
				time.Sleep(2 * time.Minute)
				if d := s.rollout().Deployments[0]; d.Status != sentry.Running || d.Reason != "the API server does not answer" {
					t.Errorf("it is %s: %q", d.Status, d.Reason)
				}
				s.away(false)
				s.until(false, func() bool { return len(s.begun()) == 2 })
				synctest.Wait()
				if d := s.rollout().Deployments[0]; d.Reason != "" {
					t.Errorf("it goes on, and says %q", d.Reason)
				}
				s.kill()
				s.end()
			})
		})
	}
}
