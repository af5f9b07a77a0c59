//! Who may call the API, and how often.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::Deserialize;
use serde_json::json;

use super::api::ApiAnswer;
use super::model::Cloudflare;

/// A token may make so many calls in [`WINDOW_MS`] unless set otherwise.
pub const DEFAULT_CALL_LIMIT: u32 = 1_200;

/// Calls are counted over so long, and a token that makes too many is shut out for as long.
const WINDOW_MS: i64 = 5 * 60 * 1000;

/// A permission of a token, by the name of its permission group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Scope {
    /// Reads versions, deployments and settings.
    #[serde(rename = "Workers Scripts Read")]
    ScriptsRead,
    /// Reads and deploys.
    #[serde(rename = "Workers Scripts Write")]
    ScriptsWrite,
    /// Reads versions and deployments.
    #[serde(rename = "Workers Tail Read")]
    TailRead,
    /// Lists saved queries, and nothing more.
    #[serde(rename = "Workers Observability Read")]
    ObservabilityRead,
    /// Asks telemetry, and keeps saved queries.
    #[serde(rename = "Workers Observability Write")]
    ObservabilityWrite,
    /// Runs models.
    #[serde(rename = "Workers AI Read")]
    AiRead,
    /// Runs models.
    #[serde(rename = "Workers AI Write")]
    AiWrite,
}

/// A token that the API takes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSpec {
    /// What stands after `Bearer`.
    pub token: String,
    /// What it may do.
    pub scopes: BTreeSet<Scope>,
}

/// The tokens that there are, and what each has asked for lately.
#[derive(Debug)]
pub(super) struct Access {
    /// `None`: any token may do anything.
    tokens: Option<BTreeMap<String, BTreeSet<Scope>>>,
    /// `None`: without limit.
    limit: Option<u32>,
    meters: BTreeMap<String, Meter>,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            tokens: None,
            limit: Some(DEFAULT_CALL_LIMIT),
            meters: BTreeMap::new(),
        }
    }
}

/// The calls of one token.
#[derive(Debug, Default)]
struct Meter {
    calls: VecDeque<i64>,
    shut_until_ms: Option<i64>,
}

impl Meter {
    /// Counts a call. Refused: the number of milliseconds that the token is shut out for.
    fn take(&mut self, now_ms: i64, limit: u32) -> Result<(), i64> {
        if let Some(until_ms) = self.shut_until_ms {
            if now_ms < until_ms {
                return Err(until_ms - now_ms);
            }
            self.shut_until_ms = None;
            self.calls.clear();
        }
        while self
            .calls
            .front()
            .is_some_and(|at| *at <= now_ms - WINDOW_MS)
        {
            self.calls.pop_front();
        }
        if self.used() >= limit {
            self.shut_until_ms = Some(now_ms + WINDOW_MS);
            return Err(WINDOW_MS);
        }
        self.calls.push_back(now_ms);
        Ok(())
    }

    fn used(&self) -> u32 {
        u32::try_from(self.calls.len()).unwrap_or(u32::MAX)
    }

    /// When the oldest call no longer counts, in whole seconds from now.
    fn resets_in_s(&self, now_ms: i64) -> i64 {
        let oldest = self.calls.front().copied().unwrap_or(now_ms);
        (oldest + WINDOW_MS - now_ms + 999).div_euclid(1000)
    }
}

impl Cloudflare {
    /// Sets which tokens the API takes, and what each may do; `None` takes any for anything.
    pub fn set_tokens(&mut self, tokens: Option<Vec<TokenSpec>>) {
        self.access.tokens = tokens.map(|tokens| {
            let tokens = tokens.into_iter();
            tokens.map(|one| (one.token, one.scopes)).collect()
        });
    }

    /// Sets how many calls a token may make in five minutes, `None` for any number, and forgets
    /// those that were made.
    pub fn set_call_limit(&mut self, limit: Option<u32>) {
        self.access.limit = limit;
        self.access.meters.clear();
    }

    /// Answers a call by the bearer of a token: counted, and refused if there were too many or
    /// the token may not make it. See [`Cloudflare::handle`].
    pub fn handle_as(
        &mut self,
        now_ms: i64,
        token: Option<&str>,
        method: &str,
        path_and_query: &str,
        body: &[u8],
    ) -> ApiAnswer {
        let Some(token) = token.filter(|token| !token.is_empty()) else {
            return ApiAnswer::unauthorized();
        };
        if let Err(refusal) = self.count(now_ms, token) {
            return refusal;
        }
        let mut answer = if self.permits(token, method, path_and_query) {
            self.handle(now_ms, method, path_and_query, body)
        } else {
            self.advance(now_ms);
            ApiAnswer::unauthorized()
        };
        self.add_limit_headers(now_ms, token, &mut answer);
        answer
    }

    fn count(&mut self, now_ms: i64, token: &str) -> Result<(), ApiAnswer> {
        let Some(limit) = self.access.limit else {
            return Ok(());
        };
        let meter = self.access.meters.entry(token.to_owned()).or_default();
        meter.take(now_ms, limit).map_err(|shut_out_ms| {
            let message = "Rate limit exceeded: every call is refused until the time given in Retry-After is over.";
            let error = json!({"code": 10013, "message": message});
            let mut answer = ApiAnswer::failure(429, &error);
            let seconds = (shut_out_ms + 999).div_euclid(1000);
            let headers = [
                ("retry-after", seconds.to_string()),
                ("ratelimit", format!("\"default\";r=0;t={seconds}")),
                ("ratelimit-policy", format!("\"default\";q={limit};w={}", WINDOW_MS / 1000)),
            ];
            answer.headers.extend(headers.map(|(name, value)| (name.to_owned(), value)));
            answer
        })
    }

    fn add_limit_headers(&self, now_ms: i64, token: &str, answer: &mut ApiAnswer) {
        let (Some(limit), Some(meter)) = (self.access.limit, self.access.meters.get(token)) else {
            return;
        };
        let left = limit.saturating_sub(meter.used());
        let reset = meter.resets_in_s(now_ms);
        let headers = [
            ("ratelimit", format!("\"default\";r={left};t={reset}")),
            (
                "ratelimit-policy",
                format!("\"default\";q={limit};w={}", WINDOW_MS / 1000),
            ),
        ];
        answer
            .headers
            .extend(headers.map(|(name, value)| (name.to_owned(), value)));
    }

    fn permits(&self, token: &str, method: &str, path_and_query: &str) -> bool {
        let Some(tokens) = &self.access.tokens else {
            return true;
        };
        let Some(scopes) = tokens.get(token) else {
            return false;
        };
        let path = path_and_query.split('?').next().unwrap_or_default();
        let allowing = allowing(method, path);
        allowing.iter().any(|scope| scopes.contains(scope))
    }
}

/// The permissions of which a call needs one.
fn allowing(method: &str, path: &str) -> &'static [Scope] {
    let reads = method == "GET";
    if path.contains("/ai/run/") {
        &[Scope::AiRead, Scope::AiWrite]
    } else if path.contains("/workers/observability/queries") && reads {
        &[Scope::ObservabilityRead, Scope::ObservabilityWrite]
    } else if path.contains("/workers/observability/") {
        &[Scope::ObservabilityWrite]
    } else if path.ends_with("/script-settings") && reads {
        &[Scope::ScriptsRead, Scope::ScriptsWrite]
    } else if reads {
        &[Scope::TailRead, Scope::ScriptsRead, Scope::ScriptsWrite]
    } else {
        &[Scope::ScriptsWrite]
    }
}
