//go:build unix

package git

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"sentry/internal/git/gittest"
	"sentry/internal/sentry"
)

const canary = "c4n4ry-t0k3n"

var canaryForms = []string{canary, base64.StdEncoding.EncodeToString([]byte("bot:" + canary)), base64.StdEncoding.EncodeToString([]byte(canary))}

func hasCanary(text string) bool {
	return slices.ContainsFunc(canaryForms, func(form string) bool { return strings.Contains(text, form) })
}

// A token is in the environment of the one git that speaks to its server, and nowhere else: no argument, no file, no
// tree, no log, no message.
func TestWhereTheTokenIs(t *testing.T) {
	binary, notes := spyGit(t)
	b := newBench(t, Options{Binary: binary})
	b.server.SetToken("bot", canary)
	repo := b.server.Repo(t, "qa.git")
	commit := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	auth := Auth{Username: "bot", Token: token(canary)}
	var said syncBuffer
	dir := b.nextDir()
	if _, err := b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Auth: auth, Branch: "main"}, dir, &said); err != nil {
		t.Fatal(err)
	}
	if _, err := b.git.Revision(t.Context(), b.remote(repo.URL), auth, "main", commit); err != nil {
		t.Fatal(err)
	}
	b.spares(repo.URL, "main", commit, 1)

	withToken := 0
	for _, env := range notesOf(t, notes, "env") {
		if hasCanary(env) {
			withToken++
		}
	}
	if withToken != 1 { // the fetch of the branch; that of the commit is done in Go
		t.Errorf("%d runs of git had the token", withToken)
	}
	for _, args := range notesOf(t, notes, "args") {
		if hasCanary(args) || strings.Contains(args, "Authorization") {
			t.Errorf("in the arguments: %s", args)
		}
	}
	for _, folder := range []string{b.state, b.trees, b.server.Dir} {
		if hits := grep(t, folder, canaryForms...); len(hits) > 0 {
			t.Errorf("in %v", hits)
		}
	}
	if hasCanary(said.String() + b.log.String()) {
		t.Errorf("said %s, logged %s", said.String(), b.log)
	}
	for _, r := range b.server.Requests() {
		if r.Authorization == "" {
			t.Errorf("a request without the token: %+v", r)
		}
	}
}

func TestWrongTokenIsNotInTheMessage(t *testing.T) {
	b := newBench(t, Options{})
	b.server.SetToken("bot", "right")
	repo := b.server.Repo(t, "qa.git")
	commit := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	auth := Auth{Username: "bot", Token: token(canary)}
	b.server.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if _, wrong, _ := r.BasicAuth(); wrong == canary {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte("no entry for " + r.Header.Get("Authorization") + " " + wrong + "\n"))
			return
		}
		next.ServeHTTP(w, r)
	})
	_, heads := b.git.Heads(t.Context(), b.remote(repo.URL), auth, patterns(t, "main"))
	_, revision := b.git.Revision(t.Context(), b.remote(repo.URL), auth, "main", commit)
	_, workspace := b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Auth: auth, Branch: "main"}, b.nextDir(), nil)
	for what, err := range map[string]error{"heads": heads, "revision": revision, "workspace": workspace} {
		if err == nil || faultKind(t, err) != sentry.Unauthorized || hasCanary(err.Error()) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestRotatedToken(t *testing.T) {
	b := newBench(t, Options{})
	b.server.SetToken("", "new")
	repo := b.server.Repo(t, "qa.git")
	commit := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	asked := 0
	auth := Auth{Token: func(context.Context) (sentry.Secret, error) {
		if asked++; asked == 1 {
			return sentry.NewSecret("old"), nil
		}
		return sentry.NewSecret("new"), nil
	}}
	heads, err := b.git.Heads(t.Context(), b.remote(repo.URL), auth, patterns(t, "main"))
	if err != nil || heads["main"] != commit || asked != 2 {
		t.Errorf("%v %v after asking %d times", heads, err, asked)
	}

	// The fetch, as well.
	asked = 0
	dir := t.TempDir()
	if err := b.git.initBare(t.Context(), dir, false); err != nil {
		t.Fatal(err)
	}
	err = b.git.fetch(t.Context(), fetching{
		remote: b.remote(repo.URL), auth: auth, dir: dir, from: heads_("main"), to: heads_("main"), depth: 1, maxBytes: 1 << 20,
	})
	if err != nil || asked != 2 {
		t.Errorf("%v after asking %d times", err, asked)
	}

	// A token that stays wrong is tried once.
	b.server.Forget()
	_, err = b.git.Heads(t.Context(), b.remote(repo.URL), Auth{Token: token("wrong")}, patterns(t, "main"))
	if faultKind(t, err) != sentry.Unauthorized || b.server.Count() != 1 {
		t.Errorf("%v after %d requests", err, b.server.Count())
	}
	boom := errors.New("no such file")
	_, err = b.git.Heads(t.Context(), b.remote(repo.URL), Auth{Token: func(context.Context) (sentry.Secret, error) { return sentry.Secret{}, boom }}, patterns(t, "main"))
	if faultKind(t, err) != sentry.Unauthorized || !errors.Is(err, boom) {
		t.Errorf("a token that cannot be read: %v", err)
	}
}

func heads_(branch string) string { return heads + branch }

// A server that answers the question and then sends git elsewhere gets neither git nor the token there.
func TestGitFollowsNoRedirect(t *testing.T) {
	var visits atomic.Int32
	trap := gittest.NewServer(t)
	trap.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		visits.Add(1)
		next.ServeHTTP(w, r)
	})
	evil := trap.Repo(t, "qa.git")
	evil.Commit(t, "main", map[string]string{"a": "evil"}, "first")

	b := newBench(t, Options{})
	b.server.SetToken("bot", canary)
	repo := b.server.Repo(t, "qa.git")
	repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	for _, part := range []string{"/info/refs", "/git-upload-pack"} {
		for _, status := range []int{301, 302, 303, 307, 308} {
			b.server.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if strings.HasPrefix(r.UserAgent(), "git/2.") && strings.HasSuffix(r.URL.Path, part) {
					http.Redirect(w, r, trap.URL+r.URL.RequestURI(), status)
					return
				}
				next.ServeHTTP(w, r)
			})
			for _, a := range []Auth{{Username: "bot", Token: token(canary)}} {
				dir := b.nextDir()
				_, err := b.sources.Workspace(t.Context(), Want{Remote: b.remote(repo.URL), Auth: a, Branch: "main"}, dir, nil)
				if err == nil || visits.Load() > 0 || exists(dir) {
					t.Fatalf("%d at %s: %v, %d visits", status, part, err, visits.Load())
				}
				if kind := faultKind(t, err); kind != sentry.Invalid && kind != sentry.Transient {
					t.Errorf("%d at %s: %s: %v", status, part, kind, err)
				}
			}
		}
	}
}

func TestMovedOnTheSameServer(t *testing.T) {
	b := newBench(t, Options{})
	b.server.SetToken("bot", canary)
	repo := b.server.Repo(t, "new.git")
	commit := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	b.server.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if rest, ok := strings.CutPrefix(r.URL.Path, "/old.git"); ok {
			http.Redirect(w, r, "/new.git"+rest+"?"+r.URL.RawQuery, http.StatusMovedPermanently)
			return
		}
		next.ServeHTTP(w, r)
	})
	dir := b.nextDir()
	got, err := b.sources.Workspace(t.Context(), Want{Remote: b.remote(b.server.URL + "/old.git"), Auth: Auth{Username: "bot", Token: token(canary)}, Branch: "main"}, dir, nil)
	if err != nil || got != commit {
		t.Fatal(got, err)
	}
}

// The header must not go to another port of the host, nor anywhere else, whatever address git is given.
func TestTokenIsBoundToItsOrigin(t *testing.T) {
	b := newBench(t, Options{})
	other := gittest.NewServer(t)
	other.Repo(t, "qa.git").Commit(t, "main", nil, "first")
	repo := b.server.Repo(t, "qa.git")
	repo.Commit(t, "main", nil, "first")
	env, _, err := b.git.credentials(b.remote(repo.URL), Auth{Username: "bot"}, sentry.NewSecret(canary), Version{2, 39, 0})
	if err != nil {
		t.Fatal(err)
	}
	old, _, err := b.git.credentials(b.remote(repo.URL), Auth{Username: "bot"}, sentry.NewSecret(canary), Version{2, 30, 0})
	if err != nil {
		t.Fatal(err)
	}
	for _, env := range [][]string{env, old} {
		b.server.Forget()
		for _, url := range []string{repo.URL, other.URL + "/qa.git", strings.Replace(b.server.URL, "127.0.0.1", "localhost", 1) + "/qa.git"} {
			if _, err := b.git.run(t.Context(), call{args: []string{"ls-remote", "--end-of-options", url}, scheme: "http", env: env}); err != nil {
				t.Fatal(err)
			}
		}
		for _, r := range other.Requests() {
			if r.Authorization != "" {
				t.Errorf("another port got %+v", r)
			}
		}
		seen := map[bool]int{}
		for _, r := range b.server.Requests() {
			seen[r.Authorization != ""]++
		}
		if seen[true] != 2 || seen[false] != 2 { // the origin itself, and the same server under another name
			t.Errorf("requests with and without the token: %v", seen)
		}
	}
}

func TestSSH(t *testing.T) {
	b := newBench(t, Options{})
	repo := b.server.Repo(t, "team/qa.git")
	commit := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	notes := t.TempDir()
	fake := script(t, `printf '%s\n' "$@" >> `+notes+`/args; printf -- '--\n' >> `+notes+`/args
for last; do :; done
cd `+b.server.Dir+` && eval "$(printf '%s' "$last" | sed "s,'/,'./,")"`)
	if err := os.Rename(fake, filepath.Join(filepath.Dir(fake), "ssh")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Dir(fake)+":"+os.Getenv("PATH"))
	t.Setenv("SSH_AUTH_SOCK", "/agent")
	t.Setenv("GIT_SSH_COMMAND", "touch "+notes+"/pwned")

	remote := b.remote("ssh://git@forge.example:2222/team/qa.git")
	auth := Auth{SSHKeyFile: `/keys/it's 100% mine`, KnownHostsFile: "/keys/known hosts"}
	heads, err := b.git.Heads(t.Context(), remote, auth, patterns(t, "m*"))
	if err != nil || heads["main"] != commit {
		t.Fatal(heads, err)
	}
	dir := b.nextDir()
	if got, err := b.sources.Workspace(t.Context(), Want{Remote: remote, Auth: auth, Branch: "main"}, dir, nil); err != nil || got != commit {
		t.Fatal(got, err)
	}
	if r, err := b.git.Revision(t.Context(), remote, auth, "main", commit); err != nil || r.Subject != "first" {
		t.Fatal(r, err)
	}
	args, err := os.ReadFile(filepath.Join(notes, "args"))
	if err != nil {
		t.Fatal(err)
	}
	runs := strings.Split(strings.TrimSuffix(string(args), "--\n"), "--\n")
	if len(runs) != 4 {
		t.Errorf("ssh ran %d times", len(runs))
	}
	for _, run := range runs {
		for _, want := range []string{
			"-F\n/dev/null\n", "-p\n2222\n", "\ngit@forge.example\n", "git-upload-pack '/team/qa.git'\n",
			"\nBatchMode=yes\n", "\nStrictHostKeyChecking=yes\n", "\nUpdateHostKeys=no\n", "\nPermitLocalCommand=no\n", "\nForwardAgent=no\n",
			"\nIdentityFile=\"/keys/it's 100%% mine\"\n", "\nIdentitiesOnly=yes\n", "\nIdentityAgent=none\n",
			"\nUserKnownHostsFile=\"/keys/known hosts\"\n", "\nGlobalKnownHostsFile=/dev/null\n", "\nConnectTimeout=15\n",
		} {
			if !strings.Contains(run, want) {
				t.Errorf("ssh did not get %q but\n%s", want, run)
			}
		}
	}
	if exists(filepath.Join(notes, "pwned")) {
		t.Error("GIT_SSH_COMMAND of our own environment was run")
	}

	// Without a key the account's own ones and its agent serve; its known hosts do too.
	if err := os.Remove(filepath.Join(notes, "args")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.git.Heads(t.Context(), remote, Auth{}, patterns(t, "main")); err != nil {
		t.Fatal(err)
	}
	args, _ = os.ReadFile(filepath.Join(notes, "args"))
	for _, bad := range []string{"Identit", "KnownHostsFile"} {
		if strings.Contains(string(args), bad) {
			t.Errorf("without files ssh got %s", args)
		}
	}
	for _, path := range []string{"/a\"b", "/a\nb", `/a\b`, "/${HOME}"} {
		_, err := b.git.Heads(t.Context(), remote, Auth{SSHKeyFile: path}, patterns(t, "main"))
		if err == nil || !strings.Contains(err.Error(), "ssh_key_file") {
			t.Errorf("a key in %q: %v", path, err)
		}
	}
}
