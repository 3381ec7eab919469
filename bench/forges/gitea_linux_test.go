package forges

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sentry/bench/internal/measure"
	"sentry/internal/forge/forgetest"
	"sentry/internal/git/gittest"
)

const (
	giteaPairs = 60 // pushes to either repository, by turns

	goalDetected    = 15 * time.Millisecond // p50
	goalDetectedMax = 80 * time.Millisecond // p99
	goalSooner      = 40                    // than Gitea's webhook
	goalByte        = 40 * time.Millisecond // p50
	goalByteSooner  = 20                    // than webhook, clone and sh
)

// TestRatiosGitea pushes to a real Gitea over HTTP, and takes the time from the moment at which the branch's file has
// changed on Gitea's disk: until Sentry, which polls the repository hot, knows of it, has recorded it, and until the first
// byte of the command that it runs for it. Beside that stands a repository with a webhook, in the same Gitea, by turns: until
// the receiver has it, which records nothing, and until the first byte of a command in the clone that it makes then.
//
// To be hot takes of the forge's time, and of that Sentry spends no more than it has saved (12 s, when it has been quiet for
// ten minutes or has just begun) and one part in fifty of what passes. A push every few seconds is more than that pays for
// in the long run: a few minutes of them are what the table is about.
func TestRatiosGitea(t *testing.T) {
	machine := measure.Alone(t)
	l := newGiteaLab(t)
	for range 3 { // what is done for the first time is done for the first time only
		l.bySentry(t)
		l.byWebhook(t)
	}
	var sentry, webhook []seen
	for range giteaPairs {
		sentry = append(sentry, l.bySentry(t))
		webhook = append(webhook, l.byWebhook(t))
	}

	table := measure.Table{
		Title:   fmt.Sprintf("Gitea 1.26: from the moment when the branch's file changed on its disk; %d pushes to either repository, by turns\n  (%s)", giteaPairs, machine),
		Columns: []string{"until", "Sentry, hot", "p99", "Gitea's webhook", "p99", "sooner (p50)"},
	}
	row := func(what string, of func(seen) time.Duration) (p50, p99 time.Duration, ratio float64) {
		ours, theirs := sorted(sentry, of), sorted(webhook, of)
		p50, p99 = percentile(ours, 50), percentile(ours, 99)
		ratio = float64(percentile(theirs, 50)) / float64(p50)
		table.Row(what, p50, p99, percentile(theirs, 50), percentile(theirs, 99), measure.Times(ratio))
		return p50, p99, ratio
	}
	known, knownMost, knownSooner := row("it is known", func(s seen) time.Duration { return s.known.Sub(s.moved) })
	row("it is recorded", func(s seen) time.Duration { return s.recorded.Sub(s.moved) })
	table.Note("it is known: Sentry has the answer that tells it; the receiver has the webhook. Goal p50 at most %s, p99 at most %s: %s; at least %d× sooner: %s",
		measure.Time(goalDetected), measure.Time(goalDetectedMax), measure.Verdict(known <= goalDetected && knownMost <= goalDetectedMax),
		goalSooner, measure.Verdict(knownSooner >= goalSooner))
	begun, _, begunSooner := row("the command's first byte", func(s seen) time.Duration { return s.wrote.Sub(s.moved) })
	table.Note("it is recorded: durably, with who made the commit; by the receiver not at all.")
	table.Note("the command's first byte: in a fresh tree of the QA repository; with the webhook after git clone --depth 1. Goal p50 at most %s: %s; at least %d× sooner: %s",
		measure.Time(goalByte), measure.Verdict(begun <= goalByte), goalByteSooner, measure.Verdict(begunSooner >= goalByteSooner))
	table.Print()
	if known > goalDetected || knownMost > goalDetectedMax || knownSooner < goalSooner {
		t.Errorf("it is known after %s, at most %s, %.1f times sooner", known, knownMost, knownSooner)
	}
	if begun > goalByte || begunSooner < goalByteSooner {
		t.Errorf("the command begins after %s, %.1f times sooner", begun, begunSooner)
	}
}

// seen is when what was done for one push.
type seen struct{ moved, known, recorded, wrote time.Time }

func sorted(all []seen, of func(seen) time.Duration) []time.Duration {
	var list []time.Duration
	for _, s := range all {
		list = append(list, of(s))
	}
	slices.Sort(list)
	return list
}

// percentile is the value that so many per cent of sorted ones do not exceed.
func percentile(sorted []time.Duration, percent int) time.Duration {
	return sorted[max(0, (len(sorted)*percent+99)/100-1)]
}

// The repositories.
const (
	giteaWatched = "bench/watched"
	giteaHooked  = "bench/hooked"
	giteaQA      = "bench/qa"
)

// giteaLab is a Gitea, a Sentry that watches one of its repositories, and a receiver of the other's webhooks.
type giteaLab struct {
	gitea  *forgetest.Gitea
	moves  map[string]<-chan time.Time
	sentry *sentryd
	hooks  chan hook
	fifo   string           // which commands write to
	bytes  <-chan time.Time // when they did
	folder string
	token  string
	hints  int // so far
}

// hook is the arrival of a webhook.
type hook struct {
	commit string
	at     time.Time
}

func newGiteaLab(t *testing.T) *giteaLab {
	t.Helper()
	l := &giteaLab{gitea: forgetest.NewGitea(t), folder: t.TempDir(), hooks: make(chan hook, 10), moves: map[string]<-chan time.Time{}}
	for _, name := range []string{giteaWatched, giteaHooked, giteaQA} {
		l.gitea.Repository(name, true)
	}
	tree := map[string]string{}
	for i := range 160 {
		path := fmt.Sprintf(".tekton/part-%d/step-%02d.yaml", i/40, i%40)
		tree[path] = fmt.Sprintf("# %s\n%s", path, strings.Repeat("- a line of a pipeline, as long as such lines are\n", 20))
	}
	l.gitea.Commit(giteaQA, "main", tree)
	for _, name := range []string{giteaWatched, giteaHooked} {
		l.gitea.Push(name, "main")
		l.moves[name] = renames(t, filepath.Dir(l.gitea.RefFile(name, "main")), "main")
	}
	l.token = l.gitea.Token("read:repository")

	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		at := time.Now()
		var push struct{ After string }
		if err := json.NewDecoder(r.Body).Decode(&push); err == nil {
			l.hooks <- hook{push.After, at}
		}
	}))
	t.Cleanup(receiver.Close)
	l.gitea.Webhook(giteaHooked, receiver.URL, "secret")

	l.fifo = filepath.Join(l.folder, "first")
	l.bytes = arrivals(t, l.fifo)
	l.sentry = startSentry(t, fmt.Sprintf(`polling_interval: 1h
global: {state_dir: STATE, allow_insecure_http: true, log_format: json, log_level: debug, webhook_secret_file: SECRET}
groups: {watched: {quiet_period: 0}}
repositories:
  - name: watched
    group: watched
    monitor: {repo_url: %[1]s/%[2]s.git, branches: [main], repo_type: gitea, auth: {token: %[3]s}}
    deploy:
      qa_repo_url: %[1]s/%[4]s.git
      qa_repo_branch: main
      repo_type: gitea
      auth: {token: %[3]s}
      env: {FIRST: %[5]s}
      commands: ['printf x > "$FIRST"']
`, l.gitea.Direct(), giteaWatched, l.token, giteaQA, l.fifo))
	l.sentry.wait("a head was recorded")
	return l
}

// bySentry pushes to the repository that Sentry watches, a moment after a hint that something might come: it is hot then.
func (l *giteaLab) bySentry(t *testing.T) seen {
	t.Helper()
	l.sentry.forget()
	l.hints++ // one that is like the last would be taken for a repetition
	l.sentry.hint(fmt.Sprintf(`{"repository": "%s/%s.git", "ref": "refs/heads/main", "number": %d}`, l.gitea.Direct(), giteaWatched, l.hints))
	// The push begins at any time between two questions.
	time.Sleep(100*time.Millisecond + rand.N(100*time.Millisecond))
	moved := l.push(t, giteaWatched)
	s := seen{moved: moved, wrote: l.byte(t)}
	s.known = l.sentry.wait("a head is found elsewhere").Time
	s.recorded = l.sentry.wait("a head has moved").Time
	if end := l.sentry.wait("rollout ended"); end.Status != "succeeded" {
		t.Fatalf("the rollout %s", end.Status)
	}
	return s
}

// byWebhook pushes to the repository that has a webhook, and does what its receiver is for.
func (l *giteaLab) byWebhook(t *testing.T) seen {
	t.Helper()
	// Gitea's queues look for work less and less often while there is none, down to every two seconds: the push comes at any
	// time in that.
	time.Sleep(rand.N(2 * time.Second))
	s := seen{moved: l.push(t, giteaHooked)}
	want := l.gitea.Head(giteaHooked, "main")
	for late := time.After(time.Minute); s.known.IsZero(); {
		select {
		case h := <-l.hooks:
			if h.commit == want { // another one is of a push before there was a webhook
				s.known, s.recorded = h.at, h.at
			}
		case <-late:
			t.Fatal("no webhook")
		}
	}
	dir := filepath.Join(l.folder, "clone")
	url := strings.Replace(l.gitea.Direct(), "://", "://any:"+l.token+"@", 1) + "/" + giteaQA + ".git"
	gittest.Git(t, "", "clone", "-q", "--depth", "1", "--branch", "main", url, dir)
	cmd := exec.Command("sh", "-c", `printf x > "$FIRST"`)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "FIRST="+l.fifo)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.wrote = l.byte(t)
	_ = cmd.Wait()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	return s
}

// push pushes a commit, and gives the moment at which the branch's file changed. It returns when the push has ended.
func (l *giteaLab) push(t *testing.T, repository string) time.Time {
	t.Helper()
	l.gitea.Push(repository, "main")
	select {
	case at := <-l.moves[repository]:
		return at
	case <-time.After(time.Minute):
		t.Fatal("the branch's file does not change")
		return time.Time{}
	}
}

// byte waits for the byte of a command, and gives the moment at which it came.
func (l *giteaLab) byte(t *testing.T) time.Time {
	t.Helper()
	select {
	case at := <-l.bytes:
		return at
	case <-time.After(time.Minute):
		t.Fatal("no byte of a command")
		return time.Time{}
	}
}

// arrivals makes a FIFO, and tells when each byte comes that is written to it.
func arrivals(t *testing.T, fifo string) <-chan time.Time {
	t.Helper()
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(fifo, os.O_RDWR, 0) // read and write: whoever writes need not wait for us
	if err != nil {
		t.Fatal(err)
	}
	moments, ended := make(chan time.Time, 1), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, err := file.Read(make([]byte, 1)); err != nil {
				return
			}
			moments <- time.Now()
		}
	}()
	t.Cleanup(func() { _ = file.Close(); <-ended })
	return moments
}

// renames tells when something in a folder gets a name: git writes what a branch points at to another file first.
func renames(t *testing.T, folder, name string) <-chan time.Time {
	t.Helper()
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := syscall.InotifyAddWatch(fd, folder, syscall.IN_MOVED_TO); err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "inotify")
	moments, ended := make(chan time.Time, 1), make(chan struct{})
	go func() {
		defer close(ended)
		for buffer := make([]byte, 4096); ; {
			n, err := file.Read(buffer)
			if err != nil {
				return
			}
			if at := time.Now(); bytes.Contains(buffer[:n], append([]byte(name), 0)) {
				moments <- at
			}
		}
	}()
	t.Cleanup(func() { _ = file.Close(); <-ended })
	return moments
}
