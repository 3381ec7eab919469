package deploy

import (
	"context"
	"fmt"
	"os"
	"time"

	"sentry/internal/sentry"
)

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
		// Its pod masks it. The masker here would look for one more for each Job, as long as Sentry runs.
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
