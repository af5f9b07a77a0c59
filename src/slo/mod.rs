//! Service level indicators and objectives, and how a release is judged by them. Pure.

pub mod evidence;
mod objective;
mod opinion;
mod saved;
mod threshold;

pub use objective::{
    AtFull, Filter, FilterKind, Objective, OnNoData, OnUndecided, Percentile, Rule, Severity, Sli,
    SliKind, Slo, Tolerance,
};
pub use opinion::{Opinion, Say, Saying, Standing, clean_to, unasked};
pub use saved::{Part, SavedQueries, is_query_id, usable_filters};
pub use threshold::{Ground, Reading, Side, SloCounts, Tally, Verdict, VersionCounts, Window};
