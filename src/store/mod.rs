//! The SQL that production and tests alike run, and how rows become values.

mod budget;
mod chart;
mod connections;
mod dashboard;
mod deliveries;
mod hooks;
mod plans;
mod releases;
mod row;
mod subscribers;

pub use budget::{claim, claim_statement, correct, correct_statement};
pub use chart::{ChartSlo, ChartWindow};
pub use connections::{
    Connection, Disconnected, delete_connection, get_connection, list_connections, put_connection,
};
pub use dashboard::{
    Fleet, Heard, Known, PlanInUse, Story, SubscriberPage, count_sign_in, fleet, fleet_revision,
    pair, plan_in_use, revision, signed_in, story, subscriber_page, use_sign_in_link,
};
pub use deliveries::{
    Attempt, Call, Delivery, DeliveryFilter, Leased, Outcome, Owed, PageEnd, Recorded,
    due_deliveries, due_deliveries_of, forget_deliveries, get_delivery, lease_deliveries,
    list_deliveries, owe_test, put_back, record_outcomes, replay, replay_failed,
};
pub use hooks::{
    NewHookSecret, Rotated, SealedSecret, hook_secrets, remember_refusal, revoke_hook_secrets,
    rotate_hook_secret,
};
pub use plans::{Precondition, StoredPlan, delete_plan, get_plan, list_plans, put_plan};
pub use releases::{
    Alarm, CommitPart, Committed, DeadLetter, Idempotency, Loaded, ReleaseFilter, Remembered,
    StoredEvent, Write, commit, commit_statements, contenders, create, dead_letters, delete_staged,
    due_alarms, events, forget_keys, has_active, last_seen, list, load, queued_alarms, remembered,
    windows,
};
pub use row::StoreError;
pub use subscribers::{
    change_subscriber, create_subscriber, delete_subscriber, get_subscriber, list_subscribers,
};
