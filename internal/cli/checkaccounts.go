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
	side             sentry.Target // which repository of the example
	reports          *config.Group // one whose verdicts go to its commits; nil where none do
	again            bool          // the credential itself is told of with another account
}

// accounts gives the credentials that a configuration uses at APIs, in its order. The example is a repository that gets
// statuses, where there is one: whether they can be written is worth knowing then. For those of QA repositories nothing
// else is.
func accounts(cfg *config.Config, inquiry *daemon.Inquiry) []*account {
	type identity struct {
		host, credential string
		side             sentry.Target
	}
	var list []*account
	index := map[identity]*account{}
	for i := range cfg.Repositories {
		r := &cfg.Repositories[i]
		group, known := cfg.Group(r.Group)
		for _, side := range []sentry.Target{sentry.Upstream, sentry.QA} {
			reports := known && group.Report != "off" && (group.ReportTo == string(side) || group.ReportTo == "both")
			host, credential, ok := inquiry.Account(r, side)
			if !ok || side == sentry.QA && !reports {
				continue
			}
			id := identity{host, credential, side}
			if index[id] == nil {
				index[id] = &account{host: host, credential: credential, example: r, side: side}
				list = append(list, index[id])
			}
			if a := index[id]; a.reports == nil && reports && (credential != "" || side == sentry.QA) {
				a.example, a.reports = r, group
			}
		}
	}
	for id, a := range index {
		a.again = id.side == sentry.QA && index[identity{id.host, id.credential, sentry.Upstream}] != nil
	}
	return list
}

// remote tells of the repository that stands for those of the account, with how messages name it.
func (a *account) remote() (remote sentry.Remote, auth config.Auth, kind forge.Kind, name string) {
	if a.side == sentry.QA {
		d := &a.example.Deploy
		return d.Remote, d.Auth, forge.Kind(d.Type), "the QA repository of " + a.example.Name
	}
	m := &a.example.Monitor
	return m.Remote, m.Auth, forge.Kind(m.Type), a.example.Name
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
			access, err := inquiry.Access(limited, a.example, a.side)
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
	remote, auth, kind, what := a.remote()
	if err != nil {
		fault := sentry.AsFault(err)
		f := finding{Status: checkFail, Subject: a.host, Message: fmt.Sprintf("%s: %v", name, err), Fix: mend(fault, remote, auth)}
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
	var found []finding
	if !a.again {
		found = append(found, finding{checkOK, a.host, name + ": " + strings.Join(told, "; "), ""})
	} else {
		access.Problems = nil
	}
	for _, problem := range access.Problems {
		message, fix, _ := strings.Cut(problem, ": ")
		found = append(found, finding{checkWarn, a.host, name + ": " + message, fix})
	}
	if a.reports != nil && !access.CanReport {
		found = append(found, finding{
			checkWarn, a.host, fmt.Sprintf("%s: cannot write statuses on commits of %s", name, what),
			fmt.Sprintf("%s; or say report: off, or report_to: %s, for group %s", writes(kind), other(a.side), a.reports.Name),
		})
	}
	return found
}

// other is where verdicts may go instead.
func other(side sentry.Target) sentry.Target {
	if side == sentry.QA {
		return sentry.Upstream
	}
	return sentry.QA
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
