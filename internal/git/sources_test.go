package git

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sentry/internal/git/gittest"
	"sentry/internal/sentry"
)

func TestWorkspace(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	repo.CommitFiles(t, "main", []gittest.File{
		{Path: "run.sh", Content: "#!/bin/sh\necho hello\n", Mode: "100755"},
		{Path: "old", Content: "x"},
		{Path: "dir/link", Content: "../run.sh", Mode: "120000"},
	}, "first")
	first := repo.CommitFiles(t, "main", []gittest.File{{Path: "old", Delete: true}}, "second")
	var said strings.Builder
	dir := b.nextDir()
	commit, err := b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Branch: "main"}, dir, &said)
	if err != nil || commit != first {
		t.Fatal(commit, err)
	}
	b.check(dir, "main", first)
	if got := strings.Join(entries(t, dir), " "); got != ".git dir run.sh" {
		t.Errorf("the tree has %s", got)
	}
	if info, err := os.Stat(filepath.Join(dir, "run.sh")); err != nil || info.Mode()&0o100 == 0 {
		t.Errorf("run.sh: %v %v", info, err)
	}
	if got, err := os.Readlink(filepath.Join(dir, "dir/link")); err != nil || got != "../run.sh" {
		t.Errorf("dir/link: %q %v", got, err)
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("the tree is open to others: %s", info.Mode())
	}
	if got := b.ask(dir, "log", "--format=%s"); got != "second\nfirst" {
		t.Errorf("git log says %q", got)
	}
	if got := b.ask(dir, "remote", "get-url", "origin"); got != repo.URL {
		t.Errorf("origin is %q", got)
	}
	if !strings.Contains(said.String(), "fetching "+sentry.ShortCommit(first)) {
		t.Errorf("progress was %q", said.String())
	}

	// A spare of the same commit is moved into place: nothing is fetched, and the server is asked all the same.
	b.spares(repo.URL, "main", first, 1)
	b.server.Forget()
	b.tree(repo.URL, "main", first)
	if n, m := b.server.Count(gittest.LsRefs), b.server.Count(); n != 1 || m != 1 {
		t.Errorf("%d of %d requests were ls-refs", n, m)
	}

	// The branch moves: the spare that was right is brought up to date, not handed over.
	b.spares(repo.URL, "main", first, 1)
	third := repo.Commit(t, "main", map[string]string{"new": "y", "run.sh": "changed"}, "third")
	dir = b.tree(repo.URL, "main", third)
	if got, _ := os.ReadFile(filepath.Join(dir, "run.sh")); string(got) != "changed" {
		t.Errorf("run.sh has %q", got)
	}
	// Back to the first commit by force.
	b.spares(repo.URL, "main", third, 1)
	repo.Reset(t, "main", first)
	b.tree(repo.URL, "main", first)
	if log := b.log.String(); log != "" {
		t.Errorf("logged: %s", log)
	}
}

// A workspace can be more than its tree: also when it was made ahead, and when its tree is brought up to date.
func TestWorkspaceWithFolders(t *testing.T) {
	b := newBench(t, Options{})
	b.sources.Close()
	o := b.folders()
	o.Tree, o.Beside = "src", []string{"home", "tmp"}
	b.sources = b.git.NewSources(o)
	repo := b.server.Repo(t, "qa.git")
	look := func(commit string) {
		t.Helper()
		dir := b.nextDir()
		got, err := b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Branch: "main"}, dir, nil)
		if err != nil || got != commit {
			t.Fatal(got, err)
		}
		b.check(filepath.Join(dir, "src"), "main", commit)
		if got := strings.Join(entries(t, dir), " "); got != "home src tmp" || len(entries(t, filepath.Join(dir, "home")))+len(entries(t, filepath.Join(dir, "tmp"))) > 0 {
			t.Errorf("the workspace has %s", got)
		}
		for _, folder := range []string{"", "home", "src", "tmp"} {
			if info, err := os.Stat(filepath.Join(dir, folder)); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("folder %q: %v %v", folder, info.Mode(), err)
			}
		}
	}
	commit := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	look(commit)
	b.spares(repo.URL, "main", commit, 1)
	look(commit)
	b.spares(repo.URL, "main", commit, 1)
	commit = repo.Commit(t, "main", map[string]string{"a": "2"}, "second")
	look(commit)
	b.spares(repo.URL, "main", commit, 1)
	commit = repo.Commit(t, "main", map[string]string{".gitattributes": "* text eol=crlf\n"}, "third") // made anew
	look(commit)
	if log := b.log.String(); log != "" {
		t.Errorf("logged: %s", log)
	}
}

func TestTreesAreCopies(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	commit := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	dir := b.tree(repo.URL, "main", commit)
	b.spares(repo.URL, "main", commit, 1)
	// A command does its worst to what it was given.
	err := filepath.WalkDir(filepath.Join(dir, ".git"), func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			_ = os.Chmod(path, 0o600)
			err = os.WriteFile(path, []byte("#!/bin/sh\ntouch "+b.trees+"/pwned\n"), 0o700)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	b.restart() // without the spare, so that the mirror is needed
	b.tree(repo.URL, "main", commit)
	if exists(filepath.Join(b.trees, "pwned")) || b.log.String() != "" {
		t.Errorf("the mirror was harmed: %s", b.log)
	}
}

func TestOneFetchForMany(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	commit := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	const members = 8
	var wg sync.WaitGroup
	for range members {
		dir := b.nextDir()
		wg.Go(func() {
			got, err := b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Branch: "main"}, dir, nil)
			if err != nil || got != commit {
				t.Error(got, err)
			}
			b.check(dir, "main", commit)
		})
	}
	wg.Wait()
	if n := b.server.Count(gittest.Fetch); n != 1 {
		t.Errorf("the server got %d fetches", n)
	}
	// A branch for which spares were missing gets more of them, up to the bound.
	b.spares(repo.URL, "main", commit, DefaultMaxSpares)
}

func TestPrepare(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	commit := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	b.sources.Prepare(b.remote(repo.URL), Auth{}, "main")
	b.spares(repo.URL, "main", commit, 1)
	b.server.Forget()
	b.tree(repo.URL, "main", commit)
	if n := b.server.Count(); n != 1 {
		t.Errorf("%d requests", n)
	}
	b.spares(repo.URL, "main", commit, 1)

	second := repo.Commit(t, "main", map[string]string{"a": "2"}, "second")
	b.sources.Prepare(b.remote(repo.URL), Auth{}, "main")
	b.spares(repo.URL, "main", second, 1)
	if n := len(entries(t, b.folders().Spares)); n != 1 {
		t.Errorf("%d folders among the spares", n)
	}
	b.sources.Close()
	if n := len(entries(t, b.folders().Spares)); n != 0 {
		t.Errorf("%d spares are left after the end", n)
	}
}

func TestPrepareOfWhatIsNotThereIsLogged(t *testing.T) {
	b := newBench(t, Options{})
	b.sources.Prepare(b.remote(b.server.URL+"/none.git"), Auth{}, "main")
	deadline := time.Now().Add(10 * time.Second)
	for !strings.Contains(b.log.String(), "cannot prepare trees") {
		if time.Now().After(deadline) {
			t.Fatal("nothing was logged")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestSparesAreBounded(t *testing.T) {
	b := newBench(t, Options{})
	o := b.folders()
	o.MaxSparesTotal = 2
	b.sources.Close()
	b.sources = b.git.NewSources(o)
	repo := b.server.Repo(t, "qa.git")
	commit := repo.Commit(t, "b0", map[string]string{"a": "1"}, "first")
	for i := range 4 {
		branch := fmt.Sprintf("b%d", i)
		repo.Branch(t, branch, commit)
		b.sources.Prepare(b.remote(repo.URL), Auth{}, branch)
		b.spares(repo.URL, branch, commit, 1)
	}
	for deadline := time.Now().Add(10 * time.Second); len(entries(t, o.Spares)) != 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the spares on disk are %v", entries(t, o.Spares))
		}
	}
	b.spares(repo.URL, "b2", commit, 1)
	b.spares(repo.URL, "b3", commit, 1)
}

func TestSeveralBranchesAndHashes(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	one := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	two := repo.Commit(t, "release/1.0", map[string]string{"b": "2"}, "unrelated")
	odd := `we"ird;$(id)&'`
	repo.Branch(t, odd, one)
	b.tree(repo.URL, "main", one)
	b.tree(repo.URL, "release/1.0", two)
	b.tree(repo.URL, odd, one)
	b.tree(repo.URL, "main", one)

	other := gittest.NewRepo(t, filepath.Join(b.server.Dir, "new.git"), b.server.URL+"/new.git", "--object-format=sha256")
	commit := other.Commit(t, "main", map[string]string{"a": "1"}, "first")
	if len(commit) != 64 {
		t.Fatal(commit)
	}
	b.tree(other.URL, "main", commit)
}

func TestHistoryIsBounded(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	var commit string
	for i := range Depth + 10 {
		commit = repo.Commit(t, "main", map[string]string{"a": fmt.Sprint(i)}, fmt.Sprint("commit ", i))
	}
	dir := b.tree(repo.URL, "main", commit)
	if got := b.ask(dir, "rev-list", "--count", "HEAD"); got != fmt.Sprint(Depth) {
		t.Errorf("the tree has %s commits", got)
	}
	b.spares(repo.URL, "main", commit, 1)
	for i := range 3 {
		commit = repo.Commit(t, "main", map[string]string{"a": fmt.Sprint("more", i)}, "more")
		dir = b.tree(repo.URL, "main", commit)
	}
	if got := b.ask(dir, "rev-list", "--count", "HEAD"); got != fmt.Sprint(Depth) {
		t.Errorf("after three more the tree has %s commits", got)
	}
}

func TestMirrorIsTidied(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	commit := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	b.tree(repo.URL, "main", commit)
	b.spares(repo.URL, "main", commit, 1)
	m := b.sources.mirror(b.remote(repo.URL), false)
	for i := range manyPacks + 1 {
		commit = repo.Commit(t, "main", map[string]string{"a": fmt.Sprint(i)}, "more")
		b.tree(repo.URL, "main", commit)
		b.ask(m.dir, "repack", "-q")
	}
	b.spares(repo.URL, "main", commit, 1)
	if err := m.tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if packs, _ := filepath.Glob(filepath.Join(m.dir, "objects/pack/*.pack")); len(packs) > manyPacks {
		t.Errorf("%d packs", len(packs))
	}
	b.restart()
	b.tree(repo.URL, "main", commit)
}

func TestWorkspaceRefuses(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	taken := filepath.Join(b.trees, "taken")
	if err := os.Mkdir(taken, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		url, branch, dir string
		kind             sentry.FaultKind
		message          string
	}{
		"no such branch":     {repo.URL, "none", b.nextDir(), sentry.NotFound, "has no branch none"},
		"no such repository": {b.server.URL + "/none.git", "main", b.nextDir(), sentry.NotFound, "no such repository"},
		"an option":          {repo.URL, "--upload-pack=x", b.nextDir(), sentry.Invalid, `begins with "-"`},
		"a pattern":          {repo.URL, "ma*n", b.nextDir(), sentry.Invalid, "git does not allow"},
		"a folder that is":   {repo.URL, "main", taken, "", "file already exists"},
		"no parent":          {repo.URL, "main", filepath.Join(b.trees, "no/parent"), "", "no such file"},
	} {
		_, err := b.sources.Workspace(t.Context(), Want{Remote: b.remote(c.url), Branch: c.branch}, c.dir, nil)
		if err == nil || !strings.Contains(err.Error(), c.message) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c.kind != "" && faultKind(t, err) != c.kind {
			t.Errorf("%s: %s", name, faultKind(t, err))
		}
		if c.dir != taken && exists(c.dir) {
			t.Errorf("%s: %s was left", name, c.dir)
		}
	}
	if n := len(entries(t, taken)); n != 0 {
		t.Errorf("the folder that was there has %d entries", n)
	}
}

func TestLeftoversOfADeadProcess(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	commit := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	b.tree(repo.URL, "main", commit)
	b.spares(repo.URL, "main", commit, 1)
	b.sources.Close()
	write(t, filepath.Join(b.folders().Spares, "tree-123/half"))
	write(t, filepath.Join(b.folders().Spares, ".removing-1/half"))
	write(t, filepath.Join(b.state, "git/tmp/revision-1/HEAD"))
	write(t, filepath.Join(b.state, "mirrors/.removing-2/HEAD"))
	mirror := b.sources.mirror(b.remote(repo.URL), false).dir
	for _, name := range []string{
		"shallow.lock", "HEAD.lock", "config.lock", "packed-refs.lock", "refs/heads/main.lock", "objects/pack/tmp_pack_ABC", "objects/12/tmp_obj_x",
		"objects/pack/.tmp-1-pack-x", "objects/tmp_objdir-incoming-1/pack/x",
	} {
		write(t, filepath.Join(mirror, name))
	}
	b.restart()
	commit = repo.Commit(t, "main", map[string]string{"a": "2"}, "second")
	b.server.Forget()
	b.tree(repo.URL, "main", commit)
	b.spares(repo.URL, "main", commit, 1)
	if n := b.server.Count(gittest.Fetch); n != 1 {
		t.Errorf("%d fetches", n)
	}
	if n := len(entries(t, b.folders().Spares)); n != 1 {
		t.Errorf("the spares are %v", entries(t, b.folders().Spares))
	}
	if exists(filepath.Join(b.state, "git/tmp/revision-1")) || exists(filepath.Join(b.state, "mirrors/.removing-2")) {
		t.Error("leftovers are still there")
	}
	if left, _ := filepath.Glob(filepath.Join(mirror, "objects/pack/*tmp*")); len(left) > 0 {
		t.Errorf("left in the mirror: %v", left)
	}
	if log := b.log.String(); log != "" {
		t.Errorf("logged: %s", log)
	}
}

// Whatever a dead process, a full disk or a person did to the mirror: the next tree is right.
func TestDamagedMirrors(t *testing.T) {
	pack := func(dir string) string {
		found, _ := filepath.Glob(filepath.Join(dir, "objects/pack/*.pack"))
		return found[0]
	}
	scribble := func(path string, at int64) error {
		if err := os.Chmod(path, 0o600); err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte("scribble"), at)
		return errors.Join(err, f.Close())
	}
	for name, damage := range map[string]func(dir string) error{
		"empty folder":     func(dir string) error { _ = os.RemoveAll(dir); return os.Mkdir(dir, 0o700) },
		"gone":             os.RemoveAll,
		"a file":           func(dir string) error { _ = os.RemoveAll(dir); return os.WriteFile(dir, nil, 0o600) },
		"no HEAD":          func(dir string) error { return os.Remove(filepath.Join(dir, "HEAD")) },
		"empty HEAD":       func(dir string) error { return os.WriteFile(filepath.Join(dir, "HEAD"), nil, 0o600) },
		"no objects":       func(dir string) error { return os.RemoveAll(filepath.Join(dir, "objects")) },
		"no pack":          func(dir string) error { return os.Remove(pack(dir)) },
		"no index":         func(dir string) error { return os.Remove(strings.TrimSuffix(pack(dir), "pack") + "idx") },
		"half a pack":      func(dir string) error { return os.Truncate(pack(dir), 100) },
		"scribbled pack":   func(dir string) error { return scribble(pack(dir), 200) },
		"scribbled header": func(dir string) error { return scribble(pack(dir), 0) },
		"broken config":    func(dir string) error { return os.WriteFile(filepath.Join(dir, "config"), []byte("[core"), 0o600) },
		"broken ref": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "refs/heads/main"), []byte("x\n"), 0o600)
		},
		"ref to nothing": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "refs/heads/main"), []byte(strings.Repeat("a", 40)+"\n"), 0o600)
		},
		"broken shallow": func(dir string) error { return os.WriteFile(filepath.Join(dir, "shallow"), []byte("x\n"), 0o600) },
		"hostile config": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "config"), []byte("[core]\n\trepositoryformatversion = 7\n"), 0o600)
		},
	} {
		for _, moved := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, moved %v", name, moved), func(t *testing.T) {
				t.Parallel()
				b := newBench(t, Options{})
				repo := b.server.Repo(t, "qa.git")
				files := map[string]string{}
				for i := range 120 { // so many that they come as a pack
					files[fmt.Sprintf("f%d", i)] = strings.Repeat(fmt.Sprint(i, " "), 50)
				}
				commit := repo.Commit(t, "main", files, "first")
				b.tree(repo.URL, "main", commit)
				b.sources.Close()
				if err := damage(b.sources.mirror(b.remote(repo.URL), false).dir); err != nil {
					t.Fatal(err)
				}
				if moved {
					commit = repo.Commit(t, "main", map[string]string{"f7": "new"}, "second")
				}
				b.restart()
				b.tree(repo.URL, "main", commit)
			})
		}
	}
}

func TestServerThatBreaksOff(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	commit := repo.Commit(t, "main", map[string]string{"a": rand.Text() + rand.Text() + rand.Text() + rand.Text()}, "first")
	for _, cut := range []int64{0, 1, 4, 5, 50, 100, 200, 300} {
		b.server.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/git-upload-pack") && r.ContentLength > 150 {
				w = &cutWriter{ResponseWriter: w, left: cut}
			}
			next.ServeHTTP(w, r)
		})
		dir := b.nextDir()
		_, err := b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Branch: "main"}, dir, nil)
		if err == nil || faultKind(t, err) == sentry.Unauthorized || exists(dir) {
			t.Errorf("cut after %d bytes: %v", cut, err)
		}
	}
	b.server.Intercept(nil)
	b.tree(repo.URL, "main", commit)
}

// cutWriter lets only the first bytes of an answer through.
type cutWriter struct {
	http.ResponseWriter
	left int64
}

func (c *cutWriter) Write(p []byte) (int, error) {
	n := min(int64(len(p)), c.left)
	c.left -= n
	if _, err := c.ResponseWriter.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Who finds out late that a mirror was damaged does not throw away the one that is there meanwhile.
func TestADamagedMirrorIsThrownAwayOnce(t *testing.T) {
	gates := t.TempDir()
	real, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, Options{Binary: script(t, fmt.Sprintf(`if [ -e %[1]s/closed ]; then
	case " $* " in
	*" read-tree "*) if mkdir %[1]s/first 2>/dev/null; then echo fatal: odd >&2; exit 1; fi ;;
	*" fsck "*) : > %[1]s/late; while [ -e %[1]s/closed ]; do sleep 0.01; done; exit 1 ;;
	esac
fi
exec %[2]s "$@"`, gates, real))})
	repo := b.server.Repo(t, "qa.git")
	commit := repo.Commit(t, "main", map[string]string{"a": rand.Text()}, "first")
	b.tree(repo.URL, "main", commit)
	b.spares(repo.URL, "main", commit, 1)
	b.removeSpares(repo.URL, "main")
	packs, err := filepath.Glob(filepath.Join(b.sources.mirror(b.remote(repo.URL), false).dir, "objects/pack/*.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatal(packs, err)
	}
	if err := os.Chmod(packs[0], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(packs[0], 100); err != nil {
		t.Fatal(err)
	}
	b.server.Forget()
	write(t, filepath.Join(gates, "closed"))
	var late sync.WaitGroup
	dir := b.nextDir()
	late.Go(func() {
		if got, err := b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Branch: "main"}, dir, nil); err != nil || got != commit {
			t.Error(got, err)
		}
	})
	for !exists(filepath.Join(gates, "late")) { // it looks for what is wrong
		time.Sleep(time.Millisecond)
	}
	b.tree(repo.URL, "main", commit) // finds out, and has it fetched anew
	if err := os.Remove(filepath.Join(gates, "closed")); err != nil {
		t.Fatal(err)
	}
	late.Wait()
	if n := b.server.Count(gittest.Fetch); n != 1 {
		t.Errorf("it was fetched %d times", n)
	}
}

// Where trees are wanted on another file system than the spares, they are made there, and spares no more.
func TestSparesOnAnotherFileSystem(t *testing.T) {
	other, err := os.MkdirTemp("/dev/shm", "trees")
	if err != nil {
		t.Skipf("there is no second file system: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(other) })
	b := newBench(t, Options{})
	probe := filepath.Join(b.trees, "probe")
	write(t, probe)
	if os.Rename(probe, filepath.Join(other, "probe")) == nil {
		t.Skip("/dev/shm is on the same file system")
	}
	repo := b.server.Repo(t, "qa.git")
	commit := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	b.sources.Prepare(b.remote(repo.URL), Auth{}, "main")
	b.spares(repo.URL, "main", commit, 1)
	for i := range 2 {
		dir := filepath.Join(other, fmt.Sprint(i))
		if got, err := b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Branch: "main"}, dir, nil); err != nil || got != commit {
			t.Fatal(got, err)
		}
		b.check(dir, "main", commit)
		b.spares(repo.URL, "main", commit, 0)
	}
}

// A tree that was brought up to date is what a new one would be.
func TestUpdatedTreesAreLikeNewOnes(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	file := func(path, content string) gittest.File { return gittest.File{Path: path, Content: content} }
	gone := func(path string) gittest.File { return gittest.File{Path: path, Delete: true} }
	nothing := strings.Repeat("1", 40)
	steps := [][]gittest.File{
		{file("a", "1\n2\n"), file("d/e/f", "x\n"), file("d/g", "y\n"), {Path: "s", Content: nothing, Mode: "160000"}},
		{file("a", "3\n"), {Path: "d/g", Content: "y\n", Mode: "100755"}},
		{gone("d"), {Path: "d", Content: "a", Mode: "120000"}},
		{gone("d"), file("d/h", "z\n"), gone("s")},
		{file(".gitattributes", "* text eol=crlf\n")},
		{file("a", "4\n")},
		{file("sub/.gitattributes", "* -text\n"), file("sub/x", "x\n")},
		{gone(".gitattributes"), file("i", "$Id$\n")},
		{gone("sub/.gitattributes"), file(".gitattributes", "i ident\n")},
		{gone("a"), file("a/a/a", "deep\n"), file("z/.gitattributes", "* text eol=crlf\n"), file("z/z", "z\n")},
		{gone("z"), {Path: "z", Content: nothing, Mode: "160000"}, file(".gitignore", "*.o\n"), file("k.o", "object")},
	}
	for i, files := range steps {
		commit := repo.CommitFiles(t, "main", files, fmt.Sprint("step ", i))
		updated := b.tree(repo.URL, "main", commit)
		fresh := b.nextDir()
		gittest.Git(t, "", "-c", "core.protectNTFS=true", "clone", "-q", repo.URL, fresh)
		if got, want := snapshot(t, updated), snapshot(t, fresh); got != want {
			t.Errorf("step %d: the tree is\n%s, and should be\n%s", i, got, want)
		}
		b.spares(repo.URL, "main", commit, 1)
	}
	if log := b.log.String(); log != "" {
		t.Errorf("logged: %s", log)
	}
}

// snapshot writes down all that is in a tree but its repository.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		name, _ := filepath.Rel(dir, path)
		switch {
		case err != nil:
			return err
		case name == ".git":
			return filepath.SkipDir
		case name == ".":
			return nil
		case e.Type().IsRegular():
			info, _ := e.Info()
			content, err := os.ReadFile(path)
			fmt.Fprintf(&out, "%s %v %q\n", name, info.Mode()&0o100 != 0, content)
			return err
		case e.IsDir():
			fmt.Fprintf(&out, "%s/\n", name)
		default:
			target, err := os.Readlink(path)
			fmt.Fprintf(&out, "%s -> %s\n", name, target)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// Something that tidies up temporary folders takes files out of a spare that nobody has used for long.
func TestSparesThatWereTidiedAway(t *testing.T) {
	for _, moved := range []bool{false, true} {
		b := newBench(t, Options{})
		repo := b.server.Repo(t, "qa.git")
		commit := repo.Commit(t, "main", map[string]string{"a": "1", "dir/b": "2"}, "first")
		b.tree(repo.URL, "main", commit)
		b.spares(repo.URL, "main", commit, 1)

		b.sources.shelves.mu.Lock()
		one := &b.sources.shelves.of(source{b.remote(repo.URL), "main"}).spares[0]
		one.made = one.made.Add(-2 * checkAfter)
		dir := one.dir
		b.sources.shelves.mu.Unlock()
		if err := os.RemoveAll(filepath.Join(dir, "dir")); err != nil {
			t.Fatal(err)
		}
		if moved {
			commit = repo.Commit(t, "main", map[string]string{"a": "3"}, "second")
		}
		tree := b.tree(repo.URL, "main", commit) // which looks whether it is clean
		if _, err := os.Stat(filepath.Join(tree, "dir", "b")); err != nil {
			t.Errorf("moved %t: %v", moved, err)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("moved %t: %s is still there", moved, dir)
		}
	}
}

// Of several servers behind one address one may lag behind: what is sent then is not what was told of.
func TestAServerThatSendsWhatWas(t *testing.T) {
	b := newBench(t, Options{})
	repo, old := b.server.Repo(t, "qa.git"), b.server.Repo(t, "old.git")
	first := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	gittest.Git(t, repo.Dir, "push", "--quiet", old.Dir, "main:main")
	second := repo.Commit(t, "main", map[string]string{"a": "2"}, "second")
	lags := true
	b.server.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if lags && !strings.Contains(r.UserAgent(), "sentry") { // the git binary, which fetches
			r = r.Clone(r.Context())
			r.URL.Path = strings.Replace(r.URL.Path, "/qa.git", "/old.git", 1)
		}
		next.ServeHTTP(w, r)
	})
	dir := b.nextDir()
	got, err := b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Branch: "main"}, dir, nil)
	if err == nil || faultKind(t, err) != sentry.Transient || !strings.Contains(err.Error(), "says that it is at "+sentry.ShortCommit(second)+", and sends "+sentry.ShortCommit(first)) {
		t.Errorf("%s: %v", got, err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("there is a workspace")
	}
	lags = false
	b.tree(repo.URL, "main", second)

	// A branch that is rewritten between the question and the fetch is not that.
	repo.Branch(t, "other", first)
	third := repo.Commit(t, "other", map[string]string{"a": "3"}, "third")
	var rewrite sync.Once
	b.server.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !strings.Contains(r.UserAgent(), "sentry") {
			rewrite.Do(func() { repo.Reset(t, "main", third) })
		}
		next.ServeHTTP(w, r)
	})
	repo.Commit(t, "main", map[string]string{"a": "4"}, "gone before it is fetched")
	if got, err := b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Branch: "main"}, b.nextDir(), nil); err != nil || got != third {
		t.Errorf("%s, want %s: %v", got, third, err)
	}
}

// TestSilence: no git is run for a server that wants to be left alone.
func TestSilence(t *testing.T) {
	var silent atomic.Bool
	b := newBench(t, Options{Silence: func(string) error {
		if silent.Load() {
			return &sentry.Fault{Kind: sentry.RateLimited, RetryAfter: time.Minute, Err: errors.New("not asked")}
		}
		return nil
	}})
	repo := b.server.Repo(t, "qa.git")
	commit := repo.Commit(t, "main", map[string]string{"a": "b"}, "first")
	silent.Store(true)
	for what, ask := range map[string]func() error{
		"a clone": func() error {
			_, err := b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Branch: "main"}, b.nextDir(), nil)
			return err
		},
		"a question by git": func() error {
			_, err := b.git.Heads(t.Context(), b.remote(repo.Dir), Auth{}, patterns(t, "main"))
			return err
		},
	} {
		if err := ask(); faultKind(t, err) != sentry.RateLimited || sentry.AsFault(err).RetryAfter != time.Minute {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := b.server.Count(gittest.Fetch); n != 0 {
		t.Errorf("%d fetches", n)
	}
	silent.Store(false)
	b.tree(repo.URL, "main", commit)
}
