package deploy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sentry/internal/config"
	"sentry/internal/git"
	"sentry/internal/sentry"
)

// protocol is the version of what a controller and its runners say to each other. They are of one image, unless the
// controller was replaced while a Job ran: another version is refused.
const protocol = 2

// Assignment is what a runner is told to do: the middle of one attempt. It is one line on the standard input of its pod.
// It holds credentials in the clear, and is never printed and never on a disk.
type Assignment struct {
	Protocol   int               `json:"protocol"`
	Instance   string            `json:"instance"`
	Rollout    sentry.Rollout    `json:"rollout"`
	Deployment sentry.Deployment `json:"deployment"` // with the steps of the attempt so far
	Repository AssignedWork      `json:"repository"`
	Timeout    sentry.Duration   `json:"timeout"` // of the clone: global.timeout
	Grace      sentry.Duration   `json:"grace"`   // of commands that are to end
	// Cluster is the access of the gateway in the pod; nil for none.
	Cluster *AssignedCluster `json:"cluster,omitempty"`
}

// AssignedWork is what a runner has to know of the configuration of a repository.
type AssignedWork struct {
	Name        string           `json:"name"`
	Monitored   string           `json:"monitored"` // address of the monitored repository
	Source      AssignedSource   `json:"source"`
	ProjectName string           `json:"project_name"`
	Env         []AssignedEnv    `json:"env"`
	Commands    []config.Command `json:"commands"`
	Track       string           `json:"track"`
	Namespaces  []string         `json:"namespaces"`
	Impersonate string           `json:"impersonate"`
}

// AssignedSource is the QA repository, with how to show who asks for it.
type AssignedSource struct {
	URL        string `json:"url"`
	Branch     string `json:"branch"`
	Username   string `json:"username"`
	Token      string `json:"token"`
	SSHKey     []byte `json:"ssh_key"` // the files of the configuration; empty for none
	KnownHosts []byte `json:"known_hosts"`
	// The certificates of the configuration for the server (PEM).
	Authorities []byte `json:"authorities"`
	Certificate []byte `json:"certificate"`
	Key         []byte `json:"key"`
}

// AssignedEnv is a variable of the repository's `env:`.
type AssignedEnv struct {
	Name      string `json:"name"`
	Value     string `json:"value"`
	Sensitive bool   `json:"sensitive"`
}

// AssignedCluster is the cluster of the pod, by a token that ends soon after the deployment.
type AssignedCluster struct {
	Token      string   `json:"token"`
	Namespaces []string `json:"namespaces"` // that may be used, the default one first
}

// secrets are those that the runner masks.
func (a *Assignment) secrets() []sentry.Secret {
	source := a.Repository.Source
	secrets := []sentry.Secret{sentry.NewSecret(source.Token), sentry.NewSecret(string(source.SSHKey)), sentry.NewSecret(string(source.Key))}
	for _, v := range a.Repository.Env {
		if v.Sensitive {
			secrets = append(secrets, sentry.NewSecret(v.Value))
		}
	}
	if a.Cluster != nil {
		secrets = append(secrets, sentry.NewSecret(a.Cluster.Token))
	}
	return secrets
}

// job gives what an assignment stands for as the executor knows it.
func (a *Assignment) job() (Job, error) {
	if a.Protocol != protocol {
		return Job{}, fmt.Errorf("the controller speaks version %d, this runner %d: kubernetes.jobs.image must be of the controller's version", a.Protocol, protocol)
	}
	// The controller has judged the addresses by its configuration.
	rules := sentry.RemoteRules{InsecureHTTP: true, Local: true}
	work := a.Repository
	source, err := sentry.ParseRemote(work.Source.URL, rules)
	if err != nil {
		return Job{}, fmt.Errorf("the address of the QA repository: %w", err)
	}
	monitored, err := sentry.ParseRemote(work.Monitored, rules)
	if err != nil {
		return Job{}, fmt.Errorf("the address of the monitored repository: %w", err)
	}
	repo := &config.Repository{Name: work.Name, Group: a.Rollout.Group, Monitor: config.Monitor{Remote: monitored}}
	repo.Deploy = config.Deploy{
		Remote: source, Branch: work.Source.Branch, ProjectName: work.ProjectName, Commands: work.Commands, Track: work.Track,
		Kubernetes: config.DeployKubernetes{Namespaces: work.Namespaces, Impersonate: work.Impersonate},
	}
	for _, v := range work.Env {
		repo.Deploy.Env = append(repo.Deploy.Env, config.EnvVar{Name: v.Name, Value: sentry.NewSecret(v.Value), Sensitive: v.Sensitive})
	}
	global := config.Global{Cleanup: true, Timeout: time.Duration(a.Timeout), Grace: time.Duration(a.Grace)}
	return Job{Rollout: a.Rollout, Deployment: a.Deployment, Repository: repo, Global: global, Since: time.Now()}, nil
}

// The kinds of message that a runner tells.
const (
	sayHello = "hello" // it waits for its assignment
	sayState = "state" // how far it is
	sayLog   = "log"   // more of the log of a step
	sayDone  = "done"  // it has ended
)

// message is one line of what a runner prints. Some may be lost, of the beginning above all: done makes up for what that had of
// the deployment.
type message struct {
	Seq  int64  `json:"seq"` // from 1
	Kind string `json:"kind"`

	Protocol int      `json:"protocol,omitempty"` // of hello
	Lacks    []string `json:"lacks,omitempty"`    // of hello: what its node lacks to run commands safely

	// Deployment is how far it is: its source, the steps of the attempt, and those pipeline runs of it that have changed since the
	// last state; for done all of them.
	Deployment *sentry.Deployment `json:"deployment,omitempty"`
	Dropped    []string           `json:"dropped,omitempty"` // of state: the nonces of pipeline runs that were not created after all

	Log    string `json:"log,omitempty"`    // the base name of the step's log
	Offset int64  `json:"offset,omitempty"` // of Text in it, in bytes
	Text   []byte `json:"text,omitempty"`
	End    bool   `json:"end,omitempty"` // the log is complete

	Outcome *Outcome `json:"outcome,omitempty"` // of done
}

// errNoAssignment tells that the input has ended before there was one.
var errNoAssignment = errors.New("the input ended before there was an assignment")

// gitAuth gives the credentials of an assignment; its files are those in which the caller has put them.
func (s *AssignedSource) gitAuth(keyFile, knownHosts string) git.Auth {
	auth := git.Auth{Username: s.Username, SSHKeyFile: keyFile, KnownHostsFile: knownHosts}
	if s.Token != "" {
		auth.Token = func(context.Context) (sentry.Secret, error) { return sentry.NewSecret(s.Token), nil }
	}
	return auth
}
