//! A Worker's settings that no version carries: they change for all versions at once.

use serde::Deserialize;
use serde_json::{Value, json};

use super::spec::SimError;
use super::worker::number;

/// What is kept of a Worker's invocations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Observability {
    pub enabled: bool,
    pub head_sampling_rate: f64,
    /// `None`: the settings of logs were never given, and the outer ones count.
    pub logs: Option<Logs>,
}

impl Default for Observability {
    fn default() -> Self {
        Self {
            enabled: true,
            head_sampling_rate: 1.0,
            logs: None,
        }
    }
}

/// What is kept of a Worker's logs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Logs {
    pub enabled: bool,
    pub invocations: bool,
    pub head_sampling_rate: Option<f64>,
    pub persist: bool,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            enabled: true,
            invocations: true,
            head_sampling_rate: None,
            persist: true,
        }
    }
}

/// A change to the settings of a Worker's logs; what is `None` stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogsPatch {
    /// Whether logs are kept at all.
    pub enabled: Option<bool>,
    /// Whether each invocation leaves an event of its own, beside the console lines.
    pub invocation_logs: Option<bool>,
    /// The share of invocations whose logs are kept; counts before the outer rate.
    pub head_sampling_rate: Option<f64>,
    /// Whether logs are stored where they can be queried.
    pub persist: Option<bool>,
}

impl Observability {
    /// Whether anything can be queried.
    pub fn stores(&self) -> bool {
        self.enabled && self.logs.is_none_or(|logs| logs.enabled && logs.persist)
    }

    /// Whether invocations leave events, and not only console lines.
    pub fn stores_invocations(&self) -> bool {
        self.logs.is_none_or(|logs| logs.invocations)
    }

    /// The share of invocations that leave anything.
    pub fn sampling_rate(&self) -> f64 {
        let own = self.logs.and_then(|logs| logs.head_sampling_rate);
        own.unwrap_or(self.head_sampling_rate)
    }

    /// These settings with the given parts replaced.
    ///
    /// # Errors
    /// [`SimError::Invalid`] for a rate outside 0..=1.
    pub fn patched(
        mut self,
        enabled: Option<bool>,
        head_sampling_rate: Option<f64>,
        logs: Option<LogsPatch>,
    ) -> Result<Self, SimError> {
        self.enabled = enabled.unwrap_or(self.enabled);
        self.head_sampling_rate = head_sampling_rate.unwrap_or(self.head_sampling_rate);
        if let Some(patch) = logs {
            let old = self.logs.unwrap_or_default();
            self.logs = Some(Logs {
                enabled: patch.enabled.unwrap_or(old.enabled),
                invocations: patch.invocation_logs.unwrap_or(old.invocations),
                head_sampling_rate: patch.head_sampling_rate.or(old.head_sampling_rate),
                persist: patch.persist.unwrap_or(old.persist),
            });
        }
        let own = self.logs.and_then(|logs| logs.head_sampling_rate);
        let rates = [Some(self.head_sampling_rate), own];
        if rates
            .into_iter()
            .flatten()
            .all(|rate| (0.0..=1.0).contains(&rate))
        {
            return Ok(self);
        }
        Err(SimError::Invalid(
            "head_sampling_rate lies between 0 and 1".to_owned(),
        ))
    }

    /// The script settings as the API shows them.
    pub fn to_json(self) -> Value {
        let mut observability = json!({
            "enabled": self.enabled,
            "head_sampling_rate": number(self.head_sampling_rate),
        });
        if let Some(logs) = self.logs {
            observability["logs"] = json!({
                "enabled": logs.enabled,
                "invocation_logs": logs.invocations,
                "head_sampling_rate": logs.head_sampling_rate.map(number),
                "persist": logs.persist,
            });
        }
        json!({
            "logpush": false,
            "observability": observability,
            "tags": [],
            "tail_consumers": [],
        })
    }
}
