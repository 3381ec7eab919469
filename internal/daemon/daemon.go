// Package daemon builds everything, runs it, and takes it down. It is the only place that knows everyone; nobody
// below it knows signals, configuration files or each other.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"sentry/internal/command"
	"sentry/internal/config"
	"sentry/internal/deploy"
	"sentry/internal/forge"
	"sentry/internal/git"
	"sentry/internal/git/gitwire"
	"sentry/internal/kube"
	"sentry/internal/logger"
	"sentry/internal/monitor"
	"sentry/internal/report"
	"sentry/internal/server"
	"sentry/internal/store"
)

// Options are what a Daemon is built from.
type Options struct {
	Config *config.Config
	// Load reads the configuration again, for a reload.
	Load    func() (*config.Config, config.Problems, error)
	Version string
	Log     *slog.Logger
	Level   *slog.LevelVar // set from the configuration at each reload; nil leaves the level alone
	Format  *logger.Format // the same for the format
	Mask    *logger.Masker // what must not be printed; the daemon adds the configuration's secrets
	// Groups limits the daemon to rolling out these groups: a trigger in the foreground. It then watches nothing and
	// binds no socket.
	Groups []string
}

// Daemon is one running Sentry: the owner of a state directory.
type Daemon struct {
	o       Options
	log     *slog.Logger
	config  atomic.Pointer[config.Config]
	store   *store.Store
	git     *git.Git
	network *forge.Network
	asker   *asker
	sources *git.Sources
	cluster *clusters
	monitor *monitor.Monitor
	deploy  *deploy.Service
	reports *report.Service
	runner  runners
	socket  *socket // nil in the foreground
	doors   doors
	hooks   *server.Hooks
	metrics *prometheus.Registry
	logsDir string
	since   time.Time

	draining atomic.Bool

	reloading  sync.Mutex // one reload at a time
	lastReload atomic.Pointer[server.Reload]

	teardown []step // run backwards
}

// step is one thing to take down.
type step struct {
	name string
	undo func() error
}

// New builds a Daemon: it takes the state directory (and refuses where another process has it), ends the processes and
// removes the workspaces that a dead owner left, and binds the socket and the address of global.listen. Nothing runs until Run is called. The caller
// calls Close, also after Run.
func New(ctx context.Context, o Options) (_ *Daemon, err error) {
	d := &Daemon{o: o, log: o.Log, since: time.Now(), metrics: newMetrics(o.Version)}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	d.config.Store(o.Config)
	o.Mask.Add(o.Config.Secrets()...)
	stateDir := o.Config.Global.StateDir
	d.logsDir = filepath.Join(stateDir, "logs")

	if d.store, err = store.Open(ctx, store.Options{Dir: stateDir}); err != nil {
		return nil, err
	}
	d.onClose("state", d.store.Close)

	// The state directory is ours. What a dead owner's commands still do must end before anything is begun again.
	mark, err := command.Prepare(stateDir)
	if err != nil {
		return nil, fmt.Errorf("cannot prepare for running commands: %w", err)
	}
	killed, err := command.Sweep(mark)
	if err != nil {
		return nil, fmt.Errorf("cannot end the processes that an earlier run left: %w", err)
	}
	if killed > 0 {
		d.log.Warn("ended processes that an earlier run left", "count", killed)
	}

	workspaces, err := workspaceRoot(o.Config.Global)
	if err != nil {
		return nil, err
	}
	d.network = forge.NewNetwork(forge.NetworkOptions{Hosts: hosts(o.Config), Log: d.log, Register: d.metrics})
	d.onClose("network", func() error { d.network.Close(); return nil })
	if d.git, err = git.New(git.Options{
		StateDir: stateDir, Log: d.log, CloneTimeout: backgroundFetch, Transport: d.network.Git(gitwire.NewTransport(d.network.TLS)),
		Silence:      d.network.Silence,
		Certificates: func(origin string) (string, string, string) { return certificates(d.config.Load(), origin) },
	}); err != nil {
		return nil, err
	}
	d.asker = newAsker(d.git, o.Mask, forge.Options{Network: d.network, Log: d.log, Register: d.metrics, Renewed: d.renewed})
	d.onClose("forges", func() error { d.asker.forges.Update(nil); return nil })
	d.asker.update(o.Config)
	d.newRunner(o.Config)
	d.cluster = newClusters(o.Version, d.metrics, d.log)
	d.cluster.renewed = d.protectAnew
	d.onClose("gateway to Kubernetes", d.cluster.close)
	d.cluster.update(o.Config.Kubernetes)
	local := &deploy.Local{
		Root: workspaces, LogsDir: d.logsDir, Commands: &d.runner, Auth: d.asker.testAuth, Mask: o.Mask, Log: d.log,
		Clusters: d.cluster, Instance: d.store.Instance(),
		Certificates: func(origin string) (string, string, string) { return certificates(d.config.Load(), origin) },
	}
	if err := local.Sweep(); err != nil {
		// A command may have left files of another user. They are in nobody's way: workspaces have names of their own.
		d.log.Error("cannot remove all workspaces that an earlier run left", logger.KeyError, err)
	}
	d.sources = d.git.NewSources(local.SourcesOptions(filepath.Join(stateDir, "mirrors")))
	d.onClose("QA repositories", func() error { d.sources.Close(); return nil })
	local.Sources = d.sources

	d.deploy = deploy.New(deploy.Options{Store: d.store, Executor: local, Config: d.config.Load, Log: d.log, Groups: o.Groups})
	d.asker.moved = d.deploy.Expect
	d.monitor = monitor.New(monitor.Options{Store: d.store, Ask: d.asker, Log: d.log})
	d.reports = d.newReports()
	if o.Groups == nil {
		if d.socket, err = listen(stateDir); err != nil {
			return nil, err
		}
		d.onClose("socket", d.socket.Close)
		d.hooks = server.NewHooks(server.HooksOptions{Config: d.config.Load, Hint: d.monitor.Hint, Register: d.metrics, Log: d.log})
		if err := d.openDoor(); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// backgroundFetch bounds what prepares trees ahead; a deployment's own clone has the limits of the configuration.
const backgroundFetch = 30 * time.Minute

// take makes a configuration the present one. What it names is kept from commands first.
func (d *Daemon) take(cfg *config.Config) {
	d.runner.making.Lock()
	defer d.runner.making.Unlock()
	d.newRunner(cfg)
	d.config.Store(cfg)
}

// protectAnew keeps from commands what the files of the present configuration name by now.
func (d *Daemon) protectAnew() {
	d.runner.making.Lock()
	defer d.runner.making.Unlock()
	d.newRunner(d.config.Load())
}

// newRunner makes the runner of commands anew: which files are kept from them depends on the configuration.
func (d *Daemon) newRunner(cfg *config.Config) {
	d.runner.current.Store(command.New(command.Options{Protect: protected(cfg), Grace: cfg.Global.Grace, Log: d.log}))
}

// runners runs commands by the newest runner.
type runners struct {
	making  sync.Mutex // held while another one is made
	current atomic.Pointer[command.Runner]
}

// Expect has what the next command needs made ready, as the configuration says now.
func (r *runners) Expect() { r.current.Load().Expect() }

// Run runs a command as the configuration says now.
func (r *runners) Run(ctx context.Context, s command.Spec) command.Result {
	return r.current.Load().Run(ctx, s)
}

func (d *Daemon) onClose(name string, undo func() error) {
	d.teardown = append(d.teardown, step{name, undo})
}

// Close takes down what New built, last first. It may be called more than once.
func (d *Daemon) Close() error {
	var errs []error
	for i := len(d.teardown) - 1; i >= 0; i-- {
		if err := d.teardown[i].undo(); err != nil {
			errs = append(errs, fmt.Errorf("closing the %s: %w", d.teardown[i].name, err))
		}
	}
	d.teardown = nil
	return errors.Join(errs...)
}

// Run watches and rolls out until ctx ends; then it drains. It returns nil after a drain, and an error where the state
// could not be read or saved any more.
func (d *Daemon) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, func() { d.draining.Store(true) })()
	// Questions are answered until the drain is over.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	cfg := d.config.Load()
	d.monitor.Update(cfg)
	d.prepareSources(cfg)
	group.Go(func() error { return unlessStopped(ctx, d.monitor.Run(ctx)) })
	group.Go(func() error { defer stopServing(); return d.deploy.Run(ctx) })
	group.Go(func() error { return d.reports.Run(serving) })
	group.Go(func() error { return d.serve(serving) })
	group.Go(func() error { d.serveDoors(serving); return nil })
	group.Go(func() error { d.asker.forges.Run(ctx); return nil })
	group.Go(func() error { d.watchConfig(ctx); return nil })
	group.Go(func() error { d.housekeep(ctx); return nil })
	group.Go(func() error { command.ReapStrangers(serving); return nil })
	group.Go(func() error { keepWarm(ctx, d.store, d.monitor.Warm, d.log); return nil })
	d.log.Info("watching", "repositories", len(cfg.Repositories), "groups", len(cfg.Groups), "state_dir", cfg.Global.StateDir, "version", d.o.Version)
	err := group.Wait()
	d.log.Info("stopped")
	return err
}

// unlessStopped makes the end of a context no error, whatever its cause: it is how a daemon is told to stop.
func unlessStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// serve answers on the socket until ctx ends.
func (d *Daemon) serve(ctx context.Context) error {
	s := server.New(d.api())
	stop := context.AfterFunc(ctx, func() {
		// Followers of logs and events would hold a graceful shutdown up for ever.
		_ = s.Close()
	})
	defer stop()
	if err := s.Serve(d.socket); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot answer on %s: %w", d.socket.path, err)
	}
	return nil
}

// Handler is the API over this daemon.
func (d *Daemon) Handler() http.Handler { return server.Handler(d.api()) }

func (d *Daemon) api() server.Options {
	return server.Options{
		Store: d.store, Config: d.config.Load, Control: d, LogsDir: d.logsDir, Version: d.o.Version, Log: d.log,
		Hooks: d.hooks, Metrics: d.metrics,
	}
}

// prepareSources fetches the QA repositories ahead, so that the first rollout finds them.
func (d *Daemon) prepareSources(cfg *config.Config) {
	for i := range cfg.Repositories {
		r := &cfg.Repositories[i]
		d.sources.Prepare(r.Deploy.Remote, d.asker.testAuth(r), r.Deploy.Branch)
	}
}

// protected lists what commands must not see: the state, and every file that holds a credential.
func protected(cfg *config.Config) []string {
	hidden := append([]string{cfg.Global.StateDir, cfg.File, filepath.Join(filepath.Dir(cfg.File), ".env")}, cfg.CredentialFiles()...)
	kubeconfig := ""
	if cfg.Kubernetes != nil {
		kubeconfig = cfg.Kubernetes.Kubeconfig
	}
	return append(hidden, kube.CredentialFiles(kubeconfig)...)
}

// workspaceRoot gives the folder for workspaces: private to this state directory, also where several Sentries share
// one `tmp_dir`. A folder that somebody else made there is refused.
func workspaceRoot(g config.Global) (string, error) {
	root := g.TmpDir
	if root != filepath.Join(g.StateDir, "workspaces") {
		if err := os.MkdirAll(g.TmpDir, 0o700); err != nil {
			return "", fmt.Errorf("cannot make tmp_dir: %w", err)
		}
		root = filepath.Join(g.TmpDir, "sentry-"+shortHash(g.StateDir))
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return "", fmt.Errorf("cannot make the folder for workspaces: %w", err)
	}
	if err := checkPrivate(root); err != nil {
		return "", fmt.Errorf("refusing to make workspaces in %s: %w", root, err)
	}
	return root, nil
}

var _ io.Closer = (*Daemon)(nil)
