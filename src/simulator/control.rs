//! Routes under `/sim` that steer the simulated Cloudflare while it runs.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::access::TokenSpec;
use super::ai::AiScript;
use super::faults::FaultRule;
use super::http::{App, status};
use super::spec::SimError;
use super::switches::SwitchesPatch;

/// How a secret is changed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretChange {
    /// Whether the version with the new value serves at once; if not it is only uploaded.
    deploy: bool,
}

/// The control routes, without the prefix `/sim`.
pub(super) fn routes() -> Router<App> {
    let worker = "/workers/{account}/{script}";
    let under = |rest: &str| format!("{worker}/{rest}");
    Router::new()
        .route("/healthz", get(healthz))
        .route("/ingestion-lag", put(set_ingestion_lag))
        .route("/status", get(status_of_all))
        .route("/retention", put(set_retention))
        .route("/call-limit", put(set_call_limit))
        .route("/tokens", put(set_tokens))
        .route("/switches", patch(set_switches))
        .route("/ai", put(set_ai))
        .route("/faults", put(set_faults).post(add_fault))
        .route(
            worker,
            get(worker_status)
                .put(put_worker)
                .patch(patch_worker)
                .delete(delete_worker),
        )
        .route(&under("versions"), post(upload_version))
        .route(&under("versions/{id}"), patch(patch_behavior))
        .route(&under("deploy"), post(deploy_by_hand))
        .route(&under("secrets/{name}"), put(put_secret))
        .route(&under("outage"), post(start_outage))
        .fallback(async || ControlError(404, "no such control route".to_owned()))
        .method_not_allowed_fallback(async || ControlError(405, "wrong method".to_owned()))
}

/// A refusal of a control route: a status and what is wrong.
struct ControlError(u16, String);

impl From<SimError> for ControlError {
    fn from(error: SimError) -> Self {
        Self(error.status(), error.to_string())
    }
}

impl IntoResponse for ControlError {
    fn into_response(self) -> Response {
        (status(self.0), Json(json!({"error": self.1}))).into_response()
    }
}

type Control = Result<Json<Value>, ControlError>;
type WorkerPath = Path<(String, String)>;

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, ControlError> {
    serde_json::from_slice(body).map_err(|error| ControlError(400, error.to_string()))
}

async fn healthz() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

async fn worker_status(State(app): State<App>, Path((account, script)): WorkerPath) -> Control {
    let (mut cloudflare, now_ms) = app.lock();
    let status = cloudflare.worker_status(now_ms, &account, &script)?;
    Ok(Json(json!(status)))
}

async fn put_worker(
    State(app): State<App>,
    Path((account, script)): WorkerPath,
    body: Bytes,
) -> Control {
    let spec = read(&body)?;
    let (mut cloudflare, now_ms) = app.lock();
    let versions = cloudflare.put_worker(now_ms, &account, &script, spec)?;
    Ok(Json(json!({"versions": versions})))
}

async fn patch_worker(
    State(app): State<App>,
    Path((account, script)): WorkerPath,
    body: Bytes,
) -> Control {
    let patch = read(&body)?;
    let (mut cloudflare, now_ms) = app.lock();
    cloudflare.patch_worker(now_ms, &account, &script, patch)?;
    let status = cloudflare.worker_status(now_ms, &account, &script)?;
    Ok(Json(json!(status)))
}

async fn delete_worker(State(app): State<App>, Path((account, script)): WorkerPath) -> Control {
    let (mut cloudflare, now_ms) = app.lock();
    cloudflare.delete_worker(now_ms, &account, &script)?;
    Ok(Json(json!({"deleted": script})))
}

async fn put_secret(
    State(app): State<App>,
    Path((account, script, name)): Path<(String, String, String)>,
    body: Bytes,
) -> Control {
    // Nothing is what a person mostly does.
    let deploy = body.is_empty() || read::<SecretChange>(&body)?.deploy;
    let (mut cloudflare, now_ms) = app.lock();
    let version = cloudflare.put_secret(now_ms, &account, &script, &name, deploy)?;
    Ok(Json(json!(version)))
}

async fn upload_version(
    State(app): State<App>,
    Path((account, script)): WorkerPath,
    body: Bytes,
) -> Control {
    let spec = read(&body)?;
    let (mut cloudflare, now_ms) = app.lock();
    let version = cloudflare.upload_version(now_ms, &account, &script, spec)?;
    Ok(Json(json!(version)))
}

async fn patch_behavior(
    State(app): State<App>,
    Path((account, script, id)): Path<(String, String, String)>,
    body: Bytes,
) -> Control {
    let patch = read(&body)?;
    let (mut cloudflare, now_ms) = app.lock();
    let behavior = cloudflare.patch_behavior(now_ms, &account, &script, &id, patch)?;
    Ok(Json(json!(behavior)))
}

async fn deploy_by_hand(
    State(app): State<App>,
    Path((account, script)): WorkerPath,
    body: Bytes,
) -> Control {
    let wanted = read(&body)?;
    let (mut cloudflare, now_ms) = app.lock();
    let deployment = cloudflare.deploy_by_hand(now_ms, &account, &script, wanted)?;
    Ok(Json(deployment.to_json()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Milliseconds {
    ms: i64,
}

async fn set_ingestion_lag(State(app): State<App>, body: Bytes) -> Control {
    let Milliseconds { ms } = read(&body)?;
    if ms < 0 {
        return Err(ControlError(400, "ms must not be negative".to_owned()));
    }
    let (mut cloudflare, now_ms) = app.lock();
    cloudflare.set_ingestion_lag_ms(now_ms, ms);
    Ok(Json(json!({"ms": ms})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultRules {
    rules: Vec<FaultRule>,
}

async fn set_faults(State(app): State<App>, body: Bytes) -> Control {
    let FaultRules { rules } = read(&body)?;
    let count = rules.len();
    let (mut cloudflare, _) = app.lock();
    cloudflare.set_faults(rules)?;
    Ok(Json(json!({"rules": count})))
}

async fn add_fault(State(app): State<App>, body: Bytes) -> Control {
    let rule = read(&body)?;
    let (mut cloudflare, _) = app.lock();
    cloudflare.add_fault(rule)?;
    Ok(Json(json!({"added": 1})))
}

async fn status_of_all(State(app): State<App>) -> Control {
    let (mut cloudflare, now_ms) = app.lock();
    Ok(Json(json!({"workers": cloudflare.status(now_ms)})))
}

async fn set_retention(State(app): State<App>, body: Bytes) -> Control {
    let Milliseconds { ms } = read(&body)?;
    if ms < 0 {
        return Err(ControlError(400, "ms must not be negative".to_owned()));
    }
    let (mut cloudflare, now_ms) = app.lock();
    cloudflare.set_retention_ms(now_ms, ms);
    Ok(Json(json!({"ms": ms})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallLimit {
    /// Null for any number.
    calls_per_5_minutes: Option<u32>,
}

async fn set_call_limit(State(app): State<App>, body: Bytes) -> Control {
    let CallLimit {
        calls_per_5_minutes: limit,
    } = read(&body)?;
    let (mut cloudflare, _) = app.lock();
    cloudflare.set_call_limit(limit);
    Ok(Json(json!({"calls_per_5_minutes": limit})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tokens {
    /// Null for any.
    tokens: Option<Vec<TokenSpec>>,
}

async fn set_tokens(State(app): State<App>, body: Bytes) -> Control {
    let Tokens { tokens } = read(&body)?;
    let count = tokens.as_ref().map(Vec::len);
    let (mut cloudflare, _) = app.lock();
    cloudflare.set_tokens(tokens);
    Ok(Json(json!({"tokens": count})))
}

async fn set_switches(State(app): State<App>, body: Bytes) -> Control {
    let patch: SwitchesPatch = read(&body)?;
    let (mut cloudflare, _) = app.lock();
    cloudflare.set_switches(patch);
    Ok(Json(json!({"set": true})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AiScripts {
    scripts: Vec<AiScript>,
}

async fn set_ai(State(app): State<App>, body: Bytes) -> Control {
    let AiScripts { scripts } = read(&body)?;
    let count = scripts.len();
    let (mut cloudflare, _) = app.lock();
    cloudflare.set_ai(scripts)?;
    Ok(Json(json!({"scripts": count})))
}

async fn start_outage(
    State(app): State<App>,
    Path((account, script)): WorkerPath,
    body: Bytes,
) -> Control {
    let Milliseconds { ms } = read(&body)?;
    let (mut cloudflare, now_ms) = app.lock();
    cloudflare.start_outage(now_ms, &account, &script, ms)?;
    Ok(Json(json!({"ms": ms})))
}
