package forgetest

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"time"
)

// Of the queries (graphql/overview/rate-limits-and-query-limits-for-the-graphql-api).
const (
	githubNodes   = 500_000
	githubTimeout = 10 * time.Second
	githubLate    = 10 // points that a query costs besides that took too long; GitHub does not tell how many
)

// serveGraphQL answers a query (graphql/guides/forming-calls-with-graphql).
func (g *GitHub) serveGraphQL(w http.ResponseWriter, r *http.Request, token *githubToken, a *arrival) {
	if token == nil {
		a.write(w.Header())
		refuse(w, http.StatusUnauthorized, "This endpoint requires you to be authenticated.", "/graphql/guides/forming-calls-with-graphql#authenticating-with-graphql")
		return
	}
	var in struct {
		Query     string         `json:"query"`
		Variables map[string]any `json:"variables"`
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err != nil || r.Method != http.MethodPost || json.Unmarshal(data, &in) != nil {
		a.write(w.Header())
		refuse(w, http.StatusBadRequest, "Problems parsing JSON", "/graphql")
		return
	}
	q := &githubAnswer{g: g, token: token, data: map[string]any{}}
	fields, err := parseGraphQL(in.Query, in.Variables)
	if err != nil {
		q.fail("", "Parse error: "+err.Error())
	} else {
		q.count(fields)
	}
	// "Add up the number of requests needed to fulfill each unique connection in the call … Divide the number by 100 and round
	// the result to the nearest whole number … The minimum point value of a call to the GraphQL API is 1."
	cost := max(1, int(math.Round(float64(q.Connections)/100)))
	q.Cost = cost
	switch {
	case len(q.errors) > 0:
	case q.Nodes > githubNodes:
		q.fail("MAX_NODE_LIMIT_EXCEEDED", fmt.Sprintf("This query requests up to %d possible nodes which exceeds the maximum limit of %d.", q.Nodes, githubNodes))
	default:
		if took := time.Duration(q.Repositories)*g.o.Each + g.o.Latency; took > githubTimeout {
			// "If GitHub takes more than 10 seconds to process an API request, GitHub will terminate the request … you may receive
			// either a 502 or 504 status code … additional points will be deducted from your primary rate limit".
			pass(r, githubTimeout-g.o.Latency)
			a.charge(cost + githubLate)
			a.write(w.Header())
			answerJSON(w, http.StatusBadGateway, map[string]any{"data": nil, "errors": []any{map[string]any{
				"message": "We couldn't respond to your request in time. Sorry about that. Please try resubmitting your request and contact us if the problem persists.",
			}}})
			return
		}
		pass(r, time.Duration(q.Repositories)*g.o.Each)
		a.charge(cost)
		g.look(func() { q.answer(fields, a) })
		g.mu.Lock()
		g.queries = append(g.queries, q.GitHubQuery)
		g.mu.Unlock()
	}
	a.write(w.Header())
	out := map[string]any{}
	if len(q.data) > 0 {
		out["data"] = q.data
	}
	if len(q.errors) > 0 {
		out["errors"] = q.errors
	}
	answerJSON(w, http.StatusOK, out)
}

// githubAnswer is the answer to a query while it is made.
type githubAnswer struct {
	GitHubQuery
	g      *GitHub
	token  *githubToken
	data   map[string]any
	errors []map[string]any
}

func (q *githubAnswer) fail(kind, message string, path ...any) {
	e := map[string]any{"message": message}
	if kind != "" {
		e["type"] = kind
	}
	if len(path) > 0 {
		e["path"] = path
	}
	q.errors = append(q.errors, e)
}

// count adds up what a query asks for, and refuses what no query may.
func (q *githubAnswer) count(fields []*selection) {
	for _, f := range fields {
		switch f.name {
		case "rateLimit", "viewer":
		case "repository":
			q.Repositories++
			for _, of := range f.fields {
				switch of.name {
				case "ref":
					q.Refs++
				case "refs":
					q.Connections++
					first, ok := of.args["first"].(float64)
					switch {
					case !ok:
						q.fail("MISSING_PAGINATION_BOUNDARIES", "You must provide a `first` or `last` value to properly paginate the `refs` connection.", f.key(), of.key())
					case first < 1 || first > 100:
						q.fail("EXCESSIVE_PAGINATION", fmt.Sprintf("Requesting %v records on the `refs` connection exceeds the `first` limit of 100 records.", first), f.key(), of.key())
					default:
						q.Nodes += int(first)
					}
				case "nameWithOwner", "id", "isPrivate", "pushedAt", "viewerPermission":
				default:
					q.fail("", "Field '"+of.name+"' doesn't exist on type 'Repository'", "query", f.key(), of.name)
				}
			}
		default:
			q.fail("", "Field '"+f.name+"' doesn't exist on type 'Query'", "query", f.name)
		}
	}
}

// answer fills in the data. The repositories are locked.
func (q *githubAnswer) answer(fields []*selection, a *arrival) {
	n := 0
	for _, f := range fields {
		switch f.name {
		case "viewer":
			q.data[f.key()] = map[string]any{"login": q.token.user.name}
		case "rateLimit":
			if q.g.o.NoLimits {
				q.data[f.key()] = nil
				continue
			}
			q.g.mu.Lock()
			q.data[f.key()] = map[string]any{
				"cost": q.Cost, "limit": a.window.limit, "remaining": max(0, a.window.limit-a.window.used), "used": a.window.used,
				"resetAt": a.window.reset.UTC().Format(time.RFC3339), "nodeCount": q.Nodes,
			}
			q.g.mu.Unlock()
		case "repository":
			n++
			if q.g.o.MostInOne > 0 && n > q.g.o.MostInOne {
				// "If your GraphQL query consumes too many resources, GitHub will terminate the request and return partial results along
				// with an error indicating that resource limits were exceeded."
				q.data[f.key()] = nil
				q.fail("RESOURCE_LIMITS_EXCEEDED", "Resource limits for this query exceeded.", f.key())
				continue
			}
			q.data[f.key()] = q.repository(f)
		}
	}
}

// repository answers for one: null, and an error that names it, where it is not there for who asks. One that was renamed
// answers to its old name (graphql/reference/objects: repository, followRenames).
func (q *githubAnswer) repository(f *selection) any {
	owner, _ := f.args["owner"].(string)
	name, _ := f.args["name"].(string)
	full := owner + "/" + name
	one := q.g.find(full)
	if one == nil && f.args["followRenames"] != false {
		one = q.g.findMoved(full)
	}
	found, code := false, false
	if one != nil {
		found, code = q.token.sees(one)
	}
	if !found {
		q.fail("NOT_FOUND", fmt.Sprintf("Could not resolve to a Repository with the name '%s'.", full), f.key())
		return nil
	}
	q.g.mu.Lock()
	flaw := q.g.flaws[strings.ToLower(full)]
	q.g.mu.Unlock()
	data := map[string]any{}
	for _, of := range f.fields {
		switch of.name {
		case "nameWithOwner":
			data[of.key()] = one.name
		case "id":
			data[of.key()] = fmt.Sprint("R_", one.id)
		case "isPrivate":
			data[of.key()] = one.private
		case "ref", "refs":
			switch {
			case flaw != "":
				data[of.key()] = nil
				q.fail(flaw, "Something is wrong with this one.", f.key(), of.key())
			case !code:
				data[of.key()] = nil
				q.fail("FORBIDDEN", "Resource not accessible by personal access token", f.key(), of.key())
			case of.name == "ref":
				data[of.key()] = refOf(one, of)
			default:
				data[of.key()] = refsOf(one, of)
			}
		}
	}
	return data
}

// refOf is Repository.ref(qualifiedName): null where there is none.
func refOf(one *repository, f *selection) any {
	name, _ := f.args["qualifiedName"].(string)
	branch := strings.TrimPrefix(name, "refs/heads/")
	commit := one.branches[branch]
	if commit == "" {
		return nil
	}
	return chosen(f.fields, map[string]any{"name": branch, "prefix": "refs/heads/", "target": map[string]any{"oid": commit}})
}

// refsOf is Repository.refs(refPrefix, query, first): query "filters refs with query on name", wherever it stands in it.
func refsOf(one *repository, f *selection) any {
	prefix, _ := f.args["refPrefix"].(string)
	search, _ := f.args["query"].(string)
	first, _ := f.args["first"].(float64)
	nodes, more := []any{}, false
	for _, ref := range one.refs() {
		name, ok := strings.CutPrefix(ref.name, prefix)
		if !ok || !strings.Contains(name, search) {
			continue
		}
		if len(nodes) == int(first) {
			more = true
			break
		}
		nodes = append(nodes, map[string]any{"name": name, "prefix": prefix, "target": map[string]any{"oid": ref.commit}})
	}
	return chosen(f.fields, map[string]any{"pageInfo": map[string]any{"hasNextPage": more}, "nodes": nodes, "totalCount": len(nodes)})
}

// chosen gives the fields that were asked for.
func chosen(fields []*selection, from map[string]any) map[string]any {
	out := map[string]any{}
	for _, f := range fields {
		out[f.key()] = from[f.name]
	}
	return out
}
