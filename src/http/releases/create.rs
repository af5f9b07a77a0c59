//! `POST /v1/releases`.

use std::collections::BTreeSet;
use std::sync::Arc;

use ::http::{Request, Response, StatusCode, header};
use futures_util::future::join;
use serde::Deserialize;
use serde_json::json;

use super::super::body::json_body;
use super::super::problem::Problem;
use super::super::{Answer, json_answer};
use super::preflight::holder;
use super::{actor, held, not_ready, short_texts};
use crate::http::body::{json_value, parse};
use crate::http::headers;
use crate::json;
use crate::pipeline::message::{Message, MessageKind};
use crate::pipeline::ports::Ports;
use crate::pipeline::{self, Ground, Pipeline, Survey};
use crate::release::{
    Acceptable, Decision, Findings, Input, Mode, NEWEST_SCHEMA, Origin, Progress, Refusal, Release,
    ReleaseView, SCHEMA, Status, decide,
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
    /// `watch`: HMD only watches the splits that others make, and says what it would have done.
    #[serde(default)]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(extend("default" = "deploy")))]
    pub(super) mode: Mode,
    /// What happens if the Worker has an active release. One that only watches stands in nobody's way: for it there is only
    /// `reject`, which it never is.
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

impl NewRelease {
    /// What is asked for must make sense for the mode.
    pub(super) fn check_mode(&self) -> Result<(), Problem> {
        if self.mode == Mode::Watch && self.on_conflict != OnConflict::Reject {
            let detail = "a release that only watches is in nobody's way and waits for nobody: leave it out with mode \"watch\"";
            return Err(Problem::field("/on_conflict", detail));
        }
        Ok(())
    }
}

/// The body of `POST /hooks/{plan}`: that of `POST /v1/releases` without the plan.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Debug)]
pub struct HookRelease;

#[cfg(not(target_arch = "wasm32"))]
impl schemars::JsonSchema for HookRelease {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HookRelease".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut schema = NewRelease::json_schema(generator);
        schema.insert(
            "description".to_owned(),
            json!("The body of a message to the hook of a plan."),
        );
        if let Some(fields) = schema
            .get_mut("properties")
            .and_then(|it| it.as_object_mut())
        {
            fields.remove("plan");
        }
        if let Some(required) = schema.get_mut("required").and_then(|it| it.as_array_mut()) {
            required.retain(|name| name != "plan");
        }
        schema
    }
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

pub(crate) const KEY_OF_ANOTHER: &str =
    "this Idempotency-Key or webhook-id was used with another body; use a fresh one";
const KEY_USED: &str = "this Idempotency-Key has just been used";
/// Longest idempotency key.
const MAX_KEY: usize = 255;

/// Who asks for a release, and how a repeated request is known.
struct Sender {
    /// As events name them.
    actor: String,
    /// By which a repeated request is known.
    key: Option<String>,
    /// A repeated request gets a refusal again, too; else it is tried anew.
    refusals_stay: bool,
    /// The request's body: with another one, the same key is a mistake.
    raw: String,
}

/// `POST /v1/releases`.
pub async fn create<P: Ports>(pipeline: &Pipeline<'_, P>, request: &Request<Vec<u8>>) -> Answer {
    let sender = Sender {
        actor: actor(request).to_owned(),
        key: idempotency_key(request)?,
        refusals_stay: false,
        raw: String::from_utf8_lossy(request.body()).into_owned(),
    };
    submit(pipeline, &sender, || json_body(request, &[])).await
}

/// What a believed message to the hook of a plan asks for: the same as `POST /v1/releases`, once for each message id.
pub async fn create_by_hook<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    (plan, message): (&str, &str),
    request: &Request<Vec<u8>>,
) -> Answer {
    let sender = Sender {
        actor: format!("hook:{plan}"),
        // No header can hold a line break, so no caller of the API can have chosen this key.
        key: Some(format!("hook\n{plan}\n{message}")),
        refusals_stay: true,
        raw: String::from_utf8_lossy(request.body()).into_owned(),
    };
    submit(pipeline, &sender, || hook_body(plan, request)).await
}

/// The body of a hook: that of `POST /v1/releases` but for the plan, which the address names.
fn hook_body(plan: &str, request: &Request<Vec<u8>>) -> Result<NewRelease, Problem> {
    let mut value = json_value(request)?;
    let Some(fields) = value.as_object_mut() else {
        return Err(Problem::field("", "the body must be an object"));
    };
    if fields
        .insert("plan".to_owned(), json::value(plan))
        .is_some()
    {
        let detail = "is not a field that is known here: the address names the plan";
        return Err(Problem::field("/plan", detail));
    }
    parse(&value).map_err(Problem::invalid)
}

async fn submit<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    sender: &Sender,
    body: impl FnOnce() -> Result<NewRelease, Problem>,
) -> Answer {
    if let Some(key) = &sender.key
        && let Some(answer) = repeated(pipeline, key, &sender.raw).await?
    {
        return Ok(answer);
    }
    let made = match body() {
        Ok(body) => make(pipeline, body, sender).await,
        Err(problem) => Err(problem),
    };
    let (Err(problem), Some(key)) = (&made, &sender.key) else {
        return made;
    };
    // What was only not possible just now may be sent again. A crash before this is remembered leaves the message without an
    // answer, and it is judged anew.
    if sender.refusals_stay && (400..500).contains(&problem.status) {
        let refusal = json::text(problem);
        let (texts, now) = (
            (sender.raw.as_str(), refusal.as_str()),
            pipeline.ports.now(),
        );
        store::remember_refusal(pipeline.ports, key, texts, problem.status, now).await?;
    }
    // If the same request came twice at once, it is the other one's success that stood in the way of this one, be it that
    // it holds the Worker, that it splits the traffic already, or that it has used the key.
    match repeated(pipeline, key, &sender.raw).await? {
        Some(answer) => Ok(answer),
        None => made,
    }
}

/// Makes the release, and remembers the answer under the key.
async fn make<P: Ports>(pipeline: &Pipeline<'_, P>, body: NewRelease, sender: &Sender) -> Answer {
    short_texts(&[("/note", &body.note), ("/url", &body.url)])?;
    let Some(mut stored) = store::get_plan(pipeline.ports, &body.plan).await? else {
        return Err(Problem::field(
            "/plan",
            format!("there is no plan {:?}", body.plan),
        ));
    };
    let worker = stored.plan.worker.clone();
    body.check_mode()?;
    // Who only watches holds nothing and waits for nobody.
    let active = match body.mode {
        Mode::Deploy => store::has_active(pipeline.ports, &worker).await?,
        Mode::Watch => None,
    };
    if body.start
        && body.on_conflict == OnConflict::Reject
        && let Some(active) = &active
    {
        return Err(held(&worker, Some(active)));
    }
    let survey = survey_for(pipeline, &mut stored, &body).await?;
    let (start, on_conflict) = (body.start, body.on_conflict);
    let now = pipeline.ports.now();
    let id = format!("rel_{}", pipeline.ports.uuid().simple());
    let mut release = staged(
        (id, now, &sender.actor),
        body,
        stored,
        &survey,
        active.as_deref(),
    )?;
    let memory = |release: &Release| -> Result<Option<Idempotency>, Problem> {
        let Some(key) = &sender.key else {
            return Ok(None);
        };
        Ok(Some(Idempotency {
            key: key.clone(),
            body: sender.raw.clone(),
            answer: json::text(&ReleaseView::from(release)),
        }))
    };
    // Whoever is willing to wait does not overtake those who wait already; the queue starts it at once if nobody does.
    let line = match on_conflict {
        OnConflict::Reject => Vec::new(),
        _ => store::contenders(pipeline.ports, &worker, release.id()).await?,
    };
    let decision = if start && active.is_none() && line.is_empty() {
        Some(started(pipeline, &release, (&survey.ground, &sender.actor)).await?)
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
            before: &release,
            decision: &decision,
            decision_id: pipeline.ports.uuid().simple().to_string(),
            at: pipeline.ports.now(),
        };
        let memory = memory(&decision.release)?;
        // Row and start are one batch: a crash leaves both or neither, and the alarm in the row starts the work.
        let owed = store::create(pipeline.ports, &release, Some(&write), memory.as_ref()).await?;
        if let Some(owed) = owed {
            pipeline.started(&decision, owed).await;
            return created(&decision.release);
        }
        if let Some(problem) = lost(&release, on_conflict) {
            return Err(problem);
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
    let made = store::create(pipeline.ports, &release, None, memory.as_ref()).await?;
    if made.is_none() {
        return Err(Problem::conflict(KEY_USED));
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

/// Reads all that the preflight looks at, and the plan's saved queries.
async fn survey_for<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    stored: &mut StoredPlan,
    body: &NewRelease,
) -> Result<Survey, Problem> {
    let worker = stored.plan.worker.clone();
    let (mut survey, queries) = join(
        pipeline.survey(&worker, (&body.new_version, body.mode)),
        pipeline.snapshot_queries(&mut stored.plan),
    )
    .await;
    queries.map_err(not_ready)?;
    pipeline.try_queries(&stored.plan, &mut survey).await;
    Ok(survey)
}

/// What is said to who lost: to the same request sent twice, or to another release that has just started. Nothing, if it waits.
fn lost(release: &Release, on_conflict: OnConflict) -> Option<Problem> {
    match (release.origin.mode, on_conflict) {
        (Mode::Watch, _) => Some(Problem::conflict(KEY_USED)),
        (Mode::Deploy, OnConflict::Reject) => Some(held(&release.origin.plan.worker, None)),
        (Mode::Deploy, OnConflict::Queue | OnConflict::Supersede) => None,
    }
}

/// The release as it is before anything happens to it, with what its preflight found.
fn staged(
    (id, now, actor): (String, UnixMs, &str),
    body: NewRelease,
    stored: StoredPlan,
    survey: &Survey,
    active: Option<&str>,
) -> Result<Release, Problem> {
    let new_version = survey
        .ground
        .resolve_version(&stored.plan.worker, (&body.new_version, body.mode))
        .map_err(not_ready)?;
    let asked = pipeline::Request {
        plan: &stored.plan,
        mode: body.mode,
        wanted: &new_version,
        required_old: body.old_version.as_deref(),
    };
    let holder = holder(active, &body);
    let findings = Findings::of(survey.checks(asked, holder.as_ref(), None), &body.accept);
    let mut progress = Progress::staged(String::new(), stored.plan.stages.len());
    if body.mode == Mode::Watch {
        progress.schema = NEWEST_SCHEMA;
    }
    Ok(Release {
        origin: Arc::new(Origin {
            schema: SCHEMA,
            id,
            plan_name: stored.name,
            new_version,
            required_old_version: body.old_version,
            supersedes: body.on_conflict == OnConflict::Supersede,
            note: body.note,
            url: body.url,
            created_at: now,
            created_by: actor.to_owned(),
            plan: stored.plan,
            mode: body.mode,
            preflight: findings,
        }),
        progress,
    })
}

/// The decision to start a release that does not exist yet, at the sequence after its first.
async fn started<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    release: &Release,
    (ground, actor): (&Ground, &str),
) -> Result<Decision, Problem> {
    let command = pipeline
        .start_from(release, ground)
        .await
        .map_err(not_ready)?;
    let input = Input::Command {
        actor: actor.to_owned(),
        shown: None,
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
    let Some(value) = request.headers().get(&headers::IDEMPOTENCY_KEY) else {
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
    let Some(first) = store::remembered(pipeline.ports, key).await? else {
        return Ok(None);
    };
    if first.body != body {
        return Err(Problem::conflict(KEY_OF_ANOTHER));
    }
    if first.status >= 400 {
        let mut response = Problem::new(first.status, "", "").response();
        *response.body_mut() = first.answer.into_bytes();
        return Ok(Some(response));
    }
    let answer: serde_json::Value =
        crate::json::parse(&first.answer).map_err(|error| Problem::internal(&error))?;
    let mut response = json_answer(StatusCode::CREATED, &answer)?;
    locate(&mut response, answer["id"].as_str().unwrap_or_default());
    // Byte for byte, in the order of its fields.
    *response.body_mut() = first.answer.into_bytes();
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
