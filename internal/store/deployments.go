package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"sentry/internal/sentry"
)

const deploymentColumns = `ordinal, repository, branch, commit_id, previous, generation, author, subject, status, reason, attempt, source, pipeline_runs, job, started_at, finished_at`

// fillDeployments reads the deployments of a rollout, and their steps where asked.
func (c *conn) fillDeployments(v *rolloutRow, steps bool) error {
	err := c.query(`SELECT `+deploymentColumns+` FROM deployments WHERE rollout = ? ORDER BY ordinal`, func(r row) error {
		d := sentry.Deployment{
			ID: sentry.DeploymentID(v.ID, int(r.int(0))), Ordinal: int(r.int(0)), Watch: sentry.Watch{Repository: r.text(1), Branch: r.text(2)},
			Commit: r.text(3), Previous: r.text(4), Generation: r.int(5), Author: r.text(6), Subject: r.text(7),
			Status: r.status(8), Reason: r.text(9), Attempt: int(r.int(10)), StartedAt: r.time(14), FinishedAt: r.time(15),
			Steps: []sentry.Step{}, PipelineRuns: []sentry.PipelineRun{},
		}
		if err := r.json(11, &d.Source); err != nil {
			return err
		}
		if err := r.json(12, &d.PipelineRuns); err != nil {
			return err
		}
		if err := r.json(13, &d.Job); err != nil {
			return err
		}
		v.Deployments = append(v.Deployments, d)
		return nil
	}, v.sequence)
	if err != nil || !steps {
		return err
	}
	byOrdinal := make(map[int64]*sentry.Deployment, len(v.Deployments))
	for i := range v.Deployments {
		byOrdinal[int64(v.Deployments[i].Ordinal)] = &v.Deployments[i]
	}
	return c.query(`SELECT deployment, attempt, ordinal, kind, name, status, reason, tries, exit_code, started_at, finished_at, log, bytes, dropped
		FROM steps WHERE rollout = ? ORDER BY deployment, attempt, ordinal`, func(r row) error {
		step := sentry.Step{
			Attempt: int(r.int(1)), Ordinal: int(r.int(2)), Kind: sentry.StepKind(r.text(3)), Name: r.text(4), Status: r.status(5), Reason: r.text(6),
			Tries: int(r.int(7)), StartedAt: r.time(9), FinishedAt: r.time(10), Log: r.text(11), Bytes: r.int(12), Dropped: r.int(13),
		}
		if !r.null(8) {
			code := int(r.int(8))
			step.ExitCode = &code
		}
		d := byOrdinal[r.int(0)] // there is one: a foreign key
		d.Steps = append(d.Steps, step)
		return nil
	}, v.sequence)
}

// insertDeployment writes a deployment for the first time.
func (t *tx) insertDeployment(rollout int64, d sentry.Deployment) error {
	source, runs, job, err := encodeDeployment(d)
	if err != nil {
		return err
	}
	return t.exec(`INSERT INTO deployments (rollout, `+deploymentColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		rollout, d.Ordinal, d.Repository, d.Branch, d.Commit, d.Previous, d.Generation, d.Author, d.Subject, d.Status, d.Reason, d.Attempt,
		source, runs, job, d.StartedAt, d.FinishedAt)
}

// encodeDeployment gives the parts of a deployment that are kept as JSON.
func encodeDeployment(d sentry.Deployment) (source, runs, job string, err error) {
	if source, err = encodeOptional(d.Source); err != nil {
		return "", "", "", err
	}
	if job, err = encodeOptional(d.Job); err != nil {
		return "", "", "", err
	}
	runs, err = encodeRuns(d.PipelineRuns)
	return source, runs, job, err
}

// encodeOptional gives what v points at as JSON; "" for nil.
func encodeOptional[T any](v *T) (string, error) {
	if v == nil {
		return "", nil
	}
	raw, err := json.Marshal(v)
	return string(raw), err
}

// SaveDeployment writes how a deployment of a running rollout goes, with all steps of its current attempt. The steps of
// earlier attempts stay as they are. What a deployment is (watch, commit, generation) was fixed by the plan and is not
// written.
//
// Errors: ErrFenced where the rollout is not of this epoch, ErrFinal where the deployment or one of the steps has ended
// otherwise, ErrInvalid for a step back in the life of a deployment, ErrNotFound. On a full disk it uses the reserve.
func (s *Store) SaveDeployment(ctx context.Context, d sentry.Deployment) error {
	err := s.writeEnd(ctx, func(t *tx) error {
		rollout, err := t.ours(d.ID)
		if err != nil {
			return err
		}
		var was sentry.Status
		var attempt int64
		var watch sentry.Watch
		var pinned string
		found, err := t.one(`SELECT status, attempt, repository, branch, source FROM deployments WHERE rollout = ? AND ordinal = ?`, func(r row) error {
			was, attempt, watch, pinned = r.status(0), r.int(1), sentry.Watch{Repository: r.text(2), Branch: r.text(3)}, r.text(4)
			return nil
		}, rollout.sequence, d.Ordinal)
		switch {
		case err != nil:
			return err
		case !found || d.ID != sentry.DeploymentID(rollout.ID, d.Ordinal):
			return ErrNotFound
		case was.Terminal():
			return fmt.Errorf("%w as %s", ErrFinal, was)
		case !was.CanBecome(d.Status):
			return fmt.Errorf("%w: from %s to %s", ErrInvalid, was, d.Status)
		case int64(d.Attempt) < attempt:
			return fmt.Errorf("%w: attempt %d after attempt %d", ErrInvalid, d.Attempt, attempt)
		}
		source, runs, job, err := encodeDeployment(d)
		if err != nil {
			return err
		}
		err = t.exec(`UPDATE deployments SET status = ?, reason = ?, attempt = ?, source = ?, pipeline_runs = ?, job = ?, started_at = ?, finished_at = ?
			WHERE rollout = ? AND ordinal = ?`, d.Status, d.Reason, d.Attempt, source, runs, job, d.StartedAt, d.FinishedAt, rollout.sequence, d.Ordinal)
		if err != nil {
			return err
		}
		if source != "" && source != pinned {
			e := Event{Rollout: rollout.ID, Group: rollout.Group, Status: rollout.Status, Attempt: d.Attempt, Watch: &watch, Source: d.Source}
			if err := t.postEvent(TopicPinned, e); err != nil {
				return err
			}
		}
		for _, step := range d.Steps {
			if step.Attempt != d.Attempt {
				continue
			}
			if err := t.saveStep(rollout.sequence, d.Ordinal, step); err != nil {
				return fmt.Errorf("step %d: %w", step.Ordinal, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot save deployment %s: %w", d.ID, err)
	}
	return nil
}

// ours finds the running rollout that an identifier begins with, and makes sure that this epoch runs it.
//
// Errors: ErrNotFound, ErrFinal, ErrStale where it does not run yet, ErrFenced.
func (t *tx) ours(id string) (*rolloutRow, error) {
	parts := strings.SplitN(id, "-", 3)
	v, err := t.find(strings.Join(parts[:min(2, len(parts))], "-"))
	switch {
	case err != nil:
		return nil, err
	case v.Status.Terminal():
		return nil, fmt.Errorf("rollout %s: %w as %s", v.ID, ErrFinal, v.Status)
	case v.Status != sentry.Running:
		return nil, fmt.Errorf("rollout %s: %w: it does not run", v.ID, ErrStale)
	case v.epoch != t.epoch:
		return nil, fmt.Errorf("rollout %s: %w: epoch %d runs it, this is %d", v.ID, ErrFenced, v.epoch, t.epoch)
	}
	return v, nil
}

// saveStep writes one step. A step that has ended takes no other end.
func (t *tx) saveStep(rollout int64, deployment int, s sentry.Step) error {
	err := t.exec(`INSERT INTO steps (rollout, deployment, attempt, ordinal, kind, name, status, reason, tries, exit_code, started_at, finished_at, log, bytes, dropped)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET kind = excluded.kind, name = excluded.name, status = excluded.status, reason = excluded.reason, tries = excluded.tries,
			exit_code = excluded.exit_code, started_at = excluded.started_at, finished_at = excluded.finished_at, log = excluded.log,
			bytes = excluded.bytes, dropped = excluded.dropped
		WHERE steps.status IN ('pending', 'running') OR steps.status = excluded.status`,
		rollout, deployment, s.Attempt, s.Ordinal, string(s.Kind), s.Name, s.Status, s.Reason, s.Tries, s.ExitCode, s.StartedAt, s.FinishedAt, s.Log, s.Bytes, s.Dropped)
	if err == nil && t.Changes() == 0 {
		err = ErrFinal
	}
	return err
}
