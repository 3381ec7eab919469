package forge_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/forge"
)

// A repository whose commits have names by SHA-256 is asked among others, by itself, and about a commit, and gets statuses,
// as any other.
func TestSHA256(t *testing.T) {
	for _, kind := range []string{"GitHub", "GitLab", "Gitea"} {
		for _, company := range []int{0, 30} {
			t.Run(fmt.Sprintf("%s, with %d others", kind, company), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, emulated(t, kind))
					one := r.add("team/modern", true, "main", "release/*")
					r.lab.(interface{ Modern(string) }).Modern(one.Name)
					for i := range company {
						r.lab.Push(r.add(fmt.Sprintf("team/r%d", i), false).Name, "main")
					}
					r.update()
					commit := ""
					for range 3 {
						commit = r.lab.Push(one.Name, "main")
						release := r.lab.Push(one.Name, "release/1")
						if len(commit) != 64 {
							t.Fatalf("the commit is %s", commit)
						}
						if got := r.ask(true, one)[0]; got.Err != nil || got.Heads["main"] != commit || got.Heads["release/1"] != release {
							t.Errorf("by itself: %s", show(got))
						}
						time.Sleep(time.Minute) // a search tells times in whole seconds
						commit = r.lab.Push(one.Name, "main")
						time.Sleep(time.Minute)
						for i, got := range r.ask(false) {
							if got.Err != nil || i == 0 && got.Heads["main"] != commit {
								t.Errorf("%s among others: %s", r.all[i].Name, show(got))
							}
						}
					}
					if made, err := r.forges.Commit(t.Context(), one, commit); err != nil || made.AuthorName == "" {
						t.Errorf("who made it: %+v, %v", made, err)
					}
					s := forge.Status{Commit: commit, Branch: "main", State: forge.Success, Context: "sentry/g", Description: "all is well"}
					if err := r.forges.SetStatus(t.Context(), one, s); err != nil {
						t.Fatal(err)
					}
					if got := r.lab.Statuses(one.Name, commit); len(got) != 1 || got[0].Context != s.Context {
						t.Errorf("the statuses are %+v", got)
					}
				})
			})
		}
	}
}
