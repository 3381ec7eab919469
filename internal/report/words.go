package report

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"sentry/internal/sentry"
)

// longest is how many characters a description may have: GitHub refuses more.
const longest = 140

// pending says what has begun.
func pending(r *sentry.Rollout) string {
	return naming("rolling out ", members(r, nil), "")
}

// verdict says how a rollout ended: in a word that forges know, and in words for people. They are public where the
// repository is: they name members, and tell nothing of what commands have said or who has done what.
func verdict(r *sentry.Rollout) (sentry.State, string) {
	state := stateOf(r.Status)
	if len(r.Deployments) == 0 {
		return state, strings.ReplaceAll(string(r.Status), "_", " ")
	}
	count := map[sentry.Status]int{}
	for _, d := range r.Deployments {
		count[d.Status]++
	}
	tail := fmt.Sprintf(" (%d of %d succeeded", count[sentry.Succeeded], len(r.Deployments))
	if n := count[sentry.Skipped]; n > 0 {
		tail += fmt.Sprintf(", %d skipped", n)
	}
	tail += ")"
	took := ""
	if !r.StartedAt.IsZero() && !r.FinishedAt.Before(r.StartedAt) {
		took = length(r.FinishedAt.Sub(r.StartedAt))
	}
	in := func(word string) string {
		if took == "" {
			return ""
		}
		return word + took
	}
	switch r.Status {
	case sentry.Succeeded:
		return state, clip(fmt.Sprintf("succeeded: %d of %d%s", count[sentry.Succeeded], len(r.Deployments), in(" in ")))
	case sentry.Failed:
		return state, naming("failed: ", members(r, []sentry.Status{sentry.Failed}), others(r)+tail+in(" in "))
	case sentry.TimedOut:
		if count[sentry.TimedOut] == 0 {
			return state, clip("timed out before all had begun" + others(r) + tail + in(" in "))
		}
		return state, naming("timed out: ", members(r, []sentry.Status{sentry.TimedOut}), others(r)+tail+in(" in "))
	case sentry.Interrupted:
		if count[sentry.Interrupted] == 0 {
			return state, clip("interrupted, and not begun again" + others(r) + tail)
		}
		return state, naming("interrupted, nobody knows how it ended: ", members(r, []sentry.Status{sentry.Interrupted}), others(r)+tail)
	default:
		return state, clip(string(r.Status) + tail + in(" after "))
	}
}

// others names the deployments that ended badly in another way than their rollout, as far as there is room for it.
func others(r *sentry.Rollout) (text string) {
	const most = longest / 3
	for _, status := range []sentry.Status{sentry.TimedOut, sentry.Failed, sentry.Interrupted} {
		names := members(r, []sentry.Status{status})
		if status == r.Status || len(names) == 0 {
			continue
		}
		word := strings.ReplaceAll(string(status), "_", " ")
		more := fmt.Sprintf("; %s: %s", word, strings.Join(names, ", "))
		if utf8.RuneCountInString(text+more) > most {
			more = fmt.Sprintf("; %d %s", len(names), word)
		}
		text += more
	}
	return text
}

// stateOf gives the word that forges have for the end of a rollout.
func stateOf(s sentry.Status) sentry.State {
	switch s {
	case sentry.Succeeded:
		return sentry.StateSuccess
	case sentry.Failed, sentry.TimedOut:
		return sentry.StateFailure
	case sentry.Canceled:
		return sentry.StateCanceled
	default:
		return sentry.StateError
	}
}

// members names the deployments that have one of these statuses (nil: all), each by its repository, and by its branch too
// where the repository has several.
func members(r *sentry.Rollout, statuses []sentry.Status) []string {
	of := map[string]int{}
	for _, d := range r.Deployments {
		of[d.Repository]++
	}
	var names []string
	for _, d := range r.Deployments {
		if statuses != nil && !slices.Contains(statuses, d.Status) {
			continue
		}
		name := d.Repository
		if of[name] > 1 {
			name = d.Watch.String()
		}
		names = append(names, name)
	}
	return names
}

// naming puts as many names between head and tail as there is room for.
func naming(head string, names []string, tail string) string {
	for shown := min(len(names), longest/3); shown > 0; shown-- { // a name takes three characters, with what is between
		text := head + strings.Join(names[:shown], ", ")
		if left := len(names) - shown; left > 0 {
			text += fmt.Sprintf(" and %d more", left)
		}
		if text += tail; utf8.RuneCountInString(text) <= longest {
			return text
		}
	}
	if len(names) == 1 {
		room := longest - utf8.RuneCountInString(head+tail) - 1
		return clip(head + string([]rune(names[0])[:max(0, room)]) + "…" + tail)
	}
	return clip(fmt.Sprintf("%s%d deployments%s", head, len(names), tail))
}

// clip cuts a text to what a description may have.
func clip(text string) string {
	if utf8.RuneCountInString(text) <= longest {
		return text
	}
	return string([]rune(text)[:longest-1]) + "…"
}

// length writes a duration as people say it.
func length(d time.Duration) string {
	if d < time.Second {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
