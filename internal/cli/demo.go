package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sentry/internal/config"
	"sentry/internal/daemon"
	"sentry/internal/logger"
	"sentry/internal/sentry"
	"sentry/internal/server"
)

func newDemo(a *app) *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a whole example on this machine, and throw it away",
		Long: `Make two upstream repositories and a QA repository in a temporary folder, serve them over HTTP on loopback, start the
real daemon with a real configuration, push to an upstream, and show the rollout that follows. Then go on watching, so
that you can push too. Everything is removed at the end. It needs git, and no network.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.demo(cmd.Context(), once) },
	}
	cmd.Flags().BoolVar(&once, "once", false, "end after the first rollout, with its exit code")
	return cmd
}

// demo plays the whole example.
func (a *app) demo(ctx context.Context, once bool) (err error) {
	w, err := newWorld(ctx)
	if err != nil {
		return fmt.Errorf("cannot make the demo's repositories: %w", err)
	}
	defer func() { err = errors.Join(err, w.close()) }()

	load := func() (*config.Config, config.Problems, error) { return config.Load(w.config, config.Options{}) }
	cfg, _, err := load()
	if err != nil {
		return err
	}
	level, asked := a.logLevel()
	if !asked {
		level = slog.LevelError // the demo tells the rest itself
	}
	mask := logger.NewMasker()
	d, err := daemon.New(ctx, daemon.Options{
		Config: cfg, Load: load, Version: version(), Mask: mask, Log: logger.New(a.err.Writer, level, logger.FormatText, mask),
	})
	if err != nil {
		return refusedStart(err)
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- d.Run(running) }()
	show := demo{app: a, world: w, client: &client{http: &http.Client{Transport: inProcess{d.Handler()}}}}
	verdict := show.play(ctx, once)
	stop()
	return errors.Join(verdict, <-ended, d.Close())
}

// demo is what a person sees of it.
type demo struct {
	*app
	world  *world
	client *client
	shown  string // the newest rollout that was shown
}

// moment lets a reader catch up, and shows that nothing happens while nothing moves.
const moment = 1500 * time.Millisecond

// play shows the first rollout, and unless it is once all that follow, until ctx ends.
func (d *demo) play(ctx context.Context, once bool) error {
	d.say("A demo of Sentry in %s", d.world.dir)
	d.say("  two upstream repositories   %s", strings.Join(d.urls(upstreams...), "  "))
	d.say("  one QA repository           %s", d.urls("qa")[0])
	d.say("  the configuration           %s", d.world.config)
	d.say("")
	if err := d.watching(ctx); err != nil {
		return d.interrupted(ctx, err)
	}
	if !sleep(ctx, moment) {
		return d.interrupted(ctx, nil)
	}
	commit, err := d.world.push(ctx, upstreams[0], "take orders in any currency")
	if err != nil {
		return d.interrupted(ctx, err)
	}
	d.say("Somebody pushed %s to %s@main. Nobody tells Sentry: it has to see it.", sentry.ShortCommit(commit), upstreams[0])
	first, err := d.next(ctx)
	if err != nil {
		return d.interrupted(ctx, err)
	}
	if once {
		if first.Status != sentry.Succeeded {
			return silent(exitFailed)
		}
		return nil
	}
	d.tell()
	for {
		if _, err := d.next(ctx); err != nil {
			return d.interrupted(ctx, err)
		}
	}
}

// interrupted makes the end of ctx the good end of the demo: that is how a person ends it.
func (d *demo) interrupted(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	d.say("")
	d.say("Ending, and removing %s.", d.world.dir)
	return nil
}

// watching waits until every upstream has a recorded head.
func (d *demo) watching(ctx context.Context) error {
	for {
		var status server.Status
		if err := d.client.get(ctx, "status", nil, &status); err != nil {
			return err
		}
		var heads []string
		for _, g := range status.Items {
			for _, m := range g.Members {
				for _, w := range m.Watches {
					if w.Commit != "" {
						heads = append(heads, fmt.Sprintf("%s@%s at %s", m.Repository, w.Branch, sentry.ShortCommit(w.Commit)))
					}
				}
			}
		}
		if len(heads) == len(upstreams) {
			d.say("Watching %s.", strings.Join(heads, ", "))
			return nil
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
}

// next waits for the next rollout and shows it to its end.
func (d *demo) next(ctx context.Context) (sentry.Rollout, error) {
	var r sentry.Rollout
	for {
		var list server.List[sentry.Rollout]
		if err := d.client.get(ctx, "rollouts", url.Values{"limit": {"1"}}, &list); err != nil {
			return r, err
		}
		if len(list.Items) == 1 && list.Items[0].ID != d.shown && list.Items[0].Status != sentry.Pending {
			r = list.Items[0]
			break
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return r, context.Cause(ctx)
		}
	}
	d.shown = r.ID
	d.say("")
	d.say("%s %s: %s", d.out.paint(cyan, "rollout "+r.ID), r.Group, r.Trigger.Summary())
	log, err := d.client.stream(ctx, rolloutPath(r.ID, "logs"), url.Values{"follow": {"true"}})
	if err != nil {
		return r, err
	}
	defer log.Close()
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		d.say("  %s", tidy(lines.Text()))
	}
	if err := lines.Err(); err != nil {
		return r, err
	}
	for !r.Status.Terminal() { // its output ended; its end is about to be saved
		if err := d.client.get(ctx, rolloutPath(r.ID), nil, &r); err != nil {
			return r, err
		}
		if !r.Status.Terminal() && !sleep(ctx, 20*time.Millisecond) {
			return r, context.Cause(ctx)
		}
	}
	d.say("%s in %s: %s", d.out.paint(colourOf(r.Status), "rollout "+r.ID+" "+words(r.Status)), server.Took(r.FinishedAt.Sub(r.StartedAt)), tidy(r.Reason))
	return r, nil
}

// tell says what to try.
func (d *demo) tell() {
	sentry := invocation() + " -c " + d.world.config
	d.say("")
	d.say("It goes on watching. In another terminal, push:")
	d.say("  cd %s && git commit --allow-empty -m 'my change' && git push", d.world.clone(upstreams[1]))
	d.say("or ask:")
	for _, verb := range []string{"status", "history", "show " + d.shown, "logs " + d.shown + " " + upstreams[0], "why storefront", "trigger"} {
		d.say("  %s %s", sentry, verb)
	}
	d.say("Ctrl-C ends it and removes everything.")
}

func (d *demo) say(format string, args ...any) {
	// A reader that went away ends the demo by its signal.
	_, _ = fmt.Fprintf(d.out, format+"\n", args...)
}

func (d *demo) urls(names ...string) []string {
	var out []string
	for _, n := range names {
		out = append(out, d.world.url+"/"+n+".git")
	}
	return out
}

// invocation is how a person runs this program again.
func invocation() string {
	exe, err := os.Executable()
	if err != nil || strings.Contains(filepath.ToSlash(exe), "/go-build") { // go run removes it at the end
		return "go run ."
	}
	return exe
}

// sleep waits, and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
