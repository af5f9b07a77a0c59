//! What can happen to a release, and what a decision consists of.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::apply::Outcome;
use super::head::Deployment;
use super::plan::Percent;
use super::soak::Look;
use super::state::{Release, Seen};
use super::table::Kind;
use crate::slo::evidence::Before;
use crate::slo::{Opinion, Reading, Window};
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
        /// The version that the release must still have, as whoever commands was shown it.
        shown: Option<u32>,
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
        /// What judges said of it. They are asked before the decision, and only if the numbers alone do not decide it.
        opinions: Vec<Opinion>,
    },
}

/// Why something could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What happened, for people.
    pub detail: String,
    /// How long Cloudflare asks to be left alone, in milliseconds.
    pub retry_after_ms: i64,
    /// Nothing has failed: the call budget has no room yet.
    pub put_off: bool,
}

/// A command.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Start a staged release that HMD drives; what serves was read just before.
    Start {
        /// The deployment in force.
        seen: Seen,
        /// The version that serves everything.
        old_version: String,
        /// For each SLO relative in time, the old version's percentile in milliseconds.
        slow_above_ms: Vec<Option<f64>>,
        /// For each SLO, the old version before the release; what it lacks is unknown.
        before: Vec<Before>,
    },
    /// Go back, or cancel.
    Stop,
    /// Start a staged release that only watches; what serves was read just before.
    Watch {
        /// The deployment in force.
        serving: Deployment,
        /// The version that the new one is compared with.
        old_version: String,
        /// For each SLO relative in time, the old version's percentile in milliseconds.
        slow_above_ms: Vec<Option<f64>>,
        /// For each SLO, the old version before; what it lacks is unknown.
        before: Vec<Before>,
    },
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
                Command::Start { .. } | Command::Watch { .. } => Kind::Start,
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

// Stored events keep theirs as text, so that old rows stay readable; every host test holds every answer against this list.
/// The types of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
pub enum EventType {
    /// It holds the Worker and walks its stages from now on.
    #[serde(rename = "release.started")]
    ReleaseStarted,
    /// The split of the stage is in force; its soak begins.
    #[serde(rename = "stage.started")]
    StageStarted,
    /// The soak is over and no SLO objects.
    #[serde(rename = "stage.passed")]
    StagePassed,
    /// The stage waits for a person.
    #[serde(rename = "approval.requested")]
    ApprovalRequested,
    /// A person approved the stage.
    #[serde(rename = "approval.granted")]
    ApprovalGranted,
    /// A person denied the stage.
    #[serde(rename = "approval.denied")]
    ApprovalDenied,
    /// An SLO is in harm; `data` holds its reading.
    #[serde(rename = "slo.violated")]
    SloViolated,
    /// An SLO lacks data, and the stage can not pass without.
    #[serde(rename = "slo.no_data")]
    SloNoData,
    /// The soak clock stands; SLOs are still checked.
    #[serde(rename = "release.paused")]
    ReleasePaused,
    /// The soak clock runs again.
    #[serde(rename = "release.resumed")]
    ReleaseResumed,
    /// It goes back to the old version.
    #[serde(rename = "release.reverting")]
    ReleaseReverting,
    /// End: all traffic is on the old version again.
    #[serde(rename = "release.reverted")]
    ReleaseReverted,
    /// End: all traffic is on the new version.
    #[serde(rename = "release.succeeded")]
    ReleaseSucceeded,
    /// End: somebody else deployed, or a newer release took over.
    #[serde(rename = "release.superseded")]
    ReleaseSuperseded,
    /// End: it never started.
    #[serde(rename = "release.cancelled")]
    ReleaseCancelled,
    /// Something wants a person: `detail` says what.
    #[serde(rename = "alert.raised")]
    AlertRaised,
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

/// A split that a watched release adopted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "WatchedSplit"))]
pub struct Split {
    /// Counts the splits of the release, from 0.
    pub number: usize,
    /// The new version's share.
    pub percent: Percent,
}

/// A judged window, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Stage, from 1.
    pub stage: usize,
    /// Of a watched release: the split that was in force, for there may be several in a stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// The first one since the split was applied: what the stage had counted before, if anything, counts no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first: bool,
    /// The counts.
    pub window: Window,
    /// The verdicts after it.
    pub readings: Vec<Reading>,
    /// The stage was still warming up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warming_up: bool,
    /// SLOs whose evidence was dropped before it, since a person had waived it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forgot: Vec<String>,
    /// What judges were told and said after it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opinions: Vec<Opinion>,
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
