//! The simulated Cloudflare on HTTP: its API, beside the [control routes](super::control).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};

use super::api::ApiAnswer;
use super::control;
use super::journal::Journal;
use super::model::Cloudflare;

/// What time it is, in Unix milliseconds.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

tokio::task_local! {
    /// When the call at hand is made, if its [journal](super::Journal) says so.
    pub(super) static AT: i64;
}

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

/// The same with a journal, whose calls of before are the caller's to repeat.
///
/// # Errors
/// The listener's.
pub async fn serve_with_journal(
    listener: tokio::net::TcpListener,
    cloudflare: Arc<Mutex<Cloudflare>>,
    clock: Clock,
    token: Option<String>,
    journal: Arc<Journal>,
) -> std::io::Result<()> {
    let routes = router(cloudflare, clock, token);
    axum::serve(listener, journal.around(routes)).await
}

/// The routes that [`serve`] serves.
pub fn router(cloudflare: Arc<Mutex<Cloudflare>>, clock: Clock, token: Option<String>) -> Router {
    Router::new()
        .nest("/sim", control::routes())
        .fallback(call_api)
        .layer(DefaultBodyLimit::max(1024 * 1024))
        .with_state(App {
            cloudflare,
            clock,
            token: token.map(Arc::from),
        })
}

#[derive(Clone)]
pub(super) struct App {
    cloudflare: Arc<Mutex<Cloudflare>>,
    clock: Clock,
    token: Option<Arc<str>>,
}

impl App {
    /// The model, and the time. The time is taken under the lock, so that it does not run
    /// backwards from one holder to the next. A panic of another holder does not end the
    /// simulation.
    pub(super) fn lock(&self) -> (MutexGuard<'_, Cloudflare>, i64) {
        let guard = self
            .cloudflare
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now_ms = AT.try_with(|at_ms| *at_ms);
        let now_ms = now_ms.unwrap_or_else(|_| (self.clock)());
        (guard, now_ms)
    }

    /// The bearer token of a request, unless it is not the one that is wanted.
    fn token<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        let header = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let token = header.strip_prefix("Bearer ")?.trim();
        let admitted = self
            .token
            .as_ref()
            .is_none_or(|expected| token == &**expected);
        admitted.then_some(token)
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

pub(super) fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

async fn call_api(
    State(app): State<App>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> ApiAnswer {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let answer = {
        let (mut cloudflare, now_ms) = app.lock();
        let token = app.token(&headers);
        cloudflare.handle_as(now_ms, token, method.as_str(), target, &body)
    };
    if answer.hangs {
        // Until the caller gives up, which drops this.
        std::future::pending::<()>().await;
    }
    if answer.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(answer.delay_ms)).await;
    }
    answer
}
