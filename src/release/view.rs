//! A release as the API shows it.

use serde::Serialize;

use super::plan::{Percent, WorkerRef};
use super::state::{Release, StageState};
use crate::slo::Reading;
use crate::time::{UnixMs, serialize_rfc3339, serialize_rfc3339_option};

/// The JSON of `GET /v1/releases/{id}`.
#[derive(Debug, Serialize)]
pub struct ReleaseView<'a> {
    id: &'a str,
    plan: &'a str,
    worker: &'a WorkerRef,
    state: &'static str,
    reason: Option<&'static str>,
    detail: Option<&'a str>,
    old_version: Option<&'a str>,
    new_version: &'a str,
    /// From 1.
    stage: usize,
    version: u32,
    revision: u64,
    stages: Vec<StageView<'a>>,
    /// The newest verdict of each SLO in the present stage.
    slis: &'a [Reading],
    note: Option<&'a str>,
    url: Option<&'a str>,
    #[serde(serialize_with = "serialize_rfc3339")]
    created_at: UnixMs,
    #[serde(serialize_with = "serialize_rfc3339_option")]
    started_at: Option<UnixMs>,
    #[serde(serialize_with = "serialize_rfc3339_option")]
    ended_at: Option<UnixMs>,
}

#[derive(Debug, Serialize)]
struct StageView<'a> {
    percent: Percent,
    state: StageState,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_rfc3339_option"
    )]
    entered_at: Option<UnixMs>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_rfc3339_option"
    )]
    soak_ends_at: Option<UnixMs>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_rfc3339_option"
    )]
    left_at: Option<UnixMs>,
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
            state: progress.status.name(),
            reason: ending.map(|end| end.reason.name()),
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
                    entered_at: record.entered_at,
                    soak_ends_at: record.soak_ends_at,
                    left_at: record.left_at,
                })
                .collect(),
            slis: progress.status.soak().map_or(&[], |soak| &soak.readings),
            note: origin.note.as_deref(),
            url: origin.url.as_deref(),
            created_at: origin.created_at,
            started_at: progress.started_at,
            ended_at: progress.ended_at,
        }
    }
}
