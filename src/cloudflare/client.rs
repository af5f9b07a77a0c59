//! Calls to Cloudflare's API: envelope, errors that say what to do, timeouts, and at most six at once.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::in_flight::InFlight;
use crate::pipeline::config::{Config, Secret};
use crate::pipeline::ports::{Clock, HttpError, HttpOut, HttpRequest};
use crate::time::UnixMs;

/// When a call is given up, in milliseconds.
pub const CALL_TIMEOUT_MS: u32 = 10_000;
/// Connections that a Worker invocation may have open.
const IN_FLIGHT: usize = 6;

/// How a call failed, by what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Nobody knows whether it was carried out: no answer, or a server error.
    Unknown,
    /// Too many calls: not carried out, try again after so many milliseconds.
    Throttled {
        /// What `Retry-After` asked for.
        retry_after_ms: i64,
    },
    /// Refused with this status and code: not carried out, and it won't be.
    Refused {
        /// HTTP status.
        status: u16,
        /// Cloudflare's code, 0 if there was none.
        code: i64,
    },
    /// The lease or the time left did not allow the call: it was not sent.
    NotSent,
}

/// A failed call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// What the caller can do about it.
    pub kind: ErrorKind,
    /// What happened and what to do, for people.
    pub detail: String,
}

impl ApiError {
    /// An answer that makes no sense; like no answer.
    pub(super) fn unreadable(what: &str, why: impl std::fmt::Display) -> Self {
        Self {
            kind: ErrorKind::Unknown,
            detail: format!("{what}: Cloudflare's answer can't be understood: {why}"),
        }
    }

    /// How long Cloudflare asks to be left alone, in milliseconds.
    #[must_use]
    pub fn retry_after_ms(&self) -> i64 {
        match self.kind {
            ErrorKind::Throttled { retry_after_ms } => retry_after_ms,
            _ => 0,
        }
    }

    /// Cloudflare's error code, if it refused with one.
    #[must_use]
    pub fn code(&self) -> i64 {
        match self.kind {
            ErrorKind::Refused { code, .. } => code,
            _ => 0,
        }
    }
}

/// Which calls go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// The way back to the old version.
    Revert,
    /// Everything else.
    Normal,
}

/// Cloudflare's API, for the length of one invocation.
#[derive(Debug)]
pub struct Cloudflare<'a, P> {
    pub(super) ports: &'a P,
    base_url: &'a str,
    token: &'a Secret,
    in_flight: InFlight,
}

/// A success. Read in one go with what it holds: telemetry's answers are large.
#[derive(Deserialize)]
struct Success<T> {
    success: bool,
    result: T,
}

/// Any answer, whatever it holds.
#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    success: bool,
    #[serde(default)]
    errors: Option<Vec<EnvelopeError>>,
}

#[derive(Deserialize)]
struct EnvelopeError {
    #[serde(default)]
    code: Option<i64>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    detail: Option<String>,
}

impl<'a, P: HttpOut + Clock> Cloudflare<'a, P> {
    /// A client with the installation's address and token.
    #[must_use]
    pub fn new(ports: &'a P, config: &'a Config) -> Self {
        Self {
            ports,
            base_url: &config.cloudflare_api_base_url,
            token: &config.cloudflare_api_token,
            in_flight: InFlight::new(IN_FLIGHT),
        }
    }

    /// One call. `what` names it in errors; `until` is the moment by which its answer must be in, for callers that hold a
    /// lease.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        what: &str,
        method: &'static str,
        path: &str,
        body: Option<&Value>,
        (urgency, until): (Urgency, Option<UnixMs>),
    ) -> Result<T, ApiError> {
        let _place = self.in_flight.enter(urgency == Urgency::Revert).await;
        // Asked only now: waiting for a place may have used the lease up.
        if until.is_some_and(|until| self.ports.now() + i64::from(CALL_TIMEOUT_MS) > until) {
            return Err(ApiError {
                kind: ErrorKind::NotSent,
                detail: format!("{what}: the lease runs out before the call would"),
            });
        }
        let request = HttpRequest {
            method,
            url: format!("{}{path}", self.base_url),
            bearer: self.token.clone(),
            body: body.map(Value::to_string),
            timeout_ms: CALL_TIMEOUT_MS,
        };
        let response = self.ports.fetch(request).await.map_err(|error| {
            let happened = match &error {
                HttpError::Timeout(_) => "may or may not have been carried out",
                HttpError::Failed(_) => "was probably not carried out",
            };
            ApiError {
                kind: ErrorKind::Unknown,
                detail: format!("{what}: {error}; it {happened}"),
            }
        })?;
        let unreadable = match serde_json::from_str::<Success<T>>(&response.body) {
            Ok(answer) if answer.success && response.status < 300 => return Ok(answer.result),
            Ok(_) => None,
            Err(error) => Some(error),
        };
        match (serde_json::from_str::<Envelope>(&response.body), unreadable) {
            (Ok(envelope), Some(error)) if envelope.success && response.status < 300 => {
                Err(ApiError::unreadable(what, error))
            }
            (envelope, _) => {
                let errors = envelope.ok().and_then(|e| e.errors).unwrap_or_default();
                Err(refusal(
                    what,
                    response.status,
                    response.retry_after_s,
                    &errors,
                ))
            }
        }
    }
}

fn refusal(
    what: &str,
    status: u16,
    retry_after_s: Option<i64>,
    errors: &[EnvelopeError],
) -> ApiError {
    let code = errors.iter().find_map(|error| error.code).unwrap_or(0);
    let said: Vec<&str> = errors
        .iter()
        .flat_map(|error| [error.message.as_deref(), error.detail.as_deref()])
        .flatten()
        .collect();
    let said = if said.is_empty() {
        "without a message".to_owned()
    } else {
        said.join("; ")
    };
    let advice = match (status, code) {
        (401 | 403, _) | (_, 10_000) => {
            "; check that CLOUDFLARE_API_TOKEN is valid and has Workers Scripts Write (deployments) and Workers Observability Write (telemetry)"
        }
        (_, 10_007) => "; no Worker of this name exists in the account",
        (_, 100_146) => "; the version does not exist or can't be deployed any more",
        (429, _) => "; the limit is 1,200 calls per 5 minutes for the whole token",
        _ => "",
    };
    let kind = match status {
        429 => ErrorKind::Throttled {
            retry_after_ms: retry_after_s.unwrap_or(5).clamp(1, 600) * 1_000,
        },
        // A success that can't be read may well have been one.
        ..300 | 408 | 425 | 500.. => ErrorKind::Unknown,
        _ => ErrorKind::Refused { status, code },
    };
    ApiError {
        kind,
        detail: format!("{what}: Cloudflare answered {status} (code {code}): {said}{advice}"),
    }
}
