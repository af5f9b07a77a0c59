//! `POST /v1/releases`.

use std::collections::{BTreeMap, BTreeSet};

use ::http::{Request, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::json;

use super::super::body::json_body;
use super::super::problem::Problem;
use super::super::{Answer, json_answer};
use super::preflight::holder;
use super::{API, held, not_ready, short_texts};
use crate::pipeline::message::{Message, MessageKind};
use crate::pipeline::ports::Ports;
use crate::pipeline::{self, Ground, Pipeline, Survey};
use crate::release::{
    Acceptable, Decision, Findings, Input, Origin, Progress, Refusal, Release, ReleaseView, SCHEMA,
    Status, decide,
};
use crate::store::{self, Idempotency, StoreError, StoredPlan, Write};
use crate::time::UnixMs;

/// The body of `POST /v1/releases`.
#[derive(Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
pub struct NewRelease {
    /// Name of the plan.
    pub(super) plan: String,
    /// Id of the version to release, or `latest`: the newest that can be deployed when the release is created.
    pub(super) new_version: String,
    /// The version that must serve all traffic when the release starts; whatever serves it if absent.
    #[serde(default)]
    pub(super) old_version: Option<String>,
    /// Start at once; `false` leaves it `staged` for a later `start`.
    #[serde(default = "yes")]
    pub(super) start: bool,
    /// What happens if the Worker has an active release.
    #[serde(default)]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(extend("default" = "reject")))]
    pub(super) on_conflict: OnConflict,
    /// For people: what is new.
    #[serde(default)]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(length(max = crate::release::MAX_TEXT)))]
    pub(super) note: Option<String>,
    /// A link for people, such as to a CI run or a ticket.
    #[serde(default)]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(length(max = crate::release::MAX_TEXT)))]
    pub(super) url: Option<String>,
    /// Checks of the preflight that may fail.
    #[serde(default)]
    pub(super) accept: BTreeSet<Acceptable>,
}

fn yes() -> bool {
    true
}

/// What happens if the Worker has an active release.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// Answer 409.
    #[default]
    Reject,
    /// Wait for its end.
    Queue,
    /// Send it back, and start when that is done.
    Supersede,
}

/// Longest idempotency key.
const MAX_KEY: usize = 255;

/// `POST /v1/releases`.
pub async fn create<P: Ports>(pipeline: &Pipeline<'_, P>, request: &Request<Vec<u8>>) -> Answer {
    let key = idempotency_key(request)?;
    let raw = String::from_utf8_lossy(request.body()).into_owned();
    if let Some(key) = &key
        && let Some(answer) = repeated(pipeline, key, &raw).await?
    {
        return Ok(answer);
    }
    let made = make(pipeline, request, key.as_deref(), &raw).await;
    // If the same request came twice at once, it is the other one's success that stood in the way of this one, be it that
    // it holds the Worker, that it splits the traffic already, or that it has used the key.
    if let (Err(_), Some(key)) = (&made, &key)
        && let Some(answer) = repeated(pipeline, key, &raw).await?
    {
        return Ok(answer);
    }
    made
}

/// Makes the release, and remembers the answer under the key.
async fn make<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    request: &Request<Vec<u8>>,
    key: Option<&str>,
    raw: &str,
) -> Answer {
    let body: NewRelease = json_body(request, &[])?;
    short_texts(&[("/note", &body.note), ("/url", &body.url)])?;
    let Some(stored) = store::get_plan(pipeline.ports, &body.plan).await? else {
        return Err(Problem::field(
            "/plan",
            format!("there is no plan {:?}", body.plan),
        ));
    };
    let worker = stored.plan.worker.clone();
    let active = store::has_active(pipeline.ports, &worker).await?;
    if body.start
        && body.on_conflict == OnConflict::Reject
        && let Some(active) = &active
    {
        return Err(held(&worker, Some(active)));
    }
    let survey = pipeline.survey(&worker, &body.new_version).await;
    let (start, on_conflict) = (body.start, body.on_conflict);
    let now = pipeline.ports.now();
    let id = format!("rel_{}", pipeline.ports.uuid().simple());
    let mut release = staged((id, now), body, stored, &survey, active.as_deref())?;
    let memory = |release: &Release| -> Result<Option<Idempotency>, Problem> {
        let Some(key) = key else {
            return Ok(None);
        };
        let answer = serde_json::to_string(&ReleaseView::from(release))
            .map_err(|error| Problem::internal(&error))?;
        Ok(Some(Idempotency {
            key: key.to_owned(),
            body: raw.to_owned(),
            answer,
        }))
    };
    // Whoever is willing to wait does not overtake those who wait already; the queue starts it at once if nobody does.
    let line = match on_conflict {
        OnConflict::Reject => Vec::new(),
        _ => store::contenders(pipeline.ports, &worker, release.id()).await?,
    };
    let decision = if start && active.is_none() && line.is_empty() {
        Some(started(pipeline, &release, &survey.ground).await?)
    } else {
        None
    };
    // Only now: what the contract has always refused is refused as always.
    let blocking = release.origin.preflight.blocking();
    if !blocking.is_empty() {
        return Err(Problem::preflight(blocking));
    }
    if let Some(decision) = decision {
        let write = Write {
            decision: &decision,
            decision_id: pipeline.ports.uuid().simple().to_string(),
            at: pipeline.ports.now(),
        };
        let memory = memory(&decision.release)?;
        // Row and start are one batch: a crash leaves both or neither, and the alarm in the row starts the work.
        if store::create(pipeline.ports, &release, Some(&write), memory.as_ref()).await? {
            pipeline.committed(&BTreeMap::new(), &[&decision]).await;
            return created(&decision.release);
        }
        // Lost: to the same request sent twice, or to another release that has just started.
        if on_conflict == OnConflict::Reject {
            return Err(held(&worker, None));
        }
    }
    if start {
        release.progress.status = Status::Queued;
        release.progress.act_due_at = Some(now);
    } else {
        // Only to be shown; what counts is what serves at the start.
        let sole = survey.old_version().unwrap_or_default();
        sole.clone_into(&mut release.progress.old_version);
    }
    let memory = memory(&release)?;
    if !store::create(pipeline.ports, &release, None, memory.as_ref()).await? {
        return Err(Problem::conflict("this Idempotency-Key has just been used"));
    }
    if release.progress.status == Status::Queued
        && let Err(error) = wait_in_line(pipeline, &release).await
    {
        // It exists, so this is no failure of the request: its alarm stands, and the sweep does what was left.
        let detail = format!("a queued release waits for the sweep: {error}");
        let id = release.id();
        pipeline
            .ports
            .log(&json!({"log": "alert", "release": id, "detail": detail}));
    }
    created(&release)
}

/// The release as it is before anything happens to it, with what its preflight found.
fn staged(
    (id, now): (String, UnixMs),
    body: NewRelease,
    stored: StoredPlan,
    survey: &Survey,
    active: Option<&str>,
) -> Result<Release, Problem> {
    let new_version = survey
        .ground
        .resolve_version(&stored.plan.worker, &body.new_version)
        .map_err(not_ready)?;
    let asked = pipeline::Request {
        plan: &stored.plan,
        wanted: &new_version,
        required_old: body.old_version.as_deref(),
    };
    let holder = holder(active, &body);
    let findings = Findings::of(survey.checks(asked, holder.as_ref(), None), &body.accept);
    let stages = stored.plan.stages.len();
    Ok(Release {
        origin: Origin {
            schema: SCHEMA,
            id,
            plan_name: stored.name,
            new_version,
            required_old_version: body.old_version,
            supersedes: body.on_conflict == OnConflict::Supersede,
            note: body.note,
            url: body.url,
            created_at: now,
            created_by: API.to_owned(),
            plan: stored.plan,
            preflight: findings,
        },
        progress: Progress::staged(String::new(), stages),
    })
}

/// The decision to start a release that does not exist yet, at the sequence after its first.
async fn started<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    release: &Release,
    ground: &Ground,
) -> Result<Decision, Problem> {
    let command = pipeline
        .start_from(release, ground)
        .await
        .map_err(not_ready)?;
    let input = Input::Command {
        actor: API.to_owned(),
        command,
    };
    let mut decision =
        decide(release, &input, &pipeline.moment()).map_err(|refusal| match refusal {
            Refusal::Conflict(detail) => Problem::conflict(detail),
            _ => Problem::conflict("the release can't be started"),
        })?;
    decision.release.progress.seq = release.progress.seq + 1;
    Ok(decision)
}

/// A release has been queued: send away whom it supersedes, and ask once whether its turn has come already, for the Worker
/// may have become free in the meantime. If this is lost, the sweep asks.
async fn wait_in_line<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    release: &Release,
) -> Result<(), StoreError> {
    if release.origin.supersedes {
        let worker = &release.origin.plan.worker;
        let others = store::contenders(pipeline.ports, worker, release.id()).await?;
        pipeline.clear_the_way(release, &others).await?;
    }
    let due_at = release.progress.act_due_at.unwrap_or_default();
    let message = Message::new(MessageKind::Transition, release.id(), due_at);
    pipeline.send(&[message]).await;
    Ok(())
}

fn idempotency_key(request: &Request<Vec<u8>>) -> Result<Option<String>, Problem> {
    let Some(value) = request.headers().get("idempotency-key") else {
        return Ok(None);
    };
    let key = value.to_str().unwrap_or_default().trim();
    if (1..=MAX_KEY).contains(&key.len()) {
        return Ok(Some(key.to_owned()));
    }
    let detail = format!("Idempotency-Key must have 1 to {MAX_KEY} printable ASCII characters");
    Err(Problem::new(400, "Invalid header", detail))
}

/// The first answer to the same request, if the key has been used.
async fn repeated<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    key: &str,
    body: &str,
) -> Result<Option<Response<Vec<u8>>>, Problem> {
    let Some((first, answer)) = store::remembered(pipeline.ports, key).await? else {
        return Ok(None);
    };
    if first != body {
        let detail = "this Idempotency-Key was used with another body; use a fresh one";
        return Err(Problem::conflict(detail));
    }
    let answer: serde_json::Value =
        serde_json::from_str(&answer).map_err(|error| Problem::internal(&error))?;
    let mut response = json_answer(StatusCode::CREATED, &answer)?;
    locate(&mut response, answer["id"].as_str().unwrap_or_default());
    Ok(Some(response))
}

fn created(release: &Release) -> Answer {
    let mut response = json_answer(StatusCode::CREATED, &ReleaseView::from(release))?;
    locate(&mut response, release.id());
    Ok(response)
}

fn locate(response: &mut Response<Vec<u8>>, id: &str) {
    if let Ok(location) = format!("/v1/releases/{id}").parse() {
        response.headers_mut().insert(header::LOCATION, location);
    }
}
