package deploy

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"sentry/internal/config"
	"sentry/internal/kube"
	"sentry/internal/sentry"
)

// JobCluster is what an attempt that runs as a Job asks of Kubernetes. *kube.Cluster is one.
type JobCluster interface {
	// Namespaces are those that commands may use, the default one first.
	Namespaces() []string
	// Mark tells which cluster this is, as far as is known.
	Mark(ctx context.Context, namespace string) *sentry.ClusterID
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
	if outcome.Status == sentry.Running || outcome.Status == sentry.Interrupted && ctx.Err() != nil && j.leaves(ctx) {
		if ok {
			j.suspend()
		}
		return outcome // the Job goes on, and so do its steps
	}
	j.close()
	j.endStep(outcome)
	a.settle(outcome)
	if j.done == nil && j.sent {
		j.recallAll(ctx)
	}
	return outcome
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

// recordedJob is the Job that is on record.
func recordedJob(j *sentry.JobRef) kube.JobRef {
	return kube.JobRef{Namespace: j.Namespace, Name: j.Name, UID: j.UID, Cluster: j.Cluster}
}

func jobName(j *sentry.JobRef) string { return j.Namespace + "/" + j.Name }

// newJobName names the Job of an attempt. Whoever has the name of a Job gets what is sent to it, so it cannot be guessed.
func newJobName(d sentry.Deployment) string {
	end := fmt.Sprintf("-a%d-%s", d.Attempt, strings.ToLower(rand.Text()[:10]))
	name := "sentry-" + d.ID
	return name[:min(len(name), 63-len(end))] + end
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
		err = a.cluster.EndJob(ctx, recordedJob(a.d.Job), a.job.Global.Grace+podMargin)
	}
	if err == nil {
		err = a.recall(ctx)
	}
	if err != nil {
		return fmt.Sprintf("Job %s may still run: %v", jobName(a.d.Job), err)
	}
	return ""
}
