-- +goose Up

-- One row: which database this is, and how often it was opened for writing.
CREATE TABLE meta (
    only     INTEGER PRIMARY KEY CHECK (only = 1),
    instance TEXT    NOT NULL,
    epoch    INTEGER NOT NULL
) STRICT;
INSERT INTO meta VALUES (1, '', 0);

-- The newest revision of every watch.
CREATE TABLE heads (
    repository  TEXT    NOT NULL CHECK (repository <> ''),
    branch      TEXT    NOT NULL CHECK (branch <> ''),
    generation  INTEGER NOT NULL CHECK (generation >= 1),
    commit_id   TEXT    NOT NULL CHECK (commit_id <> ''),
    author      TEXT    NOT NULL,
    subject     TEXT    NOT NULL,
    time        INTEGER NOT NULL,
    deleted     INTEGER NOT NULL CHECK (deleted IN (0, 1)),
    recorded_at INTEGER NOT NULL,
    PRIMARY KEY (repository, branch)
) STRICT, WITHOUT ROWID;

CREATE INDEX heads_deleted ON heads (repository, recorded_at) WHERE deleted = 1;

-- The number of a rollout is never given twice, also after the newest was removed: AUTOINCREMENT.
CREATE TABLE rollouts (
    sequence     INTEGER PRIMARY KEY AUTOINCREMENT,
    suffix       TEXT    NOT NULL CHECK (suffix <> ''),
    grp          TEXT    NOT NULL CHECK (grp <> ''),
    status       TEXT    NOT NULL CHECK (status IN ('pending', 'running', 'succeeded', 'failed', 'timed_out', 'canceled', 'interrupted')),
    reason       TEXT    NOT NULL DEFAULT '',
    kind         TEXT    NOT NULL CHECK (kind IN ('changes', 'person', 'retry')),
    asked_by     TEXT    NOT NULL DEFAULT '',
    retry_of     TEXT    NOT NULL DEFAULT '',
    whole        INTEGER NOT NULL DEFAULT 0 CHECK (whole IN (0, 1)),
    repositories TEXT    NOT NULL DEFAULT '',  -- JSON, '' for none
    watches      TEXT    NOT NULL DEFAULT '',  -- JSON, '' for none
    urgent       INTEGER NOT NULL DEFAULT 0 CHECK (urgent IN (0, 1)),
    version      INTEGER NOT NULL DEFAULT 1,   -- grows with everything that joins while it waits
    policy       TEXT    NOT NULL DEFAULT '',  -- JSON, '' until planned
    vector       TEXT    NOT NULL DEFAULT '',  -- JSON, '' until planned
    attempt      INTEGER NOT NULL DEFAULT 0,
    owner        TEXT    NOT NULL DEFAULT '',  -- of the run: who, and in which epoch
    epoch        INTEGER NOT NULL DEFAULT 0,
    canceled_by  TEXT    NOT NULL DEFAULT '',
    recorded_at  INTEGER NOT NULL,
    started_at   INTEGER NOT NULL DEFAULT 0,
    finished_at  INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX rollouts_by_group ON rollouts (grp, sequence);
CREATE INDEX rollouts_open ON rollouts (status, grp, sequence) WHERE status IN ('pending', 'running');
-- At most one rollout of a group runs: the database itself refuses a second.
CREATE UNIQUE INDEX rollouts_one_runs ON rollouts (grp) WHERE status = 'running';

-- Every move of a head. It belongs to exactly one rollout (fate 'rollout'), until that is removed by retention
-- ('pruned'), or to none because its repository is not configured any more ('dropped').
CREATE TABLE changes (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    repository  TEXT    NOT NULL,
    branch      TEXT    NOT NULL,
    generation  INTEGER NOT NULL,
    from_commit TEXT    NOT NULL,
    to_commit   TEXT    NOT NULL,
    author      TEXT    NOT NULL,
    subject     TEXT    NOT NULL,
    time        INTEGER NOT NULL,
    rewritten   INTEGER NOT NULL CHECK (rewritten IN (0, 1)),
    grp         TEXT    NOT NULL CHECK (grp <> ''),
    rollout     INTEGER REFERENCES rollouts (sequence),
    fate        TEXT    NOT NULL CHECK (fate IN ('rollout', 'pruned', 'dropped')),
    reason      TEXT    NOT NULL,
    ledger      INTEGER NOT NULL,              -- the newest entry of the ledger when it was recorded: their common order
    recorded_at INTEGER NOT NULL,
    UNIQUE (repository, branch, generation),
    CHECK ((fate = 'rollout') = (rollout IS NOT NULL))
) STRICT;
CREATE INDEX changes_by_rollout ON changes (rollout) WHERE rollout IS NOT NULL;
CREATE INDEX changes_by_group ON changes (grp);
CREATE INDEX changes_loose ON changes (repository, branch, generation) WHERE fate <> 'rollout';

CREATE TABLE deployments (
    rollout       INTEGER NOT NULL REFERENCES rollouts (sequence) ON DELETE CASCADE,
    ordinal       INTEGER NOT NULL CHECK (ordinal >= 1),
    repository    TEXT    NOT NULL CHECK (repository <> ''),
    branch        TEXT    NOT NULL CHECK (branch <> ''),
    commit_id     TEXT    NOT NULL,
    previous      TEXT    NOT NULL,
    generation    INTEGER NOT NULL,
    author        TEXT    NOT NULL,
    subject       TEXT    NOT NULL,
    status        TEXT    NOT NULL CHECK (status IN ('pending', 'running', 'succeeded', 'failed', 'timed_out', 'canceled', 'interrupted', 'skipped')),
    reason        TEXT    NOT NULL,
    attempt       INTEGER NOT NULL CHECK (attempt >= 0),
    source        TEXT    NOT NULL,            -- JSON, '' until pinned
    pipeline_runs TEXT    NOT NULL,            -- JSON, '' for none
    started_at    INTEGER NOT NULL,
    finished_at   INTEGER NOT NULL,
    PRIMARY KEY (rollout, ordinal)
) STRICT, WITHOUT ROWID;
CREATE INDEX deployments_by_repository ON deployments (repository, rollout);

CREATE TABLE steps (
    rollout     INTEGER NOT NULL,
    deployment  INTEGER NOT NULL,
    attempt     INTEGER NOT NULL CHECK (attempt >= 1),
    ordinal     INTEGER NOT NULL CHECK (ordinal >= 1),
    kind        TEXT    NOT NULL CHECK (kind IN ('clone', 'command', 'track')),
    name        TEXT    NOT NULL,
    status      TEXT    NOT NULL CHECK (status IN ('pending', 'running', 'succeeded', 'failed', 'timed_out', 'canceled', 'interrupted', 'skipped')),
    reason      TEXT    NOT NULL,
    tries       INTEGER NOT NULL,
    exit_code   INTEGER,
    started_at  INTEGER NOT NULL,
    finished_at INTEGER NOT NULL,
    log         TEXT    NOT NULL,
    bytes       INTEGER NOT NULL,
    dropped     INTEGER NOT NULL,
    PRIMARY KEY (rollout, deployment, attempt, ordinal),
    FOREIGN KEY (rollout, deployment) REFERENCES deployments (rollout, ordinal) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- What was decided, about what, and why. Only ever appended to, and cut at its old end.
CREATE TABLE ledger (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    verb       TEXT    NOT NULL CHECK (verb <> ''),
    grp        TEXT    NOT NULL,
    repository TEXT    NOT NULL,
    branch     TEXT    NOT NULL,
    rollout    TEXT    NOT NULL,               -- the full identifier; it outlives the rollout
    commit_id  TEXT    NOT NULL,
    reason     TEXT    NOT NULL
) STRICT;
CREATE INDEX ledger_by_group ON ledger (grp) WHERE grp <> '';
CREATE INDEX ledger_by_repository ON ledger (repository) WHERE repository <> '';
CREATE INDEX ledger_by_rollout ON ledger (rollout) WHERE rollout <> '';

-- What has to leave: written in the transaction that makes it true, taken out when it is delivered.
CREATE TABLE outbox (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    topic       TEXT    NOT NULL CHECK (topic <> ''),
    key         TEXT    NOT NULL,
    payload     TEXT    NOT NULL,
    recorded_at INTEGER NOT NULL
) STRICT;

CREATE TABLE pauses (
    grp    TEXT    PRIMARY KEY CHECK (grp <> ''),
    by     TEXT    NOT NULL,
    reason TEXT    NOT NULL,
    at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
