//! Subscribers: who hears of what, and how.

use serde::{Deserialize, Serialize};

use crate::release::FieldError;
use crate::time::UnixMs;

use super::address::{AddressRules, check_address};

/// Most patterns of one subscriber.
const MAX_PATTERNS: usize = 20;

/// Every type of event that subscribers hear of, besides the test.
pub const EVENT_TYPES: [&str; 16] = [
    "release.started",
    "stage.started",
    "stage.passed",
    "approval.requested",
    "approval.granted",
    "approval.denied",
    "slo.violated",
    "slo.no_data",
    "release.paused",
    "release.resumed",
    "release.reverting",
    "release.reverted",
    "release.succeeded",
    "release.superseded",
    "release.cancelled",
    "alert.raised",
];
/// What `POST …/test` sends.
pub const TEST_TYPE: &str = "webhook.test";
/// What is sent when something wants a person.
pub const ALERT_TYPE: &str = "alert.raised";
/// The event that may carry links.
pub const ASKED_TYPE: &str = "approval.requested";

/// What a subscriber's requests look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "WebhookFormat"))]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// `{"type", "timestamp", "data"}`, as Standard Webhooks has it.
    #[default]
    Standard,
    /// `CloudEvents` 1.0, structured JSON.
    Cloudevents,
    /// A message for a Slack incoming webhook.
    Slack,
    /// A message for a Discord webhook.
    Discord,
}

/// Whether a subscriber gets anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SubscriberState {
    /// It gets what it subscribed to.
    Active,
    /// What happens is kept for it until it is resumed.
    Paused,
    /// It answered 410, or failed for five days. What happens counts as failed, and can be replayed once it is resumed.
    Disabled,
}

/// A subscriber, as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subscriber {
    /// `sub_` and a time-ordered UUID.
    pub id: String,
    /// Where its requests go.
    pub url: String,
    /// Patterns of event types.
    pub events: Vec<String>,
    /// What its requests look like.
    pub format: Format,
    /// It gets links that decide.
    pub approvals: bool,
    /// Only events of this plan's releases.
    pub plan: Option<String>,
    /// Only events of Workers of this script name.
    pub worker: Option<String>,
    /// Its owner's words.
    pub description: Option<String>,
    /// Whether it gets anything.
    pub state: SubscriberState,
    /// Its secret, sealed.
    pub secret: String,
    /// The secret before, sealed.
    pub previous_secret: Option<String>,
    /// Until when that one signs, too.
    pub previous_until: Option<UnixMs>,
    /// It timed out, and has not answered since.
    pub slow: bool,
    /// The first failure since it last took something.
    pub failing_since: Option<UnixMs>,
    /// Why it was disabled.
    pub disabled_reason: Option<String>,
    /// When.
    pub disabled_at: Option<UnixMs>,
    /// Rises with every change by a person.
    pub revision: i64,
    /// When it was created.
    pub created_at: UnixMs,
    /// When a person last changed it.
    pub updated_at: UnixMs,
}

impl Subscriber {
    /// What is wrong with what its owner asks for, field by field.
    #[must_use]
    pub fn errors(&self, rules: AddressRules<'_>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut error = |pointer: String, detail: String| {
            errors.push(FieldError { pointer, detail });
        };
        if let Err(refused) = check_address(&self.url, rules) {
            error("/url".to_owned(), refused.to_string());
        }
        if !(1..=MAX_PATTERNS).contains(&self.events.len()) {
            let detail = format!("must hold 1 to {MAX_PATTERNS} patterns");
            error("/events".to_owned(), detail);
        }
        for (i, pattern) in self.events.iter().enumerate() {
            if !is_pattern(pattern) {
                let detail = format!(
                    "{pattern:?} matches no event; write *, a group such as stage.*, or one of {}",
                    EVENT_TYPES.join(", ")
                );
                error(format!("/events/{i}"), detail);
            }
        }
        errors
    }

    /// The sealed secrets that sign now, the newest first.
    pub fn sealed_secrets(&self, now: UnixMs) -> impl Iterator<Item = &str> {
        let previous = self
            .previous_secret
            .as_deref()
            .filter(|_| self.previous_until.is_some_and(|until| now < until));
        [Some(self.secret.as_str()), previous].into_iter().flatten()
    }
}

/// Whether a pattern is one: `*`, all of a group, or one type. The store matches it with GLOB, where each of these means
/// just that.
fn is_pattern(pattern: &str) -> bool {
    let group = |pattern: &str| {
        EVENT_TYPES.iter().any(|known| {
            known
                .split_once('.')
                .is_some_and(|(group, _)| group == pattern)
        })
    };
    pattern == "*"
        || EVENT_TYPES.contains(&pattern)
        || pattern.strip_suffix(".*").is_some_and(group)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_list_of_types_is_that_of_the_releases() {
        let schema = schemars::schema_for!(crate::release::EventType).to_value();
        let known: BTreeSet<String> = schema["oneOf"]
            .as_array()
            .unwrap()
            .iter()
            .map(|option| option["const"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(known, EVENT_TYPES.map(str::to_owned).into());
    }

    #[test]
    fn patterns_are_all_a_group_or_one() {
        for pattern in ["*", "stage.*", "release.*", "alert.*", "slo.violated"] {
            assert!(is_pattern(pattern), "{pattern}");
        }
        for pattern in [
            "",
            "**",
            "s*",
            "stage",
            "stage.",
            "stage.p*",
            ".*",
            "*.*",
            "none.*",
            "stage.gone",
            "[a-z]*",
            "?",
        ] {
            assert!(!is_pattern(pattern), "{pattern}");
        }
    }
}
