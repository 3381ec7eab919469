package gittest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"sort"
	"strings"
	"sync/atomic"
	"testing"
)

// Repo is a bare repository. Its methods write to it directly, not through the server.
type Repo struct {
	URL string
	Dir string
}

// File is one entry of a commit.
type File struct {
	Path    string
	Content string // the target of a link, the commit of a submodule
	Mode    string // "100644" where empty, "100755", "120000" (link), "160000" (submodule)
	Delete  bool
}

// clock counts the commits of a test process: each gets a second of its own after a fixed day, so that equal commits
// differ and every run makes the same ones.
var clock atomic.Int64

const firstSecond = 1_700_000_000

// NewRepo makes an empty bare repository at dir whose default branch is main.
func NewRepo(t testing.TB, dir, url string, args ...string) *Repo {
	t.Helper()
	Git(t, "", append(append([]string{"init", "-q", "--bare", "--initial-branch=main"}, args...), dir)...)
	return &Repo{URL: url, Dir: dir}
}

// Commit adds a commit with these files (path to content) to a branch, which it makes where there is none, and gives the
// commit's id. Files that are not named stay as they are.
func (r *Repo) Commit(t testing.TB, branch string, files map[string]string, msg string) string {
	t.Helper()
	var list []File
	for path, content := range files {
		list = append(list, File{Path: path, Content: content})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Path < list[j].Path })
	return r.CommitFiles(t, branch, list, msg)
}

// CommitFiles is Commit with modes, links, submodules and deletions.
func (r *Repo) CommitFiles(t testing.TB, branch string, files []File, msg string) string {
	t.Helper()
	ref := "refs/heads/" + branch
	var in bytes.Buffer
	second := firstSecond + clock.Add(1)
	fmt.Fprintf(&in, "commit %s\nmark :1\nauthor Ada Author <ada@example.com> %d +0000\n", ref, second)
	fmt.Fprintf(&in, "committer Carl Committer <carl@example.com> %d +0000\n", second)
	fmt.Fprintf(&in, "data %d\n%s\n", len(msg), msg)
	if r.Head(t, branch) != "" {
		fmt.Fprintf(&in, "from %s^0\n", ref)
	}
	for _, f := range files {
		mode := f.Mode
		if mode == "" {
			mode = "100644"
		}
		switch {
		case f.Delete:
			fmt.Fprintf(&in, "D %s\n", quote(f.Path))
		case mode == "160000":
			fmt.Fprintf(&in, "M 160000 %s %s\n", f.Content, quote(f.Path))
		default:
			fmt.Fprintf(&in, "M %s inline %s\ndata %d\n%s\n", mode, quote(f.Path), len(f.Content), f.Content)
		}
	}
	in.WriteString("get-mark :1\n")
	return strings.TrimSpace(run(t, r.Dir, in.Bytes(), "fast-import", "--quiet"))
}

// quote writes a path as fast-import reads it whatever bytes it has.
func quote(path string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(path) {
		if c := path[i]; c < ' ' || c == '"' || c == '\\' || c > '~' {
			fmt.Fprintf(&b, `\%03o`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String() + `"`
}

// Head gives the commit that a branch points at, "" where there is no such branch.
func (r *Repo) Head(t testing.TB, branch string) string {
	t.Helper()
	return strings.TrimSpace(run(t, r.Dir, nil, "for-each-ref", "--format=%(objectname)", "refs/heads/"+branch))
}

// Branch makes a branch, or moves it (forced), to a commit, tag or branch.
func (r *Repo) Branch(t testing.TB, branch, to string) {
	t.Helper()
	commit := strings.TrimSpace(run(t, r.Dir, nil, "rev-parse", "--verify", to+"^{commit}"))
	run(t, r.Dir, nil, "update-ref", "refs/heads/"+branch, commit)
}

// Reset is Branch under the name of what it is for: a force push.
func (r *Repo) Reset(t testing.TB, branch, to string) {
	t.Helper()
	r.Branch(t, branch, to)
}

// Delete removes a branch.
func (r *Repo) Delete(t testing.TB, branch string) {
	t.Helper()
	run(t, r.Dir, nil, "update-ref", "-d", "refs/heads/"+branch)
}

// Branches makes n branches named by format (which has one %d) that point at a commit, and packs all refs: thousands
// take one process.
func (r *Repo) Branches(t testing.TB, n int, format, commit string) {
	t.Helper()
	var in bytes.Buffer
	for i := range n {
		fmt.Fprintf(&in, "create refs/heads/%s %s\n", fmt.Sprintf(format, i), commit)
	}
	run(t, r.Dir, in.Bytes(), "update-ref", "--stdin")
	run(t, r.Dir, nil, "pack-refs", "--all")
}

// Git runs git in a folder ("" for the current one) with a clean environment and gives its standard output; the test
// fails where git does.
func Git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	return run(t, dir, nil, args...)
}

func run(t testing.TB, dir string, stdin []byte, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = Environ()
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return out.String()
}

// Environ is an environment for git in which no configuration of the machine or of the user plays a part.
func Environ() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + os.DevNull,
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_TERMINAL_PROMPT=0",
		"LC_ALL=C",
		"GIT_AUTHOR_NAME=Ada Author", "GIT_AUTHOR_EMAIL=ada@example.com",
		"GIT_COMMITTER_NAME=Carl Committer", "GIT_COMMITTER_EMAIL=carl@example.com",
	}
}
