package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// How patient tracking is with what it was told.
const (
	settleTime   = time.Second      // before a failure, or a deletion, is believed: Tekton may begin a task again
	openEndTime  = 30 * time.Second // that a decided run may be without completion time
	alonePoll    = 5 * time.Second  // for a run that the watch does not show, its labels being gone
	doubtPoll    = 2 * time.Second  // where two answers do not agree
	safetyPoll   = 5 * time.Minute  // whatever the watch says
	tellOutageAt = 2                // failed requests in a row before an outage is worth a line
)

// TrackOptions are for one Track.
type TrackOptions struct {
	Instance string                           // of the state directory, as in Identity; "" watches the runs of all
	Progress func([]sentry.PipelineRun) error // saves what is known, after each change; never called twice at once
	Log      io.Writer                        // of the step: what happens, why a run does not start, the end of a failing task's log
	// Away is told why nothing can be learned of the runs at present: the API server does not answer, or refuses. "" is for
	// when it can be again. It is never called twice at once; nil is nobody.
	Away func(why string)
}

// tracking is what a cluster needs to follow runs. Its zero value is ready.
type tracking struct {
	feeds feeds
	mu    sync.Mutex
	api   *api
}

// tracker gives the client of Sentry's own requests about runs. Where the credentials cannot be used it fails, and is
// tried again by the next caller: a file may be missing for a moment.
func (c *Cluster) tracker() (*api, error) {
	c.tracking.mu.Lock()
	defer c.tracking.mu.Unlock()
	if c.tracking.api != nil {
		return c.tracking.api, nil
	}
	a, err := apiFor(c.restConfig())
	if err == nil {
		c.tracking.api = a
	}
	return a, err
}

// apiFor makes a client with these credentials, which are read again where they are files.
func apiFor(config *rest.Config) (*api, error) {
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("cannot use the address of the Kubernetes cluster: %w", err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("cannot use the credentials of the Kubernetes cluster: %w", err)
	}
	return newAPI(base.String(), client), nil
}

// selector picks the runs of an instance.
func selector(instance string) string {
	if instance == "" {
		return LabelInstance
	}
	return LabelInstance + "=" + LabelValue(instance)
}

// selects tells whether an object with these labels is one of those that a selector of selector's stands for.
func selects(selector string, labels map[string]string) bool {
	name, want, one := strings.Cut(selector, "=")
	got, there := labels[name]
	return there && (!one || got == want)
}

// Follow starts the shared watch of namespaces before there is a run to track, so that one that is deleted after its
// end is still known when Track asks for it. The returned function ends it.
func (c *Cluster) Follow(instance string, namespaces ...string) (stop func(), err error) {
	a, err := c.tracker()
	if err != nil {
		return nil, err
	}
	var stops []func()
	for _, namespace := range namespaces {
		f, release := c.tracking.feeds.use(a, namespace, selector(instance))
		stops = append(stops, f.retain(), release)
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}, nil
}

// Track follows runs, by UID, until all have ended, and gives what became of them. A run of the same name with another
// UID is another run. An end is believed after it was read once more; a deletion after the run was looked for by its
// name.
//
// A run that ended with PipelineRunTimeout is timed_out. One that was canceled by Sentry, see Cancel, is canceled; one
// that somebody else canceled is failed, and so is one that was deleted before its end: nobody may take either for a
// success, and a canceled run would not count. An intent that turns out never to have been created is skipped. What is not
// found, and was created in another cluster than this, is interrupted: nobody knows how it ends.
//
// While the API server does not answer, or refuses, or the credentials cannot be used, what became of the runs is unknown: Track goes on asking until ctx
// ends. It then gives what is known, and the cause. It also ends with the first error of Progress.
func (c *Cluster) Track(ctx context.Context, runs []sentry.PipelineRun, o TrackOptions) ([]sentry.PipelineRun, error) {
	t := c.newTracker(runs, o)
	a, err := t.usable(ctx)
	if err != nil {
		return t.copy(), err
	}
	// Most deployments have one run, and there may be hundreds of deployments: no goroutine more than they need.
	one := func(ctx context.Context, i int) error {
		if err := t.resolve(ctx, a, i); err != nil || t.run(i).Status.Terminal() {
			return err
		}
		f, release := c.tracking.feeds.use(a, t.run(i).Namespace, selector(o.Instance))
		defer release()
		return t.follow(ctx, a, f, i)
	}
	if len(t.runs) == 1 {
		err = one(ctx, 0)
	} else {
		all, within := errgroup.WithContext(ctx)
		for i := range t.runs {
			all.Go(func() error { return one(within, i) })
		}
		err = all.Wait()
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return t.copy(), err
}

// tracker is one Track.
type tracker struct {
	cluster  *Cluster
	mu       sync.Mutex
	runs     []sentry.PipelineRun
	progress func([]sentry.PipelineRun) error
	log      io.Writer
	lines    int               // written
	away     map[string]string // by namespace, what was told of the server while it does not answer
	telling  sync.Mutex        // one call of tell at a time; taken before mu
	tell     func(why string)
	told     string // what tell was told last; guarded by telling
}

func (c *Cluster) newTracker(runs []sentry.PipelineRun, o TrackOptions) *tracker {
	return &tracker{cluster: c, runs: slices.Clone(runs), progress: o.Progress, log: o.Log, away: map[string]string{}, tell: o.Away}
}

// usable gives the client, as soon as the credentials can be used.
func (t *tracker) usable(ctx context.Context) (*api, error) {
	var wait patience
	for {
		a, err := t.cluster.tracker()
		v := view{}
		if err != nil {
			v = view{fails: tellOutageAt, err: err}
		}
		t.outage("", v)
		if err == nil {
			return a, nil
		}
		if end := sleep(ctx, wait.after(err)); end != nil {
			return nil, fmt.Errorf("%w; %w", err, end)
		}
	}
}

// lose ends run i as interrupted: it is in another cluster.
func (t *tracker) lose(i int, why *elsewhere) error {
	run := t.run(i)
	run.Status, run.Reason = sentry.Interrupted, why.Error()
	t.say("pipeline run %s/%s: %s", run.Namespace, run.Name, why)
	return t.publish(i, run)
}

// maxLines bounds what one Track writes, tails of logs not counted.
const maxLines = 5000

func (t *tracker) copy() []sentry.PipelineRun {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.runs)
}

func (t *tracker) run(i int) sentry.PipelineRun {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.runs[i]
}

// publish makes run known, if anything of it changed.
func (t *tracker) publish(i int, run sentry.PipelineRun) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if reflect.DeepEqual(t.runs[i], run) {
		return nil
	}
	t.runs[i] = run
	if t.progress == nil {
		return nil
	}
	return t.progress(slices.Clone(t.runs))
}

// say writes a line into the step log.
func (t *tracker) say(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.log == nil || t.lines > maxLines {
		return
	}
	t.lines++
	if t.lines > maxLines {
		format, args = "(there is more to tell than fits here)", nil
	}
	// A step log that cannot be written does not keep the verdict from coming.
	_, _ = io.WriteString(t.log, logger.SanitizeLine(fmt.Sprintf(format, args...))+"\n")
}

// outage tells, once, that the server does not answer for a namespace, and when it does again. The namespace "" is for the
// credentials, without which there is nothing to ask with.
func (t *tracker) outage(namespace string, v view) {
	t.mu.Lock()
	was := t.away[namespace] != ""
	is := was && v.fails > 0 || v.fails >= tellOutageAt
	if is == was {
		t.mu.Unlock()
		return
	}
	why := ""
	if is {
		why = outageText(namespace, v.err)
		t.away[namespace] = why
	} else {
		delete(t.away, namespace)
	}
	t.mu.Unlock()
	switch {
	case is:
		t.say("%s, asking on", why)
	case namespace == "":
		t.say("the credentials of the cluster can be used again")
	default:
		t.say("the API server answers again for namespace %s", namespace)
	}
	t.tellAway()
}

// outageText says what keeps Sentry from knowing.
func outageText(namespace string, err error) string {
	switch {
	case namespace == "":
		return fmt.Sprintf("%s; what became of the pipeline runs is unknown", err)
	case denied(err):
		return fmt.Sprintf("the API server refuses to show the pipeline runs of namespace %s: %s; what became of them is unknown", namespace, err)
	case errors.Is(err, errNoTekton):
		return fmt.Sprintf("%s; what became of the pipeline runs is unknown", err)
	}
	return fmt.Sprintf("the API server does not answer (%s): what became of the pipeline runs in namespace %s is unknown", err, namespace)
}

// tellAway tells what is away, if that is news.
func (t *tracker) tellAway() {
	if t.tell == nil {
		return
	}
	t.telling.Lock()
	defer t.telling.Unlock()
	t.mu.Lock()
	why := ""
	if names := slices.Sorted(maps.Keys(t.away)); len(names) > 0 {
		why = t.away[names[0]]
	}
	t.mu.Unlock()
	if why != t.told {
		t.told = why
		t.tell(why)
	}
}

// resolve finds out what an intent led to: the run with its nonce, or nothing.
func (t *tracker) resolve(ctx context.Context, a *api, i int) error {
	run := t.run(i)
	if !run.Intent() || run.Status.Terminal() {
		return nil
	}
	var wait patience
	for looks := 0; ; {
		found, err := find(ctx, a, run.Namespace, LabelRequest+"="+LabelValue(run.Nonce))
		switch {
		case err == nil && len(found) > 0:
			t.say("pipeline run %s/%s was created by request %s", found[0].Namespace, found[0].Name, run.Nonce)
			found[0].Attempt, found[0].Cluster = run.Attempt, run.Cluster
			return t.publish(i, found[0])
		case err == nil:
			wait.reset()
			if looks++; looks <= 1 && run.Nonce != "" {
				break
			}
			err = t.cluster.whose(ctx, run.Cluster, run.Namespace)
			if other := new(elsewhere); errors.As(err, &other) {
				return t.lose(i, other)
			}
			if err == nil {
				run.Status, run.Reason = sentry.Skipped, "it was about to be created, but never was"
				return t.publish(i, run)
			}
		}
		v := view{}
		if err != nil {
			v = view{fails: tellOutageAt, err: err}
		}
		t.outage(run.Namespace, v)
		if err := sleep(ctx, max(settleTime, wait.after(err))); err != nil {
			return err
		}
	}
}

// find asks for the runs of a namespace that carry a label, oldest first; those that a controller made come last, for
// they may have the labels of another.
func find(ctx context.Context, a *api, namespace, labels string) ([]sentry.PipelineRun, error) {
	version, err := a.tekton(ctx)
	if err != nil {
		return nil, err
	}
	var found []*seen
	query := map[string][]string{"labelSelector": {labels}}
	known := map[string]bool{}
	_, err = a.list(ctx, resourcePath(version, namespace, "pipelineruns"), query, func(o *wireObject) {
		if !known[o.Metadata.UID] && len(found) < maxFound {
			known[o.Metadata.UID] = true
			found = append(found, sees(o))
		}
	})
	if isCode(err, http.StatusNotFound) {
		a.forgetTekton()
	}
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(found, func(a, b *seen) int {
		if a.owned != b.owned {
			if a.owned {
				return 1
			}
			return -1
		}
		return a.created.Compare(b.created)
	})
	var runs []sentry.PipelineRun
	for _, s := range found {
		runs = append(runs, s.asRun(version))
	}
	return runs, nil
}

// maxFound bounds what find gives of a namespace.
const maxFound = 5000

// asRun makes a run of one that was found. One that has ended counts as running: nobody has verified it.
func (s *seen) asRun(version string) sentry.PipelineRun {
	run := sentry.PipelineRun{
		Namespace: s.namespace, Name: s.name, UID: s.uid, APIVersion: group + "/" + version, Nonce: s.nonce, Attempt: s.attempt,
		Status: sentry.Running, StartedAt: s.started,
	}
	if !s.final() {
		s.apply(&run)
	}
	return run
}
