//! `/v1/workers`: connected Workers, perhaps with a Cloudflare token of their own.

use ::http::{Request, StatusCode};
use futures_util::future::join;
use serde::{Deserialize, Serialize};

use super::body::json_body;
use super::problem::Problem;
use super::workers::{unreadable, worker};
use super::{Answer, json_answer, list_answer, no_content};
use crate::cloudflare::{ApiError, ErrorKind, Urgency, seal_token, stored_requests};
use crate::pipeline::Pipeline;
use crate::pipeline::config::Secret;
use crate::pipeline::ports::Ports;
use crate::release::WorkerRef;
use crate::store::{self, Connection, Disconnected};
use crate::time::Rfc3339;
use crate::webhook::NONCE_BYTES;

/// What answers carry beside the token; what was read may be sent back as it is.
const READ_ONLY: [&str; 5] = [
    "account_id",
    "script_name",
    "credential",
    "created_at",
    "updated_at",
];
/// Longest token.
const MAX_TOKEN: usize = 256;
/// Telemetry is tried over this long.
const TRIED_MS: i64 = 60_000;

/// Whose Cloudflare token a Worker's calls are made with.
#[derive(Clone, Copy, Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CredentialKind {
    /// The installation's `CLOUDFLARE_API_TOKEN`.
    Installation,
    /// The Worker's own.
    Own,
}

/// A connected Worker. Its token is never shown.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "ConnectedWorker"))]
pub struct ConnectionView<'a> {
    /// The account's id.
    account_id: &'a str,
    /// The Worker's name.
    script_name: &'a str,
    /// Whose token is used.
    credential: CredentialKind,
    /// When it was connected.
    created_at: Rfc3339,
    /// When it was last connected anew.
    updated_at: Rfc3339,
}

impl<'a> From<&'a Connection> for ConnectionView<'a> {
    fn from(connection: &'a Connection) -> Self {
        Self {
            account_id: &connection.worker.account_id,
            script_name: &connection.worker.script_name,
            credential: match connection.token {
                Some(_) => CredentialKind::Own,
                None => CredentialKind::Installation,
            },
            created_at: Rfc3339(connection.created_at),
            updated_at: Rfc3339(connection.updated_at),
        }
    }
}

/// How a Worker is connected.
#[derive(Default, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
pub struct NewConnection {
    /// A Cloudflare token for this Worker alone, with Workers Scripts Write and Workers Observability Write in its account;
    /// absent: the installation's `CLOUDFLARE_API_TOKEN`. It is sealed, and never shown again.
    #[serde(default)]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(length(min = 1, max = MAX_TOKEN)))]
    token: Option<String>,
}

fn not_connected(worker: &WorkerRef) -> Problem {
    let (script, account) = (&worker.script_name, &worker.account_id);
    Problem::not_found(format!(
        "Worker {script} of account {account} is not connected"
    ))
}

/// `GET /v1/workers`.
pub async fn list<P: Ports>(pipeline: &Pipeline<'_, P>) -> Answer {
    let connections = store::list_connections(pipeline.ports).await?;
    list_answer(connections.iter().map(ConnectionView::from).collect(), None)
}

/// `GET /v1/workers/{account_id}/{script_name}`.
pub async fn get<P: Ports>(pipeline: &Pipeline<'_, P>, names: (&str, &str)) -> Answer {
    let worker = worker(names)?;
    let connection = store::get_connection(pipeline.ports, &worker).await?;
    let connection = connection.ok_or_else(|| not_connected(&worker))?;
    json_answer(StatusCode::OK, &ConnectionView::from(&connection))
}

/// `PUT /v1/workers/{account_id}/{script_name}`: connects a Worker, or gives it another token, once Cloudflare has taken that.
pub async fn put<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    names: (&str, &str),
    request: &Request<Vec<u8>>,
) -> Answer {
    let worker = worker(names)?;
    let body: NewConnection = if request.body().is_empty() {
        NewConnection::default()
    } else {
        json_body(request, &READ_ONLY)?
    };
    let token = body.token.map(|token| token.trim().to_owned());
    if let Some(token) = &token {
        let length = 1..=MAX_TOKEN;
        if !length.contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            let detail = format!("a token has 1 to {MAX_TOKEN} letters, digits and signs");
            return Err(Problem::field("/token", detail));
        }
    }
    let token = token.map(Secret::new);
    // Only reads: a crash before the row is written leaves everything as it was.
    try_out(pipeline, &worker, token.clone()).await?;
    let (ports, keys) = (pipeline.ports, &pipeline.config.keys);
    let random = ports.random();
    let nonce: [u8; NONCE_BYTES] = std::array::from_fn(|i| random[i]);
    let sealed = token.map(|token| seal_token(keys, &worker, &token, nonce));
    let sealed = sealed
        .transpose()
        .map_err(|error| Problem::internal(&error))?;
    let now = ports.now();
    let connection = store::put_connection(ports, &worker, sealed.as_deref(), now).await?;
    let status = if connection.revision == 1 {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    json_answer(status, &ConnectionView::from(&connection))
}

/// Asks Cloudflare for what every release asks for.
async fn try_out<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    worker: &WorkerRef,
    token: Option<Secret>,
) -> Result<(), Problem> {
    let cloudflare = &pipeline.cloudflare;
    let is_own = token.is_some();
    cloudflare.try_with(worker, token);
    // One claim for both; should it fail, each call says so for itself.
    if let Ok(credential) = cloudflare.credential(worker).await {
        let wanted = [(Urgency::Normal, 2)];
        let reserved = cloudflare.reserve(&credential, "connecting a Worker", &wanted);
        reserved.await.ok();
    }
    let until = pipeline.ports.now() - pipeline.config.telemetry_lag_ms;
    let (deployments, telemetry) = join(
        cloudflare.deployments(worker, Urgency::Normal, None),
        stored_requests(cloudflare, worker, (until - TRIED_MS, until)),
    )
    .await;
    if let Err(error) = &deployments {
        return Err(refused(error, worker, (is_own, "Workers Scripts Write")));
    }
    if let Err(error) = &telemetry {
        let wanted = "Workers Observability Write, without which no health is seen";
        return Err(refused(error, worker, (is_own, wanted)));
    }
    Ok(())
}

/// What Cloudflare's refusal means for whoever connects a Worker.
fn refused(error: &ApiError, worker: &WorkerRef, (is_own, wanted): (bool, &str)) -> Problem {
    let (script, account) = (&worker.script_name, &worker.account_id);
    let token = if is_own {
        "this token"
    } else {
        "the installation's CLOUDFLARE_API_TOKEN"
    };
    match error.kind {
        ErrorKind::Refused { code: 10_007, .. } => Problem::not_found(format!(
            "there is no Worker {script:?} in account {account}: check its name, or deploy it once with wrangler"
        )),
        ErrorKind::Refused {
            status: 404 | 400, ..
        } => Problem::not_found(format!(
            "Cloudflare finds nothing there: check the account id {account} (Cloudflare's dashboard shows it under Workers & Pages)"
        )),
        ErrorKind::Refused { status: 401, .. } => Problem::field(
            "/token",
            format!(
                "Cloudflare does not know {token} (401): it was mistyped, has expired, or was revoked; copy it again, or make a new one"
            ),
        ),
        ErrorKind::Refused { status: 403, .. } => Problem::field(
            "/token",
            format!(
                "{token} may not do that in account {account} (403): it must be valid for this account and have the permission {wanted}"
            ),
        ),
        _ => unreadable(error),
    }
}

/// `DELETE /v1/workers/{account_id}/{script_name}`: forgets its token, unless a release needs it.
pub async fn delete<P: Ports>(pipeline: &Pipeline<'_, P>, names: (&str, &str)) -> Answer {
    let worker = worker(names)?;
    match store::delete_connection(pipeline.ports, &worker).await? {
        Disconnected::Done => no_content(),
        Disconnected::Unknown => Err(not_connected(&worker)),
        Disconnected::Held(release) => {
            let script = &worker.script_name;
            Err(Problem::conflict(format!(
                "Worker {script} has an active release ({release}), which needs its token to the end, be it to go back: wait for its end, or stop it"
            )))
        }
    }
}
