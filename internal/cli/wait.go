package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"sentry/internal/sentry"
)

// watcher shows rollouts until all of them have ended: redrawn in place on a terminal, else as one line for each change.
type watcher struct {
	app      *app
	client   *client
	ids      []string
	rollouts map[string]sentry.Rollout
	live     *live // nil where standard error is no terminal
}

func (a *app) newWatcher(c *client, l *live, ids []string) *watcher {
	return &watcher{app: a, client: c, ids: ids, live: l, rollouts: map[string]sentry.Rollout{}}
}

// newLive gives the redrawn part of standard error; nil where that is no terminal which understands it.
func (a *app) newLive() *live {
	if !a.err.terminal() || getenv(a.environ, "TERM") == "dumb" {
		return nil
	}
	return &live{s: a.err}
}

// patience is how long a daemon may be away while somebody waits: a restart takes less.
const patience = 15 * time.Second

// wait shows the rollouts and returns them, in the order of their ids, when all have ended. The error is that of ctx, or
// says that they can no longer be asked about.
func (w *watcher) wait(ctx context.Context) ([]sentry.Rollout, error) {
	listening, stop := context.WithCancel(ctx)
	wake := make(chan struct{}, 1)
	var listener sync.WaitGroup
	listener.Go(func() { w.client.listen(listening, wake) })
	defer listener.Wait()
	defer stop()

	tick := time.NewTicker(time.Second) // the clock on the screen
	defer tick.Stop()
	answered, away := time.Now(), false
	for {
		asked := time.Now()
		switch err := w.ask(ctx); {
		case err == nil:
			if away {
				w.say("a daemon answers again")
			}
			answered, away = asked, false
		case final(err) || time.Since(answered) > patience:
			return w.list(), err
		case !away:
			away = true
			w.say(fmt.Sprintf("%s; waiting up to %s for it to come back", explain(ctx, err).message, patience))
		}
		w.draw()
		if w.ended() {
			return w.list(), nil
		}
		for news := false; !news; {
			select {
			case <-wake:
				news = true
				time.Sleep(calm) // what comes at once is asked for at once
			case <-tick.C:
				w.draw()
				news = time.Since(asked) > slowly
			case <-ctx.Done():
				return w.list(), context.Cause(ctx)
			}
		}
	}
}

const (
	calm   = 50 * time.Millisecond
	slowly = 3 * time.Second // what the events did not tell is seen after this
)

// final reports whether asking again is of no use.
func final(err error) bool {
	var p *problem
	return !errors.As(err, &p) || p.code != exitUnreachable
}

// ask reads what has not ended.
func (w *watcher) ask(ctx context.Context) error {
	for _, id := range w.ids {
		if w.rollouts[id].Status != "" && w.rollouts[id].Status.Terminal() {
			continue
		}
		var r sentry.Rollout
		if err := w.client.get(ctx, rolloutPath(id), nil, &r); err != nil {
			return err
		}
		w.take(r)
	}
	return nil
}

// take notes the newer state of a rollout that is waited for, and tells it where the screen cannot be redrawn.
func (w *watcher) take(r sentry.Rollout) {
	old, known := w.rollouts[r.ID]
	if known && old.Status.Terminal() {
		return
	}
	w.rollouts[r.ID] = r
	if w.live != nil {
		return
	}
	before := &old
	if !known {
		before = nil
	}
	for _, line := range changes(before, r) {
		w.say(line)
	}
}

// say tells something beside the state of the rollouts: above it where that is redrawn.
func (w *watcher) say(line string) {
	if w.live != nil {
		fmt.Fprintln(w.live, tidy(line))
		return
	}
	fmt.Fprintln(w.app.err, tidy(line))
}

func (w *watcher) draw() {
	if w.live == nil {
		return
	}
	width, height := w.app.err.size()
	w.live.draw(frameOf(w.app.err, w.list(), w.app.now(), width, height))
}

func (w *watcher) ended() bool {
	for _, id := range w.ids {
		if r, ok := w.rollouts[id]; !ok || !r.Status.Terminal() {
			return false
		}
	}
	return true
}

func (w *watcher) list() []sentry.Rollout {
	list := make([]sentry.Rollout, 0, len(w.ids))
	for _, id := range w.ids {
		if r, ok := w.rollouts[id]; ok {
			list = append(list, r)
		}
	}
	return list
}

// listen puts a token into wake (of size one) whenever something has changed, until ctx ends. Where the connection
// breaks it begins again: what was missed is asked for anyway.
func (c *client) listen(ctx context.Context, wake chan<- struct{}) {
	for ctx.Err() == nil {
		c.listenOnce(ctx, wake)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (c *client) listenOnce(ctx context.Context, wake chan<- struct{}) {
	body, err := c.stream(ctx, "events", nil)
	if err != nil {
		return
	}
	defer body.Close()
	in := bufio.NewReader(body)
	for {
		line, err := in.ReadSlice('\n') // of a long line the first piece is enough
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
		if !bytes.HasPrefix(line, []byte("event: ")) {
			continue
		}
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}
