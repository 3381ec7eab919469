-- +goose Up

-- What leaves, and whether it has arrived: at present statuses on commits. A message of the outbox becomes its deliveries
-- in one transaction. Those of one status (address, commit, context) leave in the order of id.
CREATE TABLE deliveries (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    kind        TEXT    NOT NULL CHECK (kind = 'status'),
    lane        TEXT    NOT NULL CHECK (lane <> ''),       -- what shares a server and a credential there
    address     TEXT    NOT NULL CHECK (address <> ''),    -- of the repository that gets it, in one spelling
    repository  TEXT    NOT NULL CHECK (repository <> ''), -- as configured: whose access is used
    target      TEXT    NOT NULL CHECK (target IN ('upstream', 'qa')),
    branch      TEXT    NOT NULL,
    commit_id   TEXT    NOT NULL CHECK (commit_id <> ''),
    context     TEXT    NOT NULL CHECK (context <> ''),
    state       TEXT    NOT NULL CHECK (state IN ('pending', 'success', 'failure', 'error', 'canceled')),
    description TEXT    NOT NULL,
    rollout     TEXT    NOT NULL CHECK (rollout <> ''),    -- the full identifier; it may outlive the rollout
    grp         TEXT    NOT NULL CHECK (grp <> ''),
    watched     TEXT    NOT NULL,                          -- the branch of the member that it is about
    head        TEXT    NOT NULL,                          -- and its commit there
    fate        TEXT    NOT NULL CHECK (fate IN ('waiting', 'delivered', 'superseded', 'given_up')),
    refused     INTEGER NOT NULL DEFAULT 0 CHECK (refused IN (0, 1)), -- given up for want of a right that may yet be granted
    attempts    INTEGER NOT NULL DEFAULT 0,
    waited      INTEGER NOT NULL DEFAULT 0,                -- milliseconds that a running Sentry has had it, by no clock on the wall
    next_at     INTEGER NOT NULL,
    error       TEXT    NOT NULL DEFAULT '',               -- of the last attempt, or why there is none
    recorded_at INTEGER NOT NULL,
    ended_at    INTEGER NOT NULL DEFAULT 0,
    CHECK ((fate = 'waiting') = (ended_at = 0)),
    CHECK (refused = 0 OR fate = 'given_up')
) STRICT;
-- One pending and one verdict of a rollout for each status, whatever happens twice: the database itself refuses more.
CREATE UNIQUE INDEX deliveries_once ON deliveries (rollout, address, commit_id, context, (state = 'pending'));
CREATE INDEX deliveries_by_lane ON deliveries (lane, next_at, id) WHERE fate = 'waiting';
CREATE INDEX deliveries_by_status ON deliveries (address, commit_id, context, id);
CREATE INDEX deliveries_by_repository ON deliveries (repository, target, id);
CREATE INDEX deliveries_refused ON deliveries (repository, target) WHERE refused = 1;
CREATE INDEX deliveries_ended ON deliveries (id) WHERE fate <> 'waiting';

-- Nobody has read the outbox before. What has ended since is not told after the event; of what still runs, all is.
DELETE FROM outbox WHERE coalesce(json_extract(payload, '$.rollout'), '') NOT IN (
    SELECT sequence || '-' || suffix FROM rollouts WHERE status IN ('pending', 'running'));
