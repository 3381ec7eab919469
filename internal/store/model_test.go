package store

import (
	"context"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"sentry/internal/sentry"
)

// model is what the store should do, in plain values: heads, and for every group its rollouts in order.
type model struct {
	heads    map[sentry.Watch]sentry.Head
	rollouts []*modelRollout
}

type modelRollout struct {
	id      string
	group   string
	status  sentry.Status
	changes []modelChange
	version int64
	asked   bool
}

type modelChange struct {
	watch      sentry.Watch
	generation int64
}

func (m *model) newestPending(group string) *modelRollout {
	for _, r := range slices.Backward(m.rollouts) {
		if r.group == group && r.status == sentry.Pending {
			return r
		}
	}
	return nil
}

func (m *model) with(group string, status sentry.Status) (found []*modelRollout) {
	for _, r := range m.rollouts {
		if r.group == group && r.status == status {
			found = append(found, r)
		}
	}
	return found
}

// see says what an observation comes to, and does it.
func (m *model) see(o Observation, touched map[*modelRollout]bool) (kind string, generation int64, in *modelRollout) {
	head, known := m.heads[o.Watch]
	switch commit := o.Revision.Commit; {
	case !known && commit == "", known && commit == "" && head.Deleted, known && commit == head.Commit && !head.Deleted:
		return Same, 0, nil
	case !known:
		m.heads[o.Watch] = sentry.Head{Revision: o.Revision, Generation: 1}
		if !o.Deploy {
			return Baseline, 0, nil
		}
		kind, generation = Baseline, 1
	case commit == "":
		head.Deleted = true
		m.heads[o.Watch] = head
		return Gone, 0, nil
	case commit == head.Commit:
		head.Deleted = false
		m.heads[o.Watch] = head
		return Back, 0, nil
	default:
		kind, generation = Moved, head.Generation+1
		m.heads[o.Watch] = sentry.Head{Revision: o.Revision, Generation: generation}
	}
	in = m.newestPending(o.Group)
	if in != nil && o.Queue == sentry.Every && slices.ContainsFunc(in.changes, func(c modelChange) bool { return c.watch == o.Watch }) {
		in = nil
	}
	if in == nil {
		in = &modelRollout{group: o.Group, status: sentry.Pending, version: 1}
		m.rollouts = append(m.rollouts, in)
		touched[in] = true // a new one begins with version 1
	} else if !touched[in] {
		touched[in] = true
		in.version++
	}
	in.changes = append(in.changes, modelChange{o.Watch, generation})
	return kind, generation, in
}

// TestModel drives the store and the model with the same random life, and compares: every generation is in exactly one
// rollout, in the order of its watch; one rollout of a group runs; what a version was planned for is what is claimed.
func TestModel(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(t *rapid.T) {
		s := must(OpenMemory(ctx, Options{Owner: "model"}))(t)
		defer func() { _ = s.Close() }()
		m := &model{heads: map[sentry.Watch]sentry.Head{}}
		groups := []string{"latest", "every"}
		group := rapid.SampledFrom(groups)
		rules := map[string]sentry.Queue{"latest": sentry.Latest, "every": sentry.Every}
		observation := rapid.Custom(func(t *rapid.T) Observation {
			g := group.Draw(t, "group")
			o := Observation{Group: g, Queue: rules[g], Deploy: rapid.Bool().Draw(t, "deploy")}
			o.Watch = sentry.Watch{Repository: g + rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "repository"), Branch: rapid.SampledFrom([]string{"main", "next"}).Draw(t, "branch")}
			o.Revision.Commit = rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "commit")
			return o
		})
		stale := map[*modelRollout]Waiting{} // as they were some time ago

		t.Repeat(map[string]func(*rapid.T){
			"record": func(t *rapid.T) {
				batch := rapid.SliceOfN(observation, 1, 5).Draw(t, "observations")
				outcomes, err := s.RecordChanges(ctx, batch)
				if err != nil {
					t.Fatal(err)
				}
				before := slices.Clone(m.rollouts)
				touched := map[*modelRollout]bool{}
				for i, o := range batch {
					kind, generation, in := m.see(o, touched)
					out := outcomes[i]
					if out.Kind != kind || (out.Change != nil) != (in != nil) {
						t.Fatalf("%s at %q: %s, want %s", o.Watch, o.Revision.Commit, out.Kind, kind)
					}
					if in == nil {
						continue
					}
					if in.id == "" {
						in.id = out.Rollout
					}
					if out.Change.Generation != generation || out.Rollout != in.id || out.Joined != slices.Contains(before, in) {
						t.Fatalf("%+v, want generation %d in %s", out, generation, in.id)
					}
				}
			},
			"request": func(t *rapid.T) {
				g := group.Draw(t, "group")
				in := m.newestPending(g)
				id, joined, err := s.Request(ctx, Request{Group: g, By: "x", Whole: true})
				if err != nil || joined != (in != nil) || in != nil && id != in.id {
					t.Fatalf("%s, joined %t, %v", id, joined, err)
				}
				if in == nil {
					in = &modelRollout{id: id, group: g, status: sentry.Pending}
					m.rollouts = append(m.rollouts, in)
				}
				in.asked = true
				in.version++
			},
			"remember": func(t *rapid.T) {
				waiting, err := s.Pending(ctx)
				if err != nil {
					t.Fatal(err)
				}
				for _, w := range waiting {
					i := slices.IndexFunc(m.rollouts, func(r *modelRollout) bool { return r.id == w.Rollout.ID })
					stale[m.rollouts[i]] = w
				}
			},
			"claim": func(t *rapid.T) {
				g := group.Draw(t, "group")
				waits := m.with(g, sentry.Pending)
				if len(waits) == 0 {
					t.Skip("nothing waits")
				}
				r := rapid.SampledFrom(waits).Draw(t, "rollout")
				w, remembered := stale[r]
				if !remembered {
					t.Skip("not looked at")
				}
				p := planFor(w)
				if rapid.IntRange(0, 9).Draw(t, "nothing to do") == 0 {
					p.Deployments = nil
				}
				got, err := s.Claim(ctx, r.id, w.Version, p)
				switch {
				case w.Version != r.version:
					if !errors.Is(err, ErrStale) {
						t.Fatalf("version %d of %d: %v", w.Version, r.version, err)
					}
					return
				case len(m.with(g, sentry.Running)) > 0 || r != waits[0]:
					if !errors.Is(err, ErrBusy) {
						t.Fatalf("another runs, or an older one waits: %v", err)
					}
					return
				case err != nil:
					t.Fatal(err)
				}
				r.status = sentry.Running
				if len(p.Deployments) == 0 {
					r.status = sentry.Canceled
				}
				if got.Status != r.status {
					t.Fatalf("claimed as %s, want %s", got.Status, r.status)
				}
			},
			"finish": func(t *rapid.T) {
				runs := m.with(group.Draw(t, "group"), sentry.Running)
				if len(runs) == 0 {
					t.Skip("nothing runs")
				}
				full := must(s.Rollout(ctx, runs[0].id))(t)
				for _, d := range full.Deployments {
					d.Status, d.Attempt = sentry.Running, 1
					if err := s.SaveDeployment(ctx, d); err != nil {
						t.Fatal(err)
					}
					d.Status = rapid.SampledFrom([]sentry.Status{sentry.Succeeded, sentry.Failed, sentry.TimedOut}).Draw(t, "outcome")
					if err := s.SaveDeployment(ctx, d); err != nil {
						t.Fatal(err)
					}
				}
				runs[0].status = rapid.SampledFrom([]sentry.Status{sentry.Succeeded, sentry.Failed}).Draw(t, "status")
				if err := s.Finish(ctx, runs[0].id, runs[0].status, "done"); err != nil {
					t.Fatal(err)
				}
			},
			"cancel": func(t *rapid.T) {
				if len(m.rollouts) == 0 {
					t.Skip("nothing there")
				}
				r := rapid.SampledFrom(m.rollouts).Draw(t, "rollout")
				status, err := s.Cancel(ctx, r.id, "x", "")
				if errors.Is(err, ErrFinal) != r.status.Terminal() || err != nil && !errors.Is(err, ErrFinal) {
					t.Fatalf("%s: %v", r.status, err)
				}
				if r.status == sentry.Pending {
					r.status = sentry.Canceled
				}
				if status != r.status {
					t.Fatalf("canceled is %s, want %s", status, r.status)
				}
			},
			"": func(t *rapid.T) { compare(t, s, m) },
		})
		if broken := must(s.Check(ctx))(t); len(broken) > 0 {
			t.Fatal(broken)
		}
	})
}

// compare fails the test where store and model differ.
func compare(t *rapid.T, s *Store, m *model) {
	ctx := context.Background()
	for _, h := range must(s.Heads(ctx))(t) {
		if want := m.heads[h.Watch]; h.Generation != want.Generation || h.Commit != want.Commit || h.Deleted != want.Deleted {
			t.Fatalf("%s is %+v, want %+v", h.Watch, h, want)
		}
	}
	placed := map[modelChange]string{}
	last := map[sentry.Watch]int64{}
	for _, want := range m.rollouts {
		got := must(s.Rollout(ctx, want.id))(t)
		var changes []modelChange
		for _, c := range got.Trigger.Changes {
			change := modelChange{c.Watch, c.Generation}
			changes = append(changes, change)
			if other, twice := placed[change]; twice {
				t.Fatalf("%+v is in %s and in %s", change, other, want.id)
			}
			placed[change] = want.id
			if want.status == sentry.Canceled {
				continue // it never begins
			}
			if c.Generation <= last[c.Watch] {
				t.Fatalf("%+v of %s comes after generation %d", change, want.id, last[c.Watch])
			}
			last[c.Watch] = c.Generation
		}
		if got.Status != want.status || !slices.Equal(changes, want.changes) || got.Trigger.Whole != want.asked {
			t.Fatalf("%s is %s with %v, want %s with %v", want.id, got.Status, changes, want.status, want.changes)
		}
	}
	for w, h := range m.heads {
		for g := int64(2); g <= h.Generation; g++ {
			if placed[modelChange{w, g}] == "" {
				t.Fatalf("generation %d of %s is in no rollout", g, w)
			}
		}
	}
}
