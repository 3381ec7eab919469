package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"sentry/internal/sentry"
	"sentry/internal/server"
)

// followStatus shows the status until it is interrupted: redrawn in place on a terminal, else one line (or with -o json
// one object) for each change. A daemon may come and go meanwhile.
func (a *app) followStatus(ctx context.Context, groups []string) error {
	v := &statusView{app: a, groups: groups, rollouts: map[string]sentry.Rollout{}, states: map[string]string{}}
	if a.out.terminal() && !a.asJSON() && getenv(a.environ, "TERM") != "dumb" {
		v.live = &live{s: a.out}
		defer v.live.leave()
	}
	for first := true; ; first = false {
		c, err := a.connect(ctx)
		if err == nil {
			err = v.follow(ctx, c)
			err = errors.Join(err, c.Close())
		}
		if ctx.Err() != nil {
			return silent(exitInterrupted) // that is how this ends
		}
		if err != nil { // else another one may answer from now on
			p := explain(ctx, err)
			if first || p.code != exitUnreachable {
				return err
			}
			v.say(p.message)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// statusView is what was shown last.
type statusView struct {
	app      *app
	groups   []string
	live     *live
	rollouts map[string]sentry.Rollout // that had not ended
	states   map[string]string         // of groups
	status   server.Status
	owner    string // who has the state where no daemon answers
}

// follow shows what one client tells. It returns nil when a daemon may have come.
func (v *statusView) follow(ctx context.Context, c *client) error {
	listening, stop := context.WithCancel(ctx)
	wake := make(chan struct{}, 1)
	var listener sync.WaitGroup
	if c.remote {
		listener.Go(func() { c.listen(listening, wake) })
	}
	defer listener.Wait()
	defer stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		asked := time.Now()
		status, err := c.status(ctx, v.groups)
		if err != nil {
			return err
		}
		v.status, v.owner = status, c.owner
		if err := v.show(ctx, c); err != nil {
			return err
		}
		took := time.Since(asked)
		if !c.remote { // look again whether a daemon is there now
			return nil
		}
		for news := false; !news; {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-wake:
				news = true
				time.Sleep(max(calm, took)) // looking must not be what keeps the daemon busy
			case <-tick.C:
				v.draw()
				news = time.Since(asked) > max(slowly, 10*took)
			}
		}
	}
}

// draw draws the screen again: times go on.
func (v *statusView) draw() {
	if v.live == nil {
		return
	}
	s, now := v.app.out, v.app.now()
	width, height := s.size()
	lines := statusLines(s, v.status, v.owner, now, width, len(v.groups) > 0)
	var running []sentry.Rollout
	for _, g := range v.status.Items {
		if g.Current != nil {
			r := *g.Current
			if full, ok := v.rollouts[r.ID]; ok {
				r = full
			}
			if g.State == server.GroupInterrupted {
				r = unattended(r)
			}
			running = append(running, r)
		}
	}
	if len(running) > 0 {
		lines = append(append(lines, ""), frameOf(s, running, now, width, 0)...)
	}
	v.live.draw(clip(s, lines, height))
}

// show tells what is new.
func (v *statusView) show(ctx context.Context, c *client) error {
	unended := map[string]bool{}
	for _, g := range v.status.Items {
		for _, r := range []*sentry.Rollout{g.Current, g.Next} {
			if r != nil {
				unended[r.ID] = true
			}
		}
	}
	for id := range v.rollouts {
		unended[id] = true
	}
	for id := range unended {
		var r sentry.Rollout
		if err := c.get(ctx, rolloutPath(id), nil, &r); err != nil {
			return err
		}
		old, known := v.rollouts[id]
		if err := v.tell(known, old, r); err != nil {
			return err
		}
		if v.rollouts[id] = r; r.Status.Terminal() {
			delete(v.rollouts, id)
		}
	}
	for _, g := range v.status.Items {
		state := string(g.State)
		if v.states[g.Name] != state && v.live == nil && !v.app.asJSON() {
			v.say(fmt.Sprintf("group %s: %s", g.Name, state))
		}
		v.states[g.Name] = state
	}
	v.draw()
	return nil
}

// tell writes what is new in a rollout, where the screen is not redrawn.
func (v *statusView) tell(known bool, old, now sentry.Rollout) error {
	if v.live != nil {
		return nil
	}
	if v.app.asJSON() {
		was, err := json.Marshal(old)
		if err != nil {
			return err
		}
		is, err := json.Marshal(now)
		if err != nil || known && string(was) == string(is) {
			return err
		}
		_, err = v.app.out.Write(append(harmless(is), '\n'))
		return err
	}
	before := &old
	if !known {
		before = nil
	}
	for _, line := range changes(before, now) {
		v.say(line)
	}
	return nil
}

func (v *statusView) say(line string) {
	if v.live != nil {
		fmt.Fprintln(v.live, tidy(line))
		return
	}
	fmt.Fprintln(v.app.out, tidy(line))
}
