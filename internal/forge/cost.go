package forge

import (
	"math"
	"time"

	"sentry/internal/sentry"
)

// CostOf is what one credential will be used for.
type CostOf struct {
	Host            string `json:"host"`
	Key             string `json:"key,omitempty"` // the credential
	Kind            Kind   `json:"kind"`
	Way             string `json:"way"`
	Repositories    int    `json:"repositories"`
	Watches         int    `json:"watches"` // branches and patterns
	RequestsPerHour int    `json:"requests_per_hour"`
	Limit           int    `json:"limit,omitempty"`   // requests an hour, as documented or configured; 0 where it is not known
	Note            string `json:"note,omitempty"`    // what is worth knowing about Way
	Problem         string `json:"problem,omitempty"` // what will go wrong, and what to do about it; "" where nothing will
}

// costs are the kinds of forge that have an API: what repositories of one credential cost there.
var costs = map[Kind]func([]*Repository) CostOf{GitHub: githubCost, GitLab: gitlabCost, Gitea: giteaCost}

// Cost estimates what repositories will cost an hour while nothing happens, one entry for each credential at an API, in
// the order in which they are configured: the same token in two places is one. It makes no request.
func Cost(repositories []*Repository) []CostOf {
	var order []accountKey
	members := map[accountKey][]*Repository{}
	same := sameTokens{}
	for _, r := range repositories {
		base, err := apiBase(r)
		if err != nil {
			base = nil
		}
		key := keyOf(r, base)
		if base == nil { // Git servers have no budget that would differ by credential
			key.key = ""
		} else {
			key = same.first(key, r.Auth)
		}
		if members[key] == nil {
			order = append(order, key)
		}
		members[key] = append(members[key], r)
	}
	var all []CostOf
	for _, key := range order {
		of := members[key]
		var c CostOf
		if estimate := costs[key.kind]; estimate != nil {
			c = estimate(of)
		} else {
			c = gitCost(of)
		}
		c.Kind, c.Key, c.Repositories = key.kind, key.key, len(of)
		c.Host = of[0].Remote.Host()
		all = append(all, c)
	}
	return all
}

// sameTokens finds credentials that are the same token, as far as it can be read.
type sameTokens struct {
	read  map[accountKey]accountKey // those that were looked at, and the first that is the same
	known map[sameToken]accountKey
}

type sameToken struct {
	kind  Kind
	api   string
	token sentry.Secret
}

// first gives the first account with the same token as that of key, which may be itself.
func (s *sameTokens) first(key accountKey, auth Auth) accountKey {
	if auth.Token == nil || auth.App != nil {
		return key
	}
	if first, ok := s.read[key]; ok {
		return first
	}
	if s.read == nil {
		s.read, s.known = map[accountKey]accountKey{}, map[sameToken]accountKey{}
	}
	first := key
	if token, err := auth.Token(); err == nil && !token.Empty() {
		at := sameToken{key.kind, key.api, token}
		if other, ok := s.known[at]; ok {
			first = other
		} else {
			s.known[at] = key
		}
	}
	s.read[key] = first
	return first
}

// gitCost is what it costs to ask repositories one by one over Git.
func gitCost(repositories []*Repository) CostOf {
	c := CostOf{Way: "ls-refs", Note: "each repository is asked over Git, all its branches in one question: costs no API quota"}
	for _, r := range repositories {
		c.Watches += len(r.Patterns)
	}
	c.RequestsPerHour = questionsAnHour(repositories, 1)
	return c
}

// questionsAnHour is how many questions it takes to ask repositories as often as each wants it, where one question covers
// up to batch of them. A question that is not full counts as much as one that is.
func questionsAnHour(repositories []*Repository, batch int) int {
	alike := map[time.Duration]int{}
	for _, r := range repositories {
		alike[max(time.Second, r.Interval)]++
	}
	perHour := 0.0
	for interval, n := range alike {
		perHour += float64((n+batch-1)/batch) * float64(time.Hour) / float64(interval)
	}
	return int(math.Ceil(perHour))
}
