package deploy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"sentry/internal/kube"
	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// shift is an attempt in a Job, as it is followed from here. The lock is for what the Job tells, which comes from goroutines
// of the cluster.
type shift struct {
	*attempt
	pod *Pod
	ref kube.JobRef
	end time.Time // when the attempt must be over; zero for no limit

	mu     sync.Mutex
	start  int       // ordinal of the step in which the Job begins; 0 once that has ended
	log    stepLog   // of it; a place to write to also when it has ended
	seq    int64     // of the last message
	asked  time.Time // when it was sent its assignment
	sent   bool      // it may have its assignment
	given  bool      // it has
	denied denial
	done   *Outcome
	alien  string // the last line that was no message: of a runner that panicked, say
	logs   map[string]*toldLog
	undone string // what could not be ended
	cut    bool   // as Sentry was told to stop meanwhile
}

// begin makes sure that there is a Job. Where there is none it gives the outcome, and false.
func (j *shift) begin(ctx context.Context) (Outcome, bool) {
	if j.job.Adopt {
		j.ref = recordedJob(j.d.Job)
		j.seq, j.sent, j.given = 0, j.ref.UID != "", j.d.Job.Seq > 0
		ref, found, err := j.cluster.FindJob(ctx, j.ref)
		switch {
		case err != nil && ctx.Err() != nil:
			return j.giveUp(ctx, "Job "+j.ref.String()+" was looked for"), false
		case err != nil:
			job := *j.d.Job
			job.Lost = true
			j.d.Job = &job
			return Outcome{sentry.Interrupted, fmt.Sprintf("nobody knows how Job %s ends: %v", j.ref, err)}, false
		case found:
			j.ref = ref
			if n := j.count(); n > sentry.MaxInterruptions {
				return j.takenAway(ctx, fmt.Sprintf("Sentry was killed %d times while it followed Job %s, which told nothing new meanwhile: it may be what ends Sentry", n, j.ref)), false
			}
			return j.known(ctx)
		case j.d.Job.UID != "":
			return j.takenAway(ctx, fmt.Sprintf("Job %s is gone", j.ref)), false
		case j.pod.Image == "":
			return Outcome{sentry.Interrupted, fmt.Sprintf("Job %s was never made, and the repository is not deployed by Jobs any more", j.ref)}, false
		}
	} else {
		namespace := j.pod.Namespace
		if namespace == "" {
			namespace = j.cluster.Namespaces()[0]
		}
		j.ref = kube.JobRef{Namespace: namespace, Name: newJobName(j.d)}
	}
	return j.create(ctx)
}

// count counts that the Job is taken over, and tells how often it was since it told something new. A crash before that is
// saved, by known, has not heard it.
func (j *shift) count() int {
	job := *j.d.Job
	job.Adopted++
	j.d.Job = &job
	return job.Adopted
}

// uncount forgets that: Sentry was told to stop, and has survived what the Job tells.
func (j *shift) uncount() {
	if j.d.Job != nil {
		job := *j.d.Job
		job.Adopted = 0
		j.d.Job = &job
	}
}

// create has the Job created. A crash after its first save leaves an intent: the name tells whether there is a Job.
func (j *shift) create(ctx context.Context) (Outcome, bool) {
	j.ref.Cluster = j.cluster.Mark(ctx, j.ref.Namespace)
	j.d.Job = &sentry.JobRef{Namespace: j.ref.Namespace, Name: j.ref.Name, Attempt: j.d.Attempt, Cluster: j.ref.Cluster}
	j.beginStep()
	if err := j.keep.save(j.state()); err != nil {
		return Outcome{sentry.Interrupted, err.Error()}, false
	}
	ref, err := j.cluster.StartJob(ctx, j.spec(ctx))
	var refused *kube.JobError
	switch {
	case err == nil:
		j.ref.UID = ref.UID
		return j.known(ctx)
	case errors.As(err, &refused):
		return Outcome{sentry.Failed, fmt.Sprintf("cannot create Job %s: %v", j.ref, err)}, false
	case ctx.Err() != nil:
		return j.giveUp(ctx, "Job "+j.ref.String()+" was created"), false
	}
	return Outcome{sentry.Failed, fmt.Sprintf("cannot create Job %s: %v", j.ref, err)}, false
}

// giveUp is the outcome where ctx ended before it was known whether there is a Job.
func (j *shift) giveUp(ctx context.Context, doing string) Outcome {
	outcome := j.endedBy(ctx, doing)
	if !j.leaves(ctx) {
		j.endJob(ctx)
	}
	return j.unless(outcome)
}

// unless is the outcome where the Job has ended; else what may still run is told. Where Sentry was told to stop before it had,
// the next start ends it if a person has canceled, which is remembered. Otherwise its own deadline does.
func (j *shift) unless(o Outcome) Outcome {
	if j.cut && o.Status == sentry.Canceled {
		return Outcome{sentry.Running, o.Reason + "; its Job is ended when Sentry starts again"}
	}
	o.Reason += j.undone
	return o
}

// known saves which Job it is. A crash after it: the Job is there, or was taken away.
func (j *shift) known(context.Context) (Outcome, bool) {
	job := *j.d.Job
	job.UID = j.ref.UID
	j.d.Job = &job
	if j.job.Adopt {
		j.resumeStep()
	}
	if err := j.keep.save(j.state()); err != nil {
		return Outcome{sentry.Interrupted, err.Error()}, false
	}
	j.attempt.log().Info("the attempt runs as a Job", "job", j.ref.String(), "adopted", j.job.Adopt)
	return Outcome{}, true
}

// beginStep begins the step in which the pod is waited for.
func (j *shift) beginStep() {
	step := j.attempt.begin(sentry.StepTrack, jobStep)
	j.start, j.log = step.Ordinal, j.openLog(step)
	fmt.Fprintf(j.log, "Job %s\n", j.ref)
}

// resumeStep begins it again where Sentry ended in it.
func (j *shift) resumeStep() {
	if j.start != 0 { // it was created just now
		return
	}
	for _, step := range j.d.Steps {
		if step.Name == jobStep && step.Status == sentry.Succeeded {
			return
		}
	}
	j.beginStep()
}

// endStep ends it.
func (j *shift) endStep(o Outcome) {
	if j.start == 0 {
		return
	}
	step := &j.d.Steps[j.start-1]
	if o.Status != sentry.Succeeded {
		fmt.Fprintln(j.log, o.Reason)
	}
	j.log.close()
	j.attempt.end(step, o)
	j.start = 0
	j.keep.tell("")
}

// waiting tells why the pod does not run yet, where people look.
func (j *shift) waiting(why string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.start == 0 {
		j.attempt.log().Warn("the Job waits", "job", j.ref.String(), "reason", why)
		return
	}
	fmt.Fprintln(j.log, why)
	j.keep.tell(logger.SanitizeLine(why))
}

// spec describes the Job.
func (j *shift) spec(ctx context.Context) kube.JobSpec {
	limit := noLimit
	if deadline, ok := ctx.Deadline(); ok {
		limit = time.Until(deadline)
	}
	grace := j.job.Global.Grace + podMargin
	s := j.pod.Spec()
	s.Namespace, s.Name, s.Identity = j.ref.Namespace, j.ref.Name, j.identity()
	s.Deadline, s.Grace, s.Waiting = limit+grace+jobMargin, grace, j.waiting
	return s
}

// endedBy is EndedBy, but where the Job is left to the next start.
func (j *shift) endedBy(ctx context.Context, doing string) Outcome {
	outcome := EndedBy(ctx, doing)
	if j.again(ctx, outcome) && !errors.Is(context.Cause(ctx), errLost) {
		outcome = Outcome{sentry.Running, fmt.Sprintf("Sentry was stopped; Job %s goes on, and is followed again when it starts", j.ref)}
	}
	return outcome
}

// leaves reports whether the Job goes on although ctx has ended.
func (j *shift) leaves(ctx context.Context) bool {
	return errors.Is(context.Cause(ctx), errLost) || j.again(ctx, EndedBy(ctx, ""))
}

// follow follows the Job to its end, which it brings about where ctx ends before.
func (j *shift) follow(ctx context.Context) Outcome {
	j.end, _ = ctx.Deadline()
	following, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	followed, ended := make(chan struct{}), make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		defer close(ended)
		if !j.leaves(ctx) {
			j.endJob(ctx)
			select { // what it says in the end is on its way
			case <-followed:
			case <-time.After(podMargin):
			}
		}
		stop(context.Cause(ctx))
	})
	end, err := j.cluster.FollowJob(following, j.ref, kube.JobFollow{
		Line: func(line []byte) error { return j.hear(following, line) }, Waiting: j.waiting, Away: j.attempt.tell,
		StartTimeout: j.pod.StartTimeout, Log: writer(j.remark),
	})
	close(followed)
	if !unhook() {
		<-ended
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.judge(ctx, end, err)
}

// remark writes what the cluster has to say about following the Job.
func (j *shift) remark(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.start != 0 {
		return j.log.Write(p)
	}
	j.attempt.log().Info("following the Job", "job", j.ref.String(), "told", strings.TrimSpace(string(p)))
	return len(p), nil
}

// endJob ends the Job, and waits for its pod to end: not for long where Sentry was told to stop, and until it is told where
// that comes later.
func (j *shift) endJob(ctx context.Context) {
	grace, patience, stop := j.job.Global.Grace+podMargin, cancelPatience, j.job.Stop
	if errors.Is(context.Cause(ctx), errShutdown) {
		patience, stop = stopPatience, nil
	}
	limit, done := withPatience(ctx, grace+patience, stop)
	defer done()
	if err := j.cluster.EndJob(limit, j.ref, grace); err != nil {
		j.undone, j.cut = "; "+err.Error(), errors.Is(context.Cause(limit), errShutdown)
	}
}

// judge tells how the attempt ended. The caller has the lock.
func (j *shift) judge(ctx context.Context, end kube.JobEnd, err error) Outcome {
	why := logger.SanitizeLine(end.Message)
	switch {
	case j.done != nil && j.done.Status == sentry.Failed && end.Reason == "OOMKilled": // nodes differ in whether that ends one process or all
		return Outcome{sentry.Failed, fmt.Sprintf("%s; the pod used more memory than %s (OOMKilled)", j.done.Reason, j.memory())}
	case j.done != nil && j.done.Status != sentry.Interrupted:
		return *j.done
	case ctx.Err() != nil:
		return j.unless(j.endedBy(ctx, j.doing()))
	case err != nil:
		j.endJob(ctx)
		return j.unless(Outcome{sentry.Failed, fmt.Sprintf("cannot follow Job %s: %v", j.ref, err)})
	case end.Never:
		j.endJob(ctx)
		return j.unless(Outcome{sentry.Failed, fmt.Sprintf("Job %s cannot start: %s", j.ref, why)})
	case end.Reason == "DeadlineExceeded":
		return Outcome{sentry.TimedOut, fmt.Sprintf("Job %s took longer than the deployment may, while %s", j.ref, j.doing())}
	case end.Own:
		return Outcome{sentry.Failed, fmt.Sprintf("the pod of Job %s was evicted for what it did itself, while %s: %s", j.ref, j.doing(), why)}
	case end.Lost, j.done != nil: // it was told to end, and not from here
		if end.Message != "" {
			why = strings.TrimPrefix(end.Reason+": "+why, ": ")
		} else {
			why = end.Reason
		}
		if j.done != nil {
			why += ": " + j.done.Reason
		}
		return j.takenAway(ctx, fmt.Sprintf("the pod of Job %s was taken away (%s), while %s", j.ref, why, j.doing()))
	case j.sent && end.Started && end.ExitCode == 0: // it has told how it ended
		return j.takenAway(ctx, fmt.Sprintf("nobody knows how Job %s ended, while %s: its last words cannot be read", j.ref, j.doing()))
	case end.Reason == "OOMKilled":
		return Outcome{sentry.Failed, fmt.Sprintf("the pod was killed because it used more memory than %s (OOMKilled), while %s", j.memory(), j.doing())}
	}
	if j.alien != "" {
		why = j.alien
	}
	return Outcome{sentry.Failed, fmt.Sprintf("the runner of Job %s ended with exit code %d (%s), while %s: %s", j.ref, end.ExitCode, end.Reason, j.doing(), why)}
}

// takenAway is the outcome where the pod was ended from outside, or nobody knows how it did. The attempt has not failed, and
// another may begin: when nothing of this one runs any more.
func (j *shift) takenAway(ctx context.Context, reason string) Outcome {
	j.keep.tell(reason + "; waiting until nothing of it runs any more")
	defer j.keep.tell("")
	if err := j.cluster.EndJob(ctx, j.ref, j.job.Global.Grace+podMargin); err != nil {
		if ctx.Err() != nil {
			outcome := j.endedBy(ctx, j.doing())
			outcome.Reason += "; " + err.Error()
			return outcome
		}
		return Outcome{sentry.Failed, reason + "; " + err.Error()}
	}
	return Outcome{sentry.Interrupted, reason}
}

// memory names what a pod may use of it.
func (j *shift) memory() string {
	if limit := j.pod.Resources.Limits["memory"]; limit != "" {
		return "its limit of " + limit
	}
	return "there was"
}

// doing says what went on last.
func (j *shift) doing() string {
	if n := len(j.d.Steps); n > 0 {
		switch step := j.d.Steps[n-1]; {
		case step.Kind == sentry.StepClone:
			return "the QA repository was cloned"
		case step.Kind == sentry.StepCommand:
			return step.Name + " ran"
		}
	}
	return "its pod was about to start"
}

// recallAll is recall for an attempt whose Job has ended without a last word. What it cannot find is told in the log.
func (j *shift) recallAll(ctx context.Context) {
	limit, done := j.patience(ctx)
	defer done()
	if err := j.recall(limit); err != nil {
		j.attempt.log().Error("cannot look for what the Job has created", "job", j.ref.String(), logger.KeyError, err)
	}
}
