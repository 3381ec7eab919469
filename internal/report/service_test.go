package report

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// TestWhoGetsWhat: which commits get which status. a and b are members, and c is the repository of a under another name;
// only what moved is in the rollout as changed.
func TestWhoGetsWhat(t *testing.T) {
	const address = "c=git@github.com:Acme/A.git" // that of a, written otherwise
	for _, c := range []struct {
		name, report, to string
		change           func(*config.Config)
		want             string
	}{
		{"what changed", "changed", "upstream", nil, `
github.com a a2 sentry/g pending
github.com a a2 sentry/g failure`},
		{"by default", "", "", nil, `
github.com a a2 sentry/g pending
github.com a a2 sentry/g failure`},
		{"all", "all", "upstream", nil, `
github.com a a2 sentry/g pending
github.com b b1 sentry/g pending
github.com a a2 sentry/g failure
github.com b b1 sentry/g failure`},
		{"off", "off", "both", nil, ""},
		{"to QA", "changed", "qa", nil, `
git.example.com a/qa q1 sentry/g pending
git.example.com a/qa q1 sentry/g failure`},
		{"to both", "changed", "both", nil, `
github.com a a2 sentry/g pending
git.example.com a/qa q1 sentry/g pending
github.com a a2 sentry/g failure
git.example.com a/qa q1 sentry/g failure`},
		{"a kind without statuses", "changed", "both", func(c *config.Config) { c.Repositories[0].Monitor.Type = "git" }, `
github.com c a2 sentry/g pending
git.example.com a/qa q1 sentry/g pending
github.com c a2 sentry/g failure
git.example.com a/qa q1 sentry/g failure`},
		{"no token", "all", "upstream", func(c *config.Config) {
			for i := range c.Repositories {
				c.Repositories[i].Monitor.Auth = config.Auth{Username: "x"}
			}
		}, ""},
		{"QA is upstream", "changed", "both", func(c *config.Config) {
			for i := range c.Repositories {
				c.Repositories[i].Deploy.Remote, c.Repositories[i].Deploy.Type = c.Repositories[0].Monitor.Remote, "github"
			}
		}, `
github.com a a2 sentry/g pending
github.com a/qa q1 sentry/g pending
github.com a a2 sentry/g failure
github.com a/qa q1 sentry/g failure`},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := group(t, c.report, c.to, "a", "b", address)
			if c.change != nil {
				c.change(cfg)
			}
			play(t, cfg, func(s *scene) {
				s.push("a", "a1")
				s.push("b", "b1")
				s.push("c", "a1")
				s.push("a", "a2")
				s.push("c", "a2")
				r := s.begin("g")
				s.after(time.Second)
				s.pin(r, "q1", 1)
				s.after(time.Second)
				s.end(r, sentry.Succeeded, sentry.Failed)
				s.after(time.Second)
				s.is("told", sorted(s.forges.told()), sorted(strings.TrimPrefix(c.want, "\n")))
			})
		})
	}
}

// sorted puts what goes to different hosts in a fixed order; each host's own stays.
func sorted(lines string) string {
	var out []string
	for _, prefix := range []string{"github.com", "git.example.com"} {
		for _, line := range strings.Split(lines, "\n") {
			if strings.HasPrefix(line, prefix+" ") {
				out = append(out, line)
			}
		}
	}
	return strings.Join(out, "\n")
}

// TestWhatIsTold: everything of one status.
func TestWhatIsTold(t *testing.T) {
	cfg := group(t, "changed", "upstream", "a", "b")
	cfg.Global.PublicURL = "https://sentry.example.com"
	play(t, cfg, func(s *scene) {
		s.push("a", "a1")
		s.push("b", "b1")
		s.push("a", "a2")
		r := s.begin("g")
		s.after(time.Minute + time.Second)
		s.end(r, sentry.Failed, sentry.Succeeded)
		s.after(time.Second)
		var got []Status
		for _, c := range s.forges.said {
			got = append(got, c.Status)
		}
		want := Status{Commit: "a2", Branch: "main", State: sentry.StatePending, Context: "sentry/g", Description: "rolling out a, b", URL: "https://sentry.example.com/rollouts/" + r.ID}
		verdict := want
		verdict.State, verdict.Description = sentry.StateFailure, "failed: a (1 of 2 succeeded) in 1m1s"
		if diff := cmp.Diff([]Status{want, verdict}, got); diff != "" {
			t.Error(diff)
		}
		s.is("reports", s.reports(r), "pending delivered, failure delivered")
		if why := s.unreported(); len(why) != 0 {
			t.Error(why)
		}
	})
}

// TestNothingBegan: of a rollout that was canceled before it began, nothing was said and nothing is.
func TestNothingBegan(t *testing.T) {
	play(t, group(t, "all", "both", "a"), func(s *scene) {
		s.push("a", "a1")
		s.push("a", "a2")
		waiting, _ := s.Pending(context.Background())
		_, err := s.Cancel(context.Background(), waiting[0].Rollout.ID, "ada", "")
		s.must(err)
		s.after(time.Hour)
		s.is("told", s.forges.told(), "")
		if m, _ := s.Outbox(context.Background(), 10); len(m) != 0 {
			t.Errorf("left in the outbox: %+v", m)
		}
	})
}

// TestAskedFor: a rollout that a person has asked for brings the statuses up to date that are there, and those of the
// rollout that is tried again; others it does not touch.
func TestAskedFor(t *testing.T) {
	play(t, group(t, "changed", "upstream", "a", "b"), func(s *scene) {
		s.push("a", "a1")
		s.push("b", "b1")
		s.ask(store.Request{Group: "g", Whole: true})
		s.end(s.begin("g"), sentry.Succeeded)
		s.after(time.Second)
		s.is("nothing changed", s.forges.told(), "")

		s.push("a", "a2")
		failed := s.begin("g")
		s.end(failed, sentry.Failed)
		s.after(time.Second)
		s.is("a has changed", s.forges.told(), "github.com a a2 sentry/g failure")

		s.ask(store.Request{Group: "g", Kind: sentry.TriggerRetry, RetryOf: failed.ID, Watches: []sentry.Watch{watchOf("b")}})
		again := s.begin("g")
		s.after(time.Second)
		s.end(again, sentry.Succeeded)
		s.after(time.Second)
		s.is("tried again", s.forges.told(), "github.com a a2 sentry/g pending\ngithub.com a a2 sentry/g success")

		s.ask(store.Request{Group: "g", Whole: true})
		s.end(s.begin("g"), sentry.TimedOut)
		s.after(time.Second)
		s.is("asked for", s.forges.told(), "github.com a a2 sentry/g failure")

		s.push("b", "b2")
		s.end(s.begin("g"), sentry.Succeeded)
		s.after(time.Second)
		s.is("b has changed", s.forges.told(), "github.com b b2 sentry/g success")
	})
}

// TestRetryOfWhatWasNotReported: who switches reports on and tries again is told.
func TestRetryOfWhatWasNotReported(t *testing.T) {
	play(t, group(t, "off", "upstream", "a"), func(s *scene) {
		s.push("a", "a1")
		s.push("a", "a2")
		failed := s.begin("g")
		s.end(failed, sentry.Failed)
		s.after(time.Second)
		s.cfg.Store(group(t, "changed", "upstream", "a"))
		s.ask(store.Request{Group: "g", Kind: sentry.TriggerRetry, RetryOf: failed.ID, Watches: []sentry.Watch{watchOf("a")}})
		s.end(s.begin("g"), sentry.Succeeded)
		s.after(time.Second)
		s.is("told", s.forges.told(), "github.com a a2 sentry/g success")
	})
}

// TestSaidToTheEnd: what was begun to be said is said to its end, whatever the configuration has become.
func TestSaidToTheEnd(t *testing.T) {
	play(t, group(t, "changed", "upstream", "a"), func(s *scene) {
		s.push("a", "a1")
		s.push("a", "a2")
		r := s.begin("g")
		s.after(time.Second)
		s.cfg.Store(group(t, "off", "qa", "a"))
		s.end(r, sentry.Succeeded)
		s.after(time.Second)
		s.is("told", s.forges.told(), "github.com a a2 sentry/g pending\ngithub.com a a2 sentry/g success")
	})
}

// TestInterrupted: a rollout that is run again under the same id says no second pending; a commit of the QA repository
// that only the first attempt used is not left pending, and gets no verdict that is not its own.
func TestInterrupted(t *testing.T) {
	play(t, group(t, "changed", "both", "a"), func(s *scene) {
		s.push("a", "a1")
		s.push("a", "a2")
		r := s.begin("g")
		s.pin(r, "q1", 1)
		s.after(time.Second)
		s.stop()
		next, err := s.Successor()
		s.must(err)
		s.t.Cleanup(func() { s.must(next.Close()) })
		s.Store = next
		s.serve(next)
		r, err = s.TakeOver(context.Background(), r.ID, true)
		s.must(err)
		s.pin(r, "q2", 2)
		s.after(time.Second)
		s.end(r, sentry.Succeeded)
		s.after(time.Second)
		s.is("told", sorted(s.forges.told()), strings.TrimPrefix(`
github.com a a2 sentry/g pending
github.com a a2 sentry/g success
git.example.com a/qa q1 sentry/g pending
git.example.com a/qa q2 sentry/g pending
git.example.com a/qa q1 sentry/g error
git.example.com a/qa q2 sentry/g success`, "\n"))
	})
}

// TestPendingTooLate: a forge that was down until the rollout was over is told the verdict only.
func TestPendingTooLate(t *testing.T) {
	play(t, group(t, "changed", "upstream", "a"), func(s *scene) {
		s.forges.fails(errors.New("connection refused"))
		s.push("a", "a1")
		s.push("a", "a2")
		r := s.begin("g")
		s.after(time.Minute)
		if s.forges.asked() < 2 {
			t.Error("it was not tried again")
		}
		s.is("while it runs", s.reports(r), "pending waiting (connection refused)")
		s.end(r, sentry.Succeeded)
		s.after(time.Second)
		s.is("when it has ended", strings.Split(s.reports(r), ",")[0], "pending superseded (connection refused)")
		s.forges.does(nil)
		s.after(20 * time.Minute)
		s.is("told", s.forges.told(), "github.com a a2 sentry/g success")
	})
}

// TestOvertakenInFlight: a pending that is on its way when its verdict is due is waited for, and not sent again.
func TestOvertakenInFlight(t *testing.T) {
	for _, fails := range []bool{false, true} {
		play(t, group(t, "changed", "upstream", "a"), func(s *scene) {
			s.forges.does(func(_ context.Context, c call) (bool, error) {
				if c.State == sentry.StatePending {
					time.Sleep(20 * time.Second)
					if fails {
						return false, errors.New("reset")
					}
				}
				return true, nil
			})
			s.push("a", "a1")
			s.push("a", "a2")
			r := s.begin("g")
			s.after(time.Second)
			s.end(r, sentry.Succeeded)
			s.after(10 * time.Second)
			s.is("in between", s.forges.told(), "")
			s.after(time.Minute)
			want := "github.com a a2 sentry/g pending\ngithub.com a a2 sentry/g success"
			if fails {
				want = "github.com a a2 sentry/g success"
			}
			s.is("told", s.forges.told(), want)
			if n := s.forges.asked(); n != 2 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// TestForgeDown: a forge that hangs holds up nothing that is for another, and is asked ever less.
func TestForgeDown(t *testing.T) {
	cfg := group(t, "changed", "upstream", "a", "b", "c")
	also(t, cfg, "other", "gitea.example.com")
	play(t, cfg, func(s *scene) {
		s.forges.does(func(ctx context.Context, c call) (bool, error) {
			if c.host != "github.com" {
				return true, nil
			}
			<-ctx.Done()
			return false, ctx.Err()
		})
		for _, w := range []string{"a", "b", "c", "other"} {
			s.push(w, w+"1")
			s.push(w, w+"2")
		}
		r := s.begin("g")
		s.after(time.Second)
		o := s.begin("other")
		s.end(o, sentry.Succeeded)
		s.after(time.Second)
		s.is("told", s.forges.told(), "gitea.example.com other other2 sentry/other success")
		s.end(r, sentry.Succeeded)
		s.after(3 * time.Hour)
		// Three verdicts, each tried after 1 s, 2 s … 15 min at most, a try of 30 s each.
		if n := s.forges.asked(); n < 20 || n > 200 {
			t.Errorf("%d requests in three hours", n)
		}
		if n := strings.Count(s.log.String(), "statuses cannot be delivered"); n != 1 {
			t.Errorf("told %d times:\n%s", n, s.log)
		}
		s.forges.does(nil)
		s.after(20 * time.Minute)
		if got := s.forges.told(); strings.Count(got, "success") != 3 || strings.Contains(got, "pending") {
			t.Error(got)
		}
		if n := strings.Count(s.log.String(), "statuses are delivered again"); n != 1 {
			t.Errorf("told %d times:\n%s", n, s.log)
		}
	})
}

// TestRateLimited: no request is made before the forge wants one; another credential at the same host is not held up.
func TestRateLimited(t *testing.T) {
	cfg := group(t, "changed", "upstream", "a", "b")
	also(t, cfg, "other", "github.com")
	play(t, cfg, func(s *scene) {
		limited := &sentry.Fault{Kind: sentry.RateLimited, RetryAfter: 40 * time.Minute, Err: errors.New("limit")}
		s.forges.does(func(_ context.Context, c call) (bool, error) {
			if c.repository == "other" {
				return true, nil
			}
			return false, limited
		})
		for _, w := range []string{"a", "b", "other"} {
			s.push(w, w+"1")
			s.push(w, w+"2")
		}
		r := s.begin("g")
		s.after(time.Second)
		s.end(s.begin("other"), sentry.Succeeded)
		s.end(r, sentry.Succeeded)
		s.after(39 * time.Minute)
		s.is("told", s.forges.told(), "github.com other other2 sentry/other success")
		if n := s.forges.asked(); n != 2 {
			t.Errorf("%d requests", n)
		}
		s.forges.does(nil)
		s.after(2 * time.Minute)
		if got := s.forges.told(); strings.Count(got, "success") != 2 || strings.Contains(got, "pending") {
			t.Error(got)
		}
	})
}

// TestRestartKeepsToIt: the moment before which a forge does not want to be asked survives a restart, and a clock that is
// set changes nothing about it.
func TestRestartKeepsToIt(t *testing.T) {
	play(t, group(t, "changed", "upstream", "a"), func(s *scene) {
		s.forges.fails(&sentry.Fault{Kind: sentry.Transient, RetryAfter: 30 * time.Minute, Err: errors.New("maintenance")})
		s.push("a", "a1")
		s.push("a", "a2")
		r := s.begin("g")
		s.after(time.Second)
		s.stop()
		s.serve(s.Store)
		s.after(25 * time.Minute)
		if n := s.forges.asked(); n != 1 {
			t.Errorf("%d requests", n)
		}
		s.forges.does(nil)
		s.after(6 * time.Minute)
		s.is("told", s.forges.told(), "github.com a a2 sentry/g pending")
		s.end(r, sentry.Succeeded)
	})
}

// TestNoUse: what no try can help is given up at once, and everybody can see it.
func TestNoUse(t *testing.T) {
	play(t, group(t, "changed", "upstream", "a"), func(s *scene) {
		s.forges.fails(sentry.Faultf(sentry.Invalid, "github.com: no commit found for SHA a2"))
		s.push("a", "a1")
		s.push("a", "a2")
		r := s.begin("g")
		s.after(time.Hour)
		s.is("reports", s.reports(r), "pending given_up (github.com: no commit found for SHA a2)")
		s.forges.does(nil)
		s.end(r, sentry.Succeeded)
		s.after(time.Second)
		s.is("reports", s.reports(r), "pending given_up (github.com: no commit found for SHA a2), success delivered")
		if why := s.unreported(); len(why) != 1 || why[0] != "the status pending on commit a2 is given up: github.com: no commit found for SHA a2" {
			t.Error(why)
		}
		if n := s.forges.asked(); n != 2 || strings.Count(s.log.String(), "given up") != 1 {
			t.Errorf("%d requests\n%s", n, s.log)
		}
	})
}

// TestNotFound: a commit that was just pushed may be unknown to an API for a moment; one that is gone is given up.
func TestNotFound(t *testing.T) {
	play(t, group(t, "changed", "upstream", "a"), func(s *scene) {
		unknown := lookups - 1
		s.forges.does(func(_ context.Context, c call) (bool, error) {
			if unknown--; unknown >= 0 || c.State != sentry.StatePending {
				return false, sentry.Faultf(sentry.NotFound, "no such commit")
			}
			return true, nil
		})
		s.push("a", "a1")
		s.push("a", "a2")
		r := s.begin("g")
		s.after(20 * time.Second)
		s.is("reports", s.reports(r), "pending delivered")
		s.forges.asked()
		s.end(r, sentry.Succeeded)
		s.after(time.Minute)
		s.is("reports", s.reports(r), "pending delivered, success given_up (no such commit)")
		if n := s.forges.asked(); n != lookups {
			t.Errorf("%d requests", n)
		}
	})
}

// TestADay: what cannot be delivered for a day is given up.
func TestADay(t *testing.T) {
	play(t, group(t, "changed", "upstream", "a"), func(s *scene) {
		s.forges.fails(errors.New("connection refused"))
		s.push("a", "a1")
		s.push("a", "a2")
		r := s.begin("g")
		s.after(time.Second)
		s.end(r, sentry.Succeeded)
		s.after(23 * time.Hour)
		s.is("reports", s.reports(r), "pending superseded (connection refused), success waiting (connection refused)")
		s.after(time.Hour + 10*time.Minute)
		s.is("reports", s.reports(r), "pending superseded (connection refused), success given_up (not delivered in 24h0m0s: connection refused)")
		if n := s.forges.asked(); n < 60 || n > 400 {
			t.Errorf("%d requests in a day", n)
		}
		s.after(time.Hour)
		if n := s.forges.asked(); n != 0 || len(s.unreported()) != 1 || !strings.Contains(s.log.String(), "a status is given up") {
			t.Errorf("%d requests, %q", n, s.unreported())
		}
	})
}

// TestMissingRight: said once, not hammered, and made good where it is granted.
func TestMissingRight(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	cfg := group(t, "changed", "upstream", "a", "b")
	cfg.Repositories[0].Monitor.Auth = config.Auth{TokenFile: file}
	write := func(token string) {
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("weak")
	play(t, cfg, func(s *scene) {
		allowed := "nothing"
		s.forges.does(func(_ context.Context, c call) (bool, error) {
			if c.repository == "a" && allowed != "all" {
				if secret, _ := s.cfg.Load().Repositories[0].Monitor.Auth.Secret(); secret.Reveal() != allowed {
					return false, sentry.Faultf(sentry.Unauthorized, "github.com refuses: the token needs the scope repo:status")
				}
			}
			return true, nil
		})
		n := 1
		rollout := func() sentry.Rollout {
			n++
			s.push("a", fmt.Sprint("a", n))
			r := s.begin("g")
			s.after(time.Second)
			s.end(r, sentry.Succeeded)
			s.after(3 * time.Second)
			return r
		}
		s.push("a", "a1")
		s.push("b", "b1")
		s.push("b", "b2") // in the same rollout: its statuses go
		r := rollout()
		const refused = " given_up (github.com refuses: the token needs the scope repo:status)"
		s.is("reports", s.reports(r), "pending"+refused+", pending delivered, success"+refused+", success delivered")
		for range 5 {
			rollout()
		}
		if n := s.forges.asked(); n != 3 {
			t.Errorf("%d requests: one that is refused, two for b", n)
		}
		if why := s.unreported(); len(why) != 1 || !strings.Contains(why[0], "needs the scope repo:status; they are given up until") {
			t.Error(why)
		}
		if n := strings.Count(s.log.String(), "WARN"); n != 1 {
			t.Errorf("warned %d times:\n%s", n, s.log)
		}
		s.forges.told()

		// A token with the right: the newest word on each commit is said.
		allowed = "strong"
		write("strong")
		s.after(2 * time.Minute)
		got := s.forges.told()
		if strings.Count(got, "success") != 6 || strings.Contains(got, "pending") {
			t.Error(got)
		}

		// It is taken away: told again. It is granted at the forge, and nothing changes here: found within the hour.
		allowed = "another"
		rollout()
		if why := s.unreported(); len(why) != 2 {
			t.Error(why)
		}
		s.forges.asked()
		s.after(50 * time.Minute)
		rollout()
		if n := s.forges.asked(); n != 0 {
			t.Errorf("%d requests", n)
		}
		told := len(s.unreported())
		s.after(15 * time.Minute) // and it is tried, is refused again, and is not told of again
		if n := s.forges.asked(); n != 1 || len(s.unreported()) != told {
			t.Errorf("%d requests, told %d times", n, len(s.unreported())-told)
		}
		allowed = "all"
		s.forges.told()
		s.after(65 * time.Minute)
		if got := s.forges.told(); strings.Count(got, "success") != 2 {
			t.Error(got)
		}

		// A start is another chance, and says no second time what is known.
		allowed = "nothing"
		rollout()
		told = len(s.unreported())
		s.stop()
		s.forges.asked()
		s.serve(s.Store)
		s.after(time.Minute)
		if n := s.forges.asked(); n != 1 || len(s.unreported()) != told {
			t.Errorf("%d requests, told %d times", n, len(s.unreported())-told)
		}
	})
}

// TestMissingRightsHoldUpNobody: of many repositories with one token, most may not be reported on. The others are told at
// once all the same, the first time and when the refused are tried again; each of these is asked about no more than hourly.
func TestMissingRightsHoldUpNobody(t *testing.T) {
	names := []string{"mine"}
	for i := range 60 {
		names = append(names, fmt.Sprint("r", i))
	}
	cfg := group(t, "changed", "upstream", names...)
	play(t, cfg, func(s *scene) {
		s.forges.does(func(_ context.Context, c call) (bool, error) {
			if c.repository != "mine" {
				return false, sentry.Faultf(sentry.Unauthorized, "github.com refuses: the token needs the scope repo:status")
			}
			return true, nil
		})
		for _, name := range names {
			s.push(name, "c1")
		}
		for _, name := range names[1:] {
			s.push(name, "c2")
		}
		first := s.begin("g")
		s.after(2 * time.Minute)
		if n := s.forges.asked(); n != 60 {
			t.Errorf("%d requests in two minutes, for 60 repositories", n)
		}
		s.end(first, sentry.Succeeded)
		for n := range 75 {
			s.push("mine", fmt.Sprint("m", n))
			r := s.begin("g")
			s.after(15 * time.Second)
			s.end(r, sentry.Succeeded)
			s.after(45 * time.Second)
			if got := s.reports(r); got != "pending delivered, success delivered" {
				t.Fatalf("after %d minutes: %s", n, got)
			}
		}
		if n := s.forges.asked() - 2*75; n != 60 {
			t.Errorf("%d requests for what is refused, in an hour and a quarter", n)
		}
	})
}

// TestLateArrival: a status that ran out of time may arrive after all. What follows it does not come before that.
func TestLateArrival(t *testing.T) {
	play(t, group(t, "changed", "upstream", "a"), func(s *scene) {
		said := make(chan string, 2)
		s.forges.does(func(ctx context.Context, c call) (bool, error) {
			if c.State == sentry.StatePending {
				<-ctx.Done()
				time.AfterFunc(8*time.Second, func() { said <- string(c.State) })
				return false, ctx.Err()
			}
			said <- string(c.State)
			return true, nil
		})
		s.push("a", "a1")
		s.push("a", "a2")
		r := s.begin("g")
		s.after(10 * time.Second)
		s.end(r, sentry.Succeeded)
		s.after(time.Hour)
		if got := <-said + ", " + <-said; got != "pending, success" {
			t.Error(got)
		}
		s.is("reports", s.reports(r), "pending superseded (context deadline exceeded), success delivered")
	})
}

// TestConfigurationMoves: what was to be said of a repository that is gone, or elsewhere by now, is not said anywhere else.
func TestConfigurationMoves(t *testing.T) {
	for want, next := range map[string]*config.Config{
		"repository a is no longer configured": group(t, "changed", "upstream", "b"),
		"repository a has another address now": group(t, "changed", "upstream", "a=https://github.com/other/a"),
		"its repo_type is git: only GitHub, GitLab and Gitea take statuses": func() *config.Config {
			c := group(t, "changed", "upstream", "a")
			c.Repositories[0].Monitor.Type = "git"
			return c
		}(),
	} {
		play(t, group(t, "changed", "upstream", "a"), func(s *scene) {
			s.forges.fails(errors.New("down"))
			s.push("a", "a1")
			s.push("a", "a2")
			r := s.begin("g")
			s.after(time.Second)
			s.cfg.Store(next)
			s.served.Wake()
			s.after(time.Hour)
			s.is("reports", s.reports(r), "pending given_up ("+want+")")
			s.is("told", s.forges.told(), "")
		})
	}
}

// TestStop: a stop lets what is on its way arrive, sends what is due, and leaves nothing twice.
func TestStop(t *testing.T) {
	play(t, group(t, "changed", "upstream", "a"), func(s *scene) {
		s.forges.does(func(ctx context.Context, c call) (bool, error) {
			time.Sleep(time.Second)
			return true, ctx.Err()
		})
		s.push("a", "a1")
		s.push("a", "a2")
		r := s.begin("g")
		s.after(500 * time.Millisecond) // on its way
		s.end(r, sentry.Succeeded)
		begun := time.Now()
		s.stop()
		if took := time.Since(begun); took > 3*time.Second {
			t.Errorf("it took %s", took)
		}
		s.is("reports", s.reports(r), "pending delivered, success delivered")
		s.serve(s.Store)
		s.after(time.Hour)
		s.is("told", s.forges.told(), "github.com a a2 sentry/g pending\ngithub.com a a2 sentry/g success")
	})
}

// TestStopWhileAForgeHangs: a stop waits a few seconds for it, and no more.
func TestStopWhileAForgeHangs(t *testing.T) {
	play(t, group(t, "changed", "upstream", "a"), func(s *scene) {
		s.forges.does(func(ctx context.Context, c call) (bool, error) {
			<-ctx.Done()
			return false, ctx.Err()
		})
		s.push("a", "a1")
		s.push("a", "a2")
		r := s.begin("g")
		s.after(time.Second)
		begun := time.Now()
		s.stop()
		if took := time.Since(begun); took > linger+time.Second {
			t.Errorf("it took %s", took)
		}
		s.is("reports", s.reports(r), "pending waiting")
		s.end(r, sentry.Succeeded)
	})
}

// full is a disk that is full for some writes.
type full struct {
	Store
	left int
}

func (f *full) Arrived(ctx context.Context, id int64) error {
	if f.left--; f.left >= 0 {
		return fmt.Errorf("cannot save: %w", store.ErrDiskFull)
	}
	return f.Store.Arrived(ctx, id)
}

// TestDiskFull: what has arrived is not sent again because it could not be recorded at once.
func TestDiskFull(t *testing.T) {
	play(t, group(t, "changed", "upstream", "a"), func(s *scene) {
		s.stop()
		s.serve(&full{s.Store, 3})
		s.push("a", "a1")
		s.push("a", "a2")
		r := s.begin("g")
		s.after(time.Minute)
		s.is("told", s.forges.told(), "github.com a a2 sentry/g pending")
		s.is("reports", s.reports(r), "pending delivered")
		s.end(r, sentry.Succeeded)
		s.after(time.Minute)
	})
}

// TestDiskStaysFull: a stop does not wait for room.
func TestDiskStaysFull(t *testing.T) {
	play(t, group(t, "changed", "upstream", "a"), func(s *scene) {
		s.stop()
		s.serve(&full{s.Store, 1 << 30})
		s.push("a", "a1")
		s.push("a", "a2")
		r := s.begin("g")
		s.after(time.Minute)
		begun := time.Now()
		s.stop()
		if took := time.Since(begun); took > linger+time.Second {
			t.Errorf("it took %s", took)
		}
		s.serve(s.Store)
		s.after(time.Minute)
		s.is("said again", s.forges.told(), "github.com a a2 sentry/g pending\ngithub.com a a2 sentry/g pending")
		s.end(r, sentry.Succeeded)
		s.after(time.Minute)
	})
}

// broken is a state that fails for good.
type broken struct{ Store }

func (broken) Arrived(context.Context, int64) error { return store.ErrPoisoned }

// TestBrokenState: a state that cannot be written any more ends the service, with the reason.
func TestBrokenState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := group(t, "changed", "upstream", "a")
		s := &scene{Store: nil, t: t, forges: &forges{}}
		s.cfg.Store(cfg)
		st, err := store.OpenMemory(t.Context(), store.Options{})
		s.must(err)
		defer st.Close()
		s.Store = st
		s.push("a", "a1")
		s.push("a", "a2")
		s.begin("g")
		err = New(Options{Store: broken{st}, Config: s.cfg.Load, Publish: s.forges, Log: discard}).Run(t.Context())
		if !errors.Is(err, store.ErrPoisoned) {
			t.Errorf("error %v", err)
		}
	})
}

// TestDestinations: `check` can tell who gets no statuses, and why.
func TestDestinations(t *testing.T) {
	cfg := group(t, "changed", "both", "a", "b")
	cfg.Repositories[1].Monitor.Type = "git"
	cfg.Repositories[1].Deploy.Auth = config.Auth{}
	also(t, cfg, "quiet", "gitea.example.com").Groups[1].Report = "off"
	want := []Destination{
		{"a", "g", sentry.Upstream, ""},
		{"a", "g", sentry.QA, ""},
		{"b", "g", sentry.Upstream, "its repo_type is git: only GitHub, GitLab and Gitea take statuses"},
		{"b", "g", sentry.QA, "there is no token for it"},
	}
	if diff := cmp.Diff(want, Destinations(cfg)); diff != "" {
		t.Error(diff)
	}
}

// TestLanes: what shares a server and a credential shares a lane, and the name of it tells no secret.
func TestLanes(t *testing.T) {
	cfg := group(t, "all", "both", "a", "b", "c=git@github.com:acme/c.git", "d", "e", "f=https://gitlab.com/acme/f")
	cfg.Repositories[3].Monitor.Auth = config.Auth{TokenFile: "/run/token"}
	cfg.Repositories[4].Monitor.Auth = config.Auth{App: &config.App{ID: 1, Installation: 2, KeyFile: "/run/key"}}
	var names laneNames
	var got []string
	for i := range cfg.Repositories {
		got = append(got, names.of(cfg, sideOf(&cfg.Repositories[i], sentry.Upstream)))
	}
	got = append(got, names.of(cfg, sideOf(&cfg.Repositories[0], sentry.QA)))
	want := []string{
		"github.com token of a", "github.com token of a", "github.com token of a", "github.com /run/token", "github.com app 1/2", "gitlab.com token of a",
		"git.example.com token of a",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
