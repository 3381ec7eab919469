package git

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"sentry/internal/git/gittest"
	"sentry/internal/sentry"
)

// held lets no question through before the test closes the channel that it gives, and tells of each that arrived.
func (b *bench) held() (arrived <-chan struct{}, let chan struct{}) {
	came := make(chan struct{}, 100)
	let = make(chan struct{})
	b.server.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		came <- struct{}{}
		select {
		case <-let:
			next.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})
	return came, let
}

func TestAnswersAreFresh(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	first := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	want := Want{Remote: b.remote(repo.URL), Branch: "main"}
	tree := func(since time.Time) string {
		t.Helper()
		w := want
		w.Since = since
		commit, err := b.sources.Workspace(t.Context(), w, b.nextDir(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return commit
	}
	tree(time.Time{})

	before := time.Now()
	b.server.Forget()
	b.sources.Ask(want)
	b.sources.Ask(Want{Remote: want.Remote, Branch: want.Branch, Since: before})
	if got := tree(before); got != first {
		t.Errorf("the tree is %s, want %s", got, first)
	}
	if n := b.server.Count(gittest.LsRefs); n != 1 {
		t.Errorf("the server was asked %d times; the answer to what was asked ahead is as good", n)
	}

	// An answer from before is not good enough for who wants to know what the branch is since then.
	after := time.Now()
	second := repo.Commit(t, "main", map[string]string{"a": "2"}, "second")
	if got := tree(before); got != first {
		t.Errorf("the tree is %s, want what was answered: %s", got, first)
	}
	if got := tree(after); got != second {
		t.Errorf("the tree is %s, want %s", got, second)
	}
	third := repo.Commit(t, "main", map[string]string{"a": "3"}, "third")
	if got := tree(time.Time{}); got != third {
		t.Errorf("the tree is %s, want %s: the server is to be asked after the call", got, third)
	}
}

// A question that is under way serves who wanted to know by its beginning, and nobody else.
func TestOneQuestionForMany(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	commit := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	b.tree(repo.URL, "main", commit)
	b.server.Forget()
	arrived, let := b.held()
	want := Want{Remote: b.remote(repo.URL), Branch: "main", Since: time.Now()}
	var wg sync.WaitGroup
	join := func(w Want) {
		dir := b.nextDir()
		wg.Go(func() {
			if got, err := b.sources.Workspace(t.Context(), w, dir, nil); err != nil || got != commit {
				t.Error(got, err)
			}
		})
	}
	const members = 8
	for range members {
		join(want)
	}
	<-arrived
	late := want
	late.Since = time.Now()
	join(late)
	<-arrived
	close(let)
	wg.Wait()
	if n := b.server.Count(gittest.LsRefs); n != 2 {
		t.Errorf("the server was asked %d times; want once for all who began together, and once for who came later", n)
	}
}

func TestAnswersAreOfOneCredential(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	commit := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	b.server.SetToken("bot", canary)
	began := time.Now()
	right := Want{Remote: b.remote(repo.URL), Branch: "main", Since: began, Auth: Auth{Username: "bot", Token: token(canary)}}
	if got, err := b.sources.Workspace(t.Context(), right, b.nextDir(), nil); err != nil || got != commit {
		t.Fatal(got, err)
	}
	for name, auth := range map[string]Auth{"none": {}, "another token": {Username: "bot", Token: token("wrong")}, "another name": {Username: "eve", Token: token(canary)}} {
		w := right
		w.Auth = auth
		if _, err := b.sources.Workspace(t.Context(), w, b.nextDir(), nil); err == nil || faultKind(t, err) != sentry.Unauthorized {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAQuestionThatFailedIsForgotten(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	commit := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	b.tree(repo.URL, "main", commit)
	began := time.Now()
	b.server.Intercept(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(http.StatusBadGateway) })
	want := Want{Remote: b.remote(repo.URL), Branch: "main", Since: began}
	if _, err := b.sources.Workspace(t.Context(), want, b.nextDir(), nil); err == nil || faultKind(t, err) != sentry.Transient {
		t.Errorf("a bad gateway: %v", err)
	}
	b.server.Intercept(nil)
	if got, err := b.sources.Workspace(t.Context(), want, b.nextDir(), nil); err != nil || got != commit {
		t.Errorf("it is well again: %s %v", got, err)
	}
}

func TestAnswersAreNotKeptForLong(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	for i := range 20 {
		if q := b.sources.ask(Want{Remote: b.remote(repo.URL), Branch: "main", Auth: Auth{Token: token(strings.Repeat("x", i+1))}}, time.Now()); true {
			if _, err := q.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.sources.questions.mu.Lock()
			q.question.began = q.question.began.Add(-2 * rememberTime)
			b.sources.questions.mu.Unlock()
		}
	}
	b.sources.questions.mu.Lock()
	defer b.sources.questions.mu.Unlock()
	if n := len(b.sources.questions.latest); n > 1 {
		t.Errorf("%d answers are kept", n)
	}
}

// Who waits for an answer does so no longer than it wants to, and a question that hangs does not hold up the end.
func TestAQuestionThatHangs(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	arrived, _ := b.held()
	b.sources.Ask(Want{Remote: b.remote(repo.URL), Branch: "main"})
	<-arrived
	began := time.Now()
	if _, err := b.sources.Workspace(within(t, 50*time.Millisecond), Want{Remote: b.remote(repo.URL), Branch: "main", Since: began.Add(-time.Minute)}, b.nextDir(), nil); err == nil {
		t.Error("there is a tree")
	}
	b.restart() // which closes
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

// Who asks may have to be asked for first. Ask does not wait for that, and whoever wants the tree then has no question of
// its own.
func TestAskDoesNotWaitForAToken(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	commit := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	b.tree(repo.URL, "main", commit) // to fetch is a question, too
	b.server.SetToken("bot", canary)
	b.server.Forget()
	ready := make(chan struct{})
	want := Want{Remote: b.remote(repo.URL), Branch: "main", Since: time.Now(), Auth: Auth{Username: "bot", Token: func(context.Context) (sentry.Secret, error) {
		<-ready
		return sentry.NewSecret(canary), nil
	}}}
	b.sources.Ask(want) // it would never return

	if _, err := b.sources.Workspace(within(t, 20*time.Millisecond), want, b.nextDir(), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("who wants a tree waits for a token no longer than it likes: %v", err)
	}
	close(ready)
	if got, err := b.sources.Workspace(t.Context(), want, b.nextDir(), nil); err != nil || got != commit {
		t.Fatal(got, err)
	}
	if n := b.server.Count(gittest.LsRefs); n != 1 {
		t.Errorf("the server was asked %d times, want once", n)
	}
}

// A forge that does not give out a token just now is not one that refuses.
func TestATokenThatCannotBeHad(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	for want, err := range map[sentry.FaultKind]error{
		sentry.Unauthorized: os.ErrNotExist,
		sentry.Transient:    sentry.Faultf(sentry.Transient, "bad gateway"),
		sentry.RateLimited:  &sentry.Fault{Kind: sentry.RateLimited, RetryAfter: time.Minute, Err: errors.New("slow down")},
	} {
		auth := Auth{Token: func(context.Context) (sentry.Secret, error) { return sentry.Secret{}, err }}
		_, got := b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Branch: "main", Auth: auth}, b.nextDir(), nil)
		_, heads := b.git.Heads(t.Context(), b.remote(repo.URL), auth, nil)
		for _, got := range []error{got, heads} {
			if fault := sentry.AsFault(got); fault.Kind != want || fault.RetryAfter != sentry.AsFault(err).RetryAfter || !errors.Is(got, err) {
				t.Errorf("%v: %s, again after %s; want %s", got, fault.Kind, fault.RetryAfter, want)
			}
		}
	}
}
