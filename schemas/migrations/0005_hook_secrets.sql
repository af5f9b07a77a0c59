-- Secrets of the inbound hooks of plans, sealed. One of a plan is current; those that it replaced stay valid for a while.
CREATE TABLE hook_secrets (
    id         TEXT PRIMARY KEY,
    plan       TEXT NOT NULL,
    sealed     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER                      -- null: the current one
) WITHOUT ROWID;
CREATE INDEX hook_secrets_plan ON hook_secrets (plan, created_at);
CREATE UNIQUE INDEX hook_secrets_one_current ON hook_secrets (plan) WHERE expires_at IS NULL;
CREATE INDEX hook_secrets_expires ON hook_secrets (expires_at) WHERE expires_at IS NOT NULL;

-- A repeated message gets a refusal again, too. Until now only created releases (201) were remembered.
ALTER TABLE idempotency_keys ADD COLUMN status INTEGER NOT NULL DEFAULT 201;
