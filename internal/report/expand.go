package report

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"sentry/internal/config"
	"sentry/internal/logger"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// expand turns the oldest messages of the outbox into deliveries, and tells whether there may be more.
func (s *Service) expand(ctx context.Context) (more bool, err error) {
	messages, err := s.store.Outbox(ctx, batch)
	if err != nil || len(messages) == 0 {
		return false, err
	}
	e := expansion{service: s, config: s.config(), rollouts: map[string]*sentry.Rollout{}, made: map[string][]store.Delivery{}, told: map[told]bool{}}
	letters := make([]store.Letter, len(messages))
	for i, m := range messages {
		if letters[i], err = e.letter(ctx, m); err != nil {
			return false, err
		}
	}
	dropped := 0
	err = s.persist(ctx, func(ctx context.Context) (err error) {
		dropped, err = s.store.Expand(ctx, letters...)
		return err
	})
	if dropped > 0 {
		s.log.Warn("statuses are given up: more wait than are kept", "count", dropped)
	}
	return len(messages) == batch, err
}

// expansion is what is known while messages are expanded.
type expansion struct {
	service  *Service
	config   *config.Config
	rollouts map[string]*sentry.Rollout  // nil for one that is not kept any more
	made     map[string][]store.Delivery // by rollout: in this expansion, so not in the store yet
	told     map[told]bool               // what made holds
}

// told is a commit that a rollout reports on.
type told struct{ rollout, address, commit string }

// letter says what a message comes to. A rollout that is gone comes to nothing.
func (e *expansion) letter(ctx context.Context, m store.Message) (store.Letter, error) {
	l := store.Letter{Message: m.ID}
	var event store.Event
	if err := json.Unmarshal(m.Payload, &event); err != nil {
		e.service.log.Error("a message of the outbox cannot be read, and is left out", "topic", m.Topic, logger.KeyError, err)
		return l, nil
	}
	group, configured := e.config.Group(event.Group)
	var err error
	switch {
	case m.Topic == store.TopicStarted && configured && reportsTo(group, sentry.Upstream):
		l.Deliveries, err = e.started(ctx, group, event)
	case m.Topic == store.TopicPinned && configured && reportsTo(group, sentry.QA) && event.Watch != nil && event.Source != nil:
		l.Deliveries, err = e.pinned(ctx, group, event)
	case m.Topic == store.TopicFinished:
		l.Deliveries, err = e.finished(ctx, event)
	}
	e.made[event.Rollout] = append(e.made[event.Rollout], l.Deliveries...)
	return l, err
}

// rollout reads a rollout once; nil where it is not kept any more.
func (e *expansion) rollout(ctx context.Context, id string) (*sentry.Rollout, error) {
	if r, known := e.rollouts[id]; known {
		return r, nil
	}
	r, err := e.service.store.Rollout(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		e.rollouts[id] = nil
	case err != nil:
		return nil, err
	default:
		e.rollouts[id] = &r
	}
	return e.rollouts[id], nil
}

// started gives the pendings on the commits of the monitored repositories.
func (e *expansion) started(ctx context.Context, group *config.Group, event store.Event) ([]store.Delivery, error) {
	r, err := e.rollout(ctx, event.Rollout)
	if err != nil || r == nil {
		return nil, err
	}
	says := pending(r)
	var out []store.Delivery
	for _, v := range r.Vector {
		yes, err := e.chosen(ctx, group, r, v)
		if err != nil {
			return nil, err
		}
		if !yes {
			continue
		}
		if d, ok := e.pending(r, sentry.Upstream, v, v.Branch, v.Commit, says); ok {
			out = append(out, d)
		}
	}
	return out, nil
}

// pinned gives the pending on the commit of a QA repository that an attempt uses, where its watch is one to report on.
func (e *expansion) pinned(ctx context.Context, group *config.Group, event store.Event) ([]store.Delivery, error) {
	r, err := e.rollout(ctx, event.Rollout)
	if err != nil || r == nil {
		return nil, err
	}
	i := slices.IndexFunc(r.Vector, func(v sentry.VectorEntry) bool { return v.Watch == *event.Watch })
	if i < 0 {
		return nil, nil
	}
	yes, err := e.chosen(ctx, group, r, r.Vector[i])
	if err != nil || !yes {
		return nil, err
	}
	if d, ok := e.pending(r, sentry.QA, r.Vector[i], event.Source.Branch, event.Source.Commit, pending(r)); ok {
		return []store.Delivery{d}, nil
	}
	return nil, nil
}

// finished gives a verdict for every pending that the rollout has led to, and for nothing else: what was begun to be said
// is said to its end, whatever the configuration has become.
func (e *expansion) finished(ctx context.Context, event store.Event) ([]store.Delivery, error) {
	said, err := e.service.store.Deliveries(ctx, event.Rollout)
	if err != nil {
		return nil, err
	}
	if said = append(said, e.made[event.Rollout]...); len(said) == 0 {
		return nil, nil
	}
	r, err := e.rollout(ctx, event.Rollout)
	if err != nil {
		return nil, err
	}
	if r == nil { // it is not kept any more, and has ended all the same
		r = &sentry.Rollout{ID: event.Rollout, Group: event.Group, Status: event.Status}
	}
	used := map[string]bool{} // commits of QA repositories
	for _, d := range r.Deployments {
		if d.Source != nil {
			used[d.Source.Commit] = true
		}
	}
	state, says := verdict(r)
	var out []store.Delivery
	for _, d := range said {
		if d.State != sentry.StatePending {
			continue
		}
		d.State, d.Description = state, says
		if d.Target == sentry.QA && !used[d.Commit] && len(r.Deployments) > 0 {
			d.State, d.Description = sentry.StateError, "interrupted: begun again with another commit of this repository"
		}
		out = append(out, d)
	}
	return out, nil
}

// chosen tells whether to report on an entry of the vector: on all, or on those that changed.
//
// Where a person has asked for the rollout, an entry that did not change counts all the same if the rollout that is tried
// again was for its commit, or if its commit carries a status already, which would be out of date otherwise.
func (e *expansion) chosen(ctx context.Context, group *config.Group, r *sentry.Rollout, v sentry.VectorEntry) (bool, error) {
	if v.Changed || group.Report == "all" {
		return true, nil
	}
	if r.Trigger.RetryOf != "" {
		before, err := e.rollout(ctx, r.Trigger.RetryOf)
		if err != nil {
			return false, err
		}
		if before != nil && slices.ContainsFunc(before.Vector, func(old sentry.VectorEntry) bool {
			return old.Changed && old.Watch == v.Watch && old.Commit == v.Commit
		}) {
			return true, nil
		}
	}
	if r.Trigger.Kind == sentry.TriggerChanges && r.Trigger.By == "" {
		return false, nil
	}
	return e.service.store.Reported(ctx, r.Group, v.Watch, v.Commit)
}

// pending makes the pending on a commit of one of the two repositories of a member, unless that can get none, or is told
// by the rollout already: two members may be one repository.
func (e *expansion) pending(r *sentry.Rollout, target sentry.Target, v sentry.VectorEntry, branch, commit, says string) (d store.Delivery, ok bool) {
	repo, configured := e.config.Repository(v.Repository)
	if !configured || commit == "" {
		return d, false
	}
	side := sideOf(repo, target)
	key := told{r.ID, side.address(), commit}
	if side.problem() != "" || e.told[key] {
		return d, false
	}
	e.told[key] = true
	return store.Delivery{
		Report: sentry.Report{
			Repository: repo.Name, Target: target, Branch: branch, Commit: commit, Context: "sentry/" + r.Group,
			State: sentry.StatePending, Description: says,
		},
		Rollout: r.ID, Group: r.Group, Lane: e.service.names.of(e.config, side), Address: side.address(), Watched: v.Branch, Head: v.Commit,
	}, true
}
