//! Plans, releases and the transition table. Pure: no I/O, no clock, no randomness.

#[cfg(test)]
mod act_tests;
mod apply;
mod approve;
mod backtest;
mod decide;
#[cfg(test)]
mod decide_tests;
#[cfg(test)]
mod evidence_tests;
#[cfg(test)]
mod fixture;
mod forecast;
mod head;
mod input;
mod judge;
mod names;
mod pass;
mod plan;
mod preflight;
#[cfg(test)]
mod put_off_tests;
mod soak;
mod state;
mod table;
#[cfg(test)]
mod transition_tests;
mod view;
mod watch;
#[cfg(test)]
mod watch_fixture;
#[cfg(test)]
mod watch_tests;
mod witness;
#[cfg(test)]
mod witness_tests;

pub use apply::{ActPlan, Outcome, act_plan};
pub use backtest::{Backtest, Ground, Outcome as Replayed, StageRun};
pub use decide::{LEASE_MS, SYSTEM, decide, decide_all};
pub use forecast::{Delays, Load, StageForecast, forecast};
pub use head::{Deployment, Head, read_head};
pub use input::{
    Command, Decision, EventType, Failure, Input, Judged, Moment, NewEvent, Refusal, Split,
};
pub use judge::{Basis, place, place_in, place_of, protocol, readings, replay};
pub use names::{Action, Mode, Reason, StageState, State};
pub use plan::{
    Advance, FieldError, KeysSeen, MAX_TEXT, OnApprovalTimeout, Percent, Plan, Stage, WorkerRef,
    slo_applies,
};
pub use preflight::{
    Acceptable, Check, CheckName, CheckStatus, DurableObjects, Facts, Findings, Holder, Learned,
    ListedVersion, Observability, Traffic, Tried, VersionParts, newest_deployment, preflight,
    wanted_version,
};
pub use soak::{Look, wants_look, windows_due, windows_due_in_few};
pub use state::{
    Deploying, Driven, Ending, Lease, NEWEST_SCHEMA, Origin, Progress, Release, Revert, SCHEMA,
    Seen, Soak, SoakClock, StageDecision, StageRecord, Status, Step, Wait, Would,
};
pub use table::{Kind, Phase, Rule, diagram, leads_to, rule, transitions};
pub use view::{ReleaseView, WouldView};
pub use watch::Sight;
pub use witness::{ErrorCount, Hearing, MAX_ERRORS, hearing};
