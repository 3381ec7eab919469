//go:build linux

package pipelines

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sentry/internal/sentry"
)

// attempt is one of those at a deployment.
type attempt struct {
	deployment string
	number     int
}

// line is one of the witness: what a command wrote down.
type line struct {
	attempt
	at   time.Time // by the second
	word string    // creating, created, end
	name string    // of what was created
}

// evidence is what one rollout is judged by: what Sentry says of it, what is in the cluster, and what the commands wrote.
type evidence struct {
	rollout  sentry.Rollout
	there    []pipelineRun
	lines    []line
	followed map[attempt]bool // Sentry had written down that the commands had ended, and followed what they had created
}

// judge tells what must not be.
func judge(e evidence) (found []string) {
	report := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	e.verdicts(report)
	e.forgotten(report)
	e.running(report)
	e.repeated(report)
	return found
}

// verdicts: each deployment has ended as its pipeline runs have, and each of those as Tekton says.
func (e evidence) verdicts(report func(string, ...any)) {
	if e.rollout.Status != sentry.TimedOut {
		report("verdict: the rollout %s: %s", e.rollout.Status, e.rollout.Reason)
	}
	for _, d := range e.rollout.Deployments {
		want := creations[d.Repository]
		if d.Status != want.status {
			report("verdict: %s, attempt %d, %s: %s; want %s", d.Repository, d.Attempt, d.Status, d.Reason, want.status)
		}
		counted := 0
		for _, run := range d.PipelineRuns {
			if run.Attempt == d.Attempt && run.UID != "" {
				counted++
			}
			i := slices.IndexFunc(e.there, func(p pipelineRun) bool { return p.Metadata.UID == run.UID })
			if run.UID != "" && i >= 0 && !e.there[i].agrees(run.Status) {
				report("verdict: %s is %s, and in the cluster it ended with %s", run.Name, run.Status, e.there[i].reason())
			}
		}
		// What takes too long may do so before it has created anything.
		if counted != want.runs && (d.Status != sentry.TimedOut || counted > want.runs) {
			report("verdict: %s is about %d pipeline runs of attempt %d; want %d", d.Repository, counted, d.Attempt, want.runs)
		}
	}
}

// agrees tells whether what Sentry says of a pipeline run is what Tekton says.
func (p pipelineRun) agrees(status sentry.Status) bool {
	if len(p.Status.Conditions) == 0 {
		return false
	}
	condition := p.Status.Conditions[0]
	switch status {
	case sentry.Succeeded:
		return condition.Status == "True"
	case sentry.Failed:
		return condition.Status == "False" && condition.Reason == "Failed"
	case sentry.Canceled:
		return condition.Status == "False" && strings.HasPrefix(condition.Reason, "Cancelled")
	}
	return false
}

// forgotten: Sentry knows all that there is, and nothing else; and so it does with what a command was told.
func (e evidence) forgotten(report func(string, ...any)) {
	known := map[string]string{} // the deployment, by UID
	names := map[string]bool{}
	for _, d := range e.rollout.Deployments {
		for _, run := range d.PipelineRuns {
			if run.UID != "" {
				known[run.UID], names[run.Name] = d.ID, true
			}
		}
	}
	for _, p := range e.there {
		if of := p.Metadata.Labels["sentry.dev/deployment"]; known[p.Metadata.UID] == "" || known[p.Metadata.UID] != of {
			report("forgotten: %s of deployment %s, which Sentry knows as one of %q", p.Metadata.Name, of, known[p.Metadata.UID])
		}
		delete(known, p.Metadata.UID)
	}
	for uid, of := range known {
		report("forgotten: %s of deployment %s is not in the cluster", uid, of)
	}
	for _, l := range e.lines {
		if l.word == "created" && !names[l.name] {
			report("forgotten: %s, attempt %d, created %s, which Sentry does not know", l.deployment, l.number, l.name)
		}
	}
}

// running: when the rollout has ended nothing of it runs, and nothing of an attempt when the next one creates something.
func (e evidence) running(report func(string, ...any)) {
	for _, p := range e.there {
		if !p.ended() {
			report("running: %s", p.Metadata.Name)
		}
	}
	began := map[attempt]time.Time{}
	for _, l := range e.lines {
		if began[l.attempt].IsZero() {
			began[l.attempt] = l.at
		}
	}
	for _, d := range e.rollout.Deployments {
		for _, run := range d.PipelineRuns {
			i := slices.IndexFunc(e.there, func(p pipelineRun) bool { return p.Metadata.UID == run.UID })
			if i < 0 {
				continue
			}
			for next := run.Attempt + 1; next <= d.Attempt; next++ {
				at, ok := began[attempt{d.ID, next}]
				if ended, err := time.Parse(time.RFC3339, e.there[i].Status.CompletionTime); ok && (err != nil || ended.After(at)) {
					report("running: %s of attempt %d at %s ended at %q, when attempt %d had begun at %s", run.Name, run.Attempt, d.Repository, e.there[i].Status.CompletionTime, next, at)
				}
			}
		}
	}
}

// repeated: no attempt begins after one whose commands had ended, and none begins twice.
func (e evidence) repeated(report func(string, ...any)) {
	creating := map[attempt]int{}
	for _, l := range e.lines {
		if l.word != "creating" {
			continue
		}
		creating[l.attempt]++
		for earlier := 1; earlier < l.number; earlier++ {
			if e.followed[attempt{l.deployment, earlier}] {
				report("repeated: attempt %d at %s creates something, when the commands of attempt %d had ended", l.number, l.deployment, earlier)
			}
		}
	}
	for _, d := range e.rollout.Deployments {
		for n := 1; n <= d.Attempt; n++ {
			if most := creations[d.Repository].runs; creating[attempt{d.ID, n}] > most {
				report("repeated: attempt %d at %s created %d; want %d at most", n, d.Repository, creating[attempt{d.ID, n}], most)
			}
		}
		if d.Status == sentry.Succeeded && !e.followed[attempt{d.ID, d.Attempt}] {
			report("repeated: %s succeeded, and nobody followed what it created: the evidence is not what it was", d.Repository)
		}
	}
}

// tally counts what is in the evidence.
func (e evidence) tally(sum *tally) {
	heard := map[string]bool{}
	for _, l := range e.lines {
		heard[l.name] = true
	}
	for _, d := range e.rollout.Deployments {
		sum.again += max(d.Attempt-1, 0)
		for _, run := range d.PipelineRuns {
			switch {
			case run.UID == "":
				sum.never++
				continue
			case run.Status == sentry.Canceled:
				sum.canceled++
			}
			sum.runs++
			if !heard[run.Name] {
				sum.found++
			}
		}
	}
}

// TestJudge shows each rule fail, with evidence that is right but for one thing.
func TestJudge(t *testing.T) {
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	type doctored struct {
		evidence
		good *sentry.Deployment
	}
	right := func() *doctored {
		e := evidence{followed: map[attempt]bool{{"7-a-1", 2}: true}}
		e.rollout = sentry.Rollout{ID: "7-a", Status: sentry.TimedOut, Deployments: []sentry.Deployment{{ID: "7-a-1", Attempt: 2, Status: sentry.Succeeded}}}
		e.rollout.Deployments[0].Repository = "good"
		for _, run := range []sentry.PipelineRun{
			{Name: "good-1", UID: "1", Attempt: 1, Status: sentry.Canceled},
			{Attempt: 1, Status: sentry.Skipped},
			{Name: "good-2", UID: "2", Attempt: 2, Status: sentry.Succeeded},
			{Name: "good-3", UID: "3", Attempt: 2, Status: sentry.Succeeded},
		} {
			e.rollout.Deployments[0].PipelineRuns = append(e.rollout.Deployments[0].PipelineRuns, run)
			if run.UID == "" {
				continue
			}
			var p pipelineRun
			p.Metadata.Name, p.Metadata.UID, p.Metadata.Labels = run.Name, run.UID, map[string]string{"sentry.dev/deployment": "7-a-1"}
			p.Status.CompletionTime = at.Add(5 * time.Second).Format(time.RFC3339)
			p.Status.Conditions = []struct{ Status, Reason string }{{"True", "Succeeded"}}
			if run.Status == sentry.Canceled {
				p.Status.Conditions[0] = struct{ Status, Reason string }{"False", "CancelledRunFinally"}
			}
			e.there = append(e.there, p)
		}
		first, second := attempt{"7-a-1", 1}, attempt{"7-a-1", 2}
		e.lines = []line{
			{first, at, "creating", ""},
			{first, at, "created", "good-1"},
			{first, at, "creating", ""},
			{second, at.Add(5 * time.Second), "creating", ""},
			{second, at.Add(6 * time.Second), "created", "good-2"},
			{second, at.Add(6 * time.Second), "creating", ""},
			{second, at.Add(7 * time.Second), "created", "good-3"},
			{second, at.Add(7 * time.Second), "end", ""},
		}
		return &doctored{e, &e.rollout.Deployments[0]}
	}
	for _, x := range []struct {
		name, want string
		doctor     func(*doctored)
	}{
		{"all is well", "", func(*doctored) {}},
		{"another verdict of the rollout", "verdict", func(e *doctored) { e.rollout.Status = sentry.Interrupted }},
		{"another verdict of the deployment", "verdict", func(e *doctored) { e.good.Status = sentry.Failed }},
		{"a pipeline run failed", "verdict", func(e *doctored) { e.there[2].Status.Conditions[0].Status = "False" }},
		{"a pipeline run does not count", "verdict", func(e *doctored) { e.good.PipelineRuns[3].Attempt = 1 }},
		{"one that Sentry does not know", "forgotten", func(e *doctored) { e.good.PipelineRuns = e.good.PipelineRuns[1:] }},
		{"one under another UID", "forgotten", func(e *doctored) { e.good.PipelineRuns[0].UID = "9" }},
		{"one of another deployment", "forgotten", func(e *doctored) { e.there[0].Metadata.Labels["sentry.dev/deployment"] = "7-a-2" }},
		{"one that is not there", "forgotten", func(e *doctored) { e.there = e.there[1:] }},
		{"one that a command was told of", "forgotten", func(e *doctored) { e.lines[1].name = "good-9" }},
		{"one runs on", "running", func(e *doctored) { e.there[0].Status.CompletionTime = "" }},
		{"one ran too long", "running", func(e *doctored) { e.there[0].Status.CompletionTime = at.Add(6 * time.Second).Format(time.RFC3339) }},
		{"commands ran again", "repeated", func(e *doctored) { e.followed[attempt{"7-a-1", 1}] = true }},
		{"commands ran twice", "repeated", func(e *doctored) { e.lines = append(e.lines, e.lines[3], e.lines[3]) }},
		{"nobody followed", "repeated", func(e *doctored) { clear(e.followed) }},
	} {
		e := right()
		x.doctor(e)
		found := judge(e.evidence)
		if (x.want == "") != (len(found) == 0) || len(found) > 0 && !slices.ContainsFunc(found, func(f string) bool { return strings.HasPrefix(f, x.want+": ") }) {
			t.Errorf("%s: %q; want %q", x.name, found, x.want)
		}
	}
}
