package cli

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sentry/internal/config"
	"sentry/internal/forge"
	"sentry/internal/sentry"
	"sentry/internal/server"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares lines with a file below testdata/render.
func golden(t *testing.T, name string, lines []string) {
	t.Helper()
	got := strings.Join(lines, "\n") + "\n"
	path := filepath.Join("testdata", "render", name+".golden")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

var (
	testNow  = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	testZone = time.FixedZone("test", 3600)
)

func before(d time.Duration) time.Time { return testNow.Add(-d) }

func commitOf(digit string) string { return strings.Repeat(digit, 40) }

// hostile is what comes from outside: it must never reach a terminal as it is.
const hostile = "fix\x1b]0;pwn\a\x1b[2J \u202egnp\u202c 修正"

func testRollout() sentry.Rollout {
	exit2 := 2
	shop, pay := sentry.Watch{Repository: "shop", Branch: "main"}, sentry.Watch{Repository: "payments", Branch: "release/2026.11"}
	return sentry.Rollout{
		ID: "12-k3x9f", Group: "storefront", Status: sentry.Failed,
		Reason: `payments@release/2026.11 failed: command "make test" exited with code 2`,
		Trigger: sentry.Trigger{Kind: sentry.TriggerChanges, Changes: []sentry.Change{
			{Watch: shop, To: commitOf("a")},
			{Watch: pay, From: commitOf("b"), To: commitOf("c"), Subject: hostile},
		}},
		Policy: &sentry.Policy{Strategy: sentry.Parallel, MaxParallel: 3, ContinueOnError: true, Timeout: sentry.Duration(15 * time.Minute)},
		Vector: []sentry.VectorEntry{
			{Watch: shop, Commit: commitOf("a"), Generation: 4, Changed: true},
			{Watch: pay, Commit: commitOf("c"), Generation: 17, Changed: true},
			{Watch: sentry.Watch{Repository: "search", Branch: "main"}, Commit: commitOf("d"), Generation: 1},
		},
		Attempt: 2, Interruptions: 1, RecordedAt: before(5 * time.Minute), StartedAt: before(4 * time.Minute), FinishedAt: before(100 * time.Second),
		Deployments: []sentry.Deployment{
			{
				ID: "12-k3x9f-1", Ordinal: 1, Watch: shop, Commit: commitOf("a"), Status: sentry.Succeeded, Reason: "all 2 steps succeeded", Attempt: 1,
				Source: &sentry.Source{URL: "https://git.example/qa/pipelines.git", Branch: "main", Commit: commitOf("e")}, StartedAt: before(4 * time.Minute), FinishedAt: before(3 * time.Minute),
				Job: &sentry.JobRef{Namespace: "qa", Name: "sentry-12-k3x9f-1-a1-x7", UID: "u", Attempt: 1},
				Steps: []sentry.Step{
					{Attempt: 1, Ordinal: 1, Kind: sentry.StepClone, Name: "clone", Status: sentry.Succeeded, Tries: 1, StartedAt: before(240 * time.Second), FinishedAt: before(239 * time.Second)},
					{Attempt: 1, Ordinal: 2, Kind: sentry.StepCommand, Name: "deploy", Status: sentry.Succeeded, Tries: 2, StartedAt: before(239 * time.Second), FinishedAt: before(180 * time.Second)},
				},
			},
			{
				ID: "12-k3x9f-2", Ordinal: 2, Watch: pay, Commit: commitOf("c"), Status: sentry.Failed, Reason: `command "make test" exited with code 2`, Attempt: 2,
				Author: "Ada <ada@example.com>", Subject: hostile, StartedAt: before(4 * time.Minute), FinishedAt: before(100 * time.Second),
				Steps: []sentry.Step{
					{Attempt: 1, Ordinal: 1, Kind: sentry.StepClone, Name: "clone", Status: sentry.Interrupted, Reason: "Sentry died meanwhile", Tries: 1, Log: "x", StartedAt: before(240 * time.Second), FinishedAt: before(200 * time.Second)},
					{Attempt: 2, Ordinal: 1, Kind: sentry.StepClone, Name: "clone", Status: sentry.Succeeded, Tries: 1, StartedAt: before(200 * time.Second), FinishedAt: before(199500 * time.Millisecond)},
					{Attempt: 2, Ordinal: 2, Kind: sentry.StepCommand, Name: "cd tests &&\n  make test", Status: sentry.Failed, Reason: "exited with code 2", Tries: 1, ExitCode: &exit2, Log: "y", StartedAt: before(199 * time.Second), FinishedAt: before(100 * time.Second)},
				},
			},
			{ID: "12-k3x9f-3", Ordinal: 3, Watch: sentry.Watch{Repository: "search", Branch: "main"}, Commit: commitOf("d"), Status: sentry.Skipped, Reason: "payments@release/2026.11 failed and continue_on_error is false"},
		},
	}
}

func runningRollout() sentry.Rollout {
	r := testRollout()
	r.ID, r.Status, r.Reason, r.FinishedAt = "13-aaaaa", sentry.Running, "planned", time.Time{}
	d := &r.Deployments[1]
	d.Status, d.Reason, d.FinishedAt = sentry.Running, "", time.Time{}
	s := &d.Steps[2]
	s.Status, s.Reason, s.FinishedAt, s.Tries = sentry.Running, "", time.Time{}, 2
	r.Deployments[2].Status, r.Deployments[2].Reason = sentry.Pending, ""
	return r
}

func testStatus() server.Status {
	failed, running := testRollout(), runningRollout()
	running.Group = "search"
	succeeded := failed
	succeeded.ID, succeeded.Status = "7-zzzzz", sentry.Succeeded
	return server.Status{
		Daemon: &server.Daemon{PID: 4242, Version: "v1.2.3", Since: before(3 * 24 * time.Hour), Config: "/etc/sentry/sentry.yaml", Listen: "127.0.0.1:8080", Reload: &server.Reload{At: before(time.Hour), OK: false, Message: "sentry.yaml:3:1: groups: unknown key \"goups\"; did you mean \"groups\"?\nsentry.yaml:9:1: too"}},
		Items: []server.Group{
			{Name: "storefront", State: server.GroupIdle, Last: &failed, Members: []server.Member{
				{Repository: "shop", Watches: []server.Watch{
					{Branch: "main", Commit: commitOf("a"), Generation: 4, MovedAt: before(5 * time.Minute), Subject: hostile, Answer: "ok", AskedAt: before(12 * time.Second), NextAt: testNow.Add(48 * time.Second)},
					{Branch: "release/*", Pattern: true, Answer: "no branch matches"},
					{Branch: "old", Commit: commitOf("b"), Generation: 2, Deleted: true, MovedAt: before(50 * time.Hour), Answer: "deleted"},
				}},
				{Repository: "payments-and-a-very-long-name-behind-it", Watches: []server.Watch{
					{Branch: "release/2026.11", Commit: commitOf("c"), Generation: 17, MovedAt: before(5 * time.Minute), Answer: "failing: https://git.example/payments: the credentials are refused (401)", Trouble: true, Failures: 3, AskedAt: before(time.Minute), NextAt: testNow.Add(10 * time.Minute)},
				}},
			}},
			{Name: "search", State: server.GroupRunning, Current: &running, Waiting: 1, Last: &succeeded, Members: []server.Member{}},
			{Name: "frozen", State: server.GroupPaused, Last: &succeeded, Waiting: 2, Paused: &server.Pause{By: "ada", Reason: "release freeze until Monday, ask Ada before you resume it"}},
			{Name: "new", State: server.GroupIdle},
		},
		Budgets: []forge.BudgetState{
			{Host: "api.github.com", Key: "token_file /etc/sentry/github", Resource: "graphql", Limit: 5000, Remaining: 4321, Reserve: 250, Reset: testNow.Add(23 * time.Minute), Used: 640, EndsAt: testNow.Add(15 * 24 * time.Hour)},
			{Host: "git.example", Resource: "requests_per_hour", Limit: 60, Remaining: 2, Reserve: 3, Reset: testNow.Add(time.Minute), Waiting: 3, PausedUntil: testNow.Add(42 * time.Second), Reason: "it asks for less"},
			{Host: "open.example", Key: "token of repository shop", EndsAt: testNow.Add(5 * 24 * time.Hour)},
		},
		Hosts: []server.Host{{Host: "https://github.com:443", Breaker: "closed"}, {Host: "https://git.example:443", Breaker: "open", Waiting: 4, RetryAt: testNow.Add(30 * time.Second), Reason: "5 failures in a row"}},
	}
}

// testReports are statuses with every fate.
func testReports() []sentry.Report {
	of := func(repository, digit string, target sentry.Target, state sentry.State, fate sentry.Fate) sentry.Report {
		return sentry.Report{Repository: repository, Commit: commitOf(digit), Target: target, State: state, Fate: fate}
	}
	delivered, given, waiting := of("shop", "a", sentry.Upstream, sentry.StateFailure, sentry.Delivered), of("payments", "c", sentry.Upstream, sentry.StateFailure, sentry.GivenUp), of("payments", "e", sentry.QA, sentry.StateFailure, sentry.Waiting)
	delivered.DeliveredAt = before(90 * time.Second)
	given.Error = "the token lacks the scope repo:status"
	waiting.Attempts, waiting.NextAt, waiting.Error = 3, testNow.Add(40*time.Second), "the server is in trouble (HTTP status 502)"
	return []sentry.Report{
		of("shop", "a", sentry.Upstream, sentry.StatePending, sentry.Delivered), delivered, given, waiting,
		of("search", "d", sentry.Upstream, sentry.StatePending, sentry.Superseded), of("search", "d", sentry.QA, sentry.StateFailure, sentry.Waiting),
	}
}

// testExpenses are what a configuration costs: with room, without, too much, and where nobody knows.
func testExpenses() []expense {
	repositories := func(n int, key string, kind forge.Kind, host string, interval time.Duration) (list []*forge.Repository) {
		remote, err := sentry.ParseRemote("https://"+host+"/x/y", sentry.RemoteRules{})
		if err != nil {
			panic(err)
		}
		for range n {
			list = append(list, &forge.Repository{Kind: kind, Remote: remote, Interval: interval, Auth: forge.Auth{Key: key}})
		}
		return list
	}
	all := slices.Concat(repositories(3, "token_file /etc/sentry/github", forge.GitHub, "github.com", time.Minute), repositories(1, "", forge.GitLab, "gitlab.example.com", 10*time.Second),
		repositories(2, "token of repository shop", forge.Gitea, "git.example.com:3000", time.Minute), repositories(1, "", forge.Git, "elsewhere.example", time.Minute))
	return expenses([]config.Host{{Origin: "https://git.example.com:3000", RequestsPerHour: 100}}, all, []forge.CostOf{
		{Host: "github.com", Key: "token_file /etc/sentry/github", Kind: forge.GitHub, Way: "GraphQL", Repositories: 300, Watches: 900, RequestsPerHour: 180, Limit: 5000, Note: "100 repositories in a query of one point"},
		{Host: "gitlab.example.com", Kind: forge.GitLab, Way: "REST", Repositories: 1, Watches: 1, RequestsPerHour: 360, Limit: 120},
		{Host: "git.example.com:3000", Key: "token of repository shop", Kind: forge.Gitea, Way: "search", Repositories: 2, Watches: 2, RequestsPerHour: 90},
		{Host: "elsewhere.example", Kind: forge.Git, Way: "ls-refs", Repositories: 1, Watches: 4, RequestsPerHour: 60},
	})
}

// on gives a screen of a width; 0 is no terminal.
func on(width int, colour bool) screen {
	s := screen{colour: colour}
	if width > 0 {
		s.size = func() (int, int) { return width, 24 }
	}
	return s
}

func TestRendering(t *testing.T) {
	story := server.Story{
		About: server.About{Kind: "group", Name: "storefront"},
		Now:   "Group storefront is idle; its last rollout 12-k3x9f failed 1m ago because payments@release/2026.11 failed. Next poll of shop in 48s.",
		Items: []sentry.Decision{
			{At: before(26 * time.Hour), Verb: sentry.Recorded, Group: "storefront", Repository: "shop", Branch: "main", Reason: "first seen: a baseline, not rolled out"},
			{At: before(5 * time.Minute), Verb: sentry.Moved, Group: "storefront", Repository: "payments", Branch: "release/2026.11", Rollout: "12-k3x9f", Reason: "moved from bbbbbbbbbb to cccccccccc: " + hostile},
			{At: before(4 * time.Minute), Verb: sentry.Planned, Group: "storefront", Rollout: "12-k3x9f", Reason: "3 deployments"},
			{At: before(3 * time.Minute), Verb: sentry.Refused, Group: "storefront", Reason: "bob asked for a rollout, but group storefront is paused by ada: release freeze until Monday, ask Ada before you resume it"},
		},
	}
	findings := []finding{
		{checkOK, "configuration", "/etc/sentry/sentry.yaml: 3 repositories in 2 groups", ""},
		{checkWarn, "git", "version 2.30.1 lacks security fixes: CVE-2022-24765, CVE-2024-32002", "upgrade git; where your distribution has taken the fixes over into this version, ignore this"},
		{checkFail, "shop (QA)", "https://git.example/qa.git has no branch rag-tekton-workflow", "correct the branch in shop: deploy, or create it"},
	}
	output := map[string]string{"12-k3x9f-2": "line one\r\n" + hostile + "\n\x1b[31mred\x1b[0m " + strings.Repeat("long ", 40) + "\n"}
	a := &app{now: func() time.Time { return testNow }}
	for _, width := range []int{0, 60, 120} {
		s := on(width, false)
		for name, lines := range map[string][]string{
			"budget":  expenseLines(s, testExpenses(), width),
			"status":  statusLines(s, testStatus(), "", testNow, width, false),
			"show":    rolloutLines(s, testRollout(), testReports(), output, testNow, width),
			"why":     storyLines(s, story, width),
			"check":   findingLines(s, findings, width),
			"history": trimmed(a.historyTable([]sentry.Rollout{runningRollout(), testRollout()}).lines(s, width)),
			"verdict": trimmed(a.verdictTable([]sentry.Rollout{testRollout(), {ID: "14-x", Group: "gone", Status: sentry.Canceled, Reason: "nothing is configured any more"}}).lines(s, width)),
		} {
			golden(t, fmt.Sprintf("%s-%d", name, width), lines)
			for _, l := range lines {
				if strings.ContainsAny(l, "\x1b\a\r\u202e") {
					t.Errorf("%s at %d: a control sequence passes: %q", name, width, l)
				}
				if width > 0 && textWidth(l) > width {
					t.Errorf("%s: a line is wider than %d: %q", name, width, l)
				}
			}
		}
	}
	s := on(100, true)
	golden(t, "show-colour", rolloutLines(s, testRollout(), nil, nil, testNow, 100))
}

func TestFrames(t *testing.T) {
	waits := sentry.Rollout{ID: "14-bbbbb", Group: "search", Status: sentry.Pending, RecordedAt: before(9 * time.Second), Trigger: sentry.Trigger{Kind: sentry.TriggerPerson, By: "ada"}}
	canceled := runningRollout()
	canceled.CanceledBy = "ada"
	for _, width := range []int{50, 110} {
		golden(t, fmt.Sprintf("frame-%d", width), frameOf(on(width, false), []sentry.Rollout{runningRollout(), waits, canceled, testRollout()}, testNow, width, 40))
	}
	for height := 3; height < 12; height++ {
		lines := frameOf(on(80, false), []sentry.Rollout{runningRollout(), testRollout()}, testNow, 80, height)
		if len(lines) >= height {
			t.Errorf("%d lines on a terminal of %d rows: the first scrolls away", len(lines), height)
		}
		if full := 8; height <= full && !strings.Contains(lines[len(lines)-1], "lines more") {
			t.Errorf("height %d: nothing tells that lines are missing: %q", height, lines[len(lines)-1])
		}
	}
}

func TestManyWatchesShowTrouble(t *testing.T) {
	status := testStatus()
	for i := range 100 {
		status.Items[3].Members = append(status.Items[3].Members, server.Member{Repository: fmt.Sprintf("r%d", i), Watches: []server.Watch{{Branch: "main", Answer: "ok"}}})
	}
	text := strings.Join(statusLines(on(0, false), status, "", testNow, 0, false), "\n")
	if strings.Contains(text, "r7 ") || !strings.Contains(text, "refused (401)") || !strings.Contains(text, "103 branches without trouble not listed") {
		t.Error(text)
	}
	if text = strings.Join(statusLines(on(0, false), status, "", testNow, 0, true), "\n"); !strings.Contains(text, "r7 ") {
		t.Error("a group that is asked for is not listed:\n" + text)
	}
}

func TestChangesAreToldOnce(t *testing.T) {
	pending := sentry.Rollout{ID: "12-k3x9f", Group: "storefront", Status: sentry.Pending}
	planned := testRollout()
	planned.Status, planned.Reason, planned.FinishedAt = sentry.Running, "planned", time.Time{}
	planned.Deployments = nil
	for _, d := range testRollout().Deployments {
		d.Status, d.Reason, d.Steps, d.Attempt = sentry.Pending, "", nil, 0
		planned.Deployments = append(planned.Deployments, d)
	}
	running := runningRollout()
	running.ID = planned.ID
	canceled := running
	canceled.CanceledBy = "ada"
	var lines []string
	var last *sentry.Rollout
	for _, r := range []sentry.Rollout{pending, pending, planned, running, running, canceled, testRollout(), testRollout()} {
		lines = append(lines, changes(last, r)...)
		last = &r
	}
	for i := range lines {
		lines[i] = tidy(lines[i])
	}
	golden(t, "changes", lines)
	for i, l := range lines {
		for _, other := range lines[i+1:] {
			if l == other {
				t.Errorf("told twice: %s", l)
			}
		}
	}
	golden(t, "changes-late", changes(nil, runningRollout()))
}

func TestText(t *testing.T) {
	for s, want := range map[string]int{"": 0, "abc": 3, "é": 1, "e\u0301": 1, "修正": 4, "한글": 4, "🚀": 2, "ｆ": 2, "…": 1} {
		if got := textWidth(s); got != want {
			t.Errorf("textWidth(%q) = %d, want %d", s, got, want)
		}
	}
	for _, c := range []struct {
		in    string
		width int
		want  string
	}{{"abcdef", 6, "abcdef"}, {"abcdef", 5, "abcd…"}, {"修正修正", 5, "修正…"}, {"修正修正", 6, "修正…"}, {"abc", 1, "…"}, {"abc", 0, ""}, {"修", 1, "…"}} {
		if got := cut(c.in, c.width); got != c.want || textWidth(got) > c.width {
			t.Errorf("cut(%q, %d) = %q, want %q", c.in, c.width, got, c.want)
		}
	}
	for _, c := range []struct {
		in    string
		width int
		want  string
	}{
		{"", 5, ""},
		{"one two three", 0, "one two three"},
		{"one two three", 7, "one two|three"},
		{"a verylongword b", 5, "a|veryl|ongwo|rd b"},
		{"修正修正 x", 5, "修正|修正|x"},
		{"修正", 1, "修正"}, // nothing narrower can be done
	} {
		if got := strings.Join(wrap(c.in, c.width), "|"); got != c.want {
			t.Errorf("wrap(%q, %d) = %q, want %q", c.in, c.width, got, c.want)
		}
	}
}

func TestTableGivesWayInOrder(t *testing.T) {
	table := table{columns: []column{{title: "A"}, {title: "B", rank: 1, least: 3}, {title: "C", rank: 2, least: 3}, {title: "EMPTY"}}}
	table.add(text("aaaa"), text("bbbbbbbb"), text("cccccccc"), text(""))
	for width, want := range map[int]string{
		0:  "aaaa  bbbbbbbb  cccccccc\n",
		24: "aaaa  bbbbbbbb  cccccccc\n",
		22: "aaaa  bbbbbbbb  ccccc…\n",
		17: "aaaa  bbbbb…  cc…\n",
		14: "aaaa  bb…  cc…\n",
		13: "aaaa  bbbbbb…\n", // C is left out, and B has its room
		12: "aaaa  bbbbb…\n",
		8:  "aaaa\n",
		3:  "aa…\n",
	} {
		lines := table.lines(on(width, false), width)
		if got := lines[1]; got != want {
			t.Errorf("width %d: %q, want %q", width, got, want)
		}
	}
	if lines := (&table).lines(on(0, false), 0); strings.Contains(lines[0], "EMPTY") {
		t.Errorf("an empty column is shown: %q", lines[0])
	}
}

func TestJSONIsHarmless(t *testing.T) {
	var out strings.Builder
	a := &app{out: screen{Writer: &out}}
	if err := a.json(map[string]string{"x": hostile + "\u009b\U000e0041<&>"}); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "{\n  \"x\": \"fix\\u001b]0;pwn\\u0007\\u001b[2J \\u202egnp\\u202c 修正\\u009b\\udb40\\udc41<&>\"\n}\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestSanitizerIsLineByLine(t *testing.T) {
	var out strings.Builder
	s := &sanitizer{w: &out}
	for _, p := range []string{"a\x1b", "[2J", "b\r\nc", "\td\n", strings.Repeat("x", maxLine+1), "end"} {
		if n, err := s.Write([]byte(p)); n != len(p) || err != nil {
			t.Fatalf("Write: %d, %v", n, err)
		}
	}
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "a\\x1B[2Jb\nc\td\n"+strings.Repeat("x", maxLine+1)+"end"; got != want {
		t.Errorf("got %.100q, want %.100q", got, want)
	}
}

func TestLiveRedrawsInPlace(t *testing.T) {
	var out strings.Builder
	width := 20
	l := &live{s: screen{Writer: &out, size: func() (int, int) { return width, 24 }}}
	step := func(do func(), want string) {
		t.Helper()
		out.Reset()
		if do(); out.String() != want {
			t.Errorf("got %q, want %q", out.String(), want)
		}
	}
	step(func() { l.draw([]string{"one", "0123456789abcdef"}) }, "one\n0123456789abcdef\n")
	step(func() { fmt.Fprint(l, "half ") }, "")
	step(func() { fmt.Fprint(l, "a log line\nand") }, "\r\x1b[2A\x1b[Jhalf a log line\none\n0123456789abcdef\n")
	width = 8 // the second line has become two
	step(func() { l.draw([]string{"\x1b[1mtwo\x1b[0m"}) }, "\r\x1b[3A\x1b[J\x1b[1mtwo\x1b[0m\n")
	step(func() { l.clear() }, "\r\x1b[1A\x1b[J")
	step(func() { l.draw([]string{"x"}) }, "x\n")
	l.leave()
	step(func() { l.draw([]string{"y"}) }, "y\n")
}

func TestStatusTellsWhatARolloutWaitsFor(t *testing.T) {
	status := testStatus()
	for i, g := range status.Items {
		if g.Current != nil && g.State == server.GroupRunning && g.Paused == nil {
			r := runningRollout()
			for j := range r.Deployments {
				if r.Deployments[j].Status == sentry.Running {
					r.Deployments[j].Reason = "the API server does not answer"
				}
			}
			status.Items[i].Current = &r
		}
	}
	text := strings.Join(statusLines(on(0, false), status, "", testNow, 0, false), "\n")
	if !strings.Contains(text, ": the API server does not answer") {
		t.Error(text)
	}
}
