package cli

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sentry/internal/config"
	"sentry/internal/forge"
	"sentry/internal/sentry"
)

func TestJudgingCredentials(t *testing.T) {
	group := &config.Group{Name: "web"}
	example := &config.Repository{Name: "shop", Monitor: config.Monitor{Type: "gitlab"}}
	readOnly := &account{host: "gitlab.com", credential: "token_file /run/x", example: example}
	reporting := &account{host: "gitlab.com", credential: "token_file /run/x", example: example, reports: group}
	tests := &account{host: "gitlab.com", credential: "token_file /run/x", example: &config.Repository{Name: "shop", Deploy: config.Deploy{Type: "gitea"}}, side: sentry.QA, reports: group}
	again := *tests
	again.again = true
	anonymous := &account{host: "gitlab.com", example: example}
	for name, c := range map[string]struct {
		account *account
		access  forge.Access
		err     error
		want    []finding
	}{
		"all is well": {
			reporting,
			forge.Access{User: "robot", Scopes: []string{"api", "read_user"}, Expires: testNow.Add(41 * 24 * time.Hour), Limit: 2000, Remaining: 1990, Reset: testNow.Add(30 * time.Second), CanReport: true},
			nil,
			[]finding{{checkOK, "gitlab.com", "token_file /run/x: of robot; scopes api read_user; ends on 2027-01-02, in 41 days; 1990 of 2000 requests left, reset in 30s; may write statuses", ""}},
		},
		"nothing is told":     {readOnly, forge.Access{}, nil, []finding{{checkOK, "gitlab.com", "token_file /run/x: accepted", ""}}},
		"rights nobody needs": {readOnly, forge.Access{User: "robot", CanReport: true}, nil, []finding{{checkOK, "gitlab.com", "token_file /run/x: of robot", ""}}},
		"the end is near, and a right is missing": {
			reporting,
			forge.Access{Expires: testNow.Add(36 * time.Hour), Problems: []string{"the token ends on 2026-11-24: make a new one before"}},
			nil,
			[]finding{
				{checkOK, "gitlab.com", "token_file /run/x: ends on 2026-11-24, in 1 day", ""},
				{checkWarn, "gitlab.com", "token_file /run/x: the token ends on 2026-11-24", "make a new one before"},
				{checkWarn, "gitlab.com", "token_file /run/x: cannot write statuses on commits of shop", "give the token the scope api, and its user at least the role Developer; or say report: off, or report_to: qa, for group web"},
			},
		},
		"of a QA repository": {tests, forge.Access{User: "robot", CanReport: true}, nil, []finding{{checkOK, "gitlab.com", "token_file /run/x: of robot; may write statuses", ""}}},
		"of a QA repository, without the right": {
			&again,
			forge.Access{User: "robot", Problems: []string{"the token ends: make a new one"}},
			nil,
			[]finding{{checkWarn, "gitlab.com", "token_file /run/x: cannot write statuses on commits of the QA repository of shop", "give the token the scope write:repository, and its user the right to push; or say report: off, or report_to: upstream, for group web"}},
		},
		"of a QA repository, told of before": {&again, forge.Access{User: "robot", CanReport: true}, nil, nil},
		"no credential":                      {anonymous, forge.Access{Limit: 500, Remaining: 499}, nil, []finding{{checkOK, "gitlab.com", "no credential: 499 of 500 requests left", ""}}},
		"refused": {
			readOnly,
			forge.Access{},
			sentry.Faultf(sentry.Unauthorized, "GitLab refuses the token: it is wrong"),
			[]finding{{checkFail, "gitlab.com", "token_file /run/x: GitLab refuses the token: it is wrong", ""}},
		},
		"too often":   {readOnly, forge.Access{}, sentry.Faultf(sentry.RateLimited, "later"), []finding{{checkWarn, "gitlab.com", "token_file /run/x: later", "wait, and then poll less often or with an account of its own"}}},
		"not reached": {readOnly, forge.Access{}, sentry.Faultf(sentry.Transient, "no route"), []finding{{checkFail, "gitlab.com", "token_file /run/x: no route", "see whether this machine reaches the server: name, proxy, firewall, certificate"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, c.account.judge(c.access, c.err, testNow)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
