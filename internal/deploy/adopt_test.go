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
