package kube

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"sentry/internal/sentry"
)

// Tekton's words, of pkg/apis/pipeline/v1/pipelinerun_types.go and taskrun_types.go.
const (
	reasonTimeout   = "PipelineRunTimeout"
	reasonCancelled = "Cancelled"
	specPending     = "PipelineRunPending"
	specCancel      = "Cancelled"
	specCancelTidy  = "CancelledRunFinally"
	specStop        = "StoppedRunFinally"
	taskCancelled   = "TaskRunCancelled"
	taskTimeout     = "TaskRunTimeout"
)

// wireObject is what is read of a PipelineRun, a TaskRun or a CustomRun, of tekton.dev/v1 and v1beta1. The rest, as
// spec and managedFields, is passed over while it is decoded. Times are strings: an odd one must not hide a verdict.
type wireObject struct {
	Metadata wireMetadata `json:"metadata"`
	Spec     struct {
		Status string `json:"status"`
	} `json:"spec"`
	Status wireStatus `json:"status"`
	wireProblem
}

func (o *wireObject) version() string { return o.Metadata.ResourceVersion }

// wireProblem is what is read of a Status, which a watch sends in place of an object where it cannot go on.
type wireProblem struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (p *wireProblem) problem() *wireProblem { return p }

type wireMetadata struct {
	Namespace         string            `json:"namespace"`
	Name              string            `json:"name"`
	UID               string            `json:"uid"`
	ResourceVersion   string            `json:"resourceVersion"`
	CreationTimestamp string            `json:"creationTimestamp"`
	DeletionTimestamp string            `json:"deletionTimestamp"`
	DeletionGrace     int               `json:"deletionGracePeriodSeconds"`
	Labels            map[string]string `json:"labels"`
	Annotations       struct {
		Canceled string `json:"sentry.dev/canceled"`
	} `json:"annotations"`
	OwnerReferences []struct {
		UID        string `json:"uid"`
		Controller bool   `json:"controller"`
	} `json:"ownerReferences"`
}

type wireStatus struct {
	Conditions      []wireCondition `json:"conditions"`
	StartTime       string          `json:"startTime"`
	CompletionTime  string          `json:"completionTime"`
	Results         []wireResult    `json:"results"`
	PipelineResults []wireResult    `json:"pipelineResults"` // v1beta1
	TaskResults     []wireResult    `json:"taskResults"`     // v1beta1
	ChildReferences []wireChild     `json:"childReferences"`
	SkippedTasks    []struct {
		Name   string `json:"name"`
		Reason string `json:"reason"`
	} `json:"skippedTasks"`
	PodName       string     `json:"podName"`
	Steps         []wireStep `json:"steps"`
	RetriesStatus []struct{} `json:"retriesStatus"`
}

type wireCondition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

type wireChild struct {
	Kind             string `json:"kind"`
	APIVersion       string `json:"apiVersion"`
	Name             string `json:"name"`
	PipelineTaskName string `json:"pipelineTaskName"`
}

type wireStep struct {
	Name       string    `json:"name"`
	Container  string    `json:"container"`
	Terminated *stepExit `json:"terminated"`
}

type stepExit struct {
	ExitCode int    `json:"exitCode"`
	Reason   string `json:"reason"`
}

// decodeInto decodes one JSON value. A field of an odd type is left out rather than the object.
func decodeInto(d *json.Decoder, o *wireObject) error {
	err := d.Decode(o)
	var odd *json.UnmarshalTypeError
	if errors.As(err, &odd) {
		return nil
	}
	return err
}

// seen is what is kept of a PipelineRun as it was seen last: a few hundred bytes until it ends, then with its results.
type seen struct {
	namespace, name, uid string
	version              string // resourceVersion
	nonce                string
	attempt              int
	specStatus           string
	deleting             bool
	canceled             bool // by Sentry
	owned                bool // a controller made it, as Tekton does for a pipeline in a pipeline, with the labels of its owner
	condition            condition
	created              time.Time
	started, completed   time.Time
	children             []wireChild
	skipped              []sentry.TaskRun
	results              []sentry.Result
	tests                *sentry.TestSummary
	problems             []string
}

// condition is the Succeeded condition.
type condition struct{ status, reason, message string }

// final reports whether Tekton says that the run has ended. A condition without completion time is not yet final.
func (s *seen) final() bool { return s.decided() && !s.completed.IsZero() }

func (s *seen) decided() bool { return s.condition.status == "True" || s.condition.status == "False" }

// sees makes a seen of an object. What only matters at the end is left out before.
func sees(o *wireObject) *seen {
	s := &seen{
		namespace: strings.Clone(o.Metadata.Namespace), name: strings.Clone(o.Metadata.Name), uid: strings.Clone(o.Metadata.UID),
		version: strings.Clone(o.Metadata.ResourceVersion), nonce: strings.Clone(clip(o.Metadata.Labels[LabelRequest], 64)),
		attempt:    number(o.Metadata.Labels[LabelAttempt]),
		specStatus: strings.Clone(clip(o.Spec.Status, 64)), deleting: o.Metadata.DeletionTimestamp != "",
		canceled:  o.Metadata.Annotations.Canceled != "",
		condition: succeeded(o.Status.Conditions),
		created:   moment(o.Metadata.CreationTimestamp), started: moment(o.Status.StartTime), completed: moment(o.Status.CompletionTime),
	}
	for _, owner := range o.Metadata.OwnerReferences {
		s.owned = s.owned || owner.Controller
	}
	if !s.decided() {
		return s
	}
	for i, child := range o.Status.ChildReferences {
		if i == sentry.MaxTasks {
			break
		}
		s.children = append(s.children, wireChild{
			Kind: strings.Clone(clip(child.Kind, 64)), APIVersion: strings.Clone(clip(child.APIVersion, 64)),
			Name: strings.Clone(clip(child.Name, 253)), PipelineTaskName: printable(child.PipelineTaskName),
		})
	}
	for i, task := range o.Status.SkippedTasks {
		if i == sentry.MaxTasks {
			break
		}
		s.skipped = append(s.skipped, sentry.TaskRun{Task: printable(task.Name), Status: sentry.Skipped, Reason: printable(task.Reason)})
	}
	wire := o.Status.Results
	if len(wire) == 0 {
		wire = o.Status.PipelineResults
	}
	s.results, s.tests, s.problems = readResults(wire)
	return s
}

// succeeded finds the condition that says how a run stands, in harmless words.
func succeeded(all []wireCondition) condition {
	for _, c := range all {
		if c.Type == "Succeeded" {
			return condition{status: strings.Clone(clip(c.Status, 16)), reason: printable(c.Reason), message: printable(c.Message)}
		}
	}
	return condition{}
}

// number reads a small number; 0 where it is none.
func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// moment reads a time of Kubernetes; the zero time where it is none.
func moment(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

// status is how a run stands, in our words.
func (s *seen) status() sentry.Status {
	switch {
	case !s.final() && s.started.IsZero(), !s.final() && s.condition.reason == specPending:
		return sentry.Pending
	case !s.final():
		return sentry.Running
	case s.condition.status == "True":
		return sentry.Succeeded
	case s.condition.reason == reasonTimeout:
		return sentry.TimedOut
	case s.canceledEnd() && s.canceled:
		return sentry.Canceled
	default:
		// Canceled in the cluster by somebody else is failed: canceled members do not decide a rollout, and one whose
		// tests somebody stopped did not succeed.
		return sentry.Failed
	}
}

// canceledEnd reports whether the run ended because it was canceled or stopped.
func (s *seen) canceledEnd() bool {
	return s.final() && s.condition.status == "False" &&
		(strings.HasPrefix(s.condition.reason, reasonCancelled) || s.condition.reason == "PipelineRunCancelled" || s.condition.reason == specStop)
}

// apply writes what was seen into what is known of the run. Tasks are not of it.
func (s *seen) apply(run *sentry.PipelineRun) {
	run.Namespace, run.Name, run.UID = s.namespace, s.name, s.uid
	run.Status, run.Condition = s.status(), s.condition.reason
	run.StartedAt, run.FinishedAt = s.started, s.completed
	run.Reason = s.reason()
	if s.final() {
		run.Results, run.Tests = s.results, s.tests
	}
}

// reason is the condition for people.
func (s *seen) reason() string {
	text := s.condition.message
	if text == "" {
		text = s.condition.reason
	}
	switch {
	case s.canceledEnd() && s.canceled:
		return "canceled by Sentry"
	case s.canceledEnd():
		return clip("canceled in the cluster, not by Sentry: "+text, sentry.MaxTold)
	case !s.final() && s.specStatus == specPending:
		return "its spec.status is PipelineRunPending: it waits until somebody removes that"
	case !s.final() && s.condition.status == "":
		return "no controller has begun it yet"
	}
	return text
}
