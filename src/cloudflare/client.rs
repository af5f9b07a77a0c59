//! Calls to Cloudflare's API: envelope, errors that say what to do, timeouts, the call budget, and at most six at once.
//!
//! Nothing is sent twice from here. Reads and telemetry questions are repeated by whoever asked, with back-off and
//! `Retry-After`, and a deployment only after a look has shown that the last one was not carried out.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::budget::{Accounts, Budget, Correction};
use super::credential::{Account, Credential, Credentials};
use super::in_flight::InFlight;
use crate::json;
use crate::pipeline::config::{Config, Secret};
use crate::pipeline::ports::{HttpError, HttpRequest, Ports};
use crate::release::WorkerRef;
use crate::store;
use crate::time::UnixMs;
use crate::webhook::NONCE_BYTES;

/// When a call is given up, in milliseconds.
pub const CALL_TIMEOUT_MS: u32 = 10_000;
/// Connections that a Worker invocation may have open.
const IN_FLIGHT: usize = 6;

/// How a call failed, by what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Nobody knows whether it was carried out: no answer, or a server error.
    Unknown {
        /// What `Retry-After` asked for, 0 if nothing.
        retry_after_ms: i64,
    },
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
            kind: ErrorKind::Unknown { retry_after_ms: 0 },
            detail: format!("{what}: Cloudflare's answer can't be understood: {why}"),
        }
    }

    /// How long Cloudflare asks to be left alone, or the call budget to wait, in milliseconds.
    #[must_use]
    pub fn retry_after_ms(&self) -> i64 {
        match self.kind {
            ErrorKind::Unknown { retry_after_ms }
            | ErrorKind::Throttled { retry_after_ms }
            | ErrorKind::PutOff { retry_after_ms } => retry_after_ms,
            ErrorKind::Refused { .. } | ErrorKind::NotSent => 0,
        }
    }

    /// The token is not valid, or lacks a permission: nothing changes that but a person.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        let denied = |status, code| matches!(status, 401 | 403) || code == 10_000;
        matches!(self.kind, ErrorKind::Refused { status, code } if denied(status, code))
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
    in_flight: InFlight,
    credentials: Credentials<'a>,
}

/// A success. Read in one go with what it holds: telemetry's answers are large.
#[derive(Deserialize)]
struct Success<T> {
    success: bool,
    result: T,
}

/// Codes that HMD, or its advice, knows.
const TELLING: [i64; 9] = [
    7_003, 10_000, 10_007, 10_211, 10_220, 100_146, 100_402, 100_405, 100_406,
];

/// Any answer, whatever it holds.
#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    success: bool,
    /// A list; each with what it has of `code`, `message` and `detail`, in whatever form.
    #[serde(default)]
    errors: Value,
}

impl<'a, P: Ports> Cloudflare<'a, P> {
    /// A client with the installation's address and token.
    #[must_use]
    pub fn new(ports: &'a P, config: &'a Config) -> Self {
        Self {
            ports,
            base_url: &config.cloudflare_api_base_url,
            in_flight: InFlight::new(IN_FLIGHT),
            credentials: Credentials::new(config),
        }
    }

    /// The call budget of the installation's token, as this invocation knows it.
    pub(crate) fn budget(&self) -> &Budget {
        self.credentials.installation().budget()
    }

    /// An account, as the installation's own token sees it.
    #[must_use]
    pub fn installations_account(&self, id: &str) -> Account {
        Account {
            id: id.to_owned(),
            credential: self.credentials.installation().clone(),
        }
    }

    /// Learns what is stored of Workers: the sealed token of each, if it has one of its own.
    pub(crate) fn learn<'w>(
        &self,
        tokens: impl IntoIterator<Item = (&'w WorkerRef, &'w Option<String>)>,
    ) {
        for (worker, sealed) in tokens {
            let nonce = || nonce(self.ports);
            self.credentials.learn(worker, sealed.as_deref(), nonce);
        }
    }

    /// For this invocation a Worker's calls are made with this token, or the installation's.
    pub(crate) fn try_with(&self, worker: &WorkerRef, token: Option<Secret>) {
        self.credentials.assign(worker, token);
    }

    /// What a Worker's calls are made with: read from the database, unless its release was loaded here.
    ///
    /// # Errors
    /// [`ErrorKind::NotSent`] if that can't be told, or its token can't be opened.
    pub async fn credential(&self, worker: &WorkerRef) -> Result<Credential, ApiError> {
        let not_sent = |why: &dyn std::fmt::Display| ApiError {
            kind: ErrorKind::NotSent,
            detail: format!(
                "calling Cloudflare for {}: the token of this Worker can't be read: {why}",
                worker.script_name
            ),
        };
        if self.credentials.known(worker).is_none() {
            let stored = store::get_connection(self.ports, worker).await;
            let stored = stored.map_err(|error| not_sent(&error))?;
            let sealed = stored.and_then(|connection| connection.token);
            self.learn([(worker, &sealed)]);
        }
        let known = self.credentials.known(worker);
        let known = known.unwrap_or_else(|| Ok(self.credentials.installation().clone()));
        known.map_err(|error| not_sent(&error))
    }

    /// The account of a Worker, as its token sees it.
    ///
    /// # Errors
    /// As [`Cloudflare::credential`].
    pub async fn account_of(&self, worker: &WorkerRef) -> Result<Account, ApiError> {
        Ok(Account {
            id: worker.account_id.clone(),
            credential: self.credential(worker).await?,
        })
    }

    /// Claims of a credential's budget what is going to be asked, in one round trip for all of it, and in none if it has been
    /// claimed.
    ///
    /// # Errors
    /// [`ErrorKind::NotSent`] if the budget can't be read.
    pub async fn reserve(
        &self,
        credential: &Credential,
        what: &str,
        wanted: &[(Urgency, u32)],
    ) -> Result<(), ApiError> {
        let budget = credential.budget();
        let cost = wanted
            .iter()
            .fold([0; 4], |sum: Accounts, (urgency, calls)| {
                let cost = budget.cost_us(*urgency, *calls);
                std::array::from_fn(|i| sum[i] + cost[i])
            });
        let Some(claim) = budget.missing_us(cost) else {
            return Ok(());
        };
        // A crash after this claim leaves calls charged that were not made; they are paid off in seconds.
        let now = self.ports.now();
        let claimed = store::claim(self.ports, credential.id(), now, claim).await;
        let accounts = claimed.map_err(|error| ApiError {
            kind: ErrorKind::NotSent,
            detail: format!("{what}: the call budget can't be read: {error}"),
        })?;
        budget.claimed(claim, 0, accounts);
        Ok(())
    }

    /// Admits so many calls together, which are then made as [`Urgency::Admitted`]: it makes no sense to begin something
    /// that can't be finished.
    ///
    /// # Errors
    /// [`ErrorKind::PutOff`], or [`ErrorKind::NotSent`] if the budget can't be read.
    pub async fn admit(
        &self,
        credential: &Credential,
        what: &str,
        (urgency, calls): (Urgency, u32),
    ) -> Result<(), ApiError> {
        // The way back does not wait for the database; what it costs is charged with the next commit.
        if urgency != Urgency::Revert {
            self.reserve(credential, what, &[(urgency, calls)]).await?;
        }
        let admitted = credential.budget().admit(urgency, calls, self.ports.now());
        admitted.map_err(|retry_after_ms| put_off(what, retry_after_ms))
    }

    /// Admits the calls of an act together.
    ///
    /// # Errors
    /// As [`Cloudflare::admit`].
    pub async fn admit_act(
        &self,
        credential: &Credential,
        what: &str,
        calls: u32,
    ) -> Result<(), ApiError> {
        let budget = credential.budget();
        if !budget.has_act(calls) {
            let wanted = (Urgency::Normal, calls);
            return self.admit(credential, what, wanted).await;
        }
        let admitted = budget.admit_act(calls, self.ports.now());
        admitted.map_err(|retry_after_ms| put_off(what, retry_after_ms))
    }

    /// At the end of an invocation: tells the database what was spent, as far as a commit has not done so already, and stores
    /// tokens that were sealed anew.
    pub async fn report_spending(&self) {
        let spent = self.credentials.take_corrections();
        let resealed = self.credentials.take_resealed();
        if spent.is_empty() && resealed.is_empty() {
            return;
        }
        let corrections: Vec<(&str, Correction)> = spent
            .iter()
            .map(|(credential, correction)| (credential.id(), *correction))
            .collect();
        // A crash here loses some seconds of budget, which the reserve makes up for; and whoever opens an old seal next makes it
        // anew.
        let told = store::correct(self.ports, &corrections, &resealed).await;
        if told.is_err() {
            for (credential, correction) in &spent {
                credential.budget().give_back(*correction);
            }
        }
    }

    /// What the next commit is to tell the database of the installation's budget.
    pub(crate) fn take_correction(&self) -> Option<Correction> {
        self.budget().take_correction()
    }

    /// One call for a Worker, with its token. `what` names it in errors; `until` is the moment by which its answer must be in,
    /// for callers that hold a lease.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        worker: &WorkerRef,
        what: &str,
        (method, path): (&'static str, &str),
        body: Option<&Value>,
        when: (Urgency, Option<UnixMs>),
    ) -> Result<T, ApiError> {
        let credential = self.credential(worker).await?;
        let call = self.call_large(&credential, what, (method, path), body, when);
        let result: Value = call.await?;
        json::read(&result).map_err(|error| ApiError::unreadable(what, error))
    }

    /// The same for large answers: they are read straight from the text.
    pub(super) async fn call_large<T: DeserializeOwned>(
        &self,
        credential: &Credential,
        what: &str,
        (method, path): (&'static str, &str),
        body: Option<&Value>,
        (urgency, until): (Urgency, Option<UnixMs>),
    ) -> Result<T, ApiError> {
        if urgency != Urgency::Admitted {
            self.admit(credential, what, (urgency, 1)).await?;
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
            bearer: credential.token().clone(),
            body: body.map(Value::to_string),
            timeout_ms: CALL_TIMEOUT_MS,
        };
        let response = self.ports.fetch(request).await.map_err(|error| {
            let happened = match &error {
                HttpError::Timeout(_) => "may or may not have been carried out",
                HttpError::Failed(_) => "was probably not carried out",
            };
            ApiError {
                kind: ErrorKind::Unknown { retry_after_ms: 0 },
                detail: format!("{what}: {error}; it {happened}"),
            }
        })?;
        let unreadable = match json::read_text::<Success<T>>(&response.body) {
            Ok(answer) if answer.success && response.status < 300 => return Ok(answer.result),
            Ok(_) => None,
            Err(error) => Some(error),
        };
        match (json::read_text::<Envelope>(&response.body), unreadable) {
            (Ok(envelope), Some(error)) if envelope.success && response.status < 300 => {
                Err(ApiError::unreadable(what, error))
            }
            (envelope, _) => {
                let errors = envelope.map_or(Value::Null, |envelope| envelope.errors);
                let error = refusal(
                    what,
                    (path, credential.label()),
                    (response.status, response.retry_after_s),
                    &errors,
                );
                if let ErrorKind::Throttled { retry_after_ms } = error.kind {
                    credential
                        .budget()
                        .blocked(self.ports.now(), retry_after_ms);
                }
                Err(error)
            }
        }
    }
}

fn nonce<P: Ports>(ports: &P) -> [u8; NONCE_BYTES] {
    let random = ports.random();
    std::array::from_fn(|i| random[i])
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

/// An error's code: a whole number, with a decimal point or in quotes if need be.
fn code(code: &Value) -> Option<i64> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a cast from a float stops at the bounds"
    )]
    let whole = || code.as_f64().map(|code| code as i64);
    code.as_i64()
        .or_else(whole)
        .or_else(|| code.as_str()?.parse().ok())
}

fn refusal(
    what: &str,
    (path, token): (&str, &str),
    (status, retry_after_s): (u16, Option<i64>),
    errors: &Value,
) -> ApiError {
    let errors = errors.as_array().map_or(&[][..], Vec::as_slice);
    let codes = || errors.iter().filter_map(|error| code(&error["code"]));
    // Of several errors that one counts which says what to do.
    let telling = codes().find(|code| TELLING.contains(code));
    let code = telling.or_else(|| codes().next()).unwrap_or(0);
    let said: Vec<String> = errors
        .iter()
        .flat_map(|error| [&error["message"], &error["detail"]])
        .filter(|said| !said.is_null())
        .map(|said| {
            said.as_str()
                .map_or_else(|| json::text(said), str::to_owned)
        })
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
                "; check that {token} is valid and has the permission {permission} in this account"
            )
        }
        (_, 10_007) => "; no Worker of this name exists in the account".to_owned(),
        (_, 7_003) => "; check the plan's account_id".to_owned(),
        (_, 10_220) => "; a secret was changed after one of the versions had been uploaded. If that is the new one, upload it again and release that; if it is the old one, first give 100 % to a version of its code that has the present secrets".to_owned(),
        (_, 100_402 | 100_405 | 100_406) => "; a Durable Object migration lies between the versions, which no split can cross: deploy the new one with `wrangler deploy`"
            .to_owned(),
        (_, 100_146) => "; the version does not exist or can't be deployed any more".to_owned(),
        (429, _) => "; somebody else uses the same token or user: 1,200 calls in 5 minutes are all they have together"
            .to_owned(),
        _ => String::new(),
    };
    let asked_ms = |or_s: i64| retry_after_s.unwrap_or(or_s).clamp(0, 600) * 1_000;
    let kind = match status {
        429 => ErrorKind::Throttled {
            // Who is over Cloudflare's limit is blocked for 5 minutes; a model that is busy is free again in seconds.
            retry_after_ms: asked_ms(if path.contains("/ai/run/") { 5 } else { 60 }).max(1_000),
        },
        // A success that can't be read may well have been one.
        ..300 | 408 | 425 | 500.. => ErrorKind::Unknown {
            retry_after_ms: asked_ms(0),
        },
        _ => ErrorKind::Refused { status, code },
    };
    ApiError {
        kind,
        detail: format!("{what}: Cloudflare answered {status} (code {code}): {said}{advice}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cloudflare::INSTALLATION;

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
            let said = json!([{"code": code, "message": "it is so"}]);
            let of = ("/deployments", INSTALLATION);
            let error = refusal("deploying shop", of, (status, None), &said);
            assert_eq!(error.kind, ErrorKind::Refused { status, code });
            assert!(error.detail.contains("it is so; "), "{}", error.detail);
            assert!(error.detail.contains(advice), "{}", error.detail);
        }
    }

    #[test]
    fn errors_are_read_in_any_form_and_the_telling_one_counts() {
        for (errors, expected, said) in [
            (
                json!([{"code": 10_220, "message": "m", "detail": {"key": "API_KEY"}}]),
                10_220,
                "API_KEY",
            ),
            (
                json!([{"code": "10220", "message": ["m"]}]),
                10_220,
                "[\"m\"]",
            ),
            (json!([{"code": 10_220.0}]), 10_220, "without a message"),
            (
                json!([{"code": 10_013, "message": "m"}, "odd", {"code": 10_220, "message": "n"}]),
                10_220,
                "m; n",
            ),
            (json!([{"code": 10_013}, {"code": 10_014}]), 10_013, ""),
            (
                json!([{"code": {}, "message": null}]),
                0,
                "without a message",
            ),
            (json!({"code": 10_220}), 0, "without a message"),
            (Value::Null, 0, "without a message"),
        ] {
            let of = ("/deployments", INSTALLATION);
            let error = refusal("deploying shop", of, (400, None), &errors);
            assert_eq!(error.code(), expected, "{errors}");
            assert!(error.detail.contains(said), "{}", error.detail);
        }
    }

    #[test]
    fn how_long_to_stay_away() {
        let (calls, models) = ("/accounts/a/workers/observability/", "/accounts/a/ai/run/m");
        for (path, status, asked_s, expected_s) in [
            (calls, 429, None, 60),
            (calls, 429, Some(0), 1),
            (calls, 429, Some(300), 300),
            (models, 429, None, 5),
            (calls, 503, Some(30), 30),
            (calls, 502, Some(86_400), 600),
            (calls, 500, None, 0),
            (calls, 400, Some(30), 0),
        ] {
            let error = refusal(
                "asking",
                (path, INSTALLATION),
                (status, asked_s),
                &Value::Null,
            );
            assert_eq!(
                error.retry_after_ms(),
                expected_s * 1_000,
                "{status} {path}"
            );
        }
    }
}
