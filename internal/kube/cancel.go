package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"sentry/internal/sentry"
)

// annotationCanceled tells, on the run, that it was Sentry who canceled it, also to a Sentry that starts later.
const annotationCanceled = labelPrefix + "canceled"

// How a cancellation is seen through.
const (
	tidyTime   = time.Minute // for the finally tasks, before they are canceled too; less where ctx ends sooner
	cancelPoll = 500 * time.Millisecond
	taskTime   = 5 * time.Second // for its tasks to end after it
	mergePatch = "application/merge-patch+json"
)

// CancelOptions are for one Cancel.
type CancelOptions struct {
	Log  io.Writer        // of the step
	Away func(why string) // as in TrackOptions
}

// Cancel ends runs: it asks Tekton to cancel each one and let its finally tasks run, after a minute, or half of the time
// that ctx leaves, to cancel those too, and verifies that each has ended. A run that has ended already is left alone, and
// counts as it ended; one that is gone counts as canceled. It may be called again at any time. While the API server does
// not answer it goes on until ctx ends; then it gives what is known, and an error that names the runs that may still be
// running. So it does at once for a run that was created in another cluster, which is interrupted.
func (c *Cluster) Cancel(ctx context.Context, runs []sentry.PipelineRun, o CancelOptions) ([]sentry.PipelineRun, error) {
	t := c.newTracker(runs, TrackOptions{Log: o.Log, Away: o.Away})
	a, err := t.usable(ctx)
	if err != nil {
		return t.copy(), err
	}
	errs := make([]error, len(runs))
	var all sync.WaitGroup
	for i := range t.runs {
		all.Go(func() {
			if err := t.cancel(ctx, a, i); err != nil {
				run := t.run(i)
				errs[i] = fmt.Errorf("pipeline run %s/%s (%s) may still be running: %w", run.Namespace, run.Name, run.UID, err)
			}
		})
	}
	all.Wait()
	return t.copy(), errors.Join(errs...)
}

// canceler ends one run. It is owned by one goroutine.
type canceler struct {
	t      *tracker
	i      int
	api    *api
	run    sentry.PipelineRun
	asked  string // the spec.status that was set last
	absent int
	fails  int
	harder time.Time // when to ask for more than tidiness
}

// cancel ends run i.
func (t *tracker) cancel(ctx context.Context, a *api, i int) error {
	switch err := t.resolve(ctx, a, i); {
	case err != nil:
		return err
	case t.run(i).Status == sentry.Interrupted:
		return errors.New(t.run(i).Reason)
	case t.run(i).Status.Terminal():
		return nil
	}
	c := &canceler{t: t, i: i, api: a, run: t.run(i)}
	var wait patience
	last := errNotEnded
	for {
		ended, err := c.step(ctx)
		if ended {
			return nil
		}
		if other := new(elsewhere); errors.As(err, &other) {
			return errors.Join(err, t.lose(i, other))
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w; %w", last, context.Cause(ctx))
		}
		c.tell(err)
		pause := cancelPoll
		if last = errNotEnded; err != nil {
			last, pause = err, wait.after(err)
		} else {
			wait.reset()
		}
		if end := sleep(ctx, pause); end != nil {
			return fmt.Errorf("%w; %w", last, end)
		}
	}
}

// errNotEnded is all that can be said of a run that was asked to end.
var errNotEnded = errors.New("it has not ended yet")

// tell tells of an outage.
func (c *canceler) tell(err error) {
	if err == nil {
		c.fails = 0
	} else {
		c.fails++
	}
	c.t.outage(c.run.Namespace, view{fails: c.fails, err: err})
}

// step looks how the run stands, and asks for its end where that has not been done.
func (c *canceler) step(ctx context.Context) (ended bool, err error) {
	version, err := c.api.tekton(ctx)
	if err != nil {
		return false, err
	}
	path := resourcePath(version, c.run.Namespace, "pipelineruns", c.run.Name)
	o, err := c.api.get(ctx, path)
	switch {
	case missing(err, c.run.Name):
		if c.absent++; c.absent < 2 {
			return false, nil
		}
		return c.gone(ctx, "it was deleted")
	case err != nil:
		return false, err
	case o.Metadata.UID != c.run.UID:
		return c.gone(ctx, "it was deleted, and another of the same name was made")
	}
	c.absent = 0
	now := sees(o)
	if now.final() {
		return c.over(ctx, now)
	}
	want := specCancelTidy
	if c.asked == specCancelTidy && !time.Now().Before(c.harder) || c.asked == specCancel || now.specStatus == specCancel {
		want = specCancel
	}
	if c.asked == want && now.specStatus == want {
		return false, nil
	}
	if err := c.ask(ctx, path, want); err != nil {
		return false, err
	}
	if c.asked == "" {
		tidy := tidyTime
		if deadline, ok := ctx.Deadline(); ok {
			tidy = min(tidy, time.Until(deadline)/2)
		}
		c.harder = time.Now().Add(tidy)
	}
	if c.asked != want {
		c.t.say("pipeline run %s/%s: asked Tekton to end it (%s)", c.run.Namespace, c.run.Name, want)
	}
	c.asked = want
	return false, nil
}

// ask sets spec.status, of this UID and no other.
func (c *canceler) ask(ctx context.Context, path, want string) error {
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": c.run.UID, "annotations": map[string]string{annotationCanceled: "true"}},
		"spec":     map[string]string{"status": want},
	})
	if err != nil {
		return err
	}
	_, err = c.api.object(ctx, http.MethodPatch, path, nil, body, mergePatch)
	if isCode(err, http.StatusConflict) || missing(err, c.run.Name) {
		return nil // changed, or gone, in between: the next look tells
	}
	return err
}

// gone ends with a run that is no longer there.
func (c *canceler) gone(ctx context.Context, how string) (bool, error) {
	if err := c.t.cluster.whose(ctx, c.run.Cluster, c.run.Namespace); err != nil {
		return false, err
	}
	run := c.run
	run.Status, run.Reason, run.FinishedAt = sentry.Canceled, how, time.Now().UTC()
	c.t.say("pipeline run %s/%s: %s", run.Namespace, run.Name, how)
	return true, c.t.publish(c.i, run)
}

// over ends with a run that has ended, and its tasks with it. What became of those is good to know, no more.
func (c *canceler) over(ctx context.Context, now *seen) (bool, error) {
	run := c.run
	now.apply(&run)
	if now.canceledEnd() {
		run.Status = sentry.Canceled
	}
	limited, cancel := context.WithTimeout(ctx, taskTime)
	defer cancel()
	w := &follower{t: c.t, i: c.i, api: c.api, run: run, now: now, said: map[uint64]struct{}{}}
	if tasks, err := w.endedTasks(limited); err == nil {
		run.Tasks = nil
		for _, task := range tasks {
			run.Tasks = append(run.Tasks, task.TaskRun)
		}
	}
	c.t.say("pipeline run %s/%s: ended: %s: %s", run.Namespace, run.Name, run.Status, run.Reason)
	return true, c.t.publish(c.i, run)
}
