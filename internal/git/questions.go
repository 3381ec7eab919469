package git

import (
	"context"
	"sync"
	"time"

	"sentry/internal/sentry"
)

// rememberTime is how long an answer is kept. Whoever wants one says since when it must have been asked for, and that
// is a moment ago.
const rememberTime = time.Minute

// questions are those about one branch each that are under way, or were answered lately. A question is put once for all
// who may use its answer: it says what the branch was at some moment after the question began, so it is for whoever wants
// to know what the branch is since then or since before.
type questions struct {
	mu     sync.Mutex
	latest map[asking]*question // guarded by mu; without those that failed
}

// asking is what a question is about, and who asks: what one credential is told is not for another.
type asking struct {
	source                       source
	username, sshKey, knownHosts string
	token                        sentry.Secret
}

type question struct {
	began time.Time
	done  chan struct{} // closed when it has ended

	commit string // owned by who asks until done
	err    error  // likewise
}

// wait gives the answer.
func (q *question) wait(ctx context.Context) (string, error) {
	select {
	case <-q.done:
		return q.commit, q.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// inquiry is somebody's wish to know what a branch is. Which question answers it is known as soon as it is known who asks,
// and that may take a while: a GitHub App asks for its token over the network.
type inquiry struct {
	put chan struct{} // closed when there is a question, or cannot be one

	question *question // owned by who puts it until then
	err      error     // likewise
}

// wait gives the answer.
func (i *inquiry) wait(ctx context.Context) (string, error) {
	select {
	case <-i.put:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if i.err != nil {
		return "", i.err
	}
	return i.question.wait(ctx)
}

// ask has a question put that tells what a branch is at since or later, and waits for nothing.
func (s *Sources) ask(w Want, since time.Time) *inquiry {
	i := &inquiry{put: make(chan struct{})}
	about := asking{source: w.source(), username: w.Auth.Username, sshKey: w.Auth.SSHKeyFile, knownHosts: w.Auth.KnownHostsFile}
	if w.Auth.Token == nil {
		defer close(i.put)
		i.question = s.put(about, w.Auth, since)
		return i
	}
	s.background(func(ctx context.Context) {
		defer close(i.put)
		var err error
		if about.token, err = w.Auth.Token(ctx); err != nil {
			i.err = unreadable(err)
			return
		}
		i.question = s.put(about, w.Auth, since)
	})
	return i
}

// put gives a question that began at since or later: one that is there, or a new one.
func (s *Sources) put(about asking, a Auth, since time.Time) *question {
	s.questions.mu.Lock()
	defer s.questions.mu.Unlock()
	if q := s.questions.latest[about]; q != nil && !q.began.Before(since) {
		return q
	}
	q := &question{began: time.Now(), done: make(chan struct{})}
	for other, old := range s.questions.latest {
		if q.began.Sub(old.began) > rememberTime {
			delete(s.questions.latest, other)
		}
	}
	s.questions.latest[about] = q
	s.background(func(ctx context.Context) {
		defer close(q.done)
		if q.commit, q.err = s.head(ctx, about.source, a); q.err != nil {
			s.questions.forget(about, q)
		}
	})
	return q
}

// forget drops a question that failed: who asks after that asks anew.
func (qs *questions) forget(about asking, q *question) {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	if qs.latest[about] == q {
		delete(qs.latest, about)
	}
}
