//go:build linux

package crash

import (
	_ "embed"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"sentry/internal/git/gittest"
	"sentry/internal/sentry"
)

//go:embed testdata/witness.sh
var witnessScript string

// plan is what a world consists of.
type plan struct {
	groups   map[string]group
	policies map[string]string // of the groups, as in the configuration; none for an implicit one
	members  map[string]member
	branches []sentry.Watch    // that there are in the beginning
	watched  map[string]string // the branches of a repository as in the configuration, where that is not main alone
}

// everything is the plan of TestCrash: six repositories in three groups. What may vary without changing what is promised
// varies.
func everything(random *rand.Rand) plan {
	either := func(words ...string) string { return words[random.IntN(len(words))] }
	quiet := func() string { return fmt.Sprintf("%dms", random.IntN(400)) }
	return plan{
		groups: map[string]group{
			"p":    {limit: 2},
			"s":    {limit: 1, sequential: true, stop: true, every: true},
			"zeta": {limit: 3},
		},
		policies: map[string]string{
			"p": "execution_strategy: parallel, max_parallel: 2, queue: latest, trigger: " + either("group", "changed") + ", quiet_period: " + quiet(),
			"s": "execution_strategy: sequential, continue_on_error: false, queue: every, trigger: " + either("group", "changed") + ", quiet_period: " + quiet(),
		},
		members: map[string]member{
			"alpha": {group: "p", steps: 1, fresh: true}, "beta": {group: "p", steps: 2}, "gamma": {group: "p", steps: 1, retries: 1},
			"delta": {group: "s", steps: 1}, "epsilon": {group: "s", steps: 1}, "zeta": {group: "zeta", steps: 1},
		},
		branches: []sentry.Watch{
			{Repository: "alpha", Branch: "main"},
			{Repository: "alpha", Branch: "release/1"},
			{Repository: "beta", Branch: "main"},
			{Repository: "beta", Branch: "stable"},
			{Repository: "gamma", Branch: "main"},
			{Repository: "delta", Branch: "main"},
			{Repository: "epsilon", Branch: "main"},
			{Repository: "zeta", Branch: "main"},
		},
		watched: map[string]string{"alpha": `main, "release/*"`, "beta": "main, stable"},
	}
}

// world is what Sentry watches, and the QA repository that all of it shares. One goroutine at a time moves it.
type world struct {
	plan
	t      testing.TB
	random *rand.Rand
	server *gittest.Server
	repos  map[string]*gittest.Repo
	qa     *gittest.Repo
	say    writer

	forge  map[sentry.Watch][]string // what each watched branch had, oldest first
	gone   map[sentry.Watch]bool     // deleted now
	frozen map[sentry.Watch]time.Time
	trees  map[string]string // by commit of the QA repository
	serial int               // of the QA repository
	fails  string            // the first digits of the commits of delta whose command fails
	count  int               // of the commits made
}

// newWorld makes the repositories of a plan.
func newWorld(t testing.TB, p plan, random *rand.Rand, say writer) *world {
	w := &world{
		plan: p, t: t, random: random, server: gittest.NewServer(t), repos: map[string]*gittest.Repo{}, say: say,
		forge: map[sentry.Watch][]string{}, gone: map[sentry.Watch]bool{}, frozen: map[sentry.Watch]time.Time{}, trees: map[string]string{},
		fails: []string{"", "01", "0123"}[random.IntN(3)],
	}
	for name := range w.members {
		w.repos[name] = w.server.Repo(t, name)
	}
	w.qa = w.server.Repo(t, "qa")
	w.moveQA()
	for _, watch := range w.branches {
		w.commit(watch)
	}
	return w
}

// config is the configuration for a Sentry that watches this world.
func (w *world) config(stateDir, witness string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `polling_interval: 1
global:
  state_dir: %s
  allow_insecure_http: true
  log_format: json
  timeout: 120
  grace: %s
  history: {rollouts_per_group: 1000000, ledger_entries: 10000000}
groups:
`, stateDir, []string{"300ms", "1s"}[w.random.IntN(2)])
	for _, name := range slices.Sorted(maps.Keys(w.policies)) {
		fmt.Fprintf(&b, "  %s: {global_timeout: 600, %s}\n", name, w.policies[name])
	}
	b.WriteString("repositories:\n")
	for _, name := range slices.Sorted(maps.Keys(w.members)) {
		m := w.members[name]
		fmt.Fprintf(&b, "  - name: %s\n", name)
		if w.policies[m.group] != "" {
			fmt.Fprintf(&b, "    group: %s\n", m.group)
		}
		seen, watched := "record", "main"
		if m.fresh {
			seen = "deploy"
		}
		if several, ok := w.watched[name]; ok {
			watched = several
		}
		fmt.Fprintf(&b, "    monitor: {repo_url: %s, branches: [%s], on_first_seen: %s}\n", w.repos[name].URL, watched, seen)
		fmt.Fprintf(&b, "    deploy:\n      qa_repo_url: %s\n      qa_repo_branch: main\n", w.qa.URL)
		fmt.Fprintf(&b, "      env: {WITNESS: %s, WITNESS_LIFE: \"${CRASH_LIFE}\"", witness)
		if name == "delta" {
			fmt.Fprintf(&b, ", WITNESS_FAILS: %q", w.fails)
		}
		if m.retries > 0 {
			b.WriteString(`, WITNESS_FLAKY: "ef"`)
		}
		b.WriteString("}\n      commands:\n")
		for step := range m.steps {
			fmt.Fprintf(&b, "        - {name: step %d, run: ./witness.sh %d, retries: %d}\n", step+1, step+1, m.retries)
		}
	}
	return b.String()
}

// moveQA commits to the QA repository: another content for each of its files, so that a tree of two commits shows.
func (w *world) moveQA() {
	w.serial++
	files := []gittest.File{{Path: "witness.sh", Content: witnessScript, Mode: "100755"}}
	for i := range 12 {
		files = append(files, gittest.File{Path: fmt.Sprintf("data/%02d", i), Content: fmt.Sprintf("%d of serial %d\n", i, w.serial)})
	}
	commit := w.qa.CommitFiles(w.t, "main", files, fmt.Sprintf("serial %d", w.serial))
	var content strings.Builder
	for _, f := range files[1:] {
		content.WriteString(f.Content)
	}
	w.trees[commit] = cksum(w.t, content.String())
	w.tell("qa commit=%s serial=%d", commit, w.serial)
}

// cksum is what the script does to the files.
func cksum(t testing.TB, content string) string {
	cmd := exec.Command("cksum")
	cmd.Stdin = strings.NewReader(content)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cksum: %v", err)
	}
	return strings.ReplaceAll(strings.TrimSpace(string(out)), " ", ":")
}

// commit moves a branch forward, or makes it.
func (w *world) commit(watch sentry.Watch) {
	w.moved(watch, w.make(watch.Repository, watch.Branch))
}

// rewrite moves a branch to a new commit that does not follow from the one it had.
func (w *world) rewrite(watch sentry.Watch) {
	repo := w.repos[watch.Repository]
	const scratch = "scratch"
	repo.Reset(w.t, scratch, w.forge[watch][0])
	commit := w.make(watch.Repository, scratch)
	repo.Reset(w.t, watch.Branch, commit)
	w.moved(watch, commit)
}

// back moves a branch back to a commit that it had. Sentry believes that when it has seen it twice, an interval apart.
func (w *world) back(watch sentry.Watch) {
	history := w.forge[watch]
	commit := history[w.random.IntN(len(history))]
	if commit == history[len(history)-1] {
		return
	}
	w.repos[watch.Repository].Reset(w.t, watch.Branch, commit)
	w.moved(watch, commit)
	w.frozen[watch] = time.Now().Add(time.Duration(2500+w.random.IntN(2000)) * time.Millisecond)
}

func (w *world) make(repository, branch string) string {
	w.count++
	text := fmt.Sprintf("commit %d of this run", w.count)
	return w.repos[repository].Commit(w.t, branch, map[string]string{"file": text}, fmt.Sprintf("%s %x", text, w.random.Uint32()))
}

func (w *world) moved(watch sentry.Watch, commit string) {
	w.forge[watch] = append(w.forge[watch], commit)
	delete(w.gone, watch)
	w.tell("moved repository=%s branch=%s commit=%s", watch.Repository, watch.Branch, commit)
}

func (w *world) remove(watch sentry.Watch) {
	w.repos[watch.Repository].Delete(w.t, watch.Branch)
	w.gone[watch] = true
	w.frozen[watch] = time.Now().Add(time.Duration(300+w.random.IntN(2500)) * time.Millisecond)
	w.tell("deleted repository=%s branch=%s", watch.Repository, watch.Branch)
}

// restore makes a deleted branch again: where it was, or further on.
func (w *world) restore(watch sentry.Watch) {
	history := w.forge[watch]
	w.repos[watch.Repository].Branch(w.t, watch.Branch, history[len(history)-1])
	delete(w.gone, watch)
	w.tell("restored repository=%s branch=%s", watch.Repository, watch.Branch)
	if w.random.IntN(2) == 0 {
		w.commit(watch)
	}
}

// step moves something.
func (w *world) step() {
	if w.random.IntN(8) == 0 {
		w.moveQA()
		return
	}
	watch := w.choose()
	if time.Now().Before(w.frozen[watch]) {
		return
	}
	delete(w.frozen, watch)
	repeatable := watch.Repository == "beta" && watch.Branch == "stable" || strings.HasPrefix(watch.Branch, "release/") || watch.Repository == "zeta"
	switch n := w.random.IntN(100); {
	case w.gone[watch]:
		w.restore(watch)
	case n < 4 && repeatable:
		w.remove(watch)
	case n < 8 && watch.Repository == "alpha" && len(w.watches()) < 10:
		w.commit(sentry.Watch{Repository: "alpha", Branch: fmt.Sprintf("release/%d", 2+w.random.IntN(3))})
	case n < 16:
		w.rewrite(watch)
	case n < 20:
		w.back(watch)
	default:
		w.commit(watch)
	}
}

// choose picks a branch. Group s takes a turn for every change, so it gets fewer of them.
func (w *world) choose() sentry.Watch {
	list := w.watches()
	for {
		watch := list[w.random.IntN(len(list))]
		if w.members[watch.Repository].group != "s" || w.random.IntN(4) == 0 {
			return watch
		}
	}
}

func (w *world) watches() []sentry.Watch {
	return slices.SortedFunc(maps.Keys(w.forge), func(a, b sentry.Watch) int { return strings.Compare(a.String(), b.String()) })
}

// finish gives every branch a last commit whose commands succeed; one of them may go back to an earlier one after that.
// What comes after delta in its group waits until Sentry has recorded the last of delta: a rollout that is for both and
// for a commit of delta that fails skips it, and that is then the last word.
func (w *world) finish(recorded func(sentry.Watch)) {
	for _, watch := range w.watches() {
		if w.gone[watch] {
			w.restore(watch)
		}
		w.commit(watch)
		for !w.good(watch) {
			w.commit(watch)
		}
		if watch.Repository == "delta" {
			recorded(watch)
		}
	}
	w.moveQA()
	if w.random.IntN(2) == 0 {
		w.back(sentry.Watch{Repository: "zeta", Branch: "main"})
	}
}

// good tells whether the commands for the newest commit of a branch succeed.
func (w *world) good(watch sentry.Watch) bool {
	return watch.Repository != "delta" || !strings.Contains(w.fails, w.final(watch)[:1])
}

// final is the newest commit of a branch.
func (w *world) final(watch sentry.Watch) string {
	history := w.forge[watch]
	return history[len(history)-1]
}

func (w *world) tell(format string, args ...any) {
	if err := w.say.say(format, args...); err != nil {
		w.t.Errorf("cannot write to the witness: %v", err)
	}
}
