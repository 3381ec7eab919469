package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"sentry/internal/command"
	"sentry/internal/kube"
	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// How long it is tried to cancel pipeline runs when their deployment ends, and when Sentry does: what is not done by then
// is told, and where the deployment is begun again, done before that.
const (
	cancelPatience = 2 * time.Minute
	stopPatience   = 10 * time.Second
)

// The names of the steps that see to pipeline runs. A deployment whose last step is trackStep had done all else; where
// cancelStep comes after a step that did not succeed, the outcome of that one is the verdict.
const (
	trackStep  = "track"
	cancelStep = "cancel"
)

// resumable reports whether the commands of a deployment had ended when Sentry did, and its pipeline runs were followed,
// or canceled after a verdict.
func resumable(d sentry.Deployment) bool {
	if d.Status != sentry.Running {
		return false
	}
	steps := stepsOf(d)
	if n := len(steps); n > 0 && steps[n-1].Kind == sentry.StepTrack && steps[n-1].Name == trackStep {
		return true
	}
	_, stands := standing(d)
	return stands
}

// standing gives the verdict of a deployment whose pipeline runs were being canceled when Sentry ended, and reports whether
// there is one. One that was interrupted has none: what becomes of it is for the next start to say.
func standing(d sentry.Deployment) (Outcome, bool) {
	steps := stepsOf(d)
	n := len(steps)
	for n > 0 && steps[n-1].Kind == sentry.StepTrack && steps[n-1].Name == cancelStep {
		n--
	}
	if d.Status != sentry.Running || n == 0 || n == len(steps) {
		return Outcome{}, false
	}
	switch by := steps[n-1]; by.Status {
	case sentry.TimedOut, sentry.Canceled, sentry.Failed:
		return Outcome{by.Status, by.Reason}, true
	}
	return Outcome{}, false
}

// stepsOf gives the steps of the current attempt, in their order.
func stepsOf(d sentry.Deployment) []sentry.Step {
	var steps []sentry.Step
	for _, s := range d.Steps {
		if s.Attempt == d.Attempt {
			steps = append(steps, s)
		}
	}
	return steps
}

// left reports whether the Job of a deployment, or pipeline runs of it, may still run.
func left(d sentry.Deployment) bool {
	return inJob(d) || slices.ContainsFunc(d.PipelineRuns, sentry.PipelineRun.Open)
}

// holdCluster takes the cluster, and gives what lets it go.
func (a *attempt) holdCluster() (release func()) {
	a.takeCluster()
	return func() {
		if a.letGo != nil {
			a.letGo()
		}
	}
}

// takeCluster takes the cluster as it is configured now, if there is one that can be used.
func (a *attempt) takeCluster() {
	if a.Clusters == nil {
		return
	}
	cluster, release, err := a.Clusters.Hold()
	switch {
	case errors.Is(err, kube.ErrNoCluster):
		a.noCluster = nil
	case err != nil:
		a.noCluster = err
	default:
		a.cluster, a.noCluster, a.letGo = cluster, nil, release
		a.keep.created = a.watch
	}
}

// How soon the configured cluster is tried again where there is none: a file may be missing for a moment.
const (
	againSoon = time.Second
	againLate = 15 * time.Second
)

// reach waits for the cluster in which the pipeline runs of the deployment are, until ctx ends.
func (a *attempt) reach(ctx context.Context, log io.Writer) error {
	var told string
	for pause := againSoon; a.cluster == nil; pause = min(2*pause, againLate) {
		err := a.noCluster
		if err == nil {
			err = errors.New("no cluster is configured any more")
		}
		if told != err.Error() {
			told = err.Error()
			fmt.Fprintf(log, "%s; what became of the pipeline runs is unknown, trying again\n", told)
			a.tell(told + "; what became of the pipeline runs is unknown")
		}
		if !sleep(ctx, pause) {
			return fmt.Errorf("%w; %w", err, context.Cause(ctx))
		}
		a.takeCluster()
	}
	if told != "" {
		fmt.Fprintln(log, "there is a cluster again")
		a.tell("")
	}
	return nil
}

// tell has everybody who looks know what the deployment waits for; "" for nothing any more.
func (a *attempt) tell(hindrance string) {
	if hindrance == "" {
		a.log().Info("the cluster can be asked again")
	} else {
		a.log().Warn("the cluster cannot be asked; the deployment waits for it", "reason", hindrance)
	}
	a.keep.tell(hindrance)
}

// leave ends what the attempt has with the cluster.
func (a *attempt) leave() {
	a.closeAccess()
	a.d.PipelineRuns = a.keep.end()
	for _, stop := range a.watched {
		stop()
	}
}

// watch makes sure that a run which is gone before it is followed is known. The keeper calls it, one call at a time.
func (a *attempt) watch(namespace string) {
	if a.keep.untracked || a.watched[namespace] != nil {
		return
	}
	if a.watched == nil {
		a.watched = map[string]func(){}
	}
	stop, err := a.cluster.Follow(a.Instance, namespace)
	if err == nil { // else it is found when it is followed
		a.watched[namespace] = stop
	}
}

// identity is in whose name the cluster is asked.
func (a *attempt) identity() kube.Identity {
	limits := a.job.Repository.Deploy.Kubernetes
	return kube.Identity{
		Instance: a.Instance, Rollout: a.job.Rollout.ID, Deployment: a.d.ID, Group: a.job.Rollout.Group, Repository: a.d.Repository,
		Commit: a.d.Commit, Attempt: a.d.Attempt, Namespaces: limits.Namespaces, Impersonate: limits.Impersonate,
	}
}

// wantsAccess reports whether commands are to have access to a cluster.
func (a *attempt) wantsAccess() bool {
	d := &a.job.Repository.Deploy
	return (a.cluster != nil || a.noCluster != nil) && len(d.Commands) > 0 && !d.OwnKubeconfig()
}

// opening opens the access of the commands while the caller goes on, and gives what waits for that.
func (a *attempt) opening() func() error {
	if !a.wantsAccess() {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() { done <- a.open() }()
	return func() error { return <-done }
}

func (a *attempt) open() (err error) {
	if a.noCluster != nil {
		return a.noCluster
	}
	a.access, err = a.cluster.Open(a.identity(), a.keep)
	return err
}

// closeAccess ends the access of the commands. What they asked for has been recorded when it returns.
func (a *attempt) closeAccess() {
	if a.access != nil {
		a.access.Close()
		a.access = nil
	}
}

func (a *attempt) kubeconfig() string { return filepath.Join(a.dir, "kube", "config") }

// writeKubeconfig puts the access where the commands find it: beside the tree, so that no script commits it.
func (a *attempt) writeKubeconfig() error {
	if a.access == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(a.kubeconfig()), 0o700); err != nil {
		return err
	}
	return os.WriteFile(a.kubeconfig(), a.access.Kubeconfig(), 0o600)
}

// stepLog is the log of a step that Sentry itself does.
type stepLog struct {
	io.Writer
	close func()
}

// openLog begins the log of a step. One that cannot be written is told of, and goes nowhere.
func (a *attempt) openLog(step *sentry.Step) stepLog {
	log, err := command.CreateLog(a.logPath(step))
	if err != nil {
		a.log().Error("cannot write the log of a step", logger.KeyStep, step.Name, logger.KeyError, err)
		return stepLog{io.Discard, func() {}}
	}
	also := a.copyLog(step)
	counted := &counter{to: io.MultiWriter(also, log)}
	masked := a.Mask.Writer(counted)
	var turn sync.Mutex
	return stepLog{writer(func(p []byte) (int, error) {
		turn.Lock()
		defer turn.Unlock()
		return masked.Write(p)
	}), func() {
		_ = masked.Flush() // the log remembers what it could not keep
		step.Bytes, step.Dropped = counted.n, log.Dropped()
		if err := errors.Join(also.Close(), log.Close()); err != nil {
			a.log().Error("cannot write the log of a step", logger.KeyStep, step.Name, logger.KeyError, err)
		}
	}}
}

// counter counts the bytes that pass.
type counter struct {
	to io.Writer
	n  int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.to.Write(p)
}

// writer is a function that writes.
type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// create creates the pipeline runs of the project's folder: the whole work where there are no commands.
func (a *attempt) create(ctx context.Context) Outcome {
	name := a.job.Repository.Deploy.ProjectName
	step := a.begin(sentry.StepCommand, "create "+projectFolder(name))
	if err := a.keep.save(a.state()); err != nil {
		return a.end(step, Outcome{sentry.Interrupted, err.Error()})
	}
	log := a.openLog(step)
	err := a.createAll(ctx, name, log)
	if err != nil {
		fmt.Fprintln(log, err)
	}
	log.close()
	created := plural(len(a.keep.pick(func(_ int, run sentry.PipelineRun) bool { return run.Attempt == a.d.Attempt && !run.Intent() })), "pipeline run")
	switch {
	case err == nil:
		return a.end(step, Outcome{sentry.Succeeded, created + " created"})
	case ctx.Err() != nil:
		return a.end(step, EndedBy(ctx, "pipeline runs were created"))
	}
	return a.end(step, Outcome{sentry.Failed, fmt.Sprintf("cannot create the pipeline runs of %s: %v", projectFolder(name), err)})
}

func (a *attempt) createAll(ctx context.Context, name string, log io.Writer) error {
	switch {
	case a.noCluster != nil:
		return a.noCluster
	case a.cluster == nil:
		return errors.New("the repository has no commands, and there is no cluster: add a kubernetes section, or commands")
	}
	manifests, err := readManifests(a.source(), name)
	if err != nil {
		return err
	}
	ctx, cancel := withLimit(ctx, a.job.Global.Timeout)
	defer cancel()
	params := map[string]string{}
	for _, v := range environment(a.job, a.d, places{}) {
		if key, value, _ := strings.Cut(v, "="); strings.HasPrefix(key, "SENTRY_") && key != "SENTRY_VECTOR_FILE" {
			params[key] = value
		}
	}
	err = a.cluster.Create(ctx, manifests, a.identity(), params, a.keep)
	runs := a.keep.pick(func(_ int, run sentry.PipelineRun) bool { return run.Attempt == a.d.Attempt && !run.Intent() })
	for _, run := range runs {
		fmt.Fprintf(log, "created pipeline run %s/%s\n", run.Namespace, run.Name)
	}
	if err == nil && len(runs) == 0 {
		err = errors.New("no file has a PipelineRun")
	}
	return err
}

// seeOut sees to the pipeline runs that the work has created: it follows them where it went well, and ends them where it
// did not.
func (a *attempt) seeOut(ctx context.Context, outcome Outcome) Outcome {
	runs := a.keep.pick(func(_ int, run sentry.PipelineRun) bool { return a.keep.current(run) })
	switch {
	case len(runs) == 0 || outcome.Status == sentry.Running:
		return outcome
	case outcome.Status == sentry.Succeeded:
		return a.track(ctx, outcome.Reason)
	case errors.Is(context.Cause(ctx), errLost):
		return outcome // another owner may see to them by now
	}
	return a.endRuns(ctx, outcome, "what created them "+words(outcome.Status))
}

// endRuns ends the pipeline runs of an attempt whose outcome is that of its last step. A crash from its first save on: where
// the outcome stands, the next start ends them; else it begins again, or gives up. So it is where Sentry is told to stop
// meanwhile.
func (a *attempt) endRuns(ctx context.Context, outcome Outcome, why string) Outcome {
	limit, done := a.patience(ctx)
	defer done()
	undone := a.cancelStep(limit, why)
	switch {
	case undone == "" || a.again(ctx, outcome):
	case errors.Is(context.Cause(limit), errShutdown), errors.Is(context.Cause(ctx), errShutdown) && outcome.Status != sentry.Interrupted:
		return Outcome{sentry.Running, outcome.Reason + "; its pipeline runs are canceled when Sentry starts again"}
	default:
		outcome.Reason += "; " + undone
		a.abandon()
	}
	return outcome
}

// again reports whether the deployment stays as it is, for the next start.
func (a *attempt) again(ctx context.Context, outcome Outcome) bool {
	return outcome.Status == sentry.Interrupted && ctx.Err() != nil && a.job.Rollout.Policy.OnInterrupt == sentry.Retry
}

// patience is how long it is tried to end pipeline runs, although ctx may have ended: not for long where Sentry was told
// to stop, and until it is told where that comes later.
func (a *attempt) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	if errors.Is(context.Cause(ctx), errShutdown) {
		return withPatience(ctx, stopPatience, nil)
	}
	return withPatience(ctx, cancelPatience, a.job.Stop)
}

// withPatience gives a context that ends after a time, whatever ends the given one, and with errShutdown when stop is closed.
func withPatience(ctx context.Context, most time.Duration, stop <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, expire := context.WithTimeoutCause(context.WithoutCancel(ctx), most, fmt.Errorf("the cluster did not do it within %s", most))
	ctx, end := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-stop:
			end(errShutdown)
		case <-ctx.Done():
		}
	})
	return ctx, func() { end(nil); expire(); watching.Wait() }
}

// clearEarlier ends what earlier attempts left running. The next one must not begin before.
func (a *attempt) clearEarlier(ctx context.Context) Outcome {
	if !left(a.d) {
		return Outcome{Status: sentry.Succeeded}
	}
	switch undone := a.cancelStep(ctx, "Sentry ended while what created them ran"); {
	case undone == "":
		return Outcome{Status: sentry.Succeeded}
	case ctx.Err() != nil:
		outcome := EndedBy(ctx, "pipeline runs of an earlier attempt were canceled")
		if a.again(ctx, outcome) || errors.Is(context.Cause(ctx), errLost) {
			return outcome
		}
		return a.endEarlier(ctx, outcome)
	default:
		a.abandon()
		return Outcome{sentry.Interrupted, "the deployment cannot begin again: " + undone}
	}
}

// endEarlier ends what earlier attempts left running, where the deployment has ended before that: whoever ended it meant
// them, too. Where Sentry is told to stop meanwhile, the next start ends them before it begins anything.
func (a *attempt) endEarlier(ctx context.Context, outcome Outcome) Outcome {
	limit, done := a.patience(ctx)
	defer done()
	undone := a.cancelStep(limit, "the deployment has ended")
	switch {
	case undone == "":
	case errors.Is(context.Cause(limit), errShutdown):
		return Outcome{sentry.Running, outcome.Reason + "; its pipeline runs are canceled when Sentry starts again"}
	default:
		outcome.Reason += "; " + undone
		a.abandon()
	}
	return outcome
}

// cancelStep ends all pipeline runs that may still run, in a step of its own, and tells what could not be done until ctx
// ended; "" for nothing.
func (a *attempt) cancelStep(ctx context.Context, why string) (undone string) {
	step := a.begin(sentry.StepTrack, cancelStep)
	if err := a.keep.save(a.state()); err != nil {
		a.end(step, Outcome{sentry.Interrupted, err.Error()})
		return err.Error()
	}
	log := a.openLog(step)
	runs := a.keep.pick(func(_ int, run sentry.PipelineRun) bool { return run.Open() })
	fmt.Fprintf(log, "canceling %s: %s\n", plural(len(runs), "pipeline run"), why)
	a.log().Info("canceling pipeline runs; the deployment waits for their end", logger.KeyStep, step.Name, "reason", why, "runs", nameRuns(runs))
	err := a.cancel(ctx, runs, log)
	log.close()
	if err != nil {
		a.end(step, Outcome{sentry.Failed, err.Error()})
		return err.Error()
	}
	a.end(step, Outcome{sentry.Succeeded, plural(len(runs), "pipeline run") + " canceled or ended before"})
	return ""
}

// cancel ends pipeline runs. It fails with what may still run.
func (a *attempt) cancel(ctx context.Context, runs []sentry.PipelineRun, log io.Writer) error {
	if len(runs) == 0 {
		return nil
	}
	if err := a.reach(ctx, log); err != nil {
		return fmt.Errorf("%s may still run: %w", nameRuns(runs), err)
	}
	now, err := a.cluster.Cancel(ctx, runs, kube.CancelOptions{Log: log, Away: a.tell})
	// What is in another cluster stays to be seen to: only where the deployment ends that is given up.
	var lost []sentry.PipelineRun
	a.lost = nil
	for i, run := range now {
		if run.Status == sentry.Interrupted {
			lost, a.lost = append(lost, run), append(a.lost, [2]sentry.PipelineRun{runs[i], run})
			now[i] = runs[i]
		}
	}
	a.keep.put(runs, now)
	open := slices.DeleteFunc(slices.Clone(now), func(r sentry.PipelineRun) bool { return !r.Open() })
	switch {
	case len(lost) > 0:
		return fmt.Errorf("%s may still run: %s", nameRuns(open), lost[0].Reason)
	case len(open) == 0:
		return nil
	case err == nil:
		err = errors.New("the cluster has not ended it")
	}
	fmt.Fprintln(log, err)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return fmt.Errorf("%s may still run: %w", nameRuns(open), err)
}

// abandon gives up what may still run: nobody knows how it ends.
func (a *attempt) abandon() {
	for _, l := range a.lost {
		a.keep.put(l[:1], l[1:])
	}
	a.keep.abandon()
}

// retract ends what a failed try has created, before the next one begins: it does not count.
func (a *attempt) retract(ctx context.Context, step *sentry.Step, mark int) error {
	if a.access == nil {
		return nil
	}
	// A request may outlive the process that sent it: nothing of the failed try can create more when its access is closed.
	a.closeAccess()
	if err := a.retractRuns(ctx, step, mark); err != nil {
		return err
	}
	if err := a.open(); err != nil {
		return fmt.Errorf("cannot give the commands access to Kubernetes: %w", err)
	}
	return a.writeKubeconfig()
}

// retractRuns ends the pipeline runs from a place on.
func (a *attempt) retractRuns(ctx context.Context, step *sentry.Step, mark int) error {
	runs := a.keep.pick(func(i int, run sentry.PipelineRun) bool { return i >= mark && a.keep.current(run) })
	if len(runs) == 0 {
		return nil
	}
	file, err := os.OpenFile(a.logPath(step), os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write the log: %w", err)
	}
	defer file.Close()
	fmt.Fprintf(file, "sentry: canceling %s of the try that failed\n", plural(len(runs), "pipeline run"))
	open := slices.DeleteFunc(slices.Clone(runs), func(r sentry.PipelineRun) bool { return !r.Open() })
	if err := a.cancel(ctx, open, file); err != nil {
		return err
	}
	a.keep.supersede(mark)
	return nil
}

// track follows the pipeline runs of the attempt to their end. done is what went well before.
func (a *attempt) track(ctx context.Context, done string) Outcome {
	step := a.begin(sentry.StepTrack, trackStep)
	if err := a.keep.save(a.state()); err != nil {
		return a.end(step, Outcome{sentry.Interrupted, err.Error()})
	}
	// A crash from here on: the next start goes on with this step, and nothing runs again.
	log := a.openLog(step)
	outcome := a.follow(ctx, log)
	log.close()
	a.end(step, outcome)
	open := slices.ContainsFunc(a.keep.pick(func(int, sentry.PipelineRun) bool { return true }), sentry.PipelineRun.Open)
	if open && !errors.Is(context.Cause(ctx), errLost) && !a.again(ctx, outcome) { // else whoever comes next goes on with them
		return a.endRuns(ctx, outcome, outcome.Reason)
	}
	if outcome.Status == sentry.Succeeded && done != "" {
		outcome.Reason = done + ", " + outcome.Reason
	}
	return outcome
}

func (a *attempt) follow(ctx context.Context, log io.Writer) Outcome {
	runs := a.keep.pick(func(_ int, run sentry.PipelineRun) bool { return a.keep.current(run) && run.Open() })
	if err := a.reach(ctx, log); err != nil {
		fmt.Fprintln(log, err)
		return EndedBy(ctx, "it was not known how "+nameRuns(runs)+" ends")
	}
	now, err := a.cluster.Track(ctx, runs, kube.TrackOptions{
		Instance: a.Instance, Log: log, Away: a.tell, Progress: func(now []sentry.PipelineRun) error { return a.keep.progress(runs, now) },
	})
	a.keep.put(runs, now)
	counted := a.keep.pick(func(_ int, run sentry.PipelineRun) bool { return a.keep.current(run) })
	open := slices.DeleteFunc(slices.Clone(counted), func(r sentry.PipelineRun) bool { return !r.Open() })
	if len(open) == 0 {
		return foldRuns(counted)
	}
	if context.Cause(ctx) == nil {
		return Outcome{sentry.Failed, fmt.Sprintf("cannot follow %s: %v", nameRuns(open), err)}
	}
	return EndedBy(ctx, nameRuns(open)+" went on")
}

// foldRuns gives the outcome that pipeline runs make: the worst of theirs.
func foldRuns(runs []sentry.PipelineRun) Outcome {
	var outcomes []sentry.Status
	for _, run := range runs {
		outcomes = append(outcomes, run.Status)
	}
	if len(runs) == 0 {
		return Outcome{sentry.Succeeded, "no pipeline run was created after all"}
	}
	status := sentry.Fold(outcomes)
	if status == sentry.Succeeded && slices.Contains(outcomes, sentry.Canceled) {
		status = sentry.Canceled // what was canceled has not succeeded
	}
	if status == sentry.Succeeded {
		return Outcome{status, plural(len(runs), "pipeline run") + " succeeded"}
	}
	var told []string
	for _, run := range runs {
		if run.Status == status {
			told = append(told, describe(run))
		}
	}
	const most = 3
	reason := strings.Join(told[:min(most, len(told))], "; ")
	if len(told) > most {
		reason += fmt.Sprintf("; and %d more", len(told)-most)
	}
	return Outcome{status, reason}
}

// describe tells how a run ended: its name, the task that failed, and Tekton's word for it.
func describe(run sentry.PipelineRun) string {
	text := fmt.Sprintf("pipeline run %s/%s %s", run.Namespace, run.Name, words(run.Status))
	for _, task := range run.Tasks {
		if task.Status == run.Status && task.Status != sentry.Canceled {
			text += ": task " + task.Task
			if task.Reason != "" {
				text += ": " + task.Reason
			}
			break
		}
	}
	if !strings.Contains(text, ": ") && run.Reason != "" {
		text += ": " + run.Reason
	}
	if run.Condition != "" {
		text += " (" + run.Condition + ")"
	}
	return text
}

// nameRuns names runs, in few words.
func nameRuns(runs []sentry.PipelineRun) string {
	const most = 3
	var names []string
	for _, run := range runs[:min(most, len(runs))] {
		name := run.Name
		if run.Intent() {
			name = "one that was about to be created"
		}
		names = append(names, run.Namespace+"/"+name)
	}
	text := "pipeline run "
	if len(runs) > 1 {
		text = "pipeline runs "
	}
	text += strings.Join(names, ", ")
	if len(runs) > most {
		text += fmt.Sprintf(" and %d more", len(runs)-most)
	}
	return text
}

func words(s sentry.Status) string { return strings.ReplaceAll(string(s), "_", " ") }

// Abandon ends the pipeline runs that earlier attempts left running.
func (l *Local) Abandon(ctx context.Context, job Job, save func(sentry.Deployment) error) (sentry.Deployment, string) {
	a := l.attempt(job, save, func(error) {})
	defer a.holdCluster()()
	a.d.Steps = stepsOf(a.d)
	undone := a.endLeft(ctx)
	a.leave()
	return a.d, undone
}
