package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"sentry/internal/sentry"
)

// maxPipelineRuns is how many pipeline runs one attempt at a deployment may create: a loop in a script must not fill the
// state.
const maxPipelineRuns = 1000

// progressPause is the shortest time between two saves of how pipeline runs go on, which is for people to look at.
const progressPause = time.Second

// keeper saves how far an attempt is, and which pipeline runs it created. The attempt calls it, and at the same time the
// gateway for each request of a command: saves follow one another. It is the kube.Recorder of the attempt.
type keeper struct {
	attempt   int
	untracked bool
	write     func(sentry.Deployment) error
	fail      context.CancelCauseFunc // ends the attempt: what cannot be remembered must not go on
	created   func(namespace string)  // told of each run that was created

	mu    sync.Mutex
	last  sentry.Deployment // as saved last, or about to be
	runs  []sentry.PipelineRun
	wrote time.Time   // when progress was saved last
	timer *time.Timer // saves the progress that came too soon after the last; nil where there is none
	ended bool
	// hindrance is what the deployment waits for, to be told to who looks; "" for nothing.
	hindrance string
}

func newKeeper(d sentry.Deployment, write func(sentry.Deployment) error, fail context.CancelCauseFunc) *keeper {
	return &keeper{attempt: d.Attempt, write: write, fail: fail, created: func(string) {}, last: d, runs: slices.Clone(d.PipelineRuns)}
}

var errAttemptEnded = errors.New("the deployment has ended")

// save saves how far the attempt is. Its pipeline runs are the keeper's.
func (k *keeper) save(d sentry.Deployment) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last = d
	return k.flush()
}

// flush saves what is known. The caller has the lock.
func (k *keeper) flush() error {
	if k.timer != nil {
		k.timer.Stop()
		k.timer = nil
	}
	k.wrote = time.Now()
	d := k.last
	d.PipelineRuns, d.Reason = slices.Clone(k.runs), k.hindrance
	err := k.write(d)
	if err != nil {
		k.fail(err)
	}
	return err
}

// tell saves what the deployment waits for; "" for nothing any more.
func (k *keeper) tell(hindrance string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.hindrance == hindrance || k.ended {
		return
	}
	k.hindrance = hindrance
	_ = k.flush() // it ends the attempt where it fails
}

// forget forgets what the deployment waited for, as it does so no longer. The next save says it.
func (k *keeper) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hindrance = ""
}

// end gives the pipeline runs as they are, and takes none any more.
func (k *keeper) end() []sentry.PipelineRun {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	if k.timer != nil {
		k.timer.Stop()
		k.timer = nil
	}
	return k.runs
}

// Intend saves that a pipeline run is about to be asked for. A crash after it leaves an intent: whether the run exists
// is asked of the cluster, by the nonce.
func (k *keeper) Intend(run sentry.PipelineRun) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.ended:
		return errAttemptEnded
	case k.count() >= maxPipelineRuns:
		return fmt.Errorf("attempt %d of the deployment has created %d pipeline runs, and may not create more", k.attempt, maxPipelineRuns)
	}
	run.Attempt, run.Status, run.Untracked = k.attempt, sentry.Pending, k.untracked
	k.runs = append(k.runs, run)
	return k.flush()
}

// count tells how many pipeline runs the attempt has created, or is about to. The caller has the lock.
func (k *keeper) count() (n int) {
	for _, run := range k.runs {
		if run.Attempt == k.attempt {
			n++
		}
	}
	return n
}

// Created saves what a pipeline run is called. A crash after it: it is found by its UID.
func (k *keeper) Created(run sentry.PipelineRun) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended {
		return errAttemptEnded
	}
	i := slices.IndexFunc(k.runs, func(r sentry.PipelineRun) bool { return r.Nonce == run.Nonce })
	if i < 0 {
		return fmt.Errorf("nothing is known of a request %s", run.Nonce)
	}
	r := &k.runs[i]
	r.Namespace, r.Name, r.UID = run.Namespace, run.Name, run.UID
	if run.APIVersion != "" {
		r.APIVersion = run.APIVersion
	}
	k.created(r.Namespace)
	return k.flush()
}

// Dropped forgets a pipeline run that was refused.
func (k *keeper) Dropped(nonce string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended {
		return errAttemptEnded
	}
	k.runs = slices.DeleteFunc(k.runs, func(r sentry.PipelineRun) bool { return r.Nonce == nonce && r.Intent() })
	return k.flush()
}

// mark gives a place in the order of creation, for since.
func (k *keeper) mark() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.runs)
}

// pick gives the runs that satisfy what is asked.
func (k *keeper) pick(yes func(i int, run sentry.PipelineRun) bool) []sentry.PipelineRun {
	k.mu.Lock()
	defer k.mu.Unlock()
	var picked []sentry.PipelineRun
	for i, run := range k.runs {
		if yes(i, run) {
			picked = append(picked, run)
		}
	}
	return picked
}

// current reports whether a run counts for the verdict of the attempt.
func (k *keeper) current(run sentry.PipelineRun) bool {
	return run.Attempt == k.attempt && !run.Superseded && !run.Untracked
}

// put takes over what has become of runs: now[i] of was[i]. What was never created is forgotten.
func (k *keeper) put(was, now []sentry.PipelineRun) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range min(len(was), len(now)) {
		at := slices.IndexFunc(k.runs, func(r sentry.PipelineRun) bool {
			return r.Nonce == was[i].Nonce && (r.UID == was[i].UID || r.UID == now[i].UID)
		})
		switch {
		case at < 0:
		case now[i].Intent() && now[i].Status == sentry.Skipped:
			k.runs = slices.Delete(k.runs, at, at+1)
		default:
			run := now[i]
			run.Attempt, run.Nonce = k.runs[at].Attempt, k.runs[at].Nonce
			run.Untracked, run.Superseded = k.runs[at].Untracked, k.runs[at].Superseded
			k.runs[at] = run
		}
	}
}

// progress is put, and saves it: at once, or soon after the last time.
func (k *keeper) progress(was, now []sentry.PipelineRun) error {
	k.put(was, now)
	k.mu.Lock()
	defer k.mu.Unlock()
	switch wait := progressPause - time.Since(k.wrote); {
	case k.ended:
		return errAttemptEnded
	case wait <= 0:
		return k.flush()
	case k.timer == nil:
		k.timer = time.AfterFunc(wait, k.late)
	}
	return nil
}

// late saves the progress that came too soon.
func (k *keeper) late() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.timer != nil && !k.ended {
		_ = k.flush() // it ends the attempt where it fails
	}
}

// supersede marks the runs of the attempt from a place on: what created them is tried again.
func (k *keeper) supersede(mark int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := mark; i < len(k.runs); i++ {
		k.runs[i].Superseded = k.runs[i].Attempt == k.attempt
	}
}

// abandon marks what may still run as interrupted: nobody knows how it ends.
func (k *keeper) abandon() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.runs = forgotten(k.runs)
}
