//go:build linux

package pipelines

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sentry/internal/kube/kubetest"
	"sentry/internal/sentry"
	"sentry/internal/sentry/sentrytest"
)

// TestKilledAtRandom kills Sentry at random moments between the first creation of a pipeline run and the verdict, over and over,
// and judges each rollout by what the commands wrote down and what is in the cluster. SENTRY_CRASH_KILLS sets how many times
// it is killed (default 10), SENTRY_CRASH_SEED when (default: of the clock; it is printed). The processes race as they do
// in life, so a seed repeats the plan, not every interleaving.
func TestKilledAtRandom(t *testing.T) {
	t.Parallel()
	cluster := kubetest.Find(t)
	sentrytest.Binary(t)
	kills, seed := setting(t, "SENTRY_CRASH_KILLS", 10), setting(t, "SENTRY_CRASH_SEED", int(time.Now().UnixNano()%1_000_000))
	t.Logf("SENTRY_CRASH_SEED=%d", seed)
	most := 8 // mostly they wait
	if cluster.Node {
		most = 4 // more would be more pods at a time than two processors start
	}
	sums := make([]tally, min(max(kills/5, 1), most))
	t.Run("kills", func(t *testing.T) {
		for lane := range sums {
			t.Run(strconv.Itoa(lane+1), func(t *testing.T) {
				t.Parallel()
				k := newKiller(t, rand.New(rand.NewPCG(uint64(seed), uint64(lane))), &sums[lane])
				for k.sum.kills < (kills+lane)/len(sums) && !t.Failed() {
					k.rollout()
				}
				k.rest()
			})
		}
	})
	var sum tally
	for _, one := range sums {
		sum.add(one)
	}
	t.Logf("%+v", sum)
	if kills >= 50 && (sum.creating == 0 || sum.commanding == 0 || sum.following == 0 || sum.again == 0 || sum.canceled == 0) {
		t.Error("hardly anything was put to the test")
	}
}

// setting reads a number from the environment.
func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text, ok := os.LookupEnv(name)
	if !ok {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s is a number from 1, not %q", name, text)
	}
	return n
}

// tally is what happened, in figures.
type tally struct {
	kills, rollouts int
	creating        int // kills while a command waited for the answer to a creation,
	commanding      int // while commands ran otherwise,
	following       int // and when all commands had ended
	again           int // attempts that were not the first of their deployment
	runs, canceled  int // pipeline runs, and those that Sentry ended
	found           int // of which no command heard
	never           int // that were about to be created, and never were
}

func (a *tally) add(b tally) {
	a.kills, a.rollouts = a.kills+b.kills, a.rollouts+b.rollouts
	a.creating, a.commanding, a.following = a.creating+b.creating, a.commanding+b.commanding, a.following+b.following
	a.again, a.runs, a.canceled = a.again+b.again, a.runs+b.runs, a.canceled+b.canceled
	a.found, a.never = a.found+b.found, a.never+b.never
}

// killer kills one Sentry in its succession of lives.
type killer struct {
	*world
	random *rand.Rand
	sum    *tally
	daemon *daemon
}

// creations is how many pipeline runs an attempt at the repository creates, and how it ends.
var creations = map[string]struct {
	runs   int
	status sentry.Status
}{"good": {2, sentry.Succeeded}, "bad": {1, sentry.Failed}, "slow": {1, sentry.TimedOut}}

// witnessed is a script that writes down what it does, and when, by the second.
const witnessed = `      env: {WORLD: %s/world}
      commands:
        - |
          say() { echo "$SENTRY_DEPLOYMENT_ID $SENTRY_ATTEMPT $(date +%%s) $*" >>"$WORLD/witness"; }
          for file in "$SENTRY_PROJECT_DIR"/*; do
            say creating
            name=$(kubectl create -f "$file" -o name) || exit 1
            say created "${name#*/}"
            sleep 0.2
          done
          say end
`

func newKiller(t *testing.T, random *rand.Rand, sum *tally) *killer {
	w := newWorld(t)
	deploy := fmt.Sprintf(witnessed, w.dir)
	files := func(name string, tasks ...kubetest.Task) map[string]string {
		all := map[string]string{}
		for i, task := range tasks {
			all[fmt.Sprintf("%d.yaml", i)] = run(w.cluster, name, task)["run.yaml"]
		}
		return all
	}
	good, long := kubetest.Succeeds("build", map[string]string{"IMAGE": "one"}), kubetest.Sleeps("test", 2)
	w.configure("max_parallel: 3, continue_on_error: true",
		member{name: "good", deploy: deploy, files: files("good", good, long)},
		member{name: "bad", deploy: deploy, files: files("bad", kubetest.Fails("unit", 3))},
		member{name: "slow", deploy: "      timeout: 8s\n" + deploy, files: files("slow", kubetest.NeverEnds("wait"))},
	)
	return &killer{world: w, random: random, sum: sum, daemon: w.start()}
}

// rollout has one rolled out, kills Sentry in it as often as it puts up with, and judges what became of it.
func (k *killer) rollout() {
	k.t.Helper()
	k.daemon.answers() // the last one may have been killed when all was over
	before := k.world.rollout().ID
	if out, code := k.run("trigger", "--wait=false", "g"); code != 0 {
		k.t.Fatalf("it was not queued: %s", out)
	}
	k.until("it is running", func() bool { r := k.world.rollout(); return r.ID != before && r.Status != sentry.Pending })
	id := k.world.rollout().ID
	for range 1 + k.random.IntN(sentry.MaxInterruptions) {
		k.await(id)
		k.daemon.end(syscall.SIGKILL)
		lines := k.lines(id)
		over := k.logged(`"rollout ended"`, `"`+id+`"`)
		if len(lines) > 0 && !over {
			k.count(lines)
		}
		k.daemon = k.launch()
		if over {
			break
		}
	}
	k.until("it has ended", func() bool { return k.world.rollout().Status.Terminal() })
	r := k.world.rollout()
	e := evidence{rollout: r, there: k.inCluster(), lines: k.lines(id), followed: k.followed(r)}
	for _, f := range judge(e) {
		k.t.Error(f)
	}
	k.sum.rollouts++
	e.tally(k.sum)
	if !k.t.Failed() {
		k.cluster.Run(k.t, "delete", "pipelineruns", "--all", "--namespace", k.namespace)
	}
}

// rest ends Sentry, and looks whether anything was created that nobody waited for.
func (k *killer) rest() {
	k.t.Helper()
	k.daemon.end(syscall.SIGTERM)
	if k.t.Failed() {
		return
	}
	if left := k.inCluster(); len(left) > 0 {
		k.t.Errorf("when all was over there were %+v", left)
	}
}

// await waits for a moment to die, not before something of the rollout is about to be created.
func (k *killer) await(id string) {
	k.t.Helper()
	pause := func(most time.Duration) { time.Sleep(time.Duration(k.random.Int64N(int64(most)))) } // the moment is what is tried
	if len(k.lines(id)) == 0 {
		k.hear(id, "creating", 1)
	}
	switch k.random.IntN(8) {
	case 0, 1: // a creation is on its way
		k.hear(id, "creating", 1+k.random.IntN(3))
		pause(400 * time.Millisecond)
	case 2:
		k.hear(id, "created", 1+k.random.IntN(3))
		pause(50 * time.Millisecond)
	case 3: // the commands end
		k.hear(id, "end", 1+k.random.IntN(2))
		pause(200 * time.Millisecond)
	case 4, 5: // what was created is followed
		k.hear(id, "end", 1+k.random.IntN(3))
		pause(8 * time.Second)
	case 6: // whenever
		pause(6 * time.Second)
	case 7: // as it starts, and takes over what the last one left
		pause(500 * time.Millisecond)
	}
}

// hear waits for a number of new lines of the rollout, and not for long: what it waits for may have been before.
func (k *killer) hear(id, word string, times int) {
	count := func() (n int) {
		for _, l := range k.lines(id) {
			if l.word == word {
				n++
			}
		}
		return n
	}
	at := count()
	for deadline := time.Now().Add(4 * time.Second); count() < at+times && time.Now().Before(deadline); {
		time.Sleep(2 * time.Millisecond) // between two looks
	}
}

// count counts a kill by what the commands had written then.
func (k *killer) count(lines []line) {
	k.sum.kills++
	open := map[string]string{}
	for _, l := range lines {
		open[l.deployment] = l.word
	}
	creating, commanding := false, false
	for _, word := range open {
		creating = creating || word == "creating"
		commanding = commanding || word == "created"
	}
	switch {
	case creating:
		k.sum.creating++
	case commanding:
		k.sum.commanding++
	default:
		k.sum.following++
	}
}

// logged tells whether Sentry has logged a line with both texts.
func (k *killer) logged(a, b string) bool {
	k.t.Helper()
	text, err := os.ReadFile(filepath.Join(k.dir, "sentry.log"))
	if err != nil {
		k.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, a) && strings.Contains(line, b) {
			return true
		}
	}
	return false
}

// followed finds for which attempts Sentry began to follow what they had created: there is the log of that step.
func (k *killer) followed(r sentry.Rollout) map[attempt]bool {
	k.t.Helper()
	known := map[attempt]bool{}
	for _, d := range r.Deployments {
		for n := 1; n <= d.Attempt; n++ {
			name := "??-track*.log"
			if n > 1 {
				name = fmt.Sprintf("attempt%d-%s", n, name)
			}
			logs, err := filepath.Glob(filepath.Join(k.dir, "state", "logs", r.ID, d.Repository, name))
			if err != nil {
				k.t.Fatal(err)
			}
			known[attempt{d.ID, n}] = len(logs) > 0
		}
	}
	return known
}

// lines are those of the witness that are about a rollout.
func (k *killer) lines(id string) []line {
	k.t.Helper()
	text, err := os.ReadFile(filepath.Join(k.dir, "world", "witness"))
	if err != nil && !os.IsNotExist(err) {
		k.t.Fatal(err)
	}
	var all []line
	for raw := range strings.Lines(string(text)) {
		f := strings.Fields(raw)
		if len(f) < 4 || !strings.HasSuffix(raw, "\n") {
			k.t.Fatalf("the witness says %q", raw)
		}
		if !strings.HasPrefix(f[0], id+"-") {
			continue
		}
		n, err := strconv.Atoi(f[1])
		if err != nil {
			k.t.Fatalf("the witness says %q", raw)
		}
		seconds, err := strconv.ParseInt(f[2], 10, 64)
		if err != nil {
			k.t.Fatalf("the witness says %q", raw)
		}
		l := line{attempt: attempt{f[0], n}, at: time.Unix(seconds, 0), word: f[3]}
		if len(f) > 4 {
			l.name = f[4]
		}
		all = append(all, l)
	}
	return all
}
