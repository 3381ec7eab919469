package config

import (
	"maps"
	"slices"
	"time"

	"sentry/internal/sentry"
)

// Config is one whole, valid configuration with its variables put in. Nothing changes it after Load: a reload makes
// another, and whoever works with this one keeps it as long as needed.
type Config struct {
	// File is the absolute path it was read from.
	File string

	// PollingInterval is how often each repository is asked, unless it says otherwise: from 1 second, by default 1
	// minute. The bound keeps a slip of the unit from making a forge lock the token out.
	PollingInterval time.Duration

	Global Global

	// Hosts are the servers of which more has to be said than an address, in the order of the file; each origin once.
	Hosts []Host

	// Kubernetes is the cluster; nil where the file says nothing of one: then it is that of the pod that Sentry runs in,
	// if it runs in one.
	Kubernetes *Kubernetes

	// Groups are those of the file in its order, and after them the implicit ones in the order of their repositories.
	Groups []Group

	// Repositories are in the order of the file, which is the order of a sequential rollout. Names differ in more than
	// upper and lower case, because they become folders.
	Repositories []Repository

	groups       map[string]*Group
	repositories map[string]*Repository
	members      map[string][]*Repository
	files        map[string]*secretFile // by absolute path, shared by all that name it
	versions     []version              // of the files that it was read from; nil where there are none
}

// Global is what holds for the process as a whole.
type Global struct {
	// LogLevel is debug, info (the default), warn, error or fatal, in lower case.
	LogLevel string
	// LogFormat is auto (the default: text on a terminal, JSON elsewhere), text or json.
	LogFormat string

	// Timeout ends one command, or one clone, that has no limit of its own: by default 5 minutes. Without it a script
	// that waits for input would hold its group for ever.
	Timeout time.Duration
	// Grace is what a command is given between SIGTERM and SIGKILL, and the daemon to drain: by default 10 seconds.
	Grace time.Duration

	// StateDir holds the database, logs, mirrors and, by default, workspaces; absolute. One daemon at a time has it.
	StateDir string
	// TmpDir is where workspaces are made: StateDir/workspaces by default, absolute. On another file system than
	// StateDir a workspace is copied where it could have been linked.
	TmpDir string
	// Cleanup removes the workspace of a deployment that failed too, as it always does that of one that succeeded.
	// false keeps it to be looked at, and lets the disk fill. True by default.
	Cleanup bool

	// Listen is the host:port of the HTTP server; "" for none. What is served there is not for here to judge: without
	// authentication the server answers only what tells nothing.
	Listen string
	// Metrics is local (the default: /metrics is told at a loopback address only) or open: at any, to everybody.
	Metrics string
	// PublicURL is where people reach the address of listen: what links in statuses begin with. No slash at its end; "" for none.
	PublicURL string
	// WebhookSecret verifies the webhooks of every repository that has no secret of its own. Without any, no webhook is
	// taken.
	WebhookSecret SecretFile
	// WebhookURL is where notifications go. It is a secret because the address is all that whoever may post there
	// needs. Empty where there is none.
	WebhookURL sentry.Secret

	// AllowInsecureHTTP accepts http:// addresses, and sends tokens over them, readable by everyone in between.
	AllowInsecureHTTP bool
	// AllowLocalRepositories accepts file:// and absolute paths, which name whatever the daemon's account can read.
	AllowLocalRepositories bool

	History History
}

// Who may read /metrics at the address of Listen.
const (
	MetricsLocal = "local"
	MetricsOpen  = "open"
)

// History bounds what is kept, so that the disk cannot fill with the past.
type History struct {
	RolloutsPerGroup int // by default 200: the newest that ended
	LedgerEntries    int // by default 100,000 decisions
	LogDays          int // by default 90: how long the output of commands is kept
}

// Host is what there is to say of one server, whoever asks it.
type Host struct {
	Origin string // scheme://host:port, as Remote.Origin writes it
	// CAFile has the certificates to believe beside those of the system, and CertFile with KeyFile what Sentry shows of
	// itself. Absolute; "" for none. They are read again when they change.
	CAFile, CertFile, KeyFile string
	// RequestsPerHour is the most that Sentry asks of its API, where the server does not tell its limits; 0 is as it tells.
	RequestsPerHour int
	// Concurrency is the most that is asked at once; 0 is as suits the kind of server.
	Concurrency int
}

// Kubernetes is a cluster, and what of it commands may reach.
type Kubernetes struct {
	// Kubeconfig is the file with Sentry's own credentials, which commands never see. Absolute; "" for those of the pod.
	Kubeconfig string
	Context    string // of Kubeconfig; "" is its current one
	// Namespaces are those that commands may reach; the first is where they are. None: what the
	// credentials allow, and they are where the context or the pod is.
	Namespaces []string
	// Impersonate is the user as whom commands act; "" is Sentry itself.
	Impersonate string
	// Jobs is how the Jobs look in which deployments run; nil where nothing is said of them. See JobOf.
	Jobs *JobSettings
}

// DeployKubernetes narrows Kubernetes for one repository. What is empty is as for all.
type DeployKubernetes struct {
	Namespaces  []string
	Impersonate string
}

// What becomes of the PipelineRuns that commands create (`track:` of a repository).
const (
	TrackAuto = "auto" // they are followed, and the verdict is theirs
	TrackOff  = "off"  // they are told of, no more
)

// Group is a set of repositories that is rolled out as one.
type Group struct {
	Name string
	// Implicit tells that it is made for a repository that names no group: of its name, with every default.
	Implicit bool
	// Policy is what a rollout freezes when it is planned: by default parallel, 3 at once, going on after a failure,
	// 15 minutes in all, the whole group, the latest heads, and again after an interruption.
	Policy sentry.Policy
	// QuietPeriod is how long a change waits for others to join its rollout: by default 1 second. 0 is none: two
	// members pushed together then make two rollouts.
	QuietPeriod time.Duration
	// Report says which commits get the verdict of a rollout as a status: changed (the default: those that moved), all
	// or off. Without a token there is nothing to report with.
	Report string
	// ReportTo says on which side: upstream (the default: the monitored repository), qa or both. qa is for a token that
	// may not write upstream.
	ReportTo string
	// Executor is where the deployments of its members run: local (the default) or kubernetes. See ExecutorOf.
	Executor string
}

// Repository is what is monitored and how it is deployed.
type Repository struct {
	Name    string
	Group   string // never empty: an implicit group has the repository's name
	Monitor Monitor
	Deploy  Deploy

	implicit bool // the group is
}

// Monitor is where a repository is, and which branches of it are watched.
type Monitor struct {
	Remote   sentry.Remote
	Branches []sentry.Pattern // at least one, all different; the first is the one deployed where no branch has changed
	// Type is the kind of server: github, gitlab, gitea or git, which any Git server is. By default what the host tells.
	Type string
	// APIURL is the base of the forge's API where it cannot be told from the address; "" otherwise.
	APIURL string
	// Interval is the repository's own polling interval, or that of the configuration.
	Interval time.Duration
	// OnFirstSeen is record (the default: the first head of a branch is where counting starts) or deploy.
	OnFirstSeen string
	Auth        Auth
	// WebhookSecret verifies this repository's webhooks, instead of the one under global.
	WebhookSecret SecretFile
}

// Deploy is where the QA repository is, and what to run in it.
type Deploy struct {
	Remote sentry.Remote
	Branch string
	Type   string // as Monitor.Type
	// ProjectName is a Kubernetes name; the repository's name where the file gives none. Commands find it in
	// SENTRY_PROJECT_NAME.
	ProjectName string
	// Timeout limits one deployment, clone and retries included. 0 is no limit but the group's.
	Timeout time.Duration
	Env     []EnvVar // in the order of the file
	Auth    Auth
	// Track is auto (the default: the deployment is as good as the PipelineRuns that its commands created) or off.
	Track      string
	Kubernetes DeployKubernetes
	// Executor is where the deployments run; "" is as the group says. See ExecutorOf.
	Executor string
	// Job has all settings of this repository's Jobs; nil where they are those for all. See JobOf.
	Job *JobSettings
	// Commands are run in this order. None: Sentry creates the PipelineRuns of .tekton/ProjectName itself.
	Commands []Command
}

// OwnKubeconfig reports whether the commands bring a KUBECONFIG of their own, and so are not given one.
func (p *Deploy) OwnKubeconfig() bool {
	return slices.ContainsFunc(p.Env, func(v EnvVar) bool { return v.Name == "KUBECONFIG" })
}

// EnvVar is a variable of the environment that commands find.
type EnvVar struct {
	Name  string
	Value sentry.Secret
	// Sensitive tells that the value is masked in output: its name, or that of a variable it came from, speaks of a
	// token, secret, password, key or credential.
	Sensitive bool
}

// Command is one entry of commands: a script for a shell of its own.
type Command struct {
	Name    string // as given, or the beginning of Run
	Run     string // exactly as written: variables in it are for the shell
	Timeout time.Duration
	Retries int // how often it is begun again after it failed; 0 by default

	named, limited bool // whether Name and Timeout were given
}

// Group finds a group by its name.
func (c *Config) Group(name string) (*Group, bool) {
	if c.groups != nil {
		g, ok := c.groups[name]
		return g, ok
	}
	for i := range c.Groups {
		if c.Groups[i].Name == name {
			return &c.Groups[i], true
		}
	}
	return nil, false
}

// Repository finds a repository by its name.
func (c *Config) Repository(name string) (*Repository, bool) {
	if c.repositories != nil {
		r, ok := c.repositories[name]
		return r, ok
	}
	for i := range c.Repositories {
		if c.Repositories[i].Name == name {
			return &c.Repositories[i], true
		}
	}
	return nil, false
}

// Members gives the repositories of a group, in the order of the file. The slice is the caller's to read only.
func (c *Config) Members(group string) []*Repository {
	if c.members != nil {
		return c.members[group]
	}
	var out []*Repository
	for i := range c.Repositories {
		if c.Repositories[i].Group == group {
			out = append(out, &c.Repositories[i])
		}
	}
	return out
}

// index makes the three questions above cheap, when the slices have their final place. A Config that a test writes by
// hand has no index, and is searched.
func (c *Config) index() {
	c.groups = make(map[string]*Group, len(c.Groups))
	for i := range c.Groups {
		c.groups[c.Groups[i].Name] = &c.Groups[i]
	}
	c.repositories = make(map[string]*Repository, len(c.Repositories))
	c.members = make(map[string][]*Repository, len(c.Groups))
	for i := range c.Repositories {
		r := &c.Repositories[i]
		c.repositories[r.Name] = r
		c.members[r.Group] = append(c.members[r.Group], r)
	}
}

// CredentialFiles gives the paths of all files that hold a secret, each once: what commands must not read.
func (c *Config) CredentialFiles() []string {
	var out []string
	seen := map[string]bool{"": true}
	add := func(paths ...string) {
		for _, p := range paths {
			if !seen[p] {
				seen[p] = true
				out = append(out, p)
			}
		}
	}
	add(c.Global.WebhookSecret.Path)
	if c.Kubernetes != nil {
		add(c.Kubernetes.Kubeconfig)
	}
	for _, h := range c.Hosts {
		add(h.KeyFile)
	}
	for i := range c.Repositories {
		r := &c.Repositories[i]
		add(r.Monitor.WebhookSecret.Path)
		for _, a := range []Auth{r.Monitor.Auth, r.Deploy.Auth} {
			add(a.TokenFile, a.SSHKeyFile)
			if a.App != nil {
				add(a.App.KeyFile)
			}
		}
	}
	return out
}

// keyFiles gives the paths of all files with a private key, each once.
func (c *Config) keyFiles() []string {
	seen := map[string]bool{}
	for _, h := range c.Hosts {
		seen[h.KeyFile] = true
	}
	for i := range c.Repositories {
		r := &c.Repositories[i]
		for _, a := range []Auth{r.Monitor.Auth, r.Deploy.Auth} {
			seen[a.SSHKeyFile] = true
			if a.App != nil {
				seen[a.App.KeyFile] = true
			}
		}
	}
	delete(seen, "")
	return slices.Sorted(maps.Keys(seen))
}

// Secrets gives every secret value that is known, each once: for masking. Files with a token, a private key or the secret
// of webhooks count with what they held when they were last read, so the answer may grow: ask again after a reload or a rotation.
func (c *Config) Secrets() []sentry.Secret {
	var out []sentry.Secret
	seen := map[sentry.Secret]bool{{}: true}
	add := func(s sentry.Secret) {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	add(c.Global.WebhookURL)
	for i := range c.Repositories {
		r := &c.Repositories[i]
		add(r.Monitor.Auth.Token)
		add(r.Deploy.Auth.Token)
		for _, v := range r.Deploy.Env {
			if v.Sensitive {
				add(v.Value)
			}
		}
	}
	for _, f := range c.files {
		for _, s := range f.known() {
			add(s)
		}
	}
	return out
}
