package monitor

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"unique"

	"sentry/internal/config"
	"sentry/internal/logger"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// describe asks who made the commits to which branches have moved, and why. It is a kindness to people: what cannot be
// learnt in a few seconds, or would be too many questions, is left out, and so is all where the other side asked to be left
// alone. It returns when every question has ended; where that was heard in one of them, it is a lesson.
func (m *Monitor) describe(ctx context.Context, q *question) {
	if f := q.lesson.fault; f != nil && gravity(f) >= gravity(&sentry.Fault{RetryAfter: 1}) {
		return
	}
	limited, cancel := context.WithTimeout(ctx, describeLimit)
	defer cancel()
	var asking sync.WaitGroup
	var mu sync.Mutex // guards q.lesson
	for i := range q.items {
		if !q.ends[i].moves() {
			continue
		}
		cfg := q.items[i].config
		for k := range q.ends[i].j.moves {
			v := &q.ends[i].j.moves[k]
			if v.kind != moved || !m.revisions.Allow() {
				continue
			}
			asking.Go(func() {
				if m.describers.Acquire(limited, 1) != nil {
					return
				}
				defer m.describers.Release(1)
				r, err := m.options.Ask.Revision(limited, cfg, v.branch, v.to)
				if err == nil {
					v.revision = r
					return
				}
				if f := sentry.AsFault(err); f.Kind == sentry.RateLimited {
					mu.Lock()
					q.lesson.add(f)
					mu.Unlock()
				}
				m.options.Log.Debug("cannot tell who made a commit", logger.KeyRepository, cfg.Name, logger.KeyBranch, v.branch, logger.KeyCommit, v.to, logger.KeyError, err)
			})
		}
	}
	asking.Wait()
}

// report has the moves of a question recorded, in one transaction. The lane is free for other questions meanwhile.
//
// Killed before the transaction ends, or told that it failed: the heads are read again, and the next answer brings what
// was not recorded. After it: the rollouts are queued, and nothing is owed.
func (m *Monitor) report(ctx context.Context, q *question) {
	m.found(q)
	m.describe(ctx, q)
	err := m.recorders.Acquire(ctx, 1)
	if err == nil {
		defer m.recorders.Release(1)
	}
	m.mu.Lock()
	m.release(q, m.now())
	if len(m.ready) > 0 {
		nudge(m.wake)
	}
	var all []store.Observation
	for i := range q.items {
		if !q.ends[i].moves() {
			continue
		}
		r := q.items[i].repository
		r.phase = recording
		if !r.gone { // it, and its group, are as they are now: Update waits for us from here on
			all = append(all, observations(r.config, r.group, q.ends[i].j.moves)...)
		}
	}
	m.mu.Unlock()

	if err == nil && len(all) > 0 {
		var outcomes []store.Outcome
		outcomes, err = m.options.Store.RecordChanges(ctx, all)
		m.log(outcomes)
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for i := range q.items {
		r, e := q.items[i].repository, &q.ends[i]
		if !e.moves() {
			continue
		}
		if err != nil {
			r.loaded, r.judged = false, false // it may have happened all the same: the store is asked where the heads are
			r.doubt(e.left)
		}
		switch {
		case err != nil && ctx.Err() != nil:
			m.rest(r, forever, ctx.Err())
		case err != nil:
			m.fail(r, unrecorded, fmt.Errorf("cannot record what moved: %w", err), now)
		default:
			m.accept(r, e, now)
		}
	}
}

// found tells of what moved before anything is done about it.
func (m *Monitor) found(q *question) {
	if !m.options.Log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	for i := range q.items {
		if !q.ends[i].moves() {
			continue
		}
		for _, v := range q.ends[i].j.moves {
			if v.kind == moved {
				m.options.Log.Debug("a head is found elsewhere", logger.KeyRepository, q.items[i].config.Name, logger.KeyBranch, v.branch, logger.KeyCommit, v.to)
			}
		}
	}
}

func observations(cfg *config.Repository, group *config.Group, moves []move) []store.Observation {
	out := make([]store.Observation, len(moves))
	for i, v := range moves {
		revision := v.revision
		revision.Commit = v.to
		out[i] = store.Observation{
			Watch:     sentry.Watch{Repository: cfg.Name, Branch: v.branch},
			Revision:  revision,
			Group:     group.Name,
			Queue:     group.Policy.Queue,
			Deploy:    v.kind == sighted && cfg.Monitor.OnFirstSeen == "deploy",
			Rewritten: v.rewritten,
			Why:       v.why,
		}
	}
	return out
}

// log tells of what was recorded.
func (m *Monitor) log(outcomes []store.Outcome) {
	for _, o := range outcomes {
		log := m.options.Log.With(logger.KeyRepository, o.Watch.Repository, logger.KeyBranch, o.Watch.Branch)
		switch c := o.Change; {
		case c != nil:
			log.Info("a head has moved", logger.KeyCommit, c.To, "from", c.From, logger.KeyRollout, o.Rollout)
		default:
			log.Debug("a head was recorded", "kind", o.Kind)
		}
	}
}

// loadAll reads the recorded heads of all repositories that lack theirs.
func (m *Monitor) loadAll(ctx context.Context) error {
	m.mu.Lock()
	list := m.order
	m.mu.Unlock()
	return m.load(ctx, list)
}

// load reads the recorded heads of those repositories of the list that lack theirs: all in one go where they are many.
func (m *Monitor) load(ctx context.Context, list []*repository) error {
	m.mu.Lock()
	missing := map[string]*repository{}
	patterns := map[string][]sentry.Pattern{}
	for _, r := range list {
		if !r.loaded {
			missing[r.config.Name] = r
			patterns[r.config.Name] = r.config.Monitor.Branches
		}
	}
	m.mu.Unlock()
	if len(missing) == 0 {
		return nil
	}
	var heads []sentry.Head
	var err error
	if len(missing) > few {
		heads, err = m.options.Store.Heads(ctx)
	} else {
		heads, err = m.options.Store.HeadsOf(ctx, slices.Sorted(maps.Keys(missing))...)
	}
	if err != nil {
		return fmt.Errorf("cannot read the recorded heads: %w", err)
	}
	known, err := sortOut(heads, patterns)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, r := range missing {
		r.heads, r.loaded = known[name], true
		r.live = countLive(r.heads)
	}
	return nil
}

// sortOut gives each repository its heads that match its patterns, in order, and equal names the same bytes: there are a
// hundred thousand of them and a few hundred names.
func sortOut(heads []sentry.Head, patterns map[string][]sentry.Pattern) (map[string][]head, error) {
	count := make(map[string]int, len(patterns))
	for i := range heads {
		count[heads[i].Repository]++
	}
	known := make(map[string][]head, len(patterns))
	for i := range heads {
		h := &heads[i]
		if !matches(patterns[h.Repository], h.Branch) {
			continue
		}
		commit, err := parseCommit(h.Commit)
		if err != nil {
			return nil, fmt.Errorf("the recorded head of %s is no commit: %w", h.Watch, err)
		}
		list := known[h.Repository]
		if list == nil {
			list = make([]head, 0, count[h.Repository])
		}
		known[h.Repository] = append(list, head{unique.Make(h.Branch).Value(), commit, h.Deleted})
	}
	for _, list := range known {
		slices.SortFunc(list, byBranch)
	}
	return known, nil
}
