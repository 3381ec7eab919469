package kube

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"sentry/internal/logger"
)

// How much of the log of a failing step is copied: the last lines, in at most so many bytes. Where the last lines are
// longer than that, fewer are taken, for the end is what tells.
const (
	tailLines = 60
	tailBytes = 32 << 10
)

// wirePod is what is read of a pod.
type wirePod struct {
	Metadata wireMetadata `json:"metadata"`
	Spec     struct {
		NodeName string `json:"nodeName"`
	} `json:"spec"`
	Status struct {
		Phase                 string          `json:"phase"`
		Reason                string          `json:"reason"`
		Message               string          `json:"message"`
		Conditions            []wireCondition `json:"conditions"`
		InitContainerStatuses []wireContainer `json:"initContainerStatuses"`
		ContainerStatuses     []wireContainer `json:"containerStatuses"`
	} `json:"status"`
	wireProblem
}

func (pod *wirePod) version() string { return pod.Metadata.ResourceVersion }

type wireContainer struct {
	Name  string `json:"name"`
	State struct {
		Waiting *struct {
			Reason  string `json:"reason"`
			Message string `json:"message"`
		} `json:"waiting"`
		Running    *struct{} `json:"running"`
		Terminated *struct {
			ExitCode   int       `json:"exitCode"`
			Reason     string    `json:"reason"`
			Message    string    `json:"message"`
			FinishedAt time.Time `json:"finishedAt"`
		} `json:"terminated"`
	} `json:"state"`
}

// podWhy tells why a pod does not start; "" where it does not say, or may not be read.
func (w *follower) podWhy(ctx context.Context, name string) string {
	var pod wirePod
	err := w.api.unary(ctx, http.MethodGet, podPath(w.run.Namespace, name), nil, nil, "", func(r io.Reader) error {
		return json.NewDecoder(io.LimitReader(r, maxObject)).Decode(&pod)
	})
	if err != nil {
		return ""
	}
	return pod.why()
}

// why tells why a pod does not start; "" where it does not say.
func (pod *wirePod) why() string {
	for _, c := range pod.Status.Conditions {
		if c.Type == "PodScheduled" && c.Status == "False" {
			return printable(c.Reason + ": " + c.Message)
		}
	}
	for _, c := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		switch waiting := c.State.Waiting; {
		case waiting == nil, waiting.Reason == "PodInitializing", waiting.Reason == "ContainerCreating":
		default:
			return printable(waiting.Reason + ": " + waiting.Message)
		}
	}
	if pod.Status.Message != "" {
		return printable(pod.Status.Reason + ": " + pod.Status.Message)
	}
	return ""
}

// eventWhy gives the last warning about a task's pod, or about its TaskRun; "" where there is none, or none may be read.
func (w *follower) eventWhy(ctx context.Context, t task) string {
	if text := w.api.warning(ctx, w.run.Namespace, t.pod); text != "" {
		return text
	}
	return w.api.warning(ctx, w.run.Namespace, t.Name)
}

// warning gives the last warning about the object of that name; "" where there is none, or none may be read.
func (a *api) warning(ctx context.Context, namespace, name string) string {
	if name == "" {
		return ""
	}
	query := url.Values{"fieldSelector": {"type=Warning,involvedObject.name=" + name}, "limit": {"20"}}
	var events struct {
		Items []struct {
			Reason  string `json:"reason"`
			Message string `json:"message"`
		} `json:"items"`
	}
	err := a.decode(ctx, http.MethodGet, "/api/v1/namespaces/"+url.PathEscape(namespace)+"/events", query, nil, &events)
	if n := len(events.Items); err == nil && n > 0 {
		return printable(events.Items[n-1].Reason + ": " + events.Items[n-1].Message)
	}
	return ""
}

// tail copies the end of the log of a task's failed step into the step log, or says why it cannot.
func (w *follower) tail(ctx context.Context, t task) {
	if t.pod == "" || t.step.Container == "" {
		return // no step of it has run
	}
	text, err := w.podLog(ctx, t.pod, t.step.Container)
	if err != nil {
		w.say("task %s: the log of its step %s cannot be read: %s", t.Task, t.step.Name, err)
		return
	}
	w.say("task %s: the end of the log of its step %s, which ended with exit code %d:", t.Task, t.step.Name, t.step.Terminated.ExitCode)
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 2*tailBytes)
	for lines.Scan() {
		w.t.say("    %s | %s", t.Task, lines.Text())
	}
}

// podLog gives the end of a container's log.
func (w *follower) podLog(ctx context.Context, pod, container string) (string, error) {
	for lines := tailLines; ; lines /= 8 {
		query := url.Values{"container": {container}, "tailLines": {strconv.Itoa(lines)}, "limitBytes": {strconv.Itoa(tailBytes)}}
		var text []byte
		err := w.api.unary(ctx, http.MethodGet, podPath(w.run.Namespace, pod, "log"), query, nil, "", func(r io.Reader) (err error) {
			text, err = io.ReadAll(io.LimitReader(r, tailBytes))
			return err
		})
		switch {
		case isCode(err, http.StatusForbidden):
			return "", fmt.Errorf("%w: Sentry needs the right to get pods/log in namespace %s", err, w.run.Namespace)
		case err != nil:
			return "", err
		case len(text) < tailBytes || lines < 8:
			return logger.Sanitize(string(text)), nil
		}
	}
}
