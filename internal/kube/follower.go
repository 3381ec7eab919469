package kube

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"reflect"
	"time"

	"sentry/internal/sentry"
)

// follower follows one run. It is owned by one goroutine.
type follower struct {
	t     *tracker
	i     int
	api   *api
	feed  *feed
	ear   *ear
	run   sentry.PipelineRun // as published last
	now   *seen              // the newest that is known; nil for nothing
	shown *seen              // what the watch showed last
	took  string             // its version

	absent  int       // how often in a row the run was not found
	doubts  int       // how often in a row a read showed less than the watch
	away    bool      // the server did not answer the watch, a moment ago
	alone   bool      // it is there, but the watch does not show it
	open    time.Time // since when it is decided without being final
	wait    patience
	pollAt  time.Time // when to read it whatever the watch shows
	probeAt time.Time // when to look why its tasks do not start
	probes  int
	began   time.Time           // when it was first looked at
	said    map[uint64]struct{} // hashes of what was said
}

var saidSeed = maphash.MakeSeed()

// follow follows run i to its end.
func (t *tracker) follow(ctx context.Context, a *api, f *feed, i int) error {
	run := t.run(i)
	ear := f.listen(run.UID)
	defer f.hush(ear)
	w := &follower{t: t, i: i, api: a, feed: f, ear: ear, run: run, began: time.Now(), said: map[uint64]struct{}{}}
	w.pollAt = time.Now().Add(safetyPoll + rand.N(safetyPoll))
	w.say("following it")
	for {
		ended, err := w.step(ctx)
		if ended || err != nil {
			return err
		}
		timer := time.NewTimer(time.Until(w.next()))
		select {
		case <-ear.wake:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		timer.Stop()
	}
}

// say writes a line about the run, once.
func (w *follower) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	key := maphash.String(saidSeed, text)
	if _, again := w.said[key]; again || len(w.said) > 500 {
		return
	}
	w.said[key] = struct{}{}
	w.t.say("pipeline run %s/%s: %s", w.run.Namespace, w.run.Name, text)
}

// next is when there is something to do though nobody rings.
func (w *follower) next() time.Time {
	if ended := w.now != nil && w.now.final(); !ended && !w.probeAt.IsZero() && w.probeAt.Before(w.pollAt) {
		return w.probeAt
	}
	return w.pollAt
}

// step looks at what is known now, and does the one thing that is to be done.
func (w *follower) step(ctx context.Context) (ended bool, err error) {
	v := w.feed.look(w.ear)
	w.t.outage(w.run.Namespace, v)
	if v.seen != nil && v.seen.version != w.took {
		w.took, w.now, w.shown = v.seen.version, v.seen, v.seen
		w.absent, w.doubts, w.alone = 0, 0, false
		w.probe(true)
	}
	now := time.Now()
	if v.fails == 0 && w.away {
		w.wait.reset()
		w.pollAt = now
	}
	w.away = v.fails > 0
	switch {
	case w.now != nil && w.now.final() && now.Before(w.pollAt) && w.wait.next > 0:
		return false, nil // it could not be read; waiting for the time to try again
	case w.now != nil && w.now.final():
		return w.settle(ctx)
	case !now.Before(w.pollAt), v.gone && !w.alone && w.absent == 0 && w.wait.next == 0:
		return w.read(ctx, v.gone)
	case w.now == nil:
		return false, nil // nothing is known yet
	case w.now.decided():
		w.openEnd(now)
	}
	if err := w.update(); err != nil {
		return false, err
	}
	if w.probeAt.IsZero() || now.Before(w.probeAt) {
		return false, nil
	}
	if w.away {
		w.probe(false)
		return false, nil
	}
	return false, w.explain(ctx)
}

// openEnd has a run read that is decided but has no completion time.
func (w *follower) openEnd(now time.Time) {
	if w.open.IsZero() {
		w.open = now
	}
	w.pollAt = now.Add(doubtPoll)
}

// settle reads a run once more that ended: after a while where it failed, for Tekton may yet begin a task again.
func (w *follower) settle(ctx context.Context) (ended bool, err error) {
	if w.now.condition.status != "True" {
		if err := sleep(ctx, settleTime); err != nil {
			return false, err
		}
	}
	return w.read(ctx, false)
}

// read asks for the run itself, by its name, and draws the conclusions. Hidden tells that the watch does not show it.
func (w *follower) read(ctx context.Context, hidden bool) (ended bool, err error) {
	o, err := w.get(ctx)
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case missing(err, w.run.Name):
		return w.vanish(ctx, false)
	case err == nil && o.Metadata.UID != w.run.UID:
		return w.vanish(ctx, true)
	case err != nil:
		if denied(err) {
			w.say("it cannot be read: %s; asking on", err)
		}
		w.pollAt = time.Now().Add(w.wait.after(err))
		return false, nil
	}
	w.wait.reset()
	w.absent = 0
	was := w.now
	w.now = sees(o)
	now := time.Now()
	if w.now.decided() && !w.now.final() && !w.open.IsZero() && now.Sub(w.open) > openEndTime {
		w.now.completed = now.UTC() // an end is an end, if nobody adds to it for that long
	}
	if w.now.final() {
		return true, w.finish(ctx)
	}
	switch {
	case was != nil && was.final(), w.shown != nil && w.shown.final():
		// It was begun again, which the watch will show; or this answer is from before its end.
		if w.doubts++; w.doubts == 2 {
			w.say("it had ended, and goes on")
		}
		w.pollAt = now.Add(doubtPoll * time.Duration(min(w.doubts, 15)))
	case hidden:
		w.alone = true
		w.pollAt = now.Add(doubtPoll) // the watch is about to show what was created just now
		if !selects(w.feed.selector, o.Metadata.Labels) {
			w.say("its labels no longer say whose it is; following it by its name and UID")
			w.pollAt = now.Add(alonePoll)
		}
	case w.now.decided():
		w.openEnd(now)
	default:
		w.open = time.Time{}
		w.pollAt = now.Add(safetyPoll + rand.N(safetyPoll))
	}
	w.probe(false)
	return false, w.update()
}

func (w *follower) get(ctx context.Context) (*wireObject, error) {
	version, err := w.api.tekton(ctx)
	if err != nil {
		return nil, err
	}
	return w.api.get(ctx, resourcePath(version, w.run.Namespace, "pipelineruns", w.run.Name))
}

// vanish is for a run that is not there. Certain is when another has its name; else it is looked for twice.
func (w *follower) vanish(ctx context.Context, certain bool) (ended bool, err error) {
	w.wait.reset()
	if w.now != nil && w.now.final() {
		return true, w.finish(ctx)
	}
	if w.absent++; !certain && w.absent < 2 {
		w.pollAt = time.Now().Add(settleTime)
		return false, nil
	}
	other := new(elsewhere)
	switch err := w.t.cluster.whose(ctx, w.run.Cluster, w.run.Namespace); {
	case errors.As(err, &other):
		return true, w.t.lose(w.i, other)
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case err != nil:
		w.pollAt = time.Now().Add(w.wait.after(err))
		return false, nil
	}
	run := w.run
	if w.now != nil {
		w.now.apply(&run)
	}
	run.Status, run.FinishedAt = sentry.Failed, time.Now().UTC()
	run.Reason = "it was deleted before Sentry saw it end; the cluster does not tell by whom"
	if certain {
		run.Reason = "it was deleted before Sentry saw it end, and another of the same name was made; the cluster does not tell by whom"
	}
	w.say("%s", run.Reason)
	return true, w.t.publish(w.i, run)
}

// update publishes how the run stands while it has not ended.
func (w *follower) update() error {
	if w.now.deleting {
		w.say("somebody deletes it")
	}
	run := w.run
	w.now.apply(&run)
	if w.now.decided() {
		run.Status = sentry.Running // until it is final
	}
	if reflect.DeepEqual(run, w.run) {
		return nil
	}
	if run.Reason != w.run.Reason && run.Reason != "" {
		w.say("%s", run.Reason)
	}
	w.run = run
	return w.t.publish(w.i, run)
}

// finish gathers what belongs to the verdict, and publishes it.
func (w *follower) finish(ctx context.Context) error {
	w.t.outage(w.run.Namespace, view{}) // it has answered just now, whatever the watch makes of it
	run := w.run
	w.now.apply(&run)
	tasks := w.outcomes(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	run.Tasks = nil
	for _, task := range tasks {
		run.Tasks = append(run.Tasks, task.TaskRun)
	}
	if run.Tests == nil {
		run.Tests = testsOf(tasks)
	}
	run.Reason = verdict(w.now, run, tasks)
	w.run = run
	w.recount(tasks)
	for _, task := range failing(tasks) {
		w.tail(ctx, task)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return w.t.publish(w.i, run)
}

// recount writes the outcome into the step log.
func (w *follower) recount(tasks []task) {
	for _, problem := range w.now.problems {
		w.say("%s", problem)
	}
	for _, task := range tasks {
		for _, problem := range task.problems {
			w.say("task %s: %s", task.Task, problem)
		}
		w.say("task %s", task.line())
	}
	took := ""
	if d := w.run.FinishedAt.Sub(w.run.StartedAt); d > 0 && !w.run.StartedAt.IsZero() {
		took = " after " + d.Round(time.Second).String()
	}
	w.say("%s%s: %s", w.run.Status, took, w.run.Reason)
	if s := w.run.Tests; s != nil {
		w.say("tests: %s: %d passed, %d failed, %d skipped, %d warnings", s.Result, s.Passed, s.Failed, s.Skipped, s.Warnings)
	}
}
