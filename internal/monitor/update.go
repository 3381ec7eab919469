package monitor

import (
	"context"
	"maps"
	"slices"
	"time"

	"sentry/internal/config"
	"sentry/internal/sentry"
)

// Update makes cfg what is watched, in one step. Repositories that are new are due now, and so are those whose address,
// branches, group, lane or access have changed; all others keep their schedule and what is known of them. When it returns,
// nothing is recorded any more that was asked or grouped by the former configuration: for that it waits until the
// recordings that have begun are over.
//
// The heads of a watch that is no longer configured stay in the store. A new address keeps the heads as well: at the same
// commit nothing has happened, at another the head has moved.
func (m *Monitor) Update(cfg *config.Config) {
	_ = m.recorders.Acquire(context.Background(), maxRecording) // cannot fail: the context does not end
	defer m.recorders.Release(maxRecording)
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()

	groups := make(map[string]*config.Group, len(cfg.Groups))
	for i := range cfg.Groups {
		groups[cfg.Groups[i].Name] = &cfg.Groups[i]
	}
	former := m.repositories
	m.repositories = make(map[string]*repository, len(cfg.Repositories))
	m.order = make([]*repository, 0, len(cfg.Repositories))
	var due []*repository
	for i := range cfg.Repositories {
		c := &cfg.Repositories[i]
		r, to := former[c.Name], m.options.Ask.Lane(c)
		if r != nil && sameWatches(r.config, c) && r.lane.key == to.Key {
			m.keepOn(r, c, groups[c.Group], now)
			delete(former, c.Name)
		} else {
			r = newRepository(c, groups[c.Group])
			if old := former[c.Name]; old != nil {
				r.inherit(old)
			}
			due = append(due, r)
		}
		r.lane = m.lane(to, c.Monitor.Remote.Origin(), now)
		m.repositories[c.Name] = r
		m.order = append(m.order, r)
	}
	for _, r := range former {
		m.drop(r)
	}
	m.settleLanes()
	if m.running {
		m.plan(due, now)
	}
}

// sameWatches reports whether what is known of a repository, and what is being asked, holds for another configuration.
func sameWatches(a, b *config.Repository) bool {
	return a.Monitor.Remote == b.Monitor.Remote && a.Group == b.Group && samePatterns(a.Monitor.Branches, b.Monitor.Branches)
}

func samePatterns(a, b []sentry.Pattern) bool {
	return slices.EqualFunc(a, b, func(a, b sentry.Pattern) bool { return a.String() == b.String() })
}

// sameAccess reports whether a repository is asked in the same way. A token file that changes is read again by itself.
func sameAccess(a, b *config.Monitor) bool {
	return a.Type == b.Type && a.APIURL == b.APIURL && a.Auth.Username == b.Auth.Username && a.Auth.Token == b.Auth.Token &&
		a.Auth.TokenFile == b.Auth.TokenFile && sameApp(a.Auth.App, b.Auth.App) && a.Auth.SSHKeyFile == b.Auth.SSHKeyFile && a.Auth.KnownHostsFile == b.Auth.KnownHostsFile
}

func sameApp(a, b *config.App) bool { return a == b || a != nil && b != nil && *a == *b }

// keepOn gives a repository its new configuration, which watches the same.
func (m *Monitor) keepOn(r *repository, c *config.Repository, g *config.Group, now time.Duration) {
	access := !sameAccess(&r.config.Monitor, &c.Monitor)
	interval := r.config.Monitor.Interval != c.Monitor.Interval
	r.config, r.group = c, g
	if access {
		r.notAgain = never
	}
	switch {
	case r.phase == asking || r.phase == recording:
		r.hinted = r.hinted || access
	case r.phase != scheduled || !m.running:
	case access:
		r.due = now
		m.schedule(r, now)
	case interval:
		next := now + usual(r.interval(), now-r.changed, r.polls, m.options.Rand.Float64())
		r.due = min(r.due, max(next, r.notAgain))
		m.schedule(r, now)
	}
}

// inherit takes over what still holds of a repository of the same name that watched something else.
func (r *repository) inherit(old *repository) {
	patterns := r.config.Monitor.Branches
	for _, h := range old.heads {
		if matches(patterns, h.branch) {
			r.heads = append(r.heads, h)
		}
	}
	r.live = countLive(r.heads)
	// Under other patterns the store may know branches that were not watched of late.
	r.loaded = old.loaded && samePatterns(old.config.Monitor.Branches, patterns)
	if old.config.Monitor.Remote == r.config.Monitor.Remote {
		r.trouble, r.failures, r.failing = old.trouble, old.failures, old.failing
		r.asked, r.answered, r.absent = old.asked, old.answered, old.absent
	}
	r.changed, r.polls, r.way = old.changed, old.polls, old.way
}

// drop forgets a repository. A question that is out is let go on; its answer is thrown away.
func (m *Monitor) drop(r *repository) {
	r.alarm.leave()
	m.cool(r)
	r.gone = true
	if r.phase != asking && r.phase != recording {
		m.rest(r, forever, errReplaced)
	}
}

// lane gives the lane that the asker means for a repository of an origin.
func (m *Monitor) lane(to Lane, origin string, now time.Duration) *lane {
	l := m.lanes[to.Key]
	if l == nil {
		l = newLane(to.Key)
		m.lanes[to.Key] = l
		if l.allowance = m.allowances[origin]; l.allowance == nil {
			l.allowance = &allowance{left: hotSaved, at: now}
			m.allowances[origin] = l.allowance
		}
	}
	l.are(to)
	return l
}

// settleLanes gives the lanes their breakers; those that nobody needs are forgotten.
func (m *Monitor) settleLanes() {
	for _, l := range m.lanes {
		l.members = 0
	}
	shortest := map[*lane]time.Duration{}
	for _, r := range m.order {
		r.lane.members++
		if s, ok := shortest[r.lane]; !ok || r.interval() < s {
			shortest[r.lane] = r.interval()
		}
	}
	for key, l := range m.lanes {
		switch {
		case l.members > 0:
			l.setOpenFor(openFor(shortest[l]), m.options.Failures)
		case l.active == 0:
			l.wake.leave()
			delete(m.lanes, key)
		}
	}
	for _, a := range m.allowances {
		a.lanes = 0
	}
	for _, l := range m.lanes {
		l.allowance.lanes++
	}
	maps.DeleteFunc(m.allowances, func(_ string, a *allowance) bool { return a.lanes == 0 })
}
