//go:build unix

package gittest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// sshd is where Debian and its kin, Fedora, Alpine and macOS have it.
const sshd = "/usr/sbin/sshd"

// SSHServer is a real OpenSSH server for one test, on loopback and with nothing of the machine's own configuration: one
// sshd for each connection, as a super-server starts it, so that no port has to be guessed. It admits the account that
// runs the test, by the key Key only, and serves the repositories below Dir, whose addresses begin there. Everything ends
// with the test.
type SSHServer struct {
	Addr       string // "127.0.0.1:port"
	User       string // the account to log in as
	Dir        string // the folder of the bare repositories
	Key        string // the file with the private key that is admitted
	KnownHosts string // the file that a client may believe

	t        testing.TB
	private  string // the folder of what only the server reads
	listener net.Listener
	serving  sync.WaitGroup

	mu     sync.Mutex // owns what follows
	manner func(connection int) Manner
	open   map[net.Conn]struct{}
	left   chan struct{} // closed, and made anew, when a connection has ended
	count  int
	closed bool
}

// Manner is how the server treats a connection.
type Manner int

const (
	// Serve is what a server is for.
	Serve Manner = iota
	// HangUp ends the connection at once, as a server does that has too many.
	HangUp
	// Mute accepts the connection, and never says a word.
	Mute
	// Stall lets the client log in and ask, and then does nothing.
	Stall
)

// NewSSHServer starts a server without repositories. Where the machine has no sshd the test is skipped, or fails if
// SENTRY_NEED_SSHD is set.
func NewSSHServer(t testing.TB) *SSHServer {
	t.Helper()
	for _, program := range []string{sshd, "ssh", "ssh-keygen"} {
		if _, err := exec.LookPath(program); err != nil {
			lacking(t, "there is no "+program+": install openssh-server and openssh-client")
		}
	}
	if os.Getuid() == 0 {
		// Started by root, sshd locks a part of itself up in this empty folder, which the system's own service makes when it
		// starts. Others may use it by then, so it stays.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	account, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &SSHServer{
		User: account.Username, Dir: filepath.Join(dir, "repositories"), Key: filepath.Join(dir, "key"),
		KnownHosts: filepath.Join(dir, "known_hosts"), t: t, private: filepath.Join(dir, "server"), open: map[net.Conn]struct{}{},
		left: make(chan struct{}),
	}
	for _, dir := range []string{s.Dir, s.private} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	NewSSHKey(t, s.Key, "")
	s.write("authorized_keys", read(t, s.Key+".pub"))
	s.listen()
	s.NewHostKey(t)
	s.write(s.KnownHosts, s.HostKey(t))
	s.configure()
	return s
}

func lacking(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("SENTRY_NEED_SSHD") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// NewSSHKey makes a key pair at path and path.pub, encrypted where there is a passphrase.
func NewSSHKey(t testing.TB, path, passphrase string) {
	t.Helper()
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "test", "-f", path).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
}

// NewHostKey gives the server another key from now on, as one has that was set up anew. KnownHosts stays as it is.
func (s *SSHServer) NewHostKey(t testing.TB) {
	t.Helper()
	path := filepath.Join(s.private, "host_key")
	for _, old := range []string{path, path + ".pub"} {
		if err := os.Remove(old); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	NewSSHKey(t, path, "")
}

// HostKey is the line of a file of known hosts for the key that the server has now.
func (s *SSHServer) HostKey(t testing.TB) string {
	t.Helper()
	host, port, _ := net.SplitHostPort(s.Addr)
	return fmt.Sprintf("[%s]:%s %s", host, port, read(t, filepath.Join(s.private, "host_key.pub")))
}

// Treat has each connection from now on treated as manner says; they are counted from 1 again.
func (s *SSHServer) Treat(manner func(connection int) Manner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.manner, s.count = manner, 0
}

// Connections tells how many there were so far, since the last Treat.
func (s *SSHServer) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// Gone waits until every client has gone, by itself, and sshd after it.
func (s *SSHServer) Gone(t testing.TB) {
	t.Helper()
	timeout := time.NewTimer(20 * time.Second)
	defer timeout.Stop()
	for {
		s.mu.Lock()
		open, left := len(s.open), s.left
		s.mu.Unlock()
		if open == 0 {
			return
		}
		select {
		case <-left:
		case <-timeout.C:
			t.Fatalf("%d clients are still there", open)
		}
	}
}

// Log is what sshd has written so far.
func (s *SSHServer) Log(t testing.TB) string {
	t.Helper()
	return read(t, filepath.Join(s.private, "log"))
}

// Repo makes an empty bare repository; its URL is an ssh:// one.
func (s *SSHServer) Repo(t testing.TB, name string) *Repo {
	t.Helper()
	return NewRepo(t, filepath.Join(s.Dir, filepath.FromSlash(name)), "ssh://"+s.User+"@"+s.Addr+"/"+name)
}

// configure writes what sshd reads, and the only program that may be run: git-shell, with the folder of the repositories
// for the root of the addresses, as forges do it. Passwords seem to be welcome, so that a client which asks for one shows.
func (s *SSHServer) configure() {
	serve := fmt.Sprintf(`#!/bin/sh
PATH='%s' HOME=/nonexistent GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null
export PATH HOME GIT_CONFIG_NOSYSTEM GIT_CONFIG_GLOBAL
cd '%s' && exec git shell -c "$(printf %%s "$SSH_ORIGINAL_COMMAND" | sed "s,'/,',")"
`, os.Getenv("PATH"), s.Dir)
	s.write("serve", serve)
	if err := os.Chmod(filepath.Join(s.private, "serve"), 0o700); err != nil {
		s.t.Fatal(err)
	}
	s.write("log", "")
	s.write("config", strings.NewReplacer("DIR", s.private, "USER", s.User).Replace(`
HostKey DIR/host_key
AuthorizedKeysFile DIR/authorized_keys
PidFile none
StrictModes no
UsePAM no
AllowUsers USER
PermitRootLogin yes
PubkeyAuthentication yes
PasswordAuthentication yes
PermitUserRC no
PermitUserEnvironment no
DisableForwarding yes
PermitTTY no
AcceptEnv GIT_PROTOCOL
KexAlgorithms curve25519-sha256
LogLevel VERBOSE
`))
}

func (s *SSHServer) listen() {
	var err error
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		s.t.Fatal(err)
	}
	s.Addr = s.listener.Addr().String()
	s.serving.Go(s.accept)
	s.t.Cleanup(s.close)
}

func (s *SSHServer) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return // closed
		}
		s.serving.Go(func() { s.connection(c.(*net.TCPConn)) })
	}
}

// connection serves a client until one of both goes.
func (s *SSHServer) connection(c *net.TCPConn) {
	defer func() { _ = c.Close() }()
	manner, ok := s.began(c)
	if !ok {
		return
	}
	defer s.ended(c)
	switch manner {
	case HangUp:
		return
	case Mute:
		_, _ = io.Copy(io.Discard, c)
		return
	}
	socket, err := c.File()
	if err != nil {
		s.t.Error(err)
		return
	}
	defer func() { _ = socket.Close() }()
	command := filepath.Join(s.private, "serve")
	if manner == Stall {
		command = "exec cat >/dev/null" // which ends when the client goes
	}
	cmd := exec.Command(sshd, "-i", "-f", filepath.Join(s.private, "config"), "-E", filepath.Join(s.private, "log"), "-o", "ForceCommand="+command)
	cmd.Stdin, cmd.Stdout = socket, socket
	// It ends with an error when a client goes early, or is not admitted: that is for the client's side of the test to judge.
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		s.t.Error(err)
	}
}

func (s *SSHServer) began(c net.Conn) (manner Manner, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, false
	}
	s.open[c] = struct{}{}
	s.count++
	if s.manner != nil {
		manner = s.manner(s.count)
	}
	return manner, true
}

func (s *SSHServer) ended(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	close(s.left)
	s.left = make(chan struct{})
}

// close hangs up on everybody, and waits until no sshd is left.
func (s *SSHServer) close() {
	_ = s.listener.Close()
	s.mu.Lock()
	s.closed = true
	for c := range s.open {
		// Shut down, not only closed: sshd has the connection, too.
		_ = c.(*net.TCPConn).CloseRead()
		_ = c.(*net.TCPConn).CloseWrite()
	}
	s.mu.Unlock()
	s.serving.Wait()
}

// write writes a file of the server's folder, or one elsewhere.
func (s *SSHServer) write(path, content string) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.private, path)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
