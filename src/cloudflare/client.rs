//! Calls to Cloudflare's API: envelope, errors that say what to do, timeouts, the call budget, and at most six at once.
//!
//! Nothing is sent twice from here. Reads and telemetry questions are repeated by whoever asked, with back-off and
//! `Retry-After`, and a deployment only after a look has shown that the last one was not carried out.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::budget::{Accounts, Budget, Correction};
use super::in_flight::InFlight;
use crate::json;
use crate::pipeline::config::{Config, Secret};
use crate::pipeline::ports::{HttpError, HttpRequest, Ports};
use crate::store;
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
    /// The call budget does not allow it now: not sent, no failure of anybody's, try again after so many milliseconds.
    PutOff {
        /// When its turn comes.
        retry_after_ms: i64,
    },
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

    /// How long Cloudflare asks to be left alone, or the call budget to wait, in milliseconds.
    #[must_use]
    pub fn retry_after_ms(&self) -> i64 {
        match self.kind {
            ErrorKind::Throttled { retry_after_ms } | ErrorKind::PutOff { retry_after_ms } => {
                retry_after_ms
            }
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

/// Which calls go first, and which the call budget puts off last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// The way back to the old version: never put off.
    Revert,
    /// Part of something whose calls have been admitted together.
    Admitted,
    /// What a stage or a person waits for.
    Normal,
    /// Telemetry.
    Check,
    /// The routine look at what is deployed.
    Look,
}

/// Cloudflare's API, for the length of one invocation.
#[derive(Debug)]
pub struct Cloudflare<'a, P> {
    pub(super) ports: &'a P,
    base_url: &'a str,
    token: &'a Secret,
    in_flight: InFlight,
    budget: Budget,
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

impl<'a, P: Ports> Cloudflare<'a, P> {
    /// A client with the installation's address and token.
    #[must_use]
    pub fn new(ports: &'a P, config: &'a Config) -> Self {
        Self {
            ports,
            base_url: &config.cloudflare_api_base_url,
            token: &config.cloudflare_api_token,
            in_flight: InFlight::new(IN_FLIGHT),
            budget: Budget::new(config.cloudflare_calls_per_5min),
        }
    }

    /// The call budget as this invocation knows it.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Claims of the budget what is going to be asked, in one round trip for all of it, and in none if it has been claimed.
    ///
    /// # Errors
    /// [`ErrorKind::NotSent`] if the budget can't be read.
    pub async fn reserve(&self, what: &str, wanted: &[(Urgency, u32)]) -> Result<(), ApiError> {
        let cost = wanted
            .iter()
            .fold([0; 4], |sum: Accounts, (urgency, calls)| {
                let cost = self.budget.cost_us(*urgency, *calls);
                std::array::from_fn(|i| sum[i] + cost[i])
            });
        let Some(claim) = self.budget.missing_us(cost) else {
            return Ok(());
        };
        // A crash after this claim leaves calls charged that were not made; they are paid off in seconds.
        let claimed = store::claim(self.ports, self.ports.now(), claim).await;
        let accounts = claimed.map_err(|error| ApiError {
            kind: ErrorKind::NotSent,
            detail: format!("{what}: the call budget can't be read: {error}"),
        })?;
        self.budget.claimed(claim, 0, accounts);
        Ok(())
    }

    /// Admits so many calls together, which are then made as [`Urgency::Admitted`]: it makes no sense to begin something
    /// that can't be finished.
    ///
    /// # Errors
    /// [`ErrorKind::PutOff`], or [`ErrorKind::NotSent`] if the budget can't be read.
    pub async fn admit(&self, what: &str, urgency: Urgency, calls: u32) -> Result<(), ApiError> {
        // The way back does not wait for the database; what it costs is charged with the next commit.
        if urgency != Urgency::Revert {
            self.reserve(what, &[(urgency, calls)]).await?;
        }
        let admitted = self.budget.admit(urgency, calls, self.ports.now());
        admitted.map_err(|retry_after_ms| put_off(what, retry_after_ms))
    }

    /// Admits the calls of an act together.
    ///
    /// # Errors
    /// As [`Cloudflare::admit`].
    pub async fn admit_act(&self, what: &str, calls: u32) -> Result<(), ApiError> {
        if !self.budget.has_act(calls) {
            return self.admit(what, Urgency::Normal, calls).await;
        }
        let admitted = self.budget.admit_act(calls, self.ports.now());
        admitted.map_err(|retry_after_ms| put_off(what, retry_after_ms))
    }

    /// Tells the database what was spent, if a commit has not done so already.
    pub async fn report_spending(&self) {
        self.budget.drop_acts();
        if let Some(correction) = self.budget.take_correction()
            && store::correct(self.ports, correction).await.is_err()
        {
            // What is lost here is some seconds of budget, which the reserve makes up for.
            self.budget.give_back(correction);
        }
    }

    /// What the next commit is to tell the database.
    pub(crate) fn take_correction(&self) -> Option<Correction> {
        self.budget.take_correction()
    }

    /// One call. `what` names it in errors; `until` is the moment by which its answer must be in, for callers that hold a
    /// lease.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        what: &str,
        method: &'static str,
        path: &str,
        body: Option<&Value>,
        when: (Urgency, Option<UnixMs>),
    ) -> Result<T, ApiError> {
        let result: Value = self.call_large(what, method, path, body, when).await?;
        json::read(&result).map_err(|error| ApiError::unreadable(what, error))
    }

    /// The same for large answers: they are read straight from the text.
    pub(super) async fn call_large<T: DeserializeOwned>(
        &self,
        what: &str,
        method: &'static str,
        path: &str,
        body: Option<&Value>,
        (urgency, until): (Urgency, Option<UnixMs>),
    ) -> Result<T, ApiError> {
        if urgency != Urgency::Admitted {
            self.admit(what, urgency, 1).await?;
        }
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
                let error = refusal(
                    what,
                    path,
                    (response.status, response.retry_after_s),
                    &errors,
                );
                if let ErrorKind::Throttled { retry_after_ms } = error.kind {
                    self.budget.blocked(self.ports.now(), retry_after_ms);
                }
                Err(error)
            }
        }
    }
}

fn put_off(what: &str, retry_after_ms: i64) -> ApiError {
    let seconds = retry_after_ms / 1_000 + 1;
    ApiError {
        kind: ErrorKind::PutOff { retry_after_ms },
        detail: format!(
            "{what}: put off by {seconds} s to stay below Cloudflare's limit of calls; a reserve is kept for reverts"
        ),
    }
}

fn refusal(
    what: &str,
    path: &str,
    (status, retry_after_s): (u16, Option<i64>),
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
            let permission = if path.contains("/ai/run/") {
                "Workers AI Read (a judge that is a model needs it)"
            } else if path.contains("/observability/") {
                "Workers Observability Write (reading telemetry needs it)"
            } else {
                "Workers Scripts Write"
            };
            format!(
                "; check that CLOUDFLARE_API_TOKEN is valid and has the permission {permission} in this account"
            )
        }
        (_, 10_007) => "; no Worker of this name exists in the account".to_owned(),
        (_, 7_003) => "; check the plan's account_id".to_owned(),
        (_, 10_220) => "; a secret was changed after the version had been uploaded: upload it again and release that".to_owned(),
        (_, 100_402 | 100_405 | 100_406) => "; a Durable Object migration lies between the versions, which no split can cross: deploy the new one with `wrangler deploy`"
            .to_owned(),
        (_, 100_146) => "; the version does not exist or can't be deployed any more".to_owned(),
        (429, _) => "; somebody else uses the same token or user: 1,200 calls in 5 minutes are all they have together"
            .to_owned(),
        _ => String::new(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_do() {
        for (status, code, advice) in [
            (403, 10_000, "CLOUDFLARE_API_TOKEN"),
            (404, 7_003, "account_id"),
            (404, 10_007, "no Worker of this name"),
            (400, 10_220, "upload it again"),
            (400, 100_402, "wrangler deploy"),
            (400, 100_405, "wrangler deploy"),
            (400, 100_406, "wrangler deploy"),
            (404, 100_146, "can't be deployed any more"),
        ] {
            let said = EnvelopeError {
                code: Some(code),
                message: Some("it is so".to_owned()),
                detail: None,
            };
            let error = refusal("deploying shop", "/deployments", (status, None), &[said]);
            assert_eq!(error.kind, ErrorKind::Refused { status, code });
            assert!(error.detail.contains("it is so; "), "{}", error.detail);
            assert!(error.detail.contains(advice), "{}", error.detail);
        }
    }
}
