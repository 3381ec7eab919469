package config

import (
	"errors"
	"fmt"
	"strings"

	"sentry/internal/sentry"

	"go.yaml.in/yaml/v4"
)

// token is an access token. It may be written out, which is worth a warning: configurations are shared and committed.
func token() codec[Auth] {
	c := parsed(
		func(_ *decoder, s *scalar, into *Auth) error {
			if err := checkToken(s.text); err != nil {
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
	if a.TokenFile != "" {
		a.file = d.config.secretFile(a.TokenFile)
	}
}

// checkAccess tells where credentials and address do not fit each other. None of it is unsafe, as a credential goes only
// to the origin beside it; but whoever gave one expects that it is used.
func checkAccess(d *decoder, at *place, n *yaml.Node, r sentry.Remote, a Auth) {
	if n == nil || r.IsZero() {
		return
	}
	n = follow(n)
	hasToken := !a.Token.Empty() || a.TokenFile != ""
	hasKey := a.SSHKeyFile != "" || a.KnownHostsFile != ""
	switch scheme := r.Scheme(); {
	case scheme == "file" && (hasToken || hasKey || a.Username != ""):
		d.warn(at, n, "nothing reads it for a repository on this machine", "")
	case scheme == "ssh" && (hasToken || a.Username != ""):
		d.warn(at, n, "username and token are not used for an ssh address", "use ssh_key_file, and give the user in the address: user@host:path")
	case scheme != "ssh" && hasKey:
		d.warn(at, n, "ssh_key_file and known_hosts_file are not used for an "+scheme+" address", "use token or token_file")
	case scheme != "ssh" && a.Username != "" && !hasToken:
		d.warn(at, n, "a user name without a token proves nothing", "add token or token_file")
	case scheme == "http" && hasToken && !loopback(r):
		d.warn(at, n, "the token travels to "+r.Host()+" unencrypted", "use https://")
	}
}
