package server

import (
	"context"
	"fmt"
	"time"

	"sentry/internal/config"
	"sentry/internal/monitor"
	"sentry/internal/store"
)

// Who has just pushed and asks for a rollout means that commit, which Sentry may not have seen yet: so the repositories
// are asked first, for a moment. More of them at once would be a burden on a forge, for an answer that comes late.
const (
	lookFor    = 3 * time.Second
	lookAtMost = 200
)

// lookAndQueue hands requests on when the repositories that they are about have been asked.
func (h *handler) lookAndQueue(ctx context.Context, control Control, cfg *config.Config, requests []store.Request) (result Triggered, err error) {
	began := h.Now()
	result.Unanswered = h.look(ctx, control, askedFor(cfg, requests))
	for _, request := range requests {
		id, err := h.begun(ctx, cfg, request, began)
		if err != nil {
			return result, err
		}
		if id != "" {
			result.Items = append(result.Items, Queued{ID: id, Group: request.Group, Joined: true, Found: true})
			continue
		}
		queued, err := control.Trigger(ctx, request)
		if err != nil {
			return result, err
		}
		result.Items = append(result.Items, queued...)
	}
	return result, nil
}

// look asks repositories for their heads now, and returns when all have answered and what moved is recorded, or after a
// moment. It gives those that have not answered.
func (h *handler) look(ctx context.Context, control Control, repositories []string) []Unanswered {
	late := func(name, why string) Unanswered { return Unanswered{Repository: name, Reason: why} }
	var left []Unanswered
	unasked := ""
	if d := control.Info(); d != nil && d.Draining {
		unasked = "not asked: the daemon is ending"
	} else if len(repositories) > lookAtMost {
		unasked = fmt.Sprintf("not asked: these are more than %d repositories", lookAtMost)
	}
	if unasked != "" {
		for _, name := range repositories {
			left = append(left, late(name, unasked))
		}
		return left
	}
	began := h.Now()
	deadline := began.Add(lookFor)
	ctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	for _, name := range repositories {
		control.Hint(name)
	}
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		started := time.Now()
		states := map[string]monitor.WatchState{}
		for _, w := range control.Watches() {
			states[w.Repository] = w // of one repository all watches are asked at once
		}
		left = left[:0]
		waits := false
		for _, name := range repositories {
			w, known := states[name]
			asked := !w.LastAsked.Before(began) && w.NextDue.After(w.LastAsked) // and not being asked right now
			switch {
			case asked && w.Failures == 0:
			case asked, known && w.NextDue.After(deadline): // it is left alone until then
				left = append(left, late(name, w.Answer))
			default:
				waits = true
				left = append(left, late(name, fmt.Sprintf("no answer within %s", lookFor)))
			}
		}
		if !waits {
			return left
		}
		select {
		case <-ctx.Done():
			return left
		case <-time.After(max(pause, 4*time.Since(started))): // looking must not be what keeps the daemon busy
		}
	}
}

// askedFor names the repositories that requests are about.
func askedFor(cfg *config.Config, requests []store.Request) []string {
	var names []string
	known := map[string]bool{}
	add := func(name string) {
		if !known[name] {
			known[name] = true
			names = append(names, name)
		}
	}
	for _, r := range requests {
		for _, m := range cfg.Members(r.Group) {
			if r.Whole {
				add(m.Name)
			}
		}
		for _, name := range r.Repositories {
			add(name)
		}
		for _, w := range r.Watches {
			add(w.Repository)
		}
	}
	return names
}

// begun gives the rollout that answers a request already: a look has found that something moved, and what rolls that out
// has begun before the request could join it. A second one would do the same once more.
func (h *handler) begun(ctx context.Context, cfg *config.Config, request store.Request, since time.Time) (id string, err error) {
	newest, err := h.Store.Rollouts(ctx, store.Filter{Group: request.Group, Limit: 1})
	if err != nil || len(newest) == 0 {
		return "", err
	}
	r := newest[0]
	if r.StartedAt.IsZero() || r.RecordedAt.Before(since.Truncate(time.Millisecond)) {
		return "", nil
	}
	has := map[string]bool{}
	for _, d := range r.Deployments {
		has[d.Repository], has[d.Watch.String()] = true, true
	}
	for _, w := range request.Watches {
		if !has[w.String()] {
			return "", nil
		}
	}
	for _, name := range askedFor(cfg, []store.Request{request}) {
		if !has[name] {
			return "", nil
		}
	}
	return r.ID, nil
}
