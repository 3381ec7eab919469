package deploy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/sentry"
)

// TestAStepThatPrintsOn: what a step prints is told as it comes, also beyond what is told at once. One that prints too fast is
// told in parts, and in the end the last of it, whole. What is told stays bounded.
func TestAStepThatPrintsOn(t *testing.T) {
	for name, c := range map[string]struct {
		rate  int // bytes a second
		whole bool
	}{
		"slowly": {laterRate / 2, true},
		"fast":   {20 * laterRate, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out strings.Builder
				v := &voice{out: &out}
				log := v.log("02-c1.log")
				var all strings.Builder
				print := func(n int) {
					text := strings.Repeat("0123456789abcde\n", n/16)
					all.WriteString(text)
					_, _ = log.Write([]byte(text))
				}
				var quiet, longest int
				print(liveBytes)
				for range 600 {
					before := out.Len()
					print(c.rate)
					time.Sleep(time.Second)
					synctest.Wait()
					if quiet++; out.Len() > before {
						quiet = 0
					}
					longest = max(longest, quiet)
				}
				if most := laterBytes / laterRate; longest > most {
					t.Errorf("nothing was told for %d seconds", longest)
				}
				if err := log.Close(); err != nil {
					t.Fatal(err)
				}
				got, next, gaps := make([]byte, all.Len()), int64(0), 0
				total, ended := 0, false
				for line := range strings.Lines(out.String()) {
					var m message
					if err := json.Unmarshal([]byte(line), &m); err != nil {
						t.Fatal(err)
					}
					if m.Offset > next {
						gaps++
					}
					copy(got[m.Offset:], m.Text)
					next, total, ended = m.Offset+int64(len(m.Text)), total+len(m.Text), m.End
				}
				if !ended || next != int64(all.Len()) || string(got[len(got)-tailBytes:]) != all.String()[len(got)-tailBytes:] || c.whole != (gaps == 0) {
					t.Errorf("told to %d of %d, ended %t, %d gaps", next, all.Len(), ended, gaps)
				}
				if most := liveBytes + 600*laterRate + tailBytes; total > most {
					t.Errorf("%d bytes were told, at most %d may be", total, most)
				}
			})
		})
	}
}

// TestStatesTellWhatHasChanged: whoever hears the states of a runner knows its pipeline runs, although each is told only when it
// changes; and who has missed some, in the end.
func TestStatesTellWhatHasChanged(t *testing.T) {
	const many = 300
	for _, missed := range []int{0, 7} {
		var out strings.Builder
		old := sentry.PipelineRun{Attempt: 1, Nonce: "old", UID: "old", Status: sentry.Canceled}
		d := sentry.Deployment{Attempt: 2, PipelineRuns: []sentry.PipelineRun{old}}
		states := &stateVoice{voice: &voice{out: &out}}
		runner := newKeeper(d, states.tell, func(error) {})
		for i := range many {
			run := sentry.PipelineRun{Namespace: "qa", Nonce: fmt.Sprint("n", i)}
			if err := runner.Intend(run); err != nil {
				t.Fatal(err)
			}
			if i%10 == 0 {
				if err := runner.Dropped(run.Nonce); err != nil {
					t.Fatal(err)
				}
				continue
			}
			run.Name, run.UID = fmt.Sprint("run-", i), fmt.Sprint("u", i)
			if err := runner.Created(run); err != nil {
				t.Fatal(err)
			}
		}
		runner.supersede(many / 2)
		if err := runner.save(d); err != nil {
			t.Fatal(err)
		}
		if one := 400; out.Len() > 4*many*one { // each state has one run at most, and the rest of the deployment
			t.Errorf("%d bytes were told of %d runs", out.Len(), many)
		}
		var saved sentry.Deployment
		j := &shift{attempt: &attempt{d: sentry.Deployment{Attempt: 2, Job: &sentry.JobRef{}, PipelineRuns: []sentry.PipelineRun{old}}}, given: true}
		j.keep = newKeeper(j.d, func(d sentry.Deployment) error { saved = d; return nil }, func(error) {})
		hear := func() {
			n := 0
			for line := range strings.Lines(out.String()) {
				if n++; missed == 0 || n%missed > 0 {
					if err := j.hear(t.Context(), []byte(line)); err != nil {
						t.Fatal(err)
					}
				}
			}
			out.Reset()
		}
		hear()
		d.PipelineRuns = runner.end()
		if same := reflect.DeepEqual(saved.PipelineRuns, d.PipelineRuns); same != (missed == 0) {
			t.Errorf("missed one of %d states, it knows all of %d runs: %t", missed, len(d.PipelineRuns), same)
		}
		missed = 0
		d.PipelineRuns = ofAttempt(d)
		if err := states.say(message{Kind: sayDone, Outcome: &Outcome{sentry.Succeeded, ""}, Deployment: &d}); err != nil {
			t.Fatal(err)
		}
		hear()
		if want := append([]sentry.PipelineRun{old}, d.PipelineRuns...); !reflect.DeepEqual(saved.PipelineRuns, want) {
			t.Errorf("in the end it knows %d runs, of %d", len(saved.PipelineRuns), len(want))
		}
	}
}
