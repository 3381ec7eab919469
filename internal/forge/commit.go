package forge

import (
	"context"
	"net/url"
	"time"

	"sentry/internal/sentry"
)

// Commit is what a commit says of itself. The texts are as its author wrote them; they may have any character.
type Commit struct {
	AuthorName, AuthorEmail string
	Time                    time.Time // when it was committed, UTC
	Message                 string
}

// Commit asks the API who made a commit of a repository: for where Git is refused. It counts on the budget. The error is a
// *sentry.Fault, of kind Invalid where there is no API.
func (f *Forges) Commit(ctx context.Context, r *Repository, commit string) (Commit, error) {
	if err := sentry.CheckCommit(commit); err != nil {
		return Commit{}, &sentry.Fault{Kind: sentry.Invalid, Err: err}
	}
	a := f.account(r)
	if a.service == nil {
		return Commit{}, sentry.Faultf(sentry.Invalid, "%s is asked over Git only", r.Name)
	}
	found, err := a.service.commit(ctx, r, commit)
	if err != nil {
		return Commit{}, sentry.AsFault(err)
	}
	found.Time = found.Time.UTC()
	return found, nil
}

// OverAPI reports whether a repository is asked over the API for the time being, because Git is refused.
func (f *Forges) OverAPI(r *Repository) bool {
	p := f.place(r)
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.byAPI)
}

// signature is a person and a moment, as GitHub and Gitea have them.
type signature struct {
	Name  string    `json:"name"`
	Email string    `json:"email"`
	Date  time.Time `json:"date"`
}

// signed is a commit of the Git objects that GitHub and Gitea give.
type signed struct {
	Author    signature `json:"author"`
	Committer signature `json:"committer"`
	Message   string    `json:"message"`
}

func (s signed) commit() Commit {
	return Commit{AuthorName: s.Author.Name, AuthorEmail: s.Author.Email, Time: s.Committer.Date, Message: s.Message}
}

// notThat is the fault of an answer about another commit than was asked for.
func notThat(got, want string) error {
	return sentry.Faultf(sentry.Invalid, "it tells of commit %q and not of %s", oneLine(got), sentry.ShortCommit(want))
}

// commit asks for the object alone: that of the branch metadata comes with everything that was changed
// (docs.github.com, rest/git/commits).
func (g *gitHub) commit(ctx context.Context, r *Repository, commit string) (Commit, error) {
	it, err := newItem(r, nil)
	if err != nil {
		return Commit{}, err
	}
	var found struct {
		SHA string `json:"sha"`
		signed
	}
	path := "/repos/" + url.PathEscape(it.owner) + "/" + url.PathEscape(it.name) + "/git/commits/" + commit
	if _, err := g.a.call(ctx, call{class: looking, path: path}, &found); err != nil {
		return Commit{}, err
	}
	if found.SHA != commit {
		return Commit{}, notThat(found.SHA, commit)
	}
	return found.signed.commit(), nil
}

// commit asks for one (docs.gitlab.com/api/commits: "Retrieve a commit").
func (g *gitlab) commit(ctx context.Context, r *Repository, commit string) (Commit, error) {
	var found struct {
		ID      string    `json:"id"`
		Name    string    `json:"author_name"`
		Email   string    `json:"author_email"`
		Date    time.Time `json:"committed_date"`
		Message string    `json:"message"`
	}
	c := call{class: looking, path: g.path(r) + "/repository/commits/" + commit, query: url.Values{"stats": {"false"}}}
	if _, err := g.a.call(ctx, c, &found); err != nil {
		return Commit{}, err
	}
	if found.ID != commit {
		return Commit{}, notThat(found.ID, commit)
	}
	return Commit{AuthorName: found.Name, AuthorEmail: found.Email, Time: found.Date, Message: found.Message}, nil
}

// commit asks for one without its files (Gitea's routers/api/v1/repo/commits.go, GetSingleCommit).
func (g *gitea) commit(ctx context.Context, r *Repository, commit string) (Commit, error) {
	path, err := g.path(r)
	if err != nil {
		return Commit{}, err
	}
	var found struct {
		SHA    string `json:"sha"`
		Commit signed `json:"commit"`
	}
	query := url.Values{"stat": {"false"}, "verification": {"false"}, "files": {"false"}}
	if _, err := g.a.call(ctx, call{class: looking, path: path + "/git/commits/" + commit, query: query}, &found); err != nil {
		return Commit{}, err
	}
	if found.SHA != commit {
		return Commit{}, notThat(found.SHA, commit)
	}
	return found.Commit.commit(), nil
}
