package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"time"

	"sentry/internal/sentry"
)

// LabelJob is on a Job and its pod: the name of the Job.
const LabelJob = labelPrefix + "job"

// What is in the pod of a Job, for who writes its program.
const (
	JobContainer = "runner"                 // the name of its one container
	JobWork      = "/work"                  // a folder to write to; so is /tmp. The rest is read-only by default
	JobAuthority = "/var/run/sentry/ca.crt" // the certificate authority of the API server
)

// JobSpec describes a Job of one pod that is tried once. What it does not say is as Pod Security's level restricted asks for.
type JobSpec struct {
	Namespace string
	Name      string   // a DNS label; a part of it should not be guessable, for who owns the name gets what is sent to it
	Identity  Identity // gives the labels and annotations of all that a deployment creates
	Image     string
	// PullPolicy is Always, IfNotPresent or Never; "" is as Kubernetes chooses.
	PullPolicy  string
	PullSecrets []string
	Command     []string // instead of the image's entry point, where it is not empty
	Args        []string
	// ServiceAccount is the pod's; "" is the namespace's default. No token of it is in the pod.
	ServiceAccount   string
	Requests, Limits map[string]string // quantities by resource
	NodeSelector     map[string]string
	Tolerations      []map[string]any // with Kubernetes' keys
	// PodSecurity and ContainerSecurity are laid over the restricted security contexts, key by key; null takes a key away.
	PodSecurity, ContainerSecurity map[string]any
	Scratch                        string        // a quantity, each for JobWork and /tmp; "" is what the node has
	Deadline                       time.Duration // the Job is ended after it, whoever is there to do it; 0 for never
	Grace                          time.Duration // between SIGTERM and SIGKILL
	Keep                           time.Duration // how long it stays after its end
	Labels, Annotations            map[string]string

	// Patience is how long StartJob asks again where the API server refuses what a person may mend: a right, a quota, a
	// namespace that is not there. 0: it does not. An API server that does not answer is asked until the context ends.
	Patience time.Duration
	Waiting  func(why string) // if not nil, told why it asks again
}

// JobRef names a Job. Without UID it is whatever has the name.
type JobRef struct {
	Namespace string
	Name      string
	UID       string
	Cluster   *sentry.ClusterID // where it was created; nil where that is not known
}

// String is NAMESPACE/NAME, for people.
func (r JobRef) String() string { return r.Namespace + "/" + r.Name }

// JobEnd is what became of a Job.
type JobEnd struct {
	Started  bool   // its container has run
	ExitCode int    // of the container; -1 where it is not known
	Reason   string // Kubernetes' word: Completed, Error, OOMKilled, Evicted, DeadlineExceeded, Deleted, …
	Message  string // for people
	Lost     bool   // it was taken away from outside, and its program did not end well: nobody knows how it would have ended
	Own      bool   // it was evicted for what it did itself, and would be again
	Never    bool   // it could not start; Message says why
}

// JobError tells why a Job was not created.
type JobError struct {
	Code    int    // of HTTP
	Reason  string // Kubernetes' word, such as Forbidden, Invalid, NotFound; QuotaExceeded, Taken for a Job of somebody else
	Message string
	Later   bool // the same request may be granted later, when a person has mended something or a quota has room
}

// Error says what the API server says.
func (e *JobError) Error() string { return fmt.Sprintf("%s: %s", e.Reason, e.Message) }

// wireJob is what is read of a Job.
type wireJob struct {
	Metadata wireMetadata `json:"metadata"`
	Spec     struct {
		Suspend bool `json:"suspend"`
	} `json:"spec"`
	Status struct {
		Conditions []wireCondition `json:"conditions"`
	} `json:"status"`
}

func (j *wireJob) ref() JobRef {
	return JobRef{Namespace: j.Metadata.Namespace, Name: j.Metadata.Name, UID: j.Metadata.UID}
}

// StartJob creates the Job. A Job of the name that carries the labels of the same attempt of the same deployment is taken
// for it: an answer may have been lost, or the process that asked. While the API server does not answer it asks until ctx
// ends. Errors: *JobError where the API server refuses; else nobody knows whether the Job was created.
func (c *Cluster) StartJob(ctx context.Context, spec JobSpec) (JobRef, error) {
	a, err := c.tracker()
	if err != nil {
		return JobRef{}, err
	}
	body, err := json.Marshal(spec.object())
	if err != nil {
		return JobRef{}, fmt.Errorf("cannot describe Job %s/%s: %w", spec.Namespace, spec.Name, err)
	}
	began := time.Now()
	var wait patience
	for {
		ref, err := spec.create(ctx, a, body)
		if err == nil {
			return ref, nil
		}
		var refused *JobError
		if errors.As(err, &refused) && (!refused.Later || time.Since(began) >= spec.Patience) {
			return JobRef{}, err
		}
		if spec.Waiting != nil && ctx.Err() == nil {
			spec.Waiting(fmt.Sprintf("Job %s/%s cannot be created now: %v", spec.Namespace, spec.Name, err))
		}
		pause := wait.after(err)
		if refused != nil {
			pause = min(pause, max(0, spec.Patience-time.Since(began)))
		}
		if end := sleep(ctx, pause); end != nil {
			return JobRef{}, fmt.Errorf("nobody knows whether Job %s/%s was created: %w", spec.Namespace, spec.Name, errors.Join(end, err))
		}
	}
}

// create asks once.
func (s *JobSpec) create(ctx context.Context, a *api, body []byte) (JobRef, error) {
	var job wireJob
	err := a.decode(ctx, http.MethodPost, jobPath(s.Namespace), nil, body, &job)
	switch r := refused(err); {
	case err == nil && job.Metadata.UID != "":
		return job.ref(), nil
	case err == nil:
		return JobRef{}, garbled(errors.New("a Job without a UID"))
	case r == nil || !lasting(err) && r.code != http.StatusUnauthorized:
		return JobRef{}, err
	case r.code == http.StatusConflict:
		return s.existing(ctx, a, r)
	default:
		return JobRef{}, refusedJob(r)
	}
}

// existing gives the Job that has the name already, if it is the one that is meant.
func (s *JobSpec) existing(ctx context.Context, a *api, r *refusal) (JobRef, error) {
	var job wireJob
	err := a.decode(ctx, http.MethodGet, jobPath(s.Namespace, s.Name), nil, nil, &job)
	if err != nil {
		return JobRef{}, err
	}
	labels := s.labels()
	for _, key := range []string{LabelInstance, LabelDeployment, LabelAttempt} {
		if job.Metadata.Labels[key] != labels[key] {
			return JobRef{}, &JobError{Code: r.code, Reason: "Taken", Message: fmt.Sprintf(
				"a Job %s/%s exists, and is not of this attempt: its label %s is %q, not %q", s.Namespace, s.Name, key,
				clip(printable(job.Metadata.Labels[key]), maxLabel), labels[key])}
		}
	}
	return job.ref(), nil
}

// refusedJob is what the caller of StartJob is told of a refusal.
func refusedJob(r *refusal) *JobError {
	e := &JobError{Code: r.code, Reason: cmp.Or(r.reason, http.StatusText(r.code)), Message: r.text}
	switch r.code {
	case http.StatusForbidden, http.StatusUnauthorized, http.StatusNotFound:
		e.Later = true
	}
	if r.code == http.StatusForbidden && isQuota(r.text) {
		e.Reason = "QuotaExceeded"
	}
	return e
}

// FindJob looks for a Job; false where there is none. One of the name with another UID is another one. While the API
// server does not answer it asks until ctx ends.
func (c *Cluster) FindJob(ctx context.Context, ref JobRef) (JobRef, bool, error) {
	a, err := c.tracker()
	if err != nil {
		return ref, false, err
	}
	var wait patience
	for {
		job, err := a.job(ctx, ref)
		if err == nil && job != nil {
			found := job.ref()
			found.Cluster = ref.Cluster
			return found, true, nil
		}
		if err == nil {
			err = c.whose(ctx, ref.Cluster, ref.Namespace)
		}
		if other := new(elsewhere); err == nil || errors.As(err, &other) {
			return ref, false, err
		}
		if end := sleep(ctx, wait.after(err)); end != nil {
			return ref, false, fmt.Errorf("nobody knows whether Job %s exists: %w", ref, errors.Join(end, err))
		}
	}
}

// job reads a Job; nil where it does not exist, which only an answer about its name tells.
func (a *api) job(ctx context.Context, ref JobRef) (*wireJob, error) {
	var job wireJob
	err := a.decode(ctx, http.MethodGet, jobPath(ref.Namespace, ref.Name), nil, nil, &job)
	switch {
	case missing(err, ref.Name):
		return nil, nil
	case err != nil:
		return nil, err
	case job.Metadata.UID == "":
		return nil, garbled(errors.New("a Job without a UID"))
	case ref.UID != "" && job.Metadata.UID != ref.UID:
		return nil, nil
	}
	return &job, nil
}

// ServiceToken makes a token of the Job's service account that ends with the Job's pod, and after lifetime at the latest; the
// API server gives no shorter one than ten minutes, and may give a shorter one than it is asked for. The pod must exist. It
// asks once.
func (c *Cluster) ServiceToken(ctx context.Context, ref JobRef, account string, lifetime time.Duration) (token string, expires time.Time, err error) {
	const least = 10 * time.Minute
	a, err := c.tracker()
	if err != nil {
		return "", time.Time{}, err
	}
	pod, err := a.jobPod(ctx, ref)
	if err != nil {
		return "", time.Time{}, err
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": map[string]any{
			"expirationSeconds": int64(max(lifetime, least).Seconds()),
			"boundObjectRef":    map[string]string{"apiVersion": "v1", "kind": "Pod", "name": pod.Metadata.Name, "uid": pod.Metadata.UID},
		},
	})
	if err != nil {
		return "", time.Time{}, err
	}
	var granted struct {
		Status struct {
			Token               string    `json:"token"`
			ExpirationTimestamp time.Time `json:"expirationTimestamp"`
		} `json:"status"`
	}
	path := "/api/v1/namespaces/" + url.PathEscape(ref.Namespace) + "/serviceaccounts/" + url.PathEscape(account) + "/token"
	err = a.decode(ctx, http.MethodPost, path, nil, body, &granted)
	if err == nil && granted.Status.Token == "" {
		err = garbled(errors.New("a TokenRequest without a token"))
	}
	if err != nil {
		return "", time.Time{}, fmt.Errorf("cannot get a token of service account %s/%s: %w", ref.Namespace, account, err)
	}
	return granted.Status.Token, granted.Status.ExpirationTimestamp, nil
}

// decode asks for one JSON document, or sends one and gets one.
func (a *api) decode(ctx context.Context, method, path string, query url.Values, body []byte, into any) error {
	return a.unary(ctx, method, path, query, body, "application/json", func(r io.Reader) error {
		err := json.NewDecoder(io.LimitReader(r, maxObject)).Decode(into)
		if odd := (*json.UnmarshalTypeError)(nil); err != nil && !errors.As(err, &odd) {
			return garbled(err)
		}
		return nil
	})
}

// jobPath is the path of the Jobs of a namespace, or of one.
func jobPath(namespace string, name ...string) string {
	path := "/apis/batch/v1/namespaces/" + url.PathEscape(namespace) + "/jobs"
	for _, n := range name {
		path += "/" + url.PathEscape(n)
	}
	return path
}

// labels are those of the Job and its pod. Nobody's own may take the place of Sentry's.
func (s *JobSpec) labels() map[string]string {
	labels := map[string]string{}
	maps.Copy(labels, s.Labels)
	maps.Copy(labels, s.Identity.Labels(""))
	labels[LabelJob] = LabelValue(s.Name)
	return labels
}
