package forge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"sentry/internal/sentry"

	sdk "code.gitea.io/sdk/gitea"
)

// Of the REST API.
const (
	giteaBranchPages = 100 // of fifty branches, at most
)

// path is the part of the API of a repository.
func (g *gitea) path(r *Repository) (string, error) {
	owner, name, err := g.ownerAndName(r)
	if err != nil {
		return "", err
	}
	return "/repos/" + url.PathEscape(owner) + "/" + url.PathEscape(name), nil
}

// ownerAndName takes the name of a repository apart.
func (g *gitea) ownerAndName(r *Repository) (owner, name string, err error) {
	owner, name, ok := strings.Cut(g.repository(r), "/")
	if !ok || owner == "" || name == "" || strings.Contains(name, "/") {
		return "", "", sentry.Faultf(sentry.Invalid, "%s is not the address of a repository there: it should end with /OWNER/NAME", r.Remote)
	}
	return owner, name, nil
}

// below is the name of a repository at a forge that may be installed below a path of its host: what of its address comes
// after what the API begins with. ssh knows nothing of that path.
func below(base *url.URL, api string, r *Repository) string {
	name := fullName(r)
	if strings.HasPrefix(r.Remote.Scheme(), "http") {
		if root := strings.Trim(strings.TrimSuffix(base.Path, api), "/"); root != "" {
			name = strings.TrimPrefix(name, root+"/")
		}
	}
	return name
}

// giteaBranch is a branch as the API tells it.
type giteaBranch struct {
	Name   string `json:"name"`
	Commit struct {
		ID string `json:"id"`
	} `json:"commit"`
}

// one asks a repository over REST: one request for each branch, or for a page of all where there are patterns. Gitea has
// no validators there.
func (g *gitea) one(ctx context.Context, r *Repository) Answer {
	heads := map[string]string{}
	path, err := g.path(r)
	switch {
	case err != nil:
	case len(r.Patterns) <= giteaPage && !slices.ContainsFunc(r.Patterns, func(p sentry.Pattern) bool { return !p.Exact() }):
		err = g.branches(ctx, r, path, heads)
	default:
		err = g.list(ctx, r, path, heads)
	}
	if err != nil {
		return Answer{Err: err, Way: "REST"}
	}
	return Answer{Heads: heads, Way: "REST"}
}

// branches asks for each branch by its name. Gitea says the same of a branch that is missing as of a repository, and so
// does whatever stands before it and is out of order: only a list that is without it tells that it is missing.
func (g *gitea) branches(ctx context.Context, r *Repository, path string, heads map[string]string) error {
	for _, p := range r.Patterns {
		parts := strings.Split(p.String(), "/")
		for i := range parts {
			parts[i] = url.PathEscape(parts[i])
		}
		var b giteaBranch
		_, err := g.a.call(ctx, call{class: asking, path: path + "/branches/" + strings.Join(parts, "/")}, &b)
		switch {
		case err != nil && sentry.AsFault(err).Kind == sentry.NotFound:
			clear(heads)
			return g.list(ctx, r, path, heads)
		case err != nil:
			return err
		case b.Name != p.String():
			return sentry.Faultf(sentry.Invalid, "it tells of another branch than %q", p.String())
		}
		if err := noteBranch(heads, b); err != nil {
			return err
		}
	}
	return nil
}

// noteBranch takes a branch into heads.
func noteBranch(heads map[string]string, b giteaBranch) error {
	if err := sentry.CheckCommit(b.Commit.ID); err != nil {
		return sentry.Faultf(sentry.Invalid, "it gives a branch a commit that is none: %w", err)
	}
	heads[b.Name] = b.Commit.ID
	return nil
}

// list asks for all branches.
func (g *gitea) list(ctx context.Context, r *Repository, path string, heads map[string]string) error {
	for page := 1; page <= giteaBranchPages; page++ {
		var some []giteaBranch
		query := url.Values{"limit": {strconv.Itoa(giteaPage)}, "page": {strconv.Itoa(page)}}
		if _, err := g.a.call(ctx, call{class: asking, path: path + "/branches", query: query}, &some); err != nil {
			return err
		}
		for _, b := range some {
			if !slices.ContainsFunc(r.Patterns, func(p sentry.Pattern) bool { return p.Match(b.Name) }) {
				continue
			}
			if err := noteBranch(heads, b); err != nil {
				return err
			}
		}
		if len(some) < giteaPage {
			return nil
		}
	}
	return sentry.Faultf(sentry.Invalid, "it has more than %d branches: let it be asked over Git", giteaBranchPages*giteaPage)
}

// giteaRepository is a repository, as who asks may see it.
type giteaRepository struct {
	Name        string `json:"full_name"`
	HasCode     *bool  `json:"has_code"`
	Permissions struct {
		Push bool `json:"push"`
		Pull bool `json:"pull"`
	} `json:"permissions"`
}

// moved reports where a repository is now, "" where it is where it was asked for. The API leads to it by a redirection.
func (p *giteaRepository) moved(asked string) string {
	if p.Name == "" || strings.EqualFold(p.Name, asked) {
		return ""
	}
	return oneLine(p.Name)
}

// scopeError is how Gitea says that a token may not do something.
func scopeError(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && status.Status == http.StatusForbidden && strings.Contains(status.Said, "scope")
}

// diagnose looks at the repository.
func (g *gitea) diagnose(ctx context.Context, r *Repository) error {
	path, err := g.path(r)
	if err != nil {
		return err
	}
	var p giteaRepository
	_, err = g.a.call(ctx, call{class: looking, path: path}, &p)
	name := g.repository(r)
	f := sentry.AsFault(err)
	switch {
	case err == nil && p.moved(g.repository(r)) != "":
		return sentry.Faultf(sentry.NotFound, "%s has moved to %s: write the new address into repo_url", name, p.moved(g.repository(r)))
	case err == nil && p.HasCode != nil && !*p.HasCode:
		return sentry.Faultf(sentry.NotFound, "%s has no code: it is switched off in its settings, or the owner of the token may not read it", name)
	case err == nil:
		return nil
	case scopeError(err):
		return sentry.Faultf(sentry.Unauthorized, "the token lacks the scope read:repository: make one that has it (%w)", f.Err)
	case f.Kind == sentry.Unauthorized:
		return sentry.Faultf(sentry.Unauthorized, "the token is refused: it is wrong or revoked; make a new one with the scope read:repository (%w)", f.Err)
	case f.Kind != sentry.NotFound:
		return nil
	case g.a.credential().anonymous():
		return sentry.Faultf(sentry.NotFound, "there is no public repository %s; for a private one a token is needed, with the scope read:repository", name)
	}
	return sentry.Faultf(sentry.NotFound, "there is no repository %s, or the owner of the token may not see it: look at the address, and at the repository's collaborators and teams", name)
}

// access tells about the token, as far as Gitea does: what it may do shows only when it does it.
func (g *gitea) access(ctx context.Context, r *Repository) (Access, error) {
	var access Access
	path, err := g.path(r)
	if err != nil {
		return access, err
	}
	problem := func(format string, args ...any) {
		access.Problems = append(access.Problems, fmt.Sprintf(format, args...))
	}
	if !g.a.credential().anonymous() {
		var user struct {
			Login string `json:"login"`
		}
		// Without the scope read:user the name is not told, and nothing else is wrong.
		if _, err := g.a.call(ctx, call{class: looking, path: "/user"}, &user); err == nil {
			access.User = oneLine(user.Login)
		} else if f := sentry.AsFault(err); f.Kind != sentry.Unauthorized || !scopeError(err) {
			return access, err
		}
	}
	var p giteaRepository
	reply, err := g.a.call(ctx, call{class: looking, path: path}, &p)
	if err != nil {
		if better := g.diagnose(ctx, r); better != nil {
			err = better
		}
		return access, err
	}
	if l := readLimits(reply.header, time.Now()); l.known { // of a proxy, as in front of codeberg.org
		access.Limit, access.Remaining, access.Reset = l.limit, l.remaining, l.reset
	}
	if to := p.moved(g.repository(r)); to != "" {
		problem("%s has moved to %s: write the new address into repo_url", g.repository(r), to)
	}
	// The scope is told by nobody: a status that is refused for it says so.
	access.CanReport = !g.a.credential().anonymous() && p.Permissions.Push
	return access, nil
}

// giteaStates are Gitea's words. It has none for what a person has stopped.
var giteaStates = map[State]sdk.StatusState{
	Pending: sdk.StatusPending, Success: sdk.StatusSuccess, Failure: sdk.StatusFailure, Errored: sdk.StatusError, Canceled: sdk.StatusError,
}

// setStatus puts a status on a commit, unless the newest of that context is the same: Gitea keeps each as a row of its own.
func (g *gitea) setStatus(ctx context.Context, r *Repository, s Status) error {
	owner, name, err := g.ownerAndName(r)
	if err != nil {
		return err
	}
	state, ok := giteaStates[s.State]
	if !ok {
		return sentry.Faultf(sentry.Invalid, "%q is no state of a commit", string(s.State))
	}
	client, err := g.library(ctx)
	if err != nil {
		return err
	}
	where := fmt.Sprintf("%s/repos/%s/%s/statuses/%s", label(g.a.base)+g.a.base.Path, owner, name, s.Commit)
	combined, resp, err := client.GetCombinedStatus(owner, name, s.Commit)
	if err != nil {
		return g.statusFault(ctx, r, where, err, resp)
	}
	for _, one := range combined.Statuses {
		if one.Context == s.Context && one.State == state && one.Description == s.Description && one.TargetURL == s.URL {
			return nil
		}
	}
	// What is read is led to a repository that has moved, and what is written is not.
	if at := combined.Repository; at != nil && at.Owner != nil {
		owner, name = at.Owner.UserName, at.Name
	}
	_, resp, err = client.CreateStatus(owner, name, s.Commit, sdk.CreateStatusOption{State: state, TargetURL: s.URL, Description: s.Description, Context: s.Context})
	if err != nil {
		return g.statusFault(ctx, r, where, err, resp)
	}
	return nil
}

// statusFault says why a status could not be set.
func (g *gitea) statusFault(ctx context.Context, r *Repository, where string, err error, resp *sdk.Response) error {
	said := oneLine(err.Error()) // the body was read for it
	var answer *http.Response
	if resp != nil {
		answer = resp.Response
		answer.Body = http.NoBody
	}
	err = g.a.libraryFault(ctx, where, err, answer)
	var status *StatusError
	if errors.As(err, &status) && status.Said == "" {
		status.Said = said
	}
	f := sentry.AsFault(err)
	if f.Kind == sentry.Unauthorized {
		return sentry.Faultf(sentry.Unauthorized, "cannot set a status: the token needs the scope write:repository, and its owner the right to write to %s: %w", g.repository(r), f.Err)
	}
	return err
}

// library gives Gitea's client library, on our transport, for one piece of work. It would ask for the version first.
func (g *gitea) library(ctx context.Context) (*sdk.Client, error) {
	client, err := sdk.NewClient(strings.TrimSuffix(g.a.base.String(), "/api/v1"), sdk.SetGiteaVersion(""), sdk.SetContext(ctx),
		sdk.SetHTTPClient(g.a.client(reporting, corePurse, false)), sdk.SetUserAgent(userAgent))
	if err != nil {
		return nil, sentry.Faultf(sentry.Invalid, "cannot use the API of Gitea: %w", err)
	}
	return client, nil
}

// giteaCost estimates requests of the API. What is asked over Git is none.
func giteaCost(repositories []*Repository) CostOf {
	c := CostOf{Kind: Gitea, Way: "ls-refs", Repositories: len(repositories), RequestsPerHour: questionsAnHour(repositories, 1)}
	for _, r := range repositories {
		c.Watches += len(r.Patterns)
	}
	c.Note = "asked over the Git protocol; Gitea has no quota"
	if len(repositories) < giteaFew {
		return c
	}
	shortest := time.Hour
	for _, r := range repositories {
		shortest = min(shortest, max(r.Interval, time.Second))
	}
	every := max(giteaVerify, 10*shortest, time.Duration(len(repositories))*giteaVerify1)
	c.Way, c.RequestsPerHour = "search", int(time.Hour/shortest)+int(float64(len(repositories))*float64(time.Hour)/float64(every))
	c.Note = fmt.Sprintf("one search tells what has changed; each repository is asked itself when it has, and every %s", every.Round(time.Minute))
	return c
}
