package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"sentry/internal/sentry"
)

// note is a decision that a test can find again.
func note(text string) sentry.Decision {
	return sentry.Decision{Verb: sentry.Answering, Reason: text}
}

// notes gives the texts of what note has made.
func notes(t testing.TB, s *Store) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, d := range must(s.Why(context.Background(), WhyFilter{Limit: 100_000}))(t) {
		found[d.Reason] = true
	}
	return found
}

// blocked keeps the writer busy until the function that it returns is called.
func blocked(t *testing.T, s *Store) (release func()) {
	t.Helper()
	began, gate, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- s.write(context.Background(), func(*tx) error { close(began); <-gate; return nil })
	}()
	<-began
	return func() {
		t.Helper()
		close(gate)
		noError(t, <-done)
	}
}

// queued waits until n closures wait for the writer.
func queued(t *testing.T, s *Store, n int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		s.writer.mu.Lock()
		waits := len(s.writer.queue)
		s.writer.mu.Unlock()
		if waits == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d wait, want %d", waits, n)
		}
	}
}

// TestGroupCommit: what waits shares transactions; who fails is undone alone, and everybody gets his own answer.
func TestGroupCommit(t *testing.T) {
	defer goleak.VerifyNone(t)
	dir := t.TempDir()
	s := openDir(t, dir)
	const callers = 1000
	news, stop := s.Subscribe()
	defer stop()
	var commits atomic.Int64
	s.writer.conn.CommitHook(func() bool { commits.Add(1); return true })
	mistake := errors.New("mistake")
	release := blocked(t, s)
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			err := s.write(context.Background(), func(tx *tx) error {
				if err := tx.decide(note(fmt.Sprint(i))); err != nil {
					return err
				}
				if i%10 == 0 {
					return fmt.Errorf("caller %d: %w", i, mistake)
				}
				return nil
			})
			if i%10 == 0 && (!errors.Is(err, mistake) || err.Error() != fmt.Sprintf("caller %d: mistake", i)) || i%10 != 0 && err != nil {
				t.Errorf("caller %d got %v", i, err)
			}
		})
	}
	queued(t, s, callers)
	release()
	all.Wait()
	<-news
	if n, want := commits.Load(), int64(callers/batchLimit+2); n < 1 || n > want {
		t.Errorf("%d writes took %d commits, want at most %d", callers, n, want)
	}
	s.writer.conn.CommitHook(nil)
	found := notes(t, s)
	for i := range callers {
		if found[fmt.Sprint(i)] != (i%10 != 0) {
			t.Errorf("of caller %d is recorded: %t", i, found[fmt.Sprint(i)])
		}
	}
	closed(t, s)
}

// TestConcurrent: many callers of all kinds at once lose nothing. It is for the race detector.
func TestConcurrent(t *testing.T) {
	s := openWith(t, Options{Dir: t.TempDir(), checkpoint: 8})
	var all sync.WaitGroup
	for i := range 8 {
		group := fmt.Sprint("group", i)
		all.Go(func() {
			for n := range 20 {
				record(t, s, see(group, commitOf(n)).in(group))
			}
		})
		all.Go(func() {
			for range 20 {
				must2(s.Request(t.Context(), Request{Group: group, By: "x"}))(t)
				if _, err := s.Heads(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() {
			for range 10 {
				for _, w := range must(s.Pending(t.Context()))(t) {
					if w.Rollout.Group != group {
						continue
					}
					r, err := s.Claim(t.Context(), w.Rollout.ID, w.Version, planFor(w))
					if errors.Is(err, ErrStale) {
						continue
					}
					noError(t, err)
					deployed(t, s, r)
					noError(t, s.Finish(t.Context(), r.ID, sentry.Succeeded, ""))
				}
			}
		})
	}
	all.Wait()
	for i := range 8 {
		if h := must(s.HeadsOf(t.Context(), fmt.Sprint("group", i)))(t); len(h) != 1 || h[0].Generation != 20 {
			t.Errorf("%+v", h)
		}
	}
	healthy(t, s)
}

// TestGivingUp: a caller that gives up before its turn wrote nothing; one whose turn has come learns how it ended.
func TestGivingUp(t *testing.T) {
	s := inMemory(t)
	release := blocked(t, s)
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("had enough")
	answer := make(chan error)
	go func() { answer <- s.Decide(ctx, note("too late")) }()
	queued(t, s, 1)
	cancel(reason)
	wants(t, <-answer, reason)
	release()
	if notes(t, s)["too late"] {
		t.Error("what was given up was recorded")
	}

	ctx, cancel = context.WithCancelCause(t.Context())
	began, gate := make(chan struct{}), make(chan struct{})
	go func() {
		answer <- s.write(ctx, func(tx *tx) error { close(began); <-gate; return tx.decide(note("in time")) })
	}()
	<-began
	cancel(reason)
	close(gate)
	noError(t, <-answer)
	if !notes(t, s)["in time"] {
		t.Error("what was answered as recorded is not")
	}
}

// TestCloseFinishesWhatWaits: what was accepted is written, what comes later is refused.
func TestCloseFinishesWhatWaits(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir)
	release := blocked(t, s)
	answers := make(chan error, 10)
	for i := range cap(answers) {
		go func() { answers <- s.Decide(context.Background(), note(fmt.Sprint(i))) }()
	}
	queued(t, s, cap(answers))
	ended := make(chan error)
	go func() { ended <- s.Close() }()
	for {
		s.writer.mu.Lock()
		refusing := s.writer.closed
		s.writer.mu.Unlock()
		if refusing {
			break
		}
		time.Sleep(time.Millisecond)
	}
	wants(t, s.Decide(t.Context(), note("late")), ErrClosed)
	release()
	for range cap(answers) {
		noError(t, <-answers)
	}
	noError(t, <-ended)
	if n := len(notes(t, openDir(t, dir))); n != cap(answers) {
		t.Errorf("%d of %d were written", n, cap(answers))
	}
}

// TestSubscribe: a token after a write that changed something, one however many there were, none without.
func TestSubscribe(t *testing.T) {
	s := inMemory(t)
	news, stop := s.Subscribe()
	other, stopOther := s.Subscribe()
	tokens := func(c <-chan struct{}) int {
		select {
		case <-c:
			return 1
		default:
			return 0
		}
	}
	record(t, s, see("a", "1"), see("a", "2"))
	if tokens(news) != 1 || tokens(news) != 0 {
		t.Error("want one token after two writes")
	}
	record(t, s, see("a", "2"), see("b", ""))
	noError(t, s.Resume(t.Context(), "g", "x"))
	wants(t, s.write(t.Context(), func(tx *tx) error { return errors.Join(tx.decide(note("x")), ErrInvalid) }), ErrInvalid)
	if tokens(news) != 0 {
		t.Error("a token without anything written")
	}
	stop()
	record(t, s, see("a", "3"))
	if tokens(news) != 0 || tokens(other) != 1 {
		t.Error("tokens go to who is subscribed")
	}
	stopOther()
}

// TestRemovedWhileOpen: what would be written to a file that is no longer there is refused, not lost.
func TestRemovedWhileOpen(t *testing.T) {
	for name, spoil := range map[string]func(db string) error{
		"removed": os.Remove,
		"replaced": func(db string) error {
			return errors.Join(os.Rename(db, db+".old"), os.WriteFile(db, []byte("x"), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := openDir(t, dir)
			record(t, s, see("a", "1"))
			noError(t, spoil(filepath.Join(dir, databaseName)))
			for range 2 {
				_, err := s.RecordChanges(t.Context(), []Observation{see("a", "2")})
				wants(t, err, ErrPoisoned)
			}
			_ = s.Close()
			_, err := Open(t.Context(), Options{Dir: dir})
			if !errors.Is(err, ErrLost) && !errors.Is(err, ErrCorrupt) {
				t.Errorf("opened again: %v", err)
			}
		})
	}
}

// TestInABubble: the store works under the clock of testing/synctest, in memory and on disk, and tells its time.
func TestInABubble(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		synctest.Test(t, func(t *testing.T) {
			var s *Store
			if dir == "" {
				s = must(OpenMemory(t.Context(), Options{}))(t)
			} else {
				s = must(Open(t.Context(), Options{Dir: dir}))(t)
			}
			news, stop := s.Subscribe()
			defer stop()
			var all sync.WaitGroup
			for i := range 20 {
				all.Go(func() {
					time.Sleep(time.Duration(i) * time.Hour)
					record(t, s, see(fmt.Sprint("r", i), "1"))
					if _, err := s.Pending(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			synctest.Wait()
			<-news
			heads := must(s.HeadsOf(t.Context(), "r0", "r19"))(t)
			if d := heads[1].RecordedAt.Sub(heads[0].RecordedAt); d != 19*time.Hour {
				t.Errorf("recorded %v apart", d)
			}
			noError(t, s.Close())
		})
	}
}
