-- Signing in to the dashboard: who has tried of late (a digest of their address, not the address), and which one-time links
-- have been used.
CREATE TABLE sign_in_attempts (
    client TEXT PRIMARY KEY,
    count  INTEGER NOT NULL,                -- since then; forgotten when one of them succeeds
    since  INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX sign_in_attempts_since ON sign_in_attempts (since);

CREATE TABLE sign_in_links (
    nonce      TEXT PRIMARY KEY,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;
