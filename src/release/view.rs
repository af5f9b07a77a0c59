//! A release as the API shows it.

use serde::Serialize;

use super::names::{Action, Mode, Reason, StageState, State};
use super::plan::{Percent, WorkerRef};
use super::preflight::Check;
use super::state::{Release, Status, Would};
use crate::slo::Reading;
use crate::time::Rfc3339;

/// A release: what it is for, where it stands, and how each stage of its plan went.
#[derive(Debug, Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "Release"))]
pub struct ReleaseView<'a> {
    /// `rel_` and a time-ordered UUID.
    id: &'a str,
    /// Name of the plan that it took a snapshot of.
    plan: &'a str,
    /// The Worker.
    worker: &'a WorkerRef,
    /// Whether HMD deploys it or only watches what others deploy.
    mode: Mode,
    /// Where it stands.
    state: State,
    /// Why it ended or goes back; null otherwise, and of one that succeeded.
    reason: Option<Reason>,
    /// The same for people.
    detail: Option<&'a str>,
    /// The version that served all traffic at the start; of one that has not started, the version that serves now, or null
    /// if that is not known.
    old_version: Option<&'a str>,
    /// The version that it rolls out.
    new_version: &'a str,
    /// The present stage, from 1.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(range(min = 1)))]
    stage: usize,
    /// Counts transitions.
    version: u32,
    /// Rises with every decision; the ETag.
    revision: u64,
    /// How each stage of the plan went.
    stages: Vec<StageView<'a>>,
    /// The newest verdict of each SLO in the present stage; empty as long as no window has been judged.
    slis: &'a [Reading],
    /// Of a release that only watches: what serves, and what HMD would have done; null for others.
    watch: Option<WatchView<'a>>,
    /// The words that it was created with.
    note: Option<&'a str>,
    /// The link that it was created with.
    url: Option<&'a str>,
    /// The checks before its creation that did not pass; empty if all did.
    preflight: &'a [Check],
    /// When it was created.
    created_at: Rfc3339,
    /// When it started.
    started_at: Option<Rfc3339>,
    /// When it ended.
    ended_at: Option<Rfc3339>,
}

/// What a release that only watches has seen.
#[derive(Debug, Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "ReleaseWatch"))]
struct WatchView<'a> {
    /// The new version's share that somebody gave it; 0 while the old version serves alone, null before the start and after the
    /// end.
    percent: Option<Percent>,
    /// Since when.
    since: Option<Rfc3339>,
    /// The newest deployment that was seen, by Cloudflare's id.
    deployment_id: Option<&'a str>,
    /// What HMD would have done, oldest first; what is beyond the first twenty is in the events alone.
    would: Vec<WouldView<'a>>,
}

/// What HMD would have done with a split that it only watched.
#[derive(Debug, Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "WouldHave"))]
pub struct WouldView<'a> {
    /// What.
    action: Action,
    /// When.
    at: Rfc3339,
    /// The new version's share that was in force.
    percent: Percent,
    /// The new version's share afterwards; null if that would have waited for a person.
    to: Option<Percent>,
    /// Why, for people.
    detail: &'a str,
}

impl<'a> From<&'a Would> for WouldView<'a> {
    fn from(would: &'a Would) -> Self {
        Self {
            action: would.action,
            at: Rfc3339(would.at),
            percent: would.percent,
            to: would.to,
            detail: &would.detail,
        }
    }
}

impl<'a> WatchView<'a> {
    fn of(release: &'a Release) -> Option<Self> {
        if release.origin.mode == Mode::Deploy {
            return None;
        }
        let progress = &release.progress;
        let soak = match &progress.status {
            Status::Watching { soak } => Some(soak),
            _ => None,
        };
        let seen = progress.seen.as_ref();
        Some(Self {
            percent: soak.map(|soak| soak.percent),
            since: soak.map(|soak| Rfc3339(soak.started_at)),
            deployment_id: seen.map(|seen| seen.deployment_id.as_str()),
            would: progress.would.iter().map(WouldView::from).collect(),
        })
    }
}

/// How a stage of a release went.
#[derive(Debug, Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "ReleaseStage"))]
struct StageView<'a> {
    /// The new version's share of traffic.
    percent: Percent,
    /// Where it stands.
    state: StageState,
    /// The plan's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    /// When it was entered.
    #[serde(skip_serializing_if = "Option::is_none")]
    entered_at: Option<Rfc3339>,
    /// When its soak ends or ended; absent while the release is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    soak_ends_at: Option<Rfc3339>,
    /// When it was left.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_at: Option<Rfc3339>,
}

impl<'a> From<&'a Release> for ReleaseView<'a> {
    fn from(release: &'a Release) -> Self {
        let (origin, progress) = (&release.origin, &release.progress);
        let ending = progress.status.ending();
        let stages = origin.plan.stages.iter().zip(&progress.stages);
        Self {
            id: &origin.id,
            plan: &origin.plan_name,
            worker: &origin.plan.worker,
            mode: origin.mode,
            state: progress.status.state(),
            reason: ending.map(|end| end.reason),
            detail: ending.and_then(|end| end.detail.as_deref()),
            old_version: Some(progress.old_version.as_str()).filter(|version| !version.is_empty()),
            new_version: &origin.new_version,
            stage: progress.stage + 1,
            version: progress.version,
            revision: progress.seq,
            stages: stages
                .map(|(stage, record)| StageView {
                    percent: stage.percent,
                    state: record.state,
                    description: stage.description.as_deref(),
                    entered_at: record.entered_at.map(Rfc3339),
                    soak_ends_at: record.soak_ends_at.map(Rfc3339),
                    left_at: record.left_at.map(Rfc3339),
                })
                .collect(),
            slis: progress.status.soak().map_or(&[], |soak| &soak.readings),
            watch: WatchView::of(release),
            note: origin.note.as_deref(),
            url: origin.url.as_deref(),
            preflight: &origin.preflight.checks,
            created_at: Rfc3339(origin.created_at),
            started_at: progress.started_at.map(Rfc3339),
            ended_at: progress.ended_at.map(Rfc3339),
        }
    }
}
