//! A release and its events, as far as the command reads them. It tolerates the rest, so that the API may grow.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;

use crate::api::{Sli, Stage};

/// A release.
#[derive(Debug, Clone, Deserialize)]
pub struct Release {
    /// Its id.
    pub id: String,
    /// Name of its plan.
    #[serde(default)]
    pub plan: String,
    /// `watch`: HMD only watches.
    #[serde(default)]
    pub mode: String,
    /// `rolling_out`, `reverting`, `succeeded` and so on.
    pub state: String,
    /// Why it ended, or is being taken back.
    #[serde(default)]
    pub reason: Option<String>,
    /// More about the reason.
    #[serde(default)]
    pub detail: Option<String>,
    /// The version that served before, if that is known.
    #[serde(default)]
    pub old_version: Option<String>,
    /// The version that is being rolled out.
    #[serde(default)]
    pub new_version: String,
    /// The present stage, from 1.
    #[serde(default)]
    pub stage: usize,
    /// The stages, in order.
    #[serde(default)]
    pub stages: Vec<Stage>,
    /// The newest measurements of the present stage.
    #[serde(default)]
    pub slis: Vec<Sli>,
    /// The link that it was created with.
    #[serde(default)]
    pub url: Option<String>,
    /// When it was created.
    #[serde(default)]
    pub created_at: Option<DateTime<Utc>>,
}

impl Release {
    /// Whether nothing will happen to it any more.
    pub fn has_ended(&self) -> bool {
        matches!(
            self.state.as_str(),
            "succeeded" | "reverted" | "superseded" | "cancelled"
        )
    }

    /// State and reason for people.
    pub fn state_text(&self) -> String {
        let state = match (self.mode.as_str(), self.state.as_str()) {
            ("watch", "rolling_out") => "watching".to_owned(),
            (_, state) => words(state),
        };
        match &self.reason {
            Some(reason) => format!("{state} ({})", words(reason)),
            None => state,
        }
    }

    /// The present stage with its place, such as `stage 2 of 3 (50 %)`.
    pub fn stage_text(&self, stage: usize) -> String {
        let percent = stage.checked_sub(1).and_then(|i| self.stages.get(i));
        let percent = percent.map_or(String::new(), |it| format!(" ({} %)", it.percent));
        format!("stage {stage} of {}{percent}", self.stages.len())
    }
}

/// A name of the API as words.
pub fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// Something that happened to a release.
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    /// Its place among the release's events.
    pub sequence: u64,
    /// `stage.started`, `slo.violated` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// Who: `hmd` itself, `api`, `api:<by>`, `hook:<plan>`.
    #[serde(default)]
    pub actor: String,
    /// The stage that it is about, from 1.
    #[serde(default)]
    pub stage: Option<usize>,
    /// Why it happened.
    #[serde(default)]
    pub reason: Option<String>,
    /// More about it, for people.
    #[serde(default)]
    pub detail: Option<String>,
    /// Facts, by type.
    #[serde(default)]
    pub data: Value,
}

impl Event {
    /// The measurement that it is about, if it is about one.
    pub fn sli(&self) -> Option<Sli> {
        serde_json::from_value(self.data.get("slo")?.clone()).ok()
    }
}

/// A page of a list.
#[derive(Debug, Deserialize)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Where the next one begins.
    #[serde(default)]
    pub next_cursor: Option<String>,
}
