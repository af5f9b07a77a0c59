//! `POST /v1/releases/preflight`: the checks of `POST /v1/releases` alone.

use ::http::{Request, StatusCode};
use futures_util::future::join;
use serde::Serialize;

use super::super::body::json_body;
use super::super::problem::Problem;
use super::super::{Answer, json_answer};
use super::create::{NewRelease, OnConflict};
use super::{not_ready, short_texts};
use crate::pipeline::ports::Ports;
use crate::pipeline::{self, NotReady, Pipeline};
use crate::release::{Check, Findings, Holder, Mode, WorkerRef};
use crate::store;

/// What stands before a release.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "Preflight"))]
pub struct PreflightView<'a> {
    /// Nothing failed but what `accept` names.
    ok: bool,
    /// Name of the plan.
    plan: &'a str,
    /// The Worker.
    worker: &'a WorkerRef,
    /// The version that serves all traffic now, or for `watch` the one that the new version would be compared with; null if there
    /// is none, or it is not known.
    old_version: Option<&'a str>,
    /// The version that would be released, `latest` resolved; null if it can't be deployed, or that is not known.
    new_version: Option<&'a str>,
    /// Each check, in order.
    checks: &'a [Check],
}

/// `POST /v1/releases/preflight`: the checks of `POST /v1/releases`, without any effect.
pub async fn preflight<P: Ports>(pipeline: &Pipeline<'_, P>, request: &Request<Vec<u8>>) -> Answer {
    let body: NewRelease = json_body(request, &[])?;
    short_texts(&[("/note", &body.note), ("/url", &body.url)])?;
    let Some(mut stored) = store::get_plan(pipeline.ports, &body.plan).await? else {
        return Err(Problem::not_found(format!(
            "there is no plan {:?}",
            body.plan
        )));
    };
    let worker = stored.plan.worker.clone();
    let worker = &worker;
    body.check_mode()?;
    let holder = match body.mode {
        Mode::Deploy => holder(
            store::has_active(pipeline.ports, worker).await?.as_deref(),
            &body,
        ),
        Mode::Watch => None,
    };
    let last_seen = store::last_seen(pipeline.ports, worker).await?;
    let (mut survey, queries) = join(
        pipeline.survey(worker, (&body.new_version, body.mode)),
        pipeline.snapshot_queries(&mut stored.plan),
    )
    .await;
    if let Some(error) = survey.unreadable() {
        let seconds = (error.retry_after_ms() / 1_000).max(5);
        return Err(Problem::unavailable(error.detail.clone(), seconds));
    }
    match queries {
        // The check of the token says so.
        Ok(()) | Err(NotReady::Denied(_)) => (),
        Err(refused) => return Err(not_ready(refused)),
    }
    pipeline.try_queries(&stored.plan, &mut survey).await;
    let asked = pipeline::Request {
        plan: &stored.plan,
        mode: body.mode,
        wanted: survey.meant(&body.new_version, body.mode),
        required_old: body.old_version.as_deref(),
    };
    let checks = survey.checks(asked, holder.as_ref(), last_seen.as_ref());
    let findings = Findings::of(checks.clone(), &body.accept);
    let view = PreflightView {
        ok: findings.failed().next().is_none(),
        plan: &stored.name,
        worker,
        old_version: survey.compared_with(asked),
        new_version: survey.new_version(asked),
        checks: &checks,
    };
    json_answer(StatusCode::OK, &view)
}

/// The release that holds the Worker, as it concerns one that is to be created.
pub(super) fn holder(active: Option<&str>, body: &NewRelease) -> Option<Holder> {
    let waits = !body.start || body.on_conflict != OnConflict::Reject;
    active.map(|id| Holder {
        id: id.to_owned(),
        waits,
    })
}
