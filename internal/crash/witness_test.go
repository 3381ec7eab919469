package crash

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"sentry/internal/sentry"
)

// line is one line of the witness. Those of the commands say who wrote them and for which run; those of the test (kill,
// restart, moved and so on) are for whoever reads the file, except `stopped`, which ends a life that ended in peace.
type line struct {
	number int    // from 1
	kind   string // start, beat, end; or a word of the test
	life   int    // of the daemon that started the command
	who    string // main, child or daemon: which of the command's processes
	pid    int
	code   int // of an end
	run    *run
}

// run is one execution of a step's command: a try.
type run struct {
	key
	rollout, group string
	watch          sentry.Watch
	life           int
	commit         string
	vector         string // the commit that the vector has for the watch
	generation     int64
	changed        bool
	qa, tree       string // the commit that the workspace is said to be, and what is in it

	first, last int // lines: the start, and the last sign of life of any of its processes
	end         int // the line of its end, 0 where there is none
	code        int
}

// key identifies a run.
type key struct {
	deployment         string
	attempt, step, try int
}

func (k key) String() string {
	return fmt.Sprintf("%s attempt %d step %d try %d", k.deployment, k.attempt, k.step, k.try)
}

// ordinal is the place of the deployment in its rollout.
func (k key) ordinal() int {
	n, _ := strconv.Atoi(k.deployment[strings.LastIndexByte(k.deployment, '-')+1:])
	return n
}

// testimony is the witness file, read.
type testimony struct {
	lines    []line
	runs     []*run     // in the order of their starts
	attempts []*attempt // the same, grouped, in the order of their first starts
}

// read reads a witness file. What it cannot make sense of becomes a finding.
func read(text string) (testimony, []finding) {
	var t testimony
	var odd []finding
	known := map[key]*run{}
	number := 0
	for raw := range strings.Lines(text) {
		number++
		object := func(format string, args ...any) {
			odd = append(odd, finding{"understood", number, fmt.Sprintf(format, args...) + ": " + strings.TrimSpace(raw)})
		}
		if strings.HasPrefix(raw, "#") {
			continue
		}
		f, err := split(raw)
		if err != nil {
			object("%v", err)
			continue
		}
		l := line{number: number, kind: f.kind, life: f.number("life"), who: f.text("who"), pid: f.number("pid")}
		if !slices.Contains([]string{"start", "beat", "end"}, l.kind) {
			t.lines = append(t.lines, l)
			continue
		}
		k := key{f.text("deployment"), f.number("attempt"), f.number("step"), f.number("try")}
		r := known[k]
		switch {
		case l.life == 0 || l.pid == 0 || l.who == "" || k.deployment == "" || k.attempt == 0 || k.step == 0 || k.try == 0:
			object("fields are missing")
			continue
		case l.kind == "start" && r != nil:
			object("%s starts twice, first in line %d", k, r.first)
			continue
		case l.kind == "start":
			r = &run{
				key: k, rollout: f.text("rollout"), group: f.text("group"), life: l.life,
				watch: sentry.Watch{Repository: f.text("repository"), Branch: f.text("branch")}, commit: f.text("commit"),
				vector: f.text("vector"), generation: int64(f.number("generation")), changed: f.text("changed") == "true",
				qa: f.text("qa"), tree: f.text("tree"), first: number,
			}
			if r.rollout == "" || r.group == "" || r.watch.Repository == "" || r.watch.Branch == "" || r.commit == "" {
				object("fields are missing")
			}
			known[k] = r
			t.runs = append(t.runs, r)
		case r == nil:
			object("%s is not known to have started", k)
			continue
		case r.life != l.life:
			object("%s started in life %d", k, r.life)
		case l.kind == "end":
			if l.who != "main" || r.end != 0 {
				object("%s ends twice", k)
			}
			l.code = f.number("code")
			r.end, r.code = number, l.code
		}
		l.run, r.last = r, number
		t.lines = append(t.lines, l)
	}
	t.attempts = grouped(t.runs)
	return t, odd
}

// fields are the words of a line: the first alone, the others name=value.
type fields struct {
	kind   string
	values map[string]string
}

func split(raw string) (fields, error) {
	text, whole := strings.CutSuffix(raw, "\n")
	words := strings.Fields(text)
	if !whole || len(words) == 0 {
		return fields{}, fmt.Errorf("not a whole line")
	}
	f := fields{words[0], make(map[string]string, len(words))}
	for _, word := range words[1:] {
		name, value, ok := strings.Cut(word, "=")
		if _, twice := f.values[name]; !ok || twice {
			return f, fmt.Errorf("%q is not a field", word)
		}
		f.values[name] = value
	}
	return f, nil
}

func (f fields) text(name string) string { return f.values[name] }

func (f fields) number(name string) int {
	n, _ := strconv.Atoi(f.values[name])
	return n
}

// attempt is what the runs of one attempt at one deployment have in common.
type attempt struct {
	deployment string
	number     int
	runs       []*run // in the order of their starts
}

func (a *attempt) one() *run { return a.runs[0] }

// last is the last sign of life of any process of the attempt.
func (a *attempt) last() int {
	return slices.MaxFunc(a.runs, func(x, y *run) int { return cmp.Compare(x.last, y.last) }).last
}

// succeeded reports whether all steps of a deployment of that many ran to an end that was a success.
func (a *attempt) succeeded(steps int) bool {
	final := a.runs[len(a.runs)-1]
	return final.step == steps && final.end != 0 && final.code == 0
}

// failed reports whether its last step failed as often as it may be tried.
func (a *attempt) failed(retries int) bool {
	final := a.runs[len(a.runs)-1]
	return final.end != 0 && final.code != 0 && final.try > retries
}

// grouped gives the attempts of runs.
func grouped(runs []*run) []*attempt {
	type name struct {
		deployment string
		number     int
	}
	var list []*attempt
	known := map[name]*attempt{}
	for _, r := range runs {
		n := name{r.deployment, r.attempt}
		if known[n] == nil {
			known[n] = &attempt{deployment: r.deployment, number: r.attempt}
			list = append(list, known[n])
		}
		known[n].runs = append(known[n].runs, r)
	}
	return list
}

// writer appends the test's own lines to the witness.
type writer struct{ file *os.File }

func newWriter(path string) (writer, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	return writer{f}, err
}

func (w writer) say(format string, args ...any) error {
	uptime, _ := os.ReadFile("/proc/uptime") // for whoever reads it: nothing is decided by a clock
	clock, _, _ := strings.Cut(string(uptime), " ")
	_, err := w.file.WriteString(fmt.Sprintf(format, args...) + " clock=" + clock + "\n")
	return err
}
