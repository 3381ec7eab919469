package monitor

import (
	"maps"
	"slices"
	"time"
)

// The functions of this file are called with Monitor.mu held, but for Warm.

// heat is why a repository is hot: asked as often as every few hundredths of a second, for a while. Something is said to
// have moved, or its group is being rolled out; or it has come, and more may follow.
type heat struct {
	repository *repository
	since      time.Duration // when it last became so; hotLater before that where it is what remains of it
	took       time.Duration // the last question about it while it was
	hinted     bool          // something is said to have moved, and has not come yet
}

// allowance bounds the time that hot questions take of one server: what is not used is saved, up to hotSaved. It is what
// the lanes of an origin share.
type allowance struct {
	left  time.Duration // at the moment at; below 0 while more was taken than there was
	at    time.Duration
	lanes int
}

// now gives what is left.
func (a *allowance) now(now time.Duration) time.Duration {
	a.left = min(hotSaved, a.left+(now-a.at)/hotShare)
	a.at = now
	return a.left
}

// take notes that a hot question has taken its time.
func (a *allowance) take(took, now time.Duration) { a.left = a.now(now) - took }

// charge notes how long a hot question took the other side.
func (q *question) charge(took, now time.Duration) {
	q.lane.allowance.take(took, now)
	if h := q.items[0].heat; h != nil {
		h.took = took
	}
}

// Warm says of which groups a rollout is running: their repositories are hot as long as it does, and simmer after it.
func (m *Monitor) Warm(groups map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	former := m.warm
	m.warm = maps.Clone(groups)
	maps.DeleteFunc(m.warm, func(_ string, running bool) bool { return !running })
	begun := false
	for g := range m.warm {
		begun = begun || !former[g]
	}
	if !m.running {
		return
	}
	now := m.now()
	for _, h := range m.hot {
		if g := h.repository.group.Name; former[g] && !m.warm[g] && !h.hinted {
			m.simmer(h.repository, now)
		}
	}
	if !begun {
		return
	}
	for _, r := range m.order {
		if g := r.group.Name; m.warm[g] && !former[g] && r.phase != resting {
			m.heatUp(r, now)
			if r.phase == scheduled {
				m.schedule(r, now)
			}
		}
	}
}

// heatUp makes a repository hot, in the place of the one that has been so for longest where there are many. since is now,
// or before where it is not to be so hot any more.
func (m *Monitor) heatUp(r *repository, since time.Duration) {
	if h := r.heat; h != nil {
		h.since = since
		return
	}
	if len(m.hot) >= maxHot {
		oldest := slices.MinFunc(m.hot, func(a, b *heat) int { return int(a.since - b.since) })
		if oldest.since >= since {
			return // all of them became so just now
		}
		m.cool(oldest.repository)
	}
	r.heat = &heat{repository: r, since: since}
	m.hot = append(m.hot, r.heat)
}

// simmer is for a repository in which has come what might: it is as hot as one from which nothing has come for hotLater. What
// is left of the server's time is for the next one of which something is said.
func (m *Monitor) simmer(r *repository, now time.Duration) {
	if r.heat != nil {
		if r.heat.hinted = false; m.warm[r.group.Name] {
			return
		}
	}
	m.heatUp(r, now-hotLater)
}

// cool ends it. What is planned for a repository stays so.
func (m *Monitor) cool(r *repository) {
	if r.heat == nil {
		return
	}
	i := slices.Index(m.hot, r.heat)
	m.hot = slices.Delete(m.hot, i, i+1)
	r.heat = nil
}

// hotMoment is when a repository may be asked because it is hot, or because of a hint; forever where it is not to be. A
// lane that is not known to be well is spared.
func (m *Monitor) hotMoment(r *repository, now time.Duration) time.Duration {
	if h := r.heat; h != nil && now-h.since > hotSpan && !m.warm[r.group.Name] {
		m.cool(r)
	}
	if r.heat == nil && !r.fresh || !m.running || !r.lane.well() {
		return forever
	}
	age, took := time.Duration(0), time.Duration(0)
	if h := r.heat; h != nil {
		age, took = now-h.since, h.took
	}
	left := r.lane.allowance.now(now)
	if left <= 0 {
		return now + (hotLeast-left)*hotShare
	}
	return max(now, r.notAgain, r.lane.quiet, r.asked+hotWait(age, took, left))
}

// spare takes a repository that is due only because it is hot off the queue, and plans it as if it were not.
func (m *Monitor) spare(r *repository, now time.Duration) {
	r.alarm.leave()
	r.hastened = false
	if r.due <= now {
		r.alarm.at = r.due
		m.enqueue(r, now)
		return
	}
	m.setAlarm(r, r.due)
}
