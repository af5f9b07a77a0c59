-- The history by one Worker, plan or state: what is rare is found without a walk through all releases.
CREATE INDEX releases_of_worker ON releases (script_name, created_at, id);
CREATE INDEX releases_of_plan ON releases (plan, created_at, id);
CREATE INDEX releases_of_state ON releases (state, created_at, id);
-- Who only watches, for the list of Workers.
CREATE INDEX releases_watching ON releases (account_id, script_name, created_at) WHERE state = 'watching';
