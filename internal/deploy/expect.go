package deploy

import (
	"time"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// A tree is pinned to what its QA branch is when its deployment begins. Asking for that takes as long as all the rest, so
// it is asked for ahead, beside whatever has to be saved first. An answer counts only if its question began after that
// had happened which lets the deployment begin:
//
//   - a change was found, or a person asked; of several the last
//   - the quiet period was over, the group was resumed, a rollout before this one had ended
//   - a deployment of the same rollout had ended, for one that waits for its turn or a place
//
// So whoever pushes to the QA branch and then does what starts a deployment gets what was pushed, and so does a deployment
// from those before it. What is pushed after that may be in the tree or not, as always.

// hint is a change that was found, at a moment when nothing kept its group from rolling out.
type hint struct {
	watch  sentry.Watch
	commit string
	at     time.Time
}

// hintTime is how long a change may take from being found to its rollout for what was asked meanwhile to count. It keeps
// the pin as near to the beginning of the deployment as a person could tell.
const hintTime = time.Second

// Expect tells that a branch was found at another commit, before that is recorded. If its group would roll out at once,
// what the rollout will need to know is asked for at once. Nothing is decided by it: it may be left out, or be wrong.
func (s *Service) Expect(w sentry.Watch, commit string) {
	cfg := s.config()
	repo, ok := cfg.Repository(w.Repository)
	if !ok {
		return
	}
	group, ok := cfg.Group(repo.Group)
	members := cfg.Members(repo.Group)
	if !ok || group.QuietPeriod > 0 || s.groups != nil && !s.groups[group.Name] || s.busy(group.Name, members) {
		return
	}
	now := time.Now()
	if !s.note(group.Name, hint{w, commit, now}) {
		return
	}
	if group.Policy.Scope == sentry.ScopeChanged {
		s.prepare(cfg, repo, now)
		return
	}
	for _, member := range members[:min(len(members), group.Policy.Limit())] {
		s.prepare(cfg, member, now)
	}
}

// prepare tells the executor of an attempt that is likely, where it is to be here: the runner of a Job asks for itself.
func (s *Service) prepare(cfg *config.Config, r *config.Repository, since time.Time) {
	if cfg.ExecutorOf(r) != config.ExecutorKubernetes {
		s.executor.Expect(r, since)
	}
}

// note keeps a hint, and reports whether it is of use: in a paused group nothing begins before it is resumed, and many moves
// at once are not many questions.
func (s *Service) note(group string, h hint) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, again := s.hints[group]; s.paused[group] || again && h.at.Sub(last.at) < hintTime {
		return false
	}
	s.hints[group] = h
	return true
}

// since gives the earliest moment at which what a rollout is made of may have been asked for. That is the look which
// found that nothing holds the rollout up, or the end of a rollout since that look. Where it is the first look at the
// rollout, and its only change was told by Expect, nothing has ever held it up: then it is when the change was found.
func (s *Service) since(w store.Waiting, look time.Time, first bool) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, told := s.hints[w.Rollout.Group]
	delete(s.hints, w.Rollout.Group)
	changes := w.Rollout.Trigger.Changes
	told = told && first && !w.Urgent && len(changes) == 1 && changes[0].Watch == h.watch && changes[0].To == h.commit
	if told && look.Sub(h.at) <= hintTime {
		return h.at
	}
	if s.ended.After(look) {
		return s.ended
	}
	return look
}

// expect tells the executor which deployments of a plan will begin at once.
func (s *Service) expect(cfg *config.Config, plan store.Plan, since time.Time) {
	told := map[string]bool{}
	for _, d := range plan.Deployments {
		if len(told) == plan.Policy.Limit() {
			return
		}
		if repo, ok := cfg.Repository(d.Repository); ok && !told[d.Repository] && d.Commit != "" {
			told[d.Repository] = true
			s.prepare(cfg, repo, since)
		}
	}
}
