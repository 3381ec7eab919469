package store

import (
	"bufio"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sentry/internal/sentry"
)

// TestLookingCreatesNothing: where there is no state, and where there is one without a daemon, looking leaves every file
// and every byte as it was.
func TestLookingCreatesNothing(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	_, err := Open(t.Context(), Options{Dir: none, ReadOnly: true})
	wants(t, err, ErrNoState)
	if _, err := os.Stat(none); err == nil {
		t.Error("the directory was made")
	}
	empty := t.TempDir()
	_, err = Open(t.Context(), Options{Dir: empty, ReadOnly: true})
	wants(t, err, ErrNoState)
	if got := files(t, empty); len(got) > 0 {
		t.Errorf("made %v", got)
	}

	whole := furnished(t)
	alone := t.TempDir() // a copy of state.db and nothing else
	noError(t, os.WriteFile(filepath.Join(alone, databaseName), must(os.ReadFile(filepath.Join(whole, databaseName)))(t), 0o600))
	copied := copyState(t, whole) // without the shared memory
	for name, dir := range map[string]string{"after a clean end": whole, "a lone copy": alone, "a whole copy": copied} {
		contents := func() map[string]string {
			all := map[string]string{}
			for _, f := range files(t, dir) {
				if !strings.HasSuffix(f, "-shm") {
					all[f] = string(must(os.ReadFile(filepath.Join(dir, f)))(t))
				} else {
					all[f] = "" // who reads notes there where
				}
			}
			return all
		}
		before := contents()
		s := openWith(t, Options{Dir: dir, ReadOnly: true})
		if n := len(must(s.Heads(t.Context()))(t)); n != 12 {
			t.Errorf("%s: %d heads", name, n)
		}
		healthy(t, s)
		if s.Epoch() != 0 {
			t.Errorf("epoch %d", s.Epoch())
		}
		wants(t, s.Decide(t.Context(), sentry.Decision{Verb: sentry.Reloaded}), ErrReadOnly)
		_, err := s.Cancel(t.Context(), "1", "x", "")
		wants(t, err, ErrReadOnly)
		closed(t, s)
		if diff := cmp.Diff(before, contents()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestLookingAtADaemon: a reader sees each commit of a writer in another process, in order, and keeps nobody from
// writing.
func TestLookingAtADaemon(t *testing.T) {
	dir := t.TempDir()
	writer := as(t, "write", dir)
	out := bufio.NewReader(must(writer.StdoutPipe())(t))
	noError(t, writer.Start())
	defer func() { _ = writer.Process.Kill(); _ = writer.Wait() }()
	next := func() int {
		line := must(out.ReadString('\n'))(t)
		return must(strconv.Atoi(strings.TrimSpace(line)))(t)
	}
	told := next()
	s := openWith(t, Options{Dir: dir, ReadOnly: true})
	last := 0
	for told < 300 {
		told = next()
		got := counted(t, s)
		if got < told || got < last {
			t.Fatalf("%d was told, and %d seen after %d", told, got, last)
		}
		last = got
	}
	healthy(t, s)
}

// TestUnwritable: who may only read gets the state, and who has to write gets told why not.
func TestUnwritable(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes here")
	}
	locked := func(dir string) {
		for _, f := range files(t, dir) {
			noError(t, os.Chmod(filepath.Join(dir, f), 0o444))
		}
		noError(t, os.Chmod(dir, 0o555))
	}
	asNobody(t, furnished(t), "look", "", locked)
	inLog := crashed(t, 5)
	noError(t, os.WriteFile(filepath.Join(inLog, "state.db-shm"), nil, 0o600))
	asNobody(t, inLog, "look", "5", locked)
	asNobody(t, inLog, "try", "refused", locked)
	asNobody(t, inLog, "try", "refused", func(dir string) { // all but the database can be written
		for _, f := range files(t, dir) {
			noError(t, os.Chmod(filepath.Join(dir, f), 0o666))
		}
		noError(t, os.Chmod(filepath.Join(dir, databaseName), 0o444))
		noError(t, os.Chmod(dir, 0o777))
	})
	asNobody(t, t.TempDir(), "try", "refused", locked)
}
