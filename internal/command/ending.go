package command

import (
	"fmt"
	"syscall"
	"time"
)

// rung is one step of the ladder on which a command ends: a signal (0 for none) and the time to be gone after it.
type rung struct {
	signal syscall.Signal
	wait   time.Duration
}

// ladder gives the rungs, mildest first.
func (r *Runner) ladder(o Outcome) []rung {
	if o == Exited { // what is left is what it left behind
		return []rung{{0, settleTime}, {syscall.SIGTERM, min(r.grace, sweepGrace)}, {syscall.SIGKILL, killTime}}
	}
	return []rung{{syscall.SIGTERM, r.grace}, {syscall.SIGKILL, killTime}}
}

// end makes sure that nothing is left of the command. It gives how many processes beside the first were still there
// after that one had ended, and had to be ended.
func (r *Runner) end(t *tree, o Outcome) (swept int, err error) {
	for _, step := range r.ladder(o) {
		if step.signal != 0 {
			t.signal(step.signal)
		}
		if gone(t, step) {
			return t.swept(), nil
		}
	}
	left := t.left()
	r.log.Warn("processes of a command could not be ended", "count", left)
	return t.swept(), fmt.Errorf("%d of its processes could not be ended", left)
}

// gone waits until nothing is left of the command, or the time of the rung is over. What is killed may have started
// something just before: it is killed again and again.
func gone(t *tree, step rung) bool {
	deadline := time.NewTimer(step.wait)
	defer deadline.Stop()
	first := t.ended() // nil once it has been seen
	for pause := time.Millisecond; t.left() > 0; {
		if step.signal == syscall.SIGKILL {
			t.signal(step.signal)
		}
		again := time.NewTimer(pause)
		select {
		case <-deadline.C:
			again.Stop()
			return t.left() == 0
		case <-first:
			again.Stop()
			first, pause = nil, time.Millisecond
		case <-again.C:
			pause = min(2*pause, 50*time.Millisecond)
		}
	}
	return true
}
