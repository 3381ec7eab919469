package forgetest

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// The limits of GitHub, as rest/using-the-rest-api/rate-limits-for-the-rest-api and graphql/overview/rate-limits-and-query-
// limits-for-the-graphql-api tell them; secondary ones "are subject to change without notice".
const (
	githubAnonymous  = 60 // requests an hour of everybody without a token, by address
	githubConcurrent = 100
	githubREST       = 900              // points a minute
	githubGraphQL    = 2000             // points a minute
	githubCPU        = 90 * time.Second // in 60 s; "you can roughly estimate the CPU time by measuring the total response time"
	githubCPUQueries = 60 * time.Second // of it for GraphQL
	githubCreate     = 80               // contents a minute
	githubCreateHour = 500
	githubPenalty    = time.Minute
)

// arrival is a request to the API on its way through the limits.
type arrival struct {
	g       *GitHub
	user    *githubUser
	graphql bool
	writes  bool
	start   time.Time
	window  *githubWindow
	name    string // of the window
	cost    int
}

// arrive counts a request that has come.
func (g *GitHub) arrive(r *http.Request, token *githubToken, graphql bool) *arrival {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := &arrival{g: g, graphql: graphql, start: time.Now(), name: "core", cost: 1}
	a.writes = !graphql && r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodOptions
	limit := g.o.PerHour
	a.user = g.user("")
	if token != nil {
		a.user = token.user
	} else {
		limit = githubAnonymous
	}
	if graphql {
		a.name = "graphql"
	}
	a.window = a.user.resources[a.name]
	if a.window == nil || !a.start.Before(a.window.reset) {
		// The window begins with the first request in it; times are told in whole seconds.
		a.window = &githubWindow{limit: limit, reset: a.start.Add(time.Hour).Truncate(time.Second)}
		a.user.resources[a.name] = a.window
	}
	a.user.under++
	return a
}

// leave counts a request that has been answered.
func (a *arrival) leave() {
	a.g.mu.Lock()
	defer a.g.mu.Unlock()
	a.user.under--
	now := time.Now()
	a.user.spent = append(a.user.spent, githubUse{at: now, graphql: a.graphql, cpu: now.Sub(a.start)})
}

// free makes a request cost nothing of the primary limit.
func (a *arrival) free() { a.cost = 0 }

// write puts what is left into an answer.
func (a *arrival) write(h http.Header) {
	if a.g.o.NoLimits {
		return
	}
	a.g.mu.Lock()
	defer a.g.mu.Unlock()
	h.Set("X-RateLimit-Limit", strconv.Itoa(a.window.limit))
	h.Set("X-RateLimit-Remaining", strconv.Itoa(max(0, a.window.limit-a.window.used)))
	h.Set("X-RateLimit-Used", strconv.Itoa(a.window.used))
	h.Set("X-RateLimit-Reset", strconv.FormatInt(a.window.reset.Unix(), 10))
	h.Set("X-RateLimit-Resource", a.name)
}

// charge takes what a request costs from the primary limit.
func (a *arrival) charge(cost int) {
	a.g.mu.Lock()
	a.window.used += cost
	a.g.mu.Unlock()
	a.g.wire.charge(cost)
}

// admit answers a request that is one too many, and charges all others; a GraphQL query is charged when its cost is known.
func (a *arrival) admit(w http.ResponseWriter, r *http.Request) bool {
	if a.g.o.NoLimits {
		return true
	}
	if why, wait := a.secondary(); why != "" {
		a.write(w.Header())
		// "If you exceed a secondary rate limit, you will receive a 403 or 429 response and an error message … If the retry-after
		// response header is present, you should not retry your request until after that many seconds has elapsed … Otherwise,
		// wait for at least one minute" ("Exceeding the rate limit").
		a.g.Forbid(r, wait)
		if !a.g.o.Terse {
			w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
		}
		refuse(w, http.StatusForbidden, "You have exceeded a secondary rate limit. Please wait a few minutes before you try again. ("+why+")",
			"/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits")
		return false
	}
	a.g.mu.Lock()
	left, reset := a.window.limit-a.window.used, a.window.reset
	a.g.mu.Unlock()
	if left < a.cost || left <= 0 && a.cost > 0 {
		a.write(w.Header())
		a.g.Forbid(r, time.Until(reset))
		message := "API rate limit exceeded for user ID " + strconv.Itoa(a.user.id) + "."
		if a.graphql {
			// "If you exceed your primary rate limit, the response status will still be 200, but you will receive an error message,
			// and the value of the x-ratelimit-remaining header will be 0" (the GraphQL page, "Exceeding the rate limit").
			answerJSON(w, http.StatusOK, map[string]any{"errors": []any{map[string]any{"type": "RATE_LIMITED", "message": message}}})
			return false
		}
		if a.user.name == "" {
			message = "API rate limit exceeded for 192.0.2.1. (But here's the good news: Authenticated requests get a higher rate limit. Check out the documentation for more details.)"
		}
		refuse(w, http.StatusForbidden, message, "/overview/rate-limits-for-the-rest-api#primary-rate-limit-for-authenticated-users")
		return false
	}
	if !a.graphql {
		a.charge(a.cost)
	}
	return true
}

// secondary looks at the secondary limits: "" for a request that keeps them all.
func (a *arrival) secondary() (why string, wait time.Duration) {
	a.g.mu.Lock()
	defer a.g.mu.Unlock()
	u, now := a.user, time.Now()
	for len(u.spent) > 0 && now.Sub(u.spent[0].at) >= time.Minute {
		u.spent = u.spent[1:]
	}
	for len(u.created) > 0 && now.Sub(u.created[0]) >= time.Hour {
		u.created = u.created[1:]
	}
	if now.Before(u.until) {
		return "again", u.until.Sub(now)
	}
	points := 1
	if a.writes {
		points = 5
	}
	sum, cpu, queries, minute := points, time.Duration(0), time.Duration(0), 0
	for _, use := range u.spent {
		if use.graphql == a.graphql {
			sum += use.points
		}
		cpu += use.cpu
		if use.graphql {
			queries += use.cpu
		}
	}
	for _, at := range u.created {
		if now.Sub(at) < time.Minute {
			minute++
		}
	}
	switch {
	case u.under > githubConcurrent:
		why = fmt.Sprintf("%d requests at once", u.under)
	case !a.graphql && sum > githubREST, a.graphql && sum > githubGraphQL:
		why = fmt.Sprintf("%d points in a minute", sum)
	case cpu > githubCPU, queries > githubCPUQueries:
		why = fmt.Sprintf("%v of processor time in a minute, %v of it for GraphQL", cpu, queries)
	case a.writes && (minute >= githubCreate || len(u.created) >= githubCreateHour):
		why = fmt.Sprintf("%d contents in a minute, %d in an hour", minute, len(u.created))
	default:
		u.spent = append(u.spent, githubUse{at: now, points: points, graphql: a.graphql})
		if a.writes {
			u.created = append(u.created, now)
		}
		u.times = 0
		return "", 0
	}
	u.times++
	wait = githubPenalty << min(u.times-1, 5)
	u.until = now.Add(wait)
	return why, wait
}

// Limit makes GitHub answer as if a user had reached a secondary limit, for so long: GitHub has some that it does not tell
// ("You may also encounter a secondary rate limit for undisclosed reasons").
func (g *GitHub) Limit(token string, wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tokens[token].user.until = time.Now().Add(wait)
}

// Spend uses up what a token has left, but for some: another program has the same token.
func (g *GitHub) Spend(token, resource string, left int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	u := g.tokens[token].user
	w := u.resources[resource]
	if now := time.Now(); w == nil || !now.Before(w.reset) {
		w = &githubWindow{limit: g.o.PerHour, reset: now.Add(time.Hour).Truncate(time.Second)}
		u.resources[resource] = w
	}
	w.used = w.limit - left
}

// Used tells what a token has spent in the present window.
func (g *GitHub) Used(token, resource string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if w := g.tokens[token].user.resources[resource]; w != nil {
		return w.used
	}
	return 0
}
