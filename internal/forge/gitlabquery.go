package forge

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sentry/internal/sentry"
)

// dialect is what a GitLab understands, by its age.
type dialect int

const (
	newest    dialect = iota // Repository.commit(ref:): GitLab 17.10
	withPaths                // Query.projects(fullPaths:): GitLab 16.6
	oldest                   // one Query.project(fullPath:) for each
)

// query asks about repositories.
type query struct {
	text         string
	variables    map[string]any
	dialect      dialect
	complexity   int // as reckoned here
	repositories int
	full         bool // others were left out for their complexity, or length
	groups       []*queryGroup
}

// queryGroup is one field of a query: the repositories of which the same branches are asked.
type queryGroup struct {
	alias    string
	branches []string
	members  []int          // indices of repositories
	byPath   map[string]int // lower case: index of members
}

// complexity is what a group adds to a query (app/graphql/types/base_field.rb, app/graphql/resolvers/base_resolver.rb).
func (g *queryGroup) complexity(d dialect) int {
	branch := 3 // sha, the commit's resolver, and its call to the Git side
	if d != newest {
		branch = 6 // and the same once more for the tree around it
	}
	one := 1 + 1 + branch*len(g.branches) // fullPath, repository
	if d == oldest {
		return 1 + one
	}
	page := one + 1 + 1 // nodes, the resolver
	return page + page*len(g.members)/100
}

// compose makes a query about as many of the open repositories as one may hold, and tells which are left.
func (g *gitlab) compose(repositories []*Repository, open []int) (q *query, rest []int) {
	g.mu.Lock()
	q = &query{dialect: g.dialect, variables: map[string]any{}, complexity: 3} // for queryComplexity{limit score}
	most, allowed := g.size, float64(g.limit)/g.factor
	g.mu.Unlock()

	perGroup := gitlabPaths
	if q.dialect == oldest {
		perGroup = 1
	}
	inGroups := map[string]*queryGroup{} // the last of those with the same branches
	length := 200                        // what surrounds the groups
	for _, i := range open {
		r := repositories[i]
		path := strings.ToLower(g.project(r))
		var branches []string
		for _, p := range r.Patterns {
			branches = append(branches, p.String())
		}
		slices.Sort(branches)
		branches = slices.Compact(branches)
		key := strings.Join(branches, "\n")
		group := inGroups[key]
		if group == nil || len(group.members) == perGroup {
			group = &queryGroup{alias: "g" + strconv.Itoa(len(q.groups)), branches: branches, byPath: map[string]int{}}
		}
		before := group.complexity(q.dialect)
		if len(group.members) == 0 {
			before = 0
		}
		group.members = append(group.members, i)
		grown := q.complexity - before + group.complexity(q.dialect)
		_, twice := group.byPath[path]
		full := float64(grown) > allowed || len(group.members) == 1 && length+group.length() > gitlabText
		if q.repositories > 0 && (q.repositories == most || full) || twice {
			group.members = group.members[:len(group.members)-1]
			rest = append(rest, i)
			q.full = q.full || full
			continue
		}
		if len(group.members) == 1 {
			q.groups = append(q.groups, group)
			inGroups[key] = group
			length += group.length()
		}
		group.byPath[path] = i
		q.complexity = grown
		q.repositories++
	}
	q.write(g, repositories)
	return q, rest
}

// length is about how many characters a group needs.
func (g *queryGroup) length() int { return 150 + 60*len(g.branches) }

// write renders the query. Everything that comes from the configuration is a variable: the text of the query holds none
// of it.
func (q *query) write(g *gitlab, repositories []*Repository) {
	var head, body strings.Builder
	refs := map[string]string{}
	for _, group := range q.groups {
		if q.dialect == oldest {
			q.variables["p"+group.alias] = g.project(repositories[group.members[0]])
			fmt.Fprintf(&head, "$p%s:ID!,", group.alias)
			fmt.Fprintf(&body, "%s:project(fullPath:$p%s){fullPath repository{", group.alias, group.alias)
		} else {
			var paths []string
			for _, i := range group.members {
				paths = append(paths, g.project(repositories[i]))
			}
			q.variables["p"+group.alias] = paths
			fmt.Fprintf(&head, "$p%s:[String!],", group.alias)
			fmt.Fprintf(&body, "%s:projects(fullPaths:$p%s,first:%d){nodes{fullPath repository{", group.alias, group.alias, len(paths))
		}
		for i, branch := range group.branches {
			name, ok := refs[branch]
			if !ok {
				name = "r" + strconv.Itoa(len(refs))
				refs[branch] = name
				// In full: a tag of the same name would come before the branch.
				q.variables[name] = "refs/heads/" + branch
				kind := "String!"
				if q.dialect != newest {
					kind = "String"
				}
				fmt.Fprintf(&head, "$%s:%s,", name, kind)
			}
			if q.dialect == newest {
				fmt.Fprintf(&body, "b%d:commit(ref:$%s){sha}", i, name)
			} else {
				// Of the root the last commit is that of the ref, merges and empty ones included
				// (app/graphql/resolvers/last_commit_resolver.rb).
				fmt.Fprintf(&body, "b%d:tree(ref:$%s){lastCommit{sha}}", i, name)
			}
		}
		body.WriteString("}}")
		if q.dialect != oldest {
			body.WriteString("}")
		}
	}
	q.text = "query(" + strings.TrimSuffix(head.String(), ",") + "){queryComplexity{limit score}" + body.String() + "}"
}

// queryReply is an answer of GraphQL.
type queryReply struct {
	Data   map[string]json.RawMessage `json:"data"`
	Errors []queryError               `json:"errors"`
}

type queryError struct {
	Message    string            `json:"message"`
	Path       []json.RawMessage `json:"path"`
	Extensions struct {
		Code string `json:"code"`
	} `json:"extensions"`
}

// queryComplexity is what GitLab reckons a query to be, and what it may be.
type queryComplexity struct{ Limit, Score int }

func (r *queryReply) complexity() (c queryComplexity) {
	if json.Unmarshal(r.Data["queryComplexity"], &c) != nil {
		return queryComplexity{}
	}
	return c
}

// queryProject is what is told of one project. A repository that may not be read is null.
type queryProject struct {
	FullPath   string                     `json:"fullPath"`
	Repository map[string]json.RawMessage `json:"repository"`
}

// commit reads what stands for a branch: "" where there is nothing, an error where it is no commit.
func (p *queryProject) commit(alias string, d dialect) (string, error) {
	var commit, tree *struct {
		SHA        *string `json:"sha"`
		LastCommit *struct {
			SHA *string `json:"sha"`
		} `json:"lastCommit"`
	}
	if err := json.Unmarshal(p.Repository[alias], &commit); err != nil || commit == nil {
		return "", err
	}
	tree = commit
	sha := tree.SHA
	if d != newest {
		if tree.LastCommit == nil {
			return "", nil
		}
		sha = tree.LastCommit.SHA
	}
	if sha == nil {
		return "", nil
	}
	return *sha, sentry.CheckCommit(*sha)
}

// read takes the answers of repositories out of a reply. Whatever is not as it should be leaves its repository open: a
// branch or a repository that is missing, an error of its own, a commit that is none.
func (q *query) read(reply *queryReply, repositories []*Repository, answers []Answer) {
	spoiled := map[string]bool{} // "g0", or "g0 3" for one of its nodes
	for _, e := range reply.Errors {
		var alias string
		if len(e.Path) == 0 || json.Unmarshal(e.Path[0], &alias) != nil {
			return // who knows what it is about
		}
		key := alias
		if len(e.Path) > 2 {
			key += " " + string(e.Path[2])
		}
		spoiled[key] = true
	}
	for _, group := range q.groups {
		if spoiled[group.alias] {
			continue
		}
		var nodes []queryProject
		if q.dialect == oldest {
			if slices.ContainsFunc(reply.Errors, func(e queryError) bool { return strings.Trim(string(e.Path[0]), `"`) == group.alias }) {
				continue
			}
			var one *queryProject
			if json.Unmarshal(reply.Data[group.alias], &one) != nil || one == nil {
				continue
			}
			nodes = []queryProject{*one}
		} else {
			var connection *struct{ Nodes []queryProject }
			if json.Unmarshal(reply.Data[group.alias], &connection) != nil || connection == nil {
				continue
			}
			nodes = connection.Nodes
		}
		seen := map[int]bool{}
		for n, node := range nodes {
			i, ok := group.byPath[strings.ToLower(node.FullPath)]
			if !ok || spoiled[group.alias+" "+strconv.Itoa(n)] {
				continue
			}
			if seen[i] {
				answers[i] = Answer{} // told twice: who knows which is right
				continue
			}
			seen[i] = true
			if heads, ok := group.heads(&node, q.dialect); ok {
				answers[i] = Answer{Heads: heads, Way: "GraphQL"}
			}
		}
	}
}

// heads gives the branches of a project; ok is false where one is missing, or something else is wrong.
func (g *queryGroup) heads(node *queryProject, d dialect) (heads map[string]string, ok bool) {
	heads = make(map[string]string, len(g.branches))
	for i, branch := range g.branches {
		commit, err := node.commit("b"+strconv.Itoa(i), d)
		if err != nil || commit == "" {
			return nil, false
		}
		heads[branch] = commit
	}
	return heads, true
}

// complexityError is how graphql-ruby says that a query asks too much.
var complexityError = regexp.MustCompile(`[Qq]uery has complexity of (\d+), which exceeds max complexity of (\d+)`)

// tooComplex reads it.
func tooComplex(text string) (is, most int, ok bool) {
	m := complexityError.FindStringSubmatch(text)
	if m == nil {
		return 0, 0, false
	}
	is, err := strconv.Atoi(m[1])
	most, err2 := strconv.Atoi(m[2])
	return is, most, err == nil && err2 == nil && is > 0 && most > 0
}
