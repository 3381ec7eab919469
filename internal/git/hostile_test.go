//go:build unix

package git

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sentry/internal/git/gittest"
	"sentry/internal/sentry"
)

// Whatever stands where a name, a commit or an address belongs is no option, and runs nothing.
func TestOptionInjection(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	commit := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	marker := filepath.Join(t.TempDir(), "pwned")
	bare := t.TempDir()
	if err := b.git.initBare(t.Context(), bare, false); err != nil {
		t.Fatal(err)
	}
	tree := b.tree(repo.URL, "main", commit)
	for _, bad := range []string{
		"--upload-pack=touch " + marker, "-u" + "touch " + marker, "-ccore.sshCommand=touch " + marker, "--config=core.fsmonitor=touch " + marker,
		"--exec=touch " + marker, "--output=" + marker, "-h", "--orphan=z", "--end-of-options", " --upload-pack=touch " + marker,
		"\u00a0-x", "--template=" + marker, "--help", "--recurse-submodules", "--prefix=../../" + marker, "$(touch " + marker + ")", "`touch " + marker + "`",
		"a;touch${IFS}" + marker,
	} {
		ctx := within(t, 20*time.Second)
		// By the front door.
		if _, err := b.sources.Workspace(ctx, Want{Remote: b.remote(repo.URL), Branch: bad}, b.nextDir(), nil); err == nil {
			t.Errorf("there is a tree of branch %q", bad)
		}
		if _, err := b.git.Revision(ctx, b.remote(repo.URL), Auth{}, bad, commit); err == nil && sentry.CheckBranch(bad) != nil {
			t.Errorf("there is a revision of branch %q", bad)
		}
		if _, err := b.git.Revision(ctx, b.remote(repo.URL), Auth{}, "main", bad); err == nil {
			t.Errorf("there is a revision of commit %q", bad)
		}
		b.sources.Prepare(b.remote(repo.URL), Auth{}, bad)
		// And where the checks of names are behind us.
		for what, try := range map[string]func() error{
			"fetch": func() error {
				return b.git.fetch(ctx, fetching{remote: b.remote(repo.URL), dir: bare, from: bad, to: heads + "x", depth: 1, maxBytes: 1 << 20})
			},
			"ls-tree":   func() error { return b.git.checkTree(ctx, bare, bad) },
			"read-tree": func() error { return b.git.plant(ctx, bare, tree, b.remote(repo.URL), "main", bad) },
			"init":      func() error { return b.git.initBare(ctx, bad, false) },
			"ls-remote": func() error {
				_, err := b.git.run(ctx, call{args: []string{"ls-remote", "--heads", "--end-of-options", bad}, scheme: "https"})
				return err
			},
			"log": func() error {
				_, err := b.git.run(ctx, call{args: []string{"--git-dir=" + bare, "log", "-1", "--end-of-options", bad, "--"}})
				return err
			},
		} {
			if err := try(); err == nil && what != "init" {
				t.Errorf("%s of %q went well", what, bad)
			}
		}
		if exists(marker) {
			t.Fatalf("%q was run", bad)
		}
	}
}

func TestTransportsThatAreNotAllowed(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	repo.Commit(t, "main", nil, "first")
	marker := filepath.Join(t.TempDir(), "pwned")
	ext := "ext::sh -c touch% " + marker
	for _, c := range []struct{ scheme, url string }{
		{"https", ext},
		{"http", ext},
		{"ssh", ext},
		{"file", ext},
		{"", ext},
		{"https", repo.URL},
		{"https", repo.Dir},
		{"https", "file://" + repo.Dir},
		{"", repo.URL},
		{"", repo.Dir},
		{"http", repo.Dir},
		{"ssh", repo.URL},
		{"https", "fd::7"},
		{"https", "git://127.0.0.1/x"},
		{"https", "ftp://127.0.0.1/x"},
	} {
		if out, err := b.git.run(within(t, 10*time.Second), call{args: []string{"ls-remote", "--end-of-options", c.url}, scheme: c.scheme}); err == nil {
			t.Errorf("with %q allowed, %s answers %s", c.scheme, c.url, out)
		}
	}
	if exists(marker) {
		t.Error("ext:: was run")
	}
}

// Nothing in our own environment, or in the account's files, changes what git does.
func TestHostileEnvironment(t *testing.T) {
	evil := gittest.NewServer(t)
	home, marker := t.TempDir(), filepath.Join(t.TempDir(), "pwned")
	touch := script(t, "touch "+marker+"; exit 1")
	config := fmt.Sprintf("[url %q]\n\tinsteadOf = http://\n[core]\n\tfsmonitor = %s\n\thooksPath = %s\n\tsshCommand = %s\n\taskPass = %s\n"+
		"[credential]\n\thelper = !%s\n[filter \"lfs\"]\n\tsmudge = %s\n\tprocess = %s\n\trequired = true\n[filter \"x\"]\n\tsmudge = %s\n[http]\n\tproxy = %s\n"+
		"[init]\n\ttemplateDir = %s\n[submodule]\n\trecurse = true\n",
		evil.URL+"/", touch, filepath.Dir(touch), touch, touch, touch, touch, touch, touch, evil.URL, filepath.Dir(touch))
	for _, name := range []string{".gitconfig", "git/config", "system"} {
		path := filepath.Join(home, name)
		write(t, path)
		if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hook := filepath.Join(filepath.Dir(touch), "hooks/post-checkout")
	write(t, hook)
	if err := os.WriteFile(hook, []byte("#!/bin/sh\ntouch "+marker), 0o700); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	commit := repo.Commit(t, "main", map[string]string{
		".gitattributes": "*.bin filter=lfs\n*.x filter=x\n", "a.bin": "version https://git-lfs.github.com/spec/v1\n", "b.x": "x",
		".lfsconfig": "[lfs]\n\turl = " + evil.URL + "\n",
	}, "first")
	for key, value := range map[string]string{
		"HOME": home, "XDG_CONFIG_HOME": home, "GIT_CONFIG_GLOBAL": filepath.Join(home, ".gitconfig"), "GIT_CONFIG_SYSTEM": filepath.Join(home, "system"),
		"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "url." + evil.URL + "/.insteadOf", "GIT_CONFIG_VALUE_0": "http://",
		"GIT_CONFIG_PARAMETERS": "'core.fsmonitor'='" + touch + "'",
		"GIT_SSH_COMMAND":       touch, "GIT_SSH": touch, "GIT_ASKPASS": touch, "SSH_ASKPASS": touch, "GIT_PROXY_COMMAND": touch, "GIT_EDITOR": touch,
		"GIT_PAGER": touch, "GIT_EXTERNAL_DIFF": touch, "GIT_TEMPLATE_DIR": filepath.Dir(touch), "GIT_EXEC_PATH": filepath.Dir(touch),
		"GIT_TRACE": marker, "GIT_TRACE_CURL": marker, "GIT_TRACE2": marker, "GIT_TRACE_PACKET": marker,
		"GIT_DIR": home, "GIT_WORK_TREE": home, "GIT_INDEX_FILE": marker, "GIT_OBJECT_DIRECTORY": home, "GIT_ALTERNATE_OBJECT_DIRECTORIES": home,
		"GIT_NAMESPACE": "x", "GIT_ALLOW_PROTOCOL": "ext", "GIT_PROTOCOL_FROM_USER": "1", "GIT_SSL_NO_VERIFY": "1", "LD_PRELOAD": "",
	} {
		t.Setenv(key, value)
	}
	dir := b.nextDir()
	got, err := b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Branch: "main"}, dir, nil)
	if err != nil || got != commit {
		t.Fatal(got, err)
	}
	if r, err := b.git.Revision(t.Context(), b.remote(repo.URL), Auth{}, "main", commit); err != nil || r.Subject != "first" {
		t.Error(r, err)
	}
	if content, _ := os.ReadFile(filepath.Join(dir, "a.bin")); !strings.HasPrefix(string(content), "version https://git-lfs") {
		t.Errorf("a.bin has %q", content)
	}
	if exists(marker) || evil.Count() > 0 {
		t.Errorf("marker %v, %d requests to the wrong server", exists(marker), evil.Count())
	}
	if exists(filepath.Join(dir, ".git/hooks")) {
		t.Error("the tree has hooks")
	}
}

func TestSubmodulesStayEmpty(t *testing.T) {
	b := newBench(t, Options{})
	other := b.server.Repo(t, "other.git")
	sub := other.Commit(t, "main", map[string]string{"secret": "x"}, "first")
	marker := filepath.Join(t.TempDir(), "pwned")
	repo := b.server.Repo(t, "qa.git")
	repo.CommitFiles(t, "main", []gittest.File{
		{Path: "lib", Content: sub, Mode: "160000"},
		{Path: "lib\r", Content: sub, Mode: "160000"},
		{Path: ".gitmodules", Content: "[submodule \"lib\"]\n\tpath = lib\n\turl = " + other.URL + "\n\tupdate = !touch " + marker + "\n" +
			"[submodule \"-u\"]\n\tpath = -x\n\turl = -utouch " + marker + "\n[submodule \"../../x\"]\n\tpath = lib\r\n\turl = ../other.git\n"},
	}, "first")
	dir := b.nextDir()
	if _, err := b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Branch: "main"}, dir, nil); err != nil {
		t.Fatal(err)
	}
	if names := entries(t, filepath.Join(dir, "lib")); len(names) != 0 {
		t.Errorf("the submodule has %v", names)
	}
	for _, r := range b.server.Requests() {
		if r.Repository == "other.git" {
			t.Errorf("the submodule was asked for: %+v", r)
		}
	}
	if exists(marker) {
		t.Error("a submodule ran something")
	}
}

// hostileTree makes a commit of a tree that no git would make, and points main at it.
func hostileTree(t *testing.T, repo *gittest.Repo, tree []byte) {
	t.Helper()
	commit := func(args []string, stdin []byte) string {
		cmd := exec.Command("git", args...)
		cmd.Dir, cmd.Env, cmd.Stdin = repo.Dir, gittest.Environ(), bytes.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	id := commit([]string{"hash-object", "-t", "tree", "-w", "--literally", "--stdin"}, tree)
	repo.Branch(t, "main", commit([]string{"commit-tree", "-m", "hostile", id}, nil))
}

func treeEntry(t *testing.T, mode, name, object string) []byte {
	t.Helper()
	var id []byte
	if _, err := fmt.Sscanf(object, "%x", &id); err != nil {
		t.Fatal(err)
	}
	return append([]byte(mode+" "+name+"\x00"), id...)
}

func TestNamesThatAreNotWritten(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "qa.git")
	repo.Commit(t, "main", map[string]string{"hook": "#!/bin/sh\ntouch pwned\n"}, "first")
	blob := b.ask(repo.Dir, "rev-parse", "main:hook")
	sub := b.ask(repo.Dir, "rev-parse", "main^{tree}")
	for _, c := range []struct{ mode, name, object string }{
		{"100755", ".git", blob},
		{"40000", ".git", sub},
		{"40000", ".GIT", sub},
		{"40000", "..", sub},
		{"40000", ".", sub},
		{"40000", "git~1", sub},
		{"40000", ".g\u200cit", sub},
		{"120000", ".git", blob},
		{"40000", ".git ", sub},
		{"100644", "a/../../b", blob},
		{"100644", "../b", blob},
	} {
		hostileTree(t, repo, treeEntry(t, c.mode, c.name, c.object))
		dir := b.nextDir()
		_, err := b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Branch: "main"}, dir, nil)
		if err == nil {
			t.Errorf("a tree with %s %q was made", c.mode, c.name)
			continue
		}
		if kind := faultKind(t, err); kind != sentry.Invalid {
			t.Errorf("%q: %s: %v", c.name, kind, err)
		}
		if exists(dir) || exists(filepath.Join(b.trees, "b")) {
			t.Errorf("%q left something", c.name)
		}
	}
	if log := b.log.String(); strings.Contains(log, "damaged") {
		t.Errorf("logged: %s", log)
	}
}

func TestLinksLeadNowhereWhileWriting(t *testing.T) {
	b := newBench(t, Options{})
	outside := t.TempDir()
	repo := b.server.Repo(t, "qa.git")
	repo.CommitFiles(t, "main", []gittest.File{
		{Path: "a", Content: outside, Mode: "120000"}, {Path: "up", Content: "../../..", Mode: "120000"}, {Path: "self", Content: "self", Mode: "120000"},
	}, "links")
	dir := b.nextDir()
	if _, err := b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Branch: "main"}, dir, nil); err != nil {
		t.Fatal(err)
	}
	// A link that becomes a folder with files, in a spare of the commit before.
	b.spares(repo.URL, "main", repo.Head(t, "main"), 1)
	commit := repo.CommitFiles(t, "main", []gittest.File{{Path: "a", Delete: true}, {Path: "a/file", Content: "x"}}, "folder")
	b.tree(repo.URL, "main", commit)
	if n := len(entries(t, outside)); n != 0 {
		t.Errorf("%d files were written through a link", n)
	}
	if err := RemoveTree(dir); err != nil || !exists(outside) {
		t.Errorf("removing: %v", err)
	}
}

func TestBombs(t *testing.T) {
	b := newBench(t, Options{MaxTreeEntries: 1000, MaxTreeBytes: 1 << 20})
	repo := b.server.Repo(t, "qa.git")
	blob := func() string {
		repo.Commit(t, "main", map[string]string{"x": "x"}, "x")
		return b.ask(repo.Dir, "rev-parse", "main:x")
	}()
	ten := func(mode, object string) (tree []byte) {
		for i := range 10 {
			tree = append(tree, treeEntry(t, mode, strconv.Itoa(i), object)...)
		}
		return tree
	}
	for name, c := range map[string]struct {
		make    func()
		message string
	}{
		"ten thousand million files": {func() {
			hostileTree(t, repo, ten("100644", blob))
			for range 9 {
				hostileTree(t, repo, ten("40000", b.ask(repo.Dir, "rev-parse", "main^{tree}")))
			}
		}, "more than 1000 files and folders"},
		"as many folders without a file": {func() {
			hostileTree(t, repo, nil)
			for range 10 {
				hostileTree(t, repo, ten("40000", b.ask(repo.Dir, "rev-parse", "main^{tree}")))
			}
		}, "more than 1000 files and folders"},
		"many bytes": {func() {
			repo.Commit(t, "main", map[string]string{"big": strings.Repeat("0", 1<<20), "more": "x"}, "big")
		}, "more than 1048576 bytes"},
		"many levels": {func() {
			repo.Commit(t, "main", map[string]string{strings.Repeat("d/", maxPathDepth+1) + "f": "x"}, "deep")
		}, "folders in each other"},
		"a long path": {func() {
			repo.Commit(t, "main", map[string]string{strings.Repeat(strings.Repeat("d", 200)+"/", 30) + "f": "x"}, "long")
		}, "a path has more than"},
		"a very long name": {func() {
			repo.Commit(t, "main", map[string]string{strings.Repeat("d", 100_000): "x"}, "long")
		}, "a path has more than"},
	} {
		if repo.Head(t, "main") != "" {
			repo.Delete(t, "main")
		}
		c.make()
		dir := b.nextDir()
		begin := time.Now()
		_, err := b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Branch: "main"}, dir, nil)
		if err == nil || !strings.Contains(err.Error(), c.message) || faultKind(t, err) != sentry.Invalid || exists(dir) {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(begin); took > 20*time.Second {
			t.Errorf("%s: it took %s", name, took)
		}
	}
}

// A server that sends a pack without end fills neither the disk nor the time.
func TestEndlessPack(t *testing.T) {
	b := newBench(t, Options{MaxMirrorBytes: 8 << 20, CloneTimeout: time.Minute})
	repo := b.server.Repo(t, "qa.git")
	repo.Commit(t, "main", nil, "first")
	var sent atomic.Int64
	b.server.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if !bytes.Contains(body, []byte("command=fetch")) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
		packet := func(data []byte) bool {
			n, err := fmt.Fprintf(w, "%04x%s", len(data)+4, data)
			sent.Add(int64(n))
			return err == nil
		}
		packet([]byte("shallow-info\n"))
		_, _ = io.WriteString(w, "0001")
		packet([]byte("packfile\n"))
		// One object, a blob of 2^44 bytes, in zlib blocks that are not compressed.
		header := append([]byte("\x01PACK"), 0, 0, 0, 2, 0, 0, 0, 1, 0xb0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20, 0x78, 0x01)
		packet(header)
		block := make([]byte, 1+5+60_000)
		block[0] = 1
		binary.LittleEndian.PutUint16(block[2:], 60_000)
		binary.LittleEndian.PutUint16(block[4:], ^uint16(60_000))
		for packet(block) && sent.Load() < 4<<30 {
		}
	})
	dir := b.nextDir()
	_, err := b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Branch: "main"}, dir, nil)
	if err == nil || faultKind(t, err) != sentry.Invalid || !strings.Contains(err.Error(), "more than 8388608 bytes") {
		t.Errorf("%v", err)
	}
	if size, _ := diskUse(filepath.Join(b.state, "mirrors"), 1<<40); size > 1<<20 {
		t.Errorf("%d bytes are left on disk", size)
	}
	if sent.Load() >= 4<<30 {
		t.Error("all of it was taken")
	}
}

func TestServerThatHangs(t *testing.T) {
	b := newBench(t, Options{CloneTimeout: 500 * time.Millisecond})
	repo := b.server.Repo(t, "qa.git")
	repo.Commit(t, "main", nil, "first")
	release := make(chan struct{})
	defer close(release)
	b.server.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if bytes.Contains(body, []byte("command=fetch")) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return
		}
		next.ServeHTTP(w, r)
	})
	begin := time.Now()
	dir := b.nextDir()
	_, err := b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Branch: "main"}, dir, nil)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "not done within 500ms") || faultKind(t, err) != sentry.Transient {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := b.sources.Workspace(ctx, Want{Remote: b.remote(repo.URL), Branch: "main"}, b.nextDir(), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if took := time.Since(begin); took > 10*time.Second || exists(dir) {
		t.Errorf("it took %s", took)
	}
	// Whoever waits for the mirror meanwhile waits no longer than it wants to.
	go func() {
		_, _ = b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Branch: "main"}, b.nextDir(), nil)
	}()
	time.Sleep(50 * time.Millisecond)
	if _, err := b.sources.Workspace(within(t, 100*time.Millisecond), Want{Remote: b.remote(repo.URL), Branch: "main"}, filepath.Join(b.trees, "waits"), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting: %v", err)
	}
}

// Children that ignore the signal, hold the pipes and outlive git are gone when run returns.
func TestTheWholeGroupEnds(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	stubborn := script(t, `trap '' TERM HUP INT
(trap '' TERM HUP INT; echo $$ >> `+pids+`; sh -c 'echo $$ >> `+pids+`; exec sleep 60') &
echo $$ >> `+pids+`
sleep 60`)
	g, err := New(Options{Binary: stubborn, StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 500*time.Millisecond)
	begin := time.Now()
	if _, err := g.run(ctx, call{args: []string{"version"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if took := time.Since(begin); took > 500*time.Millisecond+2*dying {
		t.Errorf("it took %s", took)
	}
	text, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Fields(string(text)) {
		pid, _ := strconv.Atoi(line)
		for deadline := time.Now().Add(2 * time.Second); syscall.Kill(pid, 0) == nil && !zombie(pid); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d is still there", pid)
			}
		}
	}
}

func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func TestOutputIsBounded(t *testing.T) {
	g, err := New(Options{Binary: script(t, `case "$*" in *flood*) yes | tr -d '\n';; *) yes 'error: much to say' | head -c 1000000 >&2; exit 1;; esac`), StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.run(within(t, time.Minute), call{args: []string{"flood"}}); err == nil || !errors.Is(err, errTooMuch) {
		t.Errorf("a flood: %v", err)
	}
	_, err = g.run(within(t, time.Minute), call{args: []string{"complain"}})
	if err == nil || len(err.Error()) > 1000 || !strings.Contains(err.Error(), "much to say") {
		t.Errorf("many complaints: %v", err)
	}
}

func TestMessagesAreClean(t *testing.T) {
	g, err := New(Options{Binary: script(t, `printf 'remote: \033]0;pwn\a\033[2Jtold \302\233you\nfatal: secret-1 \342\200\256evil\r\n' >&2; exit 128`), StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = g.run(t.Context(), call{args: []string{"fetch"}, hide: []string{"secret-1"}})
	if want := "git fetch: \uFFFD]0;pwn\uFFFD\uFFFD[2Jtold \uFFFDyou; [redacted] \uFFFDevil"; err == nil || err.Error() != want {
		t.Errorf("%q", err)
	}
}

func TestOldGitIsRefused(t *testing.T) {
	for text, want := range map[string]string{"git version 2.29.3": "too old; 2.30.0 or newer", "hg 1.0": "cannot read the version"} {
		g, err := New(Options{Binary: script(t, "echo "+text), StateDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Version(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
