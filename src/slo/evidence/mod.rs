//! The evidence rule: sequential tests whose verdicts may be read after every window without spoiling them. Pure.
//!
//! [`Protocol`] is fixed before the first window. [`Evidence::step`] takes in one settled window and costs the same in the
//! first and the thousandth; [`Evidence::judge`] says harm, safe, undecided or no data, and why. The method, its sources and
//! its figures are in `docs/evidence.md`; `hmd study` reproduces them.

pub mod forecast;
mod interval;
mod judgement;
mod mixture;
mod overdispersion;
mod protocol;
mod question;
mod root;
mod share;
mod sums;

pub use interval::{Interval, interval};
pub(crate) use judgement::grouped;
pub use judgement::{Grounds, Judgement};
pub use mixture::{Alternative, Flips, HARM, Mixture, NanoNats, SAFE};
pub use overdispersion::{FEWEST_BAD, overdispersion};
pub use protocol::{
    BETA, Before, Protocol, START_EVERY_MS, SloProtocol, StagePlan, StartKind, Starts, Terms, Test,
};
pub use question::{Counts, Question, REFUSED_OVER_TOLERANCE};
pub use share::{ShareMismatch, ShareSums};
pub use sums::{Evidence, Place, SCHEMA, SloSums, Stretch};

#[cfg(test)]
mod validity_tests;
#[cfg(test)]
mod verdict_tests;
