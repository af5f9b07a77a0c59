//! The SQL that production and tests alike run, and how rows become values.

mod hooks;
mod plans;
mod releases;
mod row;

pub use hooks::{
    NewHookSecret, Rotated, SealedSecret, hook_secrets, remember_refusal, revoke_hook_secrets,
    rotate_hook_secret,
};
pub use plans::{Precondition, StoredPlan, delete_plan, get_plan, list_plans, put_plan};
pub use releases::{
    Alarm, DeadLetter, Idempotency, Loaded, ReleaseFilter, Remembered, StoredEvent, Write, commit,
    commit_statements, contenders, create, dead_letters, delete_staged, due_alarms, events,
    forget_keys, has_active, last_seen, list, load, queued_alarms, remembered, windows,
};
pub use row::StoreError;
