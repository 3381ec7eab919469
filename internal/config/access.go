package config

import (
	"errors"
	"fmt"
	"strings"

	"sentry/internal/sentry"

	"go.yaml.in/yaml/v4"
)

func authKeys() *mapping[Auth] {
	return &mapping[Auth]{
		initial: func() Auth { return Auth{} },
		keys: []key[Auth]{
			{
				name:  "username",
				about: "The account that the token belongs to.",
				value: text(func(a *Auth) *string { return &a.Username }, checkUsername),
			}, {
				name:  "token",
				about: "An access token, best as a variable such as ${GITHUB_TOKEN}.",
				value: token(),
			}, {
				name:  "token_file",
				about: "A file that holds the token. It is read again when it changes.",
				value: path(func(a *Auth) *string { return &a.TokenFile }),
			}, {
				name:  "ssh_key_file",
				about: "The private key for an ssh address.",
				value: path(func(a *Auth) *string { return &a.SSHKeyFile }),
			}, {
				name:  "known_hosts_file",
				about: "The host keys to believe for an ssh address.",
				value: path(func(a *Auth) *string { return &a.KnownHostsFile }),
			}, {
				name:  "app",
				about: "The installation of a GitHub App, instead of a token.",
				value: optional(func(a *Auth) **App { return &a.App }, appKeys),
			},
		},
		after: checkAuth,
	}
}

const maxAppID = 999_999_999_999

func appKeys() *mapping[App] {
	return &mapping[App]{
		initial: func() App { return App{} },
		keys: []key[App]{
			{
				name:     "id",
				required: true,
				about:    "The App ID, which the settings of the app show.",
				value:    integer(func(a *App) *int64 { return &a.ID }, 1, maxAppID),
			}, {
				name:     "installation",
				required: true,
				about:    "The number at the end of the address of the installation's settings.",
				value:    integer(func(a *App) *int64 { return &a.Installation }, 1, maxAppID),
			}, {
				name:     "private_key_file",
				required: true,
				about:    "A private key (PEM) of the app. It is read again when it changes.",
				value:    path(func(a *App) *string { return &a.KeyFile }),
			},
		},
	}
}

// token is an access token. It may be written out, which is worth a warning: configurations are shared and committed.
func token() codec[Auth] {
	c := parsed(
		func(_ *decoder, s *scalar, into *Auth) error {
			if err := checkSecret(accessToken, s.text); err != nil {
				return withHint(fmt.Errorf("%w%s", err, s.origin()), "check where it comes from")
			}
			into.Token, into.literal = sentry.NewSecret(s.text), len(s.variables) == 0
			return nil
		},
		func(from *Auth) string { return from.Token.String() },
	)
	read := c.read
	c.read = func(d *decoder, at *place, n *yaml.Node, into *Auth) {
		read(d, at, n, into)
		if into.literal {
			d.warn(at, follow(n), "the token is written out in the file", "use a variable such as ${TOKEN}, or token_file")
		}
	}
	return c
}

func checkUsername(name string) error {
	switch {
	case name == "":
		return errors.New("the user name is empty")
	case len(name) > 255:
		return errors.New("the user name has more than 255 bytes")
	case strings.ContainsFunc(name, func(r rune) bool { return r == ':' || isControl(r) }):
		return errors.New(`the user name holds ":" or a control character`)
	}
	return nil
}

// checkAuth looks at the keys of auth together.
func checkAuth(d *decoder, at *place, n *yaml.Node, given map[string]*yaml.Node, a *Auth) {
	if given["token"] != nil && given["token_file"] != nil {
		d.wrong(at.at("token_file"), given["token_file"], "token and token_file are both given", "keep one of them")
	}
	for _, name := range []string{"token", "token_file"} {
		if given["app"] != nil && given[name] != nil {
			d.wrong(at.at(name), given[name], name+" and app are both given", "keep one of them: the app makes its own tokens")
		}
	}
	if a.TokenFile != "" {
		a.file = d.config.secretFile(accessToken, a.TokenFile)
	}
}

// secretPath is the path of a file that holds the secret of webhooks.
func secretPath[T any](field func(*T) *SecretFile) codec[T] {
	c := path(func(into *T) *string { return &field(into).Path })
	read := c.read
	c.read = func(d *decoder, at *place, n *yaml.Node, into *T) {
		read(d, at, n, into)
		if s := field(into); s.Path != "" {
			s.file = d.config.secretFile(webhookSecret, s.Path)
		}
	}
	return c
}

// checkAccess tells where credentials and address do not fit each other. None of it is unsafe, as a credential goes only
// to the origin beside it; but whoever gave one expects that it is used.
//
// A token serves the forge's API also where git goes by ssh; with the kind git there is no API.
func checkAccess(d *decoder, at *place, n *yaml.Node, r sentry.Remote, kind string, a Auth) {
	if n == nil || r.IsZero() {
		return
	}
	n = follow(n)
	if a.App != nil && kind != "" && kind != "github" {
		d.wrong(at.at("app"), valueOf(n, "app"), "apps are GitHub's, and the repository is of the kind "+kind, "set repo_type: github for a GitHub server, or use token_file")
	}
	hasToken := !a.Token.Empty() || a.TokenFile != ""
	hasKey := a.SSHKeyFile != "" || a.KnownHostsFile != ""
	switch scheme := r.Scheme(); {
	case scheme == "file" && (hasToken || hasKey || a.App != nil || a.Username != ""):
		d.warn(at, n, "nothing reads it for a repository on this machine", "")
	case scheme == "ssh" && kind == "git" && (hasToken || a.Username != ""):
		d.warn(at, n, "username and token are not used for an ssh address", "use ssh_key_file, and give the user in the address: user@host:path")
	case scheme != "ssh" && hasKey:
		d.warn(at, n, "ssh_key_file and known_hosts_file are not used for an "+scheme+" address", "use token or token_file")
	case scheme == "ssh" && a.Username != "":
		d.warn(at, n, "a username is not used for an ssh address", "give the user in the address: user@host:path")
	case a.App != nil && a.Username != "":
		d.warn(at, n, "a username is not used with an app", "")
	case scheme != "ssh" && a.Username != "" && !hasToken:
		d.warn(at, n, "a user name without a token proves nothing", "add token or token_file")
	case scheme == "http" && (hasToken || a.App != nil) && !loopback(r):
		d.warn(at, n, "the token travels to "+r.Host()+" unencrypted", "use https://")
	}
}

// checkAPI looks at the base of an API together with the repository's address: a token that is given for one host goes
// to both.
func checkAPI(d *decoder, at *place, n *yaml.Node, m *Monitor) {
	if n == nil || m.APIURL == "" || m.Remote.IsZero() {
		return
	}
	n = follow(n)
	api, err := sentry.ParseRemote(m.APIURL+"/api", sentry.RemoteRules{InsecureHTTP: true})
	if err != nil {
		return // it was reported
	}
	hasToken := !m.Auth.Token.Empty() || m.Auth.TokenFile != "" || m.Auth.App != nil
	ours, theirs := hostname(m.Remote), hostname(api)
	switch {
	case m.Type == "git":
		d.warn(at, n, "nothing reads it with repo_type git", "set repo_type to github, gitlab or gitea")
	case hasToken && api.Scheme() == "http" && !loopback(api):
		d.warn(at, n, "the token travels to "+api.Host()+" unencrypted", "use https://")
	case hasToken && theirs != ours && theirs != "api."+ours:
		d.warn(at, n, fmt.Sprintf("the token goes to %s, too, which is another host than that of repo_url", theirs), "is it the same forge?")
	}
}

// typeOf is the kind of server that an address tells: the public ones are known by their names.
func typeOf(r sentry.Remote) string {
	switch r.Host() {
	case "":
		if r.IsZero() {
			return "" // it was reported; what depends on the kind is not
		}
	case "github.com":
		return "github"
	case "gitlab.com":
		return "gitlab"
	case "codeberg.org":
		return "gitea"
	}
	return "git"
}
