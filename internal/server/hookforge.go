package server

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"sentry/internal/sentry"
)

// hookForge is how one kind of forge signs and words its webhooks.
type hookForge struct {
	name  string
	types []string // of repositories that it may be about; nil for all
	event []string // the header that names the event, the preferred one first; nil where there is no such thing
	// proof makes the test of a secret for one request; nil where the request proves nothing.
	proof func(header http.Header, body []byte) func(secret []byte) bool
	// parse reads a push. Its error is errNoPush for an event that is none.
	parse func(event string, body []byte) (hookPush, error)
}

// hookPush is all that is read of a webhook: addresses to be compared with those that are configured, and a branch to be
// compared with what is watched.
type hookPush struct {
	urls   []string
	branch string // "" for any
}

var (
	errNoPush    = errors.New("not a push")
	errMalformed = errors.New("malformed")
)

// hookForges are the forges by the word in the path.
//
// Sources: GitHub, "Validating webhook deliveries" and "Webhook events and payloads"; GitLab, "Webhooks", "Webhook
// events" and "System hooks"; Gitea, "Webhooks", and services/webhook/deliver.go of its source (Forgejo adds headers of
// its own name).
var hookForges = map[string]*hookForge{
	"github": {
		name: "github", types: []string{"github", "git", ""}, event: []string{"X-GitHub-Event"},
		proof: signedBy("sha256=", "X-Hub-Signature-256"), parse: parseGitHub,
	},
	"gitlab": {
		name: "gitlab", types: []string{"gitlab", "git", ""}, event: []string{"X-Gitlab-Event"},
		proof: func(header http.Header, _ []byte) func([]byte) bool { return equals(one(header, "X-Gitlab-Token")) },
		parse: parseGitLab,
	},
	"gitea": {
		name: "gitea", types: []string{"gitea", "git", ""}, event: []string{"X-Gitea-Event", "X-Forgejo-Event"},
		proof: signedBy("", "X-Gitea-Signature", "X-Forgejo-Signature"), parse: parseGitHub,
	},
	"generic": {name: "generic", proof: provedGeneric, parse: parseGeneric},
}

// fits reports whether a webhook of the forge may be about a repository of a type.
func (f *hookForge) fits(repoType string) bool {
	return f.types == nil || slices.Contains(f.types, repoType)
}

// verify gives the secrets that a request proves to know. All of them are tried, so that the time it takes does not tell
// which it was.
func (f *hookForge) verify(header http.Header, body []byte, keys []hookKey) map[*hookSecret]bool {
	test := f.proof(header, body)
	if test == nil {
		return nil
	}
	var verified map[*hookSecret]bool
	for _, k := range keys {
		if test(k.text) {
			if verified == nil {
				verified = map[*hookSecret]bool{}
			}
			verified[k.secret] = true
		}
	}
	delete(verified, nil) // the key of nobody
	return verified
}

// signedBy finds the HMAC-SHA256 of the body, in lower-case hexadecimal digits, in the first of some headers that is there.
// Another way to write it is refused: what these forges send has one form.
func signedBy(prefix string, headers ...string) func(http.Header, []byte) func([]byte) bool {
	return func(header http.Header, body []byte) func([]byte) bool {
		text, ok := strings.CutPrefix(one(header, headers...), prefix)
		if !ok || len(text) != 2*sha256.Size || strings.ContainsFunc(text, func(r rune) bool { return !strings.ContainsRune("0123456789abcdef", r) }) {
			return nil
		}
		want, err := hex.DecodeString(text)
		if err != nil {
			return nil
		}
		return func(secret []byte) bool {
			mac := hmac.New(sha256.New, secret)
			_, _ = mac.Write(body)
			return hmac.Equal(mac.Sum(nil), want)
		}
	}
}

// equals compares a secret with a text that was sent. Digests are compared, so that not even the length is told.
func equals(text string) func([]byte) bool {
	if text == "" {
		return nil
	}
	sent := sha256.Sum256([]byte(text))
	return func(secret []byte) bool {
		known := sha256.Sum256(secret)
		return subtle.ConstantTimeCompare(sent[:], known[:]) == 1
	}
}

// provedGeneric takes a signature as GitHub makes it, or the secret itself: one of the two, as a sender that shows both
// is not one that was set up.
func provedGeneric(header http.Header, body []byte) func([]byte) bool {
	signature, token := header.Values("X-Sentry-Signature"), header.Values("Authorization")
	switch {
	case len(signature) > 0 && len(token) > 0:
		return nil
	case len(signature) > 0:
		return signedBy("sha256=", "X-Sentry-Signature")(header, body)
	case len(token) != 1:
		return nil
	}
	text, ok := strings.CutPrefix(token[0], "Bearer ")
	if !ok {
		return nil
	}
	return equals(text)
}

// parseGitHub reads a push event of GitHub, or of Gitea, which words its own in the same way.
func parseGitHub(event string, body []byte) (hookPush, error) {
	if event != "push" {
		return hookPush{}, errNoPush // a ping among them
	}
	var p struct {
		Ref        string `json:"ref"`
		Repository struct {
			CloneURL string `json:"clone_url"`
			SSHURL   string `json:"ssh_url"`
			HTMLURL  string `json:"html_url"`
		} `json:"repository"`
	}
	if err := unmarshalHook(body, &p); err != nil {
		return hookPush{}, err
	}
	return pushOf(p.Ref, p.Repository.CloneURL, p.Repository.SSHURL, p.Repository.HTMLURL)
}

// parseGitLab reads a push event of a project or a group, or one among the system hooks of an instance.
func parseGitLab(event string, body []byte) (hookPush, error) {
	if event != "Push Hook" && event != "System Hook" {
		return hookPush{}, errNoPush
	}
	var p struct {
		EventName string `json:"event_name"`
		Ref       string `json:"ref"`
		Project   struct {
			HTTP string `json:"git_http_url"`
			SSH  string `json:"git_ssh_url"`
			Web  string `json:"web_url"`
		} `json:"project"`
	}
	if err := unmarshalHook(body, &p); err != nil {
		return hookPush{}, err
	}
	if event == "System Hook" && p.EventName != "push" {
		return hookPush{}, errNoPush
	}
	return pushOf(p.Ref, p.Project.HTTP, p.Project.SSH, p.Project.Web)
}

// parseGeneric reads {"repository": address, "ref": "refs/heads/…"}, of which the ref may be left out.
func parseGeneric(_ string, body []byte) (hookPush, error) {
	var p struct {
		Repository string `json:"repository"`
		Ref        string `json:"ref"`
	}
	if err := unmarshalHook(body, &p); err != nil {
		return hookPush{}, err
	}
	if p.Ref == "" && p.Repository != "" {
		return hookPush{urls: []string{p.Repository}}, nil
	}
	return pushOf(p.Ref, p.Repository)
}

// pushOf checks what was read: a branch, and at least one address.
func pushOf(ref string, urls ...string) (hookPush, error) {
	urls = slices.DeleteFunc(urls, func(url string) bool { return url == "" })
	branch, ok := strings.CutPrefix(ref, "refs/heads/")
	switch {
	case len(urls) == 0:
		return hookPush{}, errMalformed
	case strings.HasPrefix(ref, "refs/tags/"):
		return hookPush{}, errNoPush
	case !ok || sentry.CheckBranch(branch) != nil:
		return hookPush{}, errMalformed
	}
	return hookPush{urls: urls, branch: branch}, nil
}

// maxHookDepth is how deep mappings and lists may be nested: real payloads have six.
const maxHookDepth = 64

// unmarshalHook reads JSON into a struct of texts. What the struct does not name is passed over without being kept.
func unmarshalHook(body []byte, into any) error {
	if !shallow(body) || !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) {
		return errMalformed
	}
	if json.Unmarshal(body, into) != nil {
		return errMalformed // its message would repeat what was sent
	}
	return nil
}

// shallow looks at the depth of a text before anything is allocated for it.
func shallow(body []byte) bool {
	depth, quoted := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxHookDepth {
				return false
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return true
}
