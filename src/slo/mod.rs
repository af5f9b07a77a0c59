//! Service level indicators and objectives, and how a release is judged by them. Pure.

mod objective;
mod threshold;

pub use objective::{
    Objective, OnNoData, Percentile, Rule, Severity, Sli, SliKind, Slo, Tolerance,
};
pub use threshold::{Ground, Reading, Side, Tally, Verdict, VersionCounts, Window};
