-- Each open list of Workers asks once a second whether it is still right: by this one row. Triggers raise it, so that no statement
-- has to think of it, and that an HMD of before raises it, too. A check writes none of the columns that are watched here, and costs nothing.
CREATE TABLE dashboard_revision (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL
);
INSERT INTO dashboard_revision (id, revision) VALUES (1, 0);

-- Stage and split of a release change only when a deployment comes to be owed, or is no longer owed. A lease that moves shows nothing.
CREATE TRIGGER releases_shown AFTER UPDATE OF state, act_due_at, ended_at ON releases
    WHEN old.state IS NOT new.state OR (old.act_due_at IS NULL) <> (new.act_due_at IS NULL) OR old.ended_at IS NOT new.ended_at
BEGIN
    UPDATE dashboard_revision SET revision = revision + 1 WHERE id = 1;
END;
CREATE TRIGGER releases_created_shown AFTER INSERT ON releases
BEGIN
    UPDATE dashboard_revision SET revision = revision + 1 WHERE id = 1;
END;
CREATE TRIGGER releases_deleted_shown AFTER DELETE ON releases
BEGIN
    UPDATE dashboard_revision SET revision = revision + 1 WHERE id = 1;
END;
CREATE TRIGGER plans_created_shown AFTER INSERT ON plans
BEGIN
    UPDATE dashboard_revision SET revision = revision + 1 WHERE id = 1;
END;
CREATE TRIGGER plans_changed_shown AFTER UPDATE OF body ON plans
BEGIN
    UPDATE dashboard_revision SET revision = revision + 1 WHERE id = 1;
END;
CREATE TRIGGER plans_deleted_shown AFTER DELETE ON plans
BEGIN
    UPDATE dashboard_revision SET revision = revision + 1 WHERE id = 1;
END;
CREATE TRIGGER workers_connected_shown AFTER INSERT ON connected_workers
BEGIN
    UPDATE dashboard_revision SET revision = revision + 1 WHERE id = 1;
END;
CREATE TRIGGER workers_changed_shown AFTER UPDATE OF token ON connected_workers
BEGIN
    UPDATE dashboard_revision SET revision = revision + 1 WHERE id = 1;
END;
CREATE TRIGGER workers_disconnected_shown AFTER DELETE ON connected_workers
BEGIN
    UPDATE dashboard_revision SET revision = revision + 1 WHERE id = 1;
END;
