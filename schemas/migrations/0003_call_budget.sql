-- How many calls Cloudflare still allows each of its tokens: src/cloudflare/budget.rs. Each column is the time, in Unix
-- microseconds, at which the calls made so far will have been paid off.
CREATE TABLE call_budgets (
    credential TEXT PRIMARY KEY,
    total_us   INTEGER NOT NULL,            -- all calls
    checks_us  INTEGER NOT NULL,            -- those that used the guaranteed share of telemetry
    normal_us  INTEGER NOT NULL,            -- of splits and of people's requests
    looks_us   INTEGER NOT NULL             -- of routine looks
) WITHOUT ROWID;
