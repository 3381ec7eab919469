package restart

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"sentry/bench/internal/fleet"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

const (
	rollouts    = 10_000 // that ended
	deployments = 3      // of each
	writers     = 128
)

// live makes the state that a fleet has after rollouts of all its groups in turn: heads as the server has them, rollouts
// with deployments of two steps each, the ledger, and folders for the logs.
func live(t *testing.T, f fleet.Fleet) {
	t.Helper()
	p := &past{t: t, fleet: f}
	var err error
	if p.store, err = store.Open(t.Context(), store.Options{Dir: f.StateDir}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.store.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	rounds := rollouts / f.Groups()
	var first []store.Observation
	for i := range f.Repositories() {
		for b := range fleet.Branches {
			commit := fleet.Commit(b)
			if b == 0 && i%fleet.Members == 0 {
				commit = old(0)
			}
			first = append(first, fleet.Observation(i, b, commit))
		}
	}
	p.record(first)
	for n := 1; n <= rounds; n++ {
		commit := old(n)
		if n == rounds {
			commit = fleet.Commit(0)
		}
		var moved []store.Observation
		for i := 0; i < f.Repositories(); i += fleet.Members {
			moved = append(moved, fleet.Observation(i, 0, commit))
		}
		p.record(moved)
		p.rollOut()
	}
}

// old is where a branch was in round n.
func old(n int) string { return fmt.Sprintf("%040x", 0xabad1dea+n) }

type past struct {
	t     *testing.T
	fleet fleet.Fleet
	store *store.Store
}

func (p *past) check(err error) {
	if err != nil {
		p.t.Error(err)
	}
}

func (p *past) record(all []store.Observation) {
	_, err := p.store.RecordChanges(p.t.Context(), all)
	p.check(err)
}

// rollOut carries everything out that waits.
func (p *past) rollOut() {
	pending, err := p.store.Pending(p.t.Context())
	p.check(err)
	waiting := make(chan store.Waiting)
	var working sync.WaitGroup
	for range writers {
		working.Go(func() {
			for w := range waiting {
				p.carryOut(w)
			}
		})
	}
	for _, w := range pending {
		waiting <- w
	}
	close(waiting)
	working.Wait()
	if p.t.Failed() {
		p.t.FailNow()
	}
}

func (p *past) carryOut(w store.Waiting) {
	ctx := context.Background()
	change := w.Rollout.Trigger.Changes[0]
	plan := store.Plan{Policy: sentry.Policy{Strategy: sentry.Parallel, MaxParallel: 3}, Reason: "a head has moved"}
	var number int
	if _, err := fmt.Sscanf(change.Repository, "repository-%d", &number); err != nil {
		p.t.Error(err)
		return
	}
	for m := range deployments {
		watch := sentry.Watch{Repository: fleet.Repository(number + m), Branch: fleet.Branch(0)}
		plan.Deployments = append(plan.Deployments, sentry.Deployment{Watch: watch, Commit: change.To, Generation: 1})
		for b := range fleet.Branches {
			watch.Branch = fleet.Branch(b)
			plan.Vector = append(plan.Vector, sentry.VectorEntry{Watch: watch, Commit: fleet.Commit(b), Generation: 1, Changed: watch == change.Watch})
		}
	}
	rollout, err := p.store.Claim(ctx, w.Rollout.ID, w.Version, plan)
	if err != nil {
		p.t.Error(err)
		return
	}
	for _, d := range rollout.Deployments {
		now := time.Now()
		d.Status, d.Attempt, d.StartedAt = sentry.Running, 1, now
		d.Steps = []sentry.Step{
			{Attempt: 1, Ordinal: 1, Kind: sentry.StepClone, Name: "clone", Status: sentry.Succeeded, Tries: 1, StartedAt: now, FinishedAt: now},
			{Attempt: 1, Ordinal: 2, Kind: sentry.StepCommand, Name: "make deploy", Status: sentry.Running, Tries: 1, StartedAt: now},
		}
		p.check(p.store.SaveDeployment(ctx, d))
		code := 0
		d.Status, d.Reason, d.FinishedAt = sentry.Succeeded, "1 command succeeded", now
		d.Steps[1].Status, d.Steps[1].ExitCode, d.Steps[1].FinishedAt = sentry.Succeeded, &code, now
		p.check(p.store.SaveDeployment(ctx, d))
	}
	p.check(p.store.Finish(ctx, rollout.ID, sentry.Succeeded, "3 succeeded"))
	p.check(os.MkdirAll(filepath.Join(p.fleet.StateDir, "logs", rollout.ID), 0o700))
}
