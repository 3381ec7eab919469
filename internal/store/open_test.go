package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"

	"sentry/internal/sentry"
)

func TestOpenBeginsAndGoesOn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "state with ? # % and ü")
	for epoch := int64(1); epoch <= 3; epoch++ {
		s := openDir(t, dir)
		if s.Epoch() != epoch || s.Owner() != "tester" {
			t.Fatalf("epoch %d, want %d", s.Epoch(), epoch)
		}
		if n := len(must(s.Heads(t.Context()))(t)); n != int(epoch-1) {
			t.Fatalf("%d heads in epoch %d", n, epoch)
		}
		record(t, s, see(fmt.Sprint("r", epoch), "1"))
		healthy(t, s)
		closed(t, s)
		closed(t, s) // twice does no harm
		wants(t, s.Decide(t.Context(), sentry.Decision{Verb: sentry.Reloaded}), ErrClosed)
		_, err := s.Heads(t.Context())
		wants(t, err, ErrClosed)
	}
	if diff := cmp.Diff([]string{"lock", "reserve", "state.db", "state.db-shm", "state.db-wal", "state.id"}, files(t, dir)); diff != "" {
		t.Error(diff)
	}
	if info := must(os.Stat(filepath.Join(dir, "state.db-wal")))(t); info.Size() != 0 {
		t.Errorf("a clean end leaves %d bytes in the log", info.Size())
	}
}

// TestModes: nobody else reads the state, whatever the umask.
func TestModes(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes here")
	}
	dir := filepath.Join(t.TempDir(), "state")
	s := openDir(t, dir)
	record(t, s, see("a", "1"))
	if mode := must(os.Stat(dir))(t).Mode().Perm(); mode != 0o700 {
		t.Errorf("the directory has mode %o", mode)
	}
	for _, name := range files(t, dir) {
		if mode := must(os.Stat(filepath.Join(dir, name)))(t).Mode().Perm(); mode != 0o600 {
			t.Errorf("%s has mode %o", name, mode)
		}
	}
}

// TestLock: one state directory, one process; the second is told who has it, and a dead one holds nothing.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	holder := as(t, "hold", dir)
	out := must(holder.StdoutPipe())(t)
	noError(t, holder.Start())
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "open\n" {
		t.Fatalf("the holder said %q", line)
	}
	_, err := Open(t.Context(), Options{Dir: dir})
	var locked *LockedError
	if !errors.As(err, &locked) || locked.Dir != dir || !strings.Contains(err.Error(), fmt.Sprintf("pid %d on ", holder.Process.Pid)) ||
		!strings.Contains(err.Error(), "(holder) since 20") {
		t.Errorf("error %v", err)
	}
	reader, err := Open(t.Context(), Options{Dir: dir, ReadOnly: true})
	noError(t, err)
	closed(t, reader)
	noError(t, holder.Process.Kill())
	_ = holder.Wait()
	s := openDir(t, dir)
	if s.Epoch() != 2 {
		t.Errorf("epoch %d", s.Epoch())
	}
	if _, err := Open(t.Context(), Options{Dir: dir}); !errors.As(err, &locked) {
		t.Errorf("a second time in one process: %v", err)
	}
}

// TestLockIsWaitedFor: what a killed process leaves to a child for a moment does not keep the next one from starting.
func TestLockIsWaitedFor(t *testing.T) {
	dir := t.TempDir()
	closed(t, openDir(t, dir))
	held := flock.New(filepath.Join(dir, lockName))
	if ok := must(held.TryLock())(t); !ok {
		t.Fatal("the lock is not free")
	}
	released := time.AfterFunc(200*time.Millisecond, func() { _ = held.Unlock() })
	defer released.Stop()
	if s := openDir(t, dir); s.Epoch() != 2 {
		t.Errorf("epoch %d", s.Epoch())
	}
}

// TestRefuses is every state that Open does not begin anew in the place of, or write to. Nothing is changed.
func TestRefuses(t *testing.T) {
	exec := func(t *testing.T, dir, sql string) {
		c := must(sqlite3.Open(filepath.Join(dir, databaseName)))(t)
		noError(t, errors.Join(c.Exec(sql), c.Close()))
	}
	patch := func(t *testing.T, dir string, offset int64, b ...byte) {
		f := must(os.OpenFile(filepath.Join(dir, databaseName), os.O_RDWR, 0))(t)
		_, err := f.WriteAt(b, offset)
		noError(t, errors.Join(err, f.Close()))
	}
	other := t.TempDir()
	closed(t, openDir(t, other))
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, dir, db string) error
		want  error
		says  string
	}{
		{"removed", func(t *testing.T, dir, db string) error { return os.Remove(db) }, ErrLost, "begin anew"},
		{"emptied", func(t *testing.T, dir, db string) error { return os.Truncate(db, 0) }, ErrCorrupt, "is empty"},
		{"cut in the header", func(t *testing.T, dir, db string) error { return os.Truncate(db, 50) }, ErrCorrupt, "cut off after 50 bytes"},
		{"cut after a page", func(t *testing.T, dir, db string) error { return os.Truncate(db, 3*pageSize) }, ErrCorrupt, "cut off after 12288"},
		{"cut within a page", func(t *testing.T, dir, db string) error { return os.Truncate(db, 2*pageSize+1) }, ErrCorrupt, "cut off"},
		{"text", func(t *testing.T, dir, db string) error {
			return os.WriteFile(db, []byte(strings.Repeat("hello ", 99)), 0o600)
		}, ErrCorrupt, "not an SQLite database"},
		{"a directory", func(t *testing.T, dir, db string) error { return errors.Join(os.Remove(db), os.Mkdir(db, 0o700)) }, ErrForeign, "not a file"},
		{"of another program", func(t *testing.T, dir, db string) error { exec(t, dir, `PRAGMA application_id = 7`); return nil }, ErrForeign, "another program"},
		{"an empty one of another program", func(t *testing.T, dir, db string) error {
			noError(t, os.Remove(db))
			exec(t, dir, `CREATE TABLE x (y)`)
			return nil
		}, ErrForeign, "another program"},
		{"of another sentry", func(t *testing.T, dir, db string) error {
			return os.WriteFile(db, must(os.ReadFile(filepath.Join(other, databaseName)))(t), 0o600)
		}, ErrForeign, "another state directory"},
		{"newer schema", func(t *testing.T, dir, db string) error {
			exec(t, dir, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)`)
			return nil
		}, ErrNewerSchema, "schema 999"},
		{"checksums switched off", func(t *testing.T, dir, db string) error { patch(t, dir, 20, 0); return nil }, ErrCorrupt, "header"},
		{"another page size", func(t *testing.T, dir, db string) error { patch(t, dir, 16, 0x20); return nil }, ErrCorrupt, "header"},
		{"magic damaged", func(t *testing.T, dir, db string) error { patch(t, dir, 3, 'X'); return nil }, ErrCorrupt, "first bytes"},
		{"first page damaged", func(t *testing.T, dir, db string) error { patch(t, dir, 2000, 0xff); return nil }, ErrCorrupt, "damaged"},
		{"older epoch", func(t *testing.T, dir, db string) error { exec(t, dir, `UPDATE meta SET epoch = 1`); return nil }, ErrOlderCopy, "epoch 1 (entry 1), but epoch 2"},
		{"older by its ledger", func(t *testing.T, dir, db string) error {
			exec(t, dir, `UPDATE sqlite_sequence SET seq = 0 WHERE name = 'ledger'`)
			return nil
		}, ErrOlderCopy, "entry 0"},
		{"marker damaged", func(t *testing.T, dir, db string) error {
			return os.WriteFile(filepath.Join(dir, sidecarName), []byte("{"), 0o600)
		}, ErrCorrupt, "state.id"},
		{"marker emptied", func(t *testing.T, dir, db string) error {
			return os.WriteFile(filepath.Join(dir, sidecarName), []byte("{}"), 0o600)
		}, ErrCorrupt, "state.id"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			closed(t, openDir(t, dir))
			s := openDir(t, dir)
			record(t, s, see("a", "1"))
			closed(t, s)
			db := filepath.Join(dir, databaseName)
			noError(t, c.spoil(t, dir, db))
			before, _ := os.ReadFile(db)
			for _, readOnly := range []bool{false, true} {
				_, err := Open(t.Context(), Options{Dir: dir, ReadOnly: readOnly})
				wants(t, err, c.want)
				if !strings.Contains(err.Error(), c.says) {
					t.Errorf("read-only %t: %q does not say %q", readOnly, err, c.says)
				}
			}
			if after, _ := os.ReadFile(db); string(after) != string(before) {
				t.Error("the refused file was written to")
			}
			if _, err := os.Stat(db); (err == nil) != (len(before) > 0 || c.name == "emptied" || c.name == "a directory") {
				t.Errorf("the refused file was made or removed: %v", err)
			}
		})
	}
}

// TestAcceptingALoss: whoever removes the marker is believed.
func TestAcceptingALoss(t *testing.T) {
	dir := t.TempDir()
	closed(t, openDir(t, dir))
	closed(t, openDir(t, dir))
	noError(t, os.Remove(filepath.Join(dir, databaseName)))
	noError(t, os.Remove(filepath.Join(dir, sidecarName)))
	if s := openDir(t, dir); s.Epoch() != 1 {
		t.Errorf("epoch %d", s.Epoch())
	}
}

// TestFirstStartCutOff: wherever the first start is killed, the next one begins.
func TestFirstStartCutOff(t *testing.T) {
	begin := func(dir string) error {
		s := &Store{options: Options{Dir: dir}.withDefaults()}
		return s.createDatabase(filepath.Join(dir, databaseName))
	}
	for name, leave := range map[string]func(t *testing.T, dir string){
		"half of the database": func(t *testing.T, dir string) {
			noError(t, os.WriteFile(filepath.Join(dir, "state.db.new"), []byte("SQLite for"), 0o600))
			noError(t, os.WriteFile(filepath.Join(dir, "state.db.new-wal"), []byte("x"), 0o600))
		},
		"the database and no marker": func(t *testing.T, dir string) {
			noError(t, begin(dir))
		},
		"half of the marker": func(t *testing.T, dir string) {
			noError(t, begin(dir))
			noError(t, os.WriteFile(filepath.Join(dir, "state.id.new"), []byte("{"), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			leave(t, dir)
			s := openDir(t, dir)
			record(t, s, see("a", "1"))
			closed(t, s)
			if got := files(t, dir); strings.Contains(strings.Join(got, " "), ".new") {
				t.Errorf("left behind: %v", got)
			}
		})
	}
}

// TestUpgrade: a state of an older schema is brought up to date, and not touched by who only reads.
func TestUpgrade(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir)
	record(t, s, see("a", "1"))
	closed(t, s)
	newer := fstest.MapFS{"00099_next.sql": {Data: []byte("-- +goose Up\nCREATE TABLE next (x INTEGER) STRICT;\nINSERT INTO next SELECT count(*) FROM heads;\n")}}
	for _, e := range must(fs.ReadDir(migrations, "."))(t) {
		newer[e.Name()] = &fstest.MapFile{Data: must(fs.ReadFile(migrations, e.Name()))(t)}
	}
	_, err := Open(t.Context(), Options{Dir: dir, ReadOnly: true, migrations: newer})
	wants(t, err, ErrOlderSchema)
	s = openWith(t, Options{Dir: dir, migrations: newer})
	noError(t, s.read(t.Context(), func(c *conn) error {
		n := int64(-1)
		_, err := c.one(`SELECT x FROM next`, func(r row) error { n = r.int(0); return nil })
		if n != 1 {
			t.Errorf("the new table has %d", n)
		}
		return err
	}))
	healthy(t, s)
	closed(t, s)
	_, err = Open(t.Context(), Options{Dir: dir})
	wants(t, err, ErrNewerSchema)
	broken := fstest.MapFS{"00100_bad.sql": {Data: []byte("-- +goose Up\nCREATE TABLE half (x INTEGER);\nSELECT nonsense;\n")}}
	for name, file := range newer {
		broken[name] = file
	}
	if _, err = Open(t.Context(), Options{Dir: dir, migrations: broken}); err == nil {
		t.Fatal("a broken step was accepted")
	}
	s = openWith(t, Options{Dir: dir, migrations: newer})
	noError(t, s.read(t.Context(), func(c *conn) error {
		half, err := c.one(`SELECT 1 FROM sqlite_schema WHERE name = 'half'`, func(row) error { return nil })
		if half {
			t.Error("half of a step was applied")
		}
		return err
	}))
}

// TestSchemaIsStrict: the database itself refuses a value of a wrong type, in every table.
func TestSchemaIsStrict(t *testing.T) {
	s := inMemory(t)
	noError(t, s.read(t.Context(), func(c *conn) error {
		n := 0
		err := c.query(`SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'goose_%'`, func(r row) error {
			if n++; !r.bool(1) {
				t.Errorf("table %s is not STRICT", r.text(0))
			}
			return nil
		})
		if n < 10 {
			t.Errorf("%d tables", n)
		}
		return err
	}))
	if version := must(newestVersion(migrations))(t); version < 1 {
		t.Errorf("version %d", version)
	}
}

func TestContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := inMemory(t)
	cancel()
	_, err := s.Heads(ctx)
	wants(t, err, context.Canceled)
	wants(t, s.Decide(ctx, sentry.Decision{Verb: sentry.Reloaded}), context.Canceled)
	if n := len(must(s.Why(t.Context(), WhyFilter{}))(t)); n != 0 {
		t.Errorf("%d entries by a caller that had given up", n)
	}
}
