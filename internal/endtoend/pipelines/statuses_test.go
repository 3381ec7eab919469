//go:build linux

package pipelines

import (
	"fmt"
	"regexp"
	"syscall"

	"sentry/internal/forge/forgetest"
)

// onForge is the name of a member's repository there.
func onForge(member string) string { return "acme/" + member }

// told is what a forge was told of the newest commit of a member, in order.
func (w *world) told(member string) []forgetest.Status {
	return w.forge.History(onForge(member), w.forge.Head(onForge(member), "main"))
}

// verdict is what a commit of a member is to show when all is over. The texts are patterns of whole descriptions.
type verdict struct {
	member, commit string
	pending, state string
	text           string
}

// judge tells what is wrong with what the forge was told of a commit: one pending, then one verdict, and nothing else.
func (v verdict) judge(told []forgetest.Status) error {
	want := []forgetest.Status{{State: "pending", Description: v.pending}, {State: v.state, Description: v.text}}
	if len(told) != len(want) {
		return fmt.Errorf("of %s it was said: %+v; want a pending, and %s", v.member, told, v.state)
	}
	for i, s := range told {
		if !regexp.MustCompile(`^(`+want[i].Description+`)$`).MatchString(s.Description) || s.State != want[i].State || s.Context != "sentry/g" || s.URL != "" {
			return fmt.Errorf("of %s it was said %+v; want %+v", v.member, s, want[i])
		}
	}
	return nil
}

// statuses judges what the forge was told of the rollout of all three, by which each commit has its verdict, and then of one
// that fails and of one that succeeds, by which only the commit has one that moved.
func (w *world) statuses() {
	w.t.Helper()
	var all []verdict
	for _, member := range []string{"good", "bad", "slow"} {
		all = append(all, verdict{
			member: member, commit: w.forge.Head(onForge(member), "main"),
			pending: "rolling out good, bad, slow", state: "failure", text: `timed out: slow; failed: bad \(1 of 3 succeeded\) in [0-9ms]+`,
		})
	}
	d := w.start()
	for _, v := range []verdict{
		{member: "bad", pending: "rolling out bad", state: "failure", text: `failed: bad \(0 of 1 succeeded\) in [0-9ms]+`},
		{member: "good", pending: "rolling out good", state: "success", text: `succeeded: 1 of 1 in [0-9ms]+`},
	} {
		v.commit = w.forge.Push(onForge(v.member), "main")
		w.until("the commit of "+v.member+" has its verdict", func() bool { return len(w.told(v.member)) >= 2 })
		all = append(all, v)
	}
	d.end(syscall.SIGTERM) // nothing more is said
	for _, v := range all {
		if err := v.judge(w.forge.History(onForge(v.member), v.commit)); err != nil {
			w.t.Error(err)
		}
	}
}
