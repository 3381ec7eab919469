package report

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"sentry/internal/config"
	"sentry/internal/logger"
	"sentry/internal/sentry"
	"sentry/internal/store"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

const (
	// settle is how long news of the store wait before they are looked at: a rollout's own writes go first, and what it
	// writes in one go is expanded in one transaction.
	settle = 100 * time.Millisecond
	// slowly is how often the service looks whether it was told anything or not: a lost wake-up costs this. The refused are
	// looked at as often: their token may have changed.
	slowly = time.Minute
	// ageEvery is how often what waits grows older: so much a process that is killed does not count.
	ageEvery = 5 * time.Minute
	// patience is how long a status is tried, of the time that Sentry runs.
	patience = 24 * time.Hour
	// linger is how long the end of Run waits for what can still be delivered.
	linger = 5 * time.Second
	// fullPause is how long a save waits where the disk has no room.
	fullPause = 5 * time.Second
	// batch is how many messages are expanded at once.
	batch = 256
)

// Store is what the service asks of the state. *store.Store is one.
type Store interface {
	Subscribe() (<-chan struct{}, func())
	Outbox(ctx context.Context, limit int) ([]store.Message, error)
	Rollout(ctx context.Context, id string) (sentry.Rollout, error)
	Deliveries(ctx context.Context, rollout string) ([]store.Delivery, error)
	Reported(ctx context.Context, group string, w sentry.Watch, commit string) (bool, error)
	Expand(ctx context.Context, letters ...store.Letter) (dropped int, err error)
	Lanes(ctx context.Context) ([]string, error)
	NextDeliveries(ctx context.Context, lane string, limit int) ([]store.Delivery, error)
	Arrived(ctx context.Context, id int64) error
	Failed(ctx context.Context, id int64, after time.Duration, reason string) error
	Supersede(ctx context.Context, id int64) error
	GiveUp(ctx context.Context, id int64, reason string) error
	Refuse(ctx context.Context, d store.Delivery, reason string) (told bool, err error)
	Revive(ctx context.Context, repository string, target sentry.Target) (int, error)
	Age(ctx context.Context, by, limit time.Duration) ([]store.Delivery, error)
}

// Publisher puts statuses on commits.
type Publisher interface {
	// SetStatus puts a status on a commit of one of the two repositories of r. It is called again with the same where nobody
	// knows whether it was done. Errors: a *sentry.Fault says what to do next. Unauthorized names the right that is missing,
	// and holds for the repository as a whole; NotFound and Invalid are about this status.
	SetStatus(ctx context.Context, r *config.Repository, target sentry.Target, s Status) error
}

// Status is what a commit is told.
type Status struct {
	Commit, Branch string
	State          sentry.State
	Context        string // its name: "sentry/GROUP"
	Description    string // at most 140 characters, as GitHub has it
	URL            string // of the rollout; "" where no public address is configured
}

// Options are what a Service needs. All fields without a stated default are required.
type Options struct {
	Store   Store
	Config  func() *config.Config // the configuration as it is now; never nil
	Publish Publisher
	Log     *slog.Logger
	// Register takes the metrics; nil where nobody looks at them.
	Register prometheus.Registerer
	// Jitter gives a random part of a duration, so that what failed together is not tried together. Default: any part.
	Jitter func(time.Duration) time.Duration
}

// Service delivers reports.
type Service struct {
	store   Store
	config  func() *config.Config
	publish Publisher
	log     *slog.Logger
	jitter  func(time.Duration) time.Duration
	names   laneNames
	counted *prometheus.CounterVec

	wake    chan struct{} // size one: the configuration has changed
	fatal   chan error    // size one: the state can no longer be read or saved
	closing chan struct{} // closed when Run is about to end: what is not due until then is left for the next start
	aged    time.Time     // up to when what waits has grown older; owned by Run
	end     time.Time     // when it ends at the latest; set before closing is closed

	mu       sync.Mutex
	lanes    map[string]*lane         // guarded by mu: those whose goroutine runs
	refusals map[destination]*refusal // guarded by mu

	running sync.WaitGroup // the goroutines of lanes
}

// New makes a Service. It does nothing until Run is called, which may be once.
func New(o Options) *Service {
	s := &Service{
		store: o.Store, config: o.Config, publish: o.Publish, log: o.Log, jitter: o.Jitter,
		wake: make(chan struct{}, 1), fatal: make(chan error, 1), closing: make(chan struct{}),
		lanes: map[string]*lane{}, refusals: map[destination]*refusal{},
		counted: promauto.With(o.Register).NewCounterVec(prometheus.CounterOpts{
			Name: "sentry_statuses_total", Help: "Tries to put a status on a commit, by what came of them: delivered, waiting (tried again later), given_up.",
		}, []string{"outcome"}),
	}
	if s.jitter == nil {
		s.jitter = func(most time.Duration) time.Duration { return rand.N(most) + 1 }
	}
	return s
}

// Wake tells the service that the configuration has changed.
func (s *Service) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run delivers until ctx ends. Then it expands what is left, gives what is due a few seconds, and leaves the rest for the
// next start. It returns an error where the state can no longer be read or saved; a forge never ends it.
func (s *Service) Run(ctx context.Context) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer s.running.Wait()
	defer stop()
	// Whatever it is at then, a few seconds after it was told to end it does.
	defer context.AfterFunc(ctx, func() { time.AfterFunc(linger, stop) })()

	err := s.serve(ctx, work)
	if err == nil {
		err = s.finish(work)
	}
	switch {
	case err != nil && work.Err() != nil:
		s.log.Warn("not all that could be reported was; the next start does", logger.KeyError, err)
		return nil
	case err != nil:
		return fmt.Errorf("cannot report: %w", err)
	}
	return nil
}

// serve delivers until ctx ends; what it does in between ends with work only.
func (s *Service) serve(ctx, work context.Context) error {
	changed, unsubscribe := s.store.Subscribe()
	defer unsubscribe()
	tick := time.NewTicker(slowly)
	defer tick.Stop()
	s.aged = time.Now()
	// A start is a chance: rights may have been granted meanwhile.
	err := s.persist(work, func(ctx context.Context) error {
		_, err := s.store.Revive(ctx, "", "")
		return err
	})
	for err == nil {
		if err = s.dispatch(work); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			select {
			case <-time.After(settle):
			case <-ctx.Done():
			}
		case <-s.wake:
			err = s.reconsider(work)
		case <-tick.C:
			if err = s.reconsider(work); err == nil && time.Since(s.aged) >= ageEvery {
				err = s.age(work)
			}
		case err = <-s.fatal:
		}
	}
	return err
}

// finish delivers what can be delivered in a few seconds.
func (s *Service) finish(work context.Context) error {
	err := s.dispatch(work)
	s.end = time.Now().Add(linger)
	close(s.closing)
	s.running.Wait()
	if err == nil {
		err = s.age(work)
	}
	select {
	case failed := <-s.fatal:
		err = errors.Join(err, failed)
	default:
	}
	return err
}

// dispatch expands what is in the outbox, and sees to it that every lane in which something waits is looked after.
func (s *Service) dispatch(ctx context.Context) error {
	for more := true; more; {
		var err error
		if more, err = s.expand(ctx); err != nil {
			return err
		}
	}
	waiting, err := s.store.Lanes(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range waiting {
		if l := s.lanes[name]; l != nil {
			l.nudge()
			continue
		}
		l := &lane{service: s, name: name, wake: make(chan struct{}, 1), moments: map[int64]moment{}}
		s.lanes[name] = l
		s.running.Go(func() { l.run(ctx) })
	}
	return nil
}

// age lets what waits grow older, and tells of what that ends.
func (s *Service) age(ctx context.Context) error {
	by := time.Since(s.aged)
	s.aged = time.Now()
	var old []store.Delivery
	err := s.persist(ctx, func(ctx context.Context) (err error) {
		old, err = s.store.Age(ctx, by, patience)
		return err
	})
	for _, d := range old {
		s.count(sentry.GivenUp)
		s.logOf(d).Warn("a status is given up", logger.KeyError, fmt.Sprintf("not delivered in %s: %s", patience, d.Error))
	}
	return err
}

// persist saves something. A full disk is waited for: what was delivered would be delivered again otherwise. It gives up
// with ctx, but does not end a save in the middle.
func (s *Service) persist(ctx context.Context, save func(context.Context) error) error {
	for {
		err := save(context.WithoutCancel(ctx))
		if !errors.Is(err, store.ErrDiskFull) {
			return err
		}
		s.log.Error("cannot save what was reported; trying again", logger.KeyError, err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(fullPause):
		}
	}
}

// count counts what came of a try.
func (s *Service) count(f sentry.Fate) { s.counted.WithLabelValues(string(f)).Inc() }

// fail ends Run with an error.
func (s *Service) fail(err error) {
	select {
	case s.fatal <- err:
	default:
	}
}

func (s *Service) logOf(d store.Delivery) *slog.Logger {
	return s.log.With(logger.KeyGroup, d.Group, logger.KeyRollout, d.Rollout, logger.KeyRepository, d.Repository, logger.KeyCommit, d.Commit,
		"target", d.Target, "state", d.State)
}
