-- +goose Up

-- The Kubernetes Job of the last attempt that had one, as JSON; '' for none.
ALTER TABLE deployments ADD COLUMN job TEXT NOT NULL DEFAULT '';
