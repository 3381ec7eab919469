package store

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sentry/internal/sentry"
)

// statusOf makes a delivery about a rollout, as a reporter would: on the commit of the watch, in a context of the group.
func statusOf(e Event, state sentry.State, commit string) Delivery {
	return Delivery{
		Report:  sentry.Report{Repository: "a", Target: sentry.Upstream, Branch: "main", Commit: commit, Context: "sentry/" + e.Group, State: state, Description: "words"},
		Rollout: e.Rollout, Group: e.Group, Lane: "git.example.com", Address: "git.example.com/a", Watched: "main", Head: commit,
	}
}

// expandOnce turns some messages into deliveries: a pending on the commit that changed, and a verdict where there is a pending.
func expandOnce(s *Store) error {
	ctx := context.Background()
	messages, err := s.Outbox(ctx, 3)
	if err != nil {
		return err
	}
	var letters []Letter
	said := map[string]bool{}
	for _, m := range messages {
		var e Event
		if err := json.Unmarshal(m.Payload, &e); err != nil {
			return err
		}
		l := Letter{Message: m.ID}
		switch m.Topic {
		case TopicStarted:
			l.Deliveries = append(l.Deliveries, statusOf(e, sentry.StatePending, commitOf(7)))
			said[e.Rollout] = true
		case TopicFinished:
			before, err := s.Deliveries(ctx, e.Rollout)
			if err != nil {
				return err
			}
			if said[e.Rollout] || len(before) > 0 {
				l.Deliveries = append(l.Deliveries, statusOf(e, sentry.StateSuccess, commitOf(7)))
			}
		}
		letters = append(letters, l)
	}
	_, err = s.Expand(ctx, letters...)
	return err
}

// deliverOnce delivers what may leave next in every lane.
func deliverOnce(s *Store) error {
	ctx := context.Background()
	lanes, err := s.Lanes(ctx)
	if err != nil {
		return err
	}
	for _, lane := range lanes {
		next, err := s.NextDeliveries(ctx, lane, 2)
		if err != nil {
			return err
		}
		for _, d := range next {
			if d.Overtaken {
				err = s.Supersede(ctx, d.ID)
			} else {
				err = s.Arrived(ctx, d.ID)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func expand(t testing.TB, s *Store) {
	t.Helper()
	noError(t, expandOnce(s))
}

func deliver(t testing.TB, s *Store) {
	t.Helper()
	noError(t, deliverOnce(s))
}

// nothingLostNorDoubled makes sure that every rollout has either its message or what that came to, once.
func nothingLostNorDoubled(t testing.TB, s *Store) {
	t.Helper()
	waits := map[string]int{}
	for _, m := range must(s.Outbox(context.Background(), 1000))(t) {
		var e Event
		noError(t, json.Unmarshal(m.Payload, &e))
		waits[m.Topic+" "+e.Rollout]++
	}
	for _, r := range must(s.Rollouts(context.Background(), Filter{Limit: 1000}))(t) {
		said := map[bool]int{}
		for _, d := range must(s.Deliveries(context.Background(), r.ID))(t) {
			said[d.State == sentry.StatePending]++
		}
		started, finished := 0, 0
		if r.Status != sentry.Pending {
			started = 1
		}
		if r.Status.Terminal() {
			finished = 1
		}
		if got := waits[TopicStarted+" "+r.ID] + said[true]; got != started {
			t.Errorf("rollout %s is %s: its beginning is there %d times", r.ID, r.Status, got)
		}
		if got := waits[TopicFinished+" "+r.ID] + said[false]; got != finished {
			t.Errorf("rollout %s is %s: its end is there %d times", r.ID, r.Status, got)
		}
	}
}

// ran is a state in which a rollout has run, and expand has been called: a pending and a verdict wait.
func ran(t testing.TB, s *Store) (rollout string) {
	t.Helper()
	record(t, s, see("a", "1"), see("a", fmt.Sprint("2-", rows(t, s, "rollouts"))))
	r := runThrough(t, s, pending(t, s, "g"))
	expand(t, s)
	return r.ID
}

// fates tells what became of the deliveries of a rollout, in one line.
func fates(t testing.TB, s *Store, rollout string) string {
	t.Helper()
	var words []string
	for _, r := range must(s.Reports(context.Background(), rollout))(t) {
		text := string(r.State) + " " + string(r.Fate)
		if r.Error != "" {
			text += " (" + r.Error + ")"
		}
		words = append(words, text)
	}
	return strings.Join(words, ", ")
}

func next(t testing.TB, s *Store) []Delivery {
	t.Helper()
	return must(s.NextDeliveries(context.Background(), "git.example.com", 100))(t)
}

// TestMessages: what is told of a rollout is told once, in the transaction that makes it so, whatever interrupts it.
func TestMessages(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir)
	record(t, s, see("a", "1"), see("a", "2"))
	r := claim(t, s, pending(t, s, "g"))
	d := r.Deployments[0]
	d.Status, d.Attempt = sentry.Running, 1
	noError(t, s.SaveDeployment(t.Context(), d))
	d.Source = &sentry.Source{URL: "https://git.example.com/qa", Branch: "main", Commit: commitOf(1)}
	noError(t, s.SaveDeployment(t.Context(), d))
	noError(t, s.SaveDeployment(t.Context(), d)) // nothing new
	closed(t, s)
	s = openDir(t, dir)
	r = must(s.TakeOver(t.Context(), r.ID, true))(t)
	d = r.Deployments[0]
	d.Attempt = 2
	d.Source = nil
	noError(t, s.SaveDeployment(t.Context(), d))
	d.Source = &sentry.Source{URL: "https://git.example.com/qa", Branch: "main", Commit: commitOf(2)}
	noError(t, s.SaveDeployment(t.Context(), d))
	d.Status = sentry.Failed
	noError(t, s.SaveDeployment(t.Context(), d))
	noError(t, s.Finish(t.Context(), r.ID, sentry.Failed, "1 failed"))
	var got []string
	for _, m := range must(s.Outbox(t.Context(), 100))(t) {
		var e Event
		noError(t, json.Unmarshal(m.Payload, &e))
		text := fmt.Sprintf("%s %s %d", m.Topic, e.Status, e.Attempt)
		if e.Source != nil {
			text += fmt.Sprintf(" %s %s", e.Watch, sentry.ShortCommit(e.Source.Commit[35:]))
		}
		got = append(got, text)
	}
	want := []string{
		"rollout.started running 1", "deployment.pinned running 1 a@main 00002", "deployment.pinned running 2 a@main 00003", "rollout.finished failed 2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	healthy(t, s)
}

// TestExpand: a message becomes its deliveries once, also where somebody does it again; and what a rollout has made
// already is not made again.
func TestExpand(t *testing.T) {
	s := inMemory(t)
	record(t, s, see("a", "1"), see("a", "2"))
	r := claim(t, s, pending(t, s, "g"))
	m := must(s.Outbox(t.Context(), 100))(t)
	e := Event{Rollout: r.ID, Group: "g"}
	l := Letter{Message: m[0].ID, Deliveries: []Delivery{statusOf(e, sentry.StatePending, "c1"), statusOf(e, sentry.StatePending, "c2"), statusOf(e, sentry.StatePending, "c1")}}
	for range 2 {
		must(s.Expand(t.Context(), l))(t)
		if got := fates(t, s, r.ID); got != "pending waiting, pending waiting" || len(must(s.Outbox(t.Context(), 100))(t)) != 0 {
			t.Fatal(got)
		}
		l.Deliveries = append(l.Deliveries, statusOf(e, sentry.StatePending, "c3")) // of a message that is gone: not made
	}
	deployed(t, s, r)
	noError(t, s.Finish(t.Context(), r.ID, sentry.Succeeded, ""))
	m = must(s.Outbox(t.Context(), 100))(t)
	bad := statusOf(e, sentry.StateSuccess, "")
	_, err := s.Expand(t.Context(), Letter{m[0].ID, []Delivery{statusOf(e, sentry.StateSuccess, "c1"), bad}})
	wants(t, err, ErrInvalid)
	if got := fates(t, s, r.ID); got != "pending waiting, pending waiting" || len(must(s.Outbox(t.Context(), 100))(t)) != 1 {
		t.Errorf("half of it happened: %s", got)
	}
	must(s.Expand(t.Context(), Letter{m[0].ID, []Delivery{statusOf(e, sentry.StateSuccess, "c1"), statusOf(e, sentry.StateSuccess, "c2")}}))(t)
	healthy(t, s)
	if _, err := s.Reports(t.Context(), "99"); !errors.Is(err, ErrNotFound) {
		t.Errorf("reports of nothing: %v", err)
	}
	for commit, want := range map[string]bool{"c1": true, "c3": false} {
		if got := must(s.Reported(t.Context(), "g", watchOf("a"), commit))(t); got != want {
			t.Errorf("%s is reported: %t", commit, got)
		}
	}
	if must(s.Reported(t.Context(), "h", watchOf("a"), "c1"))(t) || must(s.Reported(t.Context(), "g", watchOf("a@next"), "c1"))(t) {
		t.Error("another group, or branch, is taken for this one")
	}
}

// TestChain: what belongs to one status leaves in order, each after the one before has ended; what does not is not held up.
func TestChain(t *testing.T) {
	now := &clock{time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)}
	s := must(OpenMemory(t.Context(), Options{Now: now.now}))(t)
	defer s.Close()
	record(t, s, see("a", "1"), see("a", "2"))
	r := claim(t, s, pending(t, s, "g"))
	expand(t, s)
	first := next(t, s)
	if len(first) != 1 || first[0].State != sentry.StatePending || first[0].Overtaken || !first[0].NextAt.Equal(now.Time) {
		t.Fatalf("%+v", first)
	}
	noError(t, s.Supersede(t.Context(), first[0].ID)) // nothing overtakes it
	noError(t, s.Failed(t.Context(), first[0].ID, 5*time.Minute, "down"))
	if got := next(t, s); len(got) != 1 || got[0].Attempts != 1 || got[0].Error != "down" || !got[0].NextAt.Equal(now.Add(5*time.Minute)) {
		t.Fatalf("%+v", got)
	}
	// Another status of the lane passes.
	m := Message{}
	noError(t, s.write(t.Context(), func(tx *tx) error {
		return tx.postEvent(TopicStarted, Event{Rollout: "9-other", Group: "other"})
	}))
	m = must(s.Outbox(t.Context(), 1))(t)[0]
	must(s.Expand(t.Context(), Letter{m.ID, []Delivery{statusOf(Event{Rollout: "9-other", Group: "other"}, sentry.StatePending, "c")}}))(t)
	if got := next(t, s); len(got) != 2 || got[0].Rollout != "9-other" || got[1].ID != first[0].ID {
		t.Fatalf("%+v", got)
	}
	noError(t, s.Arrived(t.Context(), next(t, s)[0].ID))

	deployed(t, s, r)
	noError(t, s.Finish(t.Context(), r.ID, sentry.Succeeded, ""))
	expand(t, s)
	got := next(t, s)
	if len(got) != 1 || got[0].ID != first[0].ID || !got[0].Overtaken || !got[0].NextAt.IsZero() {
		t.Fatalf("the pending has to give way at once: %+v", got)
	}
	noError(t, s.Supersede(t.Context(), got[0].ID))
	got = next(t, s)
	if len(got) != 1 || got[0].State != sentry.StateSuccess || !got[0].NextAt.Equal(now.Add(5*time.Minute)) {
		t.Fatalf("the verdict keeps to the moment of its pending: %+v", got)
	}
	noError(t, s.Supersede(t.Context(), got[0].ID)) // no verdict ever is
	noError(t, s.Arrived(t.Context(), got[0].ID))
	if got := fates(t, s, r.ID); got != "pending superseded (down), success delivered" {
		t.Error(got)
	}
	reports := must(s.Reports(t.Context(), "1"))(t)
	if reports[1].Attempts != 1 || !reports[1].DeliveredAt.Equal(now.Time) || !reports[1].NextAt.IsZero() || !reports[0].DeliveredAt.IsZero() {
		t.Errorf("%+v", reports)
	}
	healthy(t, s)
}

// TestOvertakenOnItsWay: a pending that was being sent when its verdict came has arrived, or makes way when it fails.
func TestOvertakenOnItsWay(t *testing.T) {
	for _, arrives := range []bool{true, false} {
		s := inMemory(t)
		record(t, s, see("a", "1"), see("a", "2"))
		r := claim(t, s, pending(t, s, "g"))
		expand(t, s)
		p := next(t, s)[0]
		deployed(t, s, r)
		noError(t, s.Finish(t.Context(), r.ID, sentry.Succeeded, ""))
		expand(t, s)
		want := "pending delivered, success waiting"
		if arrives {
			noError(t, s.Arrived(t.Context(), p.ID))
		} else {
			noError(t, s.Failed(t.Context(), p.ID, time.Hour, "down"))
			want = "pending superseded (down), success waiting"
		}
		if got := fates(t, s, r.ID); got != want {
			t.Error(got)
		}
		v := next(t, s)
		if len(v) != 1 || v[0].State != sentry.StateSuccess || v[0].NextAt.After(time.Now().Add(time.Minute)) == arrives {
			t.Errorf("%+v", v)
		}
		healthy(t, s)
	}
}

// TestGivenUp: what cannot be delivered is given up where people look for it.
func TestGivenUp(t *testing.T) {
	s := inMemory(t)
	id := ran(t, s)
	p := next(t, s)[0]
	noError(t, s.Supersede(t.Context(), p.ID))
	v := next(t, s)[0]
	noError(t, s.GiveUp(t.Context(), v.ID, "no such commit"))
	noError(t, s.GiveUp(t.Context(), v.ID, "again")) // final
	if got := fates(t, s, id); got != "pending superseded, success given_up (no such commit)" {
		t.Error(got)
	}
	if r := must(s.Reports(t.Context(), id))(t)[1]; r.Attempts != 1 {
		t.Errorf("%+v", r)
	}
	why := must(s.Why(t.Context(), WhyFilter{Rollout: id, Limit: 1}))(t)[0]
	want := sentry.Decision{
		At: why.At, Verb: sentry.Unreported, Group: "g", Repository: "a", Branch: "main", Rollout: id, Commit: commitOf(7),
		Reason: "the status success on commit 0000000000 is given up: no such commit",
	}
	if diff := cmp.Diff(want, why); diff != "" {
		t.Error(diff)
	}
	noError(t, s.Arrived(t.Context(), v.ID)) // it had arrived after all
	if got := fates(t, s, id); got != "pending superseded, success delivered" {
		t.Error(got)
	}
	healthy(t, s)
}

// TestRefused: a missing right is told once for a repository, and once it is granted the newest word on each commit is said.
func TestRefused(t *testing.T) {
	s := inMemory(t)
	unreported := func() (n int) {
		for _, d := range must(s.Why(t.Context(), WhyFilter{}))(t) {
			if d.Verb == sentry.Unreported {
				n++
			}
		}
		return n
	}
	first, second := ran(t, s), ran(t, s) // both on one commit
	d := next(t, s)[0]
	for i := range 3 {
		if told := must(s.Refuse(t.Context(), d, "no right"))(t); told != (i == 0) {
			t.Errorf("told %t", told)
		}
	}
	if got := fates(t, s, first) + "; " + fates(t, s, second); strings.Count(got, "given_up (no right)") != 4 || unreported() != 1 {
		t.Errorf("%s, told %d times", got, unreported())
	}
	if n := must(s.Revive(t.Context(), "b", ""))(t); n != 0 {
		t.Errorf("%d of another repository", n)
	}
	if n := must(s.Revive(t.Context(), "a", sentry.Upstream))(t); n != 1 {
		t.Errorf("%d came back, want the newest verdict", n)
	}
	if got := fates(t, s, second); got != "pending given_up (no right), success waiting (no right)" {
		t.Error(got)
	}
	if told := must(s.Refuse(t.Context(), d, "no right"))(t); told {
		t.Error("told again what is known")
	}
	if told := must(s.Refuse(t.Context(), d, "another reason"))(t); !told {
		t.Error("another reason was not told")
	}
	must(s.Revive(t.Context(), "", ""))(t)
	noError(t, s.Arrived(t.Context(), next(t, s)[0].ID))
	ran(t, s)
	if told := must(s.Refuse(t.Context(), d, "no right"))(t); !told {
		t.Error("a right that was there and was taken again was not told")
	}
	healthy(t, s)

	// What is refused can come back for as long as patience lasts, and not longer.
	for _, age := range []time.Duration{time.Hour, 22 * time.Hour} {
		old := must(s.Age(t.Context(), age, 24*time.Hour))(t)
		if len(old) != 0 {
			t.Errorf("%+v", old)
		}
	}
	if n := must(s.Revive(t.Context(), "", ""))(t); n != 1 {
		t.Errorf("%d came back after 23 hours", n)
	}
	must(s.Refuse(t.Context(), d, "no right"))(t)
	must(s.Age(t.Context(), time.Hour, 24*time.Hour))(t)
	if n := must(s.Revive(t.Context(), "", ""))(t); n != 0 {
		t.Errorf("%d came back after a day", n)
	}
	healthy(t, s)
}

// TestAge: patience ends by the time that was measured, not by the clock on the wall.
func TestAge(t *testing.T) {
	now := &clock{time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)}
	s := must(OpenMemory(t.Context(), Options{Now: now.now}))(t)
	defer s.Close()
	if old := must(s.Age(t.Context(), time.Hour, time.Hour))(t); old != nil {
		t.Errorf("%+v", old)
	}
	id := ran(t, s)
	noError(t, s.Failed(t.Context(), next(t, s)[0].ID, time.Second, "down")) // superseded
	noError(t, s.Failed(t.Context(), next(t, s)[0].ID, time.Second, "still down"))
	now.Time = now.AddDate(1, 0, 0)
	for range 23 {
		if old := must(s.Age(t.Context(), time.Hour, 24*time.Hour))(t); len(old) != 0 {
			t.Fatalf("%+v", old)
		}
		now.Time = now.AddDate(0, -1, 0)
	}
	old := must(s.Age(t.Context(), time.Hour, 24*time.Hour))(t)
	if len(old) != 1 || old[0].Rollout != id || fates(t, s, id) != "pending superseded (down), success given_up (not delivered in 24h0m0s: still down)" {
		t.Errorf("%+v: %s", old, fates(t, s, id))
	}
	if why := must(s.Why(t.Context(), WhyFilter{Rollout: id, Limit: 1}))(t)[0]; why.Verb != sentry.Unreported || !strings.Contains(why.Reason, "still down") {
		t.Errorf("%+v", why)
	}
	healthy(t, s)
}

// TestOutboxLimits: neither messages that nobody reads nor deliveries that nobody takes grow without end, and what is given
// up for it is told.
func TestOutboxLimits(t *testing.T) {
	s := inMemory(t)
	id := ran(t, s)
	deliver(t, s)
	deliver(t, s)
	noError(t, s.writer.conn.Exec(fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
		INSERT INTO deliveries (kind, lane, address, repository, target, branch, commit_id, context, state, description, rollout, grp, watched, head, fate, next_at, recorded_at)
		SELECT 'status', 'l', 'x', 'x', 'upstream', 'main', 'c' || i, 'sentry/x', 'success', '', '7-abcde', 'x', 'main', 'c', 'waiting', 1, 1 FROM n`, waitingLimit)))
	record(t, s, see("a", "3"))
	claim(t, s, pending(t, s, "g"))
	m := must(s.Outbox(t.Context(), 1))(t)[0]
	e := Event{Rollout: "2-later", Group: "g"}
	if n := must(s.Expand(t.Context(), Letter{m.ID, []Delivery{statusOf(e, sentry.StatePending, "1"), statusOf(e, sentry.StatePending, "2")}}))(t); n != 2 {
		t.Errorf("%d dropped", n)
	}
	dropped := must(s.Deliveries(t.Context(), "7-abcde"))(t)
	if dropped[1].Fate != sentry.GivenUp || dropped[2].Fate != sentry.Waiting || dropped[0].Error != "more statuses wait than are kept" {
		t.Errorf("%+v", dropped[:3])
	}
	if why := must(s.Why(t.Context(), WhyFilter{Group: "x"}))(t); verbs(why) != "unreported" {
		t.Errorf("%+v", why)
	}

	// Messages, the end of a rollout whose pending was delivered among them.
	record(t, s, see("b", "1").in("h"), see("b", "2").in("h"))
	r := claim(t, s, pending(t, s, "h"))
	m = must(s.Outbox(t.Context(), 1))(t)[0]
	e = Event{Rollout: r.ID, Group: "h"}
	must(s.Expand(t.Context(), Letter{m.ID, []Delivery{statusOf(e, sentry.StatePending, "d1"), statusOf(e, sentry.StatePending, "d2")}}))(t)
	noError(t, s.Arrived(t.Context(), must(s.Deliveries(t.Context(), r.ID))(t)[0].ID))
	deployed(t, s, r)
	noError(t, s.Finish(t.Context(), r.ID, sentry.Succeeded, ""))
	healthy(t, s)
	noError(t, s.writer.conn.Exec(fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
		INSERT INTO outbox (topic, key, payload, recorded_at) SELECT 'rollout.started', 'x', '{}', 1 FROM n`, outboxLimit)))
	must(s.Prune(t.Context(), Retention{}))(t)
	if n := rows(t, s, "outbox"); n != outboxLimit {
		t.Errorf("%d messages left", n)
	}
	const reason = "more messages wait than are kept"
	if got := fates(t, s, r.ID); got != "pending delivered, pending given_up ("+reason+"), error given_up ("+reason+"), error given_up ("+reason+")" {
		t.Error(got)
	}
	if why := must(s.Why(t.Context(), WhyFilter{Rollout: r.ID, Limit: 1}))(t)[0]; why.Verb != sentry.Unreported || !strings.Contains(why.Reason, reason) {
		t.Errorf("%+v", why)
	}
	healthy(t, s)
	if got := fates(t, s, id); got != "pending superseded, success delivered" {
		t.Errorf("what is kept: %s", got)
	}

	// What has ended goes with its rollout, and at the latest when much has come since; what waits stays.
	for range 2 {
		record(t, s, see("b", fmt.Sprint("x", rows(t, s, "rollouts"))).in("h"))
		runThrough(t, s, pending(t, s, "h"))
	}
	noError(t, s.writer.conn.Exec(fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
		INSERT INTO deliveries (kind, lane, address, repository, target, branch, commit_id, context, state, description, rollout, grp, watched, head, fate, next_at, recorded_at, ended_at)
		SELECT 'status', 'l', 'x', 'x', 'upstream', 'main', 'e' || i, 'sentry/x', 'success', '', '1-kept', 'x', 'main', 'c', 'delivered', 1, 1, 1 FROM n`, deliveriesKept+3)))
	must(s.Prune(t.Context(), Retention{RolloutsPerGroup: 1}))(t)
	if list := must(s.Deliveries(t.Context(), r.ID))(t); len(list) != 0 {
		t.Errorf("%+v", list)
	}
	if n := len(must(s.Deliveries(t.Context(), "1-kept"))(t)); n != deliveriesKept {
		t.Errorf("%d that have ended are kept", n)
	}
	waits := 0
	for _, d := range must(s.Deliveries(t.Context(), "7-abcde"))(t) {
		if d.Fate != sentry.Waiting {
			t.Fatalf("%+v", d)
		}
		waits++
	}
	if waits < waitingLimit-10 {
		t.Errorf("%d still wait", waits)
	}
}

// TestFencedDeliveries: a Sentry that was replaced can neither expand nor record what it has delivered.
func TestFencedDeliveries(t *testing.T) {
	s := inMemory(t)
	ran(t, s)
	d := next(t, s)[0]
	after := must(s.Successor())(t)
	defer after.Close()
	m := Letter{Message: 1}
	_, err := s.Expand(t.Context(), m)
	wants(t, err, ErrFenced)
	wants(t, s.Arrived(t.Context(), d.ID), ErrFenced)
	wants(t, s.Failed(t.Context(), d.ID, time.Second, ""), ErrFenced)
	if got := next(t, after); len(got) != 1 || got[0].ID != d.ID {
		t.Errorf("%+v", got)
	}
}

// schema1 gives a state directory as the version before deliveries has left it: one rollout that has ended, one that was
// canceled before it began, one that runs with its QA repository pinned, one that waits, and all of their messages.
func schema1(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	packed := must(os.Open(filepath.Join("testdata", "schema1.db.gz")))(t)
	defer packed.Close()
	data := must(io.ReadAll(must(gzip.NewReader(packed))(t)))(t)
	noError(t, os.WriteFile(filepath.Join(dir, databaseName), data, 0o600))
	noError(t, os.WriteFile(filepath.Join(dir, sidecarName), must(os.ReadFile(filepath.Join("testdata", "schema1.id")))(t), 0o600))
	return dir
}

// TestOldState: a state that the former version has written opens, keeps all that it had, and reports what still runs: not
// what has ended long ago.
func TestOldState(t *testing.T) {
	dir := schema1(t)
	_, err := Open(t.Context(), Options{Dir: dir, ReadOnly: true})
	wants(t, err, ErrOlderSchema)
	s := openDir(t, dir)
	healthy(t, s)
	var got []string
	for _, r := range must(s.Rollouts(t.Context(), Filter{}))(t) {
		got = append(got, fmt.Sprintf("%s %s %d", r.Group, r.Status, len(must(s.Reports(t.Context(), r.ID))(t))))
	}
	if diff := cmp.Diff([]string{"h pending 0", "g running 0", "g canceled 0", "g succeeded 0"}, got); diff != "" {
		t.Error(diff)
	}
	if n := len(must(s.Heads(t.Context()))(t)); n != 4 {
		t.Errorf("%d heads", n)
	}
	messages := must(s.Outbox(t.Context(), 100))(t)
	if len(messages) != 1 || messages[0].Topic != TopicStarted || !strings.Contains(string(messages[0].Payload), `"3-`) {
		t.Fatalf("%+v", messages)
	}
	expand(t, s)
	deliver(t, s)
	left := must(s.Left(t.Context()))(t)
	if len(left) != 1 {
		t.Fatalf("%+v", left)
	}
	r := must(s.TakeOver(t.Context(), left[0].ID, true))(t)
	deployed(t, s, r)
	noError(t, s.Finish(t.Context(), r.ID, sentry.Succeeded, ""))
	expand(t, s)
	deliver(t, s)
	if got := fates(t, s, r.ID); got != "pending delivered, success delivered" {
		t.Error(got)
	}
	healthy(t, s)
	closed(t, s)
}

// TestOldStateCutOff: wherever the upgrade is killed, the old version's state is there, or the new one's.
func TestOldStateCutOff(t *testing.T) {
	count := 0
	for stop := 1; stop < 1000; stop++ {
		dir := schema1(t)
		f := newFaulty(t, dir)
		f.arm(func(op int, _ string) error {
			if op >= stop {
				return errors.New("killed")
			}
			return nil
		})
		s, err := Open(t.Context(), Options{Dir: dir, vfs: f.name, Owner: "tester"})
		if err == nil {
			t.Logf("%d operations, killed at each", stop-1)
			_ = s.Close()
			break
		}
		count++
		s = openDir(t, dir)
		healthy(t, s)
		if n := rows(t, s, "deliveries") + rows(t, s, "outbox"); n != 1 {
			t.Fatalf("killed at operation %d: %d messages", stop, n)
		}
		closed(t, s)
	}
	if count < 5 {
		t.Errorf("killed %d times: the upgrade does not pass the disk of the test", count)
	}
}
