package config

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sentry/internal/sentry"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the .want files of testdata anew")

// canary must not be in any message, however wrong the place that a configuration puts it into.
const canary = "k3y.0123-ab_cd/ef-zz"

// environ is what the files in testdata expect.
var environ = []string{
	"HOME=/home/me",
	"GITHUB_USERNAME=octo", "GITHUB_TOKEN=ghp_token", "GITLAB_USERNAME=fox", "GITLAB_TOKEN=glpat_token",
	"GITEA_TOKEN=gitea_token", "HOOK_SECRET=hook_secret", "DB_PASS=", "WORDS=a: b # c ${HOME}",
	"CANARY_TOKEN=" + canary, "EMPTY=", "MULTILINE=one\ntwo", "MINUS=-3", "TEAM_NAME=team",
}

func yamlFiles(t *testing.T, folder string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", folder, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in testdata/%s: %v", folder, err)
	}
	return files
}

func parseFile(t *testing.T, file string) (*Config, Problems, error) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return Parse(filepath.Base(file), data, Options{Environ: environ})
}

func TestGoodFiles(t *testing.T) {
	for _, file := range yamlFiles(t, "good") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c, warnings, err := parseFile(t, file)
			if err != nil {
				t.Fatal(err)
			}
			if len(warnings) > 0 {
				t.Errorf("warnings:\n%v", warnings)
			}
			if len(c.Repositories) == 0 {
				t.Error("no repositories")
			}
		})
	}
}

// TestBadFiles compares what is reported for each file with the .want beside it, line by line.
func TestBadFiles(t *testing.T) {
	for _, file := range yamlFiles(t, "bad") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c, _, err := parseFile(t, file)
			var problems Problems
			if c != nil || !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("got %v and %v, want no configuration and its problems", c, err)
			}
			compareWant(t, file, problems)
		})
	}
}

// TestSuspiciousFiles does the same for files that are right but draw warnings.
func TestSuspiciousFiles(t *testing.T) {
	for _, file := range yamlFiles(t, "suspicious") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			_, warnings, err := parseFile(t, file)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range warnings {
				if !w.Warning {
					t.Errorf("%v is not marked as a warning", w)
				}
			}
			compareWant(t, file, warnings)
		})
	}
}

func compareWant(t *testing.T, file string, problems Problems) {
	t.Helper()
	got := problems.Error() + "\n"
	for i := range len(canary) - 5 {
		if strings.Contains(got, canary[i:i+6]) {
			t.Fatalf("a secret is repeated:\n%s", got)
		}
	}
	if strings.Contains(got, "hunter2") {
		t.Fatalf("a password is repeated:\n%s", got)
	}
	want := strings.TrimSuffix(file, ".yaml") + ".want"
	if *update {
		if err := os.WriteFile(want, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	expected, err := os.ReadFile(want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(expected), got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestSeed(t *testing.T) {
	c, _, err := parseFile(t, "testdata/good/seed-architecture.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := Group{
		Name: "ai-blueprints", QuietPeriod: time.Second, Report: "changed", ReportTo: "upstream", Executor: "local",
		Policy: sentry.Policy{
			Strategy: sentry.Parallel, MaxParallel: 3, ContinueOnError: true, Timeout: sentry.Duration(900 * time.Second),
			Scope: sentry.ScopeGroup, Queue: sentry.Latest, OnInterrupt: sentry.Retry,
		},
	}
	if diff := cmp.Diff([]Group{want}, c.Groups); diff != "" {
		t.Errorf("groups: -want +got:\n%s", diff)
	}
	r, ok := c.Repository("rag-project")
	if !ok || r.Group != "ai-blueprints" {
		t.Fatalf("repository %+v, %v", r, ok)
	}
	if got := r.Monitor.Remote.String(); got != "https://github.com/johnnynv/rag" {
		t.Errorf("monitored address %s", got)
	}
	if len(r.Monitor.Branches) != 2 || r.Monitor.Branches[0].String() != "main" || r.Monitor.Branches[1].String() != "dev" {
		t.Errorf("branches %v", r.Monitor.Branches)
	}
	if got := r.Monitor.Auth; got.Username != "octo" || got.Token.Reveal() != "ghp_token" {
		t.Errorf("monitor.auth is %s and %q", got.Username, got.Token.Reveal())
	}
	if got := r.Deploy; got.Remote.Path() != "/..." || got.Branch != "rag-tekton-workflow" || got.Type != "gitlab" || got.ProjectName != "rag" {
		t.Errorf("deploy: %+v", got)
	}
	command := r.Deploy.Commands[0]
	if command.Run != "cd .tekton/rag && export TMPDIR=/tmp/sentry && bash scripts/container-deployment-pipeline-onclick.sh" || command.Timeout != 300*time.Second {
		t.Errorf("command %+v", command)
	}
	if c.PollingInterval != time.Minute || r.Monitor.Interval != time.Minute {
		t.Errorf("intervals %v, %v", c.PollingInterval, r.Monitor.Interval)
	}
}

// TestEveryKeyArrives reads a file that sets every key away from its default, and looks where each went.
func TestEveryKeyArrives(t *testing.T) {
	c, _, err := parseFile(t, "testdata/good/every-key.yaml")
	if err != nil {
		t.Fatal(err)
	}
	folder, _ := filepath.Abs(".")
	global := c.Global
	if got := global.WebhookURL.Reveal(); got != "https://hooks.example.org/services/T000/hook_secret" {
		t.Errorf("webhook %s", got)
	}
	if got := global.WebhookSecret; got.Path != filepath.Join(folder, "secrets/hooks") || got.file == nil {
		t.Errorf("secret of webhooks %+v", got)
	}
	global.WebhookURL, global.WebhookSecret = sentry.Secret{}, SecretFile{}
	if diff := cmp.Diff(Global{
		LogLevel: "debug", LogFormat: "json", Timeout: 10 * time.Minute, Grace: 5 * time.Second, StateDir: filepath.Join(folder, "state"),
		TmpDir: "/var/tmp/sentry", Cleanup: false, Listen: "127.0.0.1:8080", Metrics: "open", AllowInsecureHTTP: true, AllowLocalRepositories: true,
		PublicURL: "https://sentry.example.org/here",
		History:   History{RolloutsPerGroup: 50, LedgerEntries: 5000, LogDays: 14},
	}, global, cmp.Comparer(func(a, b sentry.Secret) bool { return a == b }), cmp.Comparer(func(a, b SecretFile) bool { return a == b })); diff != "" {
		t.Errorf("global: -want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]Host{{
		Origin: "http://127.0.0.1:3000", RequestsPerHour: 7200, Concurrency: 4,
	}, {
		Origin: "https://git.example.org:443", CAFile: "/etc/ssl/example.pem",
		CertFile: filepath.Join(folder, "keys/client.crt"), KeyFile: filepath.Join(folder, "keys/client.key"),
	}}, c.Hosts); diff != "" {
		t.Errorf("hosts: -want +got:\n%s", diff)
	}
	jobs := everyJobKey()
	if diff := cmp.Diff(&Kubernetes{
		Kubeconfig: filepath.Join(folder, "keys/kubeconfig"), Context: "staging", Namespaces: []string{"qa", "qa-api"},
		Impersonate: "system:serviceaccount:qa:deployer", Jobs: &jobs,
	}, c.Kubernetes); diff != "" {
		t.Errorf("kubernetes: -want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]Group{{
		Name: "services", QuietPeriod: 500 * time.Millisecond, Report: "all", ReportTo: "both", Executor: "kubernetes",
		Policy: sentry.Policy{
			Strategy: sentry.Sequential, MaxParallel: 8, ContinueOnError: false, Timeout: sentry.Duration(90 * time.Minute),
			Scope: sentry.ScopeChanged, Queue: sentry.Every, OnInterrupt: sentry.Hold,
		},
	}, {
		Name: "local", Implicit: true, QuietPeriod: time.Second, Policy: initialGroup("").Policy, Report: "changed", ReportTo: "upstream", Executor: "local",
	}}, c.Groups); diff != "" {
		t.Errorf("groups: -want +got:\n%s", diff)
	}
	api := c.Repositories[0]
	if m := api.Monitor; m.APIURL != "http://127.0.0.1:3000/api/v1" || m.Type != "gitea" || m.Interval != 5*time.Minute || m.OnFirstSeen != "deploy" {
		t.Errorf("monitor: %+v", m)
	}
	if !api.Monitor.Branches[1].Match("release/1") || !api.Monitor.Branches[2].Match("v1.2-draft") {
		t.Errorf("branches %v do not match", api.Monitor.Branches)
	}
	if d := api.Deploy; d.Timeout != 20*time.Minute || d.ProjectName != "api-tests" || d.Auth.SSHKeyFile != filepath.Join(folder, "keys/id_ed25519") ||
		d.Auth.KnownHostsFile != filepath.Join(folder, "keys/known_hosts") {
		t.Errorf("deploy: %+v", d)
	}
	if d := api.Deploy; d.Track != TrackOff || d.OwnKubeconfig() ||
		!cmp.Equal(d.Kubernetes, DeployKubernetes{Namespaces: []string{"qa-api"}, Impersonate: "system:serviceaccount:qa-api:deployer"}) {
		t.Errorf("track %q, kubernetes %+v", d.Track, d.Kubernetes)
	}
	env := map[string]string{}
	for _, v := range api.Deploy.Env {
		env[v.Name] = v.Value.Reveal()
	}
	if diff := cmp.Diff(map[string]string{
		"REPLICAS": "3", "DEBUG": "true", "VERSION": "1.10", "PRICE": "$5 and $$5 and ${NOT}", "DATABASE_PASSWORD": "a default", "PLAIN": "a: b # c ${HOME}",
	}, env); diff != "" {
		t.Errorf("env: -want +got:\n%s", diff)
	}
	type command struct {
		Name, Run string
		Timeout   time.Duration
		Retries   int
	}
	var commands []command
	for _, c := range api.Deploy.Commands {
		commands = append(commands, command{c.Name, c.Run, c.Timeout, c.Retries})
	}
	if diff := cmp.Diff([]command{
		{`for f in *; do echo "$f" ${HOME} $${x}…`, `for f in *; do echo "$f" ${HOME} $${x} $(id); done`, 10 * time.Minute, 0},
		{"test ${NOT_EXPANDED}", "./test.sh \"$PROJECT\"\necho ${UNSET_IN_THE_FILE}\n", 2 * time.Minute, 2},
	}, commands); diff != "" {
		t.Errorf("commands: -want +got:\n%s", diff)
	}
	if got := api.Monitor.WebhookSecret; got.Path != filepath.Join(folder, "secrets/hooks-of-api") || got.file == nil {
		t.Errorf("secret of webhooks %+v", got)
	}
	app := App{ID: 12345, Installation: 87654321, KeyFile: filepath.Join(folder, "keys/app.pem")}
	if public := c.Repositories[4]; *public.Monitor.Auth.App != app || *public.Deploy.Auth.App != app || public.Monitor.Type != "github" {
		t.Errorf("apps %+v, %+v of %s", public.Monitor.Auth.App, public.Deploy.Auth.App, public.Monitor.Type)
	}
	worker := c.Repositories[3]
	if worker.Monitor.Auth.TokenFile != filepath.Join(folder, "secrets/token") || worker.Deploy.Auth.TokenFile != worker.Monitor.Auth.TokenFile {
		t.Errorf("token files %q, %q", worker.Monitor.Auth.TokenFile, worker.Deploy.Auth.TokenFile)
	}
}

func TestQuestions(t *testing.T) {
	c, _, err := parseFile(t, "testdata/good/every-key.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// A Config that was written by hand answers alike.
	byHand := &Config{Groups: c.Groups, Repositories: c.Repositories}
	for _, c := range []*Config{c, byHand} {
		if g, ok := c.Group("local"); !ok || !g.Implicit {
			t.Errorf("Group(local) = %v, %v", g, ok)
		}
		if r, ok := c.Repository("worker"); !ok || r.Name != "worker" {
			t.Errorf("Repository(worker) = %v, %v", r, ok)
		}
		if _, ok := c.Group("worker"); ok {
			t.Error("there is a group worker")
		}
		if _, ok := c.Repository("services"); ok {
			t.Error("there is a repository services")
		}
		var names []string
		for _, r := range c.Members("services") {
			names = append(names, r.Name)
		}
		if !slices.Equal(names, []string{"api", "infra", "worker", "public"}) {
			t.Errorf("members %v", names)
		}
		if got := c.Members("nobody"); len(got) != 0 {
			t.Errorf("members of nobody: %v", got)
		}
	}
}

func TestSecrets(t *testing.T) {
	c, _, err := parseFile(t, "testdata/good/every-key.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, s := range c.Secrets() {
		got[s.Reveal()] = true
	}
	want := map[string]bool{"https://hooks.example.org/services/T000/hook_secret": true, "gitea_token": true, "glpat_token": true, "a default": true}
	if !maps.Equal(got, want) {
		t.Errorf("secrets %v, want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

// A token that a sensitive variable puts into one of an innocent name is masked, too.
func TestEnvFromSensitiveVariable(t *testing.T) {
	c, _, err := Parse("x.yaml", []byte(strings.Replace(minimal, "commands", "env: {A: 'x-${GITHUB_TOKEN}', B: '${WORDS}'}\n      commands", 1)), Options{Environ: environ})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range c.Secrets() {
		got = append(got, s.Reveal())
	}
	if !slices.Equal(got, []string{"x-ghp_token"}) {
		t.Errorf("secrets %q", got)
	}
}

const minimal = `repositories:
  - name: app
    monitor:
      repo_url: https://git.example.org/team/app
      branches: [main]
    deploy:
      qa_repo_url: https://git.example.org/qa/tests
      qa_repo_branch: main
      commands: [./run.sh]
`

func TestIgnoreUnset(t *testing.T) {
	text := strings.Replace(minimal, "git.example.org/team", "${FORGE}/team", 1) + "polling_interval: ${INTERVAL}\n"
	c, warnings, err := Parse("x.yaml", []byte(text), Options{Environ: []string{}, IgnoreUnset: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 2 || !strings.Contains(warnings.Error(), "FORGE is not set") || !strings.Contains(warnings.Error(), "INTERVAL is not set") {
		t.Errorf("warnings:\n%v", warnings)
	}
	if c.PollingInterval != time.Minute {
		t.Errorf("the interval is %v, not the default", c.PollingInterval)
	}
	if _, _, err = Parse("x.yaml", []byte(text+"x: 1\n"), Options{Environ: []string{}, IgnoreUnset: true}); err == nil {
		t.Error("another mistake passes")
	}
}

func TestStateDir(t *testing.T) {
	here, _ := filepath.Abs(".")
	inFile := minimal + "global: {state_dir: here}\n"
	tests := []struct {
		name, text, option string
		environ            []string
		state, tmp         string
	}{
		{"home", minimal, "", []string{"HOME=/home/me"}, "/home/me/.local/state/sentry", ""},
		{"xdg", minimal, "", []string{"HOME=/home/me", "XDG_STATE_HOME=/var/state"}, "/var/state/sentry", ""},
		{"relative xdg is ignored", minimal, "", []string{"HOME=/home/me", "XDG_STATE_HOME=state"}, "/home/me/.local/state/sentry", ""},
		{"no home", minimal, "", []string{}, "/var/lib/sentry", ""},
		{"root without a home", minimal, "", []string{"HOME=/"}, "/var/lib/sentry", ""},
		{"file", inFile, "", nil, "/etc/sentry/here", ""},
		{"option over file", inFile, "/srv/state", nil, "/srv/state", ""},
		{"relative option", inFile, "state", nil, filepath.Join(here, "state"), ""},
		{"tmp_dir", minimal + "global: {tmp_dir: /fast}\n", "/srv/state", nil, "/srv/state", "/fast"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, _, err := Parse("/etc/sentry/sentry.yaml", []byte(tt.text), Options{Environ: tt.environ, StateDir: tt.option})
			if err != nil {
				t.Fatal(err)
			}
			if tt.tmp == "" {
				tt.tmp = tt.state + "/workspaces"
			}
			if c.Global.StateDir != tt.state || c.Global.TmpDir != tt.tmp {
				t.Errorf("state in %s, workspaces in %s; want %s, %s", c.Global.StateDir, c.Global.TmpDir, tt.state, tt.tmp)
			}
		})
	}
	t.Setenv("XDG_STATE_HOME", "/var/state")
	if got := DefaultStateDir(); got != "/var/state/sentry" {
		t.Errorf("DefaultStateDir() = %s", got)
	}
}

func TestLoad(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "sentry.yaml")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("sentry.yaml", strings.Replace(minimal, "branches", "auth: {token: \"${A_TOKEN}\", username: \"${A_USER}\"}\n      branches", 1))
	write(".env", "# comment\nA_TOKEN='from # file'\nexport A_USER=fileuser\n")

	_, _, err := Load(file, Options{Environ: []string{}})
	if err == nil || !strings.Contains(err.Error(), "white space") {
		t.Errorf("a token with a space: %v", err)
	}
	write(".env", "A_TOKEN=from_file\nexport A_USER=fileuser\n")
	c, warnings, err := Load(file, Options{Environ: []string{"A_TOKEN=from_environment"}})
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	if auth := c.Repositories[0].Monitor.Auth; auth.Token.Reveal() != "from_environment" || auth.Username != "fileuser" {
		t.Errorf("token %q, user %q: .env must not override the environment", auth.Token.Reveal(), auth.Username)
	}
	if c.File != file {
		t.Errorf("File is %s", c.File)
	}

	// The environment of the process is used where none is given.
	t.Setenv("A_TOKEN", "of_the_process")
	if c, _, err = Load(file, Options{}); err != nil || c.Repositories[0].Monitor.Auth.Token.Reveal() != "of_the_process" {
		t.Errorf("with the environment of the process: %v", err)
	}
}

func TestLoadReportsDotenvAndFileAtOnce(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "sentry.yaml")
	dotenv := filepath.Join(folder, ".env")
	text := minimal + "polling_interval: -1\nwebhook_url: ${HOOK}\n"
	if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.WriteFile(dotenv, []byte("A=1\nB='hunter2\nC=hunter3\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	c, _, err := Load(file, Options{Environ: []string{}})
	var problems Problems
	if c != nil || !errors.As(err, &problems) || len(problems) != 2 {
		t.Fatalf("got %v, %v", c, err)
	}
	if problems[0].File != dotenv || problems[0].Line != 2 || problems[1].Path != "polling_interval" {
		t.Errorf("problems:\n%v", problems)
	}
	if strings.Contains(err.Error(), "hunter") {
		t.Errorf("a secret is repeated: %v", err)
	}
}

func TestLoadOfWhatIsNoFile(t *testing.T) {
	folder := t.TempDir()
	if _, _, err := Load(filepath.Join(folder, "none.yaml"), Options{}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "none.yaml: cannot be read") {
		t.Errorf("missing: %v", err)
	}
	if _, _, err := Load(folder, Options{}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder: %v", err)
	}
	big := filepath.Join(folder, "big.yaml")
	if err := os.WriteFile(big, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, MaxSize+1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(big, Options{}); err == nil || !strings.Contains(err.Error(), "more than 16777216 bytes") {
		t.Errorf("big: %v", err)
	}
}

func TestLoadWarnsOfTokenFile(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "sentry.yaml")
	text := strings.Replace(minimal, "branches", "auth: {token_file: secrets/token}\n      branches", 1)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, warnings, err := Load(file, Options{})
	if err != nil || len(warnings) != 1 || warnings[0].Path != "repositories[0].monitor.auth.token_file" {
		t.Fatalf("without the file: %v, %v", warnings, err)
	}
	if err := errors.Join(os.Mkdir(filepath.Join(folder, "secrets"), 0o700), os.WriteFile(filepath.Join(folder, "secrets/token"), []byte("abc\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	c, warnings, err := Load(file, Options{})
	if err != nil || len(warnings) != 0 {
		t.Fatalf("with the file: %v, %v", warnings, err)
	}
	if got := c.Secrets(); len(got) != 1 || got[0].Reveal() != "abc" {
		t.Errorf("%d secrets; what the token file holds must be masked from the start", len(got))
	}
}

func TestLoadWarnsOfWebhookSecret(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "sentry.yaml")
	text := strings.Replace(minimal, "branches", "webhook_secret_file: own\n      branches", 1) + "global: {listen: '127.0.0.1:0', webhook_secret_file: all}\n"
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("sentry.yaml", text)
	write("own", "hunter2-hunter2\n")
	_, warnings, err := Load(file, Options{})
	if err != nil || len(warnings) != 2 || strings.Contains(warnings.Error(), "hunter2") {
		t.Fatalf("%v, %v", warnings, err)
	}
	if warnings[0].Path != "global.webhook_secret_file" || !strings.Contains(warnings[0].Message, "the webhook secret file "+filepath.Join(folder, "all")+" cannot be read") {
		t.Errorf("of a missing file: %v", warnings[0])
	}
	if warnings[1].Path != "repositories[0].monitor.webhook_secret_file" || !strings.Contains(warnings[1].Message, "less than 16 bytes") {
		t.Errorf("of a short secret: %v", warnings[1])
	}

	write("own", "0123456789abcdef")
	write("all", "fedcba9876543210\n")
	c, warnings, err := Load(file, Options{})
	if err != nil || len(warnings) != 0 {
		t.Fatalf("%v, %v", warnings, err)
	}
	known := c.Secrets()
	if len(known) != 2 {
		t.Errorf("%d secrets; what the files hold must be masked from the start", len(known))
	}
	for _, want := range []string{"own", "all"} {
		if !slices.Contains(c.CredentialFiles(), filepath.Join(folder, want)) {
			t.Errorf("%s is not among the files that hold secrets: %v", want, c.CredentialFiles())
		}
	}
	write("all", "another-secret-of-them\n")
	if got, err := c.Global.WebhookSecret.Secret(); err != nil || got.Reveal() != "another-secret-of-them" {
		t.Errorf("after a change: %q, %v", got.Reveal(), err)
	}
	if got, err := (SecretFile{}).Secret(); err != nil || !got.Empty() {
		t.Errorf("without a file: %q, %v", got.Reveal(), err)
	}
}

func TestCredentialFiles(t *testing.T) {
	c, _, err := parseFile(t, "testdata/good/every-key.yaml")
	if err != nil {
		t.Fatal(err)
	}
	folder, _ := filepath.Abs(".")
	var got []string
	for _, path := range c.CredentialFiles() {
		got = append(got, strings.TrimPrefix(path, folder+"/"))
	}
	want := []string{"secrets/hooks", "keys/kubeconfig", "keys/client.key", "secrets/hooks-of-api", "keys/id_ed25519", "secrets/token", "keys/app.pem"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A private key is masked line by line, but not what every key begins and ends with.
func TestPrivateKeysAreSecret(t *testing.T) {
	folder := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := func(text string) string {
		return "-----BEGIN PRIVATE KEY-----\n" + text + "\n-----END PRIVATE KEY-----\n"
	}
	text := strings.Replace(minimal, "https://git.example.org/team/app", "https://github.com/team/app", 1)
	text = strings.Replace(text, "branches: [main]", fmt.Sprintf(
		"branches: [main]\n      auth: {app: {id: 1, installation: 2, private_key_file: %q}}", write("app.pem", key("MIIEvgIBADANBgkq\nhkiG9w0BAQEFAASC"))), 1)
	text += fmt.Sprintf("hosts:\n  - {url: https://h.example, client_cert_file: %q, client_key_file: %q}\n", write("cert", "x"), write("key", key("MIIEvQIBADANBgkqhkiG9w0BAQEF")))
	c, warnings, err := Load(write("sentry.yaml", text), Options{})
	if err != nil {
		t.Fatalf("%v, %v", warnings, err)
	}
	var got []string
	for _, secret := range c.Secrets() {
		got = append(got, secret.Reveal())
	}
	slices.Sort(got)
	want := []string{"MIIEvQIBADANBgkqhkiG9w0BAQEF", "MIIEvgIBADANBgkq\nhkiG9w0BAQEFAASC"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// What a host tells of itself is the default of repo_type; whoever knows better says so.
func TestTypeOfServer(t *testing.T) {
	for url, want := range map[string]string{
		"https://github.com/a/b": "github", "git@github.com:a/b": "github", "https://GitHub.com/a/b": "github", "https://gitlab.com/a/b": "gitlab",
		"https://codeberg.org/a/b": "gitea", "https://git.example.org/a/b": "git", "https://github.com.example.org/a/b": "git", "https://github.com:8443/a/b": "git",
	} {
		text := strings.Replace(minimal, "https://git.example.org/team/app", url, 1)
		c, _, err := Parse("x.yaml", []byte(text), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Repositories[0]; got.Monitor.Type != want || got.Deploy.Type != "git" {
			t.Errorf("%s is of the kind %q, want %q; the QA repository %q", url, got.Monitor.Type, want, got.Deploy.Type)
		}
		c, _, err = Parse("x.yaml", []byte(strings.Replace(text, "branches", "repo_type: git\n      branches", 1)), Options{})
		if err != nil || c.Repositories[0].Monitor.Type != "git" {
			t.Errorf("%s with repo_type git: %v", url, err)
		}
	}
}

// TestExample loads the example at the root with the variables that env.example proposes.
func TestExample(t *testing.T) {
	variables, err := os.ReadFile("../../env.example")
	if err != nil {
		t.Fatal(err)
	}
	parsed, problem := parseDotenv("env.example", variables)
	if problem != nil {
		t.Fatal(problem)
	}
	environ := []string{"HOME=/home/me"}
	for name, value := range parsed {
		environ = append(environ, name+"="+value)
	}
	data, err := os.ReadFile("../../sentry.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, warnings, err := Parse("sentry.yaml", data, Options{Environ: environ})
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%v\n%v", warnings, err)
	}
	if len(c.Repositories) < 2 || len(c.Groups) < 1 {
		t.Errorf("the example has %d repositories and %d groups", len(c.Repositories), len(c.Groups))
	}
	// Every variable that env.example proposes is used.
	for name := range parsed {
		if !strings.Contains(string(data), "${"+name) {
			t.Errorf("env.example has %s, which sentry.yaml does not use", name)
		}
	}
}

// However many warnings there are, the configuration is read to its end.
func TestWarningsAreBounded(t *testing.T) {
	var text strings.Builder
	text.WriteString("repositories:\n")
	const repositories = 3 * maxProblems
	for i := range repositories {
		fmt.Fprintf(&text, "- {name: r%d, monitor: {repo_url: \"https://git.example.org/r\", branches: [main], auth: {token: literal}}, deploy: {qa_repo_url: \"https://git.example.org/q\", qa_repo_branch: main, commands: [x]}}\n", i)
	}
	c, warnings, err := Parse("x.yaml", []byte(text.String()), Options{})
	if err != nil || len(c.Repositories) != repositories || c.Repositories[repositories-1].Name == "" {
		t.Fatalf("%v, %+v", err, c)
	}
	if len(warnings) != maxProblems+1 || warnings[maxProblems].String() != "x.yaml: warning: there are more than 100 warnings" {
		t.Errorf("%d warnings, the last %v", len(warnings), warnings[len(warnings)-1])
	}
}

func TestProblemsAreBounded(t *testing.T) {
	var text strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&text, "key%d: 1\n", i)
	}
	_, _, err := Parse("x.yaml", []byte(text.String()), Options{})
	var problems Problems
	if !errors.As(err, &problems) || len(problems) != maxProblems+1 || !strings.Contains(problems[maxProblems].Message, "more than 100 problems") {
		t.Errorf("%d problems, the last %v", len(problems), problems[len(problems)-1])
	}
}
