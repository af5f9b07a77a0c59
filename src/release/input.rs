//! What can happen to a release, and what a decision consists of.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::apply::Outcome;
use super::soak::Look;
use super::state::{Release, Seen};
use super::table::Kind;
use crate::slo::{Reading, Window};
use crate::time::UnixMs;

/// The time of a decision, and the installation's delays.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Now.
    pub now: UnixMs,
    /// How long after a window's end its telemetry is complete.
    pub telemetry_lag_ms: i64,
    /// How long after a split the edge follows it everywhere.
    pub propagation_delay_ms: i64,
}

/// Something that happens to a release.
#[derive(Clone, Debug)]
pub enum Input {
    /// A person's or a CI's command.
    Command {
        /// Who, as events name them.
        actor: String,
        /// What.
        command: Command,
    },
    /// A newer release is to take this one's place.
    Newer {
        /// Its id.
        by: String,
    },
    /// A queued release's turn has come, but it can't start.
    CannotStart {
        /// Why.
        detail: String,
    },
    /// The alarm for an owed effect rang.
    ActDue {
        /// The alarm that rang; counts only if it is still the row's.
        due_at: UnixMs,
    },
    /// An actor reports.
    Reported {
        /// Which.
        act: u32,
        /// What came of it.
        outcome: Outcome,
    },
    /// The alarm for a look rang, and telemetry was asked.
    Checked {
        /// The alarm that rang; counts only if it is still the row's.
        due_at: UnixMs,
        /// The answers, in order, from the row's `next_window` on.
        windows: Vec<Window>,
        /// When telemetry was asked: what has settled since is the next check's business.
        asked_at: UnixMs,
        /// Why the answers end before the newest settled window, if a question failed.
        failure: Option<Failure>,
        /// What the active deployment looked like, if it was looked at.
        look: Option<Result<Look, Failure>>,
    },
}

/// Why something could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What happened, for people.
    pub detail: String,
    /// How long Cloudflare asks to be left alone, in milliseconds.
    pub retry_after_ms: i64,
}

/// A command.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Start a staged release; what serves was read just before.
    Start {
        /// The deployment in force.
        seen: Seen,
        /// The version that serves everything.
        old_version: String,
        /// For each SLO relative in time, the old version's percentile in milliseconds.
        slow_above_ms: Vec<Option<f64>>,
    },
    /// Go back, or cancel.
    Stop,
    /// Stop the soak clock.
    Pause,
    /// Let it go on.
    Resume,
    /// End the present soak as passed.
    Promote,
    /// Approve a stage.
    Approve {
        /// Which, from 1.
        stage: usize,
        /// Words for the event.
        comment: Option<String>,
    },
    /// Deny a stage.
    Deny {
        /// Which, from 1.
        stage: usize,
        /// Words for the event.
        comment: Option<String>,
    },
    /// Give up a release that can't go back.
    Abandon,
}

impl Input {
    /// Its column in the table.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Newer { .. } => Kind::Newer,
            Self::CannotStart { .. } => Kind::CannotStart,
            Self::ActDue { .. } => Kind::ActDue,
            Self::Reported { .. } => Kind::Reported,
            Self::Checked { .. } => Kind::Checked,
            Self::Command { command, .. } => match command {
                Command::Start { .. } => Kind::Start,
                Command::Stop => Kind::Stop,
                Command::Pause => Kind::Pause,
                Command::Resume => Kind::Resume,
                Command::Promote => Kind::Promote,
                Command::Approve { .. } => Kind::Approve,
                Command::Deny { .. } => Kind::Deny,
                Command::Abandon => Kind::Abandon,
            },
        }
    }
}

/// An event of a release, as `…/events` tells it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewEvent {
    /// Rises by one per event of a release.
    pub sequence: u64,
    /// `release.started` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// When.
    pub at: UnixMs,
    /// Who.
    pub actor: String,
    /// Stage, from 1.
    pub stage: Option<usize>,
    /// Why.
    pub reason: Option<String>,
    /// The same for people.
    pub detail: Option<String>,
    /// Facts.
    pub data: Option<Value>,
}

/// A judged window, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Stage, from 1.
    pub stage: usize,
    /// The counts.
    pub window: Window,
    /// The verdicts after it.
    pub readings: Vec<Reading>,
}

/// What is to be written, and done, in answer to inputs.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The release afterwards (its `seq` is raised by the commit).
    pub release: Release,
    /// New events.
    pub events: Vec<NewEvent>,
    /// Newly judged windows.
    pub judged: Vec<Judged>,
    /// It starts a release, so it must win the Worker.
    pub starts: bool,
    /// The caller got the lease with this act number and is to act at once.
    pub act: Option<u32>,
}

/// Why an input changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// An alarm or a report that no longer applies.
    Stale,
    /// The command has been carried out before: answer with the release as it is.
    Already,
    /// The command does not fit the state: 409.
    Conflict(String),
    /// A start whose Worker another release holds.
    Held,
}
