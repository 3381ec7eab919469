package cli

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sentry/internal/config"
	"sentry/internal/daemon"
	"sentry/internal/forge"
	"sentry/internal/server"
)

// expense is what one credential is used for at one server, and whether that fits.
type expense struct {
	Host            string     `json:"host"`
	Credential      string     `json:"credential"` // what it is called; "" for none
	Kind            forge.Kind `json:"kind"`
	Way             string     `json:"way"`
	Repositories    int        `json:"repositories"`
	Watches         int        `json:"watches"` // branches and patterns
	RequestsPerHour int        `json:"requests_per_hour"`
	Limit           int        `json:"limit,omitempty"`         // requests an hour; 0 where there is none, or it is not known
	Share           int        `json:"share_percent,omitempty"` // of the limit
	Status          string     `json:"status"`                  // ok, warn or fail
	Note            string     `json:"note,omitempty"`
	Problem         string     `json:"problem,omitempty"`
	Fix             string     `json:"fix,omitempty"`
}

func newBudget(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "budget",
		Short: "How much the configuration will ask of each forge, and whether its limits allow that",
		Long: `How many requests an hour the configuration costs at each server and on each credential, by which way Sentry asks there,
and what the limits are: those that the forge documents, or hosts[].requests_per_hour. Nothing is asked: it can be run
before a daemon is. A webhook, a rollout or a commit costs a few requests more; Sentry spreads what is left and keeps some for
statuses. Exit code 1 where it cannot fit.`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error { return a.budget() },
	}
}

func (a *app) budget() error {
	cfg, err := a.loadAnyway()
	if err != nil {
		return err
	}
	repositories := daemon.Repositories(cfg)
	list := expenses(cfg.Hosts, repositories, forge.Cost(repositories))
	if a.asJSON() {
		err = a.json(server.List[expense]{Items: list})
	} else {
		err = a.print([]byte(strings.Join(expenseLines(a.out, list, a.out.width()), "\n")))
	}
	if err != nil {
		return err
	}
	requests := 0
	for _, e := range list {
		requests += e.RequestsPerHour
	}
	a.note("%s an hour in all, for %s", counted(requests, "request", "requests"), counted(len(cfg.Repositories), "repository", "repositories"))
	if slices.ContainsFunc(list, func(e expense) bool { return e.Status == checkFail }) {
		return silent(exitFailed)
	}
	return nil
}

var unset = regexp.MustCompile(`^the variable ([A-Za-z_][A-Za-z0-9_]*) is not set$`)

// loadAnyway reads the configuration as load does, except that variables which are not set here, tokens mostly, stand for
// themselves: what it costs does not depend on them, only which are the same.
func (a *app) loadAnyway() (*config.Config, error) {
	o := a.configOptions(false)
	o.Environ = slices.Clone(o.Environ)
	var names []string
	for {
		cfg, _, err := config.Load(a.flags.config, o)
		if err == nil {
			if names == nil {
				return a.load() // which tells of warnings
			}
			a.note("not set here, and each taken for a value of its own: %s", strings.Join(names, ", "))
			return cfg, nil
		}
		var problems config.Problems
		errors.As(err, &problems)
		found := false
		for _, p := range problems {
			if m := unset.FindStringSubmatch(p.Message); m != nil && !slices.Contains(names, m[1]) {
				found = true
				names = append(names, m[1])
				o.Environ = append(o.Environ, m[1]+"="+m[1])
			}
		}
		if !found {
			return a.load() // which reports all that is wrong
		}
	}
}

// tight is the share of a limit, in percent, from which it is worth a warning: retries, webhooks and statuses come on top.
const tight = 80

// expenses judges what the forges say it costs.
func expenses(hosts []config.Host, repositories []*forge.Repository, costs []forge.CostOf) []expense {
	type identity struct {
		kind      forge.Kind
		host, key string
	}
	members := map[identity][]*forge.Repository{}
	for _, r := range repositories {
		id := identity{r.Kind, r.Remote.Host(), r.Auth.Key}
		members[id] = append(members[id], r)
	}
	list := []expense{}
	for _, c := range costs {
		e := expense{
			Host: c.Host, Credential: c.Key, Kind: c.Kind, Way: c.Way, Repositories: c.Repositories, Watches: c.Watches,
			RequestsPerHour: c.RequestsPerHour, Limit: c.Limit, Status: checkOK, Note: c.Note, Problem: c.Problem,
		}
		var interval time.Duration // the longest of those that are asked
		for _, r := range members[identity{c.Kind, c.Host, c.Key}] {
			interval = max(interval, r.Interval)
			for _, h := range hosts {
				if h.RequestsPerHour > 0 && r.Kind != forge.Git && slices.Contains(apis(r), h.Origin) && (e.Limit == 0 || h.RequestsPerHour < e.Limit) {
					e.Limit = h.RequestsPerHour
				}
			}
		}
		if e.Limit > 0 {
			e.Share = int(math.Ceil(float64(e.RequestsPerHour) * 100 / float64(e.Limit)))
		}
		switch {
		case e.Share > 100:
			e.Status = checkFail
			e.Problem = fmt.Sprintf("it needs %d requests an hour, and %d are allowed", e.RequestsPerHour, e.Limit)
			if e.Kind != forge.Git && e.Way != "ls-refs" {
				e.Problem += "; what does not fit is asked over Git, one by one"
			}
			e.Fix = relief(e, interval)
		case e.Share >= tight:
			e.Status = checkWarn
			e.Problem = fmt.Sprintf("it uses %d%% of what is allowed: little is left for statuses and for times when much happens", e.Share)
			e.Fix = relief(e, interval)
		case e.Problem != "":
			e.Status = checkWarn
			e.Problem, e.Fix, _ = strings.Cut(e.Problem, ": ")
		}
		list = append(list, e)
	}
	return list
}

// apis gives the origins at which the API of a repository may be: the limit of a host is that of its API.
func apis(r *forge.Repository) []string {
	list := []string{r.Remote.Origin()}
	if base, err := url.Parse(r.API); err == nil && base.Host != "" {
		if base.Port() == "" {
			base.Host += map[string]string{"https": ":443", "http": ":80"}[base.Scheme]
		}
		list = append(list, base.Scheme+"://"+base.Host)
	}
	if host := r.Remote.Host(); r.Kind == forge.GitHub && (host == "github.com" || strings.HasSuffix(host, ".ghe.com")) {
		list = append(list, "https://api."+host+":443")
	}
	return list
}

// relief says how to make it fit, with room to spare.
func relief(e expense, interval time.Duration) string {
	var ways []string
	if e.Credential == "" && e.Kind != forge.Git {
		ways = append(ways, "give these repositories a token: without one a forge allows little")
	}
	factor := float64(e.Share) / tight
	if interval > 0 && factor > 1 {
		longer := time.Duration(math.Ceil(float64(interval)*factor/float64(30*time.Second))) * 30 * time.Second
		ways = append(ways, fmt.Sprintf("poll less often: polling_interval %s instead of %s", server.Took(longer), server.Took(interval)))
	}
	if e.Kind == forge.GitHub && !strings.HasPrefix(e.Credential, "app ") {
		ways = append(ways, "use a GitHub App, which is allowed up to 12500 an hour")
	}
	if n := int(math.Ceil(factor)); e.Credential != "" && n > 1 {
		ways = append(ways, fmt.Sprintf("share the repositories out among %d tokens of different accounts", n))
	}
	return strings.Join(ways, "; or ")
}

// expenseLines draws a table, and below it what is worth knowing about its lines.
func expenseLines(s screen, list []expense, width int) []string {
	if len(list) == 0 {
		return []string{"nothing is asked"}
	}
	t := &table{columns: []column{
		{title: "HOST", rank: 1, least: 12},
		{title: "CREDENTIAL", rank: 3, least: 12},
		{title: "WAY", rank: 2},
		{title: "REPOSITORIES"},
		{title: "WATCHES", rank: 4},
		{title: "REQUESTS/H"},
		{title: "LIMIT/H"},
		{title: "SHARE"},
	}}
	for _, e := range list {
		row := []cell{text(e.Host), text(cmp.Or(e.Credential, "none")), text(e.Way), text(strconv.Itoa(e.Repositories)), text(strconv.Itoa(e.Watches)), text(strconv.Itoa(e.RequestsPerHour)), text("-"), text("-")}
		if e.Limit > 0 {
			row[6], row[7] = text(strconv.Itoa(e.Limit)), cell{strconv.Itoa(e.Share) + "%", colourOfCheck(e.Status)}
		}
		t.add(row...)
	}
	lines := trimmed(t.lines(s, width))
	var found []finding
	for _, e := range list {
		subject := strings.TrimSuffix(e.Host+", "+e.Credential, ", ")
		if e.Problem != "" {
			found = append(found, finding{e.Status, subject, e.Problem, e.Fix})
		}
		if e.Note != "" {
			found = append(found, finding{checkOK, subject, e.Note, ""})
		}
	}
	if len(found) > 0 {
		lines = append(append(lines, ""), findingLines(s, found, width)...)
	}
	return lines
}
