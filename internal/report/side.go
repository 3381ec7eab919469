package report

import (
	"fmt"
	"strings"
	"sync"

	"sentry/internal/config"
	"sentry/internal/sentry"
)

// side is one of the two repositories of a member, with what is needed to put a status there. Equal sides are asked alike.
type side struct {
	remote sentry.Remote
	kind   string
	api    string
	user   string
	token  sentry.Secret
	file   string
	app    config.App
}

func sideOf(r *config.Repository, target sentry.Target) side {
	remote, kind, api, auth := r.Monitor.Remote, r.Monitor.Type, r.Monitor.APIURL, r.Monitor.Auth
	if target == sentry.QA {
		remote, kind, api, auth = r.Deploy.Remote, r.Deploy.Type, "", r.Deploy.Auth
	}
	s := side{remote: remote, kind: kind, api: api, user: auth.Username, token: auth.Token, file: auth.TokenFile}
	if auth.App != nil {
		s.app = *auth.App
	}
	return s
}

// problem says why no status can be put there; "" where one can be tried.
func (s side) problem() string {
	switch {
	case s.remote.IsZero() || s.remote.Scheme() == "file":
		return "a repository on this machine takes no statuses"
	case s.kind == "" || s.kind == "git":
		return "its repo_type is git: only GitHub, GitLab and Gitea take statuses"
	case s.token.Empty() && s.file == "" && s.app == config.App{}:
		return "there is no token for it"
	}
	return ""
}

// host is the server, the same for all ways to reach it.
func (s side) host() string {
	host := s.remote.Host()
	if s.remote.Scheme() == "ssh" && !strings.HasSuffix(host, "]") {
		host, _, _ = strings.Cut(host, ":")
	}
	return host
}

// address is the repository in one spelling: forges ignore case, and whether ".git" is written.
func (s side) address() string {
	path := strings.TrimSuffix(strings.Trim(strings.ToLower(s.remote.Path()), "/"), ".git")
	return s.host() + "/" + path
}

// reportsTo tells whether the repositories on this side of a group get statuses.
func reportsTo(g *config.Group, target sentry.Target) bool {
	if g.Report == "off" {
		return false
	}
	switch g.ReportTo {
	case "both":
		return true
	case "qa":
		return target == sentry.QA
	default:
		return target == sentry.Upstream
	}
}

// Destination is a repository that gets statuses by the configuration.
type Destination struct {
	Repository string // as configured
	Group      string
	Target     sentry.Target
	Problem    string // why it gets none all the same; "" where one can be tried
}

// Destinations tells, without asking anybody, which repositories get statuses and which cannot: for `check`.
func Destinations(c *config.Config) []Destination {
	var out []Destination
	for i := range c.Repositories {
		r := &c.Repositories[i]
		group, ok := c.Group(r.Group)
		if !ok {
			continue
		}
		for _, target := range []sentry.Target{sentry.Upstream, sentry.QA} {
			if reportsTo(group, target) {
				out = append(out, Destination{Repository: r.Name, Group: r.Group, Target: target, Problem: sideOf(r, target).problem()})
			}
		}
	}
	return out
}

// laneNames names what shares a server and a credential there, so that what holds one up holds up no other. The names tell
// no secret: they are kept.
type laneNames struct {
	mu     sync.Mutex
	config *config.Config           // guarded by mu: what tokens was made from
	tokens map[sentry.Secret]string // guarded by mu: the first repository that has the token
}

func (n *laneNames) of(c *config.Config, s side) string {
	switch {
	case s.app != config.App{}:
		return fmt.Sprintf("%s app %d/%d", s.host(), s.app.ID, s.app.Installation)
	case s.file != "":
		return s.host() + " " + s.file
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.config != c {
		n.config, n.tokens = c, map[sentry.Secret]string{}
		for i := range c.Repositories {
			r := &c.Repositories[i]
			for _, token := range []sentry.Secret{r.Monitor.Auth.Token, r.Deploy.Auth.Token} {
				if _, named := n.tokens[token]; !named {
					n.tokens[token] = r.Name
				}
			}
		}
	}
	return s.host() + " token of " + n.tokens[s.token]
}
