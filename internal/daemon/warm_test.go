package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/sentry"
	"sentry/internal/store"
)

// history is of rollouts, the newest first.
type history struct {
	changed chan struct{}
	mu      sync.Mutex
	list    []sentry.Rollout
	reads   int
	fault   error
}

func (h *history) Subscribe() (<-chan struct{}, func()) { return h.changed, func() {} }

func (h *history) Rollouts(_ context.Context, f store.Filter) ([]sentry.Rollout, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reads++
	var out []sentry.Rollout
	for _, r := range h.list {
		if slices.Contains(f.Status, r.Status) && len(out) < f.Limit {
			out = append(out, r)
		}
	}
	return out, h.fault
}

// count is how often the rollouts were read.
func (h *history) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reads
}

func (h *history) set(fault error, list ...sentry.Rollout) {
	h.mu.Lock()
	h.list, h.fault = list, fault
	h.mu.Unlock()
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

func TestKeepWarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &history{changed: make(chan struct{}, 1)}
		var mu sync.Mutex
		var told []string
		ctx, cancel := context.WithCancel(t.Context())
		var keeping sync.WaitGroup
		keeping.Go(func() {
			keepWarm(ctx, h, func(groups map[string]bool) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, fmt.Sprint(groups))
			}, slog.New(slog.DiscardHandler))
		})
		last := func() string {
			mu.Lock()
			defer mu.Unlock()
			return told[len(told)-1]
		}
		time.Sleep(time.Hour)
		if last() != "map[]" || h.count() != 1 {
			t.Errorf("told %s by %d reads in an hour without a change", last(), h.count())
		}
		for _, step := range []struct {
			fault error
			list  []sentry.Rollout
			want  string
		}{
			{nil, []sentry.Rollout{{Group: "a", Status: sentry.Running}, {Group: "b", Status: sentry.Pending}}, "map[a:true]"},
			{nil, []sentry.Rollout{{Group: "b", Status: sentry.Running}, {Group: "a", Status: sentry.Running}}, "map[a:true b:true]"},
			{errors.New("the disk is gone"), nil, "map[a:true b:true]"},
			{nil, []sentry.Rollout{{Group: "b", Status: sentry.Failed}, {Group: "a", Status: sentry.Succeeded}}, "map[]"},
		} {
			h.set(step.fault, step.list...)
			time.Sleep(warmEvery)
			synctest.Wait() // what is due at this moment comes first
			if last() != step.want {
				t.Errorf("told %s, want %s", last(), step.want)
			}
		}
		reads := h.count()
		for range 1000 {
			h.set(nil)
			time.Sleep(10 * time.Millisecond)
		}
		if n := h.count() - reads; n < 9 || n > 11 {
			t.Errorf("%d reads in ten seconds of changes", n)
		}
		cancel()
		keeping.Wait()
	})
}
