package server

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// Targets turns names of groups and repositories into what is asked of the store: one request for each group, in the
// order of the configuration. No name at all means every group. A group is rolled out whole; repositories only bring
// themselves. A name that is both is the group.
func Targets(cfg *config.Config, names []string, by string) ([]store.Request, error) {
	whole := map[string]bool{}
	some := map[string][]string{}
	for _, name := range names {
		if _, ok := cfg.Group(name); ok {
			whole[name] = true
			continue
		}
		repo, ok := cfg.Repository(name)
		if !ok {
			return nil, unknown("group or repository", name, append(groupNames(cfg), repositoryNames(cfg)...))
		}
		if !slices.Contains(some[repo.Group], name) {
			some[repo.Group] = append(some[repo.Group], name)
		}
	}
	var requests []store.Request
	for _, g := range cfg.Groups {
		request := store.Request{Group: g.Name, By: by, Kind: sentry.TriggerPerson}
		switch {
		case len(cfg.Members(g.Name)) == 0 && !whole[g.Name]:
			continue // a group without members has nothing to roll out, unless somebody insists
		case len(names) == 0 || whole[g.Name]:
			request.Whole = true
		case some[g.Name] != nil:
			request.Repositories = some[g.Name]
		default:
			continue
		}
		requests = append(requests, request)
	}
	if len(requests) == 0 {
		return nil, &Error{Status: http.StatusConflict, Code: "nothing_to_do", Message: "the configuration has no repositories to roll out"}
	}
	return requests, nil
}

// Again makes the request that repeats a rollout: every watch that it had, or with failed only those whose deployment
// did not succeed. The heads are those of now, not those of then.
func Again(cfg *config.Config, old sentry.Rollout, failed bool, by string) (store.Request, error) {
	request := store.Request{Group: old.Group, By: by, Kind: sentry.TriggerRetry, RetryOf: old.ID}
	if !old.Status.Terminal() {
		return request, conflict("not_ended", "rollout "+old.ID+" is "+string(old.Status)+"; only one that has ended can be tried again", "`sentry cancel "+old.ID+"` ends it")
	}
	if _, ok := cfg.Group(old.Group); !ok {
		return request, unknown("group", old.Group, groupNames(cfg))
	}
	var gone []string
	add := func(w sentry.Watch) {
		switch repo, ok := cfg.Repository(w.Repository); {
		case !ok || repo.Group != old.Group:
			gone = append(gone, w.Repository)
		case !slices.Contains(request.Watches, w):
			request.Watches = append(request.Watches, w)
		}
	}
	for _, d := range old.Deployments {
		if !failed || d.Status != sentry.Succeeded {
			add(d.Watch)
		}
	}
	if len(old.Deployments) == 0 { // it was canceled before it was planned
		request.Whole, request.Repositories = old.Trigger.Whole, old.Trigger.Repositories
		for _, w := range old.Trigger.Watches {
			add(w)
		}
		for _, c := range old.Trigger.Changes {
			add(c.Watch)
		}
	}
	switch {
	case len(request.Watches) > 0 || request.Whole || len(request.Repositories) > 0:
		return request, nil
	case gone != nil:
		return request, conflict("not_configured", "group "+old.Group+" does not have "+strings.Join(slices.Compact(gone), ", ")+" any more", "")
	}
	return request, conflict("nothing_to_do", "every deployment of rollout "+old.ID+" succeeded", "`sentry retry "+old.ID+"` without --failed rolls all of it out again")
}

func conflict(code, message, hint string) error {
	return &Error{Status: http.StatusConflict, Code: code, Message: message, Hint: hint}
}

// unknown says that there is nothing of that name, and what is near it.
func unknown(what, name string, have []string) error {
	e := &Error{Status: http.StatusNotFound, Code: "not_found", Message: fmt.Sprintf("there is no %s %q", what, clean(name, 100))}
	near := nearest(name, have)
	switch {
	case near != "":
		e.Hint = fmt.Sprintf("did you mean %q?", near)
	case len(have) > 0:
		slices.Sort(have)
		have = slices.Compact(have)
		more := ""
		if len(have) > 10 {
			have, more = have[:10], ", …"
		}
		e.Hint = "there are: " + strings.Join(have, ", ") + more
	}
	return e
}

func groupNames(cfg *config.Config) []string {
	var names []string
	if cfg != nil {
		for _, g := range cfg.Groups {
			names = append(names, g.Name)
		}
	}
	return names
}

func repositoryNames(cfg *config.Config) []string {
	var names []string
	if cfg != nil {
		for _, r := range cfg.Repositories {
			names = append(names, r.Name)
		}
	}
	return names
}

// nearest gives the name that is few letters away from what was written, "" where there is none.
func nearest(written string, names []string) string {
	best, distance := "", len(written)+1
	for _, name := range names {
		if len(name) > 200 || len(written) > 200 {
			continue
		}
		if d := edits(strings.ToLower(written), strings.ToLower(name)); d < distance && d <= max(1, min(len(name)/2, 3)) {
			best, distance = name, d
		}
	}
	return best
}

// edits counts the insertions, deletions and replacements of bytes between two texts.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
