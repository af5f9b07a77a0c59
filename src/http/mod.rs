//! The HTTP API: routes, bearer authentication, problem details. Knows requests and answers as values only; the runtime
//! ring carries them.

mod body;
mod plans;
mod problem;
mod releases;
mod route;

use ::http::{Method, Request, Response, StatusCode, header};
use serde::Serialize;
use serde_json::json;
use subtle::ConstantTimeEq as _;

use crate::pipeline::Pipeline;
use crate::pipeline::config::Config;
use crate::pipeline::ports::Ports;

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
    let answer = match (Route::of(request.uri().path()), config) {
        (Some(Route::Health), Ok(_)) => only(request, &[Method::GET])
            .and_then(|()| json_answer(StatusCode::OK, &json!({"status": "ok"}))),
        (Some(Route::Health), Err(errors)) => {
            Err(Problem::new(503, "HMD is not configured", errors.join(" ")))
        }
        (_, Err(_)) => Err(Problem::new(
            503,
            "HMD is not configured",
            "GET /healthz says what is missing",
        )),
        (route, Ok(config)) => match (authorized(request, config), route) {
            (Err(problem), _) => Err(problem),
            (Ok(()), None) => Err(Problem::new(
                404,
                "Not found",
                format!("there is nothing at {}", request.uri().path()),
            )),
            (Ok(()), Some(route)) => answer(&Pipeline::new(ports, config), route, request).await,
        },
    };
    let response = answer.unwrap_or_else(|problem| {
        if problem.status >= 500 {
            ports.log(&json!({"log": "alert", "path": request.uri().path(), "status": problem.status, "detail": problem.detail}));
        }
        problem.response()
    });
    if request.method() == Method::HEAD {
        return response.map(|_| Vec::new());
    }
    response
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
    match route {
        Route::Health => json_answer(StatusCode::OK, &json!({"status": "ok"})),
        Route::Plans => plans::list(pipeline).await,
        Route::Plan(name) if put_or_post => plans::put(pipeline, name, request).await,
        Route::Plan(name) => plans::get(pipeline, name).await,
        Route::Releases if put_or_post => releases::create(pipeline, request).await,
        Route::Releases => releases::list(pipeline, request).await,
        Route::Release(id) => releases::get(pipeline, id).await,
        Route::Events(id) => releases::events(pipeline, id).await,
        Route::Command(id, verb) => releases::command(pipeline, id, verb, request).await,
        Route::Decide(id, stage, approve) => {
            releases::decide(pipeline, id, (stage, approve), request).await
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
    let detail = format!("{method} does not work here; {allowed} does");
    Err(Problem::new(405, "Method not allowed", detail).header(header::ALLOW, &allowed))
}

fn authorized(request: &Request<Vec<u8>>, config: &Config) -> Result<(), Problem> {
    let shown = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map_or("", |(_, token)| token.trim());
    // In constant time: how long a wrong token takes must not tell how much of it was right.
    if bool::from(
        shown
            .as_bytes()
            .ct_eq(config.hmd_api_token.expose().as_bytes()),
    ) {
        return Ok(());
    }
    let detail = "send the installation's HMD_API_TOKEN as `Authorization: Bearer …`";
    Err(Problem::new(401, "Not authorized", detail).header(header::WWW_AUTHENTICATE, "Bearer"))
}

pub(crate) fn json_answer(status: StatusCode, body: &impl Serialize) -> Answer {
    let bytes = serde_json::to_vec(body).map_err(|error| Problem::internal(&error))?;
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CACHE_CONTROL, "no-store")
        .body(bytes)
        .map_err(|error| Problem::internal(&error))
}
