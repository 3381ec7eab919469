package store

import (
	"context"
	"encoding/json"

	"sentry/internal/sentry"
)

// Latest gives the newest rollout of each group that has ended, with its changes and deployments but without steps. A
// group of which none has ended, or none is kept, is not in the answer.
func (s *Store) Latest(ctx context.Context, groups ...string) (map[string]sentry.Rollout, error) {
	names, err := json.Marshal(groups)
	if err != nil {
		return nil, err
	}
	latest := make(map[string]sentry.Rollout, len(groups))
	err = s.read(ctx, func(c *conn) error {
		found, err := c.rollouts(`WHERE sequence IN (
			SELECT (SELECT r.sequence FROM rollouts r WHERE r.grp = names.value AND r.status NOT IN ('pending', 'running') ORDER BY r.sequence DESC LIMIT 1)
			FROM json_each(?) names)`, string(names))
		if err != nil {
			return err
		}
		for _, v := range found {
			if err := c.fill(v, false); err != nil {
				return err
			}
			latest[v.Group] = v.Rollout
		}
		return nil
	})
	return latest, err
}
