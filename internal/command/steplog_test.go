package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func logPath(t *testing.T) string { return filepath.Join(t.TempDir(), "logs", "1-abcd", "step.log") }

func contents(t *testing.T, path string) string {
	t.Helper()
	r, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// expected is what a log with room for head and tail bytes has of text.
func expected(text string, head, tail int) string {
	if len(text) <= head+tail {
		return text
	}
	return text[:head] + gap(int64(len(text)-head-tail), strings.HasSuffix(text[:head], "\n")) + text[len(text)-tail:]
}

// Whatever was written, in whatever pieces: a reader while it is written, one after a crash, and the file in the end all
// show the head, the tail, and how much is missing.
func TestStepLogKeepsHeadAndTail(t *testing.T) {
	const head, tail = 100, 300
	random := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, 99, 100, 101, 399, 400, 401, 402, 1000, 70_000, 200_000} {
		for _, piece := range []int{1, 7, 100, 300, 1000, 1 << 17} {
			if size/piece > 20_000 {
				continue
			}
			text := make([]byte, size)
			for i := range text {
				text[i] = "abcdefghijklmnopqrstuvwxyz\n"[random.IntN(27)]
			}
			path := logPath(t)
			log, err := createLog(path, head, tail)
			if err != nil {
				t.Fatal(err)
			}
			for rest := text; len(rest) > 0; {
				n := min(len(rest), 1+random.IntN(piece))
				if written, err := log.Write(rest[:n]); written != n || err != nil {
					t.Fatalf("Write: %d, %v", written, err)
				}
				rest = rest[n:]
			}
			want := expected(string(text), head, tail)
			if got := contents(t, path); got != want {
				t.Fatalf("%d bytes in pieces of %d: before the end the log is\n%q, want\n%q", size, piece, got, want)
			}
			if dropped := log.Dropped(); dropped != int64(max(0, size-head-tail)) {
				t.Errorf("%d bytes: %d dropped", size, dropped)
			}
			if err := log.Close(); err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(data) != want || contents(t, path) != want {
				t.Fatalf("%d bytes in pieces of %d: in the end the log is\n%q, want\n%q", size, piece, data, want)
			}
			if _, err := os.Stat(ringPath(path)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the ring is left: %v", err)
			}
		}
	}
}

// A writer that is killed while it completes the log leaves the ring, and part of what it adds to the file.
func TestStepLogCrashWhileCompleting(t *testing.T) {
	path := logPath(t)
	log, err := createLog(path, 100, 300)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("0123456789\n", 100)
	if _, err := io.WriteString(log, text); err != nil {
		t.Fatal(err)
	}
	if err := log.complete(); err != nil {
		t.Fatal(err)
	}
	want := expected(text, 100, 300)
	for size := int64(len(want)); size >= 100; size -= 50 {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		if got := contents(t, path); got != want {
			t.Errorf("with %d bytes in the file: %q", size, got)
		}
	}
	// And one that is killed just when it makes the ring leaves one without a header.
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	for size := int64(ringHeader - 1); size >= 0; size -= 13 {
		if err := os.Truncate(ringPath(path), size); err != nil {
			t.Fatal(err)
		}
		if got := contents(t, path); got != text[:100] {
			t.Errorf("with a ring of %d bytes: %q", size, got)
		}
	}
	if err := log.file.Close(); err != nil {
		t.Error(err)
	}
	if err := log.ring.file.Close(); err != nil {
		t.Error(err)
	}
	// The next one on the same path does not take the ring for its own.
	again, err := createLog(path, 100, 300)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(again, "new"); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, path); got != "new" {
		t.Errorf("a new log on the path of an old one shows %q", got)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// A log that is left, or whose writer is killed, is what it was until there is more; one that goes on with it, and to which some of
// it comes again, makes the same of it as one that never ended. What is known never to have come is told where it is missing.
func TestResumeLog(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for round := range 300 {
		const head, tail = 100, 300
		var pieces []string // "" for what never came
		var starts []int64
		var offset int64
		const gone = 17
		for range 1 + random.IntN(40) {
			piece := ""
			if random.IntN(10) > 0 {
				text := make([]byte, 1+random.IntN(40))
				for i := range text {
					text[i] = "abcdefghijklmnopqrstuvwxyz\n"[random.IntN(27)]
				}
				piece = string(text)
			}
			pieces, starts = append(pieces, piece), append(starts, offset)
			if offset += int64(len(piece)); piece == "" {
				offset += gone
			}
		}
		play := func(log *StepLog, from, to int) {
			for _, piece := range pieces[from:to] {
				if piece == "" {
					log.Skip(gone)
				} else if _, err := io.WriteString(log, piece); err != nil {
					t.Fatal(err)
				}
			}
		}
		wantPath, path := logPath(t), logPath(t)
		log, err := createLog(wantPath, head, tail)
		if err != nil {
			t.Fatal(err)
		}
		play(log, 0, len(pieces))
		wantDropped, err := log.Dropped(), log.Close()
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			log, taken, err := resumeLog(path, head, tail)
			if err != nil || log == nil {
				t.Fatalf("round %d: %v, %v", round, log, err)
			}
			from := 0
			for i, start := range starts {
				if start <= taken && random.IntN(2) > 0 {
					from = i
				}
			}
			log.Repeat(taken - starts[from])
			play(log, from, from+random.IntN(len(pieces)-from+1))
			before := contents(t, path)
			if err := log.Leave(); err != nil {
				t.Fatal(err)
			}
			if after := contents(t, path); after != before {
				t.Fatalf("round %d: left, it is %q, and was %q", round, after, before)
			}
		}
		log, taken, err := resumeLog(path, head, tail)
		if err != nil {
			t.Fatal(err)
		}
		log.Repeat(taken)
		play(log, 0, len(pieces))
		dropped, err := log.Dropped(), log.Close()
		if got, want := contents(t, path), contents(t, wantPath); err != nil || got != want || dropped != wantDropped {
			t.Fatalf("round %d: %v; %d dropped, not %d; the log is\n%q, not\n%q", round, err, dropped, wantDropped, got, want)
		}
		again, taken, err := resumeLog(path, head, tail)
		if err != nil || again == nil != (len(contents(t, path)) > head) {
			t.Fatalf("round %d: a complete log of %d bytes: %v, %d, %v", round, len(contents(t, path)), again, taken, err)
		}
		if again != nil {
			if err := again.Leave(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestStepLogModes(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no modes")
	}
	path := logPath(t)
	log, err := createLog(path, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if _, err := io.WriteString(log, "abc"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{path: 0o600, ringPath(path): 0o600, filepath.Dir(path): 0o700 | fs.ModeDir, filepath.Dir(filepath.Dir(path)): 0o700 | fs.ModeDir} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
		}
	}
}

func TestOpenLogMissing(t *testing.T) {
	if _, err := OpenLog(logPath(t)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a log that is not there: %v", err)
	}
}

func TestWriteAfterClose(t *testing.T) {
	log, err := CreateLog(logPath(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := log.Write([]byte("x")); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("writing to a closed log: %v", err)
	}
}

// lockedBuffer is a bytes.Buffer for several goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// A follower that keeps up sees everything, also what the log itself does not keep, across head, ring and completion.
func TestFollowLogSeesEverything(t *testing.T) {
	const head, tail = 1000, 200_000
	path := logPath(t)
	var out lockedBuffer
	var finished atomic.Bool
	done := make(chan error, 1)
	go func() { done <- FollowLog(context.Background(), path, finished.Load, &out) }()
	time.Sleep(2 * followSoon) // it waits for a log that is not there yet
	log, err := createLog(path, head, tail)
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for i := 0; want.Len() < 3*tail; {
		for range 200 {
			i++
			line := fmt.Sprintf("line %d\n", i)
			want.WriteString(line)
			if _, err := io.WriteString(log, line); err != nil {
				t.Fatal(err)
			}
		}
		for out.String() != want.String() { // live: it comes without the log being closed
			time.Sleep(time.Millisecond)
		}
		if i > 6000 { // enough of waiting: the rest in one go
			for range 10_000 {
				i++
				line := fmt.Sprintf("line %d\n", i)
				want.WriteString(line)
				if _, err := io.WriteString(log, line); err != nil {
					t.Fatal(err)
				}
			}
			break
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	finished.Store(true)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != want.String() {
		t.Errorf("followed %d bytes, want %d", len(got), want.Len())
	}
}

// A follower that cannot keep up sees the head, a gap that says how much it missed, and the tail; nothing garbled.
func TestFollowLogTooSlow(t *testing.T) {
	path := logPath(t)
	log, err := createLog(path, 100, 1000)
	if err != nil {
		t.Fatal(err)
	}
	var finished atomic.Bool
	slow := &slowWriter{started: make(chan struct{}), release: make(chan struct{})}
	done := make(chan error, 1)
	line := "0123456789\n"
	if _, err := io.WriteString(log, line); err != nil {
		t.Fatal(err)
	}
	go func() { done <- FollowLog(context.Background(), path, finished.Load, slow) }()
	<-slow.started
	for range 100_000 {
		if _, err := io.WriteString(log, line); err != nil {
			t.Fatal(err)
		}
	}
	finished.Store(true)
	close(slow.release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	want := strings.Repeat(line, 100)[:100] + gap(int64(100_001*len(line)-1100), false)
	if got := slow.out.String(); !strings.HasPrefix(got, want) || len(got) != len(want)+1000 {
		t.Errorf("got %q..., %d bytes, want %q and 1000 more", got[:min(len(got), 200)], len(got), want)
	}
	if err := log.Close(); err != nil {
		t.Error(err)
	}
}

type slowWriter struct {
	started, release chan struct{}
	once             sync.Once
	out              bytes.Buffer
}

func (w *slowWriter) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.started) })
	<-w.release
	return w.out.Write(p)
}

func TestFollowLogEnds(t *testing.T) {
	path := logPath(t)
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(20*time.Millisecond, func() { cancel(cause) })
	if err := FollowLog(ctx, path, func() bool { return false }, io.Discard); !errors.Is(err, cause) {
		t.Errorf("a follower whose context ended: %v", err)
	}
	// A log that never came, of a step that has ended.
	if err := FollowLog(context.Background(), path, func() bool { return true }, io.Discard); err != nil {
		t.Errorf("a log that never came: %v", err)
	}
	// One of a writer that was killed.
	log, err := createLog(path, 10, 10)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(log, "0123456789abcdefghijklmnop"); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := FollowLog(context.Background(), path, func() bool { return true }, &out); err != nil {
		t.Errorf("a log that was left: %v", err)
	}
	if want := "0123456789\n[sentry: 6 bytes not kept]\nghijklmnop"; out.String() != want {
		t.Errorf("a log that was left: %q, want %q", out.String(), want)
	}
	out.Reset()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if err := FollowLog(context.Background(), path, func() bool { return true }, &out); err != nil || out.String() != "0123456789\n[sentry: 6 bytes not kept]\nghijklmnop" {
		t.Errorf("a complete log: %v, %q", err, out.String())
	}
	if err := FollowLog(context.Background(), path, func() bool { return true }, failingWriter{}); !errors.Is(err, errGone) {
		t.Errorf("a reader that went away: %v", err)
	}
}

var errGone = errors.New("gone")

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errGone }

func TestGrouped(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 7: "7", 999: "999", 1000: "1,000", 123456: "123,456", 1234567: "1,234,567"} {
		if got := grouped(n); got != want {
			t.Errorf("grouped(%d) = %q", n, got)
		}
	}
}

// TestResumeDamagedLog: where the machine failed before all of a log was on its disk, what there is of its beginning is gone
// on with.
func TestResumeDamagedLog(t *testing.T) {
	const text = "0123456789abcdefghij\nthe tail\n"
	for name, cut := range map[string]func(path string) (left int64, err error){
		"the head is short": func(path string) (int64, error) { return 6, os.Truncate(path, 6) },
		"the tail is short": func(path string) (int64, error) { return 10, os.Truncate(ringPath(path), ringHeader+3) },
		"the tail is empty": func(path string) (int64, error) { return 10, os.Truncate(ringPath(path), 0) },
		"the tail is of an earlier kind": func(path string) (int64, error) {
			return 10, os.WriteFile(ringPath(path), []byte("STYRING1"+strings.Repeat("\x01", 100)), 0o600)
		},
	} {
		path := logPath(t)
		log, err := createLog(path, 10, 100)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(log, text); err != nil {
			t.Fatal(err)
		}
		if err := log.Leave(); err != nil {
			t.Fatal(err)
		}
		left, err := cut(path)
		if err != nil {
			t.Fatal(err)
		}
		log, taken, err := resumeLog(path, 10, 100)
		if err != nil || log == nil || taken != left {
			t.Fatalf("%s: %d bytes of it are there, not %d: %v", name, taken, left, err)
		}
		log.Repeat(taken)
		_, err = io.WriteString(log, text)
		if err := errors.Join(err, log.Close()); err != nil {
			t.Error(err)
		}
		if got := contents(t, path); got != text {
			t.Errorf("%s: then it is %q", name, got)
		}
	}
}

// FuzzOpenRing feeds readers of logs with tails that nobody wrote.
func FuzzOpenRing(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed.log")
	log, err := createLog(path, 10, 20)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := io.WriteString(log, strings.Repeat("0123456789\n", 10)); err != nil {
		f.Fatal(err)
	}
	seed, err := os.ReadFile(ringPath(path))
	if err != nil {
		f.Fatal(err)
	}
	if err := log.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:ringHeader])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, tail []byte) {
		path := filepath.Join(t.TempDir(), "step.log")
		if err := os.WriteFile(path, []byte("head of the log"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(ringPath(path), tail, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := OpenLog(path)
		if err == nil {
			_, _ = io.Copy(io.Discard, r)
			_ = r.Close()
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := FollowLog(ctx, path, func() bool { return true }, io.Discard); errors.Is(err, context.DeadlineExceeded) {
			t.Error("a follower does not end")
		}
	})
}

func BenchmarkStepLog(b *testing.B) {
	log, err := CreateLog(filepath.Join(b.TempDir(), "step.log"))
	if err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 64<<10)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		if _, err := log.Write(p); err != nil {
			b.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		b.Fatal(err)
	}
}
