// Package gitserve serves bare Git repositories over smart HTTP on behalf of the demo and of tests: `git http-backend`
// behind net/http/cgi, so that whoever asks talks to the real upload-pack, protocol v2 included.
//
// It is made for loopback. It has no rate limits, no TLS and one account.
package gitserve

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// maxChunkedBody bounds a request body of unknown length, in bytes. CGI wants a length, so such a body is held in
// memory first; only a push of more than http.postBuffer (1 MiB) comes like that.
const maxChunkedBody = 256 << 20

// Options says who may read and write.
type Options struct {
	// User and Token are the account that every request must show with HTTP basic authentication. An empty Token
	// admits everybody; an empty User accepts the token under any name.
	User, Token string
	// ReceivePack allows pushes.
	ReceivePack bool
	// Stderr is where git writes what went wrong; nil discards it.
	Stderr io.Writer
}

// Handler serves the bare repositories below root, each under its path relative to root. Without a usable git on the
// machine every request is answered with 500 and the reason.
func Handler(root string, o Options) http.Handler {
	root, err := filepath.Abs(root)
	if err != nil {
		return failing(err)
	}
	program, args, err := backend()
	if err != nil {
		return failing(err)
	}
	if o.Stderr == nil {
		o.Stderr = io.Discard
	}
	s := &server{o: o, cgi: cgi.Handler{
		Path:   program,
		Args:   args,
		Dir:    root,
		Stderr: o.Stderr,
		Logger: log.New(o.Stderr, "", 0),
	}, env: environment(root, o)}
	return s
}

type server struct {
	o   Options
	cgi cgi.Handler // a template: every request gets a copy with its own environment
	env []string
}

// gitProtocol is what a client may ask for in the Git-Protocol header: git's own grammar of it, and nothing that could
// confuse whoever reads the variable.
var gitProtocol = regexp.MustCompile(`^[a-z0-9]+(=[A-Za-z0-9.]*)?(:[a-z0-9]+(=[A-Za-z0-9.]*)?)*$`)

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.admitted(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
		http.Error(w, "authentication required", http.StatusUnauthorized)
		return
	}
	if path.Clean("/"+r.URL.Path) != strings.TrimSuffix(r.URL.Path, "/") {
		http.Error(w, "no such repository", http.StatusNotFound)
		return
	}
	if r.ContentLength < 0 {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxChunkedBody))
		if err != nil {
			http.Error(w, "cannot read the request: "+err.Error(), http.StatusBadRequest)
			return
		}
		r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	}
	one := s.cgi
	one.Env = s.env
	if p := r.Header.Get("Git-Protocol"); p != "" && gitProtocol.MatchString(p) {
		one.Env = append(one.Env[:len(one.Env):len(one.Env)], "GIT_PROTOCOL="+p)
	}
	// What git writes in pieces leaves in one where it is small, as it does behind the usual web servers.
	out := &collector{ResponseWriter: w, buf: bufio.NewWriterSize(w, 64<<10)}
	one.ServeHTTP(out, r)
	_ = out.buf.Flush()
}

// collector gathers an answer before it passes it on.
type collector struct {
	http.ResponseWriter
	buf *bufio.Writer
}

func (c *collector) Write(p []byte) (int, error) { return c.buf.Write(p) }

func (s *server) admitted(r *http.Request) bool {
	if s.o.Token == "" {
		return true
	}
	user, token, _ := r.BasicAuth()
	return same(token, s.o.Token) && (s.o.User == "" || same(user, s.o.User))
}

// same compares without telling by its duration where the texts differ.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// environment is everything that git http-backend gets: nothing of ours is inherited, so neither the system's nor the
// user's configuration changes what is served.
func environment(root string, o Options) []string {
	config := [][2]string{
		{"safe.directory", "*"}, // whoever started us chose root
		{"uploadpack.allowFilter", "true"},
		{"uploadpack.allowAnySHA1InWant", "true"},
		{"http.receivepack", fmt.Sprint(o.ReceivePack)},
		{"gc.auto", "0"},
		{"receive.autogc", "false"},
		{"core.hooksPath", os.DevNull},
	}
	env := []string{
		"GIT_PROJECT_ROOT=" + root,
		"GIT_HTTP_EXPORT_ALL=1",
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=" + os.DevNull,
		"HOME=" + root,
		"LC_ALL=C",
		fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(config)),
	}
	for i, c := range config {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, c[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, c[1]))
	}
	return env
}

// backend finds git http-backend: the program itself where it lies in git's own folder, which spares a fork each
// request, or else by way of git.
func backend() (program string, args []string, err error) {
	git, err := exec.LookPath("git")
	if err != nil {
		return "", nil, fmt.Errorf("cannot serve repositories: %w", err)
	}
	out, err := exec.Command(git, "--exec-path").Output()
	if err != nil {
		return "", nil, fmt.Errorf("cannot serve repositories: git --exec-path: %w", err)
	}
	direct := filepath.Join(strings.TrimSpace(string(out)), "git-http-backend")
	if _, err := os.Stat(direct); err != nil {
		return git, []string{"http-backend"}, nil
	}
	return direct, nil, nil
}

func failing(err error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	})
}
