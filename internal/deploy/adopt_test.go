package deploy

import (
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/config"
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
				if len(s.witness.starts) != 1 || r.Interruptions != 0 {
					t.Errorf("commands began %v, %d interruptions", s.witness.starts, r.Interruptions)
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
		s.until(false, func() bool { return s.world.runs[0].canceled })
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
