package forge

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"sentry/internal/sentry"
)

// connectionsPerPoint is how many searches for branches a query may hold: GitHub divides by a hundred and rounds, and a
// query costs one point at least.
const connectionsPerPoint = 100

// branchesPerPage is the most that GitHub gives of a search.
const branchesPerPage = 100

// graphqlAddress is where the queries go: beside api/v3 on an Enterprise server (docs.github.com,
// graphql/guides/forming-calls-with-graphql), below the base elsewhere.
func graphqlAddress(base *url.URL) string {
	u := *base
	if path, ok := strings.CutSuffix(u.Path, "/v3"); ok {
		u.Path = path
	}
	u.Path += "/graphql"
	return u.String()
}

// item is one repository of a query.
type item struct {
	*Repository
	owner, name string
	branches    []string // asked by name
	prefixes    []string // searched for
	searches    int
	answer      *Answer

	now  string // its name, as GitHub has it
	wide bool   // it has more branches than a page holds
}

func newItem(r *Repository, answer *Answer) (*item, error) {
	owner, name, err := ownerAndName(r)
	if err != nil {
		return nil, err
	}
	it := &item{Repository: r, owner: owner, name: name, answer: answer}
	seen := map[string]bool{}
	for _, p := range r.Patterns {
		if p.Exact() {
			it.branches = append(it.branches, p.String())
			continue
		}
		if prefix := p.Prefix(); !seen[prefix] {
			seen[prefix] = true
			it.prefixes = append(it.prefixes, prefix)
		}
	}
	if seen[""] {
		it.prefixes = []string{""}
	}
	it.searches = len(it.prefixes)
	return it, nil
}

// queryOf writes the query for some repositories. Aliases: r0 is the first, in it b0 its first branch, s0 its first search.
func queryOf(items []*item) string {
	var q strings.Builder
	q.WriteString("query{rateLimit{cost}")
	for i, it := range items {
		fmt.Fprintf(&q, " r%d:repository(owner:%s,name:%s){nameWithOwner", i, quote(it.owner), quote(it.name))
		for j, branch := range it.branches {
			fmt.Fprintf(&q, " b%d:ref(qualifiedName:%s){target{oid}}", j, quote("refs/heads/"+branch))
		}
		for j, prefix := range it.prefixes {
			search := ""
			if prefix != "" {
				search = "query:" + quote(prefix) + ","
			}
			fmt.Fprintf(&q, " s%d:refs(refPrefix:\"refs/heads/\",%sfirst:%d){pageInfo{hasNextPage} nodes{prefix name target{oid}}}", j, search, branchesPerPage)
		}
		q.WriteString("}")
	}
	q.WriteString("}")
	return q.String()
}

// quote writes a string of GraphQL, which has the escapes of JSON.
func quote(text string) string {
	data, _ := json.Marshal(text)
	return string(data)
}

// graphqlAnswer is what comes back.
type graphqlAnswer struct {
	Data   map[string]json.RawMessage `json:"data"`
	Errors []graphqlError             `json:"errors"`
}

type graphqlError struct {
	Type    string `json:"type"`
	Message string `json:"message"`
	Path    []any  `json:"path"`
}

// text is what it complains of.
func (a *graphqlAnswer) text() string {
	for _, e := range a.Errors {
		if len(e.Path) == 0 && e.Message != "" {
			return oneLine(e.Message)
		}
	}
	if len(a.Errors) > 0 {
		return oneLine(a.Errors[0].Message)
	}
	return ""
}

// outcome is what a query came to as a whole.
type outcome int

const (
	fine      outcome = iota
	broken            // no answer, or one that nobody can read
	tooMuch           // the query asks for too much
	limited           // too many queries
	notSpoken         // the server does not want GraphQL from us
)

// judge says what a query came to. err is that of the request.
func (a *graphqlAnswer) judge(err error) outcome {
	if err != nil {
		f := sentry.AsFault(err)
		status, _ := statusOf(err)
		switch {
		case f.Kind == sentry.RateLimited:
			return limited
		case status == http.StatusBadGateway, status == http.StatusGatewayTimeout, isTooLong(err):
			return tooMuch
		case status == http.StatusNotFound, status == http.StatusMethodNotAllowed, status == http.StatusForbidden, status == http.StatusBadRequest,
			status == http.StatusNotImplemented, status == http.StatusUnprocessableEntity:
			return notSpoken
		}
		return broken
	}
	for _, e := range a.Errors {
		kind := strings.ToUpper(e.Type)
		switch {
		case strings.HasPrefix(kind, "RATE_LIMIT"):
			return limited
		case len(e.Path) > 0:
			continue
		case strings.Contains(strings.ToLower(e.Message), "secondary rate limit"), strings.Contains(strings.ToLower(e.Message), "rate limit exceeded"):
			return limited
		case kind == "RESOURCE_LIMITS_EXCEEDED", kind == "MAX_NODE_LIMIT_EXCEEDED", strings.Contains(e.Message, "in time"), strings.Contains(e.Message, "timeout"):
			return tooMuch
		case len(a.Data) == 0 && strings.Contains(e.Message, "Something went wrong"):
			return tooMuch
		case len(a.Data) == 0:
			return notSpoken
		}
	}
	if len(a.Data) == 0 {
		return notSpoken
	}
	return fine
}

// repositoryData is what is told of one repository.
type repositoryData map[string]json.RawMessage

type refData struct {
	Prefix string `json:"prefix"`
	Name   string `json:"name"`
	Target *struct {
		OID string `json:"oid"`
	} `json:"target"`
}

type searchData struct {
	PageInfo *struct {
		HasNextPage bool `json:"hasNextPage"`
	} `json:"pageInfo"`
	Nodes []*refData `json:"nodes"`
}

// read takes an item's answer out of that of the whole query, or leaves it unanswered where there is any doubt about it.
// again tells that it was left out because the query was too much.
func (it *item) read(a *graphqlAnswer, index int) (again bool) {
	alias := "r" + strconv.Itoa(index)
	for _, e := range a.Errors {
		if len(e.Path) == 0 || e.Path[0] != any(alias) {
			continue
		}
		switch strings.ToUpper(e.Type) {
		case "RESOURCE_LIMITS_EXCEEDED":
			return true
		case "NOT_FOUND":
			if len(e.Path) == 1 {
				it.fail(sentry.NotFound, "there is no repository %s/%s there, or the credential may not see it: GitHub says %q", it.owner, it.name, oneLine(e.Message))
			}
		case "FORBIDDEN", "INSUFFICIENT_SCOPES", "UNAUTHORIZED", "SAML_FAILURE":
			it.fail(sentry.Unauthorized, "GitHub does not show %s/%s with this credential; it says %q", it.owner, it.name, oneLine(e.Message))
		}
		return false
	}
	raw, ok := a.Data[alias]
	if !ok {
		return false
	}
	if string(raw) == "null" {
		it.fail(sentry.NotFound, "there is no repository %s/%s there, or the credential may not see it", it.owner, it.name)
		return false
	}
	var data repositoryData
	if json.Unmarshal(raw, &data) != nil {
		return false
	}
	heads := make(map[string]string, len(it.branches))
	for j, branch := range it.branches {
		var ref *refData
		raw, ok := data["b"+strconv.Itoa(j)]
		if !ok || json.Unmarshal(raw, &ref) != nil {
			return false
		}
		if ref == nil {
			continue // there is no such branch
		}
		if ref.Target == nil || sentry.CheckCommit(ref.Target.OID) != nil {
			return false
		}
		heads[branch] = ref.Target.OID
	}
	for j := range it.prefixes {
		var found *searchData
		raw, ok := data["s"+strconv.Itoa(j)]
		if !ok || json.Unmarshal(raw, &found) != nil || found == nil || found.PageInfo == nil {
			return false
		}
		if found.PageInfo.HasNextPage {
			it.wide = true
			return false
		}
		if !it.collect(found.Nodes, heads) {
			return false
		}
	}
	if json.Unmarshal(data["nameWithOwner"], &it.now) != nil {
		it.now = ""
	}
	*it.answer = Answer{Heads: heads, Way: "GraphQL"}
	return false
}

// collect adds the branches of a search that match.
func (it *item) collect(nodes []*refData, heads map[string]string) bool {
	for _, ref := range nodes {
		if ref == nil || ref.Target == nil || sentry.CheckCommit(ref.Target.OID) != nil {
			return false
		}
		branch, ok := strings.CutPrefix(ref.Prefix+ref.Name, "refs/heads/")
		if !ok {
			return false
		}
		if sentry.CheckBranch(branch) == nil && matches(it.Patterns, branch) {
			heads[branch] = ref.Target.OID
		}
	}
	return true
}

func matches(patterns []sentry.Pattern, branch string) bool {
	for _, p := range patterns {
		if p.Match(branch) {
			return true
		}
	}
	return false
}

func (it *item) fail(kind sentry.FaultKind, format string, args ...any) {
	*it.answer = Answer{Err: sentry.Faultf(kind, format, args...), Way: "GraphQL"}
}
