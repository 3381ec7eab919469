package server

import (
	"testing"
	"time"

	"sentry/internal/sentry"
)

func TestSentences(t *testing.T) {
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	rollout := func(s sentry.Status) *sentry.Rollout {
		return &sentry.Rollout{
			ID: "7-abcde", Group: "web", Status: s, Reason: "shop@main failed: exit code 2.", StartedAt: ago(42 * time.Second), FinishedAt: ago(3 * time.Minute),
			Trigger:     sentry.Trigger{Kind: sentry.TriggerPerson, By: "ada"},
			Deployments: []sentry.Deployment{{Watch: sentry.Watch{Repository: "shop", Branch: "main"}, Status: sentry.Running}, {Status: sentry.Pending}, {Status: sentry.TimedOut}},
		}
	}
	for _, c := range []struct {
		group Group
		want  string
	}{
		{Group{State: GroupIdle}, "Group web is idle; it has not been rolled out yet."},
		{Group{State: GroupIdle, Last: rollout(sentry.Failed)}, "Group web is idle; its last rollout 7-abcde failed 3m ago because shop@main failed: exit code 2."},
		{Group{State: GroupIdle, Last: rollout(sentry.Succeeded)}, "Group web is idle; its last rollout 7-abcde succeeded 3m ago."},
		{Group{State: GroupIdle, Last: rollout(sentry.Interrupted)}, "Group web is idle; its last rollout 7-abcde was interrupted 3m ago because shop@main failed: exit code 2."},
		{Group{State: GroupWaiting, Waiting: 2, Next: rollout(sentry.Pending)}, "Group web is about to begin rollout 7-abcde, because asked for by ada; 1 more waits after it."},
		{Group{State: GroupRunning, Current: rollout(sentry.Running)}, "Group web has been running rollout 7-abcde for 42s: shop@main running, 1 pending, 1 timed out."},
		{
			Group{State: GroupRunning, Current: rollout(sentry.Running), Waiting: 1, Paused: &Pause{By: "ada", Reason: "freeze", At: ago(2 * time.Hour)}},
			"Group web has been running rollout 7-abcde for 42s: shop@main running, 1 pending, 1 timed out. 1 more rollout waits after it. It is paused after this one by ada 2h ago: freeze.",
		},
		{Group{State: GroupWaiting, Waiting: 1, Next: rollout(sentry.Pending), unattended: true}, "Rollout 7-abcde of group web waits until Sentry starts, because asked for by ada."},
		{
			Group{State: GroupInterrupted, Current: rollout(sentry.Running), Waiting: 1, Paused: &Pause{By: "ada", At: ago(time.Minute)}, unattended: true},
			"Rollout 7-abcde of group web was interrupted with shop@main running, 1 pending, 1 timed out. It begins again, or is given up, when Sentry starts. 1 more rollout waits after it. The group is paused after it by ada 1m ago.",
		},
		{Group{State: GroupPaused, Waiting: 3, Paused: &Pause{At: ago(time.Minute)}}, "Group web is paused by somebody 1m ago. 3 rollouts wait until `sentry resume web`."},
	} {
		c.group.Name = "web"
		if got := groupSentence(c.group, now); got != c.want {
			t.Errorf("%s\nwant %s", got, c.want)
		}
	}
	for _, c := range []struct {
		watch Watch
		want  string
	}{
		{Watch{Branch: "main"}, "Branch main has not been seen yet."},
		{Watch{Branch: "v*", Pattern: true}, "No branch matches v* yet."},
		{Watch{Branch: "main", Commit: commit("a"), Generation: 1, MovedAt: ago(3 * time.Hour)}, "Branch main is at aaaaaaaaaa, as when it was first seen 3h ago."},
		{Watch{Branch: "main", Commit: commit("a"), Generation: 4, MovedAt: ago(90 * time.Second)}, "Branch main is at aaaaaaaaaa (generation 4) for 1m30s."},
		{Watch{Branch: "main", Commit: commit("a"), Generation: 4, Deleted: true}, "Branch main is deleted; it was at aaaaaaaaaa."},
		{Watch{Branch: "main", Trouble: true, Failures: 3, Answer: "failing: no route."}, "Branch main has not been seen yet; the repository answers: failing: no route (3 times in a row)."},
		{Watch{Branch: "main", Commit: commit("a"), Generation: 1, MovedAt: ago(0), Doubt: "said to be gone"}, "Branch main is at aaaaaaaaaa, as when it was first seen just now; it is said to be gone, which is not believed before it is said twice."},
	} {
		if got := watchSentence(c.watch, now); got != c.want {
			t.Errorf("%s\nwant %s", got, c.want)
		}
	}
	for _, c := range []struct {
		status Status
		want   string
	}{
		{Status{}, "No daemon is running, so nothing is polled."},
		{Status{Daemon: &Daemon{Draining: true}}, "The daemon is ending, so nothing more is polled."},
		{Status{Daemon: &Daemon{}}, "Next poll of shop in 42s, pay now."},
	} {
		members := []Member{
			{Repository: "shop", Watches: []Watch{{NextAt: now.Add(50 * time.Second)}, {NextAt: now.Add(42 * time.Second)}}},
			{Repository: "pay", Watches: []Watch{{NextAt: now.Add(-time.Second)}}},
			{Repository: "unplanned", Watches: []Watch{{}}},
		}
		if got := nextPolls(c.status, members, now); got != c.want {
			t.Errorf("%s\nwant %s", got, c.want)
		}
	}
	running := rollout(sentry.Running)
	running.CanceledBy = "ada"
	for _, c := range []struct {
		rollout *sentry.Rollout
		want    string
	}{
		{&sentry.Rollout{ID: "7-a", Group: "web", Status: sentry.Pending, RecordedAt: ago(5 * time.Second)}, "Rollout 7-a of group web has been waiting for 5s."},
		{running, "Rollout 7-abcde of group web has been running for 42s: shop@main running, 1 pending, 1 timed out. ada asked to cancel it."},
		{&sentry.Rollout{ID: "7-a", Group: "web", Status: sentry.TimedOut, Reason: "global_timeout", StartedAt: ago(time.Hour), FinishedAt: ago(45 * time.Minute)}, "Rollout 7-a of group web timed out after 15m, 45m ago: global_timeout."},
		{&sentry.Rollout{ID: "7-a", Group: "web", Status: sentry.Succeeded, Reason: "all did", StartedAt: ago(time.Hour), FinishedAt: ago(45 * time.Minute)}, "Rollout 7-a of group web succeeded after 15m, 45m ago."},
	} {
		if got := tellRollout(*c.rollout, false, now); got != c.want {
			t.Errorf("%s\nwant %s", got, c.want)
		}
	}
	for want, r := range map[string]*sentry.Rollout{
		"Rollout 7-a of group web waits until Sentry starts.": {ID: "7-a", Group: "web", Status: sentry.Pending},
		"Rollout 7-abcde of group web was interrupted with shop@main running, 1 pending, 1 timed out. ada asked to cancel it, so it ends when Sentry starts.": running,
		"Rollout 7-abcde of group web was interrupted with shop@main running, 1 pending, 1 timed out. It begins again, or is given up, when Sentry starts.":   rollout(sentry.Running),
	} {
		if got := tellRollout(*r, true, now); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}

// TestHowARepositoryIsAsked: what a forge says of it becomes a sentence, however it begins.
func TestHowARepositoryIsAsked(t *testing.T) {
	status := Status{Items: []Group{{Name: "web", State: GroupIdle, Members: []Member{{Repository: "shop"}}}}}
	begin := "Repository shop belongs to group web. Group web is idle; it has not been rolled out yet. No daemon is running, so nothing is polled."
	for asked, want := range map[string]string{
		"":                          begin,
		"asked over Git (ls-refs).": begin + " It is asked over Git (ls-refs).",
		"one search tells it all":   begin + " One search tells it all.",
	} {
		if got, known := tellRepository(status, "shop", asked, now); got != want || !known {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}

func TestDurationsForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 999 * time.Microsecond: "0s", 49 * time.Millisecond: "49ms", 100 * time.Millisecond: "0.1s", 450 * time.Millisecond: "0.4s", 2 * time.Second: "2s", 9990 * time.Millisecond: "9.9s",
		42*time.Second + 900*time.Millisecond: "42s", time.Minute: "1m", 200 * time.Second: "3m20s", time.Hour: "1h", 125 * time.Minute: "2h5m", 76 * time.Hour: "3d4h",
	} {
		if got := Took(d); got != want {
			t.Errorf("Took(%d) = %s, want %s", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		-time.Hour: "just now", 999 * time.Millisecond: "just now", 59 * time.Second: "59s ago", 119 * time.Second: "1m ago", 47 * time.Hour: "47h ago", 48 * time.Hour: "2d ago",
	} {
		if got := Ago(d); got != want {
			t.Errorf("Ago(%d) = %s, want %s", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-time.Second: "now", 999 * time.Millisecond: "now", 1900 * time.Millisecond: "in 1s", 61 * time.Second: "in 1m1s"} {
		if got := In(d); got != want {
			t.Errorf("In(%d) = %s, want %s", d, got, want)
		}
	}
}

func TestTroublesOfAGroup(t *testing.T) {
	bad := Watch{Branch: "main", Trouble: true, Answer: "failing: no route"}
	members := []Member{
		{Repository: "shop", Watches: []Watch{{Branch: "main"}}},
		{Repository: "pay", Watches: []Watch{bad, bad}},
	}
	if got, want := troubles(members), " pay@main answers: failing: no route."; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for range 4 {
		members = append(members, members[1])
	}
	if got, want := troubles(members)[len(troubles(members[:4])):], " 2 more members are in trouble; `sentry status` lists them."; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
