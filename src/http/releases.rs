//! `/v1/releases`.

use std::collections::{BTreeMap, BTreeSet};

use ::http::{Request, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::body::json_body;
use super::problem::Problem;
use super::route::Verb;
use super::{Answer, json_answer};
use crate::cloudflare::{ApiError, ErrorKind, Urgency, reference_percentiles};
use crate::pipeline::Pipeline;
use crate::pipeline::ports::Ports;
use crate::release::{
    Command, Deployment, Input, MAX_TEXT, NewEvent, Origin, Plan, Progress, Refusal, Release,
    ReleaseView, SCHEMA, StageRecord, Status, WorkerRef, decide as decide_one,
};
use crate::store::{self, ReleaseFilter, Write};
use crate::time::{UnixMs, serialize_rfc3339};

/// The actor of whoever shows the API token.
const API: &str = "api";
/// The old version's percentiles are taken over this long before the start.
const REFERENCE_MS: i64 = 10 * 60_000;

#[derive(Deserialize)]
struct NewRelease {
    plan: String,
    new_version: String,
    #[serde(default)]
    old_version: Option<String>,
    #[serde(default = "yes")]
    start: bool,
    #[serde(default)]
    #[expect(
        dead_code,
        reason = "`reject` is the one way so far; others are refused by name"
    )]
    on_conflict: OnConflict,
    #[serde(default)]
    note: Option<String>,
    #[serde(default)]
    url: Option<String>,
}

fn yes() -> bool {
    true
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OnConflict {
    #[default]
    Reject,
}

/// `POST /v1/releases`.
pub async fn create<P: Ports>(pipeline: &Pipeline<'_, P>, request: &Request<Vec<u8>>) -> Answer {
    let body: NewRelease = json_body(request, &[])?;
    for (pointer, text) in [("/note", &body.note), ("/url", &body.url)] {
        if text
            .as_ref()
            .is_some_and(|text| text.chars().count() > MAX_TEXT)
        {
            return Err(Problem::field(
                pointer,
                format!("is longer than {MAX_TEXT} characters"),
            ));
        }
    }
    let Some(stored) = store::get_plan(pipeline.ports, &body.plan).await? else {
        return Err(Problem::field(
            "/plan",
            format!("there is no plan {:?}", body.plan),
        ));
    };
    let worker = &stored.plan.worker;
    if body.start
        && let Some(active) = store::has_active(pipeline.ports, worker).await?
    {
        return Err(held(worker, Some(&active)));
    }
    let serving = serving(pipeline, worker).await?;
    let new_version = deployable(pipeline, worker, &body, &serving.version).await?;
    let now = pipeline.ports.now();
    let release = Release {
        origin: Origin {
            schema: SCHEMA,
            id: format!("rel_{}", pipeline.ports.uuid().simple()),
            plan_name: stored.name,
            new_version,
            required_old_version: body.old_version,
            note: body.note,
            url: body.url,
            created_at: now,
            created_by: API.to_owned(),
            plan: stored.plan,
        },
        progress: Progress::default(),
    };
    let release = staged(release, &serving);
    let start = if body.start {
        Some(start(pipeline, &release, &serving).await?)
    } else {
        None
    };
    let Some(start) = start else {
        store::create(pipeline.ports, &release, None).await?;
        return created(&release);
    };
    let moment = pipeline.moment();
    let mut decision =
        decide_one(&release, &start, &moment).map_err(|refusal| refused(&refusal))?;
    decision.release.progress.seq = release.progress.seq + 1;
    let write = Write {
        decision: &decision,
        decision_id: pipeline.ports.uuid().simple().to_string(),
        at: moment.now,
    };
    // Row and start are one batch: a crash leaves both or neither, and the alarm in the row starts the work.
    if !store::create(pipeline.ports, &release, Some(&write)).await? {
        return Err(held(&release.origin.plan.worker, None));
    }
    pipeline.committed(&BTreeMap::new(), &[&decision]).await;
    created(&decision.release)
}

fn staged(mut release: Release, serving: &Serving) -> Release {
    release.progress = Progress {
        schema: SCHEMA,
        old_version: serving.version.clone(),
        status: Status::Staged,
        stages: vec![StageRecord::PENDING; release.origin.plan.stages.len()],
        version: 1,
        seq: 1,
        ..release.progress
    };
    release
}

fn created(release: &Release) -> Answer {
    let mut response = json_answer(StatusCode::CREATED, &ReleaseView::from(release))?;
    if let Ok(location) = format!("/v1/releases/{}", release.id()).parse() {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

fn held(worker: &WorkerRef, by: Option<&str>) -> Problem {
    let by = by.map(|id| format!(" ({id})")).unwrap_or_default();
    Problem::conflict(format!(
        "Worker {} already has an active release{by}; wait for its end or stop it first",
        worker.script_name
    ))
}

/// What serves a Worker's traffic now.
struct Serving {
    version: String,
    deployment: Deployment,
}

async fn serving<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    worker: &WorkerRef,
) -> Result<Serving, Problem> {
    let deployments = pipeline
        .cloudflare
        .deployments(worker, Urgency::Normal, None)
        .await
        .map_err(|error| unreadable(&error))?;
    let Some(deployment) = deployments.into_iter().max_by_key(|d| d.seen().created_us) else {
        return Err(Problem::conflict(format!(
            "Worker {} has no deployment yet; deploy it once with wrangler",
            worker.script_name
        )));
    };
    match deployment.sole_version().map(str::to_owned) {
        Some(version) => Ok(Serving {
            version,
            deployment,
        }),
        None => Err(Problem::conflict(format!(
            "the traffic of Worker {} is split already: {}; give one version 100 % first",
            worker.script_name,
            deployment.describe()
        ))),
    }
}

fn unreadable(error: &ApiError) -> Problem {
    match error.kind {
        ErrorKind::Refused { code: 10_007, .. } => Problem::field(
            "/plan",
            format!("its Worker can't be released: {}", error.detail),
        ),
        ErrorKind::Throttled { retry_after_ms } => {
            Problem::unavailable(error.detail.clone(), retry_after_ms / 1_000)
        }
        _ => Problem::unavailable(format!("nothing was created: {}", error.detail), 5),
    }
}

/// The version to release, if it and the old one can be deployed.
async fn deployable<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    worker: &WorkerRef,
    body: &NewRelease,
    old_version: &str,
) -> Result<String, Problem> {
    if let Some(required) = &body.old_version
        && required != old_version
    {
        return Err(Problem::conflict(format!(
            "version {old_version} serves all traffic now, not old_version {required}"
        )));
    }
    let versions = pipeline
        .cloudflare
        .deployable_versions(worker)
        .await
        .map_err(|error| unreadable(&error))?;
    let new_version = if body.new_version == "latest" {
        let latest = versions.iter().max_by_key(|version| version.number);
        latest.map(|version| version.id.clone()).unwrap_or_default()
    } else {
        body.new_version.clone()
    };
    let exists = |id: &str| versions.iter().any(|version| version.id == id);
    if !exists(&new_version) {
        return Err(Problem::field(
            "/new_version",
            format!(
                "version {new_version:?} of {} can't be deployed: it does not exist, or is not among the newest 100",
                worker.script_name
            ),
        ));
    }
    if !exists(old_version) {
        return Err(Problem::field(
            "/old_version",
            format!(
                "version {old_version} serves now, but is no longer among the newest 100: the release could not go back to it"
            ),
        ));
    }
    if new_version == old_version {
        return Err(Problem::field(
            "/new_version",
            format!("version {new_version} serves all traffic already"),
        ));
    }
    Ok(new_version)
}

async fn start<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    release: &Release,
    serving: &Serving,
) -> Result<Input, Problem> {
    let (plan, now): (&Plan, UnixMs) = (&release.origin.plan, pipeline.ports.now());
    let until = now - pipeline.config.telemetry_lag_ms;
    let slow_above_ms = reference_percentiles(
        &pipeline.cloudflare,
        (&plan.worker, &serving.version),
        (until - REFERENCE_MS, until),
        &plan.slos,
    )
    .await
    .map_err(|error| unreadable(&error))?;
    Ok(Input::Command {
        actor: API.to_owned(),
        command: Command::Start {
            seen: serving.deployment.seen(),
            old_version: serving.version.clone(),
            slow_above_ms,
        },
    })
}

async fn load<P: Ports>(pipeline: &Pipeline<'_, P>, id: &str) -> Result<Release, Problem> {
    let rows = store::load(pipeline.ports, &BTreeSet::from([id.to_owned()])).await?;
    rows.into_values()
        .next()
        .ok_or_else(|| Problem::new(404, "Not found", format!("there is no release {id:?}")))
}

/// `GET /v1/releases/{id}`.
pub async fn get<P: Ports>(pipeline: &Pipeline<'_, P>, id: &str) -> Answer {
    json_answer(
        StatusCode::OK,
        &ReleaseView::from(&load(pipeline, id).await?),
    )
}

#[derive(Serialize)]
struct EventView<'a> {
    sequence: u64,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(serialize_with = "serialize_rfc3339")]
    at: UnixMs,
    actor: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Value>,
}

impl<'a> From<&'a NewEvent> for EventView<'a> {
    fn from(event: &'a NewEvent) -> Self {
        Self {
            sequence: event.sequence,
            kind: &event.kind,
            at: event.at,
            actor: &event.actor,
            stage: event.stage,
            reason: event.reason.as_deref(),
            detail: event.detail.as_deref(),
            data: event.data.as_ref(),
        }
    }
}

/// `GET /v1/releases/{id}/events`.
pub async fn events<P: Ports>(pipeline: &Pipeline<'_, P>, id: &str) -> Answer {
    load(pipeline, id).await?;
    let events = store::events(pipeline.ports, id).await?;
    let items: Vec<EventView<'_>> = events.iter().map(EventView::from).collect();
    json_answer(
        StatusCode::OK,
        &json!({"items": items, "next_cursor": null}),
    )
}

/// `GET /v1/releases`.
pub async fn list<P: Ports>(pipeline: &Pipeline<'_, P>, request: &Request<Vec<u8>>) -> Answer {
    let mut filter = ReleaseFilter {
        limit: 50,
        ..ReleaseFilter::default()
    };
    let bad = |name: &str, expected: &str| {
        Problem::new(400, "Invalid query", format!("{name} must be {expected}"))
    };
    for (name, value) in form_urlencoded::parse(request.uri().query().unwrap_or("").as_bytes()) {
        match name.as_ref() {
            "worker" => filter.worker = value.into_owned(),
            "plan" => filter.plan = value.into_owned(),
            "state" => filter.state = value.into_owned(),
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=100).contains(limit));
                filter.limit = limit.ok_or_else(|| bad("limit", "a number from 1 to 100"))?;
            }
            "cursor" => {
                let cursor = read_cursor(&value)
                    .ok_or_else(|| bad("cursor", "a next_cursor of an earlier answer"))?;
                filter.before = Some(cursor);
            }
            other => return Err(bad(other, "left out: it is not a parameter here")),
        }
    }
    let wanted = filter.limit;
    // One more than wanted tells whether there is a next page.
    filter.limit += 1;
    let mut releases = store::list(pipeline.ports, &filter).await?;
    let more = i64::try_from(releases.len()).is_ok_and(|found| found > wanted);
    if more {
        releases.pop();
    }
    let last = releases.last().filter(|_| more);
    let next_cursor = last.map(|release| {
        URL_SAFE_NO_PAD.encode(format!("{},{}", release.origin.created_at, release.id()))
    });
    let items: Vec<ReleaseView<'_>> = releases.iter().map(ReleaseView::from).collect();
    json_answer(
        StatusCode::OK,
        &json!({"items": items, "next_cursor": next_cursor}),
    )
}

fn read_cursor(cursor: &str) -> Option<(UnixMs, String)> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    let (at, id) = text.split_once(',')?;
    Some((at.parse().ok()?, id.to_owned()))
}

fn refused(refusal: &Refusal) -> Problem {
    match refusal {
        Refusal::Conflict(detail) => Problem::conflict(detail.clone()),
        Refusal::Already | Refusal::Stale => {
            Problem::conflict("the release has changed in the meantime; try again")
        }
    }
}

/// `POST /v1/releases/{id}/start`, `stop` and so on.
pub async fn command<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    id: &str,
    verb: Verb,
    request: &Request<Vec<u8>>,
) -> Answer {
    if !request.body().is_empty() {
        let _: Nothing = json_body(request, &[])?;
    }
    let release = load(pipeline, id).await?;
    let command = match verb {
        Verb::Start => return start_staged(pipeline, release).await,
        Verb::Stop => Command::Stop,
        Verb::Pause => Command::Pause,
        Verb::Resume => Command::Resume,
        Verb::Promote => Command::Promote,
        Verb::Abandon => Command::Abandon,
    };
    let input = Input::Command {
        actor: API.to_owned(),
        command,
    };
    carry_out(pipeline, release, input).await
}

#[derive(Deserialize)]
struct Nothing {}

async fn start_staged<P: Ports>(pipeline: &Pipeline<'_, P>, release: Release) -> Answer {
    if release.progress.status != Status::Staged {
        let detail = format!(
            "release {} is {}; only a staged one can be started",
            release.id(),
            release.progress.status.name()
        );
        return Err(Problem::conflict(detail));
    }
    let worker = release.origin.plan.worker.clone();
    if let Some(active) = store::has_active(pipeline.ports, &worker).await? {
        return Err(held(&worker, Some(&active)));
    }
    let serving = serving(pipeline, &worker).await?;
    if let Some(required) = &release.origin.required_old_version
        && *required != serving.version
    {
        return Err(Problem::conflict(format!(
            "version {} serves all traffic now, not old_version {required}",
            serving.version
        )));
    }
    if release.origin.new_version == serving.version {
        return Err(Problem::field(
            "/new_version",
            format!("version {} serves all traffic already", serving.version),
        ));
    }
    let input = start(pipeline, &release, &serving).await?;
    carry_out(pipeline, release, input).await
}

#[derive(Deserialize, Default)]
struct DecisionBody {
    #[serde(default)]
    by: Option<String>,
    #[serde(default)]
    comment: Option<String>,
}

/// `POST /v1/releases/{id}/stages/{n}/approve` and `deny`.
pub async fn decide<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    id: &str,
    (stage, approve): (usize, bool),
    request: &Request<Vec<u8>>,
) -> Answer {
    let body: DecisionBody = if request.body().is_empty() {
        DecisionBody::default()
    } else {
        json_body(request, &[])?
    };
    for (pointer, text) in [("/by", &body.by), ("/comment", &body.comment)] {
        if text
            .as_ref()
            .is_some_and(|text| text.chars().count() > MAX_TEXT)
        {
            return Err(Problem::field(
                pointer,
                format!("is longer than {MAX_TEXT} characters"),
            ));
        }
    }
    let release = load(pipeline, id).await?;
    if stage == 0 || stage > release.progress.stages.len() {
        let detail = format!(
            "release {id} has stages 1 to {}",
            release.progress.stages.len()
        );
        return Err(Problem::new(404, "Not found", detail));
    }
    let comment = body.comment;
    let input = Input::Command {
        actor: body
            .by
            .map_or_else(|| API.to_owned(), |by| format!("{API}:{by}")),
        command: if approve {
            Command::Approve { stage, comment }
        } else {
            Command::Deny { stage, comment }
        },
    };
    carry_out(pipeline, release, input).await
}

/// Commits a command and answers the release as it then is. What the command owes Cloudflare is done by the message that
/// the commit sends, so the answer does not wait for it.
async fn carry_out<P: Ports>(pipeline: &Pipeline<'_, P>, release: Release, input: Input) -> Answer {
    let id = release.id().to_owned();
    let worker = release.origin.plan.worker.clone();
    let starts = matches!(
        &input,
        Input::Command {
            command: Command::Start { .. },
            ..
        }
    );
    let rows = BTreeMap::from([(id.clone(), release)]);
    let settled = match pipeline
        .settle(rows, BTreeMap::from([(id.clone(), vec![input])]))
        .await
    {
        // The row itself has not moved, so it was the Worker that the start could not win.
        Err(store::StoreError::Contended(_)) if starts => return Err(held(&worker, None)),
        other => other?,
    };
    let Some(settled) = settled.first() else {
        return Err(Problem::new(
            404,
            "Not found",
            format!("there is no release {id:?}"),
        ));
    };
    match settled.fates.first() {
        Some(Ok(()) | Err(Refusal::Already)) => {
            json_answer(StatusCode::OK, &ReleaseView::from(&settled.release))
        }
        Some(Err(refusal)) => Err(refused(refusal)),
        None => Err(Problem::internal(&"the command was not decided")),
    }
}
