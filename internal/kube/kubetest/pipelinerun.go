package kubetest

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
)

// PipelineRun describes a PipelineRun for a test. Its tasks run in the cluster's image with a shell.
type PipelineRun struct {
	Name         string            // or
	GenerateName string            // the beginning of a name that the API server completes; "run-" where both are empty
	Labels       map[string]string // besides Tekton's own
	Params       []string          // the names of parameters that the run declares; tasks read them as $(params.NAME)
	Timeout      string            // as "10s"; "" is Tekton's default, an hour
	Tasks        []Task            // at once, but for After
	Finally      []Task            // after the others, whatever became of them
	Results      map[string]string // of the run: name to value, as "$(tasks.build.results.image)"
}

// Task is one task of a PipelineRun with one step. The script is what happens where pods really run; where they are completed
// on paper the other fields are. Succeeds, Sleeps, Fails, NeverEnds and Flaky give tasks in which both agree.
type Task struct {
	Name    string
	Script  string            // for /bin/sh
	Results map[string]string // names and values of its results
	After   []string          // names of tasks that end first
	Retries int               // how often Tekton tries again
	Exit    int               // its exit code; with FailFirst only of the first tries
	Seconds int               // how long it takes; 0 is a moment
	Endless bool              // it never ends by itself

	FailFirst int // so many tries fail with Exit, and the next succeeds; 0: every try is the same
}

// Outcome is the annotation by which the pods of a cluster without a node are completed: JSON, the name of the task to
// {"exit", "seconds", "endless", "fail_first", "results"}.
const Outcome = "sentry-test/outcome"

// Succeeds is a task that succeeds with results.
func Succeeds(name string, results map[string]string) Task {
	return Task{Name: name, Script: "echo " + name + " works\n" + writeResults(results), Results: results}
}

// Sleeps is a task that succeeds after some seconds.
func Sleeps(name string, seconds int) Task {
	return Task{Name: name, Seconds: seconds, Script: fmt.Sprintf("sleep %d\n", seconds)}
}

// Fails is a task whose step says why, and ends with an exit code.
func Fails(name string, exit int) Task {
	return Task{Name: name, Exit: exit, Script: fmt.Sprintf("echo %s fails: no such luck >&2\nexit %d\n", name, exit)}
}

// NeverEnds is a task that ends only when somebody ends it.
func NeverEnds(name string) Task {
	return Task{Name: name, Endless: true, Script: "echo " + name + " begins\ntrap 'exit 143' TERM\nwhile :; do sleep 3600 & wait $!; done\n"}
}

// Flaky is a task that fails in its first tries, and succeeds in the last that Tekton gives it.
func Flaky(name string, retries int) Task {
	return Task{
		Name: name, Retries: retries, Exit: 1, FailFirst: retries,
		Script: fmt.Sprintf("echo %s, try $(context.task.retry-count)\n[ $(context.task.retry-count) -ge %d ]\n", name, retries),
	}
}

// writeResults is shell that writes results where Tekton looks for them.
func writeResults(results map[string]string) string {
	var script strings.Builder
	for name, value := range results {
		fmt.Fprintf(&script, "printf %%s '%s' >$(results.%s.path)\n", strings.ReplaceAll(value, "'", `'\''`), name)
	}
	return script.String()
}

// Create creates the run in a namespace, and gives its name.
func (r PipelineRun) Create(t testing.TB, c *Cluster, ns string) string {
	t.Helper()
	_, name, _ := strings.Cut(c.Create(t, ns, r.Manifest(c)), "/")
	return name
}

// Manifest is the run as JSON, which is YAML, too.
func (r PipelineRun) Manifest(c *Cluster) string {
	type object = map[string]any
	metadata := object{"annotations": object{Outcome: r.outcomes()}}
	switch {
	case r.Name != "":
		metadata["name"] = r.Name
	case r.GenerateName != "":
		metadata["generateName"] = r.GenerateName
	default:
		metadata["generateName"] = "run-"
	}
	if len(r.Labels) > 0 {
		metadata["labels"] = r.Labels
	}
	pipeline := object{"tasks": r.tasks(c, r.Tasks)}
	if len(r.Finally) > 0 {
		pipeline["finally"] = r.tasks(c, r.Finally)
	}
	var results []object
	for name, value := range r.Results {
		results = append(results, object{"name": name, "value": value})
	}
	if results != nil {
		pipeline["results"] = results
	}
	spec := object{"pipelineSpec": pipeline}
	var declared []object
	for _, name := range r.Params {
		declared = append(declared, object{"name": name, "type": "string", "default": ""})
	}
	if declared != nil {
		pipeline["params"] = declared
	}
	if r.Timeout != "" {
		spec["timeouts"] = object{"pipeline": r.Timeout}
	}
	data, err := json.MarshalIndent(object{
		"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "metadata": metadata, "spec": spec,
	}, "", "  ")
	if err != nil {
		panic(err) // strings and maps of strings
	}
	return string(data)
}

// tasks are the tasks as Tekton wants them.
func (r PipelineRun) tasks(c *Cluster, tasks []Task) []map[string]any {
	type object = map[string]any
	var all []object
	for _, task := range tasks {
		var results []object
		for name := range maps.Keys(task.Results) {
			results = append(results, object{"name": name, "type": "string"})
		}
		spec := object{"steps": []object{{
			"name": "work", "image": c.Busybox, "imagePullPolicy": "IfNotPresent", "script": "#!/bin/sh\n" + task.Script,
		}}}
		if results != nil {
			spec["results"] = results
		}
		one := object{"name": task.Name, "taskSpec": spec}
		if task.Retries > 0 {
			one["retries"] = task.Retries
		}
		if len(task.After) > 0 {
			one["runAfter"] = task.After
		}
		all = append(all, one)
	}
	return all
}

// outcomes is the annotation Outcome of the run.
func (r PipelineRun) outcomes() string {
	type outcome struct {
		Exit      int               `json:"exit,omitempty"`
		Seconds   int               `json:"seconds,omitempty"`
		Endless   bool              `json:"endless,omitempty"`
		FailFirst int               `json:"fail_first,omitempty"`
		Results   map[string]string `json:"results,omitempty"`
	}
	all := map[string]outcome{}
	for _, tasks := range [][]Task{r.Tasks, r.Finally} {
		for _, task := range tasks {
			all[task.Name] = outcome{task.Exit, task.Seconds, task.Endless, task.FailFirst, task.Results}
		}
	}
	data, err := json.Marshal(all)
	if err != nil {
		panic(err) // strings and numbers
	}
	return string(data)
}
