package forge

import (
	"crypto/sha1"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"sentry/internal/sentry"
)

// gitlabOf makes a GitLab that is never asked, and repositories of random branches.
func gitlabOf(t testing.TB, random *rand.Rand, n int) (*gitlab, []*Repository) {
	t.Helper()
	g := newGitLab(&account{base: &url.URL{Scheme: "https", Host: "gitlab.example", Path: "/api/v4"}})
	var all []*Repository
	for i := range n {
		remote, err := sentry.ParseRemote(fmt.Sprintf("https://gitlab.example/Group/sub-%d/r%d.git", random.IntN(5), i), sentry.RemoteRules{})
		if err != nil {
			t.Fatal(err)
		}
		r := &Repository{Remote: remote, Kind: GitLab}
		for range 1 + random.IntN(gitlabBranches) {
			p, err := sentry.ParsePattern(fmt.Sprintf("branch-%d/%s", random.IntN(30), strings.Repeat("ü", random.IntN(30))+"x"))
			if err != nil {
				t.Fatal(err)
			}
			r.Patterns = append(r.Patterns, p)
		}
		all = append(all, r)
	}
	return g, all
}

// replyTo answers a query as GitLab would, each branch with a commit of its own.
func replyTo(q *query, all []*Repository, commit func(r *Repository, branch string) string) []byte {
	data := map[string]any{"queryComplexity": map[string]int{"limit": 250, "score": q.complexity}}
	for _, group := range q.groups {
		var nodes []any
		for _, i := range group.members {
			repository := map[string]any{}
			for b, branch := range group.branches {
				sha := map[string]any{"sha": commit(all[i], branch)}
				if q.dialect != newest {
					sha = map[string]any{"lastCommit": sha}
				}
				repository[fmt.Sprintf("b%d", b)] = sha
			}
			nodes = append(nodes, map[string]any{"fullPath": fullName(all[i]), "repository": repository})
		}
		if q.dialect == oldest {
			data[group.alias] = nodes[0]
		} else {
			data[group.alias] = map[string]any{"nodes": nodes}
		}
	}
	text, err := json.Marshal(map[string]any{"data": data})
	if err != nil {
		panic(err)
	}
	return text
}

func commitOf(r *Repository, branch string) string {
	return fmt.Sprintf("%x", sha1.Sum([]byte(fullName(r)+" "+branch)))
}

// Queries ask about everything once, in pieces that GitLab takes, and their answers find the way back.
func TestGitLabQueries(t *testing.T) {
	for seed := range uint64(100) {
		random := rand.New(rand.NewPCG(seed, 1))
		g, all := gitlabOf(t, random, 1+random.IntN(150))
		g.dialect, g.size = dialect(random.IntN(3)), 1+random.IntN(gitlabMost)
		g.limit, g.factor = 60+random.IntN(300), 1+random.Float64()
		answers := make([]Answer, len(all))
		var open []int
		for i := range all {
			open = append(open, i)
		}
		for queries := 0; len(open) > 0; queries++ {
			q, rest := g.compose(all, open)
			switch {
			case q.repositories != len(open)-len(rest) || q.repositories == 0 || q.repositories > g.size:
				t.Fatalf("seed %d: of %d repositories %d are asked, in queries of %d, and %d left", seed, len(open), q.repositories, g.size, len(rest))
			case q.repositories > 1 && float64(q.complexity)*g.factor > float64(g.limit)+1:
				t.Errorf("seed %d: a query of complexity %d × %.2f, where %d is allowed", seed, q.complexity, g.factor, g.limit)
			case utf8.RuneCountInString(q.text) > gitlabText:
				t.Errorf("seed %d: a query of %d characters", seed, utf8.RuneCountInString(q.text))
			case strings.Contains(q.text, "branch-"), strings.Contains(q.text, "Group"):
				t.Errorf("seed %d: the text of a query holds names", seed)
			}
			var reply queryReply
			if err := json.Unmarshal(replyTo(q, all, commitOf), &reply); err != nil {
				t.Fatal(err)
			}
			q.read(&reply, all, answers)
			open = rest
		}
		for i, a := range answers {
			for _, p := range all[i].Patterns {
				if a.Heads[p.String()] != commitOf(all[i], p.String()) {
					t.Fatalf("seed %d: %s answers %v", seed, all[i].Remote, a)
				}
			}
		}
	}
}

// Of an answer that breaks off nothing is believed, wherever it does.
func TestGitLabReplyBreaksOff(t *testing.T) {
	for d := newest; d <= oldest; d++ {
		g, all := gitlabOf(t, rand.New(rand.NewPCG(1, 1)), 6)
		g.dialect = d
		q, _ := g.compose(all, []int{0, 1, 2, 3, 4, 5})
		text := replyTo(q, all, commitOf)
		for n := range text {
			var reply queryReply
			if err := json.Unmarshal(text[:n], &reply); err == nil {
				t.Fatalf("%d of %d bytes are taken for an answer", n, len(text))
			}
		}
	}
}

// However an answer is spoiled, what is believed of it are commits, and those of all branches of a repository that was
// asked about.
func FuzzGitLabReply(f *testing.F) {
	g, all := gitlabOf(f, rand.New(rand.NewPCG(1, 1)), 6)
	q, _ := g.compose(all, []int{0, 1, 2, 3, 4, 5})
	whole := string(replyTo(q, all, commitOf))
	f.Add(whole)
	for _, sha := range []string{"", "null", strings.Repeat("a", 39), strings.Repeat("a", 41), strings.Repeat("A", 40), strings.Repeat("a", 64)} {
		f.Add(string(replyTo(q, all, func(*Repository, string) string { return sha })))
	}
	f.Add(strings.ReplaceAll(whole, `"sha"`, `"id"`))
	f.Add(strings.ReplaceAll(whole, `"nodes":[`, `"nodes":[null,`))
	f.Add(strings.Replace(whole, `{"data"`, `{"errors":[{"message":"x","path":["g0","nodes",0,"repository","b0"]}],"data"`, 1))
	f.Add(strings.Replace(whole, `{"data"`, `{"errors":[{"message":"x","path":[1,2]},{"path":null},{}],"data"`, 1))
	f.Add(strings.Replace(whole, `{"data"`, `{"errors":[{"path":["g0"]},{"path":["g1","nodes"]}],"data"`, 1))
	f.Add(`{"data":{"g0":{"nodes":{}},"g1":[],"g2":null}}`)
	f.Fuzz(func(t *testing.T, text string) {
		var reply queryReply
		if json.Unmarshal([]byte(text), &reply) != nil {
			return
		}
		answers := make([]Answer, len(all))
		q.read(&reply, all, answers)
		for i, a := range answers {
			if a.Heads == nil {
				continue
			}
			for branch, commit := range a.Heads {
				if sentry.CheckCommit(commit) != nil || !slices.ContainsFunc(all[i].Patterns, func(p sentry.Pattern) bool { return p.String() == branch }) {
					t.Errorf("%s is at %q", branch, commit)
				}
			}
			for _, p := range all[i].Patterns {
				if a.Heads[p.String()] == "" {
					t.Errorf("without %s: %v", p, a.Heads)
				}
			}
		}
	})
}
