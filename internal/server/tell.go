package server

import (
	"fmt"
	"strings"
	"time"

	"sentry/internal/sentry"
)

// The sentences that say how things stand now. They are pure: state and a moment in, text out.

// tellGroup says what a group does. It reports false where nothing is known of it any more.
func tellGroup(status Status, name string, now time.Time) (string, bool) {
	for _, g := range status.Items {
		if g.Name == name {
			text := groupSentence(g, now) + troubles(g.Members)
			if poll := nextPolls(status, g.Members, now); poll != "" {
				text += " " + poll
			}
			return text, true
		}
	}
	return fmt.Sprintf("Group %s is not configured any more.", name), false
}

// troubles names the members that do not answer as they should: what they have to offer is not seen.
func troubles(members []Member) string {
	const most = 3
	var text strings.Builder
	n := 0
	for _, m := range members {
		for _, w := range m.Watches {
			if !w.Trouble {
				continue
			}
			if n++; n <= most {
				fmt.Fprintf(&text, " %s@%s answers: %s.", m.Repository, w.Branch, sentence(w.Answer))
			}
			break // the others of a repository mostly say the same
		}
	}
	if n > most {
		fmt.Fprintf(&text, " %s; `sentry status` lists them.", counted(n-most, "more member is in trouble", "more members are in trouble"))
	}
	return text.String()
}

func groupSentence(g Group, now time.Time) string {
	switch g.State {
	case GroupRunning:
		text := fmt.Sprintf("Group %s has been running rollout %s for %s: %s.", g.Name, g.Current.ID, Took(now.Sub(g.Current.StartedAt)), progress(*g.Current))
		if g.Waiting > 0 {
			text += fmt.Sprintf(" %s after it.", counted(g.Waiting, "more rollout waits", "more rollouts wait"))
		}
		if g.Paused != nil {
			text += " It is paused after this one" + pausedBy(*g.Paused, now) + "."
		}
		return text
	case GroupInterrupted:
		text := fmt.Sprintf("Rollout %s of group %s was interrupted with %s. It begins again, or is given up, when Sentry starts.", g.Current.ID, g.Name, progress(*g.Current))
		if g.Waiting > 0 {
			text += fmt.Sprintf(" %s after it.", counted(g.Waiting, "more rollout waits", "more rollouts wait"))
		}
		if g.Paused != nil {
			text += " The group is paused after it" + pausedBy(*g.Paused, now) + "."
		}
		return text
	case GroupPaused:
		text := fmt.Sprintf("Group %s is paused%s.", g.Name, pausedBy(*g.Paused, now))
		if g.Waiting > 0 {
			text += fmt.Sprintf(" %s until `sentry resume %s`.", counted(g.Waiting, "rollout waits", "rollouts wait"), g.Name)
		}
		return text
	case GroupWaiting:
		text := fmt.Sprintf("Group %s is about to begin rollout %s", g.Name, g.Next.ID)
		if g.unattended {
			text = fmt.Sprintf("Rollout %s of group %s waits until Sentry starts", g.Next.ID, g.Name)
		}
		if why := g.Next.Trigger.Summary(); why != "" {
			text += ", because " + why
		}
		if g.Waiting > 1 {
			text += fmt.Sprintf("; %s after it", counted(g.Waiting-1, "more waits", "more wait"))
		}
		return text + "."
	}
	if g.Last == nil {
		return fmt.Sprintf("Group %s is idle; it has not been rolled out yet.", g.Name)
	}
	return fmt.Sprintf("Group %s is idle; its last rollout %s %s %s.", g.Name, g.Last.ID, Ended(g.Last.Status), endedBecause(*g.Last, now))
}

// endedBecause is when something ended, and why where it did not succeed.
func endedBecause(r sentry.Rollout, now time.Time) string {
	text := Ago(now.Sub(r.FinishedAt))
	if r.Status != sentry.Succeeded && r.Reason != "" {
		text += " because " + sentence(r.Reason)
	}
	return text
}

func pausedBy(p Pause, now time.Time) string {
	text := " by " + somebody(p.By) + " " + Ago(now.Sub(p.At))
	if p.Reason != "" {
		text += ": " + sentence(p.Reason)
	}
	return text
}

// sentence makes a reason fit to be followed by a full stop.
func sentence(reason string) string { return strings.TrimRight(reason, ". ") }

// progress says how far the deployments of a rollout are.
func progress(r sentry.Rollout) string {
	if len(r.Deployments) == 0 {
		return "nothing has begun"
	}
	count := map[sentry.Status]int{}
	var running []string
	for _, d := range r.Deployments {
		count[d.Status]++
		if d.Status == sentry.Running {
			running = append(running, d.Watch.String())
		}
	}
	var parts []string
	if len(running) > 3 {
		running = append(running[:3], fmt.Sprintf("%d more", len(running)-3))
	}
	if len(running) > 0 {
		parts = append(parts, strings.Join(running, ", ")+" running")
	}
	for _, s := range sentry.Statuses() {
		if s != sentry.Running && count[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[s], strings.ReplaceAll(string(s), "_", " ")))
		}
	}
	return strings.Join(parts, ", ")
}

// tellRepository says what a repository's watches point at, what its group does, and how it is asked. It reports false
// where it is not configured any more.
func tellRepository(status Status, name, asked string, now time.Time) (string, bool) {
	for _, g := range status.Items {
		for _, m := range g.Members {
			if m.Repository != name {
				continue
			}
			var parts []string
			if g.Implicit {
				parts = append(parts, fmt.Sprintf("Repository %s is a group of its own.", name))
			} else {
				parts = append(parts, fmt.Sprintf("Repository %s belongs to group %s.", name, g.Name))
			}
			const most = 5
			for i, w := range m.Watches {
				if i == most {
					parts = append(parts, fmt.Sprintf("%s; `sentry status` lists them.", counted(len(m.Watches)-most, "more branch is watched", "more branches are watched")))
					break
				}
				parts = append(parts, watchSentence(w, now))
			}
			parts = append(parts, groupSentence(g, now))
			if poll := nextPolls(status, []Member{m}, now); poll != "" {
				parts = append(parts, poll)
			}
			switch {
			case strings.HasPrefix(asked, "asked "):
				parts = append(parts, "It is "+sentence(asked)+".")
			case asked != "":
				parts = append(parts, strings.ToUpper(asked[:1])+sentence(asked[1:])+".")
			}
			return strings.Join(parts, " "), true
		}
	}
	return fmt.Sprintf("Repository %s is not configured any more.", name), false
}

func watchSentence(w Watch, now time.Time) string {
	var text string
	switch {
	case w.Pattern:
		text = fmt.Sprintf("No branch matches %s yet", w.Branch)
	case w.Commit == "":
		text = fmt.Sprintf("Branch %s has not been seen yet", w.Branch)
	case w.Deleted:
		text = fmt.Sprintf("Branch %s is deleted; it was at %s", w.Branch, sentry.ShortCommit(w.Commit))
	case w.Generation == 1:
		text = fmt.Sprintf("Branch %s is at %s, as when it was first seen %s", w.Branch, sentry.ShortCommit(w.Commit), Ago(now.Sub(w.MovedAt)))
	default:
		text = fmt.Sprintf("Branch %s is at %s (generation %d) for %s", w.Branch, sentry.ShortCommit(w.Commit), w.Generation, Took(now.Sub(w.MovedAt)))
	}
	if w.Trouble {
		text += "; the repository answers: " + sentence(w.Answer)
		if w.Failures > 1 {
			text += fmt.Sprintf(" (%d times in a row)", w.Failures)
		}
	}
	if w.Doubt != "" {
		text += "; it is " + w.Doubt + ", which is not believed before it is said twice"
	}
	return text + "."
}

// nextPolls says when the members are asked next, or that nobody asks.
func nextPolls(status Status, members []Member, now time.Time) string {
	if len(members) == 0 {
		return ""
	}
	if status.Daemon == nil {
		return "No daemon is running, so nothing is polled."
	}
	if status.Daemon.Draining {
		return "The daemon is ending, so nothing more is polled."
	}
	const most = 5
	var parts []string
	for _, m := range members {
		var next time.Time
		for _, w := range m.Watches {
			if !w.NextAt.IsZero() && (next.IsZero() || w.NextAt.Before(next)) {
				next = w.NextAt
			}
		}
		if !next.IsZero() {
			parts = append(parts, fmt.Sprintf("%s %s", m.Repository, In(next.Sub(now))))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	if len(parts) > most {
		parts = append(parts[:most], fmt.Sprintf("%d more later", len(parts)-most))
	}
	return "Next poll of " + strings.Join(parts, ", ") + "."
}

// tellRollout says how a rollout stands. unattended tells that nobody owns the state.
func tellRollout(r sentry.Rollout, unattended bool, now time.Time) string {
	name := fmt.Sprintf("Rollout %s of group %s", r.ID, r.Group)
	switch {
	case unattended && r.Status == sentry.Pending:
		return name + " waits until Sentry starts."
	case unattended && r.Status == sentry.Running:
		text := fmt.Sprintf("%s was interrupted with %s.", name, progress(r))
		if r.CanceledBy != "" {
			return text + " " + r.CanceledBy + " asked to cancel it, so it ends when Sentry starts."
		}
		return text + " It begins again, or is given up, when Sentry starts."
	case r.Status == sentry.Pending:
		return fmt.Sprintf("%s has been waiting for %s.", name, Took(now.Sub(r.RecordedAt)))
	case r.Status == sentry.Running:
		text := fmt.Sprintf("%s has been running for %s: %s.", name, Took(now.Sub(r.StartedAt)), progress(r))
		if r.CanceledBy != "" {
			text += " " + r.CanceledBy + " asked to cancel it."
		}
		return text
	}
	text := name + " " + Ended(r.Status)
	if !r.StartedAt.IsZero() && !r.FinishedAt.IsZero() {
		text += " after " + Took(r.FinishedAt.Sub(r.StartedAt))
	}
	if !r.FinishedAt.IsZero() {
		text += ", " + Ago(now.Sub(r.FinishedAt))
	}
	if r.Reason != "" && r.Status != sentry.Succeeded {
		text += ": " + sentence(r.Reason)
	}
	return text + "."
}

// Took writes a duration for people: "40ms", "0.4s", "42s", "3m20s", "2h5m", "3d4h".
func Took(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return "0s"
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", d.Truncate(100*time.Millisecond).Seconds()), ".0") + "s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return two(int(d.Minutes()), "m", int(d.Seconds())%60, "s")
	case d < 24*time.Hour:
		return two(int(d.Hours()), "h", int(d.Minutes())%60, "m")
	}
	return two(int(d.Hours())/24, "d", int(d.Hours())%24, "h")
}

func two(a int, unitA string, b int, unitB string) string {
	if b == 0 {
		return fmt.Sprintf("%d%s", a, unitA)
	}
	return fmt.Sprintf("%d%s%d%s", a, unitA, b, unitB)
}

// Ago writes how long ago something was, with one unit: "just now", "42s ago", "3m ago".
func Ago(d time.Duration) string {
	switch {
	case d < time.Second:
		return "just now"
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	}
	return fmt.Sprintf("%dd ago", int(d.Hours())/24)
}

// In writes how long it is until something: "now", "in 42s".
func In(d time.Duration) string {
	if d < time.Second {
		return "now"
	}
	return "in " + Took(d.Truncate(time.Second))
}

func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
