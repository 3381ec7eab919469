package forgetest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of GitLab's GraphQL API (docs.gitlab.com/api/graphql: "Limits"; app/graphql/gitlab_schema.rb).
const (
	gitlabQuerySize   = 10_000 // characters
	gitlabAnonymous   = 200    // complexity
	gitlabKnown       = 250
	gitlabPageSize    = 100
	gitlabFullPaths   = 50 // app/graphql/resolvers/projects_resolver.rb
	gitlabTimeout     = 30 * time.Second
	gitlabBranchNames = 170 // the complexity of Repository.branchNames
)

// serveGraphQL answers a query (app/controllers/graphql_controller.rb).
func (g *GitLab) serveGraphQL(w http.ResponseWriter, r *http.Request) {
	mistake := func(status int, text string) { answerJSON(w, status, graphqlErrors(graphqlError{Message: text})) }
	token, refused := g.authenticate(r)
	if refused != nil || credential(r) != "" && !token.may("api", "read_api") {
		mistake(http.StatusUnauthorized, "Invalid token")
		return
	}
	text, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err != nil {
		return // the client has gone
	}
	var in struct {
		Query     string         `json:"query"`
		Variables map[string]any `json:"variables"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		mistake(http.StatusBadRequest, "Unexpected end of document")
		return
	}
	if utf8.RuneCountInString(in.Query) > gitlabQuerySize {
		mistake(http.StatusUnprocessableEntity, "Query too large")
		return
	}
	fields, err := parseGraphQL(in.Query, in.Variables)
	if err != nil {
		mistake(http.StatusOK, err.Error())
		return
	}
	q := &gitlabQuery{g: g, token: token, limit: gitlabAnonymous}
	if token != nil {
		q.limit = gitlabKnown
	}
	if g.o.Allowed > 0 {
		q.limit = g.o.Allowed
	}
	if q.check("Query", fields, []any{"query"}); len(q.errors) > 0 {
		answerJSON(w, http.StatusOK, graphqlErrors(q.errors...))
		return
	}
	q.seen.Complexity, q.seen.Characters = sum(fields), utf8.RuneCountInString(in.Query)
	if q.seen.Complexity > q.limit {
		g.mu.Lock()
		g.tooMuch++
		g.mu.Unlock()
		mistake(http.StatusOK, fmt.Sprintf("Query has complexity of %d, which exceeds max complexity of %d", q.seen.Complexity, q.limit))
		return
	}
	data := q.query(fields)
	wait := time.Duration(q.seen.Commits) * g.o.Gitaly
	if wait > gitlabTimeout {
		time.Sleep(gitlabTimeout)
		mistake(http.StatusServiceUnavailable, "Request timed out. Please try a less complex query or a smaller set of records.")
		return
	}
	if wait > 0 {
		time.Sleep(wait)
	}
	g.mu.Lock()
	g.queries = append(g.queries, q.seen)
	g.mu.Unlock()
	body := map[string]any{"data": data}
	if len(q.errors) > 0 {
		body["errors"] = q.errors
	}
	answerJSON(w, http.StatusOK, body)
}

// graphqlError is one entry of "errors".
type graphqlError struct {
	Message    string         `json:"message"`
	Path       []any          `json:"path,omitempty"`
	Extensions map[string]any `json:"extensions,omitempty"`
}

func graphqlErrors(list ...graphqlError) map[string]any { return map[string]any{"errors": list} }

// gitlabQuery is a query that is being answered.
type gitlabQuery struct {
	g      *GitLab
	token  *gitlabToken
	limit  int
	seen   GitLabQuery
	errors []graphqlError
}

// gitlabField is a field of a type: the type of what it gives, and the arguments that it takes.
type gitlabField struct {
	gives string // "" for scalars
	args  string // separated by spaces
	since string // version; "" for all
}

// gitlabTypes is the part of the schema that is known here (docs.gitlab.com/api/graphql/reference). The fields that came
// late are: Query.queryComplexity (13.10), Query.projects(fullPaths:) (16.6), Repository.commit (17.10).
var gitlabTypes = map[string]map[string]gitlabField{
	"Query": {
		"projects":        {gives: "ProjectConnection", args: "ids fullPaths search sort first last after before membership"},
		"project":         {gives: "Project", args: "fullPath"},
		"queryComplexity": {gives: "QueryComplexity", since: "13.10"},
		"currentUser":     {gives: "CurrentUser"},
		"metadata":        {gives: "Metadata"},
	},
	"ProjectConnection": {"nodes": {gives: "Project"}, "count": {}},
	"QueryComplexity":   {"limit": {}, "score": {}},
	"CurrentUser":       {"username": {}},
	"Metadata":          {"version": {}},
	"Project":           {"id": {}, "fullPath": {}, "name": {}, "webUrl": {}, "repository": {gives: "Repository"}},
	"Repository": {
		"rootRef": {}, "empty": {}, "exists": {},
		"tree":        {gives: "Tree", args: "path ref refType recursive"},
		"commit":      {gives: "Commit", args: "ref", since: "17.10"},
		"branchNames": {args: "searchPattern offset limit"},
	},
	"Tree":   {"lastCommit": {gives: "Commit"}},
	"Commit": {"id": {}, "sha": {}, "title": {}, "authorName": {}, "authoredDate": {}},
}

// knows tells whether this GitLab is of a version or newer.
func (g *GitLab) knows(since string) bool {
	number := func(version string) int {
		major, minor, _ := strings.Cut(version, ".")
		a, _ := strconv.Atoi(major)
		b, _ := strconv.Atoi(minor)
		return a*1000 + b
	}
	return since == "" || number(g.o.Version) >= number(since)
}

// check looks for fields and arguments that the schema does not have, and says so as graphql-ruby does.
func (q *gitlabQuery) check(kind string, fields []*selection, path []any) {
	for _, f := range fields {
		known, ok := gitlabTypes[kind][f.name]
		at := append(path[:len(path):len(path)], f.key())
		if !ok || !q.g.knows(known.since) {
			q.errors = append(q.errors, graphqlError{
				Message: fmt.Sprintf("Field '%s' doesn't exist on type '%s'", f.name, kind), Path: at,
				Extensions: map[string]any{"code": "undefinedField", "typeName": kind, "fieldName": f.name},
			})
			continue
		}
		for name := range f.args {
			if !containsWord(known.args, name) || name == "fullPaths" && !q.g.knows("16.6") || name == "refType" && !q.g.knows("16.1") {
				q.errors = append(q.errors, graphqlError{
					Message: fmt.Sprintf("Field '%s' doesn't accept argument '%s'", f.name, name), Path: append(at[:len(at):len(at)], name),
					Extensions: map[string]any{"code": "argumentNotAccepted", "name": f.name, "typeName": "Field", "argumentName": name},
				})
			}
		}
		if known.gives != "" {
			q.check(known.gives, f.fields, at)
		}
	}
}

func containsWord(words, word string) bool { return strings.Contains(" "+words+" ", " "+word+" ") }

// sum is the complexity of fields (app/graphql/types/base_field.rb, app/graphql/resolvers/base_resolver.rb). A field counts
// one, and one more where it asks Gitaly; with a resolver, one for it, one for sorting and five for searching. A connection
// adds a hundredth of what is inside for each item that it may have, so that what is asked of a hundred projects costs
// twice what is asked of one. What is asked of Query.projects does not depend on how many there are.
func sum(fields []*selection) (complexity int) {
	for _, f := range fields {
		inside := sum(f.fields)
		switch f.name {
		case "projects":
			inside++
			if f.args["sort"] != nil {
				inside++
			}
			if f.args["search"] != nil {
				inside += 5
			}
			page := gitlabPageSize
			if first, ok := f.args["first"].(float64); ok {
				page = min(page, int(first))
			}
			inside += int(float64(inside) * float64(page) * 0.01)
		case "commit", "tree", "lastCommit", "rootRef", "empty", "exists":
			inside += 2
		case "branchNames":
			inside = gitlabBranchNames
		default:
			inside++
		}
		complexity += inside
	}
	return complexity
}

func (q *gitlabQuery) query(fields []*selection) map[string]any {
	data := map[string]any{}
	for _, f := range fields {
		path := []any{f.key()}
		switch f.name {
		case "queryComplexity":
			data[f.key()] = pick(f.fields, map[string]any{"limit": q.limit, "score": q.seen.Complexity})
		case "currentUser":
			if data[f.key()] = nil; q.token != nil {
				data[f.key()] = pick(f.fields, map[string]any{"username": "watcher"})
			}
		case "metadata":
			if data[f.key()] = nil; q.token != nil {
				data[f.key()] = pick(f.fields, map[string]any{"version": q.g.o.Version + ".0"})
			}
		case "project":
			name, _ := f.args["fullPath"].(string)
			data[f.key()] = q.project(name, f.fields, path)
		case "projects":
			data[f.key()] = q.projects(f, path)
		}
	}
	return data
}

func pick(fields []*selection, values map[string]any) map[string]any {
	picked := map[string]any{}
	for _, f := range fields {
		picked[f.key()] = values[f.name]
	}
	return picked
}

// projects gives those of the paths that are there for who asks, by id, newest first, and no more than a page of them. All
// paths are compared without regard to case. A path that a project had before is not found.
func (q *gitlabQuery) projects(f *selection, path []any) any {
	list, _ := f.args["fullPaths"].([]any)
	if len(list) > gitlabFullPaths {
		q.errors = append(q.errors, graphqlError{Message: "You cannot provide more than 50 full_paths", Path: path})
		return nil
	}
	page := gitlabPageSize
	if first, ok := f.args["first"].(float64); ok {
		page = min(page, int(first))
	}
	wanted := map[string]bool{}
	for _, one := range list {
		name, _ := one.(string)
		wanted[strings.ToLower(name)] = true
	}
	names := map[int]string{}
	newest := 0
	q.g.look(func() {
		for name := range wanted {
			if one := q.g.find(name); one != nil {
				names[one.id] = name
				newest = max(newest, one.id)
			}
		}
	})
	connection := map[string]any{}
	for _, part := range f.fields {
		if part.name != "nodes" {
			continue
		}
		nodes := []any{}
		for id := newest; id > 0 && len(nodes) < page; id-- {
			if name, ok := names[id]; ok {
				if node := q.project(name, part.fields, append(path[:len(path):len(path)], part.key(), len(nodes))); node != nil {
					nodes = append(nodes, node)
				}
			}
		}
		connection[part.key()] = nodes
	}
	return connection
}

// project gives a project, or nil where who asks may not see it.
func (q *gitlabQuery) project(name string, fields []*selection, path []any) any {
	var one repository
	found, code := false, false
	q.g.look(func() {
		if p := q.g.find(name); p != nil {
			one = *p
			one.branches = cloned(p.branches)
			found, code = q.token.sees(p)
		}
	})
	if !found {
		return nil
	}
	q.seen.Projects++
	node := map[string]any{}
	for _, f := range fields {
		switch f.name {
		case "id":
			node[f.key()] = fmt.Sprintf("gid://gitlab/Project/%d", one.id)
		case "fullPath":
			node[f.key()] = one.name
		case "name":
			node[f.key()] = one.name[strings.LastIndexByte(one.name, '/')+1:]
		case "webUrl":
			node[f.key()] = q.g.wire.url + "/" + one.name
		case "repository":
			if node[f.key()] = nil; code {
				node[f.key()] = q.repository(&one, f.fields, append(path[:len(path):len(path)], f.key()))
			}
		}
	}
	return node
}

// repository gives what is asked of a repository. A branch that is not there is null, and so is, without a word, one that
// Gitaly cannot tell.
func (q *gitlabQuery) repository(one *repository, fields []*selection, path []any) map[string]any {
	loud, sick := q.g.isSick(one.name)
	node := map[string]any{}
	for _, f := range fields {
		ref, _ := f.args["ref"].(string)
		commit := one.branches[strings.TrimPrefix(ref, "refs/heads/")]
		switch f.name {
		case "rootRef":
			node[f.key()] = "main"
		case "exists":
			node[f.key()] = true
		case "empty":
			node[f.key()] = len(one.branches) == 0
		case "commit", "tree":
			q.seen.Commits++
			node[f.key()] = nil
			switch {
			case sick && loud:
				q.errors = append(q.errors, graphqlError{Message: "14:failed to connect to all addresses", Path: append(path[:len(path):len(path)], f.key())})
			case sick || commit == "":
			case f.name == "commit":
				node[f.key()] = commitNode(commit, f.fields)
			default:
				tree := map[string]any{}
				for _, last := range f.fields {
					tree[last.key()] = commitNode(commit, last.fields)
				}
				node[f.key()] = tree
			}
		}
	}
	return node
}

func commitNode(commit string, fields []*selection) map[string]any {
	return pick(fields, map[string]any{
		"id": "gid://gitlab/Commit/" + commit, "sha": commit, "title": "subject",
		"authorName": "Ada Author", "authoredDate": "2024-05-06T07:08:09Z",
	})
}
