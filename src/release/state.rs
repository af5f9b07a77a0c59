//! What a release is at any moment. Each state carries only what is valid in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use super::names::{Action, Mode, Reason, StageState, State};
use super::plan::{Percent, Plan};
use super::preflight::Findings;
use crate::slo::evidence::{Before, Evidence};
use crate::slo::{Reading, Standing, Tally};
use crate::time::UnixMs;

/// Schema number of the stored JSON: readers tolerate unknown fields, so it rises only when a meaning changes.
pub const SCHEMA: u32 = 1;
/// The newest one that can be read. Releases that only watch have it: an HMD that knows nothing of watching would drive them.
pub const NEWEST_SCHEMA: u32 = 2;

/// A release: what it was created with, and how far it has come.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    /// Fixed at creation, and so shared by all copies.
    pub origin: Arc<Origin>,
    /// Replaced by every decision.
    pub progress: Progress,
}

/// What never changes after creation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// `rel_` and a time-ordered UUID.
    pub id: String,
    /// Name of the plan.
    pub plan_name: String,
    /// The plan as it was at creation.
    pub plan: Plan,
    /// Whether HMD drives it or only watches.
    #[serde(default, skip_serializing_if = "Mode::is_deploy")]
    pub mode: Mode,
    /// The version to roll out.
    pub new_version: String,
    /// The old version that the caller insisted on, if any.
    #[serde(default)]
    pub required_old_version: Option<String>,
    /// It was queued to take the place of the release that ran, and goes before the others that wait.
    #[serde(default)]
    pub supersedes: bool,
    /// The caller's words.
    #[serde(default)]
    pub note: Option<String>,
    /// The caller's link (a CI run, a ticket).
    #[serde(default)]
    pub url: Option<String>,
    /// When it was created.
    pub created_at: UnixMs,
    /// Who created it.
    pub created_by: String,
    /// What the preflight found when it was created.
    #[serde(default, skip_serializing_if = "Findings::is_empty")]
    pub preflight: Findings,
}

/// What decisions change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// The version that served everything when the release started; until then the one that served when it was created,
    /// or empty if the traffic was split.
    pub old_version: String,
    /// The state.
    pub status: Status,
    /// Index of the present stage, from 0.
    pub stage: usize,
    /// How each stage of the plan went.
    pub stages: Vec<StageRecord>,
    /// Counts transitions, from 1.
    pub version: u32,
    /// Counts decisions, from 1: the guard of every write, and the API's `revision`.
    pub seq: u64,
    /// Sequence of the newest event.
    pub last_event: u64,
    /// An effect on Cloudflare is owed at this time; while somebody acts, the end of their lease.
    pub act_due_at: Option<UnixMs>,
    /// The release must be looked at at this time.
    pub check_due_at: Option<UnixMs>,
    /// Counts leases: names the actor of a report.
    pub acts: u32,
    /// The newest deployment that HMD has seen and understood; anything newer without its marker is foreign.
    pub seen: Option<Seen>,
    /// The id of a deployment that Cloudflare took from HMD but has not shown yet: a list without it lags.
    pub posted: Option<String>,
    /// Until when a split of unknown outcome may still be carried out.
    pub unknown_until: UnixMs,
    /// For each SLO relative in time: T, the old version's percentile before the start, in milliseconds.
    pub slow_above_ms: Vec<Option<f64>>,
    /// For each SLO, the old version before the release, as the evidence rule wants it.
    #[serde(default)]
    pub before: Vec<Before>,
    /// What the windows have shown so far.
    #[serde(default)]
    pub evidence: Evidence,
    /// SLOs whose evidence a person has waived: it is dropped before the next window.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub to_forget: BTreeSet<String>,
    /// Of a watched release: what HMD would have done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub would: Vec<Would>,
    /// When it started.
    pub started_at: Option<UnixMs>,
    /// When it ended.
    pub ended_at: Option<UnixMs>,
}

/// A deployment as far as order and identity go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Cloudflare's id.
    pub deployment_id: String,
    /// Creation time in Unix microseconds, by Cloudflare's clock.
    pub created_us: i64,
}

/// The state of a release.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Status {
    /// Created, not started.
    Staged,
    /// Waiting for the Worker's running release to end.
    Queued,
    /// Walking its stages.
    RollingOut {
        /// Where in the stage it is.
        step: Step,
    },
    /// The soak clock stands; checks go on.
    Paused {
        /// Where in the stage it is.
        step: Step,
    },
    /// The stage waits for a person; checks go on.
    AwaitingApproval {
        /// The stage's soak.
        soak: Soak,
        /// What is waited for.
        wait: Wait,
    },
    /// Going back to the old version.
    Reverting(Revert),
    /// Somebody else's splits are watched; for the API it is rolling out.
    Watching {
        /// The split in force; at 0 % it waits for one.
        soak: Soak,
    },
    /// End: everything runs on the new version.
    Succeeded,
    /// End: everything runs on the old version.
    Reverted(Ending),
    /// End: somebody else took over; HMD wrote nothing more.
    Superseded(Ending),
    /// End: never started, or only watched.
    Cancelled(Ending),
}

/// How [`Status`] is read: by [`crate::json`]. `Serialize`, which nobody calls, makes the compiler miss a variant.
#[derive(Serialize, Deserialize)]
#[serde(
    remote = "Status",
    rename = "tagged by state",
    rename_all = "snake_case"
)]
enum ReadStatus {
    Staged,
    Queued,
    RollingOut { step: Step },
    Paused { step: Step },
    AwaitingApproval { soak: Soak, wait: Wait },
    Reverting(Revert),
    Watching { soak: Soak },
    Succeeded,
    Reverted(Ending),
    Superseded(Ending),
    Cancelled(Ending),
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ReadStatus::deserialize(deserializer)
    }
}

/// How a release ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    /// Why.
    pub reason: Reason,
    /// The same for people, with names and numbers.
    pub detail: Option<String>,
}

/// Where in a stage a release is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[allow(
    clippy::large_enum_variant,
    reason = "a release is held by itself or in small batches, never in long arrays"
)]
pub enum Step {
    /// The stage's split (or, `completing`, the new version alone) is being applied.
    Deploying(Deploying),
    /// The split is in force.
    Soaking(Soak),
}

/// How [`Step`] is read: by [`crate::json`]. `Serialize` as above.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Step", rename = "tagged by step", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "as of `Step`")]
enum ReadStep {
    Deploying(Deploying),
    Soaking(Soak),
}

impl<'de> Deserialize<'de> for Step {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ReadStep::deserialize(deserializer)
    }
}

/// An owed deployment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deploying {
    /// After the last stage's soak: the deployment that completes the release.
    pub completing: bool,
    /// The release version in the marker of this deployment: one intent, one marker.
    pub marker_version: u32,
    /// Since when it is owed.
    pub since: UnixMs,
    /// How often it was tried in vain.
    pub attempts: u32,
    /// Since when nothing but failures came of it.
    #[serde(default)]
    pub failing_since: Option<UnixMs>,
    /// Who is at it now.
    pub actor: Option<Lease>,
    /// The soak of the stage before: its split still sends traffic to the new version, so it is still watched.
    pub watch: Option<Box<Soak>>,
}

/// The right to write to Cloudflare for this release until a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Number of the act, from `Progress::acts`.
    pub act: u32,
    /// When it runs out.
    pub until: UnixMs,
}

/// The soak clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SoakClock {
    /// Runs, and the soak ends then.
    EndsAt(UnixMs),
    /// Stands, with so many milliseconds left.
    RemainingMs(i64),
}

/// A split in force, and what was seen of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Soak {
    /// Index of the stage whose split it is; while the next split is being applied, the stage before.
    pub stage: usize,
    /// Of a watched release: counts its splits from 0. There may be several in one stage, and each is judged for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<usize>,
    /// The new version's share.
    pub percent: Percent,
    /// When the split was read back.
    pub started_at: UnixMs,
    /// How much is left.
    pub clock: SoakClock,
    /// The first window that has not been judged.
    pub next_window: i64,
    /// What was counted.
    pub tally: Tally,
    /// The newest verdicts, in the plan's order of SLOs.
    pub readings: Vec<Reading>,
    /// What judges have said last in this stage, by SLO.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub opinions: BTreeMap<String, Standing>,
    /// SLOs that a person waived for this stage.
    pub waived: BTreeSet<String>,
    /// SLOs whose harm (or lack of data) has been told; each is told once a stage.
    pub told: BTreeSet<String>,
    /// When the active deployment was last seen.
    pub looked_at: UnixMs,
    /// When it is to be looked at again in any case.
    pub look_again_at: UnixMs,
    /// Looks that failed in a row.
    pub look_failures: u32,
    /// Telemetry questions that failed in a row.
    pub failures: u32,
    /// The call budget has put its last check off: what is due by then is asked for as one.
    #[serde(default)]
    pub behind: bool,
    /// Of a split that is no longer in force: the first window that is not its own any more.
    pub until_window: Option<i64>,
    /// The stage before, until its last windows have settled and been judged, too.
    pub before: Option<Box<Soak>>,
}

/// What an approval is waited for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wait {
    /// Since when.
    pub since: UnixMs,
    /// When waiting ends as denied, if it does.
    pub deny_at: Option<UnixMs>,
    /// When it is asked for again.
    #[serde(default)]
    pub remind_at: Option<UnixMs>,
    /// SLOs without data or verdict that approving waives; empty for a manual stage that passed.
    pub lacking: Vec<String>,
}

/// The way back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revert {
    /// Why, with details for people.
    pub because: Ending,
    /// The release version in the marker of the deployments that go back.
    pub marker_version: u32,
    /// Since when.
    pub since: UnixMs,
    /// How often it was tried in vain.
    pub attempts: u32,
    /// What Cloudflare said to the last try in vain.
    pub last_failure: Option<String>,
    /// Who is at it now.
    pub actor: Option<Lease>,
    /// The act that was applying a split when the way back began, until it reports.
    pub forward_act: Option<u32>,
    /// From when a look at the active deployment proves anything: no forward act can write after it.
    pub quiet_from: UnixMs,
}

/// What HMD would have done with a split that it only watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Would {
    /// What.
    pub action: Action,
    /// When.
    pub at: UnixMs,
    /// The new version's share that was in force.
    pub percent: Percent,
    /// Where to: the new version's share afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Percent>,
    /// Why, for people.
    pub detail: String,
}

/// A person's decision on a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageDecision {
    /// Approved, or denied.
    pub approved: bool,
    /// Who.
    pub by: String,
    /// When.
    pub at: UnixMs,
}

/// How a stage went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// Its state.
    pub state: StageState,
    /// When it was entered.
    pub entered_at: Option<UnixMs>,
    /// When its soak ends or ended; moves when the release is paused.
    pub soak_ends_at: Option<UnixMs>,
    /// When it was left.
    pub left_at: Option<UnixMs>,
    /// What a person decided.
    pub decision: Option<StageDecision>,
}

impl StageRecord {
    /// A stage that has not been reached.
    pub const PENDING: Self = Self {
        state: StageState::Pending,
        entered_at: None,
        soak_ends_at: None,
        left_at: None,
        decision: None,
    };
}

impl Progress {
    /// The progress of a release that has just been created, with so many stages.
    #[must_use]
    pub fn staged(old_version: String, stages: usize) -> Self {
        Self {
            schema: SCHEMA,
            old_version,
            status: Status::Staged,
            stage: 0,
            stages: vec![StageRecord::PENDING; stages],
            version: 1,
            seq: 1,
            last_event: 0,
            act_due_at: None,
            check_due_at: None,
            acts: 0,
            seen: None,
            posted: None,
            unknown_until: 0,
            slow_above_ms: Vec::new(),
            before: Vec::new(),
            evidence: Evidence::default(),
            to_forget: BTreeSet::new(),
            would: Vec::new(),
            started_at: None,
            ended_at: None,
        }
    }
}

impl Status {
    /// The state without its data.
    #[must_use]
    pub fn state(&self) -> State {
        match self {
            Self::Staged => State::Staged,
            Self::Queued => State::Queued,
            Self::RollingOut { .. } | Self::Watching { .. } => State::RollingOut,
            Self::Paused { .. } => State::Paused,
            Self::AwaitingApproval { .. } => State::AwaitingApproval,
            Self::Reverting(_) => State::Reverting,
            Self::Succeeded => State::Succeeded,
            Self::Reverted(_) => State::Reverted,
            Self::Superseded(_) => State::Superseded,
            Self::Cancelled(_) => State::Cancelled,
        }
    }

    /// The state's name in the API.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.state().name()
    }

    /// The state's name in the database. Who only watches holds no Worker, so it must not be taken for one of those that do.
    #[must_use]
    pub fn stored_name(&self) -> &'static str {
        match self {
            Self::Watching { .. } => "watching",
            _ => self.name(),
        }
    }

    /// Why it ended or goes back, if it does either.
    #[must_use]
    pub fn ending(&self) -> Option<&Ending> {
        match self {
            Self::Reverting(revert) => Some(&revert.because),
            Self::Reverted(end) | Self::Superseded(end) | Self::Cancelled(end) => Some(end),
            _ => None,
        }
    }

    /// The deployment that is owed for going forward, if one is.
    #[must_use]
    pub fn deploying(&self) -> Option<&Deploying> {
        match self {
            Self::RollingOut {
                step: Step::Deploying(deploying),
            }
            | Self::Paused {
                step: Step::Deploying(deploying),
            } => Some(deploying),
            _ => None,
        }
    }

    /// The soak whose split is in force: wherever there is one, it is watched.
    #[must_use]
    pub fn soak(&self) -> Option<&Soak> {
        match self {
            Self::RollingOut { step } | Self::Paused { step } => match step {
                Step::Deploying(deploying) => deploying.watch.as_deref(),
                Step::Soaking(soak) => Some(soak),
            },
            Self::AwaitingApproval { soak, .. } | Self::Watching { soak } => Some(soak),
            _ => None,
        }
    }

    /// The same, to change it.
    pub fn soak_mut(&mut self) -> Option<&mut Soak> {
        match self {
            Self::RollingOut { step } | Self::Paused { step } => match step {
                Step::Deploying(deploying) => deploying.watch.as_deref_mut(),
                Step::Soaking(soak) => Some(soak),
            },
            Self::AwaitingApproval { soak, .. } | Self::Watching { soak } => Some(soak),
            _ => None,
        }
    }
}

/// A release that HMD drives. Only [`Release::driven`] makes one, and nothing is deployed without one, so a watched release
/// can't write to Cloudflare whatever else goes wrong.
#[derive(Clone, Copy, Debug)]
pub struct Driven<'a>(&'a Release);

impl<'a> Driven<'a> {
    /// The release.
    #[must_use]
    pub fn release(self) -> &'a Release {
        self.0
    }
}

impl Release {
    /// The id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.origin.id
    }

    /// The start of every marker of this release in Cloudflare's deployment messages.
    #[must_use]
    pub fn marker_prefix(&self) -> String {
        format!("hmd:{}/", self.origin.id)
    }

    /// The right to write to Cloudflare for this release: none if it only watches.
    #[must_use]
    pub fn driven(&self) -> Option<Driven<'_>> {
        self.origin.mode.is_deploy().then_some(Driven(self))
    }

    /// What a stage that waits for approval lacks, and an approval waives, in the words of the newest readings: what lacks data or a verdict, or what a judge holds.
    /// None if nothing is, or nobody is waited for.
    #[must_use]
    pub fn lacking(&self) -> Option<String> {
        let Status::AwaitingApproval { soak, wait } = &self.progress.status else {
            return None;
        };
        let mut said = Vec::new();
        for slo in &wait.lacking {
            let reading = soak.readings.iter().find(|reading| reading.slo == *slo);
            said.push(reading.map_or(slo.as_str(), |reading| reading.sentence.as_str()));
        }
        (!said.is_empty()).then(|| said.join("; "))
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.progress.ended_at.is_some()
    }
}
