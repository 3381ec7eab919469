package config

import (
	"maps"
	"slices"
	"time"
)

// Where deployments run (`executor:` of a group or of a repository's deploy).
const (
	ExecutorLocal      = "local"      // beside Sentry, on its machine
	ExecutorKubernetes = "kubernetes" // each attempt in a Job of its own
)

// JobSettings say how the Job of one attempt looks in the cluster. What they name in Kubernetes' own words is checked as far
// as it can be without a cluster.
type JobSettings struct {
	// Namespace is where Jobs are; "" is the namespace of the context or of the pod.
	Namespace string
	// Image has Sentry and what commands need beside it. It is never empty where a repository is deployed by Jobs.
	Image       string
	PullPolicy  string   // Always, IfNotPresent or Never; "" is as Kubernetes chooses
	PullSecrets []string // Secrets of Namespace with the registry's credentials
	// ServiceAccount of Namespace is as whom commands reach the cluster. "": they do not reach it.
	ServiceAccount string
	Resources      Resources
	NodeSelector   map[string]string
	// Tolerations have Kubernetes' keys: key, operator, value, effect, tolerationSeconds (int64).
	Tolerations []map[string]any
	// Security and PodSecurity are laid over the restricted defaults: securityContext of the container and of the pod, with
	// Kubernetes' keys. Values are bool, int64, string, []any and map[string]any.
	Security, PodSecurity map[string]any
	// Scratch limits what clones and commands may write, a quantity; "" is what the node has.
	Scratch string
	// StartTimeout is how long a Job may take until it runs: by default 5 minutes.
	StartTimeout time.Duration
	// Keep is how long a Job stays to be looked at when it has ended: by default 10 minutes.
	Keep time.Duration
	// Labels and Annotations are for the Job and its pod, beside Sentry's own.
	Labels, Annotations map[string]string
}

// Resources are quantities by the name of what they are of, such as cpu: 500m.
type Resources struct {
	Requests, Limits map[string]string
}

func initialJobs() JobSettings {
	return JobSettings{StartTimeout: 5 * time.Minute, Keep: 10 * time.Minute}
}

// ExecutorOf tells where a repository's deployments run: as it says itself, or as its group does.
func (c *Config) ExecutorOf(r *Repository) string {
	if r.Deploy.Executor != "" {
		return r.Deploy.Executor
	}
	if g, ok := c.Group(r.Group); ok && g.Executor != "" {
		return g.Executor
	}
	return ExecutorLocal
}

// JobOf gives the settings of a repository's Jobs: its own laid over those for all. They are the caller's to read only.
func (c *Config) JobOf(r *Repository) JobSettings {
	switch {
	case r.Deploy.Job != nil:
		return *r.Deploy.Job
	case c.Kubernetes != nil && c.Kubernetes.Jobs != nil:
		return *c.Kubernetes.Jobs
	}
	return initialJobs()
}

// clone gives settings that others can be laid over.
func (s JobSettings) clone() JobSettings {
	s.PullSecrets = slices.Clone(s.PullSecrets)
	s.Resources = Resources{Requests: maps.Clone(s.Resources.Requests), Limits: maps.Clone(s.Resources.Limits)}
	s.NodeSelector, s.Labels, s.Annotations = maps.Clone(s.NodeSelector), maps.Clone(s.Labels), maps.Clone(s.Annotations)
	s.Tolerations = slices.Clone(s.Tolerations)
	s.Security, s.PodSecurity = maps.Clone(s.Security), maps.Clone(s.PodSecurity)
	return s
}
