-- Subscribers to events, and what each of them is owed.
CREATE TABLE subscribers (
    id              TEXT PRIMARY KEY,
    url             TEXT NOT NULL,
    events          TEXT NOT NULL,           -- patterns as a JSON array, matched with GLOB
    format          TEXT NOT NULL,
    approvals       INTEGER NOT NULL,        -- gets links that decide
    plan            TEXT,                    -- only events of this plan's releases
    worker          TEXT,                    -- only events of Workers of this script name
    description     TEXT,
    state           TEXT NOT NULL,           -- active, paused, disabled
    secret          TEXT NOT NULL,           -- sealed
    previous_secret TEXT,                    -- sealed; signs too until previous_until
    previous_until  INTEGER,
    slow            INTEGER NOT NULL DEFAULT 0, -- it timed out, and has not answered since
    failing_since   INTEGER,                 -- the first failure since it last took something
    disabled_reason TEXT,
    disabled_at     INTEGER,
    disabled_mark   TEXT,                    -- fresh for each time it is disabled: what the alert joins
    revision        INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL
) WITHOUT ROWID;

-- What is told, once for all who are told it. Written in the batch of the decision that caused it.
CREATE TABLE messages (
    id   TEXT PRIMARY KEY,                   -- the webhook-id
    type TEXT NOT NULL,
    body TEXT NOT NULL,                      -- event, release as it was then, and what an approval needs, as JSON
    at   INTEGER NOT NULL
) WITHOUT ROWID;

-- The row is the outbox: due_at says that an attempt is owed; while somebody is at it, it is the end of their lease.
CREATE TABLE deliveries (
    message     TEXT NOT NULL,
    subscriber  TEXT NOT NULL,
    type        TEXT NOT NULL,
    release     TEXT,
    sequence    INTEGER,
    state       TEXT NOT NULL,               -- pending, delivered, failed
    attempts    INTEGER NOT NULL DEFAULT 0,  -- begun since the beginning
    step        INTEGER NOT NULL DEFAULT 0,  -- begun since the beginning, or since the last replay
    due_at      INTEGER,
    lease       TEXT,
    created_at  INTEGER NOT NULL,
    finished_at INTEGER,
    PRIMARY KEY (message, subscriber)
) WITHOUT ROWID;
CREATE INDEX deliveries_due ON deliveries (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_of ON deliveries (subscriber, created_at, message);
CREATE INDEX deliveries_created ON deliveries (created_at);
CREATE INDEX messages_at ON messages (at);

CREATE TABLE delivery_attempts (
    message     TEXT NOT NULL,
    subscriber  TEXT NOT NULL,
    attempt     INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    status      INTEGER,                     -- of the answer, if there was one
    error       TEXT,                        -- why it failed
    response    TEXT,                        -- the first 1 KB of the answer
    PRIMARY KEY (message, subscriber, attempt)
) WITHOUT ROWID;
