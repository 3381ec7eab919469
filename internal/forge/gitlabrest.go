package forge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"sentry/internal/sentry"

	api "gitlab.com/gitlab-org/api/client-go"
)

// Of the REST API.
const (
	gitlabPages   = 50  // of a hundred branches, at most
	gitlabWords   = 255 // characters of a description, and of an address
	gitlabHour    = 120_000
	gitlabComHost = "gitlab.com"
)

// Roles, as GitLab numbers them (docs.gitlab.com/api/access_requests: "Valid access levels").
const (
	gitlabReporter  = 20 // reads the code of private projects
	gitlabDeveloper = 30 // sets statuses
)

// validated is an answer that was kept with its validator: where that still holds, GitLab sends nothing but a 304.
type validated struct{ tag, commit string }

// path is the part of the API of a project: slashes of its name are "%2F" (docs.gitlab.com/api/rest: "Namespaced
// paths").
func (g *gitlab) path(r *Repository) string { return "/projects/" + url.PathEscape(g.project(r)) }

// one asks a repository over REST: one request for each branch, or for a page of all where there are patterns.
func (g *gitlab) one(ctx context.Context, r *Repository) Answer {
	heads, err := map[string]string{}, error(nil)
	if alone(r) == "" {
		err = g.branches(ctx, r, heads)
	} else {
		err = g.list(ctx, r, heads)
	}
	if err != nil {
		return Answer{Err: err, Way: "REST"}
	}
	return Answer{Heads: heads, Way: "REST"}
}

// gitlabBranch is a branch as REST tells it.
type gitlabBranch struct {
	Name   string `json:"name"`
	Commit struct {
		ID string `json:"id"`
	} `json:"commit"`
}

func (b *gitlabBranch) check() error {
	if err := sentry.CheckCommit(b.Commit.ID); err != nil {
		return sentry.Faultf(sentry.Invalid, "GitLab gives a branch a commit that is none: %w", err)
	}
	return nil
}

// branches asks for each branch by its name.
func (g *gitlab) branches(ctx context.Context, r *Repository, heads map[string]string) error {
	g.mu.Lock()
	known := g.rest[r]
	g.mu.Unlock()
	next := map[string]validated{}
	for _, p := range r.Patterns {
		name := p.String()
		c := call{class: asking, path: g.path(r) + "/repository/branches/" + url.PathEscape(name)}
		if v, ok := known[name]; ok {
			c.header = http.Header{"If-None-Match": {v.tag}}
		}
		var b gitlabBranch
		reply, err := g.a.call(ctx, c, &b)
		switch {
		case err != nil && branchMissing(err):
			continue
		case err != nil:
			return err
		case reply.status == http.StatusNotModified:
			heads[name], next[name] = known[name].commit, known[name]
			continue
		case b.Name != name:
			return sentry.Faultf(sentry.Invalid, "GitLab tells of another branch than %q", name)
		}
		if err := b.check(); err != nil {
			return err
		}
		heads[name] = b.Commit.ID
		if tag := reply.header.Get("ETag"); tag != "" {
			next[name] = validated{tag, b.Commit.ID}
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rest[r] = next
	return nil
}

// branchMissing tells a branch that is missing from a project that is, by the word of GitLab ("404 Branch Not Found").
func branchMissing(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && status.Status == http.StatusNotFound && strings.Contains(status.Said, "Branch")
}

// list asks for all branches that begin with what all patterns have in common.
func (g *gitlab) list(ctx context.Context, r *Repository, heads map[string]string) error {
	query := url.Values{"per_page": {"100"}}
	if prefix := commonPrefix(r.Patterns); prefix != "" {
		query.Set("search", "^"+prefix)
	}
	for page := 1; page <= gitlabPages; page++ {
		query.Set("page", strconv.Itoa(page))
		var some []gitlabBranch
		if _, err := g.a.call(ctx, call{class: asking, path: g.path(r) + "/repository/branches", query: query}, &some); err != nil {
			return err
		}
		for i := range some {
			if !slices.ContainsFunc(r.Patterns, func(p sentry.Pattern) bool { return p.Match(some[i].Name) }) {
				continue
			}
			if err := some[i].check(); err != nil {
				return err
			}
			heads[some[i].Name] = some[i].Commit.ID
		}
		if len(some) < 100 {
			return nil
		}
	}
	return sentry.Faultf(sentry.Invalid, "it has more than %d branches that begin with %q: write narrower patterns", gitlabPages*100, commonPrefix(r.Patterns))
}

// commonPrefix is the text with which every branch begins that any of the patterns can match.
func commonPrefix(patterns []sentry.Pattern) string {
	if len(patterns) == 0 {
		return ""
	}
	prefix := patterns[0].Prefix()
	for _, p := range patterns[1:] {
		for !strings.HasPrefix(p.Prefix(), prefix) {
			_, size := utf8.DecodeLastRuneInString(prefix)
			prefix = prefix[:len(prefix)-size]
		}
	}
	return prefix
}

// gitlabSelf is the token that asks (docs.gitlab.com/api/personal_access_tokens: "Self-inform"), whatever its scopes, and
// of projects and groups as well.
type gitlabSelf struct {
	Name    string   `json:"name"`
	Active  bool     `json:"active"`
	Scopes  []string `json:"scopes"`
	Expires string   `json:"expires_at"` // a day; null where it never does
}

// expires is the moment at which the token is no longer good: the begin of a day (UTC).
func (s *gitlabSelf) expires() time.Time {
	day, err := time.Parse(time.DateOnly, s.Expires)
	if err != nil {
		return time.Time{}
	}
	return day
}

// self asks about the token. GitLab before 15.5 knows nothing of it: NotFound.
func (g *gitlab) self(ctx context.Context, c class) (gitlabSelf, *reply, error) {
	return g.selfBy(ctx, call{class: c})
}

func (g *gitlab) selfBy(ctx context.Context, c call) (gitlabSelf, *reply, error) {
	token, err := g.a.token(ctx, sentry.Secret{})
	if err != nil {
		return gitlabSelf{}, nil, err
	}
	var self gitlabSelf
	c.path = "/personal_access_tokens/self"
	r, err := g.a.call(ctx, c, &self)
	if err == nil {
		g.a.ends(token, self.expires())
	}
	return self, r, err
}

// tell asks when the token ends.
func (g *gitlab) tell(ctx context.Context) error {
	_, _, err := g.selfBy(ctx, call{class: looking, once: true, apart: true})
	return err
}

// gitlabProject is a project, as who asks may see it.
type gitlabProject struct {
	ID          int64  `json:"id"`
	Path        string `json:"path_with_namespace"`
	WebURL      string `json:"web_url"`
	Repository  string `json:"repository_access_level"` // "disabled", "private", "enabled"
	Permissions struct {
		Project *gitlabLevel `json:"project_access"`
		Group   *gitlabLevel `json:"group_access"`
	} `json:"permissions"`
}

type gitlabLevel struct {
	Level int `json:"access_level"`
}

// level is the role of who asks, 0 where that is none, or where GitLab does not tell.
func (p *gitlabProject) level() (level int) {
	for _, l := range []*gitlabLevel{p.Permissions.Project, p.Permissions.Group} {
		if l != nil {
			level = max(level, l.Level)
		}
	}
	return level
}

// moved reports where a project is now, "" where it is where it was asked for. The API leads to it by its number
// (docs.gitlab.com/api/rest: "Redirects").
func (p *gitlabProject) moved(asked string) string {
	if p.Path == "" || strings.EqualFold(p.Path, asked) {
		return ""
	}
	return oneLine(p.Path)
}

// diagnose looks at the project, and at the token where there is none to be seen.
func (g *gitlab) diagnose(ctx context.Context, r *Repository) error {
	var p gitlabProject
	_, err := g.a.call(ctx, call{class: looking, path: g.path(r)}, &p)
	name := g.project(r)
	if err == nil {
		switch to := p.moved(g.project(r)); {
		case to != "":
			return sentry.Faultf(sentry.NotFound, "%s has moved to %s: write the new address into repo_url", name, to)
		case p.Repository == "disabled":
			return sentry.Faultf(sentry.NotFound, "the project %s has no repository: it is switched off in the project's settings", name)
		case !g.a.credential().anonymous() && p.level() > 0 && p.level() < gitlabReporter:
			return sentry.Faultf(sentry.Unauthorized, "the token sees the project %s but not its code: give its owner the role Reporter there", name)
		}
		return g.lacks(ctx, "read_repository")
	}
	f := sentry.AsFault(err)
	switch {
	case f.Kind == sentry.Unauthorized:
		if lacks := g.lacks(ctx, "read_repository"); lacks != nil {
			return lacks
		}
		return sentry.Faultf(sentry.Unauthorized, "GitLab refuses the token: it is wrong, expired or revoked; make a new one with the scopes read_api and read_repository (%w)", f.Err)
	case f.Kind != sentry.NotFound:
		return nil
	case g.a.credential().anonymous():
		return sentry.Faultf(sentry.NotFound, "there is no public project %s; for a private one a token is needed, with the scopes read_api and read_repository", name)
	}
	if lacks := g.lacks(ctx, "read_api"); lacks != nil {
		return lacks
	}
	return sentry.Faultf(sentry.NotFound, "there is no project %s, or the owner of the token is no member of it: look at the address, and at the members of the project and its groups", name)
}

// lacks says which scope the token lacks, nil where it has it, or nothing is known. The scope api stands for all.
func (g *gitlab) lacks(ctx context.Context, scope string) error {
	if g.a.credential().anonymous() {
		return nil
	}
	self, _, err := g.self(ctx, looking)
	if err != nil || slices.Contains(self.Scopes, "api") || slices.Contains(self.Scopes, scope) {
		return nil
	}
	return sentry.Faultf(sentry.Unauthorized, "the token %q lacks the scope %s: make one that has it", oneLine(self.Name), scope)
}

// access tells about the token, and what it may do with the project of r.
func (g *gitlab) access(ctx context.Context, r *Repository) (Access, error) {
	var access Access
	problem := func(format string, args ...any) {
		access.Problems = append(access.Problems, fmt.Sprintf(format, args...))
	}
	var self gitlabSelf
	if !g.a.credential().anonymous() {
		var user struct {
			Name string `json:"username"`
		}
		told, answer, err := g.self(ctx, looking)
		switch f := sentry.AsFault(err); {
		case err == nil:
			self = told
			access.Scopes, access.Expires = self.Scopes, self.expires()
			access.endsSoon()
			access.take(answer.header)
		case f.Kind != sentry.NotFound:
			return access, err
		}
		may := func(scopes ...string) bool {
			return self.Scopes == nil || slices.ContainsFunc(scopes, func(s string) bool { return slices.Contains(self.Scopes, s) })
		}
		if may("api", "read_api", "read_user") {
			if _, err := g.a.call(ctx, call{class: looking, path: "/user"}, &user); err == nil {
				access.User = user.Name
			}
		}
		if !may("api", "read_repository", "write_repository") {
			problem("the token cannot read repositories: give it the scope read_repository")
		}
		if !may("api", "read_api") {
			problem("the token cannot use the API, so every repository is asked by itself: give it the scope read_api")
		}
	}
	var p gitlabProject
	answer, err := g.a.call(ctx, call{class: looking, path: g.path(r)}, &p)
	if err != nil {
		if better := g.diagnose(ctx, r); better != nil {
			err = better
		}
		return access, err
	}
	access.take(answer.header)
	if to := p.moved(g.project(r)); to != "" {
		problem("%s has moved to %s: write the new address into repo_url", g.project(r), to)
	}
	full := self.Scopes == nil || slices.Contains(self.Scopes, "api")
	access.CanReport = !g.a.credential().anonymous() && full && p.level() >= gitlabDeveloper
	return access, nil
}

// endsSoon adds the problem of a token that is about to expire.
func (a *Access) endsSoon() {
	if !a.Expires.IsZero() && time.Until(a.Expires) < EndsSoon {
		a.Problems = append(a.Problems, fmt.Sprintf("the token ends on %s: make a new one before", a.Expires.UTC().Format(time.DateOnly)))
	}
}

// take reads what is left of the budget from an answer.
func (a *Access) take(h http.Header) {
	if l := readLimits(h, time.Now()); l.known {
		a.Limit, a.Remaining, a.Reset = l.limit, l.remaining, l.reset
	}
}

// gitlabStates are GitLab's words.
var gitlabStates = map[State]api.BuildStateValue{
	Pending: api.Pending, Success: api.Success, Failure: api.Failed, Errored: api.Failed, Canceled: api.Canceled,
}

// setStatus puts a status on a commit, unless it is there. GitLab changes a status that is pending, makes a new one where
// the last one of that name has ended, and refuses to make one what it is already
// (docs.gitlab.com/api/commits: "Set commit pipeline status").
func (g *gitlab) setStatus(ctx context.Context, r *Repository, s Status) error {
	where := label(g.a.base) + g.a.base.Path + g.path(r) + "/statuses/" + s.Commit
	client, err := g.library()
	if err != nil {
		return sentry.Faultf(sentry.Invalid, "cannot use the API of GitLab: %w", err)
	}
	state, ok := gitlabStates[s.State]
	if !ok {
		return sentry.Faultf(sentry.Invalid, "%q is no state of a commit", string(s.State))
	}
	description, target := clipped(s.Description, gitlabWords), s.URL
	if utf8.RuneCountInString(target) > gitlabWords {
		target = "" // it would lead nowhere when it is cut
	}
	list, resp, err := client.Commits.GetCommitStatuses(g.project(r), s.Commit, &api.GetCommitStatusesOptions{Ref: optional(s.Branch), Name: &s.Context}, api.WithContext(ctx))
	if err != nil {
		return g.statusFault(ctx, r, where, err, resp)
	}
	var latest *api.CommitStatus
	for _, one := range list {
		if one.Name == s.Context && (latest == nil || one.ID > latest.ID) {
			latest = one
		}
	}
	if latest != nil && latest.Status == string(state) && latest.Description == description && latest.TargetURL == target {
		return nil
	}
	_, resp, err = client.Commits.SetCommitStatus(g.project(r), s.Commit, &api.SetCommitStatusOptions{
		State: state, Ref: optional(s.Branch), Name: &s.Context, Description: optional(description), TargetURL: optional(target),
	}, api.WithContext(ctx))
	var refused *api.ErrorResponse
	if errors.As(err, &refused) && refused.HasStatusCode(http.StatusBadRequest) && strings.Contains(string(refused.Body), "Cannot transition status") {
		return nil // it is that already, or somebody has set it to running
	}
	if err != nil {
		return g.statusFault(ctx, r, where, err, resp)
	}
	return nil
}

// statusFault says why a status could not be set.
func (g *gitlab) statusFault(ctx context.Context, r *Repository, where string, err error, resp *api.Response) error {
	var answer *http.Response
	if resp != nil {
		answer = resp.Response
	}
	var refused *api.ErrorResponse
	if errors.As(err, &refused) { // it has read the body
		answer.Body = io.NopCloser(strings.NewReader(string(refused.Body)))
	}
	err = g.a.libraryFault(ctx, where, err, answer)
	f := sentry.AsFault(err)
	switch {
	case f.Kind == sentry.Unauthorized:
		return sentry.Faultf(sentry.Unauthorized, "cannot set a status: the token needs the scope api, and its owner the role Developer in %s (Maintainer where the branch is protected for merging): %w", g.project(r), f.Err)
	case answer != nil && answer.StatusCode == http.StatusMethodNotAllowed: // what is moved is only read under its old name
		if moved := g.diagnose(ctx, r); moved != nil {
			return moved
		}
	}
	return err
}

// library gives GitLab's client library, on our transport: it adds nothing, retries nothing, and paces nothing.
func (g *gitlab) library() (*api.Client, error) {
	return api.NewAuthSourceClient(api.Unauthenticated{}, api.WithHTTPClient(g.a.client(reporting, corePurse, false)),
		api.WithBaseURL(g.a.base.String()), api.WithoutRetries(), api.WithUserAgent(userAgent))
}

// clipped shortens a text to so many characters.
func clipped(text string, most int) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	runes := []rune(text)
	return string(runes[:most-1]) + "…"
}

// optional is nil for an empty text: it is not sent then.
func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// gitlabCost estimates requests of the API. What is asked over Git costs none.
func gitlabCost(repositories []*Repository) CostOf {
	var together, others []*Repository
	c := CostOf{Kind: GitLab, Way: "ls-refs", Repositories: len(repositories), RequestsPerHour: questionsAnHour(repositories, 1)}
	for _, r := range repositories {
		c.Watches += len(r.Patterns)
		if alone(r) == "" {
			together = append(together, r)
		} else {
			others = append(others, r)
		}
	}
	if len(repositories) > 0 && repositories[0].Remote.Host() == gitlabComHost {
		c.Limit = gitlabHour
		if repositories[0].Auth.anonymous() {
			c.Limit /= 4
		}
	}
	switch {
	case len(together) >= gitlabFew:
		c.Way = "GraphQL"
		c.RequestsPerHour = questionsAnHour(together, gitlabBatch) + questionsAnHour(others, 1)
		c.Note = fmt.Sprintf("%d to %d repositories in a query", gitlabBatch, gitlabMost)
		if len(others) > 0 {
			c.Note += fmt.Sprintf("; %d are asked over Git, one by one", len(others))
		}
	default:
		c.Note = "asked over Git, one by one"
		if len(repositories) > 0 {
			c.Note += endingNote(repositories[0])
		}
	}
	if c.Limit > 0 && c.RequestsPerHour > c.Limit*8/10 {
		c.Problem = fmt.Sprintf("%d requests an hour are more than the %d that GitLab allows, less some for others: use a longer polling_interval", c.RequestsPerHour, c.Limit)
	}
	return c
}
