package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sentry/internal/command"
	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// sendAgain is how long a runner that was sent its assignment may go on asking for it: what it says may be from before.
const sendAgain = 2 * helloTime

// maxAlien is how much is kept of a line that is no message, in bytes.
const maxAlien = 1000

// denials is how often at least, and with what pause, it is tried to give a runner its assignment.
const (
	denials     = 10
	denialPause = helloTime / 2
)

// denial is why a runner cannot be given its assignment.
type denial struct {
	since, last time.Time // of the first time, and the last; zero for none
	times       int
}

// hear takes one line of what the pod prints. Lines may come again, and some may have been lost.
func (j *shift) hear(ctx context.Context, line []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var m message
	if json.Unmarshal(line, &m) != nil || m.Seq == 0 {
		if text := strings.TrimSpace(logger.SanitizeLine(j.Mask.String(string(line)))); text != "" {
			j.alien = strings.ToValidUTF8(text[:min(len(text), maxAlien)], "")
			j.attempt.log().Debug("the runner", "said", j.alien)
		}
		return nil
	}
	if m.Seq <= j.seq {
		return nil
	}
	j.seq = m.Seq
	switch m.Kind {
	case sayHello:
		return j.greet(ctx, m)
	case sayState:
		return j.take(m)
	case sayLog:
		return j.write(m)
	case sayDone:
		if m.Outcome == nil || !m.Outcome.Status.Terminal() || j.done != nil {
			return nil
		}
		if err := j.take(m); err != nil {
			return err
		}
		j.done = m.Outcome
	}
	return nil
}

// greet gives a runner its assignment. What fails is tried again when it asks again.
func (j *shift) greet(ctx context.Context, m message) error {
	if m.Protocol != protocol {
		return fmt.Errorf("it speaks version %d, and not %d: kubernetes.jobs.image must be of Sentry's own version", m.Protocol, protocol)
	}
	if j.given || time.Since(j.asked) < sendAgain || time.Since(j.denied.last) < denialPause {
		return nil
	}
	// Saved before it is sent: from then on the steps are for the runner to tell.
	if j.start != 0 {
		for _, lack := range m.Lacks {
			fmt.Fprintf(j.log, "on its node %s\n", logger.SanitizeLine(lack))
		}
		j.endStep(Outcome{sentry.Succeeded, "its pod runs"})
		if err := j.keep.save(j.state()); err != nil {
			return err
		}
	}
	a, err := j.assignment(ctx)
	var line []byte
	if err == nil {
		line, err = json.Marshal(a)
	}
	if err == nil {
		j.sent = true
		err = j.cluster.SendToJob(ctx, j.ref, line)
	}
	if err != nil {
		return j.deny(ctx, err)
	}
	j.asked, j.denied = time.Now(), denial{}
	j.keep.tell("")
	return nil
}

// deny tells that a runner cannot be given its assignment now. It gives an error where that was so for as long as a Job may
// take to start, although the runner could be heard.
func (j *shift) deny(ctx context.Context, err error) error {
	j.denied.last = time.Now()
	if j.denied.times++; j.denied.times == 1 {
		j.denied.since = j.denied.last
	}
	if ctx.Err() != nil {
		return nil
	}
	why := j.Mask.String(logger.SanitizeLine(fmt.Sprintf("the runner cannot be given its assignment: %v", err)))
	if limit := j.pod.StartTimeout; limit > 0 && j.denied.times >= denials && time.Since(j.denied.since) >= limit {
		return errors.New(why)
	}
	j.attempt.log().Warn("cannot give the runner its assignment; trying again", "job", j.ref.String(), logger.KeyError, err)
	j.keep.tell(why + "; trying again")
	return nil
}

// take takes over how far the runner is.
func (j *shift) take(m message) error {
	j.given = true
	if m.Deployment == nil || m.Seq <= j.d.Job.Seq {
		return nil // saved before
	}
	if err := j.adoptSteps(m.Deployment.Steps); err != nil {
		return err
	}
	j.d.Source = m.Deployment.Source
	job := *j.d.Job
	job.Seq, job.Adopted = m.Seq, 0
	j.d.Job = &job
	return j.keep.take(j.state(), m)
}

// adoptSteps takes over the steps of the runner. What has ended stays as it is. One that was cut off in the pod has not
// ended yet: how it did is for the controller to say, who knows why.
func (j *shift) adoptSteps(told []sentry.Step) error {
	for i, step := range told {
		if step.Attempt != j.d.Attempt || step.Ordinal != i+1 || i > len(j.d.Steps) {
			return fmt.Errorf("the runner tells of a step %d of attempt %d", step.Ordinal, step.Attempt)
		}
		j.setLog(&step)
		if l := j.logs[path.Base(step.Log)]; l != nil && l.log != nil {
			step.Dropped = l.dropped
		}
		if step.Status == sentry.Interrupted {
			step.Status, step.Reason, step.FinishedAt = sentry.Running, "", time.Time{}
		}
		switch {
		case i == len(j.d.Steps):
			j.d.Steps = append(j.d.Steps, step)
		case !j.d.Steps[i].Status.Terminal():
			j.d.Steps[i] = step
		}
	}
	return nil
}

// take takes over how far the attempt is, and the pipeline runs of it that a runner has recorded.
func (k *keeper) take(d sentry.Deployment, m message) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended {
		return errAttemptEnded
	}
	runs := slices.DeleteFunc(slices.Clone(k.runs), func(r sentry.PipelineRun) bool {
		return r.Attempt == k.attempt && (m.Kind == sayDone || slices.Contains(m.Dropped, r.Nonce))
	})
	for _, run := range m.Deployment.PipelineRuns {
		if run.Attempt != k.attempt {
			continue
		}
		at := slices.IndexFunc(runs, func(r sentry.PipelineRun) bool { return r.Attempt == k.attempt && r.Nonce == run.Nonce })
		switch {
		case at >= 0:
			runs[at] = run
		case len(runs) >= 2*maxPipelineRuns:
			return errors.New("the runner tells of more pipeline runs than it may create")
		default:
			runs = append(runs, run)
		}
		if run.UID != "" {
			k.created(run.Namespace)
		}
	}
	k.last, k.runs = d, runs
	return k.flush()
}

// toldLog is the log of a step that a runner tells of.
type toldLog struct {
	log     *command.StepLog // nil where it was complete before
	masked  *logger.MaskWriter
	next    int64 // offset of what comes next
	dropped int64
	open    bool
}

// maxTold is how far a log may go that a runner tells of, in bytes: what is reckoned with it does not overflow.
const maxTold = 1 << 50

// write adds to the log of a step. What is missing of it is told in it.
func (j *shift) write(m message) error {
	if m.Offset < 0 || m.Offset > maxTold {
		return fmt.Errorf("the runner tells of byte %d of log %q; there are none before 0, nor after %d", m.Offset, m.Log, int64(maxTold))
	}
	l := j.logs[m.Log]
	if l == nil {
		var err error
		if l, err = j.openTold(m); err != nil {
			return err
		}
		j.logs[m.Log] = l
	}
	if !l.open {
		return nil
	}
	if m.Offset > l.next {
		_ = l.masked.Flush()
		l.log.Skip(m.Offset - l.next)
		l.next = m.Offset
	}
	text := m.Text[min(int64(len(m.Text)), l.next-m.Offset):]
	_, _ = l.masked.Write(text) // the log remembers what it could not keep
	l.next += int64(len(text))
	if m.End {
		return l.close()
	}
	return nil
}

// close ends the log as it is told.
func (l *toldLog) close() error {
	if !l.open {
		return nil
	}
	l.open = false
	_ = l.masked.Flush()
	l.dropped = l.log.Dropped()
	return l.log.Close()
}

// leave closes the log for somebody to go on with it. What may be the beginning of a secret is not in it then: it comes again.
func (l *toldLog) leave() error {
	if !l.open {
		return nil
	}
	l.open = false
	return l.log.Leave()
}

// openTold goes on with the log of a step, or begins it. What was heard before a crash stays, and is not taken again.
func (j *shift) openTold(m message) (*toldLog, error) {
	if m.Log != path.Base(m.Log) || !strings.HasSuffix(m.Log, ".log") || strings.ContainsRune(m.Log, filepath.Separator) {
		return nil, fmt.Errorf("the runner tells of a log %q", m.Log)
	}
	// What is missing of it is told in it: to go on with it would be to reckon with the bytes of that.
	if slices.ContainsFunc(j.d.Steps, func(s sentry.Step) bool { return path.Base(s.Log) == m.Log && s.Status.Terminal() && s.Dropped > 0 }) {
		return &toldLog{}, nil
	}
	log, taken, err := command.ResumeLog(filepath.Join(j.attempt.logs(), m.Log))
	if err != nil {
		return nil, err
	}
	if log == nil { // it was complete
		return &toldLog{}, nil
	}
	next := min(m.Offset, taken)
	log.Repeat(taken - next)
	return &toldLog{log: log, masked: j.Mask.Writer(log), next: next, open: true}, nil
}

// suspend closes the logs that are open, for the next start to go on with them.
func (j *shift) suspend() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, l := range j.logs {
		_ = l.leave()
	}
	j.uncount()
}

// close completes the logs that are open. Steps that were cut off have what came of theirs.
func (j *shift) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, l := range j.logs {
		_ = l.close()
	}
	for i := range j.d.Steps {
		step := &j.d.Steps[i]
		l := j.logs[path.Base(step.Log)]
		switch {
		case step.Status.Terminal() || i == j.start-1:
		case l != nil && l.log != nil:
			step.Bytes, step.Dropped = l.next, l.dropped
		default: // it has printed nothing that was heard, unless an earlier process did
			if _, err := os.Stat(j.logPath(step)); errors.Is(err, fs.ErrNotExist) {
				j.openLog(step).close()
			}
		}
	}
}
