package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"sentry/internal/sentry"
)

// furnished makes a state with something of everything, cleanly closed, and gives its directory.
func furnished(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	s := openWith(t, Options{Dir: dir, Now: func() time.Time { return time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC) }})
	for round := range 8 {
		var batch []Observation
		for i := range 12 {
			batch = append(batch, see(fmt.Sprintf("repository-%d", i), commitOf(100*round+i)).in(fmt.Sprint("g", i%3)))
		}
		must(s.RecordChanges(t.Context(), batch))(t)
		if round == 0 {
			continue
		}
		for i := range 3 {
			runThrough(t, s, pending(t, s, fmt.Sprint("g", i)))
		}
	}
	noError(t, s.Pause(t.Context(), "g1", "ada", "because"))
	record(t, s, see("repository-1", "x").in("g1"))
	for len(must(s.Outbox(t.Context(), 100))(t)) > 4 {
		expand(t, s)
	}
	healthy(t, s)
	closed(t, s)
	return dir
}

// everything reads all that the state can tell, as text.
func everything(t *testing.T, s *Store) (string, error) {
	ctx := t.Context()
	heads, err1 := s.Heads(ctx)
	list, err2 := s.Rollouts(ctx, Filter{Limit: 1000})
	var err3 error
	for i := range list {
		var full sentry.Rollout
		full, err3 = s.Rollout(ctx, list[i].ID)
		if err3 != nil {
			break
		}
		list[i] = full
	}
	var reports []sentry.Report
	for i := range list {
		told, err := s.Reports(ctx, list[i].ID)
		err3 = errors.Join(err3, err)
		reports = append(reports, told...)
	}
	why, err4 := s.Why(ctx, WhyFilter{Limit: 10000})
	paused, err5 := s.Paused(ctx)
	out, err6 := s.Outbox(ctx, 1000)
	all, err7 := json.Marshal([]any{heads, list, reports, why, paused, out})
	return string(all), errors.Join(err1, err2, err3, err4, err5, err6, err7)
}

// TestFlippedBytes: a byte of any page that is not what was written is an error when it is read, and never data. What
// nothing reads is found by Check.
func TestFlippedBytes(t *testing.T) {
	dir := furnished(t)
	good := must(os.ReadFile(filepath.Join(dir, databaseName)))(t)
	s := openWith(t, Options{Dir: dir, ReadOnly: true})
	want, err := everything(t, s)
	noError(t, err)
	closed(t, s)
	random := rand.New(rand.NewPCG(1, 2))

	var offsets []int
	for i := range 100 { // the whole header
		offsets = append(offsets, i)
	}
	for page := range len(good) / pageSize { // something within, and of the head of the page or its checksum
		base := page * pageSize
		edge := base + random.IntN(8)
		if page%2 == 0 {
			edge = base + pageSize - 1 - random.IntN(8)
		}
		offsets = append(offsets, base+8+random.IntN(pageSize-16), edge)
	}
	atOpen, atRead, atCheck := 0, 0, 0
	for i, offset := range offsets {
		bad := append([]byte(nil), good...)
		bad[offset] ^= []byte{0x01, 0x80, 0xff}[i%3]
		copied := t.TempDir()
		noError(t, os.WriteFile(filepath.Join(copied, databaseName), bad, 0o600))
		s, err := Open(t.Context(), Options{Dir: copied, ReadOnly: i%4 != 0})
		if err != nil {
			if atOpen++; !errors.Is(err, ErrCorrupt) && !(errors.Is(err, ErrForeign) && offset >= 68 && offset < 72) {
				t.Errorf("byte %d: %v", offset, err)
			}
			continue
		}
		got, err := everything(t, s)
		broken, errCheck := s.Check(t.Context())
		switch {
		case errors.Is(err, ErrCorrupt):
			atRead++
		case err != nil:
			t.Errorf("byte %d: %v", offset, err)
		case got != want:
			t.Errorf("byte %d: other data was read", offset)
		default:
			atCheck++
		}
		if errCheck != nil || len(broken) == 0 {
			t.Errorf("byte %d: Check finds nothing (%v)", offset, errCheck)
		}
		_ = s.Close()
	}
	t.Logf("%d pages, %d flips: %d found by Open, %d by reading, %d by Check", len(good)/pageSize, len(offsets), atOpen, atRead, atCheck)
	if atOpen == 0 || atRead == 0 {
		t.Error("the flips were not spread over what is read")
	}
}

// TestCutDatabase: a database that has lost its end is refused when it is opened.
func TestCutDatabase(t *testing.T) {
	dir := furnished(t)
	size := len(must(os.ReadFile(filepath.Join(dir, databaseName)))(t))
	for length := size - 1; length >= 0; length -= 4099 {
		copied := copyState(t, dir)
		noError(t, os.Truncate(filepath.Join(copied, databaseName), int64(length)))
		for _, readOnly := range []bool{true, false} {
			_, err := Open(t.Context(), Options{Dir: copied, ReadOnly: readOnly})
			wants(t, err, ErrCorrupt)
		}
	}
}

// crashed counts to n in a state and gives a copy of its files as a killed process leaves them: the counting is in the
// write-ahead log only.
func crashed(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	s := openWith(t, Options{Dir: dir, checkpoint: 1 << 20})
	for i := range n {
		o := see("counter", commitOf(i+1))
		o.Revision.Subject = strconv.Itoa(i + 1)
		record(t, s, o)
	}
	copied := copyState(t, dir)
	closed(t, s)
	return copied
}

// counted reads what crashed has counted to.
func counted(t *testing.T, s *Store) int {
	t.Helper()
	heads := must(s.HeadsOf(t.Context(), "counter"))(t)
	if len(heads) == 0 {
		return 0
	}
	return must(strconv.Atoi(heads[0].Revision.Subject))(t)
}

// TestFlippedBytesInTheLog: damage in the log that a crash left is refused, instead of taking back commits, except that
// damage in the last two commits may look like a write that was cut off.
func TestFlippedBytesInTheLog(t *testing.T) {
	const n = 8
	dir := crashed(t, n)
	good := must(os.ReadFile(filepath.Join(dir, "state.db-wal")))(t)
	s := openDir(t, copyState(t, dir))
	if got := counted(t, s); got != n {
		t.Fatalf("the log gives back %d of %d", got, n)
	}
	closed(t, s)
	random := rand.New(rand.NewPCG(3, 4))
	var offsets []int
	for i := range logHeader {
		offsets = append(offsets, i)
	}
	for frame := logHeader; frame < len(good); frame += 2 * (frameHeader + pageSize) {
		offsets = append(offsets, frame+random.IntN(8), frame+8+random.IntN(16), frame+frameHeader+random.IntN(pageSize))
	}
	refused, lost := 0, 0
	for _, offset := range offsets {
		bad := append([]byte(nil), good...)
		bad[offset] ^= 0x41
		copied := copyState(t, dir)
		noError(t, os.WriteFile(filepath.Join(copied, "state.db-wal"), bad, 0o600))
		s, err := Open(t.Context(), Options{Dir: copied})
		if err != nil {
			if refused++; !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrOlderCopy) {
				t.Errorf("byte %d: %v", offset, err)
			}
			continue
		}
		got := counted(t, s)
		if got < n {
			lost++
		}
		if got < n-2 {
			t.Errorf("byte %d of %d: commits from %d on were taken back silently", offset, len(good), got+1)
		}
		healthy(t, s)
		closed(t, s)
	}
	t.Logf("%d flips: %d refused, %d lost one of the last two commits", len(offsets), refused, lost)
	if refused < len(offsets)/2 {
		t.Error("most damage has to be refused")
	}
}

// TestCutLog: a log that ends early gives back a state that was once, never a mixture.
func TestCutLog(t *testing.T) {
	const n = 8
	dir := crashed(t, n)
	size := len(must(os.ReadFile(filepath.Join(dir, "state.db-wal")))(t))
	last := n
	for length := size; length >= 0; length -= 9973 {
		copied := copyState(t, dir)
		noError(t, os.Truncate(filepath.Join(copied, "state.db-wal"), int64(length)))
		s, err := Open(t.Context(), Options{Dir: copied})
		if errors.Is(err, ErrOlderCopy) { // the beginning of the epoch was cut off as well
			continue
		}
		noError(t, err)
		got := counted(t, s)
		if got > last {
			t.Errorf("a log of %d bytes gives %d, a longer one %d", length, got, last)
		}
		last = got
		healthy(t, s)
		closed(t, s)
	}
	if last > 1 {
		t.Errorf("the shortest log still gives %d", last)
	}
}

// TestLostLog: a database whose log was forgotten when it was copied is older than it was.
func TestLostLog(t *testing.T) {
	dir := crashed(t, 3)
	noError(t, os.Remove(filepath.Join(dir, "state.db-wal")))
	for _, readOnly := range []bool{true, false} {
		_, err := Open(t.Context(), Options{Dir: dir, ReadOnly: readOnly})
		wants(t, err, ErrOlderCopy)
	}
}

// TestCheckReadsTheLog: who only looks does not refuse a damaged log, but Check tells.
func TestCheckReadsTheLog(t *testing.T) {
	dir := crashed(t, 5)
	s := openWith(t, Options{Dir: dir, ReadOnly: true})
	healthy(t, s)
	closed(t, s)
	path := filepath.Join(dir, "state.db-wal")
	bad := must(os.ReadFile(path))(t)
	bad[logHeader+frameHeader+100] ^= 0x10
	noError(t, os.WriteFile(path, bad, 0o600))
	noError(t, os.Remove(filepath.Join(dir, sidecarName))) // the epoch is in the log
	s, err := Open(t.Context(), Options{Dir: dir, ReadOnly: true})
	noError(t, err)
	defer s.Close()
	if broken := must(s.Check(t.Context()))(t); len(broken) != 1 || !strings.Contains(broken[0], "is damaged before its frame") {
		t.Errorf("%q", broken)
	}
}
