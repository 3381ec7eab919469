package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"sentry/internal/config"
	"sentry/internal/daemon"
	"sentry/internal/forge"
	"sentry/internal/sentry"
	"sentry/internal/server"
)

// account is a credential at the API of a forge, with one of the repositories that are asked with it.
type account struct {
	host, credential string
	example          *config.Repository
	reports          *config.Group // one whose verdicts go to the example's commits; nil where none do
}

// accounts gives the credentials that a configuration uses at APIs, in its order. The example is a repository that gets
// statuses, where there is one: whether they can be written is worth knowing then.
func accounts(cfg *config.Config, inquiry *daemon.Inquiry) []*account {
	type identity struct{ host, credential string }
	var list []*account
	index := map[identity]*account{}
	for i := range cfg.Repositories {
		r := &cfg.Repositories[i]
		host, credential, ok := inquiry.Account(r)
		if !ok {
			continue
		}
		id := identity{host, credential}
		if index[id] == nil {
			index[id] = &account{host: host, credential: credential, example: r}
			list = append(list, index[id])
		}
		if a := index[id]; a.reports == nil && credential != "" {
			if g, ok := cfg.Group(r.Group); ok && g.Report != "off" && g.ReportTo != "qa" {
				a.example, a.reports = r, g
			}
		}
	}
	return list
}

// checkAccounts asks each forge about each credential, some at a time.
func checkAccounts(ctx context.Context, cfg *config.Config, inquiry *daemon.Inquiry) ([]finding, error) {
	list := accounts(cfg, inquiry)
	found := make([][]finding, len(list))
	var group errgroup.Group
	group.SetLimit(checksAtOnce)
	for i, a := range list {
		group.Go(func() error {
			limited, cancel := context.WithTimeout(ctx, checkTimeout)
			defer cancel()
			access, err := inquiry.Access(limited, a.example)
			found[i] = a.judge(access, err, time.Now())
			return nil
		})
	}
	_ = group.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var all []finding
	for _, f := range found {
		all = append(all, f...)
	}
	return all, nil
}

// judge says what a credential is worth.
func (a *account) judge(access forge.Access, err error, now time.Time) []finding {
	name := a.credential
	if name == "" {
		name = "no credential"
	}
	if err != nil {
		fault := sentry.AsFault(err)
		f := finding{Status: checkFail, Subject: a.host, Message: fmt.Sprintf("%s: %v", name, err), Fix: mend(fault, a.example.Monitor.Remote, a.example.Monitor.Auth)}
		if fault.Kind == sentry.NotFound || fault.Kind == sentry.Unauthorized { // the forge says what to do
			f.Fix = ""
		}
		if fault.Kind == sentry.RateLimited {
			f.Status = checkWarn
		}
		return []finding{f}
	}
	told := []string{}
	tell := func(format string, args ...any) { told = append(told, fmt.Sprintf(format, args...)) }
	if access.User != "" {
		tell("of %s", access.User)
	}
	if len(access.Scopes) > 0 {
		tell("scopes %s", strings.Join(access.Scopes, " "))
	}
	if !access.Expires.IsZero() {
		tell("ends on %s, in %s", access.Expires.UTC().Format(time.DateOnly), counted(max(0, int(access.Expires.Sub(now).Hours())/24), "day", "days"))
	}
	if access.Limit > 0 {
		text := fmt.Sprintf("%d of %d requests left", access.Remaining, access.Limit)
		if access.Reset.After(now) {
			text += ", reset " + server.In(access.Reset.Sub(now))
		}
		tell("%s", text)
	}
	if a.reports != nil && access.CanReport {
		tell("may write statuses")
	}
	if len(told) == 0 {
		tell("accepted")
	}
	found := []finding{{checkOK, a.host, name + ": " + strings.Join(told, "; "), ""}}
	for _, problem := range access.Problems {
		message, fix, _ := strings.Cut(problem, ": ")
		found = append(found, finding{checkWarn, a.host, name + ": " + message, fix})
	}
	if a.reports != nil && !access.CanReport {
		found = append(found, finding{
			checkWarn, a.host, fmt.Sprintf("%s: cannot write statuses on commits of %s", name, a.example.Name),
			fmt.Sprintf("%s; or say report: off, or report_to: qa, for group %s", writes(forge.Kind(a.example.Monitor.Type)), a.reports.Name),
		})
	}
	return found
}

// writes says which right a credential needs to write statuses.
func writes(kind forge.Kind) string {
	switch kind {
	case forge.GitHub:
		return "give a fine-grained token or an app the permission \"Commit statuses: write\", a classic token the scope repo:status, and its user the right to push"
	case forge.GitLab:
		return "give the token the scope api, and its user at least the role Developer"
	}
	return "give the token the scope write:repository, and its user the right to push"
}
