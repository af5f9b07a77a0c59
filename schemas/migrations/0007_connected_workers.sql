-- Workers that people have connected. One may have a Cloudflare token of its own, sealed; without one the installation's is used.
CREATE TABLE connected_workers (
    account_id  TEXT NOT NULL,
    script_name TEXT NOT NULL,
    token       TEXT,                       -- sealed for this row
    revision    INTEGER NOT NULL,           -- rises each time that it is connected anew
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    PRIMARY KEY (account_id, script_name)
) WITHOUT ROWID;
-- Each open dashboard asks once a second whether anything has changed: by indexes alone.
CREATE INDEX connected_workers_changed ON connected_workers (revision);
CREATE INDEX plans_changed ON plans (updated_at);
-- The list of Workers: which there are, the last release of each that has ended, and how many wait.
-- Each is written when a release begins or ends, never by a check.
CREATE INDEX releases_worker ON releases (account_id, script_name);
CREATE INDEX releases_ended ON releases (account_id, script_name, ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX releases_queued ON releases (account_id, script_name) WHERE state = 'queued';
