package store

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sentry/internal/sentry"
)

// TestRecordChanges is what becomes of one observation, by what is recorded and what is seen. In a line: what was seen
// before, what is seen now, and the outcome.
func TestRecordChanges(t *testing.T) {
	const a, b = "aaaa", "bbbb"
	deploy := func(o Observation) Observation { o.Deploy = true; return o }
	for _, c := range []struct {
		name       string
		before     []Observation
		now        Observation
		kind       string
		generation int64 // of the head afterwards; 0: there is none
		deleted    bool
		from, to   string // of the change; "" "": none
		ledger     string // verbs that this observation added
	}{
		{name: "never seen and not there", now: see("r", ""), kind: Same},
		{name: "first sight", now: see("r", a), kind: Baseline, generation: 1, ledger: "recorded"},
		{name: "first sight, deployed", now: deploy(see("r", a)), kind: Baseline, generation: 1, to: a, ledger: "recorded moved queued"},
		{name: "same", before: []Observation{see("r", a)}, now: see("r", a), kind: Same, generation: 1},
		{name: "deploy does nothing later", before: []Observation{see("r", a)}, now: deploy(see("r", a)), kind: Same, generation: 1},
		{name: "moved", before: []Observation{see("r", a)}, now: see("r", b), kind: Moved, generation: 2, from: a, to: b, ledger: "moved queued"},
		{name: "moved and back again", before: []Observation{see("r", a), see("r", b)}, now: see("r", a), kind: Moved, generation: 3, from: b, to: a, ledger: "moved coalesced"},
		{name: "gone", before: []Observation{see("r", a)}, now: see("r", ""), kind: Gone, generation: 1, deleted: true, ledger: "recorded"},
		{name: "still gone", before: []Observation{see("r", a), see("r", "")}, now: see("r", ""), kind: Same, generation: 1, deleted: true},
		{name: "back at its commit", before: []Observation{see("r", a), see("r", "")}, now: see("r", a), kind: Back, generation: 1, ledger: "recorded"},
		{name: "back at another commit", before: []Observation{see("r", a), see("r", "")}, now: see("r", b), kind: Moved, generation: 2, from: a, to: b, ledger: "moved queued"},
		{name: "another branch", before: []Observation{see("r@main", a)}, now: see("r@next", a), kind: Baseline, generation: 1, ledger: "recorded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := inMemory(t)
			record(t, s, c.before...)
			entries := len(must(s.Why(t.Context(), WhyFilter{}))(t))
			out := record(t, s, c.now)
			if out.Kind != c.kind || out.Watch != c.now.Watch {
				t.Errorf("outcome %s of %s, want %s", out.Kind, out.Watch, c.kind)
			}
			if (c.to == "") != (out.Change == nil) || (out.Change == nil) != (out.Rollout == "") {
				t.Fatalf("change %+v in rollout %q", out.Change, out.Rollout)
			}
			if out.Change != nil && (out.Change.From != c.from || out.Change.To != c.to || out.Change.Generation != c.generation) {
				t.Errorf("change %+v, want %s to %s as generation %d", out.Change, c.from, c.to, c.generation)
			}
			var head sentry.Head
			for _, h := range must(s.Heads(t.Context()))(t) {
				if h.Watch == c.now.Watch {
					head = h
				}
			}
			if head.Generation != c.generation || head.Deleted != c.deleted {
				t.Errorf("head %+v, want generation %d, deleted %t", head, c.generation, c.deleted)
			}
			if got := verbs(must(s.Why(t.Context(), WhyFilter{}))(t)[entries:]); got != c.ledger {
				t.Errorf("ledger %q, want %q", got, c.ledger)
			}
			healthy(t, s)
		})
	}
}

// TestQueue is which rollout a change joins. Letters are repositories, in the order of their moves; the groups of the
// result are the rollouts.
func TestQueue(t *testing.T) {
	for _, c := range []struct {
		rule  sentry.Queue
		moves string
		want  []string
	}{
		{sentry.Latest, "a", []string{"a"}},
		{sentry.Latest, "ab", []string{"ab"}},
		{sentry.Latest, "aa", []string{"aa"}},
		{sentry.Latest, "abab", []string{"abab"}},
		{sentry.Every, "ab", []string{"ab"}},
		{sentry.Every, "aa", []string{"a", "a"}},
		{sentry.Every, "aba", []string{"ab", "a"}},
		{sentry.Every, "aab", []string{"a", "ab"}}, // b joins the newest
		{sentry.Every, "abba", []string{"ab", "ba"}},
		{sentry.Every, "aaab", []string{"a", "a", "ab"}},
	} {
		for _, oneCall := range []bool{false, true} {
			s := inMemory(t)
			var moves []Observation
			for i, letter := range c.moves {
				record(t, s, see(string(letter), "first"))
				moves = append(moves, see(string(letter), commitOf(i)).queued(c.rule))
			}
			if oneCall {
				must(s.RecordChanges(t.Context(), moves))(t)
			} else {
				record(t, s, moves...)
			}
			var got []string
			for _, w := range must(s.Pending(t.Context()))(t) {
				letters := ""
				for _, change := range w.Rollout.Trigger.Changes {
					letters += change.Repository
				}
				got = append(got, letters)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("queue %s, moves %s, in one call %t: %s", c.rule, c.moves, oneCall, diff)
			}
			healthy(t, s)
		}
	}
}

// TestRecordIsOneEntryForARollout: many heads that move in one call make one entry in the ledger for each rollout, and
// one new version.
func TestRecordIsOneEntryForARollout(t *testing.T) {
	s := inMemory(t)
	all := func(commit string) (batch []Observation) {
		for _, r := range []string{"a", "b", "c"} {
			batch = append(batch, see(r, commit), see(r+"@next", commit).in("other"))
		}
		return batch
	}
	must(s.RecordChanges(t.Context(), all("1")))(t)
	before := len(must(s.Why(t.Context(), WhyFilter{}))(t))
	for i, want := range []struct{ rest, ledger string }{
		{"2", "moved moved moved moved moved moved queued queued"},
		{"3", "moved moved moved moved moved moved coalesced coalesced"},
	} {
		outcomes := must(s.RecordChanges(t.Context(), all(want.rest)))(t)
		for _, o := range outcomes {
			if o.Joined != (i == 1) {
				t.Errorf("%s: joined %t", o.Watch, o.Joined)
			}
		}
		decisions := must(s.Why(t.Context(), WhyFilter{}))(t)
		if got := verbs(decisions[before:]); got != want.ledger {
			t.Errorf("ledger %q, want %q", got, want.ledger)
		}
		before = len(decisions)
		if w := pending(t, s, "g"); w.Version != int64(i+1) {
			t.Errorf("version %d, want %d", w.Version, i+1)
		}
	}
}

// TestSameWritesNothing: a poll that finds nothing new leaves the disk alone.
func TestSameWritesNothing(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir)
	record(t, s, see("a", "1"), see("b", ""))
	size := func() (total int64) {
		for _, name := range []string{databaseName, databaseName + "-wal"} {
			total += must(os.Stat(filepath.Join(dir, name)))(t).Size()
		}
		return total
	}
	before := size()
	record(t, s, see("a", "1"), see("b", ""), see("a", "1"))
	if after := size(); after != before {
		t.Errorf("%d bytes were written", after-before)
	}
	record(t, s, see("a", "2"))
	if size() == before {
		t.Error("a move has written nothing: this test shows nothing")
	}
}

func TestRecordRefusesWhatCannotBe(t *testing.T) {
	s := inMemory(t)
	good := see("a", "1")
	for name, bad := range map[string]Observation{
		"no group":      good.in(""),
		"no repository": {Watch: sentry.Watch{Branch: "main"}, Revision: good.Revision, Group: "g"},
		"no branch":     {Watch: sentry.Watch{Repository: "a"}, Revision: good.Revision, Group: "g"},
	} {
		_, err := s.RecordChanges(t.Context(), []Observation{good, bad})
		wants(t, err, ErrInvalid)
		if heads := must(s.Heads(t.Context()))(t); len(heads) > 0 {
			t.Fatalf("%s: half of the call was recorded: %v", name, heads)
		}
	}
}

// TestHeadsGiveBackWhatWasSeen: every field survives, times to the millisecond and in UTC.
func TestHeadsGiveBackWhatWasSeen(t *testing.T) {
	now := &clock{time.Date(2026, 11, 22, 10, 0, 0, 123_456_789, time.FixedZone("", 3600))}
	s := openWith(t, Options{Dir: t.TempDir(), Now: now.now})
	seen := sentry.Revision{Commit: commitOf(1), Author: "Zoë \x00 <z@example.com>", Subject: "«quoted» 'n \"all\"\n", Time: time.Date(1969, 7, 20, 20, 17, 40, 0, time.UTC)}
	o := see("z", "")
	o.Revision = seen
	record(t, s, o, see("a@b", "x"), see("a@a", "x"))
	want := []sentry.Head{
		{Watch: watchOf("a@a"), Revision: sentry.Revision{Commit: "x"}, Generation: 1, RecordedAt: now.UTC().Truncate(time.Millisecond)},
		{Watch: watchOf("a@b"), Revision: sentry.Revision{Commit: "x"}, Generation: 1, RecordedAt: now.UTC().Truncate(time.Millisecond)},
		{Watch: watchOf("z"), Revision: seen, Generation: 1, RecordedAt: now.UTC().Truncate(time.Millisecond)},
	}
	if diff := cmp.Diff(want, must(s.Heads(t.Context()))(t)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want[2:], must(s.HeadsOf(t.Context(), "z", "none", "z"))(t)); diff != "" {
		t.Error(diff)
	}
}

func TestRecorded(t *testing.T) {
	s := inMemory(t)
	record(t, s, see("a", "1"), see("a", "2"), see("a", "3"), see("b", "4"))
	for _, c := range []struct {
		watch, commit string
		want          bool
	}{{"a", "1", true}, {"a", "2", true}, {"a", "3", true}, {"a", "4", false}, {"b", "4", true}, {"b", "1", false}, {"a@next", "1", false}, {"a", "", false}} {
		if got := must(s.Recorded(t.Context(), watchOf(c.watch), c.commit))(t); got != c.want {
			t.Errorf("Recorded(%s, %q) = %t", c.watch, c.commit, got)
		}
	}
}
