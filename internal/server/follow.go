package server

import (
	"bytes"
	"context"
	"io"
	"sync"
	"time"

	"sentry/internal/command"
	"sentry/internal/sentry"
)

// follow writes the output of a rollout as it comes, until the rollout or the listener ends. The deployments write side
// by side; their lines stay whole, and begin with the name of the watch where there is more than one.
func (h *handler) follow(ctx context.Context, id string, sel selection, out *lines) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tokens, unsubscribe := h.Store.Subscribe()
	defer unsubscribe()
	rollout, err := h.Store.Rollout(ctx, id)
	if err != nil {
		return err
	}
	feed := &feed{rollout: rollout, changed: make(chan struct{})}
	var (
		followers sync.WaitGroup
		begun     = map[string]bool{}
		errs      = make(chan error, 1)
	)
	defer followers.Wait()
	defer cancel()
	followers.Go(func() { feed.keep(ctx, h.Store, tokens) })
	for {
		rollout, changed := feed.now()
		selected, err := sel.deployments(rollout)
		if err != nil {
			return err
		}
		for _, d := range selected {
			if begun[d.ID] {
				continue
			}
			begun[d.ID] = true
			prefix := ""
			if len(selected) > 1 {
				prefix = d.Watch.String() + " | "
			}
			followers.Go(func() {
				if err := h.followDeployment(ctx, feed, sel, d.ID, out.from(prefix)); err != nil {
					select {
					case errs <- err:
					default:
					}
				}
			})
		}
		if rollout.Status.Terminal() {
			followers.Wait()
			select {
			case err := <-errs:
				return err
			default:
				return nil
			}
		}
		select {
		case <-changed:
		case err := <-errs:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// followDeployment writes the steps of one deployment one after the other, each as it comes.
func (h *handler) followDeployment(ctx context.Context, feed *feed, sel selection, id string, out *from) error {
	defer out.end()
	written := map[[2]int]bool{}
	for {
		rollout, changed := feed.now()
		d, _ := find(rollout, id)
		progress := false
		for _, step := range sel.begun(d) {
			key := [2]int{step.Attempt, step.Ordinal}
			if written[key] {
				continue
			}
			written[key], progress = true, true
			if err := h.followStep(ctx, feed, sel, d, step, out); err != nil {
				return err
			}
		}
		switch {
		case progress:
			continue // it may have gone on meanwhile
		case d.Status.Terminal() || rollout.Status.Terminal():
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (h *handler) followStep(ctx context.Context, feed *feed, sel selection, d sentry.Deployment, step sentry.Step, out *from) error {
	if step.Status.Terminal() {
		return h.copyStep(out, sel, d, step)
	}
	if err := heading(out, sel, d, step); err != nil {
		return err
	}
	path, err := h.path(step)
	if err != nil {
		return err
	}
	state := func() (sentry.Step, bool) {
		rollout, _ := feed.now()
		d, _ := find(rollout, d.ID)
		for _, s := range d.Steps {
			if s.Attempt == step.Attempt && s.Ordinal == step.Ordinal {
				return s, s.Status.Terminal() || d.Status.Terminal() || rollout.Status.Terminal()
			}
		}
		return step, rollout.Status.Terminal()
	}
	done := func() bool { _, ended := state(); return ended }
	err = command.FollowLog(ctx, path, done, out)
	if err != nil && ctx.Err() == nil {
		return err
	}
	last, _ := state()
	return ending(out, sel, last)
}

func find(r sentry.Rollout, deployment string) (sentry.Deployment, bool) {
	for _, d := range r.Deployments {
		if d.ID == deployment {
			return d, true
		}
	}
	return sentry.Deployment{}, false
}

// feed keeps the newest state of a rollout for those who follow it: one reader of the store for all of them.
type feed struct {
	mu      sync.Mutex // owns what follows
	rollout sentry.Rollout
	changed chan struct{} // closed when rollout is replaced
}

// keep reads the rollout again whenever the state changed, until it or ctx ends.
func (f *feed) keep(ctx context.Context, s Store, changed <-chan struct{}) {
	slowly := time.NewTicker(5 * time.Second) // a lost token costs this
	defer slowly.Stop()
	for {
		rollout, _ := f.now()
		if rollout.Status.Terminal() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-slowly.C:
		}
		if newer, err := s.Rollout(ctx, rollout.ID); err == nil {
			f.set(newer)
		}
	}
}

func (f *feed) set(r sentry.Rollout) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rollout = r
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *feed) now() (sentry.Rollout, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rollout, f.changed
}

// lines joins several writers into one without mixing their lines.
type lines struct {
	mu sync.Mutex // owns w
	w  io.Writer
}

// from is one of the writers. Used by one goroutine.
type from struct {
	lines  *lines
	prefix string
	inside bool   // without a prefix: what was written last has no line end
	open   []byte // with one: the line that has not ended yet
}

func (l *lines) from(prefix string) *from { return &from{lines: l, prefix: prefix} }

// maxOpenLine is how much of a line without an end is held back.
const maxOpenLine = 64 << 10

func (f *from) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	out := p
	if f.prefix == "" { // it writes alone
		f.inside = p[len(p)-1] != '\n'
	} else if out = f.whole(p); out == nil {
		return len(p), nil
	}
	f.lines.mu.Lock()
	defer f.lines.mu.Unlock()
	if _, err := f.lines.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// whole gives the lines that p ends, each with the prefix, and keeps the rest.
func (f *from) whole(p []byte) []byte {
	var out []byte
	for line := range bytes.Lines(p) {
		f.open = append(f.open, line...)
		if f.open[len(f.open)-1] != '\n' {
			if len(f.open) < maxOpenLine {
				break
			}
			f.open = append(f.open, '\n')
		}
		out = append(append(out, f.prefix...), f.open...)
		f.open = f.open[:0]
	}
	return out
}

// end ends the line that has not ended.
func (f *from) end() {
	if f.inside || len(f.open) > 0 {
		_, _ = f.Write([]byte{'\n'}) // where the listener went away, the next write says so
	}
}
