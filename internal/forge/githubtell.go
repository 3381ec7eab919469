package forge

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"sentry/internal/sentry"

	"github.com/google/go-github/v89/github"
)

// What GitHub takes of a status (rest/commits/statuses: "Create a commit status"; longer descriptions are refused).
const githubWords = 140

// githubRights is what to do about a right that is missing.
const githubRights = "a classic token needs the scope repo:status (or repo), a fine-grained token and a GitHub App the permission Commit statuses: write"

// githubRepository is a repository, as who asks may see it.
type githubRepository struct {
	FullName    string `json:"full_name"`
	Private     bool   `json:"private"`
	Disabled    bool   `json:"disabled"`
	Permissions struct {
		Push bool `json:"push"`
	} `json:"permissions"`
}

// look asks for a repository. The API leads to one that has moved by its number.
func (g *gitHub) look(ctx context.Context, r *Repository) (githubRepository, *reply, error) {
	owner, name, err := ownerAndName(r)
	if err != nil {
		return githubRepository{}, nil, err
	}
	var found githubRepository
	answer, err := g.a.call(ctx, call{class: looking, path: "/repos/" + url.PathEscape(owner) + "/" + url.PathEscape(name)}, &found)
	return found, answer, err
}

// movedTo reports where a repository is now, "" where it is where it was asked for.
func (found *githubRepository) movedTo(r *Repository) string {
	if found.FullName == "" || strings.EqualFold(found.FullName, fullName(r)) {
		return ""
	}
	return oneLine(found.FullName)
}

// diagnose looks at the repository, and at the token where there is none to be seen.
func (g *gitHub) diagnose(ctx context.Context, r *Repository) error {
	found, _, err := g.look(ctx, r)
	name := fullName(r)
	if err == nil {
		switch to := found.movedTo(r); {
		case to != "":
			return sentry.Faultf(sentry.NotFound, "%s has moved to %s: write the new address into repo_url", name, to)
		case found.Disabled:
			return sentry.Faultf(sentry.NotFound, "GitHub has disabled the repository %s", name)
		}
		return nil
	}
	f := sentry.AsFault(err)
	_, refused := statusOf(err)
	anonymous := g.a.credential().anonymous()
	switch {
	case refused != nil && refused.Header.Get("X-GitHub-SSO") != "":
		return sentry.Faultf(sentry.Unauthorized, "the organization of %s wants single sign-on: authorize the token for it in GitHub's settings, under Personal access tokens, Configure SSO", name)
	case f.Kind == sentry.Unauthorized && isRefused(err):
		return sentry.Faultf(sentry.Unauthorized, "GitHub refuses the credential: it is wrong, expired or revoked: %w", f.Err)
	case f.Kind != sentry.NotFound:
		return nil
	case errors.As(err, new(*OffOriginError)):
		return f
	case anonymous:
		return sentry.Faultf(sentry.NotFound, "there is no public repository %s; for a private one a token is needed that may read its contents", name)
	}
	scopes, classic := scopesOf(refused)
	switch {
	case classic && !slices.Contains(scopes, "repo"):
		return sentry.Faultf(sentry.NotFound, "there is no repository %s, or it is private and the token has only the scopes %s: private ones need the scope repo", name, listed(scopes))
	case g.a.credential().App != nil:
		return sentry.Faultf(sentry.NotFound, "there is no repository %s, or the GitHub App is not installed for it: look at the address, and at the repositories of the installation", name)
	}
	return sentry.Faultf(sentry.NotFound, "there is no repository %s, or the owner of the token has no access to it: look at the address, and at the repositories that the token was made for", name)
}

// scopesOf gives the scopes of a classic token, from any answer of the API.
func scopesOf(e *StatusError) (scopes []string, classic bool) {
	if e == nil {
		return nil, false
	}
	return headerScopes(e.Header)
}

func headerScopes(h http.Header) (scopes []string, classic bool) {
	values, classic := h["X-Oauth-Scopes"]
	for _, one := range strings.Split(strings.Join(values, ","), ",") {
		if one = oneLine(one); one != "" {
			scopes = append(scopes, one)
		}
	}
	return scopes, classic
}

func listed(scopes []string) string {
	if len(scopes) == 0 {
		return "(none)"
	}
	return strings.Join(scopes, ", ")
}

// access tells about the credential, and what it may do with the repository r.
func (g *gitHub) access(ctx context.Context, r *Repository) (Access, error) {
	var access Access
	problem := func(format string, args ...any) {
		access.Problems = append(access.Problems, fmt.Sprintf(format, args...))
	}
	auth := g.a.credential()
	classic := false
	switch {
	case auth.App != nil:
		if _, err := g.a.token(ctx, sentry.Secret{}); err != nil {
			return access, err
		}
		access.User = fmt.Sprintf("GitHub App %d, installation %d", auth.App.ID, auth.App.Installation)
		access.Scopes = g.a.forges.apps.permissions(g.a.base, *auth.App)
	case !auth.anonymous():
		var user struct {
			Login string `json:"login"`
		}
		answer, err := g.a.call(ctx, call{class: looking, path: "/user"}, &user)
		if err != nil {
			if better := g.diagnose(ctx, r); better != nil && isRefused(err) {
				err = better
			}
			return access, err
		}
		access.User = oneLine(user.Login)
		access.Scopes, classic = headerScopes(answer.header)
		access.Expires = githubExpiry(answer.header)
	}
	access.endsSoon()
	found, answer, err := g.look(ctx, r)
	if err != nil {
		if better := g.diagnose(ctx, r); better != nil {
			err = better
		}
		return access, err
	}
	if to := found.movedTo(r); to != "" {
		problem("%s has moved to %s: write the new address into repo_url", fullName(r), to)
	}
	access.take(answer.header)
	if batch, _ := g.lane(); batch > 1 {
		g.takeQueries(ctx, &access)
	}
	switch {
	case auth.anonymous():
	case auth.App != nil:
		access.CanReport = slices.Contains(access.Scopes, "statuses: write")
	case classic:
		access.CanReport = found.Permissions.Push && (slices.Contains(access.Scopes, "repo") || slices.Contains(access.Scopes, "repo:status") ||
			!found.Private && slices.Contains(access.Scopes, "public_repo"))
	default: // a fine-grained token does not tell; who may not push may not report either
		access.CanReport = found.Permissions.Push
	}
	if access.Limit > 0 && access.Remaining < access.Limit/10 {
		problem("only %d of %d requests are left until %s: give Sentry a token that nothing else uses", access.Remaining, access.Limit, clock(access.Reset))
	}
	return access, nil
}

// EndsSoon is how long before it ends one is told of a token.
const EndsSoon = 14 * 24 * time.Hour

// takeQueries reads what is left for GraphQL, which has a budget of its own.
func (g *gitHub) takeQueries(ctx context.Context, access *Access) {
	var told struct {
		Resources map[string]struct {
			Limit     int   `json:"limit"`
			Remaining int   `json:"remaining"`
			Reset     int64 `json:"reset"`
		} `json:"resources"`
	}
	if _, err := g.a.call(ctx, call{class: looking, path: "/rate_limit"}, &told); err != nil {
		return // an Enterprise server without limits has none to tell
	}
	if q, ok := told.Resources["graphql"]; ok && q.Limit > 0 {
		access.Limit, access.Remaining, access.Reset = q.Limit, q.Remaining, time.Unix(q.Reset, 0)
	}
}

// githubExpiry is when a token ends, as GitHub tells in every answer; zero where it never does.
func githubExpiry(h http.Header) time.Time {
	text := h.Get("GitHub-Authentication-Token-Expiration")
	for _, layout := range []string{"2006-01-02 15:04:05 MST", "2006-01-02 15:04:05 -0700", time.RFC3339} {
		if at, err := time.Parse(layout, text); err == nil {
			return at
		}
	}
	return time.Time{}
}

// tell asks when the token ends. What is left costs nothing to ask for, and says it in passing.
func (g *gitHub) tell(ctx context.Context) error {
	_, err := g.a.call(ctx, call{class: looking, path: "/rate_limit", once: true, apart: true}, nil)
	if _, refused := statusOf(err); refused != nil && refused.Status == http.StatusNotFound { // an Enterprise server without limits
		_, err = g.a.call(ctx, call{class: looking, path: "/user", once: true, apart: true}, nil)
	}
	return err
}

// githubStates are GitHub's words: it has none for what was given up.
var githubStates = map[State]string{Pending: "pending", Success: "success", Failure: "failure", Errored: "error", Canceled: "error"}

// setStatus puts a status on a commit. GitHub shows the newest of each context.
func (g *gitHub) setStatus(ctx context.Context, r *Repository, s Status) error {
	owner, name, err := ownerAndName(r)
	if err != nil {
		return err
	}
	state, ok := githubStates[s.State]
	if !ok {
		return sentry.Faultf(sentry.Invalid, "%q is no state of a commit", string(s.State))
	}
	client, err := githubClient(g.a.base, g.a.client(reporting, corePurse, false))
	if err != nil {
		return sentry.Faultf(sentry.Invalid, "cannot use the API of GitHub: %w", err)
	}
	status := github.RepoStatus{State: &state, Context: &s.Context, Description: optional(clipped(s.Description, githubWords))}
	if strings.HasPrefix(s.URL, "https://") || strings.HasPrefix(s.URL, "http://") {
		status.TargetURL = &s.URL
	}
	_, answer, err := client.Repositories.CreateStatus(ctx, owner, name, s.Commit, status)
	if err == nil {
		return nil
	}
	var resp *http.Response
	if answer != nil {
		resp = answer.Response
	}
	return g.statusFault(ctx, r, s, g.a.libraryFault(ctx, label(g.a.base)+g.a.base.Path+"/repos/"+owner+"/"+name+"/statuses/"+s.Commit, err, resp))
}

// statusFault says why a status could not be set.
func (g *gitHub) statusFault(ctx context.Context, r *Repository, s Status, err error) error {
	status, refused := statusOf(err)
	f := sentry.AsFault(err)
	switch {
	case status == http.StatusUnauthorized || f.Kind == sentry.RateLimited || f.Kind == sentry.Transient:
		return f
	case status == http.StatusForbidden:
		return sentry.Faultf(sentry.Unauthorized, "cannot set a status on a commit of %s: %s: %w", fullName(r), githubRights, f.Err)
	case status == http.StatusNotFound:
		if _, _, gone := g.look(ctx, r); gone != nil && sentry.AsFault(gone).Kind == sentry.NotFound {
			return sentry.Faultf(sentry.NotFound, "cannot set a status: there is no repository %s, or it is not shown to this credential: %w", fullName(r), f.Err)
		}
		scopes, classic := scopesOf(refused)
		has := ""
		if classic {
			has = "; this one has " + listed(scopes)
		}
		return sentry.Faultf(sentry.Unauthorized, "cannot set a status on a commit of %s: %s%s: %w", fullName(r), githubRights, has, f.Err)
	case status == http.StatusUnprocessableEntity && refused != nil && strings.Contains(refused.Said, "No commit found"):
		return sentry.Faultf(sentry.NotFound, "cannot set a status: %s has no commit %s any more: %w", fullName(r), s.Commit, f.Err)
	}
	return f
}

// githubCost estimates what repositories of one credential cost.
func githubCost(repositories []*Repository) CostOf {
	c := CostOf{Kind: GitHub, Way: "ls-refs", Repositories: len(repositories)}
	c.RequestsPerHour = questionsAnHour(repositories, 1)
	searches := 0
	for _, r := range repositories {
		c.Watches += len(r.Patterns)
		for _, p := range r.Patterns {
			if !p.Exact() {
				searches++
			}
		}
	}
	if len(repositories) == 0 {
		return c
	}
	first := repositories[0]
	if base, err := apiBase(first); err == nil && base != nil && isGitHubCom(base.Host) {
		c.Limit = 5000
		if first.Auth.anonymous() {
			c.Limit = 60
		}
	}
	switch {
	case first.Auth.anonymous():
		c.Limit = 0
		c.Note = "without a token every repository is asked over Git, which costs none of the API's 60 requests an hour; GitHub limits such reads by address, and does not tell how much"
	case len(repositories) < githubFew:
		c.Limit = 0
		c.Note = "few repositories are asked over Git, which costs no API quota" + endingNote(first)
	default:
		c.Way = "GraphQL"
		// A query costs a point for a hundred repositories, or for a hundred searches.
		points := float64(questionsAnHour(repositories, githubBatch))
		if each := float64(searches) / float64(len(repositories)); each > 1 {
			points *= each
		}
		c.RequestsPerHour = int(math.Ceil(points))
		c.Note = fmt.Sprintf("%d repositories in a query of one point", githubBatch)
		if c.Limit > 0 && c.RequestsPerHour > c.Limit*(reservePart-1)/reservePart {
			c.Problem = fmt.Sprintf("more than the %d points an hour of a token: ask less often (polling_interval), use a GitHub App (up to 12,500), or divide the repositories among tokens of different users; what does not fit is asked over Git", c.Limit)
		}
	}
	return c
}
