//! The SQL that production and tests alike run, and how rows become values.

mod plans;
mod releases;
mod row;

pub use plans::{StoredPlan, get_plan, list_plans, put_plan};
pub use releases::{
    Alarm, DeadLetter, ReleaseFilter, StoredEvent, Write, commit, create, dead_letters, due_alarms,
    events, has_active, list, load,
};
pub use row::StoreError;
