//go:build !windows

package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"sentry/internal/forge/forgetest"
	"sentry/internal/git/gittest"
)

// TestScripts runs the scripts below testdata: they specify the command line, with the real daemon, real git over HTTP
// and real commands. Each has a Git server of its own at $GIT.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			w := &scriptWorld{t: t, server: gittest.NewServer(t), repos: map[string]*gittest.Repo{}, started: map[string]*started{}, made: map[string]bool{}}
			env.Values[worldKey{}] = w
			env.Setenv("GIT", w.server.URL)
			env.Setenv("USER", "tester")
			env.Defer(w.killAll)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"repo":       cmdRepo,
			"push":       cmdPush,
			"branch":     cmdBranch,
			"account":    cmdAccount,
			"forge":      cmdForge,
			"forged":     cmdForged,
			"token":      cmdToken,
			"code":       cmdCode,
			"start":      cmdStart,
			"signal":     cmdSignal,
			"ended":      cmdEnded,
			"eventually": cmdEventually,
			"set":        cmdSet,
			"json":       cmdJSON,
			"keys":       cmdKeys,
		},
	})
}

type worldKey struct{}

// scriptWorld is what a script has beside its files.
type scriptWorld struct {
	t       *testing.T
	server  *gittest.Server
	repos   map[string]*gittest.Repo
	started map[string]*started
	forge   forgetest.Lab   // nil without one
	made    map[string]bool // repositories of the forge
}

// started is a process in the background.
type started struct {
	cmd            *exec.Cmd
	stdout, stderr *os.File
	done           chan struct{}
}

func (w *scriptWorld) killAll() {
	for _, s := range w.started {
		select {
		case <-s.done:
			continue
		default:
		}
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		_ = s.cmd.Process.Signal(syscall.SIGCONT)
		select {
		case <-s.done:
		case <-time.After(15 * time.Second):
			_ = s.cmd.Process.Kill()
			<-s.done
		}
	}
}

func worldOf(ts *testscript.TestScript) *scriptWorld { return ts.Value(worldKey{}).(*scriptWorld) }

func need(ts *testscript.TestScript, neg, ok bool, usage string) {
	if neg || !ok {
		ts.Fatalf("usage: %s", usage)
	}
}

// repo NAME …: makes repositories with one commit on main.
func cmdRepo(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) > 0, "repo NAME …")
	w := worldOf(ts)
	for _, name := range args {
		w.repos[name] = w.server.Repo(w.t, name+".git")
		w.repos[name].Commit(w.t, "main", map[string]string{"README": name}, "start "+name)
	}
}

// push REPO[@BRANCH] MESSAGE [PATH=FILE …]: commits files of the script, and sets $COMMIT.
func cmdPush(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) >= 2, "push REPO[@BRANCH] MESSAGE [PATH=FILE …]")
	w := worldOf(ts)
	name, branch, ok := strings.Cut(args[0], "@")
	if !ok {
		branch = "main"
	}
	var files []gittest.File
	for _, pair := range args[2:] {
		path, file, _ := strings.Cut(pair, "=")
		files = append(files, gittest.File{Path: path, Content: ts.ReadFile(file), Mode: "100755"})
	}
	message := strings.NewReplacer(`\e`, "\x1b", `\a`, "\a", `\r`, "\u202e").Replace(args[1])
	ts.Setenv("COMMIT", w.repos[name].CommitFiles(w.t, branch, files, message))
}

// branch REPO NAME FROM: makes a branch; branch -d REPO NAME deletes it.
func cmdBranch(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 3, "branch REPO NAME FROM, or branch -d REPO NAME")
	w := worldOf(ts)
	if args[0] == "-d" {
		w.repos[args[1]].Delete(w.t, args[2])
		return
	}
	w.repos[args[0]].Branch(w.t, args[1], args[2])
}

// account USER TOKEN: from now on the server asks for it; an empty token admits everybody.
func cmdAccount(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 2, "account USER TOKEN")
	worldOf(ts).server.SetToken(args[0], args[1])
}

// forge github|gitlab|gitea: starts an emulated forge at $FORGE.
func cmdForge(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 1, "forge github|gitlab|gitea")
	w := worldOf(ts)
	switch args[0] {
	case "github":
		w.forge = forgetest.NewGitHub(w.t, forgetest.GitHubOptions{Loopback: true})
	case "gitlab":
		w.forge = forgetest.NewGitLab(w.t, forgetest.GitLabOptions{Loopback: true})
	case "gitea":
		w.forge = forgetest.NewEmulatedGitea(w.t, forgetest.EmulatedGiteaOptions{Loopback: true})
	}
	ts.Setenv("FORGE", w.forge.URL())
}

// forged NAME …: makes repositories with a branch main on the forge; one more commit where it is there.
func cmdForged(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) > 0 && worldOf(ts).forge != nil, "forged OWNER/NAME …")
	f := worldOf(ts).forge
	for _, name := range args {
		if !worldOf(ts).made[name] {
			worldOf(ts).made[name] = true
			f.Repository(name, false)
		}
		ts.Setenv("COMMIT", f.Push(name, "main"))
	}
}

// token VARIABLE RIGHT …: makes a token of the forge with these rights.
func cmdToken(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) > 0 && worldOf(ts).forge != nil, "token VARIABLE RIGHT …")
	ts.Setenv(args[0], worldOf(ts).forge.Token(args[1:]...))
}

// code N COMMAND …: runs a command, which must end with exit code N.
func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) >= 2, "code N COMMAND …")
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// start NAME ARGUMENTS …: starts sentry in the background.
func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) >= 2, "start NAME ARGUMENTS …")
	s := &started{done: make(chan struct{})}
	path, err := exec.LookPath("sentry")
	if dir := ts.Getenv("PATH"); err != nil {
		path, err = lookIn(dir, "sentry")
	}
	ts.Check(err)
	s.stdout, err = os.Create(ts.MkAbs(args[0] + ".stdout"))
	ts.Check(err)
	s.stderr, err = os.Create(ts.MkAbs(args[0] + ".stderr"))
	ts.Check(err)
	s.cmd = exec.Command(path, args[1:]...)
	s.cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "GIT", "USER", "TMPDIR", "TOKEN", "FORGE", "NO_COLOR", "GOCOVERDIR"} {
		if v := ts.Getenv(name); v != "" {
			s.cmd.Env = append(s.cmd.Env, name+"="+v)
		}
	}
	s.cmd.Stdout, s.cmd.Stderr = s.stdout, s.stderr
	ts.Check(s.cmd.Start())
	worldOf(ts).started[args[0]] = s
	go func() {
		defer close(s.done)
		_ = s.cmd.Wait()
	}()
}

func lookIn(path, name string) (string, error) {
	for _, dir := range strings.Split(path, string(os.PathListSeparator)) {
		full := dir + string(os.PathSeparator) + name
		if _, err := os.Stat(full); err == nil {
			return full, nil
		}
	}
	return "", exec.ErrNotFound
}

var signals = map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL, "HUP": syscall.SIGHUP, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT}

// signal NAME INT|TERM|KILL|HUP|STOP|CONT: sends a signal to a process in the background.
func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 2 && worldOf(ts).started[args[0]] != nil, "signal NAME INT|TERM|KILL|HUP|STOP|CONT")
	ts.Check(worldOf(ts).started[args[0]].cmd.Process.Signal(signals[args[1]]))
}

// ended NAME CODE: waits for a process in the background, whose exit code must be CODE (-1 for a signal), and takes its output.
func cmdEnded(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 2 && worldOf(ts).started[args[0]] != nil, "ended NAME CODE")
	s := worldOf(ts).started[args[0]]
	select {
	case <-s.done:
	case <-time.After(60 * time.Second):
		ts.Fatalf("%s goes on", args[0])
	}
	out, err := os.ReadFile(s.stdout.Name())
	ts.Check(err)
	said, err := os.ReadFile(s.stderr.Name())
	ts.Check(err)
	_, _ = ts.Stdout().Write(out)
	_, _ = ts.Stderr().Write(said)
	if got := s.cmd.ProcessState.ExitCode(); strconv.Itoa(got) != args[1] {
		ts.Fatalf("exit code %d, want %s\n%s\n%s", got, args[1], out, said)
	}
}

// eventually REGEXP COMMAND …: runs a command until its standard output has the expression; eventually REGEXP -file FILE
// looks into a file instead.
func cmdEventually(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) >= 2, "eventually REGEXP COMMAND …")
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	last := ""
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if args[1] == "-file" {
			text, _ := os.ReadFile(ts.MkAbs(args[2]))
			last = string(text)
		} else {
			_ = ts.Exec(args[1], args[2:]...)
			last = ts.ReadFile("stdout") + ts.ReadFile("stderr")
		}
		if want.MatchString(last) {
			return
		}
	}
	ts.Fatalf("never had %s; at the end:\n%s", args[0], last)
}

// set NAME REGEXP: sets a variable to the first group that matches in the standard output.
func cmdSet(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 2, "set NAME REGEXP")
	m := regexp.MustCompile("(?m)" + args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if len(m) < 2 {
		ts.Fatalf("standard output does not have %s", args[1])
	}
	ts.Setenv(args[0], m[1])
}

// json PATH VALUE: standard output is one JSON value, in which PATH (like items.0.status) has the text VALUE.
// `! json PATH` says that there is nothing there. A path that ends in len counts.
func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	v, ok := lookUp(ts, args[0])
	switch {
	case neg && len(args) == 1:
		if ok {
			ts.Fatalf("%s is there: %v", args[0], v)
		}
		return
	case neg || len(args) != 2:
		ts.Fatalf("usage: json PATH VALUE, or ! json PATH")
	case !ok:
		ts.Fatalf("%s is not there", args[0])
	}
	text, isText := v.(string)
	if !isText {
		raw, err := json.Marshal(v)
		ts.Check(err)
		text = string(raw)
	}
	if text != args[1] {
		ts.Fatalf("%s is %s, want %s", args[0], text, args[1])
	}
}

// keys PATH KEY …: the object at PATH ("." for all) has exactly these keys.
func cmdKeys(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) >= 1, "keys PATH KEY …")
	v, _ := lookUp(ts, args[0])
	object, ok := v.(map[string]any)
	if !ok {
		ts.Fatalf("%s is no object: %v", args[0], v)
	}
	var have []string
	for k := range object {
		have = append(have, k)
	}
	slices.Sort(have)
	want := slices.Sorted(slices.Values(args[1:]))
	if !slices.Equal(have, want) {
		ts.Fatalf("%s has the keys\n%s, want\n%s", args[0], strings.Join(have, " "), strings.Join(want, " "))
	}
}

func lookUp(ts *testscript.TestScript, path string) (any, bool) {
	d := json.NewDecoder(bytes.NewReader([]byte(ts.ReadFile("stdout"))))
	d.UseNumber()
	var v any
	ts.Check(d.Decode(&v))
	if path == "." {
		return v, true
	}
	for name := range strings.SplitSeq(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			next, ok := at[name]
			if !ok {
				return nil, false
			}
			v = next
		case []any:
			if name == "len" {
				return json.Number(fmt.Sprint(len(at))), true
			}
			i, err := strconv.Atoi(name)
			if err != nil || i >= len(at) {
				return nil, false
			}
			v = at[i]
		default:
			return nil, false
		}
	}
	return v, true
}
