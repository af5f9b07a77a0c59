//! The SQL that production and tests alike run, and how rows become values.

mod plans;
mod releases;
mod row;

pub use plans::{Precondition, StoredPlan, delete_plan, get_plan, list_plans, put_plan};
pub use releases::{
    Alarm, DeadLetter, Idempotency, Loaded, ReleaseFilter, StoredEvent, Write, commit,
    commit_statements, contenders, create, dead_letters, delete_staged, due_alarms, events,
    forget_keys, has_active, last_seen, list, load, queued_alarms, remembered, windows,
};
pub use row::StoreError;
