package deploy

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"
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
