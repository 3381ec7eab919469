package forge

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"sentry/internal/sentry"
)

// maxPages is how many pages of branches are read of one repository.
const maxPages = 50

// etag is what a branch, or a list of them, answered last.
type etag struct {
	tag   string
	heads map[string]string
}

// one asks over REST. A branch is asked for its commit alone, by the media type "sha", and GitHub takes the commit that we
// know for an ETag (docs.github.com, rest/commits/commits, "Get a commit"): an answer that nothing has moved costs none of
// the budget. The ETag that came with the last answer is sent beside it.
func (g *gitHub) one(ctx context.Context, r *Repository) Answer {
	heads, err := g.restHeads(ctx, r)
	if err != nil {
		return Answer{Err: sentry.AsFault(err), Way: "REST"}
	}
	return Answer{Heads: heads, Way: "REST"}
}

func (g *gitHub) restHeads(ctx context.Context, r *Repository) (map[string]string, error) {
	it, err := newItem(r, nil)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	known := g.etags[r]
	g.mu.Unlock()
	heads, tags := map[string]string{}, map[string]etag{}
	base := "/repos/" + url.PathEscape(it.owner) + "/" + url.PathEscape(it.name)
	for _, branch := range it.branches {
		e, err := g.restBranch(ctx, base, branch, known[branch])
		if err != nil {
			return nil, err
		}
		if commit := e.heads[branch]; commit != "" {
			heads[branch], tags[branch] = commit, e
		}
	}
	for _, prefix := range it.prefixes {
		key := prefix + "*" // no branch is called so
		e, err := g.restSearch(ctx, base, prefix, known[key])
		if err != nil {
			return nil, err
		}
		tags[key] = e
		for branch, commit := range e.heads {
			if matches(r.Patterns, branch) {
				heads[branch] = commit
			}
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.etags[r] = tags
	return heads, nil
}

// restBranch asks for one branch; heads is empty where there is none.
func (g *gitHub) restBranch(ctx context.Context, base, branch string, known etag) (etag, error) {
	c := call{path: base + "/commits/" + url.PathEscape("heads/"+branch), accept: "application/vnd.github.sha", header: http.Header{}}
	if commit := known.heads[branch]; commit != "" {
		c.header.Set("If-None-Match", conditions(`"`+commit+`"`, known.tag))
	}
	r, err := g.a.call(ctx, c, nil)
	switch status, _ := statusOf(err); {
	case status == http.StatusUnprocessableEntity, status == http.StatusConflict:
		return etag{}, nil // no such commit; or the repository is empty
	case err != nil:
		return etag{}, err
	case r.status == http.StatusNotModified:
		return known, nil
	}
	commit := strings.TrimSpace(string(r.body[:min(len(r.body), 100)]))
	if err := sentry.CheckCommit(commit); err != nil {
		return etag{}, sentry.Faultf(sentry.Invalid, "%s answers with no commit: %w", g.a.address(c), err)
	}
	return etag{tag: r.header.Get("ETag"), heads: map[string]string{branch: commit}}, nil
}

// conditions lists ETags for If-None-Match.
func conditions(tags ...string) string {
	var list []string
	for _, tag := range tags {
		if tag != "" && (len(list) == 0 || tag != list[0]) {
			list = append(list, tag)
		}
	}
	return strings.Join(list, ", ")
}

// restSearch asks for all branches that begin with a text.
func (g *gitHub) restSearch(ctx context.Context, base, prefix string, known etag) (etag, error) {
	c := call{path: base + "/git/matching-refs/heads/" + escapePath(prefix), query: url.Values{"per_page": {"100"}}, header: http.Header{}}
	if known.tag != "" {
		c.header.Set("If-None-Match", known.tag)
	}
	found := etag{heads: map[string]string{}}
	for page := range maxPages {
		var refs []struct {
			Ref    string `json:"ref"`
			Object struct {
				SHA string `json:"sha"`
			} `json:"object"`
		}
		r, err := g.a.call(ctx, c, &refs)
		switch status, _ := statusOf(err); {
		case status == http.StatusConflict: // it is empty
			return found, nil
		case err != nil:
			return etag{}, err
		case r.status == http.StatusNotModified:
			return known, nil
		}
		for _, ref := range refs {
			branch, ok := strings.CutPrefix(ref.Ref, "refs/heads/")
			if !ok || sentry.CheckCommit(ref.Object.SHA) != nil {
				return etag{}, sentry.Faultf(sentry.Invalid, "%s answers with something else than branches", g.a.address(c))
			}
			if sentry.CheckBranch(branch) == nil {
				found.heads[branch] = ref.Object.SHA
			}
		}
		next := nextPage(r.header)
		if next == "" {
			if page == 0 { // the ETag of one page says nothing about the next
				found.tag = r.header.Get("ETag")
			}
			return found, nil
		}
		c = call{path: next}
	}
	return etag{}, sentry.Faultf(sentry.Invalid, "%s has more branches than anybody watches", g.a.address(c))
}

// nextPage is where an answer says that it goes on (RFC 8288). Nothing is sent to another origin, whatever it says.
func nextPage(h http.Header) string {
	for _, line := range h.Values("Link") {
		for _, link := range strings.Split(line, ",") {
			address, rest, ok := strings.Cut(strings.TrimSpace(link), ">")
			if ok && strings.Contains(rest, `rel="next"`) {
				return strings.TrimPrefix(address, "<")
			}
		}
	}
	return ""
}

// escapePath escapes each part of a path.
func escapePath(path string) string {
	parts := strings.Split(path, "/")
	for i, part := range parts {
		parts[i] = url.PathEscape(part)
	}
	return strings.Join(parts, "/")
}

// statusOf gives the status of an answer that refuses.
func statusOf(err error) (int, *StatusError) {
	if e, ok := errors.AsType[*StatusError](err); ok {
		return e.Status, e
	}
	return 0, nil
}

func isTooLong(err error) bool { return errors.Is(err, errTooLong) }
