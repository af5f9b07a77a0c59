-- The answers to requests with an Idempotency-Key, for a day.
CREATE TABLE idempotency_keys (
    key     TEXT PRIMARY KEY,
    body    TEXT NOT NULL,
    answer  TEXT NOT NULL,
    release TEXT NOT NULL,
    at      INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX idempotency_keys_at ON idempotency_keys (at);
