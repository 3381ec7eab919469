package deploy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"sentry/internal/config"
	"sentry/internal/kube"
	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// JobCluster is what an attempt that runs as a Job asks of Kubernetes. *kube.Cluster is one.
type JobCluster interface {
	// Namespaces are those that commands may use, the default one first.
	Namespaces() []string
	StartJob(ctx context.Context, spec kube.JobSpec) (kube.JobRef, error)
	FindJob(ctx context.Context, ref kube.JobRef) (kube.JobRef, bool, error)
	FollowJob(ctx context.Context, ref kube.JobRef, f kube.JobFollow) (kube.JobEnd, error)
	SendToJob(ctx context.Context, ref kube.JobRef, line []byte) error
	EndJob(ctx context.Context, ref kube.JobRef, grace time.Duration) error
	ServiceToken(ctx context.Context, ref kube.JobRef, account string, lifetime time.Duration) (token string, expires time.Time, err error)
}

// Pod is how the Job of an attempt looks. It is the place of the attempt.
type Pod config.JobSettings

// Spec describes the Job of any attempt. What is said of one, its name and its times, is not in it.
func (p *Pod) Spec() kube.JobSpec {
	return kube.JobSpec{
		Namespace: p.Namespace, Image: p.Image, PullPolicy: p.PullPolicy, PullSecrets: p.PullSecrets,
		Args: []string{"runner", "--state-dir", kube.JobWork}, ServiceAccount: p.ServiceAccount,
		Requests: p.Resources.Requests, Limits: p.Resources.Limits, NodeSelector: p.NodeSelector, Tolerations: p.Tolerations,
		PodSecurity: p.PodSecurity, ContainerSecurity: p.Security, Scratch: p.Scratch,
		Keep: p.Keep, Labels: p.Labels, Annotations: p.Annotations, Patience: p.StartTimeout,
	}
}

// The step in which a Job is made, and its pod waited for.
const jobStep = "job"

// How much longer than its commands a pod is given to end, and a Job than its deployment, should Sentry not be there then.
const (
	podMargin = 5 * time.Second
	jobMargin = time.Minute
)

// noLimit is for a Job of a deployment without any timeout: nothing runs for ever.
const noLimit = 24 * time.Hour

// inJob reports whether the attempt at a deployment is in a Job, as far as is known.
func inJob(d sentry.Deployment) bool {
	return d.Status == sentry.Running && d.Job != nil && d.Job.Attempt == d.Attempt && !resumable(d)
}

// goesOn reports whether an attempt goes on without Sentry: the next start takes it as it is then.
func goesOn(d sentry.Deployment) bool { return resumable(d) || inJob(d) }

// perform has the middle of an attempt done in a Job of its own, and follows it.
func (p *Pod) perform(ctx context.Context, a *attempt) Outcome {
	if a.cluster == nil {
		if outcome := a.withoutCluster(ctx); outcome.Status != sentry.Succeeded {
			return outcome
		}
	}
	j := &shift{attempt: a, pod: p, logs: map[string]*toldLog{}}
	outcome, ok := j.begin(ctx)
	if ok {
		outcome = j.follow(ctx)
	}
	j.close()
	if j.done == nil && ctx.Err() != nil && j.leaves(ctx) {
		return outcome // the Job goes on, and so do its steps
	}
	j.endStep(outcome)
	a.settle(outcome)
	if ok && j.done == nil && j.given {
		j.recallAll(ctx)
	}
	return outcome
}

// recallAll is recall for an attempt whose Job has ended without a last word. What it cannot find is told in the log.
func (j *shift) recallAll(ctx context.Context) {
	limit, done := j.patience(ctx)
	defer done()
	if err := j.recall(limit); err != nil {
		j.attempt.log().Error("cannot look for what the Job has created", "job", j.ref.String(), logger.KeyError, err)
	}
}

// withoutCluster waits for the cluster in which the Job is. Where there is no Job yet, nothing is waited for.
func (a *attempt) withoutCluster(ctx context.Context) Outcome {
	if !a.job.Adopt {
		why := a.noCluster
		if why == nil {
			why = kube.ErrNoCluster
		}
		step := a.begin(sentry.StepTrack, jobStep)
		return a.end(step, Outcome{sentry.Failed, fmt.Sprintf("cannot run as a Job: %v", why)})
	}
	if err := a.reach(ctx, io.Discard); err != nil {
		outcome := EndedBy(ctx, "it was not known how Job "+jobName(a.d.Job)+" ends")
		if !a.again(ctx, outcome) {
			a.settle(outcome)
		}
		return outcome
	}
	return Outcome{Status: sentry.Succeeded}
}

// settle ends the steps that have not ended.
func (a *attempt) settle(o Outcome) {
	for i := range a.d.Steps {
		if step := &a.d.Steps[i]; !step.Status.Terminal() {
			a.end(step, o)
		}
	}
}

func jobName(j *sentry.JobRef) string { return j.Namespace + "/" + j.Name }

// shift is an attempt in a Job, as it is followed from here. The lock is for what the Job tells, which comes from goroutines
// of the cluster.
type shift struct {
	*attempt
	pod *Pod
	ref kube.JobRef
	end time.Time // when the attempt must be over; zero for no limit

	mu     sync.Mutex
	start  int     // ordinal of the step in which the Job begins; 0 once that has ended
	log    stepLog // of it; a place to write to also when it has ended
	seq    int64   // of the last message
	asked  time.Time
	given  bool // it has its assignment
	done   *Outcome
	alien  string // the last line that was no message: of a runner that panicked, say
	logs   map[string]*toldLog
	undone string // what could not be ended
}

// begin makes sure that there is a Job. Where there is none it gives the outcome, and false.
func (j *shift) begin(ctx context.Context) (Outcome, bool) {
	if j.job.Adopt {
		j.ref = kube.JobRef{Namespace: j.d.Job.Namespace, Name: j.d.Job.Name, UID: j.d.Job.UID}
		j.seq = 0
		ref, found, err := j.cluster.FindJob(ctx, j.ref)
		switch {
		case err != nil && ctx.Err() != nil:
			return j.endedBy(ctx, "Job "+j.ref.String()+" was looked for"), false
		case err != nil:
			return Outcome{sentry.Interrupted, fmt.Sprintf("nobody knows how Job %s ends: %v", j.ref, err)}, false
		case found:
			j.ref = ref
			return j.known(ctx)
		case j.d.Job.UID != "":
			return Outcome{sentry.Interrupted, fmt.Sprintf("Job %s is gone", j.ref)}, false
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

// newJobName names the Job of an attempt. Whoever has the name of a Job gets what is sent to it, so it cannot be guessed.
func newJobName(d sentry.Deployment) string {
	end := fmt.Sprintf("-a%d-%s", d.Attempt, strings.ToLower(rand.Text()[:10]))
	name := "sentry-" + d.ID
	return name[:min(len(name), 63-len(end))] + end
}

// create has the Job created. A crash after its first save leaves an intent: the name tells whether there is a Job.
func (j *shift) create(ctx context.Context) (Outcome, bool) {
	j.d.Job = &sentry.JobRef{Namespace: j.ref.Namespace, Name: j.ref.Name, Attempt: j.d.Attempt}
	j.beginStep()
	if err := j.keep.save(j.state()); err != nil {
		return Outcome{sentry.Interrupted, err.Error()}, false
	}
	ref, err := j.cluster.StartJob(ctx, j.spec(ctx))
	var refused *kube.JobError
	switch {
	case err == nil:
		j.ref = ref
		return j.known(ctx)
	case errors.As(err, &refused):
		return Outcome{sentry.Failed, fmt.Sprintf("cannot create Job %s: %v", j.ref, err)}, false
	case ctx.Err() != nil:
		outcome := j.endedBy(ctx, "Job "+j.ref.String()+" was created")
		if !j.leaves(ctx) {
			j.endJob(ctx) // it may exist all the same
			outcome.Reason += j.undone
		}
		return outcome, false
	}
	return Outcome{sentry.Failed, fmt.Sprintf("cannot create Job %s: %v", j.ref, err)}, false
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
		Line: func(line []byte) error { return j.hear(following, line) }, Waiting: j.waiting,
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

// endJob ends the Job, and waits for its pod to end.
func (j *shift) endJob(ctx context.Context) {
	grace, patience := j.job.Global.Grace+podMargin, cancelPatience
	if errors.Is(context.Cause(ctx), errShutdown) {
		patience = stopPatience
	}
	limit, done := withPatience(ctx, grace+patience, nil)
	defer done()
	if err := j.cluster.EndJob(limit, j.ref, grace); err != nil {
		j.undone = "; " + err.Error()
	}
}

// recall finds what the attempt has created by its labels: what its Job told may not have been all.
func (a *attempt) recall(ctx context.Context) error {
	if a.keep.untracked {
		return nil
	}
	namespaces := slices.Clone(a.cluster.Namespaces())
	if own := a.job.Repository.Deploy.Kubernetes.Namespaces; len(own) > 0 {
		namespaces = slices.Clone(own)
	}
	for _, run := range a.keep.pick(func(_ int, run sentry.PipelineRun) bool { return run.Attempt == a.d.Attempt }) {
		if !slices.Contains(namespaces, run.Namespace) {
			namespaces = append(namespaces, run.Namespace)
		}
	}
	found, err := a.cluster.Find(ctx, kube.Selector{Instance: a.Instance, Deployment: a.d.ID, Attempt: a.d.Attempt}, namespaces)
	if err != nil {
		return err
	}
	a.keep.remember(found)
	return nil
}

// remember adds runs of the attempt that were not known. The caller has them saved.
func (k *keeper) remember(found []sentry.PipelineRun) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, run := range found {
		if !slices.ContainsFunc(k.runs, func(r sentry.PipelineRun) bool { return r.UID == run.UID || r.Nonce != "" && r.Nonce == run.Nonce }) {
			run.Attempt = k.attempt
			k.runs = append(k.runs, run)
		}
	}
}

// endLeft ends what is left of a deployment that is not begun again: its Job, and then its pipeline runs. It tells what could
// not be done until ctx ended; "" for nothing.
func (a *attempt) endLeft(ctx context.Context) (undone string) {
	if inJob(a.d) {
		if undone = a.endOldJob(ctx); undone != "" {
			return undone
		}
	}
	if len(a.keep.pick(func(_ int, run sentry.PipelineRun) bool { return run.Open() })) == 0 {
		return ""
	}
	return a.cancelStep(ctx, "the deployment is not begun again")
}

// endOldJob ends the Job that an earlier process has left, and finds what it has created.
func (a *attempt) endOldJob(ctx context.Context) (undone string) {
	a.settle(Outcome{sentry.Interrupted, "its Job was ended"})
	err := a.reach(ctx, io.Discard)
	if err == nil {
		ref := kube.JobRef{Namespace: a.d.Job.Namespace, Name: a.d.Job.Name, UID: a.d.Job.UID}
		err = a.cluster.EndJob(ctx, ref, a.job.Global.Grace+podMargin)
	}
	if err == nil {
		err = a.recall(ctx)
	}
	if err != nil {
		return fmt.Sprintf("Job %s may still run: %v", jobName(a.d.Job), err)
	}
	return ""
}

// judge tells how the attempt ended. The caller has the lock.
func (j *shift) judge(ctx context.Context, end kube.JobEnd, err error) Outcome {
	why := logger.SanitizeLine(end.Message)
	switch {
	case j.done != nil && j.done.Status == sentry.Failed && end.Reason == "OOMKilled": // nodes differ in whether that ends one process or all
		return Outcome{sentry.Failed, fmt.Sprintf("%s; the pod used more memory than its limit of %s (OOMKilled)", j.done.Reason, j.pod.Resources.Limits["memory"])}
	case j.done != nil && j.done.Status != sentry.Interrupted:
		return *j.done
	case ctx.Err() != nil:
		outcome := j.endedBy(ctx, j.doing())
		outcome.Reason += j.undone
		return outcome
	case err != nil:
		j.endJob(ctx)
		return Outcome{sentry.Failed, fmt.Sprintf("cannot follow Job %s: %v%s", j.ref, err, j.undone)}
	case end.Never:
		j.endJob(ctx)
		return Outcome{sentry.Failed, fmt.Sprintf("Job %s cannot start: %s%s", j.ref, why, j.undone)}
	case end.Reason == "DeadlineExceeded":
		return Outcome{sentry.TimedOut, fmt.Sprintf("Job %s took longer than the deployment may, while %s", j.ref, j.doing())}
	case end.Lost, j.done != nil: // it was told to end, and not from here
		return j.takenAway(ctx, end)
	case end.Reason == "OOMKilled":
		return Outcome{sentry.Failed, fmt.Sprintf("the pod was killed because it used more memory than its limit of %s (OOMKilled), while %s",
			j.pod.Resources.Limits["memory"], j.doing())}
	}
	if j.alien != "" {
		why = j.alien
	}
	return Outcome{sentry.Failed, fmt.Sprintf("the runner of Job %s ended with exit code %d (%s), while %s: %s", j.ref, end.ExitCode, end.Reason, j.doing(), why)}
}

// takenAway is the outcome where the pod was ended from outside. The attempt has not failed, and another may begin: when
// nothing of this one runs any more.
func (j *shift) takenAway(ctx context.Context, end kube.JobEnd) Outcome {
	why := end.Reason
	if end.Message != "" {
		why = strings.TrimPrefix(why+": "+logger.SanitizeLine(end.Message), ": ")
	}
	reason := fmt.Sprintf("the pod of Job %s was taken away (%s), while %s", j.ref, why, j.doing())
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

// assignment is what the runner is told.
func (j *shift) assignment(ctx context.Context) (*Assignment, error) {
	repo := j.job.Repository
	work := AssignedWork{
		Name: repo.Name, Monitored: repo.Monitor.Remote.String(), ProjectName: repo.Deploy.ProjectName, Commands: repo.Deploy.Commands,
		Track: repo.Deploy.Track, Namespaces: repo.Deploy.Kubernetes.Namespaces, Impersonate: repo.Deploy.Kubernetes.Impersonate,
	}
	for _, v := range repo.Deploy.Env {
		work.Env = append(work.Env, AssignedEnv{Name: v.Name, Value: v.Value.Reveal(), Sensitive: v.Sensitive})
	}
	var err error
	if work.Source, err = j.assignSource(ctx); err != nil {
		return nil, fmt.Errorf("the credentials of the QA repository: %w", err)
	}
	d := j.state()
	d.PipelineRuns = j.keep.pick(func(int, sentry.PipelineRun) bool { return true })
	a := &Assignment{
		Protocol: protocol, Instance: j.Instance, Rollout: j.job.Rollout, Deployment: d, Repository: work,
		Timeout: sentry.Duration(j.job.Global.Timeout), Grace: sentry.Duration(j.job.Global.Grace),
	}
	if j.pod.ServiceAccount != "" {
		lifetime := noLimit
		if !j.end.IsZero() {
			lifetime = time.Until(j.end) + j.job.Global.Grace + jobMargin
		}
		token, _, err := j.cluster.ServiceToken(ctx, j.ref, j.pod.ServiceAccount, lifetime)
		if err != nil {
			return nil, err
		}
		j.Mask.Add(sentry.NewSecret(token))
		a.Cluster = &AssignedCluster{Token: token, Namespaces: j.cluster.Namespaces()}
	}
	return a, nil
}

// assignSource gives the QA repository with the credentials as they are now.
func (j *shift) assignSource(ctx context.Context) (AssignedSource, error) {
	want := j.want(j.job.Repository, j.job.Since)
	s := AssignedSource{URL: want.Remote.String(), Branch: want.Branch, Username: want.Auth.Username}
	if want.Auth.Token != nil {
		token, err := want.Auth.Token(ctx)
		if err != nil {
			return s, err
		}
		s.Token = token.Reveal()
	}
	var authorities, certificate, key string
	if j.Certificates != nil {
		authorities, certificate, key = j.Certificates(want.Remote.Origin())
	}
	for _, file := range []struct {
		path string
		into *[]byte
	}{
		{want.Auth.SSHKeyFile, &s.SSHKey},
		{want.Auth.KnownHostsFile, &s.KnownHosts},
		{authorities, &s.Authorities},
		{certificate, &s.Certificate},
		{key, &s.Key},
	} {
		if file.path == "" {
			continue
		}
		data, err := os.ReadFile(file.path)
		if err != nil {
			return s, err
		}
		*file.into = data
	}
	return s, nil
}
