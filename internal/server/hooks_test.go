package server

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sentry/internal/config"
	"sentry/internal/sentry"
)

// The payloads of testdata/hooks have the fields of the forges' own, with other values. Where the fields are from:
//
//	github-push, github-ping: "Webhook events and payloads" (push, ping) in the documentation of GitHub, and the examples
//	  in payload-examples/api.github.com of github.com/octokit/webhooks
//	gitlab-push: "Webhook events", push events; gitlab-system-push: "System hooks", push events; both in the documentation
//	  of GitLab, and as testdata of gitlab.com/gitlab-org/api/client-go
//	gitea-push: "Webhooks" in the documentation of Gitea, and PushPayload in modules/structs/hook.go of its source, 1.26

// hookWorld is a receiver of webhooks with what it watches and what it did.
type hookWorld struct {
	testing.TB
	folder   string
	config   *config.Config
	registry *prometheus.Registry
	said     bytes.Buffer
	hooks    *Hooks
	handler  http.Handler
	now      time.Time

	mu     sync.Mutex
	hinted []string
}

const (
	globalSecret = "the-secret-of-all-of-them"
	otherSecret  = "the-secret-of-the-other-one"
)

// newHookWorld watches shop, which the payloads of a forge are about, and pay and other beside it; other has a secret of
// its own.
func newHookWorld(t testing.TB, urls ...string) *hookWorld {
	t.Helper()
	w := &hookWorld{TB: t, folder: t.TempDir(), registry: prometheus.NewRegistry(), now: now}
	w.write("global", globalSecret)
	w.write("other", otherSecret)
	w.config = &config.Config{Global: config.Global{WebhookSecret: config.SecretFile{Path: filepath.Join(w.folder, "global")}}}
	for i, url := range urls {
		w.add(fmt.Sprintf("shop%d", i), url, typeOfURL(url), "")
	}
	w.add("pay", "https://git.example.org/team/pay", "git", "")
	w.add("other", "https://git.example.org/team/other", "git", "other")
	w.hooks = NewHooks(HooksOptions{
		Config: func() *config.Config { return w.config }, Hint: w.hint, Register: w.registry,
		Log: slog.New(slog.NewTextHandler(&w.said, &slog.HandlerOptions{Level: slog.LevelDebug})), Now: func() time.Time { return w.now },
	})
	w.handler = Handler(Options{Hooks: w.hooks, Log: slog.New(slog.NewTextHandler(&w.said, nil)), Authorize: Anonymous()})
	return w
}

func typeOfURL(url string) string {
	for part, kind := range map[string]string{"github.com": "github", "gitlab.com": "gitlab", "git.example.org": "gitea"} {
		if strings.Contains(url, part) {
			return kind
		}
	}
	return "git"
}

func (w *hookWorld) write(name, secret string) {
	w.Helper()
	if err := os.WriteFile(filepath.Join(w.folder, name), []byte(secret+"\n"), 0o600); err != nil {
		w.Fatal(err)
	}
}

// add makes a new configuration with one more repository.
func (w *hookWorld) add(name, url, kind, secret string) {
	w.Helper()
	remote, err := sentry.ParseRemote(url, sentry.RemoteRules{InsecureHTTP: true})
	if err != nil {
		w.Fatal(err)
	}
	r := config.Repository{Name: name, Monitor: config.Monitor{Remote: remote, Type: kind}}
	if secret != "" {
		r.Monitor.WebhookSecret.Path = filepath.Join(w.folder, secret)
	}
	for _, b := range []string{"main", "release/*"} {
		p, err := sentry.ParsePattern(b)
		if err != nil {
			w.Fatal(err)
		}
		r.Monitor.Branches = append(r.Monitor.Branches, p)
	}
	next := *w.config
	next.Repositories = append(slices.Clone(w.config.Repositories), r)
	w.config = &next
}

func (w *hookWorld) hint(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hinted = append(w.hinted, name)
}

// hints gives what was hinted since it was last asked.
func (w *hookWorld) hints() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	got := strings.Join(w.hinted, " ")
	w.hinted = nil
	return got
}

func hexMAC(secret string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

// signed gives the headers with which a forge sends a body.
func signed(forge, secret string, body []byte) http.Header {
	h := http.Header{"Content-Type": {"application/json"}}
	switch forge {
	case "github":
		h.Set("X-GitHub-Event", "push")
		h.Set("X-Hub-Signature-256", "sha256="+hexMAC(secret, body))
	case "gitlab":
		h.Set("X-Gitlab-Event", "Push Hook")
		h.Set("X-Gitlab-Token", secret)
	case "gitea":
		h.Set("X-Gitea-Event", "push")
		h.Set("X-Gitea-Signature", hexMAC(secret, body))
	case "generic":
		h.Set("X-Sentry-Signature", "sha256="+hexMAC(secret, body))
	}
	return h
}

func (w *hookWorld) send(path string, header http.Header, body []byte) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", path, bytes.NewReader(body))
	r.Header = header
	out := httptest.NewRecorder()
	w.handler.ServeHTTP(out, r)
	return out
}

// push sends a body as its forge would.
func (w *hookWorld) push(forge, secret string, body []byte) *httptest.ResponseRecorder {
	return w.send("/hooks/"+forge, signed(forge, secret, body), body)
}

// counts gives the counters that are not zero: received{github} 1.
func (w *hookWorld) counts() string {
	w.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.Fatal(err)
	}
	var list []string
	for _, f := range families {
		name := strings.TrimSuffix(strings.TrimPrefix(f.GetName(), "sentry_webhooks_"), "_total")
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			list = append(list, fmt.Sprintf("%s{%s} %g", name, strings.Join(labels, ","), m.GetCounter().GetValue()))
		}
	}
	return strings.Join(list, "; ")
}

func payload(t testing.TB, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("testdata", "hooks", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// shape is one kind of payload, with the address of the repository that it is about.
type shape struct{ forge, file, url, event string }

var shapes = []shape{
	{"github", "github-push", "https://github.com/team/shop", "push"},
	{"gitlab", "gitlab-push", "https://gitlab.com/group/sub/shop", "Push Hook"},
	{"gitlab", "gitlab-system-push", "https://gitlab.com/group/sub/shop.git", "System Hook"},
	{"gitea", "gitea-push", "https://git.example.org/team/shop", "push"},
}

func (s shape) header(body []byte) http.Header {
	h := signed(s.forge, globalSecret, body)
	if s.forge == "gitlab" {
		h.Set("X-Gitlab-Event", s.event)
	}
	return h
}

func TestWebhookHastens(t *testing.T) {
	for _, s := range shapes {
		t.Run(s.file, func(t *testing.T) {
			w := newHookWorld(t, s.url)
			body := payload(t, s.file)
			out := w.send("/hooks/"+s.forge, s.header(body), body)
			if out.Code != http.StatusAccepted || out.Body.Len() != 0 || w.hints() != "shop0" {
				t.Fatalf("%d %q, hints %q", out.Code, out.Body, w.hinted)
			}
			want := fmt.Sprintf("hinted{%[1]s} 1; received{%[1]s} 1; verified{%[1]s} 1", s.forge)
			if got := w.counts(); got != want {
				t.Errorf("counted %s, want %s", got, want)
			}
			// One whose path names the repository.
			out = w.send("/hooks/"+s.forge+"/shop0", s.header(body), body)
			if out.Code != http.StatusAccepted || w.hints() != "shop0" {
				t.Errorf("by name: %d %q", out.Code, out.Body)
			}
			if strings.Contains(w.said.String(), "team") {
				t.Errorf("the log repeats what was sent: %s", &w.said)
			}
		})
	}
}

// What is the same place, and what is another one.
func TestWebhookFindsTheRepository(t *testing.T) {
	for _, c := range []struct {
		configured, kind, sent string
		same                   bool
	}{
		{"https://github.com/team/shop", "github", "https://github.com/team/shop.git", true},
		{"https://github.com/Team/Shop.git", "github", "https://github.com/team/shop", true},
		{"git@github.com:team/shop.git", "github", "https://github.com/team/shop.git", true},
		{"ssh://git@github.com/team/shop", "github", "http://github.com/team/shop.git", true},
		{"https://github.com/team/shop", "github", "git@github.com:team/shop.git", true},
		{"https://github.com/team/shop", "github", "https://GITHUB.com/team/shop/", true},
		{"https://git.example.org:8443/team/shop", "git", "https://git.example.org:8443/team/shop.git", true},
		{"https://git.example.org/Team/shop", "git", "https://git.example.org/Team/shop", true},

		{"https://git.example.org/Team/shop", "git", "https://git.example.org/team/shop", false},
		{"https://git.example.org:8443/team/shop", "git", "https://git.example.org/team/shop", false},
		{"https://github.com/team/shop", "github", "https://github.com/team/shops", false},
		{"https://github.com/team/shop", "github", "https://github.com/team", false},
		{"https://github.com/team/shop", "github", "https://github.com.example.org/team/shop", false},
		{"https://github.com/team/shop", "github", "https://github.com@example.org/team/shop", false},
		{"https://github.com/team/shop", "github", "https://example.org/github.com/team/shop", false},
		{"https://github.com/team/shop", "github", "https://github.com/team/sho%70", false},
		{"https://github.com/team/shop", "github", "https://github.com/team/../team/shop", false},
		{"https://github.com/team/shop", "github", "https://github.com/team/shop?x", false},
		{"https://github.com/team/kelvin", "github", "https://github.com/team/\u212Aelvin", false}, // has k as its lower case
		{"https://github.com/team/shop", "github", "file:///team/shop", false},
		{"https://github.com/team/shop", "github", "/team/shop", false},
		{"https://github.com/team/shop", "github", "team/shop", false},
		{"https://github.com/team/shop", "github", ".*", false},
		{"https://github.com/team/shop", "gitlab", "https://github.com/team/shop", false}, // no webhook of GitHub's is about it
	} {
		w := newHookWorld(t)
		w.add("it", c.configured, c.kind, "")
		for _, ref := range []string{"refs/heads/main", "refs/heads/release/7"} {
			body, err := json.Marshal(map[string]any{"ref": ref, "repository": map[string]any{"clone_url": c.sent}})
			if err != nil {
				t.Fatal(err)
			}
			want := ""
			if c.same {
				want = "it"
			}
			if out := w.push("github", globalSecret, body); out.Code != http.StatusAccepted || w.hints() != want {
				t.Errorf("%s of the kind %s, told of %s: %d, hint %v", c.configured, c.kind, c.sent, out.Code, !c.same)
			}
		}
	}
}

func TestWebhookOfWhatIsNotWatched(t *testing.T) {
	w := newHookWorld(t, shapes[0].url)
	for ref, status := range map[string]int{
		"refs/heads/feature/x": 202, "refs/heads/release/1/2": 202, "refs/heads/mainx": 202, "refs/heads/Main": 202, "refs/tags/v1": 202, "refs/tags/main": 202,
		"main": 400, "refs/heads/": 400, "": 400, "refs/heads/../main": 400, "refs/heads/-x": 400, "refs/heads/ma\x00in": 400, "refs/notes/x": 400,
		"refs/heads/*": 400, "refs/heads/" + strings.Repeat("x", 70_000): 400,
	} {
		body, err := json.Marshal(map[string]any{"ref": ref, "repository": map[string]any{"clone_url": shapes[0].url}})
		if err != nil {
			t.Fatal(err)
		}
		if out := w.push("github", globalSecret, body); out.Code != status || w.hints() != "" {
			t.Errorf("%.40q: %d %s, want %d and no hint", ref, out.Code, out.Body, status)
		}
	}
	body := payload(t, "github-ping")
	header := signed("github", globalSecret, body)
	for _, event := range []string{"ping", "create", "delete", "pull_request", "Push", "issues\n"} {
		header.Set("X-GitHub-Event", event)
		if out := w.send("/hooks/github", header, body); out.Code != 202 || w.hints() != "" {
			t.Errorf("event %q: %d %s", event, out.Code, out.Body)
		}
	}
}

// A17: who may say so.
func TestWebhookProofs(t *testing.T) {
	body := payload(t, "github-push")
	mac := hexMAC(globalSecret, body)
	for name, change := range map[string]func(http.Header){
		"none":              func(h http.Header) { h.Del("X-Hub-Signature-256") },
		"empty":             func(h http.Header) { h.Set("X-Hub-Signature-256", "") },
		"only the name":     func(h http.Header) { h.Set("X-Hub-Signature-256", "sha256=") },
		"sha1":              func(h http.Header) { h.Set("X-Hub-Signature-256", "sha1="+mac[:40]) },
		"called sha1":       func(h http.Header) { h.Set("X-Hub-Signature-256", "sha1="+mac) },
		"without the name":  func(h http.Header) { h.Set("X-Hub-Signature-256", mac) },
		"upper-case name":   func(h http.Header) { h.Set("X-Hub-Signature-256", "SHA256="+mac) },
		"upper-case digits": func(h http.Header) { h.Set("X-Hub-Signature-256", "sha256="+strings.ToUpper(mac)) },
		"truncated":         func(h http.Header) { h.Set("X-Hub-Signature-256", "sha256="+mac[:63]) },
		"half":              func(h http.Header) { h.Set("X-Hub-Signature-256", "sha256="+mac[:32]) },
		"longer":            func(h http.Header) { h.Set("X-Hub-Signature-256", "sha256="+mac+"00") },
		"one digit off": func(h http.Header) {
			h.Set("X-Hub-Signature-256", "sha256="+mac[:63]+string("0123456789abcdef"[(strings.IndexByte("0123456789abcdef", mac[63])+1)%16]))
		},
		"zeros":                 func(h http.Header) { h.Set("X-Hub-Signature-256", "sha256="+strings.Repeat("0", 64)) },
		"no digits":             func(h http.Header) { h.Set("X-Hub-Signature-256", "sha256="+strings.Repeat("z", 64)) },
		"spaces":                func(h http.Header) { h.Set("X-Hub-Signature-256", " sha256="+mac+" ") },
		"twice the same":        func(h http.Header) { h.Add("X-Hub-Signature-256", "sha256="+mac) },
		"a wrong one before it": func(h http.Header) { h["X-Hub-Signature-256"] = []string{"sha256=" + mac[:62] + "00", "sha256=" + mac} },
		"two in one":            func(h http.Header) { h.Set("X-Hub-Signature-256", "sha256="+mac+",sha256="+mac) },
		"of an empty secret":    func(h http.Header) { h.Set("X-Hub-Signature-256", "sha256="+hexMAC("", body)) },
		"of another repository": func(h http.Header) {
			h.Set("X-Hub-Signature-256", "sha256="+hexMAC("yet-another-secret-of-many", body))
		},
		"of another body":          func(h http.Header) { h.Set("X-Hub-Signature-256", "sha256="+hexMAC(globalSecret, body[1:])) },
		"with the line end":        func(h http.Header) { h.Set("X-Hub-Signature-256", "sha256="+hexMAC(globalSecret+"\n", body)) },
		"the secret itself":        func(h http.Header) { h.Set("X-Hub-Signature-256", globalSecret) },
		"the header of Gitea":      func(h http.Header) { h.Del("X-Hub-Signature-256"); h.Set("X-Gitea-Signature", mac) },
		"the header of GitLab":     func(h http.Header) { h.Del("X-Hub-Signature-256"); h.Set("X-Gitlab-Token", globalSecret) },
		"the header of the old":    func(h http.Header) { h.Del("X-Hub-Signature-256"); h.Set("X-Hub-Signature", "sha256="+mac) },
		"the header of the others": func(h http.Header) { h.Del("X-Hub-Signature-256"); h.Set("Authorization", "Bearer "+globalSecret) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newHookWorld(t, shapes[0].url)
			header := signed("github", globalSecret, body)
			change(header)
			out := w.send("/hooks/github", header, body)
			if out.Code != http.StatusUnauthorized || w.hints() != "" || strings.Contains(out.Body.String(), "shop") {
				t.Errorf("%d %s", out.Code, out.Body)
			}
			if got := w.counts(); got != "received{github} 1; refused{github,not_verified} 1" {
				t.Errorf("counted %s", got)
			}
			for _, secret := range []string{globalSecret, mac[:32]} {
				if strings.Contains(w.said.String()+out.Body.String(), secret) {
					t.Errorf("the secret, or what is made with it, is told: %s", &w.said)
				}
			}
		})
	}
	// The body counts as it was sent, to the byte.
	for name, sent := range map[string][]byte{
		"trailing byte": append(slices.Clone(body), '\n'), "leading byte": append([]byte(" "), body...), "without the end": body[:len(body)-1],
		"written anew": bytes.ReplaceAll(body, []byte("\n"), nil), "empty": {},
	} {
		w := newHookWorld(t, shapes[0].url)
		if out := w.send("/hooks/github", signed("github", globalSecret, body), sent); out.Code != http.StatusUnauthorized || w.hints() != "" {
			t.Errorf("%s: %d %s", name, out.Code, out.Body)
		}
	}
}

func TestWebhookProofsOfOthers(t *testing.T) {
	gitlab, gitea := payload(t, "gitlab-push"), payload(t, "gitea-push")
	generic := []byte(`{"repository": "https://git.example.org/team/pay"}`)
	set := func(pairs ...string) http.Header {
		h := http.Header{"Content-Type": {"application/json"}, "X-Gitlab-Event": {"Push Hook"}, "X-Gitea-Event": {"push"}, "X-Github-Event": {"push"}}
		for i := 0; i < len(pairs); i += 2 {
			h.Add(pairs[i], pairs[i+1])
		}
		return h
	}
	for _, c := range []struct {
		name, forge string
		body        []byte
		header      http.Header
		status      int
	}{
		{"token", "gitlab", gitlab, set("X-Gitlab-Token", globalSecret), 202},
		{"no token", "gitlab", gitlab, set(), 401},
		{"empty token", "gitlab", gitlab, set("X-Gitlab-Token", ""), 401},
		{"part of the token", "gitlab", gitlab, set("X-Gitlab-Token", globalSecret[:10]), 401},
		{"more than the token", "gitlab", gitlab, set("X-Gitlab-Token", globalSecret+"x"), 401},
		{"token in upper case", "gitlab", gitlab, set("X-Gitlab-Token", strings.ToUpper(globalSecret)), 401},
		{"token twice", "gitlab", gitlab, set("X-Gitlab-Token", globalSecret, "X-Gitlab-Token", globalSecret), 401},
		{"signature of GitHub", "gitlab", gitlab, set("X-Hub-Signature-256", "sha256="+hexMAC(globalSecret, gitlab)), 401},

		{"signature", "gitea", gitea, set("X-Gitea-Signature", hexMAC(globalSecret, gitea)), 202},
		{"signature of Forgejo", "gitea", gitea, set("X-Forgejo-Signature", hexMAC(globalSecret, gitea)), 202},
		{"a wrong one beside that of Forgejo", "gitea", gitea, set("X-Gitea-Signature", hexMAC("x", gitea), "X-Forgejo-Signature", hexMAC(globalSecret, gitea)), 401},
		{"signature with a name", "gitea", gitea, set("X-Gitea-Signature", "sha256="+hexMAC(globalSecret, gitea)), 401},
		{"signature of Gogs", "gitea", gitea, set("X-Gogs-Signature", hexMAC(globalSecret, gitea)), 401},

		{"signature", "generic", generic, set("X-Sentry-Signature", "sha256="+hexMAC(globalSecret, generic)), 202},
		{"bearer", "generic", generic, set("Authorization", "Bearer "+globalSecret), 202},
		{"both", "generic", generic, set("Authorization", "Bearer "+globalSecret, "X-Sentry-Signature", "sha256="+hexMAC(globalSecret, generic)), 401},
		{"bearer in lower case", "generic", generic, set("Authorization", "bearer "+globalSecret), 401},
		{"basic", "generic", generic, set("Authorization", "Basic "+globalSecret), 401},
		{"bearer twice", "generic", generic, set("Authorization", "Bearer "+globalSecret, "Authorization", "Bearer "+globalSecret), 401},
		{"empty bearer", "generic", generic, set("Authorization", "Bearer "), 401},
	} {
		w := newHookWorld(t, shapes[1].url, shapes[3].url)
		out := w.send("/hooks/"+c.forge, c.header, c.body)
		if out.Code != c.status || (w.hints() != "") != (c.status == 202) {
			t.Errorf("%s, %s: %d %s, want %d", c.forge, c.name, out.Code, out.Body, c.status)
		}
	}
}

// Whoever knows the secret of one repository can say nothing of the others.
func TestWebhookSecretIsOfItsRepositories(t *testing.T) {
	of := func(name string) []byte {
		return fmt.Appendf(nil, `{"ref": "refs/heads/main", "repository": {"clone_url": "https://git.example.org/team/%s"}}`, name)
	}
	for _, c := range []struct{ path, secret, about, hints string }{
		{"", otherSecret, "other", "other"},
		{"", globalSecret, "pay", "pay"},
		{"", otherSecret, "pay", ""},
		{"", globalSecret, "other", ""},
		{"/pay", globalSecret, "pay", "pay"},
		{"/other", otherSecret, "other", "other"},
		{"/pay", globalSecret, "other", ""},
		{"/pay", globalSecret, "shop", ""},
	} {
		w := newHookWorld(t)
		w.add("shop", "https://git.example.org/team/shop", "git", "")
		body := of(c.about)
		if out := w.send("/hooks/github"+c.path, signed("github", c.secret, body), body); out.Code != 202 || w.hints() != c.hints {
			t.Errorf("%s about %s with %s: %d, want hint %q", c.path, c.about, c.secret, out.Code, c.hints)
		}
	}
	// Which repositories there are is not told: all of these are the same answer.
	w := newHookWorld(t, shapes[1].url)
	w.add("broken", "https://git.example.org/team/broken", "git", "missing")
	body := of("other")
	for _, path := range []string{"/other", "/pay", "/nobody", "/shop0", "/broken", "/%20", "/..%2f..", "/" + strings.Repeat("x", 5000)} {
		out := w.send("/hooks/github"+path, signed("github", "a-secret-of-nobody-at-all", body), body)
		if want := `{"error":{"code":"unauthenticated","message":"credentials are missing or wrong"}}` + "\n"; out.Code != 401 || out.Body.String() != want {
			t.Errorf("%.20s: %d %s", path, out.Code, out.Body)
		}
	}
	// Nor is a webhook of one forge about a repository of another, whatever is known.
	if out := w.send("/hooks/github/shop0", signed("github", globalSecret, body), body); out.Code != 401 {
		t.Errorf("for a repository of GitLab: %d", out.Code)
	}
	// One that cannot be read is said once, to those who run Sentry. It is not replaced by the global one.
	if out := w.send("/hooks/github/broken", signed("github", globalSecret, of("broken")), of("broken")); out.Code != 401 || w.hints() != "" {
		t.Errorf("with the global secret: %d", out.Code)
	}
	if n := strings.Count(w.said.String(), "missing cannot be read"); n != 1 {
		t.Errorf("that the secret cannot be read is said %d times: %s", n, &w.said)
	}
}

func TestWebhooksWithoutSecret(t *testing.T) {
	nothing := `{"error":{"code":"no_such_route","message":"there is nothing at this path","hint":"GET /api/v1 lists what there is"}}` + "\n"
	wantNothing := func(w *hookWorld, path, secret string) {
		t.Helper()
		body := payload(t, "github-push")
		out := w.send(path, signed("github", secret, body), body)
		if out.Code != 404 || out.Body.String() != nothing || w.hints() != "" {
			t.Errorf("%s: %d %s", path, out.Code, out.Body)
		}
	}
	w := newHookWorld(t, shapes[0].url)
	wantNothing(w, "/hooks/bitbucket", globalSecret)
	wantNothing(w, "/hooks/GitHub", globalSecret)
	wantNothing(w, "/hooks", globalSecret)
	wantNothing(w, "/hooks/github/shop0/x", globalSecret)

	w.config = &config.Config{Repositories: w.config.Repositories[:1]} // of which none has a secret
	wantNothing(w, "/hooks/github", "")
	wantNothing(w, "/hooks/github/shop0", "")
	if got := w.counts(); got != "" {
		t.Errorf("counted %s", got)
	}
	for _, secret := range []string{"", " ", "two words are not one secret"} { // what is in a file is none, either
		w = newHookWorld(t, shapes[0].url)
		w.config = &config.Config{Global: w.config.Global, Repositories: w.config.Repositories[:1]}
		w.write("global", secret)
		wantNothing(w, "/hooks/github", secret)
	}
	// A secret that only another forge's repositories use is none here.
	w = newHookWorld(t)
	w.config = &config.Config{Global: w.config.Global}
	w.add("lab", shapes[1].url, "gitlab", "")
	wantNothing(w, "/hooks/github", globalSecret)
	wantNothing(w, "/hooks/github/lab", globalSecret)
	body := payload(t, "gitlab-push")
	if out := w.push("gitlab", globalSecret, body); out.Code != 202 || w.hints() != "lab" {
		t.Errorf("gitlab: %d", out.Code)
	}

	h := Handler(Options{})
	out := httptest.NewRecorder()
	h.ServeHTTP(out, httptest.NewRequest("POST", "/hooks/github", strings.NewReader("{}")))
	if out.Code != 404 || out.Body.String() != nothing {
		t.Errorf("without a receiver: %d %s", out.Code, out.Body)
	}
}

// A secret that is rotated holds at once, and the one before no longer.
func TestWebhookSecretIsReadAgain(t *testing.T) {
	w := newHookWorld(t, shapes[0].url)
	body := payload(t, "github-push")
	w.write("global", "a-new-secret-of-all-of-them")
	if out := w.push("github", globalSecret, body); out.Code != 401 {
		t.Errorf("the old secret: %d", out.Code)
	}
	if out := w.push("github", "a-new-secret-of-all-of-them", body); out.Code != 202 || w.hints() != "shop0" {
		t.Errorf("the new secret: %d", out.Code)
	}
}

func TestManyWebhookSecrets(t *testing.T) {
	w := newHookWorld(t)
	for i := range maxHookSecrets + 10 {
		name := fmt.Sprintf("r%d", i)
		w.write(name, "the-secret-of-"+name)
		w.add(name, "https://github.com/team/"+name, "github", name)
	}
	send := func(path, name, secret string) string {
		body := fmt.Appendf(nil, `{"ref": "refs/heads/main", "repository": {"clone_url": "https://github.com/team/%s"}}`, name)
		w.now = w.now.Add(time.Minute)
		out := w.send("/hooks/github"+path, signed("github", secret, body), body)
		return fmt.Sprintf("%d %s", out.Code, w.hints())
	}
	last := fmt.Sprintf("r%d", maxHookSecrets+9)
	for _, c := range []struct{ path, name, secret, want string }{
		{"", "r0", "the-secret-of-r0", "202 r0"},
		{"", last, "the-secret-of-" + last, "401 "},
		{"/" + last, last, "the-secret-of-" + last, "202 " + last},
	} {
		if got := send(c.path, c.name, c.secret); got != c.want {
			t.Errorf("%s about %s: %s, want %s", c.path, c.name, got, c.want)
		}
	}
	if !strings.Contains(w.said.String(), "need the repository's name in the path") {
		t.Errorf("nothing is said of it: %s", &w.said)
	}
}

// A reload holds for webhooks, too.
func TestWebhooksFollowTheConfiguration(t *testing.T) {
	w := newHookWorld(t, shapes[0].url)
	body := payload(t, "github-push")
	if w.push("github", globalSecret, body); w.hints() != "shop0" {
		t.Error("before it there is no hint")
	}
	w.add("twin", shapes[0].url, "github", "")
	w.now = w.now.Add(time.Hour)
	if w.push("github", globalSecret, body); w.hints() != "shop0 twin" {
		t.Error("of two repositories at one address not both are hinted")
	}
	next := *w.config
	next.Repositories = next.Repositories[3:]
	w.config = &next
	w.now = w.now.Add(time.Hour)
	if w.push("github", globalSecret, body); w.hints() != "twin" {
		t.Error("what is no longer configured is hinted")
	}
}

// System hooks tell of much that is no push.
func TestWebhookOfOtherSystemEvents(t *testing.T) {
	w := newHookWorld(t, shapes[2].url)
	for _, event := range []string{"project_create", "tag_push", "repository_update", "user_create", ""} {
		body := bytes.Replace(payload(t, "gitlab-system-push"), []byte(`"event_name": "push"`), []byte(`"event_name": "`+event+`"`), 1)
		if out := w.send("/hooks/gitlab", shapes[2].header(body), body); out.Code != 202 || w.hints() != "" {
			t.Errorf("%s: %d", event, out.Code)
		}
	}
}

func TestHookDepth(t *testing.T) {
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for text, want := range map[string]bool{
		"": true, nested(maxHookDepth): true, nested(maxHookDepth + 1): false, nested(10_000_000): false,
		strings.Repeat("{}", 1000): true, strings.Repeat(`{"a":[`, maxHookDepth/2): true, strings.Repeat(`{"a":[`, maxHookDepth/2+1): false,
		`"` + strings.Repeat("[", 100) + `"`: true, `"\"` + strings.Repeat("[", 100) + `"`: true, `"\\"` + strings.Repeat("[", 100): false, `"\`: true,
		strings.Repeat("]", 1000) + nested(maxHookDepth): true,
	} {
		if got := shallow([]byte(text)); got != want {
			t.Errorf("%.40s of %d bytes: %v", text, len(text), got)
		}
	}
}

// A18: the same again.
func TestWebhookReplays(t *testing.T) {
	w := newHookWorld(t, shapes[0].url)
	first, second := payload(t, "github-push"), payload(t, "github-push")
	second = bytes.Replace(second, []byte("the cart"), []byte("the till"), 1)
	hints := 0
	for i := range 10_000 {
		body := [][]byte{first, second}[i%2]
		header := signed("github", globalSecret, body)
		header.Set("X-GitHub-Delivery", fmt.Sprint(i)) // which nothing covers
		w.now = w.now.Add(20 * time.Millisecond)
		out := w.send("/hooks/github", header, body)
		if out.Code != 202 {
			t.Fatalf("replay %d: %d %s", i, out.Code, out.Body)
		}
		if w.hints() != "" {
			hints++
		}
	}
	if hints != 2 {
		t.Errorf("%d hints of two pushes", hints)
	}
	// Long after it is a question, no more: who has it sends it once in a while.
	w.now = w.now.Add(365 * 24 * time.Hour)
	for range 100 {
		w.now = w.now.Add(time.Second)
		w.push("github", globalSecret, first)
	}
	if got := w.hints(); got != "shop0" {
		t.Errorf("a year later: %q", got)
	}
	// However many different ones there are, a repository is not asked faster than it makes sense.
	for i := range 1000 {
		w.now = w.now.Add(10 * time.Millisecond)
		body := fmt.Appendf(nil, `{"ref": "refs/heads/main", "n": %d, "repository": {"clone_url": "https://github.com/team/shop"}}`, i)
		if out := w.push("github", globalSecret, body); out.Code != 202 && out.Code != 429 {
			t.Fatal(out.Code)
		}
	}
	if n := len(strings.Fields(w.hints())); n > hintBurst+11 {
		t.Errorf("%d hints in 10 seconds", n)
	}
	if n := w.hooks.seen.order.Len(); n > maxSeen {
		t.Errorf("%d bodies are remembered", n)
	}
	// What was refused is told again, not taken for a repetition.
	header := signed("github", globalSecret, first)
	header.Set("Content-Type", "application/x-www-form-urlencoded")
	w.now = w.now.Add(time.Hour)
	for range 2 {
		if out := w.send("/hooks/github", header, first); out.Code != 415 || !strings.Contains(out.Body.String(), "content type") {
			t.Errorf("as a form: %d %s", out.Code, out.Body)
		}
	}
}

func TestGenericWebhook(t *testing.T) {
	w := newHookWorld(t)
	ask := func(path, body string) string {
		h := http.Header{"Authorization": {"Bearer " + globalSecret}}
		if body != "" {
			h.Set("Content-Type", "application/json; charset=utf-8")
		}
		out := w.send("/hooks/generic"+path, h, []byte(body))
		return fmt.Sprintf("%d %s", out.Code, w.hints())
	}
	for _, c := range []struct{ path, body, want string }{
		{"", `{"repository": "git@git.example.org:team/pay.git"}`, "202 pay"},
		{"", `{"repository": "https://git.example.org/team/pay", "ref": "refs/heads/main"}`, "202 pay"},
		{"", `{"repository": "https://git.example.org/team/pay", "ref": "refs/heads/x"}`, "202 "},
		{"", `{"repository": "https://git.example.org/team/pay", "ref": "main"}`, "400 "},
		{"", `{"repository": {"clone_url": "https://git.example.org/team/pay"}}`, "400 "},
		{"", `{}`, "400 "},
		{"", `[]`, "400 "},
		{"", ``, "415 "},
		{"/pay", ``, "202 pay"}, // from whatever can call a URL
		{"/pay", `what Azure DevOps sends`, "202 pay"},
		{"/other", ``, "401 "},
	} {
		if got := ask(c.path, c.body); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.path, c.body, got, c.want)
		}
	}
	// Who has nothing new to say may say it again, after a while.
	if got := ask("/pay", ""); got != "202 " {
		t.Errorf("at once: %s", got)
	}
	for _, after := range []time.Duration{time.Second, 8 * time.Second, 2 * time.Second} {
		w.now = w.now.Add(after)
		if got := ask("/pay", ""); got != "202 pay" {
			t.Errorf("%s later: %s", after, got)
		}
	}
}

// countingBody tells how much of it was read.
type countingBody struct {
	io.Reader
	read int
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.read += n
	return n, err
}

func TestWebhookBounds(t *testing.T) {
	send := func(w *hookWorld, header http.Header, body io.Reader, length int64) (int, int) {
		counting := &countingBody{Reader: body}
		r := httptest.NewRequest("POST", "/hooks/github", counting)
		r.Header, r.ContentLength = header, length
		out := httptest.NewRecorder()
		w.handler.ServeHTTP(out, r)
		return out.Code, counting.read
	}
	w := newHookWorld(t, shapes[0].url)
	body := payload(t, "github-push")
	full := append(slices.Clone(body), bytes.Repeat([]byte(" "), maxHook-len(body))...)
	header := signed("github", globalSecret, full)
	if code, _ := send(w, header, bytes.NewReader(full), maxHook); code != 202 || w.hints() != "shop0" {
		t.Errorf("as large as is allowed: %d", code)
	}
	if code, read := send(w, header, bytes.NewReader(append(full, ' ')), maxHook+1); code != 413 || read != 0 {
		t.Errorf("one byte too large: %d after %d bytes", code, read)
	}
	// In pieces, of a length that nobody tells.
	if code, read := send(w, header, io.MultiReader(bytes.NewReader(full), strings.NewReader(strings.Repeat(" ", 10<<20))), -1); code != 413 || read > maxHook+1 {
		t.Errorf("in pieces, too large: %d after %d bytes", code, read)
	}
	if code, _ := send(w, signed("github", globalSecret, body), io.MultiReader(bytes.NewReader(body[:10]), bytes.NewReader(body[10:])), -1); code != 202 {
		t.Errorf("in pieces: %d", code)
	}
	// A compressed body is not even read, so that it is nothing to be blown up.
	for _, encoding := range []string{"gzip", "br", "identity", ""} {
		header := signed("github", globalSecret, body)
		header.Set("Content-Encoding", encoding)
		if code, read := send(w, header, bytes.NewReader(body), int64(len(body))); code != 415 || read != 0 {
			t.Errorf("encoded as %q: %d after %d bytes", encoding, code, read)
		}
	}
	if got := w.counts(); !strings.Contains(got, "refused{github,too_large} 2") || !strings.Contains(got, "refused{github,encoded} 4") {
		t.Errorf("counted %s", got)
	}
	if w.hooks.flood.held != 0 || w.hooks.flood.inside != 0 {
		t.Errorf("%d bytes and %d requests are thought to be there", w.hooks.flood.held, w.hooks.flood.inside)
	}
}

// A body that arrives takes memory as it arrives: what is announced costs nothing.
func TestWebhookMemoryIsBounded(t *testing.T) {
	f := newFlood()
	var visits []*visit
	for i := range 100 {
		v, ok := f.enter(fmt.Sprintf("192.0.2.%d:1", i/4), now)
		if !ok {
			t.Fatal("refused")
		}
		visits = append(visits, v)
	}
	taken := 0
	for _, v := range visits {
		if v.hold(maxHook + 1) {
			taken++
		}
	}
	if taken != memoryOfAll/(maxHook+1) {
		t.Errorf("%d bodies were taken at a time", taken)
	}
	for _, v := range visits {
		v.leave()
	}
	if f.held != 0 || f.inside != 0 {
		t.Errorf("%d bytes and %d requests are left", f.held, f.inside)
	}
	one, _ := f.enter("192.0.2.1:1", now)
	if !one.hold(memoryOfOne) || one.hold(1) {
		t.Error("one address takes more than its share")
	}
	one.leave()
	var proxy *visit
	for range insideOfAll {
		var ok bool
		if proxy, ok = f.enter("127.0.0.1:1", now.Add(time.Hour)); !ok {
			t.Fatal("a proxy is refused")
		}
	}
	if proxy.hold(memoryOfAll+1) || !proxy.hold(memoryOfAll) {
		t.Error("a proxy takes more or less than there is")
	}
	if _, ok := f.enter("127.0.0.1:1", now.Add(time.Hour)); ok {
		t.Error("more are inside than there is room for")
	}
}

func TestWebhookFloods(t *testing.T) {
	w := newHookWorld(t, shapes[0].url)
	send := func(from string) int {
		body := []byte(`{}`)
		r := httptest.NewRequest("POST", "/hooks/github", bytes.NewReader(body))
		r.Header, r.RemoteAddr = signed("github", "wrong-secret-of-a-stranger", body), from
		out := httptest.NewRecorder()
		w.handler.ServeHTTP(out, r)
		if out.Code == 429 && out.Header().Get("Retry-After") == "" {
			t.Error("it is not said when to come again")
		}
		return out.Code
	}
	count := func(n int, from func(int) string) map[int]int {
		got := map[int]int{}
		for i := range n {
			got[send(from(i))]++
		}
		return got
	}
	got := count(1000, func(int) string { return "192.0.2.1:1234" })
	if !maps.Equal(got, map[int]int{401: burstOfOne, 429: 1000 - burstOfOne}) {
		t.Errorf("of one address: %v", got)
	}
	if code := send("192.0.2.2:1"); code != 401 {
		t.Errorf("another address: %d", code)
	}
	// Ports, and addresses of one network of IPv6, are the same visitor.
	w.now = w.now.Add(time.Hour)
	got = count(1000, func(i int) string { return fmt.Sprintf("[2001:db8::%x]:%d", i, 1000+i) })
	if got[401] != burstOfOne {
		t.Errorf("of one network: %v", got)
	}
	w.now = w.now.Add(time.Hour)
	if got = count(1000, func(i int) string { return fmt.Sprintf("[::ffff:192.0.2.9]:%d", 1000+i) }); got[401] != burstOfOne {
		t.Errorf("of one IPv4 address written as IPv6: %v", got)
	}
	// All together have a bound as well, and so has what is remembered of them.
	w.now = w.now.Add(time.Hour)
	got = count(20_000, func(i int) string { return fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255) })
	if got[401] != burstOfAll {
		t.Errorf("of many addresses: %v", got)
	}
	if n := w.hooks.flood.visitors.order.Len(); n != maxVisitors || len(w.hooks.flood.visitors.at) != n {
		t.Errorf("%d visitors are remembered", n)
	}
	w.now = w.now.Add(10 * time.Second)
	if code := send("10.200.0.1:1"); code != 401 {
		t.Errorf("when it is over: %d", code)
	}
	// A proxy on this machine stands for everybody: what one of them sends too much is not held against the others.
	for _, proxy := range []string{"127.0.0.1:1234", "127.8.8.8:1", "[::1]:1234", "[::ffff:127.0.0.1]:1"} {
		w.now = w.now.Add(time.Hour)
		if got = count(1000, func(int) string { return proxy }); got[401] != burstOfAll {
			t.Errorf("through a proxy at %s: %v", proxy, got)
		}
	}
	// What comes through the socket is one visitor, too.
	w.now = w.now.Add(time.Hour)
	if got = count(1000, func(int) string { return "@" }); got[401] != burstOfOne {
		t.Errorf("through the socket: %v", got)
	}
}

// Large bodies count for what it takes to check them.
func TestWebhookFloodOfLargeBodies(t *testing.T) {
	w := newHookWorld(t, shapes[0].url)
	body := bytes.Repeat([]byte("x"), maxHook)
	got := map[int]int{}
	for range 200 {
		got[w.push("github", "wrong-secret-of-a-stranger", body).Code]++
	}
	// 1 for the request and 4 for each of the two secrets, of 200.
	if got[401] < 15 || got[401] > 25 {
		t.Errorf("%v", got)
	}
}

func TestWebhookAddresses(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:80": "192.0.2.1", "[2001:db8:1:2:3:4:5:6]:80": "2001:db8:1:2::", "[::ffff:192.0.2.1]:80": "192.0.2.1", "[fe80::1%eth0]:80": "fe80::",
		"127.0.0.1:80": "127.0.0.1", "[::1]:80": "::1", "[::2]:80": "::",
		"": "invalid IP", "@": "invalid IP", "pipe": "invalid IP",
	} {
		if got := addressOf(remote).String(); got != want {
			t.Errorf("%s: %s, want %s", remote, got, want)
		}
	}
}

// mutation replaces one value of a payload; text is raw JSON, "" takes the value out.
type mutation struct{ name, text string }

func mutations() []mutation {
	quoted := func(s string) string {
		text, _ := json.Marshal(s)
		return string(text)
	}
	list := []mutation{
		{"missing", ""},
		{"null", "null"},
		{"empty text", `""`},
		{"empty list", "[]"},
		{"empty mapping", "{}"},
		{"0", "0"},
		{"-1", "-1"},
		{"1e400", "1e400"},
		{"a number of 10,000 digits", strings.Repeat("9", 10_000)},
		{"true", "true"},
		{"a text", `"boom"`},
		{"a number", "12345"},
		{"a list of nulls", "[null,[null]]"},
		{"a mapping of its like", `{"repository":{"clone_url":"https://git.example.org/team/other"},"ref":"refs/heads/main"}`},
		{"900 KB", `"` + strings.Repeat("x", 900<<10) + `"`},
		{"900 KB of escapes", `"` + strings.Repeat(`\u0041`, 150<<10) + `"`},
		{"1 MB", `"` + strings.Repeat("x", 1<<20) + `"`},
		{"10,000 lists in each other", strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)},
		{"10,000 mappings in each other", strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000)},
		{"100,000 items", "[" + strings.Repeat("1,", 100_000) + "1]"},
		{"not UTF-8", "\"\xff\xfe\""},
		{"half a surrogate", `"\ud800"`},
		{"control characters", quoted("\x00\x1b[2J\r\nrefs/heads/main")},
		{"no JSON", "'x'"},
		{"an open text", `"x`},
	}
	for _, text := range []string{
		"https://git.example.org/team/other", "https://git.example.org/team/other.git", "git@git.example.org:team/other", ".*", "https://.*/.*", "--upload-pack=touch /tmp/pwn",
		"ext::sh -c touch% /tmp/pwn", "file:///etc/passwd", "http://169.254.169.254/latest/meta-data", "refs/heads/*", "refs/heads/$(id)", "refs/heads/../../x", "javascript:alert(1)",
	} {
		list = append(list, mutation{text, quoted(text)})
	}
	return list
}

// raw is a JSON value whose parts can be replaced and which is written in the order in which it was read.
type raw struct {
	keys  []string // of a mapping
	parts []*raw
	open  byte   // '{', '[' or 0
	text  string // of what has no parts
}

func readRaw(t testing.TB, body []byte) *raw {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var value func() *raw
	token := func() json.Token {
		tok, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	value = func() *raw {
		switch tok := token().(type) {
		case json.Delim:
			r := &raw{open: byte(tok)}
			for d.More() {
				if tok == '{' {
					r.keys = append(r.keys, token().(string))
				}
				r.parts = append(r.parts, value())
			}
			token()
			return r
		default:
			text, err := json.Marshal(tok)
			if err != nil {
				t.Fatal(err)
			}
			return &raw{text: string(text)}
		}
	}
	return value()
}

// write writes a value, with replace instead of the part that is target.
func (r *raw) write(out *bytes.Buffer, target *raw, replace string) {
	switch {
	case r == target:
		out.WriteString(replace)
		return
	case r.open == 0:
		out.WriteString(r.text)
		return
	}
	out.WriteByte(r.open)
	first := true
	for i, part := range r.parts {
		if part == target && replace == "" {
			continue
		}
		if !first {
			out.WriteByte(',')
		}
		first = false
		if r.keys != nil {
			key, _ := json.Marshal(r.keys[i])
			out.Write(append(key, ':'))
		}
		part.write(out, target, replace)
	}
	out.WriteByte(r.open + 2) // } is two after {, and ] after [
}

// all gives every part with the path that leads to it, the whole first.
func (r *raw) all(path string, visit func(path string, part *raw)) {
	visit(path, r)
	for i, part := range r.parts {
		if r.keys != nil {
			part.all(path+"."+r.keys[i], visit)
		} else {
			part.all(fmt.Sprintf("%s[%d]", path, i), visit)
		}
	}
}

// A19 and A20: every value of every payload, replaced by whatever somebody might think of, and signed correctly.
func TestHostilePayloads(t *testing.T) {
	cases, accepted := 0, 0
	every := 4
	if racing {
		every = 32
	}
	var most uint64
	for _, s := range shapes {
		t.Run(s.file, func(t *testing.T) {
			w := newHookWorld(t, s.url)
			whole := readRaw(t, payload(t, s.file))
			body := &bytes.Buffer{}
			whole.write(body, nil, "")
			if out := w.send("/hooks/"+s.forge, s.header(body.Bytes()), body.Bytes()); out.Code != 202 || w.hints() != "shop0" {
				t.Fatalf("unchanged: %d %s", out.Code, out.Body)
			}
			list := mutations()
			parts := 0
			whole.all("", func(path string, part *raw) {
				parts++
				// Among what is passed over, one place for a megabyte is like another.
				light := parts%every != 0 && !slices.Contains(hookFields, path[strings.LastIndexByte(path, '.')+1:])
				for _, m := range list {
					if part == whole && m.text == "" || light && len(m.text) > 5000 {
						continue
					}
					cases++
					body.Reset()
					whole.write(body, part, m.text)
					sent := bytes.Clone(body.Bytes())
					header := s.header(sent)
					w.now = w.now.Add(time.Minute) // so that no bound on the rate hides anything
					w.said.Reset()

					out, cost := w.measured("/hooks/"+s.forge, header, sent)
					most = max(most, cost)
					// What the buffer of the body grows through is twice its size, and a text that is read is there once more.
					if limit := uint64(5 * maxHook); cost > limit {
						t.Fatalf("%s = %s: %d bytes were allocated for it", path, m.name, cost)
					}
					switch out.Code {
					case 202:
						accepted++
					case 400, 413:
					default:
						t.Fatalf("%s = %s: %d %s\n%s", path, m.name, out.Code, out.Body, &w.said)
					}
					if got := w.hints(); got != "" && got != "shop0" {
						t.Fatalf("%s = %s: hints %q", path, m.name, got)
					}
					if out.Body.Len() > 200 || w.said.Len() > 2000 {
						t.Fatalf("%s = %s: what was sent comes back: %.300s\n%.300s", path, m.name, out.Body, &w.said)
					}
				}
			})
		})
	}
	t.Logf("%d payloads, %d of them accepted; at most %d KiB allocated for one", cases, accepted, most>>10)
	if cases < 2000 || accepted < cases/2 {
		t.Errorf("%d cases, %d accepted", cases, accepted)
	}
}

// hookFields are the last parts of the paths that are read, of any forge.
var hookFields = []string{"", "ref", "repository", "clone_url", "html_url", "project", "git_http_url", "git_ssh_url", "web_url", "event_name"}

// measured sends and tells how much was allocated meanwhile.
func (w *hookWorld) measured(path string, header http.Header, body []byte) (*httptest.ResponseRecorder, uint64) {
	r := httptest.NewRequest("POST", path, bytes.NewReader(body))
	r.Header = header
	out := httptest.NewRecorder()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	w.handler.ServeHTTP(out, r)
	runtime.ReadMemStats(&after)
	return out, after.TotalAlloc - before.TotalAlloc
}

// Bodies that are no payload at all.
func TestHostileBodies(t *testing.T) {
	w := newHookWorld(t, shapes[0].url, shapes[1].url, shapes[3].url)
	good := payload(t, "github-push")
	bodies := [][]byte{
		nil, []byte("null"), []byte("[]"), []byte(`"x"`), []byte("0"), []byte("{"), []byte("{}{}"), []byte("\xef\xbb\xbf{}"), []byte("{}\x00"),
		append(slices.Clone(good), good...), append(slices.Clone(good), '}'), bytes.Repeat([]byte("{"), maxHook), bytes.Repeat([]byte(`"`), maxHook), bytes.Repeat([]byte(`\`), maxHook),
		bytes.Repeat([]byte("["), maxHook), bytes.Repeat([]byte("]"), maxHook), bytes.Repeat([]byte{0xff}, maxHook), bytes.Repeat([]byte{0}, maxHook),
		[]byte("payload=%7B%22ref%22%3A%22refs%2Fheads%2Fmain%22%7D"), []byte("<xml/>"), []byte("--- \n- yaml"),
		[]byte(`{"ref":"refs/heads/main","ref":0,"repository":{"clone_url":"` + shapes[0].url + `"}}`),
		[]byte(`{"repository":{"clone_url":"https://git.example.org/team/other"},"ref":"refs/heads/main","repository":[]}`),
	}
	for i := range 200 { // cut off anywhere
		bodies = append(bodies, good[:i*len(good)/200])
	}
	for i, body := range bodies {
		for forge := range hookForges {
			w.now = w.now.Add(time.Minute)
			out := w.push(forge, globalSecret, body)
			if out.Code != 400 || w.hints() != "" {
				t.Errorf("body %d for %s: %d %s", i, forge, out.Code, out.Body)
			}
		}
	}
}

// A receiver that breaks takes down one request, and counts it.
func TestWebhookPanic(t *testing.T) {
	w := newHookWorld(t, shapes[0].url)
	w.hooks.o.Hint = func(string) { panic("broken") }
	body := payload(t, "github-push")
	if out := w.push("github", globalSecret, body); out.Code != 500 || strings.Contains(out.Body.String(), "broken") {
		t.Errorf("%d %s", out.Code, out.Body)
	}
	if got := w.counts(); !strings.Contains(got, "refused{github,panic} 1") {
		t.Errorf("counted %s", got)
	}
	if w.hooks.flood.inside != 0 || w.hooks.flood.held != 0 {
		t.Error("its place is lost")
	}
}

// Reloads and webhooks at the same time; for the race detector.
func TestWebhooksDuringReloads(t *testing.T) {
	w := newHookWorld(t, shapes[0].url)
	one, two := w.config, *w.config
	var turn int
	var mu sync.Mutex
	w.hooks.o.Config = func() *config.Config {
		mu.Lock()
		defer mu.Unlock()
		turn++
		return []*config.Config{one, &two}[turn%2]
	}
	w.hooks.o.Log = slog.New(slog.DiscardHandler)
	body := payload(t, "github-push")
	header := signed("github", globalSecret, body)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				if out := w.send("/hooks/github", header.Clone(), body); out.Code != 202 {
					t.Errorf("%d %s", out.Code, out.Body)
				}
			}
		})
	}
	all.Wait()
	if got := w.hints(); got != "shop0" {
		t.Errorf("hints %q", got)
	}
}

// FuzzHookPayload reads whatever there may be, as every forge.
func FuzzHookPayload(f *testing.F) {
	for _, s := range shapes {
		f.Add(payload(f, s.file))
	}
	f.Add(payload(f, "github-ping"))
	f.Add([]byte(`{"repository":"https://git.example.org/team/pay","ref":"refs/heads/main"}`))
	for _, m := range mutations() {
		if len(m.text) < 2000 {
			f.Add([]byte(`{"ref":` + m.text + `,"repository":{"clone_url":` + m.text + `}}`))
		}
	}
	index := newHookIndex(newHookWorld(f, shapes[0].url).config)
	f.Fuzz(func(t *testing.T, body []byte) {
		for name, forge := range hookForges {
			for _, event := range []string{"push", "Push Hook", "System Hook"} {
				push, err := forge.parse(event, body)
				if err != nil {
					continue
				}
				if len(push.urls) == 0 || len(push.urls) > 3 || slices.Contains(push.urls, "") {
					t.Errorf("%s: addresses %q", name, push.urls)
				}
				if push.branch != "" && sentry.CheckBranch(push.branch) != nil {
					t.Errorf("%s: branch %q", name, push.branch)
				}
				for _, r := range index.at(push.urls) {
					if place(r.Monitor.Remote) == "" {
						t.Errorf("%s: %q is nowhere", name, r.Name)
					}
				}
			}
		}
	})
}
