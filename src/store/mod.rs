//! The SQL that production and tests alike run, and how rows become values.

mod budget;
mod plans;
mod releases;
mod row;

pub use budget::{claim, claim_statement, correct, correct_statement};
pub use plans::{Precondition, StoredPlan, delete_plan, get_plan, list_plans, put_plan};
pub use releases::{
    Alarm, DeadLetter, Idempotency, Loaded, ReleaseFilter, StoredEvent, Write, commit,
    commit_statements, contenders, create, dead_letters, delete_staged, due_alarms, events,
    forget_keys, has_active, last_seen, list, load, queued_alarms, remembered, windows,
};
pub use row::StoreError;
