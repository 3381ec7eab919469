//go:build unix

package git

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sentry/internal/git/gittest"
	"sentry/internal/sentry"
)

// sshBench is a bench with an SSH server and a repository on it.
type sshBench struct {
	*bench
	ssh    *gittest.SSHServer
	repo   *gittest.Repo
	commit string
	auth   Auth
}

func newSSHBench(t *testing.T, o Options) *sshBench {
	t.Helper()
	server := gittest.NewSSHServer(t)
	s := &sshBench{bench: newBench(t, o), ssh: server, repo: server.Repo(t, "team/qa.git")}
	s.commit = s.repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	s.auth = Auth{SSHKeyFile: server.Key, KnownHostsFile: server.KnownHosts}
	return s
}

func (s *sshBench) heads(url string, a Auth) (map[string]string, error) {
	s.Helper()
	return s.git.Heads(within(s.T, 20*time.Second), s.remote(url), a, patterns(s.T, "/.*/"))
}

func (s *sshBench) workspace(url string, a Auth, branch string) (dir, commit string, err error) {
	s.Helper()
	dir = s.nextDir()
	commit, err = s.sources.Workspace(within(s.T, 20*time.Second), Want{Remote: s.remote(url), Auth: a, Branch: branch}, dir, nil)
	return dir, commit, err
}

// wrapSSH puts a program named ssh before the real one in PATH, which stands in text as $SSH.
func wrapSSH(t *testing.T, text string) {
	t.Helper()
	real, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("there is no ssh: install openssh-client")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte("#!/bin/sh\nSSH='"+real+"'\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

// What is done over HTTP is done over SSH: the heads, who made a commit, trees, and trees of what came later.
func TestSSHServer(t *testing.T) {
	s := newSSHBench(t, Options{})
	// The scp form has no room for a port, so the test's ssh adds it.
	_, port, _ := net.SplitHostPort(s.ssh.Addr)
	wrapSSH(t, `case "$*" in *" -p "*) exec "$SSH" "$@" ;; *) exec "$SSH" -p `+port+` "$@" ;; esac`)
	for i, url := range []string{s.repo.URL, s.ssh.User + "@127.0.0.1:team/qa.git", s.ssh.User + "@127.0.0.1:/team/qa.git"} {
		heads, err := s.heads(url, s.auth)
		if err != nil || len(heads) != 1 || heads["main"] != s.commit {
			t.Fatalf("%s: %v %v\n%s", url, heads, err, s.ssh.Log(t))
		}
		if i == 2 {
			continue // one spelling of the first
		}
		dir, commit, err := s.workspace(url, s.auth, "main")
		if err != nil || commit != s.commit {
			t.Fatalf("%s: %s, %v", url, commit, err)
		}
		s.check(dir, "main", s.commit)
	}
	s.commit = s.repo.Commit(t, "main", map[string]string{"a": "2"}, "second")
	dir, commit, err := s.workspace(s.repo.URL, s.auth, "main")
	if err != nil || commit != s.commit {
		t.Fatal(commit, err)
	}
	s.check(dir, "main", s.commit)
	got, err := s.git.Revision(t.Context(), s.remote(s.repo.URL), s.auth, "main", s.commit)
	if err != nil || got.Subject != "second" {
		t.Errorf("%+v, %v", got, err)
	}
}

// Every refusal says what is wrong and what would be right, whether branches are asked for or one is fetched.
func TestSSHRefusals(t *testing.T) {
	s := newSSHBench(t, Options{})
	dir := t.TempDir()
	other, locked, open := filepath.Join(dir, "other"), filepath.Join(dir, "locked"), filepath.Join(dir, "open")
	gittest.NewSSHKey(t, other, "")
	gittest.NewSSHKey(t, locked, "a passphrase")
	copyTo(t, s.ssh.Key, open, 0o644)
	nobody, stranger := filepath.Join(dir, "nobody"), filepath.Join(dir, "stranger")
	copyTo(t, os.DevNull, nobody, 0o600)
	right := s.ssh.HostKey(t)
	s.ssh.NewHostKey(t)
	if err := os.WriteFile(stranger, []byte(s.ssh.HostKey(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	copyTo(t, stranger, s.ssh.KnownHosts, 0o600)
	changed := filepath.Join(dir, "changed")
	if err := os.WriteFile(changed, []byte(right), 0o600); err != nil {
		t.Fatal(err)
	}

	host := s.remote(s.repo.URL).Host()
	for what, c := range map[string]struct {
		url  string
		auth Auth
		kind sentry.FaultKind
		says []string
	}{
		"wrong key":    {s.repo.URL, Auth{SSHKeyFile: other, KnownHostsFile: stranger}, sentry.Unauthorized, []string{"Permission denied", other, "public half"}},
		"passphrase":   {s.repo.URL, Auth{SSHKeyFile: locked, KnownHostsFile: stranger}, sentry.Unauthorized, []string{"Permission denied", locked, "no passphrase"}},
		"no such key":  {s.repo.URL, Auth{SSHKeyFile: dir + "/none", KnownHostsFile: stranger}, sentry.Unauthorized, []string{dir + "/none cannot be read"}},
		"readable key": {s.repo.URL, Auth{SSHKeyFile: open, KnownHostsFile: stranger}, sentry.Unauthorized, []string{"chmod 600 " + open}},
		"another user": {strings.Replace(s.repo.URL, s.ssh.User+"@", "git-nobody@", 1), s.auth, sentry.Unauthorized, []string{"Permission denied", "the user of the address"}},
		"unknown host": {s.repo.URL, Auth{SSHKeyFile: s.ssh.Key, KnownHostsFile: nobody}, sentry.Unauthorized, []string{
			"Host key verification failed", "the host key of " + host + " is not in " + nobody, "ssh-keyscan",
		}},
		"changed host": {s.repo.URL, Auth{SSHKeyFile: s.ssh.Key, KnownHostsFile: changed}, sentry.Unauthorized, []string{
			"Host key verification failed", "the host key of " + host + " is not the one in " + changed, "fingerprint",
		}},
		"no repository": {strings.Replace(s.repo.URL, "qa.git", "none.git", 1), s.auth, sentry.NotFound, []string{"does not appear to be a git repository"}},
	} {
		_, asked := s.heads(c.url, c.auth)
		fetched := s.git.fetch(t.Context(), fetching{
			remote: s.remote(c.url), auth: c.auth, dir: s.ssh.Dir + "/team/qa.git", from: heads + "main", to: "refs/x", depth: 1, maxBytes: 1 << 20,
		})
		for _, err := range []error{asked, fetched} {
			if err == nil || faultKind(t, err) != c.kind {
				t.Errorf("%s: %v", what, err)
				continue
			}
			for _, word := range c.says {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%s: %q is not in: %v", what, word, err)
				}
			}
		}
	}
	if _, err := s.heads(s.repo.URL, s.auth); err != nil {
		t.Errorf("what all of these differ from: %v", err)
	}
}

func copyTo(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, content, mode)
	}
	if err == nil {
		err = os.Chmod(to, mode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// With a key of its own Sentry shows this one only, reads only its own files, speaks to no agent and starts no program
// that asks somebody, whatever its environment says.
func TestSSHUsesOnlyWhatItIsGiven(t *testing.T) {
	var visits atomic.Int32
	folder, err := os.MkdirTemp("", "agent") // the names of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	socket := filepath.Join(folder, "agent")
	agent, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := agent.Accept()
			if err != nil {
				return
			}
			visits.Add(1)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = agent.Close()
		<-ended
	})
	marker := filepath.Join(t.TempDir(), "asked")
	ask := script(t, "touch "+marker+"; echo secret")
	for key, value := range map[string]string{
		"SSH_AUTH_SOCK": socket, "SSH_ASKPASS": ask, "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0", "GIT_ASKPASS": ask,
		"GIT_SSH_COMMAND": "touch " + marker, "GIT_SSH": ask,
	} {
		t.Setenv(key, value)
	}
	trace := filepath.Join(t.TempDir(), "trace")
	s := newSSHBench(t, Options{})
	wrapSSH(t, `exec "$SSH" -v -E '`+trace+`' "$@"`)

	if _, _, err := s.workspace(s.repo.URL, s.auth, "main"); err != nil {
		t.Fatal(err)
	}
	said, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct{ words, only string }{
		"configuration": {`Reading configuration data (\S+)`, os.DevNull},
		"keys read":     {`identity file (\S+) type`, s.ssh.Key},
		"keys shown":    {`Offering public key: (\S+)`, s.ssh.Key},
		"known hosts":   {`Found key in (\S+):`, s.ssh.KnownHosts},
	} {
		found := regexp.MustCompile(c.words).FindAllStringSubmatch(string(said), -1)
		if len(found) == 0 {
			t.Errorf("%s: not in the trace\n%s", what, said)
		}
		for _, one := range found {
			if one[1] != c.only && one[1] != c.only+"-cert" { // a certificate beside the key is a part of it
				t.Errorf("%s: %s", what, one[1])
			}
		}
	}
	locked := filepath.Join(t.TempDir(), "locked")
	gittest.NewSSHKey(t, locked, "secret")
	if _, err := s.heads(s.repo.URL, Auth{SSHKeyFile: locked, KnownHostsFile: s.ssh.KnownHosts}); err == nil {
		t.Error("a key with a passphrase was accepted")
	}
	if n := visits.Load(); n != 0 {
		t.Errorf("the agent was asked %d times", n)
	}
	if exists(marker) {
		t.Error("somebody was asked, or another program was started")
	}
	// Without a key it is the account's agent that counts: it is this one that would have been asked.
	if _, err := s.heads(s.repo.URL, Auth{KnownHostsFile: s.ssh.KnownHosts}); err == nil || visits.Load() == 0 {
		t.Errorf("without a key: %v, and the agent was asked %d times", err, visits.Load())
	}
}

// What a server calls its branches is neither an option nor a command, here as well as on the server.
func TestSSHHostileBranches(t *testing.T) {
	s := newSSHBench(t, Options{})
	marker := filepath.Join(t.TempDir(), "pwned")
	bare := t.TempDir()
	if err := s.git.initBare(t.Context(), bare, false); err != nil {
		t.Fatal(err)
	}
	bad := []string{"--upload-pack=touch${IFS}" + marker, "-oProxyCommand=touch${IFS}" + marker, "$(touch${IFS}" + marker + ")", "a'b"}
	for _, branch := range bad {
		gittest.Git(t, s.repo.Dir, "update-ref", heads+branch, s.commit)
	}
	found, err := s.heads(s.repo.URL, s.auth)
	if err != nil || found["main"] != s.commit {
		t.Fatal(found, err)
	}
	for _, branch := range bad {
		good := sentry.CheckBranch(branch) == nil
		if _, ok := found[branch]; ok != good {
			t.Errorf("%q is among the heads: %t", branch, ok)
		}
		if dir, commit, err := s.workspace(s.repo.URL, s.auth, branch); good && (err != nil || commit != s.commit) || !good && (err == nil || faultKind(t, err) != sentry.Invalid || exists(dir)) {
			t.Errorf("a tree of %q: %v", branch, err)
		}
		// And where the checks of names are behind us.
		_ = s.git.fetch(t.Context(), fetching{remote: s.remote(s.repo.URL), auth: s.auth, dir: bare, from: branch, to: heads + "x", depth: 1, maxBytes: 1 << 20})
	}
	if exists(marker) {
		t.Error("a branch was taken for a command")
	}
}

// A server that says nothing, before it knows who asks or after, costs no more than the time that was given, and does not
// leave an ssh behind: the server sees it go before the test ends, which waits for it.
func TestSSHServerThatHangs(t *testing.T) {
	s := newSSHBench(t, Options{CloneTimeout: 400 * time.Millisecond})
	for _, manner := range []gittest.Manner{gittest.Mute, gittest.Stall} {
		connected := make(chan struct{})
		s.ssh.Treat(func(connection int) gittest.Manner {
			if connection == 1 {
				close(connected)
			}
			return manner
		})
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			<-connected
			cancel(context.DeadlineExceeded) // whose time is over as soon as the server has been reached
		}()
		began := time.Now()
		_, err := s.git.Heads(ctx, s.remote(s.repo.URL), s.auth, patterns(t, "main"))
		if took := time.Since(began); err == nil || faultKind(t, err) != sentry.Transient || took > askTimeout/2 {
			t.Errorf("asked: %v after %s", err, took)
		}

		s.ssh.Treat(func(connection int) gittest.Manner { // answers the question, and not the fetch
			if connection == 1 {
				return gittest.Serve
			}
			return manner
		})
		dir, _, err := s.workspace(s.repo.URL, s.auth, "main")
		if err == nil || faultKind(t, err) != sentry.Transient || exists(dir) || s.ssh.Connections() != 2 {
			t.Errorf("cloned with %d connections: %v", s.ssh.Connections(), err)
		}
		s.ssh.Gone(t)
	}
}

// A server that is too busy is no reason to throw away what was fetched before.
func TestSSHServerThatHangsUp(t *testing.T) {
	s := newSSHBench(t, Options{})
	if _, _, err := s.workspace(s.repo.URL, s.auth, "main"); err != nil {
		t.Fatal(err)
	}
	s.spares(s.repo.URL, "main", s.commit, 1)
	newer := s.repo.Commit(t, "main", map[string]string{"a": "2"}, "second")
	s.ssh.Treat(func(connection int) gittest.Manner {
		if connection == 2 {
			return gittest.HangUp
		}
		return gittest.Serve
	})
	if _, _, err := s.workspace(s.repo.URL, s.auth, "main"); err == nil || faultKind(t, err) != sentry.Transient || !strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("hung up: %v", err)
	}
	if strings.Contains(s.log.String(), "damaged") {
		t.Errorf("the mirror was thrown away: %s", s.log)
	}
	if _, commit, err := s.workspace(s.repo.URL, s.auth, "main"); err != nil || commit != newer {
		t.Errorf("afterwards: %s, %v", commit, err)
	}
}
