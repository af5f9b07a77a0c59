//! Faults of the API that a test asks for.

use serde::Deserialize;
use serde_json::json;

use super::api::ApiAnswer;
use super::model::Cloudflare;
use super::spec::SimError;

/// Which calls of the API go wrong, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// Only calls with this method; `None` for all.
    #[serde(default)]
    pub method: Option<String>,
    /// Only calls whose path and query contain this; an empty text is in all.
    pub path_contains: String,
    /// Answer with this status, from 400 to 599; `None` to answer as usual, if late.
    #[serde(default)]
    pub status: Option<u16>,
    /// The answer takes this many milliseconds longer; what the call does, it does at once.
    #[serde(default)]
    pub delay_ms: u64,
    /// Whether the call has its effect before its answer is lost to `status`.
    #[serde(default)]
    pub executed: bool,
    /// The call is never answered; with `executed` it has its effect all the same.
    #[serde(default)]
    pub hang: bool,
    /// Lists of versions and deployments are as they were so many milliseconds ago.
    #[serde(default)]
    pub lag_ms: u64,
    /// Lists of versions and deployments hold only so many of their items.
    #[serde(default)]
    pub keep_items: Option<usize>,
    /// Seconds of `Retry-After` with `status`; `None` for 1 on 429, otherwise no such header.
    #[serde(default)]
    pub retry_after_s: Option<u32>,
    /// The rule holds for so many calls; `None` until the rules are replaced.
    #[serde(default)]
    pub times: Option<u32>,
    /// The error's code; `None` for 10000 on 401 and 403, otherwise 10013.
    #[serde(default)]
    pub code: Option<u32>,
    /// The error's message; `None` for one that fits the code.
    #[serde(default)]
    pub message: Option<String>,
}

impl FaultRule {
    fn matches(&self, method: &str, path_and_query: &str) -> bool {
        self.times != Some(0)
            && self
                .method
                .as_ref()
                .is_none_or(|only| only.eq_ignore_ascii_case(method))
            && path_and_query.contains(&self.path_contains)
    }

    /// The answer in place of the true one.
    pub(super) fn answer(&self, status: u16) -> ApiAnswer {
        let (code, message) = match status {
            401 | 403 => (10000, "Authentication error"),
            _ => (10013, "workers.api.error.unknown"),
        };
        let code = self.code.unwrap_or(code);
        let message = self.message.as_deref().unwrap_or(message);
        let mut answer = ApiAnswer::failure(status, &json!({"code": code, "message": message}));
        let seconds = self.retry_after_s.or((status == 429).then_some(1));
        if let Some(seconds) = seconds {
            answer
                .headers
                .push(("retry-after".into(), seconds.to_string()));
        }
        answer
    }
}

/// The rules in force; the first that matches counts.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<FaultRule>);

impl Faults {
    /// Puts a rule behind the others.
    pub fn add(&mut self, rule: FaultRule) {
        self.0.push(rule);
    }

    /// The rule for this call, which uses up one of its times.
    pub fn take(&mut self, method: &str, path_and_query: &str) -> Option<FaultRule> {
        let mut rules = self.0.iter_mut();
        let rule = rules.find(|rule| rule.matches(method, path_and_query))?;
        rule.times = rule.times.map(|times| times.saturating_sub(1));
        Some(rule.clone())
    }
}

/// How reads of lists are bent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bent {
    pub lag_ms: u64,
    pub keep_items: Option<usize>,
}

impl FaultRule {
    fn check(&self) -> Result<(), SimError> {
        if self
            .status
            .is_none_or(|status| (400..600).contains(&status))
        {
            return Ok(());
        }
        let text = "the status of a fault lies between 400 and 599";
        Err(SimError::Invalid(text.to_owned()))
    }

    pub(super) fn bent(&self) -> Bent {
        Bent {
            lag_ms: self.lag_ms,
            keep_items: self.keep_items,
        }
    }
}

impl Cloudflare {
    /// Adds a fault behind those that there are.
    ///
    /// # Errors
    /// [`SimError::Invalid`] for a status outside 400..=599.
    pub fn add_fault(&mut self, rule: FaultRule) -> Result<(), SimError> {
        rule.check()?;
        self.faults.add(rule);
        Ok(())
    }

    /// Replaces the faults of the API; no rules, no faults.
    ///
    /// # Errors
    /// [`SimError::Invalid`] for a status outside 400..=599; the old rules stay then.
    pub fn set_faults(&mut self, rules: Vec<FaultRule>) -> Result<(), SimError> {
        rules.iter().try_for_each(FaultRule::check)?;
        self.faults = Faults(rules);
        Ok(())
    }
}
