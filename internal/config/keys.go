package config

import (
	"sync"
	"time"

	"sentry/internal/sentry"
)

// The keys of the file, from the top down; those of a section that has a file of its own are there. They are listed nowhere else.

const (
	week           = 7 * 24 * time.Hour
	maxRepos       = 100_000
	maxBranches    = 1000 // patterns of one repository
	maxCommands    = 1000
	maxConcurrency = 1000
)

// configKeys is built once: the tables refer to nothing that changes.
var configKeys = sync.OnceValue(func() *mapping[Config] {
	return &mapping[Config]{
		about:   "Configuration of Sentry, which watches branches of Git repositories and rolls out groups of them.",
		initial: initialConfig,
		keys: []key[Config]{
			{
				name:  "polling_interval",
				about: "How often each repository is asked for its branches. A number is seconds. Shorter finds a change sooner and costs more requests.",
				value: duration(func(c *Config) *time.Duration { return &c.PollingInterval }, time.Second, week),
			}, {
				name:  "global",
				about: "What holds for the process as a whole.",
				value: nested(func(c *Config) *Global { return &c.Global }, globalKeys),
			}, {
				name:  "webhook_url",
				about: "Where notifications are posted; the same as global.webhook_url. Kept secret.",
				value: webhook(func(c *Config) *sentry.Secret { return &c.Global.WebhookURL }).unshown(),
			}, {
				name:  "hosts",
				about: "Servers of which more has to be said than an address: certificates, and how much they may be asked.",
				value: list(func(c *Config) *[]Host { return &c.Hosts }, 0, maxHosts, "host",
					func() Host { return Host{} }, asItem(hostKeys)),
			}, {
				name:  "kubernetes",
				about: "The cluster that commands are given access to, and whose PipelineRuns are followed. In a pod, by default the one that it runs in.",
				value: kubernetesCodec(),
			}, {
				name:  "groups",
				about: "Sets of repositories that are rolled out as one, by name. A repository that names no group is a group of its own.",
				value: groupsCodec(),
			}, {
				name:     "repositories",
				required: true,
				about:    "What is monitored, and how each is deployed. Their order is that of a sequential rollout.",
				value: list(func(c *Config) *[]Repository { return &c.Repositories }, 1, maxRepos, "repository",
					initialRepository, asItem(repositoryKeys)),
			},
		},
		after: checkConfig,
	}
})

func globalKeys() *mapping[Global] {
	return &mapping[Global]{
		initial: initialGlobal,
		keys: []key[Global]{
			{
				name:  "log_level",
				about: "The least that is logged.",
				value: oneOf(func(g *Global) *string { return &g.LogLevel }, "debug", "info", "warn", "error", "fatal"),
			}, {
				name:  "log_format",
				about: "Text for people or JSON for machines; auto is text on a terminal.",
				value: oneOf(func(g *Global) *string { return &g.LogFormat }, "auto", "text", "json"),
			}, {
				name:  "timeout",
				about: "What ends one command, or one clone, that has no limit of its own.",
				value: duration(func(g *Global) *time.Duration { return &g.Timeout }, time.Second, week),
			}, {
				name:  "grace",
				about: "What a command is given between SIGTERM and SIGKILL, and the daemon to drain.",
				value: duration(func(g *Global) *time.Duration { return &g.Grace }, 0, 10*time.Minute),
			}, {
				name:  "state_dir",
				about: "The folder for the database, logs and mirrors. By default $XDG_STATE_HOME/sentry or ~/.local/state/sentry.",
				value: path(func(g *Global) *string { return &g.StateDir }),
			}, {
				name:  "tmp_dir",
				about: "The folder in which workspaces are made. By default workspaces in the state directory.",
				value: path(func(g *Global) *string { return &g.TmpDir }),
			}, {
				name:  "cleanup",
				about: "Whether the workspace of a failed deployment is removed; that of a successful one always is.",
				value: boolean(func(g *Global) *bool { return &g.Cleanup }),
			}, {
				name:  "listen",
				about: "The host:port of the HTTP server, such as 127.0.0.1:8080. It takes webhooks, and tells whether Sentry is alive.",
				value: text(func(g *Global) *string { return &g.Listen }, checkListen),
			}, {
				name:  "metrics",
				about: "Who may read /metrics at that address: local is this machine, where it is a loopback address; open is everybody who reaches it.",
				value: oneOf(func(g *Global) *string { return &g.Metrics }, MetricsLocal, MetricsOpen),
			}, {
				name:  "public_url",
				about: "Where people reach the address of listen, for the links in statuses.",
				value: publicURL(func(g *Global) *string { return &g.PublicURL }),
			}, {
				name:  "webhook_secret_file",
				about: "A file that holds the secret of webhooks, for every repository without one of its own. It is read again when it changes.",
				value: secretPath(func(g *Global) *SecretFile { return &g.WebhookSecret }),
			}, {
				name:  "allow_insecure_http",
				about: "Accept http:// addresses, over which tokens and answers travel unencrypted.",
				value: boolean(func(g *Global) *bool { return &g.AllowInsecureHTTP }),
			}, {
				name:  "allow_local_repositories",
				about: "Accept file:// addresses and absolute paths as repositories.",
				value: boolean(func(g *Global) *bool { return &g.AllowLocalRepositories }),
			}, {
				name:  "webhook_url",
				about: "Where notifications are posted. Kept secret.",
				value: webhook(func(g *Global) *sentry.Secret { return &g.WebhookURL }),
			}, {
				name:  "history",
				about: "How much of the past is kept.",
				value: nested(func(g *Global) *History { return &g.History }, historyKeys),
			},
		},
	}
}

func historyKeys() *mapping[History] {
	return &mapping[History]{
		initial: initialHistory,
		keys: []key[History]{
			{
				name:  "rollouts_per_group",
				about: "Rollouts that have ended, for each group.",
				value: integer(func(h *History) *int { return &h.RolloutsPerGroup }, 1, 1_000_000),
			}, {
				name:  "ledger_entries",
				about: "Decisions with their reasons, which `why` tells.",
				value: integer(func(h *History) *int { return &h.LedgerEntries }, 100, 100_000_000),
			}, {
				name:  "log_days",
				about: "Days for which the output of commands is kept.",
				value: integer(func(h *History) *int { return &h.LogDays }, 1, 36_500),
			},
		},
	}
}

func groupKeys() *mapping[Group] {
	return &mapping[Group]{
		initial: func() Group { return initialGroup("") },
		keys: []key[Group]{
			{
				name:  "execution_strategy",
				about: "parallel runs up to max_parallel deployments at once; sequential one after the other, in the order of the file.",
				value: oneOf(func(g *Group) *sentry.Strategy { return &g.Policy.Strategy }, sentry.Parallel, sentry.Sequential),
			}, {
				name:  "max_parallel",
				about: "How many deployments of a parallel rollout run at once.",
				value: integer(func(g *Group) *int { return &g.Policy.MaxParallel }, 1, maxConcurrency),
			}, {
				name:  "continue_on_error",
				about: "Whether deployments still start after one failed. The rollout is failed either way.",
				value: boolean(func(g *Group) *bool { return &g.Policy.ContinueOnError }),
			}, {
				name:  "global_timeout",
				about: "What ends a whole rollout, retries and pipeline runs included.",
				value: duration(func(g *Group) *sentry.Duration { return &g.Policy.Timeout }, time.Second, week),
			}, {
				name:  "trigger",
				about: "group rolls out every member when one changes; changed only those that did.",
				value: oneOf(func(g *Group) *sentry.Scope { return &g.Policy.Scope }, sentry.ScopeGroup, sentry.ScopeChanged),
			}, {
				name:  "queue",
				about: "latest folds what changes during a rollout into one more; every gives each change its turn.",
				value: oneOf(func(g *Group) *sentry.Queue { return &g.Policy.Queue }, sentry.Latest, sentry.Every),
			}, {
				name:  "quiet_period",
				about: "How long a change waits for others to join its rollout.",
				value: duration(func(g *Group) *time.Duration { return &g.QuietPeriod }, 0, 24*time.Hour),
			}, {
				name:  "on_interrupt",
				about: "What happens to a rollout during which Sentry died: retry runs it again, hold leaves it to a person.",
				value: oneOf(func(g *Group) *sentry.OnInterrupt { return &g.Policy.OnInterrupt }, sentry.Retry, sentry.Hold),
			}, {
				name:  "report",
				about: "Which commits of a rollout get its verdict as a status: those that changed, all, or none.",
				value: oneOf(func(g *Group) *string { return &g.Report }, "all", "changed", "off"),
			}, {
				name:  "report_to",
				about: "Where statuses are put: on the commit of the monitored repository, on that of the QA repository, or on both.",
				value: oneOf(func(g *Group) *string { return &g.ReportTo }, "upstream", "qa", "both"),
			}, {
				name:  "executor",
				about: "Where deployments run: local is beside Sentry, kubernetes is each in a Job of its own.",
				value: oneOf(func(g *Group) *string { return &g.Executor }, ExecutorLocal, ExecutorKubernetes),
			},
		},
	}
}

func repositoryKeys() *mapping[Repository] {
	return &mapping[Repository]{
		initial: initialRepository,
		keys: []key[Repository]{
			{
				name:     "name",
				required: true,
				about:    "What the repository is called, here and in folders, logs and commands. Unlike every other.",
				value:    text(func(r *Repository) *string { return &r.Name }, sentry.CheckName),
			}, {
				name:  "group",
				about: "The group that it belongs to. By default one of its own.",
				value: groupName(),
			}, {
				name:     "monitor",
				required: true,
				about:    "Where the repository is and which branches are watched.",
				value:    nested(func(r *Repository) *Monitor { return &r.Monitor }, monitorKeys),
			}, {
				name:     "deploy",
				required: true,
				about:    "Where the QA repository is and what is run in it.",
				value:    nested(func(r *Repository) *Deploy { return &r.Deploy }, deployKeys),
			},
		},
		after: checkRepository,
	}
}

func monitorKeys() *mapping[Monitor] {
	return &mapping[Monitor]{
		initial: initialMonitor,
		keys: []key[Monitor]{
			{
				name:     "repo_url",
				required: true,
				about:    "The address of the repository: https://, ssh://, or git@host:path.",
				value:    remote(func(m *Monitor) *sentry.Remote { return &m.Remote }),
			}, {
				name:     "branches",
				required: true,
				about:    "The branches to watch: names, globs such as release/*, and regular expressions such as /^v[0-9.]+$/. The first is deployed where none has changed.",
				value: list(func(m *Monitor) *[]sentry.Pattern { return &m.Branches }, 1, maxBranches, "branch",
					func() sentry.Pattern { return sentry.Pattern{} }, pattern()),
			}, {
				name:  "repo_type",
				about: "The kind of server. By default what the host tells: github.com, gitlab.com and codeberg.org are known, any other is git.",
				value: serverType(func(m *Monitor) *string { return &m.Type }),
			}, {
				name:  "api_url",
				about: "The base of the forge's API, where it cannot be told from repo_url.",
				value: apiURL(func(m *Monitor) *string { return &m.APIURL }),
			}, {
				name:  "polling_interval",
				about: "How often this repository is asked. By default as all are.",
				value: duration(func(m *Monitor) *time.Duration { return &m.Interval }, time.Second, week),
			}, {
				name:  "on_first_seen",
				about: "record takes the first head of a branch as where counting starts; deploy rolls it out.",
				value: oneOf(func(m *Monitor) *string { return &m.OnFirstSeen }, "record", "deploy"),
			}, {
				name:  "auth",
				about: "How Sentry proves who it is to this server.",
				value: nested(func(m *Monitor) *Auth { return &m.Auth }, authKeys),
			}, {
				name:  "webhook_secret_file",
				about: "A file that holds the secret of this repository's webhooks. By default global.webhook_secret_file.",
				value: secretPath(func(m *Monitor) *SecretFile { return &m.WebhookSecret }),
			},
		},
		after: checkMonitor,
	}
}

func deployKeys() *mapping[Deploy] {
	return &mapping[Deploy]{
		initial: initialDeploy,
		keys: []key[Deploy]{
			{
				name:     "qa_repo_url",
				required: true,
				about:    "The address of the QA repository, in which the commands run.",
				value:    remote(func(p *Deploy) *sentry.Remote { return &p.Remote }),
			}, {
				name:     "qa_repo_branch",
				required: true,
				about:    "The branch of the QA repository. Its newest commit is taken when a deployment starts.",
				value:    text(func(p *Deploy) *string { return &p.Branch }, checkBranch),
			}, {
				name:  "repo_type",
				about: "The kind of server. By default what the host tells: github.com, gitlab.com and codeberg.org are known, any other is git.",
				value: serverType(func(p *Deploy) *string { return &p.Type }),
			}, {
				name:  "project_name",
				about: "A Kubernetes name for the project, which commands find in SENTRY_PROJECT_NAME: .tekton/NAME of the QA repository is its folder. By default the repository's name.",
				value: text(func(p *Deploy) *string { return &p.ProjectName }, sentry.CheckProjectName),
			}, {
				name:  "timeout",
				about: "What ends the deployment of this repository. By default only the group's global_timeout does.",
				value: duration(func(p *Deploy) *time.Duration { return &p.Timeout }, time.Second, week),
			}, {
				name:  "env",
				about: "Variables for the commands.",
				value: envCodec(),
			}, {
				name:  "auth",
				about: "How Sentry proves who it is to the QA repository's server.",
				value: nested(func(p *Deploy) *Auth { return &p.Auth }, authKeys),
			}, {
				name:  "track",
				about: "auto follows the PipelineRuns that the commands create to their end, and takes their verdict; off does not.",
				value: oneOf(func(p *Deploy) *string { return &p.Track }, TrackAuto, TrackOff),
			}, {
				name:  "kubernetes",
				about: "What of the cluster the commands of this repository may reach, where that is less than others may.",
				value: nested(func(p *Deploy) *DeployKubernetes { return &p.Kubernetes }, deployKubernetesKeys),
			}, {
				name:  "executor",
				about: "Where the deployments of this repository run. By default as the group says.",
				value: oneOf(func(p *Deploy) *string { return &p.Executor }, ExecutorLocal, ExecutorKubernetes),
			}, {
				name:  "job",
				about: "The Jobs of this repository, where they differ from kubernetes.jobs: what is given here goes before it, key by key.",
				value: ownJob(),
			}, {
				name:  "commands",
				about: "What is run, one after the other, each in a shell of its own that stops at the first failure. Variables in them are for that shell. Without any, Sentry creates the PipelineRuns of .tekton/PROJECT_NAME itself.",
				value: list(func(p *Deploy) *[]Command { return &p.Commands }, 0, maxCommands, "command",
					func() Command { return Command{} }, commandCodec()).raw(),
			},
		},
		after: checkDeploy,
	}
}

// The defaults.

func initialConfig() Config {
	return Config{PollingInterval: time.Minute, Global: initialGlobal()}
}

func initialGlobal() Global {
	return Global{
		LogLevel: "info", LogFormat: "auto", Timeout: 5 * time.Minute, Grace: 10 * time.Second, Cleanup: true, Metrics: MetricsLocal, History: initialHistory(),
	}
}

func initialHistory() History {
	return History{RolloutsPerGroup: 200, LedgerEntries: 100_000, LogDays: 90}
}

func initialGroup(name string) Group {
	return Group{
		Name:        name,
		QuietPeriod: time.Second,
		Report:      "changed",
		ReportTo:    "upstream",
		Executor:    ExecutorLocal,
		Policy: sentry.Policy{
			Strategy: sentry.Parallel, MaxParallel: 3, ContinueOnError: true, Timeout: sentry.Duration(15 * time.Minute),
			Scope: sentry.ScopeGroup, Queue: sentry.Latest, OnInterrupt: sentry.Retry,
		},
	}
}

func initialRepository() Repository {
	return Repository{Monitor: initialMonitor(), Deploy: initialDeploy()}
}

func initialMonitor() Monitor { return Monitor{OnFirstSeen: "record"} }

func initialDeploy() Deploy { return Deploy{Track: TrackAuto} }

// serverType is the kind of server that a repository is on; where none is given, the host tells it (see typeOf).
func serverType[T any](field func(*T) *string) codec[T] {
	return oneOf(field, "github", "gitlab", "gitea", "git")
}
