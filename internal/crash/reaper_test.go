//go:build linux

package crash

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"sentry/internal/server"
)

// reaper decides when and how each life ends.
type reaper struct {
	t        testing.TB
	random   *rand.Rand
	d        *sentryd
	lines    *tail // of the witness
	log      *tail // of Sentry
	requests chan string

	kills, drains int // so far
}

func newReaper(d *sentryd, w *world, random *rand.Rand) *reaper {
	r := &reaper{t: d.t, random: random, d: d, requests: make(chan string, 1)}
	r.lines, r.log = newTail(d.t, d.witness()), newTail(d.t, d.logFile())
	w.server.Intercept(func(rw http.ResponseWriter, request *http.Request, next http.Handler) {
		select {
		case r.requests <- request.URL.Path:
		default:
		}
		next.ServeHTTP(rw, request)
	})
	return r
}

// shortLives is how many lives in a row may end before what they began has. The life after them lasts until whatever it
// found interrupted has come to an end: so nothing is interrupted more often than Sentry puts up with, and what the
// judge finds missing was not given up but lost.
const shortLives = 2

// reap lives one life.
func (r *reaper) reap() {
	r.d.start()
	if r.d.life%(shortLives+1) == 0 {
		r.breathe()
	}
	r.await()
	switch n := r.random.IntN(100); {
	case n < 84:
		r.kill(unasked)
	case n < 91: // in the middle of the drain
		m := r.manner()
		r.d.ask()
		r.sleep(time.Duration(r.random.IntN(500)) * time.Millisecond)
		r.kill(m)
	case n < 97:
		m := r.manner()
		r.d.ask()
		r.d.ended(m)
		r.drains++
	default: // somebody is impatient
		m := r.manner()
		r.d.ask()
		r.sleep(time.Duration(r.random.IntN(100)) * time.Millisecond)
		if r.d.alive() {
			m = hasty
			r.d.tell("term life=%d", r.d.life)
			_ = r.d.cmd.Process.Signal(syscall.SIGTERM) // it has ended where that fails
		}
		r.d.ended(m)
		r.drains++
	}
}

func (r *reaper) kill(m manner) {
	r.d.kill(m)
	r.kills++
}

// manner is the one in which the daemon has to end when it is asked to now.
func (r *reaper) manner() manner {
	if _, err := r.d.now(); err != nil {
		return hasty
	}
	return orderly
}

// breathe waits until what runs at the beginning of the life has ended.
func (r *reaper) breathe() {
	var found map[string]bool // rollouts that ran when the daemon first answered
	until(r.d, func(status server.Status) string {
		running := map[string]bool{}
		for _, g := range status.Items {
			if g.Current != nil {
				running[g.Current.ID] = true
			}
		}
		if found == nil {
			found = running
		}
		for id := range found {
			if running[id] {
				return fmt.Sprintf("rollout %s, which ran when the life began, still runs", id)
			}
		}
		return ""
	})
}

// await waits for the moment of death.
func (r *reaper) await() {
	life := fmt.Sprintf("life=%d ", r.d.life)
	pick := func(words ...string) string { return words[r.random.IntN(len(words))] }
	switch n := r.random.IntN(100); {
	case n < 25: // whenever
		r.sleep(time.Duration(r.random.IntN(1500)) * time.Millisecond)
		return
	case n < 35: // in start-up and recovery
		r.sleep(time.Duration(r.random.IntN(100)) * time.Millisecond)
		return
	case n < 70: // when a command says something
		word := pick("start ", "start ", "beat ", "end ", "end ", "end ", "who=child", "who=daemon")
		r.hear(r.lines, 1+r.random.IntN(4), word, life)
	case n < 75: // when a branch has moved, or the QA repository
		r.hear(r.lines, 1, pick("moved ", "qa commit="))
	case n < 87: // when Sentry says something
		r.hear(r.log, 1, pick("rollout begins", "rollout begins again", "step ended", "deployment ended", "rollout ended", "ended processes", "watching"))
	default: // when it asks something
		r.asked(pick("/qa/", "/qa/git-upload-pack", "/qa/git-upload-pack", "/alpha/", "/delta/"))
	}
	switch n := r.random.IntN(10); { // then at once, or a little later
	case n < 4:
	case n < 7:
		r.sleep(time.Duration(r.random.IntN(3000)) * time.Microsecond)
	default:
		r.sleep(time.Duration(r.random.IntN(40)) * time.Millisecond)
	}
}

// patience is how long the reaper waits for the moment that it chose.
const patience = 3 * time.Second

// hear waits until a file has got this many new lines with these texts.
func (r *reaper) hear(file *tail, times int, texts ...string) {
	file.skip()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline) && r.d.alive(); {
		if times -= file.count(texts...); times <= 0 {
			return
		}
		time.Sleep(500 * time.Microsecond)
	}
}

// asked waits until a repository is asked something.
func (r *reaper) asked(repository string) {
	select {
	case <-r.requests: // of before
	default:
	}
	timeout := time.After(patience)
	for {
		select {
		case path := <-r.requests:
			if strings.HasPrefix(path, repository) {
				return
			}
		case <-r.d.exited:
			return
		case <-timeout:
			return
		}
	}
}

func (r *reaper) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.d.exited:
	}
}

// tail reads what is appended to a file.
type tail struct {
	t    testing.TB
	file *os.File
	open string // a line that has not ended yet
}

func newTail(t testing.TB, path string) *tail {
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return &tail{t: t, file: file}
}

// skip goes on at the end.
func (f *tail) skip() {
	if _, err := f.file.Seek(0, io.SeekEnd); err != nil {
		f.t.Fatal(err)
	}
	f.open = ""
}

// count tells how many of the lines appended since the last call have all the texts.
func (f *tail) count(texts ...string) int {
	raw, err := io.ReadAll(f.file)
	if err != nil {
		f.t.Fatal(err)
	}
	n := 0
lines:
	for line := range strings.Lines(f.open + string(raw)) {
		f.open = ""
		if !strings.HasSuffix(line, "\n") {
			f.open = line
			break
		}
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue lines
			}
		}
		n++
	}
	return n
}
