package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"sentry/internal/command"
	"sentry/internal/config"
	"sentry/internal/git"
	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// Workspaces makes workspaces with ready trees of QA repositories. *git.Sources with Local.SourcesOptions is one.
type Workspaces interface {
	Ask(w git.Want)
	Workspace(ctx context.Context, w git.Want, dir string, progress io.Writer) (commit string, err error)
}

// Commands runs commands. *command.Runner is one.
type Commands interface {
	Expect()
	Run(ctx context.Context, s command.Spec) command.Result
}

// Local executes deployments on this machine: a private workspace each, in which the commands run one after the other.
type Local struct {
	Root     string // where workspaces are made: private to this state directory
	LogsDir  string // where step logs go: LogsDir/ROLLOUT/REPOSITORY/STEP.log
	Sources  Workspaces
	Commands Commands
	// Auth is how to show who asks for the QA repository of a repository; nil is by what GitAuth makes of its keys.
	Auth func(*config.Repository) git.Auth
	Mask *logger.Masker
	// Clusters gives the cluster that commands get access to; nil for none.
	Clusters Clusters
	Instance string // names the state directory in the labels of what is created in a cluster
	// Certificates names the files (PEM) with the authorities to believe at an origin, and with the certificate and key to show
	// there, "" for none: runners are given what is in them. Nil for none at all.
	Certificates func(origin string) (authorities, certificate, key string)
	// CopyLog gives what gets a copy of the log of a step, by the log's base name; nil for nobody.
	CopyLog func(name string) io.WriteCloser
	Log     *slog.Logger
	Now     func() time.Time // wall clock, for display; default time.Now
}

// Expect asks ahead what the branch of the QA repository is, and has what commands need made ready.
func (l *Local) Expect(r *config.Repository, since time.Time) {
	l.Sources.Ask(l.want(r, since))
	l.Commands.Expect()
}

func (l *Local) want(r *config.Repository, since time.Time) git.Want {
	auth := GitAuth(r.Deploy.Auth, l.Mask)
	if l.Auth != nil {
		auth = l.Auth(r)
	}
	return git.Want{Remote: r.Deploy.Remote, Auth: auth, Branch: r.Deploy.Branch, Since: since}
}

// attempt is an attempt at the beginning.
func (l *Local) attempt(job Job, save func(sentry.Deployment) error, fail context.CancelCauseFunc) *attempt {
	a := &attempt{
		Local: l, job: job, d: job.Deployment, keep: newKeeper(job.Deployment, save, fail), now: l.Now, dir: l.workspace(job.Deployment),
		place: here{},
	}
	if a.now == nil {
		a.now = time.Now
	}
	if job.Pod != nil {
		a.place = job.Pod
	}
	a.keep.untracked = job.Repository.Deploy.Track == config.TrackOff
	return a
}

// Execute carries out one attempt: workspace, clone, commands, pipeline runs, and the workspace is gone again.
func (l *Local) Execute(ctx context.Context, job Job, save func(sentry.Deployment) error) (sentry.Deployment, Outcome) {
	return l.execute(ctx, job, save, (*attempt).carryOut)
}

// Perform carries out the middle of an attempt: what is left in a cluster before, and pipeline runs after it, are for the
// caller to see to.
func (l *Local) Perform(ctx context.Context, job Job, save func(sentry.Deployment) error) (sentry.Deployment, Outcome) {
	return l.execute(ctx, job, save, func(a *attempt, ctx context.Context) Outcome {
		a.keep.created = func(string) {}
		return here{}.perform(ctx, a)
	})
}

func (l *Local) execute(ctx context.Context, job Job, save func(sentry.Deployment) error, do func(*attempt, context.Context) Outcome) (sentry.Deployment, Outcome) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	a := l.attempt(job, save, fail)
	defer a.holdCluster()()
	outcome := do(a, ctx)
	a.leave()
	a.log().Debug("removing the workspace", "dir", a.dir)
	if outcome.Status == sentry.Failed && !job.Global.Cleanup {
		if kept, err := l.keep(a.dir); err == nil {
			outcome.Reason += "; its workspace is kept in " + kept
			return a.d, outcome
		}
	}
	if err := git.RemoveTree(a.dir); err != nil {
		// The verdict stands; what could not be removed now is removed at the next start.
		a.log().Warn("cannot remove the workspace", logger.KeyError, err)
	}
	return a.d, outcome
}

func (l *Local) workspace(d sentry.Deployment) string {
	return filepath.Join(l.Root, fmt.Sprintf("%s-a%d", d.ID, d.Attempt))
}

// keptDir and keptMost bound the workspaces that `cleanup: false` leaves for a person to look at.
const (
	keptDir  = "kept"
	keptMost = 20
)

// keep moves the workspace of a failed deployment aside, and drops the oldest where there are too many.
func (l *Local) keep(dir string) (string, error) {
	parent := filepath.Join(l.Root, keptDir)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", err
	}
	kept := filepath.Join(parent, filepath.Base(dir))
	if err := os.Rename(dir, kept); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(parent)
	if err != nil {
		return kept, nil
	}
	age := func(e os.DirEntry) time.Time {
		info, err := e.Info()
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return age(a).Compare(age(b)) })
	for len(entries) > keptMost {
		if err := git.RemoveTree(filepath.Join(parent, entries[0].Name())); err != nil {
			l.Log.Warn("cannot remove a kept workspace", logger.KeyError, err)
		}
		entries = entries[1:]
	}
	return kept, nil
}

// Sweep removes the workspaces that a dead process left below Root. Only the owner of the state directory may call it,
// before it executes anything.
func (l *Local) Sweep() error {
	entries, err := os.ReadDir(l.Root)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.Name() != keptDir && e.Name() != SparesDir {
			errs = append(errs, git.RemoveTree(filepath.Join(l.Root, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// SparesDir is the folder below Root that belongs to git.Sources.
const SparesDir = "spares"

// What is in a workspace, beside the file with the vector: the tree of the QA repository, HOME and TMPDIR of the commands.
const (
	treeDir = "src"
	homeDir = "home"
	tmpDir  = "tmp"
)

// SourcesOptions are those of the git.Sources that makes the workspaces.
func (l *Local) SourcesOptions(mirrors string) git.SourcesOptions {
	return git.SourcesOptions{Mirrors: mirrors, Spares: filepath.Join(l.Root, SparesDir), Tree: treeDir, Beside: []string{homeDir, tmpDir}}
}

// GitAuth gives credentials in the form in which git wants them: asked for at each use, so that a rotated token is
// found without a restart, and hidden from output from then on.
func GitAuth(a config.Auth, mask *logger.Masker) git.Auth {
	auth := git.Auth{Username: a.Username, SSHKeyFile: a.SSHKeyFile, KnownHostsFile: a.KnownHostsFile}
	if read := Token(a, mask); read != nil {
		auth.Token = func(context.Context) (sentry.Secret, error) { return read() }
	}
	return auth
}

// Token gives what reads the token of credentials as it is now, and hides it from output from then on; nil where they have
// none.
func Token(a config.Auth, mask *logger.Masker) func() (sentry.Secret, error) {
	if a.Token.Empty() && a.TokenFile == "" {
		return nil
	}
	return func() (sentry.Secret, error) {
		secret, err := a.Secret()
		mask.Add(secret)
		return secret, err
	}
}
