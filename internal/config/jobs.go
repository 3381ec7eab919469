package config

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.yaml.in/yaml/v4"
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
	// Kubernetes' keys. Values are bool, int64, string, []any, map[string]any, and nil for a default that is taken away.
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

const maxTolerations = 100

func jobKeys() *mapping[JobSettings] {
	return &mapping[JobSettings]{
		initial: initialJobs,
		keys: []key[JobSettings]{
			{
				name:  "namespace",
				about: "Where Jobs are made. By default where commands are: the first of kubernetes.namespaces, else the namespace of the context or of the pod.",
				value: text(func(j *JobSettings) *string { return &j.Namespace }, checkNamespace),
			}, {
				name:  "image",
				about: "The image of Sentry, in the version that runs here, or one that was built from it with what commands need. Required where anything runs in Jobs; the chart gives its own.",
				value: text(func(j *JobSettings) *string { return &j.Image }, checkImage),
			}, {
				name:  "image_pull_policy",
				about: "When the node asks the registry. By default as Kubernetes does it.",
				value: oneOf(func(j *JobSettings) *string { return &j.PullPolicy }, "Always", "IfNotPresent", "Never"),
			}, {
				name:  "image_pull_secrets",
				about: "Secrets of the namespace with the credentials of the registry.",
				value: list(func(j *JobSettings) *[]string { return &j.PullSecrets }, 1, maxNamespaces, "secret",
					func() string { return "" }, text(self[string], checkObjectName)),
			}, {
				name:  "service_account",
				about: "The ServiceAccount of the namespace as which commands reach the cluster. By default they do not reach it.",
				value: text(func(j *JobSettings) *string { return &j.ServiceAccount }, checkObjectName),
			}, {
				name:  "resources",
				about: "What the container needs, and what it may use.",
				value: nested(func(j *JobSettings) *Resources { return &j.Resources }, resourceKeys),
			}, {
				name:  "node_selector",
				about: "Labels that a node must have.",
				value: entries(func(j *JobSettings) *map[string]string { return &j.NodeSelector }, checkLabelKey, text(self[string], checkLabelValue), "string"),
			}, {
				name:  "tolerations",
				about: "Taints of nodes that are borne, in Kubernetes' own words.",
				value: tolerations(),
			}, {
				name:  "security_context",
				about: "The securityContext of the container in Kubernetes' own words, laid over what Pod Security's restricted profile asks for.",
				value: object(func(j *JobSettings) *map[string]any { return &j.Security }, containerSecurity),
			}, {
				name:  "pod_security_context",
				about: "The securityContext of the pod, in the same way.",
				value: object(func(j *JobSettings) *map[string]any { return &j.PodSecurity }, podSecurity),
			}, {
				name:  "scratch_size",
				about: "How much clones and commands may write, such as 10Gi. By default what the node has.",
				value: quantity(func(j *JobSettings) *string { return &j.Scratch }, checkSize),
			}, {
				name:  "start_timeout",
				about: "How long a Job may wait for a node or its image before the deployment fails.",
				value: duration(func(j *JobSettings) *time.Duration { return &j.StartTimeout }, 10*time.Second, 24*time.Hour),
			}, {
				name:  "keep",
				about: "How long a Job that has ended stays, to be looked at, and to be read by a Sentry that was away meanwhile.",
				value: duration(func(j *JobSettings) *time.Duration { return &j.Keep }, time.Minute, week),
			}, {
				name:  "labels",
				about: "More labels for Jobs and their pods.",
				value: entries(func(j *JobSettings) *map[string]string { return &j.Labels }, checkOwnKey, text(self[string], checkLabelValue), "string"),
			}, {
				name:  "annotations",
				about: "More annotations for Jobs and their pods.",
				value: entries(func(j *JobSettings) *map[string]string { return &j.Annotations }, checkOwnKey, text(self[string], nil), "string"),
			},
		},
		after: checkJob,
	}
}

func resourceKeys() *mapping[Resources] {
	amounts := quantity(self[string], checkAmount)
	return &mapping[Resources]{
		initial: func() Resources { return Resources{} },
		keys: []key[Resources]{
			{
				name:  "requests",
				about: "What a node must have left, such as cpu: 500m.",
				value: entries(func(r *Resources) *map[string]string { return &r.Requests }, checkResource, amounts, "string", "number"),
			}, {
				name:  "limits",
				about: "What the container may use. What uses more memory is killed.",
				value: entries(func(r *Resources) *map[string]string { return &r.Limits }, checkResource, amounts, "string", "number"),
			},
		},
		after: checkResources,
	}
}

func tolerations() codec[JobSettings] {
	item := codec[map[string]any]{
		schema: toleration.schema,
		read: func(d *decoder, at *place, n *yaml.Node, into *map[string]any) {
			*into, _ = toleration.read(d, at, n).(map[string]any)
		},
		show: func(from *map[string]any) *yaml.Node { return toleration.show(*from) },
	}
	return list(func(j *JobSettings) *[]map[string]any { return &j.Tolerations }, 1, maxTolerations, "toleration",
		func() map[string]any { return nil }, item)
}

// ownJob is what a repository says of its Jobs, laid over what holds for all. It is shown whole.
func ownJob() codec[Deploy] {
	m := jobKeys()
	return codec[Deploy]{
		schema: m.schema,
		read: func(d *decoder, at *place, n *yaml.Node, into *Deploy) {
			settings := d.config.jobs().clone()
			into.Job = &settings
			m.read(d, at, n, &settings)
		},
		show: func(from *Deploy) *yaml.Node {
			if from.Job == nil {
				return nil
			}
			return m.show(from.Job)
		},
	}
}

// checkResources holds what is asked for against what may be used.
func checkResources(d *decoder, at *place, n *yaml.Node, given map[string]*yaml.Node, r *Resources) {
	for part, amounts := range map[string]map[string]string{"requests": r.Requests, "limits": r.Limits} {
		for _, name := range []string{"memory", "ephemeral-storage"} {
			where := valueIn(given[part], name)
			if where == nil || amounts[name] == "" {
				continue
			}
			if err := checkSize(amounts[name]); err != nil {
				d.wrong(at.at(part).at(name), follow(where), err.Error(), hintOf(err))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Requests)) {
		least, err := amount(r.Requests[name])
		most, wrong := amount(r.Limits[name])
		if err != nil || wrong != nil || least <= most {
			continue
		}
		where := cmp.Or(valueIn(given["requests"], name), valueIn(given["limits"], name), n)
		d.wrong(at.at("requests").at(name), follow(where), fmt.Sprintf("%s of %s are requested, and %s are the limit", r.Requests[name], name, r.Limits[name]),
			"request at most the limit")
	}
}

// valueIn is valueOf where there may be no mapping.
func valueIn(n *yaml.Node, name string) *yaml.Node {
	if n == nil {
		return nil
	}
	return valueOf(n, name)
}

// checkJob looks for what no node would start.
func checkJob(d *decoder, at *place, _ *yaml.Node, given map[string]*yaml.Node, j *JobSettings) {
	// What the container says goes before what its pod says.
	const own, pod = "security_context", "pod_security_context"
	part, user := own, j.Security["runAsUser"]
	if user == nil {
		part, user = pod, j.PodSecurity["runAsUser"]
	}
	if where := cmp.Or(valueIn(given[part], "runAsUser"), given[part], given[own]); user == int64(0) && where != nil && j.Security["runAsNonRoot"] != false {
		d.wrong(at.at(part).at("runAsUser"), follow(where), "root is refused while runAsNonRoot is true, which is the default here",
			"choose another user, or set security_context.runAsNonRoot: false, too")
	}
	if where := valueIn(given[own], "privileged"); where != nil && j.Security["privileged"] == true && j.Security["allowPrivilegeEscalation"] != true {
		d.wrong(at.at(own).at("privileged"), follow(where), "Kubernetes refuses it while allowPrivilegeEscalation is false, which is the default here",
			"take it out, or set allowPrivilegeEscalation: true, too")
	}
}

// checkJobs looks at what runs in Jobs, when everything is read.
func checkJobs(d *decoder, at *place, n *yaml.Node, given map[string]*yaml.Node, c *Config) {
	here := at.at("kubernetes").at("jobs")
	var settings *yaml.Node
	if cluster := given["kubernetes"]; cluster != nil {
		settings = valueOf(cluster, "jobs")
		n = follow(cmp.Or(settings, cluster))
	}
	used := false
	for i := range c.Repositories {
		r := &c.Repositories[i]
		if d.executor(r) != ExecutorKubernetes {
			continue
		}
		used = true
		if r.Name != "" && c.JobOf(r).Image == "" && valueIn(settings, "image") == nil {
			d.wrong(here.at("image"), n, fmt.Sprintf("it is missing, and the deployments of %q run in Jobs", r.Name),
				"add the image of Sentry that the cluster can pull")
			break
		}
	}
	if settings != nil && !used && len(c.Repositories) > 0 {
		d.warn(here, follow(settings), "nothing runs in Jobs", "set executor: kubernetes for a group, or under deploy of a repository")
	}
}

// checkPlace looks at where the deployments of a repository run.
func checkPlace(d *decoder, at *place, deploy *yaml.Node, r *Repository) {
	switch jobs := d.executor(r) == ExecutorKubernetes; {
	case !jobs && r.Deploy.Job != nil:
		d.warn(at.at("job"), follow(valueIn(deploy, "job")), "nothing reads it: the deployments run beside Sentry", "set executor: kubernetes, or take it out")
	case jobs && r.Deploy.Remote.Scheme() == "file":
		d.wrong(at.at("qa_repo_url"), follow(valueIn(deploy, "qa_repo_url")), "the repository is on Sentry's machine, which a Job does not see",
			"use an address that the cluster reaches, or executor: local")
	}
}

// executor is ExecutorOf while the file is read.
func (d *decoder) executor(r *Repository) string {
	switch {
	case r.Deploy.Executor != "":
		return r.Deploy.Executor
	case d.inJobs[r.Group]:
		return ExecutorKubernetes
	}
	return ExecutorLocal
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
	if r.Deploy.Job != nil {
		return *r.Deploy.Job
	}
	return c.jobs()
}

// jobs gives the settings for all.
func (c *Config) jobs() JobSettings {
	if c.Kubernetes != nil && c.Kubernetes.Jobs != nil {
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
