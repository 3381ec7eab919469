package forge

import (
	"fmt"
	"net/url"
	"strings"

	"sentry/internal/sentry"
)

// apiBase is the base of the API of a repository, without a slash at its end: as configured, or where the forge has it by
// its documentation. A Git server has none: nil.
//
//	github   github.com      https://api.github.com
//	         NAME.ghe.com    https://api.NAME.ghe.com
//	         another host    https://HOST/api/v3, GitHub Enterprise Server
//	gitlab                   https://HOST/api/v4
//	gitea                    https://HOST/api/v1
//
// A repository over ssh has its API at https on the same host.
func apiBase(r *Repository) (*url.URL, error) {
	if r.Kind == Git || r.Kind == "" {
		return nil, nil
	}
	if r.API != "" {
		base, err := url.Parse(strings.TrimRight(r.API, "/"))
		if err != nil || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" || base.Scheme != "https" && base.Scheme != "http" {
			return nil, sentry.Faultf(sentry.Invalid, "the address of the API of %s is no https:// address", r.Name)
		}
		base.Host = strings.ToLower(base.Host)
		return base, nil
	}
	scheme, host := r.Remote.Scheme(), r.Remote.Host()
	switch scheme {
	case "http", "https":
	case "ssh":
		scheme, host = "https", sshHost(host)
	default:
		return nil, nil
	}
	base := &url.URL{Scheme: scheme, Host: host}
	switch r.Kind {
	case GitHub:
		switch {
		case host == "github.com":
			base.Host = "api.github.com"
		case strings.HasSuffix(host, ".ghe.com"):
			base.Host = "api." + host
		default:
			base.Path = "/api/v3"
		}
	case GitLab:
		base.Path = "/api/v4"
	case Gitea:
		base.Path = "/api/v1"
	default:
		return nil, sentry.Faultf(sentry.Invalid, "%q is no kind of forge", string(r.Kind))
	}
	return base, nil
}

// sshHost gives the host that serves the web pages for one that serves ssh: without the port, and without the name that
// stands for ssh over the port of https.
func sshHost(host string) string {
	if !strings.HasSuffix(host, "]") {
		if i := strings.LastIndexByte(host, ':'); i >= 0 {
			host = host[:i]
		}
	}
	switch host {
	case "ssh.github.com":
		return "github.com"
	case "altssh.gitlab.com":
		return "gitlab.com"
	}
	return host
}

// originOf is scheme://host:port of an address, with the port always there, in the spelling of sentry.Remote.Origin. It is
// "" for what is no http address, or has a user in it.
func originOf(u *url.URL) string {
	port := u.Port()
	switch {
	case u.User != nil || u.Hostname() == "":
		return ""
	case u.Scheme == "https" && port == "":
		port = "443"
	case u.Scheme == "http" && port == "":
		port = "80"
	case u.Scheme != "https" && u.Scheme != "http":
		return ""
	}
	host := strings.ToLower(u.Hostname())
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return u.Scheme + "://" + host + ":" + port
}

// fullName is the path of a repository without the slash before it and ".git" after it: "owner/name".
func fullName(r *Repository) string {
	return strings.TrimSuffix(strings.TrimPrefix(r.Remote.Path(), "/"), ".git")
}

// ownerAndName takes a path of exactly two parts apart, as GitHub and Gitea have them.
func ownerAndName(r *Repository) (owner, name string, err error) {
	owner, name, ok := strings.Cut(fullName(r), "/")
	if !ok || owner == "" || name == "" || strings.Contains(name, "/") {
		return "", "", sentry.Faultf(sentry.Invalid, "%s is not the address of a repository there: it should end with /OWNER/NAME", r.Remote)
	}
	return owner, name, nil
}

// label names an origin as people write it, without the port that everybody knows.
func label(u *url.URL) string {
	if u == nil {
		return ""
	}
	return fmt.Sprintf("%s://%s", u.Scheme, u.Host)
}
