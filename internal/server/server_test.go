package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sentry/internal/config"
	"sentry/internal/forge"
	"sentry/internal/monitor"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// fixture is a server over a state in memory: group web with the members shop and pay, and lone, a group of its own.
type fixture struct {
	*testing.T
	store   *store.Store
	config  *config.Config
	control *owner
	logs    string // the folder
	said    *bytes.Buffer
	handler http.Handler
}

// owner is what a daemon is to the server, as far as the state goes.
type owner struct {
	*store.Store
	info    *Daemon
	watches []monitor.WatchState
	hosts   []monitor.HostState
	reload  error
	budgets []forge.BudgetState
	hint    func(repository string)
	asked   func() // when somebody looks at the watches
}

func (o *owner) Trigger(ctx context.Context, requests ...store.Request) (queued []Queued, err error) {
	for _, r := range requests {
		id, joined, err := o.Request(ctx, r)
		if err != nil {
			return nil, err
		}
		queued = append(queued, Queued{ID: id, Group: r.Group, Joined: joined})
	}
	return queued, nil
}

func (o *owner) Refuse(ctx context.Context, d sentry.Decision) error { return o.Decide(ctx, d) }
func (o *owner) Reload(context.Context) error                        { return o.reload }
func (o *owner) Watches() []monitor.WatchState {
	if o.asked != nil {
		o.asked()
	}
	return o.watches
}

func (o *owner) Hint(repository string) {
	if o.hint != nil {
		o.hint(repository)
	}
}

func (o *owner) Hosts() []monitor.HostState   { return o.hosts }
func (o *owner) Budgets() []forge.BudgetState { return o.budgets }
func (o *owner) Explain(string) string        { return "asked over Git, which costs nothing" }
func (o *owner) Info() *Daemon                { return o.info }

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func newFixture(t *testing.T, change ...func(*Options)) *fixture {
	t.Helper()
	s, err := store.OpenMemory(t.Context(), store.Options{Owner: "tester", Now: func() time.Time { return now.Add(-time.Minute) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	f := &fixture{T: t, store: s, config: testConfig(t), logs: t.TempDir(), said: &bytes.Buffer{}}
	f.control = &owner{Store: s, info: &Daemon{PID: 42, Version: "v1", Since: now.Add(-time.Hour)}}
	o := Options{
		Store: s, Config: func() *config.Config { return f.config }, Control: f.control, LogsDir: f.logs,
		Log: slog.New(slog.NewTextHandler(f.said, nil)), Now: func() time.Time { return now },
	}
	for _, c := range change {
		c(&o)
	}
	f.handler = Handler(o)
	return f
}

func testConfig(t *testing.T) *config.Config {
	t.Helper()
	c := &config.Config{
		File:   "/etc/sentry.yaml",
		Groups: []config.Group{{Name: "web", Policy: sentry.Policy{Strategy: sentry.Parallel, MaxParallel: 2}}, {Name: "empty"}, {Name: "lone", Implicit: true}},
	}
	for _, r := range []struct{ name, group, branches string }{{"shop", "web", "main release/*"}, {"pay", "web", "main"}, {"lone", "lone", "main"}} {
		remote, err := sentry.ParseRemote("https://git.example/"+r.name, sentry.RemoteRules{})
		if err != nil {
			t.Fatal(err)
		}
		repo := config.Repository{Name: r.name, Group: r.group, Monitor: config.Monitor{Remote: remote}}
		for b := range strings.FieldsSeq(r.branches) {
			p, err := sentry.ParsePattern(b)
			if err != nil {
				t.Fatal(err)
			}
			repo.Monitor.Branches = append(repo.Monitor.Branches, p)
		}
		c.Repositories = append(c.Repositories, repo)
	}
	return c
}

func commit(digit string) string { return strings.Repeat(digit, 40) }

// move records that branches moved: "shop@main:b". The first sight of a branch is rolled out too.
func (f *fixture) move(group string, moves ...string) string {
	f.Helper()
	var list []store.Observation
	for _, m := range moves {
		watch, to, _ := strings.Cut(m, ":")
		repo, branch, _ := strings.Cut(watch, "@")
		list = append(list, store.Observation{
			Watch: sentry.Watch{Repository: repo, Branch: branch}, Revision: sentry.Revision{Commit: commit(to)}, Group: group, Queue: sentry.Latest, Deploy: true,
		})
	}
	out, err := f.store.RecordChanges(f.Context(), list)
	if err != nil {
		f.Fatal(err)
	}
	return out[0].Rollout
}

// claim begins a rollout with a deployment for each repository.
func (f *fixture) claim(id string, repositories ...string) sentry.Rollout {
	f.Helper()
	pending, err := f.store.Pending(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	for _, w := range pending {
		if w.Rollout.ID != id {
			continue
		}
		plan := store.Plan{Policy: sentry.Policy{Strategy: sentry.Parallel, MaxParallel: 2, OnInterrupt: sentry.Retry}, Reason: "as planned"}
		for _, r := range repositories {
			plan.Deployments = append(plan.Deployments, sentry.Deployment{Watch: sentry.Watch{Repository: r, Branch: "main"}, Commit: commit("b"), Generation: 1})
		}
		r, err := f.store.Claim(f.Context(), id, w.Version, plan)
		if err != nil {
			f.Fatal(err)
		}
		return r
	}
	f.Fatalf("rollout %s does not wait", id)
	return sentry.Rollout{}
}

// save saves a deployment with one step of a status, whose log has this text.
func (f *fixture) save(d sentry.Deployment, status sentry.Status, name, log string) sentry.Deployment {
	f.Helper()
	d.Attempt = max(d.Attempt, 1)
	step := sentry.Step{
		Attempt: d.Attempt, Ordinal: len(d.Steps) + 1, Kind: sentry.StepCommand, Name: name, Status: status, Tries: 1,
		Log: filepath.Join(d.ID, fmt.Sprintf("%d.log", len(d.Steps)+1)), StartedAt: now,
	}
	if status.Terminal() {
		step.FinishedAt = now
		if status != sentry.Succeeded {
			step.Reason = "it went wrong"
		}
	}
	d.Steps = append(d.Steps, step)
	if d.Status == sentry.Pending {
		d.Status, d.StartedAt = sentry.Running, now
	}
	f.write(step.Log, log)
	f.saveDeployment(d)
	return d
}

func (f *fixture) saveDeployment(d sentry.Deployment) {
	f.Helper()
	if err := f.store.SaveDeployment(f.Context(), d); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) write(log, text string) {
	f.Helper()
	path := filepath.Join(f.logs, log)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		f.Fatal(err)
	}
}

// end ends a rollout and its deployments with one status.
func (f *fixture) end(r sentry.Rollout, status sentry.Status) {
	f.Helper()
	for _, d := range r.Deployments {
		if d.Status.Terminal() {
			continue
		}
		if d.Status == sentry.Pending {
			d.Status, d.Attempt, d.StartedAt = sentry.Running, 1, now
			f.saveDeployment(d)
		}
		d.Status, d.Reason, d.FinishedAt = status, "of the test", now
		f.saveDeployment(d)
	}
	if err := f.store.Finish(f.Context(), r.ID, status, "of the test"); err != nil {
		f.Fatal(err)
	}
}

// ask sends a request with a JSON body ("" for none) and gives status and answer.
func (f *fixture) ask(method, path, body string) (int, string) {
	f.Helper()
	w := f.send(method, path, body, nil)
	return w.Code, w.Body.String()
}

func (f *fixture) send(method, path, body string, header map[string]string) *httptest.ResponseRecorder {
	f.Helper()
	r := httptest.NewRequestWithContext(f.Context(), method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	return w
}

// want asks and checks the status, and that the answer has these texts.
func (f *fixture) want(method, path, body string, status int, texts ...string) string {
	f.Helper()
	got, answer := f.ask(method, path, body)
	if got != status {
		f.Fatalf("%s %s: status %d, want %d: %s", method, path, got, status, answer)
	}
	for _, text := range texts {
		if !strings.Contains(answer, text) {
			f.Errorf("%s %s: %s\nlacks %s", method, path, answer, text)
		}
	}
	return answer
}

func decodeAs[T any](t testing.TB, text string) T {
	t.Helper()
	var v T
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

func TestTableIsWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Routes() {
		line := r.Method + " " + r.Path
		if seen[line] {
			t.Errorf("%s stands there twice", line)
		}
		seen[line] = true
		if !slices.Contains([]Role{RoleNone, RoleRead, RoleAct, RoleAdmin}, r.Role) {
			t.Errorf("%s has the role %q", line, r.Role)
		}
		hook := strings.HasPrefix(r.Path, "/hooks/")
		if r.Role == RoleNone && r.Path != "/healthz" && r.Path != "/rollouts/{id}" && !hook {
			t.Errorf("%s is for everybody", line)
		}
		if r.Method != http.MethodGet && !hook && (r.Role == RoleNone || r.Role == RoleRead) {
			t.Errorf("%s changes something, but its role is %q", line, r.Role)
		}
		if !strings.HasSuffix(r.Doc, ".") || r.handle == nil {
			t.Errorf("%s has no handler, or no description that ends with a full stop: %q", line, r.Doc)
		}
	}
	f := newFixture(t)
	list := decodeAs[List[Route]](t, f.want("GET", Prefix, "", 200))
	if len(list.Items) != len(Routes()) {
		t.Errorf("the index has %d routes, want %d", len(list.Items), len(Routes()))
	}
}

func TestEveryRouteAsksForItsRole(t *testing.T) {
	var asked []string
	deny := fmt.Errorf("your role is %q", RoleRead)
	f := newFixture(t, func(o *Options) {
		o.Authorize = func(r *http.Request, need Role) (Caller, error) {
			asked = append(asked, fmt.Sprintf("%s %s %s", r.Method, r.URL.Path, need))
			if r.Header.Get("Authorization") == "" {
				return Caller{}, ErrUnauthenticated
			}
			return Caller{}, deny
		}
	})
	for _, r := range Routes() {
		path := strings.NewReplacer("{id}", "1", "{name}", "web", "{forge}", "github", "{repository}", "shop").Replace(r.Path)
		if r.Role == RoleNone {
			status := 200
			if strings.HasPrefix(path, "/hooks/") {
				status = 404 // nobody has a secret
			}
			f.want(r.Method, path, "", status)
			continue
		}
		f.want(r.Method, path, "", 401, `"unauthenticated"`)
		w := f.send(r.Method, path, "", map[string]string{"Authorization": "Bearer x"})
		if w.Code != 403 || !strings.Contains(w.Body.String(), `"not_allowed"`) {
			t.Errorf("%s %s: %d %s", r.Method, path, w.Code, w.Body)
		}
		want := fmt.Sprintf("%s %s %s", r.Method, path, r.Role)
		if len(asked) != 2 || asked[0] != want {
			t.Errorf("asked %q, want %q twice", asked, want)
		}
		asked = nil
	}
	if paused, err := f.store.Paused(t.Context()); err != nil || len(paused) > 0 {
		t.Errorf("a refused pause was carried out: %v, %v", paused, err)
	}
}

func TestProvedNameCountsMoreThanTheOneSaid(t *testing.T) {
	f := newFixture(t, func(o *Options) {
		o.Authorize = func(*http.Request, Role) (Caller, error) { return Caller{Name: "ada\x1b[31m"}, nil }
	})
	f.want("POST", Prefix+"/groups/web/pause", `{"by":"mallory","reason":"x\ny"}`, 200, `"by":"ada [31m"`, `"reason":"x y"`)
}

func TestWrongRequests(t *testing.T) {
	f := newFixture(t)
	id := f.move("web", "shop@main:a")
	long := `{"by":"` + strings.Repeat("x", maxBody) + `"}`
	for _, c := range []struct {
		method, path, body string
		status             int
		code               string
	}{
		{"GET", "/", "", 404, "no_such_route"},
		{"GET", Prefix + "/statuses", "", 404, "no_such_route"},
		{"DELETE", Prefix + "/rollouts", "", 405, "wrong_method"},
		{"GET", Prefix + "/reload", "", 405, "wrong_method"},
		{"GET", Prefix + "/status?x=1", "", 400, "invalid"},
		{"GET", Prefix + "/rollouts?limit=0", "", 400, "invalid"},
		{"GET", Prefix + "/rollouts?limit=1001", "", 400, "invalid"},
		{"GET", Prefix + "/rollouts?status=done", "", 400, "invalid"},
		{"GET", Prefix + "/rollouts?before=x", "", 404, "not_found"},
		{"GET", Prefix + "/rollouts/99", "", 404, "not_found"},
		{"GET", Prefix + "/rollouts/x%2f..", "", 404, "not_found"},
		{"GET", Prefix + "/rollouts/" + id + "/logs?follow=maybe", "", 400, "invalid"},
		{"GET", Prefix + "/rollouts/" + id + "/logs?tail=-1", "", 400, "invalid"},
		{"GET", Prefix + "/why", "", 400, "invalid"},
		{"GET", Prefix + "/why?group=web&rollout=1", "", 400, "invalid"},
		{"GET", Prefix + "/why?group=wob", "", 404, "not_found"},
		{"GET", Prefix + "/why?repository=lonely", "", 404, "not_found"},
		{"GET", Prefix + "/why?about=nothing", "", 404, "not_found"},
		{"POST", Prefix + "/rollouts", `{"targets":["wob"]}`, 404, "not_found"},
		{"POST", Prefix + "/rollouts", `{"target":["web"]}`, 400, "invalid"},
		{"POST", Prefix + "/rollouts", `{"targets":"web"}`, 400, "invalid"},
		{"POST", Prefix + "/rollouts", `{} {}`, 400, "invalid"},
		{"POST", Prefix + "/rollouts", `{`, 400, "invalid"},
		{"POST", Prefix + "/rollouts", long, 413, "too_large"},
		{"POST", Prefix + "/rollouts/99/cancel", "", 404, "not_found"},
		{"POST", Prefix + "/rollouts/99/retry", "", 404, "not_found"},
		{"POST", Prefix + "/rollouts/" + id + "/retry", "", 409, "not_ended"},
		{"POST", Prefix + "/groups/wob/pause", "", 404, "not_found"},
		{"POST", Prefix + "/groups/web/resume", "", 409, "not_paused"},
	} {
		answer := f.want(c.method, c.path, c.body, c.status)
		failure := decodeAs[Failure](t, answer)
		if failure.Error.Code != c.code || failure.Error.Message == "" {
			t.Errorf("%s %s: %s, want the code %s and a message", c.method, c.path, answer, c.code)
		}
	}
	w := f.send("POST", Prefix+"/rollouts", "{}", map[string]string{"Content-Type": "text/plain"})
	if w.Code != 415 {
		t.Errorf("a body that is no JSON: %d %s", w.Code, w.Body)
	}
	w = f.send("DELETE", Prefix+"/rollouts", "", nil)
	if got := w.Header().Get("Allow"); got != "GET, POST" {
		t.Errorf("Allow: %q", got)
	}
}

func TestEveryAnswerIsGuarded(t *testing.T) {
	f := newFixture(t)
	for _, path := range []string{Prefix + "/status", "/nowhere", "/healthz"} {
		w := f.send("GET", path, "", nil)
		if w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("GET %s: %v", path, w.Header())
		}
	}
	w := f.send("POST", Prefix+"/rollouts", "{}", map[string]string{"Sec-Fetch-Site": "cross-site"})
	if w.Code != 403 || !strings.Contains(w.Body.String(), "cross_origin") {
		t.Errorf("from another site: %d %s", w.Code, w.Body)
	}
	if list, err := f.store.Rollouts(t.Context(), store.Filter{}); err != nil || len(list) > 0 {
		t.Errorf("the page of another site queued %v, %v", list, err)
	}
}

func TestPanicIsOneFailedRequest(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Config = func() *config.Config { panic("broken") } })
	f.want("GET", Prefix+"/status", "", 500, `"code":"internal"`, "defect")
	if !strings.Contains(f.said.String(), "broken") || !strings.Contains(f.said.String(), "server_test.go") {
		t.Errorf("the log does not tell what broke and where: %s", f.said)
	}
	if _, answer := f.ask("GET", Prefix+"/status", ""); strings.Contains(answer, "broken") {
		t.Errorf("the caller is told the inside: %s", answer)
	}
}

func TestTrigger(t *testing.T) {
	f := newFixture(t)
	list := decodeAs[List[Queued]](t, f.want("POST", Prefix+"/rollouts", `{"targets":["shop"],"by":"ada"}`, 202))
	if len(list.Items) != 1 || list.Items[0].Group != "web" || list.Items[0].Joined {
		t.Fatalf("queued %+v", list.Items)
	}
	again := decodeAs[List[Queued]](t, f.want("POST", Prefix+"/rollouts", "", 202))
	if len(again.Items) != 2 || !again.Items[0].Joined || again.Items[0].ID != list.Items[0].ID || again.Items[1].Group != "lone" {
		t.Errorf("all groups: %+v", again.Items)
	}
	r := decodeAs[sentry.Rollout](t, f.want("GET", Prefix+"/rollouts/"+list.Items[0].ID, "", 200))
	if r.Trigger.Kind != sentry.TriggerPerson || r.Trigger.By != "ada" || !slices.Equal(r.Trigger.Repositories, []string{"shop"}) || !r.Trigger.Whole {
		t.Errorf("trigger %+v", r.Trigger)
	}
}

func TestPausedGroupRefuses(t *testing.T) {
	f := newFixture(t)
	g := decodeAs[Group](t, f.want("POST", Prefix+"/groups/web/pause", `{"by":"ada","reason":"freeze"}`, 200))
	if g.State != GroupPaused || g.Paused == nil || g.Paused.By != "ada" {
		t.Errorf("paused: %+v", g)
	}
	f.want("POST", Prefix+"/rollouts", `{"targets":["lone","shop"],"by":"bob"}`, 409, `"paused"`, "paused by ada: freeze", "sentry resume web")
	if list, err := f.store.Rollouts(t.Context(), store.Filter{}); err != nil || len(list) > 0 {
		t.Errorf("queued %v, %v in spite of the refusal", list, err)
	}
	f.want("GET", Prefix+"/why?group=web", "", 200, `"verb":"refused"`, "bob asked for a rollout, but group web is paused by ada: freeze")
	f.want("POST", Prefix+"/groups/web/resume", `{"by":"bob"}`, 200, `"state":"idle"`)
	f.want("POST", Prefix+"/rollouts", `{"targets":["web"]}`, 202)
}

func TestCancel(t *testing.T) {
	f := newFixture(t)
	waits := f.move("web", "shop@main:a")
	r := decodeAs[sentry.Rollout](t, f.want("POST", Prefix+"/rollouts/"+waits+"/cancel", `{"by":"ada","reason":"no"}`, 200))
	if r.Status != sentry.Canceled {
		t.Errorf("a rollout that waited is %s", r.Status)
	}
	f.want("POST", Prefix+"/rollouts/"+waits+"/cancel", "", 409, `"final"`, "it was canceled")
	runs := f.claim(f.move("web", "shop@main:b"), "shop")
	r = decodeAs[sentry.Rollout](t, f.want("POST", Prefix+"/rollouts/"+runs.ID+"/cancel", `{"by":"ada"}`, 202))
	if r.Status != sentry.Running || r.CanceledBy != "ada" {
		t.Errorf("a running rollout is %s, canceled by %q", r.Status, r.CanceledBy)
	}
}

func TestRetry(t *testing.T) {
	f := newFixture(t)
	r := f.claim(f.move("web", "shop@main:a", "pay@main:a"), "shop", "pay")
	d := r.Deployments[1]
	d.Status, d.Attempt, d.StartedAt = sentry.Running, 1, now
	f.saveDeployment(d)
	d.Status, d.FinishedAt = sentry.Succeeded, now
	f.saveDeployment(d)
	r.Deployments[1] = d
	f.end(r, sentry.Failed)
	queued := decodeAs[List[Queued]](t, f.want("POST", Prefix+"/rollouts/"+r.ID+"/retry", `{"failed":true,"by":"ada"}`, 202))
	again := decodeAs[sentry.Rollout](t, f.want("GET", Prefix+"/rollouts/"+queued.Items[0].ID, "", 200))
	if !slices.Equal(again.Trigger.Watches, []sentry.Watch{{Repository: "shop", Branch: "main"}}) || again.Trigger.RetryOf != r.ID || again.Trigger.Kind != sentry.TriggerRetry {
		t.Errorf("trigger %+v", again.Trigger)
	}
}

func TestAgain(t *testing.T) {
	cfg := testConfig(t)
	watch := func(name string) sentry.Watch { return sentry.Watch{Repository: name, Branch: "main"} }
	deployed := func(name string, s sentry.Status) sentry.Deployment {
		return sentry.Deployment{Watch: watch(name), Status: s}
	}
	for _, c := range []struct {
		name    string
		old     sentry.Rollout
		failed  bool
		watches []sentry.Watch
		whole   bool
		code    string
	}{
		{"all", sentry.Rollout{Group: "web", Status: sentry.Failed, Deployments: []sentry.Deployment{deployed("shop", sentry.Failed), deployed("pay", sentry.Succeeded)}}, false, []sentry.Watch{watch("shop"), watch("pay")}, false, ""},
		{"failed and skipped", sentry.Rollout{Group: "web", Status: sentry.Failed, Deployments: []sentry.Deployment{deployed("shop", sentry.Skipped), deployed("pay", sentry.TimedOut)}}, true, []sentry.Watch{watch("shop"), watch("pay")}, false, ""},
		{"nothing failed", sentry.Rollout{Group: "web", Status: sentry.Succeeded, Deployments: []sentry.Deployment{deployed("shop", sentry.Succeeded)}}, true, nil, false, "nothing_to_do"},
		{"runs", sentry.Rollout{Group: "web", Status: sentry.Running}, false, nil, false, "not_ended"},
		{"group gone", sentry.Rollout{Group: "old", Status: sentry.Failed}, false, nil, false, "not_found"},
		{"member gone", sentry.Rollout{Group: "web", Status: sentry.Failed, Deployments: []sentry.Deployment{deployed("gone", sentry.Failed)}}, false, nil, false, "not_configured"},
		{"member moved to another group", sentry.Rollout{Group: "web", Status: sentry.Failed, Deployments: []sentry.Deployment{deployed("lone", sentry.Failed)}}, false, nil, false, "not_configured"},
		{"canceled before it was planned", sentry.Rollout{Group: "web", Status: sentry.Canceled, Trigger: sentry.Trigger{Changes: []sentry.Change{{Watch: watch("pay")}, {Watch: watch("pay")}}}}, false, []sentry.Watch{watch("pay")}, false, ""},
		{"the whole group, canceled before it was planned", sentry.Rollout{Group: "web", Status: sentry.Canceled, Trigger: sentry.Trigger{Whole: true}}, true, nil, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.old.ID = "7-x"
			got, err := Again(cfg, c.old, c.failed, "ada")
			var e *Error
			if errors.As(err, &e); err != nil != (c.code != "") || err != nil && e.Code != c.code {
				t.Fatalf("error %v, want the code %q", err, c.code)
			}
			if err == nil && (!slices.Equal(got.Watches, c.watches) || got.Whole != c.whole || got.RetryOf != "7-x" || got.By != "ada") {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestTargets(t *testing.T) {
	cfg := testConfig(t)
	for names, want := range map[string]string{
		"":              "web* lone*",
		"web":           "web*",
		"shop":          "web:shop",
		"pay shop pay":  "web:pay,shop",
		"lone shop":     "web:shop lone*",
		"shop web":      "web*",
		"empty":         "empty*",
		"shp":           `there is no group or repository "shp" / did you mean "shop"?`,
		"kubernetes":    `there is no group or repository "kubernetes" / there are: empty, lone, pay, shop, web`,
		"shop \x1b[31m": `there is no group or repository "[31m" / there are: empty, lone, pay, shop, web`,
	} {
		requests, err := Targets(cfg, strings.Split(names, " ")[:len(strings.Fields(names))], "ada")
		var got []string
		for _, r := range requests {
			text := r.Group
			if r.Whole {
				text += "*"
			} else {
				text += ":" + strings.Join(r.Repositories, ",")
			}
			got = append(got, text)
		}
		text := strings.Join(got, " ")
		var e *Error
		if errors.As(err, &e) {
			text = e.Message + " / " + e.Hint
		}
		if text != want {
			t.Errorf("Targets(%q) = %s, want %s", names, text, want)
		}
	}
}

func TestReload(t *testing.T) {
	f := newFixture(t)
	f.want("POST", Prefix+"/reload", "", 200, `"ok":true`)
	f.control.reload = config.Problems{{File: "f", Line: 3, Column: 1, Message: "unknown key"}}
	f.want("POST", Prefix+"/reload", "", 422, `"invalid_configuration"`, `"problems":[{"file":"f","line":3`)
	f.control.reload = errors.New("state_dir changed")
	f.want("POST", Prefix+"/reload", "", 409, "state_dir changed")
}

func TestWithoutOwner(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Control = nil })
	id := f.move("web", "shop@main:a")
	for path, body := range map[string]string{
		"/rollouts": "", "/rollouts/" + id + "/cancel": "", "/groups/web/pause": "", "/reload": "",
	} {
		f.want("POST", Prefix+path, body, 503, `"no_daemon"`, "sentry watch")
	}
	f.want("GET", Prefix+"/daemon", "", 503, `"no_daemon"`, "sentry watch")
	status := decodeAs[Status](t, f.want("GET", Prefix+"/status", "", 200))
	if status.Daemon != nil || len(status.Items) != 3 {
		t.Errorf("status %+v", status)
	}
}

func TestStatus(t *testing.T) {
	f := newFixture(t)
	f.control.watches = []monitor.WatchState{
		{Watch: sentry.Watch{Repository: "shop", Branch: "main"}, Answer: monitor.AnswerOK, NextDue: now.Add(42 * time.Second)},
		{Watch: sentry.Watch{Repository: "shop", Branch: "release/*"}, Answer: monitor.AnswerNoMatch},
		{Watch: sentry.Watch{Repository: "pay", Branch: "main"}, Answer: "failing: no route", Failures: 3},
	}
	f.control.hosts = []monitor.HostState{{Host: "https://git.example:443", Breaker: "open", Reason: "no route"}}
	f.end(f.claim(f.move("web", "shop@main:a"), "shop"), sentry.Failed)
	running := f.claim(f.move("web", "shop@main:b"), "shop", "pay")
	waits := f.move("web", "shop@main:c")
	oldest := f.move("lone", "lone@main:a")
	f.end(f.claim(f.move("gone", "left@main:a"), "left"), sentry.Succeeded)
	if err := f.store.Pause(t.Context(), "gone", "ada", ""); err != nil {
		t.Fatal(err)
	}
	status := decodeAs[Status](t, f.want("GET", Prefix+"/status", "", 200))
	var got []string
	for _, g := range status.Items {
		id := func(r *sentry.Rollout) string {
			if r == nil {
				return "-"
			}
			return r.ID
		}
		last := "-"
		if g.Last != nil {
			last = string(g.Last.Status)
		}
		got = append(got, fmt.Sprintf("%s %s current %s next %s waiting %d last %s members %d", g.Name, g.State, id(g.Current), id(g.Next), g.Waiting, last, len(g.Members)))
	}
	want := []string{
		"web running current " + running.ID + " next " + waits + " waiting 1 last failed members 2",
		"empty idle current - next - waiting 0 last - members 0",
		"lone waiting current - next " + oldest + " waiting 1 last - members 1",
		"gone paused current - next - waiting 0 last succeeded members 0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("groups:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if d := decodeAs[Daemon](t, f.want("GET", Prefix+"/daemon", "", 200)); d.PID != status.Daemon.PID || d.StateDir != status.Daemon.StateDir || d.PID == 0 {
		t.Errorf("daemon %+v, in the status %+v", d, status.Daemon)
	}
	watches := status.Items[0].Members[0].Watches
	if len(watches) != 2 || watches[0].Commit != commit("c") || watches[0].Generation != 3 || watches[0].Trouble || watches[0].NextAt.IsZero() {
		t.Errorf("watches of shop: %+v", watches)
	}
	if len(watches) == 2 && (watches[1].Branch != "release/*" || !watches[1].Pattern || watches[1].Trouble) {
		t.Errorf("the pattern that matches nothing: %+v", watches[1])
	}
	if w := status.Items[0].Members[1].Watches; len(w) != 1 || !w[0].Trouble || w[0].Answer != "failing: no route" {
		t.Errorf("watches of pay: %+v", w)
	}
	if status.Daemon == nil || status.Daemon.PID != 42 || len(status.Hosts) != 1 || status.Hosts[0].Reason != "no route" {
		t.Errorf("daemon %+v, hosts %+v", status.Daemon, status.Hosts)
	}
}

func TestPatternsShowWhatTheyMatch(t *testing.T) {
	f := newFixture(t)
	f.move("web", "shop@release/2:a", "shop@release/1:a", "shop@other:a")
	status := decodeAs[Status](t, f.want("GET", Prefix+"/status", "", 200))
	var got []string
	for _, w := range status.Items[0].Members[0].Watches {
		got = append(got, fmt.Sprint(w.Branch, " ", w.Pattern, " ", w.Commit != ""))
	}
	if want := []string{"main false false", "release/1 false true", "release/2 false true"}; !slices.Equal(got, want) {
		t.Errorf("watches %q, want %q", got, want)
	}
}

func TestRolloutsAreFilteredAndPaged(t *testing.T) {
	f := newFixture(t)
	var ids []string
	for _, digit := range []string{"a", "b", "c"} {
		r := f.claim(f.move("web", "shop@main:"+digit), "shop")
		f.end(r, sentry.Succeeded)
		ids = append([]string{r.ID}, ids...)
	}
	ids = append([]string{f.move("lone", "lone@main:a")}, ids...)
	list := func(query string) string {
		var got []string
		for _, r := range decodeAs[List[sentry.Rollout]](t, f.want("GET", Prefix+"/rollouts"+query, "", 200)).Items {
			got = append(got, r.ID)
		}
		return strings.Join(got, " ")
	}
	for query, want := range map[string][]string{
		"":                                  ids,
		"?limit=2":                          ids[:2],
		"?limit=2&before=" + ids[1]:         ids[2:],
		"?group=web":                        ids[1:],
		"?repository=lone":                  ids[:1],
		"?status=pending":                   ids[:1],
		"?status=succeeded&status=pending":  ids,
		"?status=failed":                    nil,
		"?group=web&status=pending&limit=1": nil,
	} {
		if got := list(query); got != strings.Join(want, " ") {
			t.Errorf("%s: %s, want %s", query, got, strings.Join(want, " "))
		}
	}
	f.want("GET", Prefix+"/rollouts?status=failed", "", 200, `{"items":[]}`)
}

func TestWhy(t *testing.T) {
	f := newFixture(t)
	r := f.claim(f.move("web", "shop@main:a"), "shop")
	f.end(r, sentry.Failed)
	story := func(query string) Story {
		return decodeAs[Story](t, f.want("GET", Prefix+"/why?"+query, "", 200))
	}
	for _, c := range []struct{ query, kind, name, now string }{
		{"about=web", "group", "web", "Group web is idle; its last rollout " + r.ID + " failed 1m ago because of the test."},
		{"about=shop", "repository", "shop", "Repository shop belongs to group web."},
		{"repository=shop", "repository", "shop", "It is asked over Git, which costs nothing."},
		{"about=lone", "group", "lone", "Group lone is idle; it has not been rolled out yet."},
		{"repository=lone", "repository", "lone", "Repository lone is a group of its own."},
		{"about=1", "rollout", r.ID, "Rollout " + r.ID + " of group web failed"},
		{"rollout=" + r.ID, "rollout", r.ID, "of the test."},
	} {
		s := story(c.query)
		if s.About != (About{c.kind, c.name}) || !strings.Contains(s.Now, c.now) {
			t.Errorf("%s: %+v: %s; want %s", c.query, s.About, s.Now, c.now)
		}
	}
	s := story("about=web")
	var verbs []string
	for _, d := range s.Items {
		verbs = append(verbs, string(d.Verb))
	}
	if len(verbs) < 4 || verbs[len(verbs)-1] != "finished" || !slices.Contains(verbs, "moved") || !slices.Contains(verbs, "claimed") {
		t.Errorf("decisions %q", verbs)
	}
	if s := story("about=web&limit=1"); len(s.Items) != 1 || s.Items[0].Verb != sentry.Finished {
		t.Errorf("the newest decision: %+v", s.Items)
	}
	// A group that was configured once has a story as long as the ledger knows it.
	f.config.Groups = f.config.Groups[1:]
	f.config.Repositories = f.config.Repositories[2:]
	if s := story("about=web"); s.About.Kind != "group" || len(s.Items) == 0 || s.Now != "Group web is not configured any more." {
		t.Errorf("a group of the past: %+v", s)
	}
	if s := story("about=shop"); s.About.Kind != "repository" || len(s.Items) == 0 {
		t.Errorf("a repository of the past: %+v", s)
	}
}

func TestServerHasLimits(t *testing.T) {
	s := New(Options{Store: newFixture(t).store, Log: slog.New(slog.DiscardHandler)})
	if s.ReadHeaderTimeout == 0 || s.IdleTimeout == 0 || s.MaxHeaderBytes == 0 || s.ErrorLog == nil {
		t.Errorf("%+v", s)
	}
	w := httptest.NewRecorder()
	s.Handler.ServeHTTP(w, httptest.NewRequest("GET", "/healthz", nil))
	if body, _ := io.ReadAll(w.Body); w.Code != 200 || string(body) != "{\"status\":\"ok\"}\n" {
		t.Errorf("healthz: %d %s", w.Code, body)
	}
}

// BenchmarkStatus is the status of 10,000 groups with 10 watches each.
func BenchmarkStatus(b *testing.B) {
	s, err := store.Open(b.Context(), store.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	main, err := sentry.ParsePattern("b*")
	if err != nil {
		b.Fatal(err)
	}
	cfg := &config.Config{}
	for i := range 10_000 {
		name := fmt.Sprintf("r%d", i)
		cfg.Groups = append(cfg.Groups, config.Group{Name: name})
		cfg.Repositories = append(cfg.Repositories, config.Repository{Name: name, Group: name, Monitor: config.Monitor{Branches: []sentry.Pattern{main}}})
		var list []store.Observation
		for j := range 10 {
			list = append(list, store.Observation{Watch: sentry.Watch{Repository: name, Branch: fmt.Sprintf("b%d", j)}, Revision: sentry.Revision{Commit: commit("a")}, Group: name})
		}
		if _, err := s.RecordChanges(b.Context(), list); err != nil {
			b.Fatal(err)
		}
	}
	h := Handler(Options{Store: s, Config: func() *config.Config { return cfg }})
	b.ResetTimer()
	for b.Loop() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", Prefix+"/status", nil))
		if w.Code != 200 {
			b.Fatal(w.Body)
		}
		b.ReportMetric(float64(w.Body.Len()), "bytes")
	}
}
