//! The simulated Cloudflare on HTTP: its API, and routes under `/sim` to control it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::api::ApiAnswer;
use super::faults::FaultRule;
use super::model::Cloudflare;
use super::spec::SimError;

/// What time it is, in Unix milliseconds.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The clock of the machine.
#[must_use]
pub fn system_clock() -> Clock {
    Arc::new(|| {
        #[expect(
            clippy::disallowed_methods,
            reason = "the simulator's own clock, at its outer edge"
        )]
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        i64::try_from(since_epoch.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
    })
}

/// Serves a simulated Cloudflare until the listener fails. `token` is the one bearer token the
/// API takes; with `None` it takes any.
///
/// # Errors
/// The listener's.
pub async fn serve(
    listener: tokio::net::TcpListener,
    cloudflare: Arc<Mutex<Cloudflare>>,
    clock: Clock,
    token: Option<String>,
) -> std::io::Result<()> {
    axum::serve(listener, router(cloudflare, clock, token)).await
}

/// The routes that [`serve`] serves.
pub fn router(cloudflare: Arc<Mutex<Cloudflare>>, clock: Clock, token: Option<String>) -> Router {
    let worker = "/workers/{account}/{script}";
    let under = |rest: &str| format!("{worker}/{rest}");
    let control = Router::new()
        .route("/healthz", get(healthz))
        .route("/ingestion-lag", put(set_ingestion_lag))
        .route("/faults", put(set_faults))
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
        .fallback(async || ControlError(404, "no such control route".to_owned()))
        .method_not_allowed_fallback(async || ControlError(405, "wrong method".to_owned()));
    Router::new()
        .nest("/sim", control)
        .fallback(call_api)
        .layer(DefaultBodyLimit::max(1024 * 1024))
        .with_state(App {
            cloudflare,
            clock,
            token: token.map(Arc::from),
        })
}

#[derive(Clone)]
struct App {
    cloudflare: Arc<Mutex<Cloudflare>>,
    clock: Clock,
    token: Option<Arc<str>>,
}

impl App {
    /// The model, and the time. The time is taken under the lock, so that it does not run
    /// backwards from one holder to the next. A panic of another holder does not end the
    /// simulation.
    fn lock(&self) -> (MutexGuard<'_, Cloudflare>, i64) {
        let guard = self
            .cloudflare
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now_ms = (self.clock)();
        (guard, now_ms)
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let header = headers.get(header::AUTHORIZATION);
        let token = header
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .map_or("", str::trim);
        match &self.token {
            Some(expected) => token == &**expected,
            None => !token.is_empty(),
        }
    }
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

impl IntoResponse for ApiAnswer {
    fn into_response(self) -> Response {
        let headers: HeaderMap = self
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.parse().ok()?, value.parse().ok()?)))
            .collect();
        (status(self.status), headers, Json(self.body)).into_response()
    }
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

type Control = Result<Json<Value>, ControlError>;
type WorkerPath = Path<(String, String)>;

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, ControlError> {
    serde_json::from_slice(body).map_err(|error| ControlError(400, error.to_string()))
}

async fn call_api(
    State(app): State<App>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> ApiAnswer {
    if !app.admits(&headers) {
        return ApiAnswer::unauthorized();
    }
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let answer = {
        let (mut cloudflare, now_ms) = app.lock();
        cloudflare.handle(now_ms, method.as_str(), target, &body)
    };
    if answer.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(answer.delay_ms)).await;
    }
    answer
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
) -> Control {
    let (mut cloudflare, now_ms) = app.lock();
    let version = cloudflare.put_secret(now_ms, &account, &script, &name)?;
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
struct IngestionLag {
    ms: i64,
}

async fn set_ingestion_lag(State(app): State<App>, body: Bytes) -> Control {
    let IngestionLag { ms } = read(&body)?;
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
