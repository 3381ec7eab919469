package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sentry/bench/internal/child"
	"sentry/bench/internal/measure"
	"sentry/internal/git/gittest"
)

const (
	pairs     = 15
	fewPairs  = 5 // with the large repository, of which a clone takes seconds
	smallSize = 160
	largeSize = 20_000

	goalFaster = 8 // than clone and sh, with the small repository
	goalGrowth = 3 // times as long, with the large one
)

// TestRatios moves the branch of an upstream repository, and takes the time from the moment at which Sentry has recorded
// that until its command writes its first byte, in a tree that is what the QA branch is at then. Beside it stands
// `git clone --depth 1` of the same QA repository from the same server, and a command of sh in that. Both do it in turn.
//
// Both sides pay the server, a git http-backend of some 4 ms a request: the clone three times, Sentry once. Sentry puts its
// question when it has found the change, and while it asks the upstream's server who made the commit; so the answer is
// mostly there when the change is recorded, and the time from then on is Sentry's own. How long before it asked is in the
// table, and the time since then as well. For a rollout that a person asks for, the answer is waited for after the request.
func TestRatios(t *testing.T) {
	machine := measure.Alone(t)
	folder := t.TempDir()
	server := child.Start(t, "git server", "", folder)
	var url string
	server.Read(&url)
	small, large := newSubject(t, server, folder, url, "small", smallSize), newSubject(t, server, folder, url, "large", largeSize)

	state := filepath.Join(t.TempDir(), "state")
	config := fmt.Sprintf("polling_interval: 1s\nglobal: {state_dir: %q, allow_insecure_http: true, log_format: json}\n", state) +
		"groups: {small: {quiet_period: 0}, large: {quiet_period: 0}}\nrepositories:\n" + small.config() + large.config()
	d := startSentry(t, config, state)
	subjects := []*subject{small, large}
	for range 2 { // what is done for the first time is done for the first time only
		for _, s := range subjects {
			d.rest(len(subjects))
			s.sentry(t, d)
			s.clone(t)
		}
	}
	for i := range pairs {
		for _, s := range subjects {
			d.rest(len(subjects))
			s.runs = append(s.runs, s.sentry(t, d))
			d.rest(len(subjects))
			s.shells = append(s.shells, s.shell(t))
			if s == small || i < fewPairs {
				s.clones = append(s.clones, s.clone(t))
			}
		}
	}

	table := measure.Table{
		Title:   fmt.Sprintf("Deploy: from a recorded change to the first byte of its command, in a tree that is checked to be fresh: medians of %d in turn (%d clones of the larger)\n  (%s)", pairs, fewPairs, machine),
		Columns: []string{"files", "Sentry", "from", "to", "claimed", "tree", "command", "asked before", "since asked", "git clone + sh", "from", "to", "faster", "requests", "bytes", "sh alone"},
	}
	for _, s := range subjects {
		low, high := measure.Quartiles(s.all(total))
		cloneLow, cloneHigh := measure.Quartiles(s.cloneTimes())
		table.Row(s.files, s.median(total), low, high, s.median(claiming), s.median(planting), s.median(starting), s.median(asking), s.median(sinceAsked),
			measure.Median(s.cloneTimes()), cloneLow, cloneHigh, measure.Times(s.faster()),
			fmt.Sprintf("%d to %d", s.runs[0].traffic.Requests, s.clones[0].traffic.Requests),
			fmt.Sprintf("%s to %s", measure.Count(s.runs[0].traffic.Bytes), measure.Count(s.clones[0].traffic.Bytes)), measure.Median(s.shells))
	}
	table.Note("claimed, tree, command: the parts of Sentry's time, until the rollout is claimed, its tree is there, its command writes.")
	table.Note("asked before: how long before the change was recorded the server got the question what the QA branch is; since asked: from there to the first byte.")
	table.Note("requests, bytes: of the QA repository, by Sentry and by the clone. The tree was prepared ahead; the next one is when the command runs.")
	growth := float64(large.median(total)) / float64(small.median(total))
	table.Note("%d files: %s as fast as clone and sh; goal at least %d×: %s", smallSize, measure.Times(small.faster()), goalFaster, measure.Verdict(small.faster() >= goalFaster))
	table.Note("%s files: %s as long as %d; goal at most %d×: %s", measure.Count(largeSize), measure.Times(growth), smallSize, goalGrowth, measure.Verdict(growth <= goalGrowth))
	table.Print()

	for _, s := range subjects {
		for _, r := range s.runs {
			if r.traffic.Requests != 1 {
				t.Errorf("with %d files a deployment took %d requests; it takes one, for what the branch is now, while a tree is ready", s.files, r.traffic.Requests)
			}
		}
	}
}

// subject is a repository that is watched, and its QA repository.
type subject struct {
	name         string
	files        int
	folder       string // for the witness and for clones
	upstream, qa *gittest.Repo
	server       *child.Process
	first        *os.File // a FIFO: the first byte of a command
	commits      int

	runs   []run
	clones []cloned
	shells []time.Duration
}

// run is one rollout by Sentry: when what was done.
type run struct {
	recorded, claimed, planted, wrote time.Time
	traffic                           traffic // of the QA repository
}

// cloned is one clone, and a command in it.
type cloned struct {
	took    time.Duration
	traffic traffic
}

func newSubject(t *testing.T, server *child.Process, folder, url, name string, files int) *subject {
	t.Helper()
	s := &subject{name: name, files: files, folder: t.TempDir(), server: server}
	s.upstream = gittest.NewRepo(t, filepath.Join(folder, name+".git"), url+"/"+name+".git")
	s.upstream.Commit(t, "main", map[string]string{"README": name}, "first")
	s.qa = gittest.NewRepo(t, filepath.Join(folder, name+"-qa.git"), url+"/"+name+"-qa.git")
	tree := make(map[string]string, files)
	for i := range files {
		path := fmt.Sprintf(".tekton/part-%03d/step-%02d.yaml", i/40, i%40)
		tree[path] = fmt.Sprintf("# %s\n%s", path, strings.Repeat("- a line of a pipeline, as long as such lines are\n", 20))
	}
	s.qa.Commit(t, "main", tree, "scripts")
	gittest.Git(t, s.qa.Dir, "gc", "-q") // the best that a server can have for a clone
	fifo := filepath.Join(s.folder, "first")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.first, err = os.OpenFile(fifo, os.O_RDWR, 0); err != nil { // read and write: whoever writes need not wait for us
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.first.Close() })
	return s
}

func (s *subject) witness() string { return filepath.Join(s.folder, "witness") }

// config is the repository in the configuration. The command checks its tree after its first byte.
func (s *subject) config() string {
	return fmt.Sprintf(`  - name: %s
    group: %[1]s
    monitor: {repo_url: %q, branches: [main], repo_type: git}
    deploy:
      qa_repo_url: %q
      qa_repo_branch: main
      repo_type: git
      env: {FIRST: %q, WITNESS: %q}
      commands:
        - |
          printf x > "$FIRST"
          { git rev-parse HEAD; git status --porcelain; git ls-files | wc -l; } > "$WITNESS"
`, s.name, s.upstream.URL, s.qa.URL, s.first.Name(), s.witness())
}

func (s *subject) traffic() (t traffic) {
	s.server.Ask(s.name+"-qa.git", &t)
	return t
}

// byte waits for the first byte of a command.
func (s *subject) byte(t *testing.T) time.Time {
	t.Helper()
	if err := s.first.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.first.Read(make([]byte, 1)); err != nil {
		t.Fatalf("no byte of a command: %v", err)
	}
	return time.Now()
}

// sentry moves the upstream branch, and sees what Sentry does then.
func (s *subject) sentry(t *testing.T, d *sentryd) run {
	t.Helper()
	want := fmt.Sprintf("%s\n%d\n", s.qa.Head(t, "main"), s.files)
	d.forget()
	before := s.traffic()
	s.commits++
	s.upstream.Commit(t, "main", map[string]string{"README": fmt.Sprint(s.commits)}, "next")
	r := run{wrote: s.byte(t)}
	if end := d.wait(s.name, "rollout ended", ""); end.Status != "succeeded" {
		t.Fatalf("the rollout %s", end.Status)
	}
	r.traffic = s.traffic().minus(before)
	r.recorded = d.wait(s.name, "a head has moved", "").Time
	r.claimed = d.wait(s.name, "rollout begins", "").Time
	r.planted = d.wait(s.name, "step ended", "clone").Time
	got, err := os.ReadFile(s.witness())
	if err != nil || string(got) != want {
		t.Fatalf("the command found\n%s%v; want\n%s", got, err, want)
	}
	return r
}

// clone does the same work without Sentry.
func (s *subject) clone(t *testing.T) cloned {
	t.Helper()
	dir := filepath.Join(s.folder, "clone")
	before := s.traffic()
	start := time.Now()
	gittest.Git(t, "", "clone", "-q", "--depth", "1", "--branch", "main", s.qa.URL, dir)
	s.run(t, dir)
	c := cloned{took: s.byte(t).Sub(start), traffic: s.traffic().minus(before)}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	return c
}

// shell is what sh takes for its first byte.
func (s *subject) shell(t *testing.T) time.Duration {
	t.Helper()
	start := time.Now()
	s.run(t, s.folder)
	return s.byte(t).Sub(start)
}

func (s *subject) run(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", `printf x > "$FIRST"`)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "FIRST="+s.first.Name())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() })
}

func asking(r run) time.Duration     { return r.recorded.Sub(r.traffic.Asked) }
func sinceAsked(r run) time.Duration { return r.wrote.Sub(r.traffic.Asked) }

func total(r run) time.Duration    { return r.wrote.Sub(r.recorded) }
func claiming(r run) time.Duration { return r.claimed.Sub(r.recorded) }
func planting(r run) time.Duration { return r.planted.Sub(r.claimed) }
func starting(r run) time.Duration { return r.wrote.Sub(r.planted) }

func (s *subject) all(what func(run) time.Duration) (all []time.Duration) {
	for _, r := range s.runs {
		all = append(all, what(r))
	}
	return all
}

func (s *subject) median(what func(run) time.Duration) time.Duration {
	return measure.Median(s.all(what))
}

func (s *subject) cloneTimes() (all []time.Duration) {
	for _, c := range s.clones {
		all = append(all, c.took)
	}
	return all
}

func (s *subject) faster() float64 {
	return float64(measure.Median(s.cloneTimes())) / float64(s.median(total))
}
