-- Times are integer Unix milliseconds. Migrations only ever add: two versions of HMD run side by side during its own deployment.

CREATE TABLE plans (
    name       TEXT PRIMARY KEY,
    body       TEXT NOT NULL,               -- the plan as JSON
    revision   INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE releases (
    id           TEXT PRIMARY KEY,
    account_id   TEXT NOT NULL,
    script_name  TEXT NOT NULL,
    plan         TEXT NOT NULL,
    origin       TEXT NOT NULL,             -- what was fixed at creation, with the plan's snapshot, as JSON
    progress     TEXT NOT NULL,             -- what decisions change, as JSON; the columns below are read off it
    state        TEXT NOT NULL,
    version      INTEGER NOT NULL,
    seq          INTEGER NOT NULL,          -- the guard of every write
    act_due_at   INTEGER,                   -- an effect on Cloudflare is owed; while somebody acts, their lease
    check_due_at INTEGER,                   -- a look is owed
    created_at   INTEGER NOT NULL,
    ended_at     INTEGER
);
-- Stands behind the start's decision row: one release per Worker.
CREATE UNIQUE INDEX releases_one_active ON releases (account_id, script_name)
    WHERE state IN ('rolling_out', 'paused', 'awaiting_approval', 'reverting');
CREATE INDEX releases_act_due ON releases (act_due_at) WHERE act_due_at IS NOT NULL;
CREATE INDEX releases_check_due ON releases (check_due_at) WHERE check_due_at IS NOT NULL;
CREATE INDEX releases_created ON releases (created_at, id);

-- Every write to a release is one decision; its primary key is what two writers race for.
CREATE TABLE decisions (
    release     TEXT NOT NULL,
    seq         INTEGER NOT NULL,
    decision_id TEXT NOT NULL,
    version     INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (release, seq)
) WITHOUT ROWID;

CREATE TABLE windows (
    release      TEXT NOT NULL,
    window_index INTEGER NOT NULL,          -- [index * check_interval, (index + 1) * check_interval) from the Unix epoch
    stage        INTEGER NOT NULL,
    body         TEXT NOT NULL,             -- counts and verdicts as JSON
    PRIMARY KEY (release, window_index)
) WITHOUT ROWID;

CREATE TABLE events (
    release  TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    body     TEXT NOT NULL,
    PRIMARY KEY (release, sequence)
) WITHOUT ROWID;

CREATE TABLE dead_letters (
    id     TEXT PRIMARY KEY,
    queue  TEXT NOT NULL,
    body   TEXT NOT NULL,
    reason TEXT NOT NULL,
    at     INTEGER NOT NULL
) WITHOUT ROWID;
