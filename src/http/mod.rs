//! The HTTP API and the dashboard: routes, bearer authentication, problem details. Knows requests and answers as values only; the runtime
//! ring carries them.

pub(crate) mod approvals;
mod body;
mod conditional;
pub(crate) mod connections;
pub(crate) mod dashboard;
pub(crate) mod deliveries;
mod files;
pub(crate) mod forecast;
pub mod headers;
pub(crate) mod hooks;
pub(crate) mod judges;
pub(crate) mod plans;
mod problem;
pub(crate) mod queries;
pub(crate) mod releases;
pub(crate) mod route;
pub(crate) mod subscribers;
pub(crate) mod workers;

use ::http::{Method, Request, Response, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::json;
use subtle::ConstantTimeEq as _;

use crate::pipeline::Pipeline;
use crate::pipeline::config::Config;
use crate::pipeline::ports::Ports;

use dashboard::Page;
pub use dashboard::sign_in_path;
pub use files::StaticFile;
pub use problem::Problem;
use route::Route;

/// Most bytes in a request body.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// An answer, or the problem that is answered instead.
pub(crate) type Answer = Result<Response<Vec<u8>>, Problem>;

/// Answers a request. `config` is what [`Config::from_vars`] made of the installation's variables: as long as it is wrong,
/// only the health check works, and says so.
pub async fn handle<P: Ports>(
    ports: &P,
    config: &Result<Config, Vec<String>>,
    request: &Request<Vec<u8>>,
) -> Response<Vec<u8>> {
    #[cfg(not(target_arch = "wasm32"))]
    let request = &headers::taken_in(request);
    if let (Some(page), Ok(config)) = (Page::of(request.uri().path()), config) {
        let pipeline = Pipeline::new(ports, config);
        let response = dashboard::handle(&pipeline, page, request).await;
        pipeline.cloudflare.report_spending().await;
        return without_body(request, response);
    }
    let answer = match (Route::of(request.uri().path()), config) {
        (Some(Route::Health), Ok(_)) => {
            only(request, &[Method::GET]).and_then(|()| json_answer(StatusCode::OK, &Health::OK))
        }
        (Some(Route::Health), Err(errors)) => {
            Err(Problem::new(503, "HMD is not configured", errors.join(" ")))
        }
        (_, Err(_)) => Err(Problem::new(
            503,
            "HMD is not configured",
            "GET /healthz says what is missing",
        )),
        (route, Ok(config)) => match (authorized(request, config, route), route) {
            (Err(problem), _) => Err(problem),
            (Ok(()), None) => Err(Problem::new(
                404,
                "Not found",
                format!("there is nothing at {}", request.uri().path()),
            )),
            (Ok(()), Some(route)) => {
                let pipeline = Pipeline::new(ports, config);
                let answer = answer(&pipeline, route, request).await;
                pipeline.cloudflare.report_spending().await;
                answer
            }
        },
    };
    let response = answer.unwrap_or_else(|problem| {
        if problem.status >= 500 && !problem.foreseen {
            // A token in a path decides something: it must not stand in a log.
            let path = match Route::of(request.uri().path()) {
                Some(Route::Approval(_)) => "/approvals/…",
                _ => request.uri().path(),
            };
            ports.log(&json!({"log": "alert", "path": path, "status": problem.status, "detail": problem.detail}));
        }
        problem.response()
    });
    without_body(request, response)
}

/// HEAD is GET without the body.
fn without_body(request: &Request<Vec<u8>>, response: Response<Vec<u8>>) -> Response<Vec<u8>> {
    if request.method() == Method::HEAD {
        return response.map(|_| Vec::new());
    }
    response
}

/// Whether a path is a page of the dashboard, which the API document says nothing of.
#[must_use]
pub fn is_dashboard(path: &str) -> bool {
    Page::of(path).is_some()
}

async fn answer<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    route: Route<'_>,
    request: &Request<Vec<u8>>,
) -> Answer {
    only(request, route.methods())?;
    if request.body().len() > MAX_BODY_BYTES {
        return Err(Problem::new(
            413,
            "Body too large",
            format!("a body has at most {MAX_BODY_BYTES} bytes"),
        ));
    }
    let put_or_post = request.method() == Method::PUT || request.method() == Method::POST;
    let delete = request.method() == Method::DELETE;
    match route {
        Route::Health => json_answer(StatusCode::OK, &Health::OK),
        Route::OpenApi => static_file(pipeline.ports, StaticFile::OpenApi).await,
        Route::Docs => static_file(pipeline.ports, StaticFile::Docs).await,
        Route::Plans => plans::list(pipeline).await,
        Route::Plan(name) if put_or_post => plans::put(pipeline, name, request).await,
        Route::Plan(name) if delete => plans::delete(pipeline, name, request).await,
        Route::Plan(name) => plans::get(pipeline, name, request).await,
        Route::Forecast(name) => forecast::of_plan(pipeline, name, request).await,
        Route::HookSecret(name) if delete => hooks::revoke(pipeline, name).await,
        Route::HookSecret(name) => hooks::make_secret(pipeline, name, request).await,
        Route::JudgeSecret(name) => judges::secret(pipeline, name).await,
        Route::Hook(plan) => hooks::receive(pipeline, plan, request).await,
        Route::Releases if put_or_post => releases::create(pipeline, request).await,
        Route::Releases => releases::list(pipeline, request).await,
        Route::Preflight => releases::preflight(pipeline, request).await,
        Route::Release(id) if delete => releases::delete(pipeline, id).await,
        Route::Release(id) => releases::get(pipeline, id, request).await,
        Route::Events(id) => releases::events(pipeline, id, request).await,
        Route::Evidence(id) => releases::evidence(pipeline, id, request).await,
        Route::Backtest(id) => releases::replay(pipeline, id, request).await,
        Route::Command(id, verb) => releases::command(pipeline, id, verb, request).await,
        Route::Decide(id, stage, approve) => {
            releases::decide(pipeline, id, (stage, approve), request).await
        }
        Route::Approval(token) if put_or_post => approvals::decide(pipeline, token, request).await,
        Route::Approval(token) => approvals::show(pipeline, token, request).await,
        Route::Subscribers if put_or_post => subscribers::create(pipeline, request).await,
        Route::Subscribers => subscribers::list(pipeline).await,
        Route::Subscriber(id) if delete => subscribers::delete(pipeline, id).await,
        Route::Subscriber(id) if request.method() == Method::PATCH => {
            subscribers::patch(pipeline, id, request).await
        }
        Route::Subscriber(id) => subscribers::get(pipeline, id, request).await,
        Route::SubscriberCommand(id, verb) => {
            subscribers::command(pipeline, id, verb, request).await
        }
        Route::Deliveries(id) => deliveries::list(pipeline, id, request).await,
        Route::Delivery(id, delivery) => deliveries::get(pipeline, id, delivery).await,
        Route::Replay(id, delivery) => deliveries::replay(pipeline, id, delivery).await,
        Route::Workers => connections::list(pipeline).await,
        Route::Worker(account, script) if put_or_post => {
            connections::put(pipeline, (account, script), request).await
        }
        Route::Worker(account, script) if delete => {
            connections::delete(pipeline, (account, script)).await
        }
        Route::Worker(account, script) => connections::get(pipeline, (account, script)).await,
        Route::Versions(account, script) => workers::versions(pipeline, (account, script)).await,
        Route::Deployments(account, script) => {
            workers::deployments(pipeline, (account, script)).await
        }
        Route::Queries(account, script) if put_or_post => {
            queries::create(pipeline, (account, script), request).await
        }
        Route::Queries(account, script) => {
            queries::list(pipeline, (account, script), request).await
        }
    }
}

fn only(request: &Request<Vec<u8>>, methods: &[Method]) -> Result<(), Problem> {
    let method = request.method();
    let fits =
        methods.contains(method) || (*method == Method::HEAD && methods.contains(&Method::GET));
    if fits {
        return Ok(());
    }
    let allowed = methods
        .iter()
        .map(Method::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    let works = if methods.len() == 1 { "does" } else { "do" };
    let detail = format!("{method} does not work here; {allowed} {works}");
    Err(Problem::new(405, "Method not allowed", detail).header(header::ALLOW, &allowed))
}

/// Lets in whoever shows the API token; a hook looks at signatures itself. The two pages for people take it as a password, too, since browsers can ask for
/// one; nothing that changes anything does, for browsers also send it along by themselves.
fn authorized(
    request: &Request<Vec<u8>>,
    config: &Config,
    route: Option<Route<'_>>,
) -> Result<(), Problem> {
    // A signature over the message, or the token in the path, is what lets in.
    if matches!(route, Some(Route::Approval(_) | Route::Hook(_))) {
        return Ok(());
    }
    let page = matches!(route, Some(Route::Docs | Route::OpenApi));
    let header = request.headers().get(header::AUTHORIZATION);
    let (scheme, credential) = header
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .unwrap_or_default();
    let shown = if scheme.eq_ignore_ascii_case("bearer") {
        credential.trim().to_owned()
    } else if scheme.eq_ignore_ascii_case("basic") && page {
        let decoded = STANDARD.decode(credential.trim()).unwrap_or_default();
        let text = String::from_utf8(decoded).unwrap_or_default();
        text.split_once(':')
            .map(|(_, password)| password.to_owned())
            .unwrap_or_default()
    } else {
        String::new()
    };
    // In constant time: how long a wrong token takes must not tell how much of it was right.
    if bool::from(
        shown
            .as_bytes()
            .ct_eq(config.hmd_api_token.expose().as_bytes()),
    ) {
        return Ok(());
    }
    let detail = "send the installation's HMD_API_TOKEN as `Authorization: Bearer …`";
    let asks = if page {
        "Basic realm=\"HMD: any name, and HMD_API_TOKEN\""
    } else {
        "Bearer"
    };
    Err(Problem::new(401, "Not authorized", detail).header(header::WWW_AUTHENTICATE, asks))
}

async fn static_file<P: Ports>(ports: &P, file: StaticFile) -> Answer {
    let body = ports.static_file(file).await?;
    Response::builder()
        .header(header::CONTENT_TYPE, file.content_type())
        .header(header::CACHE_CONTROL, "no-cache")
        .header(
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'",
        )
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .body(body.into_bytes())
        .map_err(|error| Problem::internal(&error))
}

/// A page of a list.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "{T}List"))]
pub struct List<T> {
    /// What is on this page.
    items: Vec<T>,
    /// The `cursor` of the next page; null on the last one.
    next_cursor: Option<String>,
}

pub(crate) fn list_answer<T: Serialize>(items: Vec<T>, next_cursor: Option<String>) -> Answer {
    json_answer(StatusCode::OK, &List { items, next_cursor })
}

/// HMD is configured and serves.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
pub struct Health {
    /// Always `ok`: what is wrong is a problem, not a status.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(extend("const" = "ok")))]
    status: &'static str,
}

impl Health {
    const OK: Self = Self { status: "ok" };
}

pub(crate) fn no_content() -> Answer {
    Response::builder()
        .status(StatusCode::NO_CONTENT)
        .body(Vec::new())
        .map_err(|error| Problem::internal(&error))
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "most of its callers end with it, and are answers themselves"
)]
pub(crate) fn json_answer(status: StatusCode, body: &impl Serialize) -> Answer {
    Ok(json_text_answer(status, crate::json::text(body)))
}

fn json_text_answer(status: StatusCode, text: String) -> Response<Vec<u8>> {
    let mut response = Response::new(text.into_bytes());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let json = header::HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    headers.insert(
        header::CACHE_CONTROL,
        header::HeaderValue::from_static("no-store"),
    );
    response
}
