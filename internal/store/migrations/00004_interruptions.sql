-- +goose Up

-- How often a rollout was interrupted while commands ran: to go on with following pipeline runs is no interruption.
ALTER TABLE rollouts ADD COLUMN interruptions INTEGER NOT NULL DEFAULT 0;
UPDATE rollouts SET interruptions = max(attempt - 1, 0) WHERE status = 'running';
