package kube

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"sentry/internal/logger"
)

// How patient FollowJob is.
const (
	startPoll   = 2 * time.Second  // to look why a container does not run yet; less often as time goes on
	eventTime   = 10 * time.Second // without a word of the pod, before its events are asked: they tell of what has passed, too
	lostTime    = time.Minute      // that a pod which is deleted may outlive its grace before its node counts as lost
	vanishPoll  = settleTime       // before a Job that was not found is looked for once more
	vanishLooks = 2
)

// JobFollow is for one FollowJob.
type JobFollow struct {
	// Line is given each line of the container's output, without its end, by one goroutine. Lines may come again, from some line
	// before on, where the connection was lost; some may be missing where the node has thrown them away. A line of standard error
	// is one as well. An error of it ends FollowJob.
	Line func(line []byte) error
	// Waiting is told why the container does not run yet, whenever that changes; nil for nobody.
	Waiting func(why string)
	// Away is told that the API server does not answer, and why, and "" when it does again; nil for nobody.
	Away func(why string)
	// StartTimeout is how long the container may take until it runs; 0 for ever. Nothing is decided while the API server does not
	// answer, and the time begins again when it does.
	StartTimeout time.Duration
	// Log gets lines for people: that the API server does not answer, that output is lost, that a Job has two pods; nil for nobody.
	Log io.Writer
}

// FollowJob follows a Job, which ref names with its UID, until its container has ended and its output was read to the end, and
// tells what became of it. A Job that has ended before is told of alike. While the API server does not answer, or refuses,
// what became of the Job is unknown: FollowJob goes on asking until ctx ends. Errors: that of ctx, and that of Line.
func (c *Cluster) FollowJob(ctx context.Context, ref JobRef, f JobFollow) (JobEnd, error) {
	a, err := c.tracker()
	if err != nil {
		return JobEnd{}, err
	}
	w := &jobFollower{api: a, ref: ref, f: f, watch: newJobWatch(a, ref), began: time.Now()}
	if f.Log == nil {
		w.f.Log = io.Discard
	}
	if f.Away == nil {
		w.f.Away = func(string) {}
	}
	if f.Waiting == nil {
		w.f.Waiting = func(string) {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	all.Go(func() { w.watch.run(ctx) })
	w.over, w.end = context.WithCancel(ctx)
	defer w.end()
	return w.follow(ctx, &all)
}

// jobFollower follows one Job. It is owned by one goroutine, but for say.
type jobFollower struct {
	api   *api
	ref   JobRef
	f     JobFollow
	watch *jobWatch
	began time.Time // since when the container could start

	pod      *wirePod        // as it was seen last; nil for none
	gone     bool            // it is not there any more
	itself   bool            // it had ended before somebody deleted it
	deleted  time.Time       // when it was first seen being deleted
	others   bool            // it was said that there is another
	away     bool            // the API server does not answer
	read     chan error      // what became of reading the output; nil while nobody reads
	over     context.Context // ends with the container, for who reads
	end      context.CancelFunc
	unread   error     // of reading
	hasRead  bool      // reading has ended
	wait     patience  // between questions to the API server
	askAt    time.Time // for the next of them
	lookAt   time.Time // when to look again though nothing has changed
	absent   int       // how often in a row the Job was not found
	why      string    // it was waiting for last
	sayMutex sync.Mutex
}

// follow looks whenever something has changed, until it knows the end.
func (w *jobFollower) follow(ctx context.Context, all *sync.WaitGroup) (JobEnd, error) {
	for {
		end, err := w.step(ctx, all)
		if end != nil || err != nil {
			return cmp.Or(end, &JobEnd{}).known(), err
		}
		timer := time.NewTimer(max(0, time.Until(w.lookAt)))
		select {
		case <-w.watch.wake:
		case <-timer.C:
		case w.unread = <-w.read:
			w.hasRead, w.read = true, nil
		case <-ctx.Done():
			timer.Stop()
			return JobEnd{}, context.Cause(ctx)
		}
		timer.Stop()
	}
}

// known makes the end printable.
func (e *JobEnd) known() JobEnd {
	e.Reason, e.Message = clip(printable(e.Reason), 60), printable(e.Message)
	return *e
}

// step looks at what is known now. The end is nil where it is not known yet.
func (w *jobFollower) step(ctx context.Context, all *sync.WaitGroup) (end *JobEnd, err error) {
	v := w.watch.look()
	w.outage(v)
	w.lookAt = time.Now().Add(safetyPoll)
	if w.unread != nil {
		return nil, w.unread
	}
	if !v.synced {
		return nil, nil
	}
	w.choose(v)
	switch {
	case w.pod == nil:
		return w.withoutPod(ctx, v)
	case w.gone, w.pod.ended(), w.overdue():
		return w.seeOut(ctx, all)
	case w.pod.running():
		w.readOn(ctx, all)
		return nil, nil
	}
	return w.starting(ctx, v)
}

// choose finds the pod in what was seen. The first of a Job counts: another one begins from the beginning, and is not given
// anything to do.
func (w *jobFollower) choose(v podView) {
	if w.pod == nil && len(v.pods) > 0 {
		w.pod, w.wait, w.askAt = v.pods[0], patience{}, time.Time{}
	}
	if w.pod == nil {
		return
	}
	there := false
	for _, pod := range v.pods {
		if pod.Metadata.UID == w.pod.Metadata.UID {
			w.pod, there = pod, true
		} else if !w.others {
			w.others = true
			w.say("Job %s has another pod, %s, beside %s: it is left alone", w.ref, pod.place(), w.pod.place())
		}
	}
	if w.gone = !there; w.gone {
		w.pod = cmp.Or(w.watch.last(w.pod.Metadata.UID), w.pod)
	}
	switch deleting := w.pod.Metadata.DeletionTimestamp != ""; {
	case !deleting && w.pod.ended():
		w.itself = true
	case deleting && w.deleted.IsZero():
		w.deleted = time.Now()
		w.itself = w.itself || there && w.pod.endedBeforeDeletion()
		w.say("%s of Job %s is being deleted", w.pod.place(), w.ref)
	}
}

// overdue reports whether the pod should have ended long ago: its node does not see to it any more.
func (w *jobFollower) overdue() bool {
	if w.deleted.IsZero() {
		return false
	}
	due := w.deleted.Add(time.Duration(w.pod.Metadata.DeletionGrace)*time.Second + lostTime)
	if !time.Now().Before(due) {
		return true
	}
	w.lookAt = earliest(w.lookAt, due)
	return false
}

// readOn starts to read the output, once.
func (w *jobFollower) readOn(ctx context.Context, all *sync.WaitGroup) {
	if w.read != nil || w.hasRead {
		return
	}
	w.read = make(chan error, 1)
	log := jobLog{api: w.api, namespace: w.ref.Namespace, pod: w.pod.Metadata.Name, line: w.f.Line, say: w.say}
	all.Go(func() { w.read <- log.run(ctx, w.over) })
}

// seeOut reads the rest of the output of a pod that has ended, and then tells how it did.
func (w *jobFollower) seeOut(ctx context.Context, all *sync.WaitGroup) (*JobEnd, error) {
	w.end()
	if c := w.pod.runner(); c != nil && c.State.Terminated != nil && !w.gone {
		w.readOn(ctx, all)
	}
	if w.read != nil {
		return nil, nil // follow waits for it
	}
	if !w.due() {
		return nil, nil
	}
	job, err := w.api.job(ctx, w.ref)
	if err != nil {
		w.later(err)
		return nil, nil
	}
	return w.verdict(job), nil
}

// due reports whether the API server may be asked again.
func (w *jobFollower) due() bool {
	w.lookAt = earliest(w.lookAt, w.askAt)
	return !time.Now().Before(w.askAt)
}

// later has the next question come after a while.
func (w *jobFollower) later(err error) { w.after(max(w.wait.after(err), startPoll)) }

func (w *jobFollower) after(d time.Duration) {
	w.askAt = time.Now().Add(d)
	w.lookAt = earliest(w.lookAt, w.askAt)
}

// withoutPod looks at the Job itself, as long as no pod of it is in sight.
func (w *jobFollower) withoutPod(ctx context.Context, v podView) (*JobEnd, error) {
	if !w.due() {
		return nil, nil
	}
	job, err := w.api.job(ctx, w.ref)
	switch {
	case err != nil:
		w.later(err)
		return nil, nil
	case job == nil:
		if w.absent++; w.absent < vanishLooks {
			w.after(vanishPoll)
			return nil, nil
		}
		return w.verdict(nil), nil
	case job.Metadata.DeletionTimestamp != "", job.finished() != nil:
		return w.verdict(job), nil
	}
	w.absent = 0
	if job.Spec.Suspend {
		w.waiting("it is suspended (spec.suspend): who did that, such as a queue for Jobs, has to let it go")
	} else if why := w.api.warning(ctx, w.ref.Namespace, w.ref.Name); why != "" {
		w.waiting(why)
	} else {
		w.waiting("it has no pod yet")
	}
	return w.mayNever(v), nil
}

// starting waits for the container.
func (w *jobFollower) starting(ctx context.Context, v podView) (*JobEnd, error) {
	why, due := w.pod.why(), w.due()
	switch {
	case why == "" && !due:
		return nil, nil // it would have to be asked
	case why == "" && time.Since(w.began) > eventTime:
		why = w.api.warning(ctx, w.ref.Namespace, w.pod.Metadata.Name)
	}
	if why == "" && w.pod.Spec.NodeName == "" {
		why = "it has no node yet"
	} else if why == "" {
		why = "its container is being started"
	}
	w.waiting(w.pod.place() + ": " + why)
	return w.mayNever(v), nil
}

// waiting tells why the container does not run yet, if that is news.
func (w *jobFollower) waiting(why string) {
	if why != w.why {
		w.why = why
		w.f.Waiting(why)
	}
}

// mayNever ends the waiting when its time is over, and the API server knows of nothing newer.
func (w *jobFollower) mayNever(v podView) *JobEnd {
	if w.due() {
		w.later(nil)
	}
	if w.f.StartTimeout == 0 || v.fails > 0 {
		return nil
	}
	if left := w.f.StartTimeout - time.Since(w.began); left > 0 {
		w.lookAt = earliest(w.lookAt, time.Now().Add(left))
		return nil
	}
	return &JobEnd{ExitCode: -1, Never: true, Reason: "StartTimeout", Message: fmt.Sprintf("it has not started within %s: %s", w.f.StartTimeout, w.why)}
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// outage tells that the API server does not answer, and that it does again.
func (w *jobFollower) outage(v podView) {
	switch away := v.fails >= tellOutageAt; {
	case away && !w.away:
		w.away = true
		w.say("the API server does not answer (%s): what became of Job %s is unknown, asking on", v.err, w.ref)
		w.f.Away(printable(fmt.Sprintf("the API server does not answer (%s); what became of Job %s is unknown", v.err, w.ref)))
	case v.fails == 0 && w.away:
		w.away = false
		w.began = time.Now() // nothing could begin meanwhile, and what has is not seen yet
		w.say("the API server answers again for Job %s", w.ref)
		w.f.Away("")
		w.why = "" // it is told again
	}
}

// say writes a line for people. Several goroutines may.
func (w *jobFollower) say(format string, args ...any) {
	w.sayMutex.Lock()
	defer w.sayMutex.Unlock()
	fmt.Fprintln(w.f.Log, strings.TrimRight(logger.SanitizeLine(fmt.Sprintf(format, args...)), "\n"))
}
