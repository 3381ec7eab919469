package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"sentry/internal/config"
	"sentry/internal/daemon"
	"sentry/internal/logger"
	"sentry/internal/sentry"
	"sentry/internal/server"
	"sentry/internal/store"
)

// foreground carries rollouts out within this process, where no daemon runs. what says which, by the configuration.
func (a *app) foreground(ctx context.Context, w waiting, what func(*config.Config) ([]store.Request, error)) error {
	if !w.wait {
		return &problem{code: exitUnreachable, message: "no daemon is running that could go on with it", hint: "without --wait=false this command does the work itself; `sentry watch` starts a daemon"}
	}
	cfg, err := a.load()
	if err != nil {
		return err
	}
	requests, err := what(cfg)
	if err != nil {
		return err
	}
	var groups []string
	for _, r := range requests {
		groups = append(groups, r.Group)
	}
	l := a.newLive()
	level, asked := a.logLevel()
	if !asked {
		level = slog.LevelError // what else there is to say, the progress says
	}
	var logs io.Writer = a.err.Writer
	if l != nil {
		logs = l
	}
	mask := logger.NewMasker(cfg.Secrets()...)
	d, err := daemon.New(ctx, daemon.Options{
		Config: cfg, Version: version(), Log: logger.New(logs, level, logger.FormatText, mask), Mask: mask, Groups: groups,
	})
	if err != nil {
		return err
	}
	rollouts, err := a.carryOut(ctx, d, requests, w, l)
	if err = errors.Join(err, d.Close()); err != nil {
		return err
	}
	return a.verdict(rollouts)
}

// carryOut runs the rollouts and shows them.
func (a *app) carryOut(ctx context.Context, d *daemon.Daemon, requests []store.Request, w waiting, l *live) ([]sentry.Rollout, error) {
	c := &client{http: &http.Client{Transport: inProcess{d.Handler()}}}
	if err := a.refuse(ctx, c, d, requests); err != nil {
		return nil, err
	}
	working, stop := w.limit(ctx)
	defer stop()
	a.note("no daemon is running: rolling out here")
	left, err := d.Interrupted(ctx)
	if err != nil {
		return nil, err
	}
	if len(left) > 0 {
		a.note("first goes on with %s, which was interrupted", strings.Join(left, " and "))
	}

	// The watcher looks until the work has ended, however it was told to end.
	looking, look := context.WithCancel(context.WithoutCancel(ctx))
	shown := make(chan struct{})
	started := false
	rollouts, err := d.RolloutOnce(working, requests, a.person(), func(ids []string) {
		started = true
		go func() {
			defer close(shown)
			_, _ = a.newWatcher(c, l, ids).wait(looking)
		}()
	})
	if err != nil || rollouts == nil {
		look()
	}
	if started {
		<-shown
	}
	look()
	if l != nil {
		l.clear()
	}
	switch cause := context.Cause(working); {
	case errors.Is(cause, errPatience):
		return rollouts, a.gaveUp(rollouts, &problem{code: exitTimeout, message: fmt.Sprintf("timed out after %s, and canceled", w.timeout), cause: cause})
	case errors.Is(cause, errInterrupted):
		return rollouts, a.gaveUp(rollouts, &problem{code: exitInterrupted, message: "interrupted, and canceled", cause: cause})
	}
	return rollouts, err
}

// gaveUp prints how rollouts ended that were given up, unless all of them had succeeded before.
func (a *app) gaveUp(rollouts []sentry.Rollout, p *problem) error {
	if len(rollouts) == 0 {
		p.message = strings.Replace(p.message, "canceled", "nothing was begun", 1)
		return p
	}
	if err := a.verdict(rollouts); err == nil {
		return nil
	}
	return p
}

// refuse does not begin what a paused group would keep waiting for ever.
func (a *app) refuse(ctx context.Context, c *client, d *daemon.Daemon, requests []store.Request) error {
	var status server.Status
	if err := c.get(ctx, "status", nil, &status); err != nil {
		return err
	}
	paused := map[string]store.Pause{}
	for _, g := range status.Items {
		if g.Paused != nil {
			paused[g.Name] = store.Pause{By: g.Paused.By, Reason: g.Paused.Reason, At: g.Paused.At}
		}
	}
	refused := server.Refusal(requests, paused)
	if refused == nil {
		return nil
	}
	for _, r := range requests {
		err := d.Refuse(ctx, sentry.Decision{Verb: sentry.Refused, Group: r.Group, Reason: fmt.Sprintf("%s asked for a rollout, but %s", r.By, refused.Message)})
		if err != nil {
			return err
		}
	}
	return refused
}
