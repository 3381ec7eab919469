package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"sentry/internal/sentry"
)

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
