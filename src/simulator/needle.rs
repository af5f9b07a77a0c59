//! Full-text search over telemetry events.

use regex::Regex;
use serde::Deserialize;
use serde_json::Value as Json;

use super::fields::{KEYS, Row};
use super::filter::regex;

/// A text that is looked for can be this long.
const MAX_CHARS: usize = 1000;

/// What is looked for in all texts of an event.
#[derive(Debug, Clone)]
pub(super) struct Needle(Regex);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    value: Json,
    #[serde(default)]
    is_regex: bool,
    #[serde(default)]
    match_case: bool,
}

impl Needle {
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(needle: &Json) -> Result<Self, String> {
        let spec = Spec::deserialize(needle).map_err(|error| format!("needle: {error}"))?;
        let text = match &spec.value {
            Json::String(text) => text.clone(),
            Json::Number(_) | Json::Bool(_) => spec.value.to_string(),
            _ => return Err("needle: the value is a text, a number or a boolean".to_owned()),
        };
        if text.chars().count() > MAX_CHARS {
            return Err(format!("needle: at most {MAX_CHARS} characters"));
        }
        let pattern = if spec.is_regex {
            text
        } else {
            regex::escape(&text)
        };
        let flags = if spec.match_case { "" } else { "(?i)" };
        Ok(Self(regex(&format!("{flags}{pattern}"))?))
    }

    /// Whether a text has it.
    pub fn is_in_text(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// Whether any text of the event has it.
    pub fn is_in(&self, row: Row<'_>) -> bool {
        let texts = KEYS
            .iter()
            .filter_map(|(_, key)| row.value(*key)?.to_text());
        texts.into_iter().any(|text| self.is_in_text(&text))
    }
}
