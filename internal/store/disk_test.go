package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ncruces/go-sqlite3/vfs"

	"sentry/internal/sentry"
)

// faulty is a disk below the store that fails when it is told to, and that knows what a power cut would leave of it.
type faulty struct {
	disk
	name string

	mu     sync.Mutex
	armed  bool // count from here on
	count  int  // operations so far
	fails  func(op int, kind string) error
	images map[string]*image // by path
}

// image is what is on the disk of a file: what was synced, and what was written since.
type image struct {
	synced  []byte
	pending []change
}

type change struct {
	data   []byte // nil: cut at offset
	offset int64
}

func (c change) apply(to []byte) []byte {
	if c.data == nil {
		return append(to, make([]byte, max(0, int(c.offset)-len(to)))...)[:c.offset]
	}
	if end := int(c.offset) + len(c.data); end > len(to) {
		to = append(to, make([]byte, end-len(to))...)
	}
	copy(to[c.offset:], c.data)
	return to
}

// newFaulty makes such a disk. It starts from what is in a directory.
func newFaulty(t testing.TB, dir string) *faulty {
	f := &faulty{disk: vfs.Find(diskName).(disk), name: "faulty-" + newInstance(), images: map[string]*image{}}
	for _, name := range []string{databaseName, databaseName + "-wal"} {
		path := filepath.Join(dir, name)
		data, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		f.images[path] = &image{synced: data}
	}
	vfs.Register(f.name, f)
	t.Cleanup(func() { vfs.Unregister(f.name) })
	return f
}

func (f *faulty) OpenFilename(name *vfs.Filename, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	opened, got, err := f.disk.OpenFilename(name, flags)
	below, ok := opened.(*diskFile)
	if err != nil || !ok || f.images[name.String()] == nil {
		return opened, got, err
	}
	return &faultyFile{diskFile: below, disk: f, path: name.String()}, got, nil
}

// arm makes the operations fail for which fails gives an error; they are counted from 1.
func (f *faulty) arm(fails func(op int, kind string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed, f.count, f.fails = fails != nil, 0, fails
}

func (f *faulty) operation(path, kind string, then func(*image)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.armed {
		f.count++
		if err := f.fails(f.count, kind); err != nil {
			return err
		}
	}
	then(f.images[path])
	return nil
}

// cut gives what a power cut leaves: what was synced, and of the rest any part, torn at sectors.
func (f *faulty) cut(random *rand.Rand) map[string][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	left := map[string][]byte{}
	for path, img := range f.images {
		data := append([]byte(nil), img.synced...)
		all, none := random.IntN(4) == 0, random.IntN(4) == 0
		for _, c := range img.pending {
			switch {
			case none:
			case all || c.data == nil && random.IntN(2) == 0:
				data = c.apply(data)
			case c.data != nil:
				for at := 0; at < len(c.data); at += 512 {
					if random.IntN(3) > 0 {
						data = change{c.data[at:min(at+512, len(c.data))], c.offset + int64(at)}.apply(data)
					}
				}
			}
		}
		left[filepath.Base(path)] = data
	}
	return left
}

type faultyFile struct {
	*diskFile
	disk *faulty
	path string
}

func (f *faultyFile) WriteAt(p []byte, offset int64) (int, error) {
	data := append([]byte(nil), p...)
	err := f.disk.operation(f.path, "write", func(i *image) { i.pending = append(i.pending, change{data, offset}) })
	if err != nil {
		return 0, orFull(err)
	}
	return f.diskFile.WriteAt(p, offset)
}

func (f *faultyFile) Truncate(size int64) error {
	err := f.disk.operation(f.path, "truncate", func(i *image) { i.pending = append(i.pending, change{nil, size}) })
	if err != nil {
		return orFull(err)
	}
	return f.diskFile.Truncate(size)
}

func (f *faultyFile) SizeHint(int64) error { return nil } // the image knows nothing of room taken ahead

func (f *faultyFile) Sync(flags vfs.SyncFlag) error {
	err := f.disk.operation(f.path, "sync", func(i *image) {
		for _, c := range i.pending {
			i.synced = c.apply(i.synced)
		}
		i.pending = nil
	})
	if err != nil {
		return err
	}
	return f.diskFile.Sync(flags)
}

// work is what the tests of disks do over and over: count a head up, claim, run and finish what that queued. It calls
// told after every count that was recorded, and stops at the first error.
func work(s *Store, first, last int, told func(int)) error {
	ctx := context.Background()
	for n := first; n <= last; n++ {
		o := see("counter", commitOf(n))
		o.Revision.Subject = strconv.Itoa(n)
		o.Revision.Author = strings.Repeat("x", 700)
		if _, err := s.RecordChanges(ctx, []Observation{o}); err != nil {
			return err
		}
		told(n)
		if n%3 != 0 {
			continue
		}
		waiting, err := s.Pending(ctx)
		if err != nil {
			return err
		}
		for _, w := range waiting {
			r, err := s.Claim(ctx, w.Rollout.ID, w.Version, planFor(w))
			if err != nil {
				return err
			}
			for _, d := range r.Deployments {
				for _, status := range []sentry.Status{sentry.Running, sentry.Succeeded} {
					d.Status, d.Attempt = status, 1
					if err := s.SaveDeployment(ctx, d); err != nil {
						return err
					}
				}
			}
			if err := s.Finish(ctx, r.ID, sentry.Succeeded, "fine"); err != nil {
				return err
			}
		}
		if n%2 == 0 { // those of some rollouts are expanded, and of these some are delivered
			if err := expandOnce(s); err != nil {
				return err
			}
			if err := deliverOnce(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// afterwards opens what is in a directory and makes sure that nothing that was told is lost. One more may be there: the
// write that was not answered.
func afterwards(t *testing.T, dir string, told int) {
	t.Helper()
	s := openDir(t, dir)
	if got := counted(t, s); got < told || got > told+1 {
		t.Fatalf("%d was recorded, after the start it is %d", told, got)
	}
	for _, r := range must(s.Left(t.Context()))(t) {
		must(s.TakeOver(t.Context(), r.ID, true))(t)
	}
	nothingLostNorDoubled(t, s)
	healthy(t, s)
	closed(t, s)
}

// onDisk begins a state on a faulty disk, and does work on it until that fails.
func onDisk(t *testing.T, fails func(op int, kind string) error) (dir string, f *faulty, s *Store, told int, err error) {
	t.Helper()
	dir = t.TempDir()
	closed(t, openDir(t, dir))
	f = newFaulty(t, dir)
	s = openWith(t, Options{Dir: dir, vfs: f.name, checkpoint: 12})
	f.arm(fails)
	err = work(s, 1, 12, func(n int) { told = n })
	return dir, f, s, told, err
}

// TestDiskFails: whichever single write, sync or truncation fails, and however: nothing that was answered is lost,
// nothing is half recorded, and after a disk that failed (other than for want of room) nothing more is written.
func TestDiskFails(t *testing.T) {
	// What there is to fail, and of it some of every kind, spread over the whole.
	kinds := map[string][]int{}
	_, f, s, _, err := onDisk(t, func(op int, kind string) error { kinds[kind] = append(kinds[kind], op); return nil })
	noError(t, err)
	f.arm(nil)
	closed(t, s)
	var chosen []int
	for _, kind := range []string{"write", "sync", "truncate"} {
		ops := kinds[kind]
		if kind != "truncate" && len(ops) < 10 { // a truncation may happen or not
			t.Fatalf("%d operations of kind %s: too few to show anything", len(ops), kind)
		}
		for i := 0; i < len(ops); i += 1 + len(ops)/(6**rounds) {
			chosen = append(chosen, ops[i])
		}
	}
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
		for i, op := range chosen {
			ever := i%2 == 0 // all that follow fail too
			failed := ""
			dir, f, s, told, err := onDisk(t, func(n int, kind string) error {
				if n == op || ever && n > op {
					failed = kind
					return errno
				}
				return nil
			})
			f.arm(nil)
			again := s.Decide(t.Context(), note("again"))
			what := fmt.Sprintf("%v in operation %d, a %s, ever after %t: error %v, then %v", errno, op, failed, ever, err, again)
			switch {
			case failed == "":
				t.Errorf("%s: nothing failed", what)
			case errno == syscall.EIO && !errors.Is(again, ErrPoisoned):
				t.Errorf("%s: the disk is believed", what)
			case err != nil && !errors.Is(err, ErrPoisoned) && !errors.Is(err, ErrDiskFull):
				t.Errorf("%s: another kind of error", what)
			case errors.Is(err, ErrPoisoned) && !errors.Is(again, ErrPoisoned):
				t.Errorf("%s: it writes again", what)
			case !errors.Is(err, ErrPoisoned) && errno == syscall.ENOSPC && failed != "sync" && again != nil:
				t.Errorf("%s: it does not go on with room", what)
			}
			_ = s.Close()
			afterwards(t, dir, told)
		}
	}
}

// TestPowerCut: whenever the power is cut, and whatever part of what was not synced reached the disk, what was answered
// is there.
func TestPowerCut(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 25 * *rounds {
		stop := 1 + random.IntN(500)
		dir, f, s, told, _ := onDisk(t, func(op int, _ string) error {
			if op >= stop {
				return errors.New("no power")
			}
			return nil
		})
		left := f.cut(random)
		_ = s.Close()
		after := t.TempDir()
		for name, data := range left {
			noError(t, os.WriteFile(filepath.Join(after, name), data, 0o600))
		}
		noError(t, os.WriteFile(filepath.Join(after, sidecarName), must(os.ReadFile(filepath.Join(dir, sidecarName)))(t), 0o600))
		afterwards(t, after, told)
	}
}
