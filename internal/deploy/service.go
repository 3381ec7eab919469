package deploy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"sentry/internal/config"
	"sentry/internal/logger"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// Store is what the service asks of the state. *store.Store is one.
type Store interface {
	Subscribe() (<-chan struct{}, func())
	Pending(ctx context.Context) ([]store.Waiting, error)
	Paused(ctx context.Context) (map[string]store.Pause, error)
	HeadsOf(ctx context.Context, repositories ...string) ([]sentry.Head, error)
	Later(ctx context.Context, group, rolloutID string) ([]sentry.Change, error)
	Claim(ctx context.Context, id string, version int64, p store.Plan) (sentry.Rollout, error)
	Left(ctx context.Context) ([]sentry.Rollout, error)
	TakeOver(ctx context.Context, id string, interrupted bool) (sentry.Rollout, error)
	SaveDeployment(ctx context.Context, d sentry.Deployment) error
	Finish(ctx context.Context, id string, st sentry.Status, reason string) error
	Cancel(ctx context.Context, id, by, reason string) (sentry.Status, error)
	Rollout(ctx context.Context, id string) (sentry.Rollout, error)
	Decide(ctx context.Context, decisions ...sentry.Decision) error
	Dropped(ctx context.Context) ([]sentry.Change, error)
	TakeBack(ctx context.Context, returns []store.Return) error
	HandOver(ctx context.Context, id string, version int64, strays []store.Stray) error
}

// Options are what a Service needs. All fields without a stated default are required.
type Options struct {
	Store    Store
	Executor Executor
	Config   func() *config.Config // the configuration as it is now; never nil
	Log      *slog.Logger
	// Groups limits the service to these groups (a trigger in the foreground); nil for all.
	Groups []string
	// Now is the wall clock, for display only: nothing is decided by it. Default time.Now.
	Now func() time.Time
}

// Service claims and carries out rollouts.
type Service struct {
	store    Store
	executor Executor
	config   func() *config.Config
	log      *slog.Logger
	groups   map[string]bool
	now      func() time.Time

	mu     sync.Mutex
	active map[string]*active // by group
	ended  time.Time          // when the last rollout ended
	hints  map[string]hint    // by group
	paused map[string]bool    // groups that were paused at the last look

	runs sync.WaitGroup
	// waiting tells since when this process has known a pending rollout: the quiet period counts from there, on the
	// monotonic clock. Owned by Once.
	waiting map[string]time.Time
	// settled is the configuration in which what was dropped before was looked for last. Owned by Once.
	settled *config.Config
	wake    chan struct{} // size one: a run ended, or somebody called Wake
	// stopping is closed when what runs is to end: the end of a context of theirs may have another cause, and come before.
	stopping chan struct{}
	stop     func()     // closes it, once
	fatal    chan error // size one: the state can no longer be saved
}

// active is a rollout that is being carried out, or is about to be: whoever cancels it finds it here from before it runs.
type active struct {
	id     string
	cancel context.CancelCauseFunc
	// repositories have a deployment in it, whatever group they are in by now.
	repositories map[string]bool
}

// New makes a Service. It does nothing until Recover, Once or Run is called.
func New(o Options) *Service {
	s := &Service{
		store: o.Store, executor: o.Executor, config: o.Config, log: o.Log, now: o.Now,
		active: map[string]*active{}, hints: map[string]hint{}, waiting: map[string]time.Time{},
		wake: make(chan struct{}, 1), fatal: make(chan error, 1),
	}
	s.stopping = make(chan struct{})
	s.stop = sync.OnceFunc(func() { close(s.stopping) })
	if s.now == nil {
		s.now = time.Now
	}
	if o.Groups != nil {
		s.groups = map[string]bool{}
		for _, g := range o.Groups {
			s.groups[g] = true
		}
	}
	return s
}

// Run recovers what an earlier process left, then claims and carries out rollouts until ctx ends. Then it drains: it
// claims nothing more, gives what runs the grace period of the configuration, interrupts the rest, and returns when
// nothing runs any more. It returns an error where the state can no longer be read or saved.
func (s *Service) Run(ctx context.Context) error {
	changed, unsubscribe := s.store.Subscribe()
	defer unsubscribe()
	err := s.Recover()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for err == nil {
		select {
		case <-ctx.Done():
			s.Drain(s.config().Global.Grace)
			return s.lost()
		case err = <-s.fatal:
			continue
		case <-changed: // something was saved: a change was recorded, a person asked
		case <-s.wake:
		case <-timer.C:
		}
		var next time.Duration
		if next, err = s.Once(ctx); next > 0 {
			timer.Reset(next)
		}
		if ctx.Err() != nil {
			err = nil // it was told to stop in the middle of it, whatever the cause is called: what runs is to drain
		}
	}
	s.Drain(0)
	return errors.Join(err, s.lost())
}

func (s *Service) lost() error {
	select {
	case err := <-s.fatal:
		return err
	default:
		return nil
	}
}

// fullPause is how long a rollout waits where the disk has no room for its beginning.
const fullPause = 5 * time.Second

// slowly is how long Run waits at most before it looks again, whatever it was told: a lost wake-up costs this.
const slowly = time.Minute

// Once claims every rollout that may begin now, lets them run in the background, and tells after how long it should be
// called again at the latest.
func (s *Service) Once(ctx context.Context) (time.Duration, error) {
	pending, err := s.store.Pending(ctx)
	if err != nil {
		return 0, fmt.Errorf("cannot read the waiting rollouts: %w", err)
	}
	paused, err := s.store.Paused(ctx)
	if err != nil {
		return 0, fmt.Errorf("cannot read the paused groups: %w", err)
	}
	s.holds(paused)
	look := time.Now() // what lets a rollout begin now had happened by now
	cfg := s.config()
	next := slowly
	switch err := s.takeBack(ctx, cfg); {
	case errors.Is(err, store.ErrDiskFull):
		s.log.Error("cannot queue what is watched again", logger.KeyError, err)
		next = fullPause
	case err != nil:
		return 0, fmt.Errorf("cannot queue what is watched again: %w", err)
	}
	seen := make(map[string]time.Time, len(pending))
	oldest := map[string]bool{}
	for _, w := range pending {
		id, group := w.Rollout.ID, w.Rollout.Group
		since, known := s.waiting[id]
		if !known {
			since = look
		}
		seen[id] = since
		if s.groups != nil && !s.groups[group] {
			continue
		}
		// A group that is not configured any more only hands its changes over, paused or not.
		if _, is := paused[group]; is {
			if _, configured := cfg.Group(group); configured {
				wait, err := s.handOver(ctx, cfg, w)
				if err != nil {
					return 0, err
				}
				next = min(next, wait)
				continue
			}
		}
		// Rollouts of a group run in order, one at a time. Only the oldest is looked at, once: a group that becomes idle
		// while this loop goes on must not let a younger one pass.
		if oldest[group] {
			continue
		}
		oldest[group] = true
		if s.busy(group, cfg.Members(group)) {
			continue
		}
		if g, ok := cfg.Group(group); ok && !w.Urgent {
			if wait := g.QuietPeriod - look.Sub(since); wait > 0 {
				next = min(next, wait)
				continue
			}
		}
		switch err := s.begin(ctx, cfg, w, s.since(w, look, !known)); {
		case errors.Is(err, store.ErrStale), errors.Is(err, store.ErrFinal):
			next = 1 // a change joined meanwhile, or somebody canceled it: look again
		case errors.Is(err, store.ErrBusy):
			next = min(next, time.Second)
		case errors.Is(err, store.ErrDiskFull):
			// It stays queued. Heads go on being asked for, and it begins when there is room again.
			s.log.Error("cannot begin a rollout", logger.KeyGroup, group, logger.KeyRollout, id, logger.KeyError, err)
			next = min(next, fullPause)
		case err != nil && ctx.Err() == nil:
			return 0, fmt.Errorf("cannot begin rollout %s of group %s: %w", id, group, err)
		}
	}
	s.waiting = seen
	return next, nil
}

// holds takes note of the groups that are paused.
func (s *Service) holds(paused map[string]store.Pause) {
	groups := make(map[string]bool, len(paused))
	for group := range paused {
		groups[group] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = groups
}

// handOver lets what a rollout of a paused group has for repositories that are in other groups by now go there, and tells
// after how long to look again at the latest.
func (s *Service) handOver(ctx context.Context, cfg *config.Config, w store.Waiting) (time.Duration, error) {
	moved := movedOut(cfg, w.Rollout)
	if len(moved) == 0 {
		return slowly, nil
	}
	switch err := s.store.HandOver(ctx, w.Rollout.ID, w.Version, moved); {
	case errors.Is(err, store.ErrStale), errors.Is(err, store.ErrFinal):
		return 1, nil // a change joined meanwhile, or somebody canceled it
	case errors.Is(err, store.ErrDiskFull):
		s.log.Error("cannot hand over what belongs to another group", logger.KeyRollout, w.Rollout.ID, logger.KeyError, err)
		return fullPause, nil
	case err != nil:
		return 0, fmt.Errorf("cannot hand over what rollout %s of group %s has for others: %w", w.Rollout.ID, w.Rollout.Group, err)
	}
	return slowly, nil
}

// takeBack queues changes that were dropped while nothing watched their branches, and whose branches are watched again. It
// looks for them once for each configuration: only that of Once, which is never older than this one, drops any.
func (s *Service) takeBack(ctx context.Context, cfg *config.Config) error {
	if s.settled == cfg {
		return nil
	}
	dropped, err := s.store.Dropped(ctx)
	if err != nil {
		return err
	}
	var returns []store.Return
	for _, c := range dropped {
		repo, ok := cfg.Repository(c.Repository)
		if !ok || !watches(repo, c.Branch) || s.groups != nil && !s.groups[repo.Group] {
			continue
		}
		if g, ok := cfg.Group(repo.Group); ok {
			returns = append(returns, store.Return{Change: c, Group: g.Name, Queue: g.Policy.Queue})
		}
	}
	if len(returns) > 0 {
		if err := s.store.TakeBack(ctx, returns); err != nil {
			return err
		}
	}
	s.settled = cfg
	return nil
}

// begin plans and claims one rollout and lets it run. What it is made of may have been asked for since.
func (s *Service) begin(ctx context.Context, cfg *config.Config, w store.Waiting, since time.Time) error {
	group := w.Rollout.Group
	var names []string
	for _, m := range cfg.Members(group) {
		names = append(names, m.Name)
	}
	var heads []sentry.Head
	if len(names) > 0 {
		var err error
		if heads, err = s.store.HeadsOf(ctx, names...); err != nil {
			return err
		}
	}
	later, err := s.store.Later(ctx, group, w.Rollout.ID)
	if err != nil {
		return err
	}
	plan := Plan(Facts{Config: cfg, Rollout: w.Rollout, Heads: heads, Later: later})
	s.expect(cfg, plan, since)
	work, a := s.enlist(group, w.Rollout.ID, plan.Deployments)
	claimed, err := s.store.Claim(ctx, w.Rollout.ID, w.Version, plan)
	if err != nil {
		s.dismiss(group, a)
		return err
	}
	// From here the rollout is ours on disk. A crash leaves it running under a dead owner, and recovery takes it over.
	if claimed.Status.Terminal() {
		s.dismiss(group, a)
		s.log.Info("rollout ended", logger.KeyGroup, group, logger.KeyRollout, claimed.ID, "status", claimed.Status, "reason", claimed.Reason)
		s.Wake()
		return nil
	}
	s.log.Info("rollout begins", logger.KeyGroup, group, logger.KeyRollout, claimed.ID, "deployments", len(claimed.Deployments), "trigger", w.Rollout.Trigger.Summary())
	s.launch(work, a, cfg, claimed, nil, since)
	return nil
}

// enlist makes it known that a rollout is about to be carried out, and gives the context for that. It is not the
// caller's: a daemon that stops lets it drain. What is enlisted must be dismissed, or launched.
func (s *Service) enlist(group, id string, deployments []sentry.Deployment) (context.Context, *active) {
	ctx, cancel := context.WithCancelCause(context.Background())
	a := &active{id, cancel, map[string]bool{}}
	for _, d := range deployments {
		a.repositories[d.Repository] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active[group] = a
	return ctx, a
}

// dismiss makes it known that a rollout is not carried out any more.
func (s *Service) dismiss(group string, a *active) {
	a.cancel(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.active, group)
	s.ended = time.Now()
}

// launch carries a rollout that is ours out in the background; over is why it only ends, or nil.
func (s *Service) launch(ctx context.Context, a *active, cfg *config.Config, rollout sentry.Rollout, over *ending, since time.Time) {
	s.runs.Go(func() {
		r := &run{service: s, config: cfg, rollout: rollout, over: over, since: since}
		err := r.carryOut(ctx)
		if err == nil {
			s.logRollout(r.rollout)
		}
		s.dismiss(rollout.Group, a)
		if err != nil && !errors.Is(err, errShutdown) {
			select {
			case s.fatal <- fmt.Errorf("rollout %s: %w", rollout.ID, err):
			default:
			}
		}
		s.Wake()
	})
}

// Wake makes Run look again soon.
func (s *Service) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Cancel cancels a rollout that waits or runs. It returns when the wish is durable, not when the rollout has ended.
func (s *Service) Cancel(ctx context.Context, id, by, reason string) (sentry.Status, error) {
	rollout, err := s.store.Rollout(ctx, id)
	if err != nil {
		return "", err
	}
	status, err := s.store.Cancel(ctx, rollout.ID, by, reason)
	if err != nil {
		return status, err
	}
	// A crash here is harmless: recovery finds the wish and ends the rollout as canceled.
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.active {
		if a.id == rollout.ID {
			a.cancel(&canceledError{by, reason})
		}
	}
	return status, nil
}

// Drain waits for what runs, at most for the grace period; then it interrupts it, and waits until it has ended.
func (s *Service) Drain(grace time.Duration) {
	ended := make(chan struct{})
	go func() { s.runs.Wait(); close(ended) }()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-ended:
		return
	case <-timer.C:
	}
	s.mu.Lock()
	for _, a := range s.active {
		a.cancel(errShutdown)
	}
	s.mu.Unlock()
	s.stop()
	<-ended
}

// Wait returns when nothing runs any more.
func (s *Service) Wait() { s.runs.Wait() }

// busy reports whether a group has a rollout running, or one of its members a part in that of another group: a reload
// may have moved it here, and two deployments of one repository never run at once, nor an older head after a newer one.
func (s *Service) busy(group string, members []*config.Repository) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active[group] != nil {
		return true
	}
	for _, a := range s.active {
		for _, m := range members {
			if a.repositories[m.Name] {
				return true
			}
		}
	}
	return false
}

// logRollout tells of a rollout that has ended.
func (s *Service) logRollout(r sentry.Rollout) {
	if r.Status.Terminal() {
		s.logEnd(s.log.With(logger.KeyGroup, r.Group, logger.KeyRollout, r.ID), "rollout", r.Status, r.Reason, s.now().Sub(r.StartedAt))
	}
}

func (s *Service) logEnd(log *slog.Logger, what string, status sentry.Status, reason string, took time.Duration) {
	level := slog.LevelInfo
	switch status {
	case sentry.Failed, sentry.TimedOut, sentry.Interrupted:
		level = slog.LevelWarn
	}
	log.Log(context.Background(), level, what+" ended", "status", status, "reason", reason, "took", took.Round(time.Millisecond).String())
}
